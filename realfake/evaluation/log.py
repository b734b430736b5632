"""An append-only log of every measurement of a split, one JSON object a line.

A test split that is looked at often turns into a validation split. Whoever measures a checkpoint writes a line
here first, so that a reader of the model card can count how often a split was looked at, and with what outcome.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

FILE_NAME = "measurements.jsonl"


def plain(value):
    """Turn NumPy scalars and arrays, mappings and tuples into what strict JSON holds.

    A figure that does not exist (NaN, infinity) becomes `None`: strict JSON has no word for it.
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
    """Append one measurement to the log and wait until it is on disk.

    Args:
        path: The log file (`….jsonl`), or a folder, which then holds `measurements.jsonl`. Created where missing.
        checkpoint_hash: SHA-256 of the weights that were measured ([`results.checkpoint_hash`]).
        corpus: Name of the corpus, or Hub id.
        split: Name of the split.
        n: Number of images measured, or `{"real": n, "ai": n}`.
        date: When, ISO 8601.
        command: The exact command line.
        figures: The headline figures, for example `{"auroc": 0.93, "accuracy": 0.88}`.
        degradations: *optional*. The degradations that the images were measured under, where it was a grid of them.

    Returns:
        The record as written.

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
    # Append mode and one unbuffered write: two processes that log at once do not cut each other's line in two.
    with open(path, "ab+", buffering=0) as file:
        torn = False  # a run that died in the middle of a line must not swallow this one
        if file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        file.write((("\n" if torn else "") + line + "\n").encode("utf-8"))
        os.fsync(file.fileno())
    return record


def log_once(path: str | os.PathLike, **measurement) -> dict | None:
    """Append a measurement unless the log holds one of the same weights, corpus, split, number of images and degradations.

    For a run that was interrupted and continued, or whose report is only written again: it looks at the split once.

    Args:
        measurement: As of [`log_measurement`].

    Returns:
        The record as written, or `None`.
    """
    wanted = plain(
        {
            "checkpoint_sha256": measurement["checkpoint_hash"],
            "corpus": measurement["corpus"],
            "split": measurement["split"],
            "n": measurement["n"],
            "degradations": sorted(measurement["degradations"])
            if measurement.get("degradations")
            else None,
        }
    )
    if any(
        all(record.get(key) == value for key, value in wanted.items()) for record in read_log(path)
    ):
        return None
    return log_measurement(path, **measurement)


def read_log(path: str | os.PathLike) -> list[dict]:
    """Every measurement in the log, oldest first; an empty list where there is no log yet.

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
                f"{path}, line {number}: not a measurement record. Repair or remove the line by hand; "
                "it may stand for a measurement that was made."
            )
        records.append(record)
    return records


def count(
    path: str | os.PathLike,
    checkpoint_hash: str | None = None,
    split: str | None = None,
    corpus: str | None = None,
) -> int:
    """How many measurements the log holds; `None` stands for any checkpoint, split or corpus."""
    wanted = {"checkpoint_sha256": checkpoint_hash, "split": split, "corpus": corpus}
    return sum(
        all(value is None or record.get(key) == value for key, value in wanted.items())
        for record in read_log(path)
    )


def count_weights(path: str | os.PathLike, split: str, corpus: str) -> int:
    """With how many different weights a split of a corpus was measured, however often with each."""
    return len(
        {
            record.get("checkpoint_sha256")
            for record in read_log(path)
            if record.get("split") == split and record.get("corpus") == corpus
        }
    )


def _file(path: str | os.PathLike) -> Path:
    path = Path(path)
    return path if path.suffix == ".jsonl" else path / FILE_NAME
