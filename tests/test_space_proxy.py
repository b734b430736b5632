"""The page behind a reverse proxy under a path, and there inside an iframe."""

import json
import urllib.request
from pathlib import Path

import pytest
from helpers.browser import launched
from helpers.proxy import proxied
from helpers.serving import serving_here
from huggingface_hub import InferenceClient, constants

from realfake.detector import Detector
from realfake.labels import AI
from realfake.space.check import FOLDER

pytestmark = pytest.mark.browser

PREFIX = "/tools/realfake"
PHOTO = FOLDER / "temple.jpg"


@pytest.fixture(scope="module")
def proxy(tiny_vit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("proxy")
    settings = {"REALFAKE_MODEL": str(tiny_vit), "GRADIO_ROOT_PATH": PREFIX}
    with serving_here(folder, **settings) as upstream, proxied(upstream, PREFIX) as address:
        yield address


@pytest.fixture(scope="module")
def browser(chromium):
    with launched(chromium) as browser:
        yield browser


@pytest.mark.parametrize("path", [f"{PREFIX}/", "/frame"])
def test_upload_map_and_report_work(proxy, browser, path):
    with browser.new_context(viewport={"width": 1280, "height": 1000}) as context:
        page = context.new_page()
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto(proxy + path)
        frame = page if path != "/frame" else page.frame_locator("iframe")
        frame.locator("#rf-examples button").first.wait_for()
        frame.locator("#rf-drop input[type=file]").set_input_files(PHOTO)
        frame.locator("#rf-map .rf-tile").first.wait_for(timeout=60_000)
        frame.locator("#rf-map button[data-view=detail]").click()
        frame.locator("#rf-map .rf-coloured").wait_for(timeout=60_000)
        with page.expect_download(timeout=60_000) as started:
            frame.locator("#rf-report-json").click()
        report = json.loads(Path(started.value.path()).read_text(encoding="utf-8"))
        assert report["file"] == PHOTO.name and report["map"]
        outside = [url for url in requests if not url.startswith((proxy, "data:", "blob:"))]
        assert outside == []
        own = [url for url in requests if url.startswith(proxy) and not url.endswith("/frame")]
        assert [url for url in own if not url.startswith(f"{proxy}{PREFIX}/")] == []


def test_predict_and_the_bare_address_work(proxy, tiny_vit, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    expected = Detector.from_pretrained(tiny_vit).predict(PHOTO).probabilities
    for address in (f"{proxy}{PREFIX}/predict", f"{proxy}{PREFIX}/"):
        found = InferenceClient(model=address).image_classification(PHOTO.read_bytes())
        scores = {row.label: row.score for row in found}
        assert scores[AI] == pytest.approx(expected[AI], abs=1e-5)
    with urllib.request.urlopen(f"{proxy}{PREFIX}/docs", timeout=30) as response:
        assert f"{proxy}{PREFIX}/predict" in response.read().decode()
