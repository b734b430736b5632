"""What reveals the label of a corpus: probes of the files, and the findings in words."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from realfake.audit.duplicates import Pair
from realfake.corpus.report import SHARED_GROUP, UNLABELLED, UNREADABLE
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
from realfake.labels import AI, NAMES, REAL

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
LEAK, WARNING, NOTE = "leak", "warning", "note"
_ORDER = (LEAK, WARNING, NOTE)
_PLACES = {TRAIN: "within train", TEST: "within test", TRANSFER: "on test, fitted on train"}
_KINDS = {"container": LEAK, "file_size": WARNING, "spectrum": WARNING}
_ADVICE = {
    "container": "Encode all images in the same way and bring both labels to the same sizes "
    "(--equalize FOLDER), or collect both labels in the same way.",
    "file_size": "If all files have the same encoder, this shows the detail of the pictures or an "
    "earlier compression. Train with recompression and compare the detector with this figure.",
    "spectrum": "A linear classifier on the spectrum uses traces of generators and of resizing. A "
    "detector must do better than this figure.",
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


# Findings


@dataclass(frozen=True)
class Finding:
    """One finding of an audit.

    Args:
        severity: `"leak"` (fix it before measuring on this corpus), `"warning"` or `"note"`.
        code: Name for programs: `"container"`, `"balance"`, ...
        message, advice: The problem and how to fix it, one line each.
    """

    severity: str
    code: str
    message: str
    advice: str = ""


def single_class_message(sources: Sequence[Mapping]) -> str | None:
    """Return a message if most training images come from sources that hold one label only."""
    total = single = 0
    for source in sources:
        counts = source[TRAIN]
        total += sum(counts.values())
        if not all(counts.values()) and source["name"] != "unstated":
            single += sum(counts.values())
    if len(sources) < 2 or not total or single < total / 2:
        return None
    return (
        f"{100 * single / total:.0f} % of the training images come from sources with one label "
        "only. Properties of a source (subject, camera, site) then reveal the label."
    )


def leaking_facts(alone: Mapping[str, Probe], max_auc: float) -> str:
    """Return the header facts that leak alone, or the three that leak most."""
    ranked = sorted(alone.items(), key=lambda item: -item[1].auc)
    header = [(name, probe) for name, probe in ranked if name in HEADER]
    over = [(name, probe) for name, probe in header if probe.low > max_auc] or header[:3]
    return ", ".join(f"{name} {probe.auc:.2f}" for name, probe in over[:6])


def list_findings(
    results: Mapping,
    probes: Mapping[str, Mapping[str, Probe]],
    alone: Mapping[str, Mapping[str, Probe]],
    pairs: Sequence[Pair],
) -> list[Finding]:
    """Return the findings of an audit, leaks first."""
    findings = [
        *_probe_findings(results, probes, alone),
        *_duplicate_findings(results["duplicates"], pairs),
        *_row_findings(results["corpus"]["dropped"]),
    ]
    images, origins = results["images"], results["origins"]
    for split, counts in images.items():
        if min(counts[AI], counts[REAL]) < 0.2 * counts["rows"]:
            message = f"{split} is unbalanced: {counts[REAL]:,} real, {counts[AI]:,} ai."
            advice = "Do not rely on its accuracy; use balanced figures."
            findings.append(Finding(WARNING, "balance", message, advice))
    if message := single_class_message(origins.get("source", ())):
        advice = "Hold out whole sources for the test split."
        findings.append(Finding(WARNING, "single_class_sources", message, advice))
    if TEST in images:
        findings.append(_generator_finding(origins.get("generator")))
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))


def _probe_findings(
    results: Mapping,
    probes: Mapping[str, Mapping[str, Probe]],
    alone: Mapping[str, Mapping[str, Probe]],
) -> list[Finding]:
    max_auc = results["settings"]["max_auc"]
    header = probes["container"]
    findings = []
    for name, description in PROBES.items():
        over = {where: probe for where, probe in probes[name].items() if probe.low > max_auc}
        if over:
            figures = "; ".join(f"{probe} {_PLACES[where]}" for where, probe in over.items())
            message = f"The label can be predicted from {description}: AUC {figures}."
            place = next((where for where in over if where in alone), None)
            if name == "container" and place is not None:
                message += f" Alone, {_PLACES[place]}: {leaking_facts(alone[place], max_auc)}."
            findings.append(Finding(_KINDS[name], name, message, _ADVICE[name]))
        elif name == "container" and any(probe.high > max_auc for probe in header.values()):
            where, probe = max(header.items(), key=lambda item: item[1].high)
            message = (
                f"A leak above AUC {max_auc:g} through {description} cannot be ruled out: {probe} "
                f"{_PLACES[where]}."
            )
            advice = "Examine more images (--sample), or use a larger corpus."
            findings.append(Finding(NOTE, name, message, advice))
    for split, facts in alone.items():
        typical = results["facts"][split]
        slight = "; ".join(
            f"{name} {facts[name]}: real {typical[name][REAL]}, ai {typical[name][AI]}"
            for name in HEADER
            if 0.505 < facts[name].low <= max_auc
        )
        if slight:
            message = f"Facts that reveal a little of the label within {split}: {slight}."
            findings.append(Finding(NOTE, "slight", message))
    places = [split for split in (TRAIN, TEST) if split in results["images"]]
    below = [split for split in places if split in header and header[split].high < 0.4]
    if below:
        message = (
            f"The AUC of the headers is far below one half within {' and '.join(below)}: sizes are "
            "balanced between the labels."
        )
        advice = (
            "This is not a leak. It also occurs in a copy that --equalize wrote: a size that is "
            "held out with one label is more frequent with the other among the remaining images."
        )
        findings.append(Finding(NOTE, "balanced_sizes", message, advice))
    for split in places:
        if split not in header:
            message = f"{split} has too few images or groups of a label to measure a leak."
            findings.append(Finding(NOTE, "too_few", message))
    return findings


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _duplicate_findings(counts: Mapping[str, Mapping], pairs: Sequence[Pair]) -> list[Finding]:
    findings = []
    for kind, what in (("same_file", "the same file"), ("similar", "similar pictures")):
        across = counts[kind]["across_splits"]
        if across:
            numbers = counts[kind]["images_seen_elsewhere"].items()
            shares = ", ".join(f"{number:,} of {split}" for split, number in numbers if number)
            message = f"Two splits share images: {_number(across, 'pair')} of {what} ({shares})."
            advice = (
                "Put the copies into one group (a column 'group'), or remove them from train and "
                "validation, as --equalize does."
            )
            findings.append(Finding(LEAK, f"duplicates_{kind}", message, advice))
        mixed = [
            pair for pair in pairs if pair.across_labels and pair.same_file == (kind == "same_file")
        ]
        if mixed:
            grouped = sum(pair.same_group for pair in mixed)
            message = f"{_number(len(mixed), 'pair')} of {what} with different labels"
            if grouped:
                message += f", {grouped:,} of them in one group, such as a photograph and its copy"
            severity = NOTE if grouped == len(mixed) else WARNING
            advice = "One of the two labels may be wrong." if severity == WARNING else ""
            findings.append(Finding(severity, f"labels_{kind}", f"{message}.", advice))
        inside = counts[kind]["pairs"] - across
        if inside:
            message = f"{_number(inside, 'pair')} of {what} within one split."
            advice = "Copies count twice in training and in measuring."
            findings.append(Finding(NOTE, f"repeated_{kind}", message, advice))
    return findings


def _row_findings(dropped: Sequence[Mapping]) -> list[Finding]:
    """Return findings about rows that the loader dropped."""
    counts = Counter(row["code"] for row in dropped)
    findings = []
    if number := counts[SHARED_GROUP]:
        message = f"Splits share groups, so the loader drops {_number(number, 'row')}."
        advice = "Other loaders would use these rows."
        findings.append(Finding(WARNING, "groups", message, advice))
    if number := counts[UNREADABLE]:
        message = f"The loader drops {_number(number, 'image')} that cannot be decoded."
        advice = "Replace them, or remove them from the corpus."
        findings.append(Finding(WARNING, "unreadable", message, advice))
    if number := counts[UNLABELLED]:
        message = f"The loader drops {_number(number, 'row')} without a label."
        findings.append(Finding(NOTE, "unlabelled", message))
    return findings


def _generator_finding(generators: Sequence[Mapping] | None) -> Finding:
    if generators is None:
        message = (
            "The corpus has no column 'generator', so results on new generators cannot be reported "
            "separately."
        )
        return Finding(NOTE, "generators", message)
    total = sum(row[TEST][AI] for row in generators)
    unseen = sum(row[TEST][AI] for row in generators if not row[TRAIN][AI])
    message = f"{unseen:,} of {total:,} ai images of test are from generators not in train."
    advice = "" if unseen else "Results on this test split say nothing about new generators."
    return Finding(NOTE, "generators", message, advice)
