"""Metrics of decisions, rankings and probabilities, the arrays they take, and bootstrap intervals.

`log_odds` (n,) is the log-odds of ai at equal odds, `p_ai = expit(log_odds)` (n,) the probability,
and `is_ai` (n,) bool the true label. An image is called ai if its log-odds are above 0.

`weights` (n,) are *optional*. Where the weights of a bootstrap, (resamples, n), are allowed, the
result has one value per row. An undefined metric, such as AUROC on one class, is NaN.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from realfake.labels import AI, NAMES, REAL

N_BINS = 15
_CHUNK = 4_000_000  # counts held in memory at once: 32 MB of float64

Value: TypeAlias = float | np.ndarray
Weights: TypeAlias = ArrayLike | None

# The arrays


def check_labels(is_ai: ArrayLike, n: int | None = None) -> np.ndarray:
    """Return `is_ai` as (n,) bool.

    Raises:
        ValueError: It is empty, not one-dimensional, not of length `n`, or has other values than 0
            and 1.
    """
    labels = np.asarray(is_ai)
    if labels.ndim != 1 or (n is not None and len(labels) != n):
        raise ValueError(f"is_ai has shape {labels.shape}; one label for each score is needed.")
    if not len(labels):
        raise ValueError("There are no images: the arrays are empty.")
    if labels.dtype != bool:
        if not np.isin(labels, (0, 1)).all():
            raise ValueError("is_ai must contain booleans (or 0 and 1): True is ai, False is real.")
        labels = labels.astype(bool)
    return labels


def check_log_odds(log_odds: ArrayLike, is_ai: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return `log_odds` as (n,) float64 and `is_ai` as (n,) bool.

    Raises:
        ValueError: Shapes differ, there are no images, or a value is NaN.
    """
    log_odds = np.asarray(log_odds, dtype=np.float64)
    if log_odds.ndim != 1:
        raise ValueError(
            f"log_odds has shape {log_odds.shape}; one log-odds of ai per image is needed."
        )
    is_ai = check_labels(is_ai, len(log_odds))
    missing = int(np.isnan(log_odds).sum())
    if missing:
        raise ValueError(f"{missing} of {len(log_odds)} log-odds are NaN; the model diverged.")
    return log_odds, is_ai


def check_probability(p_ai: ArrayLike, is_ai: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return `p_ai` as (n,) float64 and `is_ai` as (n,) bool.

    Raises:
        ValueError: Shapes differ, there are no images, or a value lies outside [0, 1].
    """
    p_ai = np.asarray(p_ai, dtype=np.float64)
    if p_ai.ndim != 1 or not ((p_ai >= 0) & (p_ai <= 1)).all():
        raise ValueError(
            "p_ai must be a one-dimensional array of probabilities in [0, 1]; pass expit(log_odds)."
        )
    return p_ai, check_labels(is_ai, len(p_ai))


def check_weights(weights: ArrayLike | None, n: int) -> np.ndarray:
    """Return `weights` as float64, (n,) or (resamples, n); ones for `None`.

    Raises:
        ValueError: The shape is different, or a weight is negative or not finite.
    """
    if weights is None:
        return np.ones(n)
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim not in (1, 2) or weights.shape[-1] != n:
        raise ValueError(
            f"weights has shape {weights.shape}; one weight for each of the {n} images is needed."
        )
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("weights must be finite and not negative.")
    return weights


def class_balanced_weights(is_ai: ArrayLike, weights: ArrayLike | None = None) -> np.ndarray:
    """Return weights under which both classes have the same mass, 1/2 each.

    Metrics of probabilities need them if the test set has another share of ai images, because the
    probabilities assume equal odds. If a class is absent, the other keeps mass 1/2.
    """
    is_ai = check_labels(is_ai)
    weights = check_weights(weights, len(is_ai))
    ai = (weights * is_ai).sum(-1, keepdims=True)
    real = (weights * ~is_ai).sum(-1, keepdims=True)
    mass = np.where(is_ai, ai, real)
    return np.divide(0.5 * weights, mass, out=np.zeros_like(weights), where=mass > 0)


def log_odds_from_logits(
    logits: ArrayLike, class_indices: Mapping[str, Sequence[int]]
) -> np.ndarray:
    """Return the log-odds of ai: logsumexp of the ai logits minus logsumexp of the real ones.

    Args:
        logits: (n, k).
        class_indices: `{"real": [indices], "ai": [indices]}`, as `labels.class_indices` returns.

    Returns:
        (n,) float64. If all k classes are listed, `expit` of it is the softmax mass of ai.

    Raises:
        ValueError: `logits` is not two-dimensional or an index is out of range.
    """
    logits = np.asarray(logits, dtype=np.float64)
    if logits.ndim != 2:
        raise ValueError(f"logits has shape {logits.shape}; (images, classes) is needed.")
    ai, real = list(class_indices[AI]), list(class_indices[REAL])
    if not ai or not real or min(ai + real) < 0 or max(ai + real) >= logits.shape[1]:
        raise ValueError(
            f"class indices {dict(class_indices)} do not fit logits with {logits.shape[1]} classes."
        )
    return logsumexp(logits[:, ai], axis=1) - logsumexp(logits[:, real], axis=1)


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> float | np.ndarray:
    """Divide; NaN where the denominator is 0, and a float for scalars."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    out = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return float(out) if out.ndim == 0 else out


# Decisions


def confusion_matrix(
    log_odds: ArrayLike, is_ai: ArrayLike, weights: Weights = None
) -> dict[str, dict[str, Value]]:
    """Return the mass of images as `matrix[true label][called label]`: counts without weights."""
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    weights = check_weights(weights, len(log_odds))
    truth, called = {AI: is_ai, REAL: ~is_ai}, {AI: log_odds > 0, REAL: log_odds <= 0}
    return {
        t: {c: weights @ (truth[t] & called[c]).astype(np.float64) for c in NAMES} for t in NAMES
    }


def decision_metrics(
    log_odds: ArrayLike, is_ai: ArrayLike, weights: Weights = None
) -> dict[str, Value]:
    """Return `accuracy`, `balanced_accuracy`, and `precision_`, `recall_` and `f1_` of each class.

    Precision and F1 depend on the share of ai images in the data.
    """
    matrix = confusion_matrix(log_odds, is_ai, weights)
    values = {}
    for label, other in ((REAL, AI), (AI, REAL)):
        hits, missed, wrong = matrix[label][label], matrix[label][other], matrix[other][label]
        values[f"precision_{label}"] = ratio(hits, hits + wrong)
        values[f"recall_{label}"] = ratio(hits, hits + missed)
        values[f"f1_{label}"] = ratio(2 * hits, 2 * hits + missed + wrong)
    right = matrix[REAL][REAL] + matrix[AI][AI]
    return {
        "accuracy": ratio(right, right + matrix[REAL][AI] + matrix[AI][REAL]),
        "balanced_accuracy": (values["recall_real"] + values["recall_ai"]) / 2,
        **values,
    }


def accuracy(log_odds: ArrayLike, is_ai: ArrayLike, weights: Weights = None) -> Value:
    """Return the share of correct labels. Log-odds of exactly 0 are called real."""
    return decision_metrics(log_odds, is_ai, weights)["accuracy"]


def balanced_accuracy(log_odds: ArrayLike, is_ai: ArrayLike, weights: Weights = None) -> Value:
    """Return the mean of the two recalls; NaN if a class is absent."""
    return decision_metrics(log_odds, is_ai, weights)["balanced_accuracy"]


# Rankings


def _ranked_masses(
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


def auroc(log_odds: ArrayLike, is_ai: ArrayLike, weights: Weights = None) -> Value:
    """Return the probability that an ai image scores higher than a real one; ties count 1/2."""
    return _auroc(*_ranked_masses(log_odds, is_ai, weights))


def _auroc(ai: np.ndarray, real: np.ndarray) -> Value:
    above = real.sum(-1, keepdims=True) - np.cumsum(real, -1) + real / 2
    return ratio((ai * above).sum(-1), ai.sum(-1) * real.sum(-1))


def ranking_metrics(
    log_odds: ArrayLike, is_ai: ArrayLike, weights: Weights = None
) -> dict[str, Value]:
    """Return `auroc`, `average_precision`, `tpr_at_fpr_1` and `tpr_at_fpr_5`.

    Average precision is the sum over distinct values of precision times the gain in recall, ai
    positive. It depends on the share of ai images in the data. The other two are the highest recall
    of ai among thresholds with a false-positive rate of at most 1 or 5 %. Thresholds are observed
    values, without interpolation; the recall is 0 if more real images share the highest value.
    """
    ai, real = _ranked_masses(log_odds, is_ai, weights)
    hits, false = np.cumsum(ai, -1), np.cumsum(real, -1)
    n_ai, n_real = ai.sum(-1), real.sum(-1)
    precision = np.divide(hits, hits + false, out=np.zeros_like(hits), where=hits + false > 0)
    values = {
        "auroc": _auroc(ai, real),
        "average_precision": ratio((precision * ai).sum(-1), n_ai * (n_real > 0)),
    }
    for percent in (1, 5):
        allowed = false <= (percent / 100 + 1e-9) * n_real[..., None]
        found = np.where(allowed, hits, 0).max(-1)
        values[f"tpr_at_fpr_{percent}"] = ratio(found, n_ai * (n_real > 0))
    return values


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


def bin_index(p_ai: np.ndarray, weights: np.ndarray, n_bins: int) -> np.ndarray:
    """Return the equal-mass bin of each image: the bin that holds the middle of its tied mass.

    Ties share a bin, so the order of the images does not matter. An image of weight 2 equals two
    images.
    """
    if n_bins < 1:
        raise ValueError(f"n_bins is {n_bins}; at least one bin is needed.")
    values, inverse = np.unique(p_ai, return_inverse=True)
    mass = np.bincount(inverse, weights, len(values))
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    # The small term puts a middle on an edge into the upper bin at any scale of weights.
    return np.clip(np.floor(middle * n_bins + 1e-9), 0, n_bins - 1).astype(np.int64)[inverse]


def reliability_curve(
    p_ai: ArrayLike, is_ai: ArrayLike, weights: Weights = None, n_bins: int = N_BINS
) -> dict[str, list]:
    """Return the points of a reliability diagram over equal-mass bins, without empty bins.

    Returns:
        `{"predicted": mean p_ai, "observed": share of ai, "count": images, "mass": share of the
        weight}`, one entry per bin in each list, from low to high.
    """
    p_ai, is_ai = check_probability(p_ai, is_ai)
    weights = check_weights(weights, len(p_ai))
    if weights.ndim != 1 or weights.sum() <= 0:
        raise ValueError("weights must be one-dimensional here, with a positive sum.")
    used = weights > 0
    p_ai, is_ai, weights = p_ai[used], is_ai[used], weights[used] / weights.sum()
    _, index = np.unique(bin_index(p_ai, weights, n_bins), return_inverse=True)
    mass = np.bincount(index, weights)
    return {
        "predicted": (np.bincount(index, weights * p_ai) / mass).tolist(),
        "observed": (np.bincount(index, weights * is_ai) / mass).tolist(),
        "count": np.bincount(index).tolist(),
        "mass": mass.tolist(),
    }


def ece(p_ai: ArrayLike, is_ai: ArrayLike, weights: Weights = None, n_bins: int = N_BINS) -> float:
    """Return the expected calibration error: the mean over bins of |mean p_ai - share of ai|.

    This is the binary form, on the probability of ai over [0, 1] (Naeini et al. 2015; Nixon et al.
    2019). It is never zero on a finite sample: compare it with `summary.noise_floor`.
    """
    curve = {
        name: np.array(x) for name, x in reliability_curve(p_ai, is_ai, weights, n_bins).items()
    }
    return float(curve["mass"] @ np.abs(curve["predicted"] - curve["observed"]))


# Percentile bootstrap intervals over images, or over groups of images that belong together.
# A resample is a row of counts: how often each image was drawn. A statistic that takes weights is
# evaluated on many resamples at once, without copies of the images.


def group_index(groups: ArrayLike | None, n: int) -> tuple[np.ndarray, int]:
    """Number the groups of `n` images. Without groups, each image is a group.

    Returns:
        The group number of each image, (n,), and the number of groups.

    Raises:
        ValueError: `groups` is not of length `n`.
    """
    if groups is None:
        return np.arange(n), n
    groups = np.asarray(groups)
    if groups.shape != (n,):
        raise ValueError(f"groups has shape {groups.shape}; it needs an entry per image, ({n},).")
    groups = groups.astype(str) if groups.dtype == object else groups
    names, index = np.unique(groups, return_inverse=True)
    return index.reshape(-1), len(names)


def resample_counts(
    n: int, groups: ArrayLike | None = None, n_resamples: int = 1000, seed: int = 0
) -> Iterator[np.ndarray]:
    """Draw bootstrap resamples as counts.

    Args:
        groups: (n,), *optional*. Whole groups are drawn with replacement, because images of a group
            are not independent.

    Yields:
        (resamples, n) float64 counts, in chunks of bounded size, `n_resamples` rows in all.
    """
    index, n_groups = group_index(groups, n)
    rng = np.random.default_rng(seed)
    rows = max(1, min(n_resamples, _CHUNK // max(n, 1)))
    for start in range(0, n_resamples, rows):
        size = min(rows, n_resamples - start)
        drawn = rng.integers(n_groups, size=(size, n_groups)) + n_groups * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n_groups).reshape(size, n_groups)
        yield counts.astype(np.float64)[:, index]


def percentile_interval(samples: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Return the central `level` of the samples without NaN; `(nan, nan)` if none is left."""
    samples = np.asarray(samples, dtype=np.float64)
    samples = samples[~np.isnan(samples)]
    if not len(samples):
        return float("nan"), float("nan")
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_interval(
    statistic: Callable,
    *arrays: ArrayLike,
    groups: ArrayLike | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    weighted: bool = False,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a statistic (Efron and Tibshirani 1993, ch. 13).

    Args:
        statistic: `statistic(*arrays) -> float`, called on resampled arrays. With `weighted=True`:
            `statistic(*arrays, weights=counts) -> (resamples,)`, called on the whole arrays with
            counts of shape (resamples, n). This is many times faster.
        arrays: Arrays whose first dimension is the image.
        groups: (n,), *optional*. Resample whole groups.

    Returns:
        `(low, high)`. Resamples on which the statistic is NaN are left out.

    Raises:
        ValueError: No arrays, or lengths differ.
    """
    arrays = tuple(np.asarray(array) for array in arrays)
    if not arrays or len({len(array) for array in arrays}) != 1 or not len(arrays[0]):
        raise ValueError("bootstrap_interval needs arrays of one common length, at least 1.")
    samples = []
    for counts in resample_counts(len(arrays[0]), groups, n_resamples, seed):
        if weighted:
            samples.extend(np.atleast_1d(statistic(*arrays, weights=counts)))
        else:
            for row in counts.astype(np.int64):
                drawn = np.repeat(np.arange(len(row)), row)
                samples.append(statistic(*(array[drawn] for array in arrays)))
    return percentile_interval(samples, level)


def mean_figure(
    values: ArrayLike, groups: ArrayLike | None = None, n_resamples: int = 1000, seed: int = 0
) -> dict[str, float | int | None]:
    """Return a mean as records store it: `{"value", "low", "high", "n"}`, `None` for no values.

    Args:
        values: (n,) numbers.
        groups, n_resamples, seed: As in [`bootstrap_interval`]; 0 resamples give no interval.
    """
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        return {"value": None, "low": None, "high": None, "n": 0}

    def mean(numbers: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return weights @ numbers / weights.sum(axis=-1)

    low = high = None
    if n_resamples:
        low, high = bootstrap_interval(
            mean, values, groups=groups, n_resamples=n_resamples, seed=seed, weighted=True
        )
    return {"value": values.mean(), "low": low, "high": high, "n": len(values)}
