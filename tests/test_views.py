"""Training views: size, repeatability, the same decisions for a pair, and edges."""

import numpy as np
import pytest
from helpers.tiny import draw_picture
from PIL import Image

from realfake.training.views import ViewAugmentation, _reflect


def view(image, seed=0, **options) -> Image.Image:
    return ViewAugmentation(**{"crop_size": 48, **options})(image, np.random.default_rng(seed))


@pytest.mark.parametrize("size", [(48, 48), (9, 11), (5, 90), (300, 20), (120, 90), (47, 49)])
def test_every_view_is_a_square_of_the_crop_size(size):
    image = draw_picture(300, seed=1).crop((0, 0, *size))
    for seed in range(40):
        made = view(image, seed)
        assert made.size == (48, 48) and made.mode == "RGB"


def test_the_same_generator_gives_the_same_view():
    image = draw_picture(120, seed=1)
    views = [view(image, seed).tobytes() for seed in range(12)]
    assert views == [view(image, seed).tobytes() for seed in range(12)]
    assert len(set(views)) == 12


def test_two_images_of_one_size_get_the_same_crop_and_degradations():
    # The second image is the negative of the first, so their views must be, too.
    pattern = (np.random.default_rng(0).random((12, 12)) > 0.5).astype(np.uint8) * 255
    pattern = np.kron(pattern, np.ones((10, 10), np.uint8))
    images = [Image.fromarray(np.repeat(a[..., None], 3, 2)) for a in (pattern, 255 - pattern)]
    compared = 0
    for seed in range(30):
        one, other = (np.asarray(view(image, seed), dtype=float).ravel() for image in images)
        if one.std() > 20 and other.std() > 20:
            compared += 1
            assert np.corrcoef(one, other)[0, 1] < -0.5
    assert compared > 20


def test_without_strength_pixels_are_only_cropped_and_mirrored():
    image = draw_picture(100, seed=3)
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(image), (48, 48), axis=(0, 1))
    windows = windows.transpose(0, 1, 3, 4, 2)
    for seed in range(8):
        made = np.asarray(view(image, seed, strength=0.0))
        assert any((windows == x).all(axis=(2, 3, 4)).any() for x in (made, made[:, ::-1]))


def test_small_images_are_reflected_at_their_edges():
    row = np.arange(3, dtype=np.uint8)
    image = Image.fromarray(np.repeat(np.tile(row, (2, 1))[..., None], 3, 2))
    enlarged = np.asarray(_reflect(image, 2, 0, 4, 0))[..., 0]
    assert enlarged[0].tolist() == [1, 0, 0, 1, 2, 2, 1, 0, 0]
    assert np.asarray(_reflect(image, 0, 7, 0, 0)).shape == (9, 3, 3), "more than the image's side"


def test_some_small_images_are_centred_on_black():
    image = Image.new("RGB", (20, 20), "white")
    black = [np.asarray(view(image, seed, strength=0.0)).min() == 0 for seed in range(200)]
    assert 0.1 < np.mean(black) < 0.3


@pytest.mark.parametrize("size", [100, 30])
def test_twins_are_a_view_and_its_recompressed_copy(size):
    image = draw_picture(size, seed=3)
    augmentation = ViewAugmentation(48)
    for seed in range(6):
        first, second = augmentation.twins(image, np.random.default_rng(seed))
        assert first.tobytes() == augmentation(image, np.random.default_rng(seed)).tobytes()
        assert first.size == second.size and first.tobytes() != second.tobytes()
        difference = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
        assert np.abs(difference).mean() < 20


def test_the_description_has_the_probabilities_of_the_strength():
    described = ViewAugmentation(224, 0.5).describe()
    assert described["thumbnail"]["p"] == 0.15 and described["compression"]["quality"] == [30, 95]
    assert ViewAugmentation(224, 0.0).describe()["not degraded"]["p"] == 1.0
