"""Mixtures of a photograph and its reconstruction through an autoencoder.

After Chen et al. (2025), "Dual Data Alignment Makes AI-Generated Image Detector Easier
Generalizable". A mixture has weaker traces of the generator, and is labelled as generated.
"""

import numpy as np
from PIL import Image, ImageFilter

# Smallest share of the reconstruction in a blend of pixels.
_SMALLEST = 0.4
# Shares of the mixtures: pixels; frequencies with the low ones of the photograph; the rest has the
# low ones of the reconstruction.
_PIXELS, _PHOTOGRAPH_LOW = 0.5, 0.35
# Standard deviations in pixels of the Gaussian that separates the frequencies. Wide ones leave
# almost no generated content below them.
_SIGMAS, _SIGMAS_OF_RECONSTRUCTION = (0.7, 4.0), (0.7, 1.5)


def mix_pair(
    photograph: Image.Image, reconstruction: Image.Image, rng: np.random.Generator
) -> Image.Image:
    """Blend the pixels of two images, or join low frequencies of one and high ones of the other.

    Args:
        photograph: RGB image.
        reconstruction: RGB image. It is returned as it is if its size is another one.
    """
    if photograph.size != reconstruction.size:
        return reconstruction
    kind = rng.random()
    if kind < _PIXELS:
        return Image.blend(photograph, reconstruction, rng.uniform(_SMALLEST, 1))
    if kind < _PIXELS + _PHOTOGRAPH_LOW:
        return join_frequencies(photograph, reconstruction, rng.uniform(*_SIGMAS))
    return join_frequencies(reconstruction, photograph, rng.uniform(*_SIGMAS_OF_RECONSTRUCTION))


def join_frequencies(low: Image.Image, high: Image.Image, sigma: float) -> Image.Image:
    """Return the low frequencies of one image plus the high frequencies of the other.

    Args:
        low, high: RGB images of one size.
        sigma: Standard deviation in pixels of the Gaussian that separates them.
    """
    gaussian = ImageFilter.GaussianBlur(sigma)
    values = np.asarray(high, dtype=np.int16) - np.asarray(high.filter(gaussian), dtype=np.int16)
    values += np.asarray(low.filter(gaussian), dtype=np.int16)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
