"""The trust list: certificates of the signers of Content Credentials that are trusted.

C2PA publishes one list for signers and one for time stamps. A copy of both is part of the package.
[`refresh`] downloads the current lists into the user's cache. The environment variable
`REALFAKE_C2PA_TRUST_LIST` names another file of PEM certificates instead.
"""

import datetime
import os
import re
import ssl
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from realfake.imaging.fetch import fetch
from realfake.io import write_atomically

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
        return TrustList(_read(path, os.stat(path).st_mtime_ns).anchors)
    lists = [_read(str(BUNDLED), 0)]
    if refreshed().is_file():
        lists.append(_read(str(refreshed()), refreshed().stat().st_mtime_ns))
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
def _read(path: str, changed: int) -> TrustList:
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
