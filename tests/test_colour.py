"""Colour profiles: a photograph and its copy in another colour space have the same pixels."""

import numpy as np
import pytest
from helpers.bad_files import encode, heic
from helpers.profiles import (
    ADOBE_RGB,
    DISPLAY_P3,
    SRGB,
    SRGB_CURVE,
    cmyk_profile,
    grey_profile,
    rgb_profile,
)
from helpers.timing import least
from helpers.tiny import draw_picture
from PIL import Image, ImageCms

from realfake.imaging import colour
from realfake.imaging.colour import converts
from realfake.imaging.decode import open_image


def values(image) -> np.ndarray:
    return np.asarray(image).astype(int)


def to_linear(level: np.ndarray) -> np.ndarray:
    return np.where(level > 0.04045, ((level + 0.055) / 1.055) ** 2.4, level / 12.92)


def from_linear(light: np.ndarray) -> np.ndarray:
    light = np.clip(light, 0, 1)
    return np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light)


def twin(image: Image.Image, colourants, gamma: float | None = None) -> Image.Image:
    """The same colours in another space, computed from its definition, without a library."""
    light = to_linear(np.asarray(image) / 255) @ np.array(SRGB).T
    light = light @ np.linalg.inv(np.array(colourants)).T
    level = from_linear(light) if gamma is None else np.clip(light, 0, 1) ** (1 / gamma)
    return Image.fromarray(np.rint(255 * level).astype(np.uint8))


def original(copy: Image.Image, colourants, gamma: float | None = None) -> Image.Image:
    """Back to sRGB, from the 8 bits of the copy."""
    level = np.asarray(copy) / 255
    light = to_linear(level) if gamma is None else level**gamma
    light = light @ np.array(colourants).T @ np.linalg.inv(np.array(SRGB)).T
    return Image.fromarray(np.rint(255 * from_linear(light)).astype(np.uint8))


SPACES = {
    "display_p3": (DISPLAY_P3, None, rgb_profile(DISPLAY_P3)),
    "adobe_rgb": (ADOBE_RGB, 2.19921875, rgb_profile(ADOBE_RGB, 2.19921875)),
}


@pytest.mark.parametrize("format", ["PNG", "TIFF", "HEIF"])
@pytest.mark.parametrize("name", SPACES)
def test_a_twin_in_another_space_has_the_same_pixels(name, format):
    colourants, gamma, profile = SPACES[name]
    photograph = draw_picture(96, seed=3)
    copy = twin(photograph, colourants, gamma)
    assert np.abs(values(copy) - values(photograph)).max() > 15
    options = {"icc_profile": profile}
    if format == "HEIF":
        data = heic(copy, quality=-1, chroma=444, matrix_coefficients=0, **options)
    else:
        data = encode(copy, format, **options)
    result = values(open_image(data))
    # 8 bits of a wide space lose some of the dark and saturated colours.
    assert np.abs(result - values(original(copy, colourants, gamma))).max() <= 2
    assert np.abs(result - values(photograph)).mean() < 0.7


def test_a_jpeg_and_its_twin_differ_by_the_compression_only():
    photograph = draw_picture(96, seed=3)
    copy = encode(twin(photograph, DISPLAY_P3), "JPEG", quality=95, icc_profile=rgb_profile())
    assert np.abs(values(open_image(copy)) - values(photograph)).mean() < 3


@pytest.mark.parametrize(
    "profile",
    [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        rgb_profile(SRGB, SRGB_CURVE),
    ],
)
def test_srgb_is_unchanged_and_costs_nothing(profile):
    image = draw_picture(64, seed=1)
    for format in ("JPEG", "PNG", "WEBP"):
        tagged, plain = encode(image, format, icc_profile=profile), encode(image, format)
        np.testing.assert_array_equal(values(open_image(tagged)), values(open_image(plain)))
    assert not converts(profile)
    large = Image.new("RGB", (3000, 3000), "teal")
    large.info["icc_profile"] = profile
    plain = least(lambda: colour.to_rgb(Image.new("RGB", (8, 8))))[0]
    assert least(lambda: colour.to_rgb(large))[0] < plain + 0.05


def test_transparency_and_palettes_are_converted_too():
    photograph = draw_picture(32, seed=3)
    copy = twin(photograph, DISPLAY_P3)
    copy.putalpha(Image.new("L", copy.size, 255))
    result = open_image(encode(copy, "PNG", icc_profile=rgb_profile()))
    assert np.abs(values(result) - values(photograph)).max() <= 3
    red = Image.new("P", (16, 16))
    red.putpalette([234, 51, 35])  # sRGB's red in Display P3
    result = open_image(encode(red, "PNG", icc_profile=rgb_profile()))
    assert np.abs(values(result)[0, 0] - (255, 0, 0)).max() <= 2


def test_grey_is_converted_by_a_profile_of_grey():
    linear = np.rint(255 * to_linear(np.arange(256) / 255)).astype(np.uint8)
    data = encode(Image.fromarray(linear[None].repeat(8, 0)), "PNG", icc_profile=grey_profile(1.0))
    result = values(open_image(data))[0]
    assert np.abs(result[64:, 0] - np.arange(64, 256)).max() <= 3
    assert (result[:, 0] == result[:, 2]).all()


def test_cmyk_is_converted_by_its_profile():
    inks = [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255)]
    image = Image.new("CMYK", (16 * len(inks), 16))
    for place, ink in enumerate(inks):
        image.paste(ink, (16 * place, 0, 16 * place + 16, 16))
    # Black ink that absorbs half of the light: 188 of 255 levels.
    expected = [(255, 255, 255), (0, 255, 255), (255, 0, 0), (188, 188, 188)]
    for format in ("TIFF", "JPEG"):
        options = {"quality": 100, "subsampling": 0} if format == "JPEG" else {}
        data = encode(image, format, icc_profile=cmyk_profile(0.5), **options)
        result = values(open_image(data))
        for place, wanted in enumerate(expected):
            assert np.abs(result[8, 16 * place + 8] - wanted).max() <= 12, (format, wanted)


@pytest.mark.parametrize(
    "profile",
    [
        b"nonsense",
        rgb_profile()[:200],
        rgb_profile()[:-40] + bytes(40),
        cmyk_profile(),
        grey_profile(),
        b"\xff" * (colour.MAX_PROFILE + 1),
    ],
)
def test_a_broken_or_foreign_profile_never_fails_an_image(profile):
    image = draw_picture(48, seed=2)
    image.info["icc_profile"] = profile
    assert open_image(image).size == (48, 48)
    if len(profile) < 60_000:
        data = encode(draw_picture(48, seed=2), "PNG", icc_profile=profile)
        assert open_image(data).mode == "RGB"
    for foreign in (cmyk_profile(), grey_profile()):
        image.info["icc_profile"] = foreign
        np.testing.assert_array_equal(values(open_image(image)), values(draw_picture(48, seed=2)))
