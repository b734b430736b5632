"""Gradio's own downloads, switched off.

Wherever a request may hold a file Gradio takes a URL as well, and fetches it whatever its size, type and port, and however long
it takes. On this page an image's URL is read by [`~realfake.space.image_input.ImageInput`], and no other.
"""

import gradio as gr
from gradio import processing_utils


def switch_off() -> None:
    """Refuse, in this process, every URL that Gradio would fetch."""
    processing_utils.async_ssrf_protected_get = _refuse_later
    processing_utils.async_ssrf_protected_download = _refuse_later
    processing_utils.ssrf_protected_download = processing_utils.save_url_to_cache = _refuse


def _refuse(*_, **__):
    raise gr.Error("A URL is not read here; upload the file itself.", print_exception=False)


async def _refuse_later(*_, **__):
    _refuse()
