"""The page's temporary files, and a thread that deletes them once they are old.

Gradio deletes the files that it keeps track of (`delete_cache`). It loses track of uploads that
break off, of images that MCP clients send, and of everything after a kill.
"""

import contextlib
import logging
import os
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr

logger = logging.getLogger(__name__)

VARIABLE = "GRADIO_TEMP_DIR"
PREFIX = "realfake-page-"
# The names of Gradio's and this module's folders, and of Gradio's unfinished uploads.
_FOLDER, _UPLOAD = re.compile(r"[0-9a-f]{64}"), re.compile(r"tmp[a-z0-9_]{8}")


def claim_folder() -> None:
    """Set `GRADIO_TEMP_DIR` to a folder for this process, unless it is set already.

    All Gradio programs of a machine share Gradio's default folder.
    """
    if not os.environ.get(VARIABLE):
        os.environ[VARIABLE] = os.path.join(tempfile.gettempdir(), PREFIX + secrets.token_hex(8))


def new_folder() -> Path:
    """Make a temporary folder with a random name of 256 bits. Gradio serves its files unchanged."""
    folder = Path(os.environ[VARIABLE]).absolute() / secrets.token_hex(32)
    folder.mkdir(mode=0o700, parents=True)
    return folder


def keep_tidy(blocks: "gr.Blocks", every: float, age: float) -> threading.Thread:
    """Delete old files now and at intervals, on a thread that ends with the process.

    Args:
        blocks: The page. Its own pictures are kept.
        every: Seconds between two rounds.
        age: Seconds after which a file is old. It must exceed Gradio's own limit, because Gradio
            never forgets a file that something else deleted.

    Returns:
        The thread.
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


def _kept(blocks: "gr.Blocks") -> set[str]:
    return {path for block in list(blocks.blocks.values()) for path in block.keep_in_cache}


def tidy(kept: Collection[str], age: float, now: float | None = None) -> None:
    """Delete old files in the page's temporary folder and in those of earlier processes.

    Args:
        kept: Files to keep. They are touched, so that other pages keep them too.
        age: Seconds after which a file is old.
        now: *optional*. The time, in seconds since 1970.
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
