"""The page: its tabs, and how it is served.

Built once around an opened detector (`build`) and started by `launch`. Each tab is a module: `check`, `batch`, `compare`, `quality`,
`code`; the words are in `languages`, the look in `style.css` and `theme`.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware

from realfake.detector import Detector
from realfake.space import gradio_downloads, render
from realfake.space.api import add_api
from realfake.space.batch import build_batch
from realfake.space.body_limit import BodyLimit
from realfake.space.check import build_check, name_the_examples
from realfake.space.closed_routes import ClosedRoutes
from realfake.space.code import build_code
from realfake.space.compare import build_compare
from realfake.space.feedback import Feedback
from realfake.space.guard import Guard
from realfake.space.handlers import Handlers
from realfake.space.loading import Loaded
from realfake.space.localised import Localised
from realfake.space.quality import build_quality
from realfake.space.rate_limit import RateLimit
from realfake.space.routes import routes
from realfake.space.text import ENGLISH
from realfake.space.theme import theme
from realfake.space.tidying import keep_tidy

STYLE = Path(__file__).parent / "style.css"
MAX_FILE_SIZE = "32mb"
# Uploads and maps older than half an hour are deleted, checked every ten minutes; what Gradio loses track of, ten minutes later.
DELETE_CACHE = (600, 1800)
# Events that may wait; beyond it the page says that the queue is full.
MAX_WAITING = 64
# Sessions whose answer is kept for the sliders and the report; the one unused longest is forgotten first.
MAX_SESSIONS = 100


@dataclass(frozen=True)
class Page:
    """What [`launch`] needs: the widgets, their translations, and the detector for the HTTP routes."""

    blocks: gr.Blocks
    i18n: gr.I18n
    detector: Detector


def build(loaded: Loaded, feedback: Feedback | None = None) -> Page:
    """Lay out the page.

    Args:
        loaded: The opened detector.
        feedback: *optional*. Keeps visitors' corrections; without it the page asks for none.
    """
    local, handlers = Localised(), Handlers(loaded.detector)
    kept = DELETE_CACHE[1]
    with gr.Blocks(title=ENGLISH("page.title"), delete_cache=DELETE_CACHE) as blocks:
        gr.HTML(local.html("header", render.header))
        if loaded.missing:
            gr.HTML(
                local.html(
                    "notice",
                    lambda words: render.notice(words("page.fallback", model=loaded.missing)),
                )
            )
        with gr.Tabs(elem_id="rf-tabs", overflow_behavior="wrap"):
            with gr.Tab(local("tab.check"), id="check"):
                build_check(loaded, handlers, local, kept, feedback)
            with gr.Tab(local("tab.batch"), id="batch"):
                build_batch(loaded.detector, local, kept)
            with gr.Tab(local("tab.compare"), id="compare"):
                build_compare(loaded, local, kept)
            with gr.Tab(local("tab.quality"), id="quality"):
                build_quality(loaded, local)
            with gr.Tab(local("tab.code"), id="code"):
                build_code(loaded, local)
        gr.HTML(local.html("footer", render.footer))
        blocks.load(None, js=name_the_examples(), api_visibility="private")
        add_api(loaded.detector)
    return Page(blocks, local.i18n, loaded.detector)


def launch(page: Page) -> None:
    """Serve the page, on the address that `GRADIO_SERVER_NAME` and `GRADIO_SERVER_PORT` give.

    Raises:
        ValueError: `REALFAKE_REQUESTS_PER_MINUTE` is no number.
    """
    limit = RateLimit.from_environ(os.environ)
    keep_tidy(page.blocks, every=DELETE_CACHE[0], age=sum(DELETE_CACHE))
    gradio_downloads.switch_off()
    # Closed, the API has no way past the queue and its limits.
    page.blocks.queue(max_size=MAX_WAITING, api_open=False).launch(
        theme=theme(),
        css_paths=STYLE,
        i18n=page.i18n,
        app_kwargs={
            "routes": routes(page.detector),
            "middleware": [
                Middleware(Guard, limit=limit),
                Middleware(ClosedRoutes),
                Middleware(BodyLimit),
            ],
        },
        mcp_server=True,
        max_file_size=MAX_FILE_SIZE,
        show_error=True,
        state_session_capacity=MAX_SESSIONS,
        footer_links=["api"],
        ssr_mode=False,
    )
