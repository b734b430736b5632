"""What a checkpoint states about itself, in sentences: corpus, input, calibration, verdicts, tests.

A checkpoint can be anybody's: its facts may have any shape, and what is missing is left out.
"""

from typing import Any

from realfake.detector import Detector
from realfake.labels import AI, REAL
from realfake.models.geometry import seen_region
from realfake.space.handlers import is_calibrated
from realfake.space.text import Words, dig, number

# Size of the picture that tells whether the edges are cut off.
_WIDTH, _HEIGHT = 1500, 1000


def about(words: Words, detector: Detector, evaluation: Any = None) -> list[tuple[str, str]]:
    """Describe a detector.

    Args:
        words: The language.
        detector: The detector.
        evaluation: *optional*. Its `evaluation.json`, of any shape.

    Returns:
        Pairs of a name and a sentence.
    """
    facts = detector.facts
    pairs = [(words("about.model"), str(detector.name))]
    if detector.revision:
        pairs.append((words("about.revision"), str(detector.revision)[:12]))
    corpus = dig(facts, "corpus")
    stated = isinstance(corpus, str) and corpus.strip()
    pairs.append((words("about.corpus"), corpus if stated else words("about.silent")))
    if seen := _input(words, detector):
        pairs.append((words("about.input"), seen))
    pairs.append((words("about.calibration"), _calibration(words, facts)))
    pairs.append((words("about.thresholds"), _thresholds(words, facts)))
    if measured := measurement(words, evaluation):
        pairs.append((words("about.measured"), measured))
    return pairs


def _input(words: Words, detector: Detector) -> str | None:
    """What the detector looks at, measured on a landscape picture."""
    processor = getattr(detector, "processor", None)
    if processor is None:
        return None
    try:
        region = seen_region(processor, _WIDTH, _HEIGHT)
    except ValueError:
        return None
    width, height = region.input_size
    left, top, right, bottom = region.box
    if region.complete:
        kind = "whole"
    elif round(right - left) == width and round(bottom - top) == height:
        kind = "native"
    else:
        kind = "part"
    return words(f"about.input_{kind}", width=width, height=height)


def _calibration(words: Words, facts: Any) -> str:
    if not is_calibrated(facts):
        return words("about.uncalibrated")
    images = number(dig(facts, "calibration", "n"))
    if images:
        return words("about.calibrated", n=words.number(images))
    return words("about.calibrated_bare")


def _thresholds(words: Words, facts: Any) -> str:
    alpha = number(dig(facts, "thresholds", "alpha"))
    if not alpha:
        return words("about.without_thresholds")
    if all(number(dig(facts, "thresholds", label)) is None for label in (REAL, AI)):
        return words("about.no_thresholds")
    return words("about.with_thresholds", alpha=words.rate(alpha))


def measurement(words: Words, evaluation: Any) -> str | None:
    """Say how the detector did in its test, or return `None` if there is no record of one."""
    figures = dig(evaluation, "test", "figures")
    auroc = dig(figures, "summary", "auroc")
    value, low, high, n = (number(dig(auroc, key)) for key in ("value", "low", "high", "n"))
    if value is None or low is None or high is None or not n:
        return None
    interval = {"low": words.decimal(low), "high": words.decimal(high)}
    sentences = [words("about.ranking", n=words.number(n), auroc=words.decimal(value), **interval)]
    verdicts = dig(figures, "verdicts")
    shares = {
        "given": number(dig(verdicts, "given", "value")),
        REAL: number(dig(verdicts, "wrong", REAL, "value")),
        AI: number(dig(verdicts, "wrong", AI, "value")),
    }
    if None not in shares.values():
        shown = {name: words.rate(share) for name, share in shares.items()}
        sentences.append(words("about.verdicts", **shown))
    worst = dig(figures, "worst_generator")
    if isinstance(worst, str):
        sentences.append(words("about.worst", generator=worst))
    return "; ".join(sentences)
