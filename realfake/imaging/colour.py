"""Convert decoded pixels of any mode to 8-bit sRGB: colour profiles, transparency, deep values.

[`realfake.imaging.decode`] calls [`to_rgb`] for every image, so a photograph and its copy in
another colour space have the same pixels.
"""

import contextlib
from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

# Profiles of printers have up to 3 MiB.
MAX_PROFILE = 4 * 2**20
# A profile that moves no colour further than this, of 255 levels, describes sRGB.
NEAR_SRGB = 4
# Pillow's modes by the colour space of a profile (ICC.1, 7.2.6).
_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit sRGB. Transparency is composited on white."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        grey = _to_8_bits(np.asarray(image), always_16=image.mode.startswith("I;16"))
        return _to_srgb(Image.fromarray(grey), profile).convert("RGB")
    if image.has_transparency_data:
        image = image if image.mode in ("RGBA", "LA") else image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        opaque = _to_srgb(image.convert(image.mode[:-1]), profile)
        white.paste(opaque.convert("RGB"), mask=image.getchannel("A"))
        return white
    return _to_srgb(image, profile).convert("RGB")


def converts(profile: object) -> bool:
    """Return whether images with this profile are converted: it is valid, and not of sRGB."""
    return _transform(profile) is not None if _is_profile(profile) else False


def _is_profile(profile: object) -> bool:
    return isinstance(profile, bytes) and 0 < len(profile) <= MAX_PROFILE


def _to_srgb(image: Image.Image, profile: object) -> Image.Image:
    """Apply a profile. A profile that is broken or of another mode is ignored."""
    found = _transform(profile) if _is_profile(profile) else None
    if found is None:
        return image
    mode, transform = found
    if mode == "RGB" and image.mode in ("P", "RGBX", "YCbCr"):
        image = image.convert("RGB")
    if mode == "L" and image.mode == "1":
        image = image.convert("L")
    if image.mode == mode:
        with contextlib.suppress(ImageCms.PyCMSError):
            return ImageCms.applyTransform(image, transform)
    return image


@lru_cache(maxsize=16)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """Return the mode and the transform of a profile; `None` if it is sRGB or cannot be used."""
    try:
        opened = ImageCms.ImageCmsProfile(BytesIO(profile))
        mode = _MODES[opened.profile.xcolor_space]
        transform = ImageCms.buildTransform(
            opened,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        probe = _probe(mode)
        moved = ImageCms.applyTransform(probe, transform)
    except (ImageCms.PyCMSError, KeyError, OSError, TypeError, ValueError):
        return None
    before, after = (np.asarray(each.convert("RGB"), np.int16) for each in (probe, moved))
    return (mode, transform) if np.abs(before - after).max() > NEAR_SRGB else None


def _probe(mode: str) -> Image.Image:
    """Return an image of colours from the whole space."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    levels: np.ndarray = np.arange(0, 256, 17, dtype=np.uint8)
    channels = np.stack(np.meshgrid(*[levels] * 3), axis=-1).reshape(64, 64, 3)
    return Image.fromarray(channels).convert(mode)


def _to_8_bits(array: np.ndarray, always_16: bool = False) -> np.ndarray:
    """Scale a grey (height, width) image of 16-bit, 32-bit or float values to `uint8`.

    White is 65535 for 16-bit types. Otherwise it is the smallest of 1 (floats only), 255 and 65535
    that covers the largest value, or the largest value itself. Negative values and NaN become
    black.
    """
    if always_16:
        white = 65535.0
    else:
        # All bands must use the same scale.
        top = max(float(b.max(initial=0, where=np.isfinite(b))) for b in _bands(array))
        if array.dtype.kind == "f" and top <= 1:
            white = 1.0
        else:
            white = next((level for level in (255.0, 65535.0) if top <= level), top)
    scaled = np.empty(array.shape, np.uint8)
    for band, target in zip(_bands(array), _bands(scaled), strict=True):
        values = np.nan_to_num(band.astype(np.float32), nan=0.0, posinf=np.inf, neginf=0.0)
        target[:] = np.rint(np.clip(values / white, 0, 1) * 255)
    return scaled


def _bands(array: np.ndarray, pixels: int = 2**20) -> Iterator[np.ndarray]:
    """Yield views of a few rows each, which bounds the memory of the conversion to float."""
    rows = max(1, pixels // array.shape[1])
    return (array[start : start + rows] for start in range(0, len(array), rows))
