"""The page without a browser: the first tab's answers, its report, its endpoints."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from helpers.space import HOSTILE, FakeDetector, Norwegian, markup_in, prediction, shown
from helpers.tiny import draw_picture
from PIL import Image, PngImagePlugin

from realfake.answer import answer
from realfake.attribution.faithfulness import Evidence
from realfake.attribution.methods import METHODS
from realfake.attribution.overlay import SMOOTH, overlay
from realfake.detector import Detector
from realfake.labels import AI, REAL
from realfake.prediction import Explanation
from realfake.provenance.reading import read_provenance
from realfake.space import handlers, uploads
from realfake.space.api import Api
from realfake.space.check import FOLDER, fetch_image, reporter, sender
from realfake.space.feedback import Feedback
from realfake.space.handlers import Handlers, Session, at_prior
from realfake.space.loading import Loaded
from realfake.space.maps import PASSES, REGIONS, bounded, draw_map, tiles_of
from realfake.space.page import build
from realfake.space.text import ENGLISH, EXAMPLES, LANGUAGES, error_line, render, words
from realfake.space.uploads import ImageInput

PHOTO = str(FOLDER / "astronaut.jpg")


def answers(
    detector,
    path=PHOTO,
    method="gradcam",
    target=AI,
    session=None,
    request=None,
    wanted=True,
    evaluation=None,
):
    """The messages for an image."""
    session = Session() if session is None else session
    handlers = Handlers(detector, evaluation)
    found = handlers.answer(session, path, method, target, 1, wanted, request)
    return [json.loads(json.dumps(message)) for message, _ in found]


# Answers


def test_the_verdict_comes_first_and_then_the_detail():
    first, second = answers(FakeDetector())
    assert first["image"] == second["image"] == Path(PHOTO).parent.name
    assert first["parts"] == second["parts"] and first["maps"] == {}
    text = {name: shown(html) for name, html in first["parts"].items()}
    assert ENGLISH("verdict.ai") in text["verdict"] and "90%" in text["verdict"]
    assert ENGLISH("stability.partly") in text["stability"]
    assert (
        f"{ENGLISH('variant.half_size')} {ENGLISH('verdict.inconclusive')} 60%" in text["stability"]
    )
    assert ENGLISH("provenance.c2pa") in text["provenance"]
    assert set(second["maps"]) == {"gradcam/ai"}
    assert set(first["times"]) == set(METHODS)


def test_an_inconclusive_verdict_does_not_wait_for_the_changed_copies():
    detector = FakeDetector(variants=((0.5, "inconclusive"), (0.1, REAL)))
    first, second = answers(detector, wanted=False)
    assert shown(first["parts"]["stability"]) == ""
    assert ENGLISH("variant.messenger") in shown(second["parts"]["stability"])
    for name in ("verdict", "tiles", "provenance"):
        assert first["parts"][name] == second["parts"][name]


def test_a_verdict_that_copies_could_change_is_shown_once_they_are_checked():
    (only,) = answers(FakeDetector(variants=((0.9, AI), (0.1, REAL))), wanted=False)
    assert ENGLISH("verdict.inconclusive") in shown(only["parts"]["verdict"])


def test_an_older_event_stops_before_the_copies_and_the_report_checks_them():
    session, detector = Session(), FakeDetector(variants=((0.5, "inconclusive"), (0.1, REAL)))
    steps = Handlers(detector).answer(session, PHOTO, "gradcam", AI, 1, False)
    next(steps)
    session.note_event(2)
    assert list(steps) == [] and session.find(PHOTO).stability is None
    _, text = written(detector, PHOTO, "json", session=session)
    assert len(json.loads(text)["stability"]["variants"]) == 2


def test_the_detail_is_drawn_only_when_it_is_wanted():
    detector = FakeDetector()
    (message,) = answers(detector, wanted=False)
    assert message["parts"]["tiles"] and message["maps"] == {} and detector.explained == []


def test_the_tile_map_has_one_tile_for_each_view_and_shares_that_add_up():
    tiles = tiles_of(prediction(0.9, size=(200, 100)), (200, 100))
    assert [tile.box for tile in tiles] == [(0, 0, 0.5, 1), (0.5, 0, 1, 1)]
    assert sum(tile.share for tile in tiles) == pytest.approx(prediction(0.9).log_odds)
    assert sum(tile.weight for tile in tiles) == pytest.approx(1)
    assert [tile.label for tile in tiles] == [AI, REAL]
    drawn = answers(FakeDetector())[0]["parts"]["tiles"]
    assert drawn.count("<button") == 2 + 1 and drawn.count("rf-tile-ai") == 1
    assert ENGLISH("place.left") in shown(drawn) or ENGLISH("place.left") in drawn


def test_one_view_is_one_tile_without_a_number_and_the_rest_is_pale():
    whole = prediction(0.9, size=(60, 40))
    one = replace(whole, views=whole.views[:1], examined=0.5)
    parts = answers(FakeDetector(found=one), wanted=False)[0]["parts"]
    assert parts["tiles"].count('class="rf-tile ') == 1 and "rf-unseen" in parts["tiles"]
    assert ENGLISH("looked.part.one", share="50%") in shown(parts["verdict"])


def test_a_part_that_differs_is_marked_and_named():
    flagged = replace(
        prediction(0.2, "inconclusive", (512, 512), reason="differing"), differing=(0,)
    )
    parts = answers(FakeDetector(found=flagged), wanted=False)[0]["parts"]
    assert parts["tiles"].count("rf-differs") == 1
    card = shown(parts["verdict"])
    assert ENGLISH("reason.differing") in card
    assert ENGLISH("why.place", places=ENGLISH.place((0, 0, 0.5, 1))) in card


@pytest.mark.parametrize(
    ("after", "random", "confirmed"), [(0.3, 0.83, True), (0.89, 0.9, False), (0.3, 0.32, False)]
)
def test_a_map_is_confirmed_only_by_an_effect_that_can_be_seen(after, random, confirmed):
    detector = FakeDetector()
    explain = detector.explain
    tested = Evidence(AI, 0.1, 0.9, after, (random,) * 5)
    detector.explain = lambda *a, **k: replace(explain(*a, **k), evidence=tested)
    drawn = shown(answers(detector)[-1]["maps"]["gradcam/ai"])
    assert (ENGLISH("evidence.weak") in drawn) != confirmed
    assert (ENGLISH.evidence(tested) in drawn) == confirmed


def test_expected_times_rise_with_the_passes_and_are_then_measured():
    handlers = Handlers(FakeDetector())
    record = handlers.record(Session(), PHOTO)
    record.seconds = 0.1
    before = handlers.times(ENGLISH, record)
    assert before["occlusion"] == ENGLISH.duration(0.1 * PASSES["occlusion"] * 2)
    handlers.map(record, "occlusion", AI)
    assert handlers.times(ENGLISH, record)["occlusion"] == ENGLISH("time.moment")


def test_a_map_names_its_image_method_and_target():
    session, detector = Session(), FakeDetector()
    answers(detector, session=session)
    (message,) = answers(detector, session=session, method="occlusion", target=REAL)[1:]
    assert set(message["maps"]) == {"occlusion/real"} and message["parts"]
    assert detector.explained == [("gradcam", AI), ("occlusion", REAL)]
    # A map that was drawn before is not drawn again, and neither is the image checked again.
    detector.failure = RuntimeError("the model ran")
    (message,) = answers(detector, session=session)
    assert set(message["maps"]) == {"gradcam/ai"}


def test_a_verdict_that_changes_is_withheld_with_its_reason():
    session = Session()
    (first, _) = answers(FakeDetector(variants=((0.9, AI), (0.1, REAL))), session=session)
    card = first["parts"]["verdict"]
    assert ENGLISH("verdict.inconclusive") in shown(card)
    assert ENGLISH("reason.unstable") in shown(card)
    # The score steps back.
    assert '<details class="rf-score">' in card
    assert ENGLISH("stability.no") in shown(first["parts"]["stability"])
    kept = session.find(PHOTO).prediction
    assert (kept.verdict, kept.reason) == ("inconclusive", "unstable")


def test_an_image_whose_copies_cannot_be_checked_still_gets_its_verdict():
    detector = FakeDetector()

    def too_small(image, original):
        raise ValueError("The image is too small to be halved.")

    detector.stability = too_small
    first = answers(detector)[0]["parts"]
    assert ENGLISH("verdict.ai") in shown(first["verdict"])
    assert "too small to be halved" in shown(first["stability"])


def test_a_verdict_has_the_measured_error_rate():
    wrong = {"value": 0.104, "low": 0.082, "high": 0.126, "n": 712}
    verdicts = {"wrong": {REAL: wrong}, "accuracy": {"value": 0.868}}
    evaluation = {"test": {"figures": {"verdicts": verdicts}}}
    verdict = answers(FakeDetector(), evaluation=evaluation)[0]["parts"]["verdict"]
    assert ENGLISH("rate.ai", n=712, share="10", low="8.2%", high="12.6%") in shown(verdict)
    assert ENGLISH("rate.right", share="87") in shown(verdict)


def test_parts_that_all_lean_one_way_have_no_share_of_all_the_evidence():
    tile, _ = tiles_of(prediction(0.9, size=(200, 100)), (200, 100))
    wide = replace(tile, share=1.0, box=(0.0, 0.0, 0.5, 1.0))
    tiny = replace(wide, box=(0.7, 0.1, 0.78, 0.2))
    record = SimpleNamespace(
        tiles=(wide, tiny), size=(200, 100), picture=b"", prediction=prediction(0.9)
    )
    html = render("check", "tiles", ENGLISH, record=record)
    assert ENGLISH("map.all.ai") in shown(html) and "100%" not in shown(html)
    small = [button for button in html.split("<button")[1:] if "rf-small-tile" in button]
    assert len(small) == 1 and "left:70.000%" in small[0]


def test_at_prior_agrees_with_the_detector(tiny_vit):
    detector = Detector.from_pretrained(tiny_vit)
    for prior in (0.01, 0.3, 0.5, 0.99):
        assert at_prior(detector.predict(PHOTO), prior) == detector.predict(PHOTO, prior_ai=prior)


def test_the_answer_is_in_the_language_of_the_request():
    verdict = answers(FakeDetector(), request=Norwegian())[0]["parts"]["verdict"]
    assert words("nb")("verdict.ai") in shown(verdict)


def test_an_older_event_stops_and_the_newest_is_answered():
    session, detector = Session(), FakeDetector()
    older = Handlers(detector).answer(session, PHOTO, "gradcam", AI, 1, True)
    next(older)
    session.note_event(2)
    assert list(older) == [] and detector.explained == []
    assert list(Handlers(detector).answer(session, PHOTO, "gradcam", AI, 1, True)) == []
    assert len(list(Handlers(detector).answer(session, PHOTO, "gradcam", AI, 3, True))) == 2
    # Events can arrive in another order.
    session.note_event(2)
    assert session.newest == 3
    assert list(Handlers(detector).answer(session, None, "gradcam", AI, 4, True)) == []


def test_a_session_keeps_few_records_and_not_for_long(monkeypatch):
    session, detector = Session(), FakeDetector()
    paths = [str(FOLDER / name) for name in EXAMPLES]
    for path in paths:
        answers(detector, path, session=session)
    assert list(session.records) == paths[-handlers.MAX_RECORDS :]
    monkeypatch.setattr(handlers, "KEEP_SECONDS", -1)
    assert session.find(paths[-1]) is None and not session.records


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"This is a letter.", "text file"), (b"\xff\xd8\xff\xe0 broken", "damaged")],
)
def test_an_unusable_file_becomes_a_message_with_advice(tmp_path, content, reason):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    (message,) = answers(FakeDetector(), str(path))
    assert set(message["parts"]) == {"verdict"} and message["maps"] == {}
    card = message["parts"]["verdict"]
    assert reason in shown(card) and ENGLISH("problem.advice") in shown(card)
    assert str(tmp_path) not in card


def test_an_unforeseen_failure_has_its_details_in_the_log_only(caplog):
    (message,) = answers(FakeDetector(failure=RuntimeError("secret")))
    card = message["parts"]["verdict"]
    assert ENGLISH("problem.unexpected") in shown(card)
    assert "secret" not in card and "secret" in caplog.text


def test_a_failed_map_leaves_the_verdict():
    failure = ValueError("This architecture has no spatial layer.")
    first, second = answers(FakeDetector(map_failure=failure))
    assert first["parts"] == second["parts"]
    drawn = second["maps"]["gradcam/ai"]
    assert shown(drawn) == f"{ENGLISH('map.failed')} {failure}" and "<img" not in drawn


def test_unreadable_metadata_leaves_the_verdict(monkeypatch):
    monkeypatch.setattr(handlers, "read_provenance", lambda data: 1 / 0)
    first = answers(FakeDetector())[0]["parts"]
    assert ENGLISH("verdict.ai") in shown(first["verdict"])
    assert ENGLISH("provenance.failed") in shown(first["provenance"])


def test_the_two_pictures_of_a_map_blend_to_the_map_at_any_strength(tiny_vit):
    detector = Detector.from_pretrained(tiny_vit)
    record = handlers.check(detector, PHOTO)
    drawn = Handlers(detector).map(record, "gradcam", AI)
    explanation = bounded(detector.explain(PHOTO, "gradcam", AI))
    regions = explanation.regions(REGIONS)
    plain, coloured = (opened(data) for data in (drawn.plain, drawn.coloured))
    for strength in (0.0, 0.3, 1.0):
        expected = overlay(
            explanation.image,
            explanation.heatmap,
            AI,
            strength,
            legend=False,
            regions=regions,
            smooth=SMOOTH,
        )
        blend = (1 - strength) * plain + strength * coloured
        # Both are JPEG files.
        assert np.abs(blend - np.asarray(expected, float)).mean() < 3


def opened(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image, float)


def test_the_inside_of_a_tile_is_cut_from_the_image_at_its_own_pixels():
    image = Image.new("RGB", (400, 200), "red")
    image.paste("blue", (200, 0, 400, 200))
    found = prediction(0.9, size=image.size)
    heatmap = np.ones((200, 400), dtype=np.float32)
    explanation = Explanation(heatmap, "gradcam", AI, found, image)
    drawn = draw_map(explanation, tiles_of(found, image.size), "folder.x/a.jpg")
    assert drawn.file_name == "a-gradcam-ai.jpg" and drawn.confirmed is None
    (left, _), (right, _) = drawn.tiles
    assert opened(left).shape == (200, 200, 3)
    assert opened(left)[..., 0].mean() > 240 > opened(right)[..., 0].mean()


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
    assert error_line(error, "/tmp/gradio/0af/photo.jpg") == "photo.jpg is not an image."


# An address


def test_a_url_is_fetched_into_the_drop_area_unchanged(monkeypatch):
    data = (FOLDER / "temple.jpg").read_bytes()
    monkeypatch.setattr(uploads, "fetch", lambda address, max_bytes: data)
    path, note = fetch_image(" https://example.org/a%20b/temple?size=1 ")
    assert note == "" and path.endswith("temple.jpg")
    kept = ImageInput().postprocess(path)
    with open(kept.path, "rb") as file:
        assert file.read() == data


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", ENGLISH("url.empty")),
        ("http://127.0.0.1:1/x.jpg", "not fetched"),
        ("ftp://example.org/x", "http and https"),
    ],
)
def test_a_refused_url_shows_the_reason_below_the_field(address, words):
    image, note = fetch_image(address)
    assert image == gr.skip() and words in shown(note) and 'role="alert"' in note


# Reports

KINDS = ("html", "json")


def written(detector, path, write, prior_ai=0.5, method="gradcam", session=None, request=None):
    """The text of a report, as the page's button writes it."""
    handlers = Handlers(detector)
    press = reporter(handlers, write)
    file = press(session or Session(), str(path), method, AI, 100 * prior_ai, 50, request)
    return file, Path(file).read_text(encoding="utf-8")


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "håp & <tro>.png"
    draw_picture(96, 3).save(path)
    return path


def test_the_json_report_has_the_same_answer_as_the_library(picture, tiny_vit):
    detector = Detector.from_pretrained(tiny_vit)
    file, text = written(detector, picture, "json", 0.2)
    assert file.endswith("-realfake.json")
    found = json.loads(text)
    expected = answer(detector, str(picture), prior_ai=0.2, stability=True, provenance=True)
    assert found["sha256"] == expected["sha256"] and found["provenance"] == expected["provenance"]
    for key in ("verdict", "reason", "label", "prior_ai", "alpha", "model", "revision"):
        assert found[key] == expected[key]
    assert found["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)
    for mine, theirs in zip(
        found["stability"]["variants"], expected["stability"]["variants"], strict=True
    ):
        assert mine["name"] == theirs["name"] and mine["verdict"] == theirs["verdict"]
    assert (found["width"], found["height"], found["file"]) == (96, 96, picture.name)
    assert found["map"]["method"] == "gradcam" and found["map"]["evidence"]["sentence"]
    assert all(0 <= edge <= 1 for region in found["map"]["regions"] for edge in region["box"])


def test_a_report_is_about_the_method_that_is_chosen_now():
    session, detector = Session(), FakeDetector()
    answers(detector, session=session)
    _, text = written(detector, PHOTO, "json", method="occlusion", session=session)
    assert json.loads(text)["map"]["method"] == "occlusion"


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_html_report_is_one_file_with_picture_map_table_and_hash(picture, tiny_vit, language):
    detector = Detector.from_pretrained(tiny_vit)

    class Request:
        headers = {"accept-language": language}

    t = words(language)
    file, text = written(detector, picture, "html", request=Request())
    record = handlers.check(detector, str(picture))
    record.check_copies(detector)
    assert file.endswith(".html") and f'<html lang="{language}">' in text
    assert text.count("data:image/jpeg") == 1 + 2  # the tile map; the detail and its colours
    assert text.count("<tr") == 1 + len(record.stability.variants)
    assert record.sha256 in text and t(f"verdict.{record.prediction.verdict}") in text
    assert "<tro>" not in text and "@media print" in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)


def test_a_report_states_what_its_numbers_presuppose(picture, tiny_vit):
    detector = Detector.from_pretrained(tiny_vit)
    found = detector.predict(picture)
    moved = at_prior(found, 0.9)
    _, text = written(detector, picture, "html", prior_ai=0.9)
    even = ENGLISH("report.score", percent=ENGLISH.percent(found.probabilities[AI]))
    stated = ENGLISH("report.prior", prior="90%", percent=ENGLISH.percent(moved.probabilities[AI]))
    # The number to which the map's sentence belongs comes first.
    assert 0 < shown(text).index(even) < shown(text).index(stated)
    assert ENGLISH.looked(found) in shown(text)
    _, text = written(detector, picture, "html")
    assert "90%" not in shown(text)


def test_a_report_has_the_files_own_word_and_the_measured_error_rates(tmp_path):
    path = tmp_path / "made.png"
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a red fox\nSteps: 20, Sampler: Euler a, Model: dreamer")
    draw_picture(96).save(path, pnginfo=info)
    wrong = {"value": 0.05, "low": 0.04, "high": 0.06, "n": 100}
    evaluation = {"test": {"figures": {"verdicts": {"wrong": {REAL: wrong, AI: wrong}}}}}
    handlers = Handlers(FakeDetector(), evaluation)
    session = Session()
    files = [reporter(handlers, kind)(session, str(path), "gradcam", AI, 50, 50) for kind in KINDS]
    text, found = (Path(file).read_text(encoding="utf-8") for file in files)
    for verdict in (REAL, AI):
        assert handlers.evaluation and ENGLISH.error_rate(verdict, evaluation) in shown(text)
    assert "dreamer" in shown(text) and "a red fox" in shown(text)
    statement = json.loads(found)["statement"]
    assert (statement["claim"], statement["prompt"]) == ("ai", "a red fox")
    assert "(dreamer)" in statement["by"]
    assert json.loads(found)["measured"]["wrong"][AI] == wrong and json.loads(found)["views"]


def test_the_html_report_says_what_is_missing():
    def too_small(image, original):
        raise ValueError("The image is too small to be halved.")

    detector = FakeDetector(map_failure=ValueError("no layer"))
    detector.stability = too_small
    _, text = written(detector, PHOTO, "html")
    assert ENGLISH("map.unexpected") in shown(text) and "too small" in text


def test_there_is_no_report_without_an_image():
    with pytest.raises(gr.Error, match=ENGLISH("report.none")):
        reporter(Handlers(FakeDetector()), "json")(Session(), None, "gradcam", AI, 50, 50)


# Endpoints


def test_the_endpoints_give_the_same_answer_as_the_library(tiny_vit):
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


def test_the_endpoints_report_failures_in_one_line(tmp_path, caplog):
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


def test_everything_on_the_page_is_there_in_every_language():
    page = build(Loaded(FakeDetector(), missing=HOSTILE))
    entries = page.i18n.translations_dict
    assert set(entries) == {*LANGUAGES, "no", "nn"}
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
    preview = '<img class="rf-preview"'  # the browser puts the visitor's own picture there
    assert len(pieces) > 10 and not any(markup_in(piece.replace(preview, "")) for piece in pieces)


def test_the_examples_are_small_and_credited():
    credits = (FOLDER / "README.md").read_text(encoding="utf-8")
    files = {path.name for path in FOLDER.iterdir()} - {"README.md"}
    assert files == set(EXAMPLES)
    for name in files:
        assert f"`{name}`" in credits
        assert (FOLDER / name).stat().st_size < 150_000


def test_camera_data_is_shown_and_missing_metadata_is_listed():
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[271], exif[272] = "Canon", "EOS <b>"
    draw_picture(64).save(buffer, "JPEG", exif=exif)
    card = render("check", "provenance", ENGLISH, provenance=read_provenance(buffer.getvalue()))
    assert ENGLISH("state.present") in shown(card) and "<b>" not in card
    assert ENGLISH("provenance.c2pa") in shown(card)


# Corrections


def test_a_correction_is_stored_with_consent_only(tmp_path):
    store = Feedback(tmp_path / "feedback")
    session = Session()
    press = sender(Handlers(FakeDetector()), store)

    def send(path, *form):
        return shown(press(session, path, "gradcam", AI, 50, *form))

    assert send(None, REAL, "mine", True, True) == ENGLISH("report.none")
    assert send(PHOTO, REAL, "mine", False, True) == ENGLISH("feedback.nothing")
    assert not (tmp_path / "feedback").exists()
    assert send(PHOTO, REAL, "mine", True, False) == ENGLISH("feedback.kept")
    assert send(PHOTO, "unknown", "", True, True) == ENGLISH("feedback.kept_image")
    records = [
        json.loads(line)
        for path in (tmp_path / "feedback" / "records").iterdir()
        for line in path.read_text().splitlines()
    ]
    assert [record["truth"] for record in records] == [REAL, None]
    assert [bool(record["image"]) for record in records] == [False, True]
    assert records[0]["note"] == "mine" and records[0]["verdict"] == AI
    session.find(PHOTO).sha256 = "0" * 64
    assert send(PHOTO, REAL, "", True, True) == ENGLISH("feedback.failed")
