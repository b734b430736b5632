"""Hold a generator, a family or a source out of training, as a split that is measured separately.

Rows move from train and validation into the split `held_out`. `--hold_out` names the values;
`leave-one-out` repeats a training for every value.
"""

from collections.abc import Sequence

import numpy as np
from datasets import Dataset, concatenate_datasets

from realfake.corpus.load import Corpus
from realfake.corpus.report import count_rows
from realfake.corpus.rows import column as column_of
from realfake.corpus.splits import TRAIN, VALIDATION, carve
from realfake.labels import NAMES

HELD_OUT = "held_out"
# At most this share of the training images of the other class is held out for comparison.
_COUNTERPARTS = 0.15


def parse_hold_out(text: str | None) -> tuple[str, list[str]] | None:
    """Read `generator=dall-e 2,midjourney`: a column and its values.

    Raises:
        ValueError: The text does not have that form.
    """
    if not text:
        return None
    column, equals, listed = text.partition("=")
    values = [value.strip() for value in listed.split(",") if value.strip()]
    if not equals or not column.strip() or not values:
        raise ValueError(f"--hold_out must look like 'generator=midjourney,dall-e', not {text!r}.")
    return column.strip(), list(dict.fromkeys(values))


def hold_out(corpus: Corpus, column: str, values: Sequence[str], seed: int = 42) -> Corpus:
    """Move the rows with certain values from train and validation into the split `held_out`.

    The other rows of their groups leave train and validation too. Those of the other class move as
    well, such as the photograph that a generated image was made from; those of the same class are
    dropped. If all moved rows have one class, as many images of the other class are drawn from
    train, whole groups at a time, but at most 15 % of them. Test does not change.

    Args:
        corpus: The corpus; it is changed.
        column: A text column: `generator`, `family`, `source`, …
        values: Values of that column.
        seed: Seed of the draw.

    Returns:
        The same corpus.

    Raises:
        ValueError: The corpus is streamed, has no such column or value, or a split would lack a
            class.
    """
    train, validation = corpus.splits[TRAIN], corpus.splits[VALIDATION]
    if not isinstance(train, Dataset):
        raise ValueError("--hold_out does not work with a stream; leave out --streaming.")
    texts = [name for name in train.column_names if name not in ("image", "label", "group")]
    if column not in texts:
        raise ValueError(
            f"--hold_out: the corpus has no column {column!r}; it has {', '.join(texts) or 'none'}."
        )
    both = concatenate_datasets([train, validation])
    present = {value for value in both[column] if value is not None}
    unknown = [value for value in values if value not in present]
    if unknown:
        raise ValueError(
            f"--hold_out: train and validation hold no {column} {', '.join(map(repr, unknown))}; "
            f"there are: {', '.join(sorted(present))}."
        )
    labels = np.asarray(_labels(both))
    hit = np.isin(np.asarray([value or "" for value in both[column]]), list(values))
    groups = column_of(both, "group")
    same_group = np.zeros_like(hit)
    if groups:
        touched = {group for group, here in zip(groups, hit) if here and group is not None}
        same_group = np.asarray([group in touched for group in groups], dtype=bool) & ~hit
    held = hit | (same_group & ~np.isin(labels, np.unique(labels[hit])))
    free = (np.arange(len(both)) < len(train)) & ~hit & ~same_group
    drawn = _counterparts(both, labels, groups, held, free, seed)

    gone = hit | same_group | drawn
    report = corpus.report
    for split, rows in {
        TRAIN: train.select(np.flatnonzero(~gone[: len(train)])),
        VALIDATION: validation.select(np.flatnonzero(~gone[len(train) :])),
        HELD_OUT: both.select(np.flatnonzero(held | drawn)),
    }.items():
        counts = count_rows(_labels(rows), column_of(rows, "group"), column_of(rows, "generator"))
        report.splits[split] = counts
        lacking = [name for name in NAMES if not counts[name]]
        if lacking and split != HELD_OUT:
            raise ValueError(
                f"--hold_out leaves no {lacking[0]!r} image in {split} ({counts['rows']:,} rows); "
                "hold out less."
            )
        corpus.splits[split] = rows
    report.origins[HELD_OUT] = (
        f"{column} {', '.join(values)}, taken out of train and validation with their groups, and "
        f"{int(drawn.sum()):,} images of the other class, taken out of train (seed {seed})"
    )
    lost = int((same_group & ~held).sum())
    if lost:
        report.notes.append(
            f"{lost:,} rows are not used, because they share a group with held-out rows."
        )
    return corpus


def _counterparts(
    both: Dataset,
    labels: np.ndarray,
    groups: list[str | None] | None,
    held: np.ndarray,
    free: np.ndarray,
    seed: int,
) -> np.ndarray:
    """Draw free rows of the class that the held-out rows lack, (n,) bool."""
    chosen: np.ndarray = np.zeros(len(both), dtype=bool)
    counts = {name: int((labels[held] == name).sum()) for name in NAMES}
    less, more = sorted(NAMES, key=counts.__getitem__)
    candidates = np.flatnonzero(free & (labels == less))
    if groups is not None:
        # A group of both classes stays in train as a whole.
        mixed = {
            group for group, label in zip(groups, labels) if group is not None and label == more
        }
        candidates = np.asarray([row for row in candidates if groups[row] not in mixed], np.int64)
    wanted = min(counts[more] - counts[less], int(_COUNTERPARTS * len(candidates)))
    if counts[less] or wanted < 1:
        return chosen
    strata = column_of(both, "source") or column_of(both, "generator")
    share = wanted / len(candidates)
    picked, _ = carve(
        [less] * len(candidates),
        [groups[row] for row in candidates] if groups is not None else None,
        [share, 1 - share],
        seed,
        [strata[row] for row in candidates] if strata is not None else None,
    )
    chosen[candidates[picked]] = True
    return chosen


def _labels(rows: Dataset) -> list[str]:
    names = rows.features["label"].names
    return [names[label] for label in rows["label"]]
