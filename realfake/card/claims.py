"""The sentences of a card: its opening, its limits, and the generators it is unsuitable for."""

from collections.abc import Mapping

from realfake.card.facts import CardFacts, split_note
from realfake.evaluation import variants
from realfake.evaluation.measure import complement, too_many_wrong
from realfake.evaluation.robustness import CLEAN
from realfake.formatting import code, md, number, percent, score, share, table
from realfake.labels import AI, REAL
from realfake.statistics.verdicts import binomial_interval

_RARE = 0.1  # share of generated images in the example of a rare class
# A generator below this AUROC or this share found is named among the limits.
_WEAK_AUROC = 0.75
_WEAK_DETECTION = 0.5
_WEAK_FALSE_POSITIVES = 0.25
_SMALL_TEST = 5000
# A generator whose AUROC interval lies below this is unsuitable.
LEAST_AUROC = 0.75


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
    """Return `{degradation: (best control, AUROC of the model, AUROC of the control, images)}`."""
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
    measured = (facts.by_category.get("categories") or {}).get(variants.RETOUCHED_NAME)
    entry = (measured or {}).get("degradations", {}).get(variants.ALL)
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


# The limits


def limits(facts: CardFacts, name_split: bool = True) -> list[str]:
    """Return the limits as sentences of Markdown.

    Args:
        name_split: State that the figures are not those of a test split.
    """
    lines = [" ".join(text.split()) for text in facts.limits]
    figures = facts.figures
    if not figures:
        lines.append("Nothing was measured: treat every answer as a guess.")
    elif facts.split != "test" and name_split:
        lines.append(
            f"No test split was measured. The figures are those of {code(facts.split)}: "
            f"{split_note(facts.split)}."
        )
    if figures:
        lines += _weak_generators(figures) + _weak_sources(figures) + _exceeded_rates(figures)
        n = sum(figures["n"].values())
        if n < _SMALL_TEST:
            lines.append(f"It was measured on only {n:,} images; see the intervals.")
        if not figures.get("by_generator"):
            lines.append(
                "It was not measured by generator. An average can hide a failure on one of them."
            )
        if not facts.degraded:
            lines.append("It was not measured on recompressed, resized or cropped images.")
        elif not facts.degraded.get("controls"):
            lines.append("It was not compared with controls that ignore the content.")
        if facts.measurements and facts.measurements > 1 and facts.split == "test":
            lines.append(
                f"The test split of this corpus was measured with {facts.measurements} different "
                "sets of weights. If an earlier result led to a change, the figures are slightly "
                "optimistic."
            )
    if facts.preprocessing == "native":
        size = f"{facts.image_size} × {facts.image_size} pixels" if facts.image_size else "part"
        if (facts.views or 1) > 1:
            lines.append(
                f"`realfake` examines at most {facts.views} views of {size}. It misses a part of "
                f"larger images. The stock pipeline sees only the central {size}."
            )
        else:
            lines.append(
                f"The network sees only the central {size} of an image. It misses generated "
                "content outside."
            )
    if not facts.calibration:
        lines.append("Its probabilities are not calibrated.")
    measured = facts.by_category.get("categories") or {}
    edited = "" if variants.RETOUCHED_NAME in measured else "edited photographs, "
    lines.append(
        f"Newer generators, {edited}screenshots, drawings, and images that were resized or "
        "recompressed several times may get wrong answers. The figures do not cover them."
    )
    return lines


def _weak_generators(figures: Mapping) -> list[str]:
    generators = figures.get("by_generator") or {}
    below, unproven, weak = [], [], []
    for name, entry in generators.items():
        auroc = entry["auroc"]
        if auroc["value"] is None:
            continue
        text = f"{md(name)} (AUROC {score(auroc)}, n = {entry['n']:,})"
        if auroc["high"] is not None and auroc["high"] < 0.5:
            below.append(text)
        elif auroc["value"] <= 0.5 or (auroc["low"] is not None and auroc["low"] <= 0.5):
            unproven.append(text)
        elif auroc["value"] < _WEAK_AUROC:
            weak.append(text)
    lines = []
    if below:
        lines.append(f"**Worse than chance** on {'; '.join(below)}: photographs score higher.")
    if unproven:
        lines.append(f"**Not shown to be better than chance** on {'; '.join(unproven)}.")
    if weak:
        lines.append(f"Weak on {'; '.join(weak)}.")
    missed = [
        f"{md(name)} ({percent(entry['detected']['value'])} found, n = {entry['n']:,})"
        for name, entry in generators.items()
        if entry["detected"]["value"] < _WEAK_DETECTION
    ]
    if missed:
        lines.append(f"Most images of these generators have p(ai) ≤ ½: {'; '.join(missed)}.")
    return lines


def _weak_sources(figures: Mapping) -> list[str]:
    suspected = [
        f"{md(name)} ({share(entry['false_positives'])}, n = {entry['n']:,})"
        for name, entry in (figures.get("by_source") or {}).items()
        if entry["false_positives"]["value"] > _WEAK_FALSE_POSITIVES
    ]
    if not suspected:
        return []
    return [f"Many photographs of these sources have p(ai) > ½: {'; '.join(suspected)}."]


def _exceeded_rates(figures: Mapping) -> list[str]:
    """Return the error rates and probabilities that are wrong by more than chance explains."""
    lines = []
    rated = figures.get("verdicts")
    for label, verdict in ((REAL, AI), (AI, REAL)) if rated else ():
        most = rated["max_wrong"][label]
        if too_many_wrong({"wrong": rated["wrong"][label], "max_wrong": most}):
            lines.append(
                f"The stated rate of wrong verdicts does not hold: {share(rated['wrong'][label])} "
                f"of the images that are {code(label)} have the verdict {code(verdict)}. The "
                f"stated rate is {percent(rated['thresholds']['alpha'])}, and chance explains up "
                f"to {percent(most)}. These images differ from the calibration images."
            )
    ece, floor = (figures["summary"].get(key) or {} for key in ("ece", "ece_noise_floor"))
    known = ece.get("value") is not None and floor.get("high") is not None
    if known and ece["value"] > floor["high"]:
        lines.append(
            "Its probabilities differ from the observed shares by more than chance explains. The "
            f"ECE is {score(ece)}; that of a perfectly calibrated model would be at most "
            f"{number(floor['high'])}."
        )
    return lines


def unsuitable(figures: Mapping) -> dict[str, list[str]]:
    """Return the generators that fail the rule of [`unsuitable_section`].

    Returns:
        `{generator: reasons}`, the lowest AUROC first.
    """
    failing = {}
    entries = figures.get("by_generator") or {}
    for name in sorted(entries, key=lambda name: (entries[name]["auroc"]["value"] or 0.0, name)):
        entry, reasons = entries[name], []
        high = entry["auroc"].get("high")
        if high is not None and high < LEAST_AUROC:
            reasons.append(f"AUROC interval below {LEAST_AUROC:g}")
        if too_many_wrong(entry):
            reasons.append("too many verdicts `real`")
        if reasons:
            failing[name] = reasons
    return failing


def unsuitable_section(facts: CardFacts) -> dict | None:
    """Return the values of the section on unsuitable generators; `None` if none was measured.

    Returns:
        `alpha` (`None` without thresholds), `least_auroc`, `measured` (number of generators),
        `table` of those that fail on unchanged images, and `degraded`, those that fail only under
        degradations.
    """
    figures = facts.figures
    if not figures.get("by_generator"):
        return None
    failing = unsuitable(figures)
    rows = []
    for name, reasons in failing.items():
        entry = figures["by_generator"][name]
        real = "–"
        if entry.get("wrong"):
            real = f"{share(entry['wrong'])}; chance explains {percent(entry['max_wrong'])}"
        why = " and ".join(reasons)
        rows.append([md(name), f"{entry['n']:,}", score(entry["auroc"]), real, why])
    where: dict[str, list[str]] = {}
    for tier, entry in (facts.degraded.get("degradations") or {}).items():
        for name in unsuitable(entry):
            if name not in failing:
                where.setdefault(name, []).append(code(tier))
    thresholds = (figures.get("verdicts") or {}).get("thresholds")
    return {
        "alpha": thresholds and percent(thresholds["alpha"]),
        "least_auroc": f"{LEAST_AUROC:g}",
        "measured": len(figures["by_generator"]),
        "table": table(["Generator", "n", "AUROC", "verdict `real`", "why"], rows)
        if rows
        else None,
        "degraded": "; ".join(f"{md(name)} ({', '.join(tiers)})" for name, tiers in where.items()),
    }
