"""Metrics of decisions: an image is called ai if its margin is above 0, and real otherwise.

numpy alone; [`metrics`] names them together with all others.
"""

import numpy as np
from scipy.fft import dct, idct

from realfake.labels import AI, NAMES, REAL
from realfake.statistics.log_odds import (
    check_log_odds,
    check_probability,
    check_weights,
    nan_where,
    ratio,
)


def cells_of(log_odds, is_ai, weights):
    """Mass by (true label, called label); an image is called ai if its margin is above 0."""
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    weights = check_weights(weights, len(log_odds))
    truth, called = {AI: is_ai, REAL: ~is_ai}, {AI: log_odds > 0, REAL: log_odds <= 0}
    return {
        (t, c): weights @ (truth[t] & called[c]).astype(np.float64) for t in NAMES for c in NAMES
    }


def confusion_matrix(log_odds, is_ai, weights=None) -> dict[str, dict[str, float]]:
    """Mass of images (their number without weights) as `matrix[true label][called label]`."""
    cells = cells_of(log_odds, is_ai, weights)
    return {t: {c: float(cells[t, c]) for c in NAMES} for t in NAMES}


def accuracy_of(cells):
    return ratio(cells[REAL, REAL] + cells[AI, AI], sum(cells.values()))


def recall_of(cells, label):
    return ratio(cells[label, label], cells[label, REAL] + cells[label, AI])


def precision_of(cells, label):
    return ratio(cells[label, label], cells[REAL, label] + cells[AI, label])


def f1_of(cells, label):
    other = AI if label == REAL else REAL
    hits = 2 * cells[label, label]
    return ratio(hits, hits + cells[other, label] + cells[label, other])


def accuracy(log_odds, is_ai, weights=None):
    """Share of images on the right side of margin 0. A margin of exactly 0 is called real."""
    return accuracy_of(cells_of(log_odds, is_ai, weights))


def balanced_accuracy(log_odds, is_ai, weights=None):
    """Mean of the two recalls; NaN where a class is absent."""
    cells = cells_of(log_odds, is_ai, weights)
    return (recall_of(cells, REAL) + recall_of(cells, AI)) / 2


def recall(log_odds, is_ai, label: str, weights=None):
    """Share of the images of class `label` that are called so; NaN where there is none."""
    return recall_of(cells_of(log_odds, is_ai, weights), label)


def precision(log_odds, is_ai, label: str, weights=None):
    """Share of the images called `label` that are; NaN where none is called so. Depends on the prior."""
    return precision_of(cells_of(log_odds, is_ai, weights), label)


def f1(log_odds, is_ai, label: str, weights=None):
    """2TP / (2TP + FP + FN) of class `label`; NaN where it neither occurs nor is called."""
    return f1_of(cells_of(log_odds, is_ai, weights), label)


def operating_points(log_odds, is_ai, weights):
    """Masses of ai and of real images at each distinct margin, from the highest down; shape (..., values)."""
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    weights = check_weights(weights, len(log_odds))
    order = np.argsort(-log_odds, kind="stable")
    ranked = log_odds[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    weights, is_ai = weights[..., order], is_ai[order]
    ai = np.add.reduceat(weights * is_ai, starts, axis=-1)
    real = np.add.reduceat(weights * ~is_ai, starts, axis=-1)
    return ai, real


def auroc_of(ai, real):
    above = real.sum(-1, keepdims=True) - np.cumsum(real, -1) + real / 2
    return ratio((ai * above).sum(-1), ai.sum(-1) * real.sum(-1))


def average_precision_of(ai, real):
    hits = np.cumsum(ai, -1)
    called = hits + np.cumsum(real, -1)
    at = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    return nan_where(real.sum(-1) == 0, ratio((at * ai).sum(-1), ai.sum(-1)))


def tpr_at_fpr_of(ai, real, max_fpr):
    total = real.sum(-1, keepdims=True)
    allowed = np.cumsum(real, -1) <= (max_fpr + 1e-9) * total
    found = np.where(allowed, np.cumsum(ai, -1), 0).max(-1)
    return nan_where(total[..., 0] == 0, ratio(found, ai.sum(-1)))


def fpr_at_tpr_of(ai, real, min_tpr):
    total = ai.sum(-1, keepdims=True)
    enough = np.cumsum(ai, -1) >= (min_tpr - 1e-9) * total
    called = np.where(enough, np.cumsum(real, -1), np.inf).min(-1)
    return nan_where(total[..., 0] == 0, ratio(called, real.sum(-1)))


def auroc(log_odds, is_ai, weights=None):
    """Area under the ROC curve: how often an ai image has the higher margin, ties counting one half."""
    return auroc_of(*operating_points(log_odds, is_ai, weights))


def average_precision(log_odds, is_ai, weights=None):
    """Sum over the distinct margins of precision times the gain in recall; ai is the positive class.

    NaN where a class is absent. Depends on the prior.
    """
    return average_precision_of(*operating_points(log_odds, is_ai, weights))


def tpr_at_fpr(log_odds, is_ai, max_fpr: float, weights=None):
    """Highest share of ai images found by a threshold that calls at most `max_fpr` of the real images ai.

    Thresholds lie at observed margins; nothing is interpolated. 0 where the highest margins already belong
    to more real images than allowed.
    """
    return tpr_at_fpr_of(*operating_points(log_odds, is_ai, weights), max_fpr)


def fpr_at_tpr(log_odds, is_ai, min_tpr: float = 0.95, weights=None):
    """Lowest share of real images called ai by a threshold that finds at least `min_tpr` of the ai images."""
    return fpr_at_tpr_of(*operating_points(log_odds, is_ai, weights), min_tpr)


N_BINS = 15
GRID = 512  # smooth ECE: cells of [0, 1]; narrower kernels than 1/512 are of no interest


def nll(log_odds, is_ai, weights=None):
    """Mean negative log-likelihood in nats, from the margin, so that it is finite for any finite margin."""
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    weights = check_weights(weights, len(log_odds))
    return ratio(weights @ np.logaddexp(0, np.where(is_ai, -log_odds, log_odds)), weights.sum(-1))


def brier(p_ai, is_ai, weights=None):
    """Mean squared difference of `p_ai` and the label (Brier 1950); 0.25 for always saying one half."""
    p_ai, is_ai = check_probability(p_ai, is_ai)
    weights = check_weights(weights, len(p_ai))
    return ratio(weights @ (p_ai - is_ai) ** 2, weights.sum(-1))


def bin_index(p_ai: np.ndarray, weights: np.ndarray, n_bins: int | None) -> np.ndarray:
    """Equal-mass bins: an image belongs to the bin in which the middle of its tied mass lies.

    Ties share a bin, so the result does not depend on the order of the images, and an image of weight 2
    counts exactly as the image given twice. `n_bins=None` makes each distinct value a bin.
    """
    values, inverse = np.unique(p_ai, return_inverse=True)
    if n_bins is None:
        return inverse
    if n_bins < 1:
        raise ValueError(f"n_bins is {n_bins}; at least one bin is needed.")
    mass = np.bincount(inverse, weights, len(values))
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    # The small term keeps a middle that lies on an edge in the upper bin whatever the weights' scale.
    return np.clip(np.floor(middle * n_bins + 1e-9), 0, n_bins - 1).astype(np.int64)[inverse]


def bins(p_ai, is_ai, weights, n_bins):
    """Per occupied bin: share of the mass, mean p_ai, share of ai, number of images, variance of `observed`."""
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
    # n/(n-1) makes it unbiased: without weights it is observed (1 - observed) / (n - 1).
    variance = np.where(count > 1, spread * count / np.maximum(count - 1, 1), 0.0)
    return mass, predicted, observed, count, variance


def brier_decomposition(p_ai, is_ai, weights=None, n_bins: int | None = N_BINS) -> dict[str, float]:
    """Murphy's (1973) decomposition of the Brier score over equal-mass bins.

    Args:
        n_bins: Number of bins; `None` makes each distinct value a bin, and `remainder` is then 0.

    Returns:
        `{"reliability", "resolution", "uncertainty", "remainder"}` with
        `brier = reliability - resolution + uncertainty + remainder`; the remainder comes from the spread of
        `p_ai` within bins (Stephenson, Coelho and Jolliffe 2008).
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


def reliability_curve(p_ai, is_ai, weights=None, n_bins: int = N_BINS) -> dict[str, list]:
    """Points of a reliability diagram over equal-mass bins, empty bins left out.

    Returns:
        `{"predicted": mean p_ai, "observed": share of ai, "count": images, "mass": share of the weight}`,
        one entry per bin in each list, from low to high.
    """
    mass, predicted, observed, count, _ = bins(p_ai, is_ai, weights, n_bins)
    return {
        "predicted": predicted.tolist(),
        "observed": observed.tolist(),
        "count": count.tolist(),
        "mass": mass.tolist(),
    }


def ece(p_ai, is_ai, weights=None, n_bins: int = N_BINS) -> float:
    """Expected calibration error: mean over equal-mass bins of |mean p_ai - share of ai|.

    Never zero on a finite sample: compare it with [`noise_floor`]. The binary form, on the probability of
    ai over [0, 1], not on the probability of the called class (Naeini et al. 2015; Nixon et al. 2019).
    """
    mass, predicted, observed, _, _ = bins(p_ai, is_ai, weights, n_bins)
    return float(mass @ np.abs(predicted - observed))


def debiased_ece(p_ai, is_ai, weights=None, n_bins: int = N_BINS) -> float:
    """Root mean square calibration error over bins, less what sampling noise alone adds to its square.

    The square is `sum_b mass_b [(predicted_b - observed_b)^2 - variance of observed_b]`, cut at 0 (Bröcker
    2012; Kumar, Liang and Ma 2019, section 4). It is the l2 error: compare it with others of its kind, not
    with [`ece`], the l1 error. A bin of one image is not corrected.
    """
    mass, predicted, observed, _, variance = bins(p_ai, is_ai, weights, n_bins)
    return float(np.sqrt(max(0.0, mass @ ((predicted - observed) ** 2 - variance))))


def max_calibration_error(p_ai, is_ai, weights=None, n_bins: int = N_BINS) -> float:
    """Largest |mean p_ai - share of ai| of any equal-mass bin."""
    _, predicted, observed, _, _ = bins(p_ai, is_ai, weights, n_bins)
    return float(np.abs(predicted - observed).max())


def signed_calibration_error(p_ai, is_ai, weights=None):
    """Mean p_ai minus share of ai: positive where the model says ai too readily (calibration in the large)."""
    p_ai, is_ai = check_probability(p_ai, is_ai)
    weights = check_weights(weights, len(p_ai))
    return ratio(weights @ (p_ai - is_ai), weights.sum(-1))


def residual_grid(p_ai, is_ai, weights) -> np.ndarray:
    """Mass of `label - p_ai` on the cells of [0, 1], shared linearly between the two nearest centres.

    `weights` (..., n) with rows that sum to 1; returns (..., cells).
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
    """Convolve with a Gaussian of width `sigma` reflected at 0 and 1, from cosine coefficients (..., cells).

    It multiplies the k-th coefficient by exp(-(pi k sigma)^2 / 2).
    """
    damping = np.exp(-((np.pi * np.arange(GRID) * sigma[..., None]) ** 2) / 2)
    return idct(coefficients * damping, axis=-1, norm="ortho")


def smooth_ece_of_grid(grid: np.ndarray) -> np.ndarray:
    """Smooth ECE of residual masses (..., cells)."""
    coefficients = dct(grid, axis=-1, norm="ortho")
    low, high = np.zeros(grid.shape[:-1]), np.ones(grid.shape[:-1])
    for _ in range(24):  # the error falls with the bandwidth, so error = bandwidth has one solution
        sigma = (low + high) / 2
        above = np.abs(smooth(coefficients, sigma)).sum(-1) > sigma
        low, high = np.where(above, sigma, low), np.where(above, high, sigma)
    return low


def smooth_ece(p_ai, is_ai, weights=None):
    """Smooth calibration error (Błasiok and Nakkiran 2023, "Smooth ECE", definition 2): no bins to choose.

    The residuals `label - p_ai` are smoothed along `p_ai` with a Gaussian reflected at 0 and 1; the error is
    the integral of the absolute value, at the bandwidth that equals the error. Solved on a grid of 512 cells.
    """
    p_ai, is_ai = check_probability(p_ai, is_ai)
    weights = check_weights(weights, len(p_ai))
    total = weights.sum(-1, keepdims=True)
    value = smooth_ece_of_grid(
        residual_grid(p_ai, is_ai, weights / np.where(total > 0, total, np.nan))
    )
    return float(value) if value.ndim == 0 else value
