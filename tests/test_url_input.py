"""An image by its URL, as Gradio's API takes it: through the project's own downloader, and nowhere else."""

import asyncio
import io
from pathlib import Path

import gradio as gr
import httpx
import pytest
from gradio import processing_utils
from gradio.data_classes import ImageData
from helpers.tiny import draw_picture

from realfake.space import gradio_downloads, image_input
from realfake.space.image_input import ImageInput

URL = "https://photos.example/a%20b/cat?token=secret"


def sent(path: str) -> dict:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def asked(monkeypatch):
    """The URLs that anything but the project's downloader asks for, with Gradio's own downloads off."""
    for name in (
        "async_ssrf_protected_get",
        "async_ssrf_protected_download",
        "ssrf_protected_download",
        "save_url_to_cache",
    ):
        monkeypatch.setattr(
            processing_utils, name, getattr(processing_utils, name)
        )  # put back afterwards
    asked = []

    async def ask(self, request):
        asked.append(str(request.url))
        return httpx.Response(200, content=b"pixels")

    async def look_up(hostname):
        return "93.184.216.34"

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", ask)
    monkeypatch.setattr(processing_utils.sh, "async_validate_url", look_up)
    gradio_downloads.switch_off()
    return asked


def picture() -> bytes:
    file = io.BytesIO()
    draw_picture(48).save(file, "PNG")
    return file.getvalue()


def moved(block, value):
    return asyncio.run(
        processing_utils.async_move_files_to_cache(value, block, check_in_upload_folder=True)
    )


def test_an_image_by_its_url_is_fetched_by_the_projects_downloader(cache, asked, monkeypatch):
    calls = []
    monkeypatch.setattr(
        image_input, "fetch", lambda *call, **limits: calls.append((call, limits)) or picture()
    )
    block = ImageInput()
    path = Path(block.preprocess(ImageData(**moved(block, sent(URL)))))
    assert path.read_bytes() == picture() and path.name == "cat.png" and path.is_relative_to(cache)
    assert calls == [((URL,), {"max_bytes": image_input.LIMITS.max_bytes})]
    assert str(path) in block.temp_files  # what is deleted after a while
    assert asked == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://100.64.0.1/latest/meta-data", "address 100.64.0.1 is not public"),
        ("http://127.0.0.1/x.png", "address 127.0.0.1 is not public"),
        ("https://[::ffff:10.0.0.1]/x.png", "is not public"),
        ("http://93.184.216.34:6379/", "it names port 6379; only 80 and 443 are asked"),
    ],
)
def test_a_url_that_is_refused_says_why_in_one_line(cache, asked, url, words):
    block = ImageInput()
    with pytest.raises(gr.Error) as refused:
        block.preprocess(ImageData(**moved(block, sent(url))))
    assert words in refused.value.message and "\n" not in refused.value.message
    assert asked == [] and not any(cache.rglob("*"))


def test_many_urls_for_one_image_are_none(cache, asked, monkeypatch):
    monkeypatch.setattr(image_input, "fetch", lambda *_, **__: pytest.fail("fetched"))
    block = ImageInput()
    left = moved(block, [sent(URL)] * 1000)
    with pytest.raises(ValueError, match="ImageData"):
        block.data_model.model_validate(left, context={"validate_meta": True})
    assert asked == []


@pytest.mark.parametrize("component", [gr.Image, gr.File, gr.Number, gr.JSON, gr.Textbox])
def test_nothing_else_takes_a_url(asked, component):
    with pytest.raises(gr.Error, match="A URL is not read here; upload the file itself."):
        moved(component(), sent(URL))
    assert asked == []


def test_gradios_other_downloads_are_off(asked, tmp_path):
    for fetch in (processing_utils.ssrf_protected_download, processing_utils.save_url_to_cache):
        with pytest.raises(gr.Error, match="A URL is not read here"):
            fetch(URL, str(tmp_path))
    with pytest.raises(gr.Error, match="A URL is not read here"):
        asyncio.run(processing_utils.async_ssrf_protected_get(URL))
    assert asked == []


def test_an_upload_goes_its_usual_way(cache, asked):
    path = cache / "folder" / "photo.png"
    path.parent.mkdir()
    path.write_bytes(picture())
    block = ImageInput()
    assert block.preprocess(ImageData(path=str(path))) == str(path)
    assert block.preprocess(None) is None
    assert asyncio.run(block.async_move_resource_to_block_cache(str(path))) == str(path)
