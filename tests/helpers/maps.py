"""Models and maps for tests of attribution."""

import numpy as np
import torch


def smooth_noise(size, seed=0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    waves = [
        np.cos(rng.normal(0, 0.3) * x + rng.normal(0, 0.3) * y + rng.uniform(0, 6))
        for _ in range(6)
    ]
    return np.sum(waves, axis=0).astype(np.float32)


class Weighted:
    """Log-odds: the sum of weight × pixels, over all channels."""

    def __init__(self, weight):
        self.weight, self.passes = torch.as_tensor(weight, dtype=torch.float32), []

    def __call__(self, pixels):
        self.passes.append(len(pixels))
        return (pixels * self.weight).sum(dim=(1, 2, 3))


def linear_case():
    """Return a linear model, an input and the exact map."""
    weight = smooth_noise((16, 24), 1)
    weight = 0.02 * (weight - weight.mean())
    pixels = torch.from_numpy(np.random.default_rng(2).random((1, 3, 16, 24), dtype=np.float32))
    contribution = pixels[0].sum(dim=0).numpy() * weight
    return Weighted(weight), pixels, contribution
