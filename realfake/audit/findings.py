"""The findings of an audit: messages for people with codes for programs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from realfake.audit.duplicates import Pair
from realfake.audit.leaks import HEADER, PROBES, TRANSFER
from realfake.corpus.report import SHARED_GROUP, UNLABELLED, UNREADABLE
from realfake.corpus.splits import TEST, TRAIN
from realfake.evaluation.probes import Probe
from realfake.labels import AI, REAL

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
    """Return the findings of an audit, leaks first.

    Args:
        results: The figures of the audit, see [`~realfake.audit.audit.Audit`].
        probes: `{probe: {place: Probe}}`
        alone: `{split: {fact: Probe}}`
        pairs: The duplicates.
    """
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
