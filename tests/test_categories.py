"""Retouched photographs and small images: figures by hand, the sample, the record, the card."""

import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from helpers.tiny import draw_corpus, save_tiny

from realfake.card.claims import limits
from realfake.card.facts import CardFacts
from realfake.card.render import render
from realfake.cli.main import main
from realfake.detector import Detector
from realfake.evaluation.log import read_log
from realfake.evaluation.variants import ALL, category_figures, category_table
from realfake.imaging.degradations import RETOUCHED, SMALL
from realfake.prediction import Scores
from realfake.statistics.verdicts import Thresholds


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return Detector.from_pretrained(
        save_tiny("mobilenet_v2", tmp_path_factory.mktemp("categories") / "model"), device="cpu"
    )


def labelled(labels, groups=None):
    rows = {"image": [{"bytes": b"", "path": None}] * len(labels), "label": labels}
    features = {"image": Image(decode=False), "label": ClassLabel(names=["real", "ai"])}
    if groups:
        rows["group"], features["group"] = groups, Value("string")
    return Dataset.from_dict(rows, features=Features(features))


def test_figures_by_hand(detector, monkeypatch):
    monkeypatch.setattr(detector, "thresholds", Thresholds(0.05, real=-1, ai=1, n_real=40, n_ai=40))
    scores = {
        "clean": Scores(np.array([-3.0, -2.0, -1.5, 0.5])),
        "denoised": Scores(np.array([-3.0, 2.0, 0.5, 0.5])),
        "hdr": Scores(np.array([-3.0, 3.0, -2.0, 2.0])),
    }
    figures = category_figures(detector, scores, labelled([0] * 4), n_resamples=200)
    assert list(figures) == ["clean", "denoised", "hdr", ALL]
    assert figures["clean"]["false_positives"]["value"] == 1 / 4
    assert figures["denoised"]["false_positives"]["value"] == 3 / 4
    assert figures["denoised"]["verdicts"]["wrong"]["real"]["value"] == 1 / 4
    # Both degradations together: 3 of 8 verdicts are ai, and 5 of 8 log-odds are above 0.
    assert figures[ALL]["n"] == {"real": 8, "ai": 0}
    assert figures[ALL]["false_positives"]["value"] == 5 / 8
    assert figures[ALL]["verdicts"]["wrong"]["real"]["value"] == 3 / 8
    assert figures[ALL]["auroc"]["value"] is None


def test_copies_of_an_image_are_no_independent_observations(detector):
    rng = np.random.default_rng(0)
    own = Scores(rng.normal(0, 1, 60))
    few = category_figures(detector, {"clean": own, "a": own}, labelled([0] * 60))
    copies = {"clean": own, **dict.fromkeys("abcdef", own)}
    many = category_figures(detector, copies, labelled([0] * 60))
    width = [
        figure["high"] - figure["low"]
        for figure in (few["a"]["false_positives"], many[ALL]["false_positives"])
    ]
    assert many[ALL]["n"]["real"] == 360 and width[1] == pytest.approx(width[0], rel=0.2)


def test_the_command_measures_a_sample_of_each_category(tmp_path, capsys):
    checkpoint = save_tiny("mobilenet_v2", tmp_path / "tiny")
    corpus, out, log = draw_corpus(tmp_path / "corpus", 40), tmp_path / "out", tmp_path / "log"
    words = ["evaluate", "robustness", checkpoint, "--dataset", str(corpus), "--output", str(out)]
    words += ["--measurement_log", f"{log}.jsonl", "--preprocessing_num_workers", "1"]
    words += ["--n_resamples", "20", "--max_category_samples", "6", "--degradations"]
    assert main([*words, "small"]) == 0
    small = json.loads((out / "categories.json").read_text())["test"]["categories"]["small"]
    assert list(small["degradations"]) == ["clean", *SMALL, ALL]
    assert sum(small["degradations"]["clean"]["n"].values()) == 6
    assert not (out / "robustness.json").exists()

    assert main([*words, "clean,retouched"]) == 0
    record = json.loads((out / "categories.json").read_text())["test"]
    assert record["categories"]["small"] == small  # kept from the first call
    retouched = record["categories"]["retouched"]
    assert list(retouched["degradations"]) == ["clean", *RETOUCHED, ALL]
    for name, figures in retouched["degradations"].items():
        copies = len(RETOUCHED) if name == ALL else 1
        assert figures["n"]["ai"] == 0 and figures["n"]["real"] <= 6 * copies
    table = category_table(record, "retouched")
    assert table in (out / "evaluation.md").read_text() and table in capsys.readouterr().out
    assert table.count("\n") == 1 + len(retouched["degradations"])
    assert [line["corpus"] for line in read_log(f"{log}.jsonl")] == [
        "corpus (small)",
        "corpus (retouched)",
        "corpus",
    ]
    assert main([*words, "retouched,beauty"]) == 2
    error = capsys.readouterr().err
    assert "'beauty'" in error and "retouched, small" in error


def test_the_card_shows_what_was_measured(tmp_path, detector, monkeypatch):
    monkeypatch.setattr(detector, "thresholds", Thresholds(0.05, real=-1, ai=1, n_real=40, n_ai=40))
    rng = np.random.default_rng(1)
    names = {"retouched": RETOUCHED, "small": SMALL}
    labels = {"retouched": [0] * 20, "small": [0, 1] * 10}
    categories = {
        category: {
            "of": 20,
            "described": {name: each.description for name, each in members.items()},
            "degradations": category_figures(
                detector,
                {name: Scores(rng.normal(0, 2, 20)) for name in ("clean", *members)},
                labelled(labels[category]),
                n_resamples=20,
            ),
        }
        for category, members in names.items()
    }
    record = {"checkpoint_sha256": "w", "corpus": "c", "categories": categories}
    from realfake.evaluation.measure import measure

    figures = measure([-1.0, 1.0], [False, True], n_resamples=0)
    own = {"figures": figures, "checkpoint_sha256": "w", "corpus": "c"}
    facts = CardFacts(name="x", evaluation={"test": own}, categories={"test": record})
    text = str(render(facts))
    for category in names:
        assert category_table(record, category) in text
    assert "`beauty_filter`: Bilateral" in text
    wrong = categories["retouched"]["degradations"][ALL]["verdicts"]["wrong"]["real"]
    assert f"{100 * wrong['value']:.1f} %" in text.split("## How to use it")[0]
    assert not any("edited photographs" in line for line in limits(facts))
    facts.categories = {"test": {**record, "checkpoint_sha256": "others"}}
    assert "beauty_filter" not in str(render(facts))
    assert any("edited photographs" in line for line in limits(facts))
