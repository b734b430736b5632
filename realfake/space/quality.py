"""The fourth tab, and what a checkpoint states about itself: its facts and its test results.

The figures come from `evaluation.json` and `robustness.json` beside the checkpoint. Anybody can
have written these records: a figure that is missing or malformed is left out.
"""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from realfake.detector import Detector
from realfake.labels import AI, REAL
from realfake.models.geometry import seen_region
from realfake.space.handlers import is_calibrated
from realfake.space.loading import Loaded
from realfake.space.text import Localised, Words, dig, number, render

MAX_ROWS = 60
_MISSING = "–"
# Size of the picture that tells whether the edges are cut off.
_WIDTH, _HEIGHT = 1500, 1000


def build_quality(loaded: Loaded, local: Localised) -> None:
    """Lay out the tab, inside `gr.Blocks`."""
    with gr.Column(elem_id="rf-quality", elem_classes="rf-panel"):
        gr.HTML(local.html("quality", lambda t: quality(t, loaded.evaluation, loaded.robustness)))


def quality(words: Words, evaluation: Any, robustness: Any) -> str:
    """Render the records of a checkpoint, which may have any shape or be `None`."""
    record = dig(evaluation, "test")
    figures = dig(record, "figures")
    bins = reliability_bins(figures)
    rows = [[words.percent(p), words.percent(seen), words.number(n)] for p, seen, n, _ in bins]
    summary = _summary(words, figures)
    counts = [number(dig(figures, "n", label)) for label in (REAL, AI)]
    n = _MISSING if None in counts else words.number(sum(counts))
    body = words("quality.body", corpus=_string(dig(record, "corpus")), n=n)
    weights = _string(dig(record, "checkpoint_sha256"))[:12]
    date = _string(dig(record, "date"))[:10]
    return render(
        "quality",
        "quality",
        words,
        body=body if summary else words("quality.none"),
        summary=summary,
        bins=bins and {"points": bins, **_table(words, ("predicted", "observed", "count"), rows)},
        tables=[("generators", _generators(words, figures)), ("sources", _sources(words, figures))],
        degradations=_degradations(words, robustness),
        made=words("quality.made", date=date, weights=weights),
    )


def reliability_bins(figures: Any) -> list[tuple[float, ...]]:
    """Return `(predicted, observed, count, mass)` of each bin by rising score.

    The list is empty if any value is malformed.
    """
    names = ("predicted", "observed", "count", "mass")
    columns = [dig(figures, "reliability", name) for name in names]
    if not all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        return []
    bins = [tuple(number(value) for value in row) for row in zip(*columns, strict=True)]
    if any(value is None or value < 0 for row in bins for value in row):
        return []
    if any(max(predicted, observed, mass) > 1 for predicted, observed, _, mass in bins):
        return []
    return sorted(bins)


def _table(words: Words, names: Sequence[str], rows: list[list[Any]]) -> dict:
    return {"head": [words(f"quality.{name}") for name in names], "rows": rows}


def _summary(words: Words, figures: Any) -> dict | None:
    """The main figures, each with its interval."""
    rows = []
    for key, path, share in (
        ("auroc", ("summary", "auroc"), False),
        ("accuracy", ("summary", "accuracy"), True),
        ("ece", ("summary", "ece"), False),
        ("given", ("verdicts", "verdict_rate"), True),
        ("right", ("verdicts", "accuracy"), True),
        ("wrong_real", ("verdicts", "wrong", REAL), True),
        ("wrong_ai", ("verdicts", "wrong", AI), True),
    ):
        figure = dig(figures, *path)
        if number(dig(figure, "value")) is not None:
            rows.append([words(f"quality.{key}"), *_cells(words, figure, share)])
    return _table(words, ("figure", "value", "interval"), rows) if rows else None


def _generators(words: Words, figures: Any) -> dict:
    rows = [
        [
            words.known(name),
            _count(words, entry),
            *_cells(words, dig(entry, "auroc"), False),
            _cells(words, dig(entry, "detected"), True)[0],
        ]
        for name, entry in _ranked(dig(figures, "by_generator"), "auroc", descending=False)
    ]
    table = _table(words, ("generator", "count", "value", "interval", "found"), rows)
    table["head"][2] = "AUROC"
    return table


def _sources(words: Words, figures: Any) -> dict:
    rows = [
        [
            words.known(name),
            _count(words, entry),
            *_cells(words, dig(entry, "false_positives"), True),
        ]
        for name, entry in _ranked(dig(figures, "by_source"), "false_positives", descending=True)
    ]
    return _table(words, ("source", "count", "false_alarms", "interval"), rows)


def _degradations(words: Words, robustness: Any) -> dict | None:
    """AUROC after each change of the image, overall and by generator."""
    stored = dig(robustness, "test", "degradations")
    tiers = {
        str(name): figures
        for name, figures in (stored.items() if isinstance(stored, dict) else ())
        if number(dig(figures, "summary", "auroc", "value")) is not None
    }
    if not tiers:
        return None

    def row(name: str, *path: str) -> list[Any]:
        values = [number(dig(figures, *path, "auroc", "value")) for figures in tiers.values()]
        shades = (v if v is None else render("quality", "shade", words, value=v) for v in values)
        return [name, *(shade or _MISSING for shade in shades)]

    names = {str(name) for each in tiers.values() for name in dig(each, "by_generator") or {}}
    return {
        "head": [words("quality.generator"), *(words.named("degradation", n) for n in tiers)],
        "rows": [
            row(words("quality.degraded_overall"), "summary"),
            *(
                row(words.known(name), "by_generator", name)
                for name in sorted(names, key=words.known)[:MAX_ROWS]
            ),
        ],
    }


def _ranked(entries: Any, key: str, descending: bool) -> list[tuple[str, Any]]:
    """The entries that have this figure, sorted by it."""
    values = {
        name: number(dig(entry, key, "value"))
        for name, entry in (entries.items() if isinstance(entries, dict) else ())
    }
    known = sorted(
        (name for name, value in values.items() if value is not None),
        key=lambda name: values[name],
        reverse=descending,
    )
    return [(str(name), entries[name]) for name in known[:MAX_ROWS]]


def _count(words: Words, entry: Any) -> str:
    n = number(dig(entry, "n"))
    return _MISSING if n is None else words.number(n)


def _cells(words: Words, figure: Any, share: bool) -> list[str]:
    """The value and its interval."""

    def shown(key: str) -> str | None:
        value = number(dig(figure, key))
        if value is None:
            return None
        return words.rate(value, "0.0") if share else words.decimal(value, 3)

    value, low, high = (shown(key) for key in ("value", "low", "high"))
    return [value or _MISSING, f"{low} – {high}" if low and high else _MISSING]


def _string(value: Any) -> str:
    return value if isinstance(value, str) and value else _MISSING


def about(words: Words, detector: Detector, evaluation: Any = None) -> list[tuple[str, str]]:
    """Describe a detector: pairs of a name and a sentence."""
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
    """The part of a landscape picture that the detector sees."""
    processor = getattr(detector, "processor", None)
    if processor is None:
        return None
    try:
        region = seen_region(processor, _WIDTH, _HEIGHT)
    except ValueError:
        return None
    width, height = region.input_size
    left, top, right, bottom = region.box
    if detector.views > 1:
        return words("about.input_views", n=detector.views, width=width, height=height)
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
    """Return the main test results as a sentence, or `None` if there are none."""
    figures = dig(evaluation, "test", "figures")
    auroc = dig(figures, "summary", "auroc")
    value, low, high, n = (number(dig(auroc, key)) for key in ("value", "low", "high", "n"))
    if value is None or low is None or high is None or not n:
        return None
    interval = {"low": words.decimal(low), "high": words.decimal(high)}
    sentences = [words("about.ranking", n=words.number(n), auroc=words.decimal(value), **interval)]
    verdicts = dig(figures, "verdicts")
    shares = {
        "given": number(dig(verdicts, "verdict_rate", "value")),
        REAL: number(dig(verdicts, "wrong", REAL, "value")),
        AI: number(dig(verdicts, "wrong", AI, "value")),
    }
    if None not in shares.values():
        shown = {name: words.rate(share) for name, share in shares.items()}
        sentences.append(words("about.verdicts", **shown))
    worst = dig(figures, "worst_generator")
    if isinstance(worst, str):
        sentences.append(words("about.worst", generator=words.known(worst)))
    flagged = dig(figures, "worst_source")
    if isinstance(flagged, str):
        sentences.append(words("about.worst_source", source=words.known(flagged)))
    return "; ".join(sentences)
