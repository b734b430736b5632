"""An attribution map drawn over its image, for people to look at.

The last step of an explanation: takes the upright image and the map that `realfake.models.geometry` carried onto it, and the regions of
`realfake.attribution.regions`.
Orange marks what speaks for the target and blue what speaks against it, a pair that colour-blind readers tell
apart, on the photo in grey; what the model never saw is pale and hatched.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter, maximum_filter

from realfake.attribution.regions import EvidenceRegion
from realfake.labels import AI, NAMES, REAL

_FOR = np.array([245.0, 100.0, 0.0])
_AGAINST = np.array([10.0, 85.0, 230.0])
_WORDS = {REAL: "real", AI: "AI"}
_LARGEST, _SMALLEST = 1024, 256
_LEGEND_WIDTH = 320
_CELL = 384
_INK = (30, 30, 30)
# How much maps are smoothed where people look at them.
SMOOTH = 0.01


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

    Colours are scaled by the 99th percentile of the drawn map's absolute value, the same for both signs, and fade out
    towards zero. Images over 1024 pixels are shrunk for display and those under 256 enlarged in whole steps; the
    picture is never distorted.

    Args:
        image: Upright RGB image.
        heatmap: `(height, width)` of that image; positive supports `target`, NaN was not seen by the model.
        target: `"real"` or `"ai"`.
        opacity: Of the strongest colour, 0 to 1.
        legend: Whether a strip that explains the colours is put below.
        regions: Outlined, with their share of the evidence for the target beside them.
        notes: Sentences that a reader of the map must know, such as [`caveats`]; below the legend, and only with it.
        smooth: Standard deviation of a Gaussian for display, as a share of the side of what the model saw (the root of its area).
            Maps of single pixels are dust without it; [`SMOOTH`] gathers the dust and leaves coarser maps as they are.

    Returns:
        An RGB image. The picture is its top, centred where the legend needs more width.

    Raises:
        ValueError: The map's shape is not the image's, the opacity is out of range, or the target is unknown.
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
    photo, shown, visible = _fit_for_display(image.convert("RGB"), heatmap)
    if smooth:
        shown = _smoothed(shown, visible, smooth * np.sqrt(visible.sum()))
    strength = np.abs(shown[visible])
    scale = float(np.percentile(strength, 99)) if strength.size else 0.0
    # A map of which under 1 % is not zero still has something to show.
    scale = scale or float(strength.max(initial=0.0))
    picture = Image.fromarray(
        _hatched(_coloured(photo, shown / (scale or 1.0), opacity), photo, visible)
    )
    _outline(picture, regions, (picture.width / image.width, picture.height / image.height))
    if not legend:
        return picture
    return _with_legend(picture, target, opacity, not visible.all(), scale == 0, notes)


def side_by_side(
    image: Image.Image,
    maps: Mapping[str, np.ndarray],
    target: str,
    opacity: float = 0.5,
    notes: Mapping[str, str] | None = None,
    columns: int = 3,
) -> Image.Image:
    """Draw several methods' maps of one image, each under its name.

    Args:
        image: Upright RGB image.
        maps: `{method: map}`, each as in [`overlay`].
        target: `"real"` or `"ai"`.
        opacity: As in [`overlay`].
        notes: *optional*. `{method: sentence}`, put beside the name: what its map's evidence is worth.
        columns: Pictures in a row.

    Returns:
        An RGB image. The pictures are at most 384 pixels wide or high.

    Raises:
        ValueError: No map, or as [`overlay`].
    """
    if not maps:
        raise ValueError("There is no map to draw; give at least one method's.")
    font, line, gap = ImageFont.load_default(14), 20, 10
    cells = []
    for name, heatmap in maps.items():
        picture = overlay(image, heatmap, target, opacity, legend=False, smooth=SMOOTH)
        picture.thumbnail((_CELL, _CELL))
        width = max(picture.width, _CELL // 2)
        words = [name.replace("_", " "), *_wrapped((notes or {}).get(name, ""), font, width)]
        cells.append((picture, width, words))
    width, height = max(cell[1] for cell in cells), max(cell[0].height for cell in cells)
    height += line * max(len(cell[2]) for cell in cells)
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    canvas = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), "white")
    draw = ImageDraw.Draw(canvas)
    for index, (picture, _, words) in enumerate(cells):
        left, top = gap + index % columns * (width + gap), gap + index // columns * (height + gap)
        for text in words:
            draw.text((left, top), text, fill=_INK, font=font)
            top += line
        canvas.paste(picture, (left, top))
    return canvas


def _smoothed(heatmap: np.ndarray, seen: np.ndarray, sigma: float) -> np.ndarray:
    """The map smoothed over what was seen alone: what was not seen must not make its neighbours pale."""
    weights = gaussian_filter(seen.astype(np.float32), sigma)
    values = gaussian_filter(np.where(seen, heatmap, 0).astype(np.float32), sigma)
    return np.where(seen, values / np.maximum(weights, 1e-6), 0)


def caveats(details: Mapping, evidence=None) -> list[str]:
    """What must be said beside a map: that it does not beat chance, or that its integration is not exact.

    Args:
        details: What the method reports of itself ([`~realfake.attribution.methods.Attribution`]).
        evidence: *optional*. Its [`~realfake.attribution.faithfulness.Evidence`].
    """
    notes = []
    if evidence is not None and not evidence.beats_random:
        notes.append(
            "This map does no better than chance: removing what it marks lowers the score no more than "
            "removing random parts."
        )
    gap = details.get("completeness_gap", 0.0)
    if gap > 0.01:
        notes.append(
            f"The integration is inexact: the map's sum is {_percent(gap)} off the difference it explains."
        )
    return notes


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share < 10 else "over 1,000 %"


def display_scale(width: int, height: int) -> float:
    """By how much [`overlay`] enlarges (over 1, whole) or shrinks (under 1) an image of this size."""
    longest = max(width, height)
    return float(-(-_SMALLEST // longest)) if longest < _SMALLEST else min(1.0, _LARGEST / longest)


def _fit_for_display(image, heatmap) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Photo (H, W, 3), map (0 where not seen) and mask at display size, all resized alike so that they stay aligned."""
    scale = display_scale(image.width, image.height)
    seen = np.isfinite(heatmap)
    heat = np.where(seen, heatmap, 0)
    if scale >= 1:
        times = int(scale)
        return tuple(
            a.repeat(times, 0).repeat(times, 1) for a in (np.asarray(image, np.float32), heat, seen)
        )
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))

    def shrink(array):
        return np.asarray(
            Image.fromarray(array.astype(np.float32)).resize(size, Image.Resampling.BOX)
        )

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


def _outline(
    picture: Image.Image, regions: Sequence[EvidenceRegion], scale: tuple[float, float]
) -> None:
    """Draw the regions' outlines, dark on light so that they show on anything, and their shares."""
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(13)
    for region in regions:
        points = [(x * scale[0], y * scale[1]) for x, y in region.outline]
        for colour, width in (("white", 4), (_INK, 2)):
            draw.line([*points, points[0]], fill=colour, width=width, joint="curve")
    for region in regions:
        text = f"{100 * region.share:.0f} %"
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        x = min(max(0, region.box[0] * scale[0]), max(0, picture.width - right - 8))
        y = region.box[1] * scale[1] - bottom - 8
        # Above the region, or inside it where there is no room.
        y = y if y >= 0 else min(region.box[1] * scale[1] + 2, max(0, picture.height - bottom - 6))
        draw.rectangle((x, y, x + right + 6, y + bottom + 4), fill="white", outline=_INK)
        draw.text((x + 3, y + 1), text, fill=_INK, font=font)


def _wrapped(text: str, font, width: int) -> list[str]:
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
    written = [text for note in notes for text in _wrapped(note, font, bar_width)]
    rows = 1 + hidden + len(written)
    canvas = Image.new(
        "RGB", (canvas_width, height + 2 * margin + size + 4 + rows * line), "white"
    )
    canvas.paste(picture, ((canvas_width - width) // 2, 0))
    draw = ImageDraw.Draw(canvas)

    # The same blend as in the picture, over a middle grey.
    ramp = np.broadcast_to(np.linspace(-1, 1, bar_width, dtype=np.float32), (size, bar_width))
    bar = _coloured(np.full((size, bar_width, 3), 160, dtype=np.float32), ramp, max(opacity, 0.25))
    left, top = (canvas_width - bar_width) // 2, height + margin
    canvas.paste(Image.fromarray(bar.round().astype(np.uint8)), (left, top))
    draw.rectangle((left - 1, top - 1, left + bar_width, top + size), outline=(120, 120, 120))

    other = next(name for name in NAMES if name != target)
    y, ink = top + size + 4, _INK
    draw.text((left, y), f"speaks for {_WORDS[other]}", fill=ink, font=font)
    draw.text(
        (left + bar_width, y), f"speaks for {_WORDS[target]}", fill=ink, font=font, anchor="ra"
    )
    draw.text(
        (left + bar_width / 2, y),
        "no evidence" if empty else "neither",
        fill=ink,
        font=font,
        anchor="ma",
    )
    if hidden:
        swatch = np.full((size, 2 * size, 3), 160, dtype=np.float32)
        swatch = _hatched(swatch, swatch, np.zeros(swatch.shape[:2], dtype=bool))
        y += line
        canvas.paste(Image.fromarray(swatch), (left, y))
        draw.rectangle((left - 1, y - 1, left + 2 * size, y + size), outline=(120, 120, 120))
        draw.text((left + 2 * size + 8, y - 2), "not examined by the model", fill=ink, font=font)
    for text in written:
        y += line
        draw.text((left, y - 2), text, fill=ink, font=font)
    return canvas
