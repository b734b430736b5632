"""Taking parts of a picture away: which pixels a map marks, maps to compare it with, and what is put in their place.

Stands under `realfake.attribution.faithfulness`, which asks what becomes of the score. Works on the model's input, in the order of the map's
ranks, so that every map takes away equally many pixels however its values are distributed.
"""

import numpy as np
import torch

Box = tuple[int, int, int, int]


def whole(shape: tuple[int, int]) -> Box:
    """The box `(left, top, right, bottom)` of a whole map of `shape` (height, width)."""
    return 0, 0, shape[1], shape[0]


def importance_order(heatmap: np.ndarray, box: Box | None = None) -> np.ndarray:
    """Rank the pixels of a map by the evidence for its target: 0 for the strongest.

    Ties are broken in reading order, so that a superpixel is taken from its top and not riddled with holes.

    Args:
        heatmap: `(h, w)`, all finite.
        box: *optional*. The part of the input that is image, `(left, top, right, bottom)`; what is outside is padding.

    Returns:
        Int64 `(h, w)`; -1 outside of the box.

    Raises:
        ValueError: The map is not finite or not two-dimensional, or nothing is in the box.
    """
    heatmap = np.asarray(heatmap)
    if heatmap.ndim != 2 or not np.isfinite(heatmap).all():
        raise ValueError(
            "A map must be a (height, width) array without NaN; carry it onto the image afterwards."
        )
    left, top, right, bottom = box or whole(heatmap.shape)
    inner = heatmap[top:bottom, left:right]
    if not inner.size:
        raise ValueError(f"The box {box} holds no pixel of a map of shape {heatmap.shape}.")
    ranks = np.empty(inner.size, dtype=np.int64)
    ranks[np.argsort(-inner.ravel(), kind="stable")] = np.arange(inner.size)
    order = np.full(heatmap.shape, -1, dtype=np.int64)
    order[top:bottom, left:right] = ranks.reshape(inner.shape)
    return order


def random_orders(order: np.ndarray, n: int, seed: int = 0) -> list[np.ndarray]:
    """Orders with the spatial statistics of `order`, in places that have nothing to do with it.

    The order is flipped at random along either axis and rolled around by a random number of rows and columns, within its
    box. Histogram, sizes of spots and the spectrum stay as they are, exactly; only the place is drawn anew. Scattered
    pixels in their place would be an easier opponent: they take away a little everywhere, a map takes away a whole thing.

    Args:
        order: From [`importance_order`].
        n: How many.
        seed: The same seed gives the same ones.

    Returns:
        `n` arrays like `order`.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.flatnonzero((order >= 0).any(axis=1)), np.flatnonzero((order >= 0).any(axis=0))
    part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    inner, drawn = order[part], []
    for _ in range(n):
        flipped = inner[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
        moved = order.copy()
        moved[part] = np.roll(
            flipped, (rng.integers(inner.shape[0]), rng.integers(inner.shape[1])), axis=(0, 1)
        )
        drawn.append(moved)
    return drawn


def strongest(order: np.ndarray, share: float) -> np.ndarray:
    """The first `share` of an order, as a Boolean mask `(h, w)`, at least one pixel of it where `share` is over 0."""
    count = int(np.ceil(share * (order >= 0).sum() - 1e-9))
    return (order >= 0) & (order < count)


def replace(pixels: torch.Tensor, fill: torch.Tensor, masks: np.ndarray) -> torch.Tensor:
    """Put `fill` where a mask is true.

    Args:
        pixels, fill: `(1, 3, h, w)`.
        masks: Boolean `(n, h, w)`.

    Returns:
        `(n, 3, h, w)`.
    """
    chosen = torch.from_numpy(np.asarray(masks, dtype=bool)).to(pixels.device)[:, None]
    return torch.where(chosen, fill, pixels)
