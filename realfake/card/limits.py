"""The limits that a card states: the author's, and those that the figures and facts show by themselves."""

from collections.abc import Mapping

from realfake.card.facts import CardFacts, split_note
from realfake.evaluation.robustness_report import CLEAN
from realfake.formatting import code, md, number, percent, score, share, table
from realfake.labels import AI, REAL

# A generator below this AUROC, or found less often than this, is named among the limits.
_WEAK_AUROC = 0.75
_WEAK_DETECTION = 0.5
_WEAK_FALSE_POSITIVES = 0.25
_SMALL_TEST = 5000


def limits(facts: CardFacts) -> list[str]:
    """Collect the limits.

    Returns:
        `list[str]`: Sentences of Markdown.
    """
    found = [" ".join(text.split()) for text in facts.limits]
    figures = facts.figures
    if not figures:
        found.append("Nothing was measured: treat every answer as a guess.")
    elif facts.split != "test":
        found.append(
            f"No test split was measured. The figures are those of {code(facts.split)}, {split_note(facts.split)}."
        )
    if figures:
        found += _weak_generators(figures) + _weak_sources(figures) + _broken_promises(figures)
        n = sum(figures["n"].values())
        if n < _SMALL_TEST:
            found.append(
                f"It was measured on {n:,} images only; the intervals say how little that settles."
            )
        if not figures.get("by_generator"):
            found.append(
                "How it does on single generators was not measured; an average can hide that it fails on one."
            )
        if not facts.degraded:
            found.append("How it does on recompressed, resized or cropped images was not measured.")
        if facts.measurements and facts.measurements > 1 and facts.split == "test":
            found.append(
                f"The test split of this corpus was measured with {facts.measurements} different sets of weights so far; "
                "where an earlier result led to a change, the figures are a little too good."
            )
    if facts.preprocessing == "native":
        size = f"{facts.image_size} × {facts.image_size} pixels" if facts.image_size else "part"
        found.append(
            f"It sees the central {size} of an image at native size: what was generated elsewhere goes unnoticed."
        )
    if not facts.calibration:
        found.append("Its probabilities are not calibrated.")
    found.append(
        "Generators that did not exist when it was trained, edited photographs, screenshots, drawings, and images that were "
        "resized or recompressed often may get wrong answers; no figure above is a promise for them."
    )
    return found


def _weak_generators(figures: Mapping) -> list[str]:
    found = []
    generators = figures.get("by_generator") or {}
    wrong_way, blind, weak = [], [], []
    for name, entry in generators.items():
        auroc = entry["auroc"]
        if auroc["value"] is None:
            continue
        words = f"{md(name)} (AUROC {score(auroc)}, n = {entry['n']:,})"
        if auroc["high"] is not None and auroc["high"] < 0.5:
            wrong_way.append(words)
        # An interval that holds one half: the scores may as well be random.
        elif auroc["value"] <= 0.5 or (auroc["low"] is not None and auroc["low"] <= 0.5):
            blind.append(words)
        elif auroc["value"] < _WEAK_AUROC:
            weak.append(words)
    if wrong_way:
        found.append(
            f"**Worse than chance** on {'; '.join(wrong_way)}: real images score higher than these."
        )
    if blind:
        found.append(f"**Not shown to be better than chance** on {'; '.join(blind)}.")
    if weak:
        found.append(f"Weak on {'; '.join(weak)}.")
    missed = [
        f"{md(name)} ({percent(entry['detected']['value'])} found, n = {entry['n']:,})"
        for name, entry in generators.items()
        if entry["detected"]["value"] < _WEAK_DETECTION
    ]
    if missed:
        found.append(f"It calls most images of these generators real: {'; '.join(missed)}.")
    return found


def _weak_sources(figures: Mapping) -> list[str]:
    suspected = [
        f"{md(name)} ({share(entry['false_positives'])}, n = {entry['n']:,})"
        for name, entry in (figures.get("by_source") or {}).items()
        if entry["false_positives"]["value"] > _WEAK_FALSE_POSITIVES
    ]
    if not suspected:
        return []
    return [
        f"It often takes real images of these sources for generated ones: {'; '.join(suspected)}."
    ]


def _broken_promises(figures: Mapping) -> list[str]:
    """Error rates and probabilities that are off by more than chance explains."""
    found = []
    rated = figures.get("verdicts")
    for label, said in ((REAL, AI), (AI, REAL)) if rated else ():
        wrong, promised = rated["wrong"][label]["value"], rated["promised"][label]
        if wrong is not None and promised is not None and wrong > promised:
            found.append(
                f"The promised rate of wrong verdicts did not hold: {share(rated['wrong'][label])} of the images that are "
                f"{code(label)} were called {code(said)}, where {percent(rated['thresholds']['alpha'])} was aimed at and up to "
                f"{percent(promised)} would be chance. These images are not like those that the thresholds were set on."
            )
    summary = figures["summary"]
    ece, floor = summary.get("ece") or {}, summary.get("ece_noise_floor") or {}
    if (
        ece.get("value") is not None
        and floor.get("high") is not None
        and ece["value"] > floor["high"]
    ):
        found.append(
            f"On these images its probabilities are off by more than chance explains: ECE {score(ece)}, where a perfectly "
            f"calibrated model would show at most {number(floor['high'])}."
        )
    return found


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
                called_real = (
                    f"{share(entry['wrong'])}; chance explains {percent(entry['promised'])}"
                )
            rows.append(
                [
                    md(name),
                    f"{entry['n']:,}",
                    score(entry["auroc"]),
                    called_real,
                    " and ".join(reasons),
                ]
            )
        words += (
            f" On {code(facts.split)}, images as they are, these fail; an answer of `real` on an image that may be theirs "
            "says nothing:\n\n" + table(["Generator", "n", "AUROC", "called `real`", "why"], rows)
        )
    else:
        words += f" On {code(facts.split)}, images as they are, none of the {len(figures['by_generator'])} measured ones fails."
    later = _under_degradations(facts, failing)
    if later:
        words += (
            "\n\nThese hold on the images as they are, and fail once these are degraded: "
            + later
            + "."
        )
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
        if facts.ood:
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
