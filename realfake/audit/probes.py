"""How well a small classifier tells the labels apart from a few facts about each image, judged on images it has not seen.

The corpus audit uses it to measure leaks. Areas under the ROC curve are taken within each fold and averaged: scores of
different folds come from different classifiers, and comparing them would push the area of a useless fact below 0.5.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from realfake.audit.result import Audit
from realfake.corpus.splits import TEST, TRAIN
from realfake.imaging.file_facts import NUMBERS, ContainerFacts
from realfake.labels import AI, NAMES
from realfake.statistics.bootstrap import bootstrap_interval
from realfake.statistics.metrics import auroc

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
    names, index, counts = np.unique(
        np.asarray(values, dtype=str), return_inverse=True, return_counts=True
    )
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
    splitter = (StratifiedGroupKFold if grouped else StratifiedKFold)(
        FOLDS, shuffle=True, random_state=seed
    )
    folds = np.empty(len(is_ai), dtype=np.int64)
    for number, (_, held_out) in enumerate(
        splitter.split(is_ai, is_ai, groups if grouped else None)
    ):
        folds[held_out] = number
    return folds


def trees(features: np.ndarray, categorical: Sequence[bool], is_ai: np.ndarray, seed: int):
    """Fit gradient-boosted trees, the labels weighted alike; returns a function from features to scores."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    leaf = int(np.clip(len(is_ai) // 40, 3, 20))
    model = HistGradientBoostingClassifier(
        max_iter=50,
        max_leaf_nodes=15,
        min_samples_leaf=leaf,
        early_stopping=False,
        class_weight="balanced",
        categorical_features=np.asarray(categorical, dtype=bool),
        random_state=seed,
    )
    model.fit(features, is_ai)
    return model.decision_function


def line(features: np.ndarray, is_ai: np.ndarray):
    """Fit a logistic regression on standardised features, the labels weighted alike; returns a function to scores."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2000)
    )
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
        return np.where(
            np.isnan(values), len(edges) + 1, np.searchsorted(edges, np.nan_to_num(values))
        )

    weight = np.where(is_ai, 0.5 / is_ai.sum(), 0.5 / (~is_ai).sum()) * len(is_ai)
    total = np.bincount(part(column), weight, len(edges) + 2)
    ai = np.bincount(part(column), weight * is_ai, len(edges) + 2)
    rate = (ai + 1) / (total + 2)  # shrunk to one half, where a value is rare
    return lambda values: rate[part(values)]


def cross_validate(
    fit, features: np.ndarray, is_ai: np.ndarray, folds, groups, seed: int = 0
) -> Probe:
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
        fold_auroc,
        scores,
        is_ai,
        folds,
        groups=groups,
        n_resamples=_RESAMPLES,
        seed=seed,
        weighted=True,
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


# Facts of the header that a probe may use. The size in bytes is judged apart: where all files have one encoder it follows
# from the pixels, so that it is no fault of the corpus's making.
HEADER = (
    "format",
    "mode",
    "width",
    "height",
    "aspect_ratio",
    "megapixels",
    "jpeg_quality",
    "jpeg_tables",
    "subsampling",
    "progressive",
    "exif",
    "icc",
    "xmp",
    "text",
)
ALONE = (*HEADER, "bytes_per_pixel")
PROBES = {
    "container": "facts in the files' headers",
    "file_size": "bytes per pixel",
    "spectrum": "the radial power spectrum",
}
_FLAGS = ("progressive", "exif", "icc", "xmp", "text")


def matrix(facts: list[ContainerFacts], names=HEADER) -> tuple[np.ndarray, list[bool]]:
    """The facts as numbers, (n, k) float64 with NaN where there is none, and which columns are categories."""
    columns, categorical = [], []
    for name in names:
        values = [getattr(fact, name) for fact in facts]
        categorical.append(name not in NUMBERS and name not in _FLAGS)
        columns.append(
            categories(values) if categorical[-1] else np.asarray(values, dtype=np.float64)
        )
    return np.stack(columns, axis=1).astype(np.float64), categorical


def trees_for(categorical, seed):
    return lambda features, is_ai: trees(features, categorical, is_ai, seed)


def facts_alone(facts, is_ai, folds, groups, seed) -> dict[str, Probe]:
    features, _ = matrix(facts, ALONE)
    return {
        name: cross_validate(rates, features[:, column], is_ai, folds, groups, seed)
        for column, name in enumerate(ALONE)
    }


def probe_all(
    result: Audit, groups: Mapping[str, np.ndarray], matched: Mapping[str, np.ndarray], seed: int
) -> dict[str, dict]:
    """`{probe: {"train": Probe, "test": Probe, "train to test": Probe}}`, and under "facts" each fact alone."""
    places = [split for split in (TRAIN, TEST) if split in result.splits]
    all_facts = [fact for split in places for fact in result.facts[split]]
    bounds = np.cumsum([0, *(len(result.facts[split]) for split in places)])
    headers, categorical = matrix(all_facts)
    sizes = np.asarray([fact.bytes_per_pixel for fact in all_facts])
    spectra = np.concatenate([result.pixels[split]["spectrum"] for split in places])
    fits = {
        "container": (trees_for(categorical, seed), headers),
        "file_size": (rates, sizes),
        "spectrum": (line, spectra),
    }
    measured = {name: {} for name in (*fits, "facts")}
    parts = {split: slice(bounds[index], bounds[index + 1]) for index, split in enumerate(places)}
    for split in places:
        is_ai = result.labels[split]
        by_group = assign_folds(is_ai, groups[split], seed)
        by_match = assign_folds(is_ai, matched[split], seed)
        if by_group is None or by_match is None:
            continue
        for name, (fit, features) in fits.items():
            folds, mine = (
                (by_match, matched[split]) if name == "container" else (by_group, groups[split])
            )
            measured[name][split] = cross_validate(
                fit, features[parts[split]], is_ai, folds, mine, seed
            )
        measured["facts"][split] = facts_alone(
            result.facts[split], is_ai, by_match, matched[split], seed
        )
    enough = all(
        min(is_ai.sum(), (~is_ai).sum()) >= MIN_ROWS for is_ai in (result.labels[s] for s in places)
    )
    if len(places) == 2 and enough:
        for name, (fit, features) in fits.items():
            train, test = ((features[parts[split]], result.labels[split]) for split in places)
            how = f"learnt on train ({len(train[1]):,} images)"
            measured[name]["train to test"] = transfer(fit, train, test, groups[TEST], how, seed)
    return measured


def describe(facts: list[ContainerFacts], is_ai: np.ndarray) -> dict[str, dict[str, str]]:
    """For each fact and label, what is typical, as text."""
    described = {}
    for name in ALONE:
        described[name] = {}
        for label in NAMES:
            mine = is_ai if label == AI else ~is_ai
            values = [getattr(fact, name) for fact, chosen in zip(facts, mine) if chosen]
            described[name][label] = _typical(values, name)
    return described


def _typical(values: list, name: str) -> str:
    if name in NUMBERS:
        known = np.asarray([value for value in values if value is not None], dtype=np.float64)
        if not len(known):
            return "none"
        low, middle, high = np.quantile(known, [0.05, 0.5, 0.95], method="nearest")
        return f"{middle:.3g} ({low:.3g} to {high:.3g})" if low != high else f"{middle:.3g}"
    if name in _FLAGS:
        return f"{100 * np.mean(values):.0f} %" if values else "none"
    common = Counter(map(str, values)).most_common()
    shown = ", ".join(f"{value} {100 * count / len(values):.0f} %" for value, count in common[:3])
    return shown + (f", {len(common) - 3} more" if len(common) > 3 else "")
