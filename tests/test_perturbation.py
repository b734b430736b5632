"""Orders, masks, baselines and imputation against values derived by hand."""

import numpy as np
import pytest
import torch

from realfake.attribution.faithfulness import (
    baseline_pixels,
    importance_order,
    random_orders,
    replace,
    strongest,
)


def test_ties_are_ranked_in_reading_order():
    order = importance_order(np.array([[0.0, 2.0, 0.0], [5.0, -1.0, 2.0]]))
    assert order.tolist() == [[3, 1, 4], [0, 5, 2]]
    assert strongest(order, 0.5).tolist() == [[False, True, False], [True, False, True]]
    assert (
        strongest(order, 0).sum() == 0
        and strongest(order, 0.01).sum() == 1
        and strongest(order, 1).all()
    )


def test_padding_is_never_ranked():
    order = importance_order(np.ones((6, 8)), (2, 1, 6, 5))
    assert (order >= 0).sum() == 16 and (order[:, :2] == -1).all() and (order[5:] == -1).all()
    assert strongest(order, 1).sum() == 16
    for moved in random_orders(order, 4):
        assert np.array_equal(moved >= 0, order >= 0)


def test_random_orders_keep_the_spatial_statistics():
    smooth = np.add.outer(np.sin(np.arange(24) / 3), np.cos(np.arange(36) / 4))
    order = importance_order(smooth)
    drawn = random_orders(order, 200, seed=1)
    assert np.array_equal(drawn[0], random_orders(order, 1, seed=1)[0])

    def power(ranks):
        return np.abs(np.fft.fft2(ranks))

    for moved in drawn[:20]:
        assert np.array_equal(np.sort(moved.ravel()), np.arange(order.size))
        # Rolled around, the power spectrum stays; a flip mirrors it.
        mirrored = [power(order), power(order[::-1])]
        assert (
            min(np.abs(power(moved) - spectrum).max() for spectrum in mirrored)
            < 1e-6 * order.size**2
        )
    # Every pixel is as likely as another to be among the first tenth.
    assert np.mean([strongest(moved, 0.1) for moved in drawn], axis=0).std() < 0.03


def test_replace_fills_the_masked_pixels():
    pixels, fill = torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)
    masks = np.array([[[True, False], [False, False]], [[False, False], [True, True]]])
    assert torch.equal(replace(pixels, fill, masks).sum(dim=1) / 3, torch.from_numpy(masks).float())


@pytest.mark.parametrize(
    "heatmap, box, words",
    [
        (np.full((4, 4), np.nan), None, "without NaN"),
        (np.zeros((1, 4, 4)), None, "height, width"),
        (np.zeros((4, 4)), (2, 2, 2, 4), "no pixel"),
    ],
)
def test_invalid_maps_raise(heatmap, box, words):
    with pytest.raises(ValueError, match=words):
        importance_order(heatmap, box)


def test_baselines():
    pixels = torch.rand(1, 3, 16, 16) + torch.tensor([0.0, 2.0, 4.0])[None, :, None, None]
    blurred = baseline_pixels(pixels, "blurred")
    assert blurred.std(dim=(2, 3)).max() < 0.5 * pixels.std(dim=(2, 3)).min()
    assert torch.allclose(blurred.mean(dim=(2, 3)), pixels.mean(dim=(2, 3)), atol=0.02)
    assert torch.allclose(baseline_pixels(pixels, "mean")[0, :, 5, 7], pixels.mean(dim=(0, 2, 3)))
