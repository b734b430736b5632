"""The fourth tab: how good the loaded detector is, from the records beside its checkpoint.

Everything is drawn from `evaluation.json` and `robustness.json` as they are, in whatever shape somebody uploaded them: a figure that is
missing or malformed is left out. Curves are drawn by `curves`.
"""

from collections.abc import Mapping
from typing import Any

import gradio as gr

from realfake.labels import AI, REAL
from realfake.space.about import LIMITS
from realfake.space.curves import reliability_curve, roc_curve
from realfake.space.loading import Loaded
from realfake.space.localised import Localised
from realfake.space.markup import card, dig, escape, number, paragraph, table
from realfake.space.text import Words

MAX_ROWS = 60


def build_quality(loaded: Loaded, local: Localised) -> None:
    """Lay the tab out, inside `gr.Blocks`."""
    with gr.Column(elem_id="rf-quality", elem_classes="rf-panel"):
        gr.HTML(
            local.html(
                "quality", lambda words: quality(words, loaded.evaluation, loaded.robustness)
            )
        )


def quality(words: Words, evaluation: Any, robustness: Any) -> str:
    """Draw what a checkpoint's records say.

    Args:
        words: In which language.
        evaluation: Its `evaluation.json`, of any shape, or `None`.
        robustness: Its `robustness.json`, of any shape, or `None`.
    """
    record = dig(evaluation, "test")
    figures = dig(record, "figures")
    summary = _summary(words, figures)
    limits = "".join(f"<li>{escape(words(limit))}</li>" for limit in LIMITS)
    limits = f'<section class="rf-card"><h3>{escape(words("limits.title"))}</h3><ul>{limits}</ul></section>'
    if not summary:
        head = f'<div class="rf-section"><h2>{escape(words("quality.title"))}</h2>{paragraph(words("quality.none"))}</div>'
        return head + limits
    counts = [number(dig(figures, "n", label)) for label in (REAL, AI)]
    n = words.number(sum(counts)) if None not in counts else "–"
    body = words("quality.body", corpus=_text(dig(record, "corpus")), n=n)
    made = words(
        "quality.made",
        date=_text(dig(record, "date"))[:10],
        weights=_text(dig(record, "checkpoint_sha256"))[:12],
    )
    return (
        f'<div class="rf-section"><h2>{escape(words("quality.title"))}</h2>{paragraph(body)}</div>'
        f'<div class="rf-quality-grid">{summary}{limits}{_reliability(words, figures)}{_roc(words, figures)}</div>'
        f"{_degradations(words, robustness)}{_generators(words, figures)}{_sources(words, figures)}"
        f"{paragraph(made, 'rf-small')}"
    )


def _summary(words: Words, figures: Any) -> str:
    """The figures a reader should leave with, each with its interval."""
    rows = []
    for key, path, share in (
        ("auroc", ("summary", "auroc"), False),
        ("accuracy", ("summary", "accuracy"), True),
        ("ece", ("summary", "ece"), False),
        ("given", ("verdicts", "given"), True),
        ("right", ("verdicts", "accuracy"), True),
        ("wrong_real", ("verdicts", "wrong", REAL), True),
        ("wrong_ai", ("verdicts", "wrong", AI), True),
    ):
        figure = dig(figures, *path)
        if number(dig(figure, "value")) is not None:
            rows.append([escape(words(f"quality.{key}")), *_cells(words, figure, share)])
    if not rows:
        return ""
    head = [words(f"quality.{column}") for column in ("figure", "value", "interval")]
    return card(words("quality.summary"), table(head, rows, words("quality.summary")), level=3)


def _reliability(words: Words, figures: Any) -> str:
    points = _bins(figures)
    if not points:
        return ""
    head = [words(f"quality.{column}") for column in ("predicted", "observed", "count")]
    rows = [
        [words.percent(p), words.percent(seen), words.number(count)] for p, seen, count, _ in points
    ]
    drawn = reliability_curve(words, [(p, seen) for p, seen, _, _ in points])
    return _figure(words, "reliability", drawn, table(head, rows, words("quality.reliability")))


def _roc(words: Words, figures: Any) -> str:
    """The ROC curve through the edges of the reliability bins, which are sorted by score and cover all images."""
    corners = [(0.0, 0.0)]
    for _, seen, _, mass in reversed(_bins(figures)):
        false, true = corners[-1]
        # Both classes have the same weight in `mass`, one half.
        corners.append((min(1.0, false + 2 * mass * (1 - seen)), min(1.0, true + 2 * mass * seen)))
    if len(corners) < 3:
        return ""
    head = [words(f"quality.{column}") for column in ("false_alarms", "found")]
    rows = [[words.percent(x), words.percent(y)] for x, y in corners[1:-1]]
    return _figure(words, "roc", roc_curve(words, corners), table(head, rows, words("quality.roc")))


def _figure(words: Words, name: str, drawn: str, listed: str) -> str:
    body = (
        f"{paragraph(words(f'quality.{name}_note'))}{drawn}"
        f"<details><summary>{escape(words('quality.table'))}</summary>{listed}</details>"
    )
    return card(words(f"quality.{name}"), body, level=3)


def _bins(figures: Any) -> list[tuple[float, float, float, float]]:
    """`(predicted, observed, count, mass)` of each bin, by rising score; empty where any of it is malformed."""
    columns = [
        dig(figures, "reliability", name) for name in ("predicted", "observed", "count", "mass")
    ]
    if not all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        return []
    bins = [tuple(number(value) for value in row) for row in zip(*columns, strict=True)]
    if any(value is None or value < 0 for row in bins for value in row):
        return []
    if any(max(predicted, observed, mass) > 1 for predicted, observed, _, mass in bins):
        return []
    return sorted(bins)


def _generators(words: Words, figures: Any) -> str:
    found = dig(figures, "by_generator")
    rows = _worst_first(found, "auroc", lowest=True)
    head = [
        words("quality.generator"),
        words("quality.count"),
        "AUROC",
        words("quality.interval"),
        words("quality.found"),
    ]
    drawn = [
        [
            escape(name),
            _count(words, entry),
            *_cells(words, dig(entry, "auroc"), False),
            _cells(words, dig(entry, "detected"), True)[0],
        ]
        for name, entry in rows
    ]
    return _listed(words, "generators", head, drawn)


def _sources(words: Words, figures: Any) -> str:
    rows = _worst_first(dig(figures, "by_source"), "false_positives", lowest=False)
    head = [
        words("quality.source"),
        words("quality.count"),
        words("quality.false_alarms"),
        words("quality.interval"),
    ]
    drawn = [
        [escape(name), _count(words, entry), *_cells(words, dig(entry, "false_positives"), True)]
        for name, entry in rows
    ]
    return _listed(words, "sources", head, drawn)


def _degradations(words: Words, robustness: Any) -> str:
    tiers = dig(robustness, "test", "degradations")
    tiers = (
        {str(name): figures for name, figures in tiers.items()}
        if isinstance(tiers, Mapping)
        else {}
    )
    tiers = {
        name: figures
        for name, figures in tiers.items()
        if number(dig(figures, "summary", "auroc", "value")) is not None
    }
    if not tiers:
        return card(words("quality.degradations"), paragraph(words("quality.unmeasured")), level=3)
    generators = sorted(
        {str(name) for figures in tiers.values() for name in (dig(figures, "by_generator") or {})}
    )[:MAX_ROWS]
    head = [words("quality.generator"), *(words.named("degradation", name) for name in tiers)]
    overall = [
        _shade(words, dig(figures, "summary", "auroc", "value")) for figures in tiers.values()
    ]
    rows = [[f"<strong>{escape(words('quality.degraded_overall'))}</strong>", *overall]]
    for generator in generators:
        cells = [
            _shade(words, dig(figures, "by_generator", generator, "auroc", "value"))
            for figures in tiers.values()
        ]
        rows.append([escape(generator), *cells])
    return _listed(words, "degradations", head, rows, "rf-heat")


def _shade(words: Words, value: Any) -> str:
    """A figure on a ground that is the darker the worse it is; the number says the same."""
    value = number(value)
    if value is None:
        return "–"
    level = 0 if value >= 0.9 else 1 if value >= 0.8 else 2 if value >= 0.7 else 3
    return f'<span class="rf-shade rf-shade-{level}">{escape(words.decimal(value))}</span>'


def _listed(words: Words, name: str, head: list[str], rows: list[list[str]], kind: str = "") -> str:
    if not rows:
        return ""
    body = paragraph(words(f"quality.{name}_note")) + table(
        head, rows, words(f"quality.{name}"), kind
    )
    return card(words(f"quality.{name}"), body, level=3)


def _worst_first(entries: Any, key: str, lowest: bool) -> list[tuple[str, Any]]:
    if not isinstance(entries, Mapping):
        return []
    known = [
        (str(name), entry)
        for name, entry in entries.items()
        if number(dig(entry, key, "value")) is not None
    ]
    known.sort(key=lambda row: row[1][key]["value"], reverse=not lowest)
    return known[:MAX_ROWS]


def _count(words: Words, entry: Any) -> str:
    n = number(dig(entry, "n"))
    return "–" if n is None else words.number(n)


def _cells(words: Words, figure: Any, share: bool) -> list[str]:
    """The value and its interval."""

    def worded(value: float | None) -> str:
        if value is None:
            return "–"
        if share:
            return words("number.percent", n=words.decimal(100 * value, 1))
        return words.decimal(value, 3)

    low, high = (number(dig(figure, end)) for end in ("low", "high"))
    interval = "–" if low is None or high is None else f"{worded(low)} – {worded(high)}"
    return [escape(worded(number(dig(figure, "value")))), escape(interval)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value else "–"
