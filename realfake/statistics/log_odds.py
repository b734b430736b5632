"""The arrays that every metric takes, and their checks.

`log_odds` (n,) is the log-odds of ai at equal odds, `p_ai = expit(log_odds)` (n,) the probability,
and `is_ai` (n,) bool the true label.

Metrics take `weights` (n,), *optional*. Most also take the weights of a bootstrap, (resamples, n),
and return one value per row.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from realfake.labels import AI, REAL


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

    Args:
        weights: (n,) or (resamples, n), *optional*. Initial weights, such as bootstrap counts.

    Returns:
        Weights of the shape of `weights`, or (n,).
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


def nan_where(condition: ArrayLike, value: ArrayLike) -> float | np.ndarray:
    """Return `value` with NaN where `condition` holds; a float for scalars."""
    out = np.where(condition, np.nan, value)
    return float(out) if out.ndim == 0 else out
