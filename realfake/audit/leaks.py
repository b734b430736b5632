"""How well small classifiers tell the labels of a corpus apart from its files' headers, their sizes and the power spectrum.

The measuring part of `audit`; what a classifier of a few facts is, and how it is judged, is in `probes`.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from ..corpus.splits import TEST, TRAIN
from ..labels import AI, NAMES
from . import probes
from .container import NUMBERS, ContainerFacts
from .probes import Probe
from .result import Audit

# Facts of the header that a probe may use. The size in bytes is judged apart: where all files have one encoder it follows
# from the pixels, so that it is no fault of the corpus's making.
HEADER = ("format", "mode", "width", "height", "aspect_ratio", "megapixels", "jpeg_quality", "jpeg_tables", "subsampling",
          "progressive", "exif", "icc", "xmp", "text")  # fmt: skip
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
        columns.append(probes.categories(values) if categorical[-1] else np.asarray(values, dtype=np.float64))
    return np.stack(columns, axis=1).astype(np.float64), categorical


def trees_for(categorical, seed):
    return lambda features, is_ai: probes.trees(features, categorical, is_ai, seed)


def facts_alone(facts, is_ai, folds, groups, seed) -> dict[str, Probe]:
    features, _ = matrix(facts, ALONE)
    return {
        name: probes.cross_validate(probes.rates, features[:, column], is_ai, folds, groups, seed)
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
        "file_size": (probes.rates, sizes),
        "spectrum": (probes.line, spectra),
    }
    measured = {name: {} for name in (*fits, "facts")}
    parts = {split: slice(bounds[index], bounds[index + 1]) for index, split in enumerate(places)}
    for split in places:
        is_ai = result.labels[split]
        by_group = probes.assign_folds(is_ai, groups[split], seed)
        by_match = probes.assign_folds(is_ai, matched[split], seed)
        if by_group is None or by_match is None:
            continue
        for name, (fit, features) in fits.items():
            folds, mine = (by_match, matched[split]) if name == "container" else (by_group, groups[split])
            measured[name][split] = probes.cross_validate(fit, features[parts[split]], is_ai, folds, mine, seed)
        measured["facts"][split] = facts_alone(result.facts[split], is_ai, by_match, matched[split], seed)
    enough = all(
        min(is_ai.sum(), (~is_ai).sum()) >= probes.MIN_ROWS for is_ai in (result.labels[s] for s in places)
    )
    if len(places) == 2 and enough:
        for name, (fit, features) in fits.items():
            train, test = ((features[parts[split]], result.labels[split]) for split in places)
            how = f"learnt on train ({len(train[1]):,} images)"
            measured[name]["train to test"] = probes.transfer(fit, train, test, groups[TEST], how, seed)
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
