"""The page's plain HTTP routes: `POST /predict` as on the Hub, `/health`, `/ready`, `/docs`.

A request's image is decoded on a thread of a small pool, then waits in a [`Batcher`] for the model:
requests that arrive together share a forward pass. `page.launch` adds the routes to Gradio's app.
`templates/openapi.json` describes them; `/docs` shows it without anything from another host.
"""

import asyncio
import json
import logging
import os
import queue
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from fastapi import Request
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from realfake import hub_api
from realfake.detector import Detector
from realfake.imaging.decode import open_image
from realfake.space.limits import MAX_IMAGE_BYTES, RETRY_AFTER
from realfake.space.text import TEMPLATES

logger = logging.getLogger(__name__)

TIMEOUT = 30.0
ARRIVAL = 60.0
MAX_HELD = 512 * 2**20
# Images in one request; together they may have as many bytes as one.
MAX_IMAGES = 16
# Views in one forward pass. With 16, two cores serve 40 % fewer requests than with 8, because
# decoding waits for the model (`scripts/benchmark.py --only space-users`).
MAX_BATCH = 8
MAX_WAITING = 64
# Content types of clients that name none, and of curl's --data-binary.
_UNNAMED = (
    "",
    "application/octet-stream",
    "binary/octet-stream",
    "application/x-www-form-urlencoded",
)
# Image files of a request, its parameters, and whether the answer is a list of answers.
_Images = tuple[list[bytes], hub_api.Parameters, bool]


class Refusal(Exception):
    """End a request with a status and a message of one line."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Busy(Refusal):
    """There is no place for a request."""

    def __init__(self) -> None:
        super().__init__(503, "The detector is busy; try again in a moment.")


class Batcher:
    """Run a function of a batch for callers that have one item each.

    One thread takes all items that arrived during the last batch, and does not wait for more.

    Args:
        forward: From `(n, 3, height, width)` to `(n, labels)`.
        max_batch: Views in one call, unless a single item has more.
        max_waiting: Items that may wait.

    Attributes:
        batches, items: The number of calls so far, and of the items in them.
    """

    def __init__(
        self,
        forward: Callable[[torch.Tensor], np.ndarray],
        max_batch: int = MAX_BATCH,
        max_waiting: int = MAX_WAITING,
    ):
        self.forward = forward
        self.max_batch = max_batch
        self.batches = self.items = 0
        self._queue: queue.Queue[tuple[torch.Tensor, Future]] = queue.Queue(max_waiting)
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, pixels: torch.Tensor) -> Future:
        """Add the views of one image, `(views, 3, height, width)`, to the queue.

        Returns:
            A future of the mean of their rows, of shape `(labels,)`. A cancelled item is not
            computed.

        Raises:
            Busy: The queue is full.
        """
        future: Future = Future()
        try:
            self._queue.put_nowait((pixels, future))
        except queue.Full:
            raise Busy from None
        # Started with the first item: a thread does not survive the fork of ZeroGPU.
        with self._start:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
                self._thread.start()
        return future

    @property
    def full(self) -> bool:
        """Whether the next item would be refused."""
        return self._queue.full()

    def _run(self) -> None:
        while True:
            batch = [self._queue.get()]
            views = len(batch[0][0])
            while views < self.max_batch and not self._queue.empty():
                batch.append(self._queue.get_nowait())  # this thread is the only reader
                views += len(batch[-1][0])
            # Some processors keep an image's own size.
            groups: dict[torch.Size, list[tuple[torch.Tensor, Future]]] = {}
            for pixels, future in batch:
                if future.set_running_or_notify_cancel():
                    groups.setdefault(pixels.shape[1:], []).append((pixels, future))
            for group in groups.values():
                self.batches += 1
                self.items += len(group)
                try:
                    rows = self.forward(torch.cat([pixels for pixels, _ in group]))
                except BaseException as error:
                    for _, future in group:
                        future.set_exception(error)
                else:
                    ends = np.cumsum([len(pixels) for pixels, _ in group])[:-1]
                    for (_, future), own in zip(group, np.split(rows, ends), strict=True):
                        future.set_result(own.mean(axis=0))


class Service:
    """Answer requests with one detector.

    Args:
        detector: The detector.
        batcher: *optional*. Runs its model.
        timeout: Seconds from the last byte of a request to its answer.
        max_bytes: Bytes of an image file; JSON may be a third larger.
        max_requests: Requests in progress at once, counted from their last byte.
        arrival: Seconds that a request may take to arrive.
        max_held: Bytes of all requests that are arriving or in progress.
        missing: *optional*. The checkpoint that the operator named, if the bundled one replaces it.

    Attributes:
        in_progress: Requests in progress.
        held: Bytes of all requests that are arriving or in progress.
    """

    def __init__(
        self,
        detector: Detector,
        batcher: Batcher | None = None,
        timeout: float = TIMEOUT,
        max_bytes: int = MAX_IMAGE_BYTES,
        max_requests: int = MAX_WAITING,
        arrival: float = ARRIVAL,
        max_held: int = MAX_HELD,
        missing: str | None = None,
    ):
        self.detector = detector
        self.batcher = batcher or Batcher(detector.forward, max_waiting=max_requests)
        self.timeout = timeout
        self.max_bytes = max_bytes
        self.max_requests = max_requests
        self.arrival = arrival
        self.max_held = max_held
        self.missing = missing
        self.in_progress = self.held = 0
        # Decoded images are large: no more at once than cores to decode them.
        self._decoders = ThreadPoolExecutor(
            min(4, os.cpu_count() or 1), thread_name_prefix="decode"
        )

    async def predict(self, request: Request) -> JSONResponse:
        """Answer `POST /predict`."""
        request.state.held = 0
        try:
            files, parameters, several = await self._received(request)
            rows = await _cancelled_on_disconnect(request.receive, self._logits(files))
            config = self.detector.model.config
            answers = [hub_api.scores(row, config, parameters) for row in rows]
            return JSONResponse(answers if several else answers[0])
        except Refusal as refusal:
            return _error(refusal.status, str(refusal))
        except ClientDisconnect:
            return _error(400, "The request ended early.")
        except Exception:
            logger.exception("A request could not be answered")
            return _error(
                500, "The detector failed on this image; the server's log has the reason."
            )
        finally:
            self.held -= request.state.held

    async def _received(self, request: Request) -> _Images:
        self._check_place()
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        forms = ("application/json", "multipart/form-data", *_UNNAMED)
        if kind not in forms and not kind.startswith("image/"):
            raise Refusal(
                415,
                f"{kind[:60]} is not supported; send the image file, a form with a file, "
                "or JSON with base64 inputs.",
            )
        # What JSON and a form add to the file.
        more = {"application/json": self.max_bytes // 3 + 2**16, "multipart/form-data": 2**16}
        try:
            async with asyncio.timeout(self.arrival):
                body = await self._read(request, self.max_bytes + more.get(kind, 0))
        except TimeoutError:
            raise Refusal(
                408,
                f"The request did not arrive within {self.arrival:g} seconds; "
                "scale the image down.",
            ) from None
        try:
            if kind == "application/json":
                images = _from_json(body)
            elif kind == "multipart/form-data":
                images = await _from_form(request, body)
            else:
                images = [body], hub_api.Parameters(), False
        except ValueError as error:
            raise Refusal(400, str(error)) from None
        files = images[0]
        if not files or not all(files):
            raise Refusal(400, "The request has no image; send the bytes of the file.")
        if len(files) > MAX_IMAGES:
            raise Refusal(400, f"A request may have {MAX_IMAGES} images; send the others in more.")
        if max(map(len, files)) > self.max_bytes:
            raise _too_large(self.max_bytes)
        return images

    async def _read(self, request: Request, limit: int) -> bytes:
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            raise _too_large(limit)
        body = bytearray()
        async for chunk in request.stream():
            if self.held + len(chunk) > self.max_held:
                raise Busy
            self.held += len(chunk)
            request.state.held += len(chunk)
            body += chunk
            if len(body) > limit:
                raise _too_large(limit)
        return bytes(body)

    def _check_place(self) -> None:
        if self.in_progress >= self.max_requests:
            raise Busy

    async def _logits(self, files: list[bytes]) -> list[np.ndarray]:
        loop = asyncio.get_running_loop()
        # Counted only now: a client that sends slowly must not take a place.
        self._check_place()
        self.in_progress += 1
        rows: list[asyncio.Future] = []
        try:
            async with asyncio.timeout(self.timeout):
                for data in files:
                    pixels = await loop.run_in_executor(self._decoders, self._pixels, data)
                    rows.append(asyncio.wrap_future(self.batcher.submit(pixels)))
                return list(await asyncio.gather(*rows))
        except Busy:
            raise
        except Refusal as refusal:
            name = f"Image {len(rows) + 1}: " if len(files) > 1 else ""
            raise Refusal(refusal.status, f"{name}{refusal}") from None
        except TimeoutError:
            raise Refusal(
                503, f"No answer within {self.timeout:g} seconds; try again in a moment."
            ) from None
        finally:
            self.in_progress -= 1
            for row in rows:
                row.cancel()

    def _pixels(self, data: bytes) -> torch.Tensor:
        try:
            detector, limit = self.detector, self.detector.limit(None)
            if limit == 1:
                return detector.pixels(data)
            tensors, _ = detector.inputs([open_image(data)], limit, MAX_BATCH)
            return torch.cat(list(tensors))
        except (ValueError, OSError) as error:
            raise Refusal(422, str(error)) from None

    async def health(self) -> JSONResponse:
        """Answer `/health`: the number of images classified at `/predict`, and of batches."""
        return JSONResponse(
            {"status": "ok", "images": self.batcher.items, "batches": self.batcher.batches}
        )

    async def ready(self) -> JSONResponse:
        """Answer `/ready`: which detector answers, and 503 if the next request would be refused."""
        if self.in_progress >= self.max_requests or self.batcher.full:
            return _error(503, str(Busy()))
        answer = {"model": self.detector.name, "revision": self.detector.revision}
        if self.missing:
            return JSONResponse({"status": "fallback", **answer, "missing": self.missing})
        return JSONResponse({"status": "ready", **answer})


def routes(service: Service) -> list[APIRoute]:
    """Return the routes for Gradio's app."""
    schema = json.loads((TEMPLATES / "openapi.json").read_text(encoding="utf-8"))
    schema["info"]["title"] = f"realfake: {service.detector.name}"
    names = [str(name) for name in service.detector.model.config.id2label.values()]
    schema["components"]["schemas"]["Score"]["properties"]["label"]["enum"] = names
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True)
    page = environment.get_template("docs.html")

    async def openapi() -> JSONResponse:
        return JSONResponse(schema)

    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(page.render(schema=schema, address=str(request.base_url).rstrip("/")))

    return [
        APIRoute("/predict", service.predict, methods=["POST"], name="predict"),
        # The Hub's client posts to the address of a model itself.
        APIRoute("/", service.predict, methods=["POST"], name="predict_root"),
        APIRoute("/health", service.health, name="health"),
        APIRoute("/ready", service.ready, name="ready"),
        APIRoute("/openapi.json", openapi, name="openapi"),
        APIRoute("/docs", docs, name="docs"),
    ]


def _from_json(body: bytes) -> _Images:
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("The body is not valid JSON.") from None
    if not isinstance(sent, dict) or "inputs" not in sent:
        raise ValueError('The body must be an object with "inputs", the image file in base64.')
    inputs, parameters = sent["inputs"], hub_api.Parameters.read(sent.get("parameters"))
    several = isinstance(inputs, list)
    files = [hub_api.decode_inputs(each) for each in (inputs if several else [inputs])]
    return files, parameters, several


async def _from_form(request: Request, body: bytes) -> _Images:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    # Without the app, which would turn the parser's errors into HTTP errors.
    scope = {name: value for name, value in request.scope.items() if name != "app"}
    try:
        form = await Request(scope, receive).form(max_files=MAX_IMAGES, max_fields=8)
    except MultiPartException as error:
        raise ValueError(f"The form cannot be read: {error.message}") from None
    try:
        entries = form.multi_items()
        files = [await each.read() for _, each in entries if isinstance(each, UploadFile)]
        if not files:
            raise ValueError("The form has no file; send one, as curl -F file=@photo.jpg does.")
        fields = {name: value for name, value in entries if isinstance(value, str)}
        return files, hub_api.Parameters.read(fields), len(files) > 1
    finally:
        await form.close()


async def _cancelled_on_disconnect(
    receive: Receive, work: Coroutine[Any, Any, list[np.ndarray]]
) -> list[np.ndarray]:
    """Run work for a request that has arrived; `ClientDisconnect` if the client disconnects."""

    async def disconnected() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    doing, leaving = asyncio.ensure_future(work), asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait((doing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ClientDisconnect
        return doing.result()
    finally:
        doing.cancel()
        leaving.cancel()


def _too_large(limit: int) -> Refusal:
    return Refusal(
        413,
        f"The request is larger than the limit of {limit / 2**20:.0f} MiB; scale the image down.",
    )


def _error(status: int, message: str) -> JSONResponse:
    # The rest of a request that was too slow is not waited for.
    headers = {408: {"Connection": "close"}, 503: {"Retry-After": RETRY_AFTER}}.get(status)
    return JSONResponse({"error": message}, status, headers)
