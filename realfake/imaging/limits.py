"""What an image file may ask of its reader, checked on the file's structure before Pillow opens it.

Pillow bounds the number of pixels, but not what stands around them: a kilobyte of TIFF directory
that names the same megabytes a thousand times, a JPEG of two million scans, a comment of a million
blocks. [`realfake.imaging.decode`] calls [`checked`] with the bytes of every file, and then looks
at what kind of decoder the opened image needs.
"""

import math
import re
import struct
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from PIL import features

# Work that a progressive JPEG may ask for: its pixels, times its scans. Encoders make about ten
# scans; this allows twenty at 100 million pixels, about three seconds of one core.
MAX_SCANNED = 2_000_000_000
# What one scan costs at the least, in pixels.
SCAN_COST = 10_000
# JPEG segments, PNG chunks, GIF blocks before the first frame: each costs Python code in Pillow a
# microsecond or two.
MAX_SEGMENTS = 100_000
# A GIF's comment is joined block by block, each time anew.
MAX_COMMENT_BLOCKS = 4096
# Bytes that belong to no segment, which Pillow skips one by one.
MAX_JUNK = 2**20
# Cameras write some dozens of tags, and a scanner's file has two numbers for every strip of its
# image.
MAX_TAGS = 4096
MAX_NUMBERS = 500_000
# A tile is decoded whole, however small the image is.
MAX_TILE = 16_777_216
# JPEG scans in a strip or tile of a TIFF file: one for each component. A progressive one has more;
# libtiff writes none.
MAX_STRIP_SCANS = 4
# The header of a PPM file, which Pillow reads byte by byte.
MAX_PPM_HEADER = 4096

# Decoders of Pillow that are slow by nature: pixels and bytes that they get through within about
# two seconds.
SLOW = {
    "ppm": (1_000_000, 16 * 2**20, "a PPM file of more than 8 bits"),
    "ppm_plain": (0, 0, "a PPM file in text form"),
    "bmp_rle": (4_000_000, 8 * 2**20, "a run-length encoded BMP file"),
    "jpeg2k": (16_000_000, 8 * 2**20, "a JPEG 2000 file"),
}

_EXIF = b"Exif\0\0"
# A marker that a length follows: no stuffed zero, TEM, restart or fill byte.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_SCAN = b"\xff\xda"
_PPM_HEADER = re.compile(
    rb"P[1-6fF](?:\s|#[^\r\n]*[\r\n])+\d+(?:\s|#[^\r\n]*[\r\n])+\d+(?:\s|#[^\r\n]*[\r\n])",
    re.DOTALL,
)
# Bytes of a TIFF value by its type (TIFF 6.0, section 2, and BigTIFF); Pillow ignores others.
_TYPE_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)
_BYTES = (1, 2, 7)  # types that stay bytes and become no numbers
_INTEGERS = {1: "u1", 3: "u2", 4: "u4", 6: "i1", 8: "i2", 9: "i4", 16: "u8", 17: "i8"}
_TILE_SIDES = (322, 323)
_COMPRESSION, _JPEG = 259, (6, 7)
_STRIPS, _STRIP_SIZES = (273, 324), (279, 325)  # of strips, of tiles
_SUB_DIRECTORIES = (34665, 34853, 40965)  # EXIF, GPS, interoperability


class TooCostly(Exception):
    """The file asks for more work than its pixels do; the text completes "… is"."""


def checked(data: bytes, format: str) -> bytes:
    """Refuse a file that asks too much, and leave out what would only cost.

    Args:
        data: The whole file.
        format: Pillow's name of the format that its first bytes announce.

    Returns:
        `data`, or for a JPEG file what is left of it without an EXIF block that cannot be read
        within bounds.

    Raises:
        TooCostly: It asks too much.
        ValueError, struct.error, IndexError: It is damaged.
    """
    if format == "JPEG":
        return _checked_jpeg(data)
    if format == "PNG":
        _check_png(data)
    elif format == "GIF":
        _check_gif(data)
    elif format == "TIFF":
        if not reads_within_bounds(data, to_decode=True):
            raise TooCostly("a TIFF file whose directory asks for far more than the file holds")
        _check_strips(data)
    elif format == "AVIF":
        _check_avif(data)
    elif format == "PPM" and not _PPM_HEADER.match(data[:MAX_PPM_HEADER]):
        raise ValueError("no sizes at the beginning")
    return data


def check_decoder(codec: str, width: int, height: int, size: int) -> None:
    """Refuse what a slow decoder would sit on.

    Args:
        codec: Pillow's name of the decoder.
        size: Of the file in bytes.

    Raises:
        TooCostly: It is too large for this decoder.
    """
    pixels, size_limit, name = SLOW.get(codec, (None, None, ""))
    if pixels is not None and (width * height > pixels or size > size_limit):
        beyond = f", read up to {pixels / 1e6:g} million pixels and {size_limit // 2**20} MiB"
        raise TooCostly(f"{name}{beyond if pixels else ', which is not supported'}")


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that a WebP file announces (RFC 9649); `None` for other files.

    Pillow takes memory for two such pictures while it opens the file, before anybody can ask for
    its size.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    kind, shortest = data[12:16], {b"VP8L": 25, b"VP8 ": 30, b"VP8X": 30}
    if len(data) < shortest.get(kind, math.inf):
        return None
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def reads_within_bounds(block: bytes, to_decode: bool = False) -> bool:
    """Whether the TIFF directories of a block (an EXIF block or a TIFF file) can be read at a cost
    of the block's size.

    Every entry names a place and a number of values, and readers copy them; entries may name the
    same place, so that a small block can ask for terabytes. The first directory is looked at and
    those below it that Pillow reads.

    Args:
        block: From the TIFF header on. One that is damaged in another way passes; it costs nothing.
        to_decode: Also bound the tiles of the image.
    """
    # Pillow removes the prefix as often as it stands there, copying the block every time.
    block = block.removeprefix(_EXIF).removeprefix(_EXIF)
    if block.startswith(_EXIF):
        return False
    costs = _walk(block)
    return (
        costs.copied <= 2 * len(block) + 65536
        and costs.tags <= MAX_TAGS
        and costs.numbers <= MAX_NUMBERS
        and not (to_decode and costs.tile > MAX_TILE)
    )


@dataclass
class _Costs:
    """What reading directories takes: tags, bytes copied, numbers made of them; a tile's pixels;
    directories below.

    `strips` are the tags that say where the pixels lie, the first of each as libtiff has it: type,
    number, place.
    """

    order: str
    tags: int = 0
    copied: int = 0
    numbers: int = 0
    tile: int = 0
    below: list[int] = field(default_factory=list)
    strips: dict[int, tuple[int, int, int]] = field(default_factory=dict)


def _walk(block: bytes) -> _Costs:
    big = block[2:4] in (b"+\0", b"\0+")
    costs = _Costs("<" if block[:2] == b"II" else ">")
    try:
        offsets = [
            struct.unpack_from(costs.order + ("Q" if big else "L"), block, 8 if big else 4)[0]
        ]
        # EXIF hangs below the first, the one for interoperability below that; a longer chain goes
        # in circles.
        for _ in range(3):
            costs.below = []
            for offset in offsets[:4]:
                _add_directory(costs, block, offset, big)
            offsets = costs.below
    except (struct.error, OverflowError):
        pass  # Pillow, too, reads no further than this
    return costs


def _add_directory(costs: _Costs, block: bytes, offset: int, big: bool) -> None:
    order = costs.order
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), block, offset)
    costs.tags += count
    entry = struct.Struct(order + ("HHQ8s" if big else "HHL4s"))
    inline, sides = (8 if big else 4), {}
    start = offset + (8 if big else 2)
    for number in range(min(count, MAX_TAGS)):
        tag, kind, values, content = entry.unpack_from(block, start + number * entry.size)
        size = values * _TYPE_SIZES[kind] if kind < len(_TYPE_SIZES) else 0
        costs.numbers += values if kind not in _BYTES and size else 0
        value = int.from_bytes(content[: min(size, inline)], "little" if order == "<" else "big")
        place = start + (number + 1) * entry.size - inline
        if size > inline:
            place = int.from_bytes(content, "little" if order == "<" else "big")
            costs.copied += min(size, max(0, len(block) - place))
        elif tag in _SUB_DIRECTORIES:
            costs.below.append(value)
        elif tag in _TILE_SIDES:
            sides[tag] = value
        if tag in (_COMPRESSION, *_STRIPS, *_STRIP_SIZES):
            costs.strips.setdefault(tag, (kind, values, place))
    costs.tile = max(costs.tile, math.prod(sides.values()) if len(sides) == 2 else 0)


def _check_strips(data: bytes) -> None:
    """Bound the scans of JPEG inside TIFF: libtiff allows a hundred in each strip, and strips may
    share their bytes.
    """
    costs = _walk(data)
    if not set(_integers(data, costs, (_COMPRESSION,))) & set(_JPEG):
        return
    strips = Counter()
    sizes = _integers(data, costs, _STRIP_SIZES)
    for index, start in enumerate(_integers(data, costs, _STRIPS)):
        size = sizes[index] if index < len(sizes) else 0
        # Where the size is missing, libtiff guesses it; it cannot guess more than the rest of the
        # file.
        strips[start, start + size if size > 0 or not start else len(data)] += 1
    if sum(max(0, min(stop, len(data)) - start) for start, stop in strips) > 2 * len(data) + 65536:
        raise TooCostly("a TIFF file whose strips share their bytes")
    scans = 0
    for (start, stop), times in strips.items():
        found = data.count(_SCAN, start, stop)
        scans += found * times
        if found > MAX_STRIP_SCANS or scans > MAX_SCANNED // SCAN_COST:
            raise TooCostly("a TIFF file of progressive JPEG, or of far too many strips")


def _integers(data: bytes, costs: _Costs, tags: tuple[int, ...]) -> list[int]:
    """The values of the one of `tags` that the directory has.

    Raises:
        ValueError: It has several: readers do not agree which one counts.
    """
    found = [costs.strips[tag] for tag in tags if tag in costs.strips]
    if len(found) > 1:
        raise ValueError("strips and tiles")
    if not found or found[0][0] not in _INTEGERS:
        return []
    kind, values, place = found[0]
    count = min(values, max(0, len(data) - place) // _TYPE_SIZES[kind])
    if not count:
        return []
    return np.frombuffer(data, costs.order + _INTEGERS[kind], count, place).clip(0).tolist()


def _checked_jpeg(data: bytes) -> bytes:
    """Walk the segments (ITU-T T.81, B.1.1) as Pillow does, junk included, then count the scans."""
    exif: list[tuple[int, int]] = []
    width = height = 0
    position, segments, junk = 2, 0, 0
    while True:
        found = data.find(b"\xff", position)
        if found < 0 or found + 4 > len(data):
            break
        junk += found - position
        if junk > MAX_JUNK:
            raise ValueError("a megabyte that belongs to no segment")
        position = found
        marker = data[position + 1]
        if marker == 0xDA:
            break
        if marker == 0xFF:
            position += 1
        elif marker in (0, 1) or 0xD0 <= marker <= 0xD9:
            position += 2
        else:
            (length,) = struct.unpack_from(">H", data, position + 2)
            body = position + 4
            if marker == 0xE1 and data[body : body + 6] == _EXIF:
                exif.append((position, body - 2 + length))
            elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                height, width = struct.unpack_from(">HH", data, body + 1)
            position += 2 + max(length, 2)
        segments += 1
        if segments > MAX_SEGMENTS:
            raise TooCostly("a JPEG file of more segments than any program writes")
    _count_scans(data, position, width * height)
    # Pillow joins the blocks, as this does.
    block = b"".join(data[start + 10 : end] for start, end in exif)
    if reads_within_bounds(block):
        return data
    for start, end in reversed(exif):
        data = data[:start] + data[end:]
    return data


def _count_scans(data: bytes, position: int, pixels: int) -> None:
    scans = MAX_SCANNED // (pixels + SCAN_COST)
    while 0 <= position < len(data):
        found = _MARKER.search(data, position)
        if found is None or data[found.end() - 1] == 0xD9 or found.end() + 2 > len(data):
            return
        if data[found.end() - 1] == 0xDA:
            scans -= 1
            if scans < 0:
                raise TooCostly(
                    "a JPEG file with so many scans that it would take minutes to decode"
                )
        (length,) = struct.unpack_from(">H", data, found.end())
        position = found.end() + max(length, 2)


def _check_png(data: bytes) -> None:
    position = 8
    for _ in range(MAX_SEGMENTS):
        if position + 12 > len(data):
            return
        position += 12 + struct.unpack_from(">I", data, position)[0]
    raise TooCostly("a PNG file of more chunks than any program writes")


def _check_gif(data: bytes) -> None:
    """Blocks up to the first image (GIF89a, sections 20 to 26)."""
    position = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    blocks = comments = 0
    while position < len(data) and data[position] not in b",;":
        blocks += 1
        if data[position] == 0x21:
            comment = data[position + 1] == 0xFE
            position += 2
            while data[position]:
                position += 1 + data[position]
                blocks += 1
                comments += comment
        position += 1
        if blocks > MAX_SEGMENTS or comments > MAX_COMMENT_BLOCKS:
            raise TooCostly("a GIF file of more blocks than any program writes")


def _check_avif(data: bytes) -> None:
    if not features.check("avif"):
        return
    from PIL import _avif

    # Pillow reads the EXIF block while it opens the file; the decoder beneath it can be asked for
    # the block alone.
    exif = _avif.AvifDecoder(data, "auto", 1).get_info()[4] or b""
    if not reads_within_bounds(exif):
        raise TooCostly("an AVIF file whose EXIF block asks for far more than it holds")
