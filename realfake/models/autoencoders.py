"""Autoencoders of image generators: from pixels to latents and back.

Latent diffusion models generate latents, and the decoder of such an autoencoder makes the pixels.
A photograph that passes through it gets the traces of the decoder and stays the same otherwise.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

# Sides of the images must be multiples of this.
REDUCTION = 8

Autoencoder = Callable[[torch.Tensor], torch.Tensor]


class _Block(nn.Module):
    """ReLU(convolutions(x) + x). With `pooled`, x is first replaced by x + pool(x)."""

    def __init__(self, channels: int, pooled: bool):
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
        self.conv = nn.Sequential(*layers[:-1])
        self.pool = None
        if pooled:
            self.pool = nn.Sequential(
                nn.Conv2d(channels, 4 * channels, 1, bias=False),
                nn.GroupNorm(4, 4 * channels),
                nn.ReLU(),
                nn.Conv2d(4 * channels, channels, 1, bias=False),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x if self.pool is None else x + self.pool(x)
        return nn.functional.relu(self.conv(x) + x)


class _Clamp(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 3 * torch.tanh(x / 3)


class TinyAutoencoder(nn.Module):
    """The tiny autoencoder of FLUX.2, `taef2` of github.com/madebyollin/taesd.

    The modules have the names of the published file. diffusers' `AutoencoderTiny` does not have the
    pooled blocks.

    Args:
        channels (`int`, *optional*, defaults to 64): Channels of the inner layers.
        latents (`int`, *optional*, defaults to 32): Channels of the latents.
    """

    def __init__(self, channels: int = 64, latents: int = 32):
        super().__init__()

        def blocks(count: int, pooled: bool = False) -> list[nn.Module]:
            return [_Block(channels, pooled) for _ in range(count)]

        def down(count: int, pooled: bool = False) -> list[nn.Module]:
            half = nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False)
            return [half, *blocks(count, pooled)]

        def up(count: int) -> list[nn.Module]:
            convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            return [nn.Upsample(scale_factor=2), convolution, *blocks(count)]

        self.encoder = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1),
            *blocks(1),
            *down(3),
            *down(3),
            *down(3, pooled=True),
            nn.Conv2d(channels, latents, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            _Clamp(),
            nn.Conv2d(latents, channels, 3, padding=1),
            nn.ReLU(),
            *blocks(3, pooled=True),
            *up(3),
            *up(3),
            *up(1),
            nn.Conv2d(channels, 3, 3, padding=1),
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Reconstruct pixels of shape `(n, 3, height, width)` in 0..1; sides multiples of 8."""
        return self.decoder(self.encoder(pixels)).clamp(0, 1)


def load_autoencoder(model: str | Path, device: str | torch.device | None = None) -> Autoencoder:
    """Open the autoencoder of an image generator.

    Args:
        model: Folder with the published `model.safetensors` of `taef2`; or a Hub id or folder of an
            `AutoencoderKL` or `AutoencoderTiny` of diffusers.
        device: *optional*, *defaults to* a GPU if there is one.

    Returns:
        A function that reconstructs pixels of shape `(n, 3, height, width)` in 0..1, on the CPU.

    Raises:
        ValueError: diffusers is needed and not installed, or the model is of another kind.
        OSError: There is no such model.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    weights = Path(model) / "model.safetensors"
    if weights.is_file() and _is_tiny(weights):
        tiny = TinyAutoencoder()
        tiny.load_state_dict({name: each.float() for name, each in load_file(weights).items()})
        # With the channels last, convolutions on a CPU take 0.6 of the time.
        tiny.eval().to(device, memory_format=torch.channels_last)
        return lambda pixels: tiny(pixels.to(device, memory_format=torch.channels_last)).cpu()
    autoencoder = _load_with_diffusers(model).eval().to(device)

    def reconstruct(pixels: torch.Tensor) -> torch.Tensor:
        encoded = autoencoder.encode(2 * pixels.to(device) - 1)
        distribution = getattr(encoded, "latent_dist", None)
        latents = encoded.latents if distribution is None else distribution.mode()
        return ((autoencoder.decode(latents).sample + 1) / 2).clamp(0, 1).cpu()

    return reconstruct


def _is_tiny(weights: Path) -> bool:
    with safe_open(weights, "pt") as file:
        return "encoder.11.pool.0.weight" in file.keys()  # noqa: SIM118


def _load_with_diffusers(model: str | Path) -> nn.Module:
    try:
        import diffusers
    except ImportError as error:
        raise ValueError(
            f"{model} needs diffusers, which is not installed; run: pip install diffusers"
        ) from error
    kind = diffusers.AutoencoderKL.load_config(model).get("_class_name", "AutoencoderKL")
    if kind not in ("AutoencoderKL", "AutoencoderTiny"):
        raise ValueError(f"{model} is a {kind}; pass an AutoencoderKL or AutoencoderTiny.")
    return getattr(diffusers, kind).from_pretrained(model, use_safetensors=True)
