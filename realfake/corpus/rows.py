"""What every step after the loader asks of a corpus' rows: their labels, a column that may be missing, and their identity."""

import hashlib
from pathlib import Path

import numpy as np
from datasets import Dataset

from ..labels import AI


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
