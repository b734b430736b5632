"""What is handed out: calibrated weights in a file that every consumer opens to the same scores."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from helpers.tiny import draw_picture, save_tiny
from safetensors.torch import load_file
from torch import nn
from transformers import pipeline

from realfake.corpus.rows import is_ai, own_groups
from realfake.detector import Detector
from realfake.evaluation.scores import collect_logits
from realfake.prediction import Scores
from realfake.statistics.calibration import Calibration, fit_grouped
from realfake.statistics.metrics import log_odds_from_logits
from realfake.statistics.verdicts import OperatingPoint, operating_point
from realfake.training import release
from realfake.training.release import decision_facts, save_checkpoint, store_facts, write_atomically

ARCHITECTURES = (
    "vit",
    "deit",
    "dinov2",
    "siglip",
    "swin",
    "convnext",
    "convnextv2",
    "resnet",
    "efficientnet",
    "mobilenet_v2",
)


def rows(n, group_size=None, seed=0):
    """`n` drawn pictures, every third one ai, as the corpus loader gives them."""
    images, labels = [], []
    for index in range(n):
        buffer = io.BytesIO()
        draw_picture((44, 36), seed=seed + index, residue=index % 3 == 0).save(buffer, "PNG")
        images.append({"bytes": buffer.getvalue(), "path": None})
        labels.append(int(index % 3 == 0))
    columns = {"image": images, "label": labels}
    features = {"image": Image(decode=False), "label": ClassLabel(names=["real", "ai"])}
    if group_size:
        columns["group"] = [f"g{index // group_size}" for index in range(n)]
        features["group"] = Value("string")
    return Dataset.from_dict(columns, features=Features(features))


IDENTITY = Calibration("identity", 1.0, 0.0, 1.0, 1.0, 60)


def released_from(detector, part, folder, facts=None, alpha=0.1, calibration=None):
    """Calibrate and store a detector as a training does."""
    logits = collect_logits(detector, part)
    calibration = calibration or release.fit_calibration(detector, logits, part)
    return release.release(detector, calibration, part, logits, folder, facts or {}, alpha)


@pytest.fixture(scope="module")
def sixty():
    return rows(60)


@pytest.fixture(scope="module")
def pictures():
    return [
        draw_picture((32 + index % 20, 40 + index % 7), seed=index, residue=index % 2 == 0)
        for index in range(16)
    ]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_stock_pipeline_gives_the_detectors_probabilities(architecture, tmp_path, pictures):
    detector = Detector.from_pretrained(save_tiny(architecture, tmp_path / "start"))
    release.fold(detector.model, detector.class_indices, 0.6, 0.4)
    folder = tmp_path / "saved"
    save_checkpoint(detector.model, detector.processor, folder)

    stored = load_file(folder / "model.safetensors")
    for name, tensor in stored.items():
        if tensor.is_floating_point():
            assert tensor.dtype == (torch.float16 if tensor.ndim >= 2 else torch.float32), name
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]

    reopened = Detector.from_pretrained(folder)
    assert reopened.model.dtype == torch.float32 and type(reopened.model) is type(detector.model)
    for name, tensor in reopened.model.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim < 2:
            assert torch.equal(tensor, detector.model.state_dict()[name]), (
                f"{name} was to stay as it was"
            )

    stock = pipeline("image-classification", model=str(folder))
    assert stock.model.dtype == torch.float32
    ours = reopened.predict(pictures)
    assert np.ptp([prediction.log_odds for prediction in ours]) > 0.05
    for scores, prediction in zip(stock(pictures), ours, strict=True):
        assert {row["label"]: row["score"] for row in scores} == pytest.approx(
            prediction.probabilities, abs=1e-5
        )


def test_the_stored_weights_give_calibrated_log_odds(tiny_vit, sixty, tmp_path):
    detector = Detector.from_pretrained(tiny_vit)
    before = collect_logits(detector, sixty)
    calibration = released_from(detector, sixty, tmp_path / "out").calibration
    after = collect_logits(detector, sixty)
    log_odds = log_odds_from_logits(before, detector.class_indices)
    np.testing.assert_allclose(
        log_odds_from_logits(after, detector.class_indices), calibration.apply(log_odds), atol=1e-5
    )
    expected = fit_grouped(before, detector.class_indices, is_ai(sixty))
    assert (calibration.temperature, calibration.bias) == (expected.temperature, expected.bias)
    assert calibration.n == 60


def test_calibration_with_several_classes_a_label(tmp_path, sixty):
    folder = save_tiny(
        "vit", tmp_path / "vit", labels=("real", "generated", "photo", "diffusion"), seed=1
    )
    detector = Detector.from_pretrained(folder)
    truth = is_ai(sixty)
    # Make the classes mean something, so that there is a temperature to find.
    logits = collect_logits(detector, sixty)
    log_odds = log_odds_from_logits(logits, detector.class_indices)
    if log_odds[truth].mean() < log_odds[~truth].mean():
        with torch.no_grad():
            detector.model.classifier.weight.neg_()
        logits = collect_logits(detector, sixty)
    calibration = released_from(detector, sixty, tmp_path / "out").calibration
    assert calibration.method == "temperature_bias"
    after = collect_logits(detector, sixty)
    expected = calibration.apply_logits(logits, detector.class_indices)
    np.testing.assert_allclose(
        log_odds_from_logits(after, detector.class_indices), expected, atol=1e-5
    )
    p = torch.from_numpy(after).double().softmax(-1).numpy()
    found = [
        prediction.probabilities["ai"] for prediction in detector.predict(list(sixty["image"]))
    ]
    np.testing.assert_allclose(found, p[:, 1] + p[:, 3], atol=1e-6)


def test_a_head_without_bias_gets_a_temperature_alone(tiny_vit, sixty):
    detector = Detector.from_pretrained(tiny_vit)
    torch.manual_seed(0)
    detector.model.classifier = nn.Linear(32, 2, bias=False)
    before = collect_logits(detector, sixty)
    if (
        log_odds_from_logits(before, detector.class_indices) * np.where(is_ai(sixty), 2, -1)
    ).mean() < 0:
        with torch.no_grad():
            detector.model.classifier.weight.neg_()
        before = -before
    calibration = release.fit_calibration(detector, before, sixty)
    release._fold_and_check(detector, calibration, sixty, 64)
    assert calibration.bias == 0 and calibration.temperature != 1
    np.testing.assert_allclose(
        collect_logits(detector, sixty), before / calibration.temperature, atol=1e-5
    )


def test_a_folding_that_does_not_hold_is_refused(tiny_vit, sixty, tmp_path):
    detector = Detector.from_pretrained(tiny_vit)
    detector.model.classifier.register_forward_hook(
        lambda module, inputs, output: 5 * torch.tanh(output)
    )
    fitted = Calibration("temperature_bias", 2.0, 0.5, 1.0, 0.9, 60)
    with pytest.raises(ValueError, match="cannot be folded into ViTForImageClassification"):
        released_from(detector, sixty, tmp_path, calibration=fitted)


@pytest.mark.parametrize("batch_size", [1, 7, 60, 64])
def test_collect_logits_keeps_the_order(batch_size, tiny_vit, sixty):
    detector = Detector.from_pretrained(tiny_vit)
    expected = np.concatenate([detector.logits([row["image"]]) for row in sixty])
    found = collect_logits(detector, sixty, batch_size)
    assert found.shape == (60, 2) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_thresholds_are_those_of_the_stored_weights(tiny_vit, tmp_path):
    part = rows(90, group_size=3, seed=500)
    detector = Detector.from_pretrained(tiny_vit)
    folder = tmp_path / "out"
    reopened = released_from(detector, part, folder, {"corpus": "drawn"}).detector
    facts = json.loads((folder / "config.json").read_text())["realfake"]
    assert facts == reopened.facts and facts["corpus"] == "drawn"
    # One image of a group and class: 30 groups, each with one ai and two real images.
    assert (
        facts["thresholds"]["n"] == {"real": 30, "ai": 30} and facts["thresholds"]["alpha"] == 0.1
    )

    log_odds = reopened.log_odds(list(part["image"]))
    truth = is_ai(part)
    # The thresholds are margins of stored weights: rounding to fp16 moves them by more than this.
    assert np.abs(log_odds[truth] - reopened.thresholds.real).min() < 1e-6
    assert np.abs(log_odds[~truth] - reopened.thresholds.ai).min() < 1e-6
    rank = int(0.1 * 31)  # k = floor(alpha (n + 1))
    assert (log_odds[truth] < reopened.thresholds.real).sum() == rank - 1
    assert reopened.predict(part[0]["image"]).alpha == 0.1


def test_what_turns_margins_into_decisions_is_stored(tiny_vit, tmp_path):
    part = rows(90, group_size=3, seed=500)
    detector = Detector.from_pretrained(tiny_vit)
    reopened = released_from(detector, part, tmp_path / "out", calibration=IDENTITY).detector
    log_odds, truth, groups = (
        reopened.log_odds(list(part["image"])),
        is_ai(part),
        list(part["group"]),
    )
    points = [OperatingPoint.from_dict(point) for point in reopened.facts["operating_points"]]
    assert [point.fpr for point in points] == [0.01, 0.05]
    # 30 groups: too few for 1 %, and at 5 % the largest margin of 30 photographs, one a group.
    assert points[0].threshold is None and points[0].n_real == points[1].n_real == 30
    expected = operating_point(log_odds, truth, 0.05, groups=groups)
    assert points[1].threshold == pytest.approx(expected.threshold, abs=1e-5)
    assert np.abs(log_odds[~truth] - points[1].threshold).min() < 1e-5


def test_images_without_a_group_stand_alone():
    assert own_groups(None) is None
    named = own_groups(["a", None, "a", "", None])
    assert named[0] == named[2] == "a" and len(set(named)) == 4
    truth = np.zeros(40, bool)
    scores = Scores(np.arange(40.0))
    facts = decision_facts(scores, scores, truth, 0.05, groups=own_groups([None] * 40))
    # floor(0.05 * 41) = 2: the second largest of 40, not the only margin of one group.
    assert facts["thresholds"]["ai"] == 38.0 and facts["thresholds"]["n"] == {"real": 40, "ai": 0}
    assert facts["operating_points"][1]["threshold"] == 38.0


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root to change the user")
def test_another_user_can_read_every_file(tiny_vit, tmp_path):
    from realfake.training.publishing import write_endpoint

    before = os.umask(0o022)
    try:
        folder = tmp_path / "out"
        released_from(Detector.from_pretrained(tiny_vit), rows(80), folder)
        write_endpoint(folder)
    finally:
        os.umask(before)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert {"model.safetensors", "config.json"} <= {path.name for path in files}
    # The folders above are pytest's own, which only their owner may enter.
    program = f"""
import os
os.chdir({str(folder)!r})
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
for name in {[str(path.relative_to(folder)) for path in files]}:
    if name != ".lock":
        open(name, "rb").read(1)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert (folder / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_diverged_weights_are_not_saved(tiny_vit, tmp_path):
    for bad in (float("nan"), 1e6):  # 1e6 is beyond fp16
        detector = Detector.from_pretrained(tiny_vit)
        with torch.no_grad():
            detector.model.classifier.weight[0, 0] = bad
        with pytest.raises(ValueError, match="classifier.weight are not finite in fp16"):
            save_checkpoint(detector.model, detector.processor, tmp_path / "out")
        assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_leaves_the_checkpoint_that_was_there(tiny_vit, tmp_path, monkeypatch):
    folder = shutil.copytree(tiny_vit, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    detector = Detector.from_pretrained(tiny_vit)

    def full(self, *args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")

    monkeypatch.setattr(type(detector.processor), "save_pretrained", full)
    with torch.no_grad():
        detector.model.classifier.weight.add_(1)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(detector.model, detector.processor, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


class Killed(BaseException):
    """Ends a test's program between two changes of its folder, past every `except Exception`."""


def kill_before(step: int, folder, patch) -> None:
    """End the program before its `step`-th change of a file in a folder, counted from 0."""
    done = []

    def changed(change, *paths, **options):
        if Path(paths[-1]).parent == folder:
            if len(done) == step:
                raise Killed
            done.append(paths)
        return change(*paths, **options)

    for change in (os.replace, os.unlink):
        patch.setattr(os, change.__name__, partial(changed, change))


def killed_at_every_step(folder, program, look, restore):
    """Return what `look` finds after a kill at each step of `program`, and without a kill."""
    found = []
    for step in range(50):
        restore()
        with pytest.MonkeyPatch.context() as patch:
            kill_before(step, folder, patch)
            try:
                program()
            except Killed:
                pass
            else:
                step = None
        found.append(look())
        if step is None:
            return found
    raise AssertionError("it never ended")


@pytest.fixture(scope="module")
def released(tiny_vit, tmp_path_factory):
    """A checkpoint with thresholds and statistics."""
    folder = tmp_path_factory.mktemp("released") / "out"
    detector = Detector.from_pretrained(tiny_vit)
    released_from(detector, rows(80), folder, {"corpus": "old"}, calibration=IDENTITY)
    assert Detector.from_pretrained(folder).ood is not None
    return folder


def test_a_saving_that_is_killed_leaves_the_old_or_the_new_or_is_refused(released, tmp_path):
    folder, image = tmp_path / "out", draw_picture(40, seed=3)
    detector = Detector.from_pretrained(released)
    with torch.no_grad():
        for tensor in detector.model.parameters():
            tensor.mul_(1.5)
    detector.processor.image_mean = [0.1, 0.1, 0.1]

    def restore():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(released, folder)

    def save():
        save_checkpoint(detector.model, detector.processor, folder)

    def state():
        opened = Detector.from_pretrained(folder)
        return (
            opened.predict(image).log_odds,
            opened.thresholds,
            opened.ood is not None,
            opened.processor.image_mean,
        )

    restore()
    old = state()
    save()
    new = state()
    assert old[0] != new[0] and old[1] and old[2] and new[1:3] == (None, False)

    def look():
        try:
            return {repr(old): "old", repr(new): "new"}[repr(state())]
        except OSError as error:
            assert "saving was interrupted" in str(error) and "\n" not in str(error)
            save()
            assert state() == new
            return "refused"

    found = killed_at_every_step(folder, save, look, restore)
    assert found == ["old", *["refused"] * (len(found) - 2), "new"] and len(found) > 4


@pytest.mark.parametrize("images", [80, 10])
def test_a_fit_of_novelty_that_is_killed_leaves_the_old_or_the_new(released, tmp_path, images):
    """Of ten images nothing can be said, and what was said of others goes."""
    folder, part = tmp_path / "out", rows(images, seed=900)
    detector = Detector.from_pretrained(released)

    def restore():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(released, folder)

    def look():
        opened = Detector.from_pretrained(folder)
        known = opened.ood and opened.ood.alpha
        assert (opened.facts["ood"] or {}).get("alpha") == known
        return known

    found = killed_at_every_step(
        folder, lambda: release.fit_ood(detector, folder, part, alpha=0.2), look, restore
    )
    new = 0.2 if images == 80 else None
    assert found[0] == 0.05 and found[-1] == new and set(found) == {0.05, new}


def test_store_facts_adds_to_what_is_there(tiny_vit, tmp_path):
    folder = shutil.copytree(tiny_vit, tmp_path / "out")
    before = json.loads((folder / "config.json").read_text())
    store_facts(folder, {"corpus": "a", "alpha": 1})
    store_facts(folder, {"alpha": 2})
    after = json.loads((folder / "config.json").read_text())
    assert after.pop("realfake") == {"corpus": "a", "alpha": 2} and after == before


def test_write_atomically_leaves_the_old_text_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "facts.json"
    write_atomically(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError):
        write_atomically(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
