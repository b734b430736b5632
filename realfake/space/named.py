"""Checkpoints that visitors name for a comparison, opened as a stranger would.

Without the server's token, so that nobody sees its owner's private checkpoints, without code of the checkpoint's, and only what
does no harm by its size ([`~realfake.space.footprint`]). Once it is open, its files are gone from the disk.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download

from realfake.detector import Detector
from realfake.models.hub import Located, remove_altered
from realfake.models.ood import FILE_NAME as OOD_FILE
from realfake.space.about import is_hub_id
from realfake.space.footprint import Refusal, check_footprint
from realfake.space.loading import BUILDING
from realfake.space.text import Words
from realfake.space.tidying import passing_folder

logger = logging.getLogger(__name__)

# Of all its safetensors together: they are downloaded to the server's disk and opened in its memory.
MAX_WEIGHTS = 512 * 2**20
# Weights stored in 16 bits take twice as much in memory.
MEMORY_FACTOR = 2
# Of each file of settings. Those with the names of 20,000 classes take less.
MAX_SETTINGS = 2 * 2**20
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SETTINGS = ("config.json", "preprocessor_config.json", "processor_config.json")


def open_named(model: str, words: Words, max_weights: int = MAX_WEIGHTS) -> Detector:
    """Open a checkpoint on the Hub that a visitor named, as `user/name` or `user/name@revision`.

    Raises:
        ValueError: It is refused, or could not be opened; one line in the language of `words`.
    """
    name, _, revision = model.strip().partition("@")
    # A folder of the server's that goes by such a name is none of the visitor's business.
    if not is_hub_id(name) or Path(name).exists():
        raise ValueError(words("compare.not_hub", model=model.strip()[:100] or "–"))
    try:
        info = HfApi(token=False).model_info(
            name, revision=revision or None, files_metadata=True, timeout=10
        )
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        _check_sizes(sizes, max_weights)
        # A cache of its own: what a stranger names does not pile up beside the page's own checkpoint.
        with passing_folder() as cache:
            folder, weights = _download(name, info.sha, sizes, cache)
            with BUILDING:
                check_footprint(folder, weights, MEMORY_FACTOR * max_weights)
                detector = Detector.from_pretrained(folder, token=False)
    except Refusal as refusal:
        values = {
            key: value if isinstance(value, str) else words.number(value)
            for key, value in refusal.values.items()
        }
        raise ValueError(words(refusal.key, model=name, **values)) from None
    except Exception:
        logger.exception("%s could not be opened", name)
        raise ValueError(words("compare.no_answer", model=name)) from None
    detector.name, detector.revision = name, info.sha
    return detector


def _check_sizes(sizes: Mapping[str, int], max_weights: int) -> None:
    """Check what the Hub lists, before any of it is downloaded."""
    weights = [size for name, size in sizes.items() if name.endswith(".safetensors")]
    if _WEIGHTS not in sizes and _INDEX not in sizes:
        raise Refusal("compare.no_weights")
    if sum(weights) > max_weights:
        raise Refusal("compare.too_large", size=sum(weights) / 2**20, limit=max_weights / 2**20)
    for name in (*_SETTINGS, _INDEX):
        if sizes.get(name, 0) > MAX_SETTINGS:
            raise Refusal("compare.long_file", file=name, limit=MAX_SETTINGS / 2**20)


def _download(
    name: str, commit: str, sizes: Mapping[str, int], cache: Path
) -> tuple[Path, list[Path]]:
    """Download what is read of a checkpoint, and nothing else.

    Returns:
        Its folder, and its files of weights.

    Raises:
        Refusal: Its weights are in files of another kind, or in none of its own.
        OSError: A file did not arrive as the Hub announced it.
    """

    def downloaded(file: str) -> Path:
        return Path(hf_hub_download(name, file, revision=commit, cache_dir=cache, token=False))

    files = [_WEIGHTS]
    if _WEIGHTS not in sizes:
        index = json.loads(downloaded(_INDEX).read_text(encoding="utf-8"))
        files = sorted(set(index["weight_map"].values()))
        if not all(file in sizes and file.endswith(".safetensors") for file in files):
            raise Refusal("compare.no_weights")
    folder = downloaded("config.json").parent
    for file in (*_SETTINGS, OOD_FILE):
        if file in sizes:
            downloaded(file)
    weights = [downloaded(file) for file in files]
    if altered := remove_altered(Located(folder, commit=commit)):
        raise OSError(
            f"{name}: {', '.join(altered)} arrived with another content than the Hub announced."
        )
    return folder, weights
