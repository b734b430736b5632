"""Around every request to the page: a limit for each client, a few headers, and a line in the log.

An ASGI middleware, inside Gradio's own. A POST is what makes the server work: it counts against the limit and is logged, by
path, status and size. What is in it is not: neither an image, nor its name, nor whose it is.
"""

import logging
import math
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from realfake.space.incoming import Incoming
from realfake.space.rate_limit import RateLimit, client_of
from realfake.space.refusal import RETRY_AFTER, refuse

logger = logging.getLogger(__name__)

HEADERS = {
    # What a visitor uploaded must not be taken for a page, whatever is in it.
    "X-Content-Type-Options": "nosniff",
    # Other sites learn where a link was followed from, not what the page showed.
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "Permissions-Policy": "geolocation=(), microphone=(), payment=(), usb=()",
}


class Guard:
    """Wrap an ASGI app.

    Args:
        app: What answers.
        limit: The limit for each client.
    """

    def __init__(self, app: ASGIApp, limit: RateLimit):
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] != "POST":
            await self.app(scope, receive, _with_headers(send))
            return
        began, status, received = time.perf_counter(), 0, 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._answer(scope, counted, _with_headers(noted))
        finally:
            milliseconds = round(1e3 * (time.perf_counter() - began), 1)
            fields = {
                "request": uuid.uuid4().hex[:12],
                "path": scope["path"][:80],
                "status": status,
            }
            logger.info(
                "request",
                extra={"fields": fields | {"milliseconds": milliseconds, "received": received}},
            )

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        peer = scope["client"][0] if scope.get("client") else None
        client = client_of(peer, Headers(scope=scope).getlist("x-forwarded-for"))
        seconds = self.limit.wait(client) if client else 0.0
        if not seconds:
            await self.app(scope, receive, send)
            return
        words = f"Too many requests from your address; try again in {math.ceil(seconds)} seconds."
        wait = {"Retry-After": str(math.ceil(seconds))}
        await refuse(Incoming(scope, receive), send, 429, words, wait)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            # Gradio says that its queue is full without saying when to come back.
            if message["status"] == 503:
                headers.setdefault("Retry-After", RETRY_AFTER)
        await send(message)

    return sending
