"""The part of an image that a processor passes to the model, and its place in the model's input.

Processors stretch, crop or pad images. This module measures the geometry with test images. It works
for all processors that do not rotate or bend the axes. Attribution maps are mapped back onto the
image with it.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

_TOP = 255.0


@dataclass(frozen=True)
class Region:
    """The part of an image that a model sees.

    Attributes:
        box: `(left, top, right, bottom)` of the seen part in the upright image, in pixels; edges,
            not centres, so the whole image is `(0, 0, width, height)`.
        input_box: The same part in the model's input. The rest of the input is padding.
        image_size: `(width, height)` of the upright image.
        input_size: `(width, height)` of the model's input.
    """

    box: tuple[float, float, float, float]
    input_box: tuple[float, float, float, float]
    image_size: tuple[int, int]
    input_size: tuple[int, int]

    @property
    def complete(self) -> bool:
        """Whether the model sees the whole image."""
        return self.box == (0.0, 0.0, float(self.image_size[0]), float(self.image_size[1]))

    @property
    def padded(self) -> bool:
        """Whether a part of the model's input is padding, not image."""
        return self.input_box != (0.0, 0.0, float(self.input_size[0]), float(self.input_size[1]))

    def to_image(self, heat: np.ndarray) -> np.ndarray:
        """Map an attribution over the model's input back onto the upright image.

        Interpolates bilinearly if the image is larger than the input, and averages with triangle
        weights if it is smaller (PIL's `BILINEAR`). Values over padding are dropped.

        Args:
            heat: `(input height, input width)` array.

        Returns:
            `(height, width)` float32 array; NaN outside the seen part.

        Raises:
            ValueError: The map and the model's input differ in shape.
        """
        heat = np.asarray(heat, dtype=np.float32)
        if heat.shape != self.input_size[::-1]:
            raise ValueError(
                f"The map has shape {heat.shape}; the model's input has {self.input_size[::-1]}."
            )
        (width, height), (left, top, right, bottom) = self.image_size, self.box
        u0, v0, u1, v1 = self.input_box
        columns, across = _weights(left, right, u0, u1, width, self.input_size[0])
        rows, down = _weights(top, bottom, v0, v1, height, self.input_size[1])
        image = np.full((height, width), np.nan, dtype=np.float32)
        image[rows, columns] = down @ heat @ across.T
        return image


def _weights(start, stop, from_, to, length, input_length) -> tuple[slice, np.ndarray]:
    """Return the seen image pixels along one axis, and their weights over the input's pixels."""
    pixels = slice(max(0, int(np.ceil(start - 0.5))), min(length, int(np.floor(stop - 0.5)) + 1))
    scale = (to - from_) / (stop - start)
    centres = from_ + (np.arange(pixels.start, pixels.stop) + 0.5 - start) * scale
    inside = np.arange(int(np.floor(from_ + 0.5)), int(np.floor(to + 0.5)))
    # A bilinear map is constant beyond the outermost pixel centres.
    centres = centres.clip(inside[0] + 0.5, inside[-1] + 0.5)
    near = np.maximum(0, 1 - np.abs(centres[:, None] - (inside + 0.5)) / max(1.0, scale))
    weights = np.zeros((len(centres), input_length), dtype=np.float32)
    weights[:, inside] = near / near.sum(axis=1, keepdims=True)
    return pixels, weights


def seen_region(processor, width: int, height: int) -> Region:
    """Find the part of a `width` × `height` image that a processor passes to the model.

    The result is exact for native crops, and within a tenth of a model pixel for resized images.

    Args:
        processor: A transformers image processor whose `pixel_values` have shape `(1, 3, h, w)`.
        width, height: Size of the upright image in pixels.

    Returns:
        [`Region`]

    Raises:
        ValueError: The output is not one image, or the processor rotates or bends the axes.
    """
    name = f"{type(processor).__module__}.{type(processor).__qualname__}"
    cached = _Processor(name + processor.to_json_string(), processor)
    return _measure(cached, int(width), int(height))


@dataclass(frozen=True)
class _Processor:
    """A processor that compares by its configuration, so that measurements can be cached."""

    text: str
    processor: Any = field(compare=False, repr=False)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        pixels = self.processor(Image.fromarray(image), return_tensors="pt")["pixel_values"]
        if pixels.ndim != 4 or pixels.shape[:2] != (1, 3):
            raise ValueError(
                f"{type(self.processor).__name__} returns pixel_values of shape "
                f"{tuple(pixels.shape)}; maps need one image, (1, 3, height, width)."
            )
        return pixels[0].numpy().astype(np.float64)


@lru_cache(maxsize=64)
def _value_range(processor: _Processor) -> tuple[np.ndarray, np.ndarray]:
    """Return the outputs for black and white, which undo any rescaling and normalisation."""
    centre = []
    for value in (0, 255):
        out = processor(np.full((64, 64, 3), value, dtype=np.uint8))
        centre.append(out[:, out.shape[1] // 2, out.shape[2] // 2][:, None, None])
    return centre[0], centre[1]


def _process(processor: _Processor, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Process a picture with `x` (by column), white and `y` (by row) as channels; return 0..255."""
    image = np.empty((len(y), len(x), 3), dtype=np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = x[None, :], 255, y[:, None]
    black, white = _value_range(processor)
    return (processor(image) - black) / (white - black) * _TOP


@lru_cache(maxsize=256)
def _measure(processor: _Processor, width: int, height: int) -> Region:
    lengths = (width, height)
    codes = [_Ramp(length, 0.0, float(length)) for length in lengths]
    out = _process(processor, *(code.greys for code in codes))
    input_size = (out.shape[2], out.shape[1])
    # White marks the image. The limit below 255 allows for bicubic filters near a border.
    seen = out[1] > 200
    spans = (u0, u1), (v0, v1) = _span(seen.any(axis=0)), _span(seen.any(axis=1))
    if u1 - u0 < 2 or v1 - v0 < 2 or not seen[v0:v1, u0:u1].mean() > 0.98:
        raise ValueError(
            f"The model's input from {_type(processor)} contains no rectangle of the image."
        )
    # Some processors output BGR: x is in the channel that varies along a row.
    along_x, along_y = (np.abs(np.diff(out[0, v0:v1, u0:u1], axis=axis)).sum() for axis in (1, 0))
    order = (0, 2) if along_x >= along_y else (2, 0)

    def fit(out, codes, before=(None, None)):
        lines = [
            _fit(np.median(out[channel, v0:v1, u0:u1], axis=axis), code, span, line)
            for axis, (channel, code, span, line) in enumerate(zip(order, codes, spans, before))
        ]
        if any(slope <= 0 for slope, _ in lines):
            raise ValueError(
                f"{_type(processor)} does not keep the image's axes; maps cannot be mapped back."
            )
        return lines

    lines = fit(out, codes)
    if all(0.7 < slope < 1.4 for slope, _ in lines):
        boxes = _exact(processor, lengths, spans, order, lines)
        if boxes:
            return Region(*boxes, lengths, input_size)  # type: ignore[call-arg]
    # On large images a grey level spans several pixels: measure a small seen part alone.
    if any(_period(slope) < 8 * length / _TOP for (slope, _), length in zip(lines, lengths)):
        windows = map(_window, lines, spans, lengths)
        codes = [_Ramp(length, *window) for length, window in zip(lengths, windows)]
        lines = fit(_process(processor, *(code.greys for code in codes)), codes)
    codes = [
        _Saw(length, _period(slope)) if _period(slope) < length else code
        for (slope, _), length, code in zip(lines, lengths, codes)
    ]
    if any(isinstance(code, _Saw) for code in codes):
        lines = fit(_process(processor, *(code.greys for code in codes)), codes, lines)
    edges = [_edges(*args) for args in zip(lines, spans, lengths, input_size)]
    (left, right), (top, bottom) = edges
    return Region((left, top, right, bottom), _box(spans), lengths, input_size)


def _box(spans) -> tuple[float, float, float, float]:
    (u0, u1), (v0, v1) = spans
    return float(u0), float(v0), float(u1), float(v1)


def _type(processor: _Processor) -> str:
    return type(processor.processor).__name__


class _Ramp:
    """Grey that rises from pixel `start` to pixel `stop`: coarse but unambiguous."""

    def __init__(self, length: int, start: float, stop: float):
        step = _TOP / max(1.0, stop - start - 1)
        # A whole number of levels per pixel avoids rounding.
        self.start, self.step = start, float(np.floor(step)) if step >= 1 else step
        self.greys = np.round(((np.arange(length) - start) * self.step).clip(0, _TOP)).astype(
            np.uint8
        )
        # Filters treat the outermost pixels differently.
        border = 2 if length >= 16 else 1
        self.low = max(1.0, (border - start) * self.step)
        self.high = min(_TOP - 1, (length - 1 - border - start) * self.step)

    def decode(self, greys: np.ndarray, _expected) -> tuple[np.ndarray, np.ndarray]:
        """Return image coordinates (edges at whole numbers) and a mask of the reliable ones."""
        return greys / self.step + self.start + 0.5, (greys >= self.low) & (greys <= self.high)


class _Saw:
    """Grey that rises again every `period` pixels: fine, but ambiguous by periods."""

    def __init__(self, length: int, period: float):
        self.length, self.period = length, period
        self.greys = np.round(np.arange(length) % period / period * _TOP).astype(np.uint8)

    def decode(self, greys: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As [`_Ramp.decode`], near the `expected` coordinates."""
        fine = greys / _TOP * self.period + 0.5
        coordinates = fine + self.period * np.round((expected - fine) / self.period)
        # The filter mixes both ends of a period, and differs near the image's border.
        phase = (expected - 0.5) % self.period / self.period
        good = (phase > 0.15) & (phase < 0.85)
        border = 0.02 * self.length, 0.98 * self.length
        return coordinates, good & (expected > border[0]) & (expected < border[1])


def _period(slope: float) -> float:
    """Return a saw's period in image pixels: 3.618 grey levels per model pixel.

    With a simple fraction, rounding errors would follow the pixel grid and bias the fit.
    """
    return max(_TOP / 3.618 * slope, 24.0)


def _fit(greys: np.ndarray, code, span: tuple[int, int], before) -> tuple[float, float]:
    """Fit the image coordinate to the model's by least squares, then again without outliers."""
    u = np.arange(span[0], span[1]) + 0.5
    x, good = code.decode(greys, None if before is None else np.polyval(before, u))
    if good.sum() < 2:
        good = np.ones(len(u), dtype=bool)
    line = np.polyfit(u[good], x[good], 1)
    miss = np.abs(np.polyval(line, u) - x)
    kept = good & (miss <= 3 * np.median(miss[good]) + 1e-9)
    if kept.sum() > 2:
        line = np.polyfit(u[kept], x[kept], 1)
    return float(line[0]), float(line[1])


def _span(seen: np.ndarray) -> tuple[int, int]:
    """Return the first true index and one past the last."""
    where = np.flatnonzero(seen)
    return (int(where[0]), int(where[-1]) + 1) if len(where) else (0, 0)


def _window(line: tuple[float, float], span: tuple[int, int], length: int) -> tuple[float, float]:
    """Return the part of the image according to a coarse fit, with a margin for its error."""
    start, stop = sorted(line[0] * u + line[1] for u in span)
    margin = 2 * length / _TOP + 4
    return float(max(0, np.floor(start - margin))), float(min(length, np.ceil(stop + margin)))


def _exact(processor, lengths, spans, order, lines):
    """Return the boxes of a native crop, or `None` if pixels do not arrive unchanged.

    The grey level is the coordinate modulo 256. The coarse fit determines the multiple of 256.
    """
    out = _process(processor, *(np.arange(length) % 256 for length in lengths))
    (u0, u1), (v0, v1) = spans
    starts = []
    for axis, (channel, span, line) in enumerate(zip(order, spans, lines)):
        greys = out[channel, v0:v1, u0:u1]
        greys = greys if axis == 0 else greys.T
        # The fit is best in the middle.
        middle = (span[1] - span[0]) // 2
        expected = line[0] * (span[0] + middle + 0.5) + line[1] - 0.5 - middle
        first = round(float(greys[0, 0]))
        start = first + 256 * round((expected - first) / 256)
        if np.abs(greys - (start + np.arange(greys.shape[1])) % 256).max() > 0.1:
            return None
        starts.append(float(start))
    left, top = starts
    return (left, top, left + u1 - u0, top + v1 - v0), _box(spans)


def _edges(line, span, length, full) -> tuple[float, float]:
    """Return where a region starts and ends in the image along one axis.

    The image's border is used exactly if the fit is within 0.3 model pixels of it, or if padding
    begins there.
    """
    slope, offset = line
    edges = [slope * u + offset for u in span]
    for i, border in enumerate((0.0, float(length))):
        padded = span[i] != (0, full)[i]
        if padded or abs(edges[i] - border) < 0.3 * slope:
            edges[i] = border
    return max(0.0, edges[0]), min(float(length), edges[1])
