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
from datasets import ClassLabel, Dataset, DatasetDict, Value

from realfake.corpus.cleaning import find_problems, image_paths
from realfake.corpus.columns import as_texts, class_names, find_columns, generators, resolve_classes
from realfake.corpus.local import Source
from realfake.corpus.report import (
    SHARED_GROUP,
    UNLABELLED,
    UNREADABLE,
    CorpusReport,
    count_rows,
    raise_empty,
    require_both,
)
from realfake.corpus.sources import read_source
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
    requested, and a broken file does not move any other row. The result of the check is cached.

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
        revision: Branch, tag or commit of a Hub dataset.
        token: Hub token; *defaults to* the one of `hf auth login`.
        train_split: Name of the training split, if it is unusual. `validation_split` and
            `test_split` likewise; for these, `"none"` leaves an existing split unused, so that
            one is carved.
        image_column: Column of the images, if it has an unusual name and type.
        label_column: Column of the classes, if it has an unusual name.
        label_map: `{class: "real" or "ai"}` for classes with unusual names.
        streaming: Do not download the training split.
        seed: Seed of carving, of subsets, and of the shuffling of a stream.
        max_train_samples: Largest number of training rows (in a stream: per epoch).
            `max_validation_samples` and `max_test_samples` likewise; for a stream they *default
            to* 2,000.
        num_proc: Number of processes that check the images.
        cache_dir: Folder of the files of datasets; *defaults to* datasets' own cache.

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
