"""How many requests a client may make: a token bucket for each address, in bounded memory."""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

PER_MINUTE = 240
VARIABLE = "REALFAKE_REQUESTS_PER_MINUTE"
# Half a minute's worth may come at once: a page sends several requests for one image.
BURST_SECONDS = 30.0
MAX_CLIENTS = 10_000


class RateLimit:
    """A token bucket for each client.

    Args:
        per_minute: Requests a minute in the long run; 0 for no limit.
        max_clients: Clients that are remembered; the one unseen longest is forgotten first.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        per_minute: float = PER_MINUTE,
        max_clients: int = MAX_CLIENTS,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.rate = per_minute / 60
        self.burst = max(1.0, self.rate * BURST_SECONDS)
        self.max_clients = max_clients
        self.clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = (
            OrderedDict()
        )  # client -> (tokens, when)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "RateLimit":
        """The limit that `REALFAKE_REQUESTS_PER_MINUTE` sets, or the usual one.

        Raises:
            ValueError: It is no number from 0 up.
        """
        value = environ.get(VARIABLE, "").strip()
        try:
            per_minute = float(value or PER_MINUTE)
        except ValueError:
            per_minute = -1.0
        if not 0 <= per_minute < float("inf"):
            raise ValueError(f"{VARIABLE} is {value!r}; it must be a number, 0 for no limit.")
        return cls(per_minute)

    def wait(self, client: str) -> float:
        """Take a token: 0.0 where the client may go on, else the seconds until it may."""
        if not self.rate:
            return 0.0
        now = self.clock()
        tokens, since = self._buckets.pop(client, (self.burst, now))
        tokens = min(self.burst, tokens + (now - since) * self.rate)
        allowed = tokens >= 1
        self._buckets[client] = (tokens - allowed, now)
        if len(self._buckets) > self.max_clients:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - tokens) / self.rate


def client_of(peer: str | None, forwarded: Sequence[str] = ()) -> str | None:
    """Who is behind a connection.

    Args:
        peer: The address that the connection comes from.
        forwarded: The `X-Forwarded-For` headers, as they came. Whoever sends a request can write what they like into them, so
            they count only where the peer is a proxy on the same network, and then from the end: that is the proxies' part.

    Returns:
        A public IPv4 address, or the /64 of a public IPv6 one, which is one customer. Where there is none, the peer's own
        address, which those share who come through one gateway; `None` for this machine itself.
    """
    if address := _public(peer or ""):
        return address
    chain = ",".join(forwarded).split(",")
    return next((found for hop in reversed(chain) if (found := _public(hop))), None) or _neighbour(
        peer or ""
    )


def _neighbour(text: str) -> str | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    address = getattr(address, "ipv4_mapped", None) or address
    return None if address.is_loopback else str(address)


def _public(text: str) -> str | None:
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return _public(str(address.ipv4_mapped))
        network = str(ipaddress.ip_network((address, 64), strict=False))
        return network if address.is_global else None
    return str(address) if address.is_global else None
