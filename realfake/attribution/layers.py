"""Find the layers of a classifier with spatial features, and read them as a map.

Convolutional networks keep a (batch, channels, height, width) map. Transformers keep (batch,
tokens, channels), with class, distillation or register tokens in front of the patches.
[`find_layer`] finds the deepest usable layer of either kind from one forward and one backward pass.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

_MAX_PREFIX = 16
# The output is a projection of a part of the features, or attention weights.
_NOT_FEATURES = (nn.Linear, nn.Dropout, nn.Softmax)
# Names instead of modules, because an entry must not keep a model alive.
_FOUND: WeakKeyDictionary = WeakKeyDictionary()


@dataclass(frozen=True)
class SpatialLayer:
    """A module whose output is a map, and how to read and write that map.

    Attributes:
        layout: `"channels_first"` (B, C, H, W), `"channels_last"` (B, H, W, C) or `"tokens"`
            (B, prefix + H·W, C).
        grid: `(H, W)`.
        prefix: Number of tokens in front of the patches; 0 for maps.
    """

    module: nn.Module
    name: str
    layout: str
    grid: tuple[int, int]
    prefix: int = 0

    def to_grid(self, activations: torch.Tensor) -> torch.Tensor:
        """Return the module's output as (B, C, H, W)."""
        if self.layout == "channels_first":
            return activations
        if self.layout == "channels_last":
            return activations.permute(0, 3, 1, 2)
        return activations[:, self.prefix :].transpose(1, 2).unflatten(2, self.grid)

    def from_grid(self, grid: torch.Tensor, activations: torch.Tensor) -> torch.Tensor:
        """Invert `to_grid`; the prefix tokens are taken from `activations`."""
        if self.layout == "channels_first":
            return grid
        if self.layout == "channels_last":
            return grid.permute(0, 2, 3, 1)
        return torch.cat([activations[:, : self.prefix], grid.flatten(2).transpose(1, 2)], dim=1)

    @contextmanager
    def tap(self) -> Iterator[nn.Module]:
        """Insert an identity module into the forward pass whose input is the map, (B, C, H, W).

        Layer methods of Captum attach to it. They average over height and width and sum over
        channels, which would be wrong for tokens. The model's output does not change.
        """
        tap, owner = nn.Identity(), get_ident()

        def through(_module: nn.Module, _inputs: tuple, output: Any) -> Any:
            # Other threads can run the model.
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
    """Switch to evaluation mode, and restore the mode of every module afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def find_layer(
    model: nn.Module, pixel_size: tuple[int, int], name: str | None = None
) -> SpatialLayer:
    """Find the deepest usable layer, or the usable layer with a given name.

    The output of a usable layer is a map, or a sequence of patch tokens in reading order, and the
    gradient of the logits is not zero. It is zero after the last attention if only a class token is
    classified.

    Args:
        model: A transformers image classifier.
        pixel_size: `(height, width)` of its input.
        name: *optional*. As in `model.named_modules()`.

    Raises:
        ValueError: There is no such layer.
    """
    known = _FOUND.setdefault(model, {})
    if (pixel_size, name) not in known:
        known[pixel_size, name] = next(_search(model, pixel_size, name), None)
    if known[pixel_size, name]:
        return _layer(model, *known[pixel_size, name])
    height, width = pixel_size
    if name is None:
        raise ValueError(
            f"{type(model).__name__} has no layer with spatial features for Grad-CAM at "
            f"{height}x{width} pixels; use method='integrated_gradients' or 'occlusion'."
        )
    names = ", ".join(layer.name for layer in candidate_layers(model, pixel_size))
    raise ValueError(f"{type(model).__name__} has no usable layer {name!r}; choose one of {names}.")


def candidate_layers(
    model: nn.Module, pixel_size: tuple[int, int], n: int = 8
) -> list[SpatialLayer]:
    """List the layers that `realfake evaluate explanations` compares for Grad-CAM.

    These are the usable layers (see [`find_layer`]) whose name ends in a number, like the blocks of
    transformers, and the deepest layer. At most `n` are returned, at even distances.

    Returns:
        The layers, from the shallowest to the deepest.
    """
    usable = list(_search(model, pixel_size))[::-1]
    blocks = [entry for entry in usable[:-1] if entry[0].rsplit(".", 1)[-1].isdigit()]
    blocks += usable[-1:]
    if len(blocks) > n:
        last = len(blocks) - 1
        blocks = [blocks[round(i * last / (n - 1))] for i in range(n)] if n > 1 else blocks[-1:]
    return [_layer(model, *entry) for entry in blocks]


def _layer(
    model: nn.Module, name: str, layout: str, grid: tuple[int, int], prefix: int
) -> SpatialLayer:
    return SpatialLayer(model.get_submodule(name), name, layout, grid, prefix)


def _features(output: Any) -> torch.Tensor | None:
    """Return a module's output, or the first one of several."""
    output = output[0] if isinstance(output, tuple) and output else output
    return output if isinstance(output, torch.Tensor) else None


def _search(
    model: nn.Module, pixel_size: tuple[int, int], wanted: str | None = None
) -> Iterator[tuple]:
    """Yield `(name, layout, grid, prefix)` of the usable layers, the deepest first."""
    records, calls, owner = [], Counter(), get_ident()

    def record(name: str) -> Callable:
        def hook(module: nn.Module, _inputs: tuple, output: Any) -> None:
            if get_ident() != owner:
                return
            calls[name] += 1
            features = _features(output)
            usable = features is not None and features.requires_grad
            if usable and not isinstance(module, _NOT_FEATURES):
                records.append((name, features))

        return hook

    parameter = next(model.parameters())
    # Noise, because gradients for a flat image can be zero by chance.
    noise = torch.randn((1, 3, *pixel_size), generator=torch.Generator().manual_seed(0))
    noise = noise.to(parameter.device, parameter.dtype).requires_grad_()
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.enable_grad())
        for name, module in model.named_modules():
            if name:
                stack.callback(module.register_forward_hook(record(name)).remove)
        logits = model(pixel_values=noise).logits
    # Uneven weights, so that the gradient cannot cancel by symmetry.
    scalar = (logits * torch.arange(1, logits.shape[1] + 1, device=logits.device).sqrt()).sum()

    candidates, base = [], None
    for name, features in records:
        layout = _layout(features, pixel_size, base)
        if layout and layout[0] == "channels_first":
            base = layout[1]
        # A module that runs twice has two maps, which a hook cannot distinguish.
        if layout and calls[name] == 1 and wanted in (None, name):
            candidates.append((name, features, layout))
    for name, features, layout in reversed(candidates):
        (gradient,) = torch.autograd.grad(scalar, features, retain_graph=True, allow_unused=True)
        if gradient is not None and bool(_layer(model, name, *layout).to_grid(gradient).any()):
            yield name, *layout


def _layout(
    features: torch.Tensor, pixel_size: tuple[int, int], base: tuple[int, int] | None
) -> tuple[str, tuple[int, int], int] | None:
    """Return `(layout, grid, prefix)` of a tensor; `base` is the grid of the last map before it."""
    if features.shape[0] != 1:
        return None
    if features.ndim == 4:
        grids = {"channels_first": features.shape[2:], "channels_last": features.shape[1:3]}
        for layout, grid in grids.items():
            if min(grid) > 1 and _is_reduced(grid, pixel_size):
                return layout, tuple(grid), 0
    if features.ndim == 3 and features.shape[2] > 1 and base:
        # The grid of the patch embedding, which patch merging halves.
        grid = base
        while min(grid) > 1:
            prefix = features.shape[1] - grid[0] * grid[1]
            if prefix >= 0:
                return ("tokens", grid, prefix) if prefix <= _MAX_PREFIX else None
            grid = (-(-grid[0] // 2), -(-grid[1] // 2))
    return None


def _is_reduced(grid: tuple[int, ...], pixel_size: tuple[int, int]) -> bool:
    """Return whether a common integer stride reduces the image to `grid`, up to rounding."""
    return any(
        all(abs(size / stride - cells) < 1 for size, cells in zip(pixel_size, grid, strict=True))
        for stride in range(1, max(pixel_size) + 1)
    )
