"""Attribution maps over the model's input, by Captum's methods.

The explained quantity is the log-odds of the target label. Positive values are evidence for the
target, and the map for `real` is the negative of the map for `ai`. `realfake.models.geometry` maps
them onto the image.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from captum.attr import (
    GradientShap,
    IntegratedGradients,
    KernelShap,
    LayerGradCam,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from torch import nn

from realfake.attribution import METHOD_NAMES
from realfake.attribution.faithfulness import baseline_pixels
from realfake.attribution.layers import evaluating, find_layer
from realfake.labels import AI, NAMES, REAL

# The map (h, w), and details of the method.
Result = tuple[torch.Tensor, dict]


@dataclass(frozen=True)
class Attribution:
    """A signed map over a model's input.

    Attributes:
        heatmap: `(h, w)` float32; positive values support `target`, negative ones the other label.
        details: Details of the method, and `score`, the log-odds of `target` for the input.
    """

    heatmap: np.ndarray
    method: str
    target: str
    details: dict = field(default_factory=dict)


class LogOdds(nn.Module):
    """Map inputs (n, 3, h, w) to `logsumexp(logits of a label) - logsumexp(other logits)`, (n,)."""

    def __init__(
        self, model: nn.Module, class_indices: Mapping[str, Sequence[int]], target: str
    ) -> None:
        super().__init__()
        self.model = model
        self.ai, self.real = list(class_indices[AI]), list(class_indices[REAL])
        self.sign = 1.0 if target == AI else -1.0

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        logits = self.model(pixel_values=pixel_values).logits.float()
        return self.sign * (
            logits[:, self.ai].logsumexp(dim=1) - logits[:, self.real].logsumexp(dim=1)
        )


def attribute(
    model: nn.Module,
    pixel_values: torch.Tensor,
    class_indices: Mapping[str, Sequence[int]],
    method: str = "gradcam",
    target: str = AI,
    score: float | None = None,
    log_odds: Callable[[torch.Tensor], torch.Tensor] | None = None,
    **options: Any,
) -> Attribution:
    """Compute an attribution map. The model's hooks, gradients and modes do not change.

    Args:
        model: A transformers image classifier.
        pixel_values: `(1, 3, h, w)`, as the processor returns it.
        class_indices: `{"real": [...], "ai": [...]}`, from [`~realfake.labels.class_indices`].
        method: A key of [`METHODS`].
        target: The label whose evidence is positive.
        score: *optional*. The target's log-odds for this input, if known; saves a forward pass.
        log_odds: *optional*. The target's log-odds from a faster engine without gradients, for the
            methods in [`GRADIENT_FREE`].
        options: Passed to the method; see the functions below.

    Raises:
        ValueError: The method, an option or the target is unknown, `pixel_values` is not one
            image, or the model has no spatial layer for Grad-CAM.
    """
    if method not in METHODS:
        raise ValueError(f"Unknown attribution method {method!r}; use one of {', '.join(METHODS)}.")
    if target not in NAMES:
        raise ValueError(f"target is {target!r}; it must be 'real' or 'ai'.")
    if pixel_values.ndim != 4 or pixel_values.shape[:2] != (1, 3):
        shape = tuple(pixel_values.shape)
        raise ValueError(f"pixel_values has shape {shape}; it must be one image, (1, 3, h, w).")
    known = list(inspect.signature(METHODS[method]).parameters)[2:]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"{method} has no option {unknown[0]!r}; use one of {', '.join(known)}.")
    parameter = next(model.parameters())
    pixels = pixel_values.detach().to(parameter.device, parameter.dtype)
    if log_odds is None or method not in GRADIENT_FREE:
        log_odds = LogOdds(model, class_indices, target)
    with evaluating(model), torch.enable_grad():
        heat, details = METHODS[method](log_odds, pixels, **options)
        if score is None:
            with torch.no_grad():
                score = float(log_odds(pixels))
    heatmap = np.ascontiguousarray(heat.detach().float().cpu().numpy(), dtype=np.float32)
    return Attribution(heatmap, method, target, {"score": score, **details})


# Gauss-Legendre nodes in a segment of a path, and the share of the segments that one refinement
# halves.
_NODES, _HALVED = 4, 0.25

# Arguments of all methods: the function to explain, and the pixels `(1, 3, h, w)`. Common options:
# `baseline` as in [`baseline_pixels`], `batch_size` for the inputs in a forward pass.


def gradcam(log_odds: LogOdds, pixels: torch.Tensor, layer: str | None = None) -> Result:
    """Signed Grad-CAM (Selvaraju et al. 2017, without ReLU) on one layer, upsampled bilinearly.

    Args:
        layer: Name of the layer, *defaults to* `config.realfake["gradcam_layer"]` of the
            checkpoint, or to the deepest usable layer.

    Returns:
        The map and `{"layer": name, "grid": (height, width)}`.
    """
    model = log_odds.model
    stored = getattr(getattr(model, "config", None), "realfake", None) or {}
    size = tuple(pixels.shape[2:])
    spatial = find_layer(model, size, layer or stored.get("gradcam_layer"))
    with spatial.tap() as tap:
        # Without a gradient of the input, there is no graph if all parameters are frozen.
        grid = LayerGradCam(log_odds, tap).attribute(
            pixels.clone().requires_grad_(), relu_attributions=False
        )
    heat = nn.functional.interpolate(grid.detach().float(), size, mode="bilinear")
    return heat[0, 0], {"layer": spatial.name, "grid": spatial.grid}


def integrated_gradients(
    log_odds: LogOdds,
    pixels: torch.Tensor,
    baseline: str | torch.Tensor = "blurred",
    n_steps: int = 32,
    max_steps: int = 256,
    tolerance: float = 0.01,
    batch_size: int = 8,
) -> Result:
    """Integrated gradients (Sundararajan et al. 2017), summed over the channels.

    The map sums to f(image) - f(baseline), f being the target's log-odds, up to the error of the
    integration. The straight path is divided into segments, and the map of a segment must sum to
    the difference of the scores at its ends. While the whole error exceeds `tolerance`, the
    segments with the largest errors are halved, which takes about half the steps of a uniform
    refinement.

    Args:
        n_steps: Initial number of gradients on the path.
        max_steps: Largest number of gradients.
        tolerance: Largest accepted `completeness_gap`.

    Returns:
        The map, and `n_steps`, `convergence_delta` (the map's sum minus the difference, in
        log-odds), `completeness_gap` (its size relative to the difference), `score_baseline`.
    """
    start = baseline_pixels(pixels, baseline)

    def at(places: torch.Tensor) -> torch.Tensor:
        places = places.to(pixels.device, pixels.dtype).view(-1, 1, 1, 1)
        return start + places * (pixels - start)

    @torch.no_grad()
    def scores(places: torch.Tensor) -> torch.Tensor:
        return torch.cat([log_odds(at(batch)).double().cpu() for batch in places.split(batch_size)])

    def integrals(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """The map of each segment, `(segments, h, w)`."""
        maps = [
            IntegratedGradients(log_odds)
            .attribute(
                at(last).requires_grad_(), at(first), n_steps=nodes, internal_batch_size=batch_size
            )
            .detach()
            .sum(dim=1)
            for first, last in zip(low.split(batch_size), high.split(batch_size), strict=True)
        ]
        return torch.cat(maps)

    segments = max(1, n_steps // _NODES)
    nodes = max(1, n_steps // segments)
    edges = torch.linspace(0, 1, segments + 1)
    low, high = edges[:-1], edges[1:]
    maps, n_steps = integrals(low, high), nodes * segments
    from_score, to_score = scores(torch.tensor([0.0, 1.0])).tolist()
    ends = None  # the scores at both ends of each segment
    while True:
        delta = float(maps.double().sum()) - (to_score - from_score)
        gap = abs(delta) / max(abs(to_score - from_score), 1e-9)
        count = min(max(1, int(_HALVED * len(low))), (max_steps - n_steps) // (2 * nodes))
        if gap <= tolerance or count < 1:
            break
        if ends is None:
            at_edges = scores(edges)
            ends = torch.stack([at_edges[:-1], at_edges[1:]])
        errors = (maps.double().sum(dim=(1, 2)) - (ends[1] - ends[0])).abs()
        chosen = torch.zeros(len(errors), dtype=torch.bool)
        chosen[errors.argsort(descending=True)[:count].cpu()] = True
        middle = (low[chosen] + high[chosen]) / 2
        score = scores(middle)
        halves = torch.cat([low[chosen], middle]), torch.cat([middle, high[chosen]])
        maps = torch.cat([maps[~chosen], integrals(*halves)])
        n_steps += nodes * len(halves[0])
        old = ends[:, chosen]
        new = torch.stack([torch.cat([old[0], score]), torch.cat([score, old[1]])])
        ends = torch.cat([ends[:, ~chosen], new], dim=1)
        low, high = torch.cat([low[~chosen], halves[0]]), torch.cat([high[~chosen], halves[1]])
    return maps.sum(dim=0), {
        "n_steps": n_steps,
        "convergence_delta": delta,
        "completeness_gap": gap,
        "score_baseline": from_score,
    }


def smoothgrad(
    log_odds: LogOdds,
    pixels: torch.Tensor,
    baseline: str | torch.Tensor = "blurred",
    n_samples: int = 16,
    noise: float = 0.1,
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """SmoothGrad (Smilkov et al. 2017) times (image - baseline).

    To first order this is the cost of replacing a pixel. The gradient alone is the change of the
    score if a pixel gets brighter, which is not evidence.

    Args:
        n_samples: Number of noisy images.
        noise: Standard deviation of the noise, relative to the image's range of values.
        seed: Seed of the noise.
    """
    start = baseline_pixels(pixels, baseline)
    with _seeded(seed, pixels.device):
        gradient = NoiseTunnel(Saliency(log_odds)).attribute(
            pixels.clone().requires_grad_(),
            nt_type="smoothgrad",
            nt_samples=n_samples,
            nt_samples_batch_size=batch_size,
            stdevs=noise * float(pixels.max() - pixels.min()),
            abs=False,
        )
    return (gradient * (pixels - start))[0].sum(dim=0), {"n_samples": n_samples}


def gradient_shap(
    log_odds: LogOdds,
    pixels: torch.Tensor,
    baseline: str | torch.Tensor | Sequence[str] = ("blurred", "mean"),
    n_samples: int = 32,
    noise: float = 0.02,
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """GradientSHAP (Lundberg and Lee 2017; Erion et al. 2021): expected integrated gradients.

    Args:
        baseline: One baseline or several names, drawn at random; see [`baseline_pixels`].
        n_samples: Points on the paths from a baseline to the image.
        noise: Standard deviation of the noise on the image, relative to its range of values.
        seed: Seed of the baselines, points and noise.
    """
    names = [baseline] if isinstance(baseline, str | torch.Tensor) else list(baseline)
    starts = torch.cat([baseline_pixels(pixels, name) for name in names])
    spread = noise * float(pixels.max() - pixels.min())
    total = torch.zeros_like(pixels)
    with _seeded(seed, pixels.device):
        for begin in range(0, n_samples, batch_size):
            count = min(batch_size, n_samples - begin)
            mean = GradientShap(log_odds).attribute(
                pixels.clone().requires_grad_(), starts, n_samples=count, stdevs=spread
            )
            total += count / n_samples * mean.detach()
    return total[0].sum(dim=0), {"n_samples": n_samples}


def occlusion(
    log_odds: LogOdds,
    pixels: torch.Tensor,
    baseline: str | torch.Tensor = "blurred",
    window: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
) -> Result:
    """Occlusion (Zeiler and Fergus 2014): the drop of the log-odds if a window is replaced.

    Needs no gradient, but a forward pass for each window.

    Args:
        window: Side in pixels, *defaults to* an eighth of the shorter side.
        stride: Pixels between windows, *defaults to* half the window.
    """
    height, width = pixels.shape[2:]
    window = min(window or max(1, min(height, width) // 8), height, width)
    stride = min(stride or max(1, window // 2), window)
    with torch.no_grad():
        attribution = Occlusion(log_odds).attribute(
            pixels,
            sliding_window_shapes=(3, window, window),
            strides=(3, stride, stride),
            baselines=baseline_pixels(pixels, baseline),
            perturbations_per_eval=batch_size,
        )
    # Every channel of a window has the same difference, so the mean is in log-odds.
    return attribution[0].mean(dim=0), {"window": window, "stride": stride}


def kernel_shap(
    log_odds: LogOdds,
    pixels: torch.Tensor,
    baseline: str | torch.Tensor = "blurred",
    n_segments: int = 40,
    n_samples: int = 200,
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """KernelSHAP (Lundberg and Lee 2017) on SLIC superpixels (Achanta et al. 2012).

    Needs no gradient. A superpixel's Shapley value is divided among its pixels, so that the map
    sums to f(image) - f(baseline).

    Args:
        n_segments: Approximate number of superpixels.
        n_samples: Number of combinations of superpixels, one forward pass each.
        seed: Seed of the combinations.
    """
    segments = _superpixels(pixels, n_segments)
    n_found = int(segments.max()) + 1
    start = baseline_pixels(pixels, baseline)
    with torch.no_grad(), _seeded(seed, pixels.device):
        if n_found < 2:  # Captum's weights divide by the number of superpixels minus one.
            attribution = (log_odds(pixels) - log_odds(start)).expand(1, 3, *pixels.shape[2:])
        else:
            attribution = KernelShap(log_odds).attribute(
                pixels,
                baselines=start,
                feature_mask=segments.expand(1, 3, -1, -1),
                n_samples=n_samples,
                perturbations_per_eval=batch_size,
            )
    area = torch.bincount(segments.flatten()).to(attribution.device)[segments]
    # Every channel of a superpixel has the same value.
    return attribution[0].float().mean(dim=0) / area, {
        "n_segments": n_found,
        "n_samples": n_samples,
    }


# Methods that need no gradient.
GRADIENT_FREE = ("occlusion", "kernel_shap")
_FUNCTIONS = (gradcam, integrated_gradients, smoothgrad, gradient_shap, occlusion, kernel_shap)
METHODS: dict[str, Callable[..., Result]] = dict(zip(METHOD_NAMES, _FUNCTIONS, strict=True))


def _superpixels(pixels: torch.Tensor, n_segments: int) -> torch.Tensor:
    """Number the superpixels of an input from 0, int64 (h, w)."""
    from skimage.segmentation import slic  # slow to import

    image = pixels[0].float().cpu().numpy().transpose(1, 2, 0)
    image = (image - image.min()) / max(float(np.ptp(image)), 1e-6)
    wanted = min(n_segments, image.shape[0] * image.shape[1])
    # Noise and fine texture need more compact superpixels, or SLIC drops most of them.
    for compactness in (10, 100, 1000, 10000):
        segments = slic(image, n_segments=wanted, compactness=compactness, start_label=0)
        if segments.max() + 1 >= wanted / 2:
            break
    # Captum needs numbers without gaps.
    _, segments = np.unique(segments, return_inverse=True)
    return torch.from_numpy(segments.reshape(image.shape[:2])).long().to(pixels.device)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch and NumPy, and restore their state afterwards."""
    state = np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            np.random.seed(seed)
            yield
    finally:
        np.random.set_state(state)
