"""Which detectors the page opens: its own, from the environment, and the bundled ones. Those that visitors name: `named`.

The first is opened once, before the page is built. A Space whose model was renamed or made private still answers, with the
bundled detector, and says so.
"""

import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realfake.detector import BUNDLED, DEFAULT_CHECKPOINT, Detector
from realfake.models.hub import find_record

logger = logging.getLogger(__name__)

# How long the page waits for its checkpoint: far less than the half hour after which a Space that does not start is given up.
START_SECONDS = 600.0
# While it builds a network, transformers puts functions of its own in torch's place: one is built at a time.
BUILDING = threading.Lock()


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
    the revision apart. If that detector cannot be opened, or does not arrive in time and no earlier download of it is there, the
    bundled one is, with a notice.

    Raises:
        ValueError: The bundled checkpoint is unusable.
        OSError: The bundled checkpoint is missing.
    """
    model, revision = source(environ)
    if model is None:
        return _loaded(Detector.from_pretrained(), None)
    try:
        return _loaded(
            Detector.from_pretrained(model, revision=revision, max_seconds=START_SECONDS), model
        )
    except Exception:
        # A stranger's checkpoint can fail in any way. The page stays up whatever it was, and the log has all of it.
        logger.exception("%s could not be loaded; the bundled detector is used instead", model)
    return _loaded(Detector.from_pretrained(), None, missing=model)


def _loaded(detector: Detector, model: str | None, missing: str | None = None) -> Loaded:
    # The figures of these very weights, even if somebody pushes in the meantime.
    revision = None if model is None else detector.revision
    found = [
        _record(model or DEFAULT_CHECKPOINT, revision, name)
        for name in ("evaluation.json", "robustness.json")
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
    with BUILDING:
        return Detector.from_pretrained(BUNDLED / name)


def _record(model: str | Path, revision: str | None, name: str) -> Any:
    """A JSON file beside a checkpoint, or `None`: a detector without it is still a detector."""
    path = find_record(model, name, revision)
    try:
        return None if path is None else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        logger.info("%s has no readable %s: %s", model, name, error)
        return None
