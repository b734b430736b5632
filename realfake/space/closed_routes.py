"""Gradio's routes that the page has no use for and that serve others: they are closed.

`/file=` and `/proxy=` with a URL fetch it for whoever asks, of any size and type; `/deep_link`, `/process_recording` and
`/component_server` write files that nobody deletes.
"""

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from realfake.space.incoming import Incoming
from realfake.space.refusal import refuse

_CLOSED = re.compile(
    r"proxy=|file[=/]\s*https?:|(deep_link|process_recording|component_server)(/|$)", re.IGNORECASE
)


class ClosedRoutes:
    """Wrap an ASGI app.

    Args:
        app: What answers on the other routes.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The server has decoded the path, once, as for Gradio.
        if scope["type"] == "http" and _CLOSED.match(gradio_route(scope["path"]) or ""):
            words = "This server fetches and keeps nothing for others; ask for the address itself."
            await refuse(Incoming(scope, receive), send, 403, words)
            return
        await self.app(scope, receive, send)


def gradio_route(path: str) -> str | None:
    """What of a path names a route of Gradio's own, wherever the app is mounted; `None` for the page's other routes."""
    _, prefix, route = path.partition("/gradio_api/")
    return route if prefix else None
