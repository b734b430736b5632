"""The metadata blocks of an image file, found by walking its structure: XMP, EXIF, text, and whether there is a C2PA store.

[`realfake.provenance.reading`] reads what is in them. Nothing is searched for in the bytes: what lies behind the end of the
image, inside its pixels or in a chunk whose checksum is wrong is not metadata, whatever words it holds. Every block is
bounded in size, and a damaged file ends the walk instead of raising.
"""

import struct
import zlib
from dataclasses import dataclass, field

from ..imaging.images import read_header

MAX_BLOCK = 2 * 2**20
# A file of nothing but tiny segments, or of text that inflates a thousandfold, must cost little.
MAX_SEGMENTS = 50_000
MAX_TEXTS = 32
MAX_TEXT = 2**20
# A C2PA store holds thumbnails of the image and of its ingredients.
MAX_C2PA = 32 * 2**20

_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_EXIF = b"Exif\0\0"
_XMP_KEYWORD = "XML:com.adobe.xmp"
_MIME = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
}


@dataclass
class Blocks:
    """What was found.

    Attributes:
        format: Pillow's name of the format; `None` where the file is no image.
        mime: Its media type; `None` where C2PA knows none.
        xmp: The XMP packets.
        exif: The EXIF block, beginning at its TIFF header.
        text: `(keyword, text)` of PNG text chunks, and `("comment", text)` of JPEG and GIF comments.
        c2pa: Size of the C2PA store in bytes, 0 where there is none; `None` where only a C2PA reader can tell.
    """

    format: str | None = None
    mime: str | None = None
    xmp: list[bytes] = field(default_factory=list)
    exif: bytes | None = None
    text: list[tuple[str, str]] = field(default_factory=list)
    c2pa: int | None = 0

    def _add_text(self, keyword: str, text: str) -> None:
        if len(self.text) < MAX_TEXTS and sum(len(old) for _, old in self.text) + len(text) <= MAX_TEXT:
            self.text.append((keyword, text))


def read_blocks(data: bytes) -> Blocks:
    """Walk a file. Never raises for what the bytes hold.

    Args:
        data: The whole file.
    """
    blocks = Blocks()
    if data.startswith(b"\xff\xd8\xff"):
        blocks.format = "JPEG"
        _walk_jpeg(data, blocks)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        blocks.format = "PNG"
        _walk_png(data, blocks)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        blocks.format = "WEBP"
        _walk_webp(data, blocks)
    else:
        _ask_pillow(data, blocks)
    blocks.mime = _MIME.get(blocks.format or "")
    return blocks


def _walk_jpeg(data: bytes, blocks: Blocks) -> None:
    """Marker segments (ITU-T T.81, B.1.1) up to the first scan, before which all metadata lies."""
    position = 2
    for _ in range(MAX_SEGMENTS):
        if position + 4 > len(data) or data[position] != 0xFF:
            return
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker in (0xD9, 0xDA):
            return
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # markers without a segment
            position += 2
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        body = data[position + 4 : position + 2 + length]
        if length < 2 or len(body) != length - 2:
            return
        if marker == 0xE1 and body.startswith(_XMP):
            blocks.xmp.append(body[len(_XMP) :])
        elif marker == 0xE1 and body.startswith(_EXIF):
            blocks.exif = blocks.exif or body[len(_EXIF) :]
        elif marker == 0xEB and body[:2] == b"JP" and body[12:16] == b"jumb":
            blocks.c2pa += len(body)  # JPEG XT boxes (ISO 19566-5), in which C2PA keeps its store
        elif marker == 0xFE:
            blocks._add_text("comment", body.decode("utf-8", "replace").rstrip("\0"))
        position += 2 + length


def _walk_png(data: bytes, blocks: Blocks) -> None:
    """Chunks (PNG specification, 5.3) up to IEND; one whose CRC is wrong counts as damaged and is passed over."""
    position, texts = 8, 0
    for _ in range(MAX_SEGMENTS):
        if position + 12 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data) or kind == b"IEND":
            return
        if kind == b"caBX":
            blocks.c2pa += length
        elif kind in (b"tEXt", b"zTXt", b"iTXt", b"eXIf") and length <= MAX_BLOCK and texts < MAX_TEXTS:
            texts += 1
            body = data[position + 8 : end]
            if zlib.crc32(kind + body) == struct.unpack_from(">I", data, end)[0]:
                _png_chunk(kind, body, blocks)
        position = end + 4


def _png_chunk(kind: bytes, body: bytes, blocks: Blocks) -> None:
    if kind == b"eXIf":
        blocks.exif = blocks.exif or body
        return
    keyword, separator, rest = body.partition(b"\0")
    if not separator or not 1 <= len(keyword) <= 79:
        return
    name = keyword.decode("latin-1")
    if kind == b"tEXt":
        # Latin-1 by the specification, UTF-8 by what generators write.
        text = _utf8(rest) or rest.decode("latin-1")
    elif kind == b"zTXt":
        inflated = _inflate(rest[1:]) if rest[:1] == b"\0" else None
        if inflated is None:
            return
        text = inflated.decode("latin-1")
    else:
        if len(rest) < 2:
            return
        compressed, method = rest[0], rest[1]
        _, _, rest = rest[2:].partition(b"\0")  # the language
        _, separator, content = rest.partition(b"\0")  # the translated keyword
        if not separator or compressed not in (0, 1) or method != 0:
            return
        content = _inflate(content) if compressed else content
        if content is None:
            return
        if name == _XMP_KEYWORD:
            blocks.xmp.append(content)
            return
        text = content.decode("utf-8", "replace")
    blocks._add_text(name, text)


def _inflate(data: bytes) -> bytes | None:
    """Decompress at most `MAX_BLOCK` bytes; `None` for what is longer or damaged."""
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(data, MAX_BLOCK)
    except zlib.error:
        return None
    return content if inflater.eof else None


def _utf8(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _walk_webp(data: bytes, blocks: Blocks) -> None:
    """RIFF chunks inside the size that the header gives."""
    stop = min(len(data), 8 + struct.unpack_from("<I", data, 4)[0])
    position = 12
    for _ in range(MAX_SEGMENTS):
        if position + 8 > stop:
            return
        kind, length = struct.unpack_from("<4sI", data, position)
        body_at = position + 8
        if body_at + length > stop:
            return
        if kind == b"C2PA":
            blocks.c2pa += length
        elif length <= MAX_BLOCK and kind == b"XMP ":
            blocks.xmp.append(data[body_at : body_at + length])
        elif length <= MAX_BLOCK and kind == b"EXIF":
            blocks.exif = blocks.exif or data[body_at : body_at + length].removeprefix(_EXIF)
        position = body_at + length + length % 2


def _ask_pillow(data: bytes, blocks: Blocks) -> None:
    """GIF, TIFF, AVIF and others: Pillow's readers know where their metadata lies."""
    try:
        image = read_header(data, "the image")
        blocks.format = image.format
        # Only TIFF's own tags are in the file's header; everything else Pillow puts into `info`.
        tags = getattr(image, "tag_v2", None)
        xmp = tags.get(700) if tags is not None else image.info.get("xmp")
        exif = image.getexif().tobytes() if tags is not None else image.info.get("exif")
        comment = image.info.get("comment")
    except MemoryError:
        raise
    except Exception:  # a hostile header can raise nearly anything in a format's reader
        return
    blocks.c2pa = None
    if isinstance(xmp, bytes) and len(xmp) <= MAX_BLOCK:
        blocks.xmp.append(xmp)
    if isinstance(exif, bytes) and len(exif) <= MAX_BLOCK:
        blocks.exif = exif.removeprefix(_EXIF) or None
    if isinstance(comment, (bytes, str)):
        text = comment.decode("utf-8", "replace") if isinstance(comment, bytes) else comment
        blocks._add_text("comment", text)
