"""Filling holes in an image so that it still looks like one: noisy linear imputation, for masks of any shape.

Blurring keeps what lies under a mask recognisable, a flat colour leaves a shape that a model may see. This draws each missing pixel
from its neighbours, as ROAD does (Rong et al. 2022, "A Consistent and Efficient Evaluation Strategy for Attribution Methods").
"""

import numpy as np
import torch
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import splu

# Neighbours and their weights, as in the paper: edges 1/6, corners 1/12.
_NEIGHBOURS = [
    (dy, dx, 1 / 6 if 0 in (dy, dx) else 1 / 12) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx
]


def impute(pixels: torch.Tensor, mask: np.ndarray, noise: float = 0.01, seed: int = 0) -> torch.Tensor:
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
    matrix = coo_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), size).tocsr()
    matrix = matrix + diags(diagonal)
    return splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}).solve(known.T).T
