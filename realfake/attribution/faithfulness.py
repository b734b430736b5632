"""Test whether a map is faithful: change the pixels that it marks and measure the model's score.

[`evidence_of`] is the short test of every map: the strongest 10 % against five random masks.
[`curves_of`] is the full test of evaluations. Removed pixels are replaced by the blurred image
([`baseline_pixels`]), which keeps brightness and colour but no detail.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.special import expit

from realfake.labels import AI, NAMES, REAL

SHARE = 0.1
N_RANDOM = 5
# A small batch stays in the cache of a CPU, which takes less time per image.
_EVIDENCE_BATCH = 3
_CURVE_BATCH = 16
_PROBABILITY = {AI: "the AI probability", REAL: "the probability of a photograph"}
_LABEL = {AI: "AI", REAL: "a photograph"}

# (left, top, right, bottom) of the part of a model's input that is not padding.
Box = tuple[int, int, int, int]
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
