"""Probes: small classifiers that predict the label from a few facts about each image.

The corpus audit finds leaks with them, and an evaluation uses them as controls. Each image is
scored by a classifier that was not fitted on it. AUROCs are computed within each fold and averaged,
because scores of different folds come from different classifiers.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from realfake.statistics.bootstrap import bootstrap_interval
from realfake.statistics.metrics import auroc

FOLDS = 5
# Least number of images of each label.
MIN_ROWS = 10
_RESAMPLES = 500
_MOST_CATEGORIES = 60
_QUANTILES = 32

# From features (n, k) or (n,) to scores (n,), higher for ai.
Decision = Callable[[np.ndarray], np.ndarray]
# From features and labels (n,), true for ai, to a fitted classifier.
Fit = Callable[[np.ndarray, np.ndarray], Decision]


@dataclass(frozen=True)
class Probe:
    """The figures of one probe.

    Args:
        auc: AUROC; 0.5 if the facts reveal nothing.
        low: Lower end of the 95 % interval, by the bootstrap over images or groups.
        high: Upper end of the interval.
        real: Number of real images.
        ai: Number of ai images.
        how: `"5-fold cross-validated"`, or the split that it was fitted on.
    """

    auc: float
    low: float
    high: float
    real: int
    ai: int
    how: str

    def to_dict(self) -> dict:
        """Return the figures as plain values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.auc:.2f} ({self.low:.2f} to {self.high:.2f})"


def categories(values: Sequence[str]) -> np.ndarray:
    """Number values by frequency, the most frequent first; all from the 60th on are 59."""
    names, index, counts = np.unique(
        np.asarray(values, dtype=str), return_inverse=True, return_counts=True
    )
    rank = np.empty(len(names), dtype=np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(names))
    return rank[index].clip(max=_MOST_CATEGORIES - 1)


def assign_folds(is_ai: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray | None:
    """Return the fold of each image, (n,), stratified by label; no group is in two folds.

    `None` if there are too few images or groups of a label.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    fewest = min(is_ai.sum(), (~is_ai).sum())
    numbers = [len(np.unique(groups[chosen])) for chosen in (is_ai, ~is_ai)]
    if fewest < MIN_ROWS or min(numbers) < FOLDS:
        return None
    grouped = len(np.unique(groups)) < len(groups)
    splitter = (StratifiedGroupKFold if grouped else StratifiedKFold)(
        FOLDS, shuffle=True, random_state=seed
    )
    folds = np.empty(len(is_ai), dtype=np.int64)
    for number, (_, held_out) in enumerate(
        splitter.split(is_ai, is_ai, groups if grouped else None)
    ):
        folds[held_out] = number
    return folds


def trees(categorical: Sequence[bool], seed: int) -> Fit:
    """Return a [`Fit`] of gradient-boosted trees, the labels weighted equally.

    Args:
        categorical: (k,) bool, which features are categories.
        seed: Seed of the fit.
    """

    def fit(features: np.ndarray, is_ai: np.ndarray) -> Decision:
        from sklearn.ensemble import HistGradientBoostingClassifier

        model = HistGradientBoostingClassifier(
            max_iter=50,
            max_leaf_nodes=15,
            min_samples_leaf=int(np.clip(len(is_ai) // 40, 3, 20)),
            early_stopping=False,
            class_weight="balanced",
            categorical_features=np.asarray(categorical, dtype=bool),
            random_state=seed,
        )
        return model.fit(features, is_ai).decision_function

    return fit


def line(features: np.ndarray, is_ai: np.ndarray) -> Decision:
    """Fit a logistic regression on standardised features, the labels weighted equally."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2000)
    )
    return model.fit(features, is_ai).decision_function


def rates(feature: np.ndarray, is_ai: np.ndarray) -> Decision:
    """Fit the share of ai images at each value of one feature (n,).

    More than 64 values are binned at their quantiles. Missing values (NaN) are a bin.
    """
    known = np.unique(feature[~np.isnan(feature)])
    if len(known) > 2 * _QUANTILES:
        edges = np.unique(np.nanquantile(feature, np.linspace(0, 1, _QUANTILES + 1)[1:-1]))
    else:
        edges = (known[1:] + known[:-1]) / 2

    def bin_of(values: np.ndarray) -> np.ndarray:
        return np.where(
            np.isnan(values), len(edges) + 1, np.searchsorted(edges, np.nan_to_num(values))
        )

    weight = np.where(is_ai, 0.5 / is_ai.sum(), 0.5 / (~is_ai).sum()) * len(is_ai)
    total = np.bincount(bin_of(feature), weight, len(edges) + 2)
    ai = np.bincount(bin_of(feature), weight * is_ai, len(edges) + 2)
    rate = (ai + 1) / (total + 2)  # shrunk towards one half where a value is rare
    return lambda values: rate[bin_of(values)]


def cross_validate(
    fit: Fit,
    features: np.ndarray,
    is_ai: np.ndarray,
    folds: np.ndarray,
    groups: np.ndarray,
    seed: int = 0,
) -> Probe:
    """Score each fold with a classifier that was fitted on the others.

    Args:
        fit: How to fit it.
        features: (n, k) or (n,).
        is_ai: (n,) bool.
        folds: (n,), of [`assign_folds`].
        groups: (n,), the units of the bootstrap.
        seed: Seed of the bootstrap.
    """
    scores = np.empty(len(is_ai))
    for number in np.unique(folds):
        held_out = folds == number
        scores[held_out] = fit(features[~held_out], is_ai[~held_out])(features[held_out])
    return _probe(scores, is_ai, folds, groups, f"{FOLDS}-fold cross-validated", seed)


def transfer(
    fit: Fit,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    groups: np.ndarray,
    how: str,
    seed: int = 0,
) -> Probe:
    """Score the images of one split with a classifier that was fitted on another.

    Args:
        fit: How to fit it.
        train: Features and labels to fit on.
        test: Features and labels to judge on.
        groups: Groups of the test images, the units of the bootstrap.
        how: Description for the report.
        seed: Seed of the bootstrap.
    """
    scores = fit(*train)(test[0])
    return _probe(scores, test[1], np.zeros(len(scores), dtype=np.int64), groups, how, seed)


def _probe(
    scores: np.ndarray,
    is_ai: np.ndarray,
    folds: np.ndarray,
    groups: np.ndarray,
    how: str,
    seed: int,
) -> Probe:
    low, high = bootstrap_interval(
        fold_auroc,
        scores,
        is_ai,
        folds,
        groups=groups,
        n_resamples=_RESAMPLES,
        seed=seed,
        weighted=True,
    )
    auc = float(fold_auroc(scores, is_ai, folds))
    return Probe(auc, low, high, int((~is_ai).sum()), int(is_ai.sum()), how)


def fold_auroc(
    scores: np.ndarray, is_ai: np.ndarray, folds: np.ndarray, weights: np.ndarray | None = None
) -> float | np.ndarray:
    """Return the mean AUROC of the folds, weighted by their pairs of labels.

    Args:
        scores, is_ai, folds: Arrays of shape (n,); `is_ai` is bool.
        weights: *optional*. (n,) or (resamples, n), the weight of each image.

    Returns:
        A number, or (resamples,); NaN if no fold holds both labels.
    """
    weights = np.ones(len(scores)) if weights is None else weights
    total, mass = 0.0, 0.0
    for number in np.unique(folds):
        chosen = folds == number
        if is_ai[chosen].all() or not is_ai[chosen].any():
            continue
        counts = weights[..., chosen]
        pairs = (counts @ is_ai[chosen]) * (counts @ ~is_ai[chosen])
        total = total + pairs * np.nan_to_num(auroc(scores[chosen], is_ai[chosen], counts))
        mass = mass + pairs
    mean = np.divide(total, mass, out=np.full(np.shape(mass), np.nan), where=np.asarray(mass) > 0)
    return float(mean) if mean.ndim == 0 else mean
