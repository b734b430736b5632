"""Content Credentials: what a file's C2PA manifest says, and whether its signature holds.

Three answers are kept apart: the signature holds and the signer is on the trust list, it holds and
the signer is not known, or it does not hold. Nothing is fetched from the network: neither manifests
that lie elsewhere nor revocation.

The trust list is a file of PEM certificates named by `REALFAKE_C2PA_TRUST_LIST`; without one no
signer is known. C2PA publishes its own at
https://github.com/c2pa-org/conformance-public/tree/main/trust-list.
"""

import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

from realfake.provenance.metadata import MAX_C2PA, MAX_TERMS, term_of

logger = logging.getLogger(__name__)

TRUST_LIST = "REALFAKE_C2PA_TRUST_LIST"
SECONDS = 10.0
TRUSTED, UNTRUSTED, INVALID, ABSENT, UNCHECKED = (
    "trusted",
    "untrusted",
    "invalid",
    "absent",
    "unchecked",
)
TOO_MUCH_MEMORY = "reading them needs too much memory"

# https://spec.c2pa.org, "Validation": the failures that people can make something of.
_FAILURES = {
    "assertion.dataHash.mismatch": "the image was changed after it was signed",
    "assertion.boxesHash.mismatch": "the image was changed after it was signed",
    "assertion.bmffHash.mismatch": "the image was changed after it was signed",
    "assertion.hashedURI.mismatch": "the credentials were changed after they were signed",
    "claimSignature.mismatch": "the signature does not match the credentials",
    "claimSignature.missing": "the signature is missing",
    "signingCredential.expired": "the signer's certificate had expired",
    "signingCredential.revoked": "the signer's certificate was revoked",
    "signingCredential.invalid": "the signer's certificate is not valid for signing credentials",
    "signingCredential.untrusted": "the signer is not on the trust list",
}


@dataclass(frozen=True)
class Credentials:
    """What the active manifest says.

    Attributes:
        state: `"trusted"`, `"untrusted"` (the signature holds, the signer is not known),
            `"invalid"`, `"absent"`, or `"unchecked"` (too large, too slow, too little memory, or
            `c2pa` is not installed).
        signer: Who signed, as the certificate names them.
        signed_at: When, where a timestamp says so.
        generator: The program that wrote the manifest.
        source_types: Terms of IPTC's vocabulary, of this manifest's actions and its parents'.
        reason: Why it is invalid or unchecked.
    """

    state: str
    signer: str | None = None
    signed_at: str | None = None
    generator: str | None = None
    source_types: tuple[str, ...] = ()
    reason: str | None = None


def trust_anchors(environ: Mapping[str, str] | None = None) -> str | None:
    """The PEM certificates of the trust list that the environment names; `None` where it names
    none.

    Args:
        environ: *defaults to* `os.environ` as it is now: some libraries put another mapping in its
            place.

    Raises:
        ValueError: The file is not one of PEM certificates.
        OSError: The file cannot be read.
    """
    path = (os.environ if environ is None else environ).get(TRUST_LIST, "").strip()
    if not path:
        return None
    return _read_anchors(path, os.stat(path).st_mtime_ns)


@lru_cache(maxsize=4)
def _read_anchors(path: str, changed: int) -> str:
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise ValueError(f"{path} holds no PEM certificate; {TRUST_LIST} must name a file of them.")
    return text


def read_credentials(
    data: bytes,
    mime: str | None,
    size: int | None,
    anchors: str | None = None,
    seconds: float = SECONDS,
) -> Credentials:
    """Read and verify the C2PA manifest of a file. Never raises for what the bytes hold.

    Args:
        data: The whole file.
        mime: Its media type.
        size: Of its C2PA store in bytes, see [`~realfake.provenance.metadata.Blocks`]; `None` where
            nobody has looked.
        anchors: PEM certificates of the signers, or their authorities, that are trusted.
        seconds: When to give up.
    """
    if size == 0 or mime is None:
        return Credentials(ABSENT)
    if size is not None and size > MAX_C2PA:
        return Credentials(UNCHECKED, reason=f"they are larger than {MAX_C2PA // 2**20} MiB")
    try:
        import c2pa
    except (ImportError, OSError):
        logger.warning(
            "c2pa-python is not installed or does not load here: Content Credentials are not read"
        )
        return Credentials(UNCHECKED, reason="this installation cannot read them")
    return _within(seconds, lambda: _read(c2pa, data, mime, size, anchors)) or Credentials(
        UNCHECKED, reason=f"reading them took longer than {seconds:g} seconds"
    )


def _within(seconds: float, work: Callable[[], Credentials]) -> Credentials | None:
    """Do native work that cannot be interrupted; after `seconds` go on without it."""
    answer: list[Credentials] = []
    thread = threading.Thread(target=lambda: answer.append(work()), daemon=True)
    thread.start()
    thread.join(seconds)
    return answer[0] if answer else None


def _read(c2pa, data: bytes, mime: str, size: int | None, anchors: str | None) -> Credentials:
    settings = {
        "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": True}
    }
    if anchors:
        settings["trust"] = {"trust_anchors": anchors}
    try:
        if mime not in c2pa.Reader.get_supported_mime_types():
            return Credentials(ABSENT)
        context = c2pa.Context.from_dict(settings)
        with c2pa.Reader(mime, BytesIO(data), context=context) as reader:
            store = json.loads(reader.json())
    except (
        c2pa.C2paError.ManifestNotFound,
        c2pa.C2paError.NotSupported,
        c2pa.C2paError.RemoteManifest,
    ):
        return Credentials(ABSENT)
    except MemoryError:
        return Credentials(UNCHECKED, reason=TOO_MUCH_MEMORY)
    except (
        Exception
    ) as error:  # native code on hostile bytes: whatever it says, the credentials are no good
        logger.info("C2PA: %s", error)
        if size is None:  # the file is broken; nobody has seen a store in it
            return Credentials(ABSENT)
        return Credentials(INVALID, reason="they are damaged and cannot be read")
    return _credentials(store)


def _credentials(store: dict) -> Credentials:
    manifests = store.get("manifests") or {}
    active = manifests.get(store.get("active_manifest")) or {}
    signature = active.get("signature_info") or {}
    programs = [
        entry for entry in active.get("claim_generator_info") or [] if isinstance(entry, dict)
    ]
    program = programs[0] if programs else {}
    generator = " ".join(str(program[key]) for key in ("name", "version") if program.get(key))
    state = {"Trusted": TRUSTED, "Valid": UNTRUSTED}.get(store.get("validation_state"), INVALID)
    codes = [str(entry.get("code")) for entry in store.get("validation_status") or []]
    told = [
        _FAILURES.get(code, f"the check reports {code}")
        for code in codes
        if code != "signingCredential.untrusted"
    ]
    return Credentials(
        state,
        signer=_line(signature.get("issuer") or signature.get("common_name")),
        signed_at=_line(signature.get("time")),
        generator=_line(generator or active.get("claim_generator")),
        source_types=_source_types(manifests, active),
        reason="; ".join(dict.fromkeys(told))[:500] or None,
    )


def _source_types(manifests: dict, manifest: dict, depth: int = 16) -> tuple[str, ...]:
    """The source types of a manifest's actions, then those of what it was made from (its `parentOf`
    ingredient).
    """
    found: list[str] = []
    for _ in range(depth):
        for assertion in manifest.get("assertions") or []:
            if str(assertion.get("label")).startswith("c2pa.actions"):
                actions = (assertion.get("data") or {}).get("actions") or []
                found += [
                    term
                    for action in actions
                    if (term := term_of(str(action.get("digitalSourceType") or "")))
                ]
        parents = [
            part
            for part in manifest.get("ingredients") or []
            if part.get("relationship") == "parentOf"
        ]
        if not parents or parents[0].get("active_manifest") not in manifests:
            break
        manifest = manifests[parents[0]["active_manifest"]]
    return tuple(dict.fromkeys(found))[:MAX_TERMS]


def _line(text) -> str | None:
    """One printable line of what a stranger's file says."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text or "")).split())
    return line[:200] or None
