"""The third tab: several detectors on one image, verdicts and tile maps side by side."""

import logging
from collections.abc import Iterator
from uuid import uuid4

import gradio as gr

from realfake.labels import AI, REAL
from realfake.space.handlers import check, image_id, is_calibrated
from realfake.space.loading import Detectors, Loaded
from realfake.space.quality import about
from realfake.space.text import ENGLISH, Localised, Words, error_line, render, words_for
from realfake.space.uploads import ImageInput
from realfake.statistics.verdicts import INCONCLUSIVE

logger = logging.getLogger(__name__)

MAX_MODELS = 5


def build_compare(loaded: Loaded, local: Localised, time_to_live: int) -> None:
    """Lay out the tab, inside `gr.Blocks`; its state is dropped after `time_to_live` seconds."""
    detectors = Detectors(loaded)
    names = detectors.names()
    with gr.Column(elem_id="rf-compare", elem_classes="rf-panel"):
        gr.HTML(local.html("compare_title", lambda t: render("compare", "title", t)))
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
                models = gr.CheckboxGroup(
                    [(ENGLISH.named("detector", name), name) for name in names],
                    value=detectors.chosen()[:MAX_MODELS],
                    label=local("compare.models"),
                    elem_id="rf-models",
                )
                alone = not loaded.compare
                gr.HTML(
                    local.html(
                        "compare_purposes",
                        lambda t: render("compare", "purposes", t, names=names, alone=alone),
                    )
                )
                start = gr.Button(
                    local("compare.start"), variant="primary", elem_id="rf-compare-start"
                )
        cards = gr.HTML(
            local.html("compare_empty", lambda t: _line(t, t("compare.empty"))),
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
    """Checks one image with several detectors."""

    def __init__(self, detectors: Detectors):
        self.detectors = detectors

    def compare(
        self, run: dict, path: str | None, models: list[str], request: gr.Request | None = None
    ) -> Iterator[str]:
        """Check an image with one detector after another, and yield the cards so far, as HTML.

        A newer comparison of the same session, whose state is `run`, ends an older one.
        """
        words = words_for(request)
        token = run["token"] = uuid4().hex
        names = list(dict.fromkeys(models))
        if path is None:
            yield _line(words, words("compare.empty"))
            return
        if len(names) < 2:
            yield _line(words, words("compare.few"))
            return
        if len(names) > MAX_MODELS:
            yield _line(words, words("compare.many", n=MAX_MODELS))
            return
        cards: list[str] = []
        verdicts: list[str] = []
        for name in names:
            summary = words("compare.waiting", model=words.named("detector", name))
            yield _grid(words, path, summary, cards, waiting=True)
            card, verdict = self._check(words, name, path)
            if run.get("token") != token:
                # Gradio sends the last output of an event again when it ends.
                yield gr.skip()
                return
            cards.append(card)
            verdicts += [verdict] if verdict else []
        yield _grid(words, path, _agreement(words, verdicts), cards)

    def _check(self, words: Words, name: str, path: str) -> tuple[str, str | None]:
        """The card of one detector, and its verdict."""
        try:
            detector = self.detectors.get(name)
            record = check(detector, path)
            record.check_copies(detector)
        except (ValueError, OSError) as error:
            return _failed(words, name, error_line(error, path)), None
        except Exception:
            logger.exception("%s could not check an image", name)
            return _failed(words, name, words("problem.unexpected")), None
        facts = dict(about(words, detector))
        shown = (words("about.corpus"), words("about.input"))
        card = render(
            "compare",
            "answered",
            words,
            name=detector.name,
            record=record,
            calibrated=is_calibrated(detector.facts),
            why=words.why(record.prediction, record.tiles),
            facts=[(fact, facts[fact]) for fact in shown if fact in facts],
        )
        return card, record.prediction.verdict


def _agreement(words: Words, verdicts: list[str]) -> str:
    if len(verdicts) < 2:
        return ""
    if {REAL, AI} <= set(verdicts):
        return words("compare.differ")
    if set(verdicts) == {INCONCLUSIVE}:
        return words("compare.none")
    return words("compare.unsure" if len(set(verdicts)) > 1 else "compare.agree")


def _line(words: Words, message: str) -> str:
    return render("compare", "line", words, message=message)


def _grid(words: Words, path: str, summary: str, cards: list[str], waiting: bool = False) -> str:
    values = {"summary": summary, "cards": cards, "waiting": waiting}
    return render("compare", "grid", words, image=image_id(path), **values)


def _failed(words: Words, name: str, reason: str) -> str:
    return render("compare", "failed", words, name=name, reason=reason)
