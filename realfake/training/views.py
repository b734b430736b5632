"""Random views of training images for detectors of native crops, and mixtures of aligned pairs.

An alternative to [`~realfake.training.augment.Augmentation`], with stronger changes of size. The
random decisions do not depend on the pixels, so both images of an aligned pair get the same ones.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from realfake.imaging.degradations import (
    KERNELS,
    LONGEST_SIDE,
    SUBSAMPLINGS,
    blur,
    noise,
    recompress,
)
from realfake.training.augment import change_colour

_KERNEL_SHARES = {
    "box": 0.12,
    "bilinear": 0.25,
    "hamming": 0.1,
    "bicubic": 0.3,
    "lanczos": 0.2,
    "nearest": 0.03,
}
_CUMULATIVE = np.cumsum(list(_KERNEL_SHARES.values()))
# Shares of rescaled images and of thumbnails at strength 1. The others keep their pixels.
_RESCALE, _THUMBNAIL = 0.4, 0.3
_FACTORS = (0.4, 2.0)
_SHORT_SIDES = (64, 320)
# Probabilities at strength 1: compression before and after the other changes, and once more.
_BEFORE, _AFTER, _AGAIN = 0.4, 0.75, 0.3
_COLOUR, _GREY, _BLUR, _SHARPEN, _NOISE = 0.35, 0.06, 0.2, 0.1, 0.2
_QUALITIES = (30, 95)
_WEBP = 0.2
# Share of images that are not degraded, at any strength.
_CLEAN = 0.2
# Share of small images that are centred on black, as image processors do, instead of reflected.
_BLACK = 0.2
# Side of a JPEG block.
_BLOCK = 8
# Smallest share of the reconstruction in a blend of pixels.
_BLENDED = 0.4
# Shares of the mixtures: pixels; frequencies with the low ones of the photograph; the rest has the
# low ones of the reconstruction.
_BY_PIXELS, _PHOTOGRAPH_LOW = 0.5, 0.35
# Standard deviations in pixels of the Gaussian that separates the frequencies. Wide ones leave
# almost no generated content below them.
_SIGMAS, _SIGMAS_OF_RECONSTRUCTION = (0.7, 4.0), (0.7, 1.5)


@dataclass(frozen=True)
class ViewAugmentation:
    """A random square view of an RGB image.

    The steps: sometimes a JPEG or WebP compression; then a crop at native pixels, at a random
    scale, or of a thumbnail with a short side of 64 to 320 pixels, half of which are enlarged
    again; then colour, blur or sharpening, noise, and up to two more compressions, each on an 8 x 8
    grid of random phase. A share of the images is only cropped and mirrored.

    The same state of the generator and the same image size give the same decisions.

    Args:
        crop_size: Side of the result in pixels. A smaller image is reflected at its edges, and
            sometimes centred on black.
        strength (`float`, *optional*, defaults to 1.0): 0 (random crop and flip only) .. 1. It
            multiplies the probabilities.
    """

    crop_size: int
    strength: float = 1.0

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        return self._place(*self._content(image, rng))

    def twins(
        self, image: Image.Image, rng: np.random.Generator
    ) -> tuple[Image.Image, Image.Image]:
        """Return a view, and a copy compressed once more before it is placed."""
        content, black = self._content(image, rng)
        return self._place(content, black), self._place(self._compress(content, rng), black)

    def _content(self, image: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, bool]:
        """Return the changed image, and whether it is centred on black if it is small."""
        s = self.strength
        # All decisions are drawn first: two images of one size get the same ones.
        draws = rng.random(13).tolist()
        clean, kind, enlarged, before, after, again = draws[:6]
        colour, grey, blurred, sharp, noisy, flip, black = draws[6:]
        degraded = clean >= _CLEAN and s > 0
        if degraded and before < s * _BEFORE:
            image = self._compress(image, rng)
        if degraded and kind < s * _RESCALE:
            image = self._crop(image, rng, _log_uniform(_FACTORS, rng))
        elif degraded and kind < s * (_RESCALE + _THUMBNAIL):
            image = self._thumbnail(image, rng, enlarged < 0.5)
        else:
            image = self._crop(image, rng)
        if flip < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if degraded:
            if colour < s * _COLOUR or grey < s * _GREY:
                image = _colour(image, grey < s * _GREY, rng)
            if blurred < s * _BLUR:
                image = blur(image, rng.uniform(0.2, 1.5))
            elif sharp < s * _SHARPEN:
                radius, percent = rng.uniform(0.5, 2), int(rng.integers(30, 150))
                image = image.filter(ImageFilter.UnsharpMask(radius, percent, 0))
            if noisy < s * _NOISE:
                image = noise(image, rng.uniform(0.5, 8), rng)
            if after < s * _AFTER:
                image = self._compress(image, rng)
                if again < s * _AGAIN:
                    image = self._compress(image, rng)
        return image, black < _BLACK

    def _crop(
        self, image: Image.Image, rng: np.random.Generator, factor: float = 1.0
    ) -> Image.Image:
        """Scale an image and crop a random part of it, of at most the crop's size."""
        scaled = [max(8, round(side * factor)) for side in image.size]
        target = [min(side, self.crop_size) for side in scaled]
        corner = [int(rng.integers(0, a - b + 1)) for a, b in zip(scaled, target)]
        kernel = _kernel(rng)
        end = [a + b for a, b in zip(corner, target)]
        if factor == 1.0 and tuple(scaled) == image.size:
            return image.crop((*corner, *end))
        ratio = [a / b for a, b in zip(image.size, scaled)]
        start = [a * r for a, r in zip(corner, ratio)]
        end = [min(a * r, side) for a, r, side in zip(end, ratio, image.size)]
        return image.resize(target, kernel, box=(*start, *end))

    def _thumbnail(
        self, image: Image.Image, rng: np.random.Generator, enlarge: bool
    ) -> Image.Image:
        factor = min(1.0, _log_uniform(_SHORT_SIDES, rng) / min(image.size))
        size = [max(8, round(side * factor)) for side in image.size]
        small = image.resize(size, _kernel(rng))
        if not enlarge:
            return self._crop(small, rng)
        if rng.random() < 0.5:
            small = self._compress(small, rng)
        filling = max(1.0, self.crop_size / min(small.size))
        return self._crop(small, rng, rng.uniform(0.9, 1.4) * filling)

    def _compress(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        webp, subsampling, x, y = rng.random(4)
        quality = int(rng.integers(_QUALITIES[0], _QUALITIES[1] + 1))
        format = "WEBP" if webp < _WEBP else "JPEG"
        if max(image.size) > LONGEST_SIDE[format] - _BLOCK:
            return image
        # Reflected pixels above and to the left shift the grid of blocks; they are cropped again.
        left, top = int(x * _BLOCK), int(y * _BLOCK)
        padded = _reflect(image, left, top, 0, 0)
        chroma = SUBSAMPLINGS[int(subsampling * len(SUBSAMPLINGS))]
        coded = recompress(padded, format, quality, chroma, effort=0)
        return coded.crop((left, top, *coded.size)) if left or top else coded

    def _place(self, image: Image.Image, black: bool) -> Image.Image:
        missing = [max(0, self.crop_size - side) for side in image.size]
        if not any(missing):
            return image
        left, top = (gap // 2 for gap in missing)
        right, bottom = missing[0] - left, missing[1] - top
        if black:
            return image.crop((-left, -top, image.width + right, image.height + bottom))
        return _reflect(image, left, top, right, bottom)

    def describe(self) -> dict:
        """Return the probabilities and ranges as a JSON-ready dictionary for the model card."""

        def p(at_full_strength: float) -> float:
            return round(self.strength * at_full_strength, 3)

        return {
            "strength": self.strength,
            "crop_size": self.crop_size,
            "crop": "random, at native pixels; smaller images are reflected at their edges",
            "small images on black": {"p": _BLACK},
            "flip": {"p": 0.5},
            "not degraded": {"p": _CLEAN if self.strength else 1.0},
            "rescale": {"p": p(_RESCALE), "factor": list(_FACTORS)},
            "thumbnail": {
                "p": p(_THUMBNAIL),
                "short side (px)": list(_SHORT_SIDES),
                "p enlarged": 0.5,
            },
            "compression": {
                "p before rescale": p(_BEFORE),
                "p after": p(_AFTER),
                "p second pass": p(_AGAIN),
                "p webp": _WEBP,
                "quality": list(_QUALITIES),
                "jpeg subsampling": list(SUBSAMPLINGS),
            },
            "colour": {"p": p(_COLOUR)},
            "grey": {"p": p(_GREY)},
            "blur": {"p": p(_BLUR), "sigma (px)": [0.2, 1.5]},
            "sharpen": {"p": p(_SHARPEN)},
            "noise": {"p": p(_NOISE), "std (of 255)": [0.5, 8.0]},
        }


def _log_uniform(bounds: tuple[float, float], rng: np.random.Generator) -> float:
    return math.exp(rng.uniform(*map(math.log, bounds)))


def _kernel(rng: np.random.Generator) -> Image.Resampling:
    index = int(np.searchsorted(_CUMULATIVE[:-1], rng.random(), side="right"))
    return KERNELS[list(_KERNEL_SHARES)[index]]


def _reflect(image: Image.Image, left: int, top: int, right: int, bottom: int) -> Image.Image:
    """Enlarge an image by reflection at its edges, several times if necessary."""
    if not (left or top or right or bottom):
        return image
    pixels = np.asarray(image)
    return Image.fromarray(np.pad(pixels, ((top, bottom), (left, right), (0, 0)), mode="symmetric"))


def _colour(image: Image.Image, grey: bool, rng: np.random.Generator) -> Image.Image:
    brightness, contrast = 1 + rng.uniform(-0.2, 0.2, 2)
    saturation = 0.0 if grey else 1 + rng.uniform(-0.4, 0.4)
    balance = 1.0 if grey else 1 + rng.uniform(-0.06, 0.06, (3, 1))
    return change_colour(image, brightness, contrast, saturation, balance)


def mix_pair(
    photograph: Image.Image, reconstruction: Image.Image, rng: np.random.Generator
) -> Image.Image:
    """Blend the pixels of two images, or join low frequencies of one and high ones of the other.

    After Chen et al. (2025), "Dual Data Alignment Makes AI-Generated Image Detector Easier
    Generalizable". A mixture has weaker traces of the generator, and is labelled as generated.

    Args:
        photograph: RGB image.
        reconstruction: RGB image. It is returned as it is if its size is another one.
    """
    if photograph.size != reconstruction.size:
        return reconstruction
    kind = rng.random()
    if kind < _BY_PIXELS:
        return Image.blend(photograph, reconstruction, rng.uniform(_BLENDED, 1))
    if kind < _BY_PIXELS + _PHOTOGRAPH_LOW:
        return join_frequencies(photograph, reconstruction, rng.uniform(*_SIGMAS))
    return join_frequencies(reconstruction, photograph, rng.uniform(*_SIGMAS_OF_RECONSTRUCTION))


def join_frequencies(low: Image.Image, high: Image.Image, sigma: float) -> Image.Image:
    """Return the low frequencies of one image plus the high frequencies of the other.

    Args:
        low, high: RGB images of one size.
        sigma: Standard deviation in pixels of the Gaussian that separates them.
    """
    gaussian = ImageFilter.GaussianBlur(sigma)
    values = np.asarray(high, dtype=np.int16) - np.asarray(high.filter(gaussian), dtype=np.int16)
    values += np.asarray(low.filter(gaussian), dtype=np.int16)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
