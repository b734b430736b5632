"""Metrics of decisions: an image is called ai if its margin is above 0, and real otherwise.

numpy alone; [`metrics`] names them together with all others.
"""

import numpy as np

from ..labels import AI, NAMES, REAL
from .margins import check_margin, check_weights, ratio


def cells_of(margin, is_ai, weights):
    """Mass by (true label, called label); an image is called ai if its margin is above 0."""
    margin, is_ai = check_margin(margin, is_ai)
    weights = check_weights(weights, len(margin))
    truth, called = {AI: is_ai, REAL: ~is_ai}, {AI: margin > 0, REAL: margin <= 0}
    return {(t, c): weights @ (truth[t] & called[c]).astype(np.float64) for t in NAMES for c in NAMES}


def confusion_matrix(margin, is_ai, weights=None) -> dict[str, dict[str, float]]:
    """Mass of images (their number without weights) as `matrix[true label][called label]`."""
    cells = cells_of(margin, is_ai, weights)
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


def accuracy(margin, is_ai, weights=None):
    """Share of images on the right side of margin 0. A margin of exactly 0 is called real."""
    return accuracy_of(cells_of(margin, is_ai, weights))


def balanced_accuracy(margin, is_ai, weights=None):
    """Mean of the two recalls; NaN where a class is absent."""
    cells = cells_of(margin, is_ai, weights)
    return (recall_of(cells, REAL) + recall_of(cells, AI)) / 2


def recall(margin, is_ai, label: str, weights=None):
    """Share of the images of class `label` that are called so; NaN where there is none."""
    return recall_of(cells_of(margin, is_ai, weights), label)


def precision(margin, is_ai, label: str, weights=None):
    """Share of the images called `label` that are; NaN where none is called so. Depends on the prior."""
    return precision_of(cells_of(margin, is_ai, weights), label)


def f1(margin, is_ai, label: str, weights=None):
    """2TP / (2TP + FP + FN) of class `label`; NaN where it neither occurs nor is called."""
    return f1_of(cells_of(margin, is_ai, weights), label)
