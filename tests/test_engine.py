"""Engines give the detector's scores, and the choice between them keeps its tolerance."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.tiny import draw_picture, save_tiny
from scipy.special import expit

from realfake import engines
from realfake.detector import Detector
from realfake.engines import Choice, choose, open_engine
from realfake.models.ood import fit, forward_with_features
from realfake.models.preprocessing import Preprocessing
from realfake.prediction import Scores
from realfake.statistics.metrics import log_odds_from_logits
from realfake.statistics.verdicts import Thresholds

needs_openvino = pytest.mark.skipif(not engines.has_openvino(), reason="OpenVINO is not installed")


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Tiny detectors by architecture, with the inputs of 12 drawn pictures."""
    known = {}

    def open_(architecture: str) -> tuple[Detector, np.ndarray]:
        if architecture not in known:
            folder = save_tiny(architecture, tmp_path_factory.mktemp("engine") / architecture)
            detector = Detector.from_pretrained(folder, device="cpu")
            pictures = [
                draw_picture((50 + 3 * seed, 61), seed, bool(seed % 2)) for seed in range(12)
            ]
            known[architecture] = detector, Preprocessing(detector.processor)(pictures)
        return known[architecture]

    return open_


def with_ood(detector: Detector, pixels: np.ndarray) -> Detector:
    """The detector with statistics that take most of these inputs for usual."""
    many = torch.from_numpy(np.concatenate([pixels + 0.01 * step for step in range(10)]))
    with torch.inference_mode():
        _, features = forward_with_features(detector.model, many)
    statistics = fit(
        {name: block.numpy() for name, block in features.items()}, np.arange(len(many)) % 2 > 0
    )
    copy = Detector(detector.model, detector.processor, name="tiny", ood=statistics)
    assert copy.ood is not None
    return copy


@pytest.mark.parametrize(
    "architecture",
    ["vit", "dinov2", "swin", "convnextv2", "resnet", "efficientnet", "mobilenet_v2"],
)
def test_torch_in_fp32_gives_the_stock_logits(opened, architecture):
    detector, pixels = opened(architecture)
    expected, _ = detector.examine(torch.from_numpy(pixels))
    found, ood = open_engine("torch-fp32", detector, pixels)(pixels)
    assert ood is None
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@needs_openvino
@pytest.mark.parametrize("architecture", ["vit", "convnextv2", "mobilenet_v2"])
def test_openvino_in_fp32_gives_the_stock_logits_for_batches_of_any_size(opened, architecture):
    detector, pixels = opened(architecture)
    expected, _ = detector.examine(torch.from_numpy(pixels))
    engine = open_engine("openvino-fp32", detector, pixels)
    for n in (12, 1, 5):
        np.testing.assert_allclose(
            engine(pixels[:n])[0], expected[:n], atol=1e-5 * np.abs(expected).max()
        )


@pytest.mark.parametrize(
    "name", ["torch-fp32", "torch-bf16", pytest.param("openvino-fp32", marks=needs_openvino)]
)
def test_ood_comes_with_the_logits_and_threads_do_not_mix(opened, name):
    detector, pixels = opened("mobilenet_v2")
    detector = with_ood(detector, pixels)
    logits, expected = detector.examine(torch.from_numpy(pixels))
    engine = open_engine(name, detector, pixels, threads=2)
    found: dict[int, tuple] = {}

    def run(index: int) -> None:
        for _ in range(3):
            found[index] = engine(pixels[index : index + 4])

    threads = [threading.Thread(target=run, args=(index,)) for index in (0, 4, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bound = 0.2 if name.endswith("bf16") else 1e-4
    for index, (rows, ood) in found.items():
        assert np.abs(rows - logits[index : index + 4]).max() < bound * max(1, np.abs(logits).max())
        assert np.abs(ood - expected[index : index + 4]).max() <= (
            1 if name.endswith("bf16") else 0.02
        )


def test_bf16_keeps_the_last_layer_in_fp32_and_leaves_the_detector_alone(opened):
    detector, pixels = opened("vit")
    engine = open_engine("torch-bf16", detector, pixels)
    assert engine._model.classifier.weight.dtype == torch.float32
    assert engine._model.vit.embeddings.cls_token.dtype == torch.bfloat16
    assert detector.model.dtype == torch.float32
    found = engine(pixels)[0]
    expected, _ = detector.examine(torch.from_numpy(pixels))
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < 0.1


def test_unknown_and_missing_engines(opened, monkeypatch):
    detector, pixels = opened("vit")
    with pytest.raises(ValueError, match="no engine 'onnx'; use one of torch-fp32"):
        open_engine("onnx", detector, pixels)
    monkeypatch.setattr(engines, "has_openvino", lambda: False)
    with pytest.raises(OSError, match="realfake\\[openvino\\]"):
        open_engine("openvino-fp32", detector, pixels)
    assert not [name for name in engines.available(detector) if name.startswith("openvino")]


def detector_with(thresholds=None, ood=None):
    return SimpleNamespace(thresholds=thresholds, ood=ood)


def test_doubtful_are_those_near_an_edge():
    # A change of 0.01 moves a probability by 0.0025 at most.
    choice = Choice("torch-bf16", "torch-fp32", band=0.01)
    log_odds = np.array([-0.02, -0.005, 0.0, 0.005, 0.02, 1.995, 2.02, -3.01, -2.98, np.nan])
    plain = choice.doubtful(detector_with(), Scores(log_odds, None))
    assert plain.tolist() == [False, True, True, True, False, False, False, False, False, True]
    limits = Thresholds(alpha=0.05, real=-3.0, ai=2.0, n_real=100, n_ai=100)
    near = choice.doubtful(detector_with(limits), Scores(log_odds, None))
    assert near.tolist() == [False, True, True, True, False, True, False, True, False, True]
    never_real = Thresholds(alpha=0.05, real=None, ai=2.0, n_real=100, n_ai=3)
    assert choice.doubtful(detector_with(never_real), Scores(log_odds, None))[5:9].tolist() == [
        True,
        False,
        False,
        False,
    ]


def test_doubtful_are_those_whose_probability_could_move_by_a_hundredth():
    choice = Choice("torch-bf16", "torch-fp32", band=0.1)
    log_odds = np.array([0.5, 1.5, 2.5, -2.5])
    moved = expit(log_odds + 0.1) - expit(log_odds)
    assert (np.maximum(moved, expit(log_odds) - expit(log_odds - 0.1)) > 0.01).tolist() == [
        True,
        True,
        False,
        False,
    ]
    assert choice.doubtful(detector_with(), Scores(log_odds, None)).tolist() == [
        True,
        True,
        False,
        False,
    ]


def test_doubtful_are_those_nearly_out_of_distribution():
    choice = Choice("torch-bf16", "torch-fp32", band=1e-6, ood_band=0.02)
    detector = detector_with(ood=SimpleNamespace(alpha=0.05))
    ood = np.array([0.02, 0.04, 0.06, 0.08])
    assert choice.doubtful(detector, Scores(np.full(4, 9.0), ood)).tolist() == [
        False,
        True,
        True,
        False,
    ]


def test_nothing_is_doubtful_in_fp32():
    assert not Choice().doubtful(detector_with(), Scores(np.array([0.0, 1e-9]), None)).any()


class FakeEngine:
    """An engine with a given error, which takes CPU time in proportion to `work`."""

    def __init__(self, detector, strays: float, work: int):
        self.detector, self.strays, self.work = detector, strays, work

    def __call__(self, pixels):
        for _ in range(self.work):
            np.linalg.svd(np.ones((60, 60)))
        logits, ood = self.detector.examine(torch.from_numpy(pixels))
        sign = np.where(np.arange(len(logits)) % 2, 1, -1)[:, None] * np.array([[-0.5, 0.5]])
        return (logits + self.strays * sign).astype(np.float32), ood


@pytest.mark.parametrize(
    "engine, strays, expected",
    [
        ("torch-bf16", 1e-4, "torch-bf16"),  # hardly anything is computed again
        ("torch-bf16", 2.0, "torch-fp32"),  # everything would be
        ("openvino-fp32", 1e-6, "openvino-fp32"),
        ("openvino-fp32", 1e-2, "torch-fp32"),  # not what fp32 promises
    ],
)
def test_the_choice(opened, monkeypatch, engine, strays, expected):
    detector, pixels = opened("convnextv2")
    made = {"torch-fp32": (0.0, 60), engine: (strays, 6)}
    monkeypatch.setattr(
        engines, "open_engine", lambda name, *args: FakeEngine(detector, *made[name])
    )
    choice = choose(detector, pixels, names=list(made))
    assert choice.engine == expected
    assert choice.trials[engine]["log_odds"] == pytest.approx(strays, rel=0.05, abs=1e-6)
    if expected == "torch-bf16":
        assert choice.reference == "torch-fp32"
        assert choice.band == pytest.approx(3e-4, rel=0.05)
    else:
        assert choice.reference == expected and choice.band == 0
    assert Choice.from_dict(choice.to_dict()) == choice


def test_exact_never_takes_bf16(opened):
    detector, pixels = opened("vit")
    choice = choose(detector, pixels, exact=True)
    assert choice.engine.endswith("-fp32") and not choice.band
    assert not [name for name in choice.trials if name.endswith("-bf16")]
    assert choice.trials[choice.engine]["probability"] <= 1e-5


def test_an_engine_that_cannot_run_the_network_is_passed_over(opened, monkeypatch):
    detector, pixels = opened("vit")

    def refuse(name, *args):
        if name.startswith("openvino"):
            raise RuntimeError("Cannot convert aten::nothing\nmore")
        return FakeEngine(detector, 0.0, 1)

    monkeypatch.setattr(engines, "open_engine", refuse)
    assert choose(detector, pixels, names=["openvino-fp32", "torch-fp32"]).engine == "torch-fp32"


def test_log_odds_of_the_choice_stay_within_its_band(opened):
    detector, pixels = opened("mobilenet_v2")
    choice = choose(detector, pixels, names=["torch-fp32", "torch-bf16"])
    bf16 = open_engine("torch-bf16", detector, pixels)
    expected = log_odds_from_logits(
        detector.examine(torch.from_numpy(pixels))[0], detector.class_indices
    )
    found = log_odds_from_logits(bf16(pixels)[0], detector.class_indices)
    assert np.abs(found - expected).max() <= 3 * choice.trials["torch-bf16"]["log_odds"] + 1e-6


def test_a_long_list_is_predicted_by_the_fast_engine(tmp_path):
    pytest.importorskip("openvino")
    detector = Detector.from_pretrained(save_tiny("vit", tmp_path / "vit"))
    pictures = [draw_picture(40, seed=seed % 7) for seed in range(260)]
    expected = [prediction.log_odds for prediction in detector.predict(pictures[:7])]
    assert detector.engine is None
    found = [prediction.log_odds for prediction in detector.predict(pictures)]
    assert detector.engine is not None
    assert found[:7] == pytest.approx(expected, abs=1e-4)
    # Changed weights must not be answered from the engine.
    with torch.no_grad():
        detector.model.classifier.bias += torch.tensor([0.0, 1.0])
    moved = detector.predict(pictures[0]).log_odds
    assert moved == pytest.approx(expected[0] + 1, abs=1e-4)
