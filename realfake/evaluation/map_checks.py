"""Scores of attribution maps: against a known region, and against the model's behaviour.

`realfake.evaluation.explanations` makes the maps.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score
from torch import nn

from realfake.attribution.perturbation import (
    baseline_pixels,
    importance_order,
    random_orders,
    replace,
)

SCORES = ("pointing", "energy", "average_precision")
# Name of the control map of [`centred_map`] among the methods.
CENTRE = "centre"


def localisation(heatmap: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Score a map against the region that it should find.

    Args:
        heatmap: `(height, width)`; positive values support the target. NaN marks pixels outside the
            model's input; they are ignored.
        mask: Boolean `(height, width)`.

    Returns:
        `pointing`: 1 if the strongest pixel is in the mask, else 0 (Zhang et al. 2018; with ties,
        the share in the mask). `energy`: share of the positive evidence in the mask (Wang et al.
        2020), 0 without any. `average_precision` of the pixels, ordered by the map. All NaN if the
        mask, or everything outside it, is ignored.

    Raises:
        ValueError: The shapes differ.
    """
    if heatmap.shape != mask.shape:
        raise ValueError(
            f"The map has shape {heatmap.shape}, the mask {mask.shape}; they must be the same."
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
    """Return a control map: a Gaussian in the middle, its σ a quarter of a side."""
    y, x = np.linspace(-2, 2, shape[0]), np.linspace(-2, 2, shape[1])
    return np.exp(-0.5 * np.add.outer(y**2, x**2))


def random_maps(heatmap: np.ndarray, n: int, seed: int = 0) -> list[np.ndarray]:
    """Return `n` maps with the values of a map at random places, see [`random_orders`]."""
    seen = np.isfinite(heatmap)
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    descending = np.sort(heatmap[seen])[::-1]
    maps = []
    for order in random_orders(importance_order(np.where(seen, heatmap, 0), box), n, seed):
        moved = np.full(heatmap.shape, np.nan)
        moved[order >= 0] = descending[order[order >= 0]]
        maps.append(moved)
    return maps


def localisation_of_chance(
    heatmap: np.ndarray, mask: np.ndarray, n: int = 5, seed: int = 0
) -> dict[str, float]:
    """Return the mean scores of `n` [`random_maps`]."""
    scores = [localisation(moved, mask) for moved in random_maps(heatmap, n, seed)]
    return {name: float(np.mean([score[name] for score in scores])) for name in SCORES}


def removal_effects(
    log_odds: Callable[[torch.Tensor], torch.Tensor],
    pixels: torch.Tensor,
    n_samples: int = 32,
    cells: int = 8,
    seed: int = 0,
    batch_size: int = 16,
) -> tuple[np.ndarray, np.ndarray]:
    """Measure how far the log-odds fall when random cells of a grid are blurred.

    Args:
        log_odds: From inputs `(n, 3, h, w)` to log-odds `(n,)`.
        pixels: `(1, 3, h, w)`.
        n_samples: Number of random masks, each with about a quarter of the cells.
        cells: Cells along each side of the grid.
        seed: Seed of the masks.
        batch_size: Inputs computed at once.

    Returns:
        The masks, Boolean `(n_samples, h, w)`, and the falls, float64 `(n_samples,)`.
    """
    height, width = pixels.shape[2:]
    rows, columns = np.arange(height) * cells // height, np.arange(width) * cells // width
    drawn = np.random.default_rng(seed).random((n_samples, cells, cells)) < 0.25
    masks = drawn[:, rows][:, :, columns]
    fill = baseline_pixels(pixels)
    with torch.no_grad():
        scores = [log_odds(pixels)]
        for start in range(0, n_samples, batch_size):
            scores.append(log_odds(replace(pixels, fill, masks[start : start + batch_size])))
    before, *after = torch.cat(scores).double().cpu().numpy()
    return masks, before - np.array(after)


def normalised_infidelity(heatmap: np.ndarray, masks: np.ndarray, effects: np.ndarray) -> float:
    """Return the infidelity of a map (Yeh et al. 2019), relative to that of an empty map.

    A map predicts the effect of a removal by its sum over the removed part, times the best positive
    factor. The infidelity is the squared error of these predictions. The result equals Captum's
    `infidelity(normalize=True)` over that of an empty map, without negative factors.

    Args:
        heatmap: `(h, w)`.
        masks, effects: From [`removal_effects`].

    Returns:
        0 for a perfect map, 1 for a map as bad as an empty one; NaN if no removal had an effect.
    """
    predicted = (masks * heatmap.astype(np.float64)).sum(axis=(1, 2))
    total = (effects**2).sum()
    if not total > 0:
        return float("nan")
    size = (predicted**2).sum()
    return float(1 - max(0.0, predicted @ effects) ** 2 / (size * total)) if size > 0 else 1.0


def max_sensitivity(
    explain: Callable[[torch.Tensor], np.ndarray],
    pixels: torch.Tensor,
    radius: float = 0.02,
    n_samples: int = 4,
    seed: int = 0,
) -> float:
    """Return the largest relative change of a map under small noise (Yeh et al. 2019).

    Args:
        explain: From an input `(1, 3, h, w)` to its map `(h, w)`.
        pixels: `(1, 3, h, w)`.
        radius: Amplitude of the uniform noise, as a share of the image's range of values.
        n_samples: Number of noisy images.
        seed: Seed of the noise.

    Returns:
        0 for a map that does not change, 1 for a change as large as the map.
    """
    # Captum takes over a second to import.
    from captum.metrics import sensitivity_max

    def maps(inputs: torch.Tensor | tuple) -> torch.Tensor:
        batch = inputs[0] if isinstance(inputs, tuple) else inputs
        return torch.from_numpy(np.stack([explain(one[None]) for one in batch]))[:, None].float()

    spread = radius * float(pixels.max() - pixels.min())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        result = sensitivity_max(maps, pixels, perturb_radius=spread, n_perturb_samples=n_samples)
    return float(result)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return a copy of a model with the weights shuffled within each tensor.

    Shuffling keeps the statistics of each layer, so that signals neither vanish nor explode.
    """
    shuffled = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in shuffled.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return shuffled


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return Spearman's rank correlation of two maps; 0 if one of them is constant."""
    both = np.isfinite(one) & np.isfinite(other)
    one, other = one[both], other[both]
    if len(one) < 2 or not np.ptp(one) or not np.ptp(other):
        return 0.0
    return float(spearmanr(one, other).statistic)
