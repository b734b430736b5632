"""The verdict `real`, `ai` or `inconclusive`: conformal thresholds with a bounded error rate.

Thresholds are fitted on calibration images after `calibration.py`, and stored in the checkpoint's
configuration.

The guarantee is that of class-conditional (Mondrian) split conformal prediction (Vovk, Gammerman
and Shafer 2005, section 4.5; Sadinle, Lei and Wasserman 2019). If a new image and the calibration
images of its class are exchangeable, its verdict is wrong with probability at most alpha. This
limits the errors among all images of a class, not among the images with a verdict. It does not
cover images from another source, such as a generator that is not in the calibration set.

A threshold depends only on the ranks of log-odds within a class. Calibration to `log_odds / T + b`
with T > 0 keeps the ranks, so both can be fitted on the same images. With more than two classes, a
temperature can change the ranks; then fit them on separate images.
"""

import math
import numbers
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logit
from scipy.stats import beta, betabinom, binom

from realfake.labels import AI, REAL
from realfake.statistics.metrics import check_log_odds, group_index

INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of the log-odds for the verdicts.

    Args:
        alpha: The allowed error rate in each class.
        real: Log-odds below it exclude the label ai. `None` if there were too few ai calibration
            images for `alpha`; the verdict is then never `real`.
        ai: Log-odds above it exclude the label real. `None` if there were too few real calibration
            images; the verdict is then never `ai`.
        n_real: Number of real calibration images, one per group, for the threshold `ai`.
        n_ai: Number of ai calibration images, one per group, for the threshold `real`.
        by_views: `{number of views: thresholds}` for images with at least that many views, because
            a mean over more views is less noisy. The other fields are for fewer views.
    """

    alpha: float
    real: float | None
    ai: float | None
    n_real: int
    n_ai: int
    by_views: Mapping[int, "Thresholds"] = field(default_factory=dict)

    def to_dict(self) -> dict:
        """Return plain values for `json`: `{"alpha", "real", "ai", "n": {"real", "ai"}}`.

        `by_views`, if there are any, has the same form for each number of views.
        """
        n = {REAL: self.n_real, AI: self.n_ai}
        values = {"alpha": self.alpha, REAL: self.real, AI: self.ai, "n": n}
        if self.by_views:
            values["by_views"] = {
                str(views): thresholds.to_dict() for views, thresholds in self.by_views.items()
            }
        return values

    @classmethod
    def from_dict(cls, values: Mapping) -> "Thresholds":
        """Read what [`to_dict`] wrote."""
        n = values.get("n") or {}
        by_views = {
            int(views): cls.from_dict(thresholds)
            for views, thresholds in (values.get("by_views") or {}).items()
        }
        real, ai = values.get(REAL), values.get(AI)
        return cls(values["alpha"], real, ai, n.get(REAL, 0), n.get(AI, 0), by_views)

    def for_views(self, n_views: int) -> "Thresholds":
        """Return the thresholds for images with `n_views` views."""
        fitting = [views for views in self.by_views if views <= n_views]
        return self.by_views[max(fitting)] if fitting else self

    def edges(self, n_views: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Return the thresholds `real` and `ai` for numbers of views, (n,) each.

        A missing threshold is infinite, so that no log-odds cross it.
        """
        numbers = np.asarray(n_views)
        real, ai = np.empty(numbers.shape), np.empty(numbers.shape)
        for views in np.unique(numbers):
            own = self.for_views(int(views))
            real[numbers == views] = -np.inf if own.real is None else own.real
            ai[numbers == views] = np.inf if own.ai is None else own.ai
        return real, ai


def rank_allowed(n: int, alpha: float) -> int:
    """Return `floor(alpha (n + 1))`: the rank of the threshold among the most extreme log-odds.

    It is 0 if `n < 1 / alpha - 1`; no threshold can then guarantee `alpha`.
    """
    # 0.07 * 100 is 7.000000000000001 and 0.29 * 100 is 28.999999999999996.
    return math.floor(alpha * (n + 1) + 1e-9)


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(
            f"alpha is {alpha}; the error rate must lie between 0 and 1, for example 0.05."
        )


def one_per_group(values: np.ndarray, index: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a random value of each group, because only independent images are exchangeable."""
    order = rng.permutation(len(values))
    _, first = np.unique(index[order], return_index=True)
    return values[order[first]]


def fit_thresholds(
    log_odds: ArrayLike,
    is_ai: ArrayLike,
    alpha: float = 0.05,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> Thresholds:
    """Fit the thresholds of both verdicts.

    With `k = floor(alpha (n + 1))`, `real` is the k-th smallest log-odds of the `n` ai calibration
    images and `ai` the k-th largest of the real ones. Below `real`, the conformal p-value for ai,
    `(1 + #{calibration log-odds <= log-odds}) / (n + 1)`, is at most alpha.

    Args:
        log_odds: (n,) log-odds of ai, calibrated if the verdicts use calibrated ones.
        is_ai: (n,) bool. A class may be absent.
        groups: (n,), *optional*. One image of each group and class is used, chosen with `seed`.

    Raises:
        ValueError: `alpha` is not inside (0, 1), or shapes differ.
    """
    _check_alpha(alpha)
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    index, _ = group_index(groups, len(log_odds))
    rng = np.random.default_rng(seed)
    real = np.sort(one_per_group(log_odds[~is_ai], index[~is_ai], rng))
    ai = np.sort(one_per_group(log_odds[is_ai], index[is_ai], rng))
    k_ai, k_real = rank_allowed(len(ai), alpha), rank_allowed(len(real), alpha)
    return Thresholds(
        alpha=float(alpha),
        real=float(ai[k_ai - 1]) if k_ai else None,
        ai=float(real[len(real) - k_real]) if k_real else None,
        n_real=len(real),
        n_ai=len(ai),
    )


def prediction_sets(
    log_odds: ArrayLike, thresholds: Thresholds, n_views: ArrayLike | None = None
) -> dict[str, np.ndarray]:
    """Return the possible labels of each image: `{"real": (n,) bool, "ai": (n,) bool}`.

    Both are possible between the thresholds. Neither is if the thresholds are crossed and the
    log-odds are unusual for both classes.
    """
    log_odds = np.asarray(log_odds, dtype=np.float64)
    numbers = np.ones(log_odds.shape, dtype=int) if n_views is None else n_views
    real, ai = thresholds.edges(numbers)
    return {REAL: ~(log_odds > ai), AI: ~(log_odds < real)}


def verdicts(
    log_odds: ArrayLike, thresholds: Thresholds, n_views: ArrayLike | None = None
) -> np.ndarray:
    """Return the verdict for each image, (n,): `"real"`, `"ai"` or `"inconclusive"`.

    The verdict is the only label of the prediction set. An empty set, a set of both labels and NaN
    are inconclusive.

    Args:
        n_views: (n,) int, *optional*. Numbers of views; *defaults to* one view for each image.
    """
    sets = prediction_sets(log_odds, thresholds, n_views)
    return np.select(
        [sets[AI] & ~sets[REAL], sets[REAL] & ~sets[AI]], [AI, REAL], default=INCONCLUSIVE
    )


def binomial_interval(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return Clopper and Pearson's (1934) interval of a proportion; `(0, 1)` for no trials."""
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, n - successes + 1))
    high = 1.0 if successes == n else float(beta.ppf(1 - tail, successes + 1, n - successes))
    return low, high


def coverage_band(
    n_cal: int, n_test: int, alpha: float, level: float = 0.95
) -> tuple[float, float]:
    """Return the range of a class's coverage on `n_test` images for valid thresholds.

    Coverage is the share of images of a class whose prediction set contains the class; the rate of
    wrong verdicts is at most 1 minus coverage. Coverage below the range is evidence that the test
    images differ from the calibration images.

    Given the calibration images, the share of new images outside the threshold follows
    Beta(k, n_cal + 1 - k) with `k = floor(alpha (n_cal + 1))`, for log-odds without ties (Vovk
    2012). Their number among `n_test` is beta-binomial.
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
    """A threshold above which images are called ai, at a stated false-positive rate.

    Args:
        fpr: The allowed share of photographs called ai.
        threshold: Images with log-odds above it are called ai. `None` if there were too few
            photographs for `fpr`; no image is then called ai.
        low, high: 95 % interval of the threshold for a false-positive rate of exactly `fpr`; `None`
            if there were too few photographs for a bound.
        n_real: Number of photographs used, one per group.
    """

    fpr: float
    threshold: float | None
    low: float | None
    high: float | None
    n_real: int

    def to_dict(self) -> dict:
        """Return plain values for `json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping) -> "OperatingPoint":
        """Read what [`to_dict`] wrote; other keys are ignored."""
        return cls(**{key: values[key] for key in cls.__dataclass_fields__})


def operating_point(
    log_odds: ArrayLike,
    is_ai: ArrayLike,
    fpr: float,
    groups: ArrayLike | None = None,
    seed: int = 0,
    level: float = 0.95,
) -> OperatingPoint:
    """Fit the threshold above which at most a share `fpr` of photographs lies.

    It is the k-th largest log-odds of the `n` photographs, `k = floor(fpr (n + 1))`. As in
    [`fit_thresholds`], a new photograph exceeds it with probability at most `fpr`. There is no
    guarantee for generated images.

    The interval is that of a quantile by order statistics (Conover 1999, section 3.2): the number
    of photographs above the true quantile is binomial.

    Args:
        is_ai: (n,) bool; ai images are ignored.
        fpr: The allowed share of photographs called ai, for example 0.01.
        groups: (n,), *optional*. One photograph of each group is used, chosen with `seed`.

    Raises:
        ValueError: `fpr` is not inside (0, 1), or shapes differ.
    """
    if not 0 < fpr < 1:
        raise ValueError(f"fpr is {fpr}; the false-positive rate must lie between 0 and 1.")
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    index, _ = group_index(groups, len(log_odds))
    rng = np.random.default_rng(seed)
    highest = np.sort(one_per_group(log_odds[~is_ai], index[~is_ai], rng))[::-1]
    n = len(highest)
    tail = (1 - level) / 2
    # The r-th largest value exceeds the quantile if r or more photographs do.
    ranks = rank_allowed(n, fpr), int(binom.ppf(1 - tail, n, fpr)) + 1, int(binom.ppf(tail, n, fpr))
    threshold, low, high = (float(highest[rank - 1]) if 1 <= rank <= n else None for rank in ranks)
    return OperatingPoint(float(fpr), threshold, low, high, n)


def check_prior(prior_ai: float) -> None:
    """Check a share of ai images."""
    if not isinstance(prior_ai, numbers.Real) or not 0 < prior_ai < 1:
        raise ValueError(
            f"prior_ai is {prior_ai!r}; the share of ai images must lie between 0 and 1."
        )


def with_prior(log_odds: ArrayLike, prior_ai: float) -> np.ndarray:
    """Apply a prior to log-odds at equal odds by Bayes' rule: `log_odds + logit(prior_ai)`.

    Use it for displayed probabilities. Verdicts do not depend on the prior.
    """
    check_prior(prior_ai)
    return np.asarray(log_odds, dtype=np.float64) + logit(prior_ai)
