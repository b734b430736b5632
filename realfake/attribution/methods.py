"""Attribution maps: which parts of the model's input speak for a label, by Captum's methods behind one call.

What is explained is the margin, the log-odds of `ai` against `real`, so that a positive value always means
evidence for the target and the map for `real` is the negative of the map for `ai`. The maps lie on the model's
input; `realfake.models.geometry` carries them onto the image and `realfake.attribution.overlay` draws them.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from captum.attr import GradientShap, KernelShap, LayerGradCam, NoiseTunnel, Occlusion, Saliency
from scipy.ndimage import gaussian_filter
from torch import nn

from realfake.attribution import METHOD_NAMES
from realfake.attribution.layers import evaluating, find_layer
from realfake.attribution.path import RefinedPath
from realfake.attribution.perturbation import baseline_pixels
from realfake.labels import AI, NAMES, REAL


@dataclass(frozen=True)
class Attribution:
    """A signed map over a model's input.

    Attributes:
        heatmap: `(h, w)` float32; positive values support `target`, negative ones the other label.
        method: A key of [`METHODS`].
        target: `"real"` or `"ai"`.
        details: What the method reports about itself; always `score`, the log-odds of `target` that is explained.
    """

    heatmap: np.ndarray
    method: str
    target: str
    details: dict = field(default_factory=dict)


class LogOdds(nn.Module):
    """The log-odds of a label as a function of pixels: `logsumexp(its logits) - logsumexp(the other's)`.

    Called with (batch, 3, h, w), returns (batch,).
    """

    def __init__(self, model: nn.Module, class_indices: Mapping[str, Sequence[int]], target: str):
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
    **options,
) -> Attribution:
    """Explain a decision. The model is left as it was: no hooks, no gradients, the same modes.

    Args:
        model: A transformers image classifier.
        pixel_values: `(1, 3, h, w)`, as the processor gives it.
        class_indices: `{"real": [...], "ai": [...]}`, from [`~realfake.labels.columns_by_label`].
        method: A key of [`METHODS`].
        target: The label whose evidence is positive.
        score: *optional*. Its log-odds for this input, where the caller knows them: one pass less.
        log_odds: *optional*. The same log-odds from a faster engine, without a gradient: asked by the methods that need none.
        options: Passed to the method; see the functions below.

    Returns:
        [`Attribution`]

    Raises:
        ValueError: An unknown method, option or target, not one image, or a model without a spatial layer
            (Grad-CAM alone needs one).
    """
    if method not in METHODS:
        raise ValueError(f"Unknown attribution method {method!r}; there are {', '.join(METHODS)}.")
    if target not in NAMES:
        raise ValueError(f"target is {target!r}; it must be 'real' or 'ai'.")
    if pixel_values.ndim != 4 or pixel_values.shape[:2] != (1, 3):
        raise ValueError(
            f"pixel_values has shape {tuple(pixel_values.shape)}; it must be one image, (1, 3, h, w)."
        )
    known = list(inspect.signature(METHODS[method]).parameters)[2:]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"{method} has no option {unknown[0]!r}; it has {', '.join(known)}.")
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


def gradcam(log_odds: LogOdds, pixels: torch.Tensor, layer: str | None = None):
    """Signed Grad-CAM (Selvaraju et al. 2017, without its ReLU) on one spatial layer, upsampled bilinearly.

    Args:
        layer: Name of the layer, *defaults to* the one that was chosen by measurement and stored with the checkpoint
            (`config.realfake["gradcam_layer"]`), or else the deepest that the decision depends on.

    `details`: the `layer`'s name and its `grid`, (height, width).
    """
    model = log_odds.model
    stored = getattr(getattr(model, "config", None), "realfake", None) or {}
    spatial = find_layer(model, tuple(pixels.shape[2:]), layer or stored.get("gradcam_layer"))
    with spatial.tap() as tap:
        # The input needs a gradient where all parameters are frozen, or there would be no graph to walk back.
        grid = LayerGradCam(log_odds, tap).attribute(
            pixels.clone().requires_grad_(), relu_attributions=False
        )
    heat = nn.functional.interpolate(
        grid.detach().float(), tuple(pixels.shape[2:]), mode="bilinear"
    )
    return heat[0, 0], {"layer": spatial.name, "grid": spatial.grid}


def integrated_gradients(
    log_odds: LogOdds,
    pixels: torch.Tensor,
    baseline: str | torch.Tensor = "blurred",
    n_steps: int = 32,
    max_steps: int = 256,
    tolerance: float = 0.01,
    internal_batch_size: int = 8,
    black: Sequence[float] | None = None,
    seed: int = 0,
    smooth: float = 0.0,
):
    """Integrated gradients (Sundararajan et al. 2017), summed over the channels.

    The map sums to f(image) - f(baseline), f being the target's log-odds, but for the error of the integration.
    Where that exceeds `tolerance`, the path is refined where it is least straight, see [`RefinedPath`].

    Args:
        baseline: See [`baseline_pixels`].
        n_steps, max_steps: Gradients on the path from the baseline to the image, at first and at most.
        tolerance: Largest `completeness_gap` that is put up with.
        internal_batch_size: Steps computed at once.
        smooth: Standard deviation in pixels of a Gaussian for display; 0 leaves the map as it is.

    `details`: `n_steps` computed, `convergence_delta` (map's sum minus the difference it should be, in log-odds),
    `completeness_gap` (its size relative to that difference), `score_baseline`.
    """
    start = baseline_pixels(pixels, baseline, black, seed)
    path = RefinedPath(log_odds, start, pixels, n_steps, internal_batch_size)
    while path.gap > tolerance and path.refine(max_steps):
        pass
    details = {
        "n_steps": path.n_steps,
        "convergence_delta": path.delta,
        "completeness_gap": path.gap,
        "score_baseline": path.score_start,
    }
    return _smoothed(path.heatmap, smooth), details


def smoothgrad(
    log_odds: LogOdds,
    pixels: torch.Tensor,
    baseline: str | torch.Tensor = "blurred",
    n_samples: int = 16,
    noise: float = 0.1,
    batch_size: int = 8,
    black: Sequence[float] | None = None,
    seed: int = 0,
    smooth: float = 0.0,
):
    """SmoothGrad (Smilkov et al. 2017) times (image - baseline): to first order, what replacing a pixel would cost.

    The gradient alone says how the score moves if a pixel gets brighter; its sign is not evidence for a label.

    Args:
        noise: Standard deviation of the noise, as a share of the image's range of values.
    """
    start = baseline_pixels(pixels, baseline, black, seed)
    spread = noise * float(pixels.max() - pixels.min())
    with _seeded(seed, pixels.device):
        gradient = NoiseTunnel(Saliency(log_odds)).attribute(
            pixels.clone().requires_grad_(),
            nt_type="smoothgrad",
            nt_samples=n_samples,
            nt_samples_batch_size=batch_size,
            stdevs=spread,
            abs=False,
        )
    return _smoothed((gradient * (pixels - start))[0].sum(dim=0), smooth), {"n_samples": n_samples}


def occlusion(
    log_odds: LogOdds,
    pixels: torch.Tensor,
    baseline: str | torch.Tensor = "blurred",
    window: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
    black: Sequence[float] | None = None,
    seed: int = 0,
):
    """Occlusion (Zeiler and Fergus 2014): how much the target's log-odds fall if a window shows the baseline.

    Needs no gradient, and one forward pass for each window.

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
            baselines=baseline_pixels(pixels, baseline, black, seed),
            perturbations_per_eval=batch_size,
        )
    # The same difference in every channel of a window: their mean, in log-odds.
    return attribution[0].mean(dim=0), {"window": window, "stride": stride}


def gradient_shap(
    log_odds: LogOdds,
    pixels: torch.Tensor,
    baseline: str | torch.Tensor | Sequence[str] = ("blurred", "mean"),
    n_samples: int = 32,
    noise: float = 0.02,
    batch_size: int = 8,
    black: Sequence[float] | None = None,
    seed: int = 0,
    smooth: float = 0.0,
):
    """GradientSHAP (Lundberg and Lee 2017; Erion et al. 2021): integrated gradients in expectation over baselines.

    Args:
        baseline: One baseline or the names of several, drawn at random; see [`baseline_pixels`].
        n_samples: Points on the ways from a baseline to the image.
        noise: Standard deviation of the noise on the image, as a share of its range of values.
        batch_size: Points computed at once.

    `details`: `n_samples`.
    """
    names = [baseline] if isinstance(baseline, str | torch.Tensor) else list(baseline)
    starts = torch.cat([baseline_pixels(pixels, name, black, seed) for name in names])
    spread = noise * float(pixels.max() - pixels.min())
    total = torch.zeros_like(pixels)
    with _seeded(seed, pixels.device):
        for begin in range(0, n_samples, batch_size):
            count = min(batch_size, n_samples - begin)
            mean = GradientShap(log_odds).attribute(
                pixels.clone().requires_grad_(), starts, n_samples=count, stdevs=spread
            )
            total += count / n_samples * mean.detach()
    return _smoothed(total[0].sum(dim=0), smooth), {"n_samples": n_samples}


def kernel_shap(
    log_odds: LogOdds,
    pixels: torch.Tensor,
    baseline: str | torch.Tensor = "blurred",
    n_segments: int = 40,
    n_samples: int = 200,
    batch_size: int = 8,
    black: Sequence[float] | None = None,
    seed: int = 0,
):
    """KernelSHAP (Lundberg and Lee 2017) on SLIC superpixels (Achanta et al. 2012). Needs no gradient.

    A superpixel's Shapley value is spread over its pixels, so that the map sums to f(image) - f(baseline).

    Args:
        n_segments: Superpixels, about; an image of a few pixels has fewer.
        n_samples: Combinations of superpixels that are tried, one forward pass each.

    `details`: `n_segments` found, `n_samples`.
    """
    segments = _superpixels(pixels, n_segments)
    found = int(segments.max()) + 1
    start = baseline_pixels(pixels, baseline, black, seed)
    with torch.no_grad(), _seeded(seed, pixels.device):
        if found < 2:  # Captum's weights divide by the number of superpixels less one
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
    # The same value in every channel of a superpixel.
    return attribution[0].float().mean(dim=0) / area, {"n_segments": found, "n_samples": n_samples}


def _superpixels(pixels: torch.Tensor, n_segments: int) -> torch.Tensor:
    """Number the superpixels of an input from 0, int64 (h, w)."""
    # A quarter of a second to import, and one method alone needs it.
    from skimage.segmentation import slic

    image = pixels[0].float().cpu().numpy().transpose(1, 2, 0)
    image = (image - image.min()) / max(float(np.ptp(image)), 1e-6)
    wanted = min(n_segments, image.shape[0] * image.shape[1])
    # In noise and fine texture the parts are too torn to be kept; the more compact they must be, the closer to a grid.
    for compactness in (10, 100, 1000, 10000):
        segments = slic(image, n_segments=wanted, compactness=compactness, start_label=0)
        if segments.max() + 1 >= wanted / 2:
            break
    # Numbered without gaps, as Captum counts them.
    _, segments = np.unique(segments, return_inverse=True)
    return torch.from_numpy(segments.reshape(image.shape[:2])).long().to(pixels.device)


# What these ask of the margin is its value alone.
GRADIENT_FREE = ("occlusion", "kernel_shap")

# A method takes (margin, pixels, its options) and returns ((h, w) tensor, details). One more is one more entry.
METHODS: dict[str, Callable] = dict(
    zip(
        METHOD_NAMES,
        (gradcam, integrated_gradients, smoothgrad, gradient_shap, occlusion, kernel_shap),
        strict=True,
    )
)


def _smoothed(heat: torch.Tensor, sigma: float) -> torch.Tensor:
    if not sigma:
        return heat
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"smooth is {sigma}; it must be a number of pixels, 0 or more.")
    return torch.from_numpy(gaussian_filter(heat.detach().float().cpu().numpy(), sigma))


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers that repeat, without touching the caller's generators (Captum draws from NumPy's as well)."""
    state = np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            np.random.seed(seed)
            yield
    finally:
        np.random.set_state(state)
