"""A corpus as Parquet, Arrow, CSV or JSON files, whose paths may name their split."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import datasets
from datasets import Dataset, IterableDataset
from datasets.exceptions import DatasetsError

from realfake.corpus.columns import find_image_column
from realfake.corpus.rows import (
    Source,
    features_of,
    is_text,
    listed,
    one_line,
    undecoded,
    with_paths,
)
from realfake.corpus.splits import TRAIN, split_role

BUILDERS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "json",
    ".json": "json",
}
# Files of this kind win over those behind them, where a folder holds several kinds.
PRECEDENCE = (".parquet", ".arrow", ".csv", ".tsv", ".jsonl", ".json")
_SHARD = re.compile(r"^(\w+(?:\.\w+)*)-\d{5}-of-\d{5}")


def read_files(
    root: Path,
    files: Sequence[Path],
    image_column: str | None,
    streaming: bool,
    cache_dir: str | None,
) -> Source:
    suffix = next(
        suffix for suffix in PRECEDENCE if any(file.suffix.lower() == suffix for file in files)
    )
    chosen = [file for file in files if file.suffix.lower() == suffix]
    found = Source({}, f"{suffix[1:].upper()} files")
    by_split = _by_split(root, chosen)
    passed_over = [file for file in files if file not in chosen] + (
        by_split.pop(None, []) if len(by_split) > 1 else []
    )
    if passed_over:
        found.notes.append(f"Not read: {listed(passed_over, root)}.")
    for split, members in by_split.items():
        # One folder at a time: the paths in a file are relative to it.
        folders = sorted({file.parent for file in members})
        if streaming and suffix in (".parquet", ".arrow"):
            rows = _load_files(suffix, members, True, cache_dir)
            features = features_of(rows)
            found.image_column = find_image_column(features, image_column, str(root))
            if is_text(features[found.image_column]):
                raise ValueError(
                    f"{root}: files named in a column cannot be streamed; leave out --streaming."
                )
            found.splits[split or TRAIN] = undecoded(rows, features, found.image_column)
            continue
        pieces = []
        for folder in folders:
            rows = _load_files(
                suffix, [file for file in members if file.parent == folder], False, cache_dir
            )
            found.image_column = find_image_column(rows.features, image_column, str(root))
            rows = with_paths(rows, found.image_column, folder)
            pieces.append(undecoded(rows, rows.features, found.image_column))
        rows = pieces[0] if len(pieces) == 1 else _concatenated(pieces, root)
        found.splits[split or TRAIN] = rows.to_iterable_dataset() if streaming else rows
    return found


def _concatenated(pieces: list[Dataset], root: Path) -> Dataset:
    try:
        return datasets.concatenate_datasets(pieces)
    except ValueError as error:
        raise ValueError(
            f"The files of {root} do not have the same columns: {one_line(error)}"
        ) from error


def _by_split(root: Path, files: Sequence[Path]) -> dict[str | None, list[Path]]:
    """Sort files by the split that their path names, as datasets does: a shard's prefix, or a word of a folder or file."""
    by_split: dict[str | None, list[Path]] = {}
    for file in files:
        shard = _SHARD.match(file.name)
        words = [
            word
            for part in (*file.relative_to(root).parts[:-1], file.stem)
            for word in re.split(r"[-._ 0-9]+", part)
        ]
        named = [word.lower() for word in words if split_role(word)]
        by_split.setdefault(shard.group(1) if shard else named[0] if named else None, []).append(
            file
        )
    return by_split


def _load_files(
    suffix: str, files: Sequence[Path], streaming: bool, cache_dir: str | None
) -> Dataset | IterableDataset:
    options = {"sep": "\t"} if suffix == ".tsv" else {}
    try:
        return datasets.load_dataset(  # nosec B615  # a builder of the library's own, for files of this machine
            BUILDERS[suffix],
            data_files=[str(file) for file in files],
            split=TRAIN,
            streaming=streaming,
            cache_dir=cache_dir,
            **options,
        )
    except (DatasetsError, ValueError) as error:
        named = files[0] if len(files) == 1 else f"{files[0].parent} ({len(files)} {suffix} files)"
        raise ValueError(f"{named} cannot be read: {one_line(error.__cause__ or error)}") from error


def names_labels(file: Path) -> bool:
    """Whether a metadata file has a label column, from its first line."""
    if file.suffix.lower() == ".parquet":
        return True
    with open(file, encoding="utf-8-sig", errors="replace") as lines:
        first = lines.readline()
    if file.suffix.lower() in (".csv", ".tsv"):
        names = [name.strip().strip('"') for name in re.split(r"[,;\t]", first)]
    else:
        try:
            names = list(json.loads(first))
        except (json.JSONDecodeError, TypeError):
            return False
    return any(name.lower() in ("label", "labels", "class", "target") for name in names)
