"""Load a corpus of photographs and AI-generated images: one loader for every source, used by all scripts.

Reads the rows (`sources`), maps the labels by name (`columns`), carves the splits that are missing (`splits`), drops
what cannot be decoded (`cleaning`), and says what it did (`report`). Images stay undecoded: the transforms and
the detector decode them, through the same [`~realfake.imaging.decode.open_image`] that checks them here.
"""

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Value

from realfake.corpus.cleaning import find_problems, image_paths
from realfake.corpus.columns import (
    TEXT_COLUMNS,
    as_texts,
    class_names,
    find_label_column,
    generators,
    resolve_classes,
)
from realfake.corpus.local import Source
from realfake.corpus.report import CorpusReport, count_rows, raise_empty, require_both
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

# Of all rows, where a corpus has one split; of the training split, where only one of these is missing.
CARVED_FRACTION = 0.15


@dataclass
class Corpus:
    """A corpus ready for training and measuring.

    Args:
        splits: `train`, `validation` and `test`. Features: `image` (`Image(decode=False)`), `label`
            (`ClassLabel(names=["real", "ai"])`), and, where the source has them, the texts `generator`, `group`,
            `source`, `family` and `subject`. A streamed `train` is an `IterableDataset`.
        report: What was done.
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

    **Splits.** Existing ones are recognised by name. A corpus with one split is parted 70/15/15 into train,
    validation and test; where only validation or only test is missing, 15 % of the training split become it.
    Carving is stratified by label and generator, seeded, and never goes through a `group`. Where given splits share
    a group, its rows are dropped from train (or validation), never from test.

    **Order of things.** Rows without a label go first, then groups that are shared, then splits are carved, then
    `max_*_samples` rows are drawn (stratified), and only those are decoded once to see whether they can be. So a
    small `max_*_samples` is fast, a split can end up a little smaller than asked, and a broken file changes nothing
    for the others. The result of the check is cached.

    **Generator.** Where the corpus has the column, a missing value becomes `"unknown"` for an AI image and `"none"`
    for a real one.

    **Streaming.** The training split is not downloaded: its rows are mapped, checked and shuffled (buffer of 1,000)
    as they pass; images that cannot be decoded are skipped, logged, and added to `report.dropped` as they are met
    (in a worker process of a `DataLoader` they are logged only). Validation and test are materialised, half of each
    class as far as there are enough, and must exist as splits.

    Args:
        source: A Hub dataset id; a folder of class folders, with or without folders of splits above them; a file, or
            a folder of files, of type Parquet, Arrow, CSV, TSV, JSON or JSON Lines with a column of images or of
            paths relative to the file; or a folder written by `save_to_disk`.
        config_name: Configuration of a Hub dataset (of a local one: subfolder).
        revision: Branch, tag or commit of a Hub dataset.
        token: Hub token; by default the one of `hf auth login`.
        train_split: Name of the training split, where it is unusual. Likewise `validation_split` and `test_split`;
            for these, `"none"` leaves an existing split unused, so that one is carved.
        image_column: Where it cannot be told: the column that holds the images.
        label_column: Where it cannot be told: the column that holds the classes.
        label_map: `{class found: "real" or "ai"}` for classes whose names do not say it.
        streaming: Do not download the training split.
        seed: Of carving, of subsets, and of the shuffling of a stream.
        max_train_samples: Use this many rows at most (of a stream: in each epoch). Likewise `max_validation_samples` and `max_test_samples`,
            which default to 2,000 where the corpus is streamed.
        num_proc: Processes that check the images.
        cache_dir: Where datasets keeps its files; *optional*, defaults to datasets' own cache.

    Returns:
        [`Corpus`]

    Raises:
        ValueError: Columns, labels or splits cannot be made sense of, or a split ends up empty or with one class.
        OSError: The source does not exist or cannot be reached.
    """
    found = read_source(
        source,
        config_name=config_name,
        revision=revision,
        token=token,
        streaming=streaming,
        image_column=image_column,
        label_map=label_map,
        cache_dir=cache_dir,
    )
    report = CorpusReport(str(source), found.kind, found.image_column, notes=list(found.notes))
    roles = assign_roles(
        list(found.splits), {TRAIN: train_split, VALIDATION: validation_split, TEST: test_split}
    )
    unused = [name for name in found.splits if name not in roles.values()]
    if unused:
        report.notes.append(f"The splits {', '.join(unused)} are not used.")
    limits = {TRAIN: max_train_samples, VALIDATION: max_validation_samples, TEST: max_test_samples}
    for split, limit in limits.items():
        if limit is not None and limit < 2:
            raise ValueError(
                f"--max_{split}_samples must be at least 2, one image of each class, not {limit}."
            )
    if streaming:
        splits = stream_corpus(found, roles, label_column, label_map, limits, seed, token, report)
        return Corpus(splits, report)

    for split, name in roles.items():
        if not len(found.splits[name]):
            raise_empty(split, "it has no rows")
    tables = _label(found, roles, label_column, label_map, report)
    _drop_shared_groups(tables, report)
    parts = _carve_missing(tables, seed, report)
    splits = DatasetDict()
    for split, (base, rows) in parts.items():
        table = tables[base]
        available = len(rows)
        rows = rows[
            subset(
                table.take(table.labels, rows), limits[split], seed, table.take(table.strata, rows)
            )
        ]
        if len(rows) < available:
            report.origins[split] += f"; {len(rows):,} of {available:,} drawn"
        problems = find_problems(table.dataset, rows, split, num_proc, cache_dir)
        report.dropped += [table.dropped(row, problem) for row, problem in problems.items()]
        rows = np.asarray([row for row in rows if row not in problems], dtype=np.int64)
        labels = table.take(table.labels, rows)
        dropped = [entry for entry in report.dropped if entry["split"] == table.name]
        limited = available > (limits[split] or available)
        require_both(split, labels, report.origins[split], dropped, split not in tables, limited)
        report.splits[split] = count_rows(
            labels, table.take(table.groups, rows), table.take(table.strata, rows)
        )
        splits[split] = table.dataset.select(rows)
    for split, counts in report.splits.items():
        for name in NAMES:
            if counts[name] < 0.1 * counts["rows"]:
                report.notes.append(
                    f"Only {counts[name]:,} of {counts['rows']:,} images of {split} are {name}."
                )
    return Corpus(splits, report)


@dataclass
class _Table:
    """The rows of one split of the source, and what is known of each without decoding it."""

    name: str
    dataset: Dataset
    labels: list[str | None]
    texts: dict[str, list[str | None]]
    paths: list[str | None]  # of the image; None where it is bytes without a name
    alive: np.ndarray  # (rows,) bool

    @property
    def groups(self) -> list[str | None] | None:
        return self.texts.get("group")

    @property
    def strata(self) -> list[str | None] | None:
        return self.texts.get("generator")

    @staticmethod
    def take(values: Sequence | None, rows: np.ndarray) -> list | None:
        return None if values is None else [values[row] for row in rows]

    def dropped(self, index: int, reason: str) -> dict:
        """The entry of a row in the report."""
        return {
            "split": self.name,
            "index": int(index),
            "path": self.paths[index],
            "reason": reason,
        }


def _label(
    found: Source,
    roles: Mapping[str, str],
    label_column: str | None,
    label_map: Mapping[str, str] | None,
    report: CorpusReport,
) -> dict[str, _Table]:
    """Map the labels of all splits at once, by name, and bring the columns into their final form."""
    named, texts = {}, {}
    seen: Counter = Counter()
    possible: set[str] = set()
    present = [
        name
        for name in TEXT_COLUMNS
        if any(name in found.splits[split].features for split in roles.values())
    ]
    for role, split in roles.items():
        dataset = found.splits[split]
        column = find_label_column(dataset.features, label_column, report.source)
        report.label_column = column
        feature = dataset.features[column]
        named[role] = class_names(dataset[column][:], feature, column, report.source)
        possible.update(feature.names if isinstance(feature, ClassLabel) else ())
        seen.update(name for name in named[role] if name is not None)
        texts[role] = {
            name: as_texts(dataset[name][:], dataset.features[name])
            if name in dataset.features
            else [None] * len(dataset)
            for name in present
            if name != column
        }
    report.label_map = resolve_classes(
        seen, possible, label_map, report.label_column, report.source
    )

    tables = {}
    for role, split in roles.items():
        labels = [report.label_map.get(name) for name in named[role]]
        if "generator" in texts[role]:
            texts[role]["generator"] = generators(texts[role]["generator"], labels)
        dataset = _standard(found.splits[split], labels, texts[role])
        alive = np.asarray([label is not None for label in labels], dtype=bool)
        table = _Table(split, dataset, labels, texts[role], image_paths(dataset), alive)
        report.dropped += [
            table.dropped(index, "it has no label") for index in np.flatnonzero(~table.alive)
        ]
        tables[role] = table
    return tables


def _standard(
    dataset: Dataset, labels: list[str | None], texts: Mapping[str, list[str | None]]
) -> Dataset:
    """The image column as it is, the others anew. The bytes of the images are not touched."""
    dataset = dataset.select_columns("image")
    ids = [None if label is None else NAMES.index(label) for label in labels]
    dataset = dataset.add_column("label", ids, feature=ClassLabel(names=list(NAMES)))
    for name, values in texts.items():
        dataset = dataset.add_column(name, values, feature=Value("string"))
    return dataset


def _drop_shared_groups(tables: Mapping[str, _Table], report: CorpusReport) -> None:
    groups = {
        role: [group if alive else None for group, alive in zip(table.groups, table.alive)]
        for role, table in tables.items()
        if table.groups is not None
    }
    for role, rows in shared_groups(groups).items():
        table = tables[role]
        for index, keeper in rows.items():
            table.alive[index] = False
            reason = f"its group {table.groups[index]!r} is in {keeper} too"
            report.dropped.append(table.dropped(index, reason))
        if rows:
            keepers = " and ".join(sorted(set(rows.values())))
            number = len({table.groups[index] for index in rows})
            report.notes.append(
                f"Splits share groups: {len(rows):,} rows of {number:,} groups were dropped from {role}, because {keepers} "
                "would not have been independent of it."
            )
            logger.warning(report.notes[-1])


def _carve_missing(
    tables: Mapping[str, _Table], seed: int, report: CorpusReport
) -> dict[str, tuple[str, np.ndarray]]:
    """For each split, the table it comes from and its rows there."""
    parts = {}
    for role, table in tables.items():
        parts[role] = (role, np.flatnonzero(table.alive))
        report.origins[role] = f"the split {table.name!r} of the corpus"
    missing = [split for split in SPLITS if split not in tables]
    if missing:
        table, (_, rows) = tables[TRAIN], parts[TRAIN]
        shares = [1 - CARVED_FRACTION * len(missing)] + [CARVED_FRACTION] * len(missing)
        carved = carve(
            table.take(table.labels, rows),
            table.take(table.groups, rows),
            shares,
            seed,
            table.take(table.strata, rows),
        )
        by = "label" + (" and generator" if table.strata is not None else "")
        kept = ", groups kept together" if table.groups is not None else ""
        for split, share, chosen in zip([TRAIN, *missing], shares, carved):
            parts[split] = (TRAIN, rows[chosen])
            report.origins[split] = (
                f"{share:.0%} of {table.name!r}, stratified by {by}{kept} (seed {seed})"
            )
    return {split: parts[split] for split in SPLITS}
