"""Maps against answers derived by hand, and against pytorch-grad-cam (version 1.5.7).

The output of pytorch-grad-cam was stored by tests/fixtures/make_gradcam.py.
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers as tf
from fixtures.make_gradcam import models
from torch import nn

from realfake.attribution.faithfulness import baseline_pixels
from realfake.attribution.methods import LogOdds, _superpixels, attribute

CLASS_INDICES = {"real": [0], "ai": [1]}
STORED = Path(__file__).parent / "fixtures" / "gradcam.npz"


class Linear(nn.Module):
    """Log-odds of "ai": the sum of `weight * pixels`; no layer with a map."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, pixel_values):
        score = (pixel_values * self.weight).sum(dim=(1, 2, 3))
        return SimpleNamespace(logits=torch.stack([-score / 2, score / 2], dim=1))


def small_vit(**options):
    torch.manual_seed(0)
    config = tf.ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=2,
        **options,
    )
    return tf.ViTForImageClassification(config).eval()


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
    # d log-odds / d map is -1/15 in the channel of "real", +1/15 in that of "ai"; 15 cells.
    with torch.no_grad():
        cells = (model.conv(pixels)[:, 1:] - model.conv(pixels)[:, :1]) / 15
    expected = nn.functional.interpolate(cells, (12, 20), mode="bilinear")[0, 0].numpy()
    assert np.allclose(attribute(model, pixels, CLASS_INDICES).heatmap, expected, atol=1e-5)


def test_log_odds_sum_over_all_classes_of_a_label():
    class Constant(nn.Module):
        def forward(self, pixel_values):
            return SimpleNamespace(logits=torch.tensor([[1.0, 2.0, 3.0]]))

    log_odds = LogOdds(Constant(), {"real": [1], "ai": [0, 2]}, "ai")(torch.zeros(1, 3, 8, 8))
    assert float(log_odds) == pytest.approx(np.log(np.exp(1) + np.exp(3)) - 2)


@pytest.mark.parametrize("baseline", ["blurred", "mean"])
def test_integrated_gradients_sum_to_the_difference(baseline):
    model, pixels = small_vit(initializer_range=0.3), torch.randn(1, 3, 32, 32)
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
    # All of the difference lies on a hundredth of the path: uniform steps would need over 256.
    assert 8 < details["n_steps"] < 100 and details["completeness_gap"] <= 0.01
    capped = attribute(
        Steep(), pixels, CLASS_INDICES, "integrated_gradients", max_steps=16, **options
    ).details
    assert capped["n_steps"] == 16 and capped["completeness_gap"] > 0.01


@pytest.mark.parametrize("method", ["smoothgrad", "gradient_shap", "occlusion", "kernel_shap"])
def test_other_methods_are_antisymmetric_and_deterministic(method):
    model, pixels = small_vit(), torch.randn(1, 3, 32, 32)
    maps = [
        attribute(model, pixels, CLASS_INDICES, method, target, baseline="mean").heatmap
        for target in ("ai", "real", "ai")
    ]
    assert np.array_equal(maps[0], maps[2])
    assert np.allclose(maps[0], -maps[1], atol=1e-6) and np.abs(maps[0]).max() > 0


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
def test_errors_are_one_line_and_name_the_fix(arguments, words):
    arguments = {
        "pixel_values": torch.zeros(1, 3, 8, 8),
        "class_indices": CLASS_INDICES,
        **arguments,
    }
    with pytest.raises(ValueError, match=words) as error:
        attribute(Linear(torch.ones(3, 8, 8)), **arguments)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def stored():
    with np.load(STORED) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_gradcam_agrees_with_pytorch_grad_cam(stored, name):
    model, layer, _ = models()[name]
    weights = {
        key.removeprefix(f"{name}/weights/"): torch.from_numpy(value)
        for key, value in stored.items()
        if key.startswith(f"{name}/weights/")
    }
    model.load_state_dict(weights)
    pixels = torch.from_numpy(stored[f"{name}/pixels"])
    heat = attribute(model, pixels, {"real": [0], "ai": [1]}, layer=layer).heatmap

    # Before its ReLU: the same grid, enlarged.
    signed = torch.from_numpy(stored[f"{name}/signed"])[None, None]
    assert (signed > 0).any() and (signed < 0).any()
    expected = torch.nn.functional.interpolate(signed, heat.shape, mode="bilinear")[0, 0].numpy()
    assert np.allclose(heat, expected, atol=1e-4 * np.abs(expected).max())

    # Its final map, after ReLU and scaling to [0, 1]. It rectifies the grid before enlarging it, so
    # that the maps differ between a positive and a negative cell, and nowhere else.
    final, ours = stored[f"{name}/final"], heat.clip(0) / heat.max()
    grid = signed[0, 0].clamp(min=0)
    theirs = torch.nn.functional.interpolate(
        (grid / grid.max())[None, None], heat.shape, mode="bilinear"
    )[0, 0].numpy()
    assert np.allclose(final, theirs / theirs.max(), atol=2e-3)
    assert np.abs(final - ours).mean() < 0.1
    assert ours[np.unravel_index(final.argmax(), final.shape)] > 0.99
