"""The verdict for an image and the verdicts for its variants."""

import numpy as np
import pytest
from helpers.tiny import draw_picture, save_tiny
from PIL import Image

from realfake.detector import Detector
from realfake.imaging.degradations import GRID
from realfake.labels import AI, REAL
from realfake.prediction import VARIANTS, Prediction, Stability, variants_of

NAMES = ["original", "messenger", "half_size", "crop"]


@pytest.fixture(scope="module")
def detector(tiny_vit):
    return Detector.from_pretrained(tiny_vit)


def prediction_with(verdict, reason=None):
    return Prediction(AI, {REAL: 0.4, AI: 0.6}, verdict, 0.4, 0.05, reason)


def stability(*verdicts):
    reasons = {"inconclusive": "between"}
    return Stability(
        [
            (name, prediction_with(verdict, reasons.get(verdict)))
            for name, verdict in zip(NAMES, verdicts, strict=True)
        ]
    )


@pytest.mark.parametrize(
    ("verdicts", "flips", "verdict", "reason"),
    [
        (("ai", "ai", "ai", "ai"), False, "ai", None),
        (("real", "real", "real", "real"), False, "real", None),
        (("ai", "ai", "real", "ai"), True, "inconclusive", "unstable"),
        (("real", "ai", "ai", "ai"), True, "inconclusive", "unstable"),
        # An inconclusive variant opposes no verdict.
        (("ai", "inconclusive", "inconclusive", "inconclusive"), False, "ai", None),
        (("real", "inconclusive", "real", "inconclusive"), False, "real", None),
        # The original is inconclusive, so the verdict is, whatever the variants.
        (("inconclusive", "ai", "ai", "ai"), False, "inconclusive", "between"),
        (("inconclusive", "ai", "real", "ai"), True, "inconclusive", "between"),
    ],
)
def test_verdict_and_reason_of_four_variants(verdicts, flips, verdict, reason):
    found = stability(*verdicts)
    assert (found.flips, found.verdict, found.reason) == (flips, verdict, reason)


def test_variants_are_measured_degradations(detector):
    picture = draw_picture((900, 600), seed=3)
    variants = variants_of(picture)
    assert list(variants) == list(VARIANTS) == NAMES
    assert [image.size for image in variants.values()] == [
        (900, 600),
        (768, 512),
        (450, 300),
        (540, 360),
    ]
    for name, degradation in zip(
        NAMES, ("clean", "resize_768_jpeg_60", "half_size", "crop_60"), strict=True
    ):
        np.testing.assert_array_equal(variants[name], GRID[degradation](picture, 0))
    found = detector.stability(picture)
    alone = [detector.predict(image) for image in variants.values()]
    assert [name for name, _ in found.variants] == NAMES
    assert [p.log_odds for _, p in found.variants] == pytest.approx(
        [p.log_odds for p in alone], abs=1e-5
    )
    assert found.variants[0][1].log_odds == pytest.approx(
        detector.predict(picture).log_odds, abs=1e-5
    )


def test_a_known_prediction_is_not_computed_again(detector, monkeypatch):
    sizes = []
    forward = detector.forward
    monkeypatch.setattr(
        detector, "forward", lambda pixels: sizes.append(len(pixels)) or forward(pixels)
    )
    picture = draw_picture((64, 48))
    known = detector.predict(picture)
    found = detector.stability(picture, original=known)
    assert sizes == [1, 3]
    assert found.variants[0][1] is known
    assert found == detector.stability(picture)


def test_a_flip_on_a_real_network(tmp_path):
    # Thresholds between the log-odds of the variants make the verdict flip.
    detector = Detector.from_pretrained(save_tiny("convnext", tmp_path / "model"))
    picture = draw_picture((96, 72), seed=2, residue=True)
    log_odds = np.array(
        [prediction.log_odds for _, prediction in detector.stability(picture).variants]
    )
    cut = float(np.median(log_odds))
    detector.model.config.realfake = {
        "thresholds": {"alpha": 0.05, "real": cut, "ai": cut, "n": {"real": 99, "ai": 99}}
    }
    strict = Detector(detector.model, detector.processor)
    found = strict.stability(picture)
    assert found.flips and (found.verdict, found.reason) == ("inconclusive", "unstable")
    assert strict.predict(picture).verdict in ("real", "ai")


def test_the_prior_reaches_every_variant(detector):
    picture = draw_picture((64, 48))
    even, moved = detector.stability(picture), detector.stability(picture, prior_ai=0.01)
    for (_, before), (_, after) in zip(even.variants, moved.variants, strict=True):
        assert after.prior_ai == 0.01 and after.probabilities["ai"] < before.probabilities["ai"]
    with pytest.raises(ValueError, match="prior_ai"):
        detector.stability(picture, prior_ai=2)


def test_an_image_too_small_to_be_halved_or_cropped(detector):
    assert [name for name, _ in detector.stability(draw_picture((10, 12))).variants] == [
        "original",
        "messenger",
    ]
    with pytest.raises(ValueError, match="8"):
        detector.stability(Image.new("RGB", (4, 4)))
    with pytest.raises(OSError, match="nothing.png"):
        detector.stability("nothing.png")
