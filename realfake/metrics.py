"""How well margins tell the two classes apart, and how far the probabilities can be believed.

Every function takes arrays: `margin` (n,), the log-odds of ai, or `p_ai = expit(margin)` (n,), and `is_ai`
(n,) bool. Calibration, evaluation and the Trainer's metrics stand on this module; numpy and scipy alone.

Weights: metrics take `weights` (n,), *optional*. Most also take weights of shape (resamples, n) and then
return an array, one value per row: this is how the bootstrap evaluates them (see `bootstrap.py`). A value
that is not defined, such as AUROC on one class, is NaN; [`binary_summary`] writes `None`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.fft import dct, idct
from scipy.special import expit, logit, logsumexp

from .bootstrap import bootstrap_interval, percentile_interval, resample_counts
from .labels import AI, NAMES, REAL

N_BINS = 15
_GRID = 512  # smooth ECE: cells of [0, 1]; narrower kernels than 1/512 are of no interest

__all__ = [
    "N_BINS", "accuracy", "auroc", "average_precision", "balanced_accuracy", "binary_summary",
    "bootstrap_interval", "brier", "brier_decomposition", "class_balanced_weights", "confusion_matrix",
    "debiased_ece", "ece", "f1", "fpr_at_tpr", "margin_from_logits", "max_calibration_error", "nll",
    "noise_floor", "precision", "recall", "reliability_curve", "signed_calibration_error", "smooth_ece",
    "tpr_at_fpr",
]  # fmt: skip


# Inputs


def check_labels(is_ai, n: int | None = None) -> np.ndarray:
    """Return `is_ai` as (n,) bool.

    Raises:
        ValueError: It is empty, not one-dimensional, not of length `n`, or holds other values than 0 and 1.
    """
    labels = np.asarray(is_ai)
    if labels.ndim != 1 or (n is not None and len(labels) != n):
        raise ValueError(f"is_ai has shape {labels.shape}; one label for each score is needed.")
    if not len(labels):
        raise ValueError("There are no images to measure: the arrays are empty.")
    if labels.dtype != bool:
        if not np.isin(labels, (0, 1)).all():
            raise ValueError("is_ai must hold booleans (or 0 and 1): True for ai, False for real.")
        labels = labels.astype(bool)
    return labels


def check_margin(margin, is_ai) -> tuple[np.ndarray, np.ndarray]:
    """Return `margin` as (n,) float64 and `is_ai` as (n,) bool.

    Raises:
        ValueError: Shapes differ, there are no images, or a margin is NaN.
    """
    margin = np.asarray(margin, dtype=np.float64)
    if margin.ndim != 1:
        raise ValueError(f"margin has shape {margin.shape}; one log-odds of ai per image is needed.")
    is_ai = check_labels(is_ai, len(margin))
    if np.isnan(margin).any():
        raise ValueError(f"{int(np.isnan(margin).sum())} of {len(margin)} margins are NaN; the model diverged.")
    return margin, is_ai


def _check_probability(p_ai, is_ai) -> tuple[np.ndarray, np.ndarray]:
    p_ai = np.asarray(p_ai, dtype=np.float64)
    if p_ai.ndim != 1 or not ((p_ai >= 0) & (p_ai <= 1)).all():
        raise ValueError("p_ai must be a one-dimensional array of probabilities in [0, 1]; pass expit(margin).")
    return p_ai, check_labels(is_ai, len(p_ai))


def _check_weights(weights, n: int) -> np.ndarray:
    if weights is None:
        return np.ones(n)
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim not in (1, 2) or weights.shape[-1] != n:
        raise ValueError(f"weights has shape {weights.shape}; one weight for each of the {n} images is needed.")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("weights must be finite and not negative.")
    return weights


def _ratio(numerator, denominator):
    """Divide, NaN for 0/0 and x/0; a plain float for scalars."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    out = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return float(out) if out.ndim == 0 else out


def class_balanced_weights(is_ai, weights=None) -> np.ndarray:
    """Weights under which both classes have the same mass, 1/2 each.

    Our probabilities mean equal odds before the image was seen, so a metric of probabilities on a test set
    with another share of ai images is weighted with these. A class that is absent leaves the other with 1/2.

    Args:
        weights: (n,) or (resamples, n), *optional*. Weights to start from, such as bootstrap counts.

    Returns:
        Weights of the shape of `weights`, or (n,).
    """
    is_ai = check_labels(is_ai)
    weights = _check_weights(weights, len(is_ai))
    ai = (weights * is_ai).sum(-1, keepdims=True)
    real = (weights * ~is_ai).sum(-1, keepdims=True)
    mass = np.where(is_ai, ai, real)
    return np.divide(0.5 * weights, mass, out=np.zeros_like(weights), where=mass > 0)


def margin_from_logits(logits, columns: Mapping[str, Sequence[int]]) -> np.ndarray:
    """Log-odds of ai from a classifier's logits: logsumexp over the ai columns minus that over the real ones.

    Args:
        logits: (n, k).
        columns: `{"real": [columns], "ai": [columns]}`, as `labels.columns_by_label` returns.

    Returns:
        (n,) float64; `expit` of it is the sum of the softmax over the ai columns if `columns` covers all.

    Raises:
        ValueError: `logits` is not two-dimensional or a column is out of range.
    """
    logits = np.asarray(logits, dtype=np.float64)
    if logits.ndim != 2:
        raise ValueError(f"logits has shape {logits.shape}; (images, classes) is needed.")
    used = [*columns[REAL], *columns[AI]]
    if not columns[REAL] or not columns[AI] or min(used) < 0 or max(used) >= logits.shape[1]:
        raise ValueError(f"columns {dict(columns)} do not fit logits with {logits.shape[1]} classes.")
    return logsumexp(logits[:, list(columns[AI])], axis=1) - logsumexp(logits[:, list(columns[REAL])], axis=1)


# Decisions at margin > 0


def _cells(margin, is_ai, weights):
    """Mass by (true label, called label); an image is called ai if its margin is above 0."""
    margin, is_ai = check_margin(margin, is_ai)
    weights = _check_weights(weights, len(margin))
    truth, called = {AI: is_ai, REAL: ~is_ai}, {AI: margin > 0, REAL: margin <= 0}
    return {(t, c): weights @ (truth[t] & called[c]).astype(np.float64) for t in NAMES for c in NAMES}


def confusion_matrix(margin, is_ai, weights=None) -> dict[str, dict[str, float]]:
    """Mass of images (their number without weights) as `matrix[true label][called label]`."""
    cells = _cells(margin, is_ai, weights)
    return {t: {c: float(cells[t, c]) for c in NAMES} for t in NAMES}


def _accuracy(cells):
    return _ratio(cells[REAL, REAL] + cells[AI, AI], sum(cells.values()))


def _recall(cells, label):
    return _ratio(cells[label, label], cells[label, REAL] + cells[label, AI])


def _precision(cells, label):
    return _ratio(cells[label, label], cells[REAL, label] + cells[AI, label])


def _f1(cells, label):
    other = AI if label == REAL else REAL
    hits = 2 * cells[label, label]
    return _ratio(hits, hits + cells[other, label] + cells[label, other])


def accuracy(margin, is_ai, weights=None):
    """Share of images on the right side of margin 0. A margin of exactly 0 is called real."""
    return _accuracy(_cells(margin, is_ai, weights))


def balanced_accuracy(margin, is_ai, weights=None):
    """Mean of the two recalls; NaN where a class is absent."""
    cells = _cells(margin, is_ai, weights)
    return (_recall(cells, REAL) + _recall(cells, AI)) / 2


def recall(margin, is_ai, label: str, weights=None):
    """Share of the images of class `label` that are called so; NaN where there is none."""
    return _recall(_cells(margin, is_ai, weights), label)


def precision(margin, is_ai, label: str, weights=None):
    """Share of the images called `label` that are; NaN where none is called so. Depends on the prior."""
    return _precision(_cells(margin, is_ai, weights), label)


def f1(margin, is_ai, label: str, weights=None):
    """2TP / (2TP + FP + FN) of class `label`; NaN where it neither occurs nor is called."""
    return _f1(_cells(margin, is_ai, weights), label)


# Ranking


def _operating_points(margin, is_ai, weights):
    """Masses of ai and of real images at each distinct margin, from the highest down; shape (..., values)."""
    margin, is_ai = check_margin(margin, is_ai)
    weights = _check_weights(weights, len(margin))
    order = np.argsort(-margin, kind="stable")
    ranked = margin[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    weights, is_ai = weights[..., order], is_ai[order]
    ai = np.add.reduceat(weights * is_ai, starts, axis=-1)
    real = np.add.reduceat(weights * ~is_ai, starts, axis=-1)
    return ai, real


def _auroc(ai, real):
    above = real.sum(-1, keepdims=True) - np.cumsum(real, -1) + real / 2
    return _ratio((ai * above).sum(-1), ai.sum(-1) * real.sum(-1))


def _average_precision(ai, real):
    hits = np.cumsum(ai, -1)
    called = hits + np.cumsum(real, -1)
    at = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    return _nan_where(real.sum(-1) == 0, _ratio((at * ai).sum(-1), ai.sum(-1)))


def _tpr_at_fpr(ai, real, max_fpr):
    total = real.sum(-1, keepdims=True)
    allowed = np.cumsum(real, -1) <= (max_fpr + 1e-9) * total
    found = np.where(allowed, np.cumsum(ai, -1), 0).max(-1)
    return _nan_where(total[..., 0] == 0, _ratio(found, ai.sum(-1)))


def _fpr_at_tpr(ai, real, min_tpr):
    total = ai.sum(-1, keepdims=True)
    enough = np.cumsum(ai, -1) >= (min_tpr - 1e-9) * total
    called = np.where(enough, np.cumsum(real, -1), np.inf).min(-1)
    return _nan_where(total[..., 0] == 0, _ratio(called, real.sum(-1)))


def _nan_where(condition, value):
    out = np.where(condition, np.nan, value)
    return float(out) if out.ndim == 0 else out


def auroc(margin, is_ai, weights=None):
    """Area under the ROC curve: how often an ai image has the higher margin, ties counting one half."""
    return _auroc(*_operating_points(margin, is_ai, weights))


def average_precision(margin, is_ai, weights=None):
    """Sum over the distinct margins of precision times the gain in recall; ai is the positive class.

    NaN where a class is absent. Depends on the prior.
    """
    return _average_precision(*_operating_points(margin, is_ai, weights))


def tpr_at_fpr(margin, is_ai, max_fpr: float, weights=None):
    """Highest share of ai images found by a threshold that calls at most `max_fpr` of the real images ai.

    Thresholds lie at observed margins; nothing is interpolated. 0 where the highest margins already belong
    to more real images than allowed.
    """
    return _tpr_at_fpr(*_operating_points(margin, is_ai, weights), max_fpr)


def fpr_at_tpr(margin, is_ai, min_tpr: float = 0.95, weights=None):
    """Lowest share of real images called ai by a threshold that finds at least `min_tpr` of the ai images."""
    return _fpr_at_tpr(*_operating_points(margin, is_ai, weights), min_tpr)


# Probabilities


def nll(margin, is_ai, weights=None):
    """Mean negative log-likelihood in nats, from the margin, so that it is finite for any finite margin."""
    margin, is_ai = check_margin(margin, is_ai)
    weights = _check_weights(weights, len(margin))
    return _ratio(weights @ np.logaddexp(0, np.where(is_ai, -margin, margin)), weights.sum(-1))


def brier(p_ai, is_ai, weights=None):
    """Mean squared difference of `p_ai` and the label (Brier 1950); 0.25 for always saying one half."""
    p_ai, is_ai = _check_probability(p_ai, is_ai)
    weights = _check_weights(weights, len(p_ai))
    return _ratio(weights @ (p_ai - is_ai) ** 2, weights.sum(-1))


def _bin_index(p_ai: np.ndarray, weights: np.ndarray, n_bins: int | None) -> np.ndarray:
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


def _bins(p_ai, is_ai, weights, n_bins):
    """Per occupied bin: share of the mass, mean p_ai, share of ai, number of images, variance of `observed`."""
    p_ai, is_ai = _check_probability(p_ai, is_ai)
    weights = _check_weights(weights, len(p_ai))
    if weights.ndim != 1 or weights.sum() <= 0:
        raise ValueError("weights must be one-dimensional here, with a positive sum.")
    used = weights > 0
    p_ai, is_ai, weights = p_ai[used], is_ai[used], weights[used] / weights.sum()
    _, index = np.unique(_bin_index(p_ai, weights, n_bins), return_inverse=True)
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
    mass, predicted, observed, _, _ = _bins(p_ai, is_ai, weights, n_bins)
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
    mass, predicted, observed, count, _ = _bins(p_ai, is_ai, weights, n_bins)
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
    mass, predicted, observed, _, _ = _bins(p_ai, is_ai, weights, n_bins)
    return float(mass @ np.abs(predicted - observed))


def debiased_ece(p_ai, is_ai, weights=None, n_bins: int = N_BINS) -> float:
    """Root mean square calibration error over bins, less what sampling noise alone adds to its square.

    The square is `sum_b mass_b [(predicted_b - observed_b)^2 - variance of observed_b]`, cut at 0 (Bröcker
    2012; Kumar, Liang and Ma 2019, section 4). It is the l2 error: compare it with others of its kind, not
    with [`ece`], the l1 error. A bin of one image is not corrected.
    """
    mass, predicted, observed, _, variance = _bins(p_ai, is_ai, weights, n_bins)
    return float(np.sqrt(max(0.0, mass @ ((predicted - observed) ** 2 - variance))))


def max_calibration_error(p_ai, is_ai, weights=None, n_bins: int = N_BINS) -> float:
    """Largest |mean p_ai - share of ai| of any equal-mass bin."""
    _, predicted, observed, _, _ = _bins(p_ai, is_ai, weights, n_bins)
    return float(np.abs(predicted - observed).max())


def signed_calibration_error(p_ai, is_ai, weights=None):
    """Mean p_ai minus share of ai: positive where the model says ai too readily (calibration in the large)."""
    p_ai, is_ai = _check_probability(p_ai, is_ai)
    weights = _check_weights(weights, len(p_ai))
    return _ratio(weights @ (p_ai - is_ai), weights.sum(-1))


def _residual_grid(p_ai, is_ai, weights) -> np.ndarray:
    """Mass of `label - p_ai` on the cells of [0, 1], shared linearly between the two nearest centres.

    `weights` (..., n) with rows that sum to 1; returns (..., cells).
    """
    place = np.clip(p_ai * _GRID - 0.5, 0, _GRID - 1)
    left = np.minimum(place.astype(np.int64), _GRID - 2)
    residual = np.atleast_2d(weights * (is_ai - p_ai))
    rows = np.arange(len(residual))[:, None] * _GRID
    share = place - left
    grid = np.zeros(len(residual) * _GRID)
    for cell, part in ((left, 1 - share), (left + 1, share)):
        grid += np.bincount((rows + cell).ravel(), (residual * part).ravel(), len(grid))
    return grid.reshape(*np.shape(weights)[:-1], _GRID)


def _smooth(coefficients: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Convolve with a Gaussian of width `sigma` reflected at 0 and 1, from cosine coefficients (..., cells).

    It multiplies the k-th coefficient by exp(-(pi k sigma)^2 / 2).
    """
    damping = np.exp(-((np.pi * np.arange(_GRID) * sigma[..., None]) ** 2) / 2)
    return idct(coefficients * damping, axis=-1, norm="ortho")


def _smooth_ece_of_grid(grid: np.ndarray) -> np.ndarray:
    """Smooth ECE of residual masses (..., cells)."""
    coefficients = dct(grid, axis=-1, norm="ortho")
    low, high = np.zeros(grid.shape[:-1]), np.ones(grid.shape[:-1])
    for _ in range(24):  # the error falls with the bandwidth, so error = bandwidth has one solution
        sigma = (low + high) / 2
        above = np.abs(_smooth(coefficients, sigma)).sum(-1) > sigma
        low, high = np.where(above, sigma, low), np.where(above, high, sigma)
    return low


def smooth_ece(p_ai, is_ai, weights=None):
    """Smooth calibration error (Błasiok and Nakkiran 2023, "Smooth ECE", definition 2): no bins to choose.

    The residuals `label - p_ai` are smoothed along `p_ai` with a Gaussian reflected at 0 and 1; the error is
    the integral of the absolute value, at the bandwidth that equals the error. Solved on a grid of 512 cells.
    """
    p_ai, is_ai = _check_probability(p_ai, is_ai)
    weights = _check_weights(weights, len(p_ai))
    total = weights.sum(-1, keepdims=True)
    value = _smooth_ece_of_grid(_residual_grid(p_ai, is_ai, weights / np.where(total > 0, total, np.nan)))
    return float(value) if value.ndim == 0 else value


def noise_floor(
    p_ai, prior_ai: float | None = None, n_bins: int = N_BINS, n_simulations: int = 1000, seed: int = 0
) -> dict[str, float]:
    """The [`ece`] that a perfectly calibrated model with these predictions would show on this many images.

    Without `prior_ai`, labels are drawn from Bernoulli(`p_ai`). With it, `p_ai` means equal odds beforehand
    while the test set holds a share `prior_ai` of ai images, and ECE is measured with
    [`class_balanced_weights`]. A calibrated model's label is then ai with odds
    `p_ai / (1 - p_ai) * prior_ai / (1 - prior_ai)`, and a label weighs `0.5 / prior_ai` or
    `0.5 / (1 - prior_ai)`: given the image, the weighted residual has mean 0. The weights are those of the
    known prior, not of the simulated counts, because `p_ai` of a model that is not calibrated does not
    reproduce the counts. Images are taken as independent: groups raise the floor.

    Returns:
        `{"mean", "low", "high"}`: the mean and the 5 % and 95 % quantiles. An ECE above `high` is evidence
        of miscalibration.

    Raises:
        ValueError: `prior_ai` is not inside (0, 1).
    """
    p_ai, _ = _check_probability(p_ai, np.zeros(len(p_ai), bool))
    if prior_ai is not None and not 0 < prior_ai < 1:
        raise ValueError(f"prior_ai is {prior_ai}; it must lie between 0 and 1, both classes being present.")
    rng = np.random.default_rng(seed)
    p_ai = np.sort(p_ai)
    n = len(p_ai)
    chance = p_ai if prior_ai is None else expit(logit(p_ai) + logit(prior_ai))
    index = None if prior_ai is not None else _bin_index(p_ai, np.ones(n), n_bins)
    samples = np.empty(n_simulations)
    for i in range(n_simulations):
        label = rng.random(n) < chance
        if index is not None:
            samples[i] = np.abs(np.bincount(index, label - p_ai)).sum() / n
        else:
            samples[i] = ece(p_ai, label, np.where(label, 0.5 / prior_ai, 0.5 / (1 - prior_ai)), n_bins)
    return {
        "mean": float(samples.mean()),
        "low": float(np.quantile(samples, 0.05)),
        "high": float(np.quantile(samples, 0.95)),
    }


# All of it


def _factor_interval(residual, deviations, size, level) -> tuple[float, float]:
    """By which factors the residuals may be multiplied and still explain the size that was observed.

    A calibration error is never negative and noise pushes it up; resampling adds noise a second time, so
    percentiles of resampled errors lie above the truth and may leave out the value itself. Instead, a factor
    is kept if `size(residual)` lies in the central `level` of `size(factor * residual + noise)`, with the
    noise that resampling shows: a test turned into an interval. Factor 0 is a calibrated model.

    Args:
        residual: (cells,) signed residual masses of the sample.
        deviations: (resamples, cells) resampled masses minus `residual`.
        size: Maps (..., cells) to (...), rising with the factor.
    """
    value = size(residual)
    factors = []
    for quantile in ((1 + level) / 2, (1 - level) / 2):
        low, high = 0.0, 4.0
        for _ in range(14):
            factor = (low + high) / 2
            if np.quantile(size(factor * residual + deviations), quantile) < value:
                low = factor
            else:
                high = factor
        factors.append(low)
    # An interval that leaves out the plug-in value would puzzle its readers; widening only makes it safer.
    return factors[0], max(1.0, factors[1])


def _bin_masses(p_ai, is_ai, weights, n_bins):
    """Which bin each image is in, as a matrix of residuals (n, bins), and the errors of the bins' residual masses."""
    mass = _bins(p_ai, is_ai, weights, n_bins)[0]
    _, index = np.unique(_bin_index(p_ai, weights, n_bins), return_inverse=True)
    residuals = np.zeros((len(p_ai), len(mass)))
    residuals[np.arange(len(p_ai)), index] = p_ai - is_ai
    errors = {
        "ece": lambda x: np.abs(x).sum(-1),
        "debiased_ece": lambda x: np.sqrt((x**2 / mass).sum(-1)),
        "max_calibration_error": lambda x: (np.abs(x) / mass).max(-1),
    }
    return residuals, errors


_LOW_FPR = {"tpr_at_fpr_1": 0.01, "tpr_at_fpr_5": 0.05}


def _linear_metrics(margin, is_ai, counts, class_balanced) -> dict:
    """The metrics whose bootstrap percentiles serve as they are; each of the shape `counts.shape[:-1]`."""
    cells = _cells(margin, is_ai, counts)
    points = _operating_points(margin, is_ai, counts)
    weights = class_balanced_weights(is_ai, counts) if class_balanced else counts
    p_ai = expit(margin)
    values = {
        "accuracy": _accuracy(cells),
        "balanced_accuracy": (_recall(cells, REAL) + _recall(cells, AI)) / 2,
    }
    for label in NAMES:
        values[f"precision_{label}"] = _precision(cells, label)
        values[f"recall_{label}"] = _recall(cells, label)
        values[f"f1_{label}"] = _f1(cells, label)
    values["auroc"] = _auroc(*points)
    values["average_precision"] = _average_precision(*points)
    values |= {name: _tpr_at_fpr(*points, max_fpr) for name, max_fpr in _LOW_FPR.items()}
    values["fpr_at_tpr_95"] = _fpr_at_tpr(*points, 0.95)
    values["nll"] = nll(margin, is_ai, weights)
    values["brier"] = brier(p_ai, is_ai, weights)
    values["signed_calibration_error"] = signed_calibration_error(p_ai, is_ai, weights)
    return values


# Trivial or without meaning on one class: precision is 1, and the probabilities presuppose equal odds.
_ONE_CLASS = ("accuracy", *(f"recall_{label}" for label in NAMES), "nll", "brier")


def binary_summary(
    margin,
    is_ai,
    groups=None,
    class_balanced: bool = True,
    n_bins: int = N_BINS,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, dict]:
    """Every metric with its interval, as `evaluation.json` holds it.

    Args:
        margin: (n,) log-odds of ai.
        is_ai: (n,) bool.
        groups: (n,), *optional*. Images that share a source; intervals resample whole groups.
        class_balanced: Weight the metrics of probabilities (`nll`, `brier*`, all calibration errors) with
            [`class_balanced_weights`]. Accuracy, precision, F1 and average precision always describe the images
            as given.
        n_resamples: Bootstrap resamples; 0 leaves the intervals out.

    Returns:
        `{name: {"value", "low", "high", "n"}}`: plain floats, or `None` where something is not defined; `n` is
        the number of images the metric rests on. Names: `accuracy`, `balanced_accuracy`,
        `precision_real/ai`, `recall_real/ai`, `f1_real/ai`, `auroc`, `average_precision`, `tpr_at_fpr_1`,
        `tpr_at_fpr_5` (per cent), `fpr_at_tpr_95`, `nll`, `brier`, `brier_reliability`, `brier_resolution`,
        `brier_uncertainty`, `ece`, `debiased_ece`, `smooth_ece`, `max_calibration_error`,
        `signed_calibration_error`, `ece_noise_floor` (its `low` and `high` are the 5 % and 95 % quantiles).

        Intervals are bootstrap percentiles. For the four calibration errors that cannot be negative they are
        the errors that would explain the plug-in value, noise included, widened to hold it; they reach 0 where
        a calibrated model would. A proportion of exactly 0 or 1 has an interval of no width.
    """
    margin, is_ai = check_margin(margin, is_ai)
    n, n_ai = len(margin), int(is_ai.sum())
    p_ai = expit(margin)
    two_classes = 0 < n_ai < n
    values = _linear_metrics(margin, is_ai, np.ones(n), class_balanced)
    weights = class_balanced_weights(is_ai) if class_balanced else np.full(n, 1 / n)
    weights = weights / weights.sum()
    residuals, errors = _bin_masses(p_ai, is_ai, weights, n_bins)
    murphy = brier_decomposition(p_ai, is_ai, weights, n_bins)
    values |= {f"brier_{name}": murphy[name] for name in ("reliability", "resolution", "uncertainty")}
    values["ece"] = ece(p_ai, is_ai, weights, n_bins)
    values["debiased_ece"] = debiased_ece(p_ai, is_ai, weights, n_bins)
    values["smooth_ece"] = smooth_ece(p_ai, is_ai, weights)
    values["max_calibration_error"] = max_calibration_error(p_ai, is_ai, weights, n_bins)

    intervals = {}
    if n_resamples:
        samples, binned, smoothed = {}, [], []
        for counts in resample_counts(n, groups, n_resamples, seed):
            for name, sample in _linear_metrics(margin, is_ai, counts, class_balanced).items():
                samples.setdefault(name, []).append(sample)
            if two_classes:
                drawn = class_balanced_weights(is_ai, counts) if class_balanced else counts
                drawn = drawn / drawn.sum(-1, keepdims=True)
                binned.append(drawn @ residuals)
                smoothed.append(_residual_grid(p_ai, is_ai, drawn))
        intervals = {name: percentile_interval(np.concatenate(parts), level) for name, parts in samples.items()}
        if two_classes:
            of_bins = weights @ residuals
            deviations = np.concatenate(binned) - of_bins
            for name, error in errors.items():
                factors = _factor_interval(of_bins, deviations, error, level)
                intervals[name] = tuple(min(1.0, error(factor * of_bins)) for factor in factors)
            # The interval is that of the plug-in error, which the correction for noise may have left.
            low, high = intervals["debiased_ece"]
            intervals["debiased_ece"] = min(low, values["debiased_ece"]), high
            # The smooth error exceeds a value if the error at that bandwidth does: no need to solve each row.
            sigma = np.asarray(values["smooth_ece"])
            grid = _residual_grid(p_ai, is_ai, weights)
            smoothed = _smooth(dct(np.concatenate(smoothed), norm="ortho"), sigma)
            at_sigma = _smooth(dct(grid, norm="ortho"), sigma)
            factors = _factor_interval(at_sigma, smoothed - at_sigma, errors["ece"], level)
            intervals["smooth_ece"] = tuple(float(_smooth_ece_of_grid(factor * grid)) for factor in factors)
    if two_classes:
        floor = noise_floor(p_ai, n_ai / n if class_balanced else None, n_bins, seed=seed)
        values["ece_noise_floor"] = floor["mean"]
        intervals["ece_noise_floor"] = floor["low"], floor["high"]
    else:
        values["ece_noise_floor"] = float("nan")

    sizes = {
        "recall_ai": n_ai, "recall_real": n - n_ai,
        "tpr_at_fpr_1": n_ai, "tpr_at_fpr_5": n_ai, "fpr_at_tpr_95": n - n_ai,
    }  # fmt: skip
    summary = {}
    for name, value in values.items():
        defined = two_classes or name in _ONE_CLASS
        numbers = (value, *intervals.get(name, (None, None))) if defined else (None, None, None)
        value, low, high = (None if x is None or np.isnan(x) else float(x) for x in numbers)
        summary[name] = {"value": value, "low": low, "high": high, "n": sizes.get(name, n)}
    return summary
