"""Temperature and bias that calibrate the probabilities of a classifier.

They are fitted on images held out from training, and then folded into the checkpoint's last linear
layer. All functions work on arrays of log-odds or logits.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import expit, softmax

from realfake.labels import AI, REAL
from realfake.statistics.metrics import (
    check_log_odds,
    class_balanced_weights,
    group_index,
    log_odds_from_logits,
)

METHODS = ("identity", "temperature", "temperature_bias")
_PAIR = {REAL: [0], AI: [1]}


@dataclass(frozen=True)
class Calibration:
    """A fitted calibration: `log_odds / temperature + bias`.

    Args:
        method: What was applied: `"identity"`, `"temperature"` or `"temperature_bias"`.
        temperature: Positive; larger values make the model less confident.
        bias: Added to the log-odds, in nats; positive moves towards ai.
        nll_after: The same after calibration; never above `nll_before`.
        reason: Why the identity was kept, or that labels were smoothed; otherwise `None`.
    """

    method: str
    temperature: float
    bias: float
    nll_before: float
    nll_after: float
    n: int
    reason: str | None = None

    def apply(self, log_odds: ArrayLike) -> np.ndarray:
        """Calibrate log-odds (n,) of a two-class model; for more classes use [`apply_logits`]."""
        return np.asarray(log_odds, dtype=np.float64) / self.temperature + self.bias

    def undo(self, log_odds: ArrayLike) -> np.ndarray:
        """Return the log-odds (n,) that [`apply`] calibrated."""
        return (np.asarray(log_odds, dtype=np.float64) - self.bias) * self.temperature

    def apply_logits(
        self, logits: ArrayLike, class_indices: Mapping[str, Sequence[int]]
    ) -> np.ndarray:
        """Return calibrated log-odds (n,) of logits (n, k), scaled before classes are summed."""
        scaled = np.asarray(logits, dtype=np.float64) / self.temperature
        return log_odds_from_logits(scaled, class_indices) + self.bias

    def to_dict(self) -> dict:
        """Return plain values for `json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping) -> "Calibration":
        """Read what [`to_dict`] wrote; other keys are ignored."""
        return cls(**{key: values[key] for key in cls.__dataclass_fields__ if key in values})


def fit(
    log_odds: ArrayLike,
    is_ai: ArrayLike,
    method: str = "temperature_bias",
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> Calibration:
    """Fit temperature and bias to the log-odds of a two-class model.

    Minimises the NLL of the labels, both classes with the same mass (temperature: Guo et al. 2017;
    with a bias: Platt 1999, in other parameters). The problem is convex in
    `(1 / temperature, bias)`.

    If the log-odds separate the classes without an error, the optimum is at temperature 0, with
    probabilities of exactly 0 and 1. In this case, labels are smoothed (Platt 1999) to
    `(n_ai + 1) / (n_ai + 2)` and `1 / (n_real + 2)`, also for both NLL values.

    Args:
        method: `"temperature_bias"`, `"temperature"` (bias 0), `"identity"`, or `"auto"`: the one
            of these with the lowest cross-validated NLL, the simpler one on a tie.
        groups: (n,), *optional*. Images of a group stay in one fold of the cross-validation.

    Returns:
        [`Calibration`]. The identity, with a `reason`, if a class is absent, if the best
        temperature is not positive, or if the fit would not lower the NLL.

    Raises:
        ValueError: Unknown method, shapes that differ, or log-odds that are not finite.
    """
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    logits = np.stack([np.zeros_like(log_odds), log_odds], axis=1)
    return fit_grouped(logits, _PAIR, is_ai, method, groups, seed)


def fit_grouped(
    logits: ArrayLike,
    class_indices: Mapping[str, Sequence[int]],
    is_ai: ArrayLike,
    method: str = "temperature_bias",
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> Calibration:
    """Fit temperature and bias to the logits of a model with any number of classes.

    Minimises the NLL of `logsumexp(ai logits / T) - logsumexp(real logits / T) + bias`. With one
    class each for real and ai this is [`fit`]. With more, the problem need not be convex; the best
    of several starts is taken.

    Args:
        logits: (n, k).
        class_indices: `{"real": [indices], "ai": [indices]}`.

    Returns, raises: as [`fit`].
    """
    if method not in (*METHODS, "auto"):
        raise ValueError(
            f"Unknown calibration method {method!r}; use one of {', '.join((*METHODS, 'auto'))}."
        )
    logits = np.asarray(logits, dtype=np.float64)
    log_odds, is_ai = check_log_odds(log_odds_from_logits(logits, class_indices), is_ai)
    if not np.isfinite(logits).all():
        raise ValueError("The logits contain infinite values; calibration needs finite ones.")
    group_index(groups, len(log_odds))  # checks the length
    if method == "auto":
        return _choose(logits, class_indices, is_ai, groups, seed)
    return _fit(logits, class_indices, is_ai, method)


def _objective(is_ai: np.ndarray, smooth: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return weights that sum to 1, and target probabilities of ai."""
    weights = class_balanced_weights(is_ai)
    n_ai, n_real = int(is_ai.sum()), int((~is_ai).sum())
    if smooth:
        target = np.where(is_ai, (n_ai + 1) / (n_ai + 2), 1 / (n_real + 2))
    else:
        target = is_ai.astype(np.float64)
    return weights / weights.sum(), target


def _nll(log_odds: np.ndarray, weights: np.ndarray, target: np.ndarray) -> float:
    """Return the weighted cross-entropy of target probabilities."""
    return float(weights @ (np.logaddexp(0, log_odds) - target * log_odds))


def _separable(logits, class_indices, is_ai, with_bias) -> bool:
    """Return whether the NLL has its infimum at temperature 0, without a finite optimum."""
    # At low temperatures logsumexp becomes the maximum.
    ai, real = (logits[:, list(class_indices[label])].max(1) for label in (AI, REAL))
    log_odds = ai - real
    if with_bias:
        # If all log-odds are equal, there is no slope.
        return bool(log_odds[is_ai].min() >= log_odds[~is_ai].max() and np.ptp(log_odds) > 0)
    return bool(log_odds[is_ai].min() >= 0 >= log_odds[~is_ai].max() and np.abs(log_odds).max() > 0)


def _fit(logits, class_indices, is_ai, method) -> Calibration:
    n = len(is_ai)
    log_odds = log_odds_from_logits(logits, class_indices)
    one_class = is_ai.all() or not is_ai.any()
    with_bias = method == "temperature_bias"
    is_fitted = not one_class and method != "identity"
    smooth = is_fitted and _separable(logits, class_indices, is_ai, with_bias)
    weights, target = _objective(is_ai, smooth)
    before = _nll(log_odds, weights, target)

    def identity(reason):
        return Calibration("identity", 1.0, 0.0, before, before, n, reason)

    if method == "identity":
        return identity(None)
    if one_class:
        return identity("the calibration images are all of one class")
    if len(class_indices[REAL]) == len(class_indices[AI]) == 1:
        slope, bias = _solve_pair(log_odds, weights, target, with_bias)
    else:
        slope, bias = _solve_grouped(logits, class_indices, weights, target, with_bias)
    if not slope > 0:
        return identity(
            "higher log-odds do not mean ai on the calibration images: the best temperature "
            "is not positive"
        )
    temperature = 1 / slope
    after = _nll(log_odds_from_logits(logits / temperature, class_indices) + bias, weights, target)
    if not (math.isfinite(temperature) and math.isfinite(bias) and after < before):
        return identity("no temperature lowers the NLL of the calibration images")
    reason = (
        "the log-odds separate the classes; labels were smoothed (Platt 1999)" if smooth else None
    )
    return Calibration(method, temperature, bias, before, after, n, reason)


def _solve_pair(log_odds, weights, target, with_bias) -> tuple[float, float]:
    """Solve a logistic regression on one feature by a Newton method with a trust region."""
    # Unit scale keeps the Hessian well conditioned for logits of any size.
    scale = float(np.sqrt(weights @ log_odds**2))
    if scale == 0:
        return 0.0, 0.0
    features = [log_odds / scale, np.ones_like(log_odds)] if with_bias else [log_odds / scale]
    design = np.stack(features, axis=1)

    def value_and_gradient(x):
        z = design @ x
        return _nll(z, weights, target), design.T @ (weights * (expit(z) - target))

    def hessian(x):
        p = expit(design @ x)
        return (design * (weights * p * (1 - p))[:, None]).T @ design

    start = np.zeros(design.shape[1])
    options = {"gtol": 1e-10, "maxiter": 500}
    x = minimize(
        value_and_gradient, start, jac=True, hess=hessian, method="trust-exact", options=options
    ).x
    return float(x[0] / scale), float(x[1]) if with_bias else 0.0


def _solve_grouped(logits, class_indices, weights, target, with_bias) -> tuple[float, float]:
    """Solve for slope (inverse temperature) and bias by L-BFGS-B from several slopes."""
    ai, real = logits[:, list(class_indices[AI])], logits[:, list(class_indices[REAL])]
    scale = float(np.sqrt(np.mean((logits - logits.mean(1, keepdims=True)) ** 2)))
    if scale == 0:
        return 0.0, 0.0

    def value_and_gradient(x):
        slope, bias = x[0] / scale, x[1] if with_bias else 0.0
        z = log_odds_from_logits(logits * slope, class_indices) + bias
        by_slope = (softmax(ai * slope, axis=1) * ai).sum(1)
        by_slope -= (softmax(real * slope, axis=1) * real).sum(1)
        error = weights * (expit(z) - target)
        gradient = [error @ by_slope / scale, error.sum()]
        return _nll(z, weights, target), np.array(gradient if with_bias else gradient[:1])

    lowest = 1e-6
    options = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 500}
    results = []
    for start in (0.1, 0.5, 2.0, 8.0, scale):
        x = [start, 0.0] if with_bias else [start]
        settings = {"bounds": [(lowest, None), (None, None)][: len(x)], "options": options}
        results.append(minimize(value_and_gradient, x, jac=True, method="L-BFGS-B", **settings))
    best = min(results, key=lambda result: result.fun).x
    if best[0] <= lowest:
        return 0.0, 0.0
    return float(best[0] / scale), float(best[1]) if with_bias else 0.0


def folds(is_ai: np.ndarray, groups: ArrayLike | None, seed: int) -> np.ndarray | None:
    """Return the fold of each image, (n,), of five, with whole groups and classes spread evenly.

    `None` if a class has fewer than two groups.
    """
    index, n_groups = group_index(groups, len(is_ai))
    share = np.bincount(index, is_ai, n_groups) / np.bincount(index, minlength=n_groups)
    smallest = min(len(np.unique(index[is_ai])), len(np.unique(index[~is_ai])))
    if smallest < 2:
        return None
    order = np.random.default_rng(seed).permutation(n_groups)
    order = order[np.argsort(share[order], kind="stable")]
    fold = np.empty(n_groups, dtype=np.int64)
    fold[order] = np.arange(n_groups) % min(5, smallest)
    return fold[index]


def _choose(logits, class_indices, is_ai, groups, seed) -> Calibration:
    fold = folds(is_ai, groups, seed)
    weights, target = _objective(is_ai, smooth=False)
    if fold is None:
        before = _nll(log_odds_from_logits(logits, class_indices), weights, target)
        reason = "too few calibration images to choose a method by cross-validation"
        return Calibration("identity", 1.0, 0.0, before, before, len(is_ai), reason)
    scores = {}
    for method in METHODS:
        held_out = np.empty(len(is_ai))
        for k in range(fold.max() + 1):
            test = fold == k
            fitted = _fit(logits[~test], class_indices, is_ai[~test], method)
            held_out[test] = fitted.apply_logits(logits[test], class_indices)
        scores[method] = _nll(held_out, weights, target)
    # METHODS runs from simple to flexible, and min keeps the first.
    best = min(METHODS, key=scores.__getitem__)
    chosen = _fit(logits, class_indices, is_ai, best)
    if best == "identity":
        reason = "neither temperature nor bias lowers the cross-validated NLL"
        chosen = replace(chosen, reason=reason)
    return chosen
