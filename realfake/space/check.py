"""The first tab: drop an image, read the verdict, see the evidence.

Only widgets and what happens when one changes; the answers are in `handlers`, the HTML in `render`.
"""

import json
import logging
from pathlib import Path

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache

from realfake.attribution.methods import METHODS
from realfake.imaging.decode import LIMITS
from realfake.imaging.fetch import fetch
from realfake.labels import AI, REAL
from realfake.space import render
from realfake.space.about import about
from realfake.space.feedback import Feedback
from realfake.space.feedback_form import build_feedback
from realfake.space.handlers import Handlers, begin, language, recolour
from realfake.space.image_input import ImageInput, file_name
from realfake.space.loading import Loaded
from realfake.space.localised import Localised, marker
from realfake.space.markup import escape
from realfake.space.report import write_json, write_pdf
from realfake.space.text import EXAMPLES

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "examples"
# Two at a time: while the model works for one visitor, another's image is decoded.
AT_A_TIME = {"concurrency_limit": 2, "concurrency_id": "model"}


def build_check(
    loaded: Loaded,
    handlers: Handlers,
    local: Localised,
    time_to_live: int,
    feedback: Feedback | None = None,
) -> None:
    """Lay the tab out, inside `gr.Blocks`.

    Args:
        loaded: The detector and what is known of it.
        handlers: The answers.
        local: Takes the texts.
        time_to_live: Seconds that an answer is kept for the sliders and the report.
        feedback: *optional*. Keeps corrections; without it the page asks for none.
    """
    detector = loaded.detector
    kept, changed, current = gr.State(time_to_live=time_to_live), gr.State(), gr.State({})
    with gr.Column(elem_id="rf-layout"):
        with gr.Column(elem_id="rf-pictures"):
            with gr.Column(elem_id="rf-input"):
                image = ImageInput(
                    label=local("image.label"),
                    show_label=False,
                    placeholder=local("image.placeholder"),
                    sources=["upload", "clipboard", "webcam"],
                    height=360,
                    buttons=[],
                    alt_text=local("image.label"),
                    elem_id="rf-drop",
                )
                with gr.Row(elem_id="rf-url"):
                    url = gr.Textbox(
                        label=local("url.label"),
                        placeholder=local("url.placeholder"),
                        lines=1,
                        max_lines=1,
                        scale=4,
                        min_width=120,
                    )
                    get = gr.Button(local("url.button"), scale=0, min_width=90)
                url_note = gr.HTML(elem_id="rf-url-note")
                gr.Examples(
                    [str(FOLDER / name) for name in EXAMPLES],
                    image,
                    label=local("examples.label"),
                    cache_examples=False,
                    api_visibility="private",
                    elem_id="rf-examples",
                )
            with gr.Column(elem_id="rf-map"):
                gr.HTML(local.html("map_title", render.map_title))
                picture = gr.Image(
                    label=local("map.label"),
                    show_label=False,
                    interactive=False,
                    format="jpeg",
                    height=400,
                    buttons=["download", "fullscreen"],
                    alt_text=local("map.label"),
                    elem_id="rf-picture",
                )
                note = gr.HTML(local.html("map_empty", render.map_empty), elem_id="rf-note")
                method = gr.Radio(
                    [(local(f"method.{name}"), name) for name in METHODS],
                    value=detector.explanation_method,
                    label=local("map.method"),
                )
                target = gr.Radio(
                    [(local(f"label.{name}"), name) for name in (AI, REAL)],
                    value=AI,
                    label=local("map.target"),
                )
                opacity = gr.Slider(
                    0, 100, value=50, step=5, label=local("map.opacity"), buttons=[]
                )
        with gr.Column(elem_id="rf-words"):
            # Screen readers read out what changes inside an element that was live before the change.
            verdict = gr.HTML(
                local.html("empty", render.empty), elem_id="rf-verdict", js_on_load=_ANNOUNCE
            )
            with gr.Column(elem_id="rf-prior"):
                prior = gr.Slider(
                    1,
                    99,
                    value=50,
                    step=1,
                    label=local("prior.label"),
                    info=local("prior.info"),
                    buttons=[],
                )
            stability = gr.HTML(
                local.html("stability", render.stability_empty), elem_id="rf-stability"
            )
            provenance = gr.HTML(
                local.html("provenance", render.provenance_empty), elem_id="rf-provenance"
            )
            with gr.Column(elem_id="rf-report"):
                gr.HTML(local.html("report_title", render.report_title))
                with gr.Row():
                    pdf = gr.Button(
                        local("report.pdf"), elem_id="rf-pdf", interactive=False, min_width=120
                    )
                    data = gr.Button(
                        local("report.json"), elem_id="rf-json", interactive=False, min_width=120
                    )
                # A file is made when it is asked for, and the browser then presses these.
                pdf_file = gr.DownloadButton(visible="hidden", elem_id="rf-pdf-file")
                data_file = gr.DownloadButton(visible="hidden", elem_id="rf-json-file")
            if feedback is not None:
                build_feedback(feedback, handlers, local, image, kept, prior)
            gr.HTML(
                local.html(
                    "about",
                    lambda words: about(
                        words, detector.name, detector.revision, detector.facts, loaded.evaluation
                    ),
                ),
                elem_id="rf-about",
            )
    local.html("waiting", render.waiting)
    local.html("map_waiting", lambda words: render.map_empty(words, waiting=True))

    answer = [verdict, picture, note, stability, provenance, kept]
    analysis = changed.change(
        handlers.analyse,
        [current, image, method, target, opacity, prior],
        answer,
        show_progress="hidden",
        trigger_mode="multiple",
        api_visibility="private",
        **AT_A_TIME,
    )
    redrawn = gr.on(
        [method.input, target.input],
        handlers.remap,
        [current, image, method, target, opacity, kept],
        [picture, note, kept],
        show_progress_on=picture,
        trigger_mode="always_last",
        api_visibility="private",
        **AT_A_TIME,
    )
    light = {"show_progress": "hidden", "concurrency_limit": 4, "api_visibility": "private"}
    opacity.input(recolour, [kept, opacity], picture, trigger_mode="always_last", **light)
    prior.input(
        handlers.reprior, [kept, prior], [verdict, stability], trigger_mode="always_last", **light
    )
    # No answer may stand beside an image it is not for. The browser takes the listeners of an event in this order
    # and waits for each: clear at once, cancel what is on its way, clear what came meanwhile and start anew.
    # Through the queue, because only there does Gradio tell the browser that a state has changed.
    image.change(
        None, image, [verdict, picture, note], js=_clear_at_once(), api_visibility="private"
    )
    image.change(None, cancels=[analysis, redrawn])
    image.change(
        begin,
        [current, image],
        [*answer, changed],
        show_progress="hidden",
        concurrency_limit=None,
        api_visibility="private",
    )
    gr.on(
        [url.submit, get.click],
        fetch_image,
        url,
        [image, url_note],
        show_progress_on=url_note,
        trigger_mode="once",
        concurrency_limit=4,
        api_visibility="private",
    )
    kept.change(
        lambda checked: [gr.update(interactive=checked is not None)] * 2,
        kept,
        [pdf, data],
        queue=True,
        **light,
    )
    for button, file, name, write in (
        (pdf, pdf_file, "rf-pdf-file", write_pdf),
        (data, data_file, "rf-json-file", write_json),
    ):
        button.click(
            _reporter(handlers, write),
            [kept, prior],
            file,
            show_progress_on=button,
            concurrency_limit=2,
            api_visibility="private",
        ).then(
            None, js=f"() => document.querySelector('#{name}').click()", api_visibility="private"
        )


def fetch_image(address: str, request: gr.Request | None = None) -> tuple:
    """Download an image into the drop area; what goes wrong stands under the field, beside the old answer."""
    words = language(request)
    address = (address or "").strip()
    if not address:
        return gr.skip(), _alert(words("url.empty"))
    try:
        data = fetch(address, max_bytes=LIMITS.max_bytes)
    except (ValueError, OSError) as error:
        return gr.skip(), _alert(str(error).splitlines()[0], "en")
    except Exception:
        logger.exception("An address could not be fetched")
        return gr.skip(), _alert(words("problem.unexpected"))
    return save_bytes_to_cache(data, file_name(address, data), ImageInput().GRADIO_CACHE), ""


def _alert(message: str, language: str = "") -> str:
    spoken = f' lang="{language}"' if language else ""
    return f'<p class="rf-alert" role="alert"{spoken}>{escape(message)}</p>'


def _reporter(handlers: Handlers, write):
    def report(checked, prior: float, request: gr.Request | None = None):
        words = language(request)
        if checked is None:
            raise gr.Error(words("report.none"), print_exception=False)
        return write(handlers.detector, checked, prior / 100, words)

    return report


_ANNOUNCE = "element.setAttribute('aria-live', 'polite');"


def _clear_at_once() -> str:
    waiting = [marker("html.waiting"), None, marker("html.map_waiting")]
    empty = [marker("html.empty"), None, marker("html.map_empty")]
    return f"image => image ? {json.dumps(waiting)} : {json.dumps(empty)}"


def name_the_examples() -> str:
    """JavaScript that gives the thumbnails names: they are buttons with no text, drawn anew when the gallery likes."""
    from realfake.space.languages import ALSO, LANGUAGES
    from realfake.space.text import words

    names = {
        language: [words(language)(f"example.{name.removesuffix('.jpg')}") for name in EXAMPLES]
        for language in LANGUAGES
    }
    return f"""() => {{
        const all = {json.dumps(names)}, also = {json.dumps(ALSO)};
        const language = document.documentElement.lang.split("-")[0];
        const names = all[also[language] || language] || all.en;
        const name = () => document.querySelectorAll("#rf-examples button").forEach(
            (button, i) => button.setAttribute("aria-label", names[i])
        );
        name();
        new MutationObserver(name).observe(document.body, {{childList: true, subtree: true}});
    }}"""
