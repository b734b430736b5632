"""What happens to images on their way through the web: recompressed, resized, cropped, blurred, noisy.

Pure functions from RGB image to RGB image, shared by training (through [`realfake.training.augment`]), evaluation
and the stability check. [`GRID`] names the fixed set that results are reported on.
"""

from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image, ImageFilter

from realfake.imaging.decode import Limits, open_image

KERNELS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")

# The longest side that each format can hold.
LONGEST_SIDE = {"JPEG": 65500, "WEBP": 16383}
# What we encoded ourselves needs no limits.
_UNLIMITED = Limits(max_bytes=2**40, max_pixels=2**40, min_side=1, max_aspect=float("inf"))


def recompress(
    image: Image.Image,
    format: str = "JPEG",
    quality: int = 75,
    subsampling: str = "4:2:0",
    effort: int = 4,
) -> Image.Image:
    """Encode and decode again.

    Args:
        image: An RGB image.
        format (`str`, *optional*, defaults to `"JPEG"`): `"JPEG"` or lossy `"WEBP"`.
        quality (`int`, *optional*, defaults to 75): 1..100, on the encoder's own scale.
        subsampling (`str`, *optional*, defaults to `"4:2:0"`): Chroma of JPEG, one of `SUBSAMPLINGS`. WebP is
            always 4:2:0.
        effort (`int`, *optional*, defaults to 4): WebP's `method`, 0 (fast) .. 6.

    Returns:
        An RGB image of the same size.

    Raises:
        ValueError: Unknown format or subsampling, or a side longer than the format can hold.
    """
    if format not in LONGEST_SIDE:
        raise ValueError(f"format is {format!r}; it must be one of {', '.join(LONGEST_SIDE)}.")
    if subsampling not in SUBSAMPLINGS:
        raise ValueError(
            f"subsampling is {subsampling!r}; it must be one of {', '.join(SUBSAMPLINGS)}."
        )
    if max(image.size) > LONGEST_SIDE[format]:
        raise ValueError(
            f"{format} holds at most {LONGEST_SIDE[format]} pixels a side, not {max(image.size)}; shrink first."
        )
    buffer = BytesIO()
    if format == "JPEG":
        image.save(buffer, "JPEG", quality=int(quality), subsampling=subsampling)
    else:
        image.save(buffer, "WEBP", quality=int(quality), method=effort)
    return open_image(buffer.getvalue(), _UNLIMITED)


def rescale(image: Image.Image, factor: float, kernel: str = "bicubic") -> Image.Image:
    """Resize both sides by `factor`, to at least one pixel. `kernel` is one of `KERNELS`."""
    width, height = image.size
    return _resize(image, (max(1, round(width * factor)), max(1, round(height * factor))), kernel)


def shrink(image: Image.Image, longest_side: int, kernel: str = "bicubic") -> Image.Image:
    """Resize so that the longest side has at most `longest_side` pixels. Smaller images are left as they are."""
    if max(image.size) <= longest_side:
        return image
    return rescale(image, longest_side / max(image.size), kernel)


def center_crop(image: Image.Image, share: float) -> Image.Image:
    """Keep the central `share` (0..1) of each side; the pixels are left as they are."""
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; it must lie in 0..1.")
    width, height = image.size
    new_width, new_height = max(1, round(width * share)), max(1, round(height * share))
    left, top = (width - new_width) // 2, (height - new_height) // 2
    return image.crop((left, top, left + new_width, top + new_height))


def blur(image: Image.Image, sigma: float) -> Image.Image:
    """Gaussian blur; `sigma` in pixels. Pillow approximates it by three box filters."""
    return image.filter(ImageFilter.GaussianBlur(sigma)) if sigma > 0 else image


def noise(image: Image.Image, std: float, rng: np.random.Generator) -> Image.Image:
    """Add Gaussian noise, independent per pixel and channel; `std` in grey levels of 0..255."""
    values = np.asarray(image)
    noisy = rng.standard_normal(values.shape, dtype=np.float32)
    noisy *= std
    noisy += values
    np.rint(noisy, out=noisy)
    np.clip(noisy, 0, 255, out=noisy)
    return Image.fromarray(noisy.astype(np.uint8))


def _resize(image: Image.Image, size: tuple[int, int], kernel: str) -> Image.Image:
    if kernel not in KERNELS:
        raise ValueError(f"kernel is {kernel!r}; it must be one of {', '.join(KERNELS)}.")
    return image.resize(size, KERNELS[kernel])


def _clean(image: Image.Image, seed: int = 0) -> Image.Image:
    """As it is."""
    return image


def _jpeg_40(image: Image.Image, seed: int = 0) -> Image.Image:
    """JPEG at quality 40."""
    return recompress(shrink(image, LONGEST_SIDE["JPEG"]), "JPEG", 40)


def _messenger_768(image: Image.Image, seed: int = 0) -> Image.Image:
    """Longest side at most 768 pixels, then JPEG at quality 60: a messenger or social network."""
    return recompress(shrink(image, 768), "JPEG", 60)


def _messenger_512(image: Image.Image, seed: int = 0) -> Image.Image:
    """Longest side at most 512 pixels, then JPEG at quality 40."""
    return recompress(shrink(image, 512), "JPEG", 40)


def _webp_50(image: Image.Image, seed: int = 0) -> Image.Image:
    """WebP at quality 50."""
    return recompress(shrink(image, LONGEST_SIDE["WEBP"]), "WEBP", 50)


def _half_size(image: Image.Image, seed: int = 0) -> Image.Image:
    """Half of each side, bicubic."""
    return rescale(image, 0.5, "bicubic")


def _blur_1(image: Image.Image, seed: int = 0) -> Image.Image:
    """Gaussian blur, sigma 1 pixel."""
    return blur(image, 1.0)


def _noise_5(image: Image.Image, seed: int = 0) -> Image.Image:
    """Gaussian noise, standard deviation 5 of 255: a well visible ISO 3200 or so."""
    return noise(image, 5.0, np.random.default_rng(seed))


def _double_jpeg(image: Image.Image, seed: int = 0) -> Image.Image:
    """JPEG at quality 75, the first row and column cut off, JPEG at quality 50: saved, edited and saved again.

    The cut puts the second 8 x 8 grid off the first one, as nearly every edit does.
    """
    image = recompress(shrink(image, LONGEST_SIDE["JPEG"]), "JPEG", 75)
    return recompress(image.crop((1, 1, *image.size)) if min(image.size) > 1 else image, "JPEG", 50)


def _crop_60(image: Image.Image, seed: int = 0) -> Image.Image:
    """The central 60 % of each side, pixels untouched."""
    return center_crop(image, 0.6)


def _screenshot(image: Image.Image, seed: int = 0) -> Image.Image:
    """Enlarged by 1.25 (bilinear), brought back to its size (bicubic), saved without loss.

    A picture on a scaled display, captured as PNG: no compression, but no pixel is the original one.
    """
    return _resize(rescale(image, 1.25, "bilinear"), image.size, "bicubic")


# name -> function(image, seed); the same seed gives the same pixels. The docstrings say what each one does.
GRID: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "clean": _clean,
    "jpeg_40": _jpeg_40,
    "resize_768_jpeg_60": _messenger_768,
    "resize_512_jpeg_40": _messenger_512,
    "webp_50": _webp_50,
    "half_size": _half_size,
    "blur_1": _blur_1,
    "noise_5": _noise_5,
    "double_jpeg": _double_jpeg,
    "crop_60": _crop_60,
    "screenshot": _screenshot,
}
