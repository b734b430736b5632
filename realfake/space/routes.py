"""The page's plain HTTP routes: `POST /predict` as on the Hub, `/health`, `/ready`, and the documentation of these alone.

`page.launch` hands them to Gradio (`app_kwargs={"routes": routes(detector)}`), so that the app starts as Spaces and ZeroGPU
expect. Once all of a request has come it is decoded on a thread of its own, then waits in a
[`~realfake.space.batching.Batcher`] for the model.
"""

import asyncio
import json
import logging
import os
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor

from fastapi import Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import APIRoute
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect

from realfake import hub_api
from realfake.detector import Detector
from realfake.space.batching import MAX_WAITING, Batcher, Busy
from realfake.space.incoming import Incoming
from realfake.space.refusal import RETRY_AFTER
from realfake.space.room import Room

logger = logging.getLogger(__name__)

MAX_BYTES = 32 * 2**20
TIMEOUT = 30.0
ARRIVAL = 60.0
MAX_HELD = 512 * 2**20
# What a client that says nothing of the type sends, and what curl's --data-binary says by itself.
_UNSAID = (
    "",
    "application/octet-stream",
    "binary/octet-stream",
    "application/x-www-form-urlencoded",
)


class Refusal(Exception):
    """Ends a request with a status and one line for the client."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Service:
    """Answers requests with one detector.

    Args:
        detector: The detector.
        batcher: *optional*. Who runs its model.
        timeout: Seconds from the last byte of a request to its answer.
        max_bytes: Of an image file; JSON may be a third larger.
        max_requests: Requests that may be on their way at once, counted from their last byte.
        arrival: Seconds that a request may take to arrive.
        max_held: Bytes of all requests that arrive or are on their way.
    """

    def __init__(
        self,
        detector: Detector,
        batcher: Batcher | None = None,
        timeout: float = TIMEOUT,
        max_bytes: int = MAX_BYTES,
        max_requests: int = MAX_WAITING,
        arrival: float = ARRIVAL,
        max_held: int = MAX_HELD,
    ):
        self.detector = detector
        self.batcher = batcher or Batcher(detector.forward, max_waiting=max_requests)
        self.timeout = timeout
        self.max_bytes = max_bytes
        self.max_requests = max_requests
        self.arrival = arrival
        self._room = Room(max_held)
        self._on_their_way = 0
        # Decoded images are large: as many at once as there are cores to decode them.
        self._decoders = ThreadPoolExecutor(
            min(4, os.cpu_count() or 1), thread_name_prefix="decode"
        )

    async def predict(self, request: Request) -> JSONResponse:
        """Answer `POST /predict`."""
        request = Incoming(request.scope, request.receive)
        response = await self._answer(request)
        await request.drain(self.max_bytes * 4 // 3 + 2**16)
        return response

    async def _answer(self, request: Incoming) -> JSONResponse:
        try:
            with self._room.counted(request.receive) as receive:
                data, parameters = await self._arrived(Request(request.scope, receive))
                logits = await _unless_left(request, self._logits(data))
            return JSONResponse(hub_api.scores(logits, self.detector.model.config, parameters))
        except Refusal as refusal:
            return _error(refusal.status, str(refusal))
        except Busy:
            return _error(503, "The detector is busy; try again in a moment.")
        except ClientDisconnect:
            return _error(400, "The request ended early.")
        except Exception:
            logger.exception("A request could not be answered")
            return _error(500, "The detector failed on this image; the server's log says why.")

    async def _arrived(self, request: Request) -> tuple[bytes, hub_api.Parameters]:
        if self._on_their_way >= self.max_requests:
            raise Busy
        try:
            async with asyncio.timeout(self.arrival):
                return await self._read(request)
        except TimeoutError:
            words = (
                f"The request did not arrive within {self.arrival:g} seconds; scale the image down."
            )
            raise Refusal(408, words) from None

    async def _logits(self, data: bytes):
        loop = asyncio.get_running_loop()
        # A place is taken only now: with one from its first byte on, a client that sends slowly would keep others out.
        if self._on_their_way >= self.max_requests:
            raise Busy
        self._on_their_way += 1
        try:
            async with asyncio.timeout(self.timeout):
                pixels = await loop.run_in_executor(self._decoders, self._pixels, data)
                return await asyncio.wrap_future(self.batcher.submit(pixels))
        except TimeoutError:
            raise Refusal(
                503, f"No answer within {self.timeout:g} seconds; try again in a moment."
            ) from None
        finally:
            self._on_their_way -= 1

    def _pixels(self, data: bytes):
        try:
            return self.detector.pixels(data)
        except (ValueError, OSError) as error:
            raise Refusal(422, str(error)) from None

    async def _read(self, request: Incoming) -> tuple[bytes, hub_api.Parameters]:
        """The image file and the parameters, from whichever form the request has."""
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        try:
            if kind == "application/json":
                return self._from_json(await self._body(request, self.max_bytes * 4 // 3 + 2**16))
            if kind == "multipart/form-data":
                return await self._from_form(request)
            if kind in _UNSAID or kind.startswith("image/"):
                data = await self._body(request, self.max_bytes)
                return self._checked(data), hub_api.Parameters()
        except ValueError as error:
            raise Refusal(400, str(error)) from None
        raise Refusal(
            415,
            f"{kind[:60]} is not read; send the image file itself, a form with a file, or JSON with base64 inputs.",
        )

    async def _body(self, request: Request, limit: int) -> bytes:
        _check_length(request, limit)
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise _too_large(limit)
        return bytes(body)

    def _from_json(self, body: bytes) -> tuple[bytes, hub_api.Parameters]:
        try:
            sent = json.loads(body)
        except (ValueError, RecursionError):
            raise ValueError("The body is not valid JSON.") from None
        if not isinstance(sent, dict) or "inputs" not in sent:
            raise ValueError('The body must be an object with "inputs", the image file in base64.')
        parameters = hub_api.Parameters.read(sent.get("parameters"))
        return self._checked(hub_api.decode_inputs(sent["inputs"])), parameters

    async def _from_form(self, request: Request) -> tuple[bytes, hub_api.Parameters]:
        # Counted as it arrives: the parser writes what it is sent to the disk.
        limit = self.max_bytes + 2**16
        _check_length(request, limit)
        received, receive = 0, request.receive

        async def counted():
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _too_large(self.max_bytes)
            return message

        try:
            form = await Request(request.scope, counted).form(max_files=1, max_fields=8)
        except MultiPartException as error:
            raise ValueError(f"The form cannot be read: {error.message}") from None
        except Exception as error:
            if getattr(error, "status_code", None) == 400:  # Starlette wraps what its parser says
                raise ValueError(
                    f"The form cannot be read: {getattr(error, 'detail', '')}"
                ) from None
            raise
        try:
            files = [value for value in form.values() if isinstance(value, UploadFile)]
            if not files:
                raise ValueError(
                    "The form holds no file; send one, as curl -F file=@photo.jpg does."
                )
            fields = {name: value for name, value in form.items() if isinstance(value, str)}
            return self._checked(await files[0].read()), hub_api.Parameters.read(fields)
        finally:
            await form.close()

    def _checked(self, data: bytes) -> bytes:
        if not data:
            raise ValueError("The request holds no image; send the bytes of the file.")
        if len(data) > self.max_bytes:
            raise _too_large(self.max_bytes)
        return data

    async def health(self) -> JSONResponse:
        """Say that the process is alive, and how many images its model has judged here, in how many passes."""
        return JSONResponse(
            {"status": "ok", "images": self.batcher.items, "batches": self.batcher.batches}
        )

    async def ready(self) -> JSONResponse:
        """Say which detector is loaded, and whether the next request would be taken."""
        if self._on_their_way >= self.max_requests or self.batcher.full:
            return _error(503, "The detector is busy; try again in a moment.")
        return JSONResponse(
            {"status": "ready", "model": self.detector.name, "revision": self.detector.revision}
        )


def routes(detector: Detector, service: Service | None = None) -> list[APIRoute]:
    """The routes to hand to Gradio.

    Args:
        detector: The detector that answers.
        service: *optional*. With other limits than the usual ones.
    """
    service = service or Service(detector)
    own = [
        APIRoute(
            "/predict",
            service.predict,
            methods=["POST"],
            name="predict",
            summary="Classify an image",
            tags=["detector"],
            description="The form of the Hub's image-classification API: the image file as it is, a form with a file, or "
            "JSON with base64 `inputs` and `parameters`.",
            openapi_extra=_request_body(detector),
            responses=_responses(detector),
        ),
        APIRoute(
            "/health",
            service.health,
            name="health",
            summary="Is the process alive?",
            tags=["service"],
        ),
        APIRoute(
            "/ready",
            service.ready,
            name="ready",
            summary="Would the next request be taken?",
            tags=["service"],
            responses={503: {"description": "Busy"}},
        ),
    ]
    # Gradio's own 80 routes are for its clients; these are for people.
    schema = get_openapi(
        title=f"realfake: {detector.name}",
        version="1",
        description="Photograph or AI-generated? Probabilities are calibrated; a verdict is a reason to look closer, not proof.",
        routes=own,
    )

    async def openapi() -> JSONResponse:
        return JSONResponse(schema)

    async def docs() -> HTMLResponse:
        # Relative, so that it also holds behind a proxy with a path of its own.
        return get_swagger_ui_html(openapi_url="openapi.json", title="realfake")

    return [
        *own,
        APIRoute("/openapi.json", openapi, name="openapi", include_in_schema=False),
        APIRoute("/docs", docs, name="docs", include_in_schema=False),
    ]


async def _unless_left(request: Incoming, work: Coroutine):
    """Do work for a client, and give it up when the client does.

    Raises:
        ClientDisconnect: The client hung up; what had not begun of the work is not done.
    """
    doing, left = asyncio.ensure_future(work), asyncio.ensure_future(request.left())
    try:
        await asyncio.wait((doing, left), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ClientDisconnect
        return doing.result()
    finally:
        doing.cancel()
        left.cancel()


def _check_length(request: Request, limit: int) -> None:
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> Refusal:
    return Refusal(
        413,
        f"The request is larger than the limit of {limit / 2**20:.0f} MiB; scale the image down.",
    )


def _error(status: int, message: str) -> JSONResponse:
    # What is still to come of a request that was too slow is not waited for.
    headers = {408: {"Connection": "close"}, 503: {"Retry-After": RETRY_AFTER}}.get(status)
    return JSONResponse({"error": message}, status, headers)


def _request_body(detector: Detector) -> dict:
    options = {
        "top_k": {
            "type": "integer",
            "minimum": 1,
            "default": hub_api.TOP_K,
            "description": "How many classes to answer.",
        },
        "function_to_apply": {
            "type": "string",
            "enum": list(hub_api.FUNCTIONS),
            "default": "softmax",
        },
    }
    file = {"type": "string", "format": "binary", "description": "The image file."}
    inputs = {"type": "string", "format": "byte", "description": "The image file in base64."}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "image/*": {"schema": file},
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["file"],
                        "properties": {"file": file, **options},
                    }
                },
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["inputs"],
                        "properties": {
                            "inputs": inputs,
                            "parameters": {"type": "object", "properties": options},
                        },
                    }
                },
            },
        }
    }


def _responses(detector: Detector) -> dict:
    names = [str(name) for name in detector.model.config.id2label.values()]
    row = {
        "type": "object",
        "required": ["label", "score"],
        "properties": {"label": {"type": "string", "enum": names}, "score": {"type": "number"}},
    }
    error = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    problems = {
        400: "The request is not of one of the three forms",
        408: "The request arrived too slowly",
        413: "The image file is too large",
        415: "The content type is not read",
        422: "The file is no image, or it is damaged, too small or too large in pixels",
        503: "Busy; see `Retry-After`",
    }
    found = {"application/json": {"schema": {"type": "array", "items": row}}}
    return {
        200: {
            "description": "The classes with their probabilities, the most probable first",
            "content": found,
        },
        **{
            status: {"description": words, "content": {"application/json": {"schema": error}}}
            for status, words in problems.items()
        },
    }
