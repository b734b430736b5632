"""Find and verify the files of a checkpoint, also when the Hub is slow or unreachable.

[`~realfake.detector.Detector.from_pretrained`] uses this. One request pins the commit, so that all
files belong to one state of the repository. If the Hub does not answer, an earlier download is
used. The hashes of downloaded files are compared with those of the Hub.
"""

import contextlib
import hashlib
import logging
import re
from collections.abc import Callable
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
from realfake.runtime import within

logger = logging.getLogger(__name__)

# Seconds to wait for the commit.
TIMEOUT = 10.0
# Seconds to wait for a file of results, which the page can do without.
RECORD_SECONDS = 30.0
# The files of a checkpoint that a detector opens.
_OPENED = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "model*.safetensors*",
    "novelty.safetensors",
)
T = TypeVar("T")


@dataclass(frozen=True)
class Located:
    """Where to open a checkpoint.

    Attributes:
        source: A Hub id, a given folder, or the folder of an earlier download.
        revision: Revision to open on the Hub; `None` for a folder.
        commit: The Hub's commit, if known.
        requested: The branch, tag or commit that the caller named.
    """

    source: str | Path
    revision: str | None = None
    commit: str | None = None
    requested: str | None = None


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
        max_seconds: *optional*. Time limit for the download of all files. Without it, only the
            commit is requested.

    Raises:
        OSError: The Hub does not answer, and there is no earlier download.
    """
    if Path(model).exists():
        return Located(model, revision)
    try:
        commit = within(
            max_seconds, lambda: _pin(str(model), revision, token, max_seconds is not None)
        )
        return Located(model, commit, commit, revision or "main")
    except HFValidationError:
        return Located(model, revision)  # not a Hub id; opening it raises the error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status < 500 and status != 429:  # the repository is missing or private
            return Located(model, revision)
        reason = f"it answers {status}"
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
            f"No checkpoint {str(model)!r}: it is neither a local folder nor available on the Hub "
            f"({reason}), and there is no earlier download. Check the name and the connection."
        ) from None
    message = "The Hub does not answer (%s): %s is opened from the cache, at %s"
    logger.warning(message, reason, model, folder.name)
    return Located(folder, commit=folder.name)


def _pin(model: str, revision: str | None, token: str | bool | None, download: bool) -> str:
    """Return the commit, and download its files if requested."""
    info = HfApi(token=token).model_info(model, revision=revision, timeout=TIMEOUT)
    names = [file.rfilename for file in info.siblings or []] if download else []
    # Opening the checkpoint raises the same errors again.
    with contextlib.suppress(HTTPError, OSError, ValueError):
        for name in names:
            if any(fnmatch(name, pattern) for pattern in _OPENED):
                hf_hub_download(model, name, revision=info.sha, token=token)
    return info.sha


def find_record(model: str | Path, name: str, revision: str | None = None) -> Path | None:
    """Find a file of results in the repository of a checkpoint; `None` if it cannot be found.

    Unlike the Hub's client, this tries only once.
    """
    folder = Path(model)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    cached = try_to_load_from_cache(str(model), name, revision=revision)
    if cached is not None:  # a path, or a mark that the repository lacks the file
        return Path(cached) if isinstance(cached, str) else None

    def download() -> Path | None:
        info = HfApi().model_info(str(model), revision=revision, timeout=TIMEOUT)
        if name not in {file.rfilename for file in info.siblings or []}:
            return None
        return Path(hf_hub_download(str(model), name, revision=info.sha))

    try:
        return within(RECORD_SECONDS, download)
    except (HTTPError, OSError, ValueError) as error:
        logger.info("%s of %s could not be downloaded (%s)", name, model, type(error).__name__)
    return None


def verified(located: Located, opening: Callable[[], T]) -> T:
    """Open a checkpoint, and try once more if a file does not match the Hub's hash.

    Args:
        located: From [`locate`].
        opening: Downloads what is missing and opens it.

    Raises:
        OSError: A file does not match its hash after the second download either.
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
        logger.warning("Hash mismatch, removed from the cache: %s", ", ".join(altered))
    raise OSError(
        f"{located.source}: the hash of {', '.join(altered)} does not match the Hub's after two "
        "downloads; check the proxy and the network."
    )


def _remember(located: Located) -> None:
    """Store in the cache the commit of a branch or tag, for starts without the Hub."""
    if located.requested in (None, located.commit):
        return
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(
        repo_id=str(located.source), repo_type="model"
    )
    with contextlib.suppress(OSError):  # a read-only cache
        reference = folder / "refs" / located.requested
        reference.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(reference, located.commit)


def remove_altered(located: Located) -> list[str]:
    """Delete cached files of a checkpoint whose content does not match their hash.

    The cache names files by their hash: SHA-256 for LFS files, git's hash for others. Without
    symbolic links, the cache has no hashes and nothing is deleted.

    Returns:
        The names of the deleted files.
    """
    if isinstance(located.source, Path) and located.commit:
        folder = located.source
    elif located.commit:
        config = try_to_load_from_cache(str(located.source), "config.json", revision=located.commit)
        if not isinstance(config, str):
            return []
        folder = Path(config).parent
    else:
        return []
    altered = []
    for path in sorted(folder.rglob("*")):
        content = path.resolve()
        if path.is_symlink() and content.is_file() and not _matches_hash(content):
            content.unlink()
            path.unlink()
            altered.append(path.relative_to(folder).as_posix())
    return altered


def _matches_hash(path: Path) -> bool:
    name = path.name
    if re.fullmatch("[0-9a-f]{64}", name):
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == name
    if re.fullmatch("[0-9a-f]{40}", name):
        data = path.read_bytes()
        # Git's blob hash, not used for security.
        digest = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
        return digest.hexdigest() == name
    return True
