"""Stream a corpus: the training split is read row by row, validation and test are read into memory.

The streamed branch of the corpus loader. Labels, columns and the check of the images are the same.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    DownloadConfig,
    Features,
    Image,
    IterableDataset,
    Value,
)
from datasets.utils.file_utils import xopen

from realfake.corpus.report import (
    CHECK_BATCH,
    SHARED_GROUP,
    UNLABELLED,
    UNREADABLE,
    CorpusReport,
    count_rows,
    problem_of,
    raise_empty,
    require_both,
)
from realfake.corpus.rows import as_text, as_texts, find_columns, generators, resolve_classes
from realfake.corpus.rows import column as column_of
from realfake.corpus.sources import Source, one_line
from realfake.corpus.splits import SPLITS, TEST, TRAIN, VALIDATION, shared_groups
from realfake.labels import AI, NAMES, REAL, resolve

logger = logging.getLogger(__name__)

STREAMED_SAMPLES = 2000
SHUFFLE_BUFFER = 1000
_DOWNLOADS = 16


def stream_corpus(
    raw: Source,
    roles: Mapping[str, str],
    label_column: str | None,
    label_map: Mapping[str, str] | None,
    limits: Mapping[str, int | None],
    seed: int,
    token: str | bool | None,
    report: CorpusReport,
) -> DatasetDict:
    """Open train as a stream, and read validation and test into memory.

    Args:
        roles: `{"train": name, ...}`, see [`~realfake.corpus.splits.assign_roles`].
        limits: `{split: largest number of rows}`.

    Raises:
        ValueError: A split is missing, empty or without one of the classes, or a label is unknown.
    """
    missing = [split for split in SPLITS if split not in roles]
    if missing:
        raise ValueError(
            f"A streamed corpus needs a {' and a '.join(missing)} split, because none can be "
            f"carved from a stream; its splits are: {', '.join(raw.splits)}. Name them with "
            "--validation_split and --test_split, or leave out --streaming."
        )
    features = {
        split: raw.splits[name].features
        or Dataset.from_list(list(raw.splits[name].take(1))).features
        for split, name in roles.items()
    }
    for split in roles:
        if "image" not in features[split]:
            raise_empty(split, "it has no rows")
    columns = find_columns(features, label_column, report.source)
    report.label_column = columns.label
    readers = {}
    for split, name in roles.items():
        column = columns.labels[split]
        feature = features[split][column]
        readers[split] = _StreamReader(
            split=name,
            column=column,
            names=feature.names if isinstance(feature, ClassLabel) else None,
            texts={text: features[split].get(text) for text in columns.texts},
            token=token,
            report=report,
        )
    # Classes without a type are counted in validation and test; train may add others later.
    possible = {name for reader in readers.values() for name in reader.names or ()}
    seen = Counter(dict.fromkeys(possible, 0))
    if not possible:
        for split in (VALIDATION, TEST):
            column = readers[split].column
            rows = raw.splits[roles[split]].select_columns([column])
            rows = rows.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER).take(10 * STREAMED_SAMPLES)
            seen.update(filter(None, (as_text(row[column]) for row in rows)))
    report.label_map = resolve_classes(
        seen, possible, label_map, report.label_column, report.source
    )
    streams = {}
    for split, reader in readers.items():
        reader.label_map = report.label_map
        shuffled = raw.splits[roles[split]].shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
        limit = limits[split] if split == TRAIN else None
        streams[split] = reader.attach(shuffled, features[split], limit)

    limit = limits[TRAIN]
    epoch = f", each epoch the first {limit:,} rows of the shuffled stream" if limit else ""
    report.origins[TRAIN] = f"the split {roles[TRAIN]!r} of the corpus, streamed{epoch}"
    report.splits[TRAIN] = {"rows": None, **dict.fromkeys(NAMES)}
    report.notes.append(
        "Streamed: whether train shares groups with the other splits cannot be checked."
    )
    kept: dict[str, Dataset] = {}
    for split in (TEST, VALIDATION):
        limit = limits[split] or STREAMED_SAMPLES
        report.origins[split] = (
            f"up to {limit:,} images, half of each class, of the streamed split {roles[split]!r}"
        )
        dataset = _read_balanced(streams[split], limit)
        if "group" in dataset.features and split == VALIDATION:
            dataset = _without_groups_of(dataset, kept[TEST], roles[VALIDATION], report)
        dropped = report.dropped_from(roles[split])
        if not len(dataset) and not dropped:
            raise_empty(split, "it has no rows")
        labels = [NAMES[label] for label in dataset["label"]]
        require_both(split, labels, report.origins[split], dropped)
        report.splits[split] = count_rows(
            labels, column_of(dataset, "group"), column_of(dataset, "generator")
        )
        kept[split] = dataset
    report.splits = {split: report.splits[split] for split in SPLITS}
    return DatasetDict({TRAIN: streams[TRAIN], VALIDATION: kept[VALIDATION], TEST: kept[TEST]})


def _without_groups_of(
    validation: Dataset, test: Dataset, name: str, report: CorpusReport
) -> Dataset:
    """Drop the validation rows whose group is among the test rows."""
    shared = shared_groups({VALIDATION: validation["group"][:], TEST: test["group"][:]})[VALIDATION]
    for index in shared:
        row = validation[index]
        reason = f"its group {row['group']!r} is in {TEST} too"
        report.drop(name, None, row["image"]["path"], SHARED_GROUP, reason)
    if shared:
        report.notes.append(
            f"Splits share groups: {len(shared):,} rows were dropped from validation."
        )
    return validation.select([index for index in range(len(validation)) if index not in shared])


def _read_balanced(stream: IterableDataset, limit: int) -> Dataset:
    """Read half of `limit` rows of each class; if one has fewer, fill up from the other."""
    wanted = {NAMES.index(REAL): limit - limit // 2, NAMES.index(AI): limit // 2}
    taken: dict[int, list[dict]] = {label: [] for label in wanted}
    for row in stream:
        rows = taken[row["label"]]
        if len(rows) < limit:
            rows.append(row)
        if all(len(taken[label]) >= number for label, number in wanted.items()):
            break
    first, second = taken.values()
    share = max(limit - len(second), limit - limit // 2)
    rows = first[:share]
    return Dataset.from_list(rows + second[: limit - len(rows)], features=stream.features)


class _StreamReader:
    """Brings batches of a stream into the form of a corpus, and skips rows that cannot be used."""

    def __init__(
        self,
        split: str,
        column: str,
        names: list[str] | None,
        texts: dict[str, Any],
        token: str | bool | None,
        report: CorpusReport,
    ):
        self.split = split
        self.column = column
        self.names = names
        self.texts = texts
        self.token = token
        self.report = report
        self.reported: set[str] = set()
        self.label_map: dict[str, str] = {}

    def __deepcopy__(self, memo: dict) -> "_StreamReader":
        # datasets copies its pipelines, but all copies must fill the same report.
        return self

    def attach(
        self, stream: IterableDataset, features: Features, limit: int | None = None
    ) -> IterableDataset:
        output = {"image": Image(decode=False), "label": ClassLabel(names=list(NAMES))}
        output |= {name: Value("string") for name in self.texts}
        if limit is not None:
            stream = stream.take(limit)
        return stream.map(
            self,
            batched=True,
            batch_size=CHECK_BATCH,
            remove_columns=list(features),
            features=Features(output),
        )

    def __call__(self, batch: Mapping[str, list]) -> dict[str, list]:
        rows: dict[str, list] = {"image": [], "label": [], **{name: [] for name in self.texts}}
        with ThreadPoolExecutor(_DOWNLOADS) as pool:
            fetched = list(pool.map(self._fetch, batch["image"]))
        for index, (image, problem) in enumerate(fetched):
            label = self._label(batch[self.column][index])
            if label is None:
                self._skip(image, UNLABELLED, "it has no label")
                continue
            problem = problem or problem_of(image)
            if problem is not None:
                self._skip(image, UNREADABLE, problem)
                continue
            rows["image"].append(image)
            rows["label"].append(NAMES.index(label))
            for name, feature in self.texts.items():
                text = None if feature is None else as_texts([batch[name][index]], feature)[0]
                if name == "generator":
                    (text,) = generators([text], [label])
                rows[name].append(text)
        return rows

    def _label(self, value: Any) -> str | None:
        if self.names is None:
            name = as_text(value)
        else:
            name = self.names[value] if value is not None and value >= 0 else None
        if name is not None and name not in self.label_map:
            try:
                self.label_map.update(resolve([name, *self.label_map], self.label_map))
            except ValueError as error:
                raise ValueError(
                    f"The streamed split {self.split} holds a class {name!r} that the other splits "
                    f"do not have. {error}"
                ) from error
        return self.label_map.get(name)

    def _fetch(self, value: Mapping | bytes | None) -> tuple[dict, str | None]:
        """Return the image, downloaded if it is a file of the Hub, and a download error."""
        value = {"bytes": value} if isinstance(value, bytes) else value or {}
        image = {"bytes": value.get("bytes"), "path": value.get("path")}
        if image["bytes"] is None and image["path"] and "://" in image["path"]:
            options = DownloadConfig(token=self.token)
            try:
                with xopen(image["path"], "rb", download_config=options) as file:
                    image["bytes"] = file.read()
            except OSError as error:
                return image, f"it cannot be downloaded: {one_line(error)}"
        return image, None

    def _skip(self, image: dict, code: str, reason: str) -> None:
        path = image["path"]
        key = path or hashlib.blake2b(image["bytes"] or b"", digest_size=16).hexdigest()
        if key not in self.reported:  # every epoch reads the row again
            self.reported.add(key)
            self.report.drop(self.split, None, path, code, reason)
            logger.warning(
                "Skipped %s of the streamed split %s: %s", path or "an image", self.split, reason
            )
