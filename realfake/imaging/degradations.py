"""Image degradations that happen on the web: recompression, resizing, cropping, blur and noise.

Pure functions from RGB image to RGB image. Training, evaluation and the stability check share them.
[`GRID`] is the fixed set that results are reported on. [`RETOUCHED`] and [`SMALL`] are measured on
request: what phones and photo editors do to photographs, and small images.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from itertools import product

import numpy as np
from PIL import Image, ImageFilter

from realfake.imaging.decode import Limits, open_image

# By name, because a kernel that Pillow adds would change what a seed draws.
KERNELS = {
    name: Image.Resampling[name.upper()]
    for name in ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
}
SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")

# The longest side that each format can store, in pixels.
LONGEST_SIDE = {"JPEG": 65500, "WEBP": 16383}
_STRIP = 128  # rows
_LARGEST = 8192  # pixels of the longest side of an enlarged image
# For files that `recompress` encoded.
_UNLIMITED = Limits(max_bytes=2**40, max_pixels=2**40, min_side=1, max_aspect=float("inf"))


def recompress(
    image: Image.Image,
    format: str = "JPEG",
    quality: int = 75,
    subsampling: str = "4:2:0",
    effort: int = 4,
) -> Image.Image:
    """Encode an image and decode the result.

    Args:
        format: `"JPEG"` or lossy `"WEBP"`.
        quality: 1..100, on the encoder's scale.
        subsampling: Chroma subsampling of JPEG, one of `SUBSAMPLINGS`. WebP always uses 4:2:0.
        effort: WebP's `method`, 0 (fast) .. 6.

    Returns:
        An RGB image of the same size.

    Raises:
        ValueError: Unknown format or subsampling, or a side longer than the format allows.
    """
    if format not in LONGEST_SIDE:
        raise ValueError(f"format is {format!r}; it must be one of {', '.join(LONGEST_SIDE)}.")
    if subsampling not in SUBSAMPLINGS:
        raise ValueError(
            f"subsampling is {subsampling!r}; it must be one of {', '.join(SUBSAMPLINGS)}."
        )
    if max(image.size) > LONGEST_SIDE[format]:
        raise ValueError(
            f"{format} stores at most {LONGEST_SIDE[format]} pixels per side, "
            f"not {max(image.size)}; shrink the image first."
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


def shrink(image: Image.Image, longest_side: int) -> Image.Image:
    """Reduce an image so that its longest side has at most `longest_side` pixels."""
    if max(image.size) <= longest_side:
        return image
    return rescale(image, longest_side / max(image.size))


def center_crop(image: Image.Image, share: float) -> Image.Image:
    """Crop to the central `share` (0..1) of each side, without resampling."""
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; it must be above 0 and at most 1.")
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


def bilateral(image: Image.Image) -> Image.Image:
    """Smooth an image except at its edges, over 7 x 7 pixels (Tomasi and Manduchi 1998)."""
    # The weights' widths are in pixels, and in grey levels of 0..255.
    radius, sigma_space, sigma_colour = 3, 2.0, 25.0
    padded = np.pad(np.asarray(image), ((radius, radius), (radius, radius), (0, 0)), mode="edge")
    height, width = image.height, image.width
    result = np.empty((height, width, 3), dtype=np.uint8)
    for start in range(0, height, _STRIP):  # strips limit the memory
        stop = min(start + _STRIP, height)
        rows = padded[start : stop + 2 * radius].astype(np.float32)
        values = rows[radius:-radius, radius:-radius]
        total, norm = np.zeros_like(values), np.zeros((stop - start, width, 1), dtype=np.float32)
        for dy, dx in product(range(-radius, radius + 1), repeat=2):
            top, left = radius + dy, radius + dx
            shifted = rows[top : top + stop - start, left : left + width]
            distance = ((shifted - values) ** 2).sum(axis=-1, keepdims=True)
            exponent = -distance / (2 * sigma_colour**2) - (dy**2 + dx**2) / (2 * sigma_space**2)
            weight = np.exp(exponent, dtype=np.float32)
            total += weight * shifted
            norm += weight
        result[start:stop] = np.rint(total / norm)
    return Image.fromarray(result)


def gamma(image: Image.Image, exponent: float) -> Image.Image:
    """Raise the values of an image, scaled to 0..1, to a power: below 1 it becomes brighter."""
    table = [round(255 * (level / 255) ** exponent) for level in range(256)]
    return image.point(table * len(image.getbands()))


def local_contrast(image: Image.Image) -> Image.Image:
    """Raise the contrast with the surroundings by 80 %, over a twentieth of the longer side."""
    return image.filter(ImageFilter.UnsharpMask(max(image.size) / 20, percent=80, threshold=0))


def _resize(image: Image.Image, size: tuple[int, int], kernel: str) -> Image.Image:
    if kernel not in KERNELS:
        raise ValueError(f"kernel is {kernel!r}; it must be one of {', '.join(KERNELS)}.")
    return image.resize(size, KERNELS[kernel])


def _compress(image: Image.Image, format: str, quality: int) -> Image.Image:
    return recompress(shrink(image, LONGEST_SIDE[format]), format, quality)


def _double_jpeg(image: Image.Image) -> Image.Image:
    image = _compress(image, "JPEG", 75)
    # The crop shifts the second grid of 8 x 8 blocks against the first, as most edits do.
    return recompress(image.crop((1, 1, *image.size)) if min(image.size) > 1 else image, "JPEG", 50)


def _to_short_side(image: Image.Image, low: int, high: int, seed: int) -> Image.Image:
    side = int(np.random.default_rng(seed).integers(low, high + 1))
    return image if min(image.size) <= side else rescale(image, side / min(image.size))


@dataclass(frozen=True)
class Degradation:
    """One degradation of [`DEGRADATIONS`].

    Args:
        description: What it does, for reports.
        apply: Function of the image and a seed. The same seed gives the same pixels.
        version: Part of the key of cached scores. Increase it when `apply` changes.
    """

    description: str
    apply: Callable[[Image.Image, int], Image.Image]
    version: int = 1

    def __call__(self, image: Image.Image, seed: int = 0) -> Image.Image:
        return self.apply(image, seed)


GRID: dict[str, Degradation] = {
    "clean": Degradation("The image as it is.", lambda image, seed: image),
    "jpeg_40": Degradation("JPEG at quality 40.", lambda image, seed: _compress(image, "JPEG", 40)),
    "resize_768_jpeg_60": Degradation(
        "Longest side at most 768 pixels, then JPEG at quality 60, like a messenger.",
        lambda image, seed: recompress(shrink(image, 768), "JPEG", 60),
    ),
    "resize_512_jpeg_40": Degradation(
        "Longest side at most 512 pixels, then JPEG at quality 40.",
        lambda image, seed: recompress(shrink(image, 512), "JPEG", 40),
    ),
    "webp_50": Degradation("WebP at quality 50.", lambda image, seed: _compress(image, "WEBP", 50)),
    "half_size": Degradation(
        "Half the width and height, bicubic.", lambda image, seed: rescale(image, 0.5, "bicubic")
    ),
    "blur_1": Degradation("Gaussian blur, sigma 1 pixel.", lambda image, seed: blur(image, 1.0)),
    "noise_5": Degradation(
        "Gaussian noise, standard deviation 5 of 255, about ISO 3200.",
        lambda image, seed: noise(image, 5.0, np.random.default_rng(seed)),
    ),
    "double_jpeg": Degradation(
        "JPEG at quality 75, one row and column cut off, JPEG at quality 50: edited and resaved.",
        lambda image, seed: _double_jpeg(image),
    ),
    "crop_60": Degradation(
        "The central 60 % of each side, without resampling.",
        lambda image, seed: center_crop(image, 0.6),
    ),
    "screenshot": Degradation(
        "Enlarged 1.25 times (bilinear) and reduced again (bicubic), like a screenshot.",
        lambda image, seed: _resize(rescale(image, 1.25, "bilinear"), image.size, "bicubic"),
    ),
}

# Applied to photographs only. A photograph stays one.
RETOUCHED: dict[str, Degradation] = {
    "denoised": Degradation(
        "Median of 3 × 3 pixels.", lambda image, seed: image.filter(ImageFilter.MedianFilter(3))
    ),
    "sharpened": Degradation(
        "Unsharp mask: radius 2 pixels, 150 %.",
        lambda image, seed: image.filter(ImageFilter.UnsharpMask(2, 150, 3)),
    ),
    "beauty_filter": Degradation(
        "Bilateral smoothing of 7 × 7 pixels, which keeps edges.",
        lambda image, seed: bilateral(image),
    ),
    "hdr": Degradation(
        "Local contrast raised by 80 %, over a twentieth of the longer side.",
        lambda image, seed: local_contrast(image),
    ),
    "night_mode": Degradation(
        "Median of 3 × 3 pixels, then brightened with gamma 0.6.",
        lambda image, seed: gamma(image.filter(ImageFilter.MedianFilter(3)), 0.6),
    ),
    "upscaled": Degradation(
        "Enlarged 2 times (Lanczos), to at most 8,192 pixels.",
        lambda image, seed: rescale(
            image, max(1.0, min(2.0, _LARGEST / max(image.size))), "lanczos"
        ),
    ),
}

SMALL: dict[str, Degradation] = {
    f"short_side_{low}_{high}": Degradation(
        f"Reduced to a short side of {low} to {high} pixels, drawn for each image (bicubic).",
        lambda image, seed, low=low, high=high: _to_short_side(image, low, high, seed),
    )
    for low, high in ((180, 320), (64, 180))
}

DEGRADATIONS: dict[str, Degradation] = {**GRID, **RETOUCHED, **SMALL}
