"""Where a classifier's spatial features are, and how its tokens fold into a grid.

Convolutional networks keep a (batch, channels, height, width) map; transformers keep (batch, tokens, channels)
with class, distillation or register tokens in front. [`find_layer`] finds the deepest usable layer of either kind
by watching one forward and one backward pass, [`candidate_layers`] lists others, and [`SpatialLayer.tap`] offers it to Captum as a map.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import get_ident
from weakref import WeakKeyDictionary

import torch
from torch import nn

_MAX_PREFIX = 16
# Their outputs are not the stream of features itself: projections of a part of it, or attention weights.
_NOT_FEATURES = (nn.Linear, nn.Dropout, nn.Softmax)


@dataclass(frozen=True)
class SpatialLayer:
    """A module whose output is a map, and how to read and write that map.

    Attributes:
        module: The module.
        name: Its name in the model.
        layout: `"channels_first"` (B, C, H, W), `"channels_last"` (B, H, W, C) or `"tokens"` (B, prefix + H·W, C).
        grid: `(H, W)`.
        prefix: Tokens in front of the patches' (class, distillation, registers); 0 for maps.
    """

    module: nn.Module
    name: str
    layout: str
    grid: tuple[int, int]
    prefix: int = 0

    def to_grid(self, activations: torch.Tensor) -> torch.Tensor:
        """The module's output as (B, C, H, W)."""
        if self.layout == "channels_first":
            return activations
        if self.layout == "channels_last":
            return activations.permute(0, 3, 1, 2)
        return activations[:, self.prefix :].transpose(1, 2).unflatten(2, self.grid)

    def from_grid(self, grid: torch.Tensor, activations: torch.Tensor) -> torch.Tensor:
        """The inverse of `to_grid`; the prefix tokens are taken from `activations`."""
        if self.layout == "channels_first":
            return grid
        if self.layout == "channels_last":
            return grid.permute(0, 2, 3, 1)
        return torch.cat([activations[:, : self.prefix], grid.flatten(2).transpose(1, 2)], dim=1)

    @contextmanager
    def tap(self) -> Iterator[nn.Module]:
        """Put a module that sees the map as (B, C, H, W), and nothing else, into the forward pass.

        What layer methods of Captum attach to: they average over height and width and sum over channels, which on
        tokens would be silently wrong. The model's output does not change.
        """
        tap, owner = nn.Identity(), get_ident()

        def through(_module, _inputs, output):
            # A server may predict in another thread meanwhile; its pass is none of ours.
            if get_ident() != owner:
                return None
            activations = _features(output)
            changed = self.from_grid(tap(self.to_grid(activations)), activations)
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        handle = self.module.register_forward_hook(through)
        try:
            yield tap
        finally:
            handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for the time being; afterwards every module is as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


# Names, not modules: an entry must neither keep a model alive nor outlive a module that was replaced.
_FOUND: WeakKeyDictionary = WeakKeyDictionary()


def find_layer(
    model: nn.Module, pixel_size: tuple[int, int], name: str | None = None
) -> SpatialLayer:
    """Find the deepest layer whose map the decision depends on, or the one called `name`.

    A layer is taken if its output is a map or a sequence of patch tokens in reading order (it may follow a few
    prefix tokens) and if the gradient of the logits with respect to that map is not zero. The latter matters where
    a class token alone is classified: after the last block's attention the patches no longer count, and the layer
    before it is taken.

    Args:
        model: A transformers image classifier: called with `pixel_values`, it returns `logits`.
        pixel_size: `(height, width)` of its input.
        name: *optional*. As in `model.named_modules()`.

    Returns:
        [`SpatialLayer`]

    Raises:
        ValueError: There is no such layer.
    """
    found = _FOUND.setdefault(model, {})
    if (pixel_size, name) not in found:
        found[pixel_size, name] = next(_search(model, pixel_size, name), None)
    if found[pixel_size, name]:
        return _layer(model, *found[pixel_size, name])
    if name is None:
        raise ValueError(
            f"{type(model).__name__} has no layer with spatial features that its decision depends on, which Grad-CAM "
            f"needs at {pixel_size[0]}x{pixel_size[1]} pixels; method='integrated_gradients' or 'occlusion' serve any model."
        )
    raise ValueError(
        f"{type(model).__name__} has no layer {name!r} with spatial features that its decision depends on; there are "
        f"{', '.join(layer.name for layer in candidate_layers(model, pixel_size))}."
    )


def candidate_layers(
    model: nn.Module, pixel_size: tuple[int, int], n: int = 8
) -> list[SpatialLayer]:
    """List layers that Grad-CAM could look at, for measurement to choose among (`scripts/evaluate_explanations.py`).

    These are the layers that [`find_layer`] would take whose name ends in a number, which is what blocks are called in
    transformers, and the deepest layer of all. Of many, `n` are taken at even distances.

    Returns:
        From the shallowest to the deepest, which is what [`find_layer`] finds.
    """
    found = list(_search(model, pixel_size))[::-1]
    blocks = [entry for entry in found[:-1] if entry[0].rsplit(".", 1)[-1].isdigit()] + found[-1:]
    if len(blocks) > n:
        blocks = (
            [blocks[round(i * (len(blocks) - 1) / max(1, n - 1))] for i in range(n)]
            if n > 1
            else blocks[-1:]
        )
    return [_layer(model, *entry) for entry in blocks]


def _layer(
    model: nn.Module, name: str, layout: str, grid: tuple[int, int], prefix: int
) -> SpatialLayer:
    return SpatialLayer(model.get_submodule(name), name, layout, grid, prefix)


def _features(output) -> torch.Tensor | None:
    """A module's output, or the first of several where that is how it answers."""
    output = output[0] if isinstance(output, tuple) and output else output
    return output if isinstance(output, torch.Tensor) else None


def _search(
    model: nn.Module, pixel_size: tuple[int, int], wanted: str | None = None
) -> Iterator[tuple]:
    """Usable layers, `(name, layout, grid, prefix)`, from the deepest on; the `wanted` one alone where it is named."""
    records, calls, owner = [], Counter(), get_ident()

    def record(name):
        def hook(module, _inputs, output):
            if get_ident() != owner:
                return
            calls[name] += 1
            features = _features(output)
            if (
                features is not None
                and features.requires_grad
                and not isinstance(module, _NOT_FEATURES)
            ):
                records.append((name, features))

        return hook

    parameter = next(model.parameters())
    # Noise, not a flat image: a gradient must be zero because of the architecture, not because of the input.
    noise = torch.randn((1, 3, *pixel_size), generator=torch.Generator().manual_seed(0))
    noise = noise.to(parameter.device, parameter.dtype).requires_grad_()
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.enable_grad())
        for name, module in model.named_modules():
            if name:
                stack.callback(module.register_forward_hook(record(name)).remove)
        logits = model(pixel_values=noise).logits
    # Uneven weights: neither the sum of the logits nor a difference of two can cancel by symmetry.
    scalar = (logits * torch.arange(1, logits.shape[1] + 1, device=logits.device).sqrt()).sum()

    candidates, base = [], None
    for name, features in records:
        found = _layout(features, pixel_size, base)
        if found and found[0] == "channels_first":
            base = found[1]
        # A module that runs twice has two maps, and a hook could not tell which.
        if found and calls[name] == 1:
            candidates.append((name, features, found))
    for name, features, found in reversed(candidates):
        if wanted is not None and name != wanted:
            continue
        (gradient,) = torch.autograd.grad(scalar, features, retain_graph=True, allow_unused=True)
        if gradient is not None and bool(_layer(model, name, *found).to_grid(gradient).any()):
            yield name, *found


def _layout(features: torch.Tensor, pixel_size, base) -> tuple[str, tuple[int, int], int] | None:
    """How a tensor is laid out, if it can be a map of the input; `base` is the grid of the last map before it."""
    if features.shape[0] != 1:
        return None
    if features.ndim == 4:
        for layout, grid in (
            ("channels_first", features.shape[2:]),
            ("channels_last", features.shape[1:3]),
        ):
            if min(grid) > 1 and _is_reduced(tuple(grid), pixel_size):
                return layout, tuple(grid), 0
    if features.ndim == 3 and features.shape[2] > 1 and base:
        # The grid of the patch embedding, or halved by patch merging.
        grid = base
        while min(grid) > 1:
            prefix = features.shape[1] - grid[0] * grid[1]
            if prefix >= 0:
                return ("tokens", grid, prefix) if prefix <= _MAX_PREFIX else None
            grid = (-(-grid[0] // 2), -(-grid[1] // 2))
    return None


def _is_reduced(grid: tuple[int, int], pixel_size: tuple[int, int]) -> bool:
    """Whether some whole stride, the same for both axes, makes `grid` of an image (up to rounding and padding)."""
    strides = range(1, max(pixel_size) + 1)
    return any(
        all(abs(size / stride - cells) < 1 for size, cells in zip(pixel_size, grid))
        for stride in strides
    )
