"""The strongest regions: where they are, what they hold, how they are outlined."""

import numpy as np
import pytest
from scipy.ndimage import binary_fill_holes, label

from realfake.attribution.overlay import _outline, strongest_regions


def area(outline):
    """Shoelace formula."""
    x, y = np.array(outline).T
    return abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def test_boxes_shares_and_their_order():
    heat = np.zeros((300, 400), dtype=np.float32)
    heat[40:100, 50:120], heat[200:280, 300:390] = 0.8, 1.0
    heat[120:180, 200:260] = -5  # speaks against: not a region, and no part of the evidence for
    first, second = strongest_regions(heat)
    assert first.box == pytest.approx((300, 200, 390, 280), abs=3)
    assert second.box == pytest.approx((50, 40, 120, 100), abs=3)
    total = 0.8 * 60 * 70 + 80 * 90
    assert first.share == pytest.approx(80 * 90 / total, abs=0.02)
    assert first.share + second.share == pytest.approx(1, abs=0.1) and second.share < first.share
    assert area(first.outline) == pytest.approx(80 * 90, rel=0.06)
    assert len(strongest_regions(heat, 1)) == 1


def test_a_spot_with_little_evidence_is_not_a_region():
    heat = np.zeros((400, 400), dtype=np.float32)
    heat[20:270, 20:220] = 1
    heat[340:346, 340:346] = (
        6.5  # smoothed, more than half as strong as the other one; 0.47 % of the evidence
    )
    (region,) = strongest_regions(heat)
    assert region.share > 0.9
    heat[340:346, 340:346] = 16
    assert [round(each.share, 2) for each in strongest_regions(heat)[1:]] == [0.01]


@pytest.mark.parametrize("size", [(4000, 300), (300, 4000), (2500, 1700), (32, 32)])
def test_a_region_is_where_the_map_is(size):
    width, height = size
    box = (round(0.7 * width), round(0.2 * height), round(0.8 * width), round(0.5 * height))
    heat = np.zeros((height, width), dtype=np.float32)
    heat[box[1] : box[3], box[0] : box[2]] = 1
    (region,) = strongest_regions(heat)
    assert region.box == pytest.approx(box, abs=0.02 * (width * height) ** 0.5 + 1)
    xs, ys = np.array(region.outline).T
    assert (xs.min(), ys.min(), xs.max(), ys.max()) == pytest.approx(region.box, abs=1)
    assert region.share > 0.9


def test_scattered_pixels_join():
    rng = np.random.default_rng(0)
    heat = np.zeros((224, 224), dtype=np.float32)
    heat[60:120, 100:180] = rng.normal(1, 2, (60, 80))
    (region, *_) = strongest_regions(heat)
    assert region.box == pytest.approx((100, 60, 180, 120), abs=8) and region.share > 0.8


def test_unseen_parts_are_not_regions_and_do_not_weaken_their_rim():
    heat = np.full((200, 200), np.nan, dtype=np.float32)
    heat[50:150, 50:150] = 0.1
    heat[50:70, 50:150] = 1
    (region, *_) = strongest_regions(heat)
    assert region.box == pytest.approx((50, 50, 150, 70), abs=3)
    assert strongest_regions(np.full((5, 5), np.nan)) == []


def test_maps_without_evidence_have_no_regions():
    assert strongest_regions(np.zeros((10, 10))) == []
    assert strongest_regions(-np.ones((10, 10))) == []
    (pixel,) = strongest_regions(np.ones((1, 1)))
    assert (pixel.box, pixel.share) == ((0, 0, 1, 1), 1.0)


def test_outline_follows_notches_and_corners():
    square = np.zeros((4, 5), dtype=bool)
    square[1:3, 1:4] = True
    assert _outline(square) == [(1, 1), (4, 1), (4, 3), (1, 3)]
    steps = np.array(
        [[1, 0, 0], [1, 1, 0], [0, 0, 1]], dtype=bool
    )  # the last one touches over a corner
    outline = _outline(steps)
    assert area(outline) == steps.sum()
    ring = np.ones((5, 5), dtype=bool)
    ring[2, 2] = False
    assert area(_outline(ring)) == 25
    for seed in range(50):
        parts, _ = label(
            np.random.default_rng(seed).random((9, 11)) > 0.5, structure=np.ones((3, 3))
        )
        part = parts == 1
        outline = _outline(part)
        xs, ys = np.array(outline).T
        rows, columns = np.nonzero(part)
        assert (xs.min(), ys.min(), xs.max(), ys.max()) == (
            columns.min(),
            rows.min(),
            columns.max() + 1,
            rows.max() + 1,
        )
        assert part.sum() <= area(outline) and area(outline) >= binary_fill_holes(part).sum()


@pytest.mark.parametrize(
    "heat, n, words",
    [(np.zeros((2, 2, 2)), 3, "height, width"), (np.zeros((2, 2)), 0, "at least 1")],
)
def test_invalid_arguments_raise(heat, n, words):
    with pytest.raises(ValueError, match=words):
        strongest_regions(heat, n)
