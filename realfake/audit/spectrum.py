"""The radial power spectrum of an image's luminance: how much detail there is at each scale, without the content.

Upsampling in generators and resizing in pipelines leave marks here (Durall et al. 2020, "Watch your Up-Convolution"), so a
linear classifier on it is the floor that a detector has to beat. Used by the corpus audit.
"""

import numpy as np
from PIL import Image

BINS = 24
LARGEST_CROP = 256
_FLOOR = 1e-2  # below the power of rounding to 8 bits (1/12): flat pictures stay finite


def radial_spectrum(image: Image.Image, bins: int = BINS, largest: int = LARGEST_CROP) -> np.ndarray:
    """Log power of the luminance at `bins` frequencies, from a centre crop at native size.

    The crop, a square of at most `largest` pixels, has its mean removed and is weighted by a Hann window. Powers are per
    pixel: white noise of variance v gives log10(v) in every bin, whatever the size.

    Args:
        image: An RGB image.
        bins: Rings between 0 and 0.5 cycles per pixel. A ring that holds no frequency, in a small picture, is interpolated.
        largest: Longest side of the crop, in pixels.

    Returns:
        `np.ndarray` of shape `(bins,)`, log10 of grey levels squared.
    """
    width, height = image.size
    side = min(width, height, largest)
    left, top = (width - side) // 2, (height - side) // 2
    grey = image.crop((left, top, left + side, top + side)).convert("L")
    values = np.asarray(grey, dtype=np.float32)
    window = np.hanning(side + 2)[1:-1].astype(np.float32)
    window = np.outer(window, window)
    values = (values - values.mean()) * window
    power = np.abs(np.fft.rfft2(values)) ** 2 / (window**2).sum()
    radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    ring = np.floor(radius * 2 * bins).astype(np.int64)
    used = (ring < bins) & (radius > 0)
    count = np.bincount(ring[used], minlength=bins)
    total = np.bincount(ring[used], power[used], minlength=bins)
    log_power = np.log10(total / np.maximum(count, 1) + _FLOOR)
    filled = np.flatnonzero(count)
    return np.interp(np.arange(bins), filled, log_power[filled])
