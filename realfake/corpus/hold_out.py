"""Leave a generator, a family or a source out of training and measure it by itself, so that test need not be looked at.

Between the corpus loader and the training: rows move from train and validation into a split of their own. `--hold_out`
asks for it; `scripts/leave_one_out.py` does it for one value after the other.
"""

from collections.abc import Sequence

import numpy as np
from datasets import Dataset, concatenate_datasets

from realfake.corpus.load import Corpus
from realfake.corpus.report import count_rows
from realfake.corpus.splits import TRAIN, VALIDATION, carve
from realfake.labels import NAMES

HELD_OUT = "held_out"
# Of the training images of the other class, so many at most are held out to stand against them.
_COUNTERPARTS = 0.15


def parse_hold_out(text: str | None) -> tuple[str, list[str]] | None:
    """Read `generator=dall-e 2,midjourney`: a column and its values.

    Raises:
        ValueError: It does not have that form.
    """
    if not text:
        return None
    column, equals, listed = text.partition("=")
    values = [value.strip() for value in listed.split(",") if value.strip()]
    if not equals or not column.strip() or not values:
        raise ValueError(f"--hold_out must look like 'generator=midjourney,dall-e', not {text!r}.")
    return column.strip(), list(dict.fromkeys(values))


def hold_out(corpus: Corpus, column: str, values: Sequence[str], seed: int = 42) -> Corpus:
    """Move the rows with one of these values from train and validation into the split `held_out`.

    All rows of their groups leave too. Those of the other class come along (the photograph that a generated image was
    made from); others, made by generators that stay in train, are left out. Where the rows are of one class, images of the
    other are drawn from train to stand against them, by group: as many, but 15 % of them at most. Test stays as it is.

    Args:
        column: A text column: `generator`, `family`, `source`, …
        values: As they stand there.
        seed: Of the draw.

    Raises:
        ValueError: The corpus is streamed, has no such column or value, or too little of it is left.
    """
    train, validation = corpus.splits[TRAIN], corpus.splits[VALIDATION]
    if not isinstance(train, Dataset):
        raise ValueError("--hold_out cannot look into a stream; leave out --streaming.")
    texts = [name for name in train.column_names if name not in ("image", "label", "group")]
    if column not in texts:
        raise ValueError(
            f"--hold_out: the corpus has no column {column!r}; it has {', '.join(texts) or 'none'}."
        )
    both = concatenate_datasets([train, validation])
    found = {value for value in both[column] if value is not None}
    unknown = [value for value in values if value not in found]
    if unknown:
        raise ValueError(
            f"--hold_out: train and validation hold no {column} {', '.join(map(repr, unknown))}; there are: "
            f"{', '.join(sorted(found))}."
        )
    names = both.features["label"].names
    labels = np.asarray([names[label] for label in both["label"]])
    hit = np.isin(np.asarray([value or "" for value in both[column]]), list(values))
    groups = both["group"][:] if "group" in both.column_names else None
    touched = (
        {group for group, here in zip(groups, hit) if here and group is not None}
        if groups
        else set()
    )
    mate = (
        np.asarray([group in touched for group in groups], dtype=bool) & ~hit
        if groups
        else np.zeros_like(hit)
    )
    held = hit | (mate & ~np.isin(labels, np.unique(labels[hit])))
    drawn = _counterparts(
        both,
        labels,
        groups,
        held,
        free=(np.arange(len(both)) < len(train)) & ~hit & ~mate,
        seed=seed,
    )

    gone = hit | mate | drawn
    parts = {
        TRAIN: train.select(np.flatnonzero(~gone[: len(train)])),
        VALIDATION: validation.select(np.flatnonzero(~gone[len(train) :])),
        HELD_OUT: both.select(np.flatnonzero(held | drawn)),
    }
    report = corpus.report
    for split, rows in parts.items():
        counts = _counts(rows)
        report.splits[split] = counts
        lacking = [name for name in NAMES if not counts[name]]
        if lacking and split != HELD_OUT:
            raise ValueError(
                f"--hold_out leaves no {lacking[0]!r} image in {split} ({counts['rows']:,} rows); hold out less."
            )
        corpus.splits[split] = rows
    report.origins[HELD_OUT] = (
        f"{column} {', '.join(values)}, taken out of train and validation with their groups, and {int(drawn.sum()):,} images "
        f"of the other class, taken out of train (seed {seed})"
    )
    lost = int((mate & ~held).sum())
    if lost:
        report.notes.append(
            f"{lost:,} rows are not used, because they share a group with what is held out."
        )
    return corpus


def _counterparts(both: Dataset, labels, groups, held, free, seed: int) -> np.ndarray:
    """Which of the free rows stand against the held ones, (n,) bool."""
    chosen = np.zeros(len(both), dtype=bool)
    counts = {name: int((labels[held] == name).sum()) for name in NAMES}
    less, more = sorted(NAMES, key=counts.__getitem__)
    candidates = np.flatnonzero(free & (labels == less))
    if groups is not None:
        # A group that holds the other class too stays whole, in train.
        mixed = {
            group for group, label in zip(groups, labels) if group is not None and label == more
        }
        candidates = np.asarray(
            [row for row in candidates if groups[row] not in mixed], dtype=np.int64
        )
    wanted = min(counts[more] - counts[less], int(_COUNTERPARTS * len(candidates)))
    if counts[less] or wanted < 1:
        return chosen
    by = next((name for name in ("source", "generator") if name in both.column_names), None)
    strata = both[by][:] if by else None
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


def _counts(rows: Dataset) -> dict:
    names = rows.features["label"].names
    known = {
        name: rows[name][:] if name in rows.column_names else None
        for name in ("group", "generator")
    }
    return count_rows([names[label] for label in rows["label"]], known["group"], known["generator"])
