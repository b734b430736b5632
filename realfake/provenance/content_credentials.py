"""Read and verify the Content Credentials (the C2PA manifest) of a file.

The result distinguishes three cases: a valid signature by a signer on the trust list, a valid
signature by another signer, and an invalid signature. Neither remote manifests nor revocation lists
are downloaded.

C2PA publishes a trust list for signers and one for time stamps. A copy of both is part of the
package. [`refresh`] downloads the current lists into the user's cache. The environment variable
`REALFAKE_C2PA_TRUST_LIST` names another file of PEM certificates instead.
"""

import datetime
import json
import logging
import os
import re
import ssl
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

from realfake.imaging.fetch import fetch
from realfake.io import write_atomically
from realfake.provenance.metadata import MAX_C2PA, MAX_TERMS, one_line, term_of
from realfake.runtime import within

logger = logging.getLogger(__name__)

# Time limit for reading a manifest.
SECONDS = 10.0
TRUSTED, UNTRUSTED, INVALID = "trusted", "untrusted", "invalid"
ABSENT, UNSUPPORTED, UNCHECKED = "absent", "unsupported", "unchecked"
TOO_MUCH_MEMORY = "reading them needs too much memory"
# Manifests followed from the active one to its parents.
_MAX_PARENTS = 16

# Failure codes of https://spec.c2pa.org, "Validation".
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
}


@dataclass(frozen=True)
class Credentials:
    """The content of the active manifest.

    Attributes:
        state: `"trusted"`, `"untrusted"` (valid signature, signer not on the trust list),
            `"invalid"`, `"absent"`, `"unsupported"` (the format cannot hold any), or `"unchecked"`
            (too large, too slow, too little memory, or `c2pa` is not installed).
        signed_at: Date of the signature, if there is a timestamp.
        source_types: IPTC terms from the actions of this manifest and of its parents.
        reason: Why the state is invalid or unchecked.
    """

    state: str
    signer: str | None = None
    signed_at: str | None = None
    generator: str | None = None
    source_types: tuple[str, ...] = ()
    reason: str | None = None


def read_credentials(
    data: bytes, mime: str | None, size: int | None, anchors: str | None = None
) -> Credentials:
    """Read and verify the C2PA manifest of a file. No content of the file raises an error.

    Args:
        mime: Its media type; `None` if C2PA does not support the format.
        size: Size of its C2PA store in bytes, see [`~realfake.provenance.metadata.Blocks`]; `None`
            if unknown.
        anchors: *optional*. PEM certificates of trusted signers or of their authorities.
    """
    if mime is None:
        return Credentials(UNSUPPORTED)
    if size == 0:
        return Credentials(ABSENT)
    if size is not None and size > MAX_C2PA:
        return Credentials(UNCHECKED, reason=f"they are larger than {MAX_C2PA // 2**20} MiB")
    try:
        import c2pa
    except (ImportError, OSError):
        logger.warning("c2pa-python is missing or cannot be loaded: no Content Credentials")
        return Credentials(UNCHECKED, reason="this installation cannot read them")
    try:  # native code that cannot be interrupted
        return within(SECONDS, lambda: _read(c2pa, data, mime, size, anchors))
    except TimeoutError:
        reason = f"reading them took longer than {SECONDS:g} seconds"
        return Credentials(UNCHECKED, reason=reason)


def _read(c2pa, data: bytes, mime: str, size: int | None, anchors: str | None) -> Credentials:
    settings: dict[str, dict] = {
        "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": True}
    }
    if anchors:
        settings["trust"] = {"trust_anchors": anchors}
    errors = c2pa.C2paError
    try:
        if mime not in c2pa.Reader.get_supported_mime_types():
            return Credentials(UNSUPPORTED)
        context = c2pa.Context.from_dict(settings)
        with c2pa.Reader(mime, BytesIO(data), context=context) as reader:
            store = json.loads(reader.json())
    except (errors.ManifestNotFound, errors.NotSupported, errors.RemoteManifest):
        return Credentials(ABSENT)
    except MemoryError:
        return Credentials(UNCHECKED, reason=TOO_MUCH_MEMORY)
    # A hostile file can raise nearly any error in the native code.
    except Exception as error:
        logger.info("C2PA: %s", error)
        if size is None:  # the file is damaged, and no store was found in it
            return Credentials(ABSENT)
        return Credentials(INVALID, reason="they are damaged and cannot be read")
    return _credentials(store)


def _credentials(store: dict) -> Credentials:
    manifests = store.get("manifests") or {}
    active = manifests.get(store.get("active_manifest")) or {}
    signature = active.get("signature_info") or {}
    programs = [info for info in active.get("claim_generator_info") or [] if isinstance(info, dict)]
    program = programs[0] if programs else {}
    generator = " ".join(str(program[key]) for key in ("name", "version") if program.get(key))
    state = {"Trusted": TRUSTED, "Valid": UNTRUSTED}.get(store.get("validation_state"), INVALID)
    codes = [str(entry.get("code")) for entry in store.get("validation_status") or []]
    failures = [
        _FAILURES.get(code, f"the check reports {code}")
        for code in codes
        if code != "signingCredential.untrusted"
    ]
    return Credentials(
        state,
        signer=one_line(signature.get("issuer") or signature.get("common_name")) or None,
        signed_at=one_line(signature.get("time")) or None,
        generator=one_line(generator or active.get("claim_generator")) or None,
        source_types=_source_types(manifests, active),
        reason="; ".join(dict.fromkeys(failures))[:500] or None,
    )


def _source_types(manifests: dict, manifest: dict) -> tuple[str, ...]:
    """Return the source types of a manifest's actions, then of its `parentOf` ingredients."""
    terms: list[str | None] = []
    for _ in range(_MAX_PARENTS):
        for assertion in manifest.get("assertions") or []:
            if str(assertion.get("label")).startswith("c2pa.actions"):
                actions = (assertion.get("data") or {}).get("actions") or []
                terms += [term_of(str(action.get("digitalSourceType") or "")) for action in actions]
        parents = [
            ingredient.get("active_manifest")
            for ingredient in manifest.get("ingredients") or []
            if ingredient.get("relationship") == "parentOf"
        ]
        if not parents or parents[0] not in manifests:
            break
        manifest = manifests[parents[0]]
    return tuple(dict.fromkeys(term for term in terms if term))[:MAX_TERMS]


VARIABLE = "REALFAKE_C2PA_TRUST_LIST"
BUNDLED = Path(__file__).with_name("c2pa_trust_list.pem")
_SOURCE = "https://raw.githubusercontent.com/c2pa-org/conformance-public/main/trust-list"
ADDRESSES = (f"{_SOURCE}/C2PA-TRUST-LIST.pem", f"{_SOURCE}/C2PA-TSA-TRUST-LIST.pem")
MAX_LIST = 4 * 2**20
_BEGIN = "-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True)
class TrustList:
    """A trust list.

    Attributes:
        anchors: PEM certificates.
        date: Day of the copy, as `YYYY-MM-DD`; `None` for a file of the user.
    """

    anchors: str
    date: str | None = None

    def __str__(self) -> str:
        return f"the trust list of {self.date}" if self.date else "the trust list"

    def __len__(self) -> int:
        return self.anchors.count(_BEGIN)


def trust_list() -> TrustList:
    """Return the list that the environment names, or the newer of the bundled and refreshed ones.

    Raises:
        ValueError: The file contains no valid certificate.
        OSError: The file cannot be read.
    """
    if path := os.environ.get(VARIABLE, "").strip():
        return TrustList(_read_list(path, os.stat(path).st_mtime_ns).anchors)
    lists = [_read_list(str(BUNDLED), 0)]
    if refreshed().is_file():
        lists.append(_read_list(str(refreshed()), refreshed().stat().st_mtime_ns))
    return max(lists, key=lambda each: each.date or "")


def refreshed() -> Path:
    """Return where [`refresh`] stores the list: in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "realfake" / BUNDLED.name


def refresh() -> TrustList:
    """Download the current lists and store them.

    Raises:
        ValueError: What was downloaded is not a list of certificates.
        OSError: The lists cannot be downloaded or stored.
    """
    parts = [fetch(address, MAX_LIST, types=("text/plain",)).decode() for address in ADDRESSES]
    for address, part in zip(ADDRESSES, parts):
        _check(part, address)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    heading = f"# C2PA Trust List and C2PA Time-Stamping Trust List, {today}.\n"
    refreshed().parent.mkdir(parents=True, exist_ok=True)
    write_atomically(refreshed(), heading + "\n".join(parts))
    return TrustList("\n".join(parts), today)


@lru_cache(maxsize=4)
def _read_list(path: str, changed: int) -> TrustList:
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    _check(text, path)
    date = re.match(r"# .*(\d{4}-\d\d-\d\d)", text)
    return TrustList(text, date[1] if date else None)


def _check(text: str, name: str) -> None:
    try:
        if _BEGIN not in text:
            raise ValueError
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ValueError, ssl.SSLError):
        raise ValueError(f"{name} contains no valid PEM certificates.") from None
