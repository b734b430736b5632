"""The opening of a card, and its tables of results on unchanged images."""

from collections.abc import Mapping

from realfake.card.facts import CardFacts, split_note
from realfake.card.limits import unsuitable
from realfake.evaluation import categories
from realfake.evaluation.formats import formats_table
from realfake.evaluation.measure import VERDICTS, complement
from realfake.evaluation.robustness import CLEAN
from realfake.evaluation.views import views_table
from realfake.formatting import code, md, percent, score, share, table
from realfake.labels import AI, REAL
from realfake.statistics.verdicts import binomial_interval

# Rows of the table of metrics, with their number formats.
_METRICS = {
    "accuracy": ("Accuracy", share),
    "balanced_accuracy": ("Balanced accuracy", share),
    "recall_ai": ("Generated images with p(ai) > ½ (recall of `ai`)", share),
    "recall_real": ("Photographs with p(ai) ≤ ½ (recall of `real`)", share),
    "auroc": ("AUROC", score),
    "average_precision": ("Average precision", score),
    "tpr_at_fpr_1": ("Generated images found at 1 % false positives", share),
    "tpr_at_fpr_5": ("Generated images found at 5 % false positives", share),
    "nll": ("NLL (nats, classes balanced)", score),
    "brier": ("Brier score (classes balanced)", score),
    "ece": ("ECE (classes balanced)", score),
}
_VERDICT_COLUMNS = [f"verdict {code(verdict)}" for verdict in VERDICTS]
_RARE = 0.1  # share of generated images in the example of a rare class


# The opening


def judgement(facts: CardFacts) -> str:
    """Return what the AUROC, its interval and the controls show, as a sentence."""
    auroc = facts.figures["summary"]["auroc"]
    if auroc["value"] is None:
        return ""
    if auroc["high"] is not None and auroc["high"] < 0.5:
        return "**It is worse than chance: photographs score higher than generated images.**"
    if auroc["value"] <= 0.5 or (auroc["low"] is not None and auroc["low"] <= 0.5):
        return "**It is not shown to be better than chance.**"
    if not facts.rates_are_of_new_images:
        return "**It was only measured on images that were used to train or calibrate it.**"
    comparison = control_aurocs(facts.degraded).get(CLEAN)
    if not comparison:
        return "**It is better than chance.** It was not compared with controls."
    name, model, control, n = comparison
    figures = (
        f"on the same {n:,} unchanged images its AUROC is {score(model)}, and that of "
        f"{code(name)} is {score(control)}"
    )
    if control["value"] >= model["value"]:
        return f"**It is not better than a control that ignores the content**: {figures}."
    if not clearly_better(model, control):
        return f"**It is not clearly better than a control that ignores the content**: {figures}."
    return f"**It is better than controls that ignore the content**: {figures}."


def control_aurocs(degraded: Mapping) -> dict[str, tuple[str, Mapping, Mapping, int]]:
    """Return `{degradation: (best control, AUROC of the model, AUROC of the control, images)}`.

    Args:
        degraded: A record of `robustness.json`.
    """
    result = {}
    for tier, figures in (degraded.get("degradations") or {}).items():
        controls = {
            name: tiers[tier]["summary"]["auroc"]
            for name, tiers in degraded["controls"].items()
            if tier in tiers and tiers[tier]["summary"]["auroc"]["value"] is not None
        }
        if controls and figures["summary"]["auroc"]["value"] is not None:
            best = max(controls, key=lambda name: controls[name]["value"])
            n = sum(figures["n"].values())
            result[tier] = best, figures["summary"]["auroc"], controls[best], n
    return result


def clearly_better(figure: Mapping, other: Mapping) -> bool:
    """Return whether the interval of a figure lies above that of another.

    A figure without an interval is compared by its value.
    """
    low = figure["value"] if figure["low"] is None else figure["low"]
    high = other["value"] if other["high"] is None else other["high"]
    return low > high


def headline(facts: CardFacts) -> str:
    """Return accuracy and AUROC on unchanged images, and the weakest generator."""
    figures, summary = facts.figures, facts.figures["summary"]
    n = figures["n"]
    text = (
        f"On {n[REAL]:,} real and {n[AI]:,} generated images of the split {code(facts.split)} "
        f"({split_note(facts.split)}) its accuracy is {share(summary['accuracy'])}"
    )
    if summary["auroc"]["value"] is not None:
        text += f" and its AUROC {score(summary['auroc'])}"
    text += "."
    worst = figures.get("worst_generator")
    if worst and len(figures["by_generator"]) > 1:
        entry = figures["by_generator"][worst]
        text += (
            f" It is weakest on **{md(worst)}**: AUROC {score(entry['auroc'])}, "
            f"{percent(entry['detected']['value'])} of {entry['n']:,} images have p(ai) > ½."
        )
    return f"{text} Parentheses hold 95 % intervals."


def in_short(facts: CardFacts) -> list[str]:
    """Return the main results and failures for readers who skip the tables.

    Rates are those of images that were not used for calibration; otherwise they are left out.
    """
    figures = facts.figures
    if not figures:
        return []
    lines = []
    rates = facts.rates_are_of_new_images
    if not facts.thresholds:
        lines.append(
            "**It never answers `inconclusive`**: this checkpoint stores no thresholds, so every "
            "image gets the label with the higher probability."
        )
    if rates and figures.get("verdicts"):
        lines += _verdict_lines(facts)
    elif rates and figures["n"][REAL]:
        recall = figures["summary"]["recall_real"]
        lines.append(
            f"**Photographs with p(ai) > ½**: {share(complement(recall))} of "
            f"{figures['n'][REAL]:,} unchanged photographs{_worst_case(facts, 'false_positives')}."
        )
    lines += _retouched_line(facts) if rates else []
    failing = unsuitable(figures)
    if failing:
        lines.append(
            "**Do not use it to rule out these generators**: "
            f"{', '.join(map(md, failing))}. The reasons are below."
        )
    slices = ((facts.degraded.get("degradations") or {}).get(CLEAN) or {}).get("by_slice") or {}
    chance = [
        f"{md(name)} (AUROC {score(entry['auroc'])})"
        for name, entry in slices.items()
        if (entry.get("auroc") or {}).get("low") is not None and entry["auroc"]["low"] <= 0.5
    ]
    if chance:
        lines.append(f"**It is not shown to be better than chance** on {'; '.join(chance)}.")
    weak = [
        f"{code(tier)} ({score(model)}, {code(name)} {score(control)})"
        for tier, (name, model, control, _) in control_aurocs(facts.degraded).items()
        if tier != CLEAN and not clearly_better(model, control)
    ]
    if weak:
        lines.append(
            "**Its AUROC is not clearly above that of a control that ignores the content** under "
            f"{'; '.join(weak)}."
        )
    return lines


def _verdict_lines(facts: CardFacts) -> list[str]:
    figures = facts.figures
    rated, n = figures["verdicts"], figures["n"]
    lines = []
    withheld = complement(rated["verdict_rate"])
    if withheld["value"] == 1:
        lines.append(f"**It gave no verdict** on any of the {sum(n.values()):,} images.")
    elif withheld["value"] is not None:
        causes = "their scores are common among both photographs and generated images"
        if facts.ood:
            causes += ", or they are unlike the calibration images"
        lines.append(
            f"**It answers `inconclusive`** for {share(withheld)} of the {sum(n.values()):,} "
            f"images: {causes}. This is no evidence in either direction."
        )
    if rated["wrong"][REAL]["value"] is not None:
        lines.append(
            f"**Photographs with the verdict `ai`**: {share(rated['wrong'][REAL])} of "
            f"{n[REAL]:,} unchanged photographs{_worst_case(facts, 'wrong')}."
            f"{_where_rare(figures)}"
        )
    if rated["wrong"][AI]["value"] is not None:
        lines.append(
            f"**Generated images with the verdict `real`**: {share(rated['wrong'][AI])} of "
            f"{n[AI]:,}. The verdict `real` does not prove that a camera took the picture."
        )
    return lines


def _retouched_line(facts: CardFacts) -> list[str]:
    """Return the false alarms on retouched photographs, all kinds of retouching together."""
    measured = (facts.by_category.get("categories") or {}).get(categories.RETOUCHED_NAME)
    entry = (measured or {}).get("degradations", {}).get(categories.ALL)
    if not measured or not entry:
        return []
    kinds, rated = len(measured["described"]), entry.get("verdicts")
    figure = rated["wrong"][REAL] if rated else entry["false_positives"]
    what = "with the verdict `ai`" if rated else "with p(ai) > ½"
    return [
        f"**Retouched photographs {what}**: {share(figure)} of {entry['n'][REAL]:,} copies "
        f"(denoised, sharpened and so on) of {entry['n'][REAL] // kinds:,} photographs."
    ]


def _worst_case(facts: CardFacts, key: str) -> str:
    """Return the worst degradation and the worst source for photographs.

    Args:
        key: `"wrong"` for verdicts, `"false_positives"` for p(ai) > 1/2.
    """
    tiers = {}
    for name, entry in (facts.degraded.get("degradations") or {}).items():
        rated = entry.get("verdicts")
        figure = entry["false_positives"] if key != "wrong" else rated and rated["wrong"][REAL]
        if figure and figure["value"] is not None:
            tiers[name] = figure
    text = ""
    if len(tiers) > 1:
        worst = max(tiers, key=lambda name: tiers[name]["value"])
        if worst == CLEAN:
            count = len(tiers) - 1
            others = f"any of {count} degradations" if count > 1 else "the other degradation"
            text += f", and not more under {others}"
        else:
            text += f", {share(tiers[worst])} under the worst degradation for them, {code(worst)}"
    entries = facts.figures.get("by_source") or {}
    source = facts.figures.get("worst_source")
    if len(entries) > 1 and (entries[source].get(key) or {}).get("value") is not None:
        entry = entries[source]
        text += f"; {share(entry[key])} of {entry['n']:,} from the source {md(source)}"
    return text


def _where_rare(figures: Mapping) -> str:
    """Return the precision of the verdict `ai` if few images are generated (Bayes' rule)."""
    counts, n = figures["verdicts"]["counts"], figures["n"]
    false = figures["verdicts"]["wrong"][REAL]
    hits = counts[AI][AI]
    if not n[AI] or not (hits or false["value"]) or false["low"] is None:
        return ""

    def precision(found: float, wrong: float) -> float:
        return _RARE * found / (_RARE * found + (1 - _RARE) * wrong) if found else 0.0

    low, high = binomial_interval(hits, n[AI])
    value = {
        "value": precision(hits / n[AI], false["value"]),
        "low": precision(low, false["high"]),
        "high": precision(high, false["low"]),
    }
    return (
        f" At these rates, if one image in {1 / _RARE:.0f} is generated, {share(value)} of the "
        "images with the verdict `ai` are generated."
    )


# The tables


def results_section(facts: CardFacts) -> dict[str, str | None]:
    """Return the tables; `None` for what was not measured."""
    figures = facts.figures
    if not figures:
        return dict.fromkeys(("results", "generators", "sources", "other_splits"))
    summary = figures["summary"]
    rows = [
        [label, write(summary[name]), f"{summary[name]['n']:,}"]
        for name, (label, write) in _METRICS.items()
        if (summary.get(name) or {}).get("value") is not None
    ]
    return {
        "results": table(["Metric", "value (95 % interval)", "n"], rows),
        "generators": _generators(facts) if figures.get("by_generator") else None,
        "sources": _sources(figures) if figures.get("by_source") else None,
        "other_splits": _other_splits(facts),
    }


def trained_generators(facts: CardFacts) -> Mapping[str, int]:
    """Return the number of training images of each generator; empty if unknown."""
    return facts.corpus_report.get("splits", {}).get("train", {}).get("generators") or {}


def _generators(facts: CardFacts) -> str:
    entries, trained = facts.figures["by_generator"], trained_generators(facts)
    rated = bool(facts.figures.get("verdicts"))
    rows = [
        [
            md(name),
            f"{entry['n']:,}",
            *([f"{trained[name]:,}" if trained.get(name) else "none"] if trained else []),
            score(entry["auroc"]),
            share(entry["detected"]),
            *(_verdict_cells(entry, REAL) if rated else []),
        ]
        for name, entry in sorted(
            entries.items(), key=lambda item: (item[1]["auroc"]["value"] or 0.0, item[0])
        )
    ]
    header = ["Generator", "n", *(["in training"] if trained else []), "AUROC", "p(ai) > ½"]
    return table(header + (_VERDICT_COLUMNS if rated else []), rows)


def _sources(figures: Mapping) -> str:
    entries, rated = figures["by_source"], bool(figures.get("verdicts"))
    rows = [
        [
            md(name),
            f"{entry['n']:,}",
            share(entry["false_positives"]),
            *(_verdict_cells(entry, AI) if rated else []),
        ]
        for name, entry in sorted(
            entries.items(), key=lambda item: (-(item[1]["false_positives"]["value"] or 0), item[0])
        )
    ]
    return table(["Source", "n", "p(ai) > ½", *(_VERDICT_COLUMNS if rated else [])], rows)


def _verdict_cells(entry: Mapping, wrong: str) -> list[str]:
    """Return the share of each verdict, the wrong one with its interval."""
    return [
        share(entry["wrong"])
        if name == wrong and entry.get("wrong")
        else percent(entry["verdicts"][name])
        for name in VERDICTS
    ]


def _other_splits(facts: CardFacts) -> str | None:
    rows = []
    for name, record in facts.evaluation.items():
        if name != facts.split:
            summary, n = record["figures"]["summary"], sum(record["figures"]["n"].values())
            cells = (share(summary["accuracy"]), score(summary["auroc"]), score(summary["ece"]))
            rows.append([f"{code(name)}: {split_note(name)}", f"{n:,}", *cells])
    return table(["Split", "n", "accuracy", "AUROC", "ECE"], rows) if rows else None


def formats_section(facts: CardFacts) -> dict[str, object]:
    """Return the record of the file formats and its table; `None` if not of these weights."""
    record = facts.of_same_weights(facts.formats.get(facts.split) or {})
    if not record.get("formats"):
        return {"formats_record": None, "formats": None}
    return {"formats_record": record, "formats": formats_table(record)}


def views_section(facts: CardFacts) -> dict | None:
    """Return the table of the numbers of views, and the figures of parts that differ, if any."""
    record = facts.of_same_weights(facts.by_views.get(facts.split) or {})
    if not record.get("views"):
        return None
    return {"table": views_table(record), "parts": record.get("parts")}


def categories_section(facts: CardFacts) -> dict[str, dict[str, str | None]]:
    """Return the table and the descriptions of each measured category."""
    record = facts.by_category
    return {
        name: {
            "table": categories.category_table(record, name),
            "described": categories.described(record, name),
        }
        for name in record.get("categories") or {}
    }
