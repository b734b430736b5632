"""When to say `real`, when `ai`, and when nothing: conformal thresholds on the margin with a bounded error rate.

Thresholds are fitted on calibration images after `calibration.py` and travel in the checkpoint's config;
detector and evaluation turn margins into verdicts with them. numpy and scipy alone.

The guarantee (class-conditional, or Mondrian, split conformal prediction: Vovk, Gammerman and Shafer 2005,
section 4.5; Sadinle, Lei and Wasserman 2019). If the calibration images of a class and a new image of that
class are exchangeable, the new image receives the wrong verdict with probability at most alpha. This bounds
the wrong verdicts among all images of a class, not among the verdicts given, and says nothing of images
from another source, such as a generator that the calibration images do not hold.

A threshold depends on the ranks of margins within one class alone. A recalibration `margin / T + b` with
T > 0 keeps ranks and moves thresholds along, so one fitted on the same images does not break the guarantee.
(With more than two classes a temperature can reorder margins: then the two are best fitted on separate images.)
"""

import math
import numbers
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from scipy.special import logit
from scipy.stats import beta, betabinom, binom

from realfake.labels import AI, REAL
from realfake.statistics.bootstrap import group_index
from realfake.statistics.log_odds import check_log_odds

INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Thresholds:
    """Margins outside of which a verdict is given.

    Args:
        alpha: The error rate allowed in each class.
        real: An image below it is not taken for ai; `None` where there were too few ai calibration images
            for `alpha`, and `real` is then never said.
        ai: An image above it is not taken for real; `None` as above, and `ai` is then never said.
        n_real: Number of real calibration images used (one a group); `ai` rests on them.
        n_ai: Number of ai calibration images used (one a group); `real` rests on them.
    """

    alpha: float
    real: float | None
    ai: float | None
    n_real: int
    n_ai: int

    def to_dict(self) -> dict:
        """Plain values for `json`: `{"alpha", "real", "ai", "n": {"real", "ai"}}`."""
        n = {REAL: self.n_real, AI: self.n_ai}
        return {"alpha": self.alpha, REAL: self.real, AI: self.ai, "n": n}

    @classmethod
    def from_dict(cls, values: Mapping) -> "Thresholds":
        """Read what [`to_dict`] wrote."""
        n = values.get("n") or {}
        return cls(values["alpha"], values.get(REAL), values.get(AI), n.get(REAL, 0), n.get(AI, 0))


def rank_allowed(n: int, alpha: float) -> int:
    """`floor(alpha (n + 1))`: the rank, counted from the outside, of the calibration margin that is the threshold.

    0 where `n < 1 / alpha - 1`: no threshold can then promise `alpha`.
    """
    # 0.07 * 100 is 7.000000000000001 and 0.29 * 100 is 28.999999999999996: forgive the last digits.
    return math.floor(alpha * (n + 1) + 1e-9)


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(
            f"alpha is {alpha}; the error rate must lie between 0 and 1, for example 0.05."
        )


def _one_per_group(log_odds, index, rng) -> np.ndarray:
    """One margin of each group, chosen at random: images of one group are not exchangeable with new ones."""
    order = rng.permutation(len(log_odds))
    _, first = np.unique(index[order], return_index=True)
    return log_odds[order[first]]


def fit_thresholds(log_odds, is_ai, alpha: float = 0.05, groups=None, seed: int = 0) -> Thresholds:
    """Fit the thresholds of both verdicts.

    With `k = floor(alpha (n + 1))`, `real` is the k-th smallest margin of the `n` ai calibration images and
    `ai` the k-th largest of the real ones. A margin below `real` is one whose conformal p-value for ai,
    `(1 + #{calibration margin <= margin}) / (n + 1)`, is at most alpha.

    Args:
        log_odds: (n,) log-odds of ai, calibrated if the verdicts are to be given on calibrated margins.
        is_ai: (n,) bool. A class without images leaves its threshold `None`.
        alpha: The error rate allowed in each class.
        groups: (n,), *optional*. One image of each group and class is used, chosen with `seed`.

    Raises:
        ValueError: `alpha` is not inside (0, 1), or shapes differ.
    """
    _check_alpha(alpha)
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    index, _ = group_index(groups, len(log_odds))
    rng = np.random.default_rng(seed)
    real = np.sort(_one_per_group(log_odds[~is_ai], index[~is_ai], rng))
    ai = np.sort(_one_per_group(log_odds[is_ai], index[is_ai], rng))
    k_ai, k_real = rank_allowed(len(ai), alpha), rank_allowed(len(real), alpha)
    return Thresholds(
        alpha=float(alpha),
        real=float(ai[k_ai - 1]) if k_ai else None,
        ai=float(real[len(real) - k_real]) if k_real else None,
        n_real=len(real),
        n_ai=len(ai),
    )


def prediction_sets(log_odds, thresholds: Thresholds) -> dict[str, np.ndarray]:
    """Which labels the images may have: `{"real": (n,) bool, "ai": (n,) bool}`.

    Both may hold (the margin lies between the classes) and neither may (the classes lie so far apart that the
    margin is unusual for both; the thresholds have then crossed).
    """
    log_odds = np.asarray(log_odds, dtype=np.float64)
    real = -np.inf if thresholds.real is None else thresholds.real
    ai = np.inf if thresholds.ai is None else thresholds.ai
    return {REAL: ~(log_odds > ai), AI: ~(log_odds < real)}


def verdicts(log_odds, thresholds: Thresholds) -> np.ndarray:
    """`"real"`, `"ai"` or `"inconclusive"` for each margin, (n,).

    A label is said if it alone is in the prediction set. The empty set and the set of both are inconclusive,
    and so is a margin that is NaN.
    """
    sets = prediction_sets(log_odds, thresholds)
    return np.where(
        sets[AI] & ~sets[REAL], AI, np.where(sets[REAL] & ~sets[AI], REAL, INCONCLUSIVE)
    )


def binomial_interval(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's (1934) exact interval of a proportion; `(0, 1)` for no trials."""
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, n - successes + 1))
    high = 1.0 if successes == n else float(beta.ppf(1 - tail, successes + 1, n - successes))
    return low, high


def verdict_rates(log_odds, is_ai, thresholds: Thresholds, level: float = 0.95) -> dict[str, dict]:
    """How often the verdict is right, wrong and not given, among all images of each class.

    Returns:
        `{"real" or "ai": {"n", "right", "wrong", "inconclusive"}}`, each rate
        `{"value", "low", "high", "n"}` with the Clopper-Pearson interval (which takes images as independent);
        `value`, `low` and `high` are `None` for a class without images.
    """
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    said = verdicts(log_odds, thresholds)
    rates = {}
    for label, of_class, wrong in ((REAL, ~is_ai, AI), (AI, is_ai, REAL)):
        n = int(of_class.sum())
        rates[label] = {"n": n}
        for name, verdict in (("right", label), ("wrong", wrong), (INCONCLUSIVE, INCONCLUSIVE)):
            count = int((said[of_class] == verdict).sum())
            low, high = binomial_interval(count, n, level) if n else (None, None)
            rates[label][name] = {
                "value": count / n if n else None,
                "low": low,
                "high": high,
                "n": n,
            }
    return rates


def coverage_band(
    n_cal: int, n_test: int, alpha: float, level: float = 0.95
) -> tuple[float, float]:
    """Range in which a class's coverage on `n_test` images falls with probability `level`, thresholds valid.

    Given the calibration images, the share of new images outside the threshold follows
    Beta(k, n_cal + 1 - k) with `k = floor(alpha (n_cal + 1))`, for margins without ties (Vovk 2012), so the
    number among `n_test` is beta-binomial. Coverage is the share of images of a class whose prediction set
    holds the class; the rate of wrong verdicts is at most 1 minus it. A coverage below the band is evidence
    that test images are not like calibration images.
    """
    _check_alpha(alpha)
    k = rank_allowed(n_cal, alpha)
    if k == 0:
        return 1.0, 1.0
    errors = betabinom(n_test, k, n_cal + 1 - k)
    tail = (1 - level) / 2
    return 1 - float(errors.ppf(1 - tail)) / n_test, 1 - float(errors.ppf(tail)) / n_test


@dataclass(frozen=True)
class OperatingPoint:
    """A moderator's threshold: above it an image is called ai, at a stated rate of photographs called so.

    Args:
        fpr: The rate of photographs called ai that is allowed.
        threshold: An image with a margin above it is called ai; `None` where there were too few photographs for
            `fpr`, and nothing is then called ai.
        low, high: 95 % interval of the margin that exactly `fpr` of all photographs exceed; `None` where the
            photographs set no bound.
        n_real: Number of photographs used (one a group).
    """

    fpr: float
    threshold: float | None
    low: float | None
    high: float | None
    n_real: int

    def to_dict(self) -> dict:
        """Plain values for `json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping) -> "OperatingPoint":
        """Read what [`to_dict`] wrote; other keys are ignored."""
        return cls(**{key: values[key] for key in cls.__dataclass_fields__})


def operating_point(
    log_odds, is_ai, fpr: float, groups=None, seed: int = 0, level: float = 0.95
) -> OperatingPoint:
    """Fit the threshold above which at most a share `fpr` of photographs lies.

    It is the k-th largest margin of the `n` photographs, `k = floor(fpr (n + 1))`: a new photograph exceeds it with
    probability at most `fpr`, as in [`fit_thresholds`]. What is called ai at it may be real for want of better
    evidence, and the other side promises nothing: this is a queue for people to look through, not a verdict.

    The interval is that of a quantile by order statistics, whatever the distribution (Conover 1999, section 3.2): the
    number of photographs above the true quantile is binomial.

    Args:
        log_odds: (n,) log-odds of ai.
        is_ai: (n,) bool; images of ai are passed over.
        fpr: The rate of photographs called ai that is allowed, for example 0.01.
        groups: (n,), *optional*. One photograph of each group is used, chosen with `seed`.

    Raises:
        ValueError: `fpr` is not inside (0, 1), or shapes differ.
    """
    if not 0 < fpr < 1:
        raise ValueError(
            f"fpr is {fpr}; the rate of photographs called ai must lie between 0 and 1."
        )
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    index, _ = group_index(groups, len(log_odds))
    highest = np.sort(_one_per_group(log_odds[~is_ai], index[~is_ai], np.random.default_rng(seed)))[
        ::-1
    ]
    n = len(highest)
    tail = (1 - level) / 2
    # The r-th largest margin exceeds the quantile if r or more photographs do.
    ranks = rank_allowed(n, fpr), int(binom.ppf(1 - tail, n, fpr)) + 1, int(binom.ppf(tail, n, fpr))
    threshold, low, high = (float(highest[rank - 1]) if 1 <= rank <= n else None for rank in ranks)
    return OperatingPoint(float(fpr), threshold, low, high, n)


def operating_rates(log_odds, is_ai, point: OperatingPoint, level: float = 0.95) -> dict[str, dict]:
    """How many photographs and how many ai images of a test set an operating point calls ai.

    Returns:
        `{"fpr", "tpr"}`, each `{"value", "low", "high", "n"}` with the Clopper-Pearson interval (which takes images as
        independent); `None` in place of the figures for a class without images.
    """
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    called = log_odds > (np.inf if point.threshold is None else point.threshold)
    rates = {}
    for name, of_class in (("fpr", ~is_ai), ("tpr", is_ai)):
        n, count = int(of_class.sum()), int(called[of_class].sum())
        low, high = binomial_interval(count, n, level) if n else (None, None)
        rates[name] = {"value": count / n if n else None, "low": low, "high": high, "n": n}
    return rates


def check_prior(prior_ai: float) -> None:
    """Refuse a share of ai images that is none.

    Raises:
        ValueError: `prior_ai` is not a number inside (0, 1).
    """
    if not isinstance(prior_ai, numbers.Real) or not 0 < prior_ai < 1:
        raise ValueError(
            f"prior_ai is {prior_ai!r}; the share of ai images must lie between 0 and 1."
        )


def with_prior(log_odds, prior_ai: float) -> np.ndarray:
    """Move a margin that means equal odds beforehand to another prior, by Bayes' rule: `margin + logit(prior_ai)`.

    For probabilities shown under a prior; verdicts are given on the margin without it, where the thresholds were
    fitted.

    Raises:
        ValueError: `prior_ai` is not inside (0, 1).
    """
    check_prior(prior_ai)
    return np.asarray(log_odds, dtype=np.float64) + logit(prior_ai)
