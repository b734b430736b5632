"""Evidence, curves and ROAD on models whose score is known by hand, and against Quantus."""

import json

import numpy as np
import pytest
import torch
from helpers.maps import Weighted, linear_case
from helpers.tiny import draw_picture, save_tiny
from scipy.special import expit

from realfake.attribution.faithfulness import Evidence, curves_of, evidence_of
from realfake.detector import Detector

SPOT = np.s_[8:16, 30:40]


class Red:
    """Log-odds: twenty times the mean red in the spot, minus ten. Counts its passes."""

    def __init__(self, spot=SPOT, gain=20.0):
        self.spot, self.gain, self.batches = spot, gain, []

    def __call__(self, pixels):
        self.batches.append(len(pixels))
        return self.gain * pixels[:, 0][(slice(None), *self.spot)].mean(dim=(1, 2)) - self.gain / 2


def scene(size=(32, 48)):
    pixels = torch.zeros(1, 3, *size)
    pixels[0, 0][SPOT] = 1.0
    return pixels


def heat(spot=SPOT, size=(32, 48), value=1.0):
    heatmap = np.zeros(size, dtype=np.float32)
    heatmap[spot] = value
    return heatmap


def test_a_faithful_map_beats_random_maps():
    log_odds = Red()
    evidence = evidence_of(log_odds, scene(), heat(), "ai")
    # The spot is 80 of 1,536 pixels: the map marks no more than that.
    assert evidence.share == pytest.approx(80 / 1536)
    assert evidence.before == pytest.approx(expit(10))
    # Blurred, the spot keeps about half of its red.
    assert evidence.after < 0.95 < min(evidence.random_values) and evidence.beats_random
    assert len(evidence.random_values) == 5 and evidence.random == pytest.approx(
        np.mean(evidence.random_values)
    )
    assert log_odds.batches == [1, 3, 3]


@pytest.mark.parametrize("spot", [np.s_[20:28, 2:12], np.s_[0:6, 0:13]])
def test_a_map_of_the_wrong_place_does_not_beat_random_maps(spot):
    evidence = evidence_of(Red(), scene(), heat(spot), "ai")
    assert not evidence.beats_random and "no better than chance" in evidence.sentence()


def test_a_map_with_the_wrong_sign_does_not_beat_random_maps():
    evidence = evidence_of(lambda pixels: -Red()(pixels), scene(), heat(), "real")
    assert evidence.after > evidence.before and not evidence.beats_random
    assert "raises the probability of a photograph" in evidence.sentence()


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_map_without_evidence(value):
    evidence = evidence_of(Red(), scene(), heat(value=value), "ai")
    assert (evidence.share, evidence.after, evidence.beats_random) == (0, evidence.before, False)
    assert evidence.sentence() == "The map marks no evidence for AI."


def test_about_one_random_map_in_six_beats_chance():
    rng = np.random.default_rng(0)
    weight = torch.from_numpy(rng.normal(size=(16, 16)).astype(np.float32))
    pixels = torch.from_numpy(rng.normal(size=(1, 3, 16, 16)).astype(np.float32))
    won = [
        evidence_of(
            lambda p: (p[:, 0] * weight).sum(dim=(1, 2)),
            pixels,
            rng.normal(size=(16, 16)),
            "ai",
            seed,
        ).beats_random
        for seed in range(300)
    ]
    assert 0.08 < np.mean(won) < 0.25


def test_confident_scores_still_differ():
    evidence = evidence_of(lambda pixels: Red(gain=50)(pixels).double(), scene(), heat(), "ai")
    assert evidence.before == pytest.approx(1) and evidence.beats_random


def test_random_parts_avoid_padding():
    # All but a strip is padding: random parts that fell there would cost nothing.
    strip = np.s_[8:16, 24:48]
    pixels = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    log_odds = lambda p: 3 * (p[:, 0][(slice(None), *strip)] ** 2).mean(dim=(1, 2))  # noqa: E731
    flat = evidence_of(log_odds, pixels, heat(strip), "ai", box=(24, 8, 48, 16))
    assert flat.share == 0.1
    # The map is the same all over the strip: any tenth of it is about as good as another.
    costs = [flat.before - p for p in flat.random_values]
    assert min(costs) > 0.2 * max(costs) and min(costs) < 2 * (flat.before - flat.after)
    everywhere = evidence_of(log_odds, pixels, heat(strip), "ai")
    assert everywhere.random_values.count(everywhere.before) > 1  # what the box is for


def test_sentences():
    evidence = Evidence("ai", 0.1, 0.94, 0.31, (0.9, 0.88, 0.92, 0.91, 0.89))
    assert evidence.sentence() == (
        "Removing the marked 10 % lowers the AI probability from 0.94 to 0.31; "
        "a random 10 % lowers it to 0.90."
    )
    weak = Evidence("real", 0.034, 0.5, 0.5, (0.5, 0.6))
    assert weak.sentence() == (
        "Removing the marked 3.4 % leaves the probability of a photograph at 0.50; "
        "a random 3.4 % raises it to 0.55. The map is no better than chance here."
    )
    close = Evidence("ai", 0.1, 0.99991, 0.9986, (0.9999, 0.9999))
    assert "from 1.000 to 0.999; a random 10 % leaves it at 1.000" in close.sentence()
    record = evidence.to_dict()
    assert json.loads(json.dumps(record)) == record and record["beats_random"] is True


@pytest.mark.parametrize(
    "heatmap, target, words",
    [(heat(), "fake", "'real' or 'ai'"), (np.zeros((3, 4)), "ai", "shape")],
)
def test_mistakes(heatmap, target, words):
    with pytest.raises(ValueError, match=words):
        evidence_of(Red(), scene(), heatmap, target)


def test_the_detector_returns_evidence_and_regions(tmp_path):
    detector = Detector.from_pretrained(save_tiny("mobilenet_v2", tmp_path))
    picture = draw_picture(48, residue=True)
    plain, tested = (
        detector.explain(picture),
        detector.explain(picture, target="real", evidence=True),
    )
    assert plain.evidence is None and tested.evidence.target == "real"
    assert tested.evidence.before == pytest.approx(plain.prediction.probabilities["real"], abs=1e-6)
    regions = tested.regions(2)
    assert 1 <= len(regions) <= 2 and 0 < regions[0].share <= 1


def test_a_map_with_evidence_takes_eight_forward_passes(tmp_path):
    # Two for the map and the prediction, six for the evidence.
    detector = Detector.from_pretrained(save_tiny("mobilenet_v2", tmp_path))
    picture = draw_picture(48)
    detector.explain(picture)  # finds the layer once
    passes = []
    for model in (detector.model, detector.for_maps(detector.pixels(picture))):
        model.register_forward_pre_hook(
            lambda *given: passes.append(len(given[2]["pixel_values"])), with_kwargs=True
        )
    explanation = detector.explain(picture, evidence=True)
    assert sum(passes) == 2 + 6
    assert explanation.details["score"] == pytest.approx(explanation.prediction.log_odds)
    passes.clear()
    detector.predict(picture)
    assert passes == [1]


@pytest.fixture
def linear():
    return linear_case()


def test_curves_by_hand():
    # Four pixels that count 4, 3, 2, 1 towards the log-odds, replaced by 0.
    pixels = torch.tensor([[[4.0, 3.0], [2.0, 1.0]]]).expand(1, 3, 2, 2) / 3
    log_odds = Weighted(torch.ones(2, 2))
    heat = np.array([[4.0, 3.0], [2.0, 1.0]])
    curves = curves_of(log_odds, pixels, heat, n_random=2, steps=4, fill=torch.zeros_like(pixels))
    assert curves.shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert np.allclose(curves.deletion, expit([10, 6, 3, 1, 0]))
    assert np.allclose(curves.insertion, expit([0, 4, 7, 9, 10]))
    by_hand = np.mean([(a + b) / 2 for a, b in zip(curves.deletion, curves.deletion[1:])])
    assert curves.deletion_area == pytest.approx(by_hand)
    assert curves.random_deletion.shape == (2, 5)
    assert (curves.random_deletion[:, [0, -1]] == curves.deletion[[0, -1]]).all()
    # The two ends once, and between them three steps of two curves of three maps.
    assert sum(log_odds.passes) == 2 + 3 * 2 * 3


def test_the_exact_map_gains_and_its_opposite_loses(linear):
    log_odds, pixels, contribution = linear
    zero = torch.zeros_like(pixels)
    right, wrong = (
        curves_of(log_odds, pixels, heat, fill=zero) for heat in (contribution, -contribution)
    )
    assert right.deletion_gain > 0.1 and right.insertion_gain > 0.1
    assert wrong.deletion_gain < -0.1 and wrong.insertion_gain < -0.1
    areas = np.trapezoid(right.random_deletion, right.shares)
    assert right.deletion_gain == pytest.approx(areas.mean() - right.deletion_area)


def test_padding_is_never_removed(linear):
    log_odds, pixels, contribution = linear
    fill = torch.zeros_like(pixels)
    curves = curves_of(log_odds, pixels, contribution, steps=2, box=(4, 2, 20, 12), fill=fill)
    outside = pixels.clone()
    outside[:, :, 2:12, 4:20] = 0
    assert curves.deletion[-1] == pytest.approx(float(torch.sigmoid(log_odds(outside))), rel=1e-5)


@pytest.mark.parametrize("options", [{"steps": 0}, {"n_random": 0}])
def test_curves_need_a_step_and_a_random_map(linear, options):
    with pytest.raises(ValueError, match="at least one"):
        curves_of(*linear, **options)


def test_deletion_agrees_with_quantus(linear):
    quantus = pytest.importorskip("quantus")
    log_odds, pixels, contribution = linear

    class Model(torch.nn.Module):
        def forward(self, x):
            score = log_odds(x)
            return torch.stack([torch.zeros_like(score), score], dim=1)

    flipping = quantus.PixelFlipping(
        features_in_step=96,
        perturb_baseline=0.0,
        return_auc_per_sample=False,
        disable_warnings=True,
    )
    # Quantus asks for classes' probabilities; of two classes the softmax is the log-odds' sigmoid.
    theirs = flipping(
        model=Model().eval(),
        x_batch=pixels.numpy(),
        y_batch=np.array([1]),
        a_batch=contribution[None, None],
        softmax=True,
        device="cpu",
    )
    ours = curves_of(log_odds, pixels, contribution, steps=12, fill=torch.zeros_like(pixels))
    # Theirs counts a pixel as three features, one a channel, and begins after the first step.
    assert np.allclose(np.ravel(theirs), ours.deletion[1:], atol=1e-5)
