"""The card's tables of results on the images as they are: the headline, metrics, generators, sources, other splits."""

from collections.abc import Mapping

from realfake.card.facts import CardFacts, split_note
from realfake.card.limits import too_many_wrong
from realfake.card.method import CALIBRATED
from realfake.evaluation.controls import NAMES as CONTROLS
from realfake.evaluation.measure import VERDICTS
from realfake.evaluation.robustness_report import headline
from realfake.formatting import code, md, number, percent, score, share, table
from realfake.labels import AI, REAL

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


def headline_section(facts: CardFacts) -> str:
    """How good it is on the images as they are, with the weakest generator beside the average."""
    figures, summary = facts.figures, facts.figures["summary"]
    n = figures["n"]
    words = (
        f"**On {n[REAL]:,} real and {n[AI]:,} generated images** of the split {code(facts.split)} "
        f"({split_note(facts.split)}) its accuracy is {share(summary['accuracy'])}"
    )
    words += (
        f" and its AUROC {score(summary['auroc'])}."
        if summary["auroc"]["value"] is not None
        else "."
    )
    worst = figures.get("worst_generator")
    if worst and len(figures["by_generator"]) > 1:
        entry = figures["by_generator"][worst]
        words += (
            f" It is weakest on **{md(worst)}**: AUROC {score(entry['auroc'])}, "
            f"{percent(entry['detected']['value'])} of {entry['n']:,} images found."
        )
    return words + " Numbers in brackets are 95 % intervals."


def results_section(facts: CardFacts) -> dict:
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
        "Generator",
        "n",
        *(["in training"] if trained else []),
        "AUROC",
        "found (p > ½)",
        *(_VERDICT_COLUMNS if rated else []),
    ]
    note = (
        f"Each against all {figures['n'][REAL]:,} real images, the weakest first."
        + (" “In training” is the number of its images in the training split." if trained else "")
        + (" The last three columns are verdicts." if rated else "")
    )
    return table(header, rows), note


def _sources(entries: dict, rated: bool) -> str:
    ordered = sorted(
        entries, key=lambda name: (-(entries[name]["false_positives"]["value"] or 0.0), name)
    )
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
        share(entry["wrong"])
        if name == wrong and entry.get("wrong")
        else percent(entry["verdicts"][name])
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


def degradations_section(facts: CardFacts) -> dict:
    """Everything of the section; `{"degradations": None}` where it was not measured with these weights."""
    record = facts.degraded
    if not record:
        return {"degradations": None}
    figures = record["degradations"]
    return {
        "degradations": summary(record),
        "degradations_note": note(record),
        "degradations_table": tiers_table(record),
        "controls_note": controls_note(record),
        "coverage": coverage_table(figures),
        "coverage_note": coverage_note(figures),
        "slices": slices_table(figures),
        "described": described(record),
    }


def described(record: Mapping) -> str:
    """What each degradation does, as a list."""
    return "\n".join(
        f"- {code(name)}: {md(record['described'][name])}" for name in record["degradations"]
    )


def summary(record: Mapping) -> str:
    """Word the headline: the worst degradation and the worst generator, never the average alone."""
    worst = headline(record["degradations"])
    tier, cell, clean = worst["worst_degradation"], worst["worst_generator"], worst["clean"]
    if tier is None:
        return "The split holds one label only; there is no balanced accuracy."
    words = (
        f"**Balanced accuracy {share(tier['balanced_accuracy'])} under the worst degradation, "
        f"{code(tier['degradation'])}**"
    )
    words += f" ({share(clean)} on the images as they are)." if clean else "."
    if cell:
        words += (
            f" **The weakest generator is {md(cell['generator'])} under {code(cell['degradation'])}: balanced accuracy "
            f"{share(cell['balanced_accuracy'])}**, AUROC {score(cell['auroc'])}, {share(cell['detected'])} of "
            f"{cell['n']:,} images found."
        )
    count = len(record["degradations"])
    if count > 1:
        words += f" The mean over the {count} degradations is {percent(worst['mean'])}, which hides both."
    return words


def note(record: Mapping) -> str:
    """Which images were measured, and how to read the tables."""
    first = next(iter(record["degradations"].values()))
    n = first["n"]
    words = f"{n[REAL]:,} real and {n[AI]:,} generated images, each degraded in every way. "
    if record.get("of") and record["of"] > sum(n.values()):
        words = (
            f"{n[REAL]:,} real and {n[AI]:,} generated images, drawn from the {record['of']:,} of the split with the "
            "shares of labels and generators kept, each degraded in every way. "
        )
    return words + (
        "“Right” is the share of the verdicts given that are right, of so many verdicts; it stands beside the share of "
        "images that got one, because a detector that says nothing is never wrong. In brackets 95 % intervals; those of a "
        "worst case do not know that it was chosen as the worst."
    )


def tiers_table(record: Mapping) -> str:
    """The model and its controls under each degradation."""
    rows = [["model", code(name), *_tier(entry)] for name, entry in record["degradations"].items()]
    for control, tiers in record["controls"].items():
        rows += [[f"*{code(control)}*", code(name), *_tier(entry)] for name, entry in tiers.items()]
    header = [
        "Scored by",
        "degradation",
        "n",
        "balanced accuracy",
        "AUROC",
        "photographs called `ai`",
        "got a verdict",
        "right",
    ]
    return table(header, rows)


def _tier(entry: Mapping) -> list[str]:
    found, rated = entry["summary"], entry.get("verdicts")
    cells = [
        f"{sum(entry['n'].values()):,}",
        share(found["balanced_accuracy"]),
        score(found["auroc"]),
    ]
    if not rated:
        return [*cells, f"{share(entry['false_positives'])} at p > ½", "–", "–"]
    right = (
        "–"
        if rated["accuracy"]["value"] is None
        else f"{share(rated['accuracy'])}, n = {rated['accuracy']['n']:,}"
    )
    return [*cells, share(rated["wrong"][REAL]), share(rated["given"]), right]


def controls_note(record: Mapping) -> str | None:
    """What the controls are, and what it means where one comes near the model."""
    if not record["controls"]:
        return None
    names = "; ".join(
        f"{code(name)} is a {CONTROLS.get(name, md(name))}" for name in record["controls"]
    )
    return (
        f"Controls: {names}, each fitted on {record['controls_n']:,} training images as they are. They are not calibrated and "
        "give no verdicts. Where a control comes near the model, the corpus gives its labels away."
    )


def coverage_table(figures: Mapping[str, Mapping]) -> str | None:
    """The share of wrong verdicts by class and generator under each degradation; what breaks the promise is bold."""
    first = next(iter(figures.values()))
    if not first.get("verdicts"):
        return None
    rows = []
    for label, said in ((REAL, AI), (AI, REAL)):
        entries = [
            {
                "wrong": entry["verdicts"]["wrong"][label],
                "promised": entry["verdicts"]["promised"][label],
                "inconclusive": _inconclusive(entry, label),
            }
            for entry in figures.values()
        ]
        rows.append(
            [
                f"**all {code(label)}**, called {code(said)}",
                f"{first['n'][label]:,}",
                *map(_cell, entries),
            ]
        )
    generators = first.get("by_generator") or {}
    for name in sorted(generators):
        entries = [entry["by_generator"][name] for entry in figures.values()]
        if all(entry.get("wrong") for entry in entries):
            entries = [
                {**entry, "inconclusive": entry["verdicts"]["inconclusive"]} for entry in entries
            ]
            rows.append(
                [f"{md(name)}, called `real`", f"{generators[name]['n']:,}", *map(_cell, entries)]
            )
    sources = first.get("by_source") or {}
    for name in sorted(sources):
        entries = [entry["by_source"][name] for entry in figures.values()]
        if all(entry.get("wrong") for entry in entries):
            entries = [
                {**entry, "inconclusive": entry["verdicts"]["inconclusive"]} for entry in entries
            ]
            rows.append(
                [
                    f"photographs of {md(name)}, called `ai`",
                    f"{sources[name]['n']:,}",
                    *map(_cell, entries),
                ]
            )
    return table(["Wrong verdicts (and `inconclusive`)", "n", *map(code, figures)], rows)


def _inconclusive(entry: Mapping, label: str) -> float | None:
    counts = entry["verdicts"]["counts"][label]
    total = sum(counts.values())
    return counts["inconclusive"] / total if total else None


def _cell(entry: Mapping) -> str:
    wrong, withheld = entry["wrong"]["value"], entry["inconclusive"]
    if wrong is None:
        return "–"
    text = percent(wrong)
    text = f"**{text}** ✗" if too_many_wrong(entry) else text
    return f"{text} ({percent(withheld)})"


def coverage_note(figures: Mapping[str, Mapping]) -> str | None:
    """How to read the table of coverage."""
    rated = next(iter(figures.values())).get("verdicts")
    if not rated:
        return None
    alpha = rated["thresholds"]["alpha"]
    return (
        f"The promise is at most {percent(alpha)} wrong verdicts among the images of each class, for images like those of the "
        "calibration. Here is what became of it. **✗** marks a shortfall: more wrong verdicts than the promise and chance "
        "together explain at this n. In brackets is the share that got no verdict. All intervals are in "
        "[`robustness.json`](robustness.json)."
    )


def slices_table(figures: Mapping[str, Mapping]) -> str | None:
    """Images that are looked at by themselves, as they are and under the degradation that is worst for them."""
    names = list(next(iter(figures.values())).get("by_slice") or {})
    rows = []
    for name in names:
        tiers = {
            tier: entry["by_slice"][name]
            for tier, entry in figures.items()
            if (entry["by_slice"][name].get("auroc") or {}).get("value") is not None
        }
        if not tiers:
            continue
        worst = min(tiers, key=lambda tier: tiers[tier]["auroc"]["value"])
        for tier in dict.fromkeys((next(iter(tiers)), worst)):
            cell = tiers[tier]
            row = [
                md(name),
                code(tier),
                f"{cell['n'][REAL]:,} / {cell['n'][AI]:,}",
                score(cell["auroc"]),
            ]
            rated = cell.get("verdicts")
            wrong = [share(rated["wrong"][label]) for label in (REAL, AI)] if rated else ["–", "–"]
            rows.append(
                [
                    *row,
                    share(cell["balanced_accuracy"]),
                    *wrong,
                    share(rated["given"]) if rated else "–",
                ]
            )
    if not rows:
        return None
    header = [
        "Slice",
        "degradation",
        "n real / ai",
        "AUROC",
        "balanced accuracy",
        "photographs called `ai`",
        "generated called `real`",
        "got a verdict",
    ]
    return table(header, rows)


FILE_NAME = "formats.json"


def formats_section(facts: CardFacts) -> dict[str, str | None]:
    """The section's parts; `None` where nothing was measured with these weights."""
    record = facts.formats.get(facts.split)
    if record is None or record["checkpoint_sha256"] != facts.record.get("checkpoint_sha256"):
        return {"formats_note": None, "formats": None}
    note = (
        f"The {record['n']:,} {facts.split} images of {record['corpus']} saved in another way, with nothing changed that a person "
        "would see. Shares of those that got a verdict as they are."
    )
    return {"formats_note": note, "formats": formats_table(record)}


def formats_table(record: Mapping) -> str:
    """The figures of a record as a table."""
    rows = [
        [
            record["described"][name],
            f"{figures['kept']['n']:,}",
            *(share(figures[key]) for key in ("kept", "withheld", "flipped")),
            f"{number(figures['moved']['median'])}, {number(figures['moved']['value'])}",
        ]
        for name, figures in record["formats"].items()
    ]
    header = [
        "Saved as",
        "n",
        "same verdict",
        "now inconclusive",
        "opposite verdict",
        "change of P(ai): median, largest",
    ]
    return table(header, rows)
