"""Repeated predictions are equal: bit for bit in the same batch, within 1e-5 in another."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny import draw_picture, save_tiny

from realfake import Detector
from realfake.detector import DEFAULT_CHECKPOINT

ROOT = Path(__file__).parent.parent
PICTURES = [
    draw_picture((48 + 7 * seed, 64), seed=seed, residue=bool(seed % 2)) for seed in range(5)
]
CLOSE = 1e-5


@pytest.fixture(scope="module", params=["vit", "convnextv2", "mobilenet_v2", "bundled"])
def detector(request, tmp_path_factory):
    if request.param == "bundled":
        return Detector.from_pretrained(DEFAULT_CHECKPOINT, device="cpu")
    folder = tmp_path_factory.mktemp("determinism") / request.param
    return Detector.from_pretrained(save_tiny(request.param, folder), device="cpu")


def test_the_same_batch_gives_the_same_bits(detector):
    first = detector.logits(PICTURES, batch_size=4)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(detector.logits(PICTURES, batch_size=4), first)


def test_the_batch_does_not_matter(detector):
    alone = detector.logits(PICTURES, batch_size=1)
    tolerance = CLOSE * max(1.0, float(np.abs(alone).max()))
    for batch_size in (2, 3, 5):
        np.testing.assert_allclose(
            detector.logits(PICTURES, batch_size), alone, atol=tolerance, rtol=0
        )
    backwards = detector.logits(PICTURES[::-1], batch_size=4)[::-1]
    np.testing.assert_allclose(backwards, alone, atol=tolerance, rtol=0)
    crowd = [PICTURES[0]] + [draw_picture(64, seed=seed) for seed in range(100, 104)]
    np.testing.assert_allclose(
        detector.logits(crowd, batch_size=5)[0], alone[0], atol=tolerance, rtol=0
    )


def test_probabilities_agree_within_1e_5(detector):
    one = [detector.predict(picture).probabilities["ai"] for picture in PICTURES]
    all_at_once = [each.probabilities["ai"] for each in detector.predict(PICTURES, batch_size=16)]
    np.testing.assert_allclose(all_at_once, one, atol=CLOSE, rtol=0)


_IN_THREADS = """
import sys
import numpy as np, torch
sys.path.insert(0, sys.argv[1])
from test_determinism import PICTURES
from realfake import Detector
results = {}
for folder in sys.argv[3:]:
    detector = Detector.from_pretrained(folder, device="cpu")
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        assert torch.get_num_threads() == threads
        results[f"{folder} {threads}"] = detector.logits(PICTURES, batch_size=4)
np.savez(sys.argv[2], **results)
"""


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_number_of_threads_does_not_matter(one_thread, tmp_path):
    folders = [str(save_tiny("convnextv2", tmp_path / "checkpoint")), str(DEFAULT_CHECKPOINT)]
    path = tmp_path / "logits.npz"
    command = [sys.executable, "-c", _IN_THREADS, str(ROOT / "tests"), str(path), *folders]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "4"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    elsewhere = np.load(path)
    for folder in folders:
        here = Detector.from_pretrained(folder, device="cpu").logits(PICTURES, batch_size=4)
        one, two, four = (elsewhere[f"{folder} {threads}"] for threads in (1, 2, 4))
        np.testing.assert_array_equal(one, here)  # the same bits in another process
        for other in (two, four):
            np.testing.assert_allclose(other, here, atol=CLOSE, rtol=0)


def test_maps_are_the_same_twice(detector):
    first, second = (detector.explain(PICTURES[1]) for _ in range(2))
    np.testing.assert_array_equal(first.heatmap, second.heatmap)
    assert first.prediction == second.prediction


def test_the_random_state_does_not_matter(detector):
    before = detector.logits(PICTURES[:2])
    torch.manual_seed(4711)
    np.random.seed(4711)
    np.testing.assert_array_equal(detector.logits(PICTURES[:2]), before)
