"""The cards of the first tab as HTML: verdict, evidence, stability, provenance.

Pure functions from answers to strings, between `handlers` and the widgets of `check`; the words come from `text`.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from realfake.labels import AI, REAL
from realfake.space import text
from realfake.space.markup import card, escape, icon, paragraph, table, unbroken
from realfake.space.text import Words


def header(words: Words) -> str:
    return (
        f'<header class="rf-header"><h1>{unbroken(words("page.title"))}</h1>'
        f"<p>{escape(words('page.tagline'))}</p></header>"
    )


def footer(words: Words) -> str:
    return f'<footer class="rf-footer"><p>{escape(words("page.footer"))} {escape(words("page.credit"))}</p></footer>'


def notice(message: str) -> str:
    return f'<div class="rf-notice" role="status">{icon("problem")}<p>{escape(message)}</p></div>'


def empty(words: Words) -> str:
    """Draw the verdict card before there is an image."""
    body = paragraph(words("empty.body")) + bars(words, None, True)
    return _verdict_card("empty", words("empty.headline"), body)


def waiting(words: Words) -> str:
    """Draw the verdict card while the model runs."""
    body = paragraph(words("waiting.body")) + bars(words, None, True)
    return _verdict_card("waiting", words("waiting.headline"), body, drawn="empty")


def problem(words: Words, reason: str, advice: str) -> str:
    """Draw the verdict card for a file that gave no answer. Reasons come from the program, in English."""
    body = f'<p role="alert" lang="en"><strong>{escape(reason)}</strong></p>{paragraph(advice)}'
    return _verdict_card("problem", words("problem.headline"), body)


def verdict(words: Words, prediction, calibrated: bool) -> str:
    """Draw the verdict card of a `Prediction`."""
    named = text.named_label(prediction)
    lead = words(f"lead.{named}", percent=words.percent(prediction.probabilities[named]))
    body = f'<p class="rf-lead">{unbroken(lead)}</p>'
    why = text.reason(words, prediction)
    if why:
        body += f'<p class="rf-why"><strong>{escape(words("why"))}:</strong> {escape(why)}</p>'
    body += paragraph(text.meaning(words, prediction, calibrated))
    body += bars(words, prediction.probabilities, calibrated)
    return _verdict_card(prediction.verdict, words(f"verdict.{prediction.verdict}"), body)


def bars(
    words: Words, probabilities: Mapping[str, float] | None, calibrated: bool, level: int = 3
) -> str:
    """Both probabilities, as numbers and as lengths."""
    rows = []
    for label in (AI, REAL):
        share = 0.0 if probabilities is None else probabilities[label]
        shown = "–" if probabilities is None else words.percent(share)
        rows.append(
            f'<li class="rf-bar rf-bar-{label}"><span>{escape(words(f"label.{label}"))}</span><span>{escape(shown)}</span>'
            f'<span class="rf-track" aria-hidden="true"><span style="width:{100 * share:.1f}%"></span></span></li>'
        )
    title = words("bars.calibrated" if calibrated else "bars.uncalibrated")
    return f'<h{level}>{escape(title)}</h{level}><ul class="rf-bars">{"".join(rows)}</ul>'


def map_title(words: Words) -> str:
    return f'<h2 class="rf-map-title">{escape(words("map.title"))}</h2>'


def map_note(message: str) -> str:
    """What stands under the map where there could be none."""
    return f'<div class="rf-map-note">{paragraph(message)}</div>'


def map_empty(words: Words, waiting: bool = False) -> str:
    """What stands under the map before there is one, as high as what will stand there."""
    parts = [
        paragraph(words("map.waiting" if waiting else "map.empty")),
        f"<h3>{escape(words('evidence.title'))}</h3>{paragraph(words('evidence.empty'))}",
        f"<h3>{escape(words('regions.title'))}</h3><p>–</p>",
    ]
    return f'<div class="rf-map-note rf-idle{" rf-map-waiting" if waiting else ""}">{"".join(parts)}</div>'


def map_evidence(words: Words, explanation, regions) -> str:
    """What stands under a map: whether it holds, its strongest regions, and what it does not say.

    Args:
        words: In which language.
        explanation: The `Explanation`, with its evidence.
        regions: `EvidenceRegion`s of its map, in pixels of its image.
    """
    parts = [_legend(words, explanation)]
    evidence = explanation.evidence
    if evidence is not None:
        good = evidence.beats_random
        mark = (
            f'<span class="rf-mark rf-mark-{"good" if good else "bad"}">{icon("holds" if good else "problem", 18)}'
            f"{escape(words('evidence.holds' if good else 'evidence.fails'))}</span>"
        )
        parts.append(
            f"<h3>{escape(words('evidence.title'))}</h3><p>{mark}</p>{paragraph(text.evidence(words, evidence))}"
        )
    listed = "".join(
        "<li>"
        + escape(
            words(
                "regions.one",
                place=text.place(words, region.box, explanation.image.size),
                share=words.percent(region.share),
            )
        )
        + "</li>"
        for region in regions
    )
    listed = f"<ol>{listed}</ol>" if listed else paragraph(words("regions.none"))
    parts.append(f"<h3>{escape(words('regions.title'))}</h3>{listed}")
    parts.append(
        paragraph(words("map.note", target=words(f"label.{explanation.target}")), "rf-small")
    )
    return f'<div class="rf-map-note">{"".join(parts)}</div>'


def _legend(words: Words, explanation) -> str:
    """The colours in the reader's language; the picture's own legend is for the file, and too small to read on a phone."""
    meanings = {
        "for": words("map.for", target=words(f"label.{explanation.target}")),
        "against": words("map.against"),
    }
    if np.isnan(explanation.heatmap).any():
        meanings["unseen"] = words("map.unseen")
    listed = "".join(
        f'<li><span class="rf-swatch rf-swatch-{name}" aria-hidden="true"></span>{escape(meaning)}</li>'
        for name, meaning in meanings.items()
    )
    return f'<ul class="rf-legend">{listed}</ul>'


def stability_empty(words: Words) -> str:
    return _stability(
        words, words("stability.empty"), [(name, None) for name in VARIANTS], "rf-idle"
    )


def stability_failed(words: Words, reason: str) -> str:
    return card(
        words("stability.title"),
        paragraph(words("stability.failed", reason=reason)),
        "rf-stability",
    )


def stability(words: Words, stable) -> str:
    """The verdict on the image as it is and on its variants, from a `Stability`."""
    said = words("stability.flips" if stable.flips else "stability.holds")
    return _stability(words, said, stable.variants, "rf-flips" if stable.flips else "rf-holds")


VARIANTS = ("original", "messenger", "half_size", "crop")


def _stability(words: Words, said: str, variants, kind: str) -> str:
    rows = []
    for name, prediction in variants:
        row = [escape(words.named("variant", name)), "–", "–"]
        if prediction is not None:
            row[1] = (
                f'<span class="rf-said rf-said-{prediction.verdict}">{unbroken(words(f"verdict.{prediction.verdict}"))}</span>'
            )
            row[2] = escape(words.percent(prediction.probabilities[AI]))
        rows.append(row)
    head = [words(f"stability.{column}") for column in ("variant", "verdict", "probability")]
    body = paragraph(said) + table(head, rows, words("stability.title"))
    return card(words("stability.title"), body, f"rf-stability {kind}")


def provenance_empty(words: Words) -> str:
    body = paragraph(words("provenance.empty")) + paragraph(words("provenance.apart"), "rf-small")
    return card(words("provenance.title"), body, "rf-provenance")


def provenance_failed(words: Words) -> str:
    return card(words("provenance.title"), paragraph(words("provenance.failed")), "rf-provenance")


def provenance(words: Words, found) -> str:
    """What a file says of its origin, from a `Provenance`: what was found one by one, what was not in one line."""
    rows, absent = [], []
    for finding in found.findings:
        kind = words.named("provenance", finding.kind)
        if finding.state == "absent":
            absent.append(kind)
            continue
        state = words.named("state", finding.state)
        # The findings are worded by the module that makes them, in English.
        rows.append(
            f'<div class="rf-finding rf-finding-{escape(finding.state)}"><h3>{escape(_capital(kind))} '
            f'<span class="rf-mark">{escape(state)}</span></h3>'
            f'<p lang="en"><strong>{escape(finding.title)}.</strong> {escape(finding.detail, 600)}</p></div>'
        )
    if absent:
        key = "provenance.absent" if rows else "provenance.nothing"
        rows.append(paragraph(words(key, kinds=", ".join(absent))))
    body = "".join(rows) + paragraph(words("provenance.apart"), "rf-small")
    return card(words("provenance.title"), body, "rf-provenance")


def section(words: Words, tab: str, **values) -> str:
    """The head of a tab: its title and what it is for."""
    title, body = words(f"{tab}.title"), words(f"{tab}.body", **values)
    return f'<div class="rf-section"><h2>{escape(title)}</h2>{paragraph(body)}</div>'


def report_title(words: Words) -> str:
    return f'<h2 class="rf-map-title">{escape(words("report.title"))}</h2>{paragraph(words("report.body"), "rf-small")}'


def reason(error: Exception, path: str) -> str:
    """One line of an error message, with the file called by its name: the server's folders are nobody's business."""
    message = str(error).replace(path, Path(path).name).strip()
    return message.splitlines()[0] if message else type(error).__name__


def _verdict_card(kind: str, headline: str, body: str, drawn: str | None = None) -> str:
    return (
        f'<section class="rf-card rf-verdict rf-{kind}"><h2>{icon(drawn or kind)}<span>{unbroken(headline)}</span></h2>'
        f"{body}</section>"
    )


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
