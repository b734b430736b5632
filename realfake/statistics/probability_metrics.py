"""Metrics of probabilities: proper scores, and how far `p_ai` lies from the share of ai among images scored alike.

numpy and scipy alone; [`metrics`] names them together with all others, `noise_floor` says how large a calibration
error chance alone makes.
"""

import numpy as np
from scipy.fft import dct, idct

from .margins import check_margin, check_probability, check_weights, ratio

N_BINS = 15
GRID = 512  # smooth ECE: cells of [0, 1]; narrower kernels than 1/512 are of no interest


def nll(margin, is_ai, weights=None):
    """Mean negative log-likelihood in nats, from the margin, so that it is finite for any finite margin."""
    margin, is_ai = check_margin(margin, is_ai)
    weights = check_weights(weights, len(margin))
    return ratio(weights @ np.logaddexp(0, np.where(is_ai, -margin, margin)), weights.sum(-1))


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
    value = smooth_ece_of_grid(residual_grid(p_ai, is_ai, weights / np.where(total > 0, total, np.nan)))
    return float(value) if value.ndim == 0 else value
