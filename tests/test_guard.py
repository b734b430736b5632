"""What stands around every request: the limit for a client, the headers, and what the log says and does not say."""

import io
import json
import logging
import sys
from contextlib import contextmanager

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from realfake.space import log
from realfake.space.guard import HEADERS, Guard
from realfake.space.rate_limit import RateLimit, client_of


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


# The limit


def test_a_burst_then_the_rate_and_never_more_than_a_burst_again():
    limit = RateLimit(per_minute=60, clock=(clock := Clock()))
    assert [limit.wait("a") for _ in range(30)] == [0.0] * 30
    assert limit.wait("a") == pytest.approx(1.0)
    clock.now += 0.75
    assert limit.wait("a") == pytest.approx(0.25)  # being refused costs nothing
    clock.now += 0.25
    assert limit.wait("a") == 0.0 < limit.wait("a")
    clock.now += 3600
    assert [limit.wait("a") > 0 for _ in range(31)] == [False] * 30 + [True]


def test_one_client_does_not_use_up_anothers():
    limit = RateLimit(per_minute=2, clock=Clock())
    assert limit.wait("a") == 0.0 < limit.wait("a")
    assert limit.wait("b") == 0.0


def test_clients_are_forgotten_oldest_first():
    limit = RateLimit(per_minute=2, max_clients=2, clock=Clock())
    for client in ("a", "b", "a", "c"):  # "b" was unseen longest when "c" came
        limit.wait(client)
    assert len(limit._buckets) == 2
    assert limit.wait("a") > 0 and limit.wait("b") == 0.0


def test_no_limit():
    limit = RateLimit(0)
    assert [limit.wait("a") for _ in range(1000)] == [0.0] * 1000


@pytest.mark.parametrize(("text", "per_minute"), [(None, 240), ("", 240), ("0", 0), (" 90 ", 90)])
def test_the_limit_is_set_by_the_environment(text, per_minute):
    environ = {} if text is None else {"REALFAKE_REQUESTS_PER_MINUTE": text}
    assert RateLimit.from_environ(environ).rate == pytest.approx(per_minute / 60)


@pytest.mark.parametrize("text", ["many", "-1", "nan", "inf"])
def test_a_limit_that_is_none(text):
    with pytest.raises(
        ValueError, match=f"REALFAKE_REQUESTS_PER_MINUTE is '{text}'; it must be a number"
    ):
        RateLimit.from_environ({"REALFAKE_REQUESTS_PER_MINUTE": text})


# Who is asking


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("127.0.0.1", [], None),
        ("8.8.8.8", [], "8.8.8.8"),
        # Behind a proxy, its part of the chain counts, and not what the client wrote in front of it.
        ("10.0.0.2", ["8.8.8.8"], "8.8.8.8"),
        ("10.0.0.2", ["1.1.1.1, 8.8.8.8, 10.0.0.1"], "8.8.8.8"),
        ("10.0.0.2", ["1.1.1.1", "8.8.8.8"], "8.8.8.8"),
        ("10.0.0.2", ["8.8.8.8, nonsense"], "8.8.8.8"),
        # Who cannot be told apart from others shares the limit of their gateway, and what a client writes is no way out.
        ("10.0.0.2", ["nonsense", "192.168.0.9"], "10.0.0.2"),
        ("10.0.0.2", [], "10.0.0.2"),
        ("::ffff:10.0.0.2", [], "10.0.0.2"),
        ("fd00::2", [], "fd00::2"),
        ("100.64.0.7", [], "100.64.0.7"),
        # A proxy on this machine, and the machine itself.
        ("127.0.0.1", ["1.1.1.1, 8.8.8.8"], "8.8.8.8"),
        ("::1", [], None),
        ("::ffff:127.0.0.1", [], None),
        # Who is connected without a proxy cannot say to be somebody else.
        ("8.8.8.8", ["1.1.1.1"], "8.8.8.8"),
        ("2a00:1450:4001:81b::200e", [], "2a00:1450:4001:81b::/64"),
        ("::ffff:8.8.8.8", [], "8.8.8.8"),
        ("testclient", [], None),
        (None, [], None),
    ],
)
def test_who_is_behind_a_connection(peer, forwarded, client):
    assert client_of(peer, forwarded) == client


# Around a request


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


async def fail(request: Request) -> PlainTextResponse:
    raise RuntimeError("not to be seen")


def client(limit: RateLimit) -> TestClient:
    app = Starlette(
        routes=[
            Route("/echo", echo, methods=["GET", "POST"]),
            Route("/fail", fail, methods=["POST"]),
            Route("/full", full, methods=["POST"]),
        ]
    )
    return TestClient(Guard(app, limit), raise_server_exceptions=False)


async def full(request: Request) -> PlainTextResponse:
    own = {"Retry-After": "7"} if "own" in request.query_params else None
    return PlainTextResponse("Queue is full.", 503, own)


def test_a_client_above_the_limit_is_told_when_to_come_back():
    guarded = client(RateLimit(per_minute=2, clock=Clock()))
    somebody, another = ({"X-Forwarded-For": address} for address in ("8.8.8.8", "1.1.1.1"))
    assert guarded.post("/echo", content=b"abc", headers=somebody).text == "3"
    refused = guarded.post("/echo", content=b"abc", headers=somebody)
    assert refused.status_code == 429 and refused.headers["retry-after"] == "30"
    assert (
        refused.json()["error"] == "Too many requests from your address; try again in 30 seconds."
    )
    assert refused.headers["x-content-type-options"] == "nosniff"
    # Others, what costs nothing, and the machine itself are not held up.
    assert guarded.post("/echo", headers=another).status_code == 200
    assert [guarded.get("/echo", headers=somebody).status_code for _ in range(5)] == [200] * 5
    assert [guarded.post("/echo").status_code for _ in range(5)] == [200] * 5


def test_whoever_is_busy_says_when_to_come_back():
    guarded = client(RateLimit())
    assert guarded.post("/full").headers["retry-after"] == "2"
    assert guarded.post("/full?own").headers["retry-after"] == "7"
    assert "retry-after" not in guarded.post("/fail").headers


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_every_answer_has_the_headers(method):
    answer = client(RateLimit()).request(method, "/echo")
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS


def test_a_request_leaves_one_line_without_what_was_sent(caplog):
    caplog.set_level(logging.INFO, "realfake.space.guard")
    guarded = client(RateLimit())
    guarded.post(
        "/echo?name=holiday.jpg", content=b"picture", headers={"X-Forwarded-For": "8.8.8.8"}
    )
    guarded.post("/fail", content=b"picture")
    guarded.get("/echo")
    lines = [
        json.loads(log.JsonLines().format(record))
        for record in caplog.records
        if record.name.endswith("guard")
    ]
    assert [(line["path"], line["status"], line["received"]) for line in lines] == [
        ("/echo", 200, 7),
        ("/fail", 500, 0),
    ]
    assert lines[0]["message"] == "request" and lines[0]["milliseconds"] >= 0
    assert lines[0]["request"] != lines[1]["request"]
    for word in ("holiday", "picture", "8.8.8.8"):
        assert word not in json.dumps(lines)


# The log


def record(message: str, **extra) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": "realfake.x", "levelname": "INFO", "levelno": 20, "msg": message, **extra}
    )


def test_a_line_is_one_json_object_whatever_is_in_it():
    try:
        raise ValueError("two\nlines")
    except ValueError:
        text = log.JsonLines().format(
            record('a "word"\nand ü', exc_info=sys.exc_info(), fields={"status": 200})
        )
    assert "\n" not in text
    line = json.loads(text)
    assert (line["level"], line["logger"], line["message"], line["status"]) == (
        "INFO",
        "realfake.x",
        'a "word"\nand ü',
        200,
    )
    assert line["traceback"].endswith("ValueError: two\nlines") and line["time"].endswith("+00:00")


def test_on_a_terminal_the_fields_stand_behind_the_words():
    assert log.PlainLines().format(record("request", fields={"path": "/x", "status": 200})) == (
        "INFO realfake.x: request path=/x status=200"
    )


@contextmanager
def as_before(*names: str):
    """The root logger and the levels of these are afterwards what they were."""
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
def test_the_form_follows_who_reads(monkeypatch, terminal, first):
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", stream)
    with as_before("httpx", "httpcore", "urllib3"):
        log.set_up()
        logging.getLogger("realfake.x").info("hello")
    assert stream.getvalue().startswith(first) and "hello" in stream.getvalue()


def test_addresses_that_are_asked_are_not_written_down(monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    answer = httpx.MockTransport(lambda request: httpx.Response(200))
    with as_before("httpx", "httpcore", "urllib3"):
        log.set_up()
        with httpx.Client(transport=answer) as asking:
            asking.get("https://cdn.example/photo.jpg?Signature=secret")
        logging.getLogger("httpx").warning("still heard")
    assert "photo.jpg" not in stream.getvalue() and "still heard" in stream.getvalue()
