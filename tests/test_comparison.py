"""Several runs compared: figures against other implementations, and the two commands.

The runs are in-process here; that they are processes of their own is tried once.
"""

import contextlib
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.tiny import draw_corpus
from helpers.training import SETTINGS, train_hf
from scipy.special import expit
from sklearn import metrics as sk

from realfake.cli.compare import ARCHITECTURES, model_options
from realfake.cli.main import main
from realfake.evaluation.results import read_evaluation, write_scores
from realfake.io import locked_folder
from realfake.training import comparison, runs

RESAMPLING = {"seed": 0, "n_resamples": 300}


@pytest.fixture
def in_process(monkeypatch):
    """Train the runs of a series in this process; runs with a word of `fail` fail."""
    made = SimpleNamespace(commands=[], fail=set())

    def run(words, stdout, stderr):
        made.commands.append(words)
        if made.fail & set(words):
            stdout.write("realfake: error: it was meant to fail\n")
            return SimpleNamespace(returncode=2)
        with contextlib.redirect_stdout(stdout):
            return SimpleNamespace(returncode=train_hf(words[3:]))

    monkeypatch.setattr(runs, "subprocess", SimpleNamespace(run=run, STDOUT=subprocess.STDOUT))
    return made


# --- figures


def simulated(seed=0, n=400, separation=2.0):
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.4
    return np.where(truth, separation / 2, -separation / 2) + rng.normal(size=n), truth


def test_figures_equal_other_implementations():
    log_odds, truth = simulated()
    noisy = log_odds + np.random.default_rng(1).normal(size=len(log_odds)) * 2
    record = comparison.compare(
        {"good": log_odds[:, None], "bad": noisy[:, None]}, truth, **RESAMPLING
    )
    assert record["best"] == "good"
    for name, own in (("good", log_odds), ("bad", noisy)):
        figures = record["models"][name]
        assert figures["auroc"]["value"] == pytest.approx(sk.roc_auc_score(truth, own), abs=1e-12)
        assert figures["accuracy"]["value"] == pytest.approx(sk.accuracy_score(truth, own > 0))
        for label, positive in (("ai", True), ("real", False)):
            for metric in ("precision", "recall", "f1"):
                expected = getattr(sk, f"{metric}_score")(truth, own > 0, pos_label=positive)
                assert figures[f"{metric}_{label}"] == pytest.approx(expected)
        assert figures["auroc"]["low"] < figures["auroc"]["value"] < figures["auroc"]["high"]
        assert 0 < figures["ece"] < 0.5 and expit(own).shape == (400,)
    assert record["models"]["good"]["auroc_difference"] is None
    difference = record["models"]["bad"]["auroc_difference"]
    expected = sk.roc_auc_score(truth, noisy) - sk.roc_auc_score(truth, log_odds)
    assert difference["value"] == pytest.approx(expected, abs=1e-12)
    assert difference["low"] < difference["value"] < difference["high"] < 0


def test_a_paired_interval_is_narrower_than_an_unpaired_one():
    log_odds, truth = simulated(separation=1.0)
    near = log_odds + np.random.default_rng(1).normal(size=len(log_odds)) * 0.1
    models = comparison.compare({"a": log_odds[:, None], "b": near[:, None]}, truth, **RESAMPLING)[
        "models"
    ]
    apart = [one["auroc"]["high"] - one["auroc"]["low"] for one in models.values()]
    (paired,) = [one["auroc_difference"] for one in models.values() if one["auroc_difference"]]
    assert paired["high"] - paired["low"] < min(apart) / 4
    grouped = comparison.compare(
        {"a": log_odds[:, None], "b": near[:, None]},
        truth,
        np.repeat(np.arange(100), 4),
        **RESAMPLING,
    )["models"]["a"]["auroc"]
    assert grouped != models["a"]["auroc"]


def test_seeds_are_averaged():
    log_odds, truth = simulated()
    other, _ = simulated(seed=5)
    both = np.stack([log_odds, np.where(truth, 1, -1) * np.abs(other)], axis=1)
    figures = comparison.compare({"two": both, "one": log_odds[:, None]}, truth, **RESAMPLING)[
        "models"
    ]["two"]
    expected = [sk.roc_auc_score(truth, column) for column in both.T]
    assert figures["auroc_by_seed"] == pytest.approx(expected)
    assert figures["auroc"]["value"] == pytest.approx(np.mean(expected))


def test_images_of_two_splits_share_no_group(tmp_path):
    for split in ("selection", "calibration"):
        write_scores(
            tmp_path, split, np.arange(3.0), np.array([True, False, True]), groups=["a", "a", "b"]
        )
    scores = runs.read_run_scores(tmp_path, ("selection", "calibration"))
    assert scores["groups"].tolist() == [0, 0, 1, 2, 2, 3]
    assert scores["log_odds"].tolist() == [0, 1, 2, 0, 1, 2]


# --- which models


@pytest.mark.parametrize("name", json.loads(ARCHITECTURES.read_text()))
def test_the_seven_architectures_start_from_scratch(name):
    from realfake.models.classifiers import build_classifier

    words = model_options(name, from_scratch=True, scale="tiny", image_size=32)
    overrides = json.loads(words[words.index("--config_overrides") + 1])
    model, _ = build_classifier(
        words[words.index("--model_type") + 1], overrides=overrides, image_size=32
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters < 1e6
    assert (
        model_options(name, from_scratch=False, scale="full", image_size=None)[0]
        == "--model_name_or_path"
    )


@pytest.mark.parametrize(
    "words, message",
    [
        (["--scale", "tiny"], "--scale needs --from_scratch"),
        (["--seeds", "a"], "--seeds must be whole numbers"),
        (["--tier_samples", "-1"], "--tier_samples must be at least 0"),
        (["--seed", "1"], "--seed is set for each run"),
        (["--measure_test=True"], "--measure_test is set for each run"),
        (["--models", "resnet-18"], "fewer than two models"),
        (["--models", "resnet-18,user/model", "--from_scratch"], "--from_scratch knows resnet-18"),
        (["--models", "a/b,a-b"], "would share a folder"),
        (["--learning_rates", "1"], "learning_rates"),
        (["--models", "nowhere.json"], "nowhere.json"),
    ],
)
def test_mistakes(words, message, tmp_path, capsys):
    base = ["--dataset", str(tmp_path), "--output", str(tmp_path / "out")]
    assert main(["compare", *base, *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("realfake: error: ") and message in line
    assert not (tmp_path / "out").exists()


# --- the scripts


@pytest.fixture(scope="module")
def by_generator(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    drawn = draw_corpus(folder / "drawn", n=120, size=40)
    for name, label, part in (("leica", "real", 60), ("a", "ai", 30), ("b", "ai", 30)):
        target = folder / "corpus" / name / label
        target.mkdir(parents=True)
        for path in sorted((drawn / label).iterdir())[:part]:
            path.rename(target / f"{name}-{path.name}")
    return folder / "corpus"


def words(corpus, out, *more):
    return [
        "--dataset",
        str(corpus),
        "--output",
        str(out),
        *SETTINGS,
        "--num_train_epochs",
        "1",
        "--measurement_log",
        str(Path(out).parent / "log.jsonl"),
        *map(str, more),
    ]


def test_compare(by_generator, tiny_vit, tiny_convnext, in_process, tmp_path, capsys):
    models = [
        {"name": name, "words": ["--model_name_or_path", str(folder)]}
        for name, folder in (("vit", tiny_vit), ("convnext", tiny_convnext))
    ]
    (tmp_path / "models.json").write_text(json.dumps(models))
    out = tmp_path / "out"
    command = words(by_generator, out, "--models", tmp_path / "models.json", "--tier_samples", "8")
    in_process.fail = {str(tiny_convnext)}
    assert main(["compare", *command]) == 2
    assert (
        "Fewer than two models were trained; convnext-s42: realfake: error: it was meant to fail"
        in capsys.readouterr().err
    )

    in_process.fail = set()
    assert main(["compare", *command]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "finished before" in line] == [
        "[1/2] vit-s42: finished before"
    ]
    assert len(in_process.commands) == 3
    record = json.loads((out / "comparison.json").read_text())
    assert set(record["models"]) == {"vit", "convnext"} and record["split"] == "validation"
    assert record["n"] == {"real": 9, "ai": 9} and "scripts/" not in str(record["models"])
    for name, figures in record["models"].items():
        assert figures["parameters"] > 1000 and figures["images_per_second"] > 0
        assert figures["worst"] == min(figures["tiers"].values()) and figures["tiers_n"] == 8
        halves = read_evaluation(out / f"{name}-s42")
        assert set(halves) == {"selection", "calibration"}
        total = sum(halves[half]["figures"]["summary"]["accuracy"]["value"] * 9 for half in halves)
        assert figures["accuracy"]["value"] == pytest.approx(total / 18)
    page = (out / "comparison.md").read_text()
    assert page.count("| vit |") == page.count("| convnext |") == 1 and "| best |" in page
    assert not (tmp_path / "log.jsonl").exists(), "test was not measured"

    times = {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")}
    assert main(["compare", *command]) == 0
    assert len(in_process.commands) == 3 and times == {
        path: path.stat().st_mtime_ns for path in times
    }
    assert json.loads((out / "comparison.json").read_text())["models"] == record["models"]
    capsys.readouterr()
    assert main(["compare", *command, "--weight_decay", "0.1"]) == 2
    assert "holds a run of other options" in capsys.readouterr().err


def test_leave_one_out(by_generator, tiny_vit, in_process, tmp_path, capsys):
    out = tmp_path / "out"
    command = words(by_generator, out, "--model_name_or_path", tiny_vit, "--column", "generator")
    assert main(["leave-one-out", *command, "--min_images", "1000"]) == 2
    assert "No generator has 1000 ai images" in capsys.readouterr().err
    assert main(["leave-one-out", *command, "--min_images", "5"]) == 0
    record = json.loads((out / "leave_one_out.json").read_text())
    assert list(record["values"]) == ["a", "b"]
    for name, figures in record["values"].items():
        measured = read_evaluation(out / name)["held_out"]["figures"]
        assert set(measured["by_generator"]) == {name}
        assert figures["auroc"] == measured["summary"]["auroc"] and 0 <= figures["seen_auroc"] <= 1
        assert figures["n"]["ai"] > 0 and figures["n"]["real"] > 0
    page = (out / "leave_one_out.md").read_text()
    assert "| a |" in page and "| b |" in page and "minimum" in page
    capsys.readouterr()
    assert main(["leave-one-out", *command, "--column", "camera"]) == 2
    assert "the corpus has no column 'camera'" in capsys.readouterr().err
    assert main(["leave-one-out", *command, "--hold_out", "generator=a"]) == 2
    assert "--hold_out is set for each run" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["compare", "leave-one-out"])
def test_a_locked_folder_is_refused(name, by_generator, tiny_vit, in_process, tmp_path, capsys):
    more = {
        "compare": [
            "--models",
            "resnet-18,vit-b/16",
            "--from_scratch",
            "--scale",
            "tiny",
            "--image_size",
            "32",
        ],
        "leave-one-out": ["--model_name_or_path", tiny_vit, "--min_images", "5"],
    }
    with locked_folder(tmp_path / "out"):
        assert main([name, *words(by_generator, tmp_path / "out", *more[name])]) == 2
    assert "Another run is writing to" in capsys.readouterr().err and not in_process.commands


def test_a_run_is_a_separate_process(tmp_path):
    run = runs.Run("x", ("--dataset", "./nowhere", "--model_type", "vit"), tmp_path / "run")
    failed = runs.train_all([run])
    assert failed == {
        "run": "realfake: error: There is no file or folder ./nowhere; check the path."
    }
    assert not run.finished and failed["run"] in run.log.read_text()
