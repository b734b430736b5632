"""The page: which widgets there are, where they stand, and what happens when one changes.

Built once around an opened detector (`build`) and started by `launch`. The words are in `text`, the HTML in
`render`, the answers in `handlers`, the look in `style.css` and `theme`.
"""

import json
from pathlib import Path

import gradio as gr

from ..labels import AI
from . import render, text
from .handlers import Handlers, begin, recolour
from .image_input import ImageInput
from .loading import Loaded
from .theme import theme

HERE = Path(__file__).parent
EXAMPLES = HERE / "examples"
METHOD = next(iter(text.METHODS))
MAX_FILE_SIZE = "32mb"
# Uploads and maps older than half an hour are deleted, checked every ten minutes.
DELETE_CACHE = (600, 1800)
# Sessions whose map is kept for the opacity slider; the one unused longest is forgotten first.
MAX_SESSIONS = 100
# One forward pass at a time: a map hooks into the layers of the model that a verdict runs through.
ONE_AT_A_TIME = {"concurrency_limit": 1, "concurrency_id": "model"}


def build(loaded: Loaded) -> gr.Blocks:
    """Lay out the page around an opened detector."""
    detector = loaded.detector
    handlers = Handlers(detector)
    with gr.Blocks(title=text.TITLE, delete_cache=DELETE_CACHE) as page:
        gr.HTML(render.header())
        if loaded.notice:
            gr.HTML(render.notice(loaded.notice))
        with gr.Column(elem_id="rf-layout"):
            with gr.Column(elem_id="rf-pictures"):
                with gr.Column(elem_id="rf-input"):
                    image = ImageInput(
                        label=text.IMAGE_LABEL,
                        show_label=False,
                        placeholder=text.IMAGE_PLACEHOLDER,
                        sources=["upload", "clipboard", "webcam"],
                        height=360,
                        buttons=[],
                        alt_text=text.IMAGE_LABEL,
                        elem_id="rf-drop",
                    )
                    gr.Examples(
                        [str(EXAMPLES / name) for name in text.EXAMPLES],
                        image,
                        label=text.EXAMPLES_LABEL,
                        cache_examples=False,
                        api_visibility="private",
                        elem_id="rf-examples",
                    )
                with gr.Column(elem_id="rf-map"):
                    gr.HTML(render.map_title())
                    picture = gr.Image(
                        label=text.MAP_LABEL,
                        show_label=False,
                        interactive=False,
                        format="jpeg",
                        height=400,
                        buttons=["download", "fullscreen"],
                        alt_text=text.MAP_EMPTY,
                        elem_id="rf-picture",
                    )
                    note = gr.HTML(render.map_note(text.MAP_EMPTY), elem_id="rf-note")
                    method = gr.Radio(_choices(text.METHODS), value=METHOD, label=text.MAP_METHOD)
                    target = gr.Radio(_choices(text.TARGETS), value=AI, label=text.MAP_TARGET)
                    opacity = gr.Slider(0, 100, value=50, step=5, label=text.MAP_OPACITY, buttons=[])
            with gr.Column(elem_id="rf-words"):
                verdict = gr.HTML(render.empty(), elem_id="rf-verdict", js_on_load=_ANNOUNCE)
                gr.HTML(
                    render.about(detector.name, detector.revision, detector.facts, loaded.evaluation),
                    elem_id="rf-about",
                )
        gr.HTML(render.footer())

        kept = gr.State(time_to_live=DELETE_CACHE[1])
        changed = gr.State()
        current = gr.State({})
        answer = [verdict, picture, note, kept]
        how = [current, image, method, target, opacity]
        analysis = changed.change(
            handlers.analyse, how, answer,
            show_progress="hidden", trigger_mode="multiple", api_visibility="private", **ONE_AT_A_TIME,
        )  # fmt: skip
        redrawn = gr.on(
            [method.input, target.input], handlers.remap, how, answer[1:],
            show_progress_on=picture, trigger_mode="always_last", api_visibility="private", **ONE_AT_A_TIME,
        )  # fmt: skip
        opacity.input(
            recolour, [kept, opacity], picture,
            show_progress="hidden", trigger_mode="always_last", concurrency_limit=4, api_visibility="private",
        )  # fmt: skip
        # No answer may stand beside an image it is not for. The browser takes the listeners of an event in this order
        # and waits for each: clear at once, cancel what is on its way, clear what came meanwhile and start anew.
        # Through the queue, because only there does Gradio tell the browser that a state has changed.
        image.change(None, image, [verdict, picture, note], js=_clear_at_once(), api_visibility="private")
        image.change(None, cancels=[analysis, redrawn])
        image.change(
            begin, [current, image], [*answer, changed],
            show_progress="hidden", concurrency_limit=None, api_visibility="private",
        )  # fmt: skip
        page.load(None, js=_name_the_examples())
        _add_api(handlers)
    return page


def launch(page: gr.Blocks) -> None:
    """Serve the page, on the address that `GRADIO_SERVER_NAME` and `GRADIO_SERVER_PORT` give."""
    page.queue(max_size=64).launch(
        theme=theme(),
        css_paths=HERE / "style.css",
        max_file_size=MAX_FILE_SIZE,
        show_error=True,
        state_session_capacity=MAX_SESSIONS,
        footer_links=["api"],
        ssr_mode=False,
    )


# Screen readers read out what changes inside an element that was live before the change.
_ANNOUNCE = "element.setAttribute('aria-live', 'polite');"


def _add_api(handlers: Handlers) -> None:
    """Add the two named endpoints, on inputs of their own so that their parameters read well in the API's docs."""
    image = ImageInput(label="image: a JPEG, PNG, WebP, … file or its URL", visible=False)
    method = gr.Radio(list(text.METHODS), value=METHOD, label="method", visible=False)
    target = gr.Radio(list(text.TARGETS), value=AI, label="target: whose evidence is warm", visible=False)
    opacity = gr.Slider(0, 1, value=0.5, label="opacity of the map", visible=False)
    prediction = gr.JSON(label="prediction", visible=False)
    overlay = gr.Image(label="overlay", format="png", visible=False)
    gr.Button(visible=False).click(handlers.predict, image, prediction, api_name="predict", **ONE_AT_A_TIME)
    gr.Button(visible=False).click(
        handlers.explain, [image, method, target, opacity], [overlay, prediction],
        api_name="explain", **ONE_AT_A_TIME,
    )  # fmt: skip


def _choices(named: dict[str, str]) -> list[tuple[str, str]]:
    return [(name, value) for value, name in named.items()]


def _clear_at_once() -> str:
    waiting = [render.waiting(), None, render.map_note(text.MAP_WAITING, waiting=True)]
    empty = [render.empty(), None, render.map_note(text.MAP_EMPTY)]
    return f"image => image ? {json.dumps(waiting)} : {json.dumps(empty)}"


def _name_the_examples() -> str:
    # The thumbnails are buttons with no text, and the gallery draws them anew when it likes.
    return f"""() => {{
        const names = {json.dumps(list(text.EXAMPLES.values()))};
        const name = () => document.querySelectorAll("#rf-examples button").forEach(
            (button, i) => button.setAttribute("aria-label", names[i])
        );
        name();
        new MutationObserver(name).observe(document.body, {{childList: true, subtree: true}});
    }}"""
