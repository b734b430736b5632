"""The second stage: which images are hard, the mixture, and the report."""

import json
import shutil

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from helpers.tiny import draw_corpus
from helpers.training import facts_of, last_line, main
from sklearn.metrics import roc_auc_score

from realfake.corpus.rows import corpus_fingerprint
from realfake.evaluation.results import read_scores, write_evaluation, write_scores
from realfake.training.hard_examples import before_and_after, find_mistakes, mix, summary


def rows(labels, generators=None):
    columns = {
        "image": [{"bytes": str(number).encode(), "path": None} for number in range(len(labels))],
        "label": [["real", "ai"].index(label) for label in labels],
    }
    features = {"image": ImageFeature(decode=False), "label": ClassLabel(names=["real", "ai"])}
    if generators:
        columns["generator"], features["generator"] = generators, Value("string")
    return Dataset.from_dict(columns, features=Features(features))


def evaluated(folder, dataset, log_odds, split="train", fingerprint=None):
    truth = np.asarray(dataset["label"]) == 1
    write_scores(folder, split, np.asarray(log_odds, dtype=float), truth)
    write_evaluation(
        folder,
        split,
        {},
        checkpoint_hash="0",
        command="",
        corpus="drawn",
        date="",
        versions={},
        corpus_fingerprint=fingerprint or corpus_fingerprint(dataset),
    )


# --- which


def test_the_mistakes(tmp_path):
    dataset = rows(["real", "ai", "real", "ai", "ai"])
    evaluated(tmp_path, dataset, [1.0, 2.0, -3.0, -0.1, 0.0])
    assert find_mistakes(tmp_path, dataset).tolist() == [0, 3, 4]


@pytest.mark.parametrize(
    "split, message",
    [
        ("test", "is of test.*--evaluate_only train"),
        ("calibration", "is of calibration.*--evaluate_only train"),
    ],
)
def test_evaluations_that_are_refused(split, message, tmp_path):
    dataset = rows(["real", "ai"])
    evaluated(tmp_path, dataset, [1.0, 1.0], split)
    with pytest.raises(ValueError, match=message):
        find_mistakes(tmp_path, dataset)


def test_other_images_are_refused(tmp_path):
    dataset = rows(["real", "ai"])
    evaluated(tmp_path, dataset, [1.0, 1.0])
    with pytest.raises(ValueError, match="is of other training images"):
        find_mistakes(tmp_path, rows(["real", "ai", "ai"]))
    evaluated(tmp_path, rows(["ai", "real"]), [1.0, 1.0], fingerprint=corpus_fingerprint(dataset))
    with pytest.raises(ValueError, match="are of another run"):
        find_mistakes(tmp_path, dataset)


def test_nothing_to_learn_from(tmp_path):
    with pytest.raises(OSError, match="there is no evaluation.json"):
        find_mistakes(tmp_path, rows(["real", "ai"]))
    dataset = rows(["real", "ai"])
    evaluated(tmp_path, dataset, [-1.0, 1.0])
    with pytest.raises(ValueError, match="found no errors"):
        find_mistakes(tmp_path, dataset)


# --- with what


def test_the_mixture():
    labels = ["real"] * 60 + ["ai"] * 40
    dataset = rows(labels, ["none"] * 60 + ["a"] * 20 + ["b"] * 20)
    mistakes = np.array([0, 1, 2, 60, 61, 99])
    mixed, counts = mix(dataset, mistakes, 0.25, seed=0)
    assert counts["mistakes"] == {"real": 3, "ai": 3} and sum(counts["ordinary"].values()) == 18
    images = [row["image"]["bytes"] for row in mixed]
    assert len(set(images)) == len(images) == 24
    assert {str(row).encode() for row in mistakes} < set(images)
    # 57 : 18 : 19 of the others, in 18 images
    generators = [row["generator"] for row in mixed if int(row["image"]["bytes"]) not in mistakes]
    assert {name: generators.count(name) for name in ("none", "a", "b")} == {
        "none": 11,
        "a": 3,
        "b": 4,
    }
    assert mix(dataset, mistakes, 0.25, seed=0)[0]["image"] == mixed["image"]
    assert mix(dataset, mistakes, 0.25, seed=1)[0]["image"] != mixed["image"]


def test_too_few_ordinary_images_are_all_used():
    mixed, counts = mix(rows(["real", "ai"] * 4), np.array([0, 1, 2]), 0.1, seed=0)
    assert len(mixed) == 8 and sum(counts["ordinary"].values()) == 5


def test_mistakes_alone():
    dataset = rows(["real", "ai"] * 4)
    assert len(mix(dataset, np.array([0, 1, 2]), 1.0, seed=0)[0]) == 3
    with pytest.raises(ValueError, match="leaves no 'ai' image"):
        mix(dataset, np.array([0, 2]), 1.0, seed=0)


def test_before_and_after():
    rng = np.random.default_rng(0)
    dataset = rows(["real", "ai"] * 100)
    truth = np.arange(200) % 2 == 1
    before = np.where(truth, 1, -1) + rng.normal(size=200) * 2
    after = np.where(truth, 1, -1) + rng.normal(size=200)
    record = before_and_after(before, after, dataset)
    assert record["n"] == {"real": 100, "ai": 100}
    for name, log_odds in (("before", before), ("after", after)):
        assert record[name]["auroc"] == pytest.approx(roc_auc_score(truth, log_odds))
        assert record[name]["accuracy"] == pytest.approx(((log_odds > 0) == truth).mean())
        assert record[name]["wrong_real"] == pytest.approx((log_odds[~truth] > 0).mean())
        assert record[name]["wrong_ai"] == pytest.approx((log_odds[truth] <= 0).mean())
    change = record["auroc_difference"]
    assert change["value"] == pytest.approx(record["after"]["auroc"] - record["before"]["auroc"])
    assert 0 < change["low"] < change["value"] < change["high"]


# --- from the command line


def test_a_second_stage(tiny_vit, tmp_path, capsys):
    corpus = draw_corpus(tmp_path / "corpus", n=120, size=40)
    first, second = tmp_path / "first", tmp_path / "second"
    words = ["--num_train_epochs", "1", "--measure_test", "False"]
    assert main(corpus, first, *words, model=tiny_vit) == 0
    capsys.readouterr()
    assert main(corpus, second, *words, "--hard_examples", first, model=first) == 2
    assert "--evaluate_only train" in last_line(capsys)
    assert not second.joinpath("training.json").exists()

    assert main(corpus, first, "--evaluate_only", "train", model=first) == 0
    scores = read_scores(first / "scores-train.parquet")
    wrong = int(((scores["log_odds"] > 0) != scores["is_ai"]).sum())
    capsys.readouterr()
    assert (
        main(corpus, second, *words, "--hard_examples", first, "--hard_share", "0.5", model=first)
        == 0
    )
    said = capsys.readouterr().out
    facts = facts_of(second)
    record = json.loads((second / "hard_examples.json").read_text())
    assert facts["hard_examples"] == record and summary(record) in said
    assert sum(record["mistakes"].values()) == wrong == sum(record["ordinary"].values())
    assert sum(facts["parts"]["train"].values()) == 2 * wrong
    assert sum(record["n"].values()) == 18, "all of validation, both halves"
    for folder, when in ((first, "before"), (second, "after")):
        halves = [
            read_scores(folder / f"scores-{half}.parquet") for half in ("selection", "calibration")
        ]
        hits = sum(((half["log_odds"] > 0) == half["is_ai"]).sum() for half in halves)
        assert record[when]["accuracy"] == pytest.approx(hits / 18)

    shutil.rmtree(second)
    assert (
        main(
            corpus,
            second,
            *words,
            "--hard_examples",
            first,
            "--max_train_samples",
            "40",
            model=first,
        )
        == 2
    )
    assert "is of other training images" in last_line(capsys)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--hard_share", "0"], "--hard_share must lie in"),
        (["--hard_examples", "x", "--streaming", "True"], "leave out --streaming"),
        (["--hard_examples", "x", "--model_type", "vit"], "--model_name_or_path"),
    ],
)
def test_mistakes_on_the_command_line(words, message, tmp_path, tiny_vit, capsys):
    model = None if "--model_type" in words else tiny_vit
    assert main(tmp_path, tmp_path / "run", *words, model=model) == 2
    assert message in last_line(capsys)
