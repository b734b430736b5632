"""The page's other tabs without a browser: many images, comparison, quality."""

import csv
import io
import json
import re
import zipfile
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from helpers.space import HOSTILE, FakeDetector, Norwegian, markup_in, shown
from helpers.tiny import draw_picture
from PIL import Image

from realfake.detector import DEFAULT_CHECKPOINT, Detector
from realfake.labels import AI
from realfake.provenance.reading import Statement
from realfake.space import batch as batch_module
from realfake.space import quality
from realfake.space.batch import THUMBNAIL, Batch, Row, stop, table, write
from realfake.space.compare import Compare
from realfake.space.loading import Detectors, Loaded, bundled
from realfake.space.text import ENGLISH, jpeg, words


def pictures(folder, n: int) -> list[str]:
    paths = [folder / f"{seed}.png" for seed in range(n)]
    for seed, path in enumerate(paths):
        draw_picture(40, seed).save(path)
    return [str(path) for path in paths]


# Many images


def test_images_and_archives_become_rows_with_one_bad_file_a_row(tmp_path):
    files = pictures(tmp_path, 2)
    letter = tmp_path / "letter.jpg"
    letter.write_text("a letter")
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(files[0], "inside/0.png")
        packed.writestr("notes.txt", "hello")
    steps = list(Batch(FakeDetector()).judge({}, [*files, str(letter), str(archive)]))
    status, drawn, cancel, csv_button, json_button = steps[-1]
    said = shown(drawn)
    assert (
        "0.png Likely AI-generated 90% 1.png" in said and "inside/0.png Likely AI-generated" in said
    )
    assert (
        "letter.jpg Not checked letter.jpg is a text file" in said
        and "notes.txt Not checked" in said
    )
    assert drawn.count("<img") == 3 and str(tmp_path) not in drawn
    assert ENGLISH("batch.finished", total=5, ai=3, real=0, inconclusive=0, bad=2) in shown(status)
    assert cancel["interactive"] is False and csv_button["interactive"] is True
    assert steps[0][2]["interactive"] is True and steps[0][3]["interactive"] is False
    with open(csv_button["value"], encoding="utf-8-sig", newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["file"] for row in written] == [
        "0.png",
        "1.png",
        "letter.jpg",
        "inside/0.png",
        "notes.txt",
    ]
    assert float(written[0]["ai"]) == pytest.approx(0.9) and "text file" in written[2]["error"]
    with open(json_button["value"], encoding="utf-8") as file:
        assert [row.get("verdict") for row in json.load(file)] == [AI, AI, None, AI, None]


def test_a_refused_archive_is_one_row_with_its_reason(tmp_path):
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zeros.png", bytes(20_000_000))
    *_, (_, drawn, *_) = Batch(FakeDetector()).judge({}, [str(bomb)])
    assert "zip bomb" in shown(drawn) and drawn.count("<tr") == 2


def test_the_scores_of_many_are_the_scores_of_one(tmp_path, tiny_convnext):
    detector = Detector.from_pretrained(tiny_convnext)
    files = pictures(tmp_path, 11)
    *_, (*_, button) = Batch(detector).judge({}, files)
    with open(button["value"], encoding="utf-8") as file:
        found = [row["log_odds"] for row in json.load(file)]
    np.testing.assert_allclose(
        found, [detector.predict(path).log_odds for path in files], atol=1e-5
    )


def test_a_run_is_cancelled_and_a_newer_one_ends_an_older_one(tmp_path):
    files, run = pictures(tmp_path, 20), {}
    steps = Batch(FakeDetector()).judge(run, files, False)
    next(steps), next(steps)
    stop(run)
    *_, (status, drawn, cancel, button, _) = steps
    assert (
        ENGLISH("batch.cancelled", done=16, total=20) in shown(status)
        and button["interactive"] is True
    )
    older = Batch(FakeDetector()).judge(run, files)
    next(older)
    next(Batch(FakeDetector()).judge(run, files[:1]))
    assert list(older) == [(gr.skip(),) * 5]


def test_a_verdict_that_changes_is_withheld_on_every_tab(tmp_path, opened, monkeypatch):
    (path,) = pictures(tmp_path, 1)
    flipping = FakeDetector(variants=((0.9, AI), (0.1, "real")))
    *_, (_, drawn, _, csv_button, _) = Batch(flipping).judge({}, [path])
    assert f"{ENGLISH('verdict.inconclusive')} ({ENGLISH('short.unstable')}) 90%" in shown(drawn)
    with open(csv_button["value"], encoding="utf-8-sig", newline="") as file:
        assert [(row["verdict"], row["reason"]) for row in csv.DictReader(file)] == [
            ("inconclusive", "unstable")
        ]
    *_, (_, drawn, *_) = Batch(flipping).judge({}, [path], False)
    assert "Likely AI-generated 90%" in shown(drawn)
    monkeypatch.setattr(opened, "get", lambda name: flipping)
    *_, compared = Compare(opened).compare({}, path, ["a", "b"])
    withheld = f"{ENGLISH('verdict.inconclusive')} {ENGLISH('reason.unstable')}"
    assert shown(compared).count(withheld) == 2


def test_images_above_the_limit_are_skipped_with_a_message(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_module, "MAX_IMAGES", 3)
    *_, (status, drawn, *_) = Batch(FakeDetector()).judge({}, pictures(tmp_path, 5))
    assert ENGLISH("batch.too_many", n=3) in shown(status) and drawn.count("<img") == 3


def test_a_detector_that_fails_fails_its_rows_and_not_the_run(tmp_path, caplog):
    *_, (status, drawn, *_) = Batch(FakeDetector(failure=RuntimeError("secret"))).judge(
        {}, pictures(tmp_path, 2)
    )
    assert "Not checked: 2" in shown(status) and "secret" not in drawn and "secret" in caplog.text


def test_an_empty_choice_clears_the_table():
    ((status, drawn, *_),) = Batch(FakeDetector()).judge({}, None, request=Norwegian())
    assert words("nb")("batch.idle") in shown(status) and drawn == ""


def test_names_cannot_become_markup_or_formulas(tmp_path):
    row = Row(f"=cmd|' /C calc'!A1{HOSTILE}", problem=HOSTILE)
    drawn = table(ENGLISH, [row])
    assert not markup_in(drawn)
    path, _ = write([row])
    with open(path, encoding="utf-8-sig", newline="") as file:
        (written,) = csv.DictReader(file)
    assert written["file"].startswith("'=")


def test_rows_that_need_a_look_come_first_and_show_the_files_own_word():
    def row(name, verdict, reason=None, **more):
        answer = {"verdict": verdict, "reason": reason, "probabilities": {AI: 0.5}}
        return Row(name, answer, **more)

    rows = [
        row("photo.jpg", "real"),
        Row("broken.jpg", problem="damaged"),
        row("unclear.jpg", "inconclusive", "between"),
        row("made.jpg", AI),
        row("edited.jpg", "inconclusive", "differing"),
        row("labelled.jpg", "real", statement=Statement("ai", by="Midjourney")),
        row("camera.jpg", "real", statement=Statement("camera", signed="trusted")),
    ]
    drawn = shown(table(ENGLISH, rows))
    order = ("edited", "labelled", "made", "unclear", "broken", "photo", "camera")
    order = [f"{name}.jpg" for name in order]
    assert sorted(order, key=drawn.index) == order
    assert ENGLISH("origin.ai.by", by="Midjourney") in drawn


# Compare


@pytest.fixture(scope="module")
def opened(tiny_vit, tiny_convnext):
    opened = Detectors(Loaded(Detector.from_pretrained(tiny_vit)))
    opened._open["cifake"] = Detector.from_pretrained(tiny_convnext)
    return opened


def test_detectors_answer_side_by_side(opened, tmp_path):
    (path,) = pictures(tmp_path, 1)
    steps = list(Compare(opened).compare({}, path, ["vit", "cifake"]))
    for step, name in zip(steps, ("vit", "cifake"), strict=False):
        assert ENGLISH("compare.waiting", model=ENGLISH.named("detector", name)) in shown(step)
    assert steps[-1].count("<section") == 2 and steps[-1].count('class="rf-tile ') == 2
    for name in ("vit", "cifake"):
        expected = opened.get(name).predict(path)
        assert f"AI-generated {ENGLISH.percent(expected.probabilities[AI])}" in shown(steps[-1])


def test_only_the_operators_detectors_are_chosen_at_first(tiny_vit, tiny_convnext):
    detectors = Detectors(
        Loaded(Detector.from_pretrained(tiny_vit), compare=("user/a", str(tiny_convnext)))
    )
    assert detectors.chosen() == ["vit", "user/a", Path(tiny_convnext).name]
    assert set(bundled()) <= set(detectors.names())


@pytest.mark.parametrize(
    ("verdicts", "key"),
    [
        ((AI, "real"), "differ"),
        ((AI, "inconclusive", "real"), "differ"),
        ((AI, "inconclusive"), "unsure"),
        ((AI, AI), "agree"),
        (("inconclusive", "inconclusive"), "none"),
    ],
)
def test_disagreement_is_said_plainly_and_nothing_is_averaged(
    opened, tmp_path, monkeypatch, verdicts, key
):
    (path,) = pictures(tmp_path, 1)
    shares = {AI: 0.93, "inconclusive": 0.5, "real": 0.11}
    fakes = {
        f"model-{i}": FakeDetector(variants=((shares[verdict], verdict),), name=f"model-{i}")
        for i, verdict in enumerate(verdicts)
    }
    monkeypatch.setattr(opened, "get", fakes.get)
    *_, last = Compare(opened).compare({}, path, list(fakes))
    assert ENGLISH(f"compare.{key}") in shown(last)
    percents = {int(each) for each in re.findall(r"(\d+)%", shown(last))}
    allowed = {
        round(100 * p) for verdict in verdicts for p in (shares[verdict], 1 - shares[verdict])
    }
    assert percents <= allowed | {100, 5, 288}


@pytest.mark.parametrize(
    ("models", "key"), [(["vit"], "few"), (list("abcdef"), "many"), (["vit", "vit"], "few")]
)
def test_too_few_and_too_many_are_refused_with_advice(opened, tmp_path, models, key):
    (path,) = pictures(tmp_path, 1)
    (step,) = Compare(opened).compare({}, path, models)
    assert shown(step) == ENGLISH(f"compare.{key}", n=5)
    (step,) = Compare(opened).compare({}, None, models)
    assert shown(step) == ENGLISH("compare.empty")


def test_the_others_answer_if_one_detector_cannot(opened, tmp_path):
    (path,) = pictures(tmp_path, 1)
    *_, last = Compare(opened).compare({}, path, ["vit", "../../etc", HOSTILE])
    assert last.count("rf-problem") == 2 and "<img src=x" not in last
    letter = tmp_path / "letter.jpg"
    letter.write_text("a letter")
    *_, last = Compare(opened).compare({}, str(letter), ["vit", "cifake"])
    assert shown(last).count("letter.jpg is a text file") == 2


def test_a_newer_comparison_ends_an_older_one(opened, tmp_path):
    (path,) = pictures(tmp_path, 1)
    run = {}
    older = Compare(opened).compare(run, path, ["vit", "cifake"])
    next(older)
    next(Compare(opened).compare(run, path, ["vit", "cifake"]))
    assert list(older) == [gr.skip()]


# How good is it?


@pytest.fixture(scope="module")
def evaluation():
    return json.loads((DEFAULT_CHECKPOINT / "evaluation.json").read_text())


def test_the_records_figures_are_shown_with_their_intervals(evaluation):
    figures = evaluation["test"]["figures"]
    said = shown(quality.quality(ENGLISH, evaluation, None))
    for figure in (figures["summary"]["auroc"], figures["summary"]["ece"]):
        assert f"{figure['value']:.3f} {figure['low']:.3f} – {figure['high']:.3f}" in said
    assert f"{sum(figures['n'].values()):,}" in said
    wrong = figures["verdicts"]["wrong"]["ai"]
    assert f"{ENGLISH('quality.wrong_ai')} {100 * wrong['value']:.1f}%" in said
    assert ENGLISH("quality.unmeasured") in said
    generators = figures["by_generator"]
    names = sorted(generators, key=lambda name: generators[name]["auroc"]["value"])
    places = [said.index(ENGLISH.known(name)) for name in names]
    assert places[0] == min(places)
    assert "prob" not in shown(quality.quality(words("nb"), evaluation, None)).lower()


def test_degradations_are_a_table_of_generators(evaluation):
    figures = evaluation["test"]["figures"]
    worse = json.loads(json.dumps(figures))
    worse["summary"]["auroc"]["value"] = 0.61
    robustness = {"test": {"degradations": {"clean": figures, "jpeg_40": worse, HOSTILE: worse}}}
    drawn = quality.quality(ENGLISH, evaluation, robustness)
    said = shown(drawn)
    assert "unchanged JPEG 40" in said and "All 0." in said and "0.61" in said
    assert not markup_in(drawn)


@pytest.mark.parametrize(
    ("evaluation", "robustness"),
    [
        (None, None),
        ([], 3),
        ({"test": {"figures": {"summary": {"auroc": 0.9}}}}, {"test": {"degradations": []}}),
        (
            {"test": {"figures": {"summary": {"auroc": {"value": float("nan")}}}}},
            {"test": {"degradations": {"x": 1}}},
        ),
    ],
)
def test_a_checkpoint_without_a_record_has_a_notice(evaluation, robustness):
    assert ENGLISH("quality.none") in shown(quality.quality(ENGLISH, evaluation, robustness))


@pytest.mark.parametrize(
    "reliability",
    [
        {"predicted": [0.1], "observed": [], "count": [1], "mass": [1]},
        {"predicted": "x"},
        [1],
        {"predicted": ["<b>"], "observed": [0.1], "count": [1], "mass": [1]},
        {"predicted": [7], "observed": [0.1], "count": [1], "mass": [1]},
        {"predicted": [None], "observed": [0.1], "count": [1], "mass": [1]},
    ],
)
def test_malformed_bins_draw_nothing(reliability):
    figures = {"summary": {"auroc": {"value": 0.9, "n": 4}}, "reliability": reliability}
    drawn = quality.quality(ENGLISH, {"test": {"figures": figures}}, None)
    assert "<svg" not in drawn and "0.900" in drawn


def test_nothing_in_a_record_reaches_the_page_as_markup():
    entry = {
        "n": HOSTILE,
        "auroc": {"value": 0.5, "low": HOSTILE},
        "false_positives": {"value": 0.5},
    }
    figures = {
        "summary": {"auroc": {"value": 0.9}},
        "by_generator": {HOSTILE: entry},
        "by_source": {HOSTILE: entry},
        "n": {"real": HOSTILE},
    }
    record = {"figures": figures, "corpus": HOSTILE, "date": HOSTILE, "checkpoint_sha256": HOSTILE}
    drawn = quality.quality(ENGLISH, {"test": record}, None)
    assert not markup_in(drawn)


def test_a_thumbnail_is_small():
    buffer = io.BytesIO()
    Image.effect_noise((2000, 1500), 80).convert("RGB").save(buffer, "PNG")
    with Image.open(buffer) as image:
        assert len(jpeg(image, THUMBNAIL, quality=60)) < 6_000
