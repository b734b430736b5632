"""The one place where image files are decoded: path, URL, bytes or array to upright 8-bit RGB.

Training, evaluation, prediction and the Space all call [`open_image`], so they see the same pixels
and refuse the same files. Limits are checked on the header, before memory for pixels is allocated.
"""

import codecs
import contextlib
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, features
from PIL.JpegImagePlugin import JpegImageFile

from realfake.imaging.colour import to_rgb
from realfake.imaging.fetch import MAX_BYTES, fetch, is_data_uri, read_data_uri
from realfake.imaging.limits import (
    TooCostly,
    check_decoder,
    checked,
    count_gif_frames,
    count_tiff_pages,
    is_heif,
    reads_within_bounds,
    webp_size,
)


@dataclass(frozen=True)
class Limits:
    """Limits of what [`open_image`] accepts.

    Args:
        max_bytes: Size of the file or of the download.
        max_pixels: Width x height.
        min_side: Shortest side in pixels.
        max_aspect: Longest side over the shortest. A processor that resizes the shortest side turns
            a strip of 8 x 1,000,000 pixels into gigabytes.
    """

    max_bytes: int = MAX_BYTES
    max_pixels: int = 100_000_000
    min_side: int = 8
    max_aspect: float = 100.0


LIMITS = Limits()


AGAIN = "Download or export it again."
_RESAVE = "Open it in an image program and save it as JPEG or PNG."


class OutOfMemory(ValueError, MemoryError):
    """The machine has too little memory for an image. The file may be intact."""


# Formats of photographs and of generators. Pillow reads 30 more, such as EPS through Ghostscript;
# each would be one more target for a hostile upload. The JPEG reader also reads MPO.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF", "JPEG2000", "PPM")
# File names of images in these formats.
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
    + (".heic", ".heif", ".hif", ".avif", ".jp2", ".ppm", ".pgm")
)
# Formats of animations, and the pixels that may be decoded to reach a frame.
_ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")
MAX_PLAYED = 400_000_000
_NUMBER_OF_IMAGES = 0xB001  # of a multi-picture JPEG (CIPA DC-007, 5.2.3)

# How to turn an image upright, by EXIF orientation.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(
    source: str | os.PathLike | bytes | Mapping | np.ndarray | Image.Image, limits: Limits = LIMITS
) -> Image.Image:
    """Read an image as upright 8-bit RGB.

    EXIF orientation is applied. For 8-bit RGB and grey files in sRGB the pixels equal those of
    `transformers.image_utils.load_image`. Three differences are intended: colours are converted to
    sRGB by the embedded profile, which the stock pipeline ignores; transparency is composited on
    white instead of dropped; 16-bit and float images are scaled to 8 bits instead of clipped.

    The first frame of an animation is read, and the main picture of a file with several. The result
    then has `info["frame"]`, its index and the number of frames. It has no other metadata, so the
    orientation cannot be applied twice.

    Args:
        source: A path, an `http(s)` URL, a `data:` URI, the bytes of a file, a `PIL.Image.Image`
            (left unchanged), a `datasets` row `{"bytes": ..., "path": ...}`, or an array: `uint8`
            of shape (height, width) or (height, width, 3 or 4), or float of the same shapes with
            values in 0..1.
        limits: What to accept.

    Raises:
        ValueError: The content cannot be used: not an image, damaged, too large or too small.
            [`OutOfMemory`] if the machine has too little memory.
        OSError: The source cannot be read: no such file, a folder, no permission, unreachable host.
            Both messages are one line that names the source and the fix.
    """
    if isinstance(source, Mapping):
        return _open_row(source, limits)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(bytes(source), "the uploaded bytes", limits)
    if isinstance(source, str) and source.lower().startswith(("http://", "https://")):
        data = fetch(source, max_bytes=limits.max_bytes)
        return _decode(data, _short(source.split("?")[0]), limits)
    if isinstance(source, str) and is_data_uri(source):
        return _decode(read_data_uri(source, limits.max_bytes), "the data URI", limits)
    if isinstance(source, (str, os.PathLike)):
        path = os.fsdecode(source)
        return _decode(read_file(path, limits), _basename(path), limits)
    if isinstance(source, Image.Image):
        name = _basename(getattr(source, "filename", "")) or "the image"
        return _load(source, name, limits)
    if isinstance(source, np.ndarray):
        return _load(_from_array(source), "the array", limits)
    raise ValueError(
        f"An image cannot be read from {type(source).__name__}; "
        "pass a path, a URL, bytes, a PIL image or a numpy array."
    )


def frames(data: bytes, most: int = 5) -> Iterator[Image.Image]:
    """Yield at most `most` evenly spaced frames of an animation; the first is that of `open_image`.

    Other files have one frame. Frames that cannot be decoded are left out. To bound the work, all
    frames are within the first `MAX_PLAYED` pixels of the animation.

    Raises:
        ValueError: As [`open_image`], for the first frame.
    """
    first = _decode(data, "the image", LIMITS)
    yield first
    _, count = first.info.get("frame", (0, 1))
    image = read_header(data, "the image")
    if image.format not in _ANIMATED:
        return
    reachable = min(count, MAX_PLAYED // (image.width * image.height))
    for index in dict.fromkeys(np.linspace(0, max(reachable - 1, 0), most).round().astype(int)):
        with contextlib.suppress(ValueError, EOFError, OSError, SyntaxError):
            if index:
                image.seek(int(index))
                frame = _load(image, "the image", LIMITS)
                frame.info["frame"] = (int(index), count)
                yield frame


def frame_count(image: Image.Image, data: bytes) -> int:
    """Return the number of frames or pictures in a file, from its [`read_header`]."""
    if image.format == "GIF":
        return count_gif_frames(data)
    if image.format == "TIFF":
        return count_tiff_pages(data)
    if image.format == "JPEG":
        block = image.info.get("mp")
        if not isinstance(block, bytes) or not reads_within_bounds(block):
            return 1
        exif = Image.Exif()
        with contextlib.suppress(SyntaxError, ValueError, TypeError, LookupError, struct.error):
            exif.load(block)
        number = exif.get(_NUMBER_OF_IMAGES, 1)
        return number if isinstance(number, int) else 1
    return getattr(image, "n_frames", 1)


def image_bytes(image: Mapping) -> bytes:
    """Return the file of a row of a `datasets.Image(decode=False)` column.

    Args:
        image: `{"bytes", "path"}`. Bytes take precedence, as in datasets.

    Raises:
        OSError: The file cannot be read.
    """
    if image["bytes"] is not None:
        return image["bytes"]
    return Path(os.fspath(image["path"])).read_bytes()


def _open_row(row: Mapping, limits: Limits) -> Image.Image:
    path = row.get("path")
    if row.get("bytes") is not None:
        name = _basename(path) if path else "the uploaded bytes"
        return _decode(row["bytes"], name, limits)
    if not path:
        raise ValueError("The row has neither 'bytes' nor 'path'; fill one of them or drop it.")
    return open_image(path, limits)


def read_file(path: str, limits: Limits = LIMITS) -> bytes:
    """Read a file of at most `limits.max_bytes`, with errors that name the fix."""
    shown = _short(path)
    if "\0" in path:
        raise OSError(f"{shown} is not a path; it contains a NUL character.")
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(f"{shown} is a folder; name an image file in it.")
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{shown} is not a regular file; name an image file.")
        if status.st_size > limits.max_bytes:
            raise _too_many_bytes(_basename(path), status.st_size, limits)
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise FileNotFoundError(f"{shown} does not exist; check the path.") from None
    except OSError as error:
        if error.strerror is None:  # raised in this function
            raise
        raise type(error)(f"{shown} cannot be read: {error.strerror}.") from error


def _decode(data: bytes, name: str, limits: Limits) -> Image.Image:
    if len(data) > limits.max_bytes:
        raise _too_many_bytes(name, len(data), limits)
    if (size := webp_size(data)) is not None:
        _check_size(size, name, limits)
    image = read_header(data, name)
    codecs = [tile.codec_name for tile in getattr(image, "tile", ())]
    for codec in ["heif"] if image.format == "HEIF" else codecs:
        try:
            check_decoder(codec, image.width, image.height, len(data))
        except TooCostly as error:
            raise ValueError(f"{name} is {error}. {_RESAVE}") from None
    index, count = image.tell(), frame_count(image, data)
    result = _load(image, name, limits)
    if count > 1:
        result.info["frame"] = (index, count)
    return result


def read_header(data: bytes, name: str) -> Image.Image:
    """Read only the header of an image file.

    Like `PIL.Image.open(..., formats=FORMATS)`, without Pillow's decompression-bomb check, which
    uses global state. `_check_size` replaces it.

    Raises:
        ValueError: Not an image, damaged, or too costly to decode.
    """
    if any(format not in Image.OPEN for format in FORMATS if format != "HEIF"):
        Image.init()
    for format in FORMATS:
        factory, accept = _reader(format)
        # `accept` returns a string, not True, if Pillow was built without the format's library.
        if factory is None or accept is not None and accept(data[:64]) is not True:
            continue
        try:
            return factory(BytesIO(checked(data, format)), "")
        except TooCostly as error:
            raise ValueError(f"{name} is {error}. {_RESAVE}") from None
        except MemoryError as error:
            raise _out_of_memory(name) from error
        except Exception as error:  # a hostile header can raise nearly any error
            if other_kind(data) is None:
                raise ValueError(
                    f"{name} is damaged: its {format} header cannot be read. {AGAIN}"
                ) from error
            break
    kind = other_kind(data) or "not an image in a supported format. Save it as JPEG or PNG"
    raise ValueError(f"{name} is {kind}.")


def _reader(format: str) -> tuple:
    """Return Pillow's class for a format, and a function that recognises its first bytes."""
    if format == "HEIF":
        from pillow_heif.as_plugin import HeifImageFile

        return HeifImageFile, is_heif
    factory, accept = Image.OPEN.get(format, (None, None))
    # Pillow's own factory for JPEG also reads the directory of a second picture.
    return JpegImageFile if format == "JPEG" else factory, accept


def _out_of_memory(name: str) -> OutOfMemory:
    return OutOfMemory(f"{name} needs too much memory to decode. Scale it down.")


def _check_size(size: tuple[int, int], name: str, limits: Limits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise ValueError(
            f"{name} has {width} x {height} pixels; the limit is {limits.max_pixels / 1e6:g} "
            "million. Scale it down or crop it."
        )
    if min(width, height) < limits.min_side:
        raise ValueError(
            f"{name} has {width} x {height} pixels; each side needs at least {limits.min_side}. "
            "Use a larger version of the image."
        )
    if max(width, height) > limits.max_aspect * min(width, height):
        raise ValueError(
            f"{name} has {width} x {height} pixels; one side is more than {limits.max_aspect:g} "
            "times the other. Crop it."
        )


def _load(image: Image.Image, name: str, limits: Limits) -> Image.Image:
    """Check the size, then decode, apply the orientation and convert to RGB."""
    _check_size(image.size, name, limits)
    try:
        image.load()
        # After loading, because Pillow's TIFF reader applies the orientation and drops the tag.
        method = UPRIGHT.get(orientation(image))
        result = to_rgb(image)
        result = result.transpose(method) if method is not None else result
    except MemoryError as error:
        raise _out_of_memory(name) from error
    except Exception as error:  # as in read_header
        detail = " ".join(str(error).split())[:120] or type(error).__name__
        if detail.startswith("Memory allocation") and "limit" not in detail:  # of libheif
            raise _out_of_memory(name) from error
        raise ValueError(f"{name} is truncated or damaged ({detail}). {AGAIN}") from error
    if result is image:
        result = image.copy()
    result.info = {}  # contains the EXIF and XMP blocks, including the orientation
    return result


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1..8; 1 if the EXIF block is broken or missing."""
    try:
        block = image.info.get("exif")
        # ImageMagick writes this into PNG files.
        if block is None and "Raw profile type exif" in image.info:
            block = bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:]))
        if isinstance(block, bytes) and not reads_within_bounds(block):
            return 1
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, ValueError, TypeError, LookupError, EOFError, OSError, struct.error):
        return 1


def _from_array(array: np.ndarray) -> Image.Image:
    wanted = "uint8 or float in 0..1, of shape (height, width) or (height, width, 3 or 4)"
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,), (4,)) or 0 in array.shape:
        raise ValueError(f"The array has shape {array.shape}; an image is {wanted}.")
    if array.dtype.kind == "f":
        # not (...) so that NaN is refused too
        if not (array.min() >= 0 and array.max() <= 1):
            raise ValueError(
                f"The float array has values outside 0..1; an image is {wanted}. "
                "Divide by its maximum."
            )
        array = np.rint(array.astype(np.float32) * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"The array is of type {array.dtype}; an image is {wanted}.")
    return Image.fromarray(np.ascontiguousarray(array))


def _too_many_bytes(name: str, size: int, limits: Limits) -> ValueError:
    return ValueError(
        f"{name} has {size / 2**20:.1f} MiB; the limit is {limits.max_bytes / 2**20:g} MiB. "
        "Scale it down or save it with more compression."
    )


def _basename(path: str | os.PathLike) -> str:
    return _short(os.path.basename(os.fsdecode(path)))


def _short(text: str, length: int = 200) -> str:
    """Return one printable line of at most `length` characters."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def other_kind(data: bytes) -> str | None:
    """Describe a file that is not a readable image, with advice; `None` if unknown."""
    head = data[:1024]
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not data:
        return f"empty (0 bytes). {AGAIN[:-1]}"
    if head[4:8] == b"ftyp":
        if is_heif(head):
            return None  # it is an image, so it must be damaged
        if head[8:12] in (b"avif", b"avis"):
            if features.check("avif"):
                return None
            return "an AVIF file, which this Pillow build cannot read. Save it as JPEG or PNG"
        return "a video, not an image. Save one frame as JPEG or PNG"
    if head.startswith((b"\xff\n", b"\0\0\0\x0cJXL ")):
        return "a JPEG XL file, which is not supported. Save it as JPEG or PNG"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the image itself. Run `git lfs pull`"
    if b"<svg" in text:
        return "an SVG drawing, not a raster image. Export it as PNG"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page, not an image. Download the image itself"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!")):
        return "an archive, not an image. Unpack it and use the images inside"
    if head.startswith(b"%PDF"):
        return "a PDF document, not an image. Export the image as JPEG or PNG"
    if not any(byte < 9 or 13 < byte < 32 for byte in head):
        try:
            # Incremental, because 1024 bytes can end inside a character.
            codecs.getincrementaldecoder("utf-8")().decode(head)
        except UnicodeDecodeError:
            return None
        return "a text file, not an image. Choose a JPEG or PNG file"
    return None
