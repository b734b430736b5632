"""The card's tables of results on the images as they are: the headline, metrics, generators, sources, other splits."""

from ..evaluation.evaluation import VERDICTS
from ..labels import AI, REAL
from .facts import CardFacts, split_note
from .markdown import code, md, table
from .numbers import percent, score, share
from .probabilities import CALIBRATED

# Labels of the table of metrics, with the number format of each.
_METRICS = {
    "accuracy": ("Accuracy", share),
    "balanced_accuracy": ("Balanced accuracy", share),
    "recall_ai": ("Generated images found (recall of `ai`)", share),
    "recall_real": ("Real images recognised (recall of `real`)", share),
    "auroc": ("AUROC", score),
    "average_precision": ("Average precision", score),
    "tpr_at_fpr_1": ("Generated images found at 1 % false positives", share),
    "tpr_at_fpr_5": ("Generated images found at 5 % false positives", share),
    "nll": (CALIBRATED["nll"], score),
    "brier": (CALIBRATED["brier"], score),
    "ece": (CALIBRATED["ece"], score),
}
_VERDICT_COLUMNS = ["called `real`", "`inconclusive`", "called `ai`"]


def headline(facts: CardFacts) -> str:
    """How good it is on the images as they are, with the weakest generator beside the average."""
    figures, summary = facts.figures, facts.figures["summary"]
    n = figures["n"]
    words = (
        f"**On {n[REAL]:,} real and {n[AI]:,} generated images** of the split {code(facts.split)} "
        f"({split_note(facts.split)}) its accuracy is {share(summary['accuracy'])}"
    )
    words += f" and its AUROC {score(summary['auroc'])}." if summary["auroc"]["value"] is not None else "."
    worst = figures.get("worst_generator")
    if worst and len(figures["by_generator"]) > 1:
        entry = figures["by_generator"][worst]
        words += (
            f" It is weakest on **{md(worst)}**: AUROC {score(entry['auroc'])}, "
            f"{percent(entry['detected']['value'])} of {entry['n']:,} images found."
        )
    return words + " Numbers in brackets are 95 % intervals."


def results(facts: CardFacts) -> dict:
    """The tables and the notes above them; `None` for what was not measured."""
    view = dict.fromkeys(
        ("results", "results_note", "generators", "generators_note", "sources", "other_splits")
    )
    figures = facts.figures
    if not figures:
        return view
    summary, record = figures["summary"], facts.record
    rows = [
        [label, write(summary[name]), f"{summary[name]['n']:,}"]
        for name, (label, write) in _METRICS.items()
        if (summary.get(name) or {}).get("value") is not None
    ]
    view["results"] = table(["Metric", "value (95 % interval)", "n"], rows)
    view["results_note"] = (
        f"Split {code(facts.split)} of {md(facts.corpus or record.get('corpus') or 'the corpus')}, "
        f"{split_note(facts.split)}"
        + (f"; measured on {md(record['date'][:10])}" if record.get("date") else "")
        + f". Intervals: {md(figures['intervals'])}. An image counts as called `ai` where its probability of `ai` is above "
        "one half, unless verdicts are mentioned."
    )
    if figures.get("by_generator"):
        view["generators"], view["generators_note"] = _generators(facts)
    if figures.get("by_source"):
        view["sources"] = _sources(figures["by_source"], bool(figures.get("verdicts")))
    view["other_splits"] = _other_splits(facts)
    return view


def _generators(facts: CardFacts) -> tuple[str, str]:
    figures, entries = facts.figures, facts.figures["by_generator"]
    rated = bool(figures.get("verdicts"))
    trained = facts.corpus_report.get("splits", {}).get("train", {}).get("generators") or {}
    ordered = sorted(entries, key=lambda name: (entries[name]["auroc"]["value"] or 0.0, name))
    rows = [
        [
            md(name),
            f"{entries[name]['n']:,}",
            *([f"{trained[name]:,}" if trained.get(name) else "none"] if trained else []),
            score(entries[name]["auroc"]),
            share(entries[name]["detected"]),
            *(_verdict_cells(entries[name], REAL) if rated else []),
        ]
        for name in ordered
    ]
    header = [
        "Generator", "n", *(["in training"] if trained else []), "AUROC", "found (p > ½)", *(_VERDICT_COLUMNS if rated else []),
    ]  # fmt: skip
    note = (
        f"Each against all {figures['n'][REAL]:,} real images, the weakest first."
        + (" “In training” is the number of its images in the training split." if trained else "")
        + (" The last three columns are verdicts." if rated else "")
    )
    return table(header, rows), note


def _sources(entries: dict, rated: bool) -> str:
    ordered = sorted(entries, key=lambda name: (-(entries[name]["false_positives"]["value"] or 0.0), name))
    rows = [
        [
            md(name),
            f"{entries[name]['n']:,}",
            share(entries[name]["false_positives"]),
            *(_verdict_cells(entries[name], AI) if rated else []),
        ]
        for name in ordered
    ]
    return table(["Source", "n", "false positives", *(_VERDICT_COLUMNS if rated else [])], rows)


def _verdict_cells(entry: dict, wrong: str) -> list[str]:
    """The share of each verdict, the wrong one with its interval."""
    return [
        share(entry["wrong"]) if name == wrong and entry.get("wrong") else percent(entry["verdicts"][name])
        for name in VERDICTS
    ]


def _other_splits(facts: CardFacts) -> str | None:
    rows = []
    for name in facts.evaluation:
        if name == facts.split:
            continue
        other = facts.evaluation[name]["figures"]
        summary, n = other["summary"], sum(other["n"].values())
        cells = (share(summary["accuracy"]), score(summary["auroc"]), score(summary["ece"]))
        rows.append([f"{code(name)}: {split_note(name)}", f"{n:,}", *cells])
    return table(["Split", "n", "accuracy", "AUROC", "ECE"], rows) if rows else None
