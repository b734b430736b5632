"""The page in a browser, and its API through `gradio_client`: `app.py` as it is started, on a tiny checkpoint."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny import draw_picture, save_tiny

from realfake.detector import DEFAULT_CHECKPOINT, Detector
from realfake.labels import AI, REAL
from realfake.space import text

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "realfake" / "space" / "examples" / "astronaut.jpg"
OTHER_PHOTO = PHOTO.with_name("temple.jpg")
# Holds every map back, so that a test can act while one is being drawn.
SLOW_MAPS = """
import runpy, time
from realfake.detector import Detector
explain = Detector.explain
Detector.explain = lambda *args, **kwargs: (time.sleep(1.5), explain(*args, **kwargs))[1]
runpy.run_path("app.py", run_name="__main__")
"""


@contextmanager
def serving(folder: Path, *command: str, **environment: str):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {
        **os.environ,
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(folder / "gradio"),
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    folder.mkdir(parents=True, exist_ok=True)
    server_log = folder / "server.log"
    with open(server_log, "w") as log:
        server = subprocess.Popen(
            [sys.executable, *(command or ["app.py"])], cwd=ROOT, env=variables, stdout=log, stderr=log
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(url, server, server_log)
            yield url
            assert server.poll() is None, f"The server ended with {server.returncode}: {server_log.read_text()}"
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.25)
    raise AssertionError(f"The page did not come up: {log.read_text()}")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = save_tiny("vit", tmp_path_factory.mktemp("space") / "tiny-detector", image_size=64)
    config = json.loads((folder / "config.json").read_text())
    config["realfake"] = {
        "corpus": "drawings <b>",
        "preprocessing": "processor",
        "image_size": 64,
        "calibration": {"method": "temperature_bias", "n": 2400, "folded": True},
        "thresholds": {"alpha": 0.05, "real": -0.2, "ai": 0.2, "n": {"real": 900, "ai": 900}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def url(checkpoint, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server"), REALFAKE_MODEL=str(checkpoint)) as url:
        yield url


@pytest.fixture(scope="module")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser, url):
    with opened(browser, url) as page:
        yield page


@contextmanager
def opened(browser, url, width=1280, height=900, query="", **options):
    """A fresh page; afterwards, no script error and no request to anywhere else."""
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    page = context.new_page()
    page.set_default_timeout(60_000)
    requests, failures = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.goto(url + query)
    page.wait_for_selector("#rf-verdict h2")
    page.wait_for_selector("#rf-examples button")
    yield page
    context.close()
    assert failures == []
    assert [r for r in requests if not r.startswith((url, "data:", "blob:"))] == []


def drop(page, path) -> None:
    page.set_input_files("#rf-drop input[type=file]", path)


def wait_for_verdict(page) -> str:
    # In one look: between two looks the page may be at the clearing before another answer.
    return page.wait_for_function(
        """() => {
            const card = document.querySelector("#rf-verdict");
            return card.querySelector(".rf-lead") && card.innerText;
        }"""
    ).json_value()


def wait_for_map(page, other_than: str | None = None) -> str:
    """The address of the map once it is shown, and is another than the one given."""
    page.wait_for_function(
        "old => { const i = document.querySelector('#rf-picture img'); return i && i.naturalWidth > 0 && i.src !== old }",
        arg=other_than,
    )
    return page.get_attribute("#rf-picture img", "src")


def test_dropping_an_image_is_all_it_takes(page, checkpoint):
    assert text.EMPTY_HEADLINE in page.inner_text("#rf-verdict")
    drop(page, PHOTO)
    said = wait_for_verdict(page)
    prediction = Detector.from_pretrained(checkpoint).predict(PHOTO)
    assert text.VERDICTS[prediction.verdict] in said
    bars = page.locator("#rf-verdict .rf-bar").all_inner_texts()
    for label, bar in zip((AI, REAL), bars, strict=True):
        assert bar.split("\n") == [text.LABELS[label], text.percent(prediction.probabilities[label])]
    wait_for_map(page)
    assert "Regions (Grad-CAM)" in page.get_attribute("#rf-picture img", "alt")


def test_the_detector_is_described_beside_the_answer(page):
    about = page.inner_text("#rf-about")
    assert "tiny-detector" in about
    assert "drawings <b>" in about
    assert page.locator("#rf-about b").count() == 0


def test_nothing_moves_when_the_answer_comes(page):
    def places():
        boxes = [page.locator(name).bounding_box() for name in ("#rf-about", "#rf-picture", "#rf-map")]
        return [(round(box["y"]), round(box["height"])) for box in boxes]

    before = places()
    drop(page, PHOTO)
    wait_for_verdict(page)
    during = places()
    wait_for_map(page)
    assert before == during == places()


def test_method_target_and_opacity_redraw_the_map(page):
    drop(page, PHOTO)
    regions = wait_for_map(page)
    page.get_by_label(text.METHODS["integrated_gradients"]).check()
    fine = wait_for_map(page, other_than=regions)
    page.locator("#rf-map").get_by_label(text.TARGETS[REAL]).check()
    real = wait_for_map(page, other_than=fine)
    page.locator("#rf-map input[type=range]").press("ArrowRight")
    wait_for_map(page, other_than=real)
    alt = page.get_attribute("#rf-picture img", "alt")
    assert text.METHODS["integrated_gradients"] in alt and text.TARGETS[REAL] in alt
    assert wait_for_verdict(page)


def test_a_file_that_is_no_image_is_refused_with_advice_and_the_old_answer_goes(page, tmp_path):
    drop(page, PHOTO)
    wait_for_verdict(page)
    wait_for_map(page)
    page.get_by_label("Remove Image").click()
    page.wait_for_selector(f"text={text.EMPTY_HEADLINE}")
    page.wait_for_selector("#rf-picture img", state="detached")
    broken = tmp_path / "holiday.jpg"
    broken.write_text("This is a letter, not an image.")
    drop(page, broken)
    said = page.wait_for_function(
        """() => {
            const card = document.querySelector("#rf-verdict");
            return card.querySelector("[role=alert]") && card.innerText;
        }"""
    ).json_value()
    assert text.PROBLEM_HEADLINE in said and "holiday.jpg" in said and text.PROBLEM_ADVICE in said
    assert str(tmp_path) not in said and "/gradio" not in said
    page.wait_for_timeout(500)
    assert page.locator("#rf-verdict .rf-lead, #rf-picture img").count() == 0


def test_an_image_taken_away_and_dropped_again_at_once_is_answered(page):
    example = page.get_by_role("button", name=text.EXAMPLES[PHOTO.name])
    for _ in range(3):
        example.click()
        page.get_by_label("Remove Image").click()
    example.click()
    wait_for_verdict(page)
    wait_for_map(page)
    page.wait_for_timeout(500)
    assert wait_for_verdict(page)


def test_an_example_is_tried_from_the_keyboard(page):
    example = page.get_by_role("button", name=text.EXAMPLES["cat.jpg"])
    example.focus()
    example.press("Enter")
    wait_for_verdict(page)
    wait_for_map(page)


def test_a_new_image_drops_the_answer_on_its_way_to_the_old_one(browser, checkpoint, tmp_path):
    with (
        serving(tmp_path / "server", "-c", SLOW_MAPS, REALFAKE_MODEL=str(checkpoint)) as url,
        opened(browser, url) as page,
    ):
        drop(page, PHOTO)
        first = wait_for_verdict(page)
        assert text.MAP_WAITING in page.inner_text("#rf-note")
        page.evaluate(
            """() => {
                window.seen = [];
                const note = () => window.seen.push(document.querySelector("#rf-verdict").innerText);
                new MutationObserver(note).observe(document.querySelector("#rf-verdict"), {childList: true, subtree: true});
            }"""
        )
        page.get_by_role("button", name=text.EXAMPLES[OTHER_PHOTO.name]).click()
        page.wait_for_function(f"window.seen.some(words => words.includes({text.WAITING_HEADLINE!r}))")
        second = wait_for_verdict(page)
        wait_for_map(page)
        expected = Detector.from_pretrained(checkpoint).predict(OTHER_PHOTO)
        assert text.percent(expected.probabilities[AI]) in second
        assert first != second, "the two examples must score differently for this test to mean anything"
        page.wait_for_timeout(2000)
        seen = page.evaluate("window.seen")
        cleared = next(i for i, words in enumerate(seen) if text.WAITING_HEADLINE in words)
        assert not [words for words in seen[cleared:] if first in words]
        assert page.inner_text("#rf-verdict") == second


def test_a_phone_shows_it_without_sideways_scrolling_and_the_answer_on_the_first_screen(browser, url):
    with opened(browser, url, width=375, height=812, has_touch=True, is_mobile=True) as page:
        width = "document.documentElement.scrollWidth"
        assert page.evaluate(width) <= 375
        drop(page, PHOTO)
        wait_for_verdict(page)
        wait_for_map(page)
        assert page.evaluate(width) <= 375
        headline = page.locator("#rf-verdict h2").bounding_box()
        assert headline["y"] + headline["height"] < 812


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(browser, url, scheme):
    with opened(browser, url, query=f"/?__theme={scheme}", color_scheme=scheme) as page:
        drop(page, PHOTO)
        wait_for_verdict(page)
        wait_for_map(page)
        contrasts = page.evaluate(_CONTRASTS)
        assert len(contrasts) > 25
        # WCAG 2.1, success criterion 1.4.3 (AA).
        assert [c for c in contrasts if c["ratio"] < (3 if c["large"] else 4.5)] == []
        background = page.evaluate("getComputedStyle(document.querySelector('#rf-map')).backgroundColor")
        assert (sum(map(int, background.strip("rgb()").split(","))) < 200) == (scheme == "dark")


# Contrast ratio (WCAG 2.1) of every element of the page's own that has text in it.
_CONTRASTS = """() => {
    const parse = c => { const n = c.match(/[\\d.]+/g).map(Number); return n.length === 3 ? [...n, 1] : n; };
    const channel = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const luminance = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
    const behind = e => {
        for (; e; e = e.parentElement) {
            const c = parse(getComputedStyle(e).backgroundColor);
            if (c[3] > 0.99) return c;
        }
        return [255, 255, 255, 1];
    };
    const own = e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    const inside = ".rf-header *, .rf-card *, .rf-map-title, .rf-map-note, .rf-footer *, #rf-examples .label, #rf-map label *";
    return [...document.querySelectorAll(inside)].filter(e => own(e) && e.offsetParent).map(e => {
        const style = getComputedStyle(e), a = luminance(parse(style.color)), b = luminance(behind(e));
        const size = parseFloat(style.fontSize);
        return {
            text: e.textContent.trim().slice(0, 30),
            ratio: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05),
            large: size >= 24 || (size >= 18.66 && style.fontWeight >= 700),
        };
    });
}"""


def test_the_api_answers_a_client(url, checkpoint, tmp_path):
    from gradio_client import Client, handle_file
    from PIL import Image

    client = Client(url, verbose=False, download_files=str(tmp_path))
    expected = Detector.from_pretrained(checkpoint).predict(PHOTO)
    answer = client.predict(image=handle_file(PHOTO), api_name="/predict")
    assert answer["verdict"] == expected.verdict and answer["label"] == expected.label
    assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
    assert answer["model"] == "tiny-detector"
    overlay, explained = client.predict(
        image=handle_file(PHOTO), method="integrated_gradients", target="real", api_name="/explain"
    )
    assert explained == answer
    with Image.open(overlay) as picture:
        assert min(picture.size) >= 512


def test_the_api_refuses_what_it_cannot_use(url, tmp_path):
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(url, verbose=False, download_files=str(tmp_path))
    broken = tmp_path / "broken.jpg"
    broken.write_text("no image")
    with pytest.raises(AppError, match="broken.jpg"):
        client.predict(image=handle_file(broken), api_name="/predict")
    with pytest.raises(AppError, match=text.NO_IMAGE):
        client.predict(image=None, api_name="/predict")
    drawn = tmp_path / "drawn.png"
    draw_picture(64).save(drawn)
    with pytest.raises(AppError, match="telepathy"):
        client.predict(image=handle_file(drawn), method="telepathy", api_name="/explain")


def test_the_api_reads_no_file_of_the_server(url, tmp_path):
    secret = tmp_path / "secret.png"
    draw_picture(64).save(secret)
    payload = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    request = urllib.request.Request(
        f"{url}/gradio_api/call/predict",
        data=json.dumps({"data": [payload]}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        event = json.load(response)["event_id"]
    with urllib.request.urlopen(f"{url}/gradio_api/call/predict/{event}", timeout=20) as response:
        told = response.read().decode()
    assert "event: error" in told and "probabilities" not in told


@pytest.mark.skipif(not (DEFAULT_CHECKPOINT / "config.json").is_file(), reason="there is no bundled checkpoint")
def test_a_model_that_cannot_be_loaded_is_replaced_and_the_page_says_so(browser, tmp_path):
    with (
        serving(tmp_path / "server", REALFAKE_MODEL="nobody/no-such-model@v1", HF_HUB_OFFLINE="1") as url,
        opened(browser, url) as page,
    ):
        notice = page.inner_text(".rf-notice")
        assert "nobody/no-such-model" in notice and "could not be loaded" in notice
        assert DEFAULT_CHECKPOINT.name in page.inner_text("#rf-about")
        drop(page, PHOTO)
        wait_for_verdict(page)
        wait_for_map(page)
