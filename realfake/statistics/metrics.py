"""Metrics of decisions, rankings and probabilities. `log_odds.py` describes the arrays.

An image is called ai if its log-odds are above 0, and real otherwise. An undefined metric, such as
AUROC on one class, is NaN. `summary.binary_summary` computes all metrics with intervals.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy.fft import dct, idct

from realfake.labels import AI, NAMES, REAL
from realfake.statistics.log_odds import (
    check_log_odds,
    check_probability,
    check_weights,
    nan_where,
    ratio,
)

N_BINS = 15
GRID = 512  # cells of [0, 1] for smooth ECE, whose kernels are wider than one cell

Cells = dict[tuple[str, str], np.ndarray]
Value = float | np.ndarray
Weights: TypeAlias = ArrayLike | None

# Decisions


def cells_of(log_odds: ArrayLike, is_ai: ArrayLike, weights: Weights) -> Cells:
    """Return the mass by (true label, called label)."""
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    weights = check_weights(weights, len(log_odds))
    truth, called = {AI: is_ai, REAL: ~is_ai}, {AI: log_odds > 0, REAL: log_odds <= 0}
    return {
        (t, c): weights @ (truth[t] & called[c]).astype(np.float64) for t in NAMES for c in NAMES
    }


def accuracy_of(cells: Cells) -> Value:
    """Return the accuracy from the masses of [`cells_of`]."""
    return ratio(cells[REAL, REAL] + cells[AI, AI], sum(cells.values()))


def recall_of(cells: Cells, label: str) -> Value:
    """Return the recall of `label` from the masses of [`cells_of`]."""
    return ratio(cells[label, label], cells[label, REAL] + cells[label, AI])


def precision_of(cells: Cells, label: str) -> Value:
    """Return the precision of `label` from the masses of [`cells_of`]."""
    return ratio(cells[label, label], cells[REAL, label] + cells[AI, label])


def f1_of(cells: Cells, label: str) -> Value:
    """Return F1 of `label` from the masses of [`cells_of`]."""
    other = AI if label == REAL else REAL
    hits = 2 * cells[label, label]
    return ratio(hits, hits + cells[other, label] + cells[label, other])


def confusion_matrix(
    log_odds: ArrayLike, is_ai: ArrayLike, weights: Weights = None
) -> dict[str, dict[str, float]]:
    """Return the mass of images as `matrix[true label][called label]`: counts without weights."""
    cells = cells_of(log_odds, is_ai, weights)
    return {t: {c: float(cells[t, c]) for c in NAMES} for t in NAMES}


def accuracy(log_odds: ArrayLike, is_ai: ArrayLike, weights: Weights = None) -> Value:
    """Return the share of correct labels. Log-odds of exactly 0 are called real."""
    return accuracy_of(cells_of(log_odds, is_ai, weights))


def balanced_accuracy(log_odds: ArrayLike, is_ai: ArrayLike, weights: Weights = None) -> Value:
    """Return the mean of the two recalls; NaN if a class is absent."""
    cells = cells_of(log_odds, is_ai, weights)
    return (recall_of(cells, REAL) + recall_of(cells, AI)) / 2


def recall(log_odds: ArrayLike, is_ai: ArrayLike, label: str, weights: Weights = None) -> Value:
    """Return the share of class `label` that is called `label`; NaN if the class is absent."""
    return recall_of(cells_of(log_odds, is_ai, weights), label)


def precision(log_odds: ArrayLike, is_ai: ArrayLike, label: str, weights: Weights = None) -> Value:
    """Return the share of correct calls of `label`; NaN if there are none.

    It depends on the share of ai images in the data.
    """
    return precision_of(cells_of(log_odds, is_ai, weights), label)


def f1(log_odds: ArrayLike, is_ai: ArrayLike, label: str, weights: Weights = None) -> Value:
    """Return 2TP / (2TP + FP + FN) of class `label`; NaN if it neither occurs nor is called."""
    return f1_of(cells_of(log_odds, is_ai, weights), label)


# Rankings


def operating_points(
    log_odds: ArrayLike, is_ai: ArrayLike, weights: Weights
) -> tuple[np.ndarray, np.ndarray]:
    """Return the masses (..., values) of ai and real images at each distinct value, descending."""
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    weights = check_weights(weights, len(log_odds))
    order = np.argsort(-log_odds, kind="stable")
    ranked = log_odds[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    weights, is_ai = weights[..., order], is_ai[order]
    ai = np.add.reduceat(weights * is_ai, starts, axis=-1)
    real = np.add.reduceat(weights * ~is_ai, starts, axis=-1)
    return ai, real


def auroc_of(ai: np.ndarray, real: np.ndarray) -> Value:
    """Return AUROC from the masses of [`operating_points`]."""
    above = real.sum(-1, keepdims=True) - np.cumsum(real, -1) + real / 2
    return ratio((ai * above).sum(-1), ai.sum(-1) * real.sum(-1))


def average_precision_of(ai: np.ndarray, real: np.ndarray) -> Value:
    """Return the average precision from the masses of [`operating_points`]."""
    hits = np.cumsum(ai, -1)
    called = hits + np.cumsum(real, -1)
    at = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    return nan_where(real.sum(-1) == 0, ratio((at * ai).sum(-1), ai.sum(-1)))


def tpr_at_fpr_of(ai: np.ndarray, real: np.ndarray, max_fpr: float) -> Value:
    """Return [`tpr_at_fpr`] from the masses of [`operating_points`]."""
    total = real.sum(-1, keepdims=True)
    allowed = np.cumsum(real, -1) <= (max_fpr + 1e-9) * total
    hits = np.where(allowed, np.cumsum(ai, -1), 0).max(-1)
    return nan_where(total[..., 0] == 0, ratio(hits, ai.sum(-1)))


def fpr_at_tpr_of(ai: np.ndarray, real: np.ndarray, min_tpr: float) -> Value:
    """Return [`fpr_at_tpr`] from the masses of [`operating_points`]."""
    total = ai.sum(-1, keepdims=True)
    enough = np.cumsum(ai, -1) >= (min_tpr - 1e-9) * total
    called = np.where(enough, np.cumsum(real, -1), np.inf).min(-1)
    return nan_where(total[..., 0] == 0, ratio(called, real.sum(-1)))


def auroc(log_odds: ArrayLike, is_ai: ArrayLike, weights: Weights = None) -> Value:
    """Return the probability that an ai image scores higher than a real one; ties count 1/2."""
    return auroc_of(*operating_points(log_odds, is_ai, weights))


def average_precision(log_odds: ArrayLike, is_ai: ArrayLike, weights: Weights = None) -> Value:
    """Return the sum over distinct values of precision times the gain in recall, ai positive.

    NaN if a class is absent. It depends on the share of ai images in the data.
    """
    return average_precision_of(*operating_points(log_odds, is_ai, weights))


def tpr_at_fpr(
    log_odds: ArrayLike, is_ai: ArrayLike, max_fpr: float, weights: Weights = None
) -> Value:
    """Return the highest recall of ai among thresholds with a false-positive rate of `max_fpr`.

    Thresholds are observed values, without interpolation. The result is 0 if more real images than
    allowed share the highest value.
    """
    return tpr_at_fpr_of(*operating_points(log_odds, is_ai, weights), max_fpr)


def fpr_at_tpr(
    log_odds: ArrayLike, is_ai: ArrayLike, min_tpr: float = 0.95, weights: Weights = None
) -> Value:
    """Return the lowest false-positive rate among thresholds that recall `min_tpr` of ai."""
    return fpr_at_tpr_of(*operating_points(log_odds, is_ai, weights), min_tpr)


# Probabilities


def nll(log_odds: ArrayLike, is_ai: ArrayLike, weights: Weights = None) -> Value:
    """Return the mean negative log-likelihood in nats; finite for finite log-odds."""
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    weights = check_weights(weights, len(log_odds))
    return ratio(weights @ np.logaddexp(0, np.where(is_ai, -log_odds, log_odds)), weights.sum(-1))


def brier(p_ai: ArrayLike, is_ai: ArrayLike, weights: Weights = None) -> Value:
    """Return the mean squared difference of `p_ai` and the label (Brier 1950)."""
    p_ai, is_ai = check_probability(p_ai, is_ai)
    weights = check_weights(weights, len(p_ai))
    return ratio(weights @ (p_ai - is_ai) ** 2, weights.sum(-1))


def bin_index(p_ai: np.ndarray, weights: np.ndarray, n_bins: int | None) -> np.ndarray:
    """Return the equal-mass bin of each image: the bin that holds the middle of its tied mass.

    Ties share a bin, so the order of the images does not matter. An image of weight 2 equals two
    images. With `n_bins=None` each distinct value is a bin.
    """
    values, inverse = np.unique(p_ai, return_inverse=True)
    if n_bins is None:
        return inverse
    if n_bins < 1:
        raise ValueError(f"n_bins is {n_bins}; at least one bin is needed.")
    mass = np.bincount(inverse, weights, len(values))
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    # The small term puts a middle on an edge into the upper bin at any scale of weights.
    return np.clip(np.floor(middle * n_bins + 1e-9), 0, n_bins - 1).astype(np.int64)[inverse]


def bins(
    p_ai: ArrayLike, is_ai: ArrayLike, weights: Weights, n_bins: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return, per occupied bin: mass, mean p_ai, share of ai, images, variance of the share."""
    p_ai, is_ai = check_probability(p_ai, is_ai)
    weights = check_weights(weights, len(p_ai))
    if weights.ndim != 1 or weights.sum() <= 0:
        raise ValueError("weights must be one-dimensional here, with a positive sum.")
    used = weights > 0
    p_ai, is_ai, weights = p_ai[used], is_ai[used], weights[used] / weights.sum()
    _, index = np.unique(bin_index(p_ai, weights, n_bins), return_inverse=True)
    mass = np.bincount(index, weights)
    predicted = np.bincount(index, weights * p_ai) / mass
    observed = np.bincount(index, weights * is_ai) / mass
    count = np.bincount(index)
    spread = np.bincount(index, (weights * (is_ai - observed[index])) ** 2) / mass**2
    # The factor n/(n-1) removes the bias.
    variance = np.where(count > 1, spread * count / np.maximum(count - 1, 1), 0.0)
    return mass, predicted, observed, count, variance


def brier_decomposition(
    p_ai: ArrayLike, is_ai: ArrayLike, weights: Weights = None, n_bins: int | None = N_BINS
) -> dict[str, float]:
    """Return Murphy's (1973) decomposition of the Brier score over equal-mass bins.

    Args:
        n_bins: Number of bins; `None` makes each distinct value a bin, with `remainder` 0.

    Returns:
        `{"reliability", "resolution", "uncertainty", "remainder"}` with
        `brier = reliability - resolution + uncertainty + remainder`. The remainder comes from the
        spread of `p_ai` within bins (Stephenson, Coelho and Jolliffe 2008).
    """
    mass, predicted, observed, _, _ = bins(p_ai, is_ai, weights, n_bins)
    base = float(mass @ observed)
    reliability = float(mass @ (predicted - observed) ** 2)
    resolution = float(mass @ (observed - base) ** 2)
    uncertainty = base * (1 - base)
    return {
        "reliability": reliability,
        "resolution": resolution,
        "uncertainty": uncertainty,
        "remainder": brier(p_ai, is_ai, weights) - (reliability - resolution + uncertainty),
    }


def reliability_curve(
    p_ai: ArrayLike, is_ai: ArrayLike, weights: Weights = None, n_bins: int = N_BINS
) -> dict[str, list]:
    """Return the points of a reliability diagram over equal-mass bins, without empty bins.

    Returns:
        `{"predicted": mean p_ai, "observed": share of ai, "count": images, "mass": share of the
        weight}`, one entry per bin in each list, from low to high.
    """
    mass, predicted, observed, count, _ = bins(p_ai, is_ai, weights, n_bins)
    return {
        "predicted": predicted.tolist(),
        "observed": observed.tolist(),
        "count": count.tolist(),
        "mass": mass.tolist(),
    }


def ece(p_ai: ArrayLike, is_ai: ArrayLike, weights: Weights = None, n_bins: int = N_BINS) -> float:
    """Return the expected calibration error: the mean over bins of |mean p_ai - share of ai|.

    This is the binary form, on the probability of ai over [0, 1] (Naeini et al. 2015; Nixon et al.
    2019). It is never zero on a finite sample: compare it with `noise_floor`.
    """
    mass, predicted, observed, _, _ = bins(p_ai, is_ai, weights, n_bins)
    return float(mass @ np.abs(predicted - observed))


def debiased_ece(
    p_ai: ArrayLike, is_ai: ArrayLike, weights: Weights = None, n_bins: int = N_BINS
) -> float:
    """Return the root mean square calibration error over bins, corrected for sampling noise.

    The square is `sum_b mass_b [(predicted_b - observed_b)^2 - variance of observed_b]`, at least 0
    (Bröcker 2012; Kumar, Liang and Ma 2019, section 4). A bin of one image is not corrected.
    """
    mass, predicted, observed, _, variance = bins(p_ai, is_ai, weights, n_bins)
    return float(np.sqrt(max(0.0, mass @ ((predicted - observed) ** 2 - variance))))


def max_calibration_error(
    p_ai: ArrayLike, is_ai: ArrayLike, weights: Weights = None, n_bins: int = N_BINS
) -> float:
    """Return the largest |mean p_ai - share of ai| over equal-mass bins."""
    _, predicted, observed, _, _ = bins(p_ai, is_ai, weights, n_bins)
    return float(np.abs(predicted - observed).max())


def signed_calibration_error(p_ai: ArrayLike, is_ai: ArrayLike, weights: Weights = None) -> Value:
    """Return mean p_ai minus the share of ai; positive if probabilities of ai are too high."""
    p_ai, is_ai = check_probability(p_ai, is_ai)
    weights = check_weights(weights, len(p_ai))
    return ratio(weights @ (p_ai - is_ai), weights.sum(-1))


def residual_grid(p_ai: np.ndarray, is_ai: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mass of `label - p_ai` on the cells of [0, 1], (..., cells).

    Each residual is divided linearly between the two nearest centres. `weights` (..., n) sums to 1
    in each row.
    """
    place = np.clip(p_ai * GRID - 0.5, 0, GRID - 1)
    left = np.minimum(place.astype(np.int64), GRID - 2)
    residual = np.atleast_2d(weights * (is_ai - p_ai))
    rows = np.arange(len(residual))[:, None] * GRID
    share = place - left
    grid = np.zeros(len(residual) * GRID)
    for cell, part in ((left, 1 - share), (left + 1, share)):
        grid += np.bincount((rows + cell).ravel(), (residual * part).ravel(), len(grid))
    return grid.reshape(*np.shape(weights)[:-1], GRID)


def smooth(coefficients: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Convolve with a Gaussian of width `sigma` reflected at 0 and 1, from cosine coefficients.

    `coefficients` is (..., cells); the k-th one is multiplied by exp(-(pi k sigma)^2 / 2).
    """
    damping = np.exp(-((np.pi * np.arange(GRID) * sigma[..., None]) ** 2) / 2)
    return idct(coefficients * damping, axis=-1, norm="ortho")


def smooth_ece_of_grid(grid: np.ndarray) -> np.ndarray:
    """Return the smooth ECE of residual masses (..., cells)."""
    coefficients = dct(grid, axis=-1, norm="ortho")
    low, high = np.zeros(grid.shape[:-1]), np.ones(grid.shape[:-1])
    for _ in range(24):  # the error falls with the bandwidth, so error = bandwidth has one solution
        sigma = (low + high) / 2
        above = np.abs(smooth(coefficients, sigma)).sum(-1) > sigma
        low, high = np.where(above, sigma, low), np.where(above, high, sigma)
    return low


def smooth_ece(p_ai: ArrayLike, is_ai: ArrayLike, weights: Weights = None) -> Value:
    """Return the smooth ECE (Błasiok and Nakkiran 2023, "Smooth ECE", definition 2).

    The residuals `label - p_ai` are smoothed along `p_ai` with a Gaussian reflected at 0 and 1. The
    error is the integral of their absolute value, at the bandwidth that equals the error. It is
    computed on a grid of 512 cells, without bins.
    """
    p_ai, is_ai = check_probability(p_ai, is_ai)
    weights = check_weights(weights, len(p_ai))
    total = weights.sum(-1, keepdims=True)
    shares = weights / np.where(total > 0, total, np.nan)
    value = smooth_ece_of_grid(residual_grid(p_ai, is_ai, shares))
    return float(value) if value.ndim == 0 else value
