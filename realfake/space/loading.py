"""Which detector the page opens, from the environment, and what happens when it cannot be opened.

Runs once, before the page is built. A Space whose model was renamed or made private still answers, with the bundled
detector, and says so.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HTTPError

from ..detector import DEFAULT_CHECKPOINT, Detector
from . import text

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A detector, the `evaluation.json` of its checkpoint if it has one, and what the visitor should be told."""

    detector: Detector
    evaluation: Any = None
    notice: str | None = None


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
        return Loaded(Detector.from_pretrained(), _evaluation(DEFAULT_CHECKPOINT, None))
    try:
        detector = Detector.from_pretrained(model, revision=revision)
        # The figures of these very weights, even if somebody pushes in the meantime.
        return Loaded(detector, _evaluation(model, detector.revision))
    except Exception:
        # A stranger's checkpoint can fail in any way. The page stays up whatever it was, and the log has all of it.
        logger.exception("%s could not be loaded; the bundled detector is used instead", model)
    fallback = Detector.from_pretrained()
    return Loaded(fallback, _evaluation(DEFAULT_CHECKPOINT, None), text.FALLBACK.format(model=model))


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


def _evaluation(model: str | Path, revision: str | None) -> Any:
    """The checkpoint's `evaluation.json`, or `None`: a detector without one is still a detector."""
    try:
        folder = Path(model)
        path = folder / "evaluation.json"
        if not folder.is_dir():
            path = Path(hf_hub_download(str(model), "evaluation.json", revision=revision))
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, EntryNotFoundError, HTTPError) as error:
        logger.info("%s has no readable evaluation.json: %s", model, error)
        return None
