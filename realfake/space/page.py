"""The page: its tabs, and how it is served.

Built once around an opened detector (`build`) and started by `launch`. Each tab is a module:
`check`, `batch`, `compare`, `quality`, `code`. The words are in `languages`, the HTML in
`templates`, the look in `style.css` and [`theme`]. The labels are blue and orange, which
colour-blind readers can distinguish, and always have words.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from realfake.detector import Detector
from realfake.runtime import keep_memory_low
from realfake.space.api import add_api, answer_mcp_in_json, build_code
from realfake.space.batch import build_batch
from realfake.space.check import build_check
from realfake.space.compare import build_compare
from realfake.space.feedback import Feedback
from realfake.space.limits import PRIVATE_NETWORKS, TRUSTED_PROXIES, middleware
from realfake.space.loading import Loaded
from realfake.space.quality import build_quality
from realfake.space.routes import Service, routes
from realfake.space.text import ENGLISH, Localised, render
from realfake.space.uploads import keep_tidy, refuse_downloads

FONT = ("system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Noto Sans", "sans-serif")
FONT_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
STYLE = Path(__file__).parent / "style.css"
MAX_FILE_SIZE = "32mb"
# Every ten minutes, uploads and maps older than half an hour are deleted, and ten minutes later
# the files that Gradio has lost track of.
DELETE_CACHE = (600, 1800)
# Events that may wait; further ones are refused with "Queue is full".
MAX_WAITING = 64
# Sessions whose answers are kept for the report, about 6 MiB each.
MAX_SESSIONS = 50
# Threads for event handlers. The events' own limits add up to less.
MAX_THREADS = 16
DEFAULT_PORT = 7860


@dataclass(frozen=True)
class Page:
    """What [`launch`] needs: the widgets, their translations, and the detector for the HTTP
    routes."""

    blocks: gr.Blocks
    i18n: gr.I18n
    detector: Detector
    missing: str | None = None


def build(loaded: Loaded, feedback: Feedback | None = None) -> Page:
    """Lay out the page, with a form for corrections if `feedback` stores them."""
    local = Localised()
    kept = DELETE_CACHE[1]
    with gr.Blocks(title=ENGLISH("page.title"), delete_cache=DELETE_CACHE) as blocks:
        gr.HTML(local.html("header", lambda t: render("page", "header", t)))
        if model := loaded.missing:
            gr.HTML(local.html("notice", lambda t: render("page", "notice", t, model=model)))
        with gr.Tabs(elem_id="rf-tabs", overflow_behavior="wrap"):
            with gr.Tab(local("tab.check"), id="check"):
                build_check(loaded, local, kept, feedback)
            with gr.Tab(local("tab.batch"), id="batch"):
                build_batch(loaded.detector, local, kept)
            with gr.Tab(local("tab.compare"), id="compare"):
                build_compare(loaded, local, kept)
            with gr.Tab(local("tab.quality"), id="quality"):
                build_quality(loaded, local)
            with gr.Tab(local("tab.code"), id="code"):
                build_code(loaded, local)
        gr.HTML(local.html("footer", lambda t: render("page", "footer", t)))
        add_api(loaded.detector)
    return Page(blocks, local.i18n, loaded.detector, loaded.missing)


def launch(page: Page) -> None:
    """Serve the page at the address set by `GRADIO_SERVER_NAME` and `GRADIO_SERVER_PORT` (7860).

    Raises:
        ValueError: `REALFAKE_REQUESTS_PER_MINUTE` has a wrong value, or Gradio lacks a function
            that the page replaces.
        OSError: The port is in use.
    """
    protection = middleware(os.environ)
    os.environ.setdefault(TRUSTED_PROXIES, PRIVATE_NETWORKS)
    keep_tidy(page.blocks, every=DELETE_CACHE[0], age=sum(DELETE_CACHE))
    refuse_downloads()
    answer_mcp_in_json()
    keep_memory_low()
    page.detector.accelerate()
    # Without a port, Gradio takes the next free one.
    port = int(os.environ.get("GRADIO_SERVER_PORT") or DEFAULT_PORT)
    service = Service(page.detector, missing=page.missing)
    try:
        # With an open API, calls could bypass the queue and its limits.
        page.blocks.queue(max_size=MAX_WAITING, api_open=False).launch(
            server_port=port,
            theme=theme(),
            css_paths=STYLE,
            i18n=page.i18n,
            app_kwargs={"routes": routes(service), "middleware": protection},
            mcp_server=True,
            max_file_size=MAX_FILE_SIZE,
            max_threads=MAX_THREADS,
            show_error=True,
            state_session_capacity=MAX_SESSIONS,
            footer_links=["api"],
            ssr_mode=False,
        )
    except OSError as error:
        if "empty port" not in str(error):
            raise
        raise OSError(f"port {port} is in use; set GRADIO_SERVER_PORT to a free one.") from error


def theme() -> gr.themes.Base:
    """Return the theme. It uses system fonts, so that the page works offline."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_lg,
        spacing_size=gr.themes.sizes.spacing_md,
        text_size=gr.themes.sizes.text_md,
        font=FONT,
        font_mono=FONT_MONO,
    ).set(
        body_background_fill="*neutral_100",
        body_background_fill_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_width="1px",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        block_shadow="none",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        body_text_color="*neutral_900",
        body_text_color_dark="*neutral_100",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        checkbox_label_background_fill="*neutral_50",
        checkbox_label_background_fill_dark="*neutral_800",
        checkbox_label_background_fill_hover="*neutral_100",
        checkbox_label_background_fill_hover_dark="*neutral_700",
        checkbox_label_background_fill_selected="*primary_50",
        checkbox_label_background_fill_selected_dark="*primary_900",
        checkbox_label_border_width="1px",
        checkbox_label_border_color="*neutral_200",
        checkbox_label_border_color_dark="*neutral_700",
        checkbox_label_border_color_selected="*primary_500",
        checkbox_label_border_color_selected_dark="*primary_400",
        checkbox_border_color="*neutral_400",
        checkbox_border_color_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_500",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
    )
