"""Is a map to be believed? What becomes of the score when the part of the image that the map marks is taken away.

[`evidence_of`] is the short form that is shown beside every map: one step of 10 % against five random masks. The whole curves
are in `realfake.attribution.faithfulness_curves`. What is taken away is replaced by the blurred image: brightness and colour stay, detail goes.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from scipy.special import expit

from ..labels import AI, NAMES, REAL
from .baselines import baseline_pixels
from .perturbation import Box, importance_order, random_orders, replace, strongest, whole

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
        derived = {"random": self.random, "beats_random": self.beats_random, "sentence": self.sentence()}
        return {**asdict(self), "random_values": list(self.random_values), **derived}


def evidence_of(
    margin: Callable[[torch.Tensor], torch.Tensor],
    pixels: torch.Tensor,
    heatmap: np.ndarray,
    target: str,
    seed: int = 0,
    box: Box | None = None,
    score: float | None = None,
) -> Evidence:
    """Take the strongest part of a map away, and random parts like it, in two forward passes of three images.

    Args:
        margin: Log-odds of the target for a batch of inputs, `(n, 3, h, w)` to `(n,)`.
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
        raise ValueError(f"The map has shape {heatmap.shape}; the model's input has {tuple(pixels.shape[2:])}.")
    order = importance_order(heatmap, box)
    left, top, right, bottom = box or whole(heatmap.shape)
    inner = heatmap[top:bottom, left:right]
    share = min(SHARE, float((inner > 0).mean()))
    masks = np.stack([strongest(ranks, share) for ranks in (order, *random_orders(order, N_RANDOM, seed))])
    fill = baseline_pixels(pixels)
    with torch.no_grad():
        scores = [margin(pixels) if score is None else torch.tensor([score], dtype=torch.float64)]
        scores += [margin(replace(pixels, fill, masks[i : i + _BATCH])) for i in range(0, len(masks), _BATCH)]
    # In float64: certainty would round both to 1, and then nothing beats anything.
    margins = np.concatenate([part.double().cpu().numpy() for part in scores])
    before, after, *random_values = (float(p) for p in expit(margins))
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
