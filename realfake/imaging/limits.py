"""Refuse image files that are expensive to decode, by their structure, before Pillow opens them.

Pillow limits the number of pixels, but not the data around them. Examples are a small TIFF
directory that refers to the same megabytes a thousand times, a JPEG of two million scans, and a
comment of a million blocks. [`realfake.imaging.decode`] calls [`checked`] for every file, and
[`check_decoder`] for every opened image.
"""

import math
import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import features

# Pixels times scans of a progressive JPEG. Encoders write about ten scans. This allows twenty at
# 100 million pixels, which take about three seconds of one core.
MAX_SCANNED = 2_000_000_000
# Minimum cost of a scan, in pixels.
SCAN_COST = 10_000
# JPEG segments, PNG chunks, and GIF blocks before the first frame. Each costs Pillow a microsecond
# or two of Python code.
MAX_SEGMENTS = 100_000
# Pillow joins the comment of a GIF file block by block, in quadratic time.
MAX_COMMENT_BLOCKS = 4096
# Bytes outside of all segments, which Pillow skips one by one.
MAX_JUNK = 2**20
# Cameras write dozens of tags. Scanners write two numbers for each strip of the image.
MAX_TAGS = 4096
MAX_NUMBERS = 500_000
# A tile is decoded completely, even if the image is smaller.
MAX_TILE = 16_777_216
# JPEG scans in a strip or tile of a TIFF file, one per component. Only progressive JPEG has more,
# and libtiff does not write it.
MAX_STRIP_SCANS = 4
# Pillow reads the header of a PPM file byte by byte.
MAX_PPM_HEADER = 4096

# Slow decoders of Pillow: the pixels and bytes that take about two seconds.
SLOW = {
    "ppm": (1_000_000, 16 * 2**20, "a PPM file of more than 8 bits"),
    "ppm_plain": (0, 0, "a PPM file in text form"),
    "bmp_rle": (4_000_000, 8 * 2**20, "a run-length encoded BMP file"),
    "jpeg2k": (16_000_000, 8 * 2**20, "a JPEG 2000 file"),
    "heif": (64_000_000, 32 * 2**20, "a HEIC file"),
}

# Of HEIF: pixels of all pictures that a picture is composed of, and bytes copied for metadata.
MAX_COMPOSED = 400_000_000
MAX_COPIED = 512 * 2**20
MAX_BOXES = 100_000

_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_EMPTY = memoryview(b"")
_EXIF = b"Exif\0\0"
# Markers with a length: not a stuffed zero, TEM, restart or fill byte.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_SCAN = b"\xff\xda"
_PPM_HEADER = re.compile(
    rb"P[1-6fF](?:\s|#[^\r\n]*[\r\n])+\d+(?:\s|#[^\r\n]*[\r\n])+\d+(?:\s|#[^\r\n]*[\r\n])",
    re.DOTALL,
)
# Bytes of a TIFF value by type (TIFF 6.0, section 2, and BigTIFF). Pillow ignores other types.
_TYPE_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)
_BYTES = (1, 2, 7)  # types that Pillow does not convert to numbers
_INTEGERS = {1: "u1", 3: "u2", 4: "u4", 6: "i1", 8: "i2", 9: "i4", 16: "u8", 17: "i8"}
_TILE_SIDES = (322, 323)
_COMPRESSION, _JPEG = 259, (6, 7)
_STRIPS, _STRIP_SIZES = (273, 324), (279, 325)  # of strips, of tiles
_SUB_DIRECTORIES = (34665, 34853, 40965)  # EXIF, GPS, interoperability


class TooCostly(Exception):
    """The file is too expensive to decode. The text completes "<file name> is"."""


def checked(data: bytes, format: str) -> bytes:
    """Check the structure of a file.

    Args:
        format: Pillow's name of the format, according to the first bytes.

    Returns:
        `data`; for a JPEG file without its EXIF block, if that is too expensive to read.

    Raises:
        TooCostly: The file is too expensive to decode.
        ValueError, struct.error, IndexError: The file is damaged.
    """
    if format == "JPEG":
        return _checked_jpeg(data)
    if format == "PNG":
        _check_png(data)
    elif format == "GIF":
        # The blocks before the first image (GIF89a, sections 20 to 26).
        _, blocks, comments = _walk_gif(data, images=1)
        if blocks > MAX_SEGMENTS or comments > MAX_COMMENT_BLOCKS:
            raise TooCostly("a GIF file with too many blocks")
    elif format == "TIFF":
        if not reads_within_bounds(data, to_decode=True):
            raise TooCostly("a TIFF file whose directory refers to more data than the file has")
        _check_strips(data)
    elif format == "AVIF":
        _check_avif(data)
    elif format == "HEIF":
        check_heif(data)
    elif format == "PPM" and not _PPM_HEADER.match(data[:MAX_PPM_HEADER]):
        raise ValueError("The PPM header has no width and height.")
    return data


def check_decoder(codec: str, width: int, height: int, size: int) -> None:
    """Refuse (`TooCostly`) an image that is too large for a slow decoder of Pillow.

    Args:
        width, height: Size of the image in pixels.
        size: Size of the file in bytes.
    """
    if codec not in SLOW:
        return
    pixels, max_size, name = SLOW[codec]
    if width * height > pixels or size > max_size:
        limit = f"supported up to {pixels / 1e6:g} million pixels and {max_size // 2**20} MiB"
        raise TooCostly(f"{name}, {limit if pixels else 'which is not supported'}")


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height in the header of a WebP file (RFC 9649); `None` for other files.

    Pillow allocates memory for two images of this size when it opens the file.
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
    """Return whether reading the TIFF directories costs no more than the size of the block.

    Every entry has an offset and a number of values, which readers copy. Entries can share an
    offset, so a small block can claim terabytes. The first directory and the sub-directories that
    Pillow reads are checked.

    Args:
        block: An EXIF block or a TIFF file, from the TIFF header on. Other damage is accepted.
        to_decode: Whether to check the size of the tiles too.
    """
    # Pillow removes every repetition of the prefix, with a copy of the block each time.
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
    """The cost of reading TIFF directories.

    Attributes:
        order: Byte order for `struct`.
        copied, numbers: Bytes copied, and values converted to numbers.
        tile: Pixels of the largest tile.
        below: Offsets of the sub-directories.
        strips: `{tag: (type, number of values, offset)}` of the tags that locate the pixels. The
            first entry of a tag counts, as in libtiff.
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
        # The EXIF directory is below the first one, and interoperability below EXIF.
        for _ in range(3):
            costs.below = []
            for offset in offsets[:4]:
                _add_directory(costs, block, offset, big)
            offsets = costs.below
    except (struct.error, OverflowError):
        pass  # Pillow stops here too
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
    """Limit the JPEG scans in a TIFF file: libtiff allows a hundred in each strip or tile."""
    costs = _walk(data)
    if not set(_integers(data, costs, (_COMPRESSION,))) & set(_JPEG):
        return
    strips: Counter = Counter()
    sizes = _integers(data, costs, _STRIP_SIZES)
    for index, start in enumerate(_integers(data, costs, _STRIPS)):
        size = sizes[index] if index < len(sizes) else 0
        # libtiff guesses a missing size, at most the rest of the file.
        strips[start, start + size if size > 0 or not start else len(data)] += 1
    if sum(max(0, min(stop, len(data)) - start) for start, stop in strips) > 2 * len(data) + 65536:
        raise TooCostly("a TIFF file whose strips share their bytes")
    scans = 0
    for (start, stop), times in strips.items():
        count = data.count(_SCAN, start, stop)
        scans += count * times
        if count > MAX_STRIP_SCANS or scans > MAX_SCANNED // SCAN_COST:
            raise TooCostly("a TIFF file of progressive JPEG data or of too many strips")


def _integers(data: bytes, costs: _Costs, tags: tuple[int, ...]) -> list[int]:
    """Return the values of the one of `tags` that is in the directory."""
    entries = [costs.strips[tag] for tag in tags if tag in costs.strips]
    if len(entries) > 1:  # different readers use different ones
        raise ValueError("The TIFF file has both strips and tiles.")
    if not entries or entries[0][0] not in _INTEGERS:
        return []
    kind, values, place = entries[0]
    count = min(values, max(0, len(data) - place) // _TYPE_SIZES[kind])
    if not count:
        return []
    return np.frombuffer(data, costs.order + _INTEGERS[kind], count, place).clip(0).tolist()


def _checked_jpeg(data: bytes) -> bytes:
    """Walk the segments (ITU-T T.81, B.1.1) as Pillow does, then count the scans."""
    exif: list[tuple[int, int]] = []
    width = height = 0
    position, segments, junk = 2, 0, 0
    while True:
        start = data.find(b"\xff", position)
        if start < 0 or start + 4 > len(data):
            break
        junk += start - position
        if junk > MAX_JUNK:
            raise ValueError("The JPEG file has over 1 MiB outside of its segments.")
        position = start
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
            raise TooCostly("a JPEG file with too many segments")
    _count_scans(data, position, width * height)
    # Joined as in Pillow.
    block = b"".join(data[start + 10 : end] for start, end in exif)
    if reads_within_bounds(block):
        return data
    for start, end in reversed(exif):
        data = data[:start] + data[end:]
    return data


def _count_scans(data: bytes, position: int, pixels: int) -> None:
    scans = MAX_SCANNED // (pixels + SCAN_COST)
    while 0 <= position < len(data):
        match = _MARKER.search(data, position)
        if match is None or data[match.end() - 1] == 0xD9 or match.end() + 2 > len(data):
            return
        if data[match.end() - 1] == 0xDA:
            scans -= 1
            if scans < 0:
                raise TooCostly("a JPEG file with too many scans")
        (length,) = struct.unpack_from(">H", data, match.end())
        position = match.end() + max(length, 2)


def _check_png(data: bytes) -> None:
    position = 8
    for _ in range(MAX_SEGMENTS):
        if position + 12 > len(data):
            return
        position += 12 + struct.unpack_from(">I", data, position)[0]
    raise TooCostly("a PNG file with too many chunks")


def count_gif_frames(data: bytes) -> int:
    """Count the frames of a GIF file, at most up to the first that is too costly to reach."""
    return max(1, _walk_gif(data, images=MAX_SEGMENTS)[0])


def _walk_gif(data: bytes, images: int) -> tuple[int, int, int]:
    """Walk to a number of images; return the numbers of images, blocks and comment blocks."""
    position = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    frames = blocks = comments = 0
    while position < len(data) and data[position] != 0x3B:
        kind, blocks = data[position], blocks + 1
        if kind == 0x2C:
            frames += 1
            if frames == images or position + 10 >= len(data):
                break
            packed = data[position + 9]
            position += 11 + (3 << (packed & 7) + 1 if packed & 0x80 else 0)
        else:
            position += 2 if kind == 0x21 else 0
        while kind in b",!" and position < len(data) and data[position]:
            comments += kind == 0x21 and data[position - 1] == 0xFE
            position += 1 + data[position]
            blocks += 1
        position += 1
        # The data of a picture of 64 MiB has 250,000 blocks.
        if blocks > (MAX_SEGMENTS if images == 1 else 5 * MAX_SEGMENTS) or comments > (
            MAX_COMMENT_BLOCKS
        ):
            break
    return frames, blocks, comments


def count_tiff_pages(data: bytes, most: int = 1000) -> int:
    """Count the directories of a TIFF file (TIFF 6.0, section 2), up to `most`."""
    order, big = "<" if data[:2] == b"II" else ">", data[2:4] in (b"+\0", b"\0+")
    count, offset, entry, place = ("Q", "Q", 20, 8) if big else ("H", "L", 12, 4)
    pages = 0
    try:
        while pages < most and (start := struct.unpack_from(order + offset, data, place)[0]):
            (tags,) = struct.unpack_from(order + count, data, start)
            place = start + struct.calcsize(order + count) + tags * entry
            pages += 1
    except (struct.error, OverflowError):
        pass
    return max(1, pages)


def _check_avif(data: bytes) -> None:
    if not features.check("avif"):
        return
    from PIL import _avif

    # Pillow parses the EXIF block on opening; its decoder returns the block without parsing it.
    exif = _avif.AvifDecoder(data, "auto", 1).get_info()[4] or b""
    if not reads_within_bounds(exif):
        raise TooCostly("an AVIF file whose EXIF block refers to more data than it has")


# HEIF (ISO 14496-12, 23008-12)


def is_heif(head: bytes) -> bool:
    """Return whether a file begins like HEIF with HEVC pictures, and not like AVIF."""
    if head[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(head[:4], "big"), 64)
    brands = {head[8:12], *(head[place : place + 4] for place in range(16, end, 4))}
    if brands & {b"avif", b"avis"}:
        return False
    return bool(brands & _BRANDS) or head[8:12] in (b"mif1", b"msf1")


def check_heif(data: bytes) -> None:
    """Bound the pictures that a picture is composed of, and the copies of its metadata.

    libheif bounds the number of items, and the pixels of each by its box `ispe`. A grid or an
    overlay may refer to the same large picture a thousand times (6.6.2).
    """
    meta = _named(memoryview(data)).get(b"meta", _EMPTY)
    parts = _named(meta[4:])
    properties = _named(parts.get(b"iprp", _EMPTY))
    areas = [
        math.prod(struct.unpack_from(">LL", body, 4)) if kind == b"ispe" else 0
        for kind, body in _boxes(properties.get(b"ipco", _EMPTY))
    ]
    items = _associations(properties.get(b"ipma", _EMPTY))
    own = {
        item: max((areas[i - 1] for i in ids if 0 < i <= len(areas)), default=0)
        for item, ids in items.items()
    }
    composed, described = _references(parts.get(b"iref", _EMPTY))
    total: dict[int, int] = {}

    def pixels(item: int, depth: int = 0) -> int:
        if item not in total and depth < 8:
            total[item] = MAX_COMPOSED  # of a circle
            below = sum(pixels(each, depth + 1) for each in composed.get(item, ()))
            total[item] = own.get(item, 0) + below
        return total.get(item, MAX_COMPOSED)

    if max(map(pixels, composed), default=0) > MAX_COMPOSED:
        raise TooCostly("a HEIC file that is composed of too many pictures")
    if described * len(data) > MAX_COPIED or len(meta) * len(items) > MAX_COPIED:
        raise TooCostly("a HEIC file with too much metadata")


def _boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield type and content of the boxes in a file or in a box (4.2)."""
    position = 0
    for _ in range(MAX_BOXES):
        if position + 8 > len(data):
            return
        size, kind = struct.unpack_from(">L4s", data, position)
        head = 8
        if size == 1:
            (size,), head = struct.unpack_from(">Q", data, position + 8), 16
        size = size or len(data) - position
        if size < head:
            return
        yield kind, data[position + head : position + size]
        position += size
    raise TooCostly("a HEIC file with too many boxes")


def _named(data: memoryview) -> dict[bytes, memoryview]:
    """Return the boxes by type."""
    boxes: dict[bytes, memoryview] = {}
    for kind, body in _boxes(data):
        # Of two boxes of a type, different readers use different ones.
        if kind in boxes and kind in (b"meta", b"iprp", b"ipco", b"ipma", b"iref"):
            raise ValueError(f"The HEIF file has two boxes {kind!r}.")
        boxes[kind] = body
    return boxes


def _associations(body: memoryview) -> dict[int, list[int]]:
    """Return the numbers of the properties of each item, from a box `ipma`."""
    wide, long = bool(body) and body[0] >= 1, len(body) > 3 and bool(body[3] & 1)
    found: dict[int, list[int]] = {}
    position = 8
    while position + 3 <= len(body):
        (item,) = struct.unpack_from(">L" if wide else ">H", body, position)
        position += 4 if wide else 2
        number, size = body[position], 2 if long else 1
        ids = body[position + 1 : position + 1 + number * size]
        values = struct.unpack(f">{len(ids) // size}{'H' if long else 'B'}", ids)
        found[item] = [value & (0x7FFF if long else 0x7F) for value in values]
        position += 1 + number * size
    return found


def _references(body: memoryview) -> tuple[dict[int, list[int]], int]:
    """Return the pictures below each composed one, and the number of described pictures."""
    letter = "L" if body and body[0] >= 1 else "H"
    composed: dict[int, list[int]] = {}
    described = 0
    for kind, content in _boxes(body[4:]):
        item, number = struct.unpack_from(f">{letter}H", content)
        if kind == b"cdsc":
            described += number
        elif kind == b"dimg":
            offset = struct.calcsize(f">{letter}H")
            below = struct.unpack_from(f">{number}{letter}", content, offset)
            composed.setdefault(item, []).extend(below)
    return composed, described
