"""Every method on every layout finds the region that is responsible, on models where only one can be."""

import numpy as np
import pytest
import torch
from helpers.hand_built import RED, red_square

from realfake.attribution.layers import find_layer
from realfake.attribution.methods import METHODS, attribute

CLASS_INDICES = {"real": [0], "ai": [1]}
# Fewer passes than by default; and less noise: on black it makes red where there is none.
FEWER = {
    "gradient_shap": {"noise": 0.005},
    "occlusion": {"window": 16, "stride": 16},
    "kernel_shap": {"n_segments": 24, "n_samples": 60},
}
# Tokens in front of the patches.
PREFIXES = {"ViT": 1, "DeiT": 2, "DINOv2": 1}


@pytest.fixture(scope="module")
def models():
    built = {}

    def get(name):
        if name not in built:
            built[name] = RED[name][0]()
        return built[name], RED[name][1]

    return get


def places(size):
    """Two squares of 16 pixels: off the diagonal, and not each other's mirror image or transposition."""
    height, width = size
    return ((0, 16), (width - 32, width - 16)), ((height - 16, height), (16, 32))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", RED)
def test_the_map_points_at_the_place_that_decides(models, name, method):
    model, size = models(name)
    for rows, columns in places(size):
        pixels = red_square(size, rows, columns)
        options = {"baseline": torch.zeros_like(pixels)} if method != "gradcam" else {}
        heat = attribute(
            model, pixels, CLASS_INDICES, method, **options, **FEWER.get(method, {})
        ).heatmap
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        # Bilinear upsampling spreads a cell by half a cell, strided convolutions look a little to the side.
        spread = {"gradcam": 12, "occlusion": 8, "kernel_shap": 12}.get(method, 4)
        near = np.zeros(size, dtype=bool)
        near[
            max(0, rows[0] - spread) : rows[1] + spread,
            max(0, columns[0] - spread) : columns[1] + spread,
        ] = True
        assert near[y, x]
        positive = heat.clip(0)
        assert positive[near].sum() > 0.8 * positive.sum()
        assert (
            heat[rows[0] : rows[1], columns[0] : columns[1]].mean() > 5 * np.abs(heat[~near]).mean()
        )


@pytest.mark.parametrize("name", PREFIXES)
def test_a_transformers_map_is_not_flat_transposed_or_shifted(models, name):
    model, size = models(name)
    layer = find_layer(model, size)
    assert (layer.layout, layer.prefix, layer.grid) == (
        "tokens",
        PREFIXES[name],
        (size[0] // 16, size[1] // 16),
    )
    # Every patch in turn: a map that is shifted by the class token, or folded in another order, is wrong at most of them.
    for row in range(layer.grid[0]):
        for column in range(layer.grid[1]):
            pixels = red_square(size, (16 * row, 16 * row + 16), (16 * column, 16 * column + 16))
            heat = attribute(model, pixels, CLASS_INDICES).heatmap
            y, x = np.unravel_index(heat.argmax(), heat.shape)
            assert (y // 16, x // 16) == (row, column)
            assert np.ptp(heat) > 0.5 * heat.max() > 0
