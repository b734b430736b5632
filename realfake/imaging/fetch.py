"""Read an image that an address names, without giving access to this machine's network or files.

[`realfake.imaging.decode.open_image`] calls [`fetch`] for `http(s)` URLs, which anyone can enter on
a public Space. Addresses that are not public are refused, also after redirects and repeated DNS
lookups. Size and time are limited.
"""

import base64
import binascii
import ipaddress
import socket
import time
from urllib.parse import unquote_to_bytes

import httpcore
import httpx

from realfake.runtime import within

MAX_BYTES = 64 * 2**20
MAX_REDIRECTS = 3
# Images are served on these ports. Others would allow port scans through the Space.
PORTS = (80, 443)

# "binary/octet-stream" is the default of S3.
_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")
# IPv6 addresses of public and of private IPv4 addresses (RFC 6052, RFC 8215).
_NAT64, _LOCAL_NAT64 = ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48")
_IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_data_uri(text: str) -> bool:
    """Return whether text begins like a `data:` URI."""
    return text[:16].lstrip()[:5].lower() == "data:"


def read_data_uri(uri: str, max_bytes: int = MAX_BYTES) -> bytes:
    """Decode a `data:` URI (RFC 2397).

    Raises:
        ValueError: It is damaged or larger than `max_bytes`.
    """
    head, comma, body = uri.partition(",")
    if not comma:
        raise ValueError("The data URI has no comma before its data; copy it again.")
    if len(body) > 3 * max_bytes:  # at most three characters per byte
        raise ValueError(f"The data URI is larger than {max_bytes / 2**20:g} MiB; send a file.")
    try:
        if head.rstrip().lower().endswith(";base64"):
            data = base64.b64decode("".join(unquote_to_bytes(body).decode().split()), validate=True)
        else:
            data = unquote_to_bytes(body)
    except (binascii.Error, ValueError):
        raise ValueError("The data URI is not valid base64; copy it again.") from None
    if len(data) > max_bytes:
        raise ValueError(f"The data URI is larger than {max_bytes / 2**20:g} MiB; send a file.")
    return data


def fetch(
    url: str,
    max_bytes: int = MAX_BYTES,
    timeout: float = 10.0,
    allow_private: bool = False,
    types: tuple[str, ...] = _TYPES,
) -> bytes:
    """Download an image, or a file of other media types, and return its bytes.

    Each host name is resolved once, all its addresses must be public, and the connection uses one
    of these addresses. A later DNS answer (DNS rebinding) has no effect. Proxies from the
    environment are ignored, because a proxy resolves the name again. Certificates are verified.

    Args:
        url: An `http` or `https` URL. Up to 3 redirects are followed, with the same checks.
        max_bytes: Size limit of the body.
        timeout: Seconds for names, connections, redirects and the body together.
        allow_private: Allow loopback, private and link-local addresses and any port.
        types: The beginnings of the accepted media types, *defaults to* those of images.

    Raises:
        ValueError: The scheme, address, port, number of redirects, size or type is refused.
        OSError: The host cannot be reached, answers with an error, or is too slow (`TimeoutError`).
            Messages are one line with the URL without its query, which may contain a secret.
    """
    deadline = time.monotonic() + timeout
    shown = _shown(url)
    backend = _CheckedBackend(deadline, allow_private)
    try:
        with httpcore.ConnectionPool(
            network_backend=backend, ssl_context=httpx.create_ssl_context()
        ) as pool:
            return _follow(pool, _parse(url), max_bytes, types)
    except _Refused as error:
        raise ValueError(f"{shown} was not fetched: {error}") from None
    except (httpcore.TimeoutException, TimeoutError):
        raise TimeoutError(
            f"{shown} took longer than {timeout:g} s; try again, or download the image first."
        ) from None
    except _Failed as error:
        raise OSError(f"{shown} {error}") from None
    except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"{shown} cannot be reached ({detail}); check the address.") from error


class _Refused(Exception):
    """The reason for a refusal; [`fetch`] raises it as a `ValueError`."""


class _Failed(Exception):
    """The error status of the answer; [`fetch`] raises it as an `OSError`."""


def _parse(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url.strip())
    except httpx.InvalidURL as error:
        raise _Refused(f"it is not a valid URL ({error}).") from error
    if parsed.scheme not in ("http", "https"):
        raise _Refused("only http and https URLs are read.")
    if not parsed.raw_host:
        raise _Refused("it has no host name.")
    return parsed


def _follow(
    pool: httpcore.ConnectionPool, url: httpx.URL, max_bytes: int, types: tuple[str, ...]
) -> bytes:
    for _ in range(MAX_REDIRECTS + 1):
        # Without the fragment and any user:password@.
        target = httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path or b"/"
        )
        headers = {
            "Host": url.netloc.decode("ascii"),
            "Accept": "image/*" if types == _TYPES else ", ".join(types),
            "Accept-Encoding": "identity",
            "User-Agent": "realfake",
        }
        with pool.stream("GET", target, headers=headers) as response:
            received = {key.lower(): value.decode("latin-1") for key, value in response.headers}
            if response.status in (301, 302, 303, 307, 308) and b"location" in received:
                try:
                    url = _parse(str(url.join(received[b"location"])))
                except httpx.InvalidURL as error:
                    raise _Refused(f"it redirects to an invalid URL ({error}).") from error
                continue
            if response.status != 200:
                raise _Failed(f"answered with status {response.status}; check the address.")
            kind = received.get(b"content-type", "application/octet-stream").strip().lower()
            if not kind.startswith(types):
                raise _Refused(
                    f"it is {kind.split(';')[0][:60]}, not an image; enter the image's own address."
                )
            length = received.get(b"content-length", "")
            if length.isdecimal() and int(length) > max_bytes:
                raise _too_large(max_bytes)
            body = bytearray()
            for chunk in response.iter_stream():
                body += chunk
                if len(body) > max_bytes:
                    raise _too_large(max_bytes)
            return bytes(body)
    raise _Refused(f"it redirects more than {MAX_REDIRECTS} times; enter the final address.")


def _too_large(max_bytes: int) -> _Refused:
    limit = f"{max_bytes / 2**20:g} MiB"
    return _Refused(f"it is larger than the limit of {limit}; download it and scale it down.")


class _CheckedBackend(httpcore.NetworkBackend):
    """Open connections to public addresses only, with one deadline for all reads and writes.

    HTTP and TLS are above it: the Host header, SNI and the certificate check use the host name.
    """

    def __init__(self, deadline: float, allow_private: bool):
        self.deadline = deadline
        self.allow_private = allow_private
        self.backend = httpcore.SyncBackend()

    def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        if not self.allow_private and port not in PORTS:
            raise _Refused(
                f"it uses port {port}; only {' and '.join(map(str, PORTS))} are allowed."
            )
        addresses = _lookup(host, _left(self.deadline))
        if not self.allow_private:
            for address in addresses:
                if not is_public(address):
                    raise _Refused(
                        f"its address {address} is not public; download the image and pass the "
                        "file."
                    )
        # Many hosts have an IPv6 address that this machine cannot reach.
        for position, address in enumerate(addresses):
            try:
                stream = self.backend.connect_tcp(
                    str(address), port, _left(self.deadline), None, socket_options
                )
                return _TimedStream(stream, self.deadline)
            except httpcore.NetworkError:
                if position == len(addresses) - 1:
                    raise
        raise httpcore.ConnectError(f"{host} has no address")


class _TimedStream(httpcore.NetworkStream):
    """A stream whose time-out is the remaining time, so that a slow server cannot stall it."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float):
        self.stream = stream
        self.deadline = deadline

    def read(self, max_bytes, timeout=None):
        return self.stream.read(max_bytes, _left(self.deadline))

    def write(self, buffer, timeout=None):
        self.stream.write(buffer, _left(self.deadline))

    def close(self):
        self.stream.close()

    def start_tls(self, ssl_context, server_hostname=None, timeout=None):
        stream = self.stream.start_tls(ssl_context, server_hostname, _left(self.deadline))
        return _TimedStream(stream, self.deadline)

    def get_extra_info(self, info):
        return self.stream.get_extra_info(info)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _lookup(host: str, timeout: float) -> list[_IPAddress]:
    """Return all addresses of a host, in the resolver's order."""
    try:
        return [ipaddress.ip_address(host)]
    except ValueError:
        pass  # a name
    # getaddrinfo has no time-out.
    try:
        entries = within(timeout, lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except TimeoutError:
        raise
    except (OSError, UnicodeError):
        raise OSError(f"the name {host} is unknown") from None
    # "fe80::1%eth0": the scope is not part of the address.
    addresses = (ipaddress.ip_address(str(entry[4][0]).split("%")[0]) for entry in entries)
    return list(dict.fromkeys(addresses))


def is_public(address: _IPAddress) -> bool:
    """Return whether an address belongs to the public internet.

    An IPv6 address that contains IPv4 addresses (mapped, 6to4, Teredo, NAT64) is public if they
    are.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address in _LOCAL_NAT64:
            return False
        inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if address in _NAT64:
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if any(inner):
            return all(is_public(each) for each in inner if each is not None)
    return address.is_global and not (
        address.is_multicast
        or address.is_reserved
        or address.is_unspecified
        or getattr(address, "is_site_local", False)
    )


def _shown(url: str) -> str:
    text = "".join(c if c.isprintable() else "?" for c in url.strip().split("?")[0].split("#")[0])
    scheme, separator, rest = text.partition("://")
    host, slash, path = rest.partition("/")
    text = scheme + separator + host.rpartition("@")[2] + slash + path  # no user:password
    return text if len(text) <= 200 else f"{text[:199]}…"
