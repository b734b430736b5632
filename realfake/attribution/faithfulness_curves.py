"""Deletion and insertion: what becomes of the score as a map's pixels are taken away, or given, from the strongest on.

The long form of `realfake.attribution.faithfulness`, against several random maps of the same spatial statistics: pages show it on demand,
`realfake.evaluation.explanation_evaluation` measures methods with it. (Petsiuk et al. 2018, "RISE"; Samek et al. 2017.)
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import expit

from .baselines import baseline_pixels
from .imputation import impute
from .perturbation import Box, importance_order, random_orders, replace, strongest

_BATCH = 16


@dataclass(frozen=True)
class Curves:
    """Probability of the target, at equal odds, as more and more of the image is replaced or shown.

    Attributes:
        shares: `(k,)`, from 0 to 1.
        deletion: `(k,)`, with that share of the pixels replaced, the map's strongest first. Falls fast for a good map.
        insertion: `(k,)`, with that share of the pixels shown on the replaced image. Rises fast for a good map.
        random_deletion, random_insertion: `(n, k)`, the same for each random map.
    """

    shares: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray
    random_deletion: np.ndarray
    random_insertion: np.ndarray

    @property
    def deletion_area(self) -> float:
        """Area under the deletion curve, trapezoids; small for a good map."""
        return float(np.trapezoid(self.deletion, self.shares))

    @property
    def insertion_area(self) -> float:
        """Area under the insertion curve; large for a good map."""
        return float(np.trapezoid(self.insertion, self.shares))

    @property
    def deletion_gain(self) -> float:
        """The random maps' mean deletion area less the map's: over 0 where the map beats chance."""
        return float(np.trapezoid(self.random_deletion, self.shares).mean()) - self.deletion_area

    @property
    def insertion_gain(self) -> float:
        """The map's insertion area less the random maps' mean: over 0 where the map beats chance."""
        return self.insertion_area - float(np.trapezoid(self.random_insertion, self.shares).mean())

    def to_dict(self) -> dict:
        """As JSON holds it, with the areas; of the random maps the mean curves."""
        return {
            "shares": self.shares.tolist(),
            "deletion": self.deletion.tolist(),
            "insertion": self.insertion.tolist(),
            "random_deletion": self.random_deletion.mean(axis=0).tolist(),
            "random_insertion": self.random_insertion.mean(axis=0).tolist(),
            "deletion_area": self.deletion_area,
            "insertion_area": self.insertion_area,
            "deletion_gain": self.deletion_gain,
            "insertion_gain": self.insertion_gain,
        }


def curves_of(
    margin: Callable[[torch.Tensor], torch.Tensor],
    pixels: torch.Tensor,
    heatmap: np.ndarray,
    n_random: int = 3,
    steps: int = 10,
    seed: int = 0,
    box: Box | None = None,
    fill: torch.Tensor | None = None,
    batch_size: int = _BATCH,
) -> Curves:
    """Compute deletion and insertion curves of a map and of random maps, in batches.

    Args:
        margin: Log-odds of the target for a batch of inputs.
        pixels: The model's input, `(1, 3, h, w)`.
        heatmap: `(h, w)` over it.
        n_random: Random maps, see [`random_orders`].
        steps: Equal steps from nothing to all.
        seed: Of the random maps.
        box: *optional*. Where the input is image and not padding.
        fill: *optional*. `(1, 3, h, w)` to replace by, *defaults to* the blurred image.

    Returns:
        [`Curves`]

    Raises:
        ValueError: As [`importance_order`], or under one step or random map.
    """
    if steps < 1 or n_random < 1:
        raise ValueError("Curves need at least one step and one random map to compare with.")
    order = importance_order(heatmap, box)
    orders = [order, *random_orders(order, n_random, seed)]
    fill = baseline_pixels(pixels) if fill is None else fill
    shares = np.linspace(0, 1, steps + 1)
    everything = strongest(order, 1)
    # The ends of all curves are the same two images.
    masks = [np.zeros_like(everything), everything]
    for ranks in orders:
        taken = [strongest(ranks, share) for share in shares[1:-1]]
        masks += taken + [everything & ~mask for mask in taken]
    scores = []
    with torch.no_grad():
        for start in range(0, len(masks), batch_size):
            batch = replace(pixels, fill, np.stack(masks[start : start + batch_size]))
            scores.append(margin(batch).double().cpu().numpy())
    values = expit(np.concatenate(scores))
    intact, gone = values[:2]
    between = values[2:].reshape(len(orders), 2, steps - 1)
    ends = np.full((len(orders), 1), intact), np.full((len(orders), 1), gone)
    deletion = np.hstack([ends[0], between[:, 0], ends[1]])
    insertion = np.hstack([ends[1], between[:, 1], ends[0]])
    return Curves(shares, deletion[0], insertion[0], deletion[1:], insertion[1:])


def road(
    margin: Callable[[torch.Tensor], torch.Tensor],
    pixels: torch.Tensor,
    heatmap: np.ndarray,
    shares: tuple[float, ...] = (0.1, 0.3),
    n_random: int = 2,
    seed: int = 0,
    box: Box | None = None,
) -> float:
    """ROAD (Rong et al. 2022): as deletion, but what is missing is imputed so that the image stays one, with noise.

    Args:
        shares: Of the pixels that are taken away.

    Returns:
        How much lower the probability of the target is without the map's strongest pixels than without random maps', mean
        over `shares`. Over 0 where the map beats chance.
    """
    order = importance_order(heatmap, box)
    orders = [order, *random_orders(order, n_random, seed)]
    images = [impute(pixels, strongest(ranks, share), seed=seed) for ranks in orders for share in shares]
    with torch.no_grad():
        scores = [margin(torch.cat(images[i : i + _BATCH])) for i in range(0, len(images), _BATCH)]
    values = expit(torch.cat(scores).double().cpu().numpy()).reshape(len(orders), len(shares))
    return float(values[1:].mean() - values[0].mean())
