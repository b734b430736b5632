"""Maps against answers known by hand, on models whose decision is built to hang on one place."""

from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers as tf
from helpers.hand_built import red_square, red_vit
from torch import nn

from realfake.attribution.layers import candidate_layers, find_layer
from realfake.attribution.methods import METHODS, LogOdds, _superpixels, attribute
from realfake.attribution.perturbation import baseline_pixels

CLASS_INDICES = {"real": [0], "ai": [1]}


class Linear(nn.Module):
    """Margin of "ai" = the sum of `weight * pixels`; no layer with a map."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, pixel_values):
        score = (pixel_values * self.weight).sum(dim=(1, 2, 3))
        return SimpleNamespace(logits=torch.stack([-score / 2, score / 2], dim=1))


# --- layers -------------------------------------------------------------------------------------------------


def test_vit_takes_the_layer_before_the_last_attention():
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
        with pytest.raises(
            ValueError, match="there are vit.layers.0, vit.layers.1.layernorm_before"
        ):
            find_layer(model, (48, 64), name)


def test_of_many_layers_a_few_are_taken():
    model = build("MobileNetV2").eval()
    layers = candidate_layers(model, (64, 96), n=5)
    assert len(layers) == 5 and layers[-1] == find_layer(model, (64, 96))
    areas = [np.prod(layer.grid) for layer in layers]
    assert areas == sorted(areas, reverse=True) and areas[0] > 4 * areas[-1]


def test_tokens_fold_in_reading_order_and_back():
    layer = find_layer(red_vit(), (48, 64))
    tokens = torch.arange(13 * 8, dtype=torch.float32).reshape(1, 13, 8)
    grid = layer.to_grid(tokens)
    assert grid.shape == (1, 8, 3, 4)
    assert torch.equal(grid[0, :, 1, 2], tokens[0, 1 + 1 * 4 + 2])
    assert torch.equal(layer.from_grid(grid, tokens), tokens)


# --- exact values --------------------------------------------------------------------------------------------


@pytest.fixture
def linear():
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(3, 16, 24, generator=generator)
    return Linear(weight), torch.rand(1, 3, 16, 24, generator=generator)


@pytest.mark.parametrize(
    "method, options",
    [("integrated_gradients", {}), ("smoothgrad", {}), ("gradient_shap", {"noise": 0})],
)
def test_gradient_methods_are_exact_on_a_linear_model(linear, method, options):
    model, pixels = linear
    start = baseline_pixels(pixels, "mean")
    expected = (model.weight * (pixels - start))[0].sum(dim=0).detach().numpy()
    assert np.allclose(
        attribute(model, pixels, CLASS_INDICES, method, baseline="mean", **options).heatmap,
        expected,
        atol=1e-4,
    )


def test_occlusion_is_exact_on_a_linear_model(linear):
    model, pixels = linear
    heat = attribute(
        model,
        pixels,
        CLASS_INDICES,
        "occlusion",
        baseline=torch.zeros_like(pixels),
        window=8,
        stride=8,
    ).heatmap
    fall = (model.weight * pixels).detach()[0, :, 8:16, 16:24].sum()
    assert np.allclose(heat[8:16, 16:24], float(fall), atol=1e-4)


def test_kernel_shap_is_exact_on_a_linear_model(linear):
    model, pixels = linear
    result = attribute(
        model, pixels, CLASS_INDICES, "kernel_shap", baseline=torch.zeros_like(pixels), n_segments=6
    )
    contribution = (model.weight * pixels).detach()[0].sum(dim=0).numpy()
    assert result.heatmap.sum() == pytest.approx(contribution.sum(), rel=1e-3)
    # Of a linear model a superpixel's Shapley value is what its pixels contribute.
    segments = _superpixels(pixels, 6).numpy()
    assert 2 <= result.details["n_segments"] == segments.max() + 1 <= 12
    for index in range(segments.max() + 1):
        part = segments == index
        assert np.allclose(result.heatmap[part], contribution[part].mean(), atol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (8, 8)])
def test_kernel_shap_of_an_image_of_a_few_pixels(size):
    model, pixels = Linear(torch.ones(3, *size)), torch.ones(1, 3, *size)
    heat = attribute(
        model, pixels, CLASS_INDICES, "kernel_shap", baseline=torch.zeros_like(pixels)
    ).heatmap
    assert np.allclose(heat, 3, atol=1e-3)


def test_gradcam_is_exact_on_a_map_that_is_averaged():
    class Averaging(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 4, stride=4)

        def forward(self, pixel_values):
            return SimpleNamespace(logits=self.conv(pixel_values).mean(dim=(2, 3)))

    model, pixels = Averaging(), torch.rand(1, 3, 12, 20)
    # d margin / d map is -1/15 in the channel of "real", +1/15 in that of "ai"; 15 cells.
    with torch.no_grad():
        cells = (model.conv(pixels)[:, 1:] - model.conv(pixels)[:, :1]) / 15
    expected = nn.functional.interpolate(cells, (12, 20), mode="bilinear")[0, 0].numpy()
    assert np.allclose(attribute(model, pixels, CLASS_INDICES).heatmap, expected, atol=1e-6)


def test_the_margin_sums_over_all_columns_of_a_label():
    class Constant(nn.Module):
        def forward(self, pixel_values):
            return SimpleNamespace(logits=torch.tensor([[1.0, 2.0, 3.0]]))

    log_odds = LogOdds(Constant(), {"real": [1], "ai": [0, 2]}, "ai")(torch.zeros(1, 3, 8, 8))
    assert float(log_odds) == pytest.approx(np.log(np.exp(1) + np.exp(3)) - 2)


# --- integrated gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", ["blurred", "mean"])
def test_integrated_gradients_sum_to_the_difference(baseline):
    torch.manual_seed(0)
    model = tf.ViTForImageClassification(tiny(tf.ViTConfig, initializer_range=0.3)).eval()
    pixels = torch.randn(1, 3, 32, 32)
    result = attribute(model, pixels, CLASS_INDICES, "integrated_gradients", baseline=baseline)
    log_odds = LogOdds(model, CLASS_INDICES, "ai")
    with torch.no_grad():
        difference = float(log_odds(pixels) - log_odds(baseline_pixels(pixels, baseline)))
    gap = result.details["completeness_gap"]
    assert gap < 0.01
    assert result.heatmap.sum() == pytest.approx(difference, rel=0.011)
    assert abs(result.heatmap.sum() - difference) / abs(difference) == pytest.approx(gap, abs=1e-3)


def test_the_path_is_refined_until_the_sum_is_right():
    class Steep(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(200.0))

        def forward(self, pixel_values):
            score = torch.tanh(self.scale * (pixel_values.mean(dim=(1, 2, 3)) - 0.4))
            return SimpleNamespace(logits=torch.stack([torch.zeros_like(score), score], dim=1))

    pixels = torch.ones(1, 3, 8, 8)
    options = {"baseline": torch.zeros_like(pixels), "n_steps": 8}
    details = attribute(Steep(), pixels, CLASS_INDICES, "integrated_gradients", **options).details
    # All of the difference lies on a hundredth of the path: refined everywhere it would take over 256 steps.
    assert 8 < details["n_steps"] < 100 and details["completeness_gap"] <= 0.01
    capped = attribute(
        Steep(), pixels, CLASS_INDICES, "integrated_gradients", max_steps=16, **options
    ).details
    assert capped["n_steps"] == 16 and capped["completeness_gap"] > 0.01


def test_baselines():
    pixels = torch.rand(1, 3, 16, 16) + torch.tensor([0.0, 2.0, 4.0])[None, :, None, None]
    blurred = baseline_pixels(pixels, "blurred")
    assert blurred.std(dim=(2, 3)).max() < 0.5 * pixels.std(dim=(2, 3)).min()
    assert torch.allclose(blurred.mean(dim=(2, 3)), pixels.mean(dim=(2, 3)), atol=0.02)
    assert torch.allclose(baseline_pixels(pixels, "mean")[0, :, 5, 7], pixels.mean(dim=(0, 2, 3)))


# --- every architecture --------------------------------------------------------------------------------------


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
        config.hidden_dim = 128  # width_coefficient * 1280, which its pooling spans
        model = tf.EfficientNetForImageClassification(config)
        # As initialised, with batch norms that have seen nothing, its signal dies away in the depth.
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
            ai.heatmap, -real.heatmap, rtol=1e-5, atol=1e-7 * np.abs(ai.heatmap).max()
        )
        assert ai.details["score"] == pytest.approx(float(plain[0, 1] - plain[0, 0]), abs=1e-5)
        assert ai.details["score"] == pytest.approx(-real.details["score"])


@pytest.mark.parametrize("method", ["smoothgrad", "gradient_shap", "occlusion", "kernel_shap"])
def test_other_methods_are_antisymmetric_and_repeat(method):
    model, pixels = build("ViT").eval(), torch.randn(1, 3, 32, 32)
    maps = [
        attribute(model, pixels, CLASS_INDICES, method, target, baseline="mean").heatmap
        for target in ("ai", "real", "ai")
    ]
    assert np.array_equal(maps[0], maps[2])
    assert np.allclose(maps[0], -maps[1], atol=1e-6) and np.abs(maps[0]).max() > 0


# --- manners -------------------------------------------------------------------------------------------------


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
def test_the_model_is_left_as_it_was(method):
    model = build("ViT").train()
    model.vit.layers[0].eval()
    model.classifier.bias.requires_grad_(False)
    pixels = torch.randn(1, 3, 32, 32)
    before, random_state, copy = state(model), torch.get_rng_state(), pixels.clone()
    attribute(model, pixels, CLASS_INDICES, method)
    assert state(model) == before
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(pixels, copy) and not pixels.requires_grad and pixels.grad is None


def test_another_threads_pass_does_not_reach_the_tap():
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


def test_frozen_parameters_and_no_grad_do_not_matter():
    model, pixels = build("ConvNext").eval(), torch.randn(1, 3, 32, 32)
    expected = attribute(model, pixels, CLASS_INDICES).heatmap
    frozen = build("ConvNext").eval().requires_grad_(False)
    with torch.no_grad():
        assert np.allclose(attribute(frozen, pixels, CLASS_INDICES).heatmap, expected, atol=1e-7)


def test_hooks_go_even_if_the_model_fails():
    model = build("ViT").eval()
    with pytest.raises(ValueError):
        attribute(model, torch.zeros(1, 3, 40, 40), CLASS_INDICES)  # not its size
    assert state(model) == state(build("ViT").eval())


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"method": "magic"}, "gradcam, integrated_gradients"),
        ({"target": "fake"}, "'real' or 'ai'"),
        ({"method": "integrated_gradients", "steps": 3}, "n_steps"),
        ({"method": "integrated_gradients", "baseline": "grey"}, "blurred, mean"),
        ({"pixel_values": torch.zeros(2, 3, 8, 8)}, "one image"),
        ({"method": "gradcam"}, "integrated_gradients"),  # no layer with a map
    ],
)
def test_mistakes_get_one_line_that_names_the_way_out(arguments, words):
    arguments = {
        "pixel_values": torch.zeros(1, 3, 8, 8),
        "class_indices": CLASS_INDICES,
        **arguments,
    }
    with pytest.raises(ValueError, match=words) as error:
        attribute(Linear(torch.ones(3, 8, 8)), **arguments)
    assert "\n" not in str(error.value)
