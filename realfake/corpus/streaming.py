"""Stream a corpus: the training split passes by row for row, validation and test are read into memory.

The streamed branch of the corpus loader. Labels, columns and the check of the images are those of the other one.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

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

from realfake.corpus.cleaning import CHECKED_AT_ONCE, problem_of
from realfake.corpus.columns import (
    TEXT_COLUMNS,
    as_text,
    as_texts,
    find_label_column,
    generators,
    resolve_classes,
)
from realfake.corpus.local import Source
from realfake.corpus.report import CorpusReport, count_rows, raise_empty, require_both
from realfake.corpus.splits import SPLITS, TEST, TRAIN, VALIDATION, shared_groups
from realfake.labels import NAMES, canonical

logger = logging.getLogger(__name__)

STREAMED_SAMPLES = 2000
SHUFFLE_BUFFER = 1000
FETCHED_AT_ONCE = 16


def stream_corpus(
    found: Source,
    roles: Mapping[str, str],
    label_column: str | None,
    label_map: Mapping[str, str] | None,
    limits: Mapping[str, int | None],
    seed: int,
    token: str | bool | None,
    report: CorpusReport,
) -> DatasetDict:
    """Leave train a stream; read validation and test into memory.

    For the arguments and what is promised see [`~realfake.corpus.load.load_corpus`].

    Raises:
        ValueError: A split is missing, empty or without one of the classes, or the labels cannot be told.
    """
    missing = [split for split in SPLITS if split not in roles]
    if missing:
        raise ValueError(
            f"A streamed corpus needs a {' and a '.join(missing)} split, because none can be carved from a stream; its splits "
            f"are: {', '.join(found.splits)}. Name them with --validation_split and --test_split, or leave out --streaming."
        )
    peeked = {split: found.splits[name].take(1) for split, name in roles.items()}
    features = {
        split: found.splits[name].features or Dataset.from_list(list(peeked[split])).features
        for split, name in roles.items()
    }
    present = [
        name for name in TEXT_COLUMNS if any(name in columns for columns in features.values())
    ]
    readers = {}
    for split, name in roles.items():
        if "image" not in features[split]:
            raise_empty(split, "it has no rows")
        column = find_label_column(features[split], label_column, report.source)
        report.label_column = column
        feature = features[split][column]
        readers[split] = _StreamReader(
            split=name,
            column=column,
            names=feature.names if isinstance(feature, ClassLabel) else None,
            texts={text: features[split].get(text) for text in present if text != column},
            token=token,
            dropped=report.dropped,
        )
    # The classes are taken from where they can be counted; what train holds besides is looked up as it passes.
    seen: Counter = Counter()
    possible = {name for reader in readers.values() for name in reader.names or ()}
    if not possible:
        for split in (VALIDATION, TEST):
            rows = found.splits[roles[split]].select_columns([readers[split].column])
            for row in rows.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER).take(
                10 * STREAMED_SAMPLES
            ):
                seen.update(filter(None, [as_text(row[readers[split].column])]))
    else:
        seen.update(dict.fromkeys(possible, 0))
    report.label_map = resolve_classes(
        seen, possible, label_map, report.label_column, report.source
    )
    streams = {}
    for split, reader in readers.items():
        reader.label_map = report.label_map
        shuffled = found.splits[roles[split]].shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
        streams[split] = reader.attach(
            shuffled, features[split], limits[split] if split == TRAIN else None
        )

    limit = limits[TRAIN]
    report.origins[TRAIN] = f"the split {roles[TRAIN]!r} of the corpus, streamed" + (
        f", each epoch the first {limit:,} rows of the shuffled stream" if limit else ""
    )
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
        dataset = _materialise(streams[split], limit)
        if "group" in dataset.features and split == VALIDATION:
            dataset = _without_groups_of(dataset, kept[TEST], roles[VALIDATION], report)
        dropped = [entry for entry in report.dropped if entry["split"] == roles[split]]
        if not len(dataset) and not dropped:
            raise_empty(split, "it has no rows")
        labels = [NAMES[label] for label in dataset["label"]]
        require_both(split, labels, report.origins[split], dropped, carved=False, limited=False)
        columns = {
            name: dataset[name][:] for name in ("group", "generator") if name in dataset.features
        }
        report.splits[split] = count_rows(labels, columns.get("group"), columns.get("generator"))
        kept[split] = dataset
    report.splits = {split: report.splits[split] for split in SPLITS}
    return DatasetDict({TRAIN: streams[TRAIN], VALIDATION: kept[VALIDATION], TEST: kept[TEST]})


def _without_groups_of(
    validation: Dataset, test: Dataset, name: str, report: CorpusReport
) -> Dataset:
    """Drop the validation rows whose group is among the test rows that were read."""
    shared = shared_groups({VALIDATION: validation["group"][:], TEST: test["group"][:]})[VALIDATION]
    for index in shared:
        path = validation[index]["image"]["path"]
        reason = f"its group {validation[index]['group']!r} is in {TEST} too"
        report.dropped.append({"split": name, "index": None, "path": path, "reason": reason})
    if shared:
        report.notes.append(
            f"Splits share groups: {len(shared):,} rows were dropped from validation."
        )
    return validation.select([index for index in range(len(validation)) if index not in shared])


def _materialise(stream: IterableDataset, limit: int) -> Dataset:
    """Read half of `limit` rows of each class, and fill up from the other where one has fewer."""
    wanted = {NAMES.index(NAMES[0]): limit - limit // 2, NAMES.index(NAMES[1]): limit // 2}
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
    """Brings batches of a stream into the corpus's form, and skips the rows that are of no use."""

    def __init__(
        self,
        split: str,
        column: str,
        names: list[str] | None,
        texts: dict,
        token: str | bool | None,
        dropped: list[dict],
    ):
        self.split = split
        self.column = column
        self.names = names
        self.texts = texts
        self.token = token
        self.dropped = dropped
        self.reported: set[str] = set()
        self.label_map: dict[str, str] = {}

    def __deepcopy__(self, memo) -> "_StreamReader":
        # datasets copies its pipelines at will; the record of what was skipped must stay one.
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
            batch_size=CHECKED_AT_ONCE,
            remove_columns=list(features),
            features=Features(output),
        )

    def __call__(self, batch: Mapping[str, list]) -> dict[str, list]:
        rows: dict[str, list] = {"image": [], "label": [], **{name: [] for name in self.texts}}
        with ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
            fetched = list(pool.map(self._fetch, batch["image"]))
        for index, (image, problem) in enumerate(fetched):
            label = self._label(batch[self.column][index])
            problem = "it has no label" if label is None else problem or problem_of(image)
            if problem is not None:
                self._report(batch["image"][index], problem)
                continue
            rows["image"].append(image)
            rows["label"].append(NAMES.index(label))
            for name, feature in self.texts.items():
                text = None if feature is None else as_texts([batch[name][index]], feature)[0]
                if name == "generator":
                    (text,) = generators([text], [label])
                rows[name].append(text)
        return rows

    def _label(self, value) -> str | None:
        name = self.names[value] if self.names and value is not None and value >= 0 else None
        name = as_text(value) if self.names is None else name
        if name is None or name in self.label_map:
            return self.label_map.get(name)
        label = canonical(name)
        if label is None:
            raise ValueError(
                f"The streamed split {self.split} holds a class {name!r} that the others do not; say what it is with "
                f"--label_map, for example --label_map {name}=ai"
            )
        return label

    def _fetch(self, value: Mapping | bytes | None) -> tuple[dict, str | None]:
        """The image, downloaded if it is a file of the Hub, and what went wrong with that."""
        value = {"bytes": value} if isinstance(value, bytes) else value or {}
        image = {"bytes": value.get("bytes"), "path": value.get("path")}
        if image["bytes"] is None and image["path"] and "://" in image["path"]:
            try:
                with xopen(
                    image["path"], "rb", download_config=DownloadConfig(token=self.token)
                ) as file:
                    image["bytes"] = file.read()
            except OSError as error:
                return image, f"it cannot be downloaded: {' '.join(str(error).split())}"
        return image, None

    def _report(self, value: Mapping | bytes | None, reason: str) -> None:
        data, path = (
            (value, None)
            if isinstance(value, bytes)
            else ((value or {}).get("bytes"), (value or {}).get("path"))
        )
        key = path or hashlib.blake2b(data or b"", digest_size=16).hexdigest()
        if key not in self.reported:  # a later epoch meets it again
            self.reported.add(key)
            self.dropped.append(
                {"split": self.split, "index": None, "path": path, "reason": reason}
            )
            logger.warning(
                "Skipped %s of the streamed split %s: %s", path or "an image", self.split, reason
            )
