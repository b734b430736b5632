"""What the page writes to the disk for a visitor, and that none of it stays there.

Gradio deletes the files that it keeps track of (`delete_cache`). It loses track of uploads that break off, of images that come
through MCP, and of all that a process which was killed leaves behind. A thread deletes those as well, once they are old.
"""

import contextlib
import logging
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

VARIABLE = "GRADIO_TEMP_DIR"
PREFIX = "realfake-page-"
# What Gradio and this module call their folders, by a hash or as long as one, and what Gradio calls an upload on its way.
_FOLDER, _UPLOAD = re.compile(r"[0-9a-f]{64}"), re.compile(r"tmp[a-z0-9_]{8}")


def claim_folder() -> None:
    """Give Gradio a temporary folder of this process's own, unless `GRADIO_TEMP_DIR` names one.

    The one that Gradio takes by itself belongs to every Gradio program on the machine, whose files are theirs to delete.
    """
    if not os.environ.get(VARIABLE):
        os.environ[VARIABLE] = os.path.join(tempfile.gettempdir(), PREFIX + secrets.token_hex(8))


def new_folder() -> Path:
    """Make a folder under a name that nobody can guess. Gradio serves a file in it as it is, and what is in it is deleted."""
    folder = Path(os.environ[VARIABLE]).absolute() / secrets.token_hex(32)
    folder.mkdir(mode=0o700, parents=True)
    return folder


@contextlib.contextmanager
def passing_folder() -> Iterator[Path]:
    """A [`new_folder`] that goes at the end of a `with` statement."""
    folder = new_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def keep_tidy(blocks, every: float, age: float) -> threading.Thread:
    """Delete what has become old, now and from time to time, on a thread that ends with the process.

    Args:
        blocks: The `gr.Blocks` of the page, whose own pictures stay.
        every: Seconds between two rounds.
        age: Seconds after which a file is old. More than Gradio's, which never forgets a file that somebody else deleted.
    """

    def run() -> None:
        while True:
            try:
                tidy(_kept(blocks), age)
            except Exception:  # the next round may go better, and the page goes on in any case
                logger.exception("Old files could not be deleted")
            time.sleep(every)

    thread = threading.Thread(target=run, name="tidying", daemon=True)
    thread.start()
    return thread


def _kept(blocks) -> set[str]:
    return {path for block in list(blocks.blocks.values()) for path in block.keep_in_cache}


def tidy(kept: Collection[str], age: float, now: float | None = None) -> None:
    """Delete what is old in the page's temporary folder, and in those that earlier processes took.

    Args:
        kept: Files that stay. They become young again, so that other pages leave them too.
        age: Seconds after which a file is old.
        now: *optional*. The time, in seconds since 1970.
    """
    before = (time.time() if now is None else now) - age
    own = Path(os.environ[VARIABLE]).absolute()
    stay = {os.path.realpath(path) for path in kept}
    _sweep(own, before, stay)
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if folder != own and folder.is_dir() and not folder.is_symlink():
            old = _is_old(folder, before)
            _sweep(folder, before, stay)
            if old:
                _attempt(os.rmdir, folder)


def _sweep(folder: Path, before: float, stay: set[str]) -> None:
    shared = folder.resolve() == Path(tempfile.gettempdir()).resolve()
    for path in _listed(folder):
        if _FOLDER.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            _sweep_through(path, before, stay)
        # In the folder of all programs, others have files of such names.
        elif (
            _UPLOAD.fullmatch(path.name) and path.is_file() and not path.is_symlink() and not shared
        ):
            _delete(path, before, stay)


def _sweep_through(top: Path, before: float, stay: set[str]) -> None:
    # Looked at before anything is deleted, which makes a folder young.
    found = [
        (Path(folder), _is_old(Path(folder), before), inside, files)
        for folder, inside, files in os.walk(top)
    ]
    # From the bottom up, so that a folder is empty when its turn comes. Links are deleted, not followed.
    for folder, old, inside, files in reversed(found):
        for path in [folder / name for name in files + inside]:
            if path.is_symlink() or not path.is_dir():
                _delete(path, before, stay)
        if old:
            _attempt(os.rmdir, folder)


def _delete(path: Path, before: float, stay: set[str]) -> None:
    if not path.is_symlink() and os.path.realpath(path) in stay:
        _attempt(os.utime, path)
    elif _is_old(path, before):
        _attempt(os.unlink, path)


def _is_old(path: Path, before: float) -> bool:
    """Whether a file came to be, or was changed or renamed, before a time; one that has vanished was not."""
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
    # It may have vanished, hold something new, or be another user's.
    with contextlib.suppress(OSError):
        action(path)
