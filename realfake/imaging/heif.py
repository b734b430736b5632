"""Recognise HEIF files, and refuse those that are expensive to decode (ISO 14496-12, 23008-12)."""

import math
import struct
from collections.abc import Iterator

# Pixels of all pictures that a picture is composed of, and bytes copied for metadata.
MAX_COMPOSED = 400_000_000
MAX_COPIED = 512 * 2**20
MAX_BOXES = 100_000
_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_EMPTY = memoryview(b"")


class TooCostly(Exception):
    """The file is too expensive to decode. The text completes "<file name> is"."""


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
    """Return the boxes by type.

    Raises:
        ValueError: There are two of a type, of which different readers use different ones.
    """
    boxes: dict[bytes, memoryview] = {}
    for kind, body in _boxes(data):
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
