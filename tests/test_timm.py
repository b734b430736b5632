"""Checkpoints of timm: the preprocessing, and the way from the training to the stock pipeline."""

import json
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.tiny import draw_corpus, draw_picture
from helpers.training import facts_of, last_line, main
from PIL import Image
from transformers import AutoImageProcessor, pipeline

from realfake.detector import Detector
from realfake.models.classifiers import load_processor

DATA_CONFIG = {
    "input_size": (3, 32, 32),
    "interpolation": "bicubic",
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.3, 0.4),
    "crop_pct": 0.9,
    "crop_mode": "center",
}
ARCHITECTURES = {
    "vit_tiny_patch16_224": {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
    },
    "resnet10t": {},
    "convnext_atto": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]},
}
with_timm = pytest.mark.skipif(
    find_spec("timm") is None, reason="timm is not installed: pip install timm"
)


def processor_of(monkeypatch, **changed):
    stub = SimpleNamespace(data_config={**DATA_CONFIG, **changed})
    monkeypatch.setattr(AutoImageProcessor, "from_pretrained", lambda *args, **options: stub)
    return load_processor("timm/model")


def test_the_preprocessing_is_that_of_timm(monkeypatch):
    picture = draw_picture(90, seed=1).crop((0, 0, 90, 70))
    processor = processor_of(monkeypatch)
    pixels = processor(images=picture, return_tensors="np")["pixel_values"][0]
    # The shorter side becomes 32 / 0.9, rounded down; then the centre is cropped.
    resized = picture.resize((45, 35), Image.Resampling.BICUBIC)
    levels = np.asarray(resized, dtype=float)[1:33, 6:38] / 255
    expected = (levels - DATA_CONFIG["mean"]) / DATA_CONFIG["std"]
    np.testing.assert_allclose(pixels, expected.transpose(2, 0, 1), atol=1e-5)


@pytest.mark.parametrize("changed", [{"input_size": (3, 32, 48)}, {"crop_mode": "squash"}])
def test_other_preprocessing_is_refused(monkeypatch, changed):
    with pytest.raises(ValueError, match="timm/model.*timm's preprocessing"):
        processor_of(monkeypatch, **changed)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return draw_corpus(tmp_path_factory.mktemp("drawn") / "corpus", n=96, size=40)


@pytest.mark.skipif(find_spec("timm") is not None, reason="timm is installed")
def test_without_timm_one_line_says_what_to_install(corpus, tmp_path, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    config = {"architecture": "resnet10t", "num_classes": 2, "pretrained_cfg": DATA_CONFIG}
    (folder / "config.json").write_text(json.dumps(config))
    assert main(corpus, tmp_path / "run", model=folder) == 2
    assert "pip install timm" in last_line(capsys)


@with_timm
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_training_ends_as_a_calibrated_checkpoint(architecture, corpus, tmp_path):
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    config = TimmWrapperConfig(
        architecture=architecture,
        num_labels=1000,
        model_args=ARCHITECTURES[architecture],
        pretrained_cfg={**DATA_CONFIG, "input_size": [3, 32, 32]},
    )
    TimmWrapperForImageClassification(config).save_pretrained(tmp_path / "model")
    folder = tmp_path / "run"
    assert main(corpus, folder, "--num_train_epochs", "1", model=tmp_path / "model") == 0
    assert facts_of(folder)["model_class"] == "TimmWrapperForImageClassification"
    detector, picture = Detector.from_pretrained(folder), draw_picture(60, seed=3)
    assert detector.facts["calibration"]["folded"] is True
    scores = pipeline("image-classification", model=str(folder))(picture)
    probabilities = detector.predict(picture).probabilities
    # With torchvision, the stock pipeline resizes with it.
    assert {row["label"]: row["score"] for row in scores} == pytest.approx(probabilities, abs=1e-3)
    for method in ("gradcam", "smoothgrad"):
        assert detector.explain(picture, method=method).overlay().size
