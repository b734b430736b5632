"""Probe which facts about the files of a corpus reveal the label, alone and together."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from realfake.corpus.splits import TEST, TRAIN
from realfake.evaluation.probes import (
    MIN_ROWS,
    Probe,
    assign_folds,
    categories,
    cross_validate,
    line,
    rates,
    transfer,
    trees,
)
from realfake.imaging.file_facts import NUMBERS, ContainerFacts
from realfake.labels import AI, NAMES

_FLAGS = ("progressive", "exif", "icc", "xmp", "text")
# The size in bytes is probed separately: with one encoder for all files it follows from the pixels,
# so it is not a fault of the corpus.
HEADER = (
    *("format", "mode", "width", "height", "aspect_ratio", "megapixels"),
    *("jpeg_quality", "jpeg_tables", "subsampling", *_FLAGS),
)
ALONE = (*HEADER, "bytes_per_pixel")
TRANSFER = "train to test"
PROBES = {
    "container": "facts in the files' headers",
    "file_size": "bytes per pixel",
    "spectrum": "the radial power spectrum",
}


def feature_matrix(
    facts: Sequence[ContainerFacts], names: Sequence[str] = HEADER
) -> tuple[np.ndarray, list[bool]]:
    """Return k facts of n files as numbers.

    Returns:
        (n, k) float64, NaN where there is no value, and which of the k features are categories.
    """
    features, categorical = [], []
    for name in names:
        values = [getattr(fact, name) for fact in facts]
        categorical.append(name not in NUMBERS and name not in _FLAGS)
        features.append(
            categories(values) if categorical[-1] else np.asarray(values, dtype=np.float64)
        )
    return np.stack(features, axis=1).astype(np.float64), categorical


def probe_alone(
    facts: Sequence[ContainerFacts],
    is_ai: np.ndarray,
    folds: np.ndarray,
    groups: np.ndarray,
    seed: int,
) -> dict[str, Probe]:
    """Probe each fact alone, cross-validated; for the arguments see [`cross_validate`]."""
    features, _ = feature_matrix(facts, ALONE)
    return {
        name: cross_validate(rates, features[:, index], is_ai, folds, groups, seed)
        for index, name in enumerate(ALONE)
    }


def probe_all(
    facts: Mapping[str, Sequence[ContainerFacts]],
    spectra: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    groups: Mapping[str, np.ndarray],
    matched: Mapping[str, np.ndarray],
    seed: int,
) -> tuple[dict[str, dict[str, Probe]], dict[str, dict[str, Probe]]]:
    """Run all probes within train, within test, and from train to test.

    Args:
        facts, spectra, labels, groups: For each split, of its n files: the facts, (n, bins), (n,)
            bool, true for ai, and (n,).
        matched: For each split, (n,): the units of the header probes.

    Returns:
        `{probe: {"train", "test" or "train to test": Probe}}`, and `{split: {fact: Probe}}`. Splits
        with too few images are left out.
    """
    places = [split for split in (TRAIN, TEST) if split in labels]
    all_facts = [fact for split in places for fact in facts[split]]
    bounds = np.cumsum([0, *(len(facts[split]) for split in places)])
    rows = {split: slice(bounds[index], bounds[index + 1]) for index, split in enumerate(places)}
    headers, categorical = feature_matrix(all_facts)
    fits = {
        "container": (trees(categorical, seed), headers),
        "file_size": (rates, np.asarray([fact.bytes_per_pixel for fact in all_facts])),
        "spectrum": (line, np.concatenate([spectra[split] for split in places])),
    }
    probes: dict[str, dict[str, Probe]] = {name: {} for name in fits}
    alone: dict[str, dict[str, Probe]] = {}
    for split in places:
        is_ai = labels[split]
        by_group = assign_folds(is_ai, groups[split], seed)
        by_match = assign_folds(is_ai, matched[split], seed)
        if by_group is None or by_match is None:
            continue
        for name, (fit, features) in fits.items():
            folds, units = (
                (by_match, matched[split]) if name == "container" else (by_group, groups[split])
            )
            probes[name][split] = cross_validate(
                fit, features[rows[split]], is_ai, folds, units, seed
            )
        alone[split] = probe_alone(facts[split], is_ai, by_match, matched[split], seed)
    fewest = [min(labels[split].sum(), (~labels[split]).sum()) for split in places]
    if len(places) == 2 and min(fewest) >= MIN_ROWS:
        for name, (fit, features) in fits.items():
            train, test = ((features[rows[split]], labels[split]) for split in places)
            how = f"fitted on train ({len(train[1]):,} images)"
            probes[name][TRANSFER] = transfer(fit, train, test, groups[TEST], how, seed)
    return probes, alone


def describe(facts: Sequence[ContainerFacts], is_ai: np.ndarray) -> dict[str, dict[str, str]]:
    """Return the typical values of each fact by label, as text: `{fact: {label: text}}`."""
    return {
        name: {
            label: _typical(
                [getattr(fact, name) for fact, ai in zip(facts, is_ai) if ai == (label == AI)], name
            )
            for label in NAMES
        }
        for name in ALONE
    }


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
