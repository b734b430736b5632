"""A map of one view, compared with a plain implementation of Grad-CAM on the same model.

`PlainGradCam` repeats the algorithm of pytorch-grad-cam 1.5 (`pytorch_grad_cam/grad_cam.py` and
`base_cam.py`), because that package needs torchvision: hooks on the target layer, a forward and a
backward pass, spatial means of the gradients as weights, ReLU, scaling to the image. This is a
lower bound of its work.
"""

import statistics
from pathlib import Path

import torch
from PIL import Image

from realfake.attribution.layers import SpatialLayer, find_layer
from realfake.detector import Detector
from realfake.labels import AI

from .scoring import EXAMPLES
from .timing import ratio_row, rounds


class PlainGradCam:
    """Grad-CAM of one image, as in pytorch-grad-cam, with tokens folded into a grid."""

    def __init__(self, model: torch.nn.Module, layer: SpatialLayer, target: int):
        self.model, self.layer, self.target = model, layer, target
        self.activations = self.gradients = None
        layer.module.register_forward_hook(self._keep)

    def _keep(self, module, inputs, output) -> None:
        output = output[0] if isinstance(output, tuple) else output
        if not output.requires_grad:  # the forward pass of the prediction
            return
        self.activations = self.layer.to_grid(output)
        output.register_hook(
            lambda gradient: setattr(self, "gradients", self.layer.to_grid(gradient))
        )

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        logits = self.model(pixel_values=pixels.clone().requires_grad_()).logits
        self.model.zero_grad()
        logits[:, self.target].sum().backward()
        weights = self.gradients.mean(dim=(2, 3), keepdim=True)
        heat = (weights * self.activations).sum(dim=1, keepdim=True).relu()
        heat = (heat - heat.amin()) / (heat.amax() - heat.amin() + 1e-7)
        return torch.nn.functional.interpolate(heat, pixels.shape[2:], mode="bilinear").detach()


def explaining(work: Path, quick: bool) -> dict:
    """Compare a prediction with its Grad-CAM to a plain implementation."""
    del work
    photo = Image.open(EXAMPLES / "astronaut.jpg").convert("RGB")
    detector, stock = (Detector.from_pretrained(device="cpu") for _ in range(2))
    pixels = stock.pixels(photo)
    name = detector.explain(photo, method="gradcam", views=1).details["layer"]
    layer = find_layer(stock.model, tuple(pixels.shape[2:]), name)
    plain = PlainGradCam(stock.model, layer, stock.class_indices[AI][0])

    def ours(_: int) -> None:
        detector.explain(photo, method="gradcam", views=1)

    def theirs(_: int) -> None:
        # As in its README: predict, then compute the map of the class.
        stock.predict(photo, views=1)
        plain(stock.pixels(photo))

    return {
        "rows": [
            compare(
                "Explaining: predict with Grad-CAM, time over predict and a plain pytorch-grad-cam",
                {"ours": ours, "plain": theirs},
                0.9,
                1 if quick else 9,
            )
        ]
    }


def compare(what: str, functions: dict, target: float, n: int) -> dict:
    """Time `ours` and `plain`, after a first call of each, and return the row."""
    for function in functions.values():
        function(-1)
    times = rounds(functions, n)
    profile = {name: statistics.median(each) for name, each in times.items()}
    return ratio_row(what, times["ours"], times["plain"], target, at_least=False, profile=profile)
