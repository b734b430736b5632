"""Every architecture has a spatial layer and a map, and a map leaves the model unchanged."""

from threading import Thread

import numpy as np
import pytest
import torch
import transformers as tf
from helpers.hand_built import red_square, red_vit
from torch import nn

from realfake.attribution.layers import candidate_layers, find_layer
from realfake.attribution.methods import METHODS, attribute

CLASS_INDICES = {"real": [0], "ai": [1]}


def tiny(config, **options):
    small = {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "num_labels": 2,
    }
    return config(**{**small, **options})


def build(name):
    torch.manual_seed(0)
    if name in ("ViT", "DeiT", "Dinov2", "Dinov2WithRegisters", "BEiT"):
        kind = {"BEiT": "Beit"}.get(name, name)
        return getattr(tf, f"{kind}ForImageClassification")(tiny(getattr(tf, f"{kind}Config")))
    if name == "ViT wide":
        return tf.ViTForImageClassification(tiny(tf.ViTConfig, image_size=(32, 64)))
    if name == "ViT eager":
        return tf.ViTForImageClassification(tiny(tf.ViTConfig, attn_implementation="eager"))
    if name == "Siglip":
        vision = tiny(tf.SiglipVisionConfig).to_dict()
        return tf.SiglipForImageClassification(tf.SiglipConfig(vision_config=vision, num_labels=2))
    if name in ("Swin", "Swinv2"):
        config = getattr(tf, f"{name}Config")(
            image_size=64,
            patch_size=4,
            embed_dim=8,
            depths=[1, 2],
            num_heads=[1, 2],
            window_size=4,
            num_labels=2,
        )
        return getattr(tf, f"{name}ForImageClassification")(config)
    stages = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": 2}
    if name in ("ConvNext", "ConvNextV2"):
        config = getattr(tf, f"{name}Config")(num_stages=2, **stages)
        return getattr(tf, f"{name}ForImageClassification")(config)
    if name == "ResNet":
        return tf.ResNetForImageClassification(
            tf.ResNetConfig(embedding_size=8, layer_type="basic", **stages)
        )
    if name == "EfficientNet":
        config = tf.EfficientNetConfig(
            width_coefficient=0.1,
            depth_coefficient=0.1,
            image_size=64,
            hidden_dim=1280,
            num_labels=2,
        )
        config.hidden_dim = 128  # what its pooling spans: width_coefficient * 1280
        model = tf.EfficientNetForImageClassification(config)
        # As initialised, its signal vanishes with depth, because the batch norms saw no data.
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        return model
    return tf.MobileNetV2ForImageClassification(
        tf.MobileNetV2Config(depth_multiplier=0.25, num_labels=2)
    )


ARCHITECTURES = {
    # name: (pixel size, layout, grid, prefix)
    "ViT": ((32, 32), "tokens", (4, 4), 1),
    "ViT wide": ((32, 64), "tokens", (4, 8), 1),
    "ViT eager": ((32, 32), "tokens", (4, 4), 1),
    "DeiT": ((32, 32), "tokens", (4, 4), 2),
    "BEiT": ((32, 32), "tokens", (4, 4), 1),
    "Dinov2": ((32, 32), "tokens", (4, 4), 1),
    "Dinov2WithRegisters": ((32, 32), "tokens", (4, 4), 5),
    "Siglip": ((32, 32), "tokens", (4, 4), 0),
    "Swin": ((64, 64), "tokens", (8, 8), 0),
    "Swinv2": ((64, 64), "tokens", (8, 8), 0),
    "ConvNext": ((32, 48), "channels_first", (4, 6), 0),
    "ConvNextV2": ((48, 32), "channels_first", (6, 4), 0),
    "ResNet": ((64, 96), "channels_first", None, 0),
    "EfficientNet": ((64, 96), "channels_first", None, 0),
    "MobileNetV2": ((64, 96), "channels_first", (2, 3), 0),
}


def test_vit_uses_the_layer_before_the_last_attention():
    layer = find_layer(red_vit(), (48, 64))
    assert (layer.name, layer.layout, layer.grid, layer.prefix) == (
        "vit.layers.1.layernorm_before",
        "tokens",
        (3, 4),
        1,
    )


def test_layers_can_be_listed_and_named():
    model = red_vit()
    layers = candidate_layers(model, (48, 64))
    # After the last block's attention nothing depends on the patches.
    assert [layer.name for layer in layers] == ["vit.layers.0", "vit.layers.1.layernorm_before"]
    named = find_layer(model, (48, 64), "vit.layers.0")
    assert (named.name, named.grid, named.prefix) == ("vit.layers.0", (3, 4), 1)
    pixels = red_square((48, 64), (0, 16), (32, 48))
    assert (
        attribute(model, pixels, CLASS_INDICES, layer="vit.layers.0").details["layer"]
        == "vit.layers.0"
    )
    model.config.realfake = {"gradcam_layer": "vit.layers.0"}
    assert attribute(model, pixels, CLASS_INDICES).details["layer"] == "vit.layers.0"
    for name in ("vit.layers.1", "nowhere"):
        with pytest.raises(ValueError, match="vit.layers.0, vit.layers.1.layernorm_before"):
            find_layer(model, (48, 64), name)


def test_candidate_layers_are_spread_evenly():
    model = build("MobileNetV2").eval()
    layers = candidate_layers(model, (64, 96), n=5)
    assert len(layers) == 5 and layers[-1] == find_layer(model, (64, 96))
    areas = [np.prod(layer.grid) for layer in layers]
    assert areas == sorted(areas, reverse=True) and areas[0] > 4 * areas[-1]


def test_tokens_fold_to_a_grid_in_reading_order_and_back():
    layer = find_layer(red_vit(), (48, 64))
    tokens = torch.arange(13 * 8, dtype=torch.float32).reshape(1, 13, 8)
    grid = layer.to_grid(tokens)
    assert grid.shape == (1, 8, 3, 4)
    assert torch.equal(grid[0, :, 1, 2], tokens[0, 1 + 1 * 4 + 2])
    assert torch.equal(layer.from_grid(grid, tokens), tokens)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_has_a_map(name):
    size, layout, grid, prefix = ARCHITECTURES[name]
    model = build(name).eval()
    layer = find_layer(model, size)
    assert (layer.layout, layer.prefix) == (layout, prefix)
    assert layer.grid == (grid or layer.grid)
    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = model(pixel_values=pixels).logits
        with layer.tap():
            assert torch.equal(model(pixel_values=pixels).logits, plain)
    for method, options in (
        ("gradcam", {}),
        ("integrated_gradients", {"n_steps": 4, "max_steps": 4}),
    ):
        ai, real = (
            attribute(model, pixels, CLASS_INDICES, method, target, **options)
            for target in ("ai", "real")
        )
        assert (
            ai.heatmap.shape == size
            and np.isfinite(ai.heatmap).all()
            and np.abs(ai.heatmap).max() > 0
        )
        assert np.ptp(ai.heatmap) > 0
        assert np.allclose(
            ai.heatmap, -real.heatmap, rtol=1e-5, atol=1e-5 * np.abs(ai.heatmap).max()
        )
        assert ai.details["score"] == pytest.approx(
            float(plain[0, 1] - plain[0, 0]), rel=1e-4, abs=1e-5
        )
        assert ai.details["score"] == pytest.approx(-real.details["score"])


def state(model):
    return (
        [
            (module.training, len(module._forward_hooks), len(module._backward_hooks))
            for module in model.modules()
        ],
        [len(module._forward_pre_hooks) for module in model.modules()],
        [(p.requires_grad, p.grad, float(p.detach().double().sum())) for p in model.parameters()],
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_map_leaves_the_model_unchanged(method):
    model = build("ViT").train()
    model.vit.layers[0].eval()
    model.classifier.bias.requires_grad_(False)
    pixels = torch.randn(1, 3, 32, 32)
    before, random_state, copy = state(model), torch.get_rng_state(), pixels.clone()
    attribute(model, pixels, CLASS_INDICES, method)
    assert state(model) == before
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(pixels, copy) and not pixels.requires_grad and pixels.grad is None


def test_the_tap_ignores_other_threads():
    model, pixels = build("ViT").eval(), torch.randn(1, 3, 32, 32)
    seen = []
    with find_layer(model, (32, 32)).tap() as tap:
        tap.register_forward_hook(lambda *_: seen.append(1))
        thread = Thread(target=lambda: model(pixel_values=pixels))
        thread.start()
        thread.join()
        assert not seen
        model(pixel_values=pixels)
    assert len(seen) == 1


def test_frozen_parameters_and_no_grad_give_the_same_map():
    model, pixels = build("ConvNext").eval(), torch.randn(1, 3, 32, 32)
    expected = attribute(model, pixels, CLASS_INDICES).heatmap
    frozen = build("ConvNext").eval().requires_grad_(False)
    with torch.no_grad():
        heat = attribute(frozen, pixels, CLASS_INDICES).heatmap
        assert np.allclose(heat, expected, atol=1e-5 * np.abs(expected).max())


def test_hooks_are_removed_if_the_model_fails():
    model = build("ViT").eval()
    with pytest.raises(ValueError):
        attribute(model, torch.zeros(1, 3, 40, 40), CLASS_INDICES)  # not its size
    assert state(model) == state(build("ViT").eval())
