"""Grad-CAM against pytorch-grad-cam's own output, stored by tests/fixtures/make_gradcam.py (version 1.5.7)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.make_gradcam import models

from realfake.attribution.methods import attribute

STORED = Path(__file__).parent / "fixtures" / "gradcam.npz"


@pytest.fixture(scope="module")
def stored():
    with np.load(STORED) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_gradcam_agrees_with_pytorch_grad_cam(stored, name):
    model, layer, _ = models()[name]
    weights = {
        key.split("/")[-1]: torch.from_numpy(value)
        for key, value in stored.items()
        if "/weights/" in key
    }
    weights = {
        key.removeprefix(f"{name}/weights/"): torch.from_numpy(value)
        for key, value in stored.items()
        if key.startswith(f"{name}/weights/")
    }
    model.load_state_dict(weights)
    pixels = torch.from_numpy(stored[f"{name}/pixels"])
    heat = attribute(model, pixels, {"real": [0], "ai": [1]}, layer=layer).heatmap

    # Before its ReLU, which this map has not: the same grid, enlarged.
    signed = torch.from_numpy(stored[f"{name}/signed"])[None, None]
    assert (signed > 0).any() and (signed < 0).any()
    expected = torch.nn.functional.interpolate(signed, heat.shape, mode="bilinear")[0, 0].numpy()
    assert np.allclose(heat, expected, atol=1e-6 * np.abs(expected).max() + 1e-7, rtol=1e-4)

    # Its answer, after ReLU and scaling to [0, 1]. It rectifies the grid and then enlarges, so that the two differ in the cells between
    # a positive and a negative one, and nowhere else.
    final, ours = stored[f"{name}/final"], heat.clip(0) / heat.max()
    grid = signed[0, 0].clamp(min=0)
    theirs = torch.nn.functional.interpolate(
        (grid / grid.max())[None, None], heat.shape, mode="bilinear"
    )[0, 0].numpy()
    assert np.allclose(final, theirs / theirs.max(), atol=2e-3)
    assert np.abs(final - ours).mean() < 0.1
    assert ours[np.unravel_index(final.argmax(), final.shape)] > 0.99
