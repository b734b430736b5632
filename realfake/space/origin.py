"""What a file says of itself, in one statement: that it was generated, or that a camera signed it.

Made from the findings of `realfake.provenance`. It never changes the score.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from realfake.provenance.reading import Finding, Provenance

# The strongest statements first.
_CLAIMS = ("ai", "partly_ai", "camera")
_SIGNED = {"trusted": "trusted", "untrusted": "untrusted"}
_PROMPT_WORDS = 12
_MODEL = re.compile(r"\bModel: ([^,\n]{1,80})")
_PROMPT_KEYS = ("positive_prompt", "prompt", "text")
_MODEL_KEYS = ("ckpt_name", "model_name", "unet_name", "model")


@dataclass(frozen=True)
class Statement:
    """A file's statement about its origin.

    Attributes:
        claim: `"ai"`, `"partly_ai"` or `"camera"`.
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
    signed = _SIGNED.get(finding.state, "unsigned")
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
