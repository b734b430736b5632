"""The files of a measurement beside the weights: `evaluation.json` and `scores-<split>.parquet`.

`evaluation.json` holds one record per split. Its figures can be recomputed from the score of each
image.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from realfake.evaluation.log import plain
from realfake.evaluation.measure import measure, named_column, numbered_groups
from realfake.io import read_records, write_atomically, write_record
from realfake.statistics.calibration import METHODS
from realfake.statistics.metrics import check_log_odds
from realfake.statistics.summary import calibrated_ece_band
from realfake.statistics.verdicts import Thresholds

FILE_NAME = "evaluation.json"
WEIGHTS_NAME = "model.safetensors"
# Columns of a file of scores and the arguments of `measure`, with the names of older versions.
_COLUMNS = {
    "log_odds": ("log_odds", "margin"),
    "is_ai": ("is_ai",),
    "out_of_distribution": ("out_of_distribution", "novel"),
    "n_views": ("n_views",),
    "differing": ("differing",),
    "groups": ("group",),
    "generators": ("generator",),
    "sources": ("source",),
}


def checkpoint_hash(folder: str | os.PathLike) -> str:
    """Return the SHA-256 of a checkpoint's weights; for several files, of their hashes in order.

    Raises:
        OSError: The folder holds no weights in safetensors files.
    """
    single = Path(folder) / WEIGHTS_NAME
    files = [single] if single.is_file() else sorted(Path(folder).glob("model-*.safetensors"))
    if not files:
        raise OSError(f"There is no {WEIGHTS_NAME} in {folder}; save the model there first.")
    hashes = []
    for path in files:
        with open(path, "rb") as file:
            hashes.append(hashlib.file_digest(file, "sha256").hexdigest())
    return hashes[0] if len(files) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def write_evaluation(
    folder: str | os.PathLike,
    split: str,
    figures: Mapping,
    *,
    before: Mapping | None = None,
    checkpoint_hash: str,
    command: str,
    corpus: str,
    corpus_fingerprint: str | None,
    date: str,
    versions: Mapping[str, str],
) -> dict:
    """Write the figures of a split into `evaluation.json`, beside those of other splits.

    Splits that were measured with other weights are dropped.

    Args:
        figures: Of [`measure`], after calibration.
        before: *optional*. Of the same, before calibration.

    Returns:
        The whole file, `{split: record}`: `figures`, `before_calibration` and the other arguments.

    Raises:
        ValueError: The existing `evaluation.json` is not readable.
    """
    record = {
        "date": date,
        "checkpoint_sha256": checkpoint_hash,
        "corpus": corpus,
        "corpus_fingerprint": corpus_fingerprint,
        "command": command,
        "versions": versions,
        "figures": figures,
        "before_calibration": before,
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    return write_record(Path(folder) / FILE_NAME, split, plain(record), indent=1)


def refresh_evaluation(folder: str | os.PathLike, thresholds: Thresholds | None) -> dict:
    """Recompute the figures in `evaluation.json` from the scores, without the images.

    Returns:
        The whole file. Splits without scores, dates and commands are unchanged.
    """
    known = read_evaluation(folder)
    for split, record in known.items():
        path = scores_file(folder, split)
        if path.is_file():
            seed = record["figures"].get("seed", 0)
            record["figures"] = measure(**read_scores(path), thresholds=thresholds, seed=seed)
    if known:
        _write(folder, known)
    return known


def add_calibration_bands(folder: str | os.PathLike, calibration: Mapping | None) -> None:
    """Add the band of [`calibrated_ece_band`] to the figures of each split, as `calibration_band`.

    Splits without scores and the calibration images have none.
    """
    known, fitted_on = read_evaluation(folder), scores_file(folder, "calibration")
    method = (calibration or {}).get("method")
    if method not in METHODS[1:] or not fitted_on.is_file():
        return
    fitted = read_scores(fitted_on)
    for split, record in known.items():
        path = scores_file(folder, split)
        if split != "calibration" and path.is_file():
            pairs = [
                one[key] for one in (read_scores(path), fitted) for key in ("log_odds", "is_ai")
            ]
            record["figures"]["calibration_band"] = calibrated_ece_band(
                *pairs, method=method, seed=record["figures"].get("seed", 0)
            )
    _write(folder, known)


def scores_file(folder: str | os.PathLike, split: str) -> Path:
    """Return the path of the scores of a split."""
    return Path(folder) / f"scores-{split}.parquet"


def _write(folder: str | os.PathLike, records: Mapping) -> None:
    text = json.dumps(plain(records), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(Path(folder) / FILE_NAME, text)


def read_evaluation(folder: str | os.PathLike) -> dict:
    """Read `evaluation.json`; `{}` if there is none.

    Raises:
        ValueError: It is not what [`write_evaluation`] writes.
    """
    return read_records(Path(folder) / FILE_NAME)


def write_scores(
    folder: str | os.PathLike,
    split: str,
    log_odds: ArrayLike,
    is_ai: ArrayLike,
    *,
    out_of_distribution: Sequence[bool] | None = None,
    n_views: ArrayLike | None = None,
    differing: Sequence[bool] | None = None,
    groups: Sequence | None = None,
    generators: Sequence | None = None,
    sources: Sequence | None = None,
) -> Path:
    """Save the log-odds of every image of a split as `scores-<split>.parquet`.

    Groups are stored as numbers, which need less space than names.

    Returns:
        The file. `measure(**read_scores(path), thresholds=...)` recomputes the figures.
    """
    import pyarrow as pa

    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    n = len(log_odds)
    columns = {
        "index": pa.array(np.arange(n)),
        "log_odds": pa.array(log_odds),
        "is_ai": pa.array(is_ai),
    }
    if out_of_distribution is not None:
        columns["out_of_distribution"] = pa.array(np.asarray(out_of_distribution, dtype=bool))
    if n_views is not None and np.max(n_views, initial=1) > 1:
        columns["n_views"] = pa.array(np.asarray(n_views, dtype=np.int32))
        if differing is not None:
            columns["differing"] = pa.array(np.asarray(differing, dtype=bool))
    for name, values in (("generator", generators), ("source", sources)):
        named = named_column(values, n, f"{name}s")
        if named is not None:
            texts = [text or None for text in named.tolist()]
            columns[name] = pa.array(texts).dictionary_encode()
    named = named_column(groups, n, "groups")
    if named is not None:
        columns["group"] = pa.array(numbered_groups(named), type=pa.int32())
    path = scores_file(folder, split)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_columns(path, columns)
    return path


def write_columns(path: Path, columns: Mapping) -> None:
    """Write columns of one length as a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())


def read_scores(path: str | os.PathLike) -> dict:
    """Read what [`write_scores`] wrote, as the arguments of [`measure`].

    Raises:
        OSError: There is no such file.
        ValueError: It is not a file of scores.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(path).is_file():
        raise OSError(f"There is no file of scores {path}.")
    try:
        # `read_table` would take "split=x" in a path as a partition.
        table = pq.ParquetFile(path).read()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a file of scores: {str(error).splitlines()[0]}") from None
    scores = {}
    for argument, names in _COLUMNS.items():
        name = next((name for name in names if name in table.column_names), None)
        if name is None:
            continue
        numeric = argument not in ("groups", "generators", "sources")
        scores[argument] = table[name].to_numpy() if numeric else table[name].to_pylist()
    if not {"log_odds", "is_ai"} <= scores.keys():
        raise ValueError(f"{path} is not a file of scores: it has no columns log_odds and is_ai.")
    return scores
