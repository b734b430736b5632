"""The calibration error that a perfectly calibrated model shows by chance.

An ECE is never zero on a finite sample. [`noise_floor`] simulates it for a perfect model on these
images, [`calibrated_ece_band`] for a perfect model that was also calibrated on a finite sample.
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

    Without `prior_ai`, labels are drawn from Bernoulli(`p_ai`). With it, `p_ai` assumes equal odds
    while the test set holds a share `prior_ai` of ai images, and ECE is measured with
    [`class_balanced_weights`]. The label of a calibrated model is then ai with odds
    `p_ai / (1 - p_ai) * prior_ai / (1 - prior_ai)`, and a label weighs `0.5 / prior_ai` or
    `0.5 / (1 - prior_ai)`: given the image, the weighted residual has mean 0. Images are taken as
    independent; groups raise the floor.

    Returns:
        `{"mean", "low", "high"}`: the mean and the 5 % and 95 % quantiles. An ECE above `high` is
        evidence of miscalibration.

    Raises:
        ValueError: `prior_ai` is not inside (0, 1).
    """
    p_ai, _ = check_probability(p_ai, np.zeros(len(p_ai), bool))
    if prior_ai is not None and not 0 < prior_ai < 1:
        raise ValueError(
            f"prior_ai is {prior_ai}; it must lie between 0 and 1, both classes being present."
        )
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

    A perfect model shows an ECE for two reasons: the test set is finite, and so is the set on which
    the calibration was fitted. Perfect models with log-odds like these are simulated: an image is
    ai with probability `expit(log_odds)` at equal odds. Each simulation draws as many images of
    each class for calibration and for testing, fits the calibration and applies it. Images are
    taken as independent; groups widen the band.

    Args:
        log_odds: (n,) log-odds of ai of the test images, calibrated.
        is_ai: (n,) bool.
        calibration_log_odds: (m,) the same of the calibration images, calibrated.
        calibration_is_ai: (m,) bool.
        method: What was fitted, see [`calibration.fit`].
        level: Probability that the ECE of a perfect model falls into the band.

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

    With equal masses, log-odds of ai images are distributed as `expit(log_odds)` times all
    log-odds, those of real images as the rest (Bayes' rule).
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
