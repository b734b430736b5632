"""For which generators a detector must not be used, by a rule that the card states, and the card's plain words on it.

A generator is named where the figures show that the detector fails on it, not merely where they leave it open: the upper
end of its AUROC's interval lies below [`LEAST_AUROC`], or more of its images get the wrong verdict than the promised rate
and chance together explain.
"""

from collections.abc import Mapping

from ..evaluation.robustness_figures import CLEAN
from ..labels import AI, REAL
from .facts import CardFacts
from .markdown import code, md, table
from .numbers import percent, score, share

# Below it the scores of real and generated images overlap so far that no threshold is of use.
LEAST_AUROC = 0.75


def too_many_wrong(entry: Mapping) -> bool:
    """Whether more wrong verdicts were given than was promised and than chance would explain.

    Args:
        entry: With `wrong`, a share, and `promised`, the highest share that chance would explain.
    """
    wrong, promised = (entry.get("wrong") or {}).get("value"), entry.get("promised")
    return wrong is not None and promised is not None and wrong > promised


def unsuitable(figures: Mapping) -> dict[str, list[str]]:
    """Apply the rule to the generators of a split.

    Args:
        figures: What [`evaluation.measure`] returned.

    Returns:
        `{generator: reasons}`, the lowest AUROC first; only those that fail.
    """
    failing = {}
    entries = figures.get("by_generator") or {}
    for name in sorted(entries, key=lambda name: (entries[name]["auroc"]["value"] or 0.0, name)):
        entry, reasons = entries[name], []
        high = entry["auroc"].get("high")
        if high is not None and high < LEAST_AUROC:
            reasons.append(f"AUROC surely below {LEAST_AUROC:g}")
        if too_many_wrong(entry):
            reasons.append("too many called `real`")
        if reasons:
            failing[name] = reasons
    return failing


def unsuitable_section(facts: CardFacts) -> str | None:
    """The rule, the generators that fail it on the images as they are, and those that fail it under a degradation."""
    figures = facts.figures
    if not figures.get("by_generator"):
        return None
    thresholds = (figures.get("verdicts") or {}).get("thresholds")
    rule = f"the 95 % interval of its AUROC against all photographs lies below {LEAST_AUROC:g}"
    if thresholds:
        rule += (
            f", or more of its images are called `real` than the stated {percent(thresholds['alpha'])} and chance together "
            "explain"
        )
    failing = unsuitable(figures)
    words = f"The rule: a generator is named here where {rule}."
    if failing:
        rows = []
        for name, reasons in failing.items():
            entry = figures["by_generator"][name]
            called_real = "–"
            if entry.get("wrong"):
                called_real = f"{share(entry['wrong'])}; chance explains {percent(entry['promised'])}"
            rows.append(
                [md(name), f"{entry['n']:,}", score(entry["auroc"]), called_real, " and ".join(reasons)]
            )
        words += (
            f" On {code(facts.split)}, images as they are, these fail; an answer of `real` on an image that may be theirs "
            "says nothing:\n\n" + table(["Generator", "n", "AUROC", "called `real`", "why"], rows)
        )
    else:
        words += f" On {code(facts.split)}, images as they are, none of the {len(figures['by_generator'])} measured ones fails."
    later = _under_degradations(facts, failing)
    if later:
        words += "\n\nThese hold on the images as they are, and fail once these are degraded: " + later + "."
    return words + "\n\nOf generators that are not in the tables below nothing is known."


def _under_degradations(facts: CardFacts, failing: Mapping) -> str:
    where: dict[str, list[str]] = {}
    for tier, figures in (facts.degraded.get("degradations") or {}).items():
        for name in unsuitable(figures):
            if name not in failing:
                where.setdefault(name, []).append(code(tier))
    return "; ".join(f"{md(name)} ({', '.join(tiers)})" for name, tiers in where.items())


def in_short(facts: CardFacts) -> list[str]:
    """What a person who reads no tables must know: sentences of Markdown, empty where nothing was measured."""
    figures = facts.figures
    if not figures:
        return []
    rated, n = figures.get("verdicts"), figures["n"]
    said = []
    if rated and rated["given"]["value"] is not None:
        withheld = 1 - rated["given"]["value"]
        causes = "real and generated images with such a score were both met"
        if facts.novelty:
            causes += ", or the image is unlike those it was trained on"
        said.append(
            f"**When it does not know, it says `inconclusive`**: to {percent(withheld)} of the {sum(n.values()):,} images of "
            f"{code(facts.split)}. That means that {causes}. It is no hint in either direction."
        )
    elif not facts.thresholds:
        said.append(
            "**It never says that it does not know**: this checkpoint stores no thresholds, so every image gets a label."
        )
    photographs = _on_photographs(facts)
    if photographs:
        said.append(photographs)
    if rated and rated["wrong"][AI]["value"] is not None:
        said.append(
            f"**Generated images it takes for photographs**: {share(rated['wrong']['ai'])} of {n[AI]:,}. `real` means that "
            "none of the traces it knows were found, not that a camera was there."
        )
    failing = unsuitable(figures)
    if failing:
        names = ", ".join(md(name) for name in failing)
        said.append(
            f"**It must not be used to rule out these generators**: {names}. Why, and by which rule, is below."
        )
    return said


def _on_photographs(facts: CardFacts) -> str | None:
    """How often it is wrong on photographs: on the whole, under the worst degradation, from the worst source."""
    figures = facts.figures
    if not figures["n"][REAL]:
        return None
    rated = bool(figures.get("verdicts"))

    def called_ai(entry: Mapping) -> Mapping | None:
        if rated:
            return (entry.get("verdicts") or {}).get("wrong", {}).get(REAL)
        recall = entry["summary"]["recall_real"]
        return {
            "value": None if recall["value"] is None else 1 - recall["value"],
            "low": None if recall["high"] is None else 1 - recall["high"],
            "high": None if recall["low"] is None else 1 - recall["low"],
        }

    words = f"**Photographs it calls AI-generated**: {share(called_ai(figures))} of {figures['n'][REAL]:,} as they are"
    tiers = {
        name: figure
        for name, entry in (facts.degraded.get("degradations") or {}).items()
        if (figure := called_ai(entry)) and figure["value"] is not None
    }
    if len(tiers) > 1:
        worst = max(tiers, key=lambda name: tiers[name]["value"])
        if worst == CLEAN:
            words += f", and no more under any of {len(tiers) - 1} degradations"
        else:
            words += f", {share(tiers[worst])} under the degradation that is worst for them ({code(worst)})"
    source = figures.get("worst_source")
    if source and len(figures["by_source"]) > 1:
        entry = figures["by_source"][source]
        wrong = entry.get("wrong") or (None if rated else entry["false_positives"])
        if wrong:
            words += f"; of its worst source, {md(source)}, {share(wrong)} of {entry['n']:,}"
    return words + "." + _where_rare(figures)


def _where_rare(figures: Mapping) -> str:
    """What share of the images called ai would be generated where few images are, by Bayes' rule from the clean rates."""
    rated, prior = figures.get("verdicts"), 0.1
    if not rated or not figures["n"][AI]:
        return ""
    found = rated["counts"][AI][AI] / figures["n"][AI]
    false = rated["counts"][REAL][AI] / figures["n"][REAL]
    if not found and not false:
        return ""
    right = prior * found / (prior * found + (1 - prior) * false)
    return (
        f" Where one image in {1 / prior:.0f} is generated, {percent(right)} of those that it calls `ai` would be, at these "
        "rates; the rest would be photographs."
    )
