"""The image component of the page: it hands over the uploaded file as it is, or downloads a URL.

`gr.Image` decodes an upload with Pillow before the handler runs. A broken file then ends in a
generic error, and the limits of `realfake.imaging.decode` do not apply. Here the handler gets the
path of the file. URLs are read only by [`ImageInput`], through `realfake.imaging.fetch`:
[`refuse_downloads`] switches off Gradio's own downloads, which have no limits.
"""

import re
from abc import ABCMeta
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import gradio as gr
from gradio import processing_utils
from gradio.data_classes import ImageData
from gradio.processing_utils import save_bytes_to_cache

from realfake.hub_api import decode_inputs
from realfake.imaging.decode import LIMITS
from realfake.imaging.fetch import fetch

# Wherever a request may name a file, Gradio also accepts a URL and fetches it, whatever its size,
# type and port.
DOWNLOADS = (
    "async_ssrf_protected_get",
    "async_ssrf_protected_download",
    "ssrf_protected_download",
    "save_url_to_cache",
)
_SUFFIXES = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"GIF8": ".gif"}


class _WithoutStub(type(gr.Image)):
    """Gradio's metaclass writes a `.pyi` file for every subclass. This one does not."""

    def __new__(cls, name, bases, attrs):
        return ABCMeta.__new__(cls, name, bases, attrs)


class ImageInput(gr.Image, metaclass=_WithoutStub):
    """A `gr.Image` whose value reaches the handler as the path of the original, undecoded file."""

    async def async_move_resource_to_block_cache(
        self, url_or_file_path: str | Path | None
    ) -> str | None:
        """Leave a URL as it is, and move a local file to the cache."""
        # `preprocess` downloads the one image; this is called for every file in a request.
        if _is_url(url_or_file_path):
            return str(url_or_file_path)
        return await super().async_move_resource_to_block_cache(url_or_file_path)

    def preprocess(self, payload: ImageData | None) -> str | None:
        """Return the path of the uploaded or downloaded file."""
        path = None if payload is None else payload.path
        inline = payload.url if payload and path is None and _is_data(payload.url) else None
        if inline is None and not _is_url(path):
            return path
        try:
            path = self.download(str(path)) if inline is None else self.decode(inline)
        except (ValueError, OSError) as error:
            raise gr.Error(str(error).splitlines()[0], print_exception=False) from error
        self.temp_files.add(path)  # deleted with the uploads
        return path

    def download(self, address: str) -> str:
        """Download an image to Gradio's cache, and return the file's path.

        Raises:
            ValueError: The URL is not allowed, or is not an image.
            OSError: The image cannot be fetched.
        """
        data = fetch(address, max_bytes=LIMITS.max_bytes)
        return save_bytes_to_cache(data, _file_name(address, data), self.GRADIO_CACHE)

    def decode(self, address: str) -> str:
        """Write the content of a data URI to Gradio's cache, and return the file's path.

        Raises:
            ValueError: It is too large, or not base64.
        """
        if len(address) > LIMITS.max_bytes * 4 // 3 + 1000:
            limit = LIMITS.max_bytes // 2**20
            raise ValueError(f"The data URI is larger than {limit} MiB; scale the image down.")
        if ";base64," not in address[:200]:
            raise ValueError("The data URI is not base64; send data:image/jpeg;base64,….")
        data = decode_inputs(address)
        return save_bytes_to_cache(data, _file_name("", data), self.GRADIO_CACHE)

    def get_block_name(self) -> str:
        """Return the name by which the browser finds the widget."""
        return "image"


def _file_name(address: str, data: bytes) -> str:
    name = unquote(urlsplit(address).path).rpartition("/")[2]
    name = re.sub(r"[^\w.-]+", "-", name)[-80:].strip(".-") or "image"
    suffix = next((suffix for magic, suffix in _SUFFIXES.items() if data.startswith(magic)), "")
    # The browser chooses how to show a file by its suffix.
    return name if not suffix or name.lower().endswith((suffix, ".jpeg")) else f"{name}{suffix}"


def _is_data(address: str | None) -> bool:
    return address is not None and address[:5].lower() == "data:"


def _is_url(path: str | Path | None) -> bool:
    return str(path).startswith(("http://", "https://"))


def refuse_downloads() -> None:
    """Switch off Gradio's downloads.

    Raises:
        ValueError: Gradio has renamed or removed one of them. It would be open again.
    """
    for name in DOWNLOADS:
        refusal = _refuse_later if name.startswith("async_") else _refuse
        replace_function(processing_utils, name, refusal)


def replace_function(owner: ModuleType | type, name: str, function: Any) -> None:
    """Replace a function of Gradio.

    Raises:
        ValueError: Gradio has no such function.
    """
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
