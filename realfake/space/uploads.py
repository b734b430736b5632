"""What visitors send: the image component of the page, and the temporary files with their deletion.

`gr.Image` decodes an upload with Pillow before the handler runs. A broken file then ends in a
generic error, and the limits of `realfake.imaging.decode` do not apply. Here the handler gets the
path of the file. URLs are read only by [`ImageInput`], through `realfake.imaging.fetch`:
[`refuse_downloads`] switches off Gradio's own downloads, which have no limits.

Gradio deletes the files that it keeps track of (`delete_cache`). It loses track of uploads that
break off, of images that MCP clients send, and of everything after a kill. [`keep_tidy`] deletes
those.
"""

import contextlib
import logging
import os
import re
import secrets
import tempfile
import threading
import time
from abc import ABCMeta
from collections.abc import Callable, Collection
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import gradio as gr
from gradio import processing_utils
from gradio.data_classes import ImageData
from gradio.processing_utils import save_bytes_to_cache

from realfake.imaging.decode import LIMITS
from realfake.imaging.fetch import fetch, is_data_uri, read_data_uri
from realfake.space import PREFIX, VARIABLE

if TYPE_CHECKING:
    import gradio as gr

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
        address = payload.url or "" if payload and path is None else ""
        try:
            if is_data_uri(address):
                path = self._keep(read_data_uri(address, LIMITS.max_bytes))
            elif _is_url(path):
                path = self.download(str(path))
            else:
                return path
        except (ValueError, OSError) as error:
            raise gr.Error(str(error).splitlines()[0], print_exception=False) from error
        self.temp_files.add(path)  # deleted with the uploads
        return path

    def download(self, address: str) -> str:
        """Download an image to Gradio's cache, as [`fetch`], and return the file's path."""
        return self._keep(fetch(address, max_bytes=LIMITS.max_bytes), address)

    def _keep(self, data: bytes, address: str = "") -> str:
        return save_bytes_to_cache(data, _file_name(address, data), self.GRADIO_CACHE)

    def get_block_name(self) -> str:
        """Return the name by which the browser finds the widget."""
        return "image"


def _file_name(address: str, data: bytes) -> str:
    name = unquote(urlsplit(address).path).rpartition("/")[2]
    name = re.sub(r"[^\w.-]+", "-", name)[-80:].strip(".-") or "image"
    suffix = next((suffix for magic, suffix in _SUFFIXES.items() if data.startswith(magic)), "")
    # The browser chooses how to show a file by its suffix.
    return name if not suffix or name.lower().endswith((suffix, ".jpeg")) else f"{name}{suffix}"


def _is_url(path: str | Path | None) -> bool:
    return str(path).startswith(("http://", "https://"))


def refuse_downloads() -> None:
    """Switch off Gradio's downloads; a `ValueError` if Gradio has renamed or removed one."""
    for name in DOWNLOADS:
        refusal = _refuse_later if name.startswith("async_") else _refuse
        replace_function(processing_utils, name, refusal)


def replace_function(owner: ModuleType | type, name: str, function: Any) -> None:
    """Replace a function of Gradio; a `ValueError` if there is no such function."""
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


logger = logging.getLogger(__name__)

# The names of Gradio's and this module's folders, and of Gradio's unfinished uploads.
_FOLDER, _UPLOAD = re.compile(r"[0-9a-f]{64}"), re.compile(r"tmp[a-z0-9_]{8}")


def new_folder() -> Path:
    """Make a temporary folder with a random name of 256 bits. Gradio serves its files unchanged."""
    folder = Path(os.environ[VARIABLE]).absolute() / secrets.token_hex(32)
    folder.mkdir(mode=0o700, parents=True)
    return folder


def keep_tidy(blocks: gr.Blocks, every: float, age: float) -> threading.Thread:
    """Delete old files now and every `every` seconds, on a thread that ends with the process.

    `age`, the seconds after which a file is old, must exceed Gradio's own limit, because Gradio
    never forgets a file that something else deleted.
    """

    def run() -> None:
        while True:
            try:
                tidy(_kept(blocks), age)
            except Exception:  # the next round tries again
                logger.exception("Old files could not be deleted")
            time.sleep(every)

    thread = threading.Thread(target=run, name="tidying", daemon=True)
    thread.start()
    return thread


def _kept(blocks: gr.Blocks) -> set[str]:
    return {path for block in list(blocks.blocks.values()) for path in block.keep_in_cache}


def tidy(kept: Collection[str], age: float, now: float | None = None) -> None:
    """Delete old files (`age` in seconds) in the page's temporary folder and in those of earlier
    processes.

    The files of `kept` are touched instead, so that other pages keep them too.
    """
    before = (time.time() if now is None else now) - age
    own = Path(os.environ[VARIABLE]).absolute()
    keep = {os.path.realpath(path) for path in kept}
    _sweep(own, before, keep)
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if folder != own and folder.is_dir() and not folder.is_symlink():
            old = _is_old(folder, before)
            _sweep(folder, before, keep)
            if old:
                _attempt(os.rmdir, folder)


def _sweep(folder: Path, before: float, keep: set[str]) -> None:
    shared = folder.resolve() == Path(tempfile.gettempdir()).resolve()
    for path in _listed(folder):
        if _FOLDER.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            _sweep_through(path, before, keep)
        # In a shared folder, other programs have files with such names.
        elif (
            _UPLOAD.fullmatch(path.name) and path.is_file() and not path.is_symlink() and not shared
        ):
            _delete(path, before, keep)


def _sweep_through(top: Path, before: float, keep: set[str]) -> None:
    # Deleting a file changes its folder's time, so the times are read first.
    entries = [
        (Path(folder), _is_old(Path(folder), before), inside, files)
        for folder, inside, files in os.walk(top)
    ]
    # From the bottom up, so that folders are empty. Links are deleted, not followed.
    for folder, old, inside, files in reversed(entries):
        for path in [folder / name for name in files + inside]:
            if path.is_symlink() or not path.is_dir():
                _delete(path, before, keep)
        if old:
            _attempt(os.rmdir, folder)


def _delete(path: Path, before: float, keep: set[str]) -> None:
    if not path.is_symlink() and os.path.realpath(path) in keep:
        _attempt(os.utime, path)
    elif _is_old(path, before):
        _attempt(os.unlink, path)


def _is_old(path: Path, before: float) -> bool:
    """Whether a file exists and was created, changed or renamed before a time."""
    try:
        return path.lstat().st_ctime < before
    except OSError:
        return False


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _attempt(action: Callable[[Path], None], path: Path) -> None:
    # The file may be gone, the folder may have a new file, or both may belong to another user.
    with contextlib.suppress(OSError):
        action(path)
