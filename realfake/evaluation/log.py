"""An append-only log of measurements of test splits, one JSON object per line.

A test split that is measured often becomes a validation split, so the model card states how often
it was measured.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from realfake.io import versions

FILE_NAME = "measurements.jsonl"


def plain(value: Any) -> Any:
    """Convert NumPy scalars and arrays, mappings and tuples to values of strict JSON.

    NaN and infinity become `None`.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy arrays and scalars
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def new_record(
    model: str, identity: str, corpus: str, fingerprint: str, command: str
) -> dict[str, Any]:
    """Return the first entries of a record: which weights were measured on what, when and how."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint_sha256": identity,
        "model": model,
        "corpus": corpus,
        "corpus_fingerprint": fingerprint,
        "command": command,
        "versions": versions(),
    }


def log_measurement(
    path: str | os.PathLike,
    *,
    checkpoint_hash: str,
    corpus: str,
    split: str,
    n: int | Mapping[str, int],
    date: str,
    command: str,
    figures: Mapping,
    degradations: Sequence[str] | None = None,
) -> dict:
    """Append a measurement to the log, wait until it is on disk, and return the record.

    Args:
        path: The log file (`….jsonl`), or a folder, for `measurements.jsonl` in it.
        checkpoint_hash: SHA-256 of the weights, see [`results.checkpoint_hash`].
        n: Number of images, or `{"real": n, "ai": n}`.
        degradations: *optional*. Names of the degradations, for a robustness measurement.

    Raises:
        ValueError: A figure is of a type that JSON cannot hold.
        OSError: The file cannot be written.
    """
    path = _file(path)
    record = plain(
        {
            "date": date,
            "checkpoint_sha256": checkpoint_hash,
            "corpus": corpus,
            "split": split,
            "n": n,
            "command": command,
            **({} if degradations is None else {"degradations": sorted(degradations)}),
            "figures": figures,
        }
    )
    try:
        line = json.dumps(record, ensure_ascii=False, allow_nan=False)
    except TypeError as error:
        raise ValueError(
            f"A figure cannot be written as JSON ({error}); pass numbers, strings, lists or dicts."
        ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    # One unbuffered write in append mode keeps lines of concurrent processes whole.
    with open(path, "ab+", buffering=0) as file:
        torn = False  # whether an earlier process died in the middle of a line
        if file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        file.write((("\n" if torn else "") + line + "\n").encode("utf-8"))
        os.fsync(file.fileno())
    return record


def log_test(
    path: str | os.PathLike,
    record: Mapping,
    split: str,
    *,
    n: int | Mapping[str, int],
    figures: Mapping,
    kind: str | None = None,
    degradations: Sequence[str] | None = None,
) -> None:
    """Log a record of [`new_record`], if the split is a test split.

    Weights, images and degradations that the log has are not logged again. So an interrupted run
    that continues counts once.

    Args:
        kind: What was measured; *defaults to* the accuracy. Other kinds do not count as it.
    """
    if split != "test":
        return
    weights = record["checkpoint_sha256"]
    corpus = f"{record['corpus']} ({kind})" if kind else record["corpus"]
    key = {"checkpoint_sha256": weights, "corpus": corpus, "split": split, "n": n}
    wanted = plain({**key, "degradations": sorted(degradations or ()) or None})
    if any(all(known.get(name) == wanted[name] for name in wanted) for known in read_log(path)):
        return
    log_measurement(
        path,
        checkpoint_hash=weights,
        corpus=corpus,
        split=split,
        n=n,
        date=record["date"],
        command=record["command"],
        figures=figures,
        degradations=degradations,
    )


def read_log(path: str | os.PathLike) -> list[dict]:
    """Return all measurements, oldest first; an empty list if there is no log.

    Raises:
        ValueError: A line is not a JSON object; the message says which.
    """
    path = _file(path)
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
        if not isinstance(record, dict):
            raise ValueError(
                f"{path}, line {number}: not a measurement record; repair or remove the line."
            )
        records.append(record)
    return records


def count(path: str | os.PathLike, split: str, corpus: str) -> int:
    """Count the measurements of a split of a corpus."""
    return len(_measurements(path, split, corpus))


def count_weights(path: str | os.PathLike, split: str, corpus: str) -> int:
    """Count the different weights with which a split of a corpus was measured."""
    return len({record.get("checkpoint_sha256") for record in _measurements(path, split, corpus)})


def _measurements(path: str | os.PathLike, split: str, corpus: str) -> list[dict]:
    wanted = {"split": split, "corpus": corpus}.items()
    return [record for record in read_log(path) if wanted <= record.items()]


def _file(path: str | os.PathLike) -> Path:
    path = Path(path)
    return path if path.suffix == ".jsonl" else path / FILE_NAME
