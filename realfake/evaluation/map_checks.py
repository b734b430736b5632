"""Checks of a method that look at the map, not at the decision: does it explain what it removes, hold still under noise that does
not matter, and depend on the weights? Beside `realfake.attribution.faithfulness_curves`, for whole methods on a corpus; too slow for a page.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from captum.metrics import sensitivity_max
from scipy.stats import spearmanr
from torch import nn

from ..attribution.baselines import baseline_pixels
from ..attribution.perturbation import replace


def removal_effects(
    margin: Callable[[torch.Tensor], torch.Tensor],
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
        scores = [margin(pixels)]
        for start in range(0, n_samples, batch_size):
            scores.append(margin(replace(pixels, fill, masks[start : start + batch_size])))
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
        return float(sensitivity_max(maps, pixels, perturb_radius=spread, n_perturb_samples=n_samples))


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
