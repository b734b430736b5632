"""The limits that a card states: the author's, and those that the figures and facts show by themselves."""

from collections.abc import Mapping

from ..labels import AI, REAL
from .facts import CardFacts, split_note
from .markdown import code, md
from .numbers import number, percent, score, share

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
            found.append(f"It was measured on {n:,} images only; the intervals say how little that settles.")
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
        found.append(f"**Worse than chance** on {'; '.join(wrong_way)}: real images score higher than these.")
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
    return [f"It often takes real images of these sources for generated ones: {'; '.join(suspected)}."]


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
    if ece.get("value") is not None and floor.get("high") is not None and ece["value"] > floor["high"]:
        found.append(
            f"On these images its probabilities are off by more than chance explains: ECE {score(ece)}, where a perfectly "
            f"calibrated model would show at most {number(floor['high'])}."
        )
    return found
