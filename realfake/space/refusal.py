"""An answer that ends a request before the app sees it, or all of it, in the form that its sender shows."""

from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import Send

from realfake.space.incoming import Incoming

# Seconds after which it may be worth coming back to a busy server.
RETRY_AFTER = "2"
# Bytes of a refused request that are read so that its sender sees the answer.
_DRAIN = 64 * 2**20


async def refuse(
    request: Incoming, send: Send, status: int, words: str, headers: dict[str, str] | None = None
) -> None:
    """Read on for a while, then answer with a status and one line.

    Args:
        request: What is refused.
        send: Where the answer goes.
        status: Its status.
        words: What to do instead.
        headers: *optional*. Of the answer.
    """
    # Before the answer: behind it the server gives nothing more of the request.
    await request.drain(_DRAIN)
    # Gradio's page shows the whole answer to an upload, and of others what is under "detail".
    if request.scope["path"].endswith("/upload"):
        answer = PlainTextResponse(words, status, headers)
    else:
        answer = JSONResponse({"error": words, "detail": words}, status, headers)
    await answer(request.scope, request.receive, send)
