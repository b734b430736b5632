"""Images laid out as one picture, each with its label: what a dry run and the audit of a corpus show."""

import os
import textwrap
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..plot_style import COLOURS, GREY, INK
from ..records import write_atomically


def batch_sheet(
    path: str | os.PathLike,
    images: Sequence[Image.Image],
    labels: Sequence[str],
    captions: Sequence[str] | None = None,
    columns: int = 4,
    tile: int = 224,
) -> Path:
    """Lay out images as the model is given them, each with its label: what a dry run shows.

    Args:
        path: The PNG to write.
        images: RGB images. Those larger than a tile are reduced, small ones are enlarged by whole pixels.
        labels: `"real"` or `"ai"` for each.
        captions: *optional*. A few words for each, such as the source.
        columns: Images in a row, *defaults to* 4.
        tile: Side of a tile in pixels, *defaults to* 224.

    Raises:
        ValueError: No images, or not one label (and caption) for each.
    """
    captions = [""] * len(images) if captions is None else list(captions)
    if not len(images) or not len(images) == len(labels) == len(captions):
        raise ValueError(
            f"A sheet needs a label and a caption for each image, not {len(images)} images, {len(labels)} labels "
            f"and {len(captions)} captions."
        )
    gap, text_height = 10, 40
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (gap + columns * (tile + gap), gap + rows * (tile + text_height + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for index, (image, label, caption) in enumerate(zip(images, labels, captions, strict=True)):
        left = gap + index % columns * (tile + gap)
        top = gap + index // columns * (tile + text_height + gap)
        shown = image.convert("RGB")
        if max(shown.size) > tile:
            shown.thumbnail((tile, tile), Image.Resampling.LANCZOS)
        elif (times := tile // max(shown.size)) > 1:
            shown = shown.resize((shown.width * times, shown.height * times), Image.Resampling.NEAREST)
        sheet.paste(shown, (left + (tile - shown.width) // 2, top + (tile - shown.height) // 2))
        draw.rectangle(
            (left - 3, top - 3, left + tile + 2, top + tile + 2), outline=COLOURS.get(label, GREY), width=2
        )
        draw.text((left, top + tile + 4), label, fill=COLOURS.get(label, INK), font=font)
        draw.text((left, top + tile + 20), _shorten(caption, font, tile), fill=INK, font=font)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    write_atomically(path, buffer.getvalue())
    return path


def _shorten(text: str, font, width: int) -> str:
    text = " ".join(str(text).split())
    while text and font.getlength(text) > width:
        text = (
            textwrap.shorten(text, len(text) - 1, placeholder="…")
            if " " in text
            else text.rstrip("…")[:-1] + "…"
        )
    return text
