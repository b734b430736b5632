"""What a map's strongest part is worth, on models whose score is known by hand."""

import json

import numpy as np
import pytest
import torch
from helpers.tiny import draw_picture, save_tiny
from scipy.special import expit

from realfake.attribution.faithfulness import Evidence, evidence_of
from realfake.attribution.perturbation import importance_order, random_orders, replace, strongest
from realfake.detector import Detector

SPOT = np.s_[8:16, 30:40]


class Red:
    """Log-odds of the target: twenty times the mean of red in the spot, minus ten; counts its passes."""

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


# --- orders and masks ----------------------------------------------------------------------------------------


def test_the_order_is_that_of_the_values_and_of_reading_where_they_tie():
    order = importance_order(np.array([[0.0, 2.0, 0.0], [5.0, -1.0, 2.0]]))
    assert order.tolist() == [[3, 1, 4], [0, 5, 2]]
    assert strongest(order, 0.5).tolist() == [[False, True, False], [True, False, True]]
    assert (
        strongest(order, 0).sum() == 0
        and strongest(order, 0.01).sum() == 1
        and strongest(order, 1).all()
    )


def test_padding_is_never_ranked():
    order = importance_order(np.ones((6, 8)), (2, 1, 6, 5))
    assert (order >= 0).sum() == 16 and (order[:, :2] == -1).all() and (order[5:] == -1).all()
    assert strongest(order, 1).sum() == 16
    for moved in random_orders(order, 4):
        assert np.array_equal(moved >= 0, order >= 0)


def test_random_orders_keep_the_spatial_statistics_and_forget_the_place():
    smooth = np.add.outer(np.sin(np.arange(24) / 3), np.cos(np.arange(36) / 4))
    order = importance_order(smooth)
    drawn = random_orders(order, 200, seed=1)
    assert np.array_equal(drawn[0], random_orders(order, 1, seed=1)[0])

    def power(ranks):
        return np.abs(np.fft.fft2(ranks))

    for moved in drawn[:20]:
        assert np.array_equal(np.sort(moved.ravel()), np.arange(order.size))
        # Rolled around, the power spectrum stays; a flip mirrors it.
        mirrored = [power(order), power(order[::-1])]
        assert (
            min(np.abs(power(moved) - spectrum).max() for spectrum in mirrored)
            < 1e-6 * order.size**2
        )
    # Every pixel is as likely as another to be among the first tenth.
    assert np.mean([strongest(moved, 0.1) for moved in drawn], axis=0).std() < 0.03


def test_replace_puts_the_fill_where_the_masks_say():
    pixels, fill = torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)
    masks = np.array([[[True, False], [False, False]], [[False, False], [True, True]]])
    assert torch.equal(replace(pixels, fill, masks).sum(dim=1) / 3, torch.from_numpy(masks).float())


@pytest.mark.parametrize(
    "heatmap, box, words",
    [
        (np.full((4, 4), np.nan), None, "without NaN"),
        (np.zeros((1, 4, 4)), None, "height, width"),
        (np.zeros((4, 4)), (2, 2, 2, 4), "no pixel"),
    ],
)
def test_maps_that_cannot_be_ranked(heatmap, box, words):
    with pytest.raises(ValueError, match=words):
        importance_order(heatmap, box)


# --- evidence ------------------------------------------------------------------------------------------------


def test_the_right_map_beats_chance_and_the_numbers_are_the_models():
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
def test_a_map_of_the_wrong_place_does_not(spot):
    evidence = evidence_of(Red(), scene(), heat(spot), "ai")
    assert not evidence.beats_random and "no better than chance" in evidence.sentence()


def test_a_map_that_points_the_wrong_way_does_not():
    evidence = evidence_of(lambda pixels: -Red()(pixels), scene(), heat(), "real")
    assert evidence.after > evidence.before and not evidence.beats_random
    assert "raises the probability of a photograph" in evidence.sentence()


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_map_without_evidence_says_so(value):
    evidence = evidence_of(Red(), scene(), heat(value=value), "ai")
    assert (evidence.share, evidence.after, evidence.beats_random) == (0, evidence.before, False)
    assert evidence.sentence() == "The map marks nothing that speaks for AI."


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


def test_certainty_does_not_hide_the_difference():
    evidence = evidence_of(lambda pixels: Red(gain=50)(pixels).double(), scene(), heat(), "ai")
    assert evidence.before == pytest.approx(1) and evidence.beats_random


def test_padding_is_not_an_easy_opponent():
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


def test_the_sentence():
    evidence = Evidence("ai", 0.1, 0.94, 0.31, (0.9, 0.88, 0.92, 0.91, 0.89))
    assert evidence.sentence() == (
        "Removing the marked 10 % lowers the AI probability from 0.94 to 0.31; a random 10 % lowers it to 0.90."
    )
    weak = Evidence("real", 0.034, 0.5, 0.5, (0.5, 0.6))
    assert weak.sentence() == (
        "Removing the marked 3.4 % leaves the probability of a photograph at 0.50; a random 3.4 % raises it to 0.55. "
        "The map is no better than chance here."
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


def test_the_detector_gives_evidence_and_regions(tmp_path):
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


def test_a_map_with_its_evidence_takes_few_passes(tmp_path):
    # What keeps predicting and explaining within five times one pass forward and backward, counted and not timed: eight images go
    # forward for the map, its evidence and its prediction, one of them back as far as the layer.
    detector = Detector.from_pretrained(save_tiny("mobilenet_v2", tmp_path))
    picture = draw_picture(48)
    detector.explain(picture)  # finds the layer, once
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
