"""Probes: small classifiers that predict the label from a few facts about each image.

The corpus audit finds leaks with them. Each image is scored by a classifier that was not fitted on
it. AUROCs are computed within each fold and averaged, because scores of different folds come from
different classifiers.

Controls are probes that a detector has to beat: they are fitted on the training split and measured
like the detector. If one of them comes close to it, something other than the content of the images
reveals the labels.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from datasets import Dataset
from PIL import Image

from realfake.corpus.rows import is_ai as is_ai_of
from realfake.imaging.decode import image_bytes, open_image
from realfake.imaging.file_facts import NUMBERS, ContainerFacts, container_facts, radial_spectrum
from realfake.statistics.metrics import auroc, bootstrap_interval

SPECTRUM = "power-spectrum"
CONTAINER = "container-facts"
CONTROLS = {
    SPECTRUM: "logistic regression on the radial power spectrum",
    CONTAINER: "logistic regression on facts of the file, without its pixels",
}
# Least number of training images with a value of a file fact; rarer values are left out.
_RARE = 5
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
        low: Lower end of the 95 % interval, by the bootstrap over images or groups.
        high: Upper end of the interval.
        how: `"5-fold cross-validated"`, or the split that it was fitted on.
    """

    auc: float
    low: float
    high: float
    real: int
    ai: int
    how: str

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
    """Return a [`Fit`] of gradient-boosted trees, the labels weighted equally."""

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

    fit: How to fit it.
    features: (n, k) or (n,).
    folds: (n,), of [`assign_folds`].
    groups: (n,), the units of the bootstrap.
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

    fit: How to fit it.
    test: Features and labels to judge on.
    groups: Groups of the test images, the units of the bootstrap.
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


# Controls


def spectrum_control(train: Dataset) -> Callable[[list[Image.Image]], np.ndarray]:
    """Fit a control on the radial power spectra of the training images.

    Returns:
        A function from RGB images to log-odds, (n,).
    """
    decision = line(_spectra(open_image(row) for row in _images(train)), is_ai_of(train))
    return lambda images: decision(_spectra(images))


def container_log_odds(train: Dataset, dataset: Dataset) -> np.ndarray:
    """Fit a control on facts of the training files, and return the log-odds of a dataset, (n,)."""
    facts = [container_facts(image_bytes(row)) for row in _images(train)]
    values = _frequent_values(facts)
    decision = line(_features(facts, values), is_ai_of(train))
    measured = [container_facts(image_bytes(row)) for row in _images(dataset)]
    return decision(_features(measured, values))


def _images(dataset: Dataset) -> Iterator[dict]:
    return (row["image"] for row in dataset.select_columns(["image"]))


def _spectra(images: Iterable[Image.Image]) -> np.ndarray:
    return np.stack([radial_spectrum(image) for image in images])


def _frequent_values(facts: list[ContainerFacts]) -> list[tuple[str, str]]:
    """Return (name, value) of the frequent categorical facts."""
    frequent = []
    for name in (each.name for each in fields(ContainerFacts) if each.name not in NUMBERS):
        values, counts = np.unique([str(getattr(one, name)) for one in facts], return_counts=True)
        frequent += [(name, str(value)) for value, n in zip(values, counts) if n >= _RARE]
    return frequent


def _features(facts: list[ContainerFacts], values: list[tuple[str, str]]) -> np.ndarray:
    """Return (n, features): the numeric facts, 0 if absent, and an indicator for each value."""
    rows = []
    for one in facts:
        numbers = [getattr(one, name) for name in NUMBERS]
        row = [0.0 if number is None else float(number) for number in numbers]
        rows.append(row + [float(str(getattr(one, name)) == value) for name, value in values])
    return np.array(rows)
