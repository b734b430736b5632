"""The form under an answer for who knows better: what is sent is kept only with consent, by `realfake.space.feedback`.

Part of the first tab, there only where the environment says that feedback is taken.
"""

import logging
from pathlib import Path

import gradio as gr

from realfake.labels import AI, REAL
from realfake.space.feedback import MAX_NOTE, Feedback
from realfake.space.handlers import Checked, Handlers, language
from realfake.space.localised import Localised
from realfake.space.markup import escape
from realfake.space.report import as_dict

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"


def build_feedback(
    feedback: Feedback,
    handlers: Handlers,
    local: Localised,
    image: gr.Image,
    kept: gr.State,
    prior: gr.Slider,
) -> None:
    """Lay the form out.

    Args:
        feedback: Keeps what is sent.
        handlers: Whose detector gave the answer.
        local: Takes the texts.
        image, kept, prior: The first tab's image, its `Checked`, and the prior in percent.
    """
    with gr.Accordion(local("feedback.title"), open=False, elem_id="rf-feedback"):
        truth = gr.Radio(
            [(local(f"label.{name}"), name) for name in (AI, REAL)]
            + [(local("feedback.unknown"), UNKNOWN)],
            value=UNKNOWN,
            label=local("feedback.truth"),
        )
        note = gr.Textbox(label=local("feedback.note"), lines=2, max_length=MAX_NOTE)
        consent = gr.Checkbox(label=local("feedback.consent"))
        with_image = gr.Checkbox(label=local("feedback.image"))
        send = gr.Button(local("feedback.send"), elem_id="rf-send")
        said = gr.HTML(
            elem_id="rf-feedback-said", js_on_load="element.setAttribute('aria-live', 'polite');"
        )
    send.click(
        Form(feedback, handlers).send,
        [image, kept, prior, truth, note, consent, with_image],
        said,
        show_progress_on=said,
        trigger_mode="once",
        concurrency_limit=2,
        api_visibility="private",
    )


class Form:
    """What happens to a form that is sent."""

    def __init__(self, feedback: Feedback, handlers: Handlers):
        self.feedback = feedback
        self.handlers = handlers

    def send(
        self,
        path: str | None,
        checked: Checked | None,
        prior: float,
        truth: str,
        note: str,
        consent: bool,
        with_image: bool,
        request: gr.Request | None = None,
    ) -> str:
        """Keep a correction, where its sender agrees; returns what to tell them."""
        words = language(request)
        if checked is None:
            return _said(words("report.none"))
        if not consent:
            return _said(words("feedback.nothing"))
        answer = as_dict(self.handlers.detector, checked, prior / 100)
        try:
            data = Path(path).read_bytes() if with_image and path else None
            self.feedback.record(
                answer,
                consent=True,
                truth=None if truth == UNKNOWN else truth,
                note=note or "",
                image=data,
            )
        except (ValueError, OSError):
            logger.exception("A correction could not be kept")
            return _said(words("feedback.failed"))
        return _said(words("feedback.kept_image" if data else "feedback.kept"))


def _said(message: str) -> str:
    return f'<p class="rf-lead">{escape(message)}</p>'
