"""Measures a classifier on one split, and keeps the figures together with what is needed to compute them again.

Takes the margins of a split after training and calibration; its figures go to `evaluation.json`, from which the
model card and the plots are made, and the margins themselves to a small Parquet file beside it.
"""

from collections.abc import Mapping, Sequence

import datasets
import evaluate
import numpy as np
from scipy.special import expit
from transformers import EvalPrediction

from realfake.evaluation.log import plain
from realfake.labels import AI, NAMES, REAL
from realfake.statistics import metrics
from realfake.statistics.bootstrap import bootstrap_interval, group_index
from realfake.statistics.log_odds import (
    check_log_odds,
    class_balanced_weights,
    log_odds_from_logits,
)
from realfake.statistics.metrics import auroc, confusion_matrix, reliability_curve
from realfake.statistics.summary import binary_summary
from realfake.statistics.verdicts import (
    INCONCLUSIVE,
    OperatingPoint,
    Thresholds,
    binomial_interval,
    coverage_band,
    verdicts,
)

VERDICTS = (REAL, INCONCLUSIVE, AI)
# Below this many images a generator or source is listed, but not named as the worst one.
_ENOUGH = 10
_OTHER = {REAL: AI, AI: REAL}


def measure(
    log_odds,
    is_ai,
    *,
    thresholds: Thresholds | None = None,
    out_of_distribution: Sequence[bool] | None = None,
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
        out_of_distribution: *optional*. Whether the image is unlike those that the checkpoint knows; its verdict is then withheld.
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
          `accuracy`, the share of the verdicts that are right; `out_of_distribution`, by label, the share of its images whose verdict
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
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    n = len(log_odds)
    groups, generators, sources = (
        named_column(values, n, name)
        for values, name in ((groups, "groups"), (generators, "generators"), (sources, "sources"))
    )
    groups = numbered_groups(groups)
    options = {"seed": seed, "n_resamples": n_resamples}
    n_groups = group_index(groups, n)[1]
    of_groups = "" if groups is None else f" over {n_groups} groups of images"
    called_ai = log_odds > 0
    counted = confusion_matrix(log_odds, is_ai)
    figures = {
        "n": {REAL: int((~is_ai).sum()), AI: int(is_ai.sum())},
        "n_groups": n_groups,
        "seed": seed,
        "intervals": f"95 %; bootstrap{of_groups}, {n_resamples} resamples, seed {seed}; "
        "shares without groups, and shares of none or all: Clopper-Pearson",
        "summary": binary_summary(log_odds, is_ai, groups=groups, **options),
        "reliability": reliability_curve(expit(log_odds), is_ai, class_balanced_weights(is_ai)),
        "confusion": {
            truth: {said: int(counted[truth][said]) for said in NAMES} for truth in NAMES
        },
    }
    for name, where in (("accuracy", is_ai | True), ("recall_real", ~is_ai), ("recall_ai", is_ai)):
        if figures["summary"][name]["value"] in (0, 1):
            # No resample of nothing but hits has a miss; the bootstrap's interval would have no width.
            figures["summary"][name] = _share(
                (called_ai == is_ai)[where], _pick(groups, where), options
            )
    said = None
    if thresholds is not None:
        said = verdicts(log_odds, thresholds)
        if out_of_distribution is not None:
            said = np.where(np.asarray(out_of_distribution, dtype=bool), INCONCLUSIVE, said)
        figures["verdicts"] = _verdict_figures(said, is_ai, thresholds, groups, options)
        if out_of_distribution is not None:
            truth = {REAL: ~is_ai, AI: is_ai}
            out_of_distribution = np.asarray(out_of_distribution, dtype=bool)
            figures["verdicts"]["out_of_distribution"] = {
                label: _share(out_of_distribution[mine], _pick(groups, mine), options)
                for label, mine in truth.items()
            }

    if generators is not None and is_ai.any():
        figures["by_generator"] = {}
        for name in _names(generators[is_ai]):
            mine = is_ai & (generators == name)
            against = mine | ~is_ai
            figures["by_generator"][name] = {
                "n": int(mine.sum()),
                "auroc": _auroc(log_odds[against], is_ai[against], _pick(groups, against), options),
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
        figures["promised"][label] = _promised(
            label, int(mine.sum()), thresholds, _pick(groups, mine)
        )
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
        low, high = bootstrap_interval(
            _mean, hit.astype(np.float64), groups=groups, weighted=True, **options
        )
    else:
        # A bootstrap of nothing but hits has no width at all. One observation a group is the cautious count.
        independent = group_index(groups, n)[1] if successes in (0, n) else n
        low, high = binomial_interval(round(successes / n * independent), independent)
    return {"value": successes / n, "low": low, "high": high, "n": n}


def _mean(values, weights):
    return (weights * values).sum(-1) / weights.sum(-1)


def _auroc(log_odds, is_ai, groups, options) -> dict:
    value = auroc(log_odds, is_ai)
    if np.isnan(value):
        return {"value": None, "low": None, "high": None, "n": len(log_odds)}
    low = high = None
    if options["n_resamples"]:
        low, high = bootstrap_interval(
            auroc, log_odds, is_ai, groups=groups, weighted=True, **options
        )
    return {"value": value, "low": low, "high": high, "n": len(log_odds)}


def _worst(figures: dict, key: str, lowest: bool) -> str | None:
    known = {name: entry for name, entry in figures.items() if entry[key]["value"] is not None}
    known = {name: entry for name, entry in known.items() if entry["n"] >= _ENOUGH} or known
    if not known:
        return None
    return (min if lowest else max)(known, key=lambda name: known[name][key]["value"])


def named_column(values, n: int, name: str) -> np.ndarray | None:
    """Names as strings, "" where there is none."""
    if values is None:
        return None
    values = ["" if value is None else str(value) for value in values]
    if len(values) != n:
        raise ValueError(
            f"{name} has {len(values)} entries for {n} images; one for each image is needed."
        )
    return np.array(values, dtype=str)


def numbered_groups(groups: np.ndarray | None) -> np.ndarray | None:
    """Groups by number, in the order in which they turn up, so that their names do not steer the bootstrap."""
    if groups is None:
        return None
    numbers: dict[str | int, int] = {}
    # An image without a group is one of its own.
    return np.array(
        [
            numbers.setdefault(name or index, len(numbers))
            for index, name in enumerate(groups.tolist())
        ]
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
    log_odds, is_ai = check_log_odds(scores["log_odds"], scores["is_ai"])
    groups = numbered_groups(named_column(scores.get("groups"), len(log_odds), "groups"))
    options = {"seed": seed, "n_resamples": n_resamples}
    measured = []
    for point in points:
        above = log_odds > (np.inf if point.threshold is None else point.threshold)
        shares = {
            name: _share(above[mine], _pick(groups, mine), options)
            for name, mine in (("photographs", ~is_ai), ("found", is_ai))
        }
        measured.append(plain({**point.to_dict(), **shares}))
    return measured


# What is written beside a checkpoint


_DESCRIPTION = "Accuracy, precision, recall and F1 of both classes, AUROC, and the quality of the probabilities."

_INPUTS = """
Args:
    predictions (`list` of `float`): Margins, the log-odds of ai; above 0 is called ai.
    references (`list` of `int`): 1 for ai, 0 for real.
    class_balanced (`bool`, *optional*, defaults to `True`): Give both classes the same mass in `ece`, `nll` and
        `brier`, whose probabilities mean equal odds beforehand.

Returns:
    `dict` of `float`: accuracy, balanced_accuracy, precision_real, recall_real, f1_real, precision_ai, recall_ai,
    f1_ai, auroc, ece, nll, brier. A value that is not defined, such as auroc on one class, is NaN.
"""


class DetectionMetrics(evaluate.Metric):
    """`DetectionMetrics().compute(predictions=margins, references=is_ai)`; see the module.

    Raises:
        ValueError: `compute` or `add_batch`: lengths differ, a margin is NaN, or a reference is not 0 or 1.

    Examples:
        >>> DetectionMetrics().compute(predictions=[2.0, -1.0], references=[1, 0])["accuracy"]
        1.0
    """

    def __init__(self, config_name: str | None = None, **kwargs):
        # In memory: the base class would keep an Arrow file and a lock under ~/.cache.
        super().__init__(config_name, keep_in_memory=True, **kwargs)

    def _build_data_dir(self) -> str:
        # The base class makes this folder even where nothing is ever kept in it.
        return self._data_dir_root

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references, class_balanced: bool = True) -> dict[str, float]:
        log_odds, is_ai = check_log_odds(np.asarray(predictions), np.asarray(references))
        weights = class_balanced_weights(is_ai) if class_balanced else None
        p_ai = expit(log_odds)
        values = {
            "accuracy": metrics.accuracy(log_odds, is_ai),
            "balanced_accuracy": metrics.balanced_accuracy(log_odds, is_ai),
        }
        for label in NAMES:
            values[f"precision_{label}"] = metrics.precision(log_odds, is_ai, label)
            values[f"recall_{label}"] = metrics.recall(log_odds, is_ai, label)
            values[f"f1_{label}"] = metrics.f1(log_odds, is_ai, label)
        values["auroc"] = metrics.auroc(log_odds, is_ai)
        values["ece"] = metrics.ece(p_ai, is_ai, weights)
        values["nll"] = metrics.nll(log_odds, is_ai, weights)
        values["brier"] = metrics.brier(p_ai, is_ai, weights)
        return values


def metrics_of(label2id: dict[str, int]):
    """Make the function that `Trainer` computes its metrics with every epoch."""
    metric = DetectionMetrics()
    class_indices = {name: [label2id[name]] for name in NAMES}

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        log_odds = log_odds_from_logits(
            np.asarray(prediction.predictions, dtype=np.float64), class_indices
        )
        return metric.compute(
            predictions=log_odds, references=(prediction.label_ids == label2id[AI]).astype(int)
        )

    return compute


def check_metric(name: str | None) -> None:
    """Refuse a `--metric_for_best_model` that is not measured, which `Trainer` would notice after the first epoch.

    Raises:
        ValueError: There is no such metric.
    """
    known = ["loss", *DetectionMetrics().compute(predictions=[1.0, -1.0], references=[1, 0])]
    if name is not None and name.removeprefix("eval_") not in known:
        raise ValueError(
            f"--metric_for_best_model must be one of {', '.join(known)}, not {name!r}."
        )
