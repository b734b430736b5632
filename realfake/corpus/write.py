"""Write a corpus with its splits, as class folders or as Parquet files with a card.

`corpus prepare` writes the images unchanged or encoded again; `corpus audit --equalize` writes a
copy without leaks. Files are opened here because datasets would read `::` in a path as a URL.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image
from huggingface_hub import DatasetCardData
from PIL import Image as PILImage

from realfake.formatting import md
from realfake.imaging.decode import image_bytes, open_image
from realfake.imaging.limits import is_heif
from realfake.labels import AI, NAMES, REAL

# Size of a Parquet file. The images of one file are held in memory.
SHARD_BYTES = 256 * 2**20
# Sides of equalized images are multiples of this, so that many images share a size.
GRID_SIDE = 8
EQUAL_QUALITY = 90
_SIGNATURES = (
    (b"\xff\xd8", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"\0\0\0\x0cjP", ".jp2"),
    (b"P5", ".pgm"),
    (b"P6", ".ppm"),
)


def encoded(image: Mapping, resize: int | None = None, encoding: str | None = None) -> bytes:
    """Return an image's file, unchanged or encoded again.

    Args:
        image: An undecoded image, `{"bytes", "path"}`.
        resize: *optional*. Longest side in pixels; larger images are shrunk.
        encoding: `"jpeg"` (quality 95, 4:4:4), `"png"`, or `None` to keep the bytes.

    Raises:
        ValueError: The image cannot be decoded.
        OSError: The file cannot be read.
    """
    if encoding is None:
        return image_bytes(image)
    pixels = open_image(image)
    if resize is not None:
        pixels.thumbnail((resize, resize), PILImage.Resampling.LANCZOS)
    options = {"quality": 95, "subsampling": 0} if encoding == "jpeg" else {}
    return saved(pixels, encoding, **options)


def equalized(image: Any, width: int, height: int) -> bytes | None:
    """Return the centre of an image as JPEG of quality 90, 4:2:0, without metadata.

    Args:
        image: Any image that [`~realfake.imaging.decode.open_image`] opens.

    Returns:
        `None` if the image is smaller.

    Raises:
        ValueError: The image cannot be decoded.
        OSError: The file cannot be read.
    """
    pixels = open_image(image)
    left, top = (pixels.width - width) // 2, (pixels.height - height) // 2
    if left < 0 or top < 0:
        return None
    cropped = pixels.crop((left, top, left + width, top + height))
    return saved(cropped, "jpeg", quality=EQUAL_QUALITY, subsampling="4:2:0")


def saved(pixels: PILImage.Image, encoding: str, **options: Any) -> bytes:
    """Return an image as a file; the options are those of Pillow's encoder."""
    buffer = BytesIO()
    pixels.save(buffer, encoding.upper(), **options)
    return buffer.getvalue()


def suffix_of(data: bytes) -> str:
    """Return the file name suffix of an image file, by its first bytes."""
    for signature, suffix in _SIGNATURES:
        if data.startswith(signature):
            return suffix
    if data[4:8] == b"ftyp":
        return ".heic" if is_heif(data) else ".avif"
    return ".webp"


def files_of(
    rows: Iterable[dict], resize: int | None = None, encoding: str | None = None
) -> Iterator[tuple[str, bytes, dict]]:
    """Yield for each row the name of its file, the file, and the other columns."""
    for index, row in enumerate(rows):
        data = encoded(row.pop("image"), resize, encoding)
        yield f"{index:06d}{suffix_of(data)}", data, row


def write_folders(
    output: Path, split: str, rows: Dataset, files: Iterator[tuple[str, bytes, dict]]
) -> None:
    """Write `split/label/file`, and a `split/metadata.csv` that datasets' `imagefolder` reads."""
    for label in NAMES:
        (output / split / label).mkdir(parents=True)
    names = rows.features["label"].names
    columns = [name for name in rows.column_names if name != "image"]
    with open(output / split / "metadata.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["file_name", *columns])
        writer.writeheader()
        for name, data, row in files:
            row["label"] = names[row["label"]]
            path = f"{row['label']}/{name}"
            (output / split / path).write_bytes(data)
            writer.writerow({"file_name": path, **row})


def write_parquet(
    output: Path, split: str, rows: Dataset, files: Iterator[tuple[str, bytes, dict]]
) -> None:
    """Write `data/split-00000-of-00001.parquet`, …; for the arguments see [`write_folders`]."""
    folder = output / "data"
    folder.mkdir(parents=True, exist_ok=True)
    # The stored feature is an image, so that every reader decodes it.
    features = Features({**rows.features, "image": Image()})
    columns: dict[str, list] = {name: [] for name in features}
    size = 0
    shards: list[Path] = []

    def flush() -> None:
        nonlocal size
        shards.append(folder / f".{split}-{len(shards):05d}")
        with open(shards[-1], "wb") as file:
            Dataset.from_dict(columns, features=features).to_parquet(file)
        size = 0
        for values in columns.values():
            values.clear()

    for name, data, row in files:
        columns["image"].append({"bytes": data, "path": name})
        for column, value in row.items():
            columns[column].append(value)
        size += len(data)
        if size >= SHARD_BYTES:
            flush()
    if size:
        flush()
    for index, path in enumerate(shards):
        path.rename(folder / f"{split}-{index:05d}-of-{len(shards):05d}.parquet")


def write_report(output: Path, report: Mapping) -> None:
    """Write `report.json`."""
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    (output / "report.json").write_text(text, encoding="utf-8", errors="backslashreplace")


def write_card(
    output: Path,
    name: str,
    counts: Mapping[str, Mapping],
    column: str,
    values: Mapping[str, str],
    paragraphs: Sequence[str],
) -> None:
    """Write a dataset card `README.md`, with the metadata that names the splits' files.

    Args:
        counts: `{split: {"real": rows, "ai": rows}}`
        column: Heading of the table's last column.
        values: That column by split.
        paragraphs: Text after the table.
    """
    files = [{"split": split, "path": f"data/{split}-*"} for split in counts]
    data = DatasetCardData(
        pretty_name=name,
        task_categories=["image-classification"],
        tags=["ai-generated-image-detection"],
        configs=[{"config_name": "default", "data_files": files}],
    )
    table = [f"| split | real | ai | {column} |", "| --- | ---: | ---: | --- |"]
    for split, row in counts.items():
        table.append(f"| {split} | {row[REAL]:,} | {row[AI]:,} | {md(values[split])} |")
    licence = "State here where the images come from and under which licence they may be used."
    introduction = "Photographs (`real`) and AI-generated images (`ai`)."
    parts = [f"# {md(name)}", introduction, "\n".join(table), *paragraphs, licence]
    text = f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"
    (output / "README.md").write_text(text, encoding="utf-8", errors="backslashreplace")
