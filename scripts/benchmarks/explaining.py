"""Maps, compared with plain implementations of the same methods on the same model.

`PlainGradCam` repeats the algorithm of pytorch-grad-cam 1.5 (`pytorch_grad_cam/grad_cam.py` and
`base_cam.py`), because that package needs torchvision: hooks on the target layer, a forward and a
backward pass, spatial means of the gradients as weights, ReLU, scaling to the image. This is a
lower bound of its work.
"""

import statistics
from pathlib import Path

import torch
from captum.attr import IntegratedGradients
from PIL import Image

from realfake.attribution.faithfulness import baseline_pixels
from realfake.attribution.methods import LogOdds
from realfake.detector import Detector
from realfake.labels import AI

from .scoring import EXAMPLES
from .timing import paired, ratio_row

STEPS = 32


class PlainGradCam:
    """Grad-CAM of one image, as in pytorch-grad-cam."""

    def __init__(self, model: torch.nn.Module, layer: torch.nn.Module, target: int):
        self.model, self.target = model, target
        self.activations = self.gradients = None
        layer.register_forward_hook(self._keep)

    def _keep(self, module, inputs, output) -> None:
        if not output.requires_grad:  # the forward pass of the prediction
            return
        self.activations = output
        output.register_hook(lambda gradient: setattr(self, "gradients", gradient))

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        logits = self.model(pixel_values=pixels.clone().requires_grad_()).logits
        self.model.zero_grad()
        logits[:, self.target].sum().backward()
        weights = self.gradients.mean(dim=(2, 3), keepdim=True)
        heat = (weights * self.activations).sum(dim=1, keepdim=True).relu()
        heat = (heat - heat.amin()) / (heat.amax() - heat.amin() + 1e-7)
        return torch.nn.functional.interpolate(heat, pixels.shape[2:], mode="bilinear").detach()


def explaining(work: Path, quick: bool) -> dict:
    """Time Grad-CAM, Grad-CAM with its evidence, and integrated gradients of 32 steps."""
    del work
    photo = Image.open(EXAMPLES / "astronaut.jpg").convert("RGB")
    detector, stock = (Detector.from_pretrained(device="cpu") for _ in range(2))
    layer = detector.explain(photo, method="gradcam").details["layer"]
    plain = PlainGradCam(stock.model, stock.model.get_submodule(layer), stock.class_indices[AI][0])

    def ours(_: int) -> None:
        detector.explain(photo, method="gradcam")

    def theirs(_: int) -> None:
        # As in its README: predict, then compute the map of the class.
        stock.predict(photo)
        plain(stock.pixels(photo))

    ours(0), theirs(0)
    times = paired(ours, theirs, 5 if quick else 15)
    what = "Explaining: predict with Grad-CAM, time over predict and a plain pytorch-grad-cam"
    rows = [
        ratio_row(
            what,
            [mine / other for mine, other in times],
            0.9,
            at_least=False,
            seconds=_medians(times),
        )
    ]

    pixels = detector.pixels(photo)
    log_odds = LogOdds(stock.model, stock.class_indices, AI)

    def with_evidence(_: int) -> None:
        detector.explain(photo, method="gradcam", evidence=True)

    def forward_and_backward(_: int) -> None:
        start = pixels.clone().requires_grad_()
        torch.autograd.grad(log_odds(start).sum(), start)

    with_evidence(0), forward_and_backward(0)
    times = paired(with_evidence, forward_and_backward, 5 if quick else 15)
    what = (
        "Explaining: predict, Grad-CAM and its evidence against five random masks, time over a "
        "forward and backward pass"
    )
    ratios = [mine / other for mine, other in times]
    rows.append(ratio_row(what, ratios, 5.0, at_least=False, seconds=_medians(times)))

    baseline = baseline_pixels(pixels)
    captum = IntegratedGradients(log_odds)
    gaps = {}

    def ours_integrated(_: int) -> None:
        details = detector.explain(
            photo, method="integrated_gradients", n_steps=STEPS, max_steps=STEPS
        ).details
        gaps["ours"] = details["convergence_delta"]

    def theirs_integrated(_: int) -> None:
        start = pixels.clone().requires_grad_()
        _, delta = captum.attribute(start, baseline, n_steps=STEPS, return_convergence_delta=True)
        gaps["captum"] = float(delta)

    ours_integrated(0), theirs_integrated(0)
    times = paired(ours_integrated, theirs_integrated, 1 if quick else 3)
    what = f"Explaining: integrated gradients, {STEPS} steps, time over a plain Captum call"
    ratios = [mine / other for mine, other in times]
    rows.append(
        ratio_row(
            what, ratios, 0.6, at_least=False, seconds=_medians(times), convergence_delta=gaps
        )
    )
    return {"rows": rows}


def _medians(times) -> dict[str, float]:
    return {
        name: statistics.median(column)
        for name, column in zip(("ours", "plain"), zip(*times, strict=True), strict=True)
    }
