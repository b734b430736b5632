"""Splices whose parts are known."""

import io

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from datasets.features import ClassLabel
from helpers.tiny import draw_picture
from PIL import Image as Picture
from scipy.ndimage import binary_dilation, binary_erosion

from realfake.evaluation.splices import (
    blend,
    chance_energy,
    draw_mask,
    energy_inside,
    random_maps,
    splices,
)
from realfake.imaging.decode import open_image


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def corpus(n=12, size=64, groups=None):
    """Real images are dark, generated ones bright."""
    rows = {
        "image": [
            png(
                Picture.fromarray(
                    (np.asarray(draw_picture(size, seed=i)) // 3 + (0, 160)[i % 2]).astype(np.uint8)
                )
            )
            for i in range(n)
        ],
        "label": [i % 2 for i in range(n)],
        "group": groups or [str(i) for i in range(n)],
    }
    features = Features(
        image=Image(decode=False), label=ClassLabel(names=["real", "ai"]), group=Value("string")
    )
    return Dataset.from_dict(rows, features=features)


def grey(image):
    return np.asarray(image.convert("L")).astype(float)


def test_the_region_is_from_the_donor_and_the_rest_from_the_base():
    dataset = corpus()
    for splice in splices(dataset, 3, seed=1):
        base, donor, other = (open_image(dataset[row]["image"]) for row in splice.rows)
        labels = [dataset[row]["label"] for row in splice.rows]
        assert labels == {"ai_in_real": [0, 1, 0], "real_in_ai": [1, 0, 1]}[splice.kind]
        assert splice.target == {"ai_in_real": "ai", "real_in_ai": "real"}[splice.kind]
        assert splice.image.size == splice.control.size == (64, 64) and splice.mask.shape == (
            64,
            64,
        )
        assert 0.05 < splice.mask.mean() < 0.28
        core, outside = (
            binary_erosion(splice.mask, iterations=4),
            ~binary_dilation(splice.mask, iterations=4),
        )
        for picture, part in ((splice.image, donor), (splice.control, other)):
            assert np.abs(grey(picture) - grey(part))[core].mean() < 6
            assert np.abs(grey(picture) - grey(base))[outside].mean() < 6
        # Dark and bright: the donor shows, the control's region is of the base's own kind.
        assert abs(grey(splice.image)[core].mean() - grey(base)[outside].mean()) > 60
        assert abs(grey(splice.control)[core].mean() - grey(base)[outside].mean()) < 60


def test_the_same_seed_makes_the_same_splices():
    one, same, other = (list(splices(corpus(), 2, seed=seed)) for seed in (3, 3, 4))
    assert [s.kind for s in one] == ["ai_in_real", "real_in_ai"] * 2
    for a, b in zip(one, same):
        assert (
            a.rows == b.rows
            and np.array_equal(a.mask, b.mask)
            and a.image.tobytes() == b.image.tobytes()
        )
    assert [s.rows for s in one] != [s.rows for s in other]
    first = list(splices(corpus(), 1, seed=3))  # fewer splices are the first ones
    assert [s.rows for s in first] == [s.rows for s in one[:2]]


def test_donors_have_other_groups():
    dataset = corpus(groups=[str(i // 4) for i in range(12)])
    for splice in splices(dataset, 10):
        assert len({dataset[row]["group"] for row in splice.rows}) == 3


def test_both_parts_are_compressed_alike():
    flat = Picture.new("RGB", (64, 64), (90, 90, 90))
    noise = Picture.fromarray(
        np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    )
    nothing, everything = np.zeros((64, 64)), np.ones((64, 64))
    assert blend(flat, noise, nothing).tobytes() == blend(flat, flat, everything).tobytes()
    assert blend(flat, noise, everything).tobytes() == blend(noise, flat, nothing).tobytes()


@pytest.mark.parametrize("size", [(288, 288), (400, 100), (32, 32)])
def test_masks_are_feathered_blobs_within_the_image(size):
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(20):
        mask = draw_mask(size, rng)
        assert mask.shape == size[::-1] and mask.min() >= 0 and mask.max() <= 1 + 1e-9
        assert ((mask > 0.1) & (mask < 0.9)).any()
        shares.append((mask > 0.5).mean())
    assert 0.06 < min(shares) < max(shares) < 0.27


def test_images_are_cropped_to_a_common_size():
    rows = {
        "image": [png(draw_picture((60 + 10 * i, 90 - 5 * i), seed=i)) for i in range(6)],
        "label": [0, 1] * 3,
    }
    dataset = Dataset.from_dict(
        rows, features=Features(image=Image(decode=False), label=ClassLabel(names=["real", "ai"]))
    )
    for splice in splices(dataset, 3):
        sizes = [open_image(dataset[row]["image"]).size for row in splice.rows]
        assert splice.image.size == tuple(min(size[axis] for size in sizes) for axis in (0, 1))


@pytest.mark.parametrize(
    "dataset, words",
    [(lambda: corpus(2), "two images of each class"), (lambda: corpus(8, size=24), "32 pixels")],
)
def test_mistakes(dataset, words):
    with pytest.raises(ValueError, match=words):
        list(splices(dataset(), 1))


def test_energy_inside_by_hand():
    heat = np.array([[4.0, 1.0], [3.0, -2.0]])
    mask = np.array([[True, False], [False, False]])
    assert energy_inside(heat, mask) == 0.5
    assert energy_inside(heat, np.array([[False, False], [True, False]])) == 3 / 8
    assert energy_inside(-heat.clip(0) - 1, mask) == 0


def test_unseen_pixels_do_not_count():
    heat = np.array([[np.nan, 2.0, 1.0]])
    assert energy_inside(heat, np.array([[True, True, False]])) == pytest.approx(2 / 3)
    assert np.isnan(energy_inside(heat, np.array([[True, False, False]])))
    with pytest.raises(ValueError, match="shape"):
        energy_inside(heat, np.ones((2, 2), dtype=bool))


def test_random_maps_score_the_area_of_the_mask():
    rng = np.random.default_rng(1)
    heat = np.full((40, 60), np.nan)
    heat[5:35, 10:50] = rng.random((30, 40))
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:20, 15:30] = True
    for drawn in random_maps(heat, 3):
        assert np.array_equal(np.isfinite(drawn), np.isfinite(heat))
        assert np.allclose(np.sort(drawn[np.isfinite(drawn)]), np.sort(heat[np.isfinite(heat)]))
    chance = chance_energy(np.where(mask, 5.0, heat * 0.01), mask, n=400)
    assert chance == pytest.approx(mask.sum() / (30 * 40), abs=0.03)
