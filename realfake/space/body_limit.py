"""How large a request's body may be, by the route that it is for.

Gradio limits single files, not requests: it reads JSON of any size into memory and takes a thousand files at a time.
"""

from contextlib import suppress
from dataclasses import dataclass

from starlette.formparsers import MultiPartException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from realfake.space.closed_routes import gradio_route
from realfake.space.incoming import Incoming
from realfake.space.refusal import refuse
from realfake.space.routes import MAX_BYTES


@dataclass(frozen=True)
class Limit:
    """A limit in bytes, and what to do where it is too low."""

    max_bytes: int
    instead: str

    def __str__(self) -> str:
        return f"The request is larger than the limit of {self.max_bytes / 2**20:.0f} MiB; {self.instead}."


# The batch tab sends all of its files in one request.
UPLOAD = Limit(2**30, "upload fewer files at a time")
# An image file in base64.
MCP = Limit(MAX_BYTES * 4 // 3 + 2**16, "scale the image down")
JSON = Limit(2**20, "send files to /gradio_api/upload and name them by the paths that it answers")


class BodyLimit:
    """Wrap an ASGI app.

    Args:
        app: What answers requests that are small enough.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = (
            limit_of(scope["path"])
            if scope["type"] == "http" and scope["method"] == "POST"
            else None
        )
        if limit is None:
            await self.app(scope, receive, send)
            return
        request = Incoming(scope, receive)
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > limit.max_bytes:
            await refuse(request, send, 413, str(limit))
            return
        await self._counted(request, send, limit)

    async def _counted(self, request: Incoming, send: Send, limit: Limit) -> None:
        received, answered = 0, False
        is_form = request.headers.get("content-type", "").startswith("multipart/")

        async def counted() -> Message:
            nonlocal received
            whole, message = request.ended, await request.receive()
            received += len(message.get("body", b""))
            left = is_form and not whole and message["type"] == "http.disconnect"
            # The one exception at which Gradio's parser of forms deletes what it has written of one.
            if left or received > limit.max_bytes:
                raise MultiPartException("The request ended early.")
            return message

        async def unless_too_large(message: Message) -> None:
            nonlocal answered
            if answered or received <= limit.max_bytes:
                answered = True
                await send(message)

        with suppress(MultiPartException):
            await self.app(request.scope, counted, unless_too_large)
        if received > limit.max_bytes and not answered:
            await refuse(request, send, 413, str(limit))


def limit_of(path: str) -> Limit | None:
    """The limit for a path; `None` for `/predict`, which counts for itself."""
    route = gradio_route(path)
    if route is None:
        return None if path.endswith("/predict") else JSON
    if route.rstrip("/") == "upload":
        return UPLOAD
    return MCP if route.split("/")[0] == "mcp" else JSON
