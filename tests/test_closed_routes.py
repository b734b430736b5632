"""Routes of Gradio's that serve others than the page are closed."""

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from realfake.space.closed_routes import ClosedRoutes


async def reached(request: Request) -> PlainTextResponse:
    return PlainTextResponse("reached")


@pytest.fixture(scope="module")
def client():
    return TestClient(
        ClosedRoutes(
            Starlette(routes=[Route("/{path:path}", reached, methods=["GET", "POST", "HEAD"])])
        )
    )


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
def test_what_fetches_or_keeps_for_others_is_closed(client, method, path):
    answer = client.request(method, path)
    assert answer.status_code == 403
    if method != "HEAD":
        assert answer.json()["error"].startswith("This server fetches and keeps nothing for others")


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
def test_the_rest_is_open(client, path):
    assert client.get(path).text == "reached"
