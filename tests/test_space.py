"""The page without a browser: its first tab's answers, its endpoints, and how it finds a detector."""

import io
import json
from dataclasses import dataclass, field, replace

import gradio as gr
import numpy as np
import pytest
from helpers.tiny import draw_picture
from PIL import Image

from realfake.answer import answer
from realfake.attribution.faithfulness import Evidence
from realfake.attribution.methods import METHODS
from realfake.detector import Detector
from realfake.labels import AI, REAL
from realfake.prediction import Explanation, Prediction, Stability
from realfake.space import check, report, text
from realfake.space.api import Api
from realfake.space.check import FOLDER, fetch_image
from realfake.space.handlers import Handlers, at_prior, begin, bounded, recolour
from realfake.space.image_input import ImageInput
from realfake.space.languages import LANGUAGES
from realfake.space.loading import Loaded
from realfake.space.page import build
from realfake.space.render import reason
from realfake.space.text import ENGLISH

FACTS = {
    "corpus": "scenes",
    "preprocessing": "native",
    "image_size": 288,
    "calibration": {"method": "temperature_bias", "n": 2400, "folded": True},
    "thresholds": {"alpha": 0.05, "real": -1.0, "ai": 1.0, "n": {"real": 900, "ai": 900}},
}
HOSTILE = "<img src=x onerror=alert(1)>${alert(2)}{{constructor}}`'\""
PHOTO = str(FOLDER / "cat.jpg")


def prediction(p_ai: float = 0.9, verdict: str = AI, **more) -> Prediction:
    label = AI if p_ai > 0.5 else REAL
    return Prediction(
        label, {REAL: 1 - p_ai, AI: p_ai}, verdict, float(np.log(p_ai / (1 - p_ai))), 0.05, **more
    )


@dataclass
class FakeDetector:
    explanation_method = "gradcam"

    """Answers the same for every image, counts, and fails when told to."""

    facts: dict = field(default_factory=lambda: FACTS)
    name: str = "user/model"
    revision: str | None = "0123456789abcdef"
    failure: Exception | None = None
    map_failure: Exception | None = None
    explained: list = field(default_factory=list)
    variants: tuple = ((0.9, AI), (0.8, AI), (0.6, "inconclusive"), (0.95, AI))

    def predict(self, images, batch_size=16, prior_ai=0.5):
        if self.failure:
            raise self.failure
        found = at_prior(prediction(), prior_ai)
        return [found for _ in images] if isinstance(images, list) else found

    def stability(self, image, prior_ai=0.5):
        if self.failure:
            raise self.failure
        names = ("original", "messenger", "half_size", "crop")
        return Stability(
            [
                (name, at_prior(prediction(*each), prior_ai))
                for name, each in zip(names, self.variants)
            ]
        )

    def explain(self, image, method="gradcam", target=AI, evidence=False):
        if self.failure or self.map_failure:
            raise self.failure or self.map_failure
        self.explained.append((method, target))
        heatmap = np.linspace(-1, 1, 40 * 60, dtype=np.float32).reshape(40, 60)
        tested = Evidence(target, 0.1, 0.9, 0.3, (0.8, 0.85, 0.8, 0.9, 0.8)) if evidence else None
        return Explanation(
            heatmap,
            method,
            target,
            prediction(),
            Image.new("RGB", (60, 40), "gray"),
            evidence=tested,
        )


class Norwegian:
    """A request from a browser that asks for Norwegian."""

    headers = {"accept-language": "nb-NO,nb;q=0.9,en;q=0.8"}


def shown(html: str) -> str:
    import re

    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def analyse(detector, path=PHOTO, current=None, prior=50, request=None):
    current = {"path": path} if current is None else current
    return list(Handlers(detector).analyse(current, path, "gradcam", AI, 50, prior, request))


# Answers


def test_the_verdict_comes_with_stability_and_provenance_and_then_the_map():
    first, second = analyse(FakeDetector())
    verdict, picture, note, stability, provenance, kept = first
    assert "Likely AI-generated" in shown(verdict) and picture["value"] is None
    assert ENGLISH("stability.holds") in shown(stability)
    assert "At half its size Inconclusive 60%" in shown(stability)
    assert "Nothing found" in shown(provenance) and "absence means nothing" in shown(provenance)
    assert kept.explanation is None
    verdict, picture, note, _, _, kept = second
    assert isinstance(picture["value"], Image.Image) and "AI-generated" in picture["alt_text"]
    assert "lowers the AI probability from 0.90 to 0.30; a random 10 % lowers it to 0.83." in shown(
        note
    )
    assert "Better than chance" in shown(note) and "of the evidence" in shown(note)
    assert isinstance(kept.explanation, Explanation)


def test_a_map_that_does_not_beat_chance_is_marked():
    detector = FakeDetector()
    explain = detector.explain
    detector.explain = lambda *a, **k: replace(
        explain(*a, **k), evidence=Evidence(AI, 0.1, 0.9, 0.89, (0.8,) * 5)
    )
    note = shown(analyse(detector)[-1][2])
    assert "No better than chance" in note and "Better than chance" not in note.replace(
        "No better", ""
    )


def test_a_verdict_that_flips_is_withheld_and_says_why():
    ((verdict, _, _, stability, _, kept), _) = analyse(
        FakeDetector(variants=((0.9, AI), (0.1, REAL)))
    )
    assert "Inconclusive" in shown(verdict) and "recompressed, resized or cropped" in shown(verdict)
    assert ENGLISH("stability.flips") in shown(stability)
    assert kept.prediction.verdict == "inconclusive" and kept.prediction.reason == "unstable"


def test_an_image_whose_variants_cannot_be_judged_still_gets_its_verdict():
    detector = FakeDetector()

    def too_small(image, prior_ai=0.5):
        raise ValueError("The image is too small to be halved.")

    detector.stability = too_small
    (verdict, _, _, stability, _, _), _ = analyse(detector)
    assert "Likely AI-generated" in shown(verdict) and "too small to be halved" in shown(stability)


def test_the_prior_moves_the_probability_and_not_the_verdict_and_the_model_does_not_run():
    detector = FakeDetector()
    handlers = Handlers(detector)
    kept = analyse(detector)[0][-1]
    detector.failure = RuntimeError("the model was asked")
    verdict, stability = handlers.reprior(kept, 1)
    # 0.9 at even odds is odds of 9; at 1 to 99 it is 1 in 12.
    assert "8% probability of being AI-generated" in shown(
        verdict
    ) and "Likely AI-generated" in shown(verdict)
    assert "the more probable all the same" in shown(verdict)
    assert "if 1% of all images are AI-generated beforehand" in shown(verdict)
    assert "As it is Likely AI-generated 8%" in shown(stability)
    assert shown(handlers.reprior(kept, 50)[0]) == shown(analyse(FakeDetector())[0][0])
    assert handlers.reprior(None, 20) == (gr.skip(), gr.skip())


def test_at_prior_is_what_the_detector_says(tiny_vit):
    detector = Detector.from_pretrained(tiny_vit)
    for prior in (0.01, 0.3, 0.5, 0.99):
        assert at_prior(detector.predict(PHOTO), prior) == detector.predict(PHOTO, prior_ai=prior)


def test_the_reader_is_answered_in_their_language():
    verdict = analyse(FakeDetector(), request=Norwegian())[0][0]
    assert "Trolig KI-generert" in shown(verdict) and "9 av 10 KI-genererte" in shown(verdict)


def test_a_new_image_clears_the_old_answer_at_once():
    verdict, picture, *_, kept, token = begin({}, "a.jpg")
    assert "html.waiting" in verdict and picture["value"] is None and kept is None
    assert token != begin({}, "a.jpg")[-1], "the same image again must start an analysis again"
    assert "html.empty" in begin({}, None)[0]


def test_nothing_more_is_said_of_an_image_that_was_replaced():
    detector, current = FakeDetector(), {}
    begin(current, PHOTO)
    answers = Handlers(detector).analyse(current, PHOTO, "gradcam", AI, 50, 50)
    next(answers)
    begin(current, "b.jpg")
    assert list(answers) == []
    assert detector.explained == [("gradcam", AI)], "the map that was on its way is not shown"
    assert analyse(detector, current=current) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"This is a letter.", "text file"), (b"\xff\xd8\xff\xe0 broken", "damaged")],
)
def test_an_unusable_file_becomes_a_message_with_advice(tmp_path, content, words):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    ((verdict, picture, *_, kept),) = analyse(FakeDetector(), str(path))
    assert words in shown(verdict) and "Drop another file" in shown(verdict)
    assert str(tmp_path) not in verdict and picture["value"] is None and kept is None


def test_an_unforeseen_failure_keeps_its_details_in_the_log(caplog):
    ((verdict, *_),) = analyse(FakeDetector(failure=RuntimeError("secret")))
    assert "Something went wrong" in shown(verdict)
    assert "secret" not in verdict and "secret" in caplog.text


def test_a_failed_map_leaves_the_verdict_standing():
    first, second = analyse(
        FakeDetector(map_failure=ValueError("This architecture has no spatial layer."))
    )
    assert "Likely AI-generated" in shown(first[0])
    assert second[1]["value"] is None
    assert shown(second[2]) == "No map for this image: This architecture has no spatial layer."


def test_metadata_that_cannot_be_read_leaves_the_verdict_standing(monkeypatch):
    monkeypatch.setattr("realfake.space.handlers.read_provenance", lambda data: 1 / 0)
    (first, _) = analyse(FakeDetector())
    assert "Likely AI-generated" in shown(first[0]) and "could not be read" in shown(first[4])


def test_another_opacity_does_not_run_the_attribution_again():
    detector = FakeDetector()
    kept = analyse(detector)[0][-1]
    picture, _, kept = Handlers(detector).remap({"path": PHOTO}, PHOTO, "occlusion", REAL, 20, kept)
    strong = recolour(kept, 100)["value"]
    assert detector.explained[-1] == ("occlusion", REAL)
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


def test_an_error_names_the_file_and_not_the_servers_folder():
    error = ValueError("/tmp/gradio/0af/photo.jpg is not an image.\nmore")
    assert reason(error, "/tmp/gradio/0af/photo.jpg") == "photo.jpg is not an image."


# An address


def test_an_address_is_fetched_into_the_drop_area_untouched(monkeypatch):
    data = (FOLDER / "cat.jpg").read_bytes()
    monkeypatch.setattr(check, "fetch", lambda address, max_bytes: data)
    path, note = fetch_image(" https://example.org/a%20b/cat?size=1 ")
    assert note == "" and path.endswith("cat.jpg")
    kept = ImageInput().postprocess(path)
    with open(kept.path, "rb") as file:
        assert file.read() == data


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "Paste the address"),
        ("http://127.0.0.1:1/x.jpg", "not fetched"),
        ("ftp://example.org/x", "http and https"),
    ],
)
def test_an_address_that_is_refused_says_why_beside_the_field(address, words):
    image, note = fetch_image(address)
    assert image == gr.skip() and words in shown(note) and 'role="alert"' in note


# Reports


def checked(tmp_path, folder):
    detector = Detector.from_pretrained(folder)
    path = tmp_path / "håp & <tro>.png"
    draw_picture(96, 3).save(path)
    *_, last = Handlers(detector).analyse({"path": str(path)}, str(path), "gradcam", AI, 50, 50)
    first = next(Handlers(detector).analyse({"path": str(path)}, str(path), "gradcam", AI, 50, 50))
    assert first[-1].sha256 == last[-1].sha256
    return detector, path, last[-1]


def test_the_json_report_says_what_every_other_way_in_says(tmp_path, tiny_vit):
    detector, path, kept = checked(tmp_path, tiny_vit)
    written = report.write_json(detector, kept, 0.2, text.ENGLISH)
    assert written.endswith("-realfake.json")
    with open(written, encoding="utf-8") as file:
        said = json.load(file)
    expected = answer(detector, str(path), prior_ai=0.2, stability=True, provenance=True)
    assert said["sha256"] == expected["sha256"] and said["provenance"] == expected["provenance"]
    for key in ("verdict", "reason", "label", "prior_ai", "alpha", "model", "revision"):
        assert said[key] == expected[key]
    assert said["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)
    for mine, theirs in zip(
        said["stability"]["variants"], expected["stability"]["variants"], strict=True
    ):
        assert mine["name"] == theirs["name"] and mine["verdict"] == theirs["verdict"]
    assert (said["width"], said["height"], said["file"]) == (96, 96, path.name)
    assert said["map"]["method"] == "gradcam" and said["map"]["evidence"]["sentence"]
    assert all(0 <= edge <= 1 for region in said["map"]["regions"] for edge in region["box"])


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_pdf_report_is_a_document_with_a_title_in_both_languages(tmp_path, tiny_vit, language):
    detector, path, kept = checked(tmp_path, tiny_vit)
    kept = replace(kept, name="日本 $x^2$ " + "long " * 40 + ".png", explanation=kept.explanation)
    written = report.write_pdf(detector, kept, 0.5, text.words(language))
    with open(written, "rb") as file:
        data = file.read()
    assert data.startswith(b"%PDF") and data.rstrip().endswith(b"%%EOF") and b"realfake" in data
    bare = replace(kept, stability=None, provenance=None, explanation=None)
    with open(report.write_pdf(detector, bare, 0.5, text.words(language)), "rb") as file:
        assert file.read().startswith(b"%PDF")


# Endpoints


def test_the_endpoints_give_the_answer_of_every_other_way_in(tiny_vit):
    detector = Detector.from_pretrained(tiny_vit)
    api = Api(detector)
    expected = answer(detector, PHOTO, prior_ai=0.3, stability=True, provenance=True)
    assert api.predict(PHOTO, 0.3, True, True) == expected
    assert api.stability(PHOTO, 0.3)["stability"] == expected["stability"]
    assert api.provenance(PHOTO) == expected["provenance"]
    picture, said = api.explain(PHOTO, "gradcam", AI, 0.5)
    assert said["verdict"] == api.predict(PHOTO)["verdict"] and said["evidence"]["random_values"]
    assert isinstance(picture, Image.Image) and len(said["regions"]) <= 3
    json.dumps(said, allow_nan=False)


def test_the_endpoints_tell_their_failures_in_one_line(tmp_path, caplog):
    broken = tmp_path / "a.jpg"
    broken.write_text("a letter")
    api = Api(FakeDetector())
    with pytest.raises(gr.Error, match="^'a.jpg is a text file"):
        api.predict(str(broken))
    with pytest.raises(gr.Error, match="Send an image"):
        api.explain(None)
    with pytest.raises(gr.Error, match="Something went wrong"):
        Api(FakeDetector(failure=RuntimeError("secret"))).predict(PHOTO)
    assert "secret" in caplog.text


def test_the_page_offers_documented_endpoints_and_no_others():
    endpoints = build(Loaded(FakeDetector())).blocks.get_api_info()["named_endpoints"]
    assert set(endpoints) == {"/predict", "/explain", "/stability", "/provenance"}
    names = {
        name: [p["parameter_name"] for p in endpoint["parameters"]]
        for name, endpoint in endpoints.items()
    }
    assert names["/predict"] == ["image", "prior_ai", "stability", "provenance"]
    assert names["/explain"] == ["image", "method", "target", "opacity"]
    for endpoint in endpoints.values():
        assert endpoint["description"]


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
    assert not list(FOLDER.parent.glob("*.pyi"))


def test_every_method_has_a_name_in_every_language():
    for strings in LANGUAGES.values():
        assert {key for key in strings if key.startswith("method.")} == {
            f"method.{name}" for name in METHODS
        }


def test_everything_that_stands_on_the_page_is_there_in_every_language():
    page = build(Loaded(FakeDetector(), missing=HOSTILE))
    entries = page.i18n.translations_dict
    assert set(entries) == {"en", "nb", "no", "nn"}
    assert entries["nn"].keys() == entries["nb"].keys() == entries["en"].keys()
    used = {
        json.loads(str(value).partition("__i18n__")[2])["key"]
        for block in page.blocks.blocks.values()
        for value in (
            getattr(block, name, None) for name in ("value", "label", "info", "placeholder")
        )
        if "__i18n__" in str(value)
    }
    assert len(used) > 30 and used <= set(entries["en"])
    pieces = [value for key, value in entries["nb"].items() if key.startswith("html.")]
    assert len(pieces) > 10 and not any("<img src=x" in piece for piece in pieces)


def test_the_notice_of_a_missing_model_is_escaped():
    page = build(Loaded(FakeDetector(), missing=HOSTILE))
    notice = page.i18n.translations_dict["en"]["html.notice"]
    assert (
        "could not be loaded" in notice and "<img" not in notice and not set("{}$`") & set(notice)
    )


def test_the_examples_are_small_and_credited():
    credits = (FOLDER / "README.md").read_text(encoding="utf-8")
    files = {path.name for path in FOLDER.iterdir()} - {"README.md"}
    assert files == set(text.EXAMPLES)
    for name in files:
        assert f"`{name}`" in credits
        assert (FOLDER / name).stat().st_size < 150_000


# Corrections


def test_a_correction_is_kept_with_consent_only(tmp_path):
    from realfake.space.feedback import Feedback
    from realfake.space.feedback_form import Form

    detector = FakeDetector()
    form = Form(Feedback(tmp_path / "feedback"), Handlers(detector))
    kept = analyse(detector)[0][-1]
    assert "no answer to keep" in form.send(PHOTO, None, 50, REAL, "mine", True, True)
    assert "not agreed" in form.send(PHOTO, kept, 50, REAL, "mine", False, True)
    assert not (tmp_path / "feedback").exists()
    assert "the image was not" in form.send(PHOTO, kept, 50, REAL, "mine", True, False)
    assert "The image, the answer" in form.send(PHOTO, kept, 50, "unknown", "", True, True)
    records = [
        json.loads(line)
        for path in (tmp_path / "feedback" / "records").iterdir()
        for line in path.read_text().splitlines()
    ]
    assert [record["truth"] for record in records] == [REAL, None]
    assert [bool(record["image"]) for record in records] == [False, True]
    assert records[0]["note"] == "mine" and records[0]["verdict"] == AI
    assert "could not be kept" in form.send(
        PHOTO, replace(kept, sha256="0" * 64), 50, REAL, "", True, True
    )


# Finding a detector


def test_a_picture_without_metadata_and_one_with_are_told_apart():
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[271], exif[272] = "Canon", "EOS <b>"
    draw_picture(64).save(buffer, "JPEG", exif=exif)
    from realfake.provenance.reading import read_provenance
    from realfake.space import render

    card = render.provenance(text.ENGLISH, read_provenance(buffer.getvalue()))
    assert "Camera data (EXIF) found, unsigned" in shown(card) and "<b>" not in card
    assert "Not found: signed history" in shown(card)
