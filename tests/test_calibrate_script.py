"""`realfake calibrate`: the ECE of an over-confident checkpoint falls to the noise floor."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny import draw_picture, save_tiny
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForImageClassification, pipeline

from realfake.cli.main import main
from realfake.detector import Detector
from realfake.evaluation.log import read_log
from realfake.evaluation.results import checkpoint_hash, read_scores
from realfake.imaging.decode import open_image
from realfake.training import measuring, release

SIZES = {"train": 60, "validation": 320, "test": 60}
WRONG = 0.2  # share of labels that are wrong: nobody can be surer than 80 %


def draw_noisy_corpus(folder: Path) -> Path:
    """Pictures with and without the residue, every fifth of them in the wrong folder."""
    rng, seed = np.random.default_rng(0), 0
    for split, n in SIZES.items():
        for number in range(n):
            residue = bool(number % 2)
            label = "ai" if residue != (rng.random() < WRONG) else "real"
            (folder / split / label).mkdir(parents=True, exist_ok=True)
            draw_picture(32, seed=seed, residue=residue).save(
                folder / split / label / f"{number:04d}.jpg", quality=90
            )
            seed += 1
    return folder


def give_head(folder: Path, corpus: Path, factor: float) -> None:
    """Train the checkpoint to find a residue, then multiply its log-odds by `factor`."""
    detector = Detector.from_pretrained(folder, label_map=MANY if "many" in folder.name else None)
    files = sorted((corpus / "train").glob("*/*.jpg"))
    pixels = torch.cat(detector._batches([open_image(file) for file in files]))
    with torch.inference_mode():
        features = detector.model.vit(pixel_values=pixels).last_hidden_state[:, 0].numpy()
    truth = np.array([int(file.stem) % 2 == 1 for file in files])
    head = LogisticRegression(C=10.0, max_iter=2000).fit(features, truth)
    scale = factor * math.log((1 - WRONG) / WRONG) / np.abs(head.decision_function(features)).mean()
    linear = detector.model.classifier
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.zero_()
        for place, column in enumerate(detector.class_indices["ai"]):
            linear.weight[column] = torch.from_numpy(head.coef_[0] * scale).float()
            linear.bias[column] = float(head.intercept_[0] * scale) - 0.3 * place
    detector.model.save_pretrained(folder)


MANY = {"LABEL_0": "real", "LABEL_1": "ai", "LABEL_2": "ai"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return draw_noisy_corpus(tmp_path_factory.mktemp("noisy") / "corpus")


@pytest.fixture(scope="module")
def overconfident(tmp_path_factory, corpus):
    folder = save_tiny("vit", tmp_path_factory.mktemp("models") / "sure")
    give_head(folder, corpus, 8)
    return folder


def call(capsys, model, corpus, output, *options):
    words = [str(model), "--dataset", str(corpus), "--output", str(output), *map(str, options)]
    log = [
        "--measurement_log",
        str(Path(output).parent / "log.jsonl"),
        "--preprocessing_num_workers",
        "1",
    ]
    code = main(["calibrate", *words, *log])
    return code, capsys.readouterr()


def strict(path: Path) -> dict:
    def refuse(word):
        raise AssertionError(f"{path} holds {word}")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def calibrated(overconfident, corpus, tmp_path_factory):
    """The folder that the script makes of the over-confident checkpoint, and what it printed."""
    output = tmp_path_factory.mktemp("calibrated") / "out"
    log = ["--measurement_log", output.parent / "log.jsonl", "--preprocessing_num_workers", "1"]
    assert main(["calibrate", overconfident, "--dataset", corpus, "--output", output, *log]) == 0
    return output


def test_over_confidence_comes_to_the_noise_floor(calibrated, overconfident):
    content = strict(calibrated / "evaluation.json")
    assert set(content) == {"selection", "calibration"}
    record = content["selection"]
    assert record["checkpoint_sha256"] == checkpoint_hash(calibrated)
    old, new = record["before_calibration"]["summary"], record["figures"]["summary"]
    assert old["ece"]["value"] > 2 * old["ece_noise_floor"]["high"]
    assert new["ece"]["value"] <= new["ece_noise_floor"]["high"]
    # The labels' own entropy is 0.50 nats; four fifths right at 8 times the margin cost far more.
    assert old["nll"]["value"] > 1.5 and 0.4 < new["nll"]["value"] < 0.62
    assert new["auroc"]["value"] == pytest.approx(old["auroc"]["value"], abs=0.005)
    facts = strict(calibrated / "config.json")["realfake"]
    assert facts["calibration"]["folded"] and 6 < facts["calibration"]["temperature"] < 11
    assert facts["calibrated_from"]["sha256"] == checkpoint_hash(overconfident)
    assert "corpus" not in facts  # it was not trained on this one
    assert facts["thresholds"]["alpha"] == 0.05
    assert [point["fpr"] for point in facts["operating_points"]] == [0.01, 0.05]
    assert (
        facts["ood"]["n"] == {"real": 80, "ai": 80}
        and (calibrated / "novelty.safetensors").is_file()
    )
    assert not (calibrated.parent / "log.jsonl").exists()  # the test split was left alone


def test_the_stock_pipeline_sees_it(calibrated, corpus):
    files = sorted((corpus / "test" / "ai").glob("*.jpg"))[:6]
    stock = pipeline("image-classification", model=str(calibrated), device="cpu")
    detector = Detector.from_pretrained(calibrated)
    for file, answer in zip(files, stock([str(file) for file in files]), strict=True):
        score = {entry["label"]: entry["score"] for entry in answer}
        assert score["ai"] == pytest.approx(detector.predict(file).probabilities["ai"], abs=1e-6)


def test_it_is_the_same_network_but_for_the_last_layer(calibrated, overconfident):
    old, new = (
        AutoModelForImageClassification.from_pretrained(path).state_dict()
        for path in (overconfident, calibrated)
    )
    temperature = strict(calibrated / "config.json")["realfake"]["calibration"]["temperature"]
    assert old.keys() == new.keys()
    for name, tensor in old.items():
        expected = tensor / temperature if name == "classifier.weight" else tensor
        if name != "classifier.bias":  # the calibration's own bias is added to it
            torch.testing.assert_close(new[name], expected, atol=1e-6, rtol=1e-3)


def test_the_card_claims_no_training(calibrated):
    card = (calibrated / "README.md").read_text()
    assert (
        "not trained by this project" in card
        and "fine-tuned" not in card
        and "Trained on" not in card
    )
    assert "further from the calibration images than 95 %" in card
    assert "license:" not in card.split("---")[1]  # nobody said what it is
    record = strict(calibrated / "evaluation.json")["selection"]
    assert f"{record['before_calibration']['summary']['nll']['value']:.4f}" in card
    assert f"{record['figures']['summary']['nll']['value']:.4f}" in card


def test_what_is_calibrated_stays_as_it_is(capsys, calibrated, corpus, tmp_path):
    method = strict(calibrated / "config.json")["realfake"]["calibration"]["method"]
    code, said = call(capsys, calibrated, corpus, tmp_path / "out", "--method", method)
    assert code == 0, said.err
    assert "Nothing was changed" in said.out
    assert (
        strict(tmp_path / "out" / "config.json")["realfake"]["calibration"]["method"] == "identity"
    )
    first, second = (
        read_scores(path / "scores-selection.parquet") for path in (calibrated, tmp_path / "out")
    )
    np.testing.assert_allclose(second["log_odds"], first["log_odds"], atol=1e-5)
    assert (
        "Calibration was tried and changed nothing" in (tmp_path / "out" / "README.md").read_text()
    )


def test_many_classes_whose_names_say_nothing(capsys, corpus, tmp_path):
    model = save_tiny("vit", tmp_path / "many", labels=list(MANY))
    give_head(model, corpus, 8)
    out = tmp_path / "out"
    labels = ",".join(f"{name}={label}" for name, label in MANY.items())
    options = (
        "--label_map",
        labels,
        "--degraded",
        "--measure_test",
        "--license",
        "mit",
        "--method",
        "temperature_bias",
    )
    code, said = call(capsys, model, corpus, out, *options)
    assert code == 0, said.err
    detector = Detector.from_pretrained(out)  # without a mapping
    assert detector.model.config.id2label == {0: "real", 1: "ai 1", 2: "ai 2"}
    assert detector.facts["calibrated_from"]["classes"] == list(MANY)
    file = next((corpus / "test" / "real").glob("*.jpg"))
    answer = pipeline("image-classification", model=str(out), device="cpu")(str(file), top_k=3)
    p_ai = sum(entry["score"] for entry in answer if entry["label"].startswith("ai"))
    assert p_ai == pytest.approx(detector.predict(file).probabilities["ai"], abs=1e-6)
    content = strict(out / "evaluation.json")
    assert set(content) == {"selection", "calibration", "selection-degraded", "test"}
    # Fitted on degraded images, it holds on degraded images of the selection half.
    after = content["selection-degraded"]["figures"]["summary"]
    before = content["selection-degraded"]["before_calibration"]["summary"]
    assert before["ece"]["value"] > before["ece_noise_floor"]["high"]
    assert (
        after["ece"]["value"] <= after["ece_noise_floor"]["high"]
        and after["nll"]["value"] < before["nll"]["value"]
    )
    assert strict(out / "config.json")["realfake"]["calibration"]["degraded"] is True
    fitted = content["calibration"]
    nll = [fitted[key]["summary"]["nll"]["value"] for key in ("before_calibration", "figures")]
    assert nll[1] < nll[0]
    (line,) = read_log(tmp_path / "log.jsonl")
    assert line["split"] == "test" and line["checkpoint_sha256"] == checkpoint_hash(out)
    assert "license: mit" in (out / "README.md").read_text()
    assert "degraded" in said.out


def test_degraded_logits_depend_on_the_image_alone(overconfident, corpus):
    from realfake.corpus.load import load_corpus

    rows = load_corpus(corpus, num_proc=1).splits["test"]
    detector = Detector.from_pretrained(overconfident)
    whole = measuring.compute_logits(detector, rows, 16, "whole", degraded=True)
    some = measuring.compute_logits(
        detector, rows.select(range(40, 10, -1)), 7, "some", degraded=True
    )
    np.testing.assert_allclose(some, whole[40:10:-1], atol=1e-4)
    assert np.abs(detector.logits(rows["image"], 16) - whole).max() > 0.1


def test_a_calibration_that_is_worse_once_stored_is_taken_back(overconfident, corpus, tmp_path):
    from realfake.corpus.load import load_corpus
    from realfake.evaluation.scores import collect_logits
    from realfake.statistics.calibration import Calibration

    part = load_corpus(corpus, num_proc=1).splits["test"]
    detector = Detector.from_pretrained(overconfident)
    before = collect_logits(detector, part)
    harmful = Calibration("temperature_bias", 0.1, 3.0, 1.0, 0.5, len(part))
    result = release.release(
        detector, harmful, part, before, tmp_path / "out", {}, 0.1, revert_if_worse=True
    )
    assert result.calibration.method == "identity" and "higher NLL" in result.calibration.reason
    np.testing.assert_allclose(
        collect_logits(result.detector, part), before, atol=2e-3 * np.abs(before).max()
    )
    assert result.detector.thresholds.alpha == 0.1


def test_it_is_pushed_whole(capsys, overconfident, corpus, tmp_path, hub):
    out = tmp_path / "out"
    code, said = call(
        capsys, overconfident, corpus, out, "--push_to_hub", "--hub_model_id", "user/calm"
    )
    assert code == 0, said.err
    from huggingface_hub import HfApi, ModelCard

    files = set(HfApi().list_repo_files("user/calm"))
    assert {"README.md", "config.json", "model.safetensors", "evaluation.json"} <= files
    assert 'pipeline("image-classification", model="user/calm")' in ModelCard.load("user/calm").text


@pytest.mark.parametrize(
    "options, message",
    [
        (("--alpha", "0.9"), "--alpha must lie between 0 and 0.5"),
        (("--label_map", "LABEL_0=photo"), "--label_map"),
        (("--dataset_label_map", "nothing=real"), "--dataset_label_map names 'nothing'"),
        (("--batch_size", "0"), "--batch_size"),
    ],
)
def test_mistakes_end_in_one_line(capsys, overconfident, corpus, tmp_path, options, message):
    code, said = call(capsys, overconfident, corpus, tmp_path / "out", *options)
    lines = [line for line in said.err.splitlines() if "error" in line]
    assert code == 2 and len(lines) == 1
    assert lines[0].startswith("realfake: error: ") and message in lines[0]


def test_the_checkpoint_itself_is_not_overwritten(capsys, overconfident, corpus):
    code, said = call(capsys, overconfident, corpus, overconfident)
    assert code == 2 and "would be overwritten" in said.err


def test_a_training_that_is_calibrated_on_another_split_keeps_its_card(
    overconfident, corpus, tmp_path, capsys
):
    model = shutil.copytree(overconfident, tmp_path / "trained")
    facts = {"hyperparameters": {"seed": 3}, "parts": {"train": {"real": 30, "ai": 30}}}
    facts |= {"command": "train_hf.py --dataset corpus", "base_model": "tiny"}
    (model / "training.json").write_text(json.dumps(facts))
    options = ["--calibration_split", "validation", "--measure_test", "--max_shard_size", "200KB"]
    code, _ = call(capsys, model, corpus, tmp_path / "out", *options)
    assert code == 0
    stored = strict(tmp_path / "out" / "training.json")
    assert stored["calibration"]["n"] == SIZES["validation"]
    assert set(stored["parts"]) == {"train", "calibration", "test"}
    content = strict(tmp_path / "out" / "evaluation.json")
    assert set(content) == {"calibration", "test"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "train_hf.py --dataset corpus" in card and "--calibration_split" in card
    code, captured = call(
        capsys, model, corpus, tmp_path / "no", "--calibration_split", "test", "--measure_test"
    )
    assert code != 0 and "--calibration_split" in captured.err
