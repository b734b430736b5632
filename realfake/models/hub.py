"""Find and verify the files of a checkpoint when the Hub is slow, silent or altered on the way.

[`~realfake.detector.Detector.from_pretrained`] uses this. One request pins the commit, so that all
files belong to one state of the repository. If the Hub does not answer, an earlier download is
opened at once. Downloads are compared with the hashes that the Hub announced.
"""

import contextlib
import hashlib
import logging
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

from huggingface_hub import (
    HfApi,
    constants,
    hf_hub_download,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.file_download import repo_folder_name

from realfake.io import write_atomically

logger = logging.getLogger(__name__)

# Seconds to wait for the Hub's answer about the commit.
TIMEOUT = 10.0
# Seconds to wait for a file of figures; the page works without it.
RECORD_SECONDS = 30.0
# Files that are opened.
_OPENED = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "model*.safetensors*",
    "novelty.safetensors",
)
Opened = TypeVar("Opened")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Located:
    """Where to open a checkpoint.

    Attributes:
        source: A Hub id, or a folder: the given one, or an earlier download.
        revision: Revision to open on the Hub; `None` for a folder.
        commit: The Hub's commit, if known.
        asked: The branch, tag or commit that the caller named.
    """

    source: str | Path
    revision: str | None = None
    commit: str | None = None
    asked: str | None = None


def locate(
    model: str | Path,
    revision: str | None = None,
    token: str | bool | None = None,
    max_seconds: float | None = None,
) -> Located:
    """Pin a checkpoint to a commit, or find an earlier download if the Hub does not answer.

    Args:
        model: Hub id or folder.
        revision: *optional*. Branch, tag or commit.
        token: *optional*. Hub token.
        max_seconds: *optional*. If given, the files are downloaded here, and a download that takes
            longer counts as no answer.

    Raises:
        OSError: The Hub does not answer, and there is no earlier download.
    """
    if Path(model).exists():
        return Located(model, revision)
    try:
        commit = _within(
            max_seconds, lambda: _pin(str(model), revision, token, max_seconds is not None)
        )
        return Located(model, commit, commit, revision or "main")
    except HFValidationError:
        return Located(model, revision)  # no name of the Hub's; whoever opens it says so
    except HfHubHTTPError as error:
        if error.response.status_code < 500 and error.response.status_code != 429:
            return Located(
                model, revision
            )  # an answer: there is no such repository, or it is private
        reason = f"it answers {error.response.status_code}"
    except OfflineModeIsEnabled:
        reason = "HF_HUB_OFFLINE is set"
    except TimeoutError as error:
        reason = str(error)
    except (HTTPError, OSError) as error:
        reason = type(error).__name__
    try:
        folder = Path(snapshot_download(str(model), revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        raise OSError(
            f"No checkpoint {str(model)!r}: it is neither a folder here nor to be had from the Hub "
            f"({reason}), and no earlier "
            "download of it is here. Check the name and the connection."
        ) from None
    logger.warning(
        "The Hub does not answer (%s): %s is opened from the cache, at %s",
        reason,
        model,
        folder.name,
    )
    return Located(folder, commit=folder.name)


def _pin(model: str, revision: str | None, token: str | bool | None, download: bool) -> str:
    """Return the commit, and download the files that are opened."""
    info = HfApi(token=token).model_info(model, revision=revision, timeout=TIMEOUT)
    names = [file.rfilename for file in info.siblings or []] if download else []
    # Whoever opens it meets the same error, and says so.
    with contextlib.suppress(HTTPError, OSError, ValueError):
        for name in names:
            if any(fnmatch(name, pattern) for pattern in _OPENED):
                hf_hub_download(model, name, revision=info.sha, token=token)
    return info.sha


def _within(seconds: float | None, make: Callable[[], Made]) -> Made:
    """Return the result of `make`, with a limit on the total time.

    A client's own time-out starts again with every byte.

    Raises:
        TimeoutError: It takes longer. The thread is abandoned.
    """
    if seconds is None:
        return make()
    made: Future[Made] = Future()

    def run() -> None:
        try:
            made.set_result(make())
        except Exception as error:
            made.set_exception(error)

    # A daemon thread: an endless download must not keep the program from ending.
    threading.Thread(target=run, name="download", daemon=True).start()
    if wait([made], seconds).not_done:
        raise TimeoutError(f"it takes longer than {seconds:g} s")
    return made.result()


def find_record(model: str | Path, name: str, revision: str | None = None) -> Path | None:
    """Find a file of figures beside a checkpoint; `None` if it cannot be found.

    The client's own download tries five times; this tries once.
    """
    folder = Path(model)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    found = try_to_load_from_cache(str(model), name, revision=revision)
    if found is not None:
        return Path(found) if isinstance(found, str) else None  # or known not to be there

    def download() -> Path | None:
        info = HfApi().model_info(str(model), revision=revision, timeout=TIMEOUT)
        if name not in {file.rfilename for file in info.siblings or []}:
            return None
        return Path(hf_hub_download(str(model), name, revision=info.sha))

    try:
        return _within(RECORD_SECONDS, download)
    except (HTTPError, OSError, ValueError) as error:
        logger.info("%s of %s could not be had (%s)", name, model, type(error).__name__)
    return None


def verified(located: Located, opening: Callable[[], Opened]) -> Opened:
    """Open a checkpoint, and try once more if a file differs from what the Hub announced.

    Args:
        located: From [`locate`].
        opening: Downloads what is missing and opens it.

    Raises:
        OSError: The files arrive altered both times.
    """
    for _ in range(2):
        failure = None
        try:
            opened = opening()
        except (OSError, ValueError) as error:
            failure = error
        altered = remove_altered(located)
        if not altered:
            if failure is not None:
                raise failure
            _remember(located)
            return opened
        logger.warning("Not what the Hub announced, removed from the cache: %s", ", ".join(altered))
    raise OSError(
        f"{located.source}: {', '.join(altered)} arrived with another content than the Hub "
        "announced, twice; "
        "something on the way alters it."
    )


def _remember(located: Located) -> None:
    """Record in the cache which commit a branch or tag points at, for starts without the Hub."""
    if located.asked in (None, located.commit):
        return
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(
        repo_id=str(located.source), repo_type="model"
    )
    with contextlib.suppress(OSError):  # a read-only cache
        reference = folder / "refs" / located.asked
        reference.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(reference, located.commit)


def remove_altered(located: Located) -> list[str]:
    """Delete cached files of a checkpoint whose content does not match their hash.

    The cache names a file's content by its hash: SHA-256 for LFS files, git's hash for others. On
    file systems without symbolic links nothing can be compared.

    Returns:
        The names of the deleted files.
    """
    if isinstance(located.source, Path) and located.commit:
        folder = located.source
    elif located.commit:
        found = try_to_load_from_cache(str(located.source), "config.json", revision=located.commit)
        if not isinstance(found, str):
            return []
        folder = Path(found).parent
    else:
        return []
    altered = []
    for path in sorted(folder.rglob("*")):
        content = path.resolve()
        if path.is_symlink() and content.is_file() and not _fits(content):
            content.unlink()
            path.unlink()
            altered.append(path.relative_to(folder).as_posix())
    return altered


def _fits(path: Path) -> bool:
    name = path.name
    if re.fullmatch("[0-9a-f]{64}", name):
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == name
    if re.fullmatch("[0-9a-f]{40}", name):
        data = path.read_bytes()
        # Git's blob hash, which the Hub uses for files outside LFS. It is not used for security.
        return (
            hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == name
        )
    return True
