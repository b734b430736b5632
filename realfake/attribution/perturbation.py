"""Uninformative images: what attribution methods compare with, and what is put where a part of an image is taken away."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import splu


def baseline_pixels(
    pixels: torch.Tensor,
    baseline: str | torch.Tensor = "blurred",
    black: Sequence[float] | None = None,
    seed: int = 0,
) -> torch.Tensor:
    """An uninformative image to compare with.

    Args:
        pixels: `(1, 3, h, w)`.
        baseline: `"blurred"` (Gaussian, a twentieth of the longer side), `"mean"` (the image's mean colour),
            `"noise"` (uniform over each channel's range of values), `"black"`, or pixel values of one's own.
        black: For `"black"`: the three values of a black pixel, from [`black_pixel`].
        seed: For `"noise"`.

    Returns:
        A tensor like `pixels`.

    Raises:
        ValueError: An unknown name, `"black"` without `black`, or a tensor of another shape.
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
    if baseline == "noise":
        low, high = pixels.amin(dim=(2, 3), keepdim=True), pixels.amax(dim=(2, 3), keepdim=True)
        uniform = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(seed))
        return low + (high - low) * uniform.to(pixels)
    if baseline == "black":
        if black is None:
            raise ValueError(
                "baseline='black' needs black=black_pixel(processor): pixel values are normalised."
            )
        return pixels.new_tensor(list(black))[None, :, None, None].expand_as(pixels).contiguous()
    raise ValueError(
        f"Unknown baseline {baseline!r}; there are blurred, mean, noise, black, or a tensor."
    )


def black_pixel(processor) -> tuple[float, float, float]:
    """What a processor makes of a black pixel, channel by channel."""
    pixels = processor(Image.new("RGB", (64, 64)), return_tensors="pt")["pixel_values"][0]
    return tuple(pixels[:, pixels.shape[1] // 2, pixels.shape[2] // 2].tolist())


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
    rows, columns = (
        np.flatnonzero((order >= 0).any(axis=1)),
        np.flatnonzero((order >= 0).any(axis=0)),
    )
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


# Neighbours and their weights, as in the paper: edges 1/6, corners 1/12.
_NEIGHBOURS = [
    (dy, dx, 1 / 6 if 0 in (dy, dx) else 1 / 12)
    for dy in (-1, 0, 1)
    for dx in (-1, 0, 1)
    if dy or dx
]


def impute(
    pixels: torch.Tensor, mask: np.ndarray, noise: float = 0.01, seed: int = 0
) -> torch.Tensor:
    """Replace the masked pixels by a weighted mean of their neighbours, masked ones included, plus noise.

    Args:
        pixels: `(1, 3, h, w)`.
        mask: Boolean `(h, w)`, true where pixels are missing.
        noise: Standard deviation of the noise, as a share of the image's range of values.
        seed: Of the noise.

    Returns:
        `(1, 3, h, w)`; the image's mean colour where everything is missing.
    """
    image = pixels[0].double().cpu().numpy()
    filled, missing = image.copy(), np.flatnonzero(mask)
    rng = np.random.default_rng(seed)
    if len(missing) == mask.size:
        filled[:] = image.mean(axis=(1, 2), keepdims=True)
    elif len(missing):
        filled[:, mask] = _solve(image, mask, missing)
    if len(missing):
        filled[:, mask] += rng.normal(0, noise * np.ptp(image), (3, len(missing)))
    return torch.from_numpy(filled)[None].to(pixels)


def _solve(image: np.ndarray, mask: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Solve for every missing pixel: sum of weights × itself = weighted sum of its neighbours. Returns (3, missing)."""
    height, width = mask.shape
    unknown = np.full(mask.size, -1)
    unknown[missing] = np.arange(len(missing))
    y, x = np.divmod(missing, width)
    known = np.zeros((3, len(missing)))
    diagonal = np.zeros(len(missing))
    rows, columns, values = [], [], []
    flat = image.reshape(3, -1)
    for dy, dx, weight in _NEIGHBOURS:
        inside = (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width)
        here = np.flatnonzero(inside)
        there = (y + dy)[inside] * width + (x + dx)[inside]
        diagonal[here] += weight
        given = unknown[there] < 0
        known[:, here[given]] += weight * flat[:, there[given]]
        rows.append(here[~given])
        columns.append(unknown[there[~given]])
        values.append(np.full((~given).sum(), -weight))
    size = (len(missing), len(missing))
    matrix = coo_matrix(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), size
    ).tocsr()
    matrix = matrix + diags(diagonal)
    return (
        splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
        .solve(known.T)
        .T
    )
