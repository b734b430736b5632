"""Find the metadata blocks of an image file by its structure: XMP, EXIF, text and the C2PA store.

The bytes are never searched for keywords. Text after the end of the image, inside its pixels, or in
a chunk with a wrong checksum is not metadata. Every block is limited in size, and a damaged file
ends the search without an error. [`realfake.provenance.reading`] interprets the blocks.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from xml.etree.ElementTree import Element, ParseError  # nosec B405  # defusedxml parses

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from realfake.imaging.decode import read_header

MAX_BLOCK = 2 * 2**20
# Bound the work for a file of tiny segments, and for text that inflates a thousandfold.
MAX_SEGMENTS = 50_000
MAX_TEXTS = 32
MAX_TEXT = 2**20
# A C2PA store contains thumbnails of the image and of its ingredients.
MAX_C2PA = 32 * 2**20
# XMP packets, and their size together. A packet of a JPEG file has at most 64 KiB; the history of
# an editor can be longer.
MAX_PACKETS = 4
MAX_XMP = 2**20
MAX_ELEMENTS = 10_000
# Source types of a file; files have one or two.
MAX_TERMS = 32

_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_EXIF = b"Exif\0\0"
_XMP_KEYWORD = "XML:com.adobe.xmp"
_PNG_METADATA = (b"tEXt", b"zTXt", b"iTXt", b"eXIf")
_MIME = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
    "HEIF": "image/heic",
}


@dataclass
class Blocks:
    """The metadata blocks of a file.

    Attributes:
        exif: The EXIF block, beginning at its TIFF header.
        text: `(keyword, text)` of PNG text chunks, and `("comment", text)` of JPEG and GIF
            comments.
        c2pa: Size of the C2PA store in bytes; 0 without a store, `None` if unknown.
    """

    format: str | None = None
    mime: str | None = None
    xmp: list[bytes] = field(default_factory=list)
    exif: bytes | None = None
    text: list[tuple[str, str]] = field(default_factory=list)
    c2pa: int | None = 0

    def add_text(self, keyword: str, text: str) -> None:
        """Add a text, unless there are too many already."""
        total = sum(len(old) for _, old in self.text) + len(text)
        if len(self.text) < MAX_TEXTS and total <= MAX_TEXT:
            self.text.append((keyword, text))


def read_blocks(data: bytes) -> Blocks:
    """Find the metadata blocks in the bytes of a file. No content of the file raises an error."""
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
        _read_with_pillow(data, blocks)
    blocks.mime = _MIME.get(blocks.format or "")
    return blocks


def _walk_jpeg(data: bytes, blocks: Blocks) -> None:
    """Read the marker segments (ITU-T T.81, B.1.1) before the first scan."""
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
            blocks.c2pa += len(body)  # JPEG XT boxes (ISO 19566-5) of the C2PA store
        elif marker == 0xFE:
            blocks.add_text("comment", body.decode("utf-8", "replace").rstrip("\0"))
        position += 2 + length


def _walk_png(data: bytes, blocks: Blocks) -> None:
    """Read the chunks (PNG specification, 5.3) before IEND, except those with a wrong CRC."""
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
        elif kind in _PNG_METADATA and length <= MAX_BLOCK and texts < MAX_TEXTS:
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
        # The specification says Latin-1; generators write UTF-8.
        try:
            text = rest.decode("utf-8")
        except UnicodeDecodeError:
            text = rest.decode("latin-1")
    elif kind == b"zTXt":
        content = _inflate(rest[1:]) if rest[:1] == b"\0" else None
        if content is None:
            return
        text = content.decode("latin-1")
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
    blocks.add_text(name, text)


def _inflate(data: bytes) -> bytes | None:
    """Decompress at most `MAX_BLOCK` bytes; return `None` if the data is longer or damaged."""
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(data, MAX_BLOCK)
    except zlib.error:
        return None
    return content if inflater.eof else None


def _walk_webp(data: bytes, blocks: Blocks) -> None:
    """Read the RIFF chunks within the size in the header."""
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


def _read_with_pillow(data: bytes, blocks: Blocks) -> None:
    """Read GIF, TIFF, HEIF, AVIF and other formats with Pillow."""
    try:
        image = read_header(data, "the image")
        blocks.format = image.format
        # Pillow puts the metadata of all formats but TIFF into `info`.
        tags = getattr(image, "tag_v2", None)
        xmp = tags.get(700) if tags is not None else image.info.get("xmp")
        exif = image.getexif().tobytes() if tags is not None else image.info.get("exif")
        comment = image.info.get("comment")
    except MemoryError:
        raise
    except Exception:  # a hostile header can raise nearly any error
        return
    blocks.c2pa = None
    if isinstance(xmp, bytes) and len(xmp) <= MAX_BLOCK:
        blocks.xmp.append(xmp)
    if isinstance(exif, bytes) and len(exif) <= MAX_BLOCK:
        blocks.exif = exif.removeprefix(_EXIF) or None
    if isinstance(comment, (bytes, str)):
        text = comment.decode("utf-8", "replace") if isinstance(comment, bytes) else comment
        blocks.add_text("comment", text)


_IPTC_EXTENSION = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
_SOURCE_TYPES = (f"{_IPTC_EXTENSION}DigitalSourceType", f"{_IPTC_EXTENSION}DigitalSourcefileType")
_AI_SYSTEM = f"{_IPTC_EXTENSION}AISystemUsed"
_PROVENANCE = "{http://purl.org/dc/terms/}provenance"
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_RESOURCE, _ITEM = f"{_RDF}resource", f"{_RDF}li"
_CONTAINERS = (f"{_RDF}Bag", f"{_RDF}Seq", f"{_RDF}Alt")
_VOCABULARIES = ("cv.iptc.org/newscodes/digitalsourcetype/", "c2pa.org/digitalsourcetype/")
_LONGEST_VALUE = 300
# IPTC's longest term has 36 characters.
_LONGEST_TERM = 80

# `{term: (claim, text)}`. Other terms are shown unchanged.
AI, PARTLY_AI, CAMERA, OTHER = "ai", "partly_ai", "camera", "other"
TERMS = {
    "trainedAlgorithmicMedia": (AI, "made by generative AI"),
    "trainedAlgorithmicData": (AI, "made by generative AI"),
    "compositeWithTrainedAlgorithmicMedia": (PARTLY_AI, "edited or composed with generative AI"),
    "compositeSynthetic": (PARTLY_AI, "composed with synthetic elements"),
    "algorithmicMedia": (OTHER, "made by an algorithm without training data"),
    "algorithmicallyEnhanced": (OTHER, "enhanced by an algorithm"),
    "digitalCapture": (CAMERA, "captured by a digital camera"),
    "computationalCapture": (CAMERA, "captured with computational photography, as on phones"),
    "compositeCapture": (CAMERA, "composed of several captures"),
    "negativeFilm": (CAMERA, "scanned from a film negative"),
    "positiveFilm": (CAMERA, "scanned from a film positive"),
    "print": (OTHER, "scanned from a print"),
    "humanEdits": (OTHER, "edited by a person"),
    "minorHumanEdits": (OTHER, "slightly edited by a person"),
    "composite": (OTHER, "composed of several elements"),
    "digitalCreation": (OTHER, "drawn by a person with digital tools"),
    "digitalArt": (OTHER, "drawn by a person with digital tools"),
    "softwareImage": (OTHER, "made by a person with software"),
    "dataDrivenMedia": (OTHER, "rendered from data"),
    "screenCapture": (OTHER, "captured from a screen"),
    "virtualRecording": (OTHER, "recorded from a virtual event"),
}


@dataclass(frozen=True)
class XmpFacts:
    """The facts in XMP packets.

    Attributes:
        source_types: Terms of IPTC's vocabulary, in the order of the packets.
        remote_manifest: URL of a C2PA manifest. It is not downloaded.
        damaged: Whether a packet could not be parsed, or was too large.
    """

    source_types: tuple[str, ...] = ()
    ai_system: str | None = None
    remote_manifest: str | None = None
    damaged: bool = False


def read_xmp(packets: list[bytes]) -> XmpFacts:
    """Read the first `MAX_PACKETS` XMP packets. No content raises an error.

    At most `MAX_XMP` bytes, `MAX_ELEMENTS` elements of a packet and `MAX_TERMS` source types are
    read.
    """
    types: dict[str, None] = {}  # an ordered set
    system = remote = None
    damaged = False
    left = MAX_XMP
    for packet in packets[:MAX_PACKETS]:
        if len(packet) > left:
            damaged = True
            continue
        left -= len(packet)
        try:
            root = fromstring(packet.strip(b"\0 \t\r\n"), forbid_dtd=True)
        except (ParseError, DefusedXmlException, ValueError, LookupError):
            damaged = True
            continue
        for element in islice(root.iter(), MAX_ELEMENTS):
            terms = (term_of(value) for name in _SOURCE_TYPES for value in _values(element, name))
            types.update(dict.fromkeys(term for term in terms if term))
            system = system or next(_values(element, _AI_SYSTEM), None)
            remote = remote or next(_values(element, _PROVENANCE), None)
    return XmpFacts(tuple(types)[:MAX_TERMS], system, remote, damaged)


def term_of(uri: str) -> str | None:
    """Return the term of a URI of IPTC's or C2PA's vocabulary; `None` for other URIs."""
    address = uri.strip().removeprefix("https://").removeprefix("http://")
    for vocabulary in _VOCABULARIES:
        if address.lower().startswith(vocabulary):
            term = address[len(vocabulary) :].strip("/")
            return term[:_LONGEST_TERM] or None
    # Some programs write the term without the vocabulary.
    return address if address in TERMS else None


def _values(element: Element, name: str) -> Iterator[str]:
    """Yield the values of a property: an attribute, an element's text, a resource, or a list.

    Text of nested elements is not part of the value; collecting it would take quadratic time.
    """
    values = [element.attrib[name]] if name in element.attrib else []
    if element.tag == name:
        items = (
            item for box in element if box.tag in _CONTAINERS for item in box if item.tag == _ITEM
        )
        values += [holder.attrib.get(_RESOURCE) or holder.text for holder in (element, *items)]
    return (value.strip()[:_LONGEST_VALUE] for value in values if value and value.strip())


def one_line(text: object, longest: int = 200) -> str:
    """Return text of a file as one printable line of at most `longest` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text or "")).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
