"""The figures of one split: metrics, verdicts, and results by generator and by source.

The figures of [`measure`] go to `evaluation.json`; the model card and the plots are made from them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from realfake.evaluation.log import plain
from realfake.labels import AI, NAMES, REAL
from realfake.statistics import metrics
from realfake.statistics.metrics import (
    bootstrap_interval,
    check_log_odds,
    class_balanced_weights,
    group_index,
)
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
# The worst generator and the worst source have at least this many images, if any has.
ENOUGH = 10
OTHER = {REAL: AI, AI: REAL}


def measure(
    log_odds: ArrayLike,
    is_ai: ArrayLike,
    *,
    thresholds: Thresholds | None = None,
    out_of_distribution: Sequence[bool] | None = None,
    n_views: ArrayLike | None = None,
    differing: Sequence[bool] | None = None,
    groups: Sequence | None = None,
    generators: Sequence | None = None,
    sources: Sequence | None = None,
    seed: int = 0,
    n_resamples: int = 1000,
) -> dict:
    """Compute all figures of a split.

    Args:
        log_odds: (n,) log-odds of ai.
        is_ai: (n,) bool.
        thresholds: *optional*. Without them there are no verdict figures.
        out_of_distribution: (n,) bool, *optional*. The verdict of these images is inconclusive.
        n_views: (n,) int, *optional*. Numbers of views, for the thresholds.
        differing: (n,) bool, *optional*. These images have a part that differs; their verdict is
            not `real`.
        groups: (n,) names, *optional*. Images of one group are resampled together. `None` or an
            empty name means a group of one image.
        generators: (n,) names, *optional*. What made each ai image.
        sources: (n,) names, *optional*. Where each real image comes from.

    Returns:
        Plain values, ready for JSON; `None` for what is not defined. An interval is
        `{"value", "low", "high", "n"}` at 95 %.

        - `n`: images by label; `n_groups`; `seed`; `intervals`: how the intervals were made
        - `summary`: see [`summary.binary_summary`]
        - `reliability`: class-balanced curve, see [`metrics.reliability_curve`]
        - `confusion`: `{true label: {called label: count}}` at a probability of 1/2
        - `verdicts`, with thresholds: `thresholds`; `counts` `{true label: {verdict: count}}`;
          `verdict_rate`, the share of images with the verdict real or ai; `wrong`, by label, the
          share of images with the opposite verdict; `max_wrong`, by label, the highest share that
          chance explains if the split is like the calibration images; `accuracy`, the share of
          given verdicts that are right; and, if known, `out_of_distribution` and `differing`, their
          shares by label
        - `by_views`, for images with different numbers of views: for each number, `n` by label,
          `auroc`, and with thresholds `verdict_rate` and `wrong` by label
        - `by_generator`, each against all real images: `n`, `auroc`, `detected` (share with
          log-odds above 0), and with thresholds `verdicts` (the share of each), `wrong`,
          `max_wrong`
        - `by_source`: `n`, `false_positives` (share with log-odds above 0), and the same
        - `worst_generator` (lowest AUROC) and `worst_source` (most false positives): names, of
          those with ten images or more if there are any

    Raises:
        ValueError: The arrays are empty, disagree in length, or hold NaN.
    """
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    n = len(log_odds)
    numbered = numbered_groups(named_column(groups, n, "groups"))
    made_by = named_column(generators, n, "generators")
    from_where = named_column(sources, n, "sources")
    images = _Images(log_odds, is_ai, numbered, {"seed": seed, "n_resamples": n_resamples})
    n_groups = group_index(numbered, n)[1]
    over_groups = "" if numbered is None else f" over {n_groups} groups of images"
    called_ai = log_odds > 0
    truth = {REAL: ~is_ai, AI: is_ai}
    counted = metrics.confusion_matrix(log_odds, is_ai)
    figures: dict[str, Any] = {
        "n": {label: int(mine.sum()) for label, mine in truth.items()},
        "n_groups": n_groups,
        "seed": seed,
        "intervals": f"95 %; bootstrap{over_groups}, {n_resamples} resamples, seed {seed}; "
        "shares without groups, and shares of none or all: Clopper-Pearson",
        "summary": binary_summary(log_odds, is_ai, numbered, n_resamples, seed),
        "reliability": metrics.reliability_curve(
            expit(log_odds), is_ai, class_balanced_weights(is_ai)
        ),
        "confusion": {t: {c: int(counted[t][c]) for c in NAMES} for t in NAMES},
    }
    for name, mine in (("accuracy", is_ai | True), ("recall_real", ~is_ai), ("recall_ai", is_ai)):
        if figures["summary"][name]["value"] in (0, 1):
            # The bootstrap interval of a share of 0 or 1 has no width.
            figures["summary"][name] = images.share(called_ai == is_ai, mine)

    answers = None
    if thresholds is not None:
        answers = verdicts(log_odds, thresholds, n_views)
        flags = {}
        if differing is not None and np.any(differing):
            flags["differing"] = np.asarray(differing, dtype=bool)
            hidden = flags["differing"] & (answers == REAL)
            answers = np.where(hidden, INCONCLUSIVE, answers)
        if out_of_distribution is not None:
            flags["out_of_distribution"] = np.asarray(out_of_distribution, dtype=bool)
            answers = np.where(flags["out_of_distribution"], INCONCLUSIVE, answers)
        figures["verdicts"] = images.verdict_figures(answers, thresholds)
        for name, flagged in flags.items():
            figures["verdicts"][name] = {
                label: images.share(flagged, mine) for label, mine in truth.items()
            }
    if n_views is not None and len(np.unique(n_views)) > 1:
        figures["by_views"] = {
            str(number): images.figures_of(np.asarray(n_views) == number, answers)
            for number in np.unique(n_views)
        }

    def by_name(names: np.ndarray, label: str, key: str) -> dict:
        entries = {}
        for name in np.unique(names[truth[label]]):
            if not name:
                continue
            mine = truth[label] & (names == name)
            entry: dict[str, Any] = {"n": int(mine.sum())}
            if label == AI:
                entry["auroc"] = images.auroc(mine | ~is_ai)
            entry[key] = images.share(called_ai, mine)
            if answers is not None:
                entry |= {
                    "verdicts": {one: float((answers[mine] == one).mean()) for one in VERDICTS},
                    "wrong": images.share(answers == OTHER[label], mine),
                    "max_wrong": images.max_wrong(label, thresholds, mine),
                }
            entries[str(name)] = entry
        return entries

    if made_by is not None and is_ai.any():
        figures["by_generator"] = by_name(made_by, AI, "detected")
        figures["worst_generator"] = _worst(figures["by_generator"], "auroc", min)
    if from_where is not None and not is_ai.all():
        figures["by_source"] = by_name(from_where, REAL, "false_positives")
        figures["worst_source"] = _worst(figures["by_source"], "false_positives", max)
    return plain(figures)


def measure_operating_points(
    points: Sequence[OperatingPoint], scores: Mapping, seed: int = 0, n_resamples: int = 1000
) -> list[dict]:
    """Measure a moderator's thresholds on a split that was not used to fit them.

    Returns:
        The values of each point, with `photographs` and `found`, the shares of photographs and of
        ai images above the threshold.
    """
    log_odds, is_ai = check_log_odds(scores["log_odds"], scores["is_ai"])
    groups = numbered_groups(named_column(scores.get("groups"), len(log_odds), "groups"))
    images = _Images(log_odds, is_ai, groups, {"seed": seed, "n_resamples": n_resamples})
    measured = []
    for point in points:
        above = log_odds > (np.inf if point.threshold is None else point.threshold)
        shares = {"photographs": images.share(above, ~is_ai), "found": images.share(above, is_ai)}
        measured.append(plain({**point.to_dict(), **shares}))
    return measured


def too_many_wrong(entry: Mapping) -> bool:
    """Return whether there are more wrong verdicts than the stated rate and chance explain.

    Args:
        entry: `wrong`, a share, and `max_wrong`, the highest share that chance explains.
    """
    wrong, most = (entry.get("wrong") or {}).get("value"), entry.get("max_wrong")
    return wrong is not None and most is not None and wrong > most


def complement(figure: Mapping) -> dict:
    """Return the figure of 1 - x."""
    turned = {"value": figure["value"], "low": figure["high"], "high": figure["low"]}
    return {**{key: None if x is None else 1 - x for key, x in turned.items()}, "n": figure["n"]}


def interval_of(
    metric: Callable,
    log_odds: np.ndarray,
    is_ai: np.ndarray,
    groups: np.ndarray | None,
    options: Mapping,
) -> dict:
    """Return a metric with its bootstrap interval; `None` values where it is not defined.

    Args:
        metric: One of [`metrics`] that takes weights of shape (resamples, n).
        options: `seed` and `n_resamples`.
    """
    value, low, high = metric(log_odds, is_ai), None, None
    if np.isnan(value):
        value = None
    elif options["n_resamples"]:
        low, high = bootstrap_interval(
            metric, log_odds, is_ai, groups=groups, weighted=True, **options
        )
    return {"value": value, "low": low, "high": high, "n": len(log_odds)}


def named_column(values: Sequence | None, n: int, name: str) -> np.ndarray | None:
    """Return names as strings, (n,), empty for `None`.

    Raises:
        ValueError: There is not one entry per image.
    """
    if values is None:
        return None
    values = ["" if value is None else str(value) for value in values]
    if len(values) != n:
        raise ValueError(
            f"{name} has {len(values)} entries for {n} images; one for each image is needed."
        )
    return np.array(values, dtype=str)


def numbered_groups(groups: np.ndarray | None) -> np.ndarray | None:
    """Number groups in the order of their first image, so that names do not affect the bootstrap.

    An image without a name is a group of one image.
    """
    if groups is None:
        return None
    numbers: dict[str | int, int] = {}
    names = enumerate(groups.tolist())
    return np.array([numbers.setdefault(name or index, len(numbers)) for index, name in names])


@dataclass(frozen=True)
class _Images:
    """The images of a split: log-odds (n,), labels (n,), numbered groups, and the bootstrap.

    `where`, (n,) bool, chooses some of them.
    """

    log_odds: np.ndarray
    is_ai: np.ndarray
    groups: np.ndarray | None
    options: Mapping

    def _groups(self, where: np.ndarray) -> np.ndarray | None:
        return None if self.groups is None else self.groups[where]

    def auroc(self, where: np.ndarray) -> dict:
        arrays = self.log_odds[where], self.is_ai[where], self._groups(where)
        return interval_of(metrics.auroc, *arrays, self.options)

    def share(self, hit: np.ndarray, where: np.ndarray) -> dict:
        """Return the proportion of hits with an interval that has a width even at 0 and 1."""
        hit, groups = hit[where], self._groups(where)
        n, hits = len(hit), int(hit.sum())
        if not n:
            return {"value": None, "low": None, "high": None, "n": 0}
        if groups is not None and 0 < hits < n and self.options["n_resamples"]:
            low, high = bootstrap_interval(
                lambda x, weights: (weights * x).sum(-1) / weights.sum(-1),
                hit.astype(np.float64),
                groups=groups,
                weighted=True,
                **self.options,
            )
        else:
            # At 0 and 1, each group counts as one observation.
            independent = group_index(groups, n)[1] if hits in (0, n) else n
            low, high = binomial_interval(round(hits / n * independent), independent)
        return {"value": hits / n, "low": low, "high": high, "n": n}

    def max_wrong(self, label: str, thresholds: Thresholds, where: np.ndarray) -> float | None:
        """Return the highest share of wrong verdicts that chance explains."""
        calibrated_on = {REAL: thresholds.n_real, AI: thresholds.n_ai}[label]
        independent = group_index(self._groups(where), int(where.sum()))[1]
        if not independent or not calibrated_on:
            return None
        return 1 - coverage_band(calibrated_on, independent, thresholds.alpha)[0]

    def wrong(self, answers: np.ndarray, where: np.ndarray) -> dict[str, dict]:
        """Return the share of the opposite verdict by label."""
        masks = {REAL: where & ~self.is_ai, AI: where & self.is_ai}
        return {label: self.share(answers == OTHER[label], mine) for label, mine in masks.items()}

    def verdict_figures(self, answers: np.ndarray, thresholds: Thresholds) -> dict:
        decided, everything = answers != INCONCLUSIVE, np.ones(len(answers), dtype=bool)
        truth = np.where(self.is_ai, AI, REAL)
        return {
            "thresholds": thresholds.to_dict(),
            "counts": {
                label: {one: int((answers[truth == label] == one).sum()) for one in VERDICTS}
                for label in NAMES
            },
            "verdict_rate": self.share(decided, everything),
            "wrong": self.wrong(answers, everything),
            "max_wrong": {
                label: self.max_wrong(label, thresholds, truth == label) for label in NAMES
            },
            "accuracy": self.share(answers == truth, decided),
        }

    def figures_of(self, where: np.ndarray, answers: np.ndarray | None) -> dict:
        """Return the main figures of some of the images."""
        n_ai = int((where & self.is_ai).sum())
        figures: dict = {"n": {REAL: int(where.sum()) - n_ai, AI: n_ai}, "auroc": self.auroc(where)}
        if answers is not None:
            figures["verdict_rate"] = self.share(answers != INCONCLUSIVE, where)
            figures["wrong"] = self.wrong(answers, where)
        return figures


def _worst(entries: Mapping[str, Mapping], key: str, choose: Callable) -> str | None:
    known = {name: entry for name, entry in entries.items() if entry[key]["value"] is not None}
    known = {name: entry for name, entry in known.items() if entry["n"] >= ENOUGH} or known
    return choose(known, key=lambda name: known[name][key]["value"]) if known else None
