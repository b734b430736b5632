"""The detectors of the page: its own, the bundled ones, and those that the operator lists.

On ZeroGPU, [`use_zero_gpu`] runs a detector in the forked process that has the GPU.
"""

import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from realfake.detector import BUNDLED, DEFAULT_CHECKPOINT, Detector
from realfake.models.hub import find_record, locate

logger = logging.getLogger(__name__)

MODEL = "REALFAKE_MODEL"
REVISION = "REALFAKE_REVISION"
FALLBACK = "REALFAKE_FALLBACK"
COMPARE = "REALFAKE_COMPARE"
# Spaces are stopped if they have not started after half an hour.
START_SECONDS = 600.0
# transformers replaces functions of torch while it builds a network, so one is built at a time.
_BUILDING = threading.Lock()
# The methods that run the model. Inside the forked process they call each other directly.
GPU_METHODS = (
    "forward",
    "examine",
    "features",
    "logits",
    "scores",
    "log_odds",
    "predict",
    "explain",
    "stability",
)
GPU_SECONDS = 60


@dataclass(frozen=True)
class Loaded:
    """The page's own detector and what is known about it.

    Attributes:
        source: Hub id or folder; `None` is the bundled checkpoint.
        missing: The checkpoint named by `REALFAKE_MODEL`, if it could not be opened and the bundled
            one replaces it.
        compare: Hub ids (`user/name` or `user/name@revision`) and folders that the page offers for
            comparison.
    """

    detector: Detector
    evaluation: Any = None  # the JSON beside its checkpoint, if there is one
    robustness: Any = None
    source: str | None = None
    missing: str | None = None
    compare: tuple[str, ...] = ()


def load(environ: Mapping[str, str] | None = None) -> Loaded:
    """Open the detector named by `REALFAKE_MODEL`, or the bundled one.

    `REALFAKE_MODEL` is a folder or a Hub id, optionally with a revision (`user/name@v2`).
    `REALFAKE_REVISION` also sets the revision. With `REALFAKE_FALLBACK=bundled`, a detector that
    cannot be opened is replaced by the bundled one.

    Raises:
        ValueError: A variable has a wrong value, or the detector cannot be opened; one line.
    """
    environ = os.environ if environ is None else environ
    compare = compared(environ)
    fallback = environ.get(FALLBACK, "").strip()
    if fallback not in ("", "bundled"):
        raise ValueError(f"{FALLBACK} is {fallback!r}; set it to 'bundled', or remove it.")
    model, revision = source(environ)
    try:
        detector = Detector.from_pretrained(
            model, revision=revision, max_seconds=None if model is None else START_SECONDS
        )
    except Exception as error:
        if not isinstance(error, (OSError, ValueError)):
            logger.exception("%s could not be opened", model)
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if model is None:
            raise ValueError(f"The bundled checkpoint cannot be opened: {reason}") from error
        if not fallback:
            raise ValueError(
                f"{MODEL}={model} cannot be opened: {reason} Correct it, or set {FALLBACK}=bundled."
            ) from error
        logger.error("%s could not be opened, the bundled detector replaces it: %s", model, reason)
        detector = Detector.from_pretrained()
        return Loaded(detector, *_records(None, None), missing=model, compare=compare)
    # The records of the same revision, even if there was a push in between.
    records = _records(model, detector.revision)
    return Loaded(detector, *records, source=model, compare=compare)


def source(environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the checkpoint and its revision that the environment names; `(None, None)` is the
    bundled one."""
    model = environ.get(MODEL, "").strip()
    if not model:
        return None, None
    name, revision = _parsed(model)
    return name, revision or environ.get(REVISION, "").strip() or None


def compared(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the folders and Hub ids that `REALFAKE_COMPARE` lists; a `ValueError` for others."""
    entries = [entry.strip() for entry in environ.get(COMPARE, "").split(",")]
    for entry in filter(None, entries):
        name, _ = _parsed(entry)
        if Path(name).is_dir():
            continue
        try:
            validate_repo_id(name)
        except HFValidationError:
            name = ""
        if name.count("/") != 1:
            raise ValueError(
                f"{COMPARE} lists {entry!r}, which is neither a folder nor a Hub id; "
                "list entries such as user/name or user/name@revision, separated by commas."
            )
    return tuple(dict.fromkeys(filter(None, entries)))


class Detectors:
    """The detectors that the page compares, opened on first use and kept open."""

    def __init__(self, loaded: Loaded):
        own = loaded.detector
        self._sources: dict[str, str | Path] = {name: BUNDLED / name for name in bundled()}
        for entry in loaded.compare:
            self._sources[Path(entry).name if Path(entry).is_dir() else entry] = entry
        self._sources.pop(own.name, None)
        self._open = {own.name: own}
        # Two visitors open the same checkpoint once, and a slow download delays no other.
        self._locks = {name: threading.Lock() for name in self.names()}

    def names(self) -> list[str]:
        """Return the names on offer: the page's own detector, the bundled ones, the listed ones."""
        own = next(iter(self._open))
        return [own, *self._sources]

    def chosen(self) -> list[str]:
        """Return the names to start with: the page's own detector and those of the operator."""
        own = next(iter(self._open))
        return [own, *(name for name in self._sources if name not in bundled())]

    def get(self, name: str) -> Detector:
        """Return a detector by its name, opened on first use; a `ValueError` if it cannot be."""
        if name not in self._locks:
            raise ValueError(f"{name[:100]} is not on the list of detectors to compare.")
        with self._locks[name]:
            if name not in self._open:
                self._open[name] = use_zero_gpu(_opened(name, self._sources[name]))
            return self._open[name]


def use_zero_gpu(detector: Detector, seconds: int = GPU_SECONDS) -> Detector:
    """Run a detector's methods on the GPU, if this is a ZeroGPU Space.

    Hugging Face's `spaces` package exists on Spaces only. Elsewhere nothing changes.
    """
    try:
        from spaces import GPU
        from spaces.config import Config
    except ImportError:
        return detector
    if Config.zero_gpu:
        for name in GPU_METHODS:
            setattr(detector, name, _on_gpu(GPU, getattr(detector, name), seconds))
    return detector


def _on_gpu(gpu: Callable, method: Callable, seconds: int) -> Callable:
    # `spaces` passes on only the class of an error; the detector's errors have a message to show.
    def caught(*args, **options):
        try:
            return method(*args, **options), None
        except (ValueError, OSError) as error:
            return None, error

    caught.__name__ = method.__name__
    on_gpu = gpu(duration=seconds)(caught)

    @wraps(method)
    def call(*args, **options):
        result, error = on_gpu(*args, **options)
        if error is not None:
            raise error
        return result

    return call


def bundled() -> list[str]:
    """Return the names of the checkpoints that come with the package."""
    return sorted(folder.name for folder in BUNDLED.iterdir() if (folder / "config.json").is_file())


def _opened(name: str, checkpoint: str | Path) -> Detector:
    model, revision = _parsed(str(checkpoint))
    try:
        locate(model, revision, max_seconds=START_SECONDS)  # downloads it, outside the lock
        with _BUILDING:
            return Detector.from_pretrained(model, revision=revision)
    except Exception as error:
        logger.exception("%s could not be opened", name)
        raise ValueError(f"{name} could not be opened; the server's log has the reason.") from error


def _parsed(model: str) -> tuple[str, str | None]:
    """Split `user/name@revision`; a folder may have an @ in its name."""
    if "@" not in model or Path(model).is_dir():
        return model, None
    name, _, revision = model.rpartition("@")
    return name, revision or None


def _records(model: str | None, revision: str | None) -> list[Any]:
    """Return the figures beside a checkpoint, `None` for each file that is missing or damaged."""
    records = []
    for name in ("evaluation.json", "robustness.json"):
        path = find_record(model or DEFAULT_CHECKPOINT, name, revision)
        try:
            text = None if path is None else path.read_text(encoding="utf-8")
            records.append(None if text is None else json.loads(text))
        except (OSError, ValueError) as error:
            logger.info("%s beside %s cannot be read: %s", name, model or "the bundled one", error)
            records.append(None)
    return records
