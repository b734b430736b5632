"""Facts about an image file apart from its content: format, JPEG tables, size, metadata, spectrum.

The corpus audit and the controls of an evaluation measure how much these facts reveal about the
label. Encoders leave traces in the pixels, so a detector can learn such facts. It then fails on
files that another program saved.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from realfake.imaging.decode import orientation, read_header

# Table K.1 of ITU-T T.81: libjpeg's luminance quantisation at quality 50.
_LUMINANCE = np.array(
    (16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55)
    + (14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62)
    + (18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92)
    + (49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99)
)
# libjpeg's tables for the qualities 1 to 100, (100, 64).
_QUALITIES = np.arange(1, 101)
_SCALES = np.where(_QUALITIES < 50, 5000 // _QUALITIES, 200 - 2 * _QUALITIES)
_STANDARD = ((_LUMINANCE * _SCALES[:, None] + 50) // 100).clip(1, 255)

_SUBSAMPLINGS = {
    (1, 1): "4:4:4",
    (2, 1): "4:2:2",
    (2, 2): "4:2:0",
    (1, 2): "4:4:0",
    (4, 1): "4:1:1",
}
NUMBERS = ("width", "height", "aspect_ratio", "megapixels", "bytes_per_pixel", "jpeg_quality")
BINS = 24
LARGEST_CROP = 256
# Keeps the logarithm of flat images finite; below the power of rounding to 8 bits, 1/12.
_FLOOR = 1e-2


@dataclass(frozen=True)
class ContainerFacts:
    """Facts in the header of an image file.

    Args:
        format, mode: Pillow's names, such as `"JPEG"` and `"RGB"`.
        width, height: Size of the stored image in pixels, before the orientation is applied.
        aspect_ratio, megapixels, bytes_per_pixel: Ratios of width, height and file size.
        jpeg_quality: Quality of libjpeg with the nearest luminance table; `None` for other formats.
        jpeg_tables: Start of the SHA-256 of the quantisation tables, or `"none"`.
        subsampling: Chroma subsampling of a JPEG, such as `"4:2:0"`; `"grey"` for one channel;
            `"none"` for other formats.
        progressive: Whether it is a progressive JPEG or an interlaced PNG.
        exif, icc, xmp: Whether there is an EXIF block, a colour profile, XMP metadata.
        text: Whether there is a comment, or PNG text other than XMP.
        turned: Whether the EXIF orientation swaps width and height.
    """

    format: str
    mode: str
    width: int
    height: int
    aspect_ratio: float
    megapixels: float
    bytes_per_pixel: float
    jpeg_quality: float | None
    jpeg_tables: str
    subsampling: str
    progressive: bool
    exif: bool
    icc: bool
    xmp: bool
    text: bool
    turned: bool

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height as [`~realfake.imaging.decode.open_image`] returns them."""
        return (self.height, self.width) if self.turned else (self.width, self.height)


def container_facts(data: bytes, name: str = "the image") -> ContainerFacts:
    """Read the facts from the bytes of a file.

    Raises:
        ValueError: The file is not an image in a known format, or its header is damaged.
    """
    image = read_header(data, name)
    width, height = image.size
    info = image.info
    tables = getattr(image, "quantization", None) or {}
    return ContainerFacts(
        format=image.format,
        mode=image.mode,
        width=width,
        height=height,
        aspect_ratio=width / height,
        megapixels=width * height / 1e6,
        bytes_per_pixel=len(data) / (width * height),
        jpeg_quality=float(estimated_quality(tables[0])) if 0 in tables else None,
        jpeg_tables=_digest(tables),
        subsampling=_subsampling(getattr(image, "layer", None)),
        progressive=bool(info.get("progressive") or info.get("interlace")),
        exif=bool(info.get("exif")),
        icc=bool(info.get("icc_profile")),
        xmp=bool(info.get("xmp")),
        # Image generators write their prompt into PNG text.
        text="comment" in info
        or any(isinstance(v, str) and not k.startswith("XML:") for k, v in info.items()),
        turned=orientation(image) in (5, 6, 7, 8),
    )


def estimated_quality(luminance: Sequence[int]) -> int:
    """Return the quality of libjpeg, 1..100, with the nearest luminance table (L1 distance).

    Args:
        luminance: 64 quantisation steps in natural order.
    """
    table = np.asarray(luminance, dtype=np.int64).reshape(64)
    return int(_QUALITIES[np.abs(_STANDARD - table).sum(axis=1).argmin()])


def _digest(tables: Mapping[int, list[int]]) -> str:
    if not tables:
        return "none"
    text = ";".join(f"{key}:{','.join(map(str, steps))}" for key, steps in sorted(tables.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _subsampling(layers: list[tuple] | None) -> str:
    """Name the chroma subsampling from a JPEG's components `(id, horizontal, vertical, table)`."""
    if not layers:
        return "none"
    if len(layers) == 1:
        return "grey"
    (_, luma_h, luma_v, _), (_, chroma_h, chroma_v, _) = layers[0][:4], layers[1][:4]
    ratio = (luma_h / max(chroma_h, 1), luma_v / max(chroma_v, 1))
    return _SUBSAMPLINGS.get(ratio, f"{luma_h}x{luma_v} to {chroma_h}x{chroma_v}")


def radial_spectrum(image: Image.Image) -> np.ndarray:
    """Return the log power of an RGB image's luminance by frequency, from a square centre crop.

    The mean is removed, and a Hann window is applied. Powers are per pixel: white noise of variance
    v gives log10(v) in every bin, at every size.

    Returns:
        `np.ndarray` of shape `(BINS,)`, log10 of squared grey levels, for rings between 0 and 0.5
        cycles per pixel. Rings without a frequency, in small images, are interpolated.
    """
    width, height = image.size
    side = min(width, height, LARGEST_CROP)
    left, top = (width - side) // 2, (height - side) // 2
    grey = image.crop((left, top, left + side, top + side)).convert("L")
    values = np.asarray(grey, dtype=np.float32)
    window: np.ndarray = np.hanning(side + 2)[1:-1].astype(np.float32)
    window = np.outer(window, window)
    values = (values - values.mean()) * window
    power = np.abs(np.fft.rfft2(values)) ** 2 / (window**2).sum()
    radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    ring = np.floor(radius * 2 * BINS).astype(np.int64)
    used = (ring < BINS) & (radius > 0)
    count = np.bincount(ring[used], minlength=BINS)
    total = np.bincount(ring[used], power[used], minlength=BINS)
    log_power = np.log10(total / np.maximum(count, 1) + _FLOOR)
    filled = np.flatnonzero(count)
    return np.interp(np.arange(BINS), filled, log_power[filled])
