"""All metrics of a split with their intervals, as in `evaluation.json`, and what chance explains.

The calibration error of a perfect model is above 0 on a finite sample. [`noise_floor`] simulates
that of a perfect model on a test set, [`calibrated_ece_band`] that of a perfect model that was also
calibrated on a finite sample.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from realfake.labels import NAMES
from realfake.statistics.calibration import fit
from realfake.statistics.metrics import (
    N_BINS,
    Value,
    bin_index,
    brier,
    check_log_odds,
    check_probability,
    class_balanced_weights,
    decision_metrics,
    ece,
    nll,
    percentile_interval,
    ranking_metrics,
    resample_counts,
)

# Also defined on one class. Precision would then be 1, and probabilities assume equal odds.
_ONE_CLASS = ("accuracy", *(f"recall_{label}" for label in NAMES), "nll", "brier")


def binary_summary(
    log_odds: ArrayLike,
    is_ai: ArrayLike,
    groups: ArrayLike | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict]:
    """Return every metric with its 95 % interval, as in `evaluation.json`.

    Args:
        groups: (n,), *optional*. Images that share a source; intervals resample whole groups.
        n_resamples: Bootstrap resamples; 0 for no intervals.

    Returns:
        `{name: {"value", "low", "high", "n"}}`: floats, `None` if undefined, and the number of
        images. The names are those of [`decision_metrics`] and [`ranking_metrics`], `nll`, `brier`
        and `ece` (classes balanced), and `ece_noise_floor` (its `low` and `high` are the 5 % and
        95 % quantiles).

        Intervals are bootstrap percentiles. That of `ece`, which cannot be negative, holds the true
        errors that explain the plug-in value with noise, extended to contain it. It reaches 0 if a
        calibrated model explains it. A proportion of exactly 0 or 1 has an interval of width 0.
    """
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    n, n_ai = len(log_odds), int(is_ai.sum())
    p_ai, two_classes = expit(log_odds), 0 < n_ai < n
    weights = class_balanced_weights(is_ai)
    weights = weights / weights.sum()
    values = {**_resampled(log_odds, is_ai, np.ones(n)), "ece": ece(p_ai, is_ai, weights)}
    # The signed residuals by image and bin.
    _, index = np.unique(bin_index(p_ai, weights, N_BINS), return_inverse=True)
    residuals = np.zeros((n, index.max() + 1))
    residuals[np.arange(n), index] = p_ai - is_ai

    intervals: dict[str, tuple[float, float]] = {}
    if n_resamples:
        samples: dict[str, list] = {}
        binned = []
        for counts in resample_counts(n, groups, n_resamples, seed):
            for name, sample in _resampled(log_odds, is_ai, counts).items():
                samples.setdefault(name, []).append(sample)
            drawn = class_balanced_weights(is_ai, counts)
            binned.append(drawn / drawn.sum(-1, keepdims=True) @ residuals)
        intervals = {
            name: percentile_interval(np.concatenate(chunks)) for name, chunks in samples.items()
        }
        if two_classes:
            of_bins = weights @ residuals
            low, high = _factor_interval(of_bins, np.concatenate(binned) - of_bins)
            intervals["ece"] = tuple(
                min(1.0, np.abs(factor * of_bins).sum()) for factor in (low, high)
            )
    values["ece_noise_floor"] = np.nan
    if two_classes:
        floor = noise_floor(p_ai, n_ai / n, seed=seed)
        values["ece_noise_floor"] = floor["mean"]
        intervals["ece_noise_floor"] = floor["low"], floor["high"]

    sizes = {
        "recall_real": n - n_ai,
        **dict.fromkeys(("recall_ai", "tpr_at_fpr_1", "tpr_at_fpr_5"), n_ai),
    }
    summary = {}
    for name, value in values.items():
        defined = two_classes or name in _ONE_CLASS
        numbers = (value, *intervals.get(name, (None, None))) if defined else (None, None, None)
        value, low, high = (None if x is None or np.isnan(x) else float(x) for x in numbers)
        summary[name] = {"value": value, "low": low, "high": high, "n": sizes.get(name, n)}
    return summary


def _resampled(log_odds: np.ndarray, is_ai: np.ndarray, counts: np.ndarray) -> dict[str, Value]:
    """Return the metrics with bootstrap percentiles, each of shape `counts.shape[:-1]`."""
    weights = class_balanced_weights(is_ai, counts)
    return {
        **decision_metrics(log_odds, is_ai, counts),
        **ranking_metrics(log_odds, is_ai, counts),
        "nll": nll(log_odds, is_ai, weights),
        "brier": brier(expit(log_odds), is_ai, weights),
    }


def _factor_interval(residual: np.ndarray, deviations: np.ndarray) -> tuple[float, float]:
    """Return the range of factors of the residuals that explain the observed calibration error.

    Noise raises a calibration error, because it cannot be negative. Resampling adds noise again, so
    percentiles of resampled errors are too high. Instead, this inverts a test: a factor is in the
    range if the error of `residual` is in the central 95 % of those of `factor * residual + noise`.
    Factor 0 is a calibrated model.

    Args:
        residual: (bins,) signed residual masses of the sample.
        deviations: (resamples, bins) resampled masses minus `residual`.
    """
    value = np.abs(residual).sum()
    factors = []
    for quantile in (0.975, 0.025):
        low, high = 0.0, 4.0
        for _ in range(14):
            factor = (low + high) / 2
            noisy = np.abs(factor * residual + deviations).sum(-1)
            if np.quantile(noisy, quantile) < value:
                low = factor
            else:
                high = factor
        factors.append(low)
    # The interval always contains the plug-in value.
    return factors[0], max(1.0, factors[1])


def noise_floor(
    p_ai: ArrayLike, prior_ai: float, n_simulations: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Simulate the class-balanced [`ece`] of a perfectly calibrated model with these predictions.

    Labels are ai with odds `p_ai / (1 - p_ai) * prior_ai / (1 - prior_ai)`, and weigh
    `0.5 / prior_ai` or `0.5 / (1 - prior_ai)`, so that the expected residual of each image is 0.
    Images are assumed to be independent; groups raise the floor.

    Args:
        p_ai: (n,) probabilities of ai at equal odds.
        prior_ai: Share of ai images in the test set.

    Returns:
        `{"mean", "low", "high"}`: the mean and the 5 % and 95 % quantiles. An ECE above `high` is
        evidence of miscalibration.
    """
    p_ai, _ = check_probability(p_ai, np.zeros(len(p_ai), bool))
    if not 0 < prior_ai < 1:
        raise ValueError(f"prior_ai is {prior_ai}; it must lie between 0 and 1.")
    rng = np.random.default_rng(seed)
    p_ai = np.sort(p_ai)
    chance = expit(logit(p_ai) + logit(prior_ai))
    samples = np.empty(n_simulations)
    for i in range(n_simulations):
        label = rng.random(len(p_ai)) < chance
        samples[i] = ece(p_ai, label, np.where(label, 0.5 / prior_ai, 0.5 / (1 - prior_ai)))
    low, high = np.quantile(samples, [0.05, 0.95])
    return {"mean": float(samples.mean()), "low": float(low), "high": float(high)}


def calibrated_ece_band(
    log_odds: ArrayLike,
    is_ai: ArrayLike,
    calibration_log_odds: ArrayLike,
    calibration_is_ai: ArrayLike,
    *,
    method: str = "temperature_bias",
    n_simulations: int = 500,
    seed: int = 0,
) -> dict[str, float | int | bool | None]:
    """Compare a calibrated model's class-balanced [`ece`] with that of perfect models.

    A perfect model has an ECE above 0 because the test set and the calibration set are finite. In
    the simulation, an image is ai with probability `expit(log_odds)` at equal odds. Each run draws
    as many images of each class for calibration and for testing, fits the calibration and applies
    it. Images are assumed to be independent; groups widen the band.

    Args:
        log_odds: (n,) log-odds of ai of the test images, calibrated.
        calibration_log_odds: (m,) log-odds of ai of the calibration images, calibrated.
        method: The fitted method, see [`calibration.fit`].

    Returns:
        `{"value", "mean", "low", "high", "within", "n", "n_calibration"}`: the model's ECE, the
        mean and the central 95 % of the simulations, and whether `value` is at most `high`. All are
        `None` if a class is absent.

    Raises:
        ValueError: Shapes differ, there are no images, or a value is NaN.
    """
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    calibration_log_odds, calibration_is_ai = check_log_odds(
        calibration_log_odds, calibration_is_ai
    )
    sizes = {"n": len(log_odds), "n_calibration": len(calibration_log_odds)}
    if any(truth.all() or not truth.any() for truth in (is_ai, calibration_is_ai)):
        return {**dict.fromkeys(("value", "mean", "low", "high", "within")), **sizes}
    value = ece(expit(log_odds), is_ai, class_balanced_weights(is_ai))
    rng = np.random.default_rng(seed)
    draw_test = _perfect_model(log_odds, is_ai, rng)
    draw_calibration = _perfect_model(calibration_log_odds, calibration_is_ai, rng)
    weights = class_balanced_weights(np.sort(is_ai))
    samples = np.empty(n_simulations)
    for i in range(n_simulations):
        fitted = fit(*draw_calibration(), method=method, seed=i)
        test, truth = draw_test()
        samples[i] = ece(expit(fitted.apply(test)), truth, weights)
    low, high = percentile_interval(samples)
    return {
        "value": value,
        "mean": float(samples.mean()),
        "low": low,
        "high": high,
        "within": bool(value <= high),
        **sizes,
    }


def _perfect_model(
    log_odds: np.ndarray, is_ai: np.ndarray, rng: np.random.Generator
) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """Return a function that draws `(log_odds, is_ai)` with as many images of each class.

    By Bayes' rule with equal masses, ai images are drawn with weights `expit(log_odds)`, and real
    images with the complement.
    """
    mass = class_balanced_weights(is_ai)
    p_ai = expit(log_odds)
    n_ai = int(is_ai.sum())
    shares = [(mass * part).cumsum() for part in (1 - p_ai, p_ai)]
    truth = np.arange(len(log_odds)) >= len(log_odds) - n_ai

    def draw() -> tuple[np.ndarray, np.ndarray]:
        drawn = [
            np.searchsorted(share, rng.random(size) * share[-1], side="right")
            for share, size in zip(shares, (len(log_odds) - n_ai, n_ai), strict=True)
        ]
        return log_odds[np.concatenate(drawn).clip(max=len(log_odds) - 1)], truth

    return draw
