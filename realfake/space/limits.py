"""Limits on every request: request rate, body size, closed routes; also headers and the log.

[`middleware`] lists them for Gradio's app as ASGI middleware.
"""

import asyncio
import ipaddress
import logging
import math
import re
import sys
import time
from collections.abc import Mapping

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from pythonjsonlogger.json import JsonFormatter
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

# At INFO they write the URL of every request: visitors' URLs, and signed URLs of the Hub.
QUIET = ("httpx", "httpcore", "httpx2", "httpcore2", "urllib3")

REQUESTS_PER_MINUTE = "REALFAKE_REQUESTS_PER_MINUTE"
PER_MINUTE = 240
# Proxies on these networks may report a client's address. uvicorn reads the variable.
TRUSTED_PROXIES = "FORWARDED_ALLOW_IPS"
PRIVATE_NETWORKS = "127.0.0.0/8,::1,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,fc00::/7"
# Seconds after which a client may ask a busy server again.
RETRY_AFTER = "2"
# Bytes of an image file.
MAX_IMAGE_BYTES = 32 * 2**20
# The batch tab uploads all files in one request.
MAX_UPLOAD_BYTES = 2**30
# An image file in base64.
MAX_MCP_BYTES = MAX_IMAGE_BYTES * 4 // 3 + 2**16
MAX_JSON_BYTES = 2**20
# Bounds of what is read after a refusal, so that a client that is sending receives the answer.
DRAIN_SECONDS = 5.0
DRAIN_BYTES = 64 * 2**20
HEADERS = {
    # Browsers must not take an uploaded file for a page.
    "X-Content-Type-Options": "nosniff",
    # Other sites learn the address of this one, not the path.
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "Permissions-Policy": "geolocation=(), microphone=(), payment=(), usb=()",
}
# Gradio's routes that fetch URLs for others (`proxy=`, `file=http…`) or write files that nothing
# deletes.
_CLOSED = re.compile(
    r"proxy=|file[=/]\s*https?:|(deep_link|process_recording|component_server)(/|$)", re.IGNORECASE
)


def middleware(environ: Mapping[str, str]) -> list[Middleware]:
    """Return the middleware for Gradio's app, the outermost first.

    Raises:
        ValueError: `REALFAKE_REQUESTS_PER_MINUTE` is not a whole number from 0 up.
    """
    return [Middleware(Guard, rate=RateLimit.from_environ(environ)), Middleware(BodyLimit)]


class RateLimit:
    """A limit on the requests of each client in a moving minute; 0 for no limit."""

    def __init__(self, per_minute: int = PER_MINUTE):
        self.per_minute = per_minute
        self._item = RateLimitItemPerMinute(max(1, per_minute))
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "RateLimit":
        """Return the limit set by `REALFAKE_REQUESTS_PER_MINUTE`; 240 without it."""
        value = environ.get(REQUESTS_PER_MINUTE, "").strip()
        if value and not value.isdecimal():
            raise ValueError(
                f"{REQUESTS_PER_MINUTE} is {value!r}; set it to a whole number, 0 for no limit."
            )
        return cls(int(value) if value else PER_MINUTE)

    def wait(self, client: str) -> int:
        """Count a request; return 0, or the seconds until the client may send the next one."""
        if not self.per_minute or self._limiter.hit(self._item, client):
            return 0
        reset = self._limiter.get_window_stats(self._item, client).reset_time
        return max(1, math.ceil(reset - time.time()))


def client_of(scope: Scope) -> str | None:
    """Return the name under which a client's requests are counted; `None` for this machine.

    uvicorn has replaced the address of a trusted proxy by the one that the proxy reports. The
    addresses of an IPv6 network of 64 bits belong to one customer and count as one.
    """
    if not scope.get("client"):
        return None
    try:
        address = ipaddress.ip_address(scope["client"][0])
    except ValueError:
        return "unknown"
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class Guard:
    """Refuse requests to closed routes and requests above the rate; add headers; log each POST.

    The log has a request's path, status, duration and size, not its content and not its sender.
    Only POST requests count for the rate, because only they cause work.
    """

    def __init__(self, app: ASGIApp, rate: RateLimit):
        self.app = app
        self.rate = rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(receive, send)
        began = time.perf_counter()
        try:
            app = self._refusal(scope) or self.app
            await app(scope, exchange.receive, exchange.send)
        finally:
            if scope["method"] == "POST":
                fields = {
                    "path": scope["path"][:80],
                    "status": exchange.status,
                    "milliseconds": round(1e3 * (time.perf_counter() - began), 1),
                    "received": exchange.received,
                }
                logger.info("POST %(path)s %(status)s, %(milliseconds)s ms", fields, extra=fields)

    def _refusal(self, scope: Scope) -> Response | None:
        # The server has decoded the path once, as for Gradio.
        if _CLOSED.match(_gradio_route(scope["path"]) or ""):
            return _refused(scope, 403, "This server does not fetch URLs for others.")
        client = client_of(scope) if scope["method"] == "POST" else None
        seconds = self.rate.wait(client) if client else 0
        if not seconds:
            return None
        message = f"Too many requests from your address; try again in {seconds} seconds."
        return _refused(scope, 429, message, {"Retry-After": str(seconds)})


class BodyLimit:
    """Limit the size of a request's body by its route; `/predict` has other limits."""

    def __init__(self, app: ASGIApp):
        self._apps: dict[int | None, ASGIApp] = {
            limit: RequestBodyLimitMiddleware(app, max_body_size=limit)
            for limit in (MAX_UPLOAD_BYTES, MAX_MCP_BYTES, MAX_JSON_BYTES)
        }
        self._apps[None] = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = body_limit(scope["path"]) if scope["type"] == "http" else None
        await self._apps[limit](scope, receive, send)


def body_limit(path: str) -> int | None:
    """Return the largest body in bytes that a route accepts; `None` for `/predict` and `/`."""
    route = _gradio_route(path)
    if route is None:
        own = path.endswith("/predict") or path in ("", "/")
        return None if own else MAX_JSON_BYTES
    if route.rstrip("/") == "upload":
        return MAX_UPLOAD_BYTES
    return MAX_MCP_BYTES if route.split("/")[0] == "mcp" else MAX_JSON_BYTES


class _Exchange:
    """The messages of one request and its answer."""

    def __init__(self, receive: Receive, send: Send):
        self._receive, self._send = receive, send
        self.received = self.status = 0
        self._ended = False

    async def receive(self) -> Message:
        message = await self._receive()
        self.received += len(message.get("body", b""))
        self._ended = self._ended or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            # Gradio's "Queue is full" has no such header.
            if self.status == 503:
                headers.setdefault("Retry-After", RETRY_AFTER)
            if self.status >= 400:
                await self._drain()
        await self._send(message)

    async def _drain(self) -> None:
        """Read the rest of a refused request. Otherwise a client that is sending sees a reset."""
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                limit = self.received + DRAIN_BYTES
                while not self._ended and self.received < limit:
                    await self.receive()
        except TimeoutError:
            pass


def _refused(
    scope: Scope, status: int, message: str, headers: dict[str, str] | None = None
) -> Response:
    # Gradio's page shows the whole answer to an upload, and the "detail" of other answers.
    if scope["path"].endswith("/upload"):
        return PlainTextResponse(message, status, headers)
    return JSONResponse({"error": message, "detail": message}, status, headers)


def _gradio_route(path: str) -> str | None:
    """Return the part of a path that names one of Gradio's routes, wherever the app is mounted."""
    _, prefix, route = path.partition("/gradio_api/")
    return route if prefix else None


def set_up_log() -> None:
    """Log to the standard error from INFO up, HTTP clients from WARNING up."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(terminal=sys.stderr.isatty()))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def formatter(terminal: bool) -> logging.Formatter:
    """Return the formatter of a line for a person at a terminal, or of a JSON object.

    The object has `time`, `level`, `logger`, `message`, the record's extra fields and `traceback`.
    """
    if terminal:
        return logging.Formatter("%(levelname)s %(name)s: %(message)s")
    return JsonFormatter(
        ["levelname", "name", "message"],
        rename_fields={"levelname": "level", "name": "logger", "exc_info": "traceback"},
        timestamp="time",
        json_ensure_ascii=False,
    )
