"""The page without a browser: its words, its HTML, its answers, and how it finds a detector."""

import json
import re
from dataclasses import dataclass, field

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from tiny import save_tiny

from realfake.detector import Explanation, Prediction
from realfake.labels import AI, REAL
from realfake.space import loading, render, text
from realfake.space.handlers import Handlers, begin, bounded, recolour
from realfake.space.image_input import ImageInput
from realfake.space.loading import Loaded
from realfake.space.page import EXAMPLES, build

FACTS = {
    "corpus": "scenes",
    "preprocessing": "native",
    "image_size": 288,
    "calibration": {"method": "temperature_bias", "n": 2400, "folded": True},
    "thresholds": {"alpha": 0.05, "real": -1.0, "ai": 1.0, "n": {"real": 900, "ai": 900}},
}
HOSTILE = "<img src=x onerror=alert(1)>${alert(2)}{{constructor}}`'\""


def prediction(p_ai: float = 0.9, verdict: str = AI) -> Prediction:
    label = AI if p_ai > 0.5 else REAL
    return Prediction(label, {REAL: 1 - p_ai, AI: p_ai}, verdict, float(np.log(p_ai / (1 - p_ai))), 0.05)


@dataclass
class FakeDetector:
    """Answers the same for every image, counts, and fails when told to."""

    facts: dict = field(default_factory=lambda: FACTS)
    name: str = "user/model"
    revision: str | None = "0123456789abcdef"
    failure: Exception | None = None
    map_failure: Exception | None = None
    explained: list = field(default_factory=list)

    def predict(self, image):
        if self.failure:
            raise self.failure
        return prediction()

    def explain(self, image, method="gradcam", target=AI):
        if self.failure or self.map_failure:
            raise self.failure or self.map_failure
        self.explained.append((method, target))
        heatmap = np.linspace(-1, 1, 40 * 60, dtype=np.float32).reshape(40, 60)
        return Explanation(heatmap, method, target, prediction(), Image.new("RGB", (60, 40), "gray"))


def shown(cards: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", cards).split())


# Words


@pytest.mark.parametrize(
    ("probability", "words"),
    [
        (0.0, "fewer than 1 in 100"), (0.004, "fewer than 1 in 100"), (0.01, "about 1 in 100"), (0.04, "about 4 in 100"),
        (0.06, "about 1 in 10"), (0.3, "about 3 in 10"), (0.46, "about half"), (0.5, "about half"), (0.56, "about 6 in 10"),
        (0.9, "about 9 in 10"), (0.94, "about 9 in 10"), (0.96, "about 96 in 100"), (0.99, "about 99 in 100"),
        (0.9951, "more than 99 in 100"), (1.0, "more than 99 in 100"),
    ],
)  # fmt: skip
def test_a_frequency_is_worded_as_a_share_of_images(probability, words):
    assert text.frequency(probability) == words


def test_no_probability_is_worded_as_certainty_and_both_sides_agree():
    for p in np.linspace(0, 1, 4001):
        assert not re.search(r"\b(10 in 10|100 in 100|0 in 10|0 in 100)\b", text.frequency(p))
        assert text.percent(p) not in ("0%", "100%")
        if text.percent(p) == "less than 1%":
            assert text.percent(1 - p) == "more than 99%"


def test_percent_of_both_labels_adds_up():
    for p in np.arange(0.01, 1, 0.01):
        assert int(text.percent(p)[:-1]) + int(text.percent(1 - p)[:-1]) == 100


def test_a_calibrated_verdict_is_explained_as_a_frequency():
    words = text.meaning(AI, AI, {REAL: 0.1, AI: 0.9}, calibrated=True, alpha=0.05)
    assert words == (
        "Of images scored like this one, about 9 in 10 were AI-generated, "
        "if photographs and generated images are equally common beforehand."
    )


def test_a_verdict_of_real_speaks_of_photographs():
    words = text.meaning(REAL, REAL, {REAL: 0.97, AI: 0.03}, calibrated=True, alpha=None)
    assert "about 97 in 100 were photographs" in words


def test_an_uncalibrated_score_is_never_called_a_frequency():
    words = text.meaning(AI, AI, {REAL: 0.1, AI: 0.9}, calibrated=False, alpha=None)
    assert "Of images scored like this one" not in words
    assert "Nobody has calibrated it" in words


def test_an_inconclusive_answer_names_the_error_rate_it_was_held_to():
    words = text.meaning(text.INCONCLUSIVE, AI, {REAL: 0.3, AI: 0.7}, calibrated=True, alpha=0.05)
    assert "about 7 in 10 were AI-generated" in words
    assert words.endswith("not enough for a verdict at an error rate of 5%.")


# HTML


def test_the_verdict_card_says_it_in_words_and_in_numbers():
    card = render.verdict(prediction(0.9, AI), calibrated=True)
    assert "Likely AI-generated" in shown(card)
    assert "Calibrated probabilities AI-generated 90%" in shown(card)
    assert "Photograph 10%" in shown(card)
    assert "width:90.0%" in card


def test_an_uncalibrated_card_does_not_claim_calibration():
    assert "Calibrated" not in shown(render.verdict(prediction(), calibrated=False))


@pytest.mark.parametrize(
    "facts",
    [
        {"corpus": HOSTILE, "preprocessing": HOSTILE, "image_size": HOSTILE, "calibration": HOSTILE, "thresholds": HOSTILE},
        {"corpus": [HOSTILE], "calibration": {"folded": True, "n": HOSTILE}, "thresholds": {"alpha": HOSTILE}},
        [HOSTILE], HOSTILE, None,
    ],
)  # fmt: skip
def test_nothing_a_checkpoint_says_reaches_the_page_as_markup(facts):
    evaluation = {
        "test": {"figures": {"summary": {"auroc": {"value": 0.9, "n": 5}}, "worst_generator": HOSTILE}}
    }
    about = render.about(HOSTILE, HOSTILE, facts, evaluation)
    assert "<img" not in about
    # Gradio's HTML component is a template: what it would evaluate must not survive either.
    assert not set("{}$`") & set(about)
    assert "huggingface.co" not in about


def test_about_states_corpus_calibration_and_figures():
    summary = {"auroc": {"value": 0.912, "n": 2000}}
    verdicts = {"given": {"value": 0.71}, "wrong": {"real": {"value": 0.04}, "ai": {"value": 0.0}}}
    figures = {"summary": summary, "verdicts": verdicts, "worst_generator": "dalle3"}
    about = shown(render.about("user/model", "abc", FACTS, {"test": {"figures": figures}}))
    assert "Trained on scenes" in about
    assert "the middle of the image, 288 × 288 pixels" in about
    assert "calibrated on 2,400 images" in about
    assert "at most 5% of the photographs and 5% of the generated ones" in about
    assert "on 2,000 test images, AUROC 0.91; a verdict for 71% of them" in about
    assert "4% of photographs and less than 1% of generated images; weakest on images made by dalle3" in about


@pytest.mark.parametrize(
    "evaluation", [None, [], {"test": 3}, {"test": {"figures": {"summary": {"auroc": 0.9}}}}]
)
def test_a_malformed_evaluation_leaves_the_figures_out(evaluation):
    assert text.FACT_MEASURED not in shown(render.about("m", None, FACTS, evaluation))


def test_a_checkpoint_that_says_nothing_is_said_to_say_nothing():
    about = shown(render.about("m", None, {}))
    assert text.NOT_STATED in about
    assert "not calibrated" in about
    assert "never the answer" in about


def test_only_a_hub_id_becomes_a_link():
    assert 'href="https://huggingface.co/user/model"' in render.about("user/model", None, {})
    for name in ("../user", "photos", "user/model/tree", "user/../model", "javascript:alert(1)"):
        assert "<a " not in render.about(name, None, {})


def test_a_long_foreign_string_is_cut():
    assert len(render.escape("x" * 10_000)) == render.MAX_CHARACTERS


def test_an_error_names_the_file_and_not_the_servers_folder():
    error = ValueError("/tmp/gradio/0af/photo.jpg is not an image.\nmore")
    assert render.reason(error, "/tmp/gradio/0af/photo.jpg") == "photo.jpg is not an image."


# Answers


def test_the_answer_comes_before_the_map():
    steps = list(Handlers(FakeDetector()).analyse({"path": "a.jpg"}, "a.jpg", "gradcam", AI, 50))
    assert len(steps) == 2
    assert "Likely AI-generated" in shown(steps[0][0])
    assert steps[0][1]["value"] is None and steps[0][3] is None
    assert isinstance(steps[1][1]["value"], Image.Image)
    assert isinstance(steps[1][3], Explanation)
    assert "AI-generated" in steps[1][1]["alt_text"]


def test_a_new_image_clears_the_old_answer_at_once():
    verdict, picture, _, kept, token = begin({}, "a.jpg")
    assert text.WAITING_HEADLINE in shown(verdict)
    assert picture["value"] is None and kept is None
    assert token != begin({}, "a.jpg")[-1], "the same image again must start an analysis again"
    assert text.EMPTY_HEADLINE in shown(begin({}, None)[0])


def test_nothing_more_is_said_of_an_image_that_was_replaced():
    detector, current = FakeDetector(), {}
    begin(current, "a.jpg")
    answers = Handlers(detector).analyse(current, "a.jpg", "gradcam", AI, 50)
    next(answers)
    begin(current, "b.jpg")
    assert list(answers) == []
    assert detector.explained == []
    assert list(Handlers(detector).analyse(current, "a.jpg", "gradcam", AI, 50)) == []


@pytest.mark.parametrize(
    "error", [ValueError("up/a.jpg is not an image."), OSError("up/a.jpg cannot be read.")]
)
def test_an_unusable_file_becomes_a_message_with_advice(error):
    ((verdict, picture, _, kept),) = Handlers(FakeDetector(failure=error)).analyse(
        {"path": "up/a.jpg"}, "up/a.jpg", "gradcam", AI, 50
    )
    assert str(error).removeprefix("up/") in shown(verdict)
    assert text.PROBLEM_ADVICE in shown(verdict)
    assert picture["value"] is None and kept is None


def test_an_unforeseen_failure_keeps_its_details_in_the_log(caplog):
    ((verdict, *_),) = Handlers(FakeDetector(failure=RuntimeError("secret"))).analyse(
        {"path": "a.jpg"}, "a.jpg", "gradcam", AI, 50
    )
    assert text.UNEXPECTED in shown(verdict)
    assert "secret" not in verdict
    assert "secret" in caplog.text


def test_a_failed_map_leaves_the_verdict_standing():
    detector = FakeDetector(map_failure=ValueError("This architecture has no spatial layer."))
    *_, (verdict, picture, note, _) = Handlers(detector).analyse({"path": "a.jpg"}, "a.jpg", "gradcam", AI, 50)
    assert "Likely AI-generated" in shown(verdict)
    assert picture["value"] is None
    assert shown(note) == "No map for this image: This architecture has no spatial layer."


def test_another_opacity_does_not_run_the_attribution_again():
    detector = FakeDetector()
    picture, _, kept = Handlers(detector).remap({"path": "a.jpg"}, "a.jpg", "integrated_gradients", REAL, 20)
    strong = recolour(kept, 100)["value"]
    assert detector.explained == [("integrated_gradients", REAL)]
    assert np.asarray(strong).tolist() != np.asarray(picture["value"]).tolist()


def test_a_kept_map_is_bounded_and_keeps_what_was_not_seen():
    heatmap = np.ones((300, 900), dtype=np.float32)
    heatmap[:, :450] = np.nan
    heatmap[:150] *= 2
    large = Explanation(heatmap, "gradcam", AI, prediction(), Image.new("RGB", (900, 300)))
    small = bounded(large, side=90)
    assert small.image.size == (90, 30) and small.heatmap.shape == (30, 90)
    assert np.isnan(small.heatmap[:, :45]).all()
    assert (small.heatmap[:15, 45:] == 2).all() and (small.heatmap[15:, 45:] == 1).all()
    assert bounded(small, side=90) is small


def test_the_api_tells_its_failures_in_one_line():
    handlers = Handlers(FakeDetector(failure=ValueError("/srv/x/a.jpg is not an image.")))
    with pytest.raises(gr.Error, match="^'a.jpg is not an image.'$"):
        handlers.predict("/srv/x/a.jpg")
    with pytest.raises(gr.Error, match=text.NO_IMAGE):
        handlers.explain(None)


# Widgets


def test_the_upload_reaches_the_handler_undecoded(tmp_path):
    from gradio.data_classes import ImageData

    path = tmp_path / "broken.jpg"
    path.write_text("no image")
    component = ImageInput()
    assert component.preprocess(ImageData(path=str(path))) == str(path)
    assert component.preprocess(None) is None
    assert component.get_block_name() == "image"


def test_subclassing_a_gradio_component_writes_no_stub():
    assert not list(EXAMPLES.parent.glob("*.pyi"))


def test_the_page_offers_two_documented_endpoints_and_no_others():
    page = build(Loaded(FakeDetector(), None, None))
    endpoints = page.get_api_info()["named_endpoints"]
    assert set(endpoints) == {"/predict", "/explain"}
    assert [p["parameter_name"] for p in endpoints["/explain"]["parameters"]] == [
        "image",
        "method",
        "target",
        "opacity",
    ]
    assert endpoints["/predict"]["description"]


def test_the_notice_is_escaped_and_on_the_page():
    page = build(Loaded(FakeDetector(), None, text.FALLBACK.format(model=HOSTILE)))
    notices = [b.value for b in page.blocks.values() if isinstance(b, gr.HTML) and "rf-notice" in str(b.value)]
    assert len(notices) == 1 and "<img" not in notices[0] and "could not be loaded" in notices[0]


def test_the_examples_are_small_and_credited():
    credits = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    files = {path.name for path in EXAMPLES.iterdir()} - {"README.md"}
    assert files == set(text.EXAMPLES)
    for name in files:
        assert f"`{name}`" in credits
        assert (EXAMPLES / name).stat().st_size < 150_000


# Finding a detector


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (None, None)),
        ({"REALFAKE_MODEL": " ", "REALFAKE_REVISION": "v1"}, (None, None)),
        ({"REALFAKE_MODEL": "user/name"}, ("user/name", None)),
        ({"REALFAKE_MODEL": "user/name@v2"}, ("user/name", "v2")),
        ({"REALFAKE_MODEL": "user/name", "REALFAKE_REVISION": "v3"}, ("user/name", "v3")),
        ({"REALFAKE_MODEL": "user/name@v2", "REALFAKE_REVISION": "v3"}, ("user/name", "v2")),
    ],
)
def test_the_environment_names_model_and_revision(environ, expected):
    assert loading.source(environ) == expected


def test_a_folder_with_an_at_sign_is_a_folder(tmp_path):
    folder = tmp_path / "run@2"
    folder.mkdir()
    assert loading.source({"REALFAKE_MODEL": str(folder)}) == (str(folder), None)


def test_a_folder_is_opened_with_its_evaluation(tmp_path):
    folder = save_tiny("vit", tmp_path / "vit")
    (folder / "evaluation.json").write_text(json.dumps({"test": {}}))
    loaded = loading.load({"REALFAKE_MODEL": str(folder)})
    assert loaded.detector.name == "vit" and loaded.evaluation == {"test": {}} and loaded.notice is None


@pytest.mark.parametrize("broken", ["missing", "no config", "labels", "facts"])
def test_a_detector_that_cannot_be_opened_is_replaced_by_the_bundled_one(tmp_path, monkeypatch, broken, caplog):
    bundled = save_tiny("convnext", tmp_path / "bundled")
    monkeypatch.setattr("realfake.detector.DEFAULT_CHECKPOINT", bundled)
    monkeypatch.setattr(loading, "DEFAULT_CHECKPOINT", bundled)
    folder = tmp_path / "model"
    if broken == "no config":
        folder.mkdir()
    elif broken != "missing":
        save_tiny("vit", folder, labels=("cat", "dog") if broken == "labels" else ("real", "ai"))
    if broken == "facts":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "realfake": {"thresholds": ["nonsense"]}}))
    loaded = loading.load({"REALFAKE_MODEL": str(folder)})
    assert loaded.detector.name == "bundled"
    assert str(folder) in loaded.notice
    assert "could not be loaded" in caplog.text
