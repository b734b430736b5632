"""The settings that programs for generating images leave in their files: which program, which
settings.

Works on the text blocks that [`realfake.provenance.metadata`] found and on EXIF's user comment,
where the same text lies in JPEG and WebP files. Such text is written by anybody who likes: it tells
how a file presents itself, and proves nothing.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from PIL import ExifTags, Image

from realfake.imaging.decode import OutOfMemory
from realfake.imaging.limits import reads_within_bounds
from realfake.provenance import metadata
from realfake.provenance.content_credentials import (
    ABSENT,
    INVALID,
    TRUSTED,
    UNCHECKED,
    UNTRUSTED,
    Credentials,
    read_credentials,
    trust_anchors,
)
from realfake.provenance.metadata import Blocks, XmpFacts, read_blocks

_LONGEST = 2000
# The last line that Stable Diffusion web UI and its relatives write: "Steps: 20, Sampler: Euler a,
# CFG scale: 7, …". The space before it stays within its line: across lines, a text of nothing but
# line ends would take the square of its length.
_SETTINGS = re.compile(r"^[^\S\n]*(Steps: \d{1,5}, [^\n]{0,4000})", re.MULTILINE)


@dataclass(frozen=True)
class Generator:
    """A program that a file says it was generated with.

    Attributes:
        name: Of the program or its family.
        where: The block that says so, such as `"PNG text “parameters”"`.
        settings: What it says, at most 2,000 characters.
    """

    name: str
    where: str
    settings: str


def find_generator(
    text: Sequence[tuple[str, str]], comment: str | None = None, container: str = "PNG"
) -> Generator | None:
    """Recognise the settings of a generator.

    Args:
        text: `(keyword, text)` of the file's text blocks.
        comment: *optional*. EXIF's user comment or description.
        container: The file's format, for `where`.
    """
    blocks = dict(reversed(text))  # the first of a keyword counts
    for keyword, name in (
        ("invokeai_metadata", "InvokeAI"),
        ("invokeai_graph", "InvokeAI"),
        ("sd-metadata", "InvokeAI"),
        ("fooocus_scheme", "Fooocus"),
    ):
        if keyword in blocks:
            return _found(name, container, keyword, blocks.get("parameters", blocks[keyword]))
    for keyword in ("workflow", "prompt"):
        if _is_graph(blocks.get(keyword)):
            return _found("ComfyUI", container, keyword, blocks[keyword])
    if blocks.get("Software", "").strip() == "NovelAI":
        return _found(
            "NovelAI",
            container,
            "Software",
            blocks.get("Comment") or blocks.get("Description") or "NovelAI",
        )
    if "parameters" in blocks:
        return _found(_web_ui(blocks["parameters"]), container, "parameters", blocks["parameters"])
    if re.search(r"\bJob ID: [0-9a-f]{8}-[0-9a-f]{4}-", blocks.get("Description", "")):
        return _found("Midjourney", container, "Description", blocks["Description"])
    for keyword, words in (("UserComment", comment), ("comment", blocks.get("comment"))):
        if words and _SETTINGS.search(words):
            where = f"EXIF “{keyword}”" if keyword == "UserComment" else f"{container} comment"
            return Generator(_web_ui(words), where, _shown(words))
    return None


def _found(name: str, container: str, keyword: str, settings: str) -> Generator:
    return Generator(name, f"{container} text “{keyword}”", _shown(settings))


def _web_ui(text: str) -> str:
    return (
        "Stable Diffusion web UI or a relative"
        if _SETTINGS.search(text)
        else "a generator of images"
    )


def _is_graph(text: str | None) -> bool:
    """Whether it is a graph of ComfyUI: an object of nodes that each have a class, or a `nodes`
    list.
    """
    if not text or not text.lstrip().startswith("{"):
        return False
    try:
        graph = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if isinstance(graph.get("nodes"), list):
        return True
    return any(isinstance(node, dict) and "class_type" in node for node in graph.values())


def _shown(text: str) -> str:
    text = "".join(c if c.isprintable() or c in "\n\t" else " " for c in text).strip()
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


PRESENT = "present"
NOTE = (
    "Provenance is what the file says of itself. It does not enter the score, and that it is "
    "absent means nothing: "
    "messengers and most websites remove it."
)
_NOTHING = "Absence means nothing: most apps and websites remove it."


@dataclass(frozen=True)
class Finding:
    """What one kind of metadata says.

    Attributes:
        kind: `"c2pa"`, `"iptc"`, `"generator_parameters"` or `"camera"`.
        state: Of C2PA `"trusted"`, `"untrusted"`, `"invalid"`, `"absent"` or `"unchecked"`; of the
            others `"present"` or `"absent"`.
        title: In a few words.
        detail: In a sentence or two, with what it is worth.
        claim: What the file claims of how the image was made: `"ai"`, `"partly_ai"`, `"camera"`,
            `"other"`, or `None` where it claims nothing, or where the claim's signature does not
            hold.
        fields: What was read, by name.
    """

    kind: str
    state: str
    title: str
    detail: str
    claim: str | None = None
    fields: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Provenance:
    """All findings, one of each kind, also those that are absent."""

    findings: list[Finding]

    def finding(self, kind: str) -> Finding:
        """The finding of one kind."""
        return next(found for found in self.findings if found.kind == kind)

    def to_dict(self) -> dict:
        """Plain values that `json` can write."""
        return {"findings": [asdict(found) for found in self.findings], "note": NOTE}


def read_provenance(data: bytes, anchors: str | None = None) -> Provenance:
    """Read what an image file says of its origin. Never raises for what the bytes hold.

    Args:
        data: The original file, as it was uploaded or downloaded.
        anchors: PEM certificates of the C2PA signers that are trusted, *defaults to* the trust list
            that the environment names, see
            [`~realfake.provenance.content_credentials.trust_anchors`].

    Raises:
        ValueError: The trust list that the environment names is not one.
        OSError: It cannot be read.
        OutOfMemory: The machine has too little memory to read the metadata.
    """
    anchors = anchors or trust_anchors()
    try:
        blocks = read_blocks(data)
        facts = metadata.read_xmp(blocks.xmp)
        exif = _read_exif(blocks.exif)
        comment = exif.pop("user_comment", None)
        generator = find_generator(blocks.text, comment, blocks.format or "file")
    except MemoryError as error:
        raise OutOfMemory(
            "The image's metadata needs too much memory; save the image without it."
        ) from error
    credentials = read_credentials(data, blocks.mime, blocks.c2pa, anchors)
    return Provenance(
        [
            _c2pa(credentials, facts, bool(anchors)),
            _iptc(facts),
            _generator(generator),
            _camera(exif, blocks),
        ]
    )


def _c2pa(credentials: Credentials, facts: XmpFacts, has_list: bool) -> Finding:
    state = credentials.state
    if state == ABSENT:
        detail = f"The file carries no signed history. {_NOTHING}"
        if facts.remote_manifest:
            detail = (
                "The file carries no signed history itself. It names one elsewhere, which is not "
                "fetched: "
                f"{_short(facts.remote_manifest)}."
            )
        return Finding("c2pa", state, "No Content Credentials", detail)
    fields = {
        "signer": credentials.signer,
        "signed_at": credentials.signed_at,
        "generator": credentials.generator,
        "source_types": ", ".join(credentials.source_types) or None,
        "reason": credentials.reason,
    }
    fields = {name: value for name, value in fields.items() if value}
    if state == UNCHECKED:
        detail = (
            f"There are Content Credentials, but {credentials.reason}. Nothing follows from that."
        )
        return Finding("c2pa", state, "Content Credentials not checked", detail, fields=fields)
    if state == INVALID:
        detail = (
            f"The check failed: {credentials.reason or 'the signature does not hold'}. What they "
            "claim cannot be relied on; "
            "saving with an old program is enough to break them."
        )
        return Finding("c2pa", state, "Content Credentials that do not hold", detail, fields=fields)
    signer = credentials.signer or "an unnamed signer"
    claim, words = _claimed(credentials.source_types)
    says = f" It says: {words}." if words else " It does not say how the image was made."
    if state == TRUSTED:
        detail = f"Signed by {signer}, who is on the trust list, and unchanged since.{says}"
        return Finding("c2pa", TRUSTED, f"Content Credentials by {signer}", detail, claim, fields)
    why = (
        "is not on the trust list"
        if has_list
        else "cannot be recognised, as no trust list is set up here"
    )
    detail = (
        "The signature holds and the image is unchanged since, but the signer, who goes by "
        f"“{signer}”, {why}: anybody "
        f"can make such a signature.{says}"
    )
    return Finding(
        "c2pa", UNTRUSTED, "Content Credentials by an unknown signer", detail, claim, fields
    )


def _iptc(facts: XmpFacts) -> Finding:
    claim, words = _claimed(facts.source_types)
    if not facts.source_types and not facts.ai_system:
        damaged = (
            " (There is an XMP block, but it is damaged or too large.)" if facts.damaged else ""
        )
        return Finding(
            "iptc",
            ABSENT,
            "No digital source type",
            f"The file does not label its origin. {_NOTHING}{damaged}",
        )
    if facts.ai_system:
        claim = claim if claim in (metadata.AI, metadata.PARTLY_AI) else metadata.PARTLY_AI
        words = (
            f"{words}, with {facts.ai_system}"
            if words
            else f"an AI system was used: {facts.ai_system}"
        )
    fields = {"source_types": ", ".join(facts.source_types), "ai_system": facts.ai_system or ""}
    title = {
        metadata.AI: "Labelled as generated by AI",
        metadata.PARTLY_AI: "Labelled as made with AI",
        metadata.CAMERA: "Labelled as captured by a camera",
    }.get(claim, "Labelled with its digital source type")
    detail = f"The file's IPTC label says: {words}. It is unsigned; any program can write it."
    return Finding(
        "iptc",
        PRESENT,
        title,
        detail,
        claim,
        {name: value for name, value in fields.items() if value},
    )


def _generator(generator: Generator | None) -> Finding:
    if generator is None:
        detail = f"The file holds no prompt or settings of a generator. {_NOTHING}"
        return Finding("generator_parameters", ABSENT, "No generator settings", detail)
    detail = (
        f"{generator.where} holds the settings of {generator.name}. Text like this can be written "
        "into any file, but "
        "people seldom do."
    )
    fields = {"generator": generator.name, "where": generator.where, "settings": generator.settings}
    return Finding(
        "generator_parameters",
        PRESENT,
        f"Settings of {generator.name}",
        detail,
        metadata.AI,
        fields,
    )


def _camera(exif: dict[str, str], blocks: Blocks) -> Finding:
    if not exif.get("make") and not exif.get("model"):
        found = " (There is an EXIF block, but it names no camera.)" if blocks.exif else ""
        return Finding(
            "camera", ABSENT, "No camera data", f"The file names no camera. {_NOTHING}{found}"
        )
    make, model = exif.get("make", ""), exif.get("model", "")
    camera = model if model.lower().startswith(make.lower()) else f"{make} {model}"
    camera = camera.strip()
    detail = f"The EXIF block names a camera, {camera}. EXIF can be copied onto any image."
    return Finding("camera", PRESENT, f"Camera data: {camera}", detail, metadata.CAMERA, exif)


def _claimed(terms: tuple[str, ...]) -> tuple[str | None, str]:
    """The strongest claim among IPTC's terms, and all of them in words."""
    claims = [metadata.TERMS.get(term, (metadata.OTHER, term)) for term in terms]
    order = (metadata.AI, metadata.PARTLY_AI, metadata.CAMERA, metadata.OTHER)
    strongest = min((claim for claim, _ in claims), key=order.index, default=None)
    if strongest == metadata.AI and any(claim == metadata.CAMERA for claim, _ in claims):
        strongest = metadata.PARTLY_AI
    return strongest, "; ".join(dict.fromkeys(words for _, words in claims))


_BASE, _EXIF = ExifTags.Base, ExifTags.IFD.Exif
_MAIN_TAGS = {"make": _BASE.Make, "model": _BASE.Model, "software": _BASE.Software}
_SUB_TAGS = {
    "lens": _BASE.LensModel,
    "taken_at": _BASE.DateTimeOriginal,
    "exposure_seconds": _BASE.ExposureTime,
    "f_number": _BASE.FNumber,
    "iso": _BASE.ISOSpeedRatings,
    "focal_length_mm": _BASE.FocalLength,
}


def _read_exif(block: bytes | None) -> dict[str, str]:
    """The camera's tags and the user comment, as text; where the place was is not read."""
    if not block or not reads_within_bounds(block):
        return {}
    found: dict[str, str] = {}
    try:
        exif = Image.Exif()
        exif.load(block)
        main, sub = dict(exif), dict(exif.get_ifd(_EXIF))
    except MemoryError:
        raise
    except Exception:  # a damaged block can raise nearly anything in Pillow's reader
        return {}
    for names, tags in ((_MAIN_TAGS, main), (_SUB_TAGS, sub)):
        for name, tag in names.items():
            value = tags.get(tag)
            if isinstance(value, tuple) and value:
                value = value[0]
            text = _plain(value)
            if text:
                found[name] = text
    comment = sub.get(_BASE.UserComment) or main.get(_BASE.ImageDescription)
    if comment:
        found["user_comment"] = _comment(comment)
    return found


def _plain(value) -> str:
    if value is None or isinstance(value, (bytes, dict)):
        return ""
    try:
        text = str(value) if isinstance(value, (str, int)) else f"{float(value):.6g}"
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return ""
    return "" if text == "nan" else _short(text)


def _comment(value) -> str:
    """EXIF's user comment (EXIF 2.32, 4.6.5): eight bytes name the encoding of the rest."""
    if isinstance(value, str):
        return value
    code, body = bytes(value[:8]), bytes(value[8:])
    if code == b"UNICODE\0":
        # The byte order is the block's by the specification, and big-endian or little-endian by
        # what programs write.
        little = body[1:2] == b"\0" and body[:1] != b"\0"
        return body.decode("utf-16-le" if little else "utf-16-be", "replace").rstrip("\0")
    return (
        (body if code in (b"ASCII\0\0\0", bytes(8)) else bytes(value))
        .decode("utf-8", "replace")
        .rstrip("\0")
    )


def _short(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= 200 else line[:199] + "…"
