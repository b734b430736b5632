"""Functions of Gradio that the page replaces. If one of them is gone, the page does not start."""

import json
from types import ModuleType
from typing import Any

import gradio as gr
from gradio import mcp, processing_utils
from gradio_client import utils as client_utils

# Wherever a request may name a file, Gradio also accepts a URL and fetches it, whatever its size,
# type and port. On this page only `ImageInput` reads URLs, through `realfake.imaging.fetch`.
DOWNLOADS = (
    "async_ssrf_protected_get",
    "async_ssrf_protected_download",
    "ssrf_protected_download",
    "save_url_to_cache",
)
MCP_OUTPUT = "postprocess_output_data"


def apply() -> None:
    """Switch Gradio's downloads off, and let MCP tools answer in JSON.

    Raises:
        ValueError: Gradio has renamed or removed a function. The downloads would be open again.
    """
    for name in DOWNLOADS:
        replacement = _refuse_later if name.startswith("async_") else _refuse
        _replace(processing_utils, name, replacement)
    original = getattr(mcp.GradioMCPServer, MCP_OUTPUT, None)
    if not getattr(original, "answers_json", False):
        _replace(mcp.GradioMCPServer, MCP_OUTPUT, _in_json(original))


def _replace(owner: ModuleType | type, name: str, function: Any) -> None:
    if not callable(getattr(owner, name, None)):
        raise ValueError(
            f"Gradio {gr.__version__} has no {owner.__name__}.{name}, which the page replaces; "
            "install a version of Gradio that requirements.txt allows."
        )
    setattr(owner, name, function)


def _refuse(*_: Any, **__: Any) -> None:
    raise gr.Error("URLs are not read here; upload the file.", print_exception=False)


async def _refuse_later(*_: Any, **__: Any) -> None:
    _refuse()


def _in_json(original: Any) -> Any:
    """Write dictionaries and lists as JSON, and several outputs one after the other.

    Gradio's own function writes Python's `repr` of both.
    """

    def postprocess(server: Any, data: list, *arguments: Any, **options: Any) -> list:
        outputs = []
        for value in data:
            outputs += value if isinstance(value, tuple) else [value]
        outputs = [
            json.dumps(value, ensure_ascii=False)
            if isinstance(value, (dict, list)) and not client_utils.is_file_obj(value)
            else value
            for value in outputs
        ]
        return original(server, outputs, *arguments, **options)

    postprocess.answers_json = True  # type: ignore[attr-defined]
    return postprocess
