"""Does a map find a region that is known? Scores of a map against a mask, and maps that know nothing to compare with. Arrays only."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from captum.metrics import sensitivity_max
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


def removal_effects(
    log_odds: Callable[[torch.Tensor], torch.Tensor],
    pixels: torch.Tensor,
    n_samples: int = 32,
    cells: int = 8,
    seed: int = 0,
    batch_size: int = 16,
) -> tuple[np.ndarray, np.ndarray]:
    """What it does to the log-odds if random cells of a grid, a quarter of it, show the blurred image.

    Returns:
        The masks, Boolean `(n_samples, h, w)`, and by how much the log-odds fell, float64 `(n_samples,)`.
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
    """Infidelity (Yeh et al. 2019): how badly a map predicts what taking random parts away does to the log-odds.

    The map predicts that the log-odds fall by its sum over those parts. It may be scaled by any one positive factor, and the
    squared error is divided by that of a map that predicts nothing: 0 is perfect, 1 no better than an empty map. This is
    Captum's `infidelity(normalize=True)` over that of an empty map, but that a map which points the wrong way is not turned
    around.

    Args:
        heatmap: `(h, w)`.
        masks, effects: From [`removal_effects`].

    Returns:
        A number between 0 and 1; NaN where nothing that was taken away made a difference.
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
    """Max-sensitivity (Yeh et al. 2019): how much a map changes at most, relative to its size, under noise nobody sees.

    Args:
        explain: From an input `(1, 3, h, w)` to its map `(h, w)`.
        radius: Of the uniform noise, as a share of the image's range of values.
        n_samples: Noisy images.

    Returns:
        0 for a map that does not change, 1 for a change as large as the map.
    """

    def maps(inputs):
        batch = inputs[0] if isinstance(inputs, tuple) else inputs
        found = np.stack([explain(one[None]) for one in batch])
        return torch.from_numpy(found)[:, None].float()

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        spread = radius * float(pixels.max() - pixels.min())
        return float(
            sensitivity_max(maps, pixels, perturb_radius=spread, n_perturb_samples=n_samples)
        )


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy of a model whose weights are shuffled within each tensor: the same values, and nothing learnt.

    The statistics of each layer's weights stay, so that signals neither die nor explode on the way as they may with fresh weights.
    """
    broken = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in broken.parameters():
            shuffled = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[shuffled].view_as(parameter))
    return broken


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation of two maps, over the pixels that both have; 0 where one of them is constant."""
    both = np.isfinite(one) & np.isfinite(other)
    one, other = one[both], other[both]
    if len(one) < 2 or not np.ptp(one) or not np.ptp(other):
        return 0.0
    return float(spearmanr(one, other).statistic)


def overlap(one: np.ndarray, other: np.ndarray, share: float = 0.1) -> float:
    """Intersection over union of the strongest `share` of two maps. Of unrelated maps it is 0.05 for a tenth."""
    both = np.isfinite(one) & np.isfinite(other)
    count = max(1, int(np.ceil(share * both.sum())))
    sets = [set(np.argsort(-heat[both], kind="stable")[:count].tolist()) for heat in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def agreement(maps: dict[str, np.ndarray]) -> dict[tuple[str, str], dict[str, float]]:
    """How far several methods agree on one image.

    Args:
        maps: `{method: map}`, all of one shape and for one target.

    Returns:
        `{(method, other method): {"rank_correlation": …, "overlap": …}}`, each pair once.
    """
    names = list(maps)
    return {
        (one, other): {
            "rank_correlation": rank_correlation(maps[one], maps[other]),
            "overlap": overlap(maps[one], maps[other]),
        }
        for position, one in enumerate(names)
        for other in names[position + 1 :]
    }
