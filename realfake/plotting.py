"""The common style of all plots, and contact sheets of images.

Matplotlib is used through its object-oriented `Figure`, without global state. It is slow to import,
so it is imported only when a plot is drawn.
"""

import os
import textwrap
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from realfake.io import write_atomically
from realfake.labels import AI, REAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# From Okabe and Ito's palette for the colour-blind; line styles and markers differ as well.
COLOURS = {REAL: "#0072B2", AI: "#D55E00"}
GREY = "#6E6E6E"
INK = "#222222"
DPI = 110


def new_figure(width: float, height: float) -> "Figure":
    """Return a Matplotlib `Figure` of this size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")


def plain_axes(axes: "Axes", title: str | None = None) -> "Axes":
    """Apply the common style to axes, with an optional title."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#E3E3E3", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9)
    if title:
        axes.set_title(title, fontsize=10.5, color=INK, loc="left")
    return axes


def save(figure: "Figure", path: str | os.PathLike) -> Path:
    """Write a figure as a PNG."""
    buffer = BytesIO()
    # Without the software tag, equal figures have equal bytes.
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return _write(path, buffer)


def _write(path: str | os.PathLike, buffer: BytesIO) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
    return path


def plain_text(text: str) -> str:
    """Escape text for Matplotlib, which reads "$" as the start of a formula."""
    return str(text).replace("$", r"\$")


def batch_sheet(
    path: str | os.PathLike,
    images: Sequence[Image.Image],
    labels: Sequence[str],
    captions: Sequence[str] | None = None,
    columns: int = 4,
    tile: int = 224,
) -> Path:
    """Draw images on a contact sheet, each with its label.

    Args:
        images: RGB images. Large ones are shrunk to a tile, small ones are enlarged by an integer.
        labels: `"real"` or `"ai"` for each.
        tile: Side of a tile in pixels, *defaults to* 224.

    Raises:
        ValueError: There are no images, or not one label (and caption) for each.
    """
    captions = [""] * len(images) if captions is None else list(captions)
    if not len(images) or not len(images) == len(labels) == len(captions):
        raise ValueError(
            f"A sheet needs a label and a caption for each image, not {len(images)} images, "
            f"{len(labels)} labels and {len(captions)} captions."
        )
    gap, text_height = 10, 40
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    size = gap + columns * (tile + gap), gap + rows * (tile + text_height + gap)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for index, (image, label, caption) in enumerate(zip(images, labels, captions, strict=True)):
        left = gap + index % columns * (tile + gap)
        top = gap + index // columns * (tile + text_height + gap)
        shown = image.convert("RGB")
        if max(shown.size) > tile:
            shown.thumbnail((tile, tile), Image.Resampling.LANCZOS)
        elif (times := tile // max(shown.size)) > 1:
            size = shown.width * times, shown.height * times
            shown = shown.resize(size, Image.Resampling.NEAREST)
        sheet.paste(shown, (left + (tile - shown.width) // 2, top + (tile - shown.height) // 2))
        frame = left - 3, top - 3, left + tile + 2, top + tile + 2
        draw.rectangle(frame, outline=COLOURS.get(label, GREY), width=2)
        draw.text((left, top + tile + 4), label, fill=COLOURS.get(label, INK), font=font)
        draw.text((left, top + tile + 20), _shorten(caption, font, tile), fill=INK, font=font)
    buffer = BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return _write(path, buffer)


def _shorten(text: str, font, width: int) -> str:
    text = " ".join(str(text).split())
    while text and font.getlength(text) > width:
        if " " in text:
            text = textwrap.shorten(text, len(text) - 1, placeholder="…")
        else:
            text = text.rstrip("…")[:-1] + "…"
    return text
