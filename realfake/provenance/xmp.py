"""What an XMP packet says of how an image was made: IPTC's `DigitalSourceType`, and the AI system it names.

Parsed as XML, without a document type and so without entities; [`realfake.provenance.reading`] words the result. The terms are
IPTC's controlled vocabulary, http://cv.iptc.org/newscodes/digitalsourcetype, which C2PA uses too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from xml.etree.ElementTree import Element, ParseError  # nosec B405  # defusedxml parses; these are its types

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

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
# Bytes of a file's packets together. One in a JPEG file has at most 64 KiB; an editor's history can fill more.
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
    "computationalCapture": (CAMERA, "captured by a digital camera that computes the image, as phones do"),
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

    What is read of them is bounded: `MAX_XMP` bytes, `MAX_ELEMENTS` elements of a packet, `MAX_TERMS` source types.
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
    """The last part of a term's URI, of IPTC's vocabulary or C2PA's additions to it; `None` for other URIs."""
    address = uri.strip().removeprefix("https://").removeprefix("http://")
    for vocabulary in _VOCABULARIES:
        if address.lower().startswith(vocabulary):
            term = address[len(vocabulary) :].strip("/")
            return term[:_LONGEST_TERM] or None
    # Some writers leave the vocabulary out.
    return address if address in TERMS else None


def _values(element: Element, name: str) -> Iterator[str]:
    """A property's values, which RDF writes as an attribute, an element's text, a resource or a list of either.

    Text further down is not this property's, and to gather it for every one of nested elements would take the square of
    their number.
    """
    found = [element.attrib[name]] if name in element.attrib else []
    if element.tag == name:
        items = (item for box in element if box.tag in _CONTAINERS for item in box if item.tag == _ITEM)
        found += [holder.attrib.get(_RESOURCE) or holder.text for holder in (element, *items)]
    return (value.strip()[:_LONGEST] for value in found if value and value.strip())
