"""Uninformative images: what attribution methods compare with, and what is put where a part of an image is taken away."""

from collections.abc import Sequence

import torch
from PIL import Image
from scipy.ndimage import gaussian_filter


def baseline_pixels(
    pixels: torch.Tensor,
    baseline: str | torch.Tensor = "blurred",
    black: Sequence[float] | None = None,
    seed: int = 0,
) -> torch.Tensor:
    """An uninformative image to compare with.

    Args:
        pixels: `(1, 3, h, w)`.
        baseline: `"blurred"` (Gaussian, a twentieth of the longer side), `"mean"` (the image's mean colour),
            `"noise"` (uniform over each channel's range of values), `"black"`, or pixel values of one's own.
        black: For `"black"`: the three values of a black pixel, from [`black_pixel`].
        seed: For `"noise"`.

    Returns:
        A tensor like `pixels`.

    Raises:
        ValueError: An unknown name, `"black"` without `black`, or a tensor of another shape.
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
    if baseline == "noise":
        low, high = pixels.amin(dim=(2, 3), keepdim=True), pixels.amax(dim=(2, 3), keepdim=True)
        uniform = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(seed))
        return low + (high - low) * uniform.to(pixels)
    if baseline == "black":
        if black is None:
            raise ValueError(
                "baseline='black' needs black=black_pixel(processor): pixel values are normalised."
            )
        return pixels.new_tensor(list(black))[None, :, None, None].expand_as(pixels).contiguous()
    raise ValueError(f"Unknown baseline {baseline!r}; there are blurred, mean, noise, black, or a tensor.")


def black_pixel(processor) -> tuple[float, float, float]:
    """What a processor makes of a black pixel, channel by channel."""
    pixels = processor(Image.new("RGB", (64, 64)), return_tensors="pt")["pixel_values"][0]
    return tuple(pixels[:, pixels.shape[1] // 2, pixels.shape[2] // 2].tolist())
