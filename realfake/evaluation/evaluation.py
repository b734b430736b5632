"""Measures a classifier on one split, and keeps the figures together with what is needed to compute them again.

Takes the margins of a split after training and calibration; its figures go to `evaluation.json`, from which the
model card and the plots are made, and the margins themselves to a small Parquet file beside it.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.special import expit

from ..labels import AI, NAMES, REAL
from ..records import read_records, write_atomically
from ..statistics.bootstrap import bootstrap_interval, group_index
from ..statistics.calibration import METHODS
from ..statistics.conformal import (
    INCONCLUSIVE,
    OperatingPoint,
    Thresholds,
    binomial_interval,
    coverage_band,
    verdicts,
)
from ..statistics.metrics import (
    auroc,
    binary_summary,
    check_margin,
    class_balanced_weights,
    confusion_matrix,
    reliability_curve,
)
from ..statistics.noise_floor import calibrated_ece_band
from .measurement_log import plain

FILE_NAME = "evaluation.json"
WEIGHTS_NAME = "model.safetensors"
VERDICTS = (REAL, INCONCLUSIVE, AI)
# Below this many images a generator or source is listed, but not named as the worst one.
_ENOUGH = 10
_OTHER = {REAL: AI, AI: REAL}


def measure(
    margin,
    is_ai,
    *,
    thresholds: Thresholds | None = None,
    novel: Sequence[bool] | None = None,
    groups: Sequence | None = None,
    generators: Sequence | None = None,
    sources: Sequence | None = None,
    seed: int = 0,
    n_resamples: int = 1000,
) -> dict:
    """Compute every figure of a split.

    Args:
        margin (`np.ndarray` of shape `(n,)`): Log-odds of ai.
        is_ai (`np.ndarray` of shape `(n,)`): Whether the image is generated.
        thresholds: *optional*. Where verdicts begin; without them there are no verdict figures.
        novel: *optional*. Whether the image is unlike those that the checkpoint knows; its verdict is then withheld.
        groups: *optional*. One name per image; images that share one are resampled together. `None` or an empty
            name means that the image belongs with no other.
        generators: *optional*. What made each image; looked at for ai images only.
        sources: *optional*. Where each image comes from; looked at for real images only.
        seed: Seed of the bootstrap.
        n_resamples: Bootstrap resamples, *defaults to* 1000.

    Returns:
        `dict`: Plain values, ready for JSON; a figure that does not exist is `None`. Wherever there is an interval it
        is `{"value", "low", "high", "n"}` at 95 %.

        - `n`: images by label; `n_groups`: independent groups of images; `seed`; `intervals`: how these were made
        - `summary`: see [`metrics.binary_summary`]
        - `reliability`: class-balanced reliability curve, see [`metrics.reliability_curve`]
        - `confusion`: `{true label: {predicted label: count}}` at even odds
        - `verdicts`, with thresholds: `thresholds`; `counts` `{true label: {verdict: count}}`; `given`, the share of
          images with a verdict; `wrong`, by label, the share of its images with the wrong verdict; `promised`, by
          label, the highest share that chance would explain if the split were like the calibration images;
          `accuracy`, the share of the verdicts that are right; `novel`, by label, the share of its images whose verdict
          is withheld as unlike those that the checkpoint knows, where that was told
        - `by_generator`: against all real images, `n`, `auroc`, `detected` (share with a margin above 0), and with
          thresholds `verdicts` (the share of each), `wrong` (that of `real`) and `promised`, as above
        - `by_source`: `n`, `false_positives` (share with a margin above 0), and with thresholds the same, `wrong` being
          the share of `ai`
        - `worst_generator` (lowest AUROC) and `worst_source` (most false positives): names, of those with ten
          images or more where there are such

    Raises:
        ValueError: The arrays are empty, disagree in length, or hold NaN.
    """
    margin, is_ai = check_margin(margin, is_ai)
    n = len(margin)
    groups, generators, sources = (
        _column(values, n, name)
        for values, name in ((groups, "groups"), (generators, "generators"), (sources, "sources"))
    )
    groups = _numbered(groups)
    options = {"seed": seed, "n_resamples": n_resamples}
    n_groups = group_index(groups, n)[1]
    of_groups = "" if groups is None else f" over {n_groups} groups of images"
    called_ai = margin > 0
    counted = confusion_matrix(margin, is_ai)
    figures = {
        "n": {REAL: int((~is_ai).sum()), AI: int(is_ai.sum())},
        "n_groups": n_groups,
        "seed": seed,
        "intervals": f"95 %; bootstrap{of_groups}, {n_resamples} resamples, seed {seed}; "
        "shares without groups, and shares of none or all: Clopper-Pearson",
        "summary": binary_summary(margin, is_ai, groups=groups, **options),
        "reliability": reliability_curve(expit(margin), is_ai, class_balanced_weights(is_ai)),
        "confusion": {truth: {said: int(counted[truth][said]) for said in NAMES} for truth in NAMES},
    }
    for name, where in (("accuracy", is_ai | True), ("recall_real", ~is_ai), ("recall_ai", is_ai)):
        if figures["summary"][name]["value"] in (0, 1):
            # No resample of nothing but hits has a miss; the bootstrap's interval would have no width.
            figures["summary"][name] = _share((called_ai == is_ai)[where], _pick(groups, where), options)
    said = None
    if thresholds is not None:
        said = verdicts(margin, thresholds)
        if novel is not None:
            said = np.where(np.asarray(novel, dtype=bool), INCONCLUSIVE, said)
        figures["verdicts"] = _verdict_figures(said, is_ai, thresholds, groups, options)
        if novel is not None:
            truth = {REAL: ~is_ai, AI: is_ai}
            novel = np.asarray(novel, dtype=bool)
            figures["verdicts"]["novel"] = {
                label: _share(novel[mine], _pick(groups, mine), options) for label, mine in truth.items()
            }

    if generators is not None and is_ai.any():
        figures["by_generator"] = {}
        for name in _names(generators[is_ai]):
            mine = is_ai & (generators == name)
            against = mine | ~is_ai
            figures["by_generator"][name] = {
                "n": int(mine.sum()),
                "auroc": _auroc(margin[against], is_ai[against], _pick(groups, against), options),
                "detected": _share(called_ai[mine], _pick(groups, mine), options),
            }
            if said is not None:
                figures["by_generator"][name] |= _part_verdicts(
                    said[mine], AI, thresholds, _pick(groups, mine), options
                )
        figures["worst_generator"] = _worst(figures["by_generator"], "auroc", lowest=True)
    if sources is not None and (~is_ai).any():
        figures["by_source"] = {}
        for name in _names(sources[~is_ai]):
            mine = ~is_ai & (sources == name)
            figures["by_source"][name] = {
                "n": int(mine.sum()),
                "false_positives": _share(called_ai[mine], _pick(groups, mine), options),
            }
            if said is not None:
                figures["by_source"][name] |= _part_verdicts(
                    said[mine], REAL, thresholds, _pick(groups, mine), options
                )
        figures["worst_source"] = _worst(figures["by_source"], "false_positives", lowest=False)
    return plain(figures)


def _verdict_figures(said, is_ai, thresholds, groups, options) -> dict:
    given = said != INCONCLUSIVE
    truth = np.where(is_ai, AI, REAL)
    figures = {
        "thresholds": thresholds.to_dict(),
        "counts": {
            label: {verdict: int((said[truth == label] == verdict).sum()) for verdict in VERDICTS}
            for label in NAMES
        },
        "given": _share(given, groups, options),
        "wrong": {},
        "promised": {},
        "accuracy": _share((said == truth)[given], _pick(groups, given), options),
    }
    for label in NAMES:
        mine = truth == label
        figures["wrong"][label] = _share(said[mine] == _OTHER[label], _pick(groups, mine), options)
        figures["promised"][label] = _promised(label, int(mine.sum()), thresholds, _pick(groups, mine))
    return figures


def _part_verdicts(said, label, thresholds, groups, options) -> dict:
    """The verdicts on a generator's or a source's images, all of one label."""
    return {
        "verdicts": {verdict: float((said == verdict).mean()) for verdict in VERDICTS},
        "wrong": _share(said == _OTHER[label], groups, options),
        "promised": _promised(label, len(said), thresholds, groups),
    }


def _promised(label, n: int, thresholds, groups) -> float | None:
    """The highest share of wrong verdicts that chance would explain among `n` images like the calibration images."""
    calibrated_on = {REAL: thresholds.n_real, AI: thresholds.n_ai}[label]
    # Images of a group stand or fall together, so it is the groups that are counted.
    independent = group_index(groups, n)[1]
    if not independent or not calibrated_on:
        return None
    return 1 - coverage_band(calibrated_on, independent, thresholds.alpha)[0]


def _share(hit, groups, options) -> dict:
    """A proportion with its interval, honest also where it is 0 or 1."""
    n = len(hit)
    if not n:
        return {"value": None, "low": None, "high": None, "n": 0}
    successes = int(hit.sum())
    if groups is not None and 0 < successes < n and options["n_resamples"]:
        low, high = bootstrap_interval(_mean, hit.astype(np.float64), groups=groups, weighted=True, **options)
    else:
        # A bootstrap of nothing but hits has no width at all. One observation a group is the cautious count.
        independent = group_index(groups, n)[1] if successes in (0, n) else n
        low, high = binomial_interval(round(successes / n * independent), independent)
    return {"value": successes / n, "low": low, "high": high, "n": n}


def _mean(values, weights):
    return (weights * values).sum(-1) / weights.sum(-1)


def _auroc(margin, is_ai, groups, options) -> dict:
    value = auroc(margin, is_ai)
    if np.isnan(value):
        return {"value": None, "low": None, "high": None, "n": len(margin)}
    low = high = None
    if options["n_resamples"]:
        low, high = bootstrap_interval(auroc, margin, is_ai, groups=groups, weighted=True, **options)
    return {"value": value, "low": low, "high": high, "n": len(margin)}


def _worst(figures: dict, key: str, lowest: bool) -> str | None:
    known = {name: entry for name, entry in figures.items() if entry[key]["value"] is not None}
    known = {name: entry for name, entry in known.items() if entry["n"] >= _ENOUGH} or known
    if not known:
        return None
    return (min if lowest else max)(known, key=lambda name: known[name][key]["value"])


def _column(values, n: int, name: str) -> np.ndarray | None:
    """Names as strings, "" where there is none."""
    if values is None:
        return None
    values = ["" if value is None else str(value) for value in values]
    if len(values) != n:
        raise ValueError(f"{name} has {len(values)} entries for {n} images; one for each image is needed.")
    return np.array(values, dtype=str)


def _numbered(groups: np.ndarray | None) -> np.ndarray | None:
    """Groups by number, in the order in which they turn up, so that their names do not steer the bootstrap."""
    if groups is None:
        return None
    numbers: dict[str | int, int] = {}
    # An image without a group is one of its own.
    return np.array(
        [numbers.setdefault(name or index, len(numbers)) for index, name in enumerate(groups.tolist())]
    )


def _names(values: np.ndarray) -> list[str]:
    return [str(name) for name in np.unique(values) if name]


def _pick(values: np.ndarray | None, where: np.ndarray) -> np.ndarray | None:
    return None if values is None else values[where]


def measure_operating_points(
    points: Sequence[OperatingPoint], scores: Mapping, seed: int = 0, n_resamples: int = 1000
) -> list[dict]:
    """Measure a moderator's thresholds on a split that had no part in setting them.

    Args:
        points: Of [`conformal.operating_point`].
        scores: What [`read_scores`] returned.
        seed: As in [`measure`], likewise `n_resamples`.

    Returns:
        For each point its values, with `photographs`, the share of the split's photographs above the threshold, and
        `found`, that of its generated images.
    """
    margin, is_ai = check_margin(scores["margin"], scores["is_ai"])
    groups = _numbered(_column(scores.get("groups"), len(margin), "groups"))
    options = {"seed": seed, "n_resamples": n_resamples}
    measured = []
    for point in points:
        above = margin > (np.inf if point.threshold is None else point.threshold)
        shares = {
            name: _share(above[mine], _pick(groups, mine), options)
            for name, mine in (("photographs", ~is_ai), ("found", is_ai))
        }
        measured.append(plain({**point.to_dict(), **shares}))
    return measured


# What is written beside a checkpoint


def checkpoint_hash(folder: str | os.PathLike) -> str:
    """SHA-256 of a checkpoint's weights, by which a measurement names what was measured.

    Raises:
        OSError: The folder holds no `model.safetensors`.
    """
    path = Path(folder) / WEIGHTS_NAME
    if not path.is_file():
        raise OSError(f"There is no {WEIGHTS_NAME} in {folder}; save the model there first, in one file.")
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
        name: record for name, record in known.items() if record.get("checkpoint_sha256") == checkpoint_hash
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
    write_atomically(path, json.dumps(kept, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
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


def _write(folder: str | os.PathLike, records: Mapping) -> None:
    text = json.dumps(plain(records), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(Path(folder) / FILE_NAME, text)


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
        pairs = [part[key] for part in (scores, fitted) for key in ("margin", "is_ai")]
        seed = record["figures"].get("seed", 0)
        record["figures"]["calibration_band"] = calibrated_ece_band(*pairs, method=method, seed=seed)
    _write(folder, known)


def read_evaluation(folder: str | os.PathLike) -> dict:
    """Read `evaluation.json`; `{}` where there is none.

    Raises:
        ValueError: It is not what [`write_evaluation`] writes.
    """
    return read_records(Path(folder) / FILE_NAME)


def write_scores(
    folder: str | os.PathLike,
    split: str,
    margin,
    is_ai,
    *,
    novel: Sequence[bool] | None = None,
    groups: Sequence | None = None,
    generators: Sequence | None = None,
    sources: Sequence | None = None,
    index: Sequence[int] | None = None,
) -> Path:
    """Save the margin of every image of a split as `scores-<split>.parquet`, without the images.

    Groups are numbered rather than named: their names say nothing, and cost most of the space.

    Args:
        margin: Float64 array of shape `(n,)`, kept as it is, so that the figures can be computed again exactly.
        index: *optional*. The image's row in the corpus; *defaults to* its position.

    Returns:
        `Path`: The file; `measure(**read_scores(path), thresholds=...)` computes the figures again.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    margin, is_ai = check_margin(margin, is_ai)
    n = len(margin)
    rows = np.arange(n) if index is None else np.asarray(index)
    columns = {"index": pa.array(rows.astype(np.int64)), "margin": pa.array(margin), "is_ai": pa.array(is_ai)}
    if novel is not None:
        columns["novel"] = pa.array(np.asarray(novel, dtype=bool))
    for name, values in (("generator", generators), ("source", sources)):
        values = _column(values, n, f"{name}s")
        if values is not None:
            columns[name] = pa.array([value or None for value in values.tolist()]).dictionary_encode()
    groups = _column(groups, n, "groups")
    if groups is not None:
        columns["group"] = pa.array(_numbered(groups), type=pa.int32())
    path = Path(folder) / f"scores-{split}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, compression="zstd")
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
        scores = {"margin": table["margin"].to_numpy(), "is_ai": table["is_ai"].to_numpy()}
    except (pa.ArrowInvalid, KeyError) as error:
        raise ValueError(f"{path} is no file of scores: {str(error).splitlines()[0]}") from None
    if "novel" in table.column_names:
        scores["novel"] = table["novel"].to_numpy()
    for column, argument in (("group", "groups"), ("generator", "generators"), ("source", "sources")):
        if column in table.column_names:
            scores[argument] = table[column].to_pylist()
    return scores
