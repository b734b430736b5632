"""Predictions and a checkpoint's own facts as HTML, every foreign string escaped.

Pure functions from data to strings, between the detector and the widgets of `page`. What a checkpoint says of itself
comes from whoever uploaded it, so none of it reaches the page as markup.
"""

import html
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..labels import AI, REAL
from . import text

MAX_CHARACTERS = 300

_ICONS = {
    REAL: '<path d="M4 8h3l1.5-2.5h7L17 8h3v11H4z"/><circle cx="12" cy="13" r="3.5"/>',
    AI: '<path d="M12 3l1.9 5.6L19.5 10.5 13.9 12.4 12 18l-1.9-5.6L4.5 10.5l5.6-1.9z"/><path d="M19 16v5M16.5 18.5h5"/>',
    text.INCONCLUSIVE: '<circle cx="12" cy="12" r="8.5"/><path d="M9.5 9.6a2.6 2.6 0 1 1 3.6 2.4c-.8.4-1.1.9-1.1 1.8M12 16.6v.1"/>',
    "empty": '<rect x="3.5" y="5" width="17" height="14" rx="2"/><path d="M4 16.5l5-5 4 4 2.5-2.5 4.5 4.5"/><circle cx="15.5" cy="9" r="1.3"/>',
    "problem": '<path d="M12 4l9 16H3z"/><path d="M12 10v4.5M12 17.2v.1"/>',
}


def escape(value: Any) -> str:
    """Make a foreign value safe and short enough to stand in the page's HTML.

    Gradio fills its HTML component through templates, so `{` and `$` are escaped beside what `html.escape` covers.
    """
    shown = " ".join(str(value).split())
    if len(shown) > MAX_CHARACTERS:
        shown = shown[: MAX_CHARACTERS - 1] + "…"
    return (
        html.escape(shown)
        .replace("{", "&#123;")
        .replace("}", "&#125;")
        .replace("$", "&#36;")
        .replace("`", "&#96;")
    )


def header() -> str:
    return f'<header class="rf-header"><h1>{_unbroken(text.TITLE)}</h1><p>{escape(text.TAGLINE)}</p></header>'


def footer() -> str:
    return f'<footer class="rf-footer"><p>{escape(text.FOOTER)} {escape(text.EXAMPLES_CREDIT)}</p></footer>'


def notice(message: str) -> str:
    return f'<div class="rf-notice" role="status">{_icon("problem")}<p>{escape(message)}</p></div>'


def empty() -> str:
    """Draw the verdict card before there is an image."""
    return _card(
        "empty", text.EMPTY_HEADLINE, f"<p>{escape(text.EMPTY_BODY)}</p>{_bars(None, text.CALIBRATED)}"
    )


def waiting() -> str:
    """Draw the verdict card while the model runs."""
    body = f"<p>{escape(text.WAITING_BODY)}</p>{_bars(None, text.CALIBRATED)}"
    return _card("waiting", text.WAITING_HEADLINE, body, icon="empty")


def problem(reason: str, advice: str) -> str:
    """Draw the verdict card for a file that gave no answer."""
    body = f'<p role="alert"><strong>{escape(reason)}</strong></p><p>{escape(advice)}</p>'
    return _card("problem", text.PROBLEM_HEADLINE, body)


def verdict(prediction, calibrated: bool) -> str:
    """Draw the verdict card of a `Prediction`."""
    words = text.meaning(
        prediction.verdict, prediction.label, prediction.probabilities, calibrated, prediction.alpha
    )
    bars = _bars(prediction.probabilities, text.CALIBRATED if calibrated else text.UNCALIBRATED)
    named = prediction.label if prediction.verdict == text.INCONCLUSIVE else prediction.verdict
    lead = f"{text.percent(prediction.probabilities[named])} {text.PROBABILITY_OF[named]}"
    body = f'<p class="rf-lead">{_unbroken(lead)}</p><p>{escape(words)}</p>{bars}'
    return _card(prediction.verdict, text.VERDICTS[prediction.verdict], body)


def map_title() -> str:
    return f'<h2 class="rf-map-title">{escape(text.MAP_TITLE)}</h2>'


def map_note(message: str, waiting: bool = False) -> str:
    kind = "rf-map-note rf-map-waiting" if waiting else "rf-map-note"
    return f'<p class="{kind}">{escape(message)}</p>'


def about(name: str, revision: str | None, facts: Any, evaluation: Any = None) -> str:
    """Describe a checkpoint by what it says of itself.

    Args:
        name: The Hub id, or the folder's name.
        revision: *optional*. The commit on the Hub.
        facts: `config.realfake`, of any shape: what is missing or malformed is said to be missing.
        evaluation: *optional*. The checkpoint's `evaluation.json`, of any shape.
    """
    rows = [(text.FACT_MODEL, _model(name))]
    if revision:
        rows.append((text.FACT_REVISION, f"<code>{escape(str(revision)[:12])}</code>"))
    rows += [(fact, escape(words)) for fact, words in statements(facts, evaluation)]
    listed = "".join(f"<div><dt>{escape(fact)}</dt><dd>{words}</dd></div>" for fact, words in rows)
    limits = "".join(f"<li>{escape(limit)}</li>" for limit in text.LIMITS)
    return (
        f'<section class="rf-card rf-about"><h2>{escape(text.ABOUT_TITLE)}</h2><dl>{listed}</dl>'
        f"<h3>{escape(text.LIMITS_TITLE)}</h3><ul>{limits}</ul></section>"
    )


def statements(facts: Any, evaluation: Any = None) -> list[tuple[str, str]]:
    """Word the facts of a checkpoint: a list of `(what, sentence)`, not yet escaped."""
    facts = _mapping(facts)
    corpus = facts.get("corpus")
    said = [(text.FACT_CORPUS, corpus if isinstance(corpus, str) and corpus.strip() else text.NOT_STATED)]
    size = _number(facts.get("image_size"))
    wording = {"native": text.INPUT_NATIVE, "processor": text.INPUT_PROCESSOR}.get(
        str(facts.get("preprocessing"))
    )
    if size and wording:
        said.append((text.FACT_INPUT, wording.format(size=f"{size:.0f}")))
    if is_calibrated(facts):
        images = _number(_dig(facts, "calibration", "n"))
        stated = text.CALIBRATION_STATED.format(n=f"{images:,.0f}") if images else text.CALIBRATION_STATED_BARE
        said.append((text.FACT_CALIBRATION, stated))
    else:
        said.append((text.FACT_CALIBRATION, text.CALIBRATION_ABSENT))
    alpha = _number(_dig(facts, "thresholds", "alpha"))
    stated = text.THRESHOLDS_STATED.format(alpha=f"{100 * alpha:g}%") if alpha else text.THRESHOLDS_ABSENT
    said.append((text.FACT_THRESHOLDS, stated))
    measured = measurement(evaluation)
    return said + [(text.FACT_MEASURED, measured)] if measured else said


def measurement(evaluation: Any) -> str | None:
    """Word the figures of the test split, or `None` where there are none."""
    figures = _dig(evaluation, "test", "figures")
    auroc = _number(_dig(figures, "summary", "auroc", "value"))
    images = _number(_dig(figures, "summary", "auroc", "n"))
    if auroc is None or not images:
        return None
    words = [text.MEASURED_RANKING.format(n=f"{images:,.0f}", auroc=f"{auroc:.2f}")]
    given = _number(_dig(figures, "verdicts", "given", "value"))
    wrong = [_number(_dig(figures, "verdicts", "wrong", label, "value")) for label in (REAL, AI)]
    if given is not None and None not in wrong:
        real, ai = (text.percent(share) for share in wrong)
        words.append(text.MEASURED_VERDICTS.format(given=text.percent(given), real=real, ai=ai))
    worst = _dig(figures, "worst_generator")
    if isinstance(worst, str):
        words.append(text.MEASURED_WORST.format(generator=worst))
    return "; ".join(words)


def is_calibrated(facts: Any) -> bool:
    """Tell whether a checkpoint says that its calibration is folded into its weights."""
    return _dig(facts, "calibration", "folded") is True


def reason(error: Exception, path: str) -> str:
    """One line of an error message, with the file called by its name: the server's folders are nobody's business."""
    message = str(error).replace(path, Path(path).name).strip()
    return message.splitlines()[0] if message else type(error).__name__


def _model(name: str) -> str:
    shown = escape(name)
    # Only what has the form of a Hub id becomes a link, so a name cannot smuggle in an address.
    if re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", name):
        return f'<a href="https://huggingface.co/{shown}" rel="noopener">{shown}</a>'
    return shown


def _card(kind: str, headline: str, body: str, icon: str | None = None) -> str:
    return (
        f'<section class="rf-card rf-verdict rf-{kind}"><h2>{_icon(icon or kind)}<span>{_unbroken(headline)}</span></h2>'
        f"{body}</section>"
    )


def _unbroken(words: str) -> str:
    # A narrow window would break the one word that matters at its hyphen.
    return re.sub(r"(\w+-\w+)", r'<span class="rf-keep">\1</span>', escape(words))


def _icon(name: str) -> str:
    return (
        '<svg viewBox="0 0 24 24" width="28" height="28" fill="none" stroke="currentColor" stroke-width="1.8" '
        f'stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">{_ICONS[name]}</svg>'
    )


def _bars(probabilities: Mapping[str, float] | None, title: str) -> str:
    rows = []
    for label in (AI, REAL):
        share = 0.0 if probabilities is None else probabilities[label]
        words = "–" if probabilities is None else text.percent(share)
        rows.append(
            f'<li class="rf-bar rf-bar-{label}"><span>{escape(text.LABELS[label])}</span><span>{escape(words)}</span>'
            f'<span class="rf-track" aria-hidden="true"><span style="width:{100 * share:.1f}%"></span></span></li>'
        )
    return f'<h3>{escape(title)}</h3><ul class="rf-bars">{"".join(rows)}</ul>'


def _mapping(value: Any) -> Mapping:
    return value if isinstance(value, Mapping) else {}


def _dig(value: Any, *keys: str) -> Any:
    for key in keys:
        value = _mapping(value).get(key)
    return value


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)
