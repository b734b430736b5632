"""The third tab: several detectors on one image, verdicts and maps side by side.

Widgets and the loop that runs one detector after another; `loading.Detectors` opens them.
"""

import logging
from collections.abc import Iterator
from uuid import uuid4

import gradio as gr

from realfake.answer import read_once
from realfake.detector import Detector
from realfake.space import about, render
from realfake.space.handlers import bounded, judge, language
from realfake.space.image_input import ImageInput
from realfake.space.loading import Detectors, Loaded
from realfake.space.localised import Localised
from realfake.space.markup import escape, icon, paragraph, picture, unbroken
from realfake.space.text import Words

logger = logging.getLogger(__name__)

MAX_MODELS = 5
MAP_SIDE = 512


def build_compare(loaded: Loaded, local: Localised, time_to_live: int) -> None:
    """Lay the tab out, inside `gr.Blocks`.

    Args:
        loaded: The page's own detector, which is compared as well.
        local: Takes the texts.
        time_to_live: Seconds that the state of a comparison is kept.
    """
    detectors = Detectors(loaded)
    with gr.Column(elem_id="rf-compare", elem_classes="rf-panel"):
        gr.HTML(local.html("compare_title", lambda words: render.section(words, "compare")))
        with gr.Row(elem_id="rf-compare-input"):
            with gr.Column(min_width=240):
                image = ImageInput(
                    label=local("image.label"),
                    show_label=False,
                    placeholder=local("image.placeholder"),
                    sources=["upload", "clipboard"],
                    height=260,
                    buttons=[],
                    alt_text=local("image.label"),
                    elem_id="rf-compare-drop",
                )
            with gr.Column(min_width=240):
                names = detectors.names()
                models = gr.CheckboxGroup(
                    names,
                    value=names[:MAX_MODELS],
                    label=local("compare.models"),
                    elem_id="rf-models",
                )
                start = gr.Button(
                    local("compare.start"), variant="primary", elem_id="rf-compare-start"
                )
        cards = gr.HTML(
            local.html("compare_empty", lambda words: said(words("compare.empty"))),
            elem_id="rf-compared",
            js_on_load="element.setAttribute('aria-live', 'polite');",
        )
    run = gr.State({}, time_to_live=time_to_live)
    gr.on(
        [image.change, start.click],
        Compare(detectors).compare,
        [run, image, models],
        cards,
        show_progress="hidden",
        trigger_mode="multiple",
        concurrency_limit=2,
        concurrency_id="compare",
        api_visibility="private",
    )


class Compare:
    """Asks several detectors about one image."""

    def __init__(self, detectors: Detectors):
        self.detectors = detectors

    def compare(
        self, run: dict, path: str | None, models: list[str], request: gr.Request | None = None
    ) -> Iterator[str]:
        """Ask one detector after another.

        Args:
            run: The session's record of what is being compared; a newer comparison ends this one.
            path: The image.
            models: Names that the page offers.

        Yields:
            The cards so far, as HTML.
        """
        words = language(request)
        token = run["token"] = uuid4().hex
        asked = list(dict.fromkeys(models))
        if path is None:
            yield said(words("compare.empty"))
            return
        if len(asked) < 2:
            yield said(words("compare.few"))
            return
        if len(asked) > MAX_MODELS:
            yield said(words("compare.many", n=MAX_MODELS))
            return
        cards, verdicts = [], []
        for name in asked:
            yield grid(said(words("compare.waiting", model=name), waiting=True), cards)
            card, verdict = self._ask(words, name, path)
            if run.get("token") != token:
                return
            cards.append(card)
            verdicts.append(verdict)
        given = [verdict for verdict in verdicts if verdict]
        summary = ""
        if len(given) > 1:
            summary = said(words("compare.agree" if len(set(given)) == 1 else "compare.differ"))
        yield grid(summary, cards)

    def _ask(self, words: Words, name: str, path: str) -> tuple[str, str | None]:
        """One detector's card, and its verdict."""
        try:
            detector = self.detectors.get(name)
            prediction, _ = judge(detector, read_once(path)[0])
        except (ValueError, OSError) as error:
            return failed(words, name, render.reason(error, path)), None
        except Exception:
            logger.exception("%s could not be asked", name)
            return failed(words, name, words("problem.unexpected")), None
        try:
            explanation = bounded(detector.explain(path), MAP_SIDE)
            drawn = picture(
                explanation.overlay(),
                words("compare.map_alt", model=name),
                MAP_SIDE,
                "rf-compare-map",
            )
        except (ValueError, OSError) as error:
            drawn = paragraph(words("map.failed", reason=render.reason(error, path)), "rf-small")
        except Exception:
            logger.exception("%s could not draw a map", name)
            drawn = paragraph(words("map.unexpected"), "rf-small")
        return answered(words, detector, prediction, drawn), prediction.verdict


def said(message: str, waiting: bool = False) -> str:
    """A line above the cards."""
    return f'<p class="rf-lead{" rf-breathing" if waiting else ""}">{escape(message)}</p>'


def grid(summary: str, cards: list[str]) -> str:
    return f'{summary}<div class="rf-compare-grid">{"".join(cards)}</div>'


def answered(words: Words, detector: Detector, prediction, drawn: str) -> str:
    """A detector's answer: verdict, probabilities, map."""
    named = prediction.verdict
    calibrated = about.is_calibrated(detector.facts)
    why = words.named("short", prediction.reason) if prediction.reason else ""
    facts = dict(about.statements(words, detector.facts))
    listed = "".join(
        f'<p class="rf-small">{escape(name)}: {escape(facts[name])}</p>'
        for name in (words("about.corpus"), words("about.input"))
        if name in facts
    )
    return (
        f'<section class="rf-card rf-compared rf-{named}"><h3>{about.model_link(detector.name)}</h3>'
        f'<p class="rf-verdict-line">{icon(named, 22)}<span>{unbroken(words(f"verdict.{named}"))}</span>'
        f'<span class="rf-small">{escape(why)}</span></p>'
        f"{render.bars(words, prediction.probabilities, calibrated, level=4)}{drawn}"
        f"{listed}</section>"
    )


def failed(words: Words, name: str, reason: str) -> str:
    """A detector that gave no answer."""
    return (
        f'<section class="rf-card rf-compared rf-problem"><h3>{escape(name)}</h3>'
        f'<p class="rf-verdict-line">{icon("problem", 22)}<span>{escape(words("compare.failed"))}</span></p>'
        f"{paragraph(reason)}</section>"
    )
