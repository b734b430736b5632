"""What an image's file says before any pixel is decoded: format, JPEG tables, size, metadata.

The corpus audit asks whether these facts give the label away. A detector trained on such a corpus can learn them, because
encoders leave traces in the pixels, and then it fails on files that another program has saved.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from realfake.imaging.decode import orientation, read_header

# Table K.1 of ITU-T T.81: libjpeg's luminance quantisation at quality 50.
_LUMINANCE = np.array(
    [
        16,
        11,
        10,
        16,
        24,
        40,
        51,
        61,
        12,
        12,
        14,
        19,
        26,
        58,
        60,
        55,
        14,
        13,
        16,
        24,
        40,
        57,
        69,
        56,
        14,
        17,
        22,
        29,
        51,
        87,
        80,
        62,
        18,
        22,
        37,
        56,
        68,
        109,
        103,
        77,
        24,
        35,
        55,
        64,
        81,
        104,
        113,
        92,
        49,
        64,
        78,
        87,
        103,
        121,
        120,
        101,
        72,
        92,
        95,
        98,
        112,
        100,
        103,
        99,
    ]
)
# How libjpeg scales it for the qualities 1..100, rows of 64 steps.
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


@dataclass(frozen=True)
class ContainerFacts:
    """What is known of a file without its pixels.

    Args:
        format: `"JPEG"`, `"PNG"`, ...
        mode: Pillow's name of the pixel format, such as `"RGB"`, `"L"`, `"RGBA"`, `"P"`.
        width: Of the stored picture, in pixels; likewise `height`. `aspect_ratio` is width / height.
        megapixels: Millions of pixels.
        bytes_per_pixel: Size of the file over the number of pixels. With one encoder for all it is a property of the pixels.
        jpeg_quality: libjpeg's quality whose luminance table is nearest, 1..100; `None` where the file is no JPEG.
        jpeg_tables: First digits of the SHA-256 of the quantisation tables; `"none"` where there are none.
        subsampling: Of a JPEG's chroma, such as `"4:2:0"`; `"grey"` for one channel; `"none"` for other formats.
        progressive: A progressive JPEG, or an interlaced PNG.
        exif: There is an EXIF block. Likewise `icc`, `xmp`, and `text`: a comment, or PNG text other than XMP.
        turned: The EXIF orientation swaps width and height.
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

    Args:
        data: The whole file.
        name: For the message.

    Raises:
        ValueError: It is no image in a known format, or the header is damaged.
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
        # Programs that generate images write their prompt into PNG text.
        text="comment" in info
        or any(isinstance(v, str) and not k.startswith("XML:") for k, v in info.items()),
        turned=orientation(image) in (5, 6, 7, 8),
    )


def estimated_quality(luminance) -> int:
    """The quality of libjpeg, 1..100, whose luminance table is nearest in the sum of absolute differences.

    Args:
        luminance: 64 quantisation steps in natural order. Cameras have tables of their own: for them it is an estimate.
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


BINS = 24
LARGEST_CROP = 256
_FLOOR = 1e-2  # below the power of rounding to 8 bits (1/12): flat pictures stay finite


def radial_spectrum(
    image: Image.Image, bins: int = BINS, largest: int = LARGEST_CROP
) -> np.ndarray:
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
