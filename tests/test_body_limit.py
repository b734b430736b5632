"""How large a request to Gradio's routes may be: by what it declares, and by what comes."""

import asyncio

import pytest
from gradio.route_utils import GradioMultiPartParser
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from realfake.space import body_limit
from realfake.space.body_limit import BodyLimit, Limit, limit_of


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/gradio_api/upload", body_limit.UPLOAD),
        ("/gradio_api/upload/", body_limit.UPLOAD),
        ("/behind/a/proxy/gradio_api/upload", body_limit.UPLOAD),
        ("/gradio_api/mcp", body_limit.MCP),
        ("/gradio_api/mcp/", body_limit.MCP),
        ("/gradio_api/mcp/messages/", body_limit.MCP),
        ("/gradio_api/queue/join", body_limit.JSON),
        ("/gradio_api/call/predict", body_limit.JSON),
        ("/gradio_api/run/predict", body_limit.JSON),
        ("/gradio_api/call/upload", body_limit.JSON),
        ("/gradio_api/component_server", body_limit.JSON),
        ("/gradio_api/process_recording", body_limit.JSON),
        ("/gradio_api/uploads", body_limit.JSON),
        ("/login", body_limit.JSON),
        # It counts for itself.
        ("/predict", None),
    ],
)
def test_the_limit_is_the_routes(path, limit):
    assert limit_of(path) == limit


def test_the_limits_hold_what_the_page_sends():
    assert body_limit.MCP.max_bytes > 32 * 2**20 * 4 / 3
    assert (
        body_limit.JSON.max_bytes > 200 * 1000
    )  # the batch tab names its 200 files by their paths
    assert body_limit.UPLOAD.max_bytes > 200 * 4 * 2**20


async def length(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


async def wary(request: Request) -> PlainTextResponse:
    """Answers whatever happens to its body, as Gradio does."""
    try:
        return PlainTextResponse(str(len(await request.body())))
    except Exception:
        return PlainTextResponse("The body is no JSON.", 400)


async def form(request: Request) -> JSONResponse:
    async with request.form() as sent:
        return JSONResponse(sorted(sent))


@pytest.fixture
def client(monkeypatch):
    for name in ("UPLOAD", "MCP", "JSON"):
        monkeypatch.setattr(body_limit, name, Limit(100_000, "send less"))
    paths = {"call/length": length, "call/wary": wary, "call/form": form, "upload": wary}
    routes = [
        Route(f"/gradio_api/{path}", answer, methods=["POST"]) for path, answer in paths.items()
    ]
    routes.append(Route("/predict", length, methods=["POST"]))
    return TestClient(BodyLimit(Starlette(routes=routes)))


def chunks(total: int):
    """A body without a length."""
    for start in range(0, total, 1000):
        yield bytes(min(1000, total - start))


@pytest.mark.parametrize("path", ["length", "wary"])
@pytest.mark.parametrize("body", [bytes, chunks])
def test_json_is_bounded(client, path, body):
    assert client.post(f"/gradio_api/call/{path}", content=body(100_000)).text == "100000"
    refused = client.post(f"/gradio_api/call/{path}", content=body(100_001))
    words = "The request is larger than the limit of 0 MiB; send less."
    assert refused.status_code == 413 and refused.json() == {"error": words, "detail": words}


@pytest.mark.parametrize("body", [bytes, chunks])
def test_an_upload_is_bounded_and_hears_it_in_plain_words(client, body):
    refused = client.post("/gradio_api/upload", content=body(100_001))
    assert refused.status_code == 413
    assert refused.text == "The request is larger than the limit of 0 MiB; send less."


def test_a_form_is_bounded(client):
    assert client.post("/gradio_api/call/form", files={"a": bytes(90_000)}).json() == ["a"]
    parts = {name: bytes(40_000) for name in "abc"}
    assert client.post("/gradio_api/call/form", files=parts).status_code == 413


def test_the_detectors_own_route_counts_for_itself(client):
    assert client.post("/predict", content=bytes(200_000)).text == "200000"


SCOPE = {"type": "http", "method": "POST", "path": "/gradio_api/call/x", "headers": []}


def answered(app, scope: dict, *received: dict) -> list[dict]:
    """What an app behind the limit sends while it receives these."""
    messages, sent = iter(received), []

    async def receive():
        return next(messages)

    async def send(message):
        sent.append(message)

    asyncio.run(BodyLimit(app)(scope, receive, send))
    return sent


def test_an_answer_that_has_begun_is_not_answered_again(client):
    async def early(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await receive()

    (only,) = answered(
        early, SCOPE, {"type": "http.request", "body": bytes(100_001), "more_body": True}
    )
    assert only["status"] == 200


def test_a_form_whose_sender_hangs_up_leaves_no_file(tmp_path):
    """Gradio's parser deletes what it has written only where it is told in its own words."""

    async def upload(scope, receive, send):
        request = Request(scope, receive)
        parser = GradioMultiPartParser(
            request.headers, request.stream(), upload_dir=tmp_path, max_file_size=10**6
        )
        await parser.parse()

    scope = SCOPE | {"headers": [(b"content-type", b"multipart/form-data; boundary=x")]}
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    begun = {"type": "http.request", "body": part + bytes(1000), "more_body": True}
    assert answered(upload, scope, begun, {"type": "http.disconnect"}) == []
    assert list(tmp_path.iterdir()) == []


def test_who_waits_for_an_answer_may_hang_up(client):
    """A connection that ends behind a whole form is not an early end of it."""

    async def slow(scope, receive, send):
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        seen.append("left")

    seen = []
    scope = SCOPE | {"headers": [(b"content-type", b"multipart/form-data; boundary=x")]}
    answered(slow, scope, {"type": "http.request", "body": b"--x--"}, {"type": "http.disconnect"})
    assert seen == ["left"]
