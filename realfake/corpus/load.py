"""Load a corpus of photographs and AI-generated images. All commands use this loader.

It reads the rows (`sources`, `local`), maps the labels by name (`columns`), carves missing splits
(`splits`), drops what cannot be decoded (`cleaning`), and reports what it did (`report`). Images
stay undecoded: transforms and detector decode them with [`~realfake.imaging.decode.open_image`].
"""

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Value, concatenate_datasets

from realfake.corpus.report import (
    SHARED_GROUP,
    UNLABELLED,
    UNREADABLE,
    CorpusReport,
    count_rows,
    find_problems,
    image_paths,
    raise_empty,
    require_both,
)
from realfake.corpus.rows import as_texts, class_names, find_columns, generators, resolve_classes
from realfake.corpus.rows import column as column_of
from realfake.corpus.sources import Source, read_source
from realfake.corpus.splits import (
    SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
    assign_roles,
    carve,
    shared_groups,
    subset,
)
from realfake.corpus.streaming import stream_corpus
from realfake.labels import NAMES

logger = logging.getLogger(__name__)

HELD_OUT = "held_out"
# At most this share of the training images of the other class is held out for comparison.
_COUNTERPARTS = 0.15
# Share of all rows, or of the training split, that each missing split gets.
CARVED_FRACTION = 0.15
_EXAMPLES = 3


@dataclass
class Corpus:
    """A corpus ready for training and measuring.

    Args:
        splits: `train`, `validation` and `test`. Features: `image` (`Image(decode=False)`), `label`
            (`ClassLabel(names=["real", "ai"])`), and, where the source has them, the texts
            `generator`, `group`, `source`, `family` and `subject`. A streamed `train` is an
            `IterableDataset`.
        report: What was loaded, and how.
    """

    splits: DatasetDict
    report: CorpusReport


def load_corpus(
    source: str | os.PathLike,
    *,
    config_name: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    train_split: str | None = None,
    validation_split: str | None = None,
    test_split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    label_map: Mapping[str, str] | None = None,
    streaming: bool = False,
    seed: int = 42,
    max_train_samples: int | None = None,
    max_validation_samples: int | None = None,
    max_test_samples: int | None = None,
    num_proc: int | None = None,
    cache_dir: str | None = None,
) -> Corpus:
    """Load, split and clean a corpus.

    **Splits.** Existing splits are recognised by name. A corpus with one split is divided
    70/15/15 into train, validation and test. Where only validation or only test is missing, it
    gets 15 % of train. Carving is stratified by label and generator, seeded, and never divides a
    `group`. Where existing splits share a group, its rows are dropped from train (or validation),
    never from test.

    **Order.** Rows without a label are dropped, then rows of shared groups. Then splits are
    carved and `max_*_samples` rows are drawn, stratified. Only these are decoded, once, to drop
    broken images. So a small `max_*_samples` is fast, a split can be a little smaller than
    requested, and a broken file does not move any other row.

    **Generator.** Where the corpus has this column, a missing value becomes `"unknown"` for an AI
    image and `"none"` for a real one.

    **Streaming.** The training split is not downloaded: its rows are mapped, checked and shuffled
    (buffer of 1,000) while they are read. Images that cannot be decoded are skipped, logged, and
    added to `report.dropped` (in a worker of a `DataLoader` they are only logged). Validation and
    test must exist. They are read into memory, half of each class as far as there are enough
    images.

    Args:
        source: A Hub dataset id; a folder of class folders, with or without folders of splits
            above them and `metadata.csv` or `metadata.jsonl` beside the images, or a ZIP file of
            it; a file, or a folder of files, of type Parquet, Arrow, CSV, TSV, JSON or JSON Lines
            with a column of images or of paths relative to the file; or a folder written by
            `save_to_disk`.
        config_name: Configuration of a Hub dataset, or subfolder of a local one.
        token: Hub token; *defaults to* the one of `hf auth login`.
        train_split: Name of the training split, if it is unusual. `validation_split` and
            `test_split` likewise; for these, `"none"` leaves an existing split unused, so that
            one is carved.
        image_column: Column of the images, if it has an unusual name and type.
        label_map: `{class: "real" or "ai"}` for classes with unusual names.
        seed: Seed of carving, of subsets, and of the shuffling of a stream.
        max_train_samples: Largest number of training rows (in a stream: per epoch).
            `max_validation_samples` and `max_test_samples` likewise; for a stream they *default
            to* 2,000.

    Raises:
        ValueError: Columns, labels or splits are not as needed, or a split is empty or lacks a
            class.
        OSError: The source does not exist or cannot be reached.
    """
    raw = read_source(
        source,
        config_name=config_name,
        revision=revision,
        token=token,
        streaming=streaming,
        image_column=image_column,
        label_map=label_map,
        cache_dir=cache_dir,
    )
    report = CorpusReport(str(source), raw.kind, raw.image_column, notes=list(raw.notes))
    roles = assign_roles(
        list(raw.splits), {TRAIN: train_split, VALIDATION: validation_split, TEST: test_split}
    )
    unused = [name for name in raw.splits if name not in roles.values()]
    if unused:
        report.notes.append(f"The splits {', '.join(unused)} are not used.")
    limits = {TRAIN: max_train_samples, VALIDATION: max_validation_samples, TEST: max_test_samples}
    for split, limit in limits.items():
        if limit is not None and limit < 2:
            raise ValueError(
                f"--max_{split}_samples must be at least 2, one image of each class, not {limit}."
            )
    if streaming:
        splits = stream_corpus(raw, roles, label_column, label_map, limits, seed, token, report)
        return Corpus(splits, report)

    for split, name in roles.items():
        if not len(raw.splits[name]):
            raise_empty(split, "it has no rows")
    tables = _read_tables(raw, roles, label_column, label_map, report)
    _drop_shared_groups(tables, report)
    splits = DatasetDict()
    for split, (table, rows) in _carve_missing(tables, seed, report).items():
        available = len(rows)
        labels, strata = table.take(table.labels, rows), table.take(table.strata, rows)
        rows = rows[subset(labels, limits[split], seed, strata)]
        if len(rows) < available:
            report.origins[split] += f"; {len(rows):,} of {available:,} drawn"
        problems = find_problems(table.dataset, rows, split, num_proc, cache_dir)
        for row, problem in problems.items():
            table.drop(report, row, UNREADABLE, problem)
        rows = np.asarray([row for row in rows if row not in problems], dtype=np.int64)
        labels = table.take(table.labels, rows)
        require_both(
            split,
            labels,
            report.origins[split],
            report.dropped_from(table.name),
            carved=split not in tables,
            limited=available > (limits[split] or available),
        )
        counts = count_rows(labels, table.take(table.groups, rows), table.take(table.strata, rows))
        for name in NAMES:
            if counts[name] < 0.1 * counts["rows"]:
                report.notes.append(
                    f"Only {counts[name]:,} of {counts['rows']:,} images of {split} are {name}."
                )
        report.splits[split] = counts
        splits[split] = table.dataset.select(rows)
    return Corpus(splits, report)


@dataclass
class _Table:
    """The rows of one split of the source, with the facts that need no decoding."""

    name: str
    dataset: Dataset
    labels: list[str | None]
    texts: dict[str, list[str | None]]
    paths: list[str | None]  # None for images without a path
    kept: np.ndarray  # (rows,) bool

    @property
    def groups(self) -> list[str | None] | None:
        return self.texts.get("group")

    @property
    def strata(self) -> list[str | None] | None:
        return self.texts.get("generator")

    @staticmethod
    def take(values: Sequence | None, rows: np.ndarray) -> list | None:
        return None if values is None else [values[row] for row in rows]

    def drop(self, report: CorpusReport, index: int, code: str, reason: str) -> None:
        report.drop(self.name, index, self.paths[index], code, reason)


def _read_tables(
    raw: Source,
    roles: Mapping[str, str],
    label_column: str | None,
    label_map: Mapping[str, str] | None,
    report: CorpusReport,
) -> dict[str, _Table]:
    """Map the labels of all splits together, and bring the columns into their final form."""
    classes: dict[str, list[str | None]] = {}
    texts: dict[str, dict[str, list[str | None]]] = {}
    seen: Counter = Counter()
    possible: set[str] = set()
    features = {role: raw.splits[split].features for role, split in roles.items()}
    columns = find_columns(features, label_column, report.source)
    report.label_column = columns.label
    for role, split in roles.items():
        dataset, column = raw.splits[split], columns.labels[role]
        feature = features[role][column]
        classes[role] = class_names(dataset[column][:], feature, column, report.source)
        possible.update(feature.names if isinstance(feature, ClassLabel) else ())
        seen.update(name for name in classes[role] if name is not None)
        texts[role] = {
            name: as_texts(dataset[name][:], features[role][name])
            if name in features[role]
            else [None] * len(dataset)
            for name in columns.texts
        }
    report.label_map = resolve_classes(
        seen, possible, label_map, report.label_column, report.source
    )

    tables = {}
    for role, split in roles.items():
        labels = [report.label_map.get(name) for name in classes[role]]
        if "generator" in texts[role]:
            texts[role]["generator"] = generators(texts[role]["generator"], labels)
        dataset = raw.splits[split].select_columns("image")
        ids = [None if label is None else NAMES.index(label) for label in labels]
        dataset = dataset.add_column("label", ids, feature=ClassLabel(names=list(NAMES)))
        for name, values in texts[role].items():
            dataset = dataset.add_column(name, values, feature=Value("string"))
        kept = np.asarray([label is not None for label in labels], dtype=bool)
        table = _Table(split, dataset, labels, texts[role], image_paths(dataset), kept)
        for index in np.flatnonzero(~kept).tolist():
            table.drop(report, index, UNLABELLED, "it has no label")
        for name, path in zip(classes[role], table.paths, strict=True):
            if name is not None and path is not None:
                examples = report.examples.setdefault(name, [])
                if len(examples) < _EXAMPLES:
                    examples.append(path)
        tables[role] = table
    return tables


def _drop_shared_groups(tables: Mapping[str, _Table], report: CorpusReport) -> None:
    groups = {
        role: [group if kept else None for group, kept in zip(table.groups, table.kept)]
        for role, table in tables.items()
        if table.groups is not None
    }
    for role, rows in shared_groups(groups).items():
        table = tables[role]
        for index, keeper in rows.items():
            table.kept[index] = False
            reason = f"its group {table.groups[index]!r} is in {keeper} too"
            table.drop(report, index, SHARED_GROUP, reason)
        if rows:
            keepers = " and ".join(sorted(set(rows.values())))
            number = len({table.groups[index] for index in rows})
            report.notes.append(
                f"Splits share groups: {len(rows):,} rows of {number:,} groups were dropped from "
                f"{role}, because {keepers} has the same groups."
            )
            logger.warning(report.notes[-1])


def _carve_missing(
    tables: Mapping[str, _Table], seed: int, report: CorpusReport
) -> dict[str, tuple[_Table, np.ndarray]]:
    """Return the table and the rows of each split."""
    chosen = {}
    for role, table in tables.items():
        chosen[role] = (table, np.flatnonzero(table.kept))
        report.origins[role] = f"the split {table.name!r} of the corpus"
    missing = [split for split in SPLITS if split not in tables]
    if missing:
        table, rows = chosen[TRAIN]
        shares = [1 - CARVED_FRACTION * len(missing)] + [CARVED_FRACTION] * len(missing)
        labels, groups, strata = (
            table.take(values, rows) for values in (table.labels, table.groups, table.strata)
        )
        by = "label" + (" and generator" if strata is not None else "")
        together = ", groups kept together" if groups is not None else ""
        carved = carve(labels, groups, shares, seed, strata)
        for split, share, indices in zip([TRAIN, *missing], shares, carved, strict=True):
            chosen[split] = (table, rows[indices])
            report.origins[split] = (
                f"{share:.0%} of {table.name!r}, stratified by {by}{together} (seed {seed})"
            )
    return {split: chosen[split] for split in SPLITS}


# Hold values out of training


def parse_hold_out(text: str | None) -> tuple[str, list[str]] | None:
    """Read `generator=dall-e 2,midjourney`: a column and its values."""
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
