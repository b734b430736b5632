"""How well a small classifier tells the labels apart from a few facts about each image, judged on images it has not seen.

The corpus audit uses it to measure leaks. Areas under the ROC curve are taken within each fold and averaged: scores of
different folds come from different classifiers, and comparing them would push the area of a useless fact below 0.5.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ..statistics.bootstrap import bootstrap_interval
from ..statistics.metrics import auroc

FOLDS = 5
MIN_ROWS = 10  # of each label, below which nothing is measured
_RESAMPLES = 500
_MOST_CATEGORIES = 60
_QUANTILES = 32


@dataclass(frozen=True)
class Probe:
    """What was measured.

    Args:
        auc: Area under the ROC curve, 0.5 for facts that say nothing.
        low: End of the 95 % interval, by the bootstrap over images or groups; likewise `high`.
        real: Images of that label; likewise `ai`.
        how: `"5-fold cross-validated"`, or what it was learnt on.
    """

    auc: float
    low: float
    high: float
    real: int
    ai: int
    how: str

    def to_dict(self) -> dict:
        """The figures as plain values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.auc:.2f} ({self.low:.2f} to {self.high:.2f})"


def categories(values: Sequence[str]) -> np.ndarray:
    """Number the values, the most frequent first; those behind the 60th share a number. The labels play no part."""
    names, index, counts = np.unique(np.asarray(values, dtype=str), return_inverse=True, return_counts=True)
    rank = np.empty(len(names), dtype=np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(names))
    return rank[index].clip(max=_MOST_CATEGORIES - 1)


def assign_folds(is_ai: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray | None:
    """The fold of each image, (n,), stratified by label, no group in two folds; `None` where there are too few images."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    fewest = min(is_ai.sum(), (~is_ai).sum())
    numbers = [len(np.unique(groups[mine])) for mine in (is_ai, ~is_ai)]
    if fewest < MIN_ROWS or min(numbers) < FOLDS:
        return None
    grouped = len(np.unique(groups)) < len(groups)
    splitter = (StratifiedGroupKFold if grouped else StratifiedKFold)(FOLDS, shuffle=True, random_state=seed)
    folds = np.empty(len(is_ai), dtype=np.int64)
    for number, (_, held_out) in enumerate(splitter.split(is_ai, is_ai, groups if grouped else None)):
        folds[held_out] = number
    return folds


def trees(features: np.ndarray, categorical: Sequence[bool], is_ai: np.ndarray, seed: int):
    """Fit gradient-boosted trees, the labels weighted alike; returns a function from features to scores."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    leaf = int(np.clip(len(is_ai) // 40, 3, 20))
    model = HistGradientBoostingClassifier(
        max_iter=50, max_leaf_nodes=15, min_samples_leaf=leaf, early_stopping=False, class_weight="balanced",
        categorical_features=np.asarray(categorical, dtype=bool), random_state=seed,
    )  # fmt: skip
    model.fit(features, is_ai)
    return model.decision_function


def line(features: np.ndarray, is_ai: np.ndarray):
    """Fit a logistic regression on standardised features, the labels weighted alike; returns a function to scores."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2000))
    return model.fit(features, is_ai).decision_function


def rates(column: np.ndarray, is_ai: np.ndarray):
    """Learn the share of ai at each value of one column; returns a function from columns to scores.

    A column of more than 64 values is parted at its quantiles. Missing values (NaN) are a value of their own.
    """
    known = np.unique(column[~np.isnan(column)])
    if len(known) > 2 * _QUANTILES:
        edges = np.unique(np.nanquantile(column, np.linspace(0, 1, _QUANTILES + 1)[1:-1]))
    else:
        edges = (known[1:] + known[:-1]) / 2

    def part(values: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, np.nan_to_num(values)))

    weight = np.where(is_ai, 0.5 / is_ai.sum(), 0.5 / (~is_ai).sum()) * len(is_ai)
    total = np.bincount(part(column), weight, len(edges) + 2)
    ai = np.bincount(part(column), weight * is_ai, len(edges) + 2)
    rate = (ai + 1) / (total + 2)  # shrunk to one half, where a value is rare
    return lambda values: rate[part(values)]


def cross_validate(fit, features: np.ndarray, is_ai: np.ndarray, folds, groups, seed: int = 0) -> Probe:
    """Score each fold by what was learnt on the others.

    Args:
        fit: `fit(features, is_ai)` returns a function from features to scores, higher for ai.
        features: (n, k) or (n,).
        folds: Of [`assign_folds`].
        groups: (n,), what the bootstrap draws.
    """
    scores = np.empty(len(is_ai))
    for number in np.unique(folds):
        held_out = folds == number
        scores[held_out] = fit(features[~held_out], is_ai[~held_out])(features[held_out])
    return _probe(scores, is_ai, folds, groups, f"{FOLDS}-fold cross-validated", seed)


def transfer(fit, train: tuple, test: tuple, groups, how: str, seed: int = 0) -> Probe:
    """Score the images of one split by what was learnt on another; `train` and `test` are `(features, is_ai)`."""
    scores = fit(*train)(test[0])
    return _probe(scores, test[1], np.zeros(len(scores), dtype=np.int64), groups, how, seed)


def _probe(scores, is_ai, folds, groups, how, seed) -> Probe:
    low, high = bootstrap_interval(
        fold_auroc, scores, is_ai, folds, groups=groups, n_resamples=_RESAMPLES, seed=seed, weighted=True
    )
    auc = fold_auroc(scores, is_ai, folds)
    return Probe(auc, low, high, int((~is_ai).sum()), int(is_ai.sum()), how)


def fold_auroc(scores, is_ai, folds, weights=None):
    """Mean of the folds' areas under the ROC curve, weighted by their pairs of a real and an ai image."""
    weights = np.ones(len(scores)) if weights is None else weights
    total, mass = 0.0, 0.0
    for number in np.unique(folds):
        mine = folds == number
        if is_ai[mine].all() or not is_ai[mine].any():
            continue
        counts = weights[..., mine]
        pairs = (counts @ is_ai[mine]) * (counts @ ~is_ai[mine])
        total = total + pairs * np.nan_to_num(auroc(scores[mine], is_ai[mine], counts))
        mass = mass + pairs
    mean = np.divide(total, mass, out=np.full(np.shape(mass), np.nan), where=np.asarray(mass) > 0)
    return float(mean) if mean.ndim == 0 else mean
