"""Which detectors the page opens: its own, from the environment, and those that visitors name for a comparison.

The first is opened once, before the page is built. A Space whose model was renamed or made private still answers, with the
bundled detector, and says so.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from ..detector import BUNDLED, DEFAULT_CHECKPOINT, Detector
from ..models.hub_files import find_record
from .about import is_hub_id
from .text import Words

logger = logging.getLogger(__name__)

# Of a checkpoint that a visitor names: it is downloaded to the server's disk and opened in its memory.
MAX_WEIGHTS = 512 * 2**20


@dataclass(frozen=True)
class Loaded:
    """A detector and what the page says of it.

    Attributes:
        detector: The detector.
        evaluation: The `evaluation.json` of its checkpoint, if it has one.
        robustness: The `robustness.json` of its checkpoint, if it has one.
        source: Hub id or folder; `None` is the bundled checkpoint.
        missing: The checkpoint that was asked for, where it could not be opened and another stands in for it.
    """

    detector: Detector
    evaluation: Any = None
    robustness: Any = None
    source: str | None = None
    missing: str | None = None


def load(environ: Mapping[str, str]) -> Loaded:
    """Open the detector named by `REALFAKE_MODEL`, or the bundled one.

    `REALFAKE_MODEL` is a folder or a Hub id, which may carry its revision (`user/name@v2`); `REALFAKE_REVISION` gives
    the revision apart. If that detector cannot be opened the bundled one is, with a notice.

    Raises:
        ValueError: The bundled checkpoint is unusable.
        OSError: The bundled checkpoint is missing.
    """
    model, revision = source(environ)
    if model is None:
        return _loaded(Detector.from_pretrained(), None)
    try:
        return _loaded(Detector.from_pretrained(model, revision=revision), model)
    except Exception:
        # A stranger's checkpoint can fail in any way. The page stays up whatever it was, and the log has all of it.
        logger.exception("%s could not be loaded; the bundled detector is used instead", model)
    return _loaded(Detector.from_pretrained(), None, missing=model)


def _loaded(detector: Detector, model: str | None, missing: str | None = None) -> Loaded:
    # The figures of these very weights, even if somebody pushes in the meantime.
    revision = None if model is None else detector.revision
    found = [
        _record(model or DEFAULT_CHECKPOINT, revision, name) for name in ("evaluation.json", "robustness.json")
    ]
    return Loaded(detector, *found, source=model, missing=missing)


def source(environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Read the checkpoint and its revision from the environment; `(None, None)` means the bundled one."""
    model = environ.get("REALFAKE_MODEL", "").strip()
    revision = environ.get("REALFAKE_REVISION", "").strip() or None
    if not model:
        return None, None
    if "@" in model and not Path(model).is_dir():
        model, _, inline = model.rpartition("@")
        revision = inline or revision
    return model, revision


def bundled() -> list[str]:
    """The names of the checkpoints that come with the package."""
    return sorted(folder.name for folder in BUNDLED.iterdir() if (folder / "config.json").is_file())


def open_bundled(name: str) -> Detector:
    """Open a bundled checkpoint by its name."""
    if name not in bundled():
        raise ValueError(f"There is no bundled checkpoint {name!r}.")
    return Detector.from_pretrained(BUNDLED / name)


def open_named(model: str, words: Words, max_weights: int = MAX_WEIGHTS) -> Detector:
    """Open a checkpoint on the Hub that a visitor named, as `user/name` or `user/name@revision`.

    As a stranger would: without the server's token, so that nobody sees its owner's private checkpoints, without code of the
    checkpoint's, and only weights of a size that does no harm.

    Raises:
        ValueError: It is refused, or could not be opened; one line in the language of `words`.
    """
    name, _, revision = model.strip().partition("@")
    # A folder of the server's that goes by such a name is none of the visitor's business.
    if not is_hub_id(name) or Path(name).exists():
        raise ValueError(words("compare.not_hub", model=model.strip()[:100] or "–"))
    try:
        info = HfApi(token=False).model_info(name, revision=revision or None, files_metadata=True, timeout=10)
        sizes = [file.size or 0 for file in info.siblings or [] if file.rfilename.endswith(".safetensors")]
    except Exception:
        logger.exception("%s could not be looked up", name)
        raise ValueError(words("compare.no_answer", model=name)) from None
    if not sizes:
        raise ValueError(words("compare.no_weights", model=name))
    if sum(sizes) > max_weights:
        size, limit = (words.number(total / 2**20) for total in (sum(sizes), max_weights))
        raise ValueError(words("compare.too_large", model=name, size=size, limit=limit))
    try:
        return Detector.from_pretrained(name, revision=info.sha, token=False)
    except Exception:
        logger.exception("%s could not be opened", name)
        raise ValueError(words("compare.no_answer", model=name)) from None


def _record(model: str | Path, revision: str | None, name: str) -> Any:
    """A JSON file beside a checkpoint, or `None`: a detector without it is still a detector."""
    path = find_record(model, name, revision)
    try:
        return None if path is None else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        logger.info("%s has no readable %s: %s", model, name, error)
        return None
