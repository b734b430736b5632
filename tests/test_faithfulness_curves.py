"""Curves and checks against values worked out by hand, against Quantus and against Captum."""

import numpy as np
import pytest
import torch
from captum.metrics import infidelity
from scipy.special import expit

from realfake.attribution.faithfulness import curves_of, road
from realfake.attribution.perturbation import baseline_pixels, impute
from realfake.evaluation.map_checks import (
    max_sensitivity,
    normalised_infidelity,
    randomised,
    rank_correlation,
    removal_effects,
)


def smooth_noise(size, seed=0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    waves = [
        np.cos(rng.normal(0, 0.3) * x + rng.normal(0, 0.3) * y + rng.uniform(0, 6))
        for _ in range(6)
    ]
    return np.sum(waves, axis=0).astype(np.float32)


class Weighted:
    """Log-odds: the sum of weight × pixels, over all channels."""

    def __init__(self, weight):
        self.weight, self.passes = torch.as_tensor(weight, dtype=torch.float32), []

    def __call__(self, pixels):
        self.passes.append(len(pixels))
        return (pixels * self.weight).sum(dim=(1, 2, 3))


@pytest.fixture
def linear():
    weight = smooth_noise((16, 24), 1)
    weight = 0.02 * (weight - weight.mean())
    pixels = torch.from_numpy(np.random.default_rng(2).random((1, 3, 16, 24), dtype=np.float32))
    contribution = pixels[0].sum(dim=0).numpy() * weight
    return Weighted(weight), pixels, contribution


# --- curves --------------------------------------------------------------------------------------------------


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


def test_the_exact_map_gains_its_opposite_loses(linear):
    log_odds, pixels, contribution = linear
    zero = torch.zeros_like(pixels)
    right, wrong = (
        curves_of(log_odds, pixels, heat, fill=zero) for heat in (contribution, -contribution)
    )
    assert right.deletion_gain > 0.1 and right.insertion_gain > 0.1
    assert wrong.deletion_gain < -0.1 and wrong.insertion_gain < -0.1
    areas = np.trapezoid(right.random_deletion, right.shares)
    assert right.deletion_gain == pytest.approx(areas.mean() - right.deletion_area)


def test_padding_is_left_alone(linear):
    log_odds, pixels, contribution = linear
    fill = torch.zeros_like(pixels)
    curves = curves_of(log_odds, pixels, contribution, steps=2, box=(4, 2, 20, 12), fill=fill)
    outside = pixels.clone()
    outside[:, :, 2:12, 4:20] = 0
    assert curves.deletion[-1] == pytest.approx(float(torch.sigmoid(log_odds(outside))), rel=1e-5)


@pytest.mark.parametrize("options", [{"steps": 0}, {"n_random": 0}])
def test_curves_need_something_to_compare(linear, options):
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
    assert np.allclose(np.ravel(theirs), ours.deletion[1:], atol=1e-6)


# --- imputation ----------------------------------------------------------------------------------------------


def test_a_linear_ramp_is_imputed_without_error():
    ramp = (
        torch.from_numpy(np.add.outer(np.arange(20.0), 2 * np.arange(24.0)))
        .float()
        .expand(1, 3, 20, 24)
        / 60
    )
    mask = np.zeros((20, 24), dtype=bool)
    mask[5:12, 6:15] = True
    assert torch.allclose(impute(ramp, mask, noise=0), ramp, atol=1e-5)


def test_imputation_solves_its_equations_and_leaves_the_rest():
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.random((1, 3, 9, 11)))
    mask = rng.random((9, 11)) < 0.4
    filled = impute(pixels, mask, noise=0)[0].numpy()
    assert np.array_equal(filled[:, ~mask], pixels[0].numpy()[:, ~mask])
    for y, x in np.argwhere(mask):
        total, weights = 0, 0
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if (dy or dx) and 0 <= y + dy < 9 and 0 <= x + dx < 11:
                    weight = 1 / 6 if 0 in (dy, dx) else 1 / 12
                    total, weights = total + weight * filled[:, y + dy, x + dx], weights + weight
        assert np.allclose(filled[:, y, x], total / weights)


def test_imputation_of_everything_of_nothing_and_noise():
    pixels = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(impute(pixels, np.zeros((8, 8), dtype=bool)), pixels)
    everything = impute(pixels, np.ones((8, 8), dtype=bool), noise=0)
    assert torch.allclose(everything, pixels.mean(dim=(2, 3), keepdim=True).expand_as(pixels))
    noisy = impute(pixels, np.ones((8, 8), dtype=bool), noise=0.1) - everything
    assert 0.05 < float(noisy.std()) / float(pixels.max() - pixels.min()) < 0.15


def test_road_tells_the_right_map_from_the_wrong_one():
    pixels = torch.zeros(1, 3, 24, 24)
    pixels[0, :, 4:10, 4:10] = 1
    heat = np.zeros((24, 24), dtype=np.float32)
    heat[4:10, 4:10] = 1
    log_odds = Weighted(torch.ones(24, 24) / 20)
    assert (
        road(log_odds, pixels, heat, seed=1)
        > 0.2
        > 0.05
        > road(log_odds, pixels, np.roll(heat, 12, axis=1), seed=1)
    )


# --- checks of methods ---------------------------------------------------------------------------------------


def test_infidelity_is_captums(linear):
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


def test_shuffled_weights_are_the_same_weights_elsewhere():
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
