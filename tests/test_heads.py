"""The last linear layer: folding is exact; the named parts are frozen or dropped out."""

import numpy as np
import pytest
import torch
from helpers.tiny import draw_picture, save_tiny
from sklearn.metrics import roc_auc_score
from torch import nn
from transformers import (
    DeiTForImageClassificationWithTeacher,
    LevitConfig,
    LevitForImageClassificationWithTeacher,
    SwiftFormerConfig,
    SwiftFormerForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from realfake.models.classifiers import load_classifier, load_processor
from realfake.models.folding import (
    check_foldable,
    final_linears,
    fold,
    folding_error,
    select_trainable,
    set_dropout,
)

FOLDABLE = (
    "vit",
    "deit",
    "dinov2",
    "siglip",
    "swin",
    "swinv2",
    "convnext",
    "convnextv2",
    "resnet",
    "efficientnet",
    "mobilenet_v2",
)
CLASS_INDICES = {"real": [0], "ai": [1]}
LABELS = {"id2label": {0: "real", 1: "ai"}, "label2id": {"real": 0, "ai": 1}}
PICTURES = [draw_picture(40, seed=seed, residue=bool(seed % 2)) for seed in range(24)]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folders = {}

    def folder(architecture):
        if architecture not in folders:
            folders[architecture] = save_tiny(
                architecture, tmp_path_factory.mktemp("tiny") / architecture
            )
        return folders[architecture]

    return folder


def logits_of(model, pixels):
    with torch.inference_mode():
        return model.eval()(pixel_values=pixels).logits.double().numpy()


@pytest.mark.parametrize("architecture", FOLDABLE)
def test_folding_gives_logits_over_t_plus_b(architecture, checkpoints):
    model = load_classifier(checkpoints(architecture))
    processor = load_processor(checkpoints(architecture))
    pixels = processor(images=PICTURES, return_tensors="pt")["pixel_values"]
    before = logits_of(model, pixels)
    assert np.ptp(before[:, 1] - before[:, 0]) > 0.05, "the scores must depend on the image"
    fold(model, CLASS_INDICES, 1.7, -0.6)
    after = logits_of(model, pixels)

    expected = before / 1.7 + np.array([0, -0.6])
    assert np.abs(after - expected).max() <= 1e-6 * max(1, np.abs(expected).max())
    truth = np.arange(len(PICTURES)) % 3 == 0
    log_odds = [logits[:, 1] - logits[:, 0] for logits in (before, after)]
    assert roc_auc_score(truth, log_odds[0]) == pytest.approx(
        roc_auc_score(truth, log_odds[1]), abs=1e-9
    )


def _deit(tmp_path):
    from transformers import DeiTConfig

    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 32,
    }
    return DeiTForImageClassificationWithTeacher(
        DeiTConfig(image_size=32, patch_size=8, **sizes, **LABELS)
    )


def _levit(tmp_path):
    config = LevitConfig(
        image_size=128,
        hidden_sizes=[16, 24, 32],
        num_attention_heads=[2, 2, 2],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
        **LABELS,
    )
    return LevitForImageClassificationWithTeacher(config)


def _swiftformer(tmp_path):
    config = SwiftFormerConfig(
        image_size=64, depths=[1, 1, 1, 1], embed_dims=[8, 16, 24, 32], **LABELS
    )
    return SwiftFormerForImageClassification(config)


@pytest.mark.parametrize("build, side", [(_deit, 32), (_levit, 128), (_swiftformer, 64)])
def test_both_heads_of_a_distilled_model_are_folded(build, side, tmp_path):
    torch.manual_seed(0)
    model = build(tmp_path)
    heads = final_linears(model)
    assert len(heads) == 2
    for head in heads.values():
        nn.init.normal_(head.weight)
        nn.init.normal_(head.bias)
    pixels = torch.randn(6, 3, side, side)
    before = logits_of(model, pixels)
    fold(model, CLASS_INDICES, 0.5, 0.8)
    after = logits_of(model, pixels)
    expected = before / 0.5 + np.array([0, 0.8])
    assert np.abs(after - expected).max() <= 2e-6 * max(1, np.abs(expected).max())


def test_several_ai_columns_get_the_bias_each(checkpoints, tmp_path):
    folder = save_tiny("vit", tmp_path / "vit", labels=("real", "generated", "photo", "diffusion"))
    model = load_classifier(folder)
    pixels = load_processor(folder)(images=PICTURES[:4], return_tensors="pt")["pixel_values"]
    before = logits_of(model, pixels)
    fold(model, {"real": [0, 2], "ai": [1, 3]}, 2.0, 0.5)
    np.testing.assert_allclose(
        logits_of(model, pixels), before / 2 + np.array([0, 0.5, 0, 0.5]), atol=1e-5
    )


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature, checkpoints):
    model = load_classifier(checkpoints("vit"))
    kept = model.classifier.weight.clone()
    with pytest.raises(ValueError, match="temperature must be positive"):
        fold(model, CLASS_INDICES, temperature, 0.0)
    assert torch.equal(model.classifier.weight, kept)


def test_a_bias_is_refused_where_the_layer_has_none(checkpoints):
    model = load_classifier(checkpoints("vit"))
    model.classifier = nn.Linear(32, 2, bias=False)
    kept = model.classifier.weight.clone()
    with pytest.raises(ValueError, match="has no bias"):
        fold(model, CLASS_INDICES, 2.0, 0.1)
    assert torch.equal(model.classifier.weight, kept), "refused, yet half done"
    fold(model, CLASS_INDICES, 2.0, 0.0)
    assert torch.equal(model.classifier.weight, kept / 2)
    check_foldable(model, torch.zeros(1, 3, 32, 32))


def test_a_model_without_a_last_linear_layer_is_refused(checkpoints):
    model = load_classifier(checkpoints("vit"))
    model.classifier = nn.Conv1d(32, 2, 1)
    with pytest.raises(ValueError, match="does not end in a linear layer with 2 outputs"):
        final_linears(model)


def test_folding_error_is_relative_to_the_largest_logit():
    before = torch.tensor([[0.0, 40.0]])
    exact = torch.tensor([[0.0, 21.0]])
    assert folding_error(before, exact, CLASS_INDICES, 2.0, 1.0) == 0
    assert folding_error(
        before, exact + torch.tensor([[0.0, 2.1]]), CLASS_INDICES, 2.0, 1.0
    ) == pytest.approx(0.1)


def test_check_foldable_refuses_what_comes_after_the_layer_and_changes_nothing(checkpoints):
    model = load_classifier(checkpoints("convnext"))
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pixels = torch.randn(2, 3, 32, 32)
    check_foldable(model, pixels)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())

    model.classifier.register_forward_hook(lambda module, inputs, output: 5 * torch.tanh(output))
    with pytest.raises(ValueError, match="cannot be folded"):
        check_foldable(model, pixels)


# The first parameter that `last:1` trains, and one before it.
LAST_BLOCK = {
    "vit": ("vit.layers.1.attention", "vit.layers.0.mlp"),
    "dinov2": ("dinov2.encoder.layer.1.", "dinov2.encoder.layer.0."),
    "siglip": ("vision_model.encoder.layers.1.", "vision_model.encoder.layers.0."),
    "swin": ("swin.encoder.layers.1.", "swin.encoder.layers.0."),
    "convnextv2": ("convnextv2.encoder.stages.1.", "convnextv2.encoder.stages.0."),
    "resnet": ("resnet.encoder.stages.1.", "resnet.encoder.stages.0."),
    "mobilenet_v2": ("mobilenet_v2.layer.15.", "mobilenet_v2.layer.14."),
}


@pytest.mark.parametrize("architecture", LAST_BLOCK)
def test_select_trainable(architecture, checkpoints):
    model = load_classifier(checkpoints(architecture))
    names = [name for name, _ in model.named_parameters()]
    (head,) = final_linears(model)
    first, before = LAST_BLOCK[architecture]

    assert select_trainable(model, "all") == names
    assert select_trainable(model, "head") == [f"{head}.weight", f"{head}.bias"]
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        f"{head}.weight",
        f"{head}.bias",
    ]
    last = select_trainable(model, "last:1")
    assert last[0].startswith(first) and last[-1] == f"{head}.bias"
    assert not any(name.startswith(before) or "embed" in name for name in last)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == last
    assert len(select_trainable(model, "last:2")) > len(last)
    assert select_trainable(model, "all") == names, "thawed again"
    assert all(p.requires_grad for p in model.parameters())


def test_last_blocks_are_not_taken_for_the_embeddings_between_stages():
    from transformers import PoolFormerConfig, PoolFormerForImageClassification

    config = PoolFormerConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 8, 8], **LABELS)
    chosen = select_trainable(PoolFormerForImageClassification(config), "last:1")
    assert chosen[0].startswith("poolformer.encoder.block.3.")
    chosen = select_trainable(_swiftformer(None), "last:1")
    assert chosen and not any("patch_embed" in name for name in chosen)


@pytest.mark.parametrize("word", ["last", "last:0", "last:x", "last:-1", "Head", ""])
def test_select_trainable_refuses_other_words(word, checkpoints):
    with pytest.raises(ValueError, match="--trainable must be"):
        select_trainable(load_classifier(checkpoints("vit")), word)


def test_select_trainable_refuses_more_blocks_than_there_are(checkpoints):
    with pytest.raises(ValueError, match="has 2 blocks"):
        select_trainable(load_classifier(checkpoints("vit")), "last:3")


@pytest.mark.parametrize(
    "architecture, field",
    [
        ("vit", "hidden_dropout_prob"),
        ("deit", "hidden_dropout_prob"),
        ("dinov2", "hidden_dropout_prob"),
        ("swin", "hidden_dropout_prob"),
        ("efficientnet", "dropout_rate"),
        ("mobilenet_v2", "classifier_dropout_prob"),
    ],
)
def test_dropout_is_set_in_the_architectures_own_field(architecture, field, checkpoints):
    config = load_classifier(checkpoints(architecture)).config
    assert set_dropout(config, 0.37) == field
    model = load_classifier(checkpoints(architecture), config=config)
    rates = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    assert 0.37 in rates


@pytest.mark.parametrize("architecture", ["convnext", "convnextv2", "resnet", "siglip"])
def test_dropout_is_refused_where_there_is_none(architecture, checkpoints):
    config = load_classifier(checkpoints(architecture)).config
    with pytest.raises(ValueError, match="--dropout") as error:
        set_dropout(config, 0.1)
    assert ("drop_path_rate" in str(error.value)) == architecture.startswith("convnext")


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_dropout_out_of_range(rate):
    config = ViTConfig(
        hidden_size=8, num_attention_heads=1, num_hidden_layers=1, intermediate_size=8
    )
    with pytest.raises(ValueError, match="must lie in"):
        set_dropout(config, rate)
    assert (
        isinstance(ViTForImageClassification(config), nn.Module) and config.hidden_dropout_prob == 0
    )
