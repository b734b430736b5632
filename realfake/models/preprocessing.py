"""Fast preprocessing: the same pixels as a transformers image processor in less time.

The stock PIL processors convert an image from PIL to NumPy and back for resizing, and then rescale
and normalise it in floating point. Here an image stays in PIL until it has the model's input size.
The other steps depend on single 8-bit values, so they become a table of 256 entries per channel,
which the processor fills.

Decoding JPEGs at reduced size (`Image.draft`), resizing in two steps (`reducing_gap`) and resizing
only the crop (`box`) are not used, because they change pixels. An unsupported processor is called
unchanged.
"""

from collections.abc import Callable, Sequence
from math import ceil

import numpy as np
from PIL import Image
from transformers import ConvNextImageProcessorPil
from transformers.image_processing_backends import PilBackend
from transformers.image_transforms import get_resize_output_image_size, get_size_with_aspect_ratio

TOLERANCE = 1e-6
# (width, height): landscape, portrait, square, very small, very tall, very wide.
_PROBES = ((401, 300), (230, 347), (512, 512), (9, 14), (31, 620), (1030, 24))


class Preprocessing:
    """The steps of a processor in two parts, with 8-bit images in between.

    Args:
        processor: An image processor of transformers, PIL backend.

    Attributes:
        fast: Whether the fast steps are used; otherwise the processor does everything.
    """

    def __init__(self, processor):
        self.processor = processor
        self._steps = _steps_of(processor)
        self._table = _table_of(processor) if self._steps is not None else None
        self.fast = self._table is not None
        self.fast = self.fast and self._agrees()

    def shrink(self, image: Image.Image) -> np.ndarray:
        """Resize and crop an upright RGB image to the model's input size.

        Returns:
            `uint8` array of shape `(height, width, 3)`; without fast steps, the finished `float32`
            array of shape `(3, height, width)`.
        """
        if not self.fast:
            return np.asarray(
                self.processor(images=image, return_tensors="np")["pixel_values"][0],
                dtype=np.float32,
            )
        for step in self._steps:
            image = step(image)
        return image if isinstance(image, np.ndarray) else np.asarray(image)

    def stack(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Convert results of [`shrink`], all of one shape, to the model's input.

        Returns:
            `float32` array of shape `(n, 3, height, width)`.
        """
        if not self.fast:
            return np.stack(images)
        height, width, channels = images[0].shape
        batch = np.empty((len(images), channels, height, width), dtype=np.float32)
        for image, pixels in zip(images, batch, strict=True):
            for channel in range(channels):
                np.take(self._table[channel], image[..., channel], out=pixels[channel], mode="clip")
        return batch

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Apply both parts to upright RGB images that get the same shape."""
        return self.stack([self.shrink(image) for image in images])

    def _agrees(self) -> bool:
        """Return whether the fast steps give the processor's pixels on random images."""
        rng = np.random.default_rng(0)
        for width, height in _PROBES:
            image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
            try:
                expected = np.asarray(
                    self.processor(images=image, return_tensors="np")["pixel_values"][0]
                )
                actual = self.stack([self.shrink(image)])[0]
            except (ValueError, TypeError):
                return False
            if expected.shape != actual.shape or np.abs(expected - actual).max() > TOLERANCE:
                return False
        return True


def _steps_of(processor) -> list[Callable] | None:
    """Return the resizing and cropping of a processor as functions; `None` if not supported."""
    if not isinstance(processor, PilBackend) or getattr(processor, "do_pad", False):
        return None
    convnext = isinstance(processor, ConvNextImageProcessorPil)
    steps: list[Callable] = []
    resample = processor.resample if processor.resample is not None else Image.Resampling.BILINEAR
    if not isinstance(resample, int):
        return None
    if processor.do_resize:
        target = _convnext_target(processor) if convnext else _target(processor.size)
        if target is None:
            return None
        steps.append(lambda image: image.resize(target(image), resample=resample))
        if convnext and processor.size["shortest_edge"] < 384:
            side = processor.size["shortest_edge"]
            steps.append(lambda image: _center_crop(image, side, side))
    if processor.do_center_crop:
        if not processor.crop_size:
            return None
        height, width = (processor.crop_size[name] for name in ("height", "width"))
        if not (height and width):
            return None
        steps.append(lambda image: _center_crop(image, int(height), int(width)))
    return steps


def _target(size) -> Callable[[Image.Image], tuple[int, int]] | None:
    """Return the target (width, height) of `size`, as `PilBackend.resize` reads it."""
    sides = {
        name: getattr(size, name, None)
        for name in ("shortest_edge", "longest_edge", "height", "width")
    }
    if sides["shortest_edge"] and sides["longest_edge"]:
        return lambda image: get_size_with_aspect_ratio(
            (image.height, image.width), sides["shortest_edge"], sides["longest_edge"]
        )[::-1]
    if sides["shortest_edge"]:
        return lambda image: _shortest_edge(image, sides["shortest_edge"])
    if sides["height"] and sides["width"]:
        return lambda image: (sides["width"], sides["height"])
    return None


def _convnext_target(processor) -> Callable[[Image.Image], tuple[int, int]]:
    side = processor.size["shortest_edge"]
    if side >= 384:
        return lambda image: (side, side)
    enlarged = int(side / processor.crop_pct)
    return lambda image: _shortest_edge(image, enlarged)


def _shortest_edge(image: Image.Image, side: int) -> tuple[int, int]:
    # An array without data: only its shape is read.
    shape = np.broadcast_to(np.uint8(0), (3, image.height, image.width))
    height, width = get_resize_output_image_size(
        shape, size=side, default_to_square=False, input_data_format="channels_first"
    )
    return width, height


def _center_crop(image: Image.Image, height: int, width: int) -> Image.Image | np.ndarray:
    """Like `transformers.image_transforms.center_crop`: small images are padded with black."""
    top, left = (image.height - height) // 2, (image.width - width) // 2
    if top >= 0 and left >= 0:
        return image.crop((left, top, left + width, top + height))
    padded = (max(height, image.height), max(width, image.width))
    top_pad, left_pad = ceil((padded[0] - image.height) / 2), ceil((padded[1] - image.width) / 2)
    # Start of the crop in the image; `crop` fills the outside with black.
    top, left = max(0, top + top_pad) - top_pad, max(0, left + left_pad) - left_pad
    return image.crop((left, top, left + width, top + height))


def _table_of(processor) -> np.ndarray | None:
    """Return the processor's rescaled and normalised value of each 8-bit level, `(3, 256)`."""
    levels = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 1, 256)).copy()
    offset = {"offset": processor.rescale_offset} if hasattr(processor, "rescale_offset") else {}
    if processor.do_rescale:
        levels = processor.rescale(levels, processor.rescale_factor, **offset)
    if processor.do_normalize:
        levels = processor.normalize(levels, processor.image_mean, processor.image_std)
    if getattr(processor, "include_top", False):
        levels = processor.normalize(levels, 0, processor.image_std)
    return levels[:, 0].astype(np.float32)
