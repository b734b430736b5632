import json
import pickle

import numpy as np
import pytest
from helpers.timing import least
from PIL import Image
from skimage import data
from transformers.image_transforms import center_crop

from realfake.training import augment
from realfake.training.augment import Augmentation


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(data.astronaut()).crop((60, 0, 348, 288))


def coordinates(width, height):
    """Every pixel tells where it came from: red is x, green is y, blue is 7."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 7)], -1).astype(np.uint8))


@pytest.fixture
def only(monkeypatch):
    """Switch off every change but those named, and make these certain (at strength 1)."""

    def switch(*names, **values):
        for name in (
            "_SMALL",
            "_RESCALE",
            "_COMPRESS",
            "_COMPRESS_AGAIN",
            "_COLOUR",
            "_GREY",
            "_BLUR",
            "_NOISE",
        ):
            monkeypatch.setattr(augment, name, 1.0 if name in names else 0.0)
        for name, value in values.items():
            monkeypatch.setattr(augment, name, value)

    return switch


@pytest.mark.parametrize("strength", [0, 0.3, 1])
@pytest.mark.parametrize(
    ("size", "crop"), [((288, 288), 224), ((32, 32), 32), ((300, 100), 224), ((90, 70), 224)]
)
def test_size_and_mode(strength, size, crop):
    rng = np.random.default_rng(0)
    image = coordinates(300, 300).crop((0, 0, *size))
    for _ in range(25):
        result = Augmentation(strength, crop)(image, rng)
        assert result.size == (crop, crop) and result.mode == "RGB"
        assert Augmentation(strength)(image, rng).size == size


@pytest.mark.parametrize("size", [(61, 40), (40, 61), (33, 32), (20, 21), (20, 100), (224, 31)])
@pytest.mark.parametrize("crop", [32, 33])
def test_strength_0_is_the_center_crop_of_transformers(size, crop):
    image = coordinates(*size)
    result = Augmentation(0, crop)(image, np.random.default_rng(0))
    expected = center_crop(np.asarray(image), (crop, crop), input_data_format="channels_last")
    np.testing.assert_array_equal(np.asarray(result), expected)
    assert Augmentation(0)(image, None) is image


def test_image_is_left_unchanged(photo):
    before = np.asarray(photo).copy()
    rng = np.random.default_rng(0)
    for _ in range(20):
        Augmentation(1.0, 224)(photo, rng)
    np.testing.assert_array_equal(np.asarray(photo), before)


def test_same_generator_state_gives_the_same_image(photo):
    change = Augmentation(0.7, 224)
    first, second = (
        [np.asarray(change(photo, rng)) for _ in range(15)]
        for rng in (np.random.default_rng(4), np.random.default_rng(4))
    )
    np.testing.assert_array_equal(first, second)
    assert len({image.tobytes() for image in first}) == 15


def test_pickles(photo):
    change = Augmentation(0.4, 128, flip=False)
    copy = pickle.loads(pickle.dumps(change))
    assert copy == change
    results = [np.asarray(c(photo, np.random.default_rng(1))) for c in (change, copy)]
    np.testing.assert_array_equal(*results)


def test_crop_takes_native_pixels_from_everywhere(only):
    only()
    image, rng = coordinates(100, 80), np.random.default_rng(0)
    corners, mirrored = set(), 0
    for _ in range(600):
        result = np.asarray(Augmentation(1.0, 70)(image, rng)).astype(int)
        if result[0, 0, 0] > result[0, -1, 0]:
            mirrored += 1
            result = result[:, ::-1]
        left, top, _ = result[0, 0]
        np.testing.assert_array_equal(result, np.asarray(image)[top : top + 70, left : left + 70])
        corners.add((left, top))
    lefts, tops = zip(*corners)
    assert (min(lefts), max(lefts), min(tops), max(tops)) == (0, 30, 0, 10)
    assert 240 < mirrored < 360
    plain = Augmentation(1.0, 70, flip=False)
    assert all(
        np.diff(np.asarray(plain(image, rng)).astype(int)[0, :, 0]).min() == 1 for _ in range(30)
    )


@pytest.mark.parametrize("strength", [0, 0.9])
def test_twins_differ_by_one_compression(photo, strength):
    change = Augmentation(strength, 224)
    for seed in range(12):
        image, twin = change.twins(photo, np.random.default_rng(seed))
        plain = change(photo, np.random.default_rng(seed))
        assert image.tobytes() == plain.tobytes() and twin.size == image.size
        difference = np.abs(np.asarray(image).astype(int) - np.asarray(twin)).mean()
        assert 0 < difference < 12


def test_a_twin_on_black_is_compressed_without_the_black():
    flat = Image.new("RGB", (100, 100), (200, 40, 90))
    for seed in range(12):
        image, twin = Augmentation(0, 224).twins(flat, np.random.default_rng(seed))
        black = (np.asarray(image) == 0).all(-1)
        assert black.sum() == 224**2 - 100**2
        np.testing.assert_array_equal((np.asarray(twin) == 0).all(-1), black)
        assert np.ptp(np.asarray(twin)[~black], axis=0).max() <= 8, "no ringing at the edge"


def test_rescale_never_pads_a_crop_that_fits(only):
    only("_RESCALE")
    rng = np.random.default_rng(0)
    white = Image.new("RGB", (260, 230), "white")
    for _ in range(60):
        assert np.asarray(Augmentation(1.0, 224)(white, rng)).min() == 255
        assert np.asarray(Augmentation(1.0)(white, rng)).min() == 255


@pytest.mark.parametrize(("strength", "low", "high"), [(1.0, 0.5, 1.5), (0.5, 0.7, 1.3)])
def test_rescale_covers_its_range_and_keeps_geometry(only, strength, low, high):
    only("_RESCALE", _RESCALE=2.0)  # certain at strength 0.5 too
    image, rng = coordinates(250, 250), np.random.default_rng(0)
    change = Augmentation(strength, 90, flip=False)
    factors = []
    for _ in range(200):
        result = np.asarray(change(image, rng)).astype(float)
        # away from the border, red rises by 1 / factor per pixel of the result, green per row
        across = (result[45, 80, 0] - result[45, 10, 0]) / 70
        down = (result[80, 45, 1] - result[10, 45, 1]) / 70
        assert across == pytest.approx(down, abs=0.04)
        factors.append(1 / across)
    assert low - 0.03 < min(factors) < low + 0.06
    assert high - 0.06 < max(factors) < high + 0.06
    # even on a log scale: as many images shrink as the logarithms of the bounds say
    assert np.mean(np.array(factors) < 1) == pytest.approx(
        -np.log(low) / np.log(high / low), abs=0.1
    )


def test_some_images_end_up_small_on_black(only):
    white, rng = Image.new("RGB", (250, 230), "white"), np.random.default_rng(0)

    def sides(names):
        only(*names)
        for _ in range(200):
            result = np.asarray(Augmentation(1.0, 200)(white, rng))[..., 0] > 127
            rows, columns = np.flatnonzero(result.any(1)), np.flatnonzero(result.any(0))
            height, width = rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]
            assert result.sum() == height * width  # a rectangle, and black around it
            # centred as `center_crop` does
            assert (columns[0], rows[0]) == (-((width - 200) // 2), -((height - 200) // 2))
            assert height == width
            yield height

    found = list(sides(["_SMALL"]))
    assert 80 <= min(found) < 90 and 190 < max(found) <= 200
    found = list(sides(["_SMALL", "_RESCALE"]))
    assert 80 <= min(found) < 90 and 190 < max(found) <= 200


def test_tiny_images_are_shifted_not_resampled(only):
    only("_RESCALE")
    image, rng = coordinates(32, 32), np.random.default_rng(0)
    shifts = set()
    for _ in range(600):
        result = np.asarray(Augmentation(1.0, 32, flip=False)(image, rng)).astype(int)
        inside = result[..., 2] == 7
        rows, columns = np.nonzero(inside)
        shift = {
            (int(r) - int(y), int(c) - int(x))
            for r, c, (x, y) in zip(rows, columns, result[inside][:, :2])
        }
        assert len(shift) == 1 and result[~inside].sum() == 0
        shifts |= shift
    assert shifts == {(dy, dx) for dy in range(-4, 5) for dx in range(-4, 5)}


def test_tiny_images_are_cropped_where_there_is_room(only):
    only()
    image, rng = coordinates(32, 32), np.random.default_rng(0)
    for _ in range(50):
        assert (np.asarray(Augmentation(1.0, 28)(image, rng))[..., 2] == 7).all()


def blockiness(image, axis=1):
    """Mean jump between neighbours, by the place in an 8 x 8 grid where it happens."""
    jumps = np.abs(np.diff(np.asarray(image.convert("L")).astype(float), axis=axis)).mean(1 - axis)
    return np.array([jumps[i::8].mean() for i in range(8)])


@pytest.mark.parametrize("before", [0.0, 1.0])
def test_the_compression_grid_has_every_phase(only, monkeypatch, before):
    only("_COMPRESS", _BEFORE=before, _WEBP=0.0)
    monkeypatch.setattr(Augmentation, "_quality", 3)
    monkeypatch.setattr(augment, "_BEST_QUALITY", 3)
    smooth = Image.linear_gradient("L").rotate(30).crop((40, 40, 216, 216)).convert("RGB")
    rng = np.random.default_rng(0)
    phases = [int(np.argmax(blockiness(Augmentation(1.0, 128)(smooth, rng)))) for _ in range(150)]
    assert set(phases) == set(range(8))


def test_padding_stays_black_under_compression(only):
    only("_COMPRESS", "_COMPRESS_AGAIN", "_NOISE", "_BLUR", "_COLOUR")
    rng = np.random.default_rng(0)
    for _ in range(30):
        result = np.asarray(Augmentation(1.0, 100)(Image.new("RGB", (80, 70), "white"), rng))
        outside = np.ones((100, 100), bool)
        outside[15:85, 10:90] = False
        assert result[outside].max() == 0 and result[~outside].mean() > 100


def test_quality_and_passes(only, monkeypatch):
    calls = []

    def record(image, format, quality, subsampling, effort):
        calls.append((format, quality, subsampling))
        return image

    monkeypatch.setattr(augment, "recompress", record)
    only("_COMPRESS")
    image, rng = coordinates(100, 100), np.random.default_rng(0)
    for _ in range(800):
        Augmentation(1.0, 64)(image, rng)
    formats, qualities, subsamplings = zip(*calls)
    assert len(calls) == 800
    assert (min(qualities), max(qualities)) == (40, 95)
    assert formats.count("WEBP") == pytest.approx(320, abs=50)
    assert set(subsamplings) == {"4:4:4", "4:2:2", "4:2:0"}
    only("_COMPRESS", "_COMPRESS_AGAIN")
    Augmentation(1.0, 64)(image, rng)
    assert len(calls) == 802
    only()
    Augmentation(1.0, 64)(image, rng)
    assert len(calls) == 802


def test_colour_equals_its_formula(only):
    only("_COLOUR")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    change = Augmentation(0.8)
    result = np.asarray(change._colour(image, True, False, np.random.default_rng(5))).astype(float)
    rng = np.random.default_rng(5)
    brightness, contrast = 1 + 0.8 * rng.uniform(-0.3, 0.3, 2)
    saturation = 1 + 0.8 * rng.uniform(-0.5, 0.5)
    values = np.asarray(image).astype(float)
    grey = values @ [0.299, 0.587, 0.114]
    expected = grey[..., None] + saturation * (values - grey[..., None])
    expected = (expected * brightness - 128) * contrast + 128
    np.testing.assert_allclose(result, np.clip(expected, 0, 255), atol=1)


def test_grey_equals_pillows_grey(only, photo):
    only("_GREY")
    result = Augmentation(1.0, flip=False)(photo, np.random.default_rng(0))
    expected = np.asarray(photo.convert("L").convert("RGB")).astype(int)
    assert np.abs(np.asarray(result).astype(int) - expected).max() <= 1


def test_changes_grow_with_strength(photo):
    def distance(strength):
        rng = np.random.default_rng(0)
        change = Augmentation(strength, flip=False)
        images = [np.asarray(change(photo, rng)).astype(float) for _ in range(60)]
        return np.mean([np.abs(image - np.asarray(photo)).mean() for image in images])

    distances = [distance(strength) for strength in (0, 0.1, 0.5, 1)]
    assert distances[0] == 0 and distances == sorted(distances)


def test_large_photographs_are_not_processed_whole():
    image = Image.new("RGB", (6000, 4000), "grey")
    change, rng = Augmentation(1.0, 224), np.random.default_rng(0)
    # One JPEG pass over the whole image takes 0.15 s.
    assert least(lambda: [change(image, rng) for _ in range(20)])[0] < 1


def test_describe_is_json():
    for change in (Augmentation(0), Augmentation(0.5, 224), Augmentation(1.0, flip=False)):
        assert json.loads(json.dumps(change.describe())) == change.describe()
    facts = Augmentation(0.5, 224).describe()
    assert facts["rescale"] == {"p": 0.45, "factor": [0.7, 1.3]}
    assert facts["compression"]["quality"] == [60, 95] and facts["crop_size"] == 224
