"""Rows as a source has them, and what every kind of source does to them: their image column is called `image` and is not decoded."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.compute
from datasets import Dataset, Features, Image, IterableDataset, Value

from realfake.labels import AI


@dataclass
class Source:
    """What was read.

    Args:
        splits: `{name found: rows}`; each has a column `image` of type `Image(decode=False)`.
        kind: What the source turned out to be, for the report.
        image_column: Name that the image column had.
        notes: What a person should know: files passed over, and the like.
    """

    splits: dict[str, Dataset | IterableDataset]
    kind: str
    image_column: str = "image"
    notes: list[str] = field(default_factory=list)


def features_of(rows: Dataset | IterableDataset) -> Features:
    if rows.features is not None:
        return rows.features
    # A streamed format without a schema: look at the first rows.
    return Dataset.from_list(list(rows.take(20))).features


def is_text(feature) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string", "string_view")


def undecoded(
    rows: Dataset | IterableDataset, features: Features, column: str
) -> Dataset | IterableDataset:
    """Name the image column `image` and keep datasets from decoding it."""
    if isinstance(rows, IterableDataset) and rows.features is not None:
        # Hub streams are decoded by threads of their own, which a cast does not reach.
        rows = rows.decode(False)
    if column != "image":
        if "image" in features:
            rows = rows.remove_columns("image")
        rows = rows.rename_column(column, "image")
    return rows.cast_column("image", Image(decode=False))


def with_paths(rows: Dataset, column: str, folder: Path) -> Dataset:
    """Make paths that are relative to `folder` absolute, in a column of paths or of images that are paths only."""
    if not len(rows):
        return rows
    if is_text(rows.features[column]):
        paths = rows[column][:]
    else:
        chunks = rows.data.column(column).chunks
        if not all(
            pyarrow.types.is_struct(chunk.type) and _is_empty(chunk, "bytes") for chunk in chunks
        ):
            return rows
        paths = [value and value.get("path") for chunk in chunks for value in chunk.to_pylist()]
    urls = [path for path in paths if path and path.lower().startswith(("http://", "https://"))]
    if urls:
        raise ValueError(
            f"Column {column!r} holds URLs ({urls[0][:80]} for one); download the images and name the files instead."
        )
    values = [
        {"bytes": None, "path": os.path.join(folder, path) if path else None} for path in paths
    ]
    return rows.remove_columns(column).add_column(column, values, feature=Image(decode=False))


def _is_empty(chunk, field_name: str) -> bool:
    names = [chunk.type.field(i).name for i in range(chunk.type.num_fields)]
    return field_name not in names or pyarrow.compute.struct_field(
        chunk, field_name
    ).null_count == len(chunk)


def listed(files: Sequence[Path], root: Path, most: int = 3) -> str:
    names = [str(file.relative_to(root)) for file in files[:most]]
    return ", ".join(names) + (f" and {len(files) - most} more" if len(files) > most else "")


def one_line(error: BaseException, length: int = 300) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= length else f"{text[: length - 1]}…"


def is_ai(dataset: Dataset) -> np.ndarray:
    """Return which rows of a dataset are `ai`, boolean array of shape `(len(dataset),)`."""
    return np.asarray(dataset["label"]) == dataset.features["label"].names.index(AI)


def column(dataset: Dataset, name: str) -> list[str] | None:
    """Return a column of a dataset, or `None` where the corpus does not have it."""
    return list(dataset[name]) if name in dataset.column_names else None


def own_groups(groups: list | None) -> list[str] | None:
    """Give every image without a group one of its own."""
    if groups is None:
        return None
    return [str(group) if group else f"\0{row}" for row, group in enumerate(groups)]


def corpus_fingerprint(dataset: Dataset) -> str:
    """Hash the bytes of a dataset's images, in their order, so that a figure names what it was measured on.

    Returns:
        The first 16 hexadecimal digits of a SHA-256.
    """
    digest = hashlib.sha256()
    for row in dataset.select_columns(["image"]):
        content = row["image"]["bytes"]
        digest.update(content if content is not None else Path(row["image"]["path"]).read_bytes())
    return digest.hexdigest()[:16]
