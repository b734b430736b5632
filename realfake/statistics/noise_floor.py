"""The calibration error of a perfectly calibrated model on a finite sample, by simulation.

[`noise_floor`] simulates the ECE of a perfect model on a test set, [`calibrated_ece_band`] that of
a perfect model that was also calibrated on a finite sample.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from realfake.statistics.calibration import fit
from realfake.statistics.log_odds import check_log_odds, check_probability, class_balanced_weights
from realfake.statistics.metrics import N_BINS, bin_index, ece


def noise_floor(
    p_ai: ArrayLike,
    prior_ai: float | None = None,
    n_bins: int = N_BINS,
    n_simulations: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """Simulate the [`ece`] of a perfectly calibrated model with these predictions.

    Images are assumed to be independent; groups raise the floor.

    Args:
        p_ai: (n,) probabilities of ai.
        prior_ai: *optional*. Share of ai images in the test set, if `p_ai` assumes equal odds and
            the ECE uses [`class_balanced_weights`]. Labels are then ai with odds
            `p_ai / (1 - p_ai) * prior_ai / (1 - prior_ai)`, and weigh `0.5 / prior_ai` or
            `0.5 / (1 - prior_ai)`, so that the expected residual of each image is 0. Without it,
            labels are drawn from Bernoulli(`p_ai`).

    Returns:
        `{"mean", "low", "high"}`: the mean and the 5 % and 95 % quantiles. An ECE above `high` is
        evidence of miscalibration.

    Raises:
        ValueError: `prior_ai` is not inside (0, 1).
    """
    p_ai, _ = check_probability(p_ai, np.zeros(len(p_ai), bool))
    if prior_ai is not None and not 0 < prior_ai < 1:
        raise ValueError(f"prior_ai is {prior_ai}; it must lie between 0 and 1.")
    rng = np.random.default_rng(seed)
    p_ai = np.sort(p_ai)
    n = len(p_ai)
    chance = p_ai if prior_ai is None else expit(logit(p_ai) + logit(prior_ai))
    index = None if prior_ai is not None else bin_index(p_ai, np.ones(n), n_bins)
    samples = np.empty(n_simulations)
    for i in range(n_simulations):
        label = rng.random(n) < chance
        if index is not None:
            samples[i] = np.abs(np.bincount(index, label - p_ai)).sum() / n
        else:
            samples[i] = ece(
                p_ai, label, np.where(label, 0.5 / prior_ai, 0.5 / (1 - prior_ai)), n_bins
            )
    return {
        "mean": float(samples.mean()),
        "low": float(np.quantile(samples, 0.05)),
        "high": float(np.quantile(samples, 0.95)),
    }


def calibrated_ece_band(
    log_odds: ArrayLike,
    is_ai: ArrayLike,
    calibration_log_odds: ArrayLike,
    calibration_is_ai: ArrayLike,
    *,
    method: str = "temperature_bias",
    n_bins: int = N_BINS,
    n_simulations: int = 500,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, float | int | bool | None]:
    """Compare a calibrated model's class-balanced [`ece`] with that of perfect models.

    A perfect model has an ECE above 0 because the test set and the calibration set are finite. In
    the simulation, an image is ai with probability `expit(log_odds)` at equal odds. Each run draws
    as many images of each class for calibration and for testing, fits the calibration and applies
    it. Images are assumed to be independent; groups widen the band.

    Args:
        log_odds: (n,) log-odds of ai of the test images, calibrated.
        is_ai: (n,) bool.
        calibration_log_odds: (m,) log-odds of ai of the calibration images, calibrated.
        calibration_is_ai: (m,) bool.
        method: The fitted method, see [`calibration.fit`].
        level: Probability that the ECE of a perfect model is in the band.

    Returns:
        `{"value", "mean", "low", "high", "within", "n", "n_calibration"}`: the model's ECE, the
        mean and the central band of the simulations, and whether `value` is at most `high`. All are
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
    value = ece(expit(log_odds), is_ai, class_balanced_weights(is_ai), n_bins)
    rng = np.random.default_rng(seed)
    draw_test = _perfect_model(log_odds, is_ai, rng)
    draw_calibration = _perfect_model(calibration_log_odds, calibration_is_ai, rng)
    weights = class_balanced_weights(np.sort(is_ai))
    samples = np.empty(n_simulations)
    for i in range(n_simulations):
        fitted = fit(*draw_calibration(), method=method, seed=i)
        test, truth = draw_test()
        samples[i] = ece(expit(fitted.apply(test)), truth, weights, n_bins)
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return {
        "value": value,
        "mean": float(samples.mean()),
        "low": float(low),
        "high": float(high),
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
