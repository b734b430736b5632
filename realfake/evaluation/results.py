"""What is kept of a measurement beside the weights: `evaluation.json`, one record per split, and the score of each image.

Figures can be computed again from the scores; no image has to be looked at for that.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from realfake.evaluation.log import plain
from realfake.evaluation.measure import measure, named_column, numbered_groups
from realfake.io import read_records, write_atomically
from realfake.statistics.calibration import METHODS
from realfake.statistics.log_odds import check_log_odds
from realfake.statistics.noise_floor import calibrated_ece_band
from realfake.statistics.verdicts import Thresholds

FILE_NAME = "evaluation.json"
WEIGHTS_NAME = "model.safetensors"


def checkpoint_hash(folder: str | os.PathLike) -> str:
    """SHA-256 of a checkpoint's weights, by which a measurement names what was measured.

    Raises:
        OSError: The folder holds no `model.safetensors`.
    """
    path = Path(folder) / WEIGHTS_NAME
    if not path.is_file():
        raise OSError(
            f"There is no {WEIGHTS_NAME} in {folder}; save the model there first, in one file."
        )
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    """Write one split's figures into `evaluation.json`, beside those of other splits.

    Splits that were measured with other weights are dropped: the file describes the checkpoint it lies beside.

    Args:
        folder: The checkpoint's folder.
        split: Name of the split.
        figures: What [`measure`] returned, of the checkpoint as it is, calibration included.
        before: *optional*. The same before calibration.
        checkpoint_hash: SHA-256 of the weights, see [`checkpoint_hash`].
        command: The exact command line.
        corpus: The corpus, by name or Hub id.
        corpus_fingerprint: *optional*. Fingerprint of its contents.
        date: ISO 8601.
        versions: `{package: version}`.

    Returns:
        `dict`: The whole file, `{split: record}`, each record with `figures`, `before_calibration` and the above.

    Raises:
        ValueError: There is an `evaluation.json` that is not one.
    """
    path = Path(folder) / FILE_NAME
    known = read_evaluation(folder)
    kept = {
        name: record
        for name, record in known.items()
        if record.get("checkpoint_sha256") == checkpoint_hash
    }
    kept[split] = plain(
        {
            "date": date,
            "checkpoint_sha256": checkpoint_hash,
            "corpus": corpus,
            "corpus_fingerprint": corpus_fingerprint,
            "command": command,
            "versions": versions,
            "figures": figures,
            "before_calibration": before,
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(folder, kept)
    return kept


def refresh_evaluation(folder: str | os.PathLike, thresholds: Thresholds | None) -> dict:
    """Compute the figures in `evaluation.json` again from the scores beside it; no image is looked at.

    Figures that came later than the measurement, or are computed in another way now, stand there then. What it says of
    the measurement itself stays.

    Args:
        thresholds: The checkpoint's.

    Returns:
        The whole file; splits without a file of scores are as they were.
    """
    known = read_evaluation(folder)
    for split, record in known.items():
        path = Path(folder) / f"scores-{split}.parquet"
        if path.is_file():
            seed = record["figures"].get("seed", 0)
            record["figures"] = measure(**read_scores(path), thresholds=thresholds, seed=seed)
    if known:
        _write(folder, known)
    return known


def add_calibration_bands(folder: str | os.PathLike, calibration: Mapping | None) -> None:
    """Set each split's calibration error in `evaluation.json` beside that of a perfect model that was calibrated likewise.

    Computed from the scores beside the figures; the band is that of [`calibrated_ece_band`], under `calibration_band`.
    Splits without scores, and the calibration images themselves, get none.

    Args:
        calibration: What the checkpoint's configuration says of its calibration.
    """
    folder = Path(folder)
    known, fitted_on = read_evaluation(folder), folder / "scores-calibration.parquet"
    method = (calibration or {}).get("method")
    if method not in METHODS[1:] or not fitted_on.is_file():
        return
    fitted = read_scores(fitted_on)
    for split, record in known.items():
        path = folder / f"scores-{split}.parquet"
        if split == "calibration" or not path.is_file():
            continue
        scores = read_scores(path)
        pairs = [part[key] for part in (scores, fitted) for key in ("log_odds", "is_ai")]
        seed = record["figures"].get("seed", 0)
        record["figures"]["calibration_band"] = calibrated_ece_band(
            *pairs, method=method, seed=seed
        )
    _write(folder, known)


def _write(folder: str | os.PathLike, records: Mapping) -> None:
    text = json.dumps(plain(records), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(Path(folder) / FILE_NAME, text)


def read_evaluation(folder: str | os.PathLike) -> dict:
    """Read `evaluation.json`; `{}` where there is none.

    Raises:
        ValueError: It is not what [`write_evaluation`] writes.
    """
    return read_records(Path(folder) / FILE_NAME)


def write_scores(
    folder: str | os.PathLike,
    split: str,
    log_odds,
    is_ai,
    *,
    out_of_distribution: Sequence[bool] | None = None,
    groups: Sequence | None = None,
    generators: Sequence | None = None,
    sources: Sequence | None = None,
    index: Sequence[int] | None = None,
) -> Path:
    """Save the margin of every image of a split as `scores-<split>.parquet`, without the images.

    Groups are numbered rather than named: their names say nothing, and cost most of the space.

    Args:
        log_odds: Float64 array of shape `(n,)`, kept as it is, so that the figures can be computed again exactly.
        index: *optional*. The image's row in the corpus; *defaults to* its position.

    Returns:
        `Path`: The file; `measure(**read_scores(path), thresholds=...)` computes the figures again.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    n = len(log_odds)
    rows = np.arange(n) if index is None else np.asarray(index)
    columns = {
        "index": pa.array(rows.astype(np.int64)),
        "log_odds": pa.array(log_odds),
        "is_ai": pa.array(is_ai),
    }
    if out_of_distribution is not None:
        columns["out_of_distribution"] = pa.array(np.asarray(out_of_distribution, dtype=bool))
    for name, values in (("generator", generators), ("source", sources)):
        values = named_column(values, n, f"{name}s")
        if values is not None:
            columns[name] = pa.array(
                [value or None for value in values.tolist()]
            ).dictionary_encode()
    groups = named_column(groups, n, "groups")
    if groups is not None:
        columns["group"] = pa.array(numbered_groups(groups), type=pa.int32())
    path = Path(folder) / f"scores-{split}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())
    return path


def read_scores(path: str | os.PathLike) -> dict:
    """Read what [`write_scores`] wrote, as the arguments of [`measure`].

    Raises:
        OSError: There is no such file.
        ValueError: It is no file of scores.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(path).is_file():
        raise OSError(f"There is no file of scores {path}.")
    try:
        # One file, not a partitioned data set: the folders' names mean nothing.
        table = pq.ParquetFile(path).read()
        scores = {"log_odds": table["log_odds"].to_numpy(), "is_ai": table["is_ai"].to_numpy()}
    except (pa.ArrowInvalid, KeyError) as error:
        raise ValueError(f"{path} is no file of scores: {str(error).splitlines()[0]}") from None
    if "out_of_distribution" in table.column_names:
        scores["out_of_distribution"] = table["out_of_distribution"].to_numpy()
    for column, argument in (
        ("group", "groups"),
        ("generator", "generators"),
        ("source", "sources"),
    ):
        if column in table.column_names:
            scores[argument] = table[column].to_pylist()
    return scores
