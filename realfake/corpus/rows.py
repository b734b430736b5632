"""The rows of a corpus: find the image and label columns, map labels to `real` and `ai`, read rows.

The corpus loader uses the first half for every kind of source, streamed or not. Code that
measures a loaded corpus uses the second half.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, Value

from realfake.imaging.decode import image_bytes
from realfake.labels import AI, resolve

IMAGE_COLUMNS = (
    *("image", "img", "images", "file", "file_name", "filename", "path", "file_path", "filepath"),
    *("image_path", "image_file", "jpg", "jpeg", "png", "webp"),
)
LABEL_COLUMNS = ("label", "labels", "class", "target")
# Further columns, which are kept as text.
TEXT_COLUMNS = ("generator", "group", "source", "family", "subject")
UNKNOWN_GENERATOR = "unknown"
NO_GENERATOR = "none"

_MOST_CLASSES = 100


def find_image_column(features: Features, asked: str | None, source: str) -> str:
    """Return the name of the column that holds the images.

    Raises:
        ValueError: `asked` does not exist, or no column or more than one column qualifies.
    """
    if asked is not None:
        return _existing(asked, features, "--image_column", source)
    typed = [name for name, feature in features.items() if isinstance(feature, Image)]
    if len(typed) == 1:
        return typed[0]
    by_name = {name.lower(): name for name in (typed or features)}
    for name in IMAGE_COLUMNS:
        if name in by_name:
            return by_name[name]
    problem = "several image columns" if typed else "no image column"
    raise ValueError(
        f"{source} has {problem}; its columns are: {', '.join(features)}. Name one with "
        "--image_column."
    )


def _existing(asked: str, columns: Collection[str], option: str, source: str) -> str:
    listed = ", ".join(columns) or "none, apart from the image"
    if asked not in columns:
        raise ValueError(f"{source} has no column {asked!r} ({option}); its columns are: {listed}.")
    return asked


@dataclass(frozen=True)
class Columns:
    """The label column of each split, and the text columns of any of them."""

    labels: dict[str, str]
    texts: tuple[str, ...]

    @property
    def label(self) -> str:
        """The label column, for messages."""
        return list(self.labels.values())[-1]


def find_columns(features: Mapping[str, Features], asked: str | None, source: str) -> Columns:
    """Find the label and text columns of the splits `{split: features}`."""
    labels = {split: find_label_column(each, asked, source) for split, each in features.items()}
    present = {name for each in features.values() for name in each} - set(labels.values())
    return Columns(labels, tuple(name for name in TEXT_COLUMNS if name in present))


def find_label_column(features: Features, asked: str | None, source: str) -> str:
    """Return the name of the column that holds the classes.

    Raises:
        ValueError: `asked` does not exist, or no column qualifies.
    """
    columns = [name for name in features if name != "image"]
    if asked is not None:
        return _existing(asked, columns, "--label_column", source)
    by_name = {name.lower(): name for name in columns}
    for name in LABEL_COLUMNS:
        if name in by_name:
            return by_name[name]
    raise ValueError(
        f"{source} has no label column ({', '.join(LABEL_COLUMNS)}); its columns are: "
        f"{', '.join(columns) or 'none, apart from the image'}. Name one with --label_column."
    )


def features_of(rows: Dataset | IterableDataset) -> Features:
    """Return the features of a dataset, from its first rows if a stream has no schema."""
    if rows.features is not None:
        return rows.features
    return Dataset.from_list(list(rows.take(20))).features


def is_text(feature: Any) -> bool:
    """Return whether a feature holds strings."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string", "string_view")


def undecoded(
    rows: Dataset | IterableDataset, features: Features, column: str
) -> Dataset | IterableDataset:
    """Rename the image column to `image` and switch off its decoding."""
    if isinstance(rows, IterableDataset) and rows.features is not None:
        # Streams from the Hub are decoded in threads, which a cast does not reach.
        rows = rows.decode(False)
    if column != "image":
        if "image" in features:
            rows = rows.remove_columns("image")
        rows = rows.rename_column(column, "image")
    return rows.cast_column("image", Image(decode=False))


def class_names(values: Sequence, feature: Any, column: str, source: str) -> list[str | None]:
    """Return every label as the name of its class.

    Returns:
        `None` where a label is missing: null, empty, or -1 of a `ClassLabel`.

    Raises:
        ValueError: The column does not hold one class per image.
    """
    if not isinstance(feature, ClassLabel | Value):
        raise ValueError(
            f"{source}: column {column!r} holds {type(feature).__name__} values, not one class per "
            "image; name another one with --label_column."
        )
    return as_texts(values, feature)


def as_texts(values: Sequence, feature: Any) -> list[str | None]:
    """Return the values of a column as text, `None` where they are missing."""
    if isinstance(feature, ClassLabel):
        return [
            feature.names[value] if value is not None and value >= 0 else None for value in values
        ]
    return [as_text(value) for value in values]


def as_text(value: Any) -> str | None:
    """Return a value as text, so that 3, 3.0 and "3" are equal; `None` where it is missing."""
    if value is None or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None


def resolve_classes(
    seen: Counter, possible: set[str], label_map: Mapping[str, str] | None, column: str, source: str
) -> dict[str, str]:
    """Map the classes of a corpus to `"real"` and `"ai"`.

    Args:
        possible: Classes that the column's type names. Those without rows need no mapping.

    Raises:
        ValueError: As [`~realfake.labels.resolve`]. The message lists the classes with their rows.
    """
    where = f"{source}: column {column!r} holds"
    if not seen and not possible:
        raise ValueError(f"{where} no labels; name another one with --label_column.")
    if len(seen) > _MOST_CLASSES:
        examples = ", ".join(sorted(seen)[:5])
        raise ValueError(
            f"{where} {len(seen):,} different values ({examples}, …), too many for classes; name "
            "another one with --label_column."
        )
    names = sorted(set(seen) | (possible & {str(key) for key in label_map or {}}))
    try:
        return resolve(names, label_map)
    except ValueError as error:
        counts = ", ".join(
            f"{name!r} ({seen[name]:,} rows)" if seen[name] else repr(name) for name in names
        )
        raise ValueError(f"{where} {counts}. {error}") from error


def generators(names: Sequence[str | None], labels: Sequence[str | None]) -> list[str]:
    """Fill gaps of a `generator` column: `"unknown"` for AI images, `"none"` for real ones."""
    return [
        name or (UNKNOWN_GENERATOR if label == AI else NO_GENERATOR)
        for name, label in zip(names, labels)
    ]


# Loaded corpora


def is_ai(dataset: Dataset) -> np.ndarray:
    """Return which rows of a dataset are `ai`, boolean array of shape `(len(dataset),)`."""
    return np.asarray(dataset["label"]) == dataset.features["label"].names.index(AI)


def column(dataset: Dataset, name: str) -> list[str] | None:
    """Return a column of a dataset, or `None` where the corpus does not have it."""
    return list(dataset[name]) if name in dataset.column_names else None


def own_groups(groups: list | None) -> list[str] | None:
    """Replace every missing group by one that no other image has."""
    if groups is None:
        return None
    return [str(group) if group else f"\0{row}" for row, group in enumerate(groups)]


def corpus_fingerprint(dataset: Dataset) -> str:
    """Return a hash of the bytes of a dataset's images, in their order."""
    digest = hashlib.sha256()
    for row in dataset.select_columns(["image"]):
        digest.update(image_bytes(row["image"]))
    return digest.hexdigest()[:16]
