"""The drawn map: its size, its colours and its alignment with the photo."""

import numpy as np
import pytest
from PIL import Image

from realfake.attribution.faithfulness import Evidence
from realfake.attribution.overlay import SMOOTH, caveats, display_scale, overlay, strongest_regions
from realfake.prediction import Explanation


def grey(width, height, value=128):
    return Image.new("RGB", (width, height), (value,) * 3)


def draw(image, heat, target="ai", **options):
    return np.asarray(overlay(image, heat, target, legend=False, **options)).astype(int)


def orange(picture):
    """Red minus blue: positive where orange, negative where blue, zero where grey."""
    return picture[..., 0] - picture[..., 2]


def test_signs_have_colours_and_zero_is_grey():
    heat = np.zeros((300, 400), dtype=np.float32)
    heat[:100], heat[200:] = 1, -1
    tint = orange(draw(grey(400, 300), heat))
    assert (tint[:100] > 50).all() and (tint[100:200] == 0).all() and (tint[200:] < -50).all()


def test_the_photo_is_grey():
    heat = np.zeros((300, 300), dtype=np.float32)
    heat[0, 0] = 1
    assert (np.abs(orange(draw(Image.new("RGB", (300, 300), (255, 120, 0)), heat))[10:]) <= 1).all()


@pytest.mark.parametrize("value", [0, 255])
def test_colour_shows_on_black_and_on_white(value):
    heat = np.ones((300, 300), dtype=np.float32)
    assert (orange(draw(grey(300, 300, value), heat)) > 50).all()


def test_one_outlier_does_not_hide_the_rest():
    heat = np.full((300, 300), 0.5, dtype=np.float32)
    usual = draw(grey(300, 300), heat)[150, 150]
    heat[0, 0] = 1e6
    assert draw(grey(300, 300), heat)[150, 150] == pytest.approx(usual, abs=2)


def test_a_single_spot_still_shows():
    heat = np.zeros((300, 300), dtype=np.float32)
    heat[20:24, 200:204] = 2
    assert (orange(draw(grey(300, 300), heat))[20:24, 200:204] > 50).all()


def test_opacity():
    heat = np.ones((300, 300), dtype=np.float32)
    tints = [orange(draw(grey(300, 300), heat, opacity=o)).mean() for o in (0, 0.3, 0.9)]
    assert tints[0] == 0 < tints[1] < tints[2]


def test_unseen_parts_are_hatched_without_colour():
    heat = np.full((300, 400), np.nan, dtype=np.float32)
    heat[100:200, 100:200] = 1
    picture = draw(grey(400, 300), heat)
    hidden = picture[210:, 210:]
    assert (orange(hidden) == 0).all() and len(np.unique(hidden)) == 2
    assert (orange(picture[100:200, 100:200]) > 50).all()
    only_hidden = draw(grey(400, 300), np.full((300, 400), np.nan, dtype=np.float32))
    assert (orange(only_hidden) == 0).all()


@pytest.mark.parametrize(
    "size, shown",
    [
        ((400, 300), (400, 300)),
        ((32, 32), (256, 256)),
        ((100, 40), (300, 120)),
        ((4000, 300), (1024, 77)),
        ((300, 4000), (77, 1024)),
        ((1025, 8), (1024, 8)),
        ((5000, 2), (1024, 1)),
    ],
)
def test_display_sizes_keep_the_proportions(size, shown):
    heat = np.ones((size[1], size[0]), dtype=np.float32)
    assert overlay(grey(*size), heat, "ai", legend=False).size == shown
    assert (
        pytest.approx(shown, abs=1)
        == (size[0] * display_scale(*size), size[1] * display_scale(*size))
        or 1 in shown
    )


@pytest.mark.parametrize("size", [(3000, 2000), (32, 20), (500, 500)])
def test_photo_map_and_mask_stay_aligned(size):
    width, height = size
    box = (width // 2, height // 5, width // 2 + width // 4, height // 5 + height // 4)
    rows, columns = slice(box[1], box[3]), slice(box[0], box[2])
    photo = np.zeros((height, width, 3), dtype=np.uint8)
    photo[rows, columns] = 255
    heat = np.zeros((height, width), dtype=np.float32)
    heat[rows, columns] = 1
    mask = np.where(heat > 0, heat, np.nan)
    scale = display_scale(*size)
    expected = [edge * scale for edge in box]
    for found in (
        orange(draw(Image.fromarray(photo), heat)) > 40,
        draw(Image.fromarray(photo), 0 * heat)[..., 0] > 128,
        orange(draw(Image.fromarray(photo), mask)) > 40,
    ):
        ys, xs = np.nonzero(found)
        assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == pytest.approx(expected, abs=1.5)


def test_the_legend_is_below_the_picture_and_as_wide_as_it_needs():
    heat = np.ones((300, 400), dtype=np.float32)
    plain, full = (
        overlay(grey(400, 300), heat, "ai", legend=False),
        overlay(grey(400, 300), heat, "ai"),
    )
    assert full.width == 400 and 330 < full.height < 380
    assert np.array_equal(np.asarray(full)[:300], np.asarray(plain))
    narrow = overlay(grey(77, 1000), np.ones((1000, 77), dtype=np.float32), "ai")
    assert narrow.width == 320


def test_the_legend_names_unseen_parts_and_follows_the_target():
    heat = np.ones((300, 400), dtype=np.float32)
    partial = heat.copy()
    partial[:, :100] = np.nan
    assert (
        overlay(grey(400, 300), partial, "ai").height > overlay(grey(400, 300), heat, "ai").height
    )
    ai, real = (
        np.asarray(overlay(grey(400, 300), heat, target))[300:] for target in ("ai", "real")
    )
    assert not np.array_equal(ai, real)


def test_the_arguments_are_not_changed():
    image, heat = grey(400, 300), np.full((300, 400), np.nan, dtype=np.float32)
    overlay(image, heat, "real")
    assert np.isnan(heat).all() and image == grey(400, 300)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"heatmap": np.zeros((4, 3))}, "shape"),
        ({"target": "fake"}, "'real' or 'ai'"),
        ({"opacity": 1.5}, "between 0 and 1"),
    ],
)
def test_invalid_arguments_raise(arguments, words):
    with pytest.raises(ValueError, match=words):
        overlay(**{"image": grey(4, 3), "heatmap": np.zeros((3, 4)), "target": "ai", **arguments})


def test_shrinking_does_not_fade_the_rim_of_the_seen_part():
    heat = np.full((300, 2048), np.nan, dtype=np.float32)
    heat[:, 501:1500] = 1  # half of the display pixel 250 was seen
    tint = orange(draw(grey(2048, 300), heat))[50]
    assert tint[250] == tint[400] > 50


# Regions, notes, smoothing


@pytest.mark.parametrize("size", [(400, 300), (3000, 2000), (60, 60)])
def test_regions_are_outlined_where_they_are(size):
    width, height = size
    box = (width // 2, height // 3, 3 * width // 4, 2 * height // 3)
    heat = np.zeros((height, width), dtype=np.float32)
    heat[box[1] : box[3], box[0] : box[2]] = 1
    regions = strongest_regions(heat, 1)
    plain = np.asarray(overlay(grey(*size), heat, "ai", legend=False)).astype(int)
    drawn = np.asarray(overlay(grey(*size), heat, "ai", legend=False, regions=regions)).astype(int)
    changed = np.abs(drawn - plain).sum(axis=2) > 60
    scale = display_scale(*size)
    below = changed[round((box[1] + box[3]) / 2 * scale) :]  # the label is above
    rows, columns = np.nonzero(below)
    found = (columns.min(), columns.max(), rows.max() + round((box[1] + box[3]) / 2 * scale))
    expected = (box[0] * scale, box[2] * scale, box[3] * scale)
    assert found == pytest.approx(expected, abs=4 + 0.02 * max(plain.shape))
    assert not changed[:, : round(box[0] * scale) - 12].any()


def test_notes_are_below_the_legend_and_wrapped():
    heat = np.ones((300, 400), dtype=np.float32)
    plain = overlay(grey(400, 300), heat, "ai")
    noted = overlay(
        grey(400, 300), heat, "ai", notes=["Words that do not fit into one line of a picture " * 3]
    )
    assert noted.width == plain.width and noted.height >= plain.height + 3 * 21
    extra = np.asarray(noted)[plain.height - 4 :]
    assert (extra < 100).any() and (extra[:, -8:] == 255).all()


def evidence(**changes):
    return Evidence(
        **{
            "target": "ai",
            "share": 0.1,
            "before": 0.9,
            "after": 0.3,
            "random_values": (0.8,),
            **changes,
        }
    )


def test_caveats():
    assert caveats({}) == caveats({"completeness_gap": 0.004}, evidence()) == []
    (weak,) = caveats({}, evidence(after=0.85))
    assert "no better than chance" in weak
    (inexact,) = caveats({"completeness_gap": 0.034}, evidence())
    assert "3 % off" in inexact
    assert "over 1,000 %" in caveats({"completeness_gap": 1e5})[0]


def test_an_explanation_draws_its_caveats():
    heat = np.ones((300, 400), dtype=np.float32)
    fields = {
        "heatmap": heat,
        "method": "gradcam",
        "target": "ai",
        "prediction": None,
        "image": grey(400, 300),
    }
    good, weak = (Explanation(**fields, evidence=evidence(after=after)) for after in (0.3, 0.85))
    assert weak.overlay().height > good.overlay().height == Explanation(**fields).overlay().height
    assert not np.array_equal(np.asarray(good.overlay(regions=1)), np.asarray(good.overlay()))


def test_smoothing_gathers_single_pixels_and_keeps_coarse_maps():
    rng = np.random.default_rng(0)
    dust = np.where(rng.random((200, 200)) < 0.3, 1.0, -0.2).astype(np.float32)
    dust[:, 100:] *= -1
    dust[:40] = np.nan
    plain, gathered = (
        draw(grey(400, 400), np.kron(dust, np.ones((2, 2))), smooth=smooth)
        for smooth in (0, SMOOTH)
    )
    redness = [orange(shown)[100:] for shown in (plain, gathered)]
    # One half speaks for the target and one against it: smoothed, both halves are more even.
    assert redness[1][:, :180].mean() > 20 and redness[1][:, 220:].mean() < -20
    assert redness[1][:, :180].std() < redness[0][:, :180].std()
    # The unseen part stays pale, and its neighbours do not fade.
    assert np.array_equal(plain[:60], gathered[:60])
    assert abs(redness[1][0, :180].mean() - redness[1][150, :180].mean()) < 15
    wide = np.kron(rng.normal(size=(4, 4)), np.ones((50, 50))).astype(np.float32)
    same = [draw(grey(200, 200), wide, smooth=smooth) for smooth in (0, SMOOTH)]
    assert np.abs(same[0] - same[1]).mean() < 3


def test_a_large_map_is_smoothed_at_display_size(monkeypatch):
    from realfake.attribution import overlay as module

    sides = []
    monkeypatch.setattr(
        module, "gaussian_filter", lambda array, sigma: sides.append(max(array.shape)) or array
    )
    draw(grey(300, 4000), np.ones((4000, 300)), smooth=SMOOTH)
    assert sides == [1024, 1024]
