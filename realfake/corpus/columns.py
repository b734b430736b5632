"""Which columns of a corpus hold the image and the class, and what their values are called.

Used by the corpus loader for rows of every origin, streamed or not. Classes leave this module by name.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from datasets import ClassLabel, Features, Image, Value

from realfake.labels import AI, resolve

IMAGE_COLUMNS = (
    "image",
    "img",
    "images",
    "file",
    "file_name",
    "filename",
    "path",
    "file_path",
    "filepath",
    "image_path",
    "image_file",
    "jpg",
    "jpeg",
    "png",
    "webp",
)
LABEL_COLUMNS = ("label", "labels", "class", "target")
# Kept as text where a corpus has them.
TEXT_COLUMNS = ("generator", "group", "source", "family", "subject")
UNKNOWN_GENERATOR = "unknown"
NO_GENERATOR = "none"

_MOST_CLASSES = 100


def find_image_column(features: Features, asked: str | None, source: str) -> str:
    """Name the column that holds the images.

    Raises:
        ValueError: It cannot be told, or `asked` does not exist. The message lists the columns.
    """
    listed = ", ".join(features)
    if asked is not None:
        if asked not in features:
            raise ValueError(
                f"{source} has no column {asked!r} (--image_column); its columns are: {listed}."
            )
        return asked
    typed = [name for name, feature in features.items() if isinstance(feature, Image)]
    if len(typed) == 1:
        return typed[0]
    by_name = {name.lower(): name for name in (typed or features)}
    for name in IMAGE_COLUMNS:
        if name in by_name:
            return by_name[name]
    what = "several image columns" if typed else "no image column"
    raise ValueError(
        f"{source} has {what}; its columns are: {listed}. Name one with --image_column."
    )


def find_label_column(features: Features, asked: str | None, source: str) -> str:
    """Name the column that holds the classes.

    Raises:
        ValueError: There is none. The message lists the columns.
    """
    columns = [name for name in features if name != "image"]
    listed = ", ".join(columns) or "none besides the image"
    if asked is not None:
        if asked not in columns:
            raise ValueError(
                f"{source} has no column {asked!r} (--label_column); its columns are: {listed}."
            )
        return asked
    by_name = {name.lower(): name for name in columns}
    for name in LABEL_COLUMNS:
        if name in by_name:
            return by_name[name]
    raise ValueError(
        f"{source} has no label column ({', '.join(LABEL_COLUMNS)}); its columns are: {listed}. "
        "Name one with --label_column."
    )


def class_names(values: Sequence, feature, column: str, source: str) -> list[str | None]:
    """Every label as the name of its class; `None` where there is none (null, empty, or -1 of a `ClassLabel`)."""
    if isinstance(feature, ClassLabel):
        return [
            feature.names[value] if value is not None and value >= 0 else None for value in values
        ]
    if not isinstance(feature, Value):
        raise ValueError(
            f"{source}: column {column!r} holds {type(feature).__name__} values, not one class per image; name another "
            "one with --label_column."
        )
    return [as_text(value) for value in values]


def as_texts(values: Sequence, feature) -> list[str | None]:
    """Values of a descriptive column as text, `None` where they are missing."""
    if isinstance(feature, ClassLabel):
        return [
            feature.names[value] if value is not None and value >= 0 else None for value in values
        ]
    return [as_text(value) for value in values]


def as_text(value) -> str | None:
    """A value as text, so that 3, 3.0 (a CSV column with gaps) and "3" are the same; `None` where it is missing."""
    if value is None or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None


def resolve_classes(
    seen: Counter, possible: set[str], label_map: Mapping[str, str] | None, column: str, source: str
) -> dict[str, str]:
    """[`~realfake.labels.resolve`] with a message that says where the classes were found and how often.

    Args:
        seen: How many rows each class has.
        possible: Classes that the column's type knows; those without rows need no mapping, but may have one.
        label_map: What the user said.
        column: For the message, like `source`.
    """
    where = f"{source}: column {column!r} holds"
    if not seen and not possible:
        raise ValueError(f"{where} no labels at all; name another one with --label_column.")
    if len(seen) > _MOST_CLASSES:
        examples = ", ".join(sorted(seen)[:5])
        raise ValueError(
            f"{where} {len(seen):,} different values ({examples}, …), too many for classes; name another one with "
            "--label_column."
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
    """Name what is missing in a `generator` column: `"unknown"` for an AI image, `"none"` for a real one."""
    return [
        name or (UNKNOWN_GENERATOR if label == AI else NO_GENERATOR)
        for name, label in zip(names, labels)
    ]
