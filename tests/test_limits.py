"""Limits around every request: rate, body size, closed routes, headers, and the log."""

import io
import json
import logging
import sys
from contextlib import contextmanager

import limits.storage.memory
import limits.strategies
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from realfake.space import limits as module
from realfake.space.limits import (
    HEADERS,
    PRIVATE_NETWORKS,
    BodyLimit,
    Guard,
    RateLimit,
    body_limit,
    client_of,
    middleware,
)

# The rate


def test_requests_of_a_client_are_limited_per_minute():
    rate = RateLimit(per_minute=3)
    assert [rate.wait("a") for _ in range(3)] == [0, 0, 0]
    assert 1 <= rate.wait("a") <= 61
    assert rate.wait("b") == 0


def test_the_limit_is_lifted_as_the_minute_moves(monkeypatch):
    now = [1000.0]
    clock = type("Clock", (), {"time": staticmethod(lambda: now[0])})
    for owner in (module, limits.storage.memory, limits.strategies):
        monkeypatch.setattr(owner, "time", clock)
    rate = RateLimit(per_minute=2)
    assert rate.wait("a") == 0
    now[0] += 20
    assert rate.wait("a") == 0
    now[0] += 20
    assert rate.wait("a") == pytest.approx(20, abs=1)
    now[0] += 21
    assert rate.wait("a") == 0 < rate.wait("a")


def test_a_rate_of_zero_is_no_limit():
    rate = RateLimit(0)
    assert not any(rate.wait("a") for _ in range(1000))


@pytest.mark.parametrize(("text", "per_minute"), [(None, 240), ("", 240), ("0", 0), (" 90 ", 90)])
def test_the_environment_sets_the_rate(text, per_minute):
    environ = {} if text is None else {"REALFAKE_REQUESTS_PER_MINUTE": text}
    assert RateLimit.from_environ(environ).per_minute == per_minute


@pytest.mark.parametrize("text", ["many", "-1", "nan", "inf", "1.5"])
def test_a_wrong_rate_names_its_variable(text):
    with pytest.raises(ValueError, match=f"REALFAKE_REQUESTS_PER_MINUTE is '{text}'"):
        middleware({"REALFAKE_REQUESTS_PER_MINUTE": text})


# The client


def behind(peer, *forwarded):
    """The client that a request belongs to after uvicorn has read the proxy's headers."""
    seen = []

    async def app(scope, receive, send):
        seen.append(client_of(scope))

    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    scope = {"type": "http", "client": peer and (peer, 1), "headers": headers}
    proxied = ProxyHeadersMiddleware(app, trusted_hosts=PRIVATE_NETWORKS)
    coroutine = proxied(scope, None, None)
    with pytest.raises(StopIteration):
        coroutine.send(None)
    return seen[0]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("8.8.8.8", [], "8.8.8.8"),
        # Behind a proxy, the last address counts that is not a proxy's.
        ("10.0.0.2", ["8.8.8.8"], "8.8.8.8"),
        ("10.0.0.2", ["1.1.1.1, 8.8.8.8, 10.0.0.1"], "8.8.8.8"),
        ("10.0.0.2", ["1.1.1.1", "8.8.8.8"], "8.8.8.8"),
        ("127.0.0.1", ["1.1.1.1, 8.8.8.8"], "8.8.8.8"),
        ("fd00::2", ["8.8.8.8"], "8.8.8.8"),
        # Clients that a proxy does not tell apart share one limit.
        ("10.0.0.2", [], "10.0.0.2"),
        ("10.0.0.2", ["nonsense"], "unknown"),
        ("::ffff:10.0.0.2", [], "10.0.0.2"),
        # A client without a proxy cannot claim another address.
        ("8.8.8.8", ["1.1.1.1"], "8.8.8.8"),
        ("2a00:1450:4001:81b::200e", [], "2a00:1450:4001:81b::/64"),
        ("::ffff:8.8.8.8", [], "8.8.8.8"),
        # This machine has no limit: MCP tools call the page from here.
        ("127.0.0.1", [], None),
        ("::1", [], None),
        ("::ffff:127.0.0.1", [], None),
        (None, [], None),
    ],
)
def test_the_client_of_a_request(peer, forwarded, client):
    assert behind(peer, *forwarded) == client


# Around a request


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


async def fail(request: Request) -> PlainTextResponse:
    raise RuntimeError("secret")


async def full(request: Request) -> PlainTextResponse:
    own = {"Retry-After": "7"} if "own" in request.query_params else None
    return PlainTextResponse("Queue is full.", 503, own)


def guarded(rate: RateLimit, address: str = "8.8.8.8") -> TestClient:
    methods = ["GET", "HEAD", "POST"]
    routes = [Route("/fail", fail, methods=methods), Route("/full", full, methods=methods)]
    routes.append(Route("/{path:path}", echo, methods=methods))
    app = Guard(Starlette(routes=routes), rate)
    return TestClient(app, raise_server_exceptions=False, client=(address, 1))


def test_a_client_above_the_limit_gets_retry_after():
    rate = RateLimit(per_minute=1)
    one, other, here = (guarded(rate, address) for address in ("8.8.8.8", "1.1.1.1", "127.0.0.1"))
    assert one.post("/echo", content=b"abc").text == "3"
    refused = one.post("/echo", content=b"abc")
    assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 61
    assert refused.json()["error"] == refused.json()["detail"]
    assert refused.headers["x-content-type-options"] == "nosniff"
    # Gradio's page shows the whole answer to an upload.
    assert "Too many requests" in one.post("/gradio_api/upload").text
    assert one.post("/gradio_api/upload").headers["content-type"].startswith("text/plain")
    # Others, requests that cause no work, and this machine are not limited.
    assert other.post("/echo").status_code == 200
    assert [one.get("/echo").status_code for _ in range(5)] == [200] * 5
    assert [here.post("/echo").status_code for _ in range(5)] == [200] * 5


def test_a_busy_server_sends_retry_after():
    client = guarded(RateLimit())
    assert client.post("/full").headers["retry-after"] == "2"
    assert client.post("/full?own").headers["retry-after"] == "7"
    assert "retry-after" not in client.post("/fail").headers


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_every_answer_has_the_headers(method):
    answer = guarded(RateLimit()).request(method, "/echo")
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=https://example.org/film.mkv",
        "/gradio_api/file=http://example.org:8080/x",
        "/gradio_api/file/https://example.org/film.mkv",
        "/gradio_api/file=HTTPS://example.org/x",
        "/gradio_api/file=%68ttps%3A%2F%2Fexample.org/x",
        "/gradio_api/file%3Dhttps://example.org/x",
        "/gradio_api/%66ile=https://example.org/x",
        "/mounted/here/gradio_api/file=https://example.org/x",
        "/gradio_api/proxy=https://user-name.hf.space/x",
        "/gradio_api/proxy=x",
        "/gradio_api/deep_link?session_hash=abc",
        "/gradio_api/deep_link/",
        "/gradio_api/process_recording",
        "/gradio_api/component_server/",
    ],
)
def test_routes_that_fetch_or_keep_files_for_others_are_closed(method, path):
    assert guarded(RateLimit()).request(method, path).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/predict",
        "/gradio_api/file=/tmp/gradio/0f/photo.jpg",
        "/gradio_api/file=/tmp/gradio/0f/https.jpg",
        "/gradio_api/file=/tmp/gradio/0f/proxy=1.jpg",
        "/gradio_api/file/tmp/gradio/0f/photo.jpg",
        "/gradio_api/upload",
        "/gradio_api/queue/join",
        "/gradio_api/info?address=https://example.org",
    ],
)
def test_the_other_routes_are_open(path):
    assert guarded(RateLimit()).get(path).text == "0"


# The size of a body


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/gradio_api/upload", module.MAX_UPLOAD_BYTES),
        ("/gradio_api/upload/", module.MAX_UPLOAD_BYTES),
        ("/behind/a/proxy/gradio_api/upload", module.MAX_UPLOAD_BYTES),
        ("/gradio_api/mcp", module.MAX_MCP_BYTES),
        ("/gradio_api/mcp/", module.MAX_MCP_BYTES),
        ("/gradio_api/mcp/messages/", module.MAX_MCP_BYTES),
        ("/gradio_api/queue/join", module.MAX_JSON_BYTES),
        ("/gradio_api/call/predict", module.MAX_JSON_BYTES),
        ("/gradio_api/run/predict", module.MAX_JSON_BYTES),
        ("/gradio_api/call/upload", module.MAX_JSON_BYTES),
        ("/gradio_api/uploads", module.MAX_JSON_BYTES),
        ("/login", module.MAX_JSON_BYTES),
        # It has its own limits.
        ("/predict", None),
    ],
)
def test_the_limit_depends_on_the_route(path, limit):
    assert body_limit(path) == limit


def test_the_limits_are_above_what_the_page_sends():
    assert module.MAX_MCP_BYTES > 32 * 2**20 * 4 / 3
    # The batch tab names its 200 files by their paths.
    assert module.MAX_JSON_BYTES > 200 * 1000
    assert module.MAX_UPLOAD_BYTES > 200 * 4 * 2**20


async def form(request: Request) -> JSONResponse:
    async with request.form() as sent:
        return JSONResponse(sorted(sent))


@pytest.fixture
def limited(monkeypatch):
    for number, name in enumerate(("MAX_UPLOAD_BYTES", "MAX_MCP_BYTES", "MAX_JSON_BYTES")):
        monkeypatch.setattr(module, name, 100_000 + number)
    paths = {"call/echo": echo, "call/form": form, "upload": echo}
    routes = [
        Route(f"/gradio_api/{path}", answer, methods=["POST"]) for path, answer in paths.items()
    ]
    routes.append(Route("/predict", echo, methods=["POST"]))
    return TestClient(BodyLimit(Starlette(routes=routes)))


def chunks(total: int):
    """A body without a length."""
    for start in range(0, total, 1000):
        yield bytes(min(1000, total - start))


@pytest.mark.parametrize(("path", "limit"), [("call/echo", 100_002), ("upload", 100_000)])
@pytest.mark.parametrize("body", [bytes, chunks])
def test_a_body_is_limited(limited, path, limit, body):
    assert limited.post(f"/gradio_api/{path}", content=body(limit)).text == str(limit)
    assert limited.post(f"/gradio_api/{path}", content=body(limit + 1)).status_code == 413


def test_a_form_is_limited(limited):
    assert limited.post("/gradio_api/call/form", files={"a": bytes(90_000)}).json() == ["a"]
    parts = {name: bytes(40_000) for name in "abc"}
    assert limited.post("/gradio_api/call/form", files=parts).status_code == 413


def test_predict_has_limits_in_its_route(limited):
    assert limited.post("/predict", content=bytes(200_000)).text == "200000"


# The log


def test_a_post_leaves_one_line_without_its_content(caplog):
    caplog.set_level(logging.INFO, "realfake.space.limits")
    client = guarded(RateLimit())
    client.post("/echo?name=holiday.jpg", content=b"picture")
    client.post("/fail", content=b"picture")
    client.get("/echo")
    lines = [
        json.loads(module.formatter(terminal=False).format(record))
        for record in caplog.records
        if record.name.endswith("limits")
    ]
    assert [(line["path"], line["status"], line["received"]) for line in lines] == [
        ("/echo", 200, 7),
        ("/fail", 500, 7),
    ]
    assert all(line["milliseconds"] >= 0 for line in lines)
    for word in ("holiday", "picture", "8.8.8.8"):
        assert word not in json.dumps(lines)


def record(message: str, **extra) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": "realfake.x", "levelname": "INFO", "levelno": 20, "msg": message, **extra}
    )


def test_a_line_is_one_json_object():
    try:
        raise ValueError("two\nlines")
    except ValueError:
        error = sys.exc_info()
    text = module.formatter(False).format(record('a "word"\nand ü', exc_info=error, status=200))
    assert "\n" not in text and "ü" in text
    line = json.loads(text)
    assert {name: line[name] for name in ("level", "logger", "message", "status")} == {
        "level": "INFO",
        "logger": "realfake.x",
        "message": 'a "word"\nand ü',
        "status": 200,
    }
    assert line["traceback"].endswith("ValueError: two\nlines") and line["time"].endswith("+00:00")


@contextmanager
def logging_restored(*names: str):
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for name, value in levels.items():
            logging.getLogger(name).setLevel(value)


@pytest.mark.parametrize(("terminal", "first"), [(True, "INFO"), (False, "{")])
def test_a_terminal_gets_plain_lines_and_programs_get_json(monkeypatch, terminal, first):
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", stream)
    with logging_restored(*module.QUIET):
        module.set_up_log()
        logging.getLogger("realfake.x").info("hello")
    assert stream.getvalue().startswith(first) and "hello" in stream.getvalue()


@pytest.mark.parametrize("name", ["httpx", "httpx2"])  # Gradio's client, and the Hub's
def test_the_urls_of_requests_are_not_logged(monkeypatch, name):
    httpx = pytest.importorskip(name)
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    answer = httpx.MockTransport(lambda request: httpx.Response(200))
    with logging_restored(*module.QUIET):
        module.set_up_log()
        with httpx.Client(transport=answer) as client:
            client.get("https://cdn.example/photo.jpg?Signature=secret")
        logging.getLogger(name).warning("a warning")
    assert "photo.jpg" not in stream.getvalue() and "a warning" in stream.getvalue()
