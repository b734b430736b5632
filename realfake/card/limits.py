"""The limits on a card: those that the author states, and those that follow from the figures."""

from collections.abc import Mapping

from realfake.card.facts import CardFacts, split_note
from realfake.evaluation.categories import RETOUCHED_NAME
from realfake.evaluation.measure import too_many_wrong
from realfake.formatting import code, md, number, percent, score, share, table
from realfake.labels import AI, REAL

# A generator below this AUROC or this share found is named among the limits.
_WEAK_AUROC = 0.75
_WEAK_DETECTION = 0.5
_WEAK_FALSE_POSITIVES = 0.25
_SMALL_TEST = 5000
# A generator whose AUROC interval lies below this is unsuitable.
LEAST_AUROC = 0.75


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
    edited = "" if RETOUCHED_NAME in measured else "edited photographs, "
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

    Args:
        figures: Of [`measure.measure`].

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
