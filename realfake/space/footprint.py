"""What a checkpoint that a visitor names would take of memory and time, found out before it is taken.

Its configuration may describe a network far larger than the weights beside it, its image processor may ask for an input of any
size, and a small network may make large results on the way. The network is built and run here with tensors that have a shape
and no memory.
"""

import json
import math
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from threading import get_ident

import torch
from PIL import Image
from safetensors import safe_open
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageClassification

from realfake.models.classifiers import load_config, load_processor

# Of the model's input, and of what the processor resizes to on the way.
MAX_SIDE = 1024
# Vocabularies and labels are counted in thousands, layers and sizes in less.
MAX_NUMBER = 1_000_000
# Modules within modules. A ViT-L has four hundred, the largest EfficientNet fifteen hundred.
MAX_PARTS = 10_000
# For building a network without memory: large ones take half a second, those with tables made by loops may take hours.
MAX_SECONDS = 10.0
# Numbers in one tensor on the way, 256 MiB, and operations for one image: a ViT-H at 224 pixels takes a third of it.
MAX_RESULT = 2**26
MAX_OPERATIONS = 1e12
# Beside its weights a network has tables that follow from its configuration.
SLACK, MORE = 4 * 2**20, 1.25
# Bytes that name and describe the tensors of a file of weights.
_MAX_HEADER = 4 * 2**20
# The smallest part of an image that a processor may keep of what it resizes to.
_LEAST_CROP = 0.5


class Refusal(Exception):
    """A checkpoint that is not opened.

    Args:
        key: Of the sentence that says why, in `languages`.
        values: What stands in its braces; numbers are written as the language does.
    """

    def __init__(self, key: str, **values: str | float):
        super().__init__(key)
        self.key = key
        self.values = values


def check_footprint(folder: Path, weights: Sequence[Path], max_bytes: int) -> None:
    """Check a downloaded checkpoint before it is opened.

    Args:
        folder: Holds its configuration and that of its image processor.
        weights: Its files of weights.
        max_bytes: What its weights may take in memory.

    Raises:
        Refusal: It would take too much, or its weights do not fit its configuration.
        ValueError, OSError: It is no image classifier, or is broken.
    """
    settings = json.loads(
        (folder / "config.json").read_text(encoding="utf-8"), parse_constant=lambda _: math.inf
    )
    # Those would have other files opened than were looked at, or the same ones in another way.
    if "transformers_weights" in settings or "quantization_config" in settings:
        raise Refusal("compare.misfit")
    settings.pop("realfake", None)  # figures for people to read
    # Before transformers reads it, which makes a list of as many labels as it states.
    if _largest(settings) > MAX_NUMBER:
        raise Refusal("compare.too_much")
    if (
        _largest(settings, "image_size") > 2 * MAX_SIDE
    ):  # of both sides together, where there are two
        raise Refusal("compare.large_input", limit=MAX_SIDE)
    height, width = _checked_input(load_processor(folder))
    model = _sketch(load_config(folder))
    needed = sum(tensor.numel() for tensor in chain(model.parameters(), model.buffers()))
    if needed > MORE * sum(_stored(path) for path in weights) + SLACK:
        raise Refusal("compare.misfit")
    if 4 * needed > max_bytes:
        raise Refusal("compare.too_large", size=4 * needed / 2**20, limit=max_bytes / 2**20)
    _check_pass(model, height, width)


def _largest(value, named: str | None = None) -> float:
    """The largest number in what was read from JSON, or of those under a name; those of a list count together."""
    if isinstance(value, dict):
        return max(
            (_largest(each, None if key == named else named) for key, each in value.items()),
            default=0,
        )
    if isinstance(value, list):
        return sum(_largest(each, named) for each in value)
    return abs(value) if isinstance(value, (int, float)) and named is None else 0


def _checked_input(processor) -> tuple[int, int]:
    """The height and width of the model's input, which the processor must bring every image to."""
    settings = json.loads(processor.to_json_string())
    crop = settings.get("crop_pct")
    if _largest(settings) > MAX_SIDE or (crop is not None and not crop >= _LEAST_CROP):
        raise Refusal("compare.large_input", limit=MAX_SIDE)
    pictures = [Image.new("RGB", size) for size in ((64, 64), (64, 16))]
    square, wide = (
        processor(images=each, return_tensors="pt")["pixel_values"].shape for each in pictures
    )
    if square != wide:
        raise Refusal("compare.large_input", limit=MAX_SIDE)
    return square[-2:]


def _sketch(config) -> torch.nn.Module:
    """Build the network that a configuration describes, without memory for its tensors."""
    parts, owner, deadline = 0, get_ident(), time.monotonic() + MAX_SECONDS

    def count(*_) -> None:
        nonlocal parts
        # Another thread may build a network meanwhile, which is none of ours.
        if get_ident() == owner:
            parts += 1
            if parts > MAX_PARTS or time.monotonic() > deadline:
                raise Refusal("compare.too_much")

    hook = register_module_module_registration_hook(count)
    try:
        with torch.device("meta"):
            return AutoModelForImageClassification.from_config(config).eval()
    finally:
        hook.remove()


def _stored(path: Path) -> int:
    """How many numbers a file of weights holds."""
    with path.open("rb") as file:
        if int.from_bytes(file.read(8), "little") > _MAX_HEADER:
            raise Refusal("compare.too_much")
    with safe_open(path, framework="pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


class _Results(TorchDispatchMode):
    """Stops where a tensor would become too large."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.numel() > MAX_RESULT:
                raise Refusal("compare.too_much")
        return result


@torch.no_grad()
def _check_pass(model: torch.nn.Module, height: int, width: int) -> None:
    pixels = torch.empty((1, 3, height, width), device="meta")
    with FlopCounterMode(display=False) as counter, _Results():
        model(pixel_values=pixels)
    if counter.get_total_flops() > MAX_OPERATIONS:
        raise Refusal("compare.too_much")
