"""`train_hf.py` from the command line to the finished folder: interruptions and mistakes included.

Most runs are in-process: `main()` with a patched `sys.argv`. Killed runs and runs of two processes
are processes of their own.
"""

import contextlib
import errno
import fcntl
import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.serving import free_port
from helpers.tiny import draw_corpus, draw_picture, save_tiny
from helpers.training import ROOT, command, facts_of, import_train_hf, last_line, main
from huggingface_hub import ModelCard
from huggingface_hub.utils import filter_repo_objects
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification, pipeline

from realfake.cli.main import main as realfake_main
from realfake.detector import Detector
from realfake.evaluation import results
from realfake.evaluation.log import read_log
from realfake.models.autoencoders import TinyAutoencoder
from realfake.models.classifiers import load_classifier
from realfake.training import arguments, publishing, release
from realfake.training.runs import last_complete_checkpoint
from realfake.training.trainer import DetectorTrainer


def eval_losses(folder) -> dict[int, float]:
    return {
        row["step"]: row["eval_loss"]
        for row in facts_of(folder)["log_history"]
        if "eval_loss" in row
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """112 training images (7 steps of 16), 24 for validation and 24 for test."""
    return draw_corpus(tmp_path_factory.mktemp("drawn") / "corpus", n=160, size=40)


@pytest.fixture(scope="module")
def finished(corpus, tiny_vit, tmp_path_factory):
    """A finished run with early stopping, class weights, label smoothing and TensorBoard."""
    folder = tmp_path_factory.mktemp("runs") / "vit"
    words = (
        "--num_train_epochs 6 --class_weights balanced --label_smoothing_factor 0.05 "
        "--metric_for_best_model auroc --early_stopping_patience 2 --report_to tensorboard "
        "--measure_degradations 16"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORBOARD_LOGGING_DIR", str(folder.parent / "board"))
        assert main(corpus, folder, *words.split(), model=tiny_vit) == 0
    return folder


@pytest.fixture(scope="module")
def pairs(corpus, tmp_path_factory):
    """The photographs of the corpus and their reconstructions by a random autoencoder."""
    folder = tmp_path_factory.mktemp("pairs")
    torch.manual_seed(0)
    (folder / "taef2").mkdir()
    save_file(TinyAutoencoder().state_dict(), folder / "taef2" / "model.safetensors")
    words = ["--autoencoder", folder / "taef2", "--output", folder / "corpus", "--max_images", 60]
    words = ["corpus", "reconstruct", corpus / "real", *words]
    assert realfake_main([str(word) for word in words]) == 0
    return folder / "corpus"


PAIRED = (
    "--blocks 1 --native_views --preprocessing native --balance 0.5 --pair_share 0.5 "
    "--pair_mix 0.5 --num_train_epochs 2 --measure_test False"
)


def test_a_truncated_model_trained_on_pairs_ends_as_an_ordinary_checkpoint(pairs, tmp_path):
    folder = tmp_path / "run"
    words = [*PAIRED.split(), "--views", "4"]
    assert main(pairs, folder, *words, model=save_tiny("dinov2", tmp_path / "dinov2")) == 0
    assert Detector.from_pretrained(folder).views == 4
    classify = pipeline("image-classification", model=str(folder))
    assert {row["label"] for row in classify(draw_picture(40, seed=0))} == {"real", "ai"}
    assert load_classifier(folder).config.num_hidden_layers == 1
    options = facts_of(folder)["hyperparameters"]
    assert {"blocks": 1, "balance": 0.5, "pair_share": 0.5, "pair_mix": 0.5}.items() <= (
        options.items()
    )
    assert "reflected" in (folder / "README.md").read_text()


def test_merged_adapters_end_as_an_ordinary_checkpoint_with_the_adapters_beside(pairs, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    folder, base = tmp_path / "run", save_tiny("dinov2", tmp_path / "dinov2")
    words = [*PAIRED.split(), "--lora_rank", "2", "--lora_alpha", "8", "--probe_images", "20"]
    words += ["--ema_decay", "0.5", "--patch_dropout", "0.5", "--patch_dropout_until", "0.9"]
    words += ["--max_minutes", "5"]
    assert main(pairs, folder, *words, model=base) == 0
    assert {name for name in load_file(folder / "model.safetensors") if "lora" in name} == set()
    classify = pipeline("image-classification", model=str(folder))
    assert {row["label"] for row in classify(draw_picture(40, seed=0))} == {"real", "ai"}
    config = peft.PeftConfig.from_pretrained(folder / "adapter")
    assert (config.r, config.lora_alpha) == (2, 8.0)
    assert config.base_model_name_or_path == str(base)
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    pushed = set(filter_repo_objects(names, ignore_patterns=publishing.NOT_PUBLISHED))
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= pushed
    facts = facts_of(folder)
    assert facts["trainable"] == "low-rank adapters and head"
    assert facts["hyperparameters"]["lora_rank"] == 2
    assert facts["hyperparameters"]["patch_dropout"] == 0.5
    # Calibration was folded into the merged weights.
    assert Detector.from_pretrained(folder).facts["calibration"]["folded"] is True


@pytest.mark.parametrize(
    "words, named",
    [
        (("--pair_share", "0.5"), "--balance"),
        (("--pair_share", "0.5", "--balance", "0.5"), "corpus reconstruct"),
        (
            ("--pair_share", "1", "--balance", "1", "--per_device_train_batch_size", "7"),
            "--per_device_train_batch_size",
        ),
        (("--pair_mix", "0.5", "--balance", "0.5"), "--pair_share"),
        (("--balance", "2"), "--balance"),
        (("--balance", "1", "--class_weights", "balanced"), "--class_weights"),
        (("--native_views",), "--preprocessing native"),
        (("--views", "4"), "--preprocessing native"),
        (("--views", "0"), "--views"),
        (("--patch_dropout", "1"), "--patch_dropout"),
        (("--max_minutes", "1", "--search", "2"), "--max_minutes"),
        (("--lora_rank", "2", "--trainable", "head"), "--trainable"),
        (("--lora_rank", "-1"), "--lora_rank"),
        (("--lora_alpha", "2"), "--lora_rank"),
        (("--blocks", "9"), "--blocks"),
        (("--probe_images", "-1"), "--probe_images"),
    ],
)
def test_a_wrong_option_of_pairs_views_and_adapters_is_named(
    words, named, corpus, tiny_vit, tmp_path, capsys
):
    assert main(corpus, tmp_path / "run", *words, model=tiny_vit) == 2
    assert named in last_line(capsys)


def test_a_missing_peft_is_named(corpus, tiny_vit, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "peft", None)
    assert main(corpus, tmp_path / "run", "--lora_rank", "2", model=tiny_vit) == 2
    assert "realfake[train]" in last_line(capsys)


# --- the finished folder


def test_the_finished_folder(finished, corpus):
    names = {path.name for path in finished.iterdir()}
    scores = {f"scores-{split}.parquet" for split in ("selection", "calibration", "test")}
    assert names >= {
        "model.safetensors",
        "config.json",
        "preprocessor_config.json",
        "README.md",
        "evaluation.json",
        "training.json",
        "plots",
        *scores,
    }
    assert not {".saving", ".config.json.tmp", ".training.json.tmp"} & names
    assert {path.suffix for path in (finished / "plots").iterdir()} == {".png"}

    config = json.loads((finished / "config.json").read_text())
    own = config["realfake"]
    assert config["dtype"] == "float32" and config["id2label"] == {"0": "real", "1": "ai"}
    assert (
        own["preprocessing"] == "processor"
        and own["image_size"] == 32
        and own["corpus"] == "corpus"
    )
    assert own["calibration"]["folded"] is True and own["calibration"]["n"] == 12
    assert own["thresholds"]["alpha"] == 0.05 and set(own["thresholds"]["n"]) == {"real", "ai"}

    card = ModelCard.load(finished / "README.md")
    assert (
        card.data.library_name == "transformers"
        and card.data.pipeline_tag == "image-classification"
    )

    measured = results.read_evaluation(finished)
    assert set(measured) == {"selection", "calibration", "test"}
    for split, record in measured.items():
        table = results.read_scores(finished / f"scores-{split}.parquet")
        assert record["checkpoint_sha256"] == results.checkpoint_hash(finished)
        assert (
            len(table["log_odds"])
            == sum(record["figures"]["n"].values())
            == (24 if split == "test" else 12)
        )
    line, degraded = read_log(finished.parent / "measurements.jsonl")
    assert (
        line["split"] == "test"
        and line["corpus"] == "corpus"
        and line["n"] == {"real": 12, "ai": 12}
    )
    record = json.loads((finished / "robustness.json").read_text())["test"]
    assert degraded["degradations"] == sorted(record["degradations"]) and degraded["n"] == {
        "real": 8,
        "ai": 8,
    }
    assert record["of"] == 24 and set(record["controls"]) == {"power-spectrum", "container-facts"}
    assert "After recompression, resizing and cropping" in (finished / "README.md").read_text()
    assert line["checkpoint_sha256"] == results.checkpoint_hash(finished)
    assert "train_hf.py --dataset" in line["command"]

    facts = facts_of(finished)
    assert facts["world_size"] == 1 and facts["class_weights"] == "balanced"
    assert facts["hyperparameters"]["label_smoothing_factor"] == 0.05
    assert facts["parts"]["train"] == {"real": 56, "ai": 56} and facts["parts"]["selection"] == {
        "real": 6,
        "ai": 6,
    }
    assert facts["train_runtime_seconds"] > 0


def test_a_board_was_written(finished):
    events = list((finished.parent / "board").rglob("events.out.tfevents.*"))
    assert events and max(path.stat().st_size for path in events) > 1000
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(events[0].parent))
    board.Reload()
    logged = [row["eval_auroc"] for row in facts_of(finished)["log_history"] if "eval_auroc" in row]
    assert [event.value for event in board.Scalars("eval/auroc")] == pytest.approx(logged, abs=1e-6)


def test_the_curves_are_a_picture(finished):
    with Image.open(finished / "plots" / "training.png") as picture:
        assert min(picture.size) > 300


@pytest.mark.skipif(find_spec("trackio") is None, reason="trackio is not installed")
def test_trackio_keeps_a_local_store(corpus, tiny_vit, tmp_path):
    words = ["--report_to", "trackio", "--project", "curves", "--hub_token", "hf_secret"]
    words += ["--num_train_epochs", "1", "--measure_test", "False"]
    words += ["--lora_rank", "2"] if find_spec("peft") else []
    words = command(corpus, tmp_path / "run", *words, model=tiny_vit)
    store = tmp_path / "store"
    done = subprocess.run(
        [sys.executable, str(ROOT / "train_hf.py"), *words],
        env={**os.environ, "TRACKIO_DIR": str(store), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with contextlib.closing(sqlite3.connect(store / "curves.db")) as database:
        logged = [json.loads(row) for (row,) in database.execute("SELECT metrics FROM metrics")]
    losses = [row["train/loss"] for row in logged if "train/loss" in row]
    expected = [row["loss"] for row in facts_of(tmp_path / "run")["log_history"] if "loss" in row]
    assert losses == pytest.approx(expected, abs=1e-6)
    assert not [path for path in store.rglob("*") if b"hf_secret" in read_bytes(path)]


def read_bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def test_the_best_checkpoint_was_chosen_by_auroc_and_is_what_is_released(finished):
    facts = facts_of(finished)
    measured = {
        row["step"]: row["eval_auroc"] for row in facts["log_history"] if "eval_auroc" in row
    }
    assert facts["best_step"] == max(
        measured, key=measured.get
    )  # the first, where several are best
    states = [
        json.loads(path.read_text()) for path in finished.glob("checkpoint-*/trainer_state.json")
    ]
    best = Path(max(states, key=lambda state: state["global_step"])["best_model_checkpoint"])
    assert best.name == f"checkpoint-{facts['best_step']}"

    trained = AutoModelForImageClassification.from_pretrained(
        best, dtype=torch.float32
    ).state_dict()
    released = load_classifier(finished).state_dict()
    t, b = (facts["calibration"][name] for name in ("temperature", "bias"))
    for name, tensor in released.items():
        expected = trained[name]
        if name == "classifier.bias":
            torch.testing.assert_close(
                tensor * t, expected + torch.tensor([0, b * t]), atol=1e-5, rtol=1e-5
            )
        elif name == "classifier.weight":
            torch.testing.assert_close(tensor * t, expected, atol=1e-3, rtol=1e-3)  # fp16
        else:
            assert torch.equal(tensor, expected.half().float() if tensor.ndim >= 2 else expected), (
                name
            )


def test_early_stopping_stopped(finished):
    facts = facts_of(finished)
    measured = [row["eval_auroc"] for row in facts["log_history"] if "eval_auroc" in row]
    best, stale, epochs = -math.inf, 0, 0
    while stale < 2 and epochs < 6:
        best, stale = max(best, measured[epochs]), 0 if measured[epochs] > best else stale + 1
        epochs += 1
    assert len(measured) == facts["epochs_trained"] == epochs
    if stale < 2:
        pytest.skip("this run improved to its end; its patience was not tried")


def test_the_figures_are_those_of_the_stored_weights(finished, corpus):
    table = results.read_scores(finished / "scores-test.parquet")
    detector = Detector.from_pretrained(finished)
    from realfake.corpus.load import load_corpus

    test = load_corpus(corpus).splits["test"]
    np.testing.assert_allclose(detector.log_odds(list(test["image"])), table["log_odds"], atol=1e-4)
    stock = pipeline("image-classification", model=str(finished))
    picture = draw_picture(40, seed=9)
    expected = detector.predict(picture).probabilities
    assert {row["label"]: row["score"] for row in stock(picture)} == pytest.approx(
        expected, abs=1e-5
    )


def test_a_finished_run_is_not_started_again(finished, corpus, tiny_vit, capsys):
    before = (finished / "model.safetensors").read_bytes()
    assert main(corpus, finished, model=tiny_vit) == 2
    assert "holds a finished run; pass another --output_dir" in last_line(capsys)
    assert (finished / "model.safetensors").read_bytes() == before


def test_evaluate_only_adds_a_line_to_the_log(finished, corpus, tmp_path, capsys):
    log = tmp_path / "measurements.jsonl"
    shutil.copy(finished.parent / "measurements.jsonl", log)
    folder = shutil.copytree(
        finished, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoint-*")
    )
    before = results.read_evaluation(folder)
    assert main(corpus, folder, "--evaluate_only", "test", model=folder, log=log) == 0
    first, _, second = read_log(log)
    assert (
        second["checkpoint_sha256"] == first["checkpoint_sha256"]
        and second["figures"] == first["figures"]
    )
    after = results.read_evaluation(folder)
    assert set(after) == set(before) and after["test"]["figures"] == before["test"]["figures"]
    assert after["test"]["before_calibration"] == before["test"]["before_calibration"]
    assert after["test"]["corpus_fingerprint"] == before["test"]["corpus_fingerprint"]

    assert main(corpus, folder, "--evaluate_only", "validation", model=folder, log=log) == 0
    assert len(read_log(log)) == 3, "only a test split wears out"
    assert set(results.read_evaluation(folder)) == {*before, "validation"}


def test_evaluate_only_names_the_weights_it_measured(finished, corpus, tiny_vit, tmp_path, capsys):
    """And not those that happen to lie in --output_dir."""
    elsewhere = tmp_path / "figures"
    log = tmp_path / "log.jsonl"
    assert main(corpus, elsewhere, "--evaluate_only", "test", model=tiny_vit, log=log) == 0
    (line,) = read_log(log)
    assert line["checkpoint_sha256"] == results.checkpoint_hash(tiny_vit)
    assert set(results.read_evaluation(elsewhere)) == {"test"}
    before = (finished / "evaluation.json").read_bytes()
    assert main(corpus, finished, "--evaluate_only", "test", model=tiny_vit, log=log) == 2
    assert "holds another checkpoint" in last_line(capsys)
    assert (finished / "evaluation.json").read_bytes() == before and len(read_log(log)) == 1


# --- other ways to train


def test_native_pixels_with_a_frozen_backbone(corpus, tiny_convnext, tmp_path):
    folder = tmp_path / "run"
    words = "--preprocessing native --train_crop_size 24 --trainable head --num_train_epochs 1"
    words = [*words.split(), "--alpha", "0.2"]
    assert main(corpus, folder, *words, "--measure_test", "False", model=tiny_convnext) == 0
    config = json.loads((folder / "config.json").read_text())
    assert (
        config["realfake"]["preprocessing"] == "native"
        and config["realfake"]["thresholds"]["alpha"] == 0.2
    )
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    assert processor["do_resize"] is False and processor["do_center_crop"] is True
    assert processor["crop_size"] == {"height": 32, "width": 32}, (
        "the training crop is not what is measured with"
    )

    start, end = (
        load_file(tiny_convnext / "model.safetensors"),
        load_file(folder / "model.safetensors"),
    )
    for name, tensor in start.items():
        kept = torch.equal(end[name], tensor.half() if tensor.ndim >= 2 else tensor)
        assert kept != name.startswith("classifier."), name
    assert (
        not (tmp_path / "measurements.jsonl").exists()
        and not (folder / "scores-test.parquet").exists()
    )

    from realfake.corpus.load import load_corpus

    picture = load_corpus(corpus).splits["test"][0]["image"]["path"]
    (score,) = [
        row["score"]
        for row in pipeline("image-classification", model=str(folder))(picture)
        if row["label"] == "ai"
    ]
    assert score == pytest.approx(
        Detector.from_pretrained(folder).predict(picture).probabilities["ai"], abs=1e-5
    )


def test_from_scratch_without_files_that_cannot_be_read(tmp_path):
    corpus = draw_corpus(tmp_path / "corpus", n=130, size=40)
    broken = [
        corpus / name for name in ("real/0007.jpg", "real/0019.jpg", "ai/0003.jpg", "ai/0040.jpg")
    ]  # 3 %
    for path in broken:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (tmp_path / "corpus" / "notes.txt").write_text("no image")
    overrides = '{"depths": [1, 1], "hidden_sizes": [8, 16], "num_stages": 2}'
    words = [
        "--model_type",
        "convnextv2",
        "--image_size",
        32,
        "--config_overrides",
        overrides,
        "--num_train_epochs",
        1,
    ]
    folder = tmp_path / "run"
    assert main(corpus, folder, *words) == 0
    report = facts_of(folder)["corpus_report"]
    assert sorted(row["path"] for row in report["dropped"]) == sorted(map(str, broken))
    assert all("damaged" in row["reason"] for row in report["dropped"])
    assert sum(counts["rows"] for counts in report["splits"].values()) == 126
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["ConvNextV2ForImageClassification"] and config[
        "hidden_sizes"
    ] == [8, 16]
    assert Detector.from_pretrained(folder).predict(draw_picture(40)).verdict == "inconclusive", (
        "too few to promise"
    )


def test_a_stream(corpus, tiny_vit, tmp_path):
    # Streamed validation and test exist as splits.
    split = tmp_path / "split"
    for name, files in (
        ("train", slice(0, 40)),
        ("validation", slice(40, 60)),
        ("test", slice(60, 80)),
    ):
        for label in ("real", "ai"):
            (split / name / label).mkdir(parents=True)
            for path in sorted((corpus / label).iterdir())[files]:
                shutil.copy(path, split / name / label)
    folder = tmp_path / "run"
    words = "--streaming True --max_steps 7 --eval_strategy steps --eval_steps 7"
    words += " --save_strategy steps --save_steps 7"
    assert main(split, folder, *words.split(), model=tiny_vit) == 0
    facts = facts_of(folder)
    assert (
        facts["steps"] == 7
        and "train" not in facts["parts"]
        and facts["parts"]["test"] == {"real": 20, "ai": 20}
    )


def test_a_dry_run_writes_a_picture_and_nothing_else(corpus, tiny_vit, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(corpus, folder, "--dry_run", "True", "--trainable", "head", model=tiny_vit) == 0
    assert {path.name for path in folder.iterdir()} - {".lock"} == {"first_batch.png"}
    with Image.open(folder / "first_batch.png") as sheet:
        assert min(sheet.size) > 32
    assert not (tmp_path / "measurements.jsonl").exists()
    printed = capsys.readouterr().out
    assert (
        "66 of them trained" in printed
        and "(16, 3, 32, 32)" in printed
        and "{'real': 56, 'ai': 56}" in printed
    )


# --- interruptions

KILLED = """
    import os, signal, sys, torch
    save = torch.save
    def killed(state, path, *args, **kwargs):
        if "checkpoint-9" in str(path) and str(path).endswith("optimizer.pt"):
            os.kill(os.getpid(), signal.SIGKILL)
        save(state, path, *args, **kwargs)
    torch.save = killed
    import train_hf
    sys.exit(train_hf.main())
"""


def test_a_run_killed_while_it_saves_continues_as_if_nothing_had_been(
    corpus, tiny_vit, tmp_path, capsys
):
    steps = ["--num_train_epochs", "2"]
    steps += [
        "--save_strategy",
        "steps",
        "--save_steps",
        "3",
        "--eval_strategy",
        "steps",
        "--eval_steps",
        "3",
    ]
    folder, whole = tmp_path / "run", tmp_path / "whole"
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(KILLED))
    result = subprocess.run(
        [sys.executable, str(script), *command(corpus, folder, *steps, model=tiny_vit)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert result.returncode == -signal.SIGKILL, result.stderr[-2000:]
    assert (folder / "checkpoint-9" / "model.safetensors").is_file()
    assert not (folder / "checkpoint-9" / "trainer_state.json").exists(), (
        "half-written, as it should be here"
    )
    assert not (folder / "training.json").exists()

    # The time before the interruption counts. It is set to what no second run can take.
    state = json.loads((folder / "checkpoint-6" / "trainer_state.json").read_text())
    assert 0 < state["stateful_callbacks"]["ElapsedCallback"]["args"]["seconds"] < 500
    state["stateful_callbacks"]["ElapsedCallback"]["args"]["seconds"] = 5000.0
    (folder / "checkpoint-6" / "trainer_state.json").write_text(json.dumps(state))

    capsys.readouterr()
    assert main(corpus, folder, *steps, model=tiny_vit) == 0
    assert (
        f"Continuing the interrupted run from {folder / 'checkpoint-6'}." in capsys.readouterr().out
    )
    assert main(corpus, whole, *steps, model=tiny_vit) == 0
    assert "Continuing" not in capsys.readouterr().out

    assert eval_losses(folder).keys() == eval_losses(whole).keys() == {3, 6, 9, 12, 14}
    assert eval_losses(folder) == pytest.approx(eval_losses(whole), abs=1e-3)
    losses = [
        [row["loss"] for row in facts_of(run)["log_history"] if "loss" in row]
        for run in (folder, whole)
    ]
    assert len(losses[0]) == 14 and losses[0] == pytest.approx(losses[1], abs=1e-3), (
        "the same images in the same order"
    )
    seconds = [facts_of(run)["train_runtime_seconds"] for run in (folder, whole)]
    assert 5000 < seconds[0] < 5500 and seconds[1] < 500
    (first, second) = read_log(tmp_path / "measurements.jsonl")
    assert first["figures"]["auroc"] == pytest.approx(second["figures"]["auroc"], abs=0.05)


def test_ctrl_c_ends_with_one_line_and_the_run_continues(corpus, tiny_vit, tmp_path):
    folder = tmp_path / "run"
    steps = "--num_train_epochs 300 --save_strategy steps --save_steps 1 --eval_strategy no"
    words = command(
        corpus, folder, *steps.split(), "--load_best_model_at_end", "False", model=tiny_vit
    )
    words[words.index("--disable_tqdm") + 1] = "False"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train_hf.py"), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while process.poll() is None and not list(folder.glob("checkpoint-*/trainer_state.json")):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors[-2000:]
    assert "Traceback" not in errors
    assert errors.strip().splitlines()[-1] == "stopped; give the same command again to continue"
    assert last_complete_checkpoint(folder)


def test_an_error_is_the_last_line_under_accelerate(tmp_path):
    launch = "-m accelerate.commands.launch --quiet --num_processes 1 --num_machines 1 --cpu"
    launch += " --mixed_precision no --dynamo_backend no"
    words = command(tmp_path / "nowhere", tmp_path / "run", "--model_type", "vit")
    done = subprocess.run(
        [sys.executable, *launch.split(), str(ROOT / "train_hf.py"), *words],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("realfake: error: ")


@pytest.mark.parametrize("words", [["--bf16"], ["--bf16", "True"], []])
def test_bare_flags_are_true(words, tmp_path, monkeypatch):
    monkeypatch.setattr(arguments, "has_bf16", lambda use_cpu: False)
    run = arguments.parse(
        [
            "--dataset",
            "x",
            "--model_type",
            "vit",
            "--output_dir",
            str(tmp_path),
            "--dry_run",
            *words,
        ]
    ).run
    assert run.bf16 == bool(words) and run.dry_run is True
    assert run.measurement_log == str(tmp_path / "measurements.jsonl")


def test_a_full_disk_keeps_the_checkpoints(corpus, tiny_vit, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    words = ("--num_train_epochs", "2")
    save_model = DetectorTrainer.save_model

    def full_at_the_second(self, output_dir=None, _internal_call=False):
        if self.state.global_step > 7:
            # What safetensors raises is no OSError.
            raise SafetensorError(
                "Error while serializing: I/O error: No space left on device (os error 28)"
            )
        save_model(self, output_dir, _internal_call)

    monkeypatch.setattr(DetectorTrainer, "save_model", full_at_the_second)
    assert main(corpus, folder, *words, model=tiny_vit) == 2
    said = last_line(capsys)
    assert "The disk is full" in said and "give the same command again" in said and "\n" not in said
    assert (folder / "checkpoint-7" / "trainer_state.json").is_file()
    monkeypatch.setattr(DetectorTrainer, "save_model", save_model)

    def full_at_the_end(*args):
        raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")

    write = release.os.replace
    monkeypatch.setattr(release.os, "replace", full_at_the_end)
    assert main(corpus, folder, *words, model=tiny_vit) == 2
    captured = capsys.readouterr()
    assert (
        "Continuing the interrupted run from" in captured.out
        and "The disk is full" in captured.err.splitlines()[-1]
    )
    assert not (folder / "model.safetensors").exists() and not (folder / ".saving").exists()
    assert (folder / "checkpoint-14" / "trainer_state.json").is_file()
    monkeypatch.setattr(release.os, "replace", write)

    assert main(corpus, folder, *words, model=tiny_vit) == 0
    facts = facts_of(folder)
    assert facts["steps"] == 14 and facts["best_step"] in (7, 14)
    assert len(read_log(tmp_path / "measurements.jsonl")) == 1


@pytest.mark.parametrize(
    "error", [RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 5 vs 3")]
)
def test_torchs_words_for_a_full_disk(error, corpus, tiny_vit, tmp_path, capsys, monkeypatch):
    def fail(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(DetectorTrainer, "train", fail)
    assert main(corpus, tmp_path / "run", model=tiny_vit) == 2
    assert "The disk is full" in last_line(capsys)


@pytest.mark.parametrize("kind", [RuntimeError, KeyError, AttributeError])
def test_a_defect_shows_its_traceback(kind, corpus, tiny_vit, tmp_path, monkeypatch):
    def broken(self, *args, **kwargs):
        raise kind("a defect")

    monkeypatch.setattr(DetectorTrainer, "compute_loss", broken)
    with pytest.raises(kind, match="a defect"):
        main(corpus, tmp_path / "run", model=tiny_vit)
    # And lets go of the folder.
    monkeypatch.undo()
    assert main(corpus, tmp_path / "run", "--dry_run", "True", model=tiny_vit) == 0


def test_two_runs_do_not_share_a_folder(corpus, tiny_vit, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(corpus, folder, model=tiny_vit) == 2
    assert "Another run is writing to" in last_line(capsys)
    assert [path.name for path in folder.iterdir()] == [".lock"]


# --- two processes


def launched(machines: int) -> list[list[str]]:
    """The command for each of several machines, to start two processes in total."""
    launch = [sys.executable, "-m", "accelerate.commands.launch"]
    if machines == 1:
        options = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
        options += " --dynamo_backend no --main_process_port 0"
        return [[*launch, *options.split()]]
    launch += [
        "--config_file",
        str(ROOT / "scripts" / "multi_node.yaml"),
        "--num_processes",
        "2",
        "--main_process_port",
        str(free_port()),
    ]
    return [[*launch, "--machine_rank", str(rank)] for rank in range(machines)]


SHARED = "--num_train_epochs 2 --per_device_eval_batch_size 5 --ema_decay 0.5"
SHARED = [*SHARED.split(), "--backbone_lr_factor", "0.5"]


@pytest.fixture(scope="module")
def one(corpus, tiny_vit, tmp_path_factory):
    """A run of one process; its log is beside it."""
    folder = tmp_path_factory.mktemp("one") / "run"
    assert main(corpus, folder, *SHARED, model=tiny_vit) == 0
    return folder


@pytest.mark.parametrize("machines", [1, 2])
def test_two_processes_train_as_one_does(corpus, one, tiny_vit, tmp_path, machines):
    two = tmp_path / "two"
    arguments = command(
        corpus,
        two,
        *SHARED,
        "--ddp_backend",
        "gloo",
        "--per_device_train_batch_size",
        "8",
        model=tiny_vit,
        log=tmp_path / "two.jsonl",
    )
    processes = [
        subprocess.Popen(
            [*launch, str(ROOT / "train_hf.py"), *arguments],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for launch in launched(machines)
    ]
    # The first one ends last: it writes, measures and speaks for all.
    said = [process.communicate(timeout=550) for process in reversed(processes)][::-1]
    stdout = "".join(out for out, _ in said)
    assert [process.returncode for process in processes] == [0] * machines, said[0][1][-3000:]

    assert (facts_of(two)["world_size"], facts_of(one)["world_size"]) == (2, 1)
    assert stdout.count("Finished:") == stdout.count("Corpus ") == 1
    curves = [
        [
            row[name]
            for name in ("loss", "eval_loss")
            for row in facts_of(run)["log_history"]
            if name in row
        ]
        for run in (one, two)
    ]
    assert len(curves[0]) == 14 + 2
    assert curves[1] == pytest.approx(curves[0], abs=1e-3)
    (line,), (other,) = (
        read_log(tmp_path / "two.jsonl"),
        read_log(one.parent / "measurements.jsonl"),
    )
    assert line["n"] == other["n"] == {"real": 12, "ai": 12}
    for split, rows in (("selection", 12), ("calibration", 12), ("test", 24)):
        tables = [results.read_scores(run / f"scores-{split}.parquet") for run in (one, two)]
        assert len(tables[0]["log_odds"]) == len(tables[1]["log_odds"]) == rows
        np.testing.assert_array_equal(tables[0]["is_ai"], tables[1]["is_ai"])
        np.testing.assert_allclose(
            tables[0]["log_odds"], tables[1]["log_odds"], atol=0.02, rtol=0.02
        )


GROUP = """
import atexit, os, torch
from realfake import runtime

def run():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
    model(torch.ones(1, 2)).sum().backward()
    model.hooks = [model]  # a cycle of references, such as a trainer is, still holds the group
    for _ in range(50):
        torch.distributed.all_gather_object([None], "tensors of Python's")
    atexit.register(print, "handled")
    runtime.end(3)

for _ in range(5):
    if not (child := os.fork()):
        run()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_a_process_of_a_group_ends_with_its_status_though_gloo_still_holds_tensors():
    ended = subprocess.run(
        [sys.executable, "-c", GROUP], capture_output=True, text=True, timeout=300
    )
    assert ended.stdout == "handled\n3\n" * 5, ended.stderr


def test_a_process_without_a_group_ends_as_usual():
    from realfake.runtime import end

    with pytest.raises(SystemExit, match="2"):
        end(2)


# --- mistakes


@pytest.fixture
def small(tmp_path):
    return draw_corpus(tmp_path / "small", n=12, size=32)


def test_no_such_dataset(tiny_vit, tmp_path, capsys):
    assert main("./nowhere", tmp_path / "run", model=tiny_vit) == 2
    assert "There is no file or folder ./nowhere; check the path." in last_line(capsys)
    assert main("user/nowhere", tmp_path / "run", model=tiny_vit) == 2
    assert "Check the spelling" in last_line(capsys)


def test_no_label_column(small, tiny_vit, tmp_path, capsys):
    lines = [
        "file_name,verdict",
        *(f"{path},{path.parent.name}" for path in sorted(small.rglob("*.jpg"))),
    ]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    assert main(tmp_path / "table.csv", tmp_path / "run", model=tiny_vit) == 2
    said = last_line(capsys)
    assert "has no label column" in said and "verdict" in said and "--label_column" in said


def test_one_class_only(small, tiny_vit, tmp_path, capsys):
    shutil.rmtree(small / "real")
    assert main(small, tmp_path / "run", model=tiny_vit) == 2
    assert "'real'" in last_line(capsys)


def test_a_class_folder_with_a_new_name(small, tiny_vit, tmp_path, capsys):
    (small / "ai").rename(small / "midjourney")
    assert main(small, tmp_path / "run", model=tiny_vit) == 2
    said = last_line(capsys)
    assert "'midjourney'" in said and "--label_map 'midjourney=" in said


def test_an_empty_validation_split(small, tiny_vit, tmp_path, capsys):
    from datasets import Dataset, DatasetDict, Features, Value
    from datasets import Image as ImageFeature

    paths = sorted(small.rglob("*.jpg"))
    features = Features({"image": ImageFeature(decode=False), "label": Value("string")})
    train = Dataset.from_dict(
        {
            "image": [{"bytes": path.read_bytes(), "path": None} for path in paths],
            "label": [p.parent.name for p in paths],
        },
        features=features,
    )
    empty = Dataset.from_dict({"image": [], "label": []}, features=features)
    DatasetDict(train=train, validation=empty).save_to_disk(tmp_path / "saved")
    assert main(tmp_path / "saved", tmp_path / "run", model=tiny_vit) == 2
    said = last_line(capsys)
    assert "validation split is empty" in said and "--validation_split none" in said


def test_too_few_images_to_part(small, tiny_vit, tmp_path, capsys):
    assert main(small, tmp_path / "run", model=tiny_vit) == 2
    assert "validation" in last_line(capsys)


def test_a_checkpoint_that_is_no_image_classifier(corpus, tmp_path, capsys):
    from transformers import BertConfig, BertModel

    settings = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
    }
    BertModel(BertConfig(vocab_size=20, **settings)).save_pretrained(tmp_path / "bert")
    assert main(corpus, tmp_path / "run", model=tmp_path / "bert") == 2
    said = last_line(capsys)
    assert "'bert' checkpoint" in said and "pass one such as" in said


@pytest.mark.parametrize(
    "words, message",
    [
        ("--model_type vit", "Pass either --model_name_or_path"),
        ("--streaming True", "pass --max_steps"),
        ("--streaming True --max_steps 5 --class_weights balanced", "leave out --streaming"),
        ("--evaluate_only test --dry_run True", "--evaluate_only and --dry_run exclude each other"),
        ("--evaluate_only everything", "--evaluate_only must be one of"),
        ("--eval_strategy steps", "strategy"),
        ("--trainable last:9", "has 2 blocks"),
        ("--trainable some", "--trainable must be"),
        ("--dropout 1.5", "--dropout must lie in"),
        ("--image_size 48", "change --image_size"),
        ("--config_overrides {oops}", "--config_overrides is not JSON"),
        ("--label_map nature", "--label_map"),
        ("--label_map cats=real", "'cats'"),
        ("--metric_for_best_model acuracy", "--metric_for_best_model must be one of"),
        ("--resume_from_checkpoint nowhere", "nowhere is not a complete"),
        ("--remove_unused_columns True", "--remove_unused_columns must stay off"),
        ("--corpus_notes nowhere.md", "there is no file nowhere.md"),
        ("--fp16 True --bf16 True", "fp16"),
        ("--no_such_option 1", "no_such_option"),
    ],
)
def test_options_that_cannot_be(words, message, corpus, tiny_vit, tmp_path, capsys):
    assert main(corpus, tmp_path / "run", *words.split(), model=tiny_vit) == 2
    assert message in last_line(capsys)
    assert not list((tmp_path / "run").glob("checkpoint-*"))


@pytest.mark.parametrize(
    "words", ["--preprocessing sideways", "--num_train_epochs many", "--class_weights heavy"]
)
def test_values_that_the_parser_refuses(words, corpus, tiny_vit, tmp_path, capsys):
    assert main(corpus, tmp_path / "run", *words.split(), model=tiny_vit) == 2
    assert words.split()[0] in last_line(capsys)


def test_evaluate_only_needs_a_checkpoint(corpus, tmp_path, capsys):
    assert main(corpus, tmp_path / "run", "--evaluate_only", "test", "--model_type", "vit") == 2
    assert "--model_name_or_path, not --model_type" in last_line(capsys)


def test_labels_of_a_checkpoint_that_say_nothing(corpus, tmp_path, capsys):
    folder = save_tiny("vit", tmp_path / "vit", labels=("LABEL_0", "LABEL_1"))
    assert main(corpus, tmp_path / "run", "--evaluate_only", "test", model=folder) == 2
    assert "'LABEL_0'" in last_line(capsys)


def test_an_output_folder_that_cannot_be(corpus, tiny_vit, tmp_path, capsys):
    (tmp_path / "run").write_text("a file")
    assert main(corpus, tmp_path / "run", model=tiny_vit) == 2
    assert str(tmp_path / "run") in last_line(capsys)


def test_help_names_every_option(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_hf.py", "--help"])
    with pytest.raises(SystemExit) as exit:
        import_train_hf().main()
    assert exit.value.code == 0
    said = capsys.readouterr().out
    assert all(
        f"--{name}" in said
        for name in ("dataset", "model_name_or_path", "trainable", "evaluate_only", "dry_run")
    )


@pytest.mark.parametrize(
    "rank, start", [("0", "realfake: error: "), ("1", "realfake: process 1: ")]
)
def test_a_mistake_is_said_once_and_not_lost(rank, start, capsys, monkeypatch):
    from realfake.io import report_failure

    monkeypatch.setenv("RANK", rank)
    assert report_failure(ValueError("first\n  second")) == 2
    assert capsys.readouterr().err == f"{start}first second\n"
