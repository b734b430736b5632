"""Test whether a map is faithful: change the pixels that it marks and measure the model's score.

[`evidence_of`] is the short test of every map: the strongest 10 % against five random masks.
[`curves_of`] is the full test of evaluations. Removed pixels are replaced by the
blurred image, which keeps brightness and colour but no detail.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy.special import expit

from realfake.attribution.perturbation import (
    Box,
    baseline_pixels,
    importance_order,
    random_orders,
    replace,
    strongest,
)
from realfake.labels import AI, NAMES, REAL

SHARE = 0.1
N_RANDOM = 5
# A small batch stays in the cache of a CPU, which takes less time per image.
_EVIDENCE_BATCH = 3
_CURVE_BATCH = 16
_PROBABILITY = {AI: "the AI probability", REAL: "the probability of a photograph"}
_LABEL = {AI: "AI", REAL: "a photograph"}

# Maps inputs (n, 3, h, w) to the log-odds of the target (n,).
Scorer = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Evidence:
    """The probability of the target before and after the marked part is removed.

    Attributes:
        target: `"real"` or `"ai"`.
        share: Share of the examined pixels that was removed: 0.1, or less if less of the map is
            positive; 0 if nothing is.
        before: Probability of the target, at equal odds, for the whole image.
        after: Probability without the marked part.
        random_values: Probabilities without random parts of the same shape and size.
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
        """Whether the marked part costs more than all random parts, as for 1 in 6 random maps."""
        return self.share > 0 and self.after < min(self.random_values) and self.after < self.before

    def sentence(self) -> str:
        """Describe the result in English."""
        if not self.share:
            return f"The map marks no evidence for {_LABEL[self.target]}."
        before, after, random = _distinct(self.before, self.after, self.random)
        percent = f"{100 * self.share:.2g} %"

        def change(name: str, value: float, text: str, start: str = "") -> str:
            if text == before:
                return f"leaves {name} at {before}"
            return f"{'lowers' if value < self.before else 'raises'} {name} {start}to {text}"

        marked = change(_PROBABILITY[self.target], self.after, after, f"from {before} ")
        chance = change("it", self.random, random)
        text = f"Removing the marked {percent} {marked}; a random {percent} {chance}."
        return text if self.beats_random else f"{text} The map is no better than chance here."

    def to_dict(self) -> dict:
        """Return the fields and the derived values, for `json`."""
        return {
            **asdict(self),
            "random_values": list(self.random_values),
            "random": self.random,
            "beats_random": self.beats_random,
            "sentence": self.sentence(),
        }


@dataclass(frozen=True)
class Curves:
    """Probability of the target, at equal odds, while more of the image is removed or shown.

    Attributes:
        shares: `(k,)`, from 0 to 1.
        deletion: `(k,)`, with that share of the pixels removed, the map's strongest first. It falls
            fast for a good map.
        insertion: `(k,)`, with that share of the pixels inserted into the blurred image. It rises
            fast for a good map.
        random_deletion, random_insertion: `(n, k)`, the same for each random map.
    """

    shares: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray
    random_deletion: np.ndarray
    random_insertion: np.ndarray

    @property
    def deletion_area(self) -> float:
        """Area under the deletion curve (trapezoids); small for a good map."""
        return float(np.trapezoid(self.deletion, self.shares))

    @property
    def insertion_area(self) -> float:
        """Area under the insertion curve; large for a good map."""
        return float(np.trapezoid(self.insertion, self.shares))

    @property
    def deletion_gain(self) -> float:
        """The random maps' mean deletion area minus the map's; positive if it beats chance."""
        return float(np.trapezoid(self.random_deletion, self.shares).mean()) - self.deletion_area

    @property
    def insertion_gain(self) -> float:
        """The map's insertion area minus the random maps' mean; positive if it beats chance."""
        return self.insertion_area - float(np.trapezoid(self.random_insertion, self.shares).mean())


def evidence_of(
    log_odds: Scorer,
    pixels: torch.Tensor,
    heatmap: np.ndarray,
    target: str,
    seed: int = 0,
    box: Box | None = None,
    score: float | None = None,
    fill: torch.Tensor | None = None,
) -> Evidence:
    """Remove the strongest part of a map, and random parts of the same shape and size.

    Args:
        log_odds: Log-odds of the target for a batch of inputs, `(n, 3, h, w)` to `(n,)`.
        pixels: The model's input, `(1, 3, h, w)`.
        heatmap: `(h, w)` over that input; positive supports the target.
        target: `"real"` or `"ai"`.
        seed: Seed of the random parts.
        box: *optional*. The part of the input that is not padding.
        score: *optional*. The log-odds of the whole image, if known.
        fill: *optional*. `(1, 3, h, w)`, replaces removed pixels; *defaults to* the blurred image.

    Raises:
        ValueError: The target is unknown, or the map is not finite or has another size.
    """
    if target not in NAMES:
        raise ValueError(f"target is {target!r}; it must be 'real' or 'ai'.")
    if tuple(heatmap.shape) != tuple(pixels.shape[2:]):
        raise ValueError(
            f"The map has shape {heatmap.shape}; the model's input has {tuple(pixels.shape[2:])}."
        )
    orders = _orders(heatmap, N_RANDOM, seed, box)
    examined = orders[0] >= 0
    share = min(SHARE, float((heatmap[examined] > 0).mean()))
    masks = [strongest(order, share) for order in orders]
    if score is None:
        score = float(_scores(log_odds, [pixels])[0])
    fill = baseline_pixels(pixels) if fill is None else fill
    removed = _scores(log_odds, _replaced(pixels, fill, masks, _EVIDENCE_BATCH))
    # In float32, all confident scores would round to 1.
    before, after, *random_values = (float(p) for p in expit([score, *removed]))
    return Evidence(target, share, before, after, tuple(random_values))


def curves_of(
    log_odds: Scorer,
    pixels: torch.Tensor,
    heatmap: np.ndarray,
    n_random: int = 3,
    steps: int = 10,
    seed: int = 0,
    box: Box | None = None,
    fill: torch.Tensor | None = None,
) -> Curves:
    """Compute deletion and insertion curves (Petsiuk et al. 2018) of a map and of random maps.

    Args:
        log_odds, pixels, heatmap, box: As in [`evidence_of`].
        n_random: Number of random maps, see [`random_orders`].
        steps: Number of equal steps from nothing to everything.
        seed: Seed of the random maps.
        fill: *optional*. `(1, 3, h, w)`, replaces removed pixels; *defaults to* the blurred image.

    Raises:
        ValueError: As [`importance_order`], or there is no step or no random map.
    """
    if steps < 1 or n_random < 1:
        raise ValueError("Curves need at least one step and one random map to compare with.")
    orders = _orders(heatmap, n_random, seed, box)
    fill = baseline_pixels(pixels) if fill is None else fill
    shares = np.linspace(0, 1, steps + 1)
    everything = strongest(orders[0], 1)
    # All curves have the same ends: nothing removed and everything removed.
    masks = [np.zeros_like(everything), everything]
    for order in orders:
        removed = [strongest(order, share) for share in shares[1:-1]]
        masks += removed + [everything & ~mask for mask in removed]
    values = expit(_scores(log_odds, _replaced(pixels, fill, masks, _CURVE_BATCH)))
    intact, blank = (np.full((len(orders), 1), value) for value in values[:2])
    between = values[2:].reshape(len(orders), 2, steps - 1)
    deletion = np.hstack([intact, between[:, 0], blank])
    insertion = np.hstack([blank, between[:, 1], intact])
    return Curves(shares, deletion[0], insertion[0], deletion[1:], insertion[1:])


def _orders(heatmap: np.ndarray, n_random: int, seed: int, box: Box | None) -> list[np.ndarray]:
    order = importance_order(heatmap, box)
    return [order, *random_orders(order, n_random, seed)]


def _replaced(
    pixels: torch.Tensor, fill: torch.Tensor, masks: list[np.ndarray], batch_size: int
) -> Iterable[torch.Tensor]:
    for start in range(0, len(masks), batch_size):
        yield replace(pixels, fill, np.stack(masks[start : start + batch_size]))


@torch.no_grad()
def _scores(log_odds: Scorer, batches: Iterable[torch.Tensor]) -> np.ndarray:
    return np.concatenate([log_odds(batch).double().cpu().numpy() for batch in batches])


def _distinct(*probabilities: float) -> list[str]:
    """Format with two decimals, or up to four if the first two values would be equal."""
    for decimals in (2, 3, 4):
        texts = [f"{p:.{decimals}f}" for p in probabilities]
        if texts[0] != texts[1]:
            return texts
    return [f"{p:.2f}" for p in probabilities]
