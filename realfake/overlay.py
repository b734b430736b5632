"""An attribution map drawn over its image, for people to look at.

The last step of an explanation: takes the upright image and the map that `realfake.geometry` carried onto it.
Orange marks what speaks for the target and blue what speaks against it, a pair that colour-blind readers tell
apart, on the photo in grey; what the model never saw is pale and hatched.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import maximum_filter

from .labels import AI, NAMES, REAL

_FOR = np.array([245.0, 100.0, 0.0])
_AGAINST = np.array([10.0, 85.0, 230.0])
_WORDS = {REAL: "real", AI: "AI"}
_LARGEST, _SMALLEST = 1024, 256
_LEGEND_WIDTH = 320


def overlay(
    image: Image.Image, heatmap: np.ndarray, target: str, opacity: float = 0.5, legend: bool = True
) -> Image.Image:
    """Draw a map over its image.

    Colours are scaled by the 99th percentile of the map's absolute value, the same for both signs, and fade out
    towards zero. Images over 1024 pixels are shrunk for display and those under 256 enlarged in whole steps; the
    picture is never distorted.

    Args:
        image: Upright RGB image.
        heatmap: `(height, width)` of that image; positive supports `target`, NaN was not seen by the model.
        target: `"real"` or `"ai"`.
        opacity: Of the strongest colour, 0 to 1.
        legend: Whether a strip that explains the colours is put below.

    Returns:
        An RGB image. The picture is its top, centred where the legend needs more width.

    Raises:
        ValueError: The map's shape is not the image's, the opacity is out of range, or the target is unknown.
    """
    heatmap = np.asarray(heatmap, dtype=np.float32)
    if heatmap.shape != (image.height, image.width):
        raise ValueError(f"The map has shape {heatmap.shape}; the image has {(image.height, image.width)}.")
    if target not in NAMES:
        raise ValueError(f"target is {target!r}; it must be 'real' or 'ai'.")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity is {opacity}; it must be between 0 and 1.")
    seen = np.isfinite(heatmap)
    strength = np.abs(heatmap[seen])
    scale = float(np.percentile(strength, 99)) if strength.size else 0.0
    # A map of which under 1 % is not zero still has something to show.
    scale = scale or float(strength.max(initial=0.0))
    filled = np.where(seen, heatmap, 0) / (scale or 1.0)

    photo, relative, visible = _fit_for_display(image.convert("RGB"), filled, seen)
    picture = _hatched(_coloured(photo, relative, opacity), photo, visible)
    if not legend:
        return Image.fromarray(picture)
    return _with_legend(picture, target, opacity, hidden=not visible.all(), empty=scale == 0)


def display_scale(width: int, height: int) -> float:
    """By how much [`overlay`] enlarges (over 1, whole) or shrinks (under 1) an image of this size."""
    longest = max(width, height)
    return float(-(-_SMALLEST // longest)) if longest < _SMALLEST else min(1.0, _LARGEST / longest)


def _fit_for_display(image, heat, seen) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Photo (H, W, 3), map and mask at display size, all resized alike so that they stay aligned."""
    scale = display_scale(image.width, image.height)
    if scale >= 1:
        times = int(scale)
        return tuple(a.repeat(times, 0).repeat(times, 1) for a in (np.asarray(image, np.float32), heat, seen))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))

    def shrink(array):
        return np.asarray(Image.fromarray(array.astype(np.float32)).resize(size, Image.Resampling.BOX))

    share = shrink(seen)
    # The mean over what was seen: the unseen part counts neither as zero nor as anything else.
    heat = shrink(heat) / np.maximum(share, 1e-6)
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS), np.float32), heat, share >= 0.5


def _grey(photo: np.ndarray) -> np.ndarray:
    """(H, W, 1) luminance, ITU-R BT.601."""
    return (photo @ np.array([0.299, 0.587, 0.114], dtype=np.float32))[..., None]


def _coloured(photo: np.ndarray, relative: np.ndarray, opacity: float) -> np.ndarray:
    """Blend the two colours into a grey photo: its own browns and blues would be taken for the map's.

    Black and white are drawn in a little, so that colour shows on both.
    """
    grey = 30 + 0.8 * _grey(photo)
    alpha = opacity * np.abs(relative.clip(-1, 1))[..., None] ** 0.8
    colour = np.where(relative[..., None] > 0, _FOR, _AGAINST)
    return (1 - alpha) * np.broadcast_to(grey, photo.shape) + alpha * colour


def _hatched(picture: np.ndarray, photo: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Where nothing was seen: pale, with diagonal lines, and a border towards what was."""
    if not visible.all():
        pale = np.broadcast_to(0.4 * _grey(photo) + 0.6 * 215, photo.shape)
        rows, columns = np.indices(visible.shape)
        lines = ((rows + columns) % 12 < 2)[..., None]
        border = (maximum_filter(visible, 5) & ~visible)[..., None]
        hidden = np.where(lines | border, 70.0, pale)
        picture = np.where(visible[..., None], picture, hidden)
    return picture.round().clip(0, 255).astype(np.uint8)


def _with_legend(picture: np.ndarray, target: str, opacity: float, hidden: bool, empty: bool) -> Image.Image:
    height, width = picture.shape[:2]
    canvas_width = max(width, _LEGEND_WIDTH)
    size = 14 if canvas_width < 640 else 16
    font = ImageFont.load_default(size)
    margin, line = 10, round(1.5 * size)
    bar_width = min(canvas_width, 640) - 2 * margin
    rows = 1 + hidden
    canvas = Image.new("RGB", (canvas_width, height + 2 * margin + size + 4 + rows * line), "white")
    canvas.paste(Image.fromarray(picture), ((canvas_width - width) // 2, 0))
    draw = ImageDraw.Draw(canvas)

    # The same blend as in the picture, over a middle grey.
    ramp = np.broadcast_to(np.linspace(-1, 1, bar_width, dtype=np.float32), (size, bar_width))
    bar = _coloured(np.full((size, bar_width, 3), 160, dtype=np.float32), ramp, max(opacity, 0.25))
    left, top = (canvas_width - bar_width) // 2, height + margin
    canvas.paste(Image.fromarray(bar.round().astype(np.uint8)), (left, top))
    draw.rectangle((left - 1, top - 1, left + bar_width, top + size), outline=(120, 120, 120))

    other = next(name for name in NAMES if name != target)
    y, ink = top + size + 4, (30, 30, 30)
    draw.text((left, y), f"speaks for {_WORDS[other]}", fill=ink, font=font)
    draw.text((left + bar_width, y), f"speaks for {_WORDS[target]}", fill=ink, font=font, anchor="ra")
    draw.text(
        (left + bar_width / 2, y), "no evidence" if empty else "neither", fill=ink, font=font, anchor="ma"
    )
    if hidden:
        swatch = np.full((size, 2 * size, 3), 160, dtype=np.float32)
        swatch = _hatched(swatch, swatch, np.zeros(swatch.shape[:2], dtype=bool))
        y += line
        canvas.paste(Image.fromarray(swatch), (left, y))
        draw.rectangle((left - 1, y - 1, left + 2 * size, y + size), outline=(120, 120, 120))
        draw.text((left + 2 * size + 8, y - 2), "not examined by the model", fill=ink, font=font)
    return canvas
