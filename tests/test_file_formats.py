"""`realfake evaluate formats`: the same image in other file formats."""

import json

import numpy as np
import pytest
from datasets import Dataset, Features, Image
from helpers.tiny import draw_corpus, draw_picture, save_tiny

from realfake.card.facts import CardFacts
from realfake.card.sections import formats_section
from realfake.cli.main import main
from realfake.corpus.write import saved
from realfake.detector import Detector
from realfake.evaluation.log import read_log
from realfake.evaluation.variants import (
    FORMATS,
    UNCHANGED,
    format_figures,
    formats_table,
    score_formats,
)
from realfake.imaging.decode import open_image
from realfake.prediction import Scores
from realfake.statistics.verdicts import Thresholds


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return Detector.from_pretrained(
        save_tiny("mobilenet_v2", tmp_path_factory.mktemp("tiny")), device="cpu"
    )


def rows_of(pictures):
    files = [{"bytes": saved(picture, "PNG"), "path": None} for picture in pictures]
    return Dataset.from_dict({"image": files}, features=Features({"image": Image(decode=False)}))


def test_every_format_opens_as_the_same_image():
    picture = draw_picture(46, seed=1)
    for name, (_, save) in FORMATS.items():
        opened = open_image(save(picture))
        side = 40 if name == "equalized" else 46
        assert opened.size == (side, side), name
        off = (46 - side) // 2
        there = np.asarray(picture, dtype=float)[off : off + side, off : off + side]
        difference = np.abs(np.asarray(opened, dtype=float) - there).mean()
        assert difference == 0 if name == "png" else 0 < difference < 12, name


def test_an_image_smaller_than_a_block_is_not_cropped_to_nothing():
    assert open_image(
        FORMATS["equalized"][1](draw_picture(16).crop((0, 0, 16, 5)).resize((16, 16)))
    ).size == (16, 16)


def test_png_keeps_every_score(detector):
    dataset = rows_of([draw_picture(32 + 3 * seed, seed=seed) for seed in range(5)])
    scores = score_formats(detector, dataset, batch_size=2)
    assert list(scores) == [UNCHANGED, *FORMATS]
    np.testing.assert_array_equal(scores["png"][0], scores[UNCHANGED][0])
    assert np.abs(scores["jpeg_95"].log_odds - scores[UNCHANGED].log_odds).max() > 0
    assert all(len(own.log_odds) == 5 for own in scores.values())


def test_figures_by_hand(detector, monkeypatch):
    monkeypatch.setattr(
        detector, "thresholds", Thresholds(alpha=0.05, real=-1.0, ai=1.0, n_real=40, n_ai=40)
    )
    before = np.array([-3.0, -2.0, 2.0, 3.0, 0.0])  # the last one has no verdict to keep
    after = np.array([-3.0, 2.0, 0.5, 3.0, 3.0])
    scores = dict.fromkeys((UNCHANGED, *FORMATS), Scores(before)) | {"webp_80": Scores(after)}
    figures = format_figures(
        detector, scores, Dataset.from_dict({"group": list("aabbc")}), n_resamples=200
    )
    assert figures["png"]["kept"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 4}
    webp = figures["webp_80"]
    assert (webp["kept"]["value"], webp["flipped"]["value"], webp["inconclusive"]["value"]) == (
        0.5,
        0.25,
        0.25,
    )
    assert webp["kept"]["low"] <= 0.5 <= webp["kept"]["high"]
    assert webp["change"]["value"] == pytest.approx(
        1 / (1 + np.exp(-2)) - 1 / (1 + np.exp(2)), abs=1e-6
    )
    nothing = dict.fromkeys((UNCHANGED, *FORMATS), Scores(np.zeros(5)))
    found = format_figures(
        detector, nothing, Dataset.from_dict({"group": list("aabbc")}), n_resamples=20
    )
    assert found["png"]["kept"] == {"value": None, "low": None, "high": None, "n": 0}


def test_the_command_writes_a_record_for_the_card(tmp_path, monkeypatch, capsys):
    checkpoint, corpus = (
        save_tiny("mobilenet_v2", tmp_path / "tiny"),
        draw_corpus(tmp_path / "corpus", 24),
    )
    log = tmp_path / "log.jsonl"
    words = [
        "--dataset",
        str(corpus),
        "--output",
        str(tmp_path / "out"),
        "--measurement_log",
        str(log),
    ]
    words += ["--n_resamples", "20", "--preprocessing_num_workers", "1"]
    for _ in range(2):  # the second time the split is looked at no more often
        assert main(["evaluate", "formats", checkpoint, *words]) == 0
    assert "WebP, quality 80" in capsys.readouterr().out
    (line,) = read_log(log)
    assert line["corpus"].endswith("(files)") and set(line["figures"]) == set(FORMATS)
    record = json.loads((tmp_path / "out" / "formats.json").read_text())["test"]
    assert (
        record["formats"]["png"]["kept"]["value"] == 1.0
        and record["formats"]["png"]["change"]["value"] == 0
    )
    assert formats_table(record).count("\n") == len(FORMATS) + 1

    known = {"checkpoint_sha256": line["checkpoint_sha256"]}
    facts = CardFacts(name="x", formats={"test": record}, evaluation={"test": known})
    assert formats_section(facts)["formats"] == formats_table(record)

    facts.evaluation = {"test": {"checkpoint_sha256": "of other weights"}}
    assert formats_section(facts)["formats"] is None
    assert main(["evaluate", "formats", checkpoint, *words, "--batch_size", "0"]) == 2
    assert "--batch_size must be at least 1" in capsys.readouterr().err
