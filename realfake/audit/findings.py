"""What a person should know of a corpus, in words: the last step of `audit`, from figures to findings."""

from collections import Counter
from collections.abc import Mapping

from datasets import Dataset

from realfake.audit.probes import HEADER, PROBES, Probe
from realfake.audit.result import LEAK, NOTE, WARNING, Finding, Pair
from realfake.corpus.load import Corpus
from realfake.corpus.splits import TEST, TRAIN
from realfake.labels import AI, REAL


def single_class(sources: list[dict]) -> str | None:
    """Say it, where most training images are of sources that hold one label only."""
    total = single = 0
    for source in sources:
        counts = source[TRAIN]
        total += sum(counts.values())
        if not all(counts.values()) and source["name"] != "unstated":
            single += sum(counts.values())
    if len(sources) < 2 or not total or single < total / 2:
        return None
    return (
        f"{100 * single / total:.0f} % of the training images come from sources that hold one label only, so whatever is "
        "peculiar to a source (subject, camera, site) is a hint at the label."
    )


def leaking(alone: Mapping[str, Probe], max_auc: float) -> str:
    ranked = sorted(alone.items(), key=lambda item: -item[1].auc)
    named = [(name, probe) for name, probe in ranked if name in HEADER]
    over = [(name, probe) for name, probe in named if probe.low > max_auc] or named[:3]
    return ", ".join(f"{name} {probe.auc:.2f}" for name, probe in over[:6])


_PLACES = {TRAIN: "within train", TEST: "within test", "train to test": "on test, learnt on train"}
_ADVICE = {
    "container": "Encode all images alike and bring both labels to the same sizes (--equalize OUT), or collect the labels "
    "through the same pipeline.",
    "file_size": "Where all files have the same encoder this is how much detail the pictures have, or a compression before "
    "the last one. Train with recompression and compare the detector with this figure.",
    "spectrum": "This is what a linear look at the detail gives, generators' traces and resizing alike: the floor that a "
    "detector has to beat on these images.",
}
_KINDS = {"container": LEAK, "file_size": WARNING, "spectrum": WARNING}


def list_findings(corpus, result, measured, counts, origins, max_auc) -> list[Finding]:
    found = []
    for name, what in PROBES.items():
        figures = measured[name]
        over = {where: probe for where, probe in figures.items() if probe.low > max_auc}
        if over:
            listed = "; ".join(f"{probe} {_PLACES[where]}" for where, probe in over.items())
            message = f"The label can be told from {what}: AUC {listed}."
            if name == "container":
                place = next((where for where in over if where in measured["facts"]), None)
                if place is not None:
                    message += (
                        f" Alone, {_PLACES[place]}: {leaking(measured['facts'][place], max_auc)}."
                    )
            found.append(Finding(_KINDS[name], name, message, _ADVICE[name]))
        elif name == "container" and any(probe.high > max_auc for probe in figures.values()):
            where, probe = max(figures.items(), key=lambda item: item[1].high)
            message = f"A leak above AUC {max_auc:g} through {what} cannot be ruled out: {probe} {_PLACES[where]}."
            found.append(
                Finding(
                    NOTE, name, message, "Look at more images with --sample, or at a larger corpus."
                )
            )
    for split, alone in measured["facts"].items():
        described = result.results["facts"][split]
        slight = [name for name in HEADER if 0.505 < alone[name].low <= max_auc]
        if slight:
            listed = "; ".join(
                f"{name} {alone[name]}: real {described[name][REAL]}, ai {described[name][AI]}"
                for name in slight
            )
            found.append(
                Finding(NOTE, "slight", f"Facts that say a little within {split}: {listed}.")
            )
    below = [
        split
        for split in (TRAIN, TEST)
        if split in measured["container"] and measured["container"][split].high < 0.4
    ]
    if below:
        message = f"The area of the headers is far below one half within {' and '.join(below)}: sizes are balanced between the labels."
        advice = "No leak: held-out images then have the sizes that the other label has more of among the rest. So it is in a copy written by --equalize."
        found.append(Finding(NOTE, "balanced_sizes", message, advice))
    for split in (TRAIN, TEST):
        if split in result.splits and split not in measured["container"]:
            message = f"{split} has too few images (or groups) of a label to measure a leak in it."
            found.append(Finding(NOTE, "too_few", message))
    found += _duplicate_findings(result.pairs, counts)
    found += _row_findings(corpus)
    for split, number in result.results["images"].items():
        share = min(number[AI], number[REAL]) / number["rows"]
        if share < 0.2:
            message = f"{split} is unbalanced: {number[REAL]:,} real, {number[AI]:,} ai."
            found.append(
                Finding(
                    WARNING,
                    "balance",
                    message,
                    "Read accuracy with care; balanced figures are not affected.",
                )
            )
    if "source" in origins and (message := single_class(origins["source"])):
        found.append(
            Finding(
                WARNING,
                "single_class_sources",
                message,
                "Hold out whole sources for the test split.",
            )
        )
    found += _generator_findings(origins.get("generator"), result.splits)
    order = (LEAK, WARNING, NOTE)
    return sorted(found, key=lambda finding: order.index(finding.severity))


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _duplicate_findings(pairs: list[Pair], counts: dict) -> list[Finding]:
    found = []
    for kind, words in (("same_file", "the same file"), ("similar", "pictures that look alike")):
        elsewhere = {
            split: number
            for split, number in counts[kind]["images_seen_elsewhere"].items()
            if number
        }
        across = counts[kind]["across_splits"]
        if across:
            listed = ", ".join(f"{number:,} of {split}" for split, number in elsewhere.items())
            message = f"Splits share images: {_number(across, 'pair')} of {words} in two splits ({listed})."
            advice = "Give the copies a common group (a column 'group'), or remove them from train and validation (--equalize OUT does)."
            found.append(Finding(LEAK, f"duplicates_{kind}", message, advice))
        mixed = [
            pair for pair in pairs if pair.across_labels and pair.same_file == (kind == "same_file")
        ]
        if mixed:
            kept = sum(pair.same_group for pair in mixed)
            message = f"{_number(len(mixed), 'pair')} of {words} with different labels" + (
                f", {kept:,} of them in one group (an original and its regeneration, say)."
                if kept
                else "."
            )
            severity = NOTE if kept == len(mixed) else WARNING
            found.append(
                Finding(
                    severity,
                    f"labels_{kind}",
                    message,
                    "" if severity == NOTE else "One of the two labels may be wrong.",
                )
            )
        inside = counts[kind]["pairs"] - across
        if inside:
            message = f"{_number(inside, 'pair')} of {words} within one split."
            found.append(
                Finding(
                    NOTE,
                    f"repeated_{kind}",
                    message,
                    "Copies count twice in training and in measuring.",
                )
            )
    return found


def _row_findings(corpus: Corpus) -> list[Finding]:
    """What the loader dropped."""
    groups = [row for row in corpus.report.dropped if row["reason"].startswith("its group ")]
    others = Counter(
        row["reason"] == "it has no label" for row in corpus.report.dropped if row not in groups
    )
    found = []
    if groups:
        message = f"Groups straddle splits: the loader leaves out {_number(len(groups), 'row')} whose group another split has too."
        found.append(
            Finding(
                WARNING,
                "groups",
                message,
                "Who reads the files with another loader gets these rows.",
            )
        )
    if others[False]:
        message = f"Left out by the loader, because it cannot decode them: {_number(others[False], 'image')}."
        found.append(
            Finding(WARNING, "unreadable", message, "Replace them, or remove them from the corpus.")
        )
    if others[True]:
        found.append(
            Finding(
                NOTE,
                "unlabelled",
                f"Left out by the loader, because they have no label: {_number(others[True], 'row')}.",
            )
        )
    return found


def _generator_findings(
    generators: list[dict] | None, splits: Mapping[str, Dataset]
) -> list[Finding]:
    if TEST not in splits:
        return []
    if generators is None:
        message = "The corpus has no column 'generator', so results on generators that training never saw cannot be told apart."
        return [Finding(NOTE, "generators", message)]
    total = sum(row[TEST][AI] for row in generators)
    unseen = sum(row[TEST][AI] for row in generators if not row[TRAIN][AI])
    message = (
        f"{unseen:,} of {total:,} ai images of test are of generators that train does not have."
    )
    advice = "" if unseen else "Results on this test split say nothing about new generators."
    return [Finding(NOTE, "generators", message, advice)]
