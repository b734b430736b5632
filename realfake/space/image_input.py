"""The image component of the page: it hands over the uploaded file as it is, or what its URL leads to.

`gr.Image` decodes the upload with Pillow before the handler runs, so a broken file ends in a generic error and the
limits of `realfake.imaging.decode` are passed by; a URL it downloads past those of `realfake.imaging.fetch`. Here the handler
gets the path, and the project's one decoder does the rest.
"""

import re
from abc import ABCMeta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import gradio as gr
from gradio.data_classes import ImageData
from gradio.processing_utils import save_bytes_to_cache

from realfake.imaging.decode import LIMITS
from realfake.imaging.fetch import fetch

_SUFFIXES = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"GIF8": ".gif"}


class _WithoutStub(type(gr.Image)):
    """Gradio's metaclass writes a `.pyi` beside the source of every subclass; this one writes no files."""

    def __new__(cls, name, bases, attrs):
        return ABCMeta.__new__(cls, name, bases, attrs)


class ImageInput(gr.Image, metaclass=_WithoutStub):
    """A `gr.Image` whose value reaches the handler as the path of the original, undecoded file."""

    async def async_move_resource_to_block_cache(
        self, url_or_file_path: str | Path | None
    ) -> str | None:
        # Left for `preprocess`, which is given one image; this is called for every file in what was sent.
        if _is_url(url_or_file_path):
            return url_or_file_path
        return await super().async_move_resource_to_block_cache(url_or_file_path)

    def preprocess(self, payload: ImageData | None) -> str | None:
        path = None if payload is None else payload.path
        return self._downloaded(path) if _is_url(path) else path

    def _downloaded(self, address: str) -> str:
        try:
            data = fetch(address, max_bytes=LIMITS.max_bytes)
        except (ValueError, OSError) as error:
            raise gr.Error(str(error).splitlines()[0], print_exception=False) from error
        path = save_bytes_to_cache(data, file_name(address, data), self.GRADIO_CACHE)
        # Deleted with the uploads.
        self.temp_files.add(path)
        return path

    def get_block_name(self) -> str:
        # The browser looks the component up by this name; without it there is no widget for the subclass.
        return "image"


def file_name(address: str, data: bytes) -> str:
    """What to call a file that was downloaded."""
    name = (
        re.sub(r"[^\w.-]+", "-", unquote(urlsplit(address).path).rpartition("/")[2])[-80:].strip(
            ".-"
        )
        or "image"
    )
    suffix = next((suffix for magic, suffix in _SUFFIXES.items() if data.startswith(magic)), "")
    # The browser shows a file by its name's ending.
    return name if not suffix or name.lower().endswith((suffix, ".jpeg")) else f"{name}{suffix}"


def _is_url(path: str | Path | None) -> bool:
    return str(path).startswith(("http://", "https://"))
