"""The report of the corpus loader: how splits were made, what they hold, what was dropped and why.

[`~realfake.corpus.load.load_corpus`] fills it; commands print it and store it beside their results.
[`find_problems`] decodes each image once, as training and prediction do. Its results are cached.
"""

import hashlib
import inspect
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn

import datasets
import numpy as np
import PIL
import pyarrow
import pyarrow.compute
from datasets import Dataset, Features, Value

from realfake.corpus.splits import TRAIN
from realfake.imaging import decode, limits
from realfake.imaging.decode import open_image
from realfake.labels import NAMES

# Reasons for dropping a row.
UNLABELLED = "unlabelled"
SHARED_GROUP = "shared_group"
UNREADABLE = "unreadable"

# Images per batch of the check. A batch is held in memory, undecoded.
CHECK_BATCH = 32

_MOST_GENERATORS = 8


@dataclass
class CorpusReport:
    """What was loaded, and how.

    Args:
        kind: Kind of the source ("class folders", "Hub dataset", ...).
        label_map: `{class: "real" or "ai"}`.
        examples: `{class: paths of its first images}`, where the images have paths.
        origins: For each split, how it was made.
        splits: For each split `rows`, rows by label (`real`, `ai`), the number of `groups`, and
            `generators` (`{name: rows}`). The values are `None` for a streamed training split.
        dropped: Rows that are not used: `{"split", "index", "path", "code", "reason"}`. `split` and
            `index` are those of the source. `index` is `None` for streamed rows, `path` is `None`
            where images are not files. `code` is one of the reasons of this module.
    """

    source: str
    kind: str = ""
    image_column: str = ""
    label_column: str = ""
    label_map: dict[str, str] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    splits: dict[str, dict] = field(default_factory=dict)
    dropped: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict:
        """Return the report as plain values for JSON."""
        return asdict(self)

    def drop(self, split: str, index: int | None, path: str | None, code: str, reason: str) -> None:
        """Add an entry to `dropped`."""
        entry = {"split": split, "index": index, "path": path, "code": code, "reason": reason}
        self.dropped.append(entry)

    def dropped_from(self, split: str) -> list[dict]:
        """Return the dropped rows of one split of the source."""
        return [entry for entry in self.dropped if entry["split"] == split]

    def summary(self, most: int = 5) -> str:
        """Return the report as lines of text, with at most `most` of the dropped rows."""
        lines = [f"Corpus {self.source} ({self.kind}), labels from {self.label_column!r}:"]
        for name, label in self.label_map.items():
            files = ", ".join(os.path.basename(path) for path in self.examples.get(name, ()))
            lines.append(f"  {name!r} is {label}" + (f": {files}, …" if files else ""))
        for split, counts in self.splits.items():
            if counts["rows"] is None:
                lines.append(f"  {split}: streamed; {self.origins[split]}")
                continue
            parts = [f"{counts[name]:,} {name}" for name in NAMES]
            if counts.get("groups") is not None:
                parts.append(f"{counts['groups']:,} groups")
            lines.append(
                f"  {split}: {counts['rows']:,} images ({', '.join(parts)}); {self.origins[split]}"
            )
            if counts.get("generators"):
                ranked = sorted(counts["generators"].items(), key=lambda item: (-item[1], item[0]))
                names = [f"{name} {number:,}" for name, number in ranked[:_MOST_GENERATORS]]
                if len(ranked) > _MOST_GENERATORS:
                    names.append(f"and {len(ranked) - _MOST_GENERATORS} more")
                lines.append(f"    generators: {', '.join(names)}")
        if self.dropped:
            by_split = Counter(row["split"] for row in self.dropped)
            numbers = ", ".join(f"{number:,} of {split}" for split, number in by_split.items())
            lines.append(f"  dropped {len(self.dropped):,} rows ({numbers}):")
            for row in self.dropped[:most]:
                number = "a streamed row" if row["index"] is None else f"row {row['index']}"
                lines.append(f"    {row['split']}, {row['path'] or number}: {row['reason']}")
            if len(self.dropped) > most:
                lines.append(f"    and {len(self.dropped) - most:,} more")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def raise_empty(split: str, reason: str) -> NoReturn:
    """Refuse a split without rows."""
    fix = f"Name another one with --{split}_split"
    if split != TRAIN:
        fix += f", or carve one from train with --{split}_split none"
    raise ValueError(f"The {split} split is empty: {reason}. {fix}.")


def require_both(
    split: str,
    labels: Sequence[str],
    origin: str,
    dropped: Sequence[dict],
    carved: bool = False,
    limited: bool = False,
) -> None:
    """Refuse a split that is empty or lacks a class.

    Args:
        origin: How the split was made, for the message.
        carved: Whether the loader carved it.
        limited: Whether the loader drew a part of its rows.
    """
    counts = Counter(labels)
    missing = [name for name in NAMES if not counts[name]]
    if not missing:
        return
    last = f"the last because: {dropped[-1]['reason']}" if dropped else ""
    if not labels and dropped and not carved:
        raise_empty(split, f"all its rows were dropped, {last}")
    if limited:
        fix = f"Raise --max_{split}_samples"
    elif carved:
        fix = "Give the corpus more images of that class, or smaller groups"
    else:
        fix = f"Add images of that class, or name another split with --{split}_split"
    numbers = ", ".join(f"{counts[name]:,} {name}" for name in NAMES)
    lost = f", after {len(dropped):,} rows were dropped, {last}" if dropped else ""
    raise ValueError(
        f"The {split} split ({origin}) holds no '{missing[0]}' image ({numbers}){lost}. {fix}."
    )


def count_rows(
    labels: Sequence[str],
    groups: Sequence[str | None] | None = None,
    generators: Sequence[str] | None = None,
) -> dict:
    """Count the rows of a split, in the form of `CorpusReport.splits`."""
    counts = Counter(labels)
    result: dict = {"rows": len(labels), **{name: counts[name] for name in NAMES}}
    if groups is not None:
        distinct = {group for group in groups if group is not None}
        result["groups"] = len(distinct) + list(groups).count(None)
    if generators is not None:
        result["generators"] = dict(sorted(Counter(generators).items()))
    return result


# The check of the images


def find_problems(
    dataset: Dataset,
    rows: np.ndarray,
    split: str,
    num_proc: int | None = None,
    cache_dir: str | None = None,
) -> dict[int, str]:
    """Decode images and return why some cannot be decoded.

    Args:
        dataset: Rows with an undecoded `image`.
        cache_dir: *optional*. Folder of the results; *defaults to* the cache of datasets.

    Returns:
        `{index in the dataset: reason}`
    """
    if not len(rows):
        return {}
    checked = (
        dataset.select_columns("image")
        .select(rows)
        .map(
            _check_batch,
            batched=True,
            batch_size=CHECK_BATCH,
            remove_columns=["image"],
            features=Features({"problem": Value("string")}),
            num_proc=num_proc if num_proc and 1 < num_proc <= len(rows) else None,
            cache_file_name=_cache_file(dataset, rows, cache_dir),
            desc=f"Checking the {split} images",
        )
    )
    problems = zip(rows, checked["problem"], strict=True)
    return {int(row): problem for row, problem in problems if problem is not None}


def _check_batch(batch: Mapping[str, list]) -> dict[str, list[str | None]]:
    return {"problem": [problem_of(image) for image in batch["image"]]}


def problem_of(image: Mapping | None) -> str | None:
    """Return why an image `{"bytes", "path"}` cannot be decoded, on one line; `None` if it can."""
    if not image or image["bytes"] is None and not image["path"]:
        return "it has no image"
    try:
        open_image({"bytes": image["bytes"], "path": image["path"] or "the image"})
    except (ValueError, OSError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return None


def _cache_file(dataset: Dataset, rows: np.ndarray, cache_dir: str | None) -> str:
    """Return a name that depends on the rows, their files and the code that decodes them."""
    key = hashlib.sha256(f"{dataset._fingerprint}\0{PIL.__version__}\0".encode())
    for module in (decode, limits):
        key.update(inspect.getsource(module).encode())
    key.update(np.asarray(rows, dtype="<i8").tobytes())
    inline = [
        valid for array in _fields(dataset, "bytes") for valid in array.is_valid().to_pylist()
    ]
    if not all(inline):
        paths = image_paths(dataset)
        for path in (paths[row] for row in rows if not inline[row]):
            try:
                status = os.stat(path or "")
                stamp = f"{status.st_size} {status.st_mtime_ns}"
            except (OSError, ValueError):
                stamp = "missing"
            key.update(f"{path}\0{stamp}\0".encode("utf-8", "backslashreplace"))
    # The folder of the source may be read-only.
    folder = Path(cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser() / "realfake"
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder / f"checked-{key.hexdigest()[:32]}.arrow")


def image_paths(dataset: Dataset) -> list[str | None]:
    """Return the path of every image of a dataset without indices; no bytes are read."""
    return [path for array in _fields(dataset, "path") for path in array.to_pylist()]


def _fields(dataset: Dataset, name: str) -> list[pyarrow.Array]:
    chunks = dataset.data.column("image").chunks
    return [pyarrow.compute.struct_field(chunk, name) for chunk in chunks]
