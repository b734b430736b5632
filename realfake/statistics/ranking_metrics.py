"""Metrics of the order of the margins: they ask for no threshold, or try all of them.

numpy alone; [`metrics`] names them together with all others.
"""

import numpy as np

from .margins import check_margin, check_weights, nan_where, ratio


def operating_points(margin, is_ai, weights):
    """Masses of ai and of real images at each distinct margin, from the highest down; shape (..., values)."""
    margin, is_ai = check_margin(margin, is_ai)
    weights = check_weights(weights, len(margin))
    order = np.argsort(-margin, kind="stable")
    ranked = margin[order]
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


def auroc(margin, is_ai, weights=None):
    """Area under the ROC curve: how often an ai image has the higher margin, ties counting one half."""
    return auroc_of(*operating_points(margin, is_ai, weights))


def average_precision(margin, is_ai, weights=None):
    """Sum over the distinct margins of precision times the gain in recall; ai is the positive class.

    NaN where a class is absent. Depends on the prior.
    """
    return average_precision_of(*operating_points(margin, is_ai, weights))


def tpr_at_fpr(margin, is_ai, max_fpr: float, weights=None):
    """Highest share of ai images found by a threshold that calls at most `max_fpr` of the real images ai.

    Thresholds lie at observed margins; nothing is interpolated. 0 where the highest margins already belong
    to more real images than allowed.
    """
    return tpr_at_fpr_of(*operating_points(margin, is_ai, weights), max_fpr)


def fpr_at_tpr(margin, is_ai, min_tpr: float = 0.95, weights=None):
    """Lowest share of real images called ai by a threshold that finds at least `min_tpr` of the ai images."""
    return fpr_at_tpr_of(*operating_points(margin, is_ai, weights), min_tpr)
