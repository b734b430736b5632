"""An answer is shown only beside its own image, however fast a visitor changes the image.

The detector is replaced by one that reads its answer from the image and takes a random time. A
script in the page compares each frame with the image in the drop area and with the settings.
"""

import hashlib
import json
import math
import random
import time

import numpy as np
import pytest
from helpers.browser import drop, launched, opened, unfold, wait_for_map
from helpers.serving import serving_here
from PIL import Image

from realfake.attribution.faithfulness import Evidence
from realfake.attribution.methods import METHODS
from realfake.detector import Detector
from realfake.imaging.decode import open_image
from realfake.labels import AI, NAMES, REAL
from realfake.prediction import Explanation, Prediction, Stability, View
from realfake.space.text import ENGLISH
from realfake.statistics.verdicts import INCONCLUSIVE

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]


def predicted(image: Image.Image) -> Prediction:
    """An image of grey level n is AI-generated with n %. Near even odds it has no verdict."""
    p = image.getpixel((0, 0))[0] / 100
    label = AI if p > 0.5 else REAL
    verdict, reason = (INCONCLUSIVE, "between") if 0.3 < p < 0.7 else (label, None)
    log_odds = math.log(p / (1 - p))
    views = (View((0, 0, *image.size), log_odds),)
    probabilities = {REAL: 1 - p, AI: p}
    return Prediction(label, probabilities, verdict, log_odds, 0.05, reason, views=views)


def predict(self, image, batch_size=16, prior_ai=0.5, views=None) -> Prediction:
    return predicted(image)


def stability(self, image, prior_ai=0.5, views=None, original=None) -> Stability:
    time.sleep(random.uniform(0, 0.2))
    return Stability([("original", predicted(image)), ("crop", predicted(image))])


def explain(self, path, method=None, target=AI, evidence=False) -> Explanation:
    image = open_image(path)
    time.sleep(random.uniform(0, 1))
    prediction = predicted(image)
    before = prediction.probabilities[target]
    heatmap = np.zeros((image.height, image.width), np.float32)
    heatmap[:8, :8] = 1
    tested = Evidence(target, 0.1, before, before - 0.5, (before,) * 5)
    return Explanation(heatmap, method, target, prediction, image, evidence=tested)


# What is shown for another image, method or target than those of the page is wrong.
WATCH = """labels => {
    window.wrong = [];
    window.looks = 0;
    const text = selector => document.querySelector(selector)?.textContent.trim();
    window.shown = () => {
        const picture = document.querySelector("#rf-drop img");
        const name = picture && decodeURIComponent(picture.src);
        const level = Number(name && name.match(/grey-(\\d+)\\.png/)[1]);
        const alt = document.querySelector("#rf-map .rf-plain")?.alt;
        const tile = document.querySelector("#rf-map .rf-tile");
        const chosen = id => document.querySelector(`#${id} input:checked`).closest("label");
        return {
            level, alt,
            verdict: text("#rf-verdict [data-percent=ai]"),
            copy: text("#rf-stability td[data-percent]"),
            tile: tile?.dataset.text.match(/(\\d+%)\\.$/)?.[1],
            map: text("#rf-detail .rf-check")?.match(/from (\\d+)%/)?.[1],
            method: chosen("rf-method").textContent.trim(),
            target: chosen("rf-target").textContent.trim(),
        };
    };
    const look = kind => {
        window.looks += 1;
        const now = window.shown(), percent = `${now.level}%`;
        // Radio buttons change before the elements that depend on them; a frame shows both.
        const settings = kind === "frame" && now.alt;
        const share = (now.target === labels.ai ? now.level : 100 - now.level) / 100;
        const good = (!now.verdict || (now.level && now.verdict === percent))
            && (!now.copy || (now.level && now.copy === percent))
            && (!now.tile || (now.level && now.tile === percent))
            && (!now.map || now.level)
            && (!settings || Math.abs(now.map / 100 - share) < 0.006)
            && (!settings || (now.alt.includes(now.method) && now.alt.includes(now.target)));
        if (!good) window.wrong.push({...now, kind});
    };
    const watched = {childList: true, subtree: true, characterData: true};
    new MutationObserver(() => look("change")).observe(document.body, watched);
    const frame = () => { look("frame"); requestAnimationFrame(frame); };
    frame();
}"""


@pytest.fixture(scope="module")
def url(tiny_vit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("race")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Detector, "predict", predict)
        patch.setattr(Detector, "stability", stability)
        patch.setattr(Detector, "explain", explain)
        with serving_here(folder, REALFAKE_MODEL=str(tiny_vit)) as url:
            yield url


@pytest.fixture(scope="module")
def browser(chromium):
    with launched(chromium) as browser:
        yield browser


@pytest.mark.parametrize("uploads", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_no_answer_is_shown_beside_another_image(browser, url, tmp_path, uploads):
    chance = random.Random(16)
    labels = {name: ENGLISH(f"label.{name}") for name in NAMES}
    # The page does not test a map of what has hardly a chance.
    levels = [chance.randrange(10, 91) for _ in range(uploads)]
    for level in set(levels):
        Image.new("RGB", (64, 64), (level,) * 3).save(tmp_path / f"grey-{level}.png")
    with opened(browser, url) as page:
        drop(page, tmp_path / f"grey-{levels[0]}.png")
        wait_for_map(page)
        unfold(page, "advanced")
        page.evaluate(WATCH, labels)
        settled = 0
        for number, level in enumerate(levels):
            remove = page.get_by_label("Remove Image")
            if remove.count():
                remove.click()
                page.wait_for_timeout(chance.choice([0, 0, 50, 200, 800]))
            drop(page, tmp_path / f"grey-{level}.png")
            page.wait_for_selector("#rf-drop img")
            for _ in range(chance.randrange(3)):
                page.wait_for_timeout(chance.choice([0, 50, 200, 600]))
                choose(page, "rf-method", ENGLISH(f"method.{chance.choice([*METHODS])}"))
                if chance.random() < 0.3:
                    choose(page, "rf-target", labels[chance.choice(NAMES)])
            page.wait_for_timeout(chance.choice([0, 100, 300, 1000]))
            if number % 5 == 4:
                settled += 1
                check_settled(page, tmp_path / f"grey-{level}.png", level, labels)
        page.get_by_label("Remove Image").click()
        page.wait_for_timeout(1500)
        assert page.inner_text("#rf-verdict h2") == ENGLISH("empty.headline")
        wrong, looks = page.evaluate("[window.wrong, window.looks]")
    print(f"{uploads} uploads, {settled} reports, {looks} looks, {len(wrong)} wrong")
    assert wrong == []
    assert looks > 10 * uploads


def choose(page, id: str, label: str) -> None:
    page.locator(f"#{id} label", has_text=label).first.check()


def check_settled(page, path, level: int, labels: dict[str, str]) -> None:
    """The whole answer comes, and the report is about the same image, method and target."""
    page.wait_for_function(
        "() => { const now = window.shown(); return now.verdict && now.copy && now.alt; }"
    )
    now = page.evaluate("window.shown()")
    assert now["level"] == level
    with page.expect_download() as started:
        page.locator("#rf-report-json").click()
    with open(started.value.path(), encoding="utf-8") as file:
        report = json.load(file)
    assert report["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert round(100 * report["probabilities"][AI]) == level
    drawn = report["map"]
    assert ENGLISH(f"method.{drawn['method']}") == now["method"]
    assert labels[drawn["target"]] == now["target"]
    assert round(100 * drawn["evidence"]["before"]) == int(now["map"])
