"""Replace parts of a model's input: baselines, masks from the ranks of a map, and imputation."""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import splu

# (left, top, right, bottom) of the part of a model's input that is not padding.
Box = tuple[int, int, int, int]

# Offsets of the eight neighbours and their weights in ROAD: edges 1/6, corners 1/12.
_NEIGHBOURS = [
    (dy, dx, 1 / 6 if 0 in (dy, dx) else 1 / 12)
    for dy in (-1, 0, 1)
    for dx in (-1, 0, 1)
    if dy or dx
]


def baseline_pixels(pixels: torch.Tensor, baseline: str | torch.Tensor = "blurred") -> torch.Tensor:
    """Return an uninformative version of an input.

    Args:
        pixels: `(1, 3, h, w)`.
        baseline: `"blurred"` (Gaussian with a standard deviation of a twentieth of the longer
            side), `"mean"` (the mean colour of the image), or pixel values like `pixels`.

    Returns:
        A tensor like `pixels`.

    Raises:
        ValueError: The name is unknown, or the tensor has another shape.
    """
    if isinstance(baseline, torch.Tensor):
        if baseline.shape != pixels.shape:
            raise ValueError(
                f"The baseline has shape {tuple(baseline.shape)}, the image {tuple(pixels.shape)}."
            )
        return baseline.to(pixels)
    if baseline == "blurred":
        sigma = max(pixels.shape[2:]) / 20
        blurred = gaussian_filter(pixels.float().cpu().numpy(), (0, 0, sigma, sigma))
        return torch.from_numpy(blurred).to(pixels)
    if baseline == "mean":
        return pixels.mean(dim=(2, 3), keepdim=True).expand_as(pixels).contiguous()
    raise ValueError(f"Unknown baseline {baseline!r}; use blurred, mean or a tensor.")


def importance_order(heatmap: np.ndarray, box: Box | None = None) -> np.ndarray:
    """Rank the pixels of a map by the evidence for its target: 0 for the strongest.

    Ties are broken in reading order.

    Args:
        heatmap: `(h, w)`, all finite.
        box: *optional*. The part of the input that is ranked.

    Returns:
        Int64 `(h, w)`; -1 outside of the box.

    Raises:
        ValueError: The map is not finite or not two-dimensional, or the box is empty.
    """
    heatmap = np.asarray(heatmap)
    if heatmap.ndim != 2 or not np.isfinite(heatmap).all():
        raise ValueError("A map must be a (height, width) array without NaN.")
    left, top, right, bottom = box or (0, 0, heatmap.shape[1], heatmap.shape[0])
    inner = heatmap[top:bottom, left:right]
    if not inner.size:
        raise ValueError(f"The box {box} contains no pixel of a map of shape {heatmap.shape}.")
    ranks = np.empty(inner.size, dtype=np.int64)
    ranks[np.argsort(-inner.ravel(), kind="stable")] = np.arange(inner.size)
    order = np.full(heatmap.shape, -1, dtype=np.int64)
    order[top:bottom, left:right] = ranks.reshape(inner.shape)
    return order


def random_orders(order: np.ndarray, n: int, seed: int = 0) -> list[np.ndarray]:
    """Flip an order at random, and roll it by random numbers of rows and columns within its box.

    The spatial statistics (histogram, size of spots, spectrum) do not change. Independent random
    pixels would be easier to beat, because they do not remove whole objects.

    Args:
        order: From [`importance_order`].
        n: Number of random orders to return.
        seed: Seed of the flips and shifts.
    """
    rng = np.random.default_rng(seed)
    ranked = order >= 0
    rows, columns = np.flatnonzero(ranked.any(axis=1)), np.flatnonzero(ranked.any(axis=0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    inner, orders = order[box], []
    for _ in range(n):
        flipped = inner[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
        shift = rng.integers(inner.shape[0]), rng.integers(inner.shape[1])
        moved = order.copy()
        moved[box] = np.roll(flipped, shift, axis=(0, 1))
        orders.append(moved)
    return orders


def strongest(order: np.ndarray, share: float) -> np.ndarray:
    """Return the first `share` of an order as a mask, bool `(h, w)`.

    The mask has at least one pixel if `share` is positive.
    """
    count = int(np.ceil(share * (order >= 0).sum() - 1e-9))
    return (order >= 0) & (order < count)


def replace(pixels: torch.Tensor, fill: torch.Tensor, masks: np.ndarray) -> torch.Tensor:
    """Replace pixels `(1, 3, h, w)` by `fill` where `masks`, bool `(n, h, w)`, are true.

    Returns:
        `(n, 3, h, w)`.
    """
    chosen = torch.from_numpy(np.asarray(masks, dtype=bool)).to(pixels.device)[:, None]
    return torch.where(chosen, fill, pixels)


def _solve(image: np.ndarray, mask: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Solve: sum of weights × pixel = weighted sum of its neighbours. Returns (3, missing)."""
    height, width = mask.shape
    n = len(missing)
    unknown = np.full(mask.size, -1)
    unknown[missing] = np.arange(n)
    y, x = np.divmod(missing, width)
    known, diagonal = np.zeros((3, n)), np.zeros(n)
    rows, columns, values = [], [], []
    flat = image.reshape(3, -1)
    for dy, dx, weight in _NEIGHBOURS:
        inside = (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width)
        here = np.flatnonzero(inside)
        there = (y + dy)[inside] * width + (x + dx)[inside]
        diagonal[here] += weight
        is_known = unknown[there] < 0
        known[:, here[is_known]] += weight * flat[:, there[is_known]]
        rows.append(here[~is_known])
        columns.append(unknown[there[~is_known]])
        values.append(np.full((~is_known).sum(), -weight))
    places = np.concatenate(rows), np.concatenate(columns)
    matrix = coo_matrix((np.concatenate(values), places), (n, n)).tocsr() + diags(diagonal)
    factors = splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
    return factors.solve(known.T).T
