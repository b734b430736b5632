"""The first tab: add an image, read the verdict, see the evidence, download a report.

The layout and the events. Answers are made by `handlers`, and the browser decides which of them it
shows (`page.js`).
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from realfake.labels import AI, REAL
from realfake.space.feedback import MAX_NOTE, Feedback
from realfake.space.handlers import Handlers, Session
from realfake.space.loading import Loaded
from realfake.space.maps import PASSES
from realfake.space.quality import about
from realfake.space.report import as_dict, write_report
from realfake.space.text import EXAMPLES, Localised, Words, error_line, render, words_for
from realfake.space.uploads import ImageInput

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "examples"
SCRIPT = Path(__file__).with_name("page.js")
UNKNOWN = "unknown"
# A method with more forward passes for a view is not the first choice on a CPU.
QUICK = 50
# Two at once: while the model runs for one visitor, the image of another is decoded.
MODEL_QUEUE: dict[str, Any] = {"concurrency_limit": 2, "concurrency_id": "model"}
# Screen readers announce changes inside an element that was live before the change.
ANNOUNCE = "element.setAttribute('aria-live', 'polite');"


def build_check(
    loaded: Loaded, local: Localised, time_to_live: int, feedback: Feedback | None = None
) -> None:
    """Lay out the tab, inside `gr.Blocks`, with a form for corrections if `feedback` stores them.

    A visitor's answers are dropped after `time_to_live` seconds.
    """
    handlers = Handlers(loaded.detector, loaded.evaluation)
    session = gr.State(Session(), time_to_live=time_to_live)
    number, wanted = gr.Number(visible=False), gr.Checkbox(visible=False)

    def html(name: str, elem_id: str | None = None, live: bool = False, **values: object) -> None:
        draw = local.html(name, lambda t: render("check", name, t, **values))
        gr.HTML(draw, elem_id=elem_id, js_on_load=ANNOUNCE if live else None)

    with gr.Column(elem_id="rf-layout"):
        with gr.Column(elem_id="rf-pictures"):
            with gr.Column(elem_id="rf-input"):
                image = ImageInput(
                    label=local("image.label"),
                    show_label=False,
                    placeholder=local("image.placeholder"),
                    sources=["upload", "clipboard", "webcam"],
                    height=300,
                    buttons=[],
                    alt_text=local("image.label"),
                    elem_id="rf-drop",
                )
                html("another", "rf-another-row")
                _url_field(local, image)
                gr.Examples(
                    [str(FOLDER / name) for name in EXAMPLES],
                    image,
                    label=local("examples.label"),
                    cache_examples=False,
                    api_visibility="private",
                    elem_id="rf-examples",
                )
            with gr.Column(elem_id="rf-map"):
                html("map_head")
                html("tiles_slot", "rf-evidence")
                html("detail_slot", "rf-detail")
                method, target, opacity = _settings(local, loaded.detector.explanation_method)
        with gr.Column(elem_id="rf-words"):
            html("verdict_slot", "rf-verdict", live=True)
            html("stability_slot", "rf-stability")
            html("provenance_slot", "rf-provenance")
            with _folded(local, "prior", "rf-prior"):
                prior = gr.Slider(
                    1,
                    99,
                    value=50,
                    step=1,
                    label=local("prior.label"),
                    info=local("prior.info"),
                    buttons=[],
                )
            settings = [session, image, method, target, prior]
            _report(handlers, local, [*settings, opacity])
            if feedback is not None:
                _feedback(handlers, local, feedback, settings)
            gr.HTML(local.html("about", lambda t: _about(t, loaded)), elem_id="rf-about")
    names = [name.removesuffix(".jpg") for name in EXAMPLES]
    html("script_words", examples=names)
    want = gr.Button(visible="hidden", elem_id="rf-want")
    messages = gr.HTML(
        html_template="", js_on_load=SCRIPT.read_text(encoding="utf-8"), elem_id="rf-messages"
    )

    changes = [image.change, method.input, target.input, want.click]
    # The first event runs at once, so that answers to older events stop early.
    gr.on(
        changes,
        Session.note_event,
        [session, number],
        js="session => [session, window.realfakeEvent()]",
        show_progress="hidden",
        trigger_mode="multiple",
        concurrency_limit=None,
        api_visibility="private",
    )
    gr.on(
        changes,
        handlers.answer,
        [session, image, method, target, number, wanted],
        [messages, session],
        js="(...all) => [...all.slice(0, -2), window.realfakeEvent(), window.realfakeWanted()]",
        show_progress="hidden",
        trigger_mode="multiple",
        api_visibility="private",
        **MODEL_QUEUE,
    )


@contextmanager
def _folded(local: Localised, name: str, elem_id: str) -> Iterator[None]:
    """One line that opens. `gr.Accordion` takes its content out of the page while it is closed."""
    with gr.Column(elem_id=elem_id, elem_classes="rf-fold-group"):
        gr.HTML(local.html(f"{name}_line", lambda t: render("check", "line", t, name=name)))
        with gr.Column(elem_id=f"{elem_id}-content", elem_classes="rf-folded"):
            yield


def _settings(local: Localised, preferred: str) -> tuple[gr.Radio, gr.Radio, gr.Slider]:
    """The settings of the detail, folded; the methods in the order of their time."""
    quickest = min(PASSES, key=lambda name: PASSES[name])
    with _folded(local, "advanced", "rf-advanced"):
        method = gr.Radio(
            [(local(f"method.{name}"), name) for name in sorted(PASSES, key=lambda n: PASSES[n])],
            value=preferred if PASSES[preferred] <= QUICK else quickest,
            label=local("map.method"),
            elem_id="rf-method",
        )
        target = gr.Radio(
            [(local(f"label.{name}"), name) for name in (AI, REAL)],
            value=AI,
            label=local("map.target"),
            elem_id="rf-target",
        )
        opacity = gr.Slider(
            0, 100, value=50, step=5, label=local("map.opacity"), buttons=[], elem_id="rf-strength"
        )
    return method, target, opacity


def _about(words: Words, loaded: Loaded) -> str:
    pairs = about(words, loaded.detector, loaded.evaluation)
    name = words.named("detector", loaded.detector.name)
    return render("check", "about", words, name=name, pairs=pairs)


def _url_field(local: Localised, image: gr.Image) -> None:
    with gr.Row(elem_id="rf-url"):
        url = gr.Textbox(
            label=local("url.label"),
            placeholder=local("url.placeholder"),
            lines=1,
            max_lines=1,
            scale=4,
            min_width=120,
        )
        button = gr.Button(local("url.button"), scale=0, min_width=90)
    note = gr.HTML(elem_id="rf-url-note")
    gr.on(
        [url.submit, button.click],
        fetch_image,
        url,
        [image, note],
        show_progress_on=note,
        trigger_mode="once",
        concurrency_limit=4,
        api_visibility="private",
    )


def fetch_image(address: str, request: gr.Request | None = None) -> tuple:
    """Download an image into the drop area. An error is shown below the field."""
    words = words_for(request)
    address = (address or "").strip()
    if not address:
        return gr.skip(), render("check", "alert", words, message=words("url.empty"))
    try:
        return ImageInput().download(address), ""
    except (ValueError, OSError) as error:
        message = error_line(error, "")
        return gr.skip(), render("check", "alert", words, message=message, language="en")
    except Exception:
        logger.exception("An address could not be fetched")
        return gr.skip(), render("check", "alert", words, message=words("problem.unexpected"))


def _report(handlers: Handlers, local: Localised, inputs: list) -> None:
    with gr.Column(elem_id="rf-report"):
        gr.HTML(local.html("report_title", lambda t: render("check", "report_title", t)))
        with gr.Row():
            for kind in ("html", "json"):
                button = gr.Button(
                    local(f"report.{kind}"), elem_id=f"rf-report-{kind}", min_width=120
                )
                # The browser presses this one once the file is there.
                file = gr.DownloadButton(visible="hidden", elem_id=f"rf-report-{kind}-file")
                button.click(
                    reporter(handlers, kind),
                    inputs,
                    file,
                    show_progress_on=button,
                    api_visibility="private",
                    **MODEL_QUEUE,
                ).success(
                    None,
                    js=f"() => document.querySelector('#rf-report-{kind}-file').click()",
                    api_visibility="private",
                )


def reporter(handlers: Handlers, kind: str) -> Callable[..., str]:
    """Return the event handler that writes a report on the image in the drop area."""

    def report(
        session: Session,
        path: str | None,
        method: str,
        target: str,
        prior: float,
        opacity: float,
        request: gr.Request | None = None,
    ) -> str:
        words = words_for(request)
        if path is None:
            raise gr.Error(words("report.none"), print_exception=False)
        try:
            record = handlers.record(session, path)
        except (ValueError, OSError) as error:
            raise gr.Error(error_line(error, path), print_exception=False) from error
        try:
            drawn = handlers.map(record, method, target)
        except Exception:
            logger.exception("The map of a report could not be drawn by %s", method)
            drawn = None
        return write_report(kind, handlers, record, drawn, prior / 100, opacity / 100, words)

    return report


def _feedback(handlers: Handlers, local: Localised, feedback: Feedback, settings: list) -> None:
    with _folded(local, "feedback", "rf-feedback"):
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
        reply = gr.HTML(elem_id="rf-feedback-reply", js_on_load=ANNOUNCE)
    send.click(
        sender(handlers, feedback),
        [*settings, truth, note, consent, with_image],
        reply,
        show_progress_on=reply,
        trigger_mode="once",
        api_visibility="private",
        **MODEL_QUEUE,
    )


def sender(handlers: Handlers, feedback: Feedback) -> Callable[..., str]:
    """Return the event handler that stores a correction, if its sender agrees."""

    def send(
        session: Session,
        path: str | None,
        method: str,
        target: str,
        prior: float,
        truth: str,
        note: str,
        consent: bool,
        with_image: bool,
        request: gr.Request | None = None,
    ) -> str:
        words = words_for(request)

        def reply(key: str) -> str:
            return render("check", "lead", words, message=words(key))

        if path is None:
            return reply("report.none")
        if not consent:
            return reply("feedback.nothing")
        try:
            record = handlers.record(session, path)
            feedback.record(
                as_dict(handlers, record, record.maps.get((method, target)), prior / 100),
                consent=True,
                truth=None if truth == UNKNOWN else truth,
                note=note or "",
                image=Path(path).read_bytes() if with_image else None,
            )
        except (ValueError, OSError):
            logger.exception("A correction could not be stored")
            return reply("feedback.failed")
        return reply("feedback.kept_image" if with_image else "feedback.kept")

    return send
