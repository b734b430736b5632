"""The maps to be measured: methods with their options, and the engine that speeds them up."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import nn

from realfake.attribution.faithfulness import Scorer
from realfake.attribution.layers import candidate_layers, find_layer
from realfake.attribution.methods import METHODS, LogOdds, attribute
from realfake.attribution.perturbation import Box
from realfake.detector import Detector
from realfake.engines import has_openvino, open_engine
from realfake.models.geometry import seen_region
from realfake.statistics.log_odds import log_odds_from_logits

# Another engine is used if its logits differ from PyTorch's by less than this.
_ENGINE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Candidate:
    """A method with its options."""

    name: str
    method: str
    options: dict = field(default_factory=dict)


def candidates(
    detector: Detector, methods: Sequence[str], layers: int, pixels: torch.Tensor
) -> list[Candidate]:
    """Return the candidates to compare: the methods, and Grad-CAM on several layers.

    Args:
        detector: The detector.
        methods: Of `METHODS`.
        layers: Number of further layers for Grad-CAM; 0 for the default layer only.
        pixels: An input, for its size.

    Raises:
        ValueError: A method is unknown.
    """
    if unknown := [method for method in methods if method not in METHODS]:
        raise ValueError(f"Unknown method {unknown[0]!r}; there are {', '.join(METHODS)}.")
    result = [Candidate(method, method) for method in methods]
    if layers:
        size = tuple(pixels.shape[2:])
        default = find_layer(detector.model, size, detector.facts.get("gradcam_layer")).name
        for layer in candidate_layers(detector.model, size, layers):
            if layer.name != default or "gradcam" not in methods:
                result.append(Candidate(f"gradcam@{layer.name}", "gradcam", {"layer": layer.name}))
    return result


def fast_log_odds(detector: Detector, pixels: torch.Tensor) -> Callable[[str], Scorer]:
    """Return a function from a target to a function like [`LogOdds`], by the fastest engine.

    The engine must agree with PyTorch in fp32; otherwise PyTorch is used.

    Args:
        detector: The detector.
        pixels: An input. Inputs of another size are computed by PyTorch.
    """
    stock = Detector(detector.model, detector.processor)
    sample = pixels.cpu().numpy()
    names = ("openvino-fp32", "torch-fp32") if has_openvino() else ("torch-fp32",)
    for name in names:
        try:
            engine = open_engine(
                name, stock, sample, threads=len(os.sched_getaffinity(0)), callers=1
            )
            difference = np.abs(engine(sample)[0] - stock.forward(pixels)).max()
        except RuntimeError:
            continue
        if difference < _ENGINE_TOLERANCE:
            break
    else:
        return lambda target: LogOdds(detector.model, detector.class_indices, target)

    def for_target(target: str) -> Scorer:
        exact = LogOdds(detector.model, detector.class_indices, target)

        def log_odds(inputs: torch.Tensor) -> torch.Tensor:
            if inputs.shape[1:] != pixels.shape[1:]:
                return exact(inputs)
            logits = engine(inputs.cpu().numpy())[0]
            return torch.from_numpy(
                exact.sign * log_odds_from_logits(logits, detector.class_indices)
            )

        return log_odds

    return for_target


@dataclass(frozen=True)
class Explainer:
    """Makes maps for one target."""

    detector: Detector
    target: str
    log_odds: Scorer

    def __call__(
        self, candidate: Candidate, model: nn.Module, pixels: torch.Tensor, use_engine: bool = True
    ) -> tuple[np.ndarray, dict]:
        attribution = attribute(
            model,
            pixels,
            self.detector.class_indices,
            candidate.method,
            self.target,
            log_odds=self.log_odds if use_engine else None,
            **candidate.options,
        )
        # With shuffled weights a map may overflow.
        heat = np.nan_to_num(attribution.heatmap, posinf=0, neginf=0)
        return heat, attribution.details

    def heatmap(self, candidate: Candidate, model: nn.Module, pixels: torch.Tensor) -> np.ndarray:
        return self(candidate, model, pixels)[0]


def model_input(detector: Detector, image: Image.Image) -> tuple[torch.Tensor, Box]:
    """Return the input of the model, `(1, 3, h, w)`, and the box of the image in it."""
    region = seen_region(detector.processor, *image.size)
    pixels = detector.pixels(image).to(detector.model.device, detector.model.dtype)
    return pixels, tuple(round(edge) for edge in region.input_box)
