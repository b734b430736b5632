"""The page in a browser, tab by tab as a visitor uses it, and its API through `gradio_client`."""

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import time
import urllib.request
import zipfile
from pathlib import Path

import pytest
from helpers.browser import (
    drop,
    launched,
    opened,
    unfold,
    visited,
    wait_for_map,
    wait_for_tiles,
    wait_for_verdict,
)
from helpers.serving import serving, serving_here
from helpers.tiny import draw_picture, save_tiny
from huggingface_hub import constants
from PIL import Image

from realfake.attribution.methods import METHODS
from realfake.cli.main import main
from realfake.detector import DEFAULT_CHECKPOINT, Detector
from realfake.labels import AI, REAL
from realfake.space import loading
from realfake.space.api import snippets
from realfake.space.batch import Batch
from realfake.space.text import ENGLISH, words

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "realfake" / "space" / "examples" / "astronaut.jpg"
OTHER_PHOTO = PHOTO.with_name("temple.jpg")


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
    record = json.loads((DEFAULT_CHECKPOINT / "evaluation.json").read_text())
    (folder / "evaluation.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def server_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def url(checkpoint, server_folder):
    with serving(server_folder, REALFAKE_MODEL=str(checkpoint)) as url:
        yield url


@pytest.fixture(scope="module")
def browser(chromium):
    with launched(chromium) as browser:
        yield browser


@pytest.fixture(scope="module")
def context(browser):
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        yield context


@pytest.fixture
def page(context, url):
    with visited(context, url) as page:
        yield page


@pytest.fixture(scope="module")
def answered(context, url):
    """The page with a photograph, its verdict and its map. What a test opens, it closes."""
    with visited(context, url) as page:
        drop(page, PHOTO)
        wait_for_verdict(page)
        wait_for_map(page)
        yield page


def test_a_dropped_image_is_answered(page, checkpoint):
    assert ENGLISH("empty.headline") in page.inner_text("#rf-verdict")
    assert not page.locator("#rf-report-json").is_visible()
    drop(page, PHOTO)
    said = wait_for_verdict(page)
    prediction = Detector.from_pretrained(checkpoint).predict(PHOTO)
    assert ENGLISH(f"verdict.{prediction.verdict}") in said
    bars = page.locator("#rf-verdict .rf-bar").all_text_contents()
    for label, bar in zip((AI, REAL), bars, strict=True):
        name, percent = ENGLISH(f"label.{label}"), ENGLISH.percent(prediction.probabilities[label])
        assert "".join(bar.split()) == "".join((name + percent).split())
    assert wait_for_tiles(page) == len(prediction.views)
    wait_for_map(page)
    assert ENGLISH("method.gradcam") in page.get_attribute("#rf-map .rf-plain", "alt")
    # Each part of the answer names the image in the drop area.
    shown = page.get_attribute("#rf-drop img", "src")
    for slot in page.locator("[data-slot]").all():
        assert slot.get_attribute("data-image-id") in shown


def test_a_file_of_a_phone_camera_is_upright_and_says_so(page, checkpoint, tmp_path):
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0112] = "Maker", "Phone 7", 6  # turn 90° clockwise
    exif.get_ifd(0x8769)[0x829A] = 0.01
    path = tmp_path / "IMG_0001.JPG"
    with Image.open(PHOTO) as photo:
        photo.transpose(Image.Transpose.ROTATE_90).save(path, quality=92, exif=exif)
    drop(page, path)
    said = wait_for_verdict(page)
    assert ENGLISH(f"verdict.{Detector.from_pretrained(checkpoint).predict(path).verdict}") in said
    page.locator("#rf-provenance summary").click()
    assert "Phone 7" in page.inner_text("#rf-provenance")
    width, height = page.evaluate(
        """() => {
            const image = document.querySelector("#rf-map img");
            return [image.naturalWidth, image.naturalHeight];
        }"""
    )
    with Image.open(PHOTO) as photo:
        assert width / height == pytest.approx(photo.width / photo.height, rel=0.02)


def test_the_detector_is_described_beside_the_answer(answered):
    answered.locator("#rf-about summary").click()
    about = answered.inner_text("#rf-about")
    assert "tiny-detector" in about
    assert "drawings <b>" in about
    assert answered.locator("#rf-about b").count() == 0


def test_nothing_moves_when_the_detail_comes(page):
    def places():
        boxes = [page.locator(name).bounding_box() for name in ("#rf-verdict", "#rf-map")]
        return [(round(box["x"]), round(box["y"])) for box in boxes]

    drop(page, PHOTO)
    wait_for_tiles(page)
    before = places()
    wait_for_map(page)
    assert before == places()


def test_a_tile_is_shown_large_with_its_detail(page):
    drop(page, PHOTO)
    wait_for_tiles(page)
    tile = page.locator("#rf-map .rf-tile").first
    tile.press("Enter")
    page.wait_for_selector("#rf-tile[open] .rf-tile-pictures img >> nth=1")
    assert page.inner_text("#rf-tile h2") == tile.get_attribute("data-name")
    assert ENGLISH("label.ai") in page.inner_text("#rf-tile .rf-tile-text") or ENGLISH(
        "label.real"
    ) in page.inner_text("#rf-tile .rf-tile-text")
    page.keyboard.press("Escape")
    page.wait_for_selector("#rf-tile", state="hidden")


def test_a_window_of_a_tile_closes_with_its_picture(page):
    drop(page, PHOTO)
    wait_for_tiles(page)
    page.locator("#rf-map .rf-tile").first.click()
    page.wait_for_selector("#rf-tile[open]")
    page.evaluate("document.querySelector('#rf-drop [aria-label=\"Remove Image\"]').click()")
    page.wait_for_selector("#rf-tile", state="hidden")


def test_method_target_and_strength_change_the_map(page):
    drop(page, PHOTO)
    shown = wait_for_map(page)
    unfold(page, "advanced")
    for method in [*METHODS][1:]:
        label = page.locator("#rf-method label", has_text=ENGLISH(f"method.{method}"))
        assert label.get_attribute("data-time")
        label.check()
        shown = wait_for_map(page, other_than=shown)
        assert ENGLISH(f"method.{method}") in page.get_attribute("#rf-map .rf-plain", "alt")
    page.locator("#rf-target").get_by_label(ENGLISH("label.real")).check()
    wait_for_map(page, other_than=shown)
    assert ENGLISH("label.real") in page.get_attribute("#rf-map .rf-plain", "alt")
    page.locator("#rf-strength input[type=range]").press("End")
    page.wait_for_function(
        "() => getComputedStyle(document.querySelector('.rf-coloured')).opacity === '1'"
    )


def test_the_map_is_saved_and_enlarged(answered, tmp_path):
    page = answered
    with page.expect_download() as started:
        page.locator("#rf-detail").get_by_role("button", name=ENGLISH("map.save")).click()
    assert started.value.suggested_filename == "astronaut-gradcam-ai.jpg"
    started.value.save_as(tmp_path / "map.jpg")
    with Image.open(tmp_path / "map.jpg") as saved:
        assert saved.width == page.evaluate("document.querySelector('.rf-plain').naturalWidth")
    page.locator("#rf-detail [data-act=enlarge]").click()
    page.wait_for_function("() => document.fullscreenElement?.matches('.rf-picture')")
    page.evaluate("document.exitFullscreen()")
    page.wait_for_function("() => !document.fullscreenElement")


def test_the_prior_moves_the_probability_beside_a_verdict_that_stays(page, checkpoint, tmp_path):
    drop(page, PHOTO)
    before = wait_for_verdict(page)
    bar = "document.querySelector('#rf-verdict [data-percent=ai]').textContent"
    old = page.evaluate(bar)
    unfold(page, "prior")
    slider = page.locator("#rf-prior input[type=range]")
    slider.focus()
    slider.press("Home")
    page.wait_for_function(f"old => {bar} !== old", arg=old)
    moved = Detector.from_pretrained(checkpoint).predict(PHOTO, prior_ai=0.01)
    said = wait_for_verdict(page)
    assert page.evaluate(bar) == ENGLISH.percent(moved.probabilities[AI])
    assert said.split("\n")[0] == before.split("\n")[0]
    copy = page.locator("#rf-stability td[data-percent]").first.text_content()
    assert copy == ENGLISH.percent(moved.probabilities[AI])
    wait_for_map(page)
    with page.expect_download() as started:
        page.locator("#rf-report-json").click()
    started.value.save_as(tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["probabilities"] == pytest.approx(moved.probabilities, abs=1e-6)


def test_stability_and_provenance_are_shown_beside_the_verdict(answered):
    page = answered
    page.locator("#rf-stability summary").click()
    page.locator("#rf-provenance summary").click()
    rows = page.locator("#rf-stability tbody tr").all_inner_texts()
    assert len(rows) == 4 and all(re.search(r"\d+%", row) for row in rows)
    assert ENGLISH("provenance.c2pa") in page.inner_text("#rf-provenance")


PASTE = """async ([data, target]) => {
    const clipboardData = new DataTransfer();
    const file = new File([new Uint8Array(data)], "pasted.jpg", {type: "image/jpeg"});
    clipboardData.items.add(file);
    const event = new ClipboardEvent("paste", {clipboardData, bubbles: true, cancelable: true});
    document.querySelector(target).dispatchEvent(event);
}"""


def test_a_picture_is_pasted_anywhere_also_in_place_of_another(page):
    shown = ""
    for path, target in ((PHOTO, "body"), (OTHER_PHOTO, "#rf-verdict h2")):
        page.evaluate(PASTE, [list(path.read_bytes()), target])
        shown = page.wait_for_function(
            """old => {
                const id = document.querySelector("[data-slot=tiles]").dataset.imageId;
                return id !== old && id;
            }""",
            arg=shown,
        ).json_value()
    wait_for_map(page)


def test_a_refused_url_shows_an_error_and_the_answer_stays(page):
    drop(page, PHOTO)
    said = wait_for_verdict(page)
    page.locator("#rf-another").click()
    field = page.get_by_label(ENGLISH("url.label"))
    field.fill("http://127.0.0.1:9/secret.png")
    field.press("Enter")
    page.wait_for_selector("#rf-url-note [role=alert]")
    assert "was not fetched" in page.inner_text("#rf-url-note")
    wait_for_map(page)
    assert page.inner_text("#rf-verdict").startswith(said.split("\n")[0])


def test_reports_are_downloaded(answered, browser, tmp_path):
    page = answered
    verdict = wait_for_verdict(page).split("\n")[0]
    with page.expect_download() as started:
        page.locator("#rf-report-json").click()
    started.value.save_as(tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    digest = hashlib.sha256(PHOTO.read_bytes()).hexdigest()
    assert report["sha256"] == digest and report["file"] == PHOTO.name
    assert report["model"] == "tiny-detector" and report["map"]["method"] == "gradcam"
    with page.expect_download() as started:
        page.locator("#rf-report-html").click()
    assert started.value.suggested_filename == "astronaut-realfake.html"
    started.value.save_as(tmp_path / "report.html")
    context = browser.new_context()
    document, requests = context.new_page(), []
    document.on("request", lambda request: requests.append(request.url))
    document.goto((tmp_path / "report.html").as_uri())
    assert document.inner_text("h1") == verdict
    assert digest in document.inner_text("body") and document.locator("img").count() == 3
    assert not [url for url in requests if not url.startswith(("file:", "data:"))]
    context.close()


def test_a_correction_is_stored_with_consent_only(page, server_folder):
    kept = server_folder / "feedback"
    drop(page, PHOTO)
    wait_for_map(page)
    unfold(page, "feedback")
    page.get_by_label(ENGLISH("feedback.image")).check()
    page.locator("#rf-send").click()
    page.wait_for_selector(f"text={ENGLISH('feedback.nothing')}")
    assert not [path for path in kept.rglob("*") if path.is_file()]
    # The same with consent lands there: it is the folder that would have been written to.
    page.get_by_label(ENGLISH("feedback.image")).uncheck()
    page.get_by_label(ENGLISH("feedback.consent")).check()
    page.locator("#rf-send").click()
    page.wait_for_selector(f"text={ENGLISH('feedback.kept')}")
    (record,) = [path for path in kept.rglob("*") if path.is_file()]
    assert (
        json.loads(record.read_text())["sha256"] == hashlib.sha256(PHOTO.read_bytes()).hexdigest()
    )


def test_a_file_that_is_not_an_image_is_refused_with_advice(page, tmp_path):
    drop(page, PHOTO)
    wait_for_verdict(page)
    wait_for_map(page)
    page.get_by_label("Remove Image").click()
    page.wait_for_selector(f"text={ENGLISH('empty.headline')}")
    page.wait_for_selector("#rf-map .rf-coloured", state="detached")
    broken = tmp_path / "holiday.jpg"
    broken.write_text("This is a letter, not an image.")
    drop(page, broken)
    said = page.wait_for_function(
        """() => {
            const card = document.querySelector("#rf-verdict");
            return card.querySelector("[role=alert]") && card.innerText;
        }"""
    ).json_value()
    assert (
        ENGLISH("problem.headline") in said
        and "holiday.jpg" in said
        and ENGLISH("problem.advice") in said
    )
    assert str(tmp_path) not in said and "/gradio" not in said
    page.wait_for_timeout(500)
    assert page.locator("#rf-verdict .rf-lead, #rf-map .rf-coloured").count() == 0


def test_an_image_taken_away_and_dropped_again_at_once_is_answered(page):
    example = page.get_by_role("button", name=ENGLISH("example.astronaut"))
    for _ in range(3):
        example.click()
        page.get_by_label("Remove Image").click()
        page.wait_for_selector("#rf-layout:not(.rf-has-image)")
    example.click()
    wait_for_verdict(page)
    wait_for_map(page)
    page.wait_for_timeout(500)
    assert wait_for_verdict(page)


def test_an_example_is_tried_from_the_keyboard(page, checkpoint):
    example = page.get_by_role("button", name=ENGLISH("example.cat-edited"))
    example.focus()
    example.press("Enter")
    said = wait_for_verdict(page)
    detector = Detector.from_pretrained(checkpoint)
    names = ("cat-edited.jpg", PHOTO.name)
    cat, other = (detector.predict(PHOTO.with_name(name)) for name in names)
    expected = [ENGLISH.percent(cat.probabilities[label]) for label in (AI, REAL)]
    assert expected != [ENGLISH.percent(other.probabilities[label]) for label in (AI, REAL)]
    assert ENGLISH(f"verdict.{cat.verdict}") in said
    bars = page.locator("#rf-verdict [data-percent]").all_text_contents()
    assert bars == expected
    wait_for_map(page)


def open_tab(page, name: str) -> None:
    language = page.evaluate("document.documentElement.lang").split("-")[0]
    page.get_by_role("tab", name=words(language)(f"tab.{name}"), exact=True).click()
    page.wait_for_selector("#rf-layout" if name == "check" else f"#rf-{name}")
    # Colours fade and things slide into place: what is measured is what stands there afterwards.
    page.evaluate(
        """async () => {
            await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
            const ends = a => a.effect.getComputedTiming().endTime !== Infinity;
            const moving = document.getAnimations().filter(ends);
            await Promise.allSettled(moving.map(a => a.finished));
        }"""
    )


def packed(folder: Path) -> Path:
    path = folder / "pictures.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(OTHER_PHOTO, "holiday/temple.jpg")
        archive.writestr("../outside.jpg", OTHER_PHOTO.read_bytes())
    return path


def test_many_images_become_rows_that_are_sorted_and_kept(page, checkpoint, tmp_path):
    letter = tmp_path / "letter.jpg"
    letter.write_text("This is a letter.")
    open_tab(page, "batch")
    page.set_input_files("#rf-files input[type=file]", [PHOTO, letter, packed(tmp_path)])
    page.wait_for_function("() => !document.querySelector('#rf-csv').disabled")
    rows = page.locator("#rf-rows tbody tr")
    listed = {row.split("\t")[1]: row for row in rows.all_inner_texts()}
    assert listed.keys() == {"astronaut.jpg", "letter.jpg", "holiday/temple.jpg", "../outside.jpg"}
    assert "text file" in listed["letter.jpg"]
    assert rows.locator("img").count() == 2
    assert "4" in page.inner_text("#rf-batch-status")
    page.get_by_role("button", name=ENGLISH("batch.name"), exact=True).click()
    names = [row.split("\t")[1] for row in rows.all_inner_texts()]
    assert names == ["../outside.jpg", "astronaut.jpg", "holiday/temple.jpg", "letter.jpg"]
    assert page.locator("#rf-rows th[aria-sort=ascending]").count() == 1
    with page.expect_download() as started:
        page.locator("#rf-batch-json").click()
    started.value.save_as(tmp_path / "rows.json")
    found = {row["file"]: row for row in json.loads((tmp_path / "rows.json").read_text())}
    expected = Detector.from_pretrained(checkpoint).predict(PHOTO)
    assert found["astronaut.jpg"]["probabilities"] == pytest.approx(
        expected.probabilities, abs=1e-6
    )
    assert "text file" in found["letter.jpg"]["error"]


def test_models_are_compared_side_by_side(page):
    open_tab(page, "compare")
    # Only the page's own detector is chosen at first.
    chosen = [box.is_checked() for box in page.locator("#rf-models input").all()]
    assert chosen == [True] + [False] * (len(chosen) - 1)
    page.locator("#rf-models input").nth(1).check()
    page.set_input_files("#rf-compare-drop input[type=file]", PHOTO)
    page.wait_for_function(
        "() => document.querySelectorAll('#rf-compared section .rf-photo').length === 2"
    )
    titles = page.locator("#rf-compared section h3").all_inner_texts()
    assert titles[0] == "tiny-detector" and len(titles) == 2
    # The cards are about this image only.
    page.locator("#rf-compare").get_by_label("Remove Image").click()
    page.wait_for_function("() => !document.querySelector('#rf-compared section')?.offsetHeight")


def test_the_record_of_the_checkpoint_is_shown(page, checkpoint):
    open_tab(page, "quality")
    page.wait_for_selector("#rf-quality .rf-chart svg")
    figures = json.loads((checkpoint / "evaluation.json").read_text())["test"]["figures"]
    said = page.inner_text("#rf-quality")
    assert ENGLISH.decimal(figures["summary"]["auroc"]["value"], 3) in said
    assert ENGLISH.known(next(iter(figures["by_generator"]))) in said
    page.locator("#rf-quality summary").first.click()
    assert page.locator("#rf-quality details[open] tbody tr").count() == len(
        figures["reliability"]["count"]
    )


def test_the_snippets_name_this_page_and_are_copied(browser, url):
    with opened(browser, url, permissions=["clipboard-read", "clipboard-write"]) as page:
        open_tab(page, "code")
        page.wait_for_selector(".rf-snippet")
        button = page.locator(".rf-snippet button").first
        button.click()
        page.wait_for_selector(f"text={ENGLISH('code.copied')}")
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == snippets("path/to/tiny-detector", url)["client"]


@pytest.mark.parametrize("name", ["client", "local", "inference", "pipeline", "shell", "curl"])
def test_the_snippets_run(url, checkpoint, tmp_path, monkeypatch, capsys, name):
    (tmp_path / "photo.jpg").write_bytes(PHOTO.read_bytes())
    monkeypatch.chdir(tmp_path)
    if name == "inference":  # offline, the client of the Hub would not ask the page, too
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    snippet = snippets(str(checkpoint), url)[name]
    if name == "curl":
        done = subprocess.run(shlex.split(snippet), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        said = done.stdout
    else:
        if name == "shell":
            program, *arguments = shlex.split(snippet)
            assert program == "realfake" and main(arguments) == 0
        else:
            exec(compile(snippet, name, "exec"), {})
        said = capsys.readouterr().out
    expected = Detector.from_pretrained(checkpoint).predict(PHOTO)
    assert (
        f"{expected.probabilities[AI]:.4f}"[:5] in said
        or f"{expected.probabilities[REAL]:.4f}"[:5] in said
    )
    assert (tmp_path / "map.png").is_file() == (name == "local")


@pytest.fixture(scope="module")
def slow_url(checkpoint, tmp_path_factory):
    """The page held back, on the bundled detector, which stands in for one that is not there.

    Every map and every batch takes longer, so that a test can act meanwhile. The bundled detector
    is a tiny one.
    """
    folder = tmp_path_factory.mktemp("slow")
    bundled = shutil.copytree(checkpoint, folder / "stand-in")
    explain, check = Detector.explain, Batch._check

    def slow_explain(*arguments, **options):
        time.sleep(1.5)
        return explain(*arguments, **options)

    def slow_check(*arguments, **options):
        time.sleep(1.0)
        return check(*arguments, **options)

    missing = {"REALFAKE_MODEL": "nobody/no-such-model@v1", "REALFAKE_FALLBACK": "bundled"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("realfake.detector.DEFAULT_CHECKPOINT", bundled)
        patch.setattr(loading, "DEFAULT_CHECKPOINT", bundled)
        patch.setattr(Detector, "explain", slow_explain)
        patch.setattr(Batch, "_check", slow_check)
        with serving_here(folder, **missing) as url:
            yield url


def test_a_cancelled_batch_keeps_the_finished_rows(browser, slow_url, tmp_path):
    files = []
    for seed in range(24):
        files.append(tmp_path / f"{seed:02d}.png")
        draw_picture(64, seed).save(files[-1])
    with opened(browser, slow_url) as page:
        open_tab(page, "batch")
        page.set_input_files("#rf-files input[type=file]", files)
        page.wait_for_function("() => document.querySelectorAll('#rf-rows tbody tr').length >= 8")
        page.locator("#rf-cancel").click()
        page.wait_for_function("() => !document.querySelector('#rf-csv').disabled")
        done = page.locator("#rf-rows tbody tr").count()
        assert 8 <= done < 24
        assert ENGLISH("batch.cancelled", done=done, total=24) in page.inner_text(
            "#rf-batch-status"
        )
        assert page.locator("#rf-cancel").is_disabled()


def test_a_new_image_replaces_an_answer_that_is_on_its_way(browser, slow_url):
    shown = "document.querySelector('#rf-verdict [data-log-odds]')?.dataset.logOdds"
    with opened(browser, slow_url) as page:
        drop(page, PHOTO)
        wait_for_verdict(page)
        first = page.evaluate(shown)
        page.locator("#rf-map button[data-view=detail]").click()
        assert ENGLISH("map.waiting") in page.inner_text("#rf-detail")
        page.locator("#rf-another").click()
        page.evaluate(
            f"""() => {{
                window.seen = [];
                const card = document.querySelector("#rf-verdict");
                const note = () => window.seen.push({shown} ?? "none");
                new MutationObserver(note).observe(card, {{childList: true, subtree: true}});
            }}"""
        )
        page.get_by_role("button", name=ENGLISH("example.temple")).click()
        page.wait_for_function("window.seen.includes('none')")
        wait_for_verdict(page)
        wait_for_map(page)
        expected = Detector.from_pretrained().predict(OTHER_PHOTO)
        second = page.evaluate(shown)
        assert float(second) == pytest.approx(expected.log_odds, abs=1e-4)
        page.wait_for_timeout(2000)
        seen = page.evaluate("window.seen")
        assert first != second and first not in seen[seen.index("none") :]
        assert page.evaluate(shown) == second


TABS = ("check", "batch", "compare", "quality", "code")


def test_a_phone_needs_no_sideways_scrolling_and_shows_the_answer_first(browser, url):
    with opened(browser, url, width=360, height=780, has_touch=True, is_mobile=True) as page:
        width = "document.documentElement.scrollWidth"
        assert page.evaluate(width) <= 360
        drop(page, PHOTO)
        wait_for_verdict(page)
        wait_for_map(page)
        assert page.evaluate(width) <= 360
        headline = page.locator("#rf-verdict h2").bounding_box()
        assert headline["y"] + headline["height"] < 780
        picture = page.locator("#rf-detail .rf-picture").bounding_box()
        assert picture["y"] + picture["height"] < 2 * 780
        tops = set()
        for tab in TABS:
            box = page.get_by_role("tab", name=ENGLISH(f"tab.{tab}"), exact=True).bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= 360, f"{tab} cannot be seen"
            tops.add(box["y"])
        assert len(tops) == 1, "the tabs are not on one row"
        for tab in TABS[1:]:
            open_tab(page, tab)
            assert page.evaluate(width) <= 360, tab
        open_tab(page, "batch")
        page.set_input_files("#rf-files input[type=file]", [PHOTO, OTHER_PHOTO])
        page.wait_for_function("() => !document.querySelector('#rf-csv').disabled")
        cut = """() => {
            const table = document.querySelector('#rf-rows .rf-table');
            return table.scrollWidth - table.clientWidth;
        }"""
        assert page.evaluate(cut) <= 0, "a row's verdict is off the edge"
        assert page.evaluate(width) <= 360


def test_nothing_on_a_phone_is_cut_off(browser, url):
    """A slider's thumb is higher than its track, so the box around it must leave room."""
    with opened(browser, url, width=390, height=844, has_touch=True, is_mobile=True) as page:
        drop(page, PHOTO)
        wait_for_tiles(page)
        unfold(page, "advanced")
        unfold(page, "prior")
        room = page.evaluate(
            """() => [...document.querySelectorAll("#rf-layout input[type=range]")].map(slider => {
                const track = slider.getBoundingClientRect();
                const box = slider.closest(".block").getBoundingClientRect();
                return [slider.ariaLabel, box.bottom - track.bottom, track.top - box.top];
            })"""
        )
        assert len(room) == 2
        assert [name for name, below, above in room if min(below, above) < 4] == []


def test_a_norwegian_browser_gets_a_norwegian_page(browser, url):
    norwegian = words("nb")
    with opened(browser, url, locale="nb-NO") as page:
        assert page.evaluate("document.documentElement.lang") == "nb"
        assert norwegian("page.title") in page.inner_text(".rf-header")
        assert norwegian("empty.headline") in page.inner_text("#rf-verdict")
        assert page.get_by_role("button", name=norwegian("example.temple")).count() == 1
        drop(page, PHOTO)
        said = wait_for_verdict(page)
        assert any(
            norwegian(f"verdict.{verdict}") in said for verdict in ("real", "ai", "inconclusive")
        )
        assert norwegian("stability.title") in page.inner_text("#rf-stability")
        wait_for_map(page)
        unfold(page, "advanced")
        assert page.get_by_label(norwegian("method.gradcam")).count() == 1
        left = re.findall(r"__i18n__|html\.\w+", page.inner_text("body"))
        assert left == []


@pytest.mark.parametrize(("locale", "language"), [("de-DE", "de"), ("it-IT", "en")])
def test_the_language_of_the_document_is_that_of_its_words(browser, url, locale, language):
    with opened(browser, url, locale=locale) as page:
        page.wait_for_function("lang => document.documentElement.lang === lang", arg=language)
        assert words(language)("page.title") in page.inner_text(".rf-header")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_fault_on_any_tab(browser, url, scheme):
    """axe-core's rules for WCAG 2.1 A and AA, on every tab, with an answer on the first."""
    from axe_playwright_python.sync_playwright import Axe

    with opened(browser, url, query=f"/?__theme={scheme}", color_scheme=scheme) as page:
        drop(page, PHOTO)
        wait_for_verdict(page)
        wait_for_map(page)
        for name in ("advanced", "prior", "feedback"):
            unfold(page, name)
        for summary in page.locator("#rf-words summary").all():
            summary.click()
        faults = []
        for tab in TABS:
            open_tab(page, tab)
            found = Axe().run(
                page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
            )
            faults += [
                (tab, fault["id"], node["html"][:200], node["failureSummary"][:200])
                for fault in found.response["violations"]
                for node in fault["nodes"]
            ]
        assert faults == []
        open_tab(page, "check")
        background = page.evaluate(
            "getComputedStyle(document.querySelector('#rf-map')).backgroundColor"
        )
        assert (sum(map(int, background.strip("rgb()").split(","))) < 200) == (scheme == "dark")


def test_the_api_answers_a_client(url, checkpoint, tmp_path):
    from gradio_client import Client, handle_file
    from PIL import Image

    client = Client(url, verbose=False, download_files=str(tmp_path))
    expected = Detector.from_pretrained(checkpoint).predict(PHOTO)
    answer = client.predict(image=handle_file(PHOTO), api_name="/predict")
    assert answer["verdict"] == expected.verdict and answer["label"] == expected.label
    assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
    assert answer["model"] == "tiny-detector" and answer["stability"] is None
    full = client.predict(
        image=handle_file(PHOTO), prior_ai=0.2, stability=True, provenance=True, api_name="/predict"
    )
    assert full["stability"]["variants"] and full["provenance"]["findings"]
    assert client.predict(image=handle_file(PHOTO), api_name="/provenance") == full["provenance"]
    assert (
        len(
            client.predict(image=handle_file(PHOTO), api_name="/stability")["stability"]["variants"]
        )
        == 4
    )
    overlay, explained = client.predict(
        image=handle_file(PHOTO), method="integrated_gradients", target="real", api_name="/explain"
    )
    assert {key: explained[key] for key in answer} == answer
    assert explained["method"] == "integrated_gradients" and explained["evidence"]["target"] == REAL
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
    with pytest.raises(AppError, match=ENGLISH("image.none")):
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


def test_a_model_that_cannot_be_loaded_is_replaced_with_a_notice(browser, slow_url):
    with opened(browser, slow_url) as page:
        notice = page.inner_text(".rf-notice")
        assert "nobody/no-such-model" in notice
        assert "stand-in" in page.text_content("#rf-about")
