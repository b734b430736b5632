"""Scores of maps against values derived by hand, and against Captum and scikit-learn."""

import numpy as np
import pytest
import torch
from captum.metrics import infidelity
from helpers.maps import linear_case, smooth_noise
from sklearn.metrics import average_precision_score

from realfake.attribution.perturbation import baseline_pixels
from realfake.evaluation.map_checks import (
    centred_map,
    localisation,
    localisation_of_chance,
    max_sensitivity,
    normalised_infidelity,
    random_maps,
    randomised,
    rank_correlation,
    removal_effects,
)


@pytest.fixture
def linear():
    return linear_case()


def test_infidelity_agrees_with_captum(linear):
    log_odds, pixels, contribution = linear
    fill = baseline_pixels(pixels)
    exact = ((pixels - fill)[0].sum(dim=0) * log_odds.weight).numpy()
    masks, effects = removal_effects(log_odds, pixels, n_samples=20)
    assert np.allclose([exact[mask].sum() for mask in masks], effects, atol=1e-4)
    assert normalised_infidelity(3 * exact, masks, effects) == pytest.approx(0, abs=1e-5)
    assert (
        normalised_infidelity(-exact, masks, effects)
        == normalised_infidelity(0 * exact, masks, effects)
        == 1
    )
    assert np.isnan(normalised_infidelity(exact, masks, 0 * effects))

    other = exact + 0.2 * exact.std() * smooth_noise((16, 24), 5)
    given = torch.from_numpy(masks)

    def theirs(heat, normalize):
        return float(
            infidelity(
                log_odds,
                lambda x: (
                    given[:, None].expand(-1, 3, -1, -1).float(),
                    torch.where(given[:, None], fill, x),
                ),
                pixels,
                torch.from_numpy(heat)[None, None].expand(1, 3, -1, -1) / 3,
                n_perturb_samples=20,
                normalize=normalize,
            )
        )

    expected = theirs(other, True) / theirs(0 * other, False)
    assert 0.01 < expected < 0.99
    assert normalised_infidelity(other, masks, effects) == pytest.approx(expected, abs=1e-4)


def test_sensitivity_of_a_map_by_hand():
    pixels = torch.linspace(0, 1, 48).reshape(1, 3, 4, 4)
    assert max_sensitivity(lambda x: np.ones((4, 4)), pixels) == 0
    # The map is the image: what changes is at most the noise, of which the ball's radius is known.
    found = max_sensitivity(lambda x: x[0].mean(dim=0).numpy(), pixels, radius=0.1)
    assert 0 < found < 0.1 * 4 / float(pixels[0].mean(dim=0).norm())
    state = torch.get_rng_state()
    assert found == max_sensitivity(lambda x: x[0].mean(dim=0).numpy(), pixels, radius=0.1)
    assert torch.equal(state, torch.get_rng_state())


def test_shuffled_weights_keep_their_values():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 2))
    broken = randomised(model, seed=1)
    for ours, theirs in zip(model.parameters(), broken.parameters()):
        assert not torch.equal(ours, theirs)
        assert torch.equal(ours.flatten().sort().values, theirs.flatten().sort().values)
    assert torch.equal(broken[0].weight, randomised(model, seed=1)[0].weight)


def test_rank_correlation():
    one = smooth_noise((10, 10))
    assert rank_correlation(one, 2 * one + 1) == pytest.approx(1) == -rank_correlation(one, -one)
    assert rank_correlation(one, np.zeros((10, 10))) == 0
    seen = np.where(np.arange(100).reshape(10, 10) < 50, one, np.nan)
    assert rank_correlation(seen, one) == pytest.approx(1)


def test_scores_by_hand():
    heat = np.array([[4.0, 1.0], [3.0, -2.0]])
    mask = np.array([[True, False], [False, False]])
    assert localisation(heat, mask) == {"pointing": 1, "energy": 0.5, "average_precision": 1}
    second = localisation(heat, np.array([[False, False], [True, False]]))
    assert second == {"pointing": 0, "energy": 3 / 8, "average_precision": 0.5}
    # Two are strongest, one of them inside.
    assert localisation(np.array([[1.0, 1.0]]), np.array([[True, False]]))["pointing"] == 0.5
    assert localisation(-heat.clip(0) - 1, mask)["energy"] == 0


def test_unseen_pixels_do_not_count():
    heat = np.array([[np.nan, 2.0, 1.0]])
    assert localisation(heat, np.array([[True, True, False]]))["energy"] == pytest.approx(2 / 3)
    assert all(
        np.isnan(value) for value in localisation(heat, np.array([[True, False, False]])).values()
    )
    with pytest.raises(ValueError, match="shape"):
        localisation(heat, np.ones((2, 2), dtype=bool))


def test_average_precision_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    heat, mask = rng.normal(size=(20, 30)), rng.random((20, 30)) < 0.2
    expected = average_precision_score(mask.ravel(), heat.ravel())
    assert localisation(heat, mask)["average_precision"] == pytest.approx(expected)


def test_random_maps_score_the_area_of_the_mask():
    rng = np.random.default_rng(1)
    heat = np.full((40, 60), np.nan)
    heat[5:35, 10:50] = rng.random((30, 40))
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:20, 15:30] = True
    for drawn in random_maps(heat, 3):
        assert np.array_equal(np.isfinite(drawn), np.isfinite(heat))
        assert np.allclose(np.sort(drawn[np.isfinite(drawn)]), np.sort(heat[np.isfinite(heat)]))
    chance = localisation_of_chance(np.where(mask, 5.0, heat * 0.01), mask, n=400)
    area = mask.sum() / (30 * 40)
    assert chance["energy"] == pytest.approx(area, abs=0.03) and chance[
        "pointing"
    ] == pytest.approx(area, abs=0.03)


def test_the_centred_map_is_strongest_in_the_middle():
    heat = centred_map((41, 61))
    assert np.unravel_index(heat.argmax(), heat.shape) == (20, 30)
    assert heat[20, 0] == pytest.approx(np.exp(-2)) == heat[0, 30]
