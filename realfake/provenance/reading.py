"""Read the provenance of an image file: Content Credentials, IPTC labels, generator settings, EXIF.

[`read_provenance`] returns one [`Finding`] of each kind, in plain English. Except for signed
Content Credentials, anyone can write these records into a file, so they prove nothing.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from PIL import ExifTags, Image

from realfake.imaging.decode import OutOfMemory
from realfake.imaging.limits import reads_within_bounds
from realfake.provenance import metadata
from realfake.provenance.content_credentials import (
    ABSENT,
    INVALID,
    TRUSTED,
    UNCHECKED,
    UNSUPPORTED,
    UNTRUSTED,
    Credentials,
    TrustList,
    read_credentials,
    trust_list,
)
from realfake.provenance.metadata import Blocks, XmpFacts, one_line, read_blocks

PRESENT = "present"
NOTE = (
    "This does not affect the verdict. Missing data means nothing: messenger apps and most "
    "websites remove all of it."
)
_NOTHING = "Missing data means nothing: most apps and websites remove it."
_LONGEST_SETTINGS = 2000
# The last line that Stable Diffusion web UI writes: "Steps: 20, Sampler: Euler a, CFG scale: 7, …".
# `[^\S\n]` does not match line ends: otherwise a text of line ends would take quadratic time.
_SETTINGS = re.compile(r"^[^\S\n]*(Steps: \d{1,5}, [^\n]{0,4000})", re.MULTILINE)
_MIDJOURNEY = re.compile(r"\bJob ID: [0-9a-f]{8}-[0-9a-f]{4}-")
_KEYWORDS = {
    "invokeai_metadata": "InvokeAI",
    "invokeai_graph": "InvokeAI",
    "sd-metadata": "InvokeAI",
    "fooocus_scheme": "Fooocus",
}

_BASE = ExifTags.Base
_MAIN_TAGS = {"make": _BASE.Make, "model": _BASE.Model, "software": _BASE.Software}
_SUB_TAGS = {
    "lens": _BASE.LensModel,
    "taken_at": _BASE.DateTimeOriginal,
    "exposure_seconds": _BASE.ExposureTime,
    "f_number": _BASE.FNumber,
    "iso": _BASE.ISOSpeedRatings,
    "focal_length_mm": _BASE.FocalLength,
}


@dataclass(frozen=True)
class Finding:
    """The content of one kind of metadata.

    Attributes:
        kind: `"c2pa"`, `"iptc"`, `"generator_parameters"` or `"camera"`.
        state: For C2PA `"trusted"`, `"untrusted"`, `"invalid"`, `"absent"`, `"unsupported"` or
            `"unchecked"`; for the others `"present"` or `"absent"`.
        detail: One to three sentences, with the limits of this kind of metadata.
        claim: The claimed origin of the image: `"ai"`, `"partly_ai"`, `"camera"` or `"other"`;
            `None` without a claim, or if its signature is invalid.
    """

    kind: str
    state: str
    title: str
    detail: str
    claim: str | None = None
    fields: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Provenance:
    """One finding of each kind, including absent ones."""

    findings: list[Finding]

    def to_dict(self) -> dict:
        """Return plain values for `json`."""
        return {"findings": [asdict(finding) for finding in self.findings], "note": NOTE}


def read_provenance(data: bytes, trusted: TrustList | None = None) -> Provenance:
    """Read the provenance of an image file. No content of the file raises an error.

    Args:
        trusted: *optional*. Trusted C2PA signers, *defaults to* [`trust_list`].

    Raises:
        ValueError: The trust list of the environment contains no certificate.
        OSError: The trust list cannot be read.
        OutOfMemory: The machine has too little memory to read the metadata.
    """
    trusted = trusted or trust_list()
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
    credentials = Credentials(ABSENT)
    if blocks.format is not None:
        credentials = read_credentials(data, blocks.mime, blocks.c2pa, trusted.anchors)
    return Provenance(
        [
            _c2pa(credentials, facts, blocks.format, trusted),
            _iptc(facts),
            _generator(generator),
            _camera(exif, blocks),
        ]
    )


def _c2pa(
    credentials: Credentials, facts: XmpFacts, format: str | None, trusted: TrustList
) -> Finding:
    state = credentials.state
    if state == UNSUPPORTED:
        title = f"{format} files cannot hold Content Credentials"
        return Finding("c2pa", state, title, f"The original file may have some. {_NOTHING}")
    if state == ABSENT:
        detail = f"The file has no signed history. {_NOTHING}"
        if facts.remote_manifest:
            link = one_line(facts.remote_manifest)
            detail = f"The file only links to a signed history, which is not downloaded: {link}."
        return Finding("c2pa", state, "No Content Credentials", detail)
    fields = {
        "signer": credentials.signer,
        "signed_at": credentials.signed_at,
        "generator": credentials.generator,
        "source_types": ", ".join(credentials.source_types),
        "reason": credentials.reason,
    }
    fields = {name: value for name, value in fields.items() if value}
    if state == UNCHECKED:
        detail = (
            f"The file has Content Credentials, but {credentials.reason}. This says nothing about "
            "the image."
        )
        return Finding("c2pa", state, "Content Credentials not checked", detail, fields=fields)
    if state == INVALID:
        detail = (
            f"The check failed: {credentials.reason or 'the signature is invalid'}. Do not rely on "
            "these Content Credentials. Saving the image in a program that does not support them "
            "is enough to make them invalid."
        )
        return Finding("c2pa", state, "Invalid Content Credentials", detail, fields=fields)
    signer = credentials.signer
    claim, text = _claimed(credentials.source_types)
    stated = f"They state: {text}." if text else "They do not state how the image was made."
    if state == TRUSTED:
        signer = signer or "an unnamed signer"
        detail = (
            f"The image is signed by {signer}, who is on {trusted}. It has not changed since. "
            f"{stated}"
        )
        title = f"Content Credentials signed by {signer}"
        return Finding("c2pa", TRUSTED, title, detail, claim, fields)
    named = f"the signer “{signer}”" if signer else "the unnamed signer"
    detail = (
        f"The signature is valid and the image has not changed since, but {named} is not on "
        f"{trusted}. Anyone can make such a signature. {stated}"
    )
    title = "Content Credentials signed by an unknown signer"
    return Finding("c2pa", UNTRUSTED, title, detail, claim, fields)


def _iptc(facts: XmpFacts) -> Finding:
    claim, text = _claimed(facts.source_types)
    if not facts.source_types and not facts.ai_system:
        damaged = " (Its XMP block is damaged or too large.)" if facts.damaged else ""
        detail = f"The file has no label of its origin. {_NOTHING}{damaged}"
        return Finding("iptc", ABSENT, "No digital source type", detail)
    fields = {"source_types": ", ".join(facts.source_types)} if facts.source_types else {}
    if facts.ai_system:
        fields["ai_system"] = facts.ai_system
        claim = claim if claim == metadata.AI else metadata.PARTLY_AI
        system = facts.ai_system
        text = f"{text}, with {system}" if text else f"an AI system was used: {system}"
    title = {
        metadata.AI: "Labelled as generated by AI",
        metadata.PARTLY_AI: "Labelled as made with AI",
        metadata.CAMERA: "Labelled as captured by a camera",
    }.get(claim, "Labelled with a digital source type")
    detail = f"The file's IPTC label says: {text}. It is unsigned; any program can write it."
    return Finding("iptc", PRESENT, title, detail, claim, fields)


def _claimed(terms: tuple[str, ...]) -> tuple[str | None, str]:
    """Return the strongest claim among IPTC terms, and the text of all terms."""
    claims = [metadata.TERMS.get(term, (metadata.OTHER, term)) for term in terms]
    order = (metadata.AI, metadata.PARTLY_AI, metadata.CAMERA, metadata.OTHER)
    strongest = min((claim for claim, _ in claims), key=order.index, default=None)
    if strongest == metadata.AI and any(claim == metadata.CAMERA for claim, _ in claims):
        strongest = metadata.PARTLY_AI
    return strongest, "; ".join(dict.fromkeys(text for _, text in claims))


# Generator settings


@dataclass(frozen=True)
class Generator:
    """The image generator whose settings are in a file.

    Attributes:
        where: The block with the settings, such as `"PNG text “parameters”"`.
    """

    name: str
    where: str
    settings: str


def find_generator(
    text: Sequence[tuple[str, str]], comment: str | None = None, container: str = "PNG"
) -> Generator | None:
    """Recognise the settings of an image generator."""
    blocks = dict(reversed(text))  # the first block of a keyword counts

    def found(name: str, keyword: str, settings: str | None = None) -> Generator:
        where = f"{container} text “{keyword}”"
        return Generator(name, where, _shortened(settings or blocks[keyword]))

    for keyword, name in _KEYWORDS.items():
        if keyword in blocks:
            return found(name, keyword, blocks.get("parameters"))
    for keyword in ("workflow", "prompt"):
        if _is_comfyui_graph(blocks.get(keyword)):
            return found("ComfyUI", keyword)
    if blocks.get("Software", "").strip() == "NovelAI":
        return found("NovelAI", "Software", blocks.get("Comment") or blocks.get("Description"))
    if "parameters" in blocks:
        return found(_web_ui(blocks["parameters"]), "parameters")
    if _MIDJOURNEY.search(blocks.get("Description", "")):
        return found("Midjourney", "Description")
    for where, settings in (
        ("EXIF “UserComment”", comment),
        (f"{container} comment", blocks.get("comment")),
    ):
        if settings and _SETTINGS.search(settings):
            return Generator(_web_ui(settings), where, _shortened(settings))
    return None


def _web_ui(text: str) -> str:
    known = _SETTINGS.search(text)
    return "Stable Diffusion web UI or a similar program" if known else "an image generator"


def _is_comfyui_graph(text: str | None) -> bool:
    """Return whether text is a JSON object with a `nodes` list, or of nodes with a `class_type`."""
    if not text or not text.lstrip().startswith("{"):
        return False
    try:
        graph = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if isinstance(graph.get("nodes"), list):
        return True
    return any(isinstance(node, dict) and "class_type" in node for node in graph.values())


def _shortened(text: str) -> str:
    text = "".join(c if c.isprintable() or c in "\n\t" else " " for c in text).strip()
    return text if len(text) <= _LONGEST_SETTINGS else text[: _LONGEST_SETTINGS - 1] + "…"


def _generator(generator: Generator | None) -> Finding:
    kind = "generator_parameters"
    if generator is None:
        detail = f"The file has no prompt or settings of an image generator. {_NOTHING}"
        return Finding(kind, ABSENT, "No generator settings", detail)
    detail = (
        f"{generator.where} contains the settings of {generator.name}. Anyone can write such text "
        "into a file, but few people do."
    )
    fields = {"generator": generator.name, "where": generator.where, "settings": generator.settings}
    return Finding(kind, PRESENT, f"Settings of {generator.name}", detail, metadata.AI, fields)


# EXIF


def _camera(exif: dict[str, str], blocks: Blocks) -> Finding:
    make, model = exif.get("make", ""), exif.get("model", "")
    if not make and not model:
        block = " (It has an EXIF block without a camera.)" if blocks.exif else ""
        detail = f"The file names no camera. {_NOTHING}{block}"
        return Finding("camera", ABSENT, "No camera data", detail)
    camera = model if model.lower().startswith(make.lower()) else f"{make} {model}".strip()
    detail = f"The EXIF block names the camera {camera}. EXIF can be copied into any image."
    return Finding("camera", PRESENT, f"Camera data: {camera}", detail, metadata.CAMERA, exif)


def _read_exif(block: bytes | None) -> dict[str, str]:
    """Read the camera's tags and the user comment as text. The location is not read."""
    if not block or not reads_within_bounds(block):
        return {}
    try:
        exif = Image.Exif()
        exif.load(block)
        main, sub = dict(exif), dict(exif.get_ifd(ExifTags.IFD.Exif))
    except MemoryError:
        raise
    except Exception:  # a damaged block can raise nearly any error in Pillow
        return {}
    values: dict[str, str] = {}
    for names, tags in ((_MAIN_TAGS, main), (_SUB_TAGS, sub)):
        for name, tag in names.items():
            value = tags.get(tag)
            if isinstance(value, tuple) and value:
                value = value[0]
            if text := _plain(value):
                values[name] = text
    comment = sub.get(_BASE.UserComment) or main.get(_BASE.ImageDescription)
    if comment:
        values["user_comment"] = _comment(comment)
    return values


def _plain(value) -> str:
    if value is None or isinstance(value, (bytes, dict)):
        return ""
    try:
        text = str(value) if isinstance(value, (str, int)) else f"{float(value):.6g}"
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return ""
    return "" if text == "nan" else one_line(text)


def _comment(value: str | bytes) -> str:
    """Decode a user comment (EXIF 2.32, 4.6.5): eight bytes name the encoding of the rest."""
    if isinstance(value, str):
        return value
    code, body = bytes(value[:8]), bytes(value[8:])
    if code == b"UNICODE\0":
        # The specification says the byte order of the block; programs write either order.
        little = body[1:2] == b"\0" and body[:1] != b"\0"
        return body.decode("utf-16-le" if little else "utf-16-be", "replace").rstrip("\0")
    text = body if code in (b"ASCII\0\0\0", bytes(8)) else bytes(value)
    return text.decode("utf-8", "replace").rstrip("\0")


# The strongest statements first.
_CLAIMS = ("ai", "partly_ai", "camera")
_PROMPT_WORDS = 12
_MODEL = re.compile(r"\bModel: ([^,\n]{1,80})")
_PROMPT_KEYS = ("positive_prompt", "prompt", "text")
_MODEL_KEYS = ("ckpt_name", "model_name", "unet_name", "model")


@dataclass(frozen=True)
class Statement:
    """A file's statement about its origin.

    Attributes:
        by: The generator, model or program that the file names, if it names one.
        prompt: The first words of the prompt, if the file has one.
        signed: `"trusted"`, `"untrusted"` or `"unsigned"`.
        signer: The name in the certificate, if the statement is signed.
    """

    claim: str
    by: str | None = None
    prompt: str | None = None
    signed: str = "unsigned"
    signer: str | None = None

    def to_dict(self) -> dict:
        """Return the fields, for `json`."""
        return dict(vars(self))


def statement_of(provenance: Provenance | None) -> Statement | None:
    """Return the strongest statement of a file.

    Unsigned camera data are in most photographs and copied easily, so they are not a statement.
    """
    findings = provenance.findings if provenance else []
    statements = [each for finding in findings if (each := _read(finding))]
    if not statements:
        return None
    first = min(statements, key=lambda each: _CLAIMS.index(each.claim))
    rest = [each for each in statements if each.claim in ("ai", "partly_ai")]
    by = next((each.by for each in (first, *rest) if each.by), None)
    prompt = next((each.prompt for each in rest if each.prompt), None)
    return Statement(first.claim, by, prompt, first.signed, first.signer)


def _read(finding: Finding) -> Statement | None:
    signed = finding.state if finding.state in (TRUSTED, UNTRUSTED) else "unsigned"
    if finding.claim not in _CLAIMS or (finding.claim == "camera" and signed == "unsigned"):
        return None
    fields = finding.fields
    by = fields.get("ai_system") or fields.get("generator")
    prompt = None
    if settings := fields.get("settings"):
        model, prompt = read_settings(settings)
        program = (by or "").partition(" or ")[0]
        by = f"{program} ({model})" if program and model else model or program or None
    return Statement(finding.claim, by, prompt, signed, fields.get("signer"))


def read_settings(settings: str) -> tuple[str | None, str | None]:
    """Return the model and the first words of the prompt in a generator's settings."""
    try:
        values = list(_pairs(json.loads(settings)))
    except (ValueError, RecursionError):
        model = _MODEL.search(settings)
        prompt = re.split(r"\n|Negative prompt:|Steps: \d|Job ID:", settings)[0]
        return (model[1].strip() if model else None), _first_words(prompt)
    return _first(values, _MODEL_KEYS), _first_words(_first(values, _PROMPT_KEYS) or "")


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys of nested JSON with their values."""
    if isinstance(value, dict):
        yield from value.items()
        value = list(value.values())
    for each in value if isinstance(value, list) else []:
        yield from _pairs(each)


def _first(values: Iterable[tuple[str, Any]], keys: tuple[str, ...]) -> str | None:
    for key in keys:
        for name, value in values:
            if name == key and isinstance(value, str) and value.strip():
                return value.strip()[:80] if keys is _MODEL_KEYS else value
    return None


def _first_words(prompt: str) -> str | None:
    words = prompt.split()
    if not words:
        return None
    short = " ".join(words[:_PROMPT_WORDS])[:120]
    return f"{short}…" if len(words) > _PROMPT_WORDS or len(short) == 120 else short
