"""Properties of the rows of a loaded corpus: labels, columns, groups, a fingerprint."""

import hashlib

import numpy as np
from datasets import Dataset

from realfake.imaging.decode import image_bytes
from realfake.labels import AI


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
    """Return a hash of the bytes of a dataset's images, in their order.

    Returns:
        The first 16 hexadecimal digits of a SHA-256.
    """
    digest = hashlib.sha256()
    for row in dataset.select_columns(["image"]):
        digest.update(image_bytes(row["image"]))
    return digest.hexdigest()[:16]
