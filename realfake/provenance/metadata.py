"""The metadata blocks of an image file, found by walking its structure: XMP, EXIF, text, and
whether there is a C2PA store.

[`realfake.provenance.reading`] reads what is in them. Nothing is searched for in the bytes: what
lies behind the end of the image, inside its pixels or in a chunk whose checksum is wrong is not
metadata, whatever words it holds. Every block is bounded in size, and a damaged file ends the walk
instead of raising.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from xml.etree.ElementTree import Element, ParseError  # nosec B405  # defusedxml parses; these are its types

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from realfake.imaging.decode import read_header

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
        text: `(keyword, text)` of PNG text chunks, and `("comment", text)` of JPEG and GIF
            comments.
        c2pa: Size of the C2PA store in bytes, 0 where there is none; `None` where only a C2PA
            reader can tell.
    """

    format: str | None = None
    mime: str | None = None
    xmp: list[bytes] = field(default_factory=list)
    exif: bytes | None = None
    text: list[tuple[str, str]] = field(default_factory=list)
    c2pa: int | None = 0

    def _add_text(self, keyword: str, text: str) -> None:
        if (
            len(self.text) < MAX_TEXTS
            and sum(len(old) for _, old in self.text) + len(text) <= MAX_TEXT
        ):
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
    """Chunks (PNG specification, 5.3) up to IEND; one whose CRC is wrong counts as damaged and is
    passed over.
    """
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
        elif (
            kind in (b"tEXt", b"zTXt", b"iTXt", b"eXIf")
            and length <= MAX_BLOCK
            and texts < MAX_TEXTS
        ):
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


_IPTC_EXTENSION = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
_SOURCE_TYPES = (f"{_IPTC_EXTENSION}DigitalSourceType", f"{_IPTC_EXTENSION}DigitalSourcefileType")
_AI_SYSTEM = f"{_IPTC_EXTENSION}AISystemUsed"
_PROVENANCE = "{http://purl.org/dc/terms/}provenance"
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_RESOURCE, _ITEM = f"{_RDF}resource", f"{_RDF}li"
_CONTAINERS = (f"{_RDF}Bag", f"{_RDF}Seq", f"{_RDF}Alt")
_VOCABULARIES = ("cv.iptc.org/newscodes/digitalsourcetype/", "c2pa.org/digitalsourcetype/")
_LONGEST = 300
# IPTC's longest term has 36 characters.
_LONGEST_TERM = 80
# Bytes of a file's packets together. One in a JPEG file has at most 64 KiB; an editor's history can
# fill more.
MAX_XMP = 2**20
MAX_ELEMENTS = 10_000
# Source types, which are all shown; files have one or two.
MAX_TERMS = 32

# Term -> what it claims and how it reads. Terms that are not here are shown as they are.
AI, PARTLY_AI, CAMERA, OTHER = "ai", "partly_ai", "camera", "other"
TERMS = {
    "trainedAlgorithmicMedia": (AI, "made by generative AI"),
    "trainedAlgorithmicData": (AI, "made by generative AI"),
    "compositeWithTrainedAlgorithmicMedia": (PARTLY_AI, "edited or composed with generative AI"),
    "compositeSynthetic": (PARTLY_AI, "composed with synthetic elements"),
    "algorithmicMedia": (OTHER, "made by an algorithm that was not trained on images"),
    "algorithmicallyEnhanced": (OTHER, "enhanced by an algorithm"),
    "digitalCapture": (CAMERA, "captured by a digital camera"),
    "computationalCapture": (
        CAMERA,
        "captured by a digital camera that computes the image, as phones do",
    ),
    "compositeCapture": (CAMERA, "composed of captures"),
    "negativeFilm": (CAMERA, "scanned from a film negative"),
    "positiveFilm": (CAMERA, "scanned from a film positive"),
    "print": (OTHER, "scanned from a print"),
    "humanEdits": (OTHER, "edited by a person"),
    "minorHumanEdits": (OTHER, "edited a little by a person"),
    "composite": (OTHER, "composed of several elements"),
    "digitalCreation": (OTHER, "drawn by a person with digital tools"),
    "digitalArt": (OTHER, "drawn by a person with digital tools"),
    "softwareImage": (OTHER, "made by a person with software"),
    "dataDrivenMedia": (OTHER, "drawn from data"),
    "screenCapture": (OTHER, "a capture of a screen"),
    "virtualRecording": (OTHER, "a recording of a virtual event"),
}


@dataclass(frozen=True)
class XmpFacts:
    """What the packets say.

    Attributes:
        source_types: Terms of IPTC's vocabulary, in the order found.
        ai_system: The AI system that a packet names.
        remote_manifest: Where the packet says that a C2PA manifest lies. It is not fetched.
        damaged: Whether a packet could not be parsed, or was too large.
    """

    source_types: tuple[str, ...] = ()
    ai_system: str | None = None
    remote_manifest: str | None = None
    damaged: bool = False


def read_xmp(packets: list[bytes], most: int = 4) -> XmpFacts:
    """Read XMP packets; of more than `most` the first ones. Never raises for what they hold.

    What is read of them is bounded: `MAX_XMP` bytes, `MAX_ELEMENTS` elements of a packet,
    `MAX_TERMS` source types.
    """
    types: dict[str, None] = {}  # in order, each once
    system = remote = None
    damaged = False
    left = MAX_XMP
    for packet in packets[:most]:
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
    """The last part of a term's URI, of IPTC's vocabulary or C2PA's additions to it; `None` for
    other URIs.
    """
    address = uri.strip().removeprefix("https://").removeprefix("http://")
    for vocabulary in _VOCABULARIES:
        if address.lower().startswith(vocabulary):
            term = address[len(vocabulary) :].strip("/")
            return term[:_LONGEST_TERM] or None
    # Some writers leave the vocabulary out.
    return address if address in TERMS else None


def _values(element: Element, name: str) -> Iterator[str]:
    """A property's values, which RDF writes as an attribute, an element's text, a resource or a
    list of either.

    Text further down is not this property's, and to gather it for every one of nested elements
    would take the square of their number.
    """
    found = [element.attrib[name]] if name in element.attrib else []
    if element.tag == name:
        items = (
            item for box in element if box.tag in _CONTAINERS for item in box if item.tag == _ITEM
        )
        found += [holder.attrib.get(_RESOURCE) or holder.text for holder in (element, *items)]
    return (value.strip()[:_LONGEST] for value in found if value and value.strip())
