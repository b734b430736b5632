"""The ECE by chance, against chances worked out by hand and simulated perfect models."""

import json

import numpy as np
import pytest
from scipy.special import expit, logit

from realfake.statistics import metrics
from realfake.statistics.calibration import fit
from realfake.statistics.metrics import class_balanced_weights
from realfake.statistics.summary import _perfect_model, calibrated_ece_band, noise_floor


def draw(n, seed=0, prior=0.4, sharpness=1.0):
    """Return log-odds that are calibrated at equal odds, times `sharpness`."""
    rng = np.random.default_rng(seed)
    is_ai = rng.random(n) < prior
    return sharpness * rng.normal(np.where(is_ai, 2.0, -2.0), 2.0), is_ai


def test_noise_floor_by_hand():
    # Four images at 1/2: |0.5 - share of ai| is 0.5, 0.25, 0 with chances 2/16, 8/16, 6/16.
    floor = noise_floor(np.full(4, 0.5), prior_ai=0.5, n_simulations=20_000)
    assert floor["mean"] == pytest.approx(0.5 * 2 / 16 + 0.25 * 8 / 16, abs=0.005)
    assert floor["low"] == 0 and floor["high"] == 0.5
    # One image of even odds where three in four are ai: ai with chance 3/4. Whatever it is, |p -
    # label| is 1/2, and the weights of a single image cancel.
    floor = noise_floor([0.5], prior_ai=0.75, n_simulations=50)
    assert floor == {"mean": 0.5, "low": 0.5, "high": 0.5}
    # Two such images share a bin. Both ai (9/16) or both real (1/16): 1/2. One of each (6/16), with
    # weights 0.5 / 0.75 and 0.5 / 0.25: a share of ai of 1/4.
    floor = noise_floor([0.5, 0.5], prior_ai=0.75, n_simulations=20_000)
    assert floor["mean"] == pytest.approx(10 / 16 * 0.5 + 6 / 16 * 0.25, abs=0.005)
    assert (floor["low"], floor["high"]) == (0.25, 0.5)


@pytest.mark.parametrize("prior", [0.0, 1.0, -0.5])
def test_noise_floor_needs_both_classes(prior):
    with pytest.raises(ValueError, match="prior_ai is"):
        noise_floor([0.5], prior_ai=prior)


def calibrated_exceedance(n, prior, repetitions):
    """Return how often a calibrated ECE is above its noise floor, and mean over the floor's."""
    above, means, floors = 0, [], []
    for seed in range(repetitions):
        log_odds, is_ai = draw(n, seed=seed, prior=prior)
        p_ai = expit(log_odds)
        floor = noise_floor(p_ai, is_ai.mean(), n_simulations=200, seed=seed)
        means.append(metrics.ece(p_ai, is_ai, class_balanced_weights(is_ai)))
        floors.append(floor["mean"])
        above += means[-1] > floor["high"]
    return above / repetitions, np.mean(means) / np.mean(floors)


@pytest.mark.parametrize("prior", [0.5, 0.2])
def test_noise_floor_on_simulated_models(prior):
    share, ratio = calibrated_exceedance(300, prior, 60)
    # 5 % expected of 60: the count is at most 8 with probability 0.997.
    assert share <= 8 / 60
    assert ratio == pytest.approx(1, abs=0.12)
    log_odds, is_ai = draw(1000, prior=prior, sharpness=3.0)
    weights = class_balanced_weights(is_ai)
    floor = noise_floor(expit(log_odds), is_ai.mean(), n_simulations=200)
    assert metrics.ece(expit(log_odds), is_ai, weights) > 2 * floor["high"]


@pytest.mark.slow
@pytest.mark.parametrize("prior", [0.5, 0.2])
def test_noise_floor_on_a_thousand_simulated_models(prior):
    share, ratio = calibrated_exceedance(500, prior, 1000)
    print(
        f"prior {prior}: above the 95 % quantile {share:.3f}, mean ECE over the floor's {ratio:.3f}"
    )
    assert 0.025 < share < 0.08
    assert ratio == pytest.approx(1, abs=0.04)


# --- with the calibration set resampled


def test_a_perfect_model_is_drawn_by_bayes_rule():
    # Three real images at odds 1 to 3, one ai image at 3 to 1. With both masses equal, of ai
    # log-odds 3/4 are the high one.
    log_odds, is_ai = logit([0.25, 0.25, 0.25, 0.75]), np.array([False, False, False, True])
    draw_once = _perfect_model(log_odds, is_ai, np.random.default_rng(0))
    found = {False: [], True: []}
    for _ in range(4000):
        drawn, truth = draw_once()
        assert truth.tolist() == [False, False, False, True]
        for label in found:
            found[label].extend(drawn[truth == label] > 0)
    assert np.mean(found[True]) == pytest.approx(0.75, abs=0.03)
    assert np.mean(found[False]) == pytest.approx(0.25, abs=0.02)


def banded(seed, n, n_calibration, sharpness=1.0, **options):
    """The band of a model that is perfect but for its temperature, calibrated as ours are."""
    raw, truth = draw(n_calibration, seed=2 * seed, sharpness=sharpness)
    calibration = fit(raw, truth)
    log_odds, is_ai = draw(n, seed=2 * seed + 1, sharpness=sharpness)
    return calibrated_ece_band(
        calibration.apply(log_odds), is_ai, calibration.apply(raw), truth, seed=seed, **options
    )


def test_band_has_value_and_sizes():
    log_odds, is_ai = draw(400, seed=5)
    band = calibrated_ece_band(log_odds, is_ai, *draw(200, seed=6), n_simulations=100)
    assert band["value"] == metrics.ece(expit(log_odds), is_ai, class_balanced_weights(is_ai))
    assert (band["n"], band["n_calibration"]) == (400, 200)
    assert 0 < band["low"] < band["mean"] < band["high"] and band["within"]
    assert band == json.loads(json.dumps(band, allow_nan=False))
    again = [
        calibrated_ece_band(log_odds, is_ai, *draw(200, seed=6), n_simulations=100, seed=seed)
        for seed in (0, 1)
    ]
    assert band == again[0] != again[1]


def test_few_calibration_images_widen_the_band():
    few = banded(0, 2000, 60, n_simulations=150)
    many = banded(0, 2000, 6000, n_simulations=150)
    test_alone = noise_floor(expit(draw(2000, seed=1)[0]), 0.4, n_simulations=150)
    assert few["high"] > 1.5 * many["high"]
    assert many["mean"] == pytest.approx(test_alone["mean"], rel=0.15)
    # With nothing fitted, the size of the calibration set does not matter.
    unfitted = banded(0, 2000, 60, n_simulations=150, method="identity")
    assert unfitted["mean"] == pytest.approx(test_alone["mean"], rel=0.15)


def test_a_model_that_is_too_sure_is_outside_the_band():
    log_odds, is_ai = draw(1500, seed=1, sharpness=2.0)
    calibration_log_odds, truth = draw(400, seed=2, sharpness=2.0)
    band = calibrated_ece_band(log_odds, is_ai, calibration_log_odds, truth, n_simulations=100)
    assert not band["within"] and band["value"] > 1.5 * band["high"]


def test_band_without_one_of_the_classes():
    log_odds, is_ai = draw(20)
    for test, calibration in (
        ((log_odds[is_ai], is_ai[is_ai]), (log_odds, is_ai)),
        ((log_odds, is_ai), ([1.0], [False])),
    ):
        band = calibrated_ece_band(*test, *calibration)
        assert (
            band["value"] is band["low"] is band["high"] is band["mean"] is band["within"] is None
        )
    with pytest.raises(ValueError, match="one label"):
        calibrated_ece_band(log_odds, is_ai, log_odds, is_ai[1:])


def coverage_of_the_band(repetitions, n, n_calibration, n_simulations):
    bands = [
        banded(seed, n, n_calibration, 1.7, n_simulations=n_simulations)
        for seed in range(repetitions)
    ]
    above = np.mean([band["value"] > band["high"] for band in bands])
    below = np.mean([band["value"] < band["low"] for band in bands])
    return (
        above,
        below,
        np.mean([band["value"] for band in bands]) / np.mean([band["mean"] for band in bands]),
    )


def test_coverage_of_the_band():
    above, below, ratio = coverage_of_the_band(30, 300, 150, 60)
    # 2.5 % expected on each side of 30: more than 5 has a chance below 1e-3.
    assert max(above, below) <= 5 / 30
    assert ratio == pytest.approx(1, abs=0.15)


@pytest.mark.slow
def test_coverage_of_the_band_on_a_thousand_simulated_models():
    above, below, ratio = coverage_of_the_band(1000, 400, 150, 200)
    print(f"above the band {above:.3f}, below it {below:.3f}, mean ECE over the band's {ratio:.3f}")
    assert 0.008 < above < 0.05 and 0.005 < below < 0.05
    assert ratio == pytest.approx(1, abs=0.05)
