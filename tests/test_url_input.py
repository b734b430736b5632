"""Images by URL in Gradio's API: only the project's own downloader fetches them."""

import asyncio
import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import gradio as gr
import httpx
import pytest
from gradio import processing_utils
from gradio.data_classes import ImageData
from gradio.mcp import GradioMCPServer
from helpers.tiny import draw_picture

from realfake.space import uploads
from realfake.space.api import MCP_OUTPUT, answer_mcp_in_json
from realfake.space.uploads import DOWNLOADS, ImageInput, refuse_downloads

URL = "https://photos.example/a%20b/cat?token=secret"


def sent(path: str) -> dict:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def fetched(monkeypatch):
    """The URLs that Gradio fetches, with its own downloads switched off."""
    for name in DOWNLOADS:  # restored after the test
        monkeypatch.setattr(processing_utils, name, getattr(processing_utils, name))
    output = getattr(GradioMCPServer, MCP_OUTPUT)
    monkeypatch.setattr(GradioMCPServer, MCP_OUTPUT, output)
    fetched = []

    async def fetch(self, request):
        fetched.append(str(request.url))
        return httpx.Response(200, content=b"pixels")

    async def look_up(hostname):
        return "93.184.216.34"

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", fetch)
    monkeypatch.setattr(processing_utils.sh, "async_validate_url", look_up)
    refuse_downloads()
    answer_mcp_in_json()
    return fetched


def picture() -> bytes:
    file = io.BytesIO()
    draw_picture(48).save(file, "PNG")
    return file.getvalue()


def moved(block, value):
    return asyncio.run(
        processing_utils.async_move_files_to_cache(value, block, check_in_upload_folder=True)
    )


def test_an_image_by_its_url_is_fetched_by_the_projects_downloader(cache, fetched, monkeypatch):
    calls = []
    monkeypatch.setattr(
        uploads, "fetch", lambda *call, **limits: calls.append((call, limits)) or picture()
    )
    block = ImageInput()
    path = Path(block.preprocess(ImageData(**moved(block, sent(URL)))))
    assert path.read_bytes() == picture() and path.name == "cat.png" and path.is_relative_to(cache)
    assert calls == [((URL,), {"max_bytes": uploads.LIMITS.max_bytes})]
    assert str(path) in block.temp_files  # deleted later
    assert fetched == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://100.64.0.1/latest/meta-data", "address 100.64.0.1 is not public"),
        ("http://127.0.0.1/x.png", "address 127.0.0.1 is not public"),
        ("https://[::ffff:10.0.0.1]/x.png", "is not public"),
        ("http://93.184.216.34:6379/", "port 6379"),
    ],
)
def test_a_refused_url_has_a_reason_in_one_line(cache, fetched, url, words):
    block = ImageInput()
    with pytest.raises(gr.Error) as refused:
        block.preprocess(ImageData(**moved(block, sent(url))))
    assert words in refused.value.message and "\n" not in refused.value.message
    assert fetched == [] and not any(cache.rglob("*"))


def inline(block, address: str) -> str:
    """What the handler gets for `{"url": address}`."""
    value = moved(block, {"url": address})
    return block.preprocess(block.data_model.model_validate(value, context={"validate_meta": True}))


def test_a_data_uri_is_read(cache, fetched):
    block = ImageInput()
    path = Path(inline(block, f"data:image/png;base64,{base64.b64encode(picture()).decode()}"))
    assert path.read_bytes() == picture() and path.suffix == ".png"
    assert path.is_relative_to(cache) and str(path) in block.temp_files


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("data:image/png;base64,***", "not valid base64"),
        ("data:image/png;base64," + "A" * 1100, "larger than"),
    ],
    ids=["broken", "large"],
)
def test_a_bad_data_uri_has_a_reason_in_one_line(cache, fetched, monkeypatch, address, words):
    monkeypatch.setattr(uploads, "LIMITS", replace(uploads.LIMITS, max_bytes=20))
    with pytest.raises(gr.Error) as refused:
        inline(ImageInput(), address)
    assert words in refused.value.message and "\n" not in refused.value.message


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.png", "file:///etc/passwd"])
def test_a_path_of_the_server_in_place_of_a_url_is_nothing(cache, fetched, path):
    assert inline(ImageInput(), path) is None


def test_mcp_refuses_a_path_of_the_server_in_one_line():
    server = object.__new__(GradioMCPServer)
    with pytest.raises(ValueError) as refused:
        server.convert_strings_to_filedata({"image": "/etc/passwd"}, [["image"]])
    assert len(str(refused.value).splitlines()) == 1


def test_a_list_of_urls_is_not_an_image(cache, fetched, monkeypatch):
    monkeypatch.setattr(uploads, "fetch", lambda *_, **__: pytest.fail("fetched"))
    block = ImageInput()
    left = moved(block, [sent(URL)] * 1000)
    with pytest.raises(ValueError, match="ImageData"):
        block.data_model.model_validate(left, context={"validate_meta": True})
    assert fetched == []


@pytest.mark.parametrize("component", [gr.Image, gr.File, gr.Number, gr.JSON, gr.Textbox])
def test_nothing_else_takes_a_url(fetched, component):
    with pytest.raises(gr.Error, match="URLs are not read here"):
        moved(component(), sent(URL))
    assert fetched == []


def test_gradios_other_downloads_are_off(fetched, tmp_path):
    for fetch in (processing_utils.ssrf_protected_download, processing_utils.save_url_to_cache):
        with pytest.raises(gr.Error, match="URLs are not read here"):
            fetch(URL, str(tmp_path))
    with pytest.raises(gr.Error, match="URLs are not read here"):
        asyncio.run(processing_utils.async_ssrf_protected_get(URL))
    assert fetched == []


def test_an_upload_is_unchanged(cache, fetched):
    path = cache / "folder" / "photo.png"
    path.parent.mkdir()
    path.write_bytes(picture())
    block = ImageInput()
    assert block.preprocess(ImageData(path=str(path))) == str(path)
    assert block.preprocess(None) is None
    assert asyncio.run(block.async_move_resource_to_block_cache(str(path))) == str(path)


@pytest.mark.parametrize("name", DOWNLOADS)
def test_the_page_does_not_start_without_a_function_that_it_replaces(monkeypatch, fetched, name):
    monkeypatch.delattr(processing_utils, name)
    with pytest.raises(ValueError, match=f"has no gradio.processing_utils.{name}"):
        refuse_downloads()
    monkeypatch.delattr(GradioMCPServer, MCP_OUTPUT)
    monkeypatch.setattr(processing_utils, name, print, raising=False)
    with pytest.raises(ValueError, match=MCP_OUTPUT):
        answer_mcp_in_json()


def test_mcp_tools_answer_in_json(fetched, cache):
    server = object.__new__(GradioMCPServer)
    from mcp import types

    server.types = types
    answer = {"verdict": "real", "reason": None, "note": "ø"}
    (text,) = server.postprocess_output_data([answer], "http://localhost")
    assert json.loads(text.text) == answer
    path = cache / "map.png"
    path.write_bytes(picture())
    file = {"path": str(path), "url": "http://localhost/map.png", **sent(str(path))}
    image, _, text = server.postprocess_output_data([(file, answer)], "http://localhost")
    assert (image.type, image.mimeType) == ("image", "image/png")
    assert json.loads(text.text) == answer
