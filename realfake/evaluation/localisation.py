"""Does a map find a region that is known? Scores of a map against a mask, and maps that know nothing to compare with. Arrays only."""

import numpy as np
from sklearn.metrics import average_precision_score

from ..attribution.perturbation import importance_order, random_orders

SCORES = ("pointing", "energy", "average_precision")


def localisation(heatmap: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Score a map against the region it should find.

    Args:
        heatmap: `(height, width)`; positive supports the target, NaN was not seen by the model and does not count.
        mask: Boolean `(height, width)`.

    Returns:
        `pointing`: 1 where the strongest pixel is in the mask, else 0 (Zhang et al. 2018; the share of such among several
        strongest ones). `energy`: share of the positive evidence in the mask (Wang et al. 2020), 0 where there is none.
        `average_precision` of the pixels, ordered by the map. All NaN where the mask, or what is outside of it, was not seen.

    Raises:
        ValueError: The shapes differ.
    """
    if heatmap.shape != mask.shape:
        raise ValueError(
            f"The map has shape {heatmap.shape}, the mask {mask.shape}; they must lie on the same image."
        )
    seen = np.isfinite(heatmap)
    heat, inside = heatmap[seen].astype(np.float64), np.asarray(mask, dtype=bool)[seen]
    if not inside.any() or inside.all():
        return dict.fromkeys(SCORES, float("nan"))
    positive = heat.clip(0)
    return {
        "pointing": float(inside[heat == heat.max()].mean()),
        "energy": float(positive[inside].sum() / positive.sum()) if positive.any() else 0.0,
        "average_precision": float(average_precision_score(inside, heat)),
    }


def centred_map(shape: tuple[int, int]) -> np.ndarray:
    """A map that knows where photographers put things, and nothing else: a Gaussian, a quarter of each side wide."""
    y, x = np.linspace(-2, 2, shape[0]), np.linspace(-2, 2, shape[1])
    return np.exp(-0.5 * np.add.outer(y**2, x**2))


def random_maps(heatmap: np.ndarray, n: int, seed: int = 0) -> list[np.ndarray]:
    """Maps with the values and the spatial statistics of this one in random places; see [`random_orders`]."""
    seen = np.isfinite(heatmap)
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    descending = np.sort(heatmap[seen])[::-1]
    moved = []
    for order in random_orders(importance_order(np.where(seen, heatmap, 0), box), n, seed):
        drawn = np.full(heatmap.shape, np.nan)
        drawn[order >= 0] = descending[order[order >= 0]]
        moved.append(drawn)
    return moved


def localisation_of_chance(
    heatmap: np.ndarray, mask: np.ndarray, n: int = 5, seed: int = 0
) -> dict[str, float]:
    """The mean scores of `n` random maps like this one."""
    scores = [localisation(drawn, mask) for drawn in random_maps(heatmap, n, seed)]
    return {name: float(np.mean([score[name] for score in scores])) for name in SCORES}
