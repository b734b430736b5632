"""Draw an attribution map over its image, with the outlines of its strongest regions.

Orange marks evidence for the target and blue evidence against it; both are distinguishable for the
colour-blind. The photo is grey. Parts that the model did not see are pale and hatched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter, label, maximum_filter

from realfake.attribution.faithfulness import Evidence
from realfake.labels import AI, NAMES, REAL

# For the regions, larger maps are shrunk; models do not resolve more.
_LONGEST = 512
# Threshold of a region, as a share of the largest smoothed value.
_LEVEL = 0.5
# Smallest share of the evidence, except of the strongest region: less would be shown as "0 %".
_LEAST = 0.005
# Default smoothing of maps for display, as in [`overlay`].
SMOOTH = 0.01
_FOR = np.array([245.0, 100.0, 0.0])
_AGAINST = np.array([10.0, 85.0, 230.0])
_LABEL = {REAL: "real", AI: "AI"}
_LARGEST, _SMALLEST = 1024, 256
_LEGEND_WIDTH = 320
_INK, _FRAME = (30, 30, 30), (120, 120, 120)


@dataclass(frozen=True)
class EvidenceRegion:
    """A connected part of an image with evidence for the target.

    Attributes:
        box: `(left, top, right, bottom)` in pixels of the upright image; the whole image is
            `(0, 0, width, height)`.
        share: Its share of the map's evidence for the target, 0 to 1.
        outline: Closed polygon around it, `((x, y), …)` in pixels, without holes.
    """

    box: tuple[int, int, int, int]
    share: float
    outline: tuple[tuple[float, float], ...]

    def to_dict(self) -> dict:
        """Return the fields, for `json`."""
        outline = [list(point) for point in self.outline]
        return {"box": list(self.box), "share": self.share, "outline": outline}


def overlay(
    image: Image.Image,
    heatmap: np.ndarray,
    target: str,
    opacity: float = 0.5,
    legend: bool = True,
    regions: Sequence[EvidenceRegion] = (),
    notes: Sequence[str] = (),
    smooth: float = 0.0,
) -> Image.Image:
    """Draw a map over its image.

    Colours are scaled by the 99th percentile of the map's absolute value, for both signs, and fade
    out towards zero. Images above 1024 pixels are shrunk for display, and images below 256 pixels
    are enlarged by an integer.

    Args:
        heatmap: `(height, width)` of that image; positive supports `target`, NaN was not seen by
            the model.
        opacity: Opacity of the strongest colour, 0 to 1.
        legend: Whether to explain the colours below the image.
        regions: Regions to outline, with their share of the evidence for the target.
        notes: Sentences to write below the legend, such as [`caveats`].
        smooth: Standard deviation of a Gaussian filter, as a share of the side of the seen part
            (the root of its area). [`SMOOTH`] makes maps of single pixels readable, and does not
            change coarser maps.

    Returns:
        An RGB image with the picture at the top, centred if the legend is wider.

    Raises:
        ValueError: The map's shape is not the image's, the opacity is out of range, or the target
            is unknown.
    """
    heatmap = np.asarray(heatmap, dtype=np.float32)
    if heatmap.shape != (image.height, image.width):
        raise ValueError(
            f"The map has shape {heatmap.shape}; the image has {(image.height, image.width)}."
        )
    if target not in NAMES:
        raise ValueError(f"target is {target!r}; it must be 'real' or 'ai'.")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity is {opacity}; it must be between 0 and 1.")
    photo, heat, visible = _fit_for_display(image.convert("RGB"), heatmap)
    if smooth:
        heat = _smoothed(heat, visible, smooth * np.sqrt(visible.sum()))
    strength = np.abs(heat[visible])
    scale = float(np.percentile(strength, 99)) if strength.size else 0.0
    # The percentile is 0 if less than 1 % of the pixels are nonzero.
    scale = scale or float(strength.max(initial=0.0))
    coloured = _coloured(photo, heat / (scale or 1.0), opacity)
    picture = Image.fromarray(_hatched(coloured, photo, visible))
    _draw_regions(picture, regions, (picture.width / image.width, picture.height / image.height))
    if not legend:
        return picture
    return _with_legend(picture, target, opacity, not visible.all(), scale == 0, notes)


def caveats(details: Mapping, evidence: Evidence | None = None) -> list[str]:
    """Return the warnings about a map.

    Args:
        details: Details of the method ([`~realfake.attribution.methods.Attribution`]).
        evidence: *optional*. The test of the map.
    """
    notes = []
    if evidence is not None and not evidence.beats_random:
        notes.append(
            "This map is no better than chance: removing the marked part lowers the score no more "
            "than removing random parts."
        )
    gap = details.get("completeness_gap", 0.0)
    if gap > 0.01:
        percent = f"{100 * gap:.0f} %" if gap < 10 else "over 1,000 %"
        notes.append(
            f"The integration is inexact: the map's sum is {percent} off the explained difference."
        )
    return notes


def display_scale(width: int, height: int) -> float:
    """Return the factor by which [`overlay`] enlarges (an integer) or shrinks an image."""
    longest = max(width, height)
    return float(-(-_SMALLEST // longest)) if longest < _SMALLEST else min(1.0, _LARGEST / longest)


def _fit_for_display(
    image: Image.Image, heatmap: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Resize photo (H, W, 3), map (0 if not seen) and mask of the seen part alike."""
    scale = display_scale(image.width, image.height)
    seen = np.isfinite(heatmap)
    heat = np.where(seen, heatmap, 0)
    if scale >= 1:
        arrays = np.asarray(image, np.float32), heat, seen
        return tuple(array.repeat(int(scale), 0).repeat(int(scale), 1) for array in arrays)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))

    def shrink(array: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(array.astype(np.float32))
        return np.asarray(picture.resize(size, Image.Resampling.BOX))

    share = shrink(seen)
    heat = shrink(heat) / np.maximum(share, 1e-6)  # the mean over the seen pixels
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS), np.float32), heat, share >= 0.5


def _smoothed(heatmap: np.ndarray, seen: np.ndarray, sigma: float) -> np.ndarray:
    """Smooth over the seen part only, so that its border does not fade."""
    weights = gaussian_filter(seen.astype(np.float32), sigma)
    values = gaussian_filter(np.where(seen, heatmap, 0).astype(np.float32), sigma)
    return np.where(seen, values / np.maximum(weights, 1e-6), 0)


def _grey(photo: np.ndarray) -> np.ndarray:
    """(H, W, 1) luminance, ITU-R BT.601."""
    return (photo @ np.array([0.299, 0.587, 0.114], dtype=np.float32))[..., None]


def _coloured(photo: np.ndarray, relative: np.ndarray, opacity: float) -> np.ndarray:
    """Blend the colours into the grey photo with reduced contrast."""
    grey = 30 + 0.8 * _grey(photo)
    alpha = opacity * np.abs(relative.clip(-1, 1))[..., None] ** 0.8
    colour = np.where(relative[..., None] > 0, _FOR, _AGAINST)
    return (1 - alpha) * np.broadcast_to(grey, photo.shape) + alpha * colour


def _hatched(picture: np.ndarray, photo: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Draw the unseen part pale, with diagonal lines and a border."""
    if not visible.all():
        pale = np.broadcast_to(0.4 * _grey(photo) + 0.6 * 215, photo.shape)
        y, x = np.indices(visible.shape)
        lines = ((y + x) % 12 < 2)[..., None]
        border = (maximum_filter(visible, 5) & ~visible)[..., None]
        picture = np.where(visible[..., None], picture, np.where(lines | border, 70.0, pale))
    return picture.round().clip(0, 255).astype(np.uint8)


def _draw_regions(
    picture: Image.Image, regions: Sequence[EvidenceRegion], scale: tuple[float, float]
) -> None:
    """Draw the regions' outlines, dark on light, and their shares."""
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(13)
    for region in regions:
        points = [(x * scale[0], y * scale[1]) for x, y in region.outline]
        for colour, width in (("white", 4), (_INK, 2)):
            draw.line([*points, points[0]], fill=colour, width=width, joint="curve")
    for region in regions:
        text = f"{100 * region.share:.0f} %"
        _, _, right, bottom = draw.textbbox((0, 0), text, font=font)
        x = min(max(0, region.box[0] * scale[0]), max(0, picture.width - right - 8))
        y = region.box[1] * scale[1] - bottom - 8
        # Above the region, or inside it if there is no room.
        y = y if y >= 0 else min(region.box[1] * scale[1] + 2, max(0, picture.height - bottom - 6))
        draw.rectangle((x, y, x + right + 6, y + bottom + 4), fill="white", outline=_INK)
        draw.text((x + 3, y + 1), text, fill=_INK, font=font)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break a text into lines of at most `width` pixels."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _with_legend(
    picture: Image.Image,
    target: str,
    opacity: float,
    hidden: bool,
    empty: bool,
    notes: Sequence[str],
) -> Image.Image:
    width, height = picture.size
    canvas_width = max(width, _LEGEND_WIDTH)
    size = 14 if canvas_width < 640 else 16
    font = ImageFont.load_default(size)
    margin, line = 10, round(1.5 * size)
    bar_width = min(canvas_width, 640) - 2 * margin
    lines = [text for note in notes for text in _wrapped(note, font, bar_width)]
    full_height = height + 2 * margin + size + 4 + (1 + hidden + len(lines)) * line
    canvas = Image.new("RGB", (canvas_width, full_height), "white")
    canvas.paste(picture, ((canvas_width - width) // 2, 0))
    draw = ImageDraw.Draw(canvas)

    # The colours of the picture over a medium grey.
    ramp = np.broadcast_to(np.linspace(-1, 1, bar_width, dtype=np.float32), (size, bar_width))
    bar = _coloured(np.full((size, bar_width, 3), 160, dtype=np.float32), ramp, max(opacity, 0.25))
    left, top = (canvas_width - bar_width) // 2, height + margin
    canvas.paste(Image.fromarray(bar.round().astype(np.uint8)), (left, top))
    draw.rectangle((left - 1, top - 1, left + bar_width, top + size), outline=_FRAME)

    other = next(name for name in NAMES if name != target)
    y = top + size + 4
    for x, anchor, text in (
        (left, "la", f"evidence for {_LABEL[other]}"),
        (left + bar_width, "ra", f"evidence for {_LABEL[target]}"),
        (left + bar_width / 2, "ma", "no evidence" if empty else "neither"),
    ):
        draw.text((x, y), text, fill=_INK, font=font, anchor=anchor)
    if hidden:
        swatch = np.full((size, 2 * size, 3), 160, dtype=np.float32)
        swatch = _hatched(swatch, swatch, np.zeros(swatch.shape[:2], dtype=bool))
        y += line
        canvas.paste(Image.fromarray(swatch), (left, y))
        draw.rectangle((left - 1, y - 1, left + 2 * size, y + size), outline=_FRAME)
        draw.text((left + 2 * size + 8, y - 2), "not seen by the model", fill=_INK, font=font)
    for text in lines:
        y += line
        draw.text((left, y - 2), text, fill=_INK, font=font)
    return canvas


def strongest_regions(heatmap: np.ndarray, n: int = 3) -> list[EvidenceRegion]:
    """Find the regions with the most evidence for the target.

    The positive part of the map is smoothed by a fiftieth of its side (the root of its area) and
    cut at half of its maximum. Connected parts are ordered by the evidence in the unsmoothed map.

    Args:
        heatmap: `(height, width)` of the upright image; positive supports the target, NaN was not
            seen by the model.
        n: Largest number of regions.

    Returns:
        At most `n` regions, the one with the largest share first. The others have at least 0.5 % of
        the evidence. Empty if there is no evidence for the target.

    Raises:
        ValueError: The map is not two-dimensional, or `n` is under 1.
    """
    heatmap = np.asarray(heatmap, dtype=np.float32)
    if heatmap.ndim != 2:
        raise ValueError(f"The map has shape {heatmap.shape}; it must be (height, width).")
    if n < 1:
        raise ValueError(f"n is {n}; it must be at least 1.")
    height, width = heatmap.shape
    seen = np.isfinite(heatmap)
    positive = _shrunk(np.where(seen, heatmap, 0).clip(0))
    total = float(positive.sum(dtype=np.float64))
    if not total > 0:
        return []
    visible = _shrunk(seen.astype(np.float32))
    sigma = positive.size**0.5 / 50
    # Normalised, so that regions at the border of the seen part are not weaker.
    smooth = gaussian_filter(positive, sigma, mode="constant")
    smooth /= np.maximum(gaussian_filter(visible, sigma, mode="constant"), 1e-6)
    smooth[visible < 0.5] = 0
    parts, count = label(smooth >= _LEVEL * smooth.max(), structure=np.ones((3, 3)))
    sums = np.bincount(parts.ravel(), weights=positive.ravel(), minlength=count + 1)[1:]
    down, across = height / parts.shape[0], width / parts.shape[1]
    regions = []
    for index in np.argsort(-sums, kind="stable")[:n]:
        if regions and sums[index] < _LEAST * total:
            break
        outline = tuple(
            (round(x * across, 1), round(y * down, 1)) for x, y in _outline(parts == index + 1)
        )
        y, x = np.nonzero(parts == index + 1)
        box = (x.min() * across, y.min() * down, (x.max() + 1) * across, (y.max() + 1) * down)
        share = float(sums[index] / total)
        regions.append(EvidenceRegion(tuple(round(edge) for edge in box), share, outline))
    return regions


def _shrunk(array: np.ndarray) -> np.ndarray:
    """Average over blocks, so that the longer side has at most 512 pixels."""
    array = array.astype(np.float32)
    scale = _LONGEST / max(array.shape)
    if scale >= 1:
        return array
    size = (max(1, round(array.shape[1] * scale)), max(1, round(array.shape[0] * scale)))
    return np.asarray(Image.fromarray(array).resize(size, Image.Resampling.BOX))


def _outline(part: np.ndarray) -> list[tuple[int, int]]:
    """Follow the outer border of a connected mask clockwise, and return its corners `(x, y)`."""
    mask = np.pad(part, 1)
    # The upper edge of the top row's leftmost pixel is on the border.
    y, x = (int(i) for i in np.argwhere(mask)[0])
    start, direction = (x, y), (1, 0)
    point, corners = start, []
    while True:
        corners.append(point)
        while True:
            (x, y), (dx, dy) = point, direction
            x, y = point = (x + dx, y + dy)
            # The pixels ahead: rows y - 1, y and columns x - 1, x surround the corner (x, y).
            ahead_x, ahead_y = (x if dx + dy > 0 else x - 1), (y if dx + dy > 0 else y - 1)
            if dx:
                ahead = mask[y - 1, ahead_x], mask[y, ahead_x]
            else:
                ahead = mask[ahead_y, x], mask[ahead_y, x - 1]
            left, right = ahead if dx + dy > 0 else ahead[::-1]
            # Left goes first, because pixels that touch at a corner are connected.
            if left:
                direction = (dy, -dx)
                break
            if not right:
                direction = (-dy, dx)
                break
        if point == start and direction == (1, 0):
            return [(x - 1, y - 1) for x, y in corners]
