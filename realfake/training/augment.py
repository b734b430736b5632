"""Random changes to training images, mild and at native pixels, that keep the traces of generators.

[`Augmentation`] is applied before the image processor. It imitates what happens to files on the web
([`realfake.imaging.degradations`]), so that the classifier does not rely on JPEG tables.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from realfake.imaging.degradations import (
    KERNELS,
    LONGEST_SIDE,
    SUBSAMPLINGS,
    blur,
    noise,
    recompress,
)

# Images up to this shortest side are shifted, because resampling would destroy them.
_TINY = 64
# Side of a JPEG block.
_BLOCK = 8
# Antialiasing kernels: what browsers and editors use.
_KERNELS = [KERNELS[name] for name in ("box", "bilinear", "bicubic", "lanczos")]
# Probabilities at strength 1; they grow linearly from 0.
_RESCALE, _COMPRESS, _COMPRESS_AGAIN = 0.9, 0.9, 0.4
_COLOUR, _GREY, _BLUR, _NOISE = 0.5, 0.05, 0.3, 0.3
# Images smaller than the crop: probability at strength 1, and smallest side as a share of it.
_SMALL, _SMALLEST = 0.5, 0.4
# Shares of compressed images that are compressed before rescaling, and of passes that are WebP.
_BEFORE, _WEBP = 0.4, 0.4
_BEST_QUALITY = 95


@dataclass(frozen=True)
class Augmentation:
    """Random rescaling, crop, flip, colour, blur, noise and recompression of an RGB image.

    A share of the images is compressed first, so that the 8 x 8 grid is scaled and shifted
    afterwards. The others are compressed last, on a grid of random phase; some are compressed
    twice. Probabilities and ranges grow with `strength`: see [`Augmentation.describe`].

    Images whose shortest side is at most 64 pixels are not rescaled. They are shifted by up to 4
    pixels x `strength` (with black borders) if the crop leaves no other choice of place. The same
    state of the generator gives the same image.

    Args:
        strength (`float`, *optional*, defaults to 0.5): 0 (the centre crop alone, no flip) .. 1.
        crop_size (`int`, *optional*): Side of the square result, cropped at native pixels. A
            smaller image is centred on black, as in transformers' `center_crop`. A share of the
            images is made smaller, by rescaling or by a smaller crop: a classifier that never saw
            black borders takes them for evidence. `None` keeps the image's size.
        flip (`bool`, *optional*, defaults to `True`): Mirror half of the images left to right.
    """

    strength: float = 0.5
    crop_size: int | None = None
    flip: bool = True

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        return _place(*self._content(image, rng))

    def twins(
        self, image: Image.Image, rng: np.random.Generator
    ) -> tuple[Image.Image, Image.Image]:
        """Return the augmented image, and a copy compressed once more, as JPEG or WebP.

        The copy is compressed before it is placed on black, as a file is.
        """
        content, size, shift = self._content(image, rng)
        return _place(content, size, shift), _place(self._compress(content, rng), size, shift)

    def _content(self, image, rng) -> tuple[Image.Image, tuple[int, int], tuple[int, int]]:
        """Return the changed image, the size of the result, and the shift from its centre."""
        size = image.size if self.crop_size is None else (self.crop_size, self.crop_size)
        if self.strength == 0:
            return image, size, (0, 0)
        s = self.strength
        tiny = min(image.size) <= _TINY
        # One draw for all decisions: a call of the generator takes as long as a small crop.
        small, rescaled, compressed, before, again, coloured, grey, blurred, noised, flipped = (
            rng.random(10).tolist()
        )
        first = compressed < s * _COMPRESS and before < _BEFORE
        last = compressed < s * _COMPRESS and before >= _BEFORE
        again = again < s * _COMPRESS_AGAIN

        small = self.crop_size is not None and not tiny and small < s * _SMALL
        window = self._small_window(rng) if small else size
        scaled = image.size
        if not tiny and rescaled < s * _RESCALE:
            scaled = self._scaled_size(
                image.size, window, _SMALLEST if small else 1 - self._spread, rng
            )
        target = (min(window[0], scaled[0]), min(window[1], scaled[1]))
        left, top = (int(rng.integers(0, a - b + 1)) for a, b in zip(scaled, target))
        # A compression that comes last starts a random part of a block ahead of the target, and the
        # extra pixels are cropped; else the crop's corner would always be a corner of the grid.
        ahead = rng.integers(0, _BLOCK, 2).tolist()
        phase = [min(ahead[0], left), min(ahead[1], top)] if last else [0, 0]
        left, top = left - phase[0], top - phase[1]
        work = (target[0] + phase[0], target[1] + phase[1])
        box = _scale_box((left, top, left + work[0], top + work[1]), scaled, image.size)

        if first:
            image, box = self._compress_around(image, box, rng)
        if scaled == work == image.size:
            pass
        elif work[0] == box[2] - box[0] and work[1] == box[3] - box[1]:
            image = image.crop(tuple(map(int, box)))
        else:
            image = image.resize(work, _KERNELS[rng.integers(len(_KERNELS))], box=box)
        if coloured < s * _COLOUR or grey < s * _GREY:
            image = self._colour(image, coloured < s * _COLOUR, grey < s * _GREY, rng)
        if self.flip and flipped < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if blurred < s * _BLUR:
            image = blur(image, rng.uniform(*self._sigma(tiny)))
        if noised < s * _NOISE:
            image = noise(image, rng.uniform(0, self._noise), rng)
        if last or (first and again):
            image = self._compress(image, rng)
        image = image.crop((*phase, *work)) if any(phase) else image
        if last and again:
            image = self._compress(image, rng)
        shift = (0, 0)
        if tiny and target == scaled:
            shift = tuple(rng.integers(-self._shift, self._shift + 1, 2).tolist())
        return image, size, shift

    @property
    def _spread(self) -> float:
        return 0.1 + 0.4 * self.strength

    @property
    def _shift(self) -> int:
        return round(4 * self.strength)

    @property
    def _quality(self) -> int:
        return round(80 - 40 * self.strength)

    @property
    def _noise(self) -> float:
        return 8 * self.strength

    def _sigma(self, tiny: bool) -> tuple[float, float]:
        return 0.2, 0.2 + (0.4 if tiny else 1.3) * self.strength

    def _small_window(self, rng) -> tuple[int, int]:
        side = max(1, round(self.crop_size * math.exp(rng.uniform(math.log(_SMALLEST), 0))))
        return side, side

    def _scaled_size(self, image_size, size, smallest, rng) -> tuple[int, int]:
        """Return a random size at which the image still fills the window, if it did before."""
        needed = max(b / a for a, b in zip(image_size, size))
        low, high = max(smallest, min(1, needed)), 1 + self._spread
        factor = math.exp(rng.uniform(math.log(low), math.log(high)))
        return tuple(max(round(a * factor), min(a, b)) for a, b in zip(image_size, size))

    def _compress(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        webp, subsampling = rng.random(2)
        quality = int(rng.integers(self._quality, _BEST_QUALITY + 1))
        format = "WEBP" if webp < _WEBP else "JPEG"
        if max(image.size) > LONGEST_SIDE[format]:
            return image
        return recompress(
            image, format, quality, SUBSAMPLINGS[int(subsampling * len(SUBSAMPLINGS))], effort=0
        )

    def _compress_around(self, image, box, rng):
        """Compress the region of `box` and a margin, on a grid of random phase."""
        ahead = rng.integers(0, _BLOCK, 2).tolist()
        left, top = (max(0, math.floor(edge) - extra) for edge, extra in zip(box[:2], ahead))
        right, bottom = (
            min(side, math.ceil(edge) + _BLOCK) for edge, side in zip(box[2:], image.size)
        )
        image = self._compress(image.crop((left, top, right, bottom)), rng)
        return image, (box[0] - left, box[1] - top, box[2] - left, box[3] - top)

    def _colour(
        self, image: Image.Image, jitter: bool, grey: bool, rng: np.random.Generator
    ) -> Image.Image:
        brightness, contrast, saturation = 1.0, 1.0, 1.0
        if jitter:
            brightness, contrast = 1 + rng.uniform(-0.3, 0.3, 2) * self.strength
            saturation = 1 + rng.uniform(-0.5, 0.5) * self.strength
        return change_colour(image, brightness, contrast, 0.0 if grey else saturation)

    def describe(self) -> dict:
        """Return the probabilities and ranges as a JSON-ready dictionary for the model card."""
        if self.strength == 0:
            return {
                "strength": 0.0,
                "crop_size": self.crop_size,
                "crop": "centre" if self.crop_size else "none",
            }

        def grown(at_full_strength: float) -> float:
            return round(self.strength * at_full_strength, 4)

        return {
            "strength": grown(1.0),
            "crop_size": self.crop_size,
            "crop": "random" if self.crop_size else "none",
            "flip": {"p": 0.5 if self.flip else 0.0},
            "rescale": {
                "p": grown(_RESCALE),
                "factor": [round(1 - self._spread, 4), round(1 + self._spread, 4)],
            },
            "small on black": {
                "p": grown(_SMALL) if self.crop_size else 0.0,
                "side (of the crop)": [_SMALLEST, 1.0],
            },
            "shift (shortest side up to 64 px, instead of rescale)": {"pixels": self._shift},
            "compression": {
                "p": grown(_COMPRESS),
                "p before rescale": _BEFORE,
                "p second pass": grown(_COMPRESS_AGAIN),
                "p webp": _WEBP,
                "quality": [self._quality, _BEST_QUALITY],
                "jpeg subsampling": list(SUBSAMPLINGS),
            },
            "colour": {
                "p": grown(_COLOUR),
                "brightness": grown(0.3),
                "contrast": grown(0.3),
                "saturation": grown(0.5),
            },
            "grey": {"p": grown(_GREY)},
            "blur": {"p": grown(_BLUR), "sigma (px)": [0.2, round(self._sigma(False)[1], 4)]},
            "noise": {"p": grown(_NOISE), "std (of 255)": [0.0, round(self._noise, 4)]},
        }


def _scale_box(box, scaled, size) -> tuple[float, float, float, float]:
    """Convert coordinates in the scaled image to those in the original."""
    x, y = size[0] / scaled[0], size[1] / scaled[1]
    return box[0] * x, box[1] * y, min(box[2] * x, size[0]), min(box[3] * y, size[1])


def _place(
    image: Image.Image, size: tuple[int, int], shift: tuple[int, int] = (0, 0)
) -> Image.Image:
    """Crop or pad with black as transformers' `center_crop`; `shift` moves the content."""
    if image.size == tuple(size) and not any(shift):
        return image
    # Floor division as in transformers: a negative odd difference pads one more pixel ahead.
    left = (image.width - size[0]) // 2 - shift[0]
    top = (image.height - size[1]) // 2 - shift[1]
    return image.crop((left, top, left + size[0], top + size[1]))


def change_colour(
    image: Image.Image,
    brightness: float,
    contrast: float,
    saturation: float,
    balance: float | np.ndarray = 1.0,
) -> Image.Image:
    """Multiply brightness, contrast about mid-grey, saturation and white balance.

    Args:
        balance: One factor, or an array `(3, 1)` with a factor for each channel.
    """
    luma = np.tile([0.299, 0.587, 0.114], (3, 1))  # ITU-R BT.601, as Pillow's "L"
    mix = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * luma) * balance
    matrix = np.column_stack([mix, np.full(3, 128 * (1 - contrast))])
    return image.convert("RGB", tuple(matrix.ravel().tolist()))
