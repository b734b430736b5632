"""Is a map to be believed? What becomes of the score when the part of the image that the map marks is taken away.

[`evidence_of`] is the short form that is shown beside every map: one step of 10 % against five random masks. The whole curves
are in `realfake.attribution.faithfulness`. What is taken away is replaced by the blurred image: brightness and colour stay, detail goes.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy.special import expit

from realfake.attribution.perturbation import (
    Box,
    baseline_pixels,
    importance_order,
    impute,
    random_orders,
    replace,
    strongest,
    whole,
)
from realfake.labels import AI, NAMES, REAL

SHARE = 0.1
N_RANDOM = 5
# On a CPU a small batch stays in the cache, and an image of it takes less time than one of a large batch.
_BATCH = 3
_PROBABILITY = {AI: "the AI probability", REAL: "the probability of a photograph"}


@dataclass(frozen=True)
class Evidence:
    """What one step of taking away says about a map.

    Attributes:
        target: `"real"` or `"ai"`.
        share: Share of the examined pixels that was taken away: 0.1, less where the map marks less as evidence for
            the target, 0 where it marks nothing.
        before: Probability of the target, at equal odds, for the image as it is.
        after: The same without the part that the map marks.
        random_values: The same without random parts of the same shape and size.
    """

    target: str
    share: float
    before: float
    after: float
    random_values: tuple[float, ...]

    @property
    def random(self) -> float:
        """The mean of `random_values`."""
        return float(np.mean(self.random_values))

    @property
    def beats_random(self) -> bool:
        """Whether the marked part costs the target more than every random one. By chance that is one map in six."""
        return self.share > 0 and self.after < min(self.random_values) and self.after < self.before

    def sentence(self) -> str:
        """Say it in words."""
        name = _PROBABILITY[self.target]
        if not self.share:
            return f"The map marks nothing that speaks for {'AI' if self.target == AI else 'a photograph'}."
        before, after, random = _numbers(self.before, self.after, self.random)
        percent = f"{100 * self.share:.2g} %"

        def change(value: float, text: str, start: str = "") -> str:
            if text == before:
                return f"leaves {{}} at {before}"
            return f"{'lowers' if value < self.before else 'raises'} {{}} {start}to {text}"

        marked = change(self.after, after, f"from {before} ").format(name)
        chance = change(self.random, random).format("it")
        text = f"Removing the marked {percent} {marked}; a random {percent} {chance}."
        return text if self.beats_random else text + " The map is no better than chance here."

    def to_dict(self) -> dict:
        """As JSON holds it, with what is derived."""
        derived = {
            "random": self.random,
            "beats_random": self.beats_random,
            "sentence": self.sentence(),
        }
        return {**asdict(self), "random_values": list(self.random_values), **derived}


def evidence_of(
    log_odds: Callable[[torch.Tensor], torch.Tensor],
    pixels: torch.Tensor,
    heatmap: np.ndarray,
    target: str,
    seed: int = 0,
    box: Box | None = None,
    score: float | None = None,
) -> Evidence:
    """Take the strongest part of a map away, and random parts like it, in two forward passes of three images.

    Args:
        log_odds: Log-odds of the target for a batch of inputs, `(n, 3, h, w)` to `(n,)`.
        pixels: The model's input, `(1, 3, h, w)`.
        heatmap: `(h, w)` over that input; positive supports the target.
        target: `"real"` or `"ai"`.
        seed: Of the random parts.
        box: *optional*. Where the input is image and not padding, `(left, top, right, bottom)`.
        score: *optional*. The log-odds of the image as it is, where the caller knows them.

    Returns:
        [`Evidence`]

    Raises:
        ValueError: An unknown target, or a map that is not finite or not as large as the input.
    """
    if target not in NAMES:
        raise ValueError(f"target is {target!r}; it must be 'real' or 'ai'.")
    if tuple(heatmap.shape) != tuple(pixels.shape[2:]):
        raise ValueError(
            f"The map has shape {heatmap.shape}; the model's input has {tuple(pixels.shape[2:])}."
        )
    order = importance_order(heatmap, box)
    left, top, right, bottom = box or whole(heatmap.shape)
    inner = heatmap[top:bottom, left:right]
    share = min(SHARE, float((inner > 0).mean()))
    masks = np.stack(
        [strongest(ranks, share) for ranks in (order, *random_orders(order, N_RANDOM, seed))]
    )
    fill = baseline_pixels(pixels)
    with torch.no_grad():
        scores = [log_odds(pixels) if score is None else torch.tensor([score], dtype=torch.float64)]
        scores += [
            log_odds(replace(pixels, fill, masks[i : i + _BATCH]))
            for i in range(0, len(masks), _BATCH)
        ]
    # In float64: certainty would round both to 1, and then nothing beats anything.
    stacked = np.concatenate([part.double().cpu().numpy() for part in scores])
    before, after, *random_values = (float(p) for p in expit(stacked))
    return Evidence(target, share, before, after, tuple(random_values))


def _numbers(*probabilities: float) -> list[str]:
    """With two decimals, or up to four where the first two would look alike."""
    for decimals in (2, 3, 4):
        texts = [f"{p:.{decimals}f}" for p in probabilities]
        if texts[0] != texts[1]:
            break
    else:
        texts = [f"{p:.2f}" for p in probabilities]
    return texts


_CURVE_BATCH = 16


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
    log_odds: Callable[[torch.Tensor], torch.Tensor],
    pixels: torch.Tensor,
    heatmap: np.ndarray,
    n_random: int = 3,
    steps: int = 10,
    seed: int = 0,
    box: Box | None = None,
    fill: torch.Tensor | None = None,
    batch_size: int = _CURVE_BATCH,
) -> Curves:
    """Compute deletion and insertion curves of a map and of random maps, in batches.

    Args:
        log_odds: Log-odds of the target for a batch of inputs.
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
            scores.append(log_odds(batch).double().cpu().numpy())
    values = expit(np.concatenate(scores))
    intact, gone = values[:2]
    between = values[2:].reshape(len(orders), 2, steps - 1)
    ends = np.full((len(orders), 1), intact), np.full((len(orders), 1), gone)
    deletion = np.hstack([ends[0], between[:, 0], ends[1]])
    insertion = np.hstack([ends[1], between[:, 1], ends[0]])
    return Curves(shares, deletion[0], insertion[0], deletion[1:], insertion[1:])


def road(
    log_odds: Callable[[torch.Tensor], torch.Tensor],
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
    images = [
        impute(pixels, strongest(ranks, share), seed=seed) for ranks in orders for share in shares
    ]
    with torch.no_grad():
        scores = [
            log_odds(torch.cat(images[i : i + _CURVE_BATCH]))
            for i in range(0, len(images), _CURVE_BATCH)
        ]
    values = expit(torch.cat(scores).double().cpu().numpy()).reshape(len(orders), len(shares))
    return float(values[1:].mean() - values[0].mean())
