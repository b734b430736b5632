"""Calibration against hand-worked optima, scikit-learn and a derivative-free search."""

import json
import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_softmax
from sklearn.linear_model import LogisticRegression

from realfake.statistics import metrics
from realfake.statistics.calibration import Calibration, fit, fit_grouped, folds
from realfake.statistics.metrics import class_balanced_weights, log_odds_from_logits


def draw(n, seed=0, temperature=1.0, bias=0.0, prior=0.4):
    """Log-odds of a model that needs `log_odds / temperature + bias` at equal odds."""
    rng = np.random.default_rng(seed)
    is_ai = rng.random(n) < prior
    return (rng.normal(np.where(is_ai, 2.0, -2.0), 2.0) - bias) * temperature, is_ai


def test_temperature_by_hand():
    # Three of four are right at the same log-odds: log_odds / T = log 3.
    log_odds = np.array([5.0, 5.0, 5.0, -5.0, -5.0, -5.0, -5.0, 5.0])
    is_ai = np.array([True] * 4 + [False] * 4)
    calibration = fit(log_odds, is_ai, "temperature")
    assert (
        calibration.method == "temperature" and calibration.bias == 0 and calibration.reason is None
    )
    assert calibration.temperature == pytest.approx(5 / math.log(3))
    assert calibration.nll_after == pytest.approx(-(3 * math.log(3 / 4) + math.log(1 / 4)) / 4)
    np.testing.assert_allclose(expit(calibration.apply([5.0, -5.0])), [0.75, 0.25])


def test_temperature_and_bias_by_hand():
    # Two values, so the fit meets the odds of ai at both: 4 to 1 at 3 and 1 to 2 at 1, times 3/5,
    # because each of the 3 real images weighs 5/3 of one of the 5 ai images.
    log_odds = np.array([3.0] * 5 + [1.0] * 3)
    is_ai = np.array([1, 1, 1, 1, 0, 1, 0, 0], bool)
    calibration = fit(log_odds, is_ai)
    high, low = math.log(4 * 3 / 5), math.log(1 / 2 * 3 / 5)
    assert 1 / calibration.temperature == pytest.approx((high - low) / 2)
    assert calibration.bias == pytest.approx(low - (high - low) / 2)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_is_logistic_regression(with_bias, scale):
    log_odds, is_ai = draw(500, temperature=2.0, bias=0.7)
    calibration = fit(log_odds * scale, is_ai, "temperature_bias" if with_bias else "temperature")
    model = LogisticRegression(
        C=np.inf,
        fit_intercept=with_bias,
        class_weight="balanced",
        tol=1e-12,
        solver="newton-cholesky",
    ).fit(log_odds[:, None], is_ai)
    assert scale / calibration.temperature == pytest.approx(model.coef_[0, 0], abs=1e-6)
    if with_bias:
        assert calibration.bias == pytest.approx(model.intercept_[0], abs=1e-6)
    assert calibration.n == 500


def test_recovers_the_distortion_and_lowers_nll():
    log_odds, is_ai = draw(40_000, temperature=3.0, bias=-1.2, prior=0.15)
    calibration = fit(log_odds, is_ai)
    assert calibration.temperature == pytest.approx(3.0, rel=0.05)
    assert calibration.bias == pytest.approx(-1.2, abs=0.1)
    weights = class_balanced_weights(is_ai)
    assert calibration.nll_before == pytest.approx(metrics.nll(log_odds, is_ai, weights))
    assert calibration.nll_after == pytest.approx(
        metrics.nll(calibration.apply(log_odds), is_ai, weights)
    )
    assert calibration.nll_after < calibration.nll_before
    # Means equal odds beforehand: calibrated on classes of the same mass, not at the corpus's 15 %.
    assert abs(weights @ (expit(calibration.apply(log_odds)) - is_ai)) < 1e-6


@pytest.mark.parametrize("method", ["temperature", "temperature_bias"])
def test_separable(method):
    is_ai = np.arange(60) < 30
    log_odds = np.where(is_ai, 40.0, -40.0) + np.linspace(-1, 1, 60)
    calibration = fit(log_odds, is_ai, method)
    assert "separate" in calibration.reason and calibration.method == method
    p_ai = expit(calibration.apply(log_odds))
    assert 0 < p_ai.min() < p_ai[is_ai].min() < p_ai.max() < 1
    assert p_ai.max() < 0.99 and calibration.nll_after < calibration.nll_before
    # Platt's targets by hand: log-odds +-1, 30 a class, so odds of 31 to 1.
    by_hand = fit(np.where(is_ai, 1.0, -1.0), is_ai, method)
    assert 1 / by_hand.temperature == pytest.approx(math.log(31)) and by_hand.bias == pytest.approx(
        0, abs=1e-6
    )


@pytest.mark.parametrize(
    ("log_odds", "method"),
    [
        ([1.0, 2.0, 2.0, 3.0], "temperature_bias"),
        ([-1.0, 0.0, 0.0, 1.0], "temperature"),
        ([-1.0, 0.0, 2.0, 1.0], "temperature"),
        ([-0.2, -0.1, 0.1, 0.2], "temperature_bias"),
    ],
)
def test_separable_up_to_a_tie(log_odds, method):
    # Also where an image of each class lies on the threshold there is no finite optimum.
    is_ai = np.array([False, False, True, True])
    for size in (1e-2, 1.0, 1e2):
        calibration = fit(size * np.array(log_odds), is_ai, method)
        assert (
            calibration.reason
            == "the log-odds separate the classes; labels were smoothed (Platt 1999)"
        )
        assert (
            math.isfinite(calibration.temperature)
            and calibration.nll_after < calibration.nll_before
        )
    overlapping = np.array([log_odds[0], log_odds[3], log_odds[1], log_odds[2]])
    assert fit(overlapping, is_ai, method).reason != calibration.reason


@pytest.mark.parametrize(
    ("log_odds", "is_ai", "method", "reason"),
    [
        ([1.0, 2.0], [True, True], "temperature", "the calibration images are all of one class"),
        (
            [2.0, 1.0, -1.0, -2.0],
            [False, False, True, True],
            "temperature_bias",
            "higher log-odds do not mean ai",
        ),
        (
            [0.0, 0.0, 0.0, 0.0],
            [False, False, True, True],
            "temperature",
            "higher log-odds do not mean ai",
        ),
        (
            [1.0, -1.0, 1.0, -1.0],
            [False, False, True, True],
            "auto",
            "neither temperature nor bias lowers the cross-validated NLL",
        ),
        (
            [1.0, 2.0, 3.0],
            [False, True, True],
            "auto",
            "too few calibration images to choose a method by cross-validation",
        ),
        ([1.0, 2.0, 3.0, 4.0], [False, True, False, True], "identity", None),
    ],
)
def test_why_the_identity_was_kept(log_odds, is_ai, method, reason):
    kept = fit(log_odds, is_ai, method)
    assert (kept.method, kept.temperature, kept.bias) == ("identity", 1.0, 0.0)
    assert kept.reason == reason or kept.reason.startswith(f"{reason} ")
    assert kept.n == len(log_odds) and kept.nll_after == kept.nll_before


def test_nothing_to_gain_keeps_the_identity():
    # Three of four right at odds of three to one: temperature 1 is the optimum.
    log_odds = math.log(3) * np.array([1, 1, 1, -1, -1, -1, -1, 1])
    kept = fit(log_odds, np.arange(8) < 4, "temperature")
    assert kept.temperature == pytest.approx(1) and kept.nll_after == pytest.approx(kept.nll_before)
    if kept.method == "identity":
        assert kept.reason == "no temperature lowers the NLL of the calibration images"


def test_separated_by_a_shifted_threshold():
    is_ai = np.arange(20) < 10
    log_odds = np.where(is_ai, 9.0, 7.0) + np.linspace(-0.1, 0.1, 20)
    calibration = fit(log_odds, is_ai)
    assert "separate" in calibration.reason
    assert ((calibration.apply(log_odds) > 0) == is_ai).all() and np.isfinite(
        calibration.temperature
    )
    assert (
        fit(log_odds, is_ai, "temperature").temperature > 1
    )  # without a bias they are not separable


@pytest.mark.parametrize("method", ["temperature", "temperature_bias", "auto"])
def test_wrong_way_keeps_the_identity(method):
    log_odds, is_ai = draw(300)
    calibration = fit(-log_odds, is_ai, method)
    assert (calibration.method, calibration.temperature, calibration.bias) == ("identity", 1.0, 0.0)
    assert calibration.reason and calibration.nll_before == calibration.nll_after
    np.testing.assert_array_equal(calibration.apply(log_odds), log_odds)
    assert fit(np.where(is_ai, -3.0, 3.0), is_ai, method).method == "identity"


@pytest.mark.parametrize("method", ["temperature", "temperature_bias", "auto"])
def test_one_class_or_no_information_keeps_the_identity(method):
    for log_odds, is_ai in [
        (np.array([1.0, 2.0]), [True, True]),
        (np.zeros(10), np.arange(10) < 5),
        (np.array([2.0, -1.0]), [True, False])
        if method == "auto"
        else (np.zeros(2), [True, False]),
    ]:
        calibration = fit(log_odds, is_ai, method)
        assert calibration.method == "identity" and calibration.reason


def test_never_raises_the_nll():
    rng = np.random.default_rng(0)
    for seed in range(60):
        n = int(rng.integers(2, 30))
        is_ai = rng.random(n) < 0.5
        log_odds = rng.normal(size=n) * 10 ** rng.uniform(-3, 3) + is_ai * rng.normal()
        for method in ("temperature", "temperature_bias", "auto"):
            calibration = fit(log_odds, is_ai, method, seed=seed)
            assert calibration.nll_after <= calibration.nll_before
            assert calibration.temperature > 0 and np.isfinite(calibration.apply(log_odds)).all()


def test_auto():
    log_odds, is_ai = draw(2000, seed=1)
    assert fit(log_odds * 4, is_ai, "auto").method in ("temperature", "temperature_bias")
    shifted = fit(log_odds + 3, is_ai, "auto")
    assert shifted.method == "temperature_bias" and shifted.bias == pytest.approx(-3, abs=0.4)
    # Few images of a calibrated model: the cross-validation keeps the identity more often than not.
    kept = [fit(*draw(40, seed=seed), "auto").method for seed in range(30)]
    assert kept.count("identity") > 15
    assert fit(log_odds, is_ai, "auto", seed=5) == fit(log_odds, is_ai, "auto", seed=5)


def test_auto_compares_methods_on_held_out_images():
    """The cross-validation, done once more by hand."""
    for seed in range(12):
        log_odds, is_ai = draw(60, seed=seed, temperature=1.25, bias=0.25)
        groups = np.arange(60) // 3
        fold = folds(is_ai, groups, seed)
        assert sorted(set(fold)) == [0, 1, 2, 3, 4]
        weights = class_balanced_weights(is_ai)
        scores = {}
        for method in ("identity", "temperature", "temperature_bias"):
            held_out = np.empty(60)
            for k in range(5):
                fitted = fit(log_odds[fold != k], is_ai[fold != k], method)
                held_out[fold == k] = fitted.apply(log_odds[fold == k])
            scores[method] = metrics.nll(held_out, is_ai, weights)
        best = min(scores, key=scores.get)
        chosen = fit(log_odds, is_ai, "auto", groups=groups, seed=seed)
        assert chosen.method == best
        if best != "identity":
            assert chosen == fit(log_odds, is_ai, best)


def test_auto_with_too_few_groups_for_cross_validation():
    log_odds, is_ai = np.array([2.0, -1.0, 0.5, 1.0]), np.array([True, False, False, False])
    before = pytest.approx(metrics.nll(log_odds, is_ai, class_balanced_weights(is_ai)))
    reason = "too few calibration images to choose a method by cross-validation"
    assert fit(log_odds, is_ai, "auto") == Calibration(
        "identity", 1.0, 0.0, before, before, 4, reason
    )
    # Two images of ai in one group are one group.
    assert fit(
        [1.0, 1.0, -1.0, -1.0], [True, True, False, False], "auto", groups=[0, 0, 1, 2]
    ).reason.startswith("too few")


def test_folds_keep_groups_whole_and_spread_classes():
    rng = np.random.default_rng(0)
    groups = rng.integers(40, size=200)
    is_ai = groups % 4 == 0
    fold = folds(is_ai, groups, 0)
    assert set(fold) == set(range(5))
    for group in set(groups):
        assert len(set(fold[groups == group])) == 1
    for k in range(5):
        assert is_ai[fold == k].any() and (~is_ai[fold == k]).any()
    assert folds(np.array([True, False, False]), None, 0) is None
    # Two groups of a class are enough, for two folds.
    fold = folds(np.array([True, True, False, False, False]), None, 0)
    assert sorted(fold[:2]) == [0, 1] and set(fold[2:]) == {0, 1}


def test_fit_grouped_of_two_classes_equals_fit():
    log_odds, is_ai = draw(300, temperature=2.0, bias=0.5)
    offset = np.random.default_rng(0).normal(size=300)
    logits = np.stack([offset + log_odds, offset], axis=1)
    for method in ("temperature", "temperature_bias", "auto"):
        one, other = (
            fit(log_odds, is_ai, method),
            fit_grouped(logits, {"real": [1], "ai": [0]}, is_ai, method),
        )
        assert one.method == other.method
        assert (one.temperature, one.bias) == pytest.approx(
            (other.temperature, other.bias), abs=1e-5
        )


def test_fit_grouped_with_four_classes():
    rng = np.random.default_rng(0)
    class_indices, k = {"real": [2], "ai": [0, 1, 3]}, 4
    truth = rng.choice(k, p=[0.2, 0.1, 0.5, 0.2], size=800)
    logits = 3 * (rng.normal(size=(800, k)) + 2.0 * np.eye(k)[truth])
    is_ai = np.isin(truth, class_indices["ai"])
    calibration = fit_grouped(logits, class_indices, is_ai)
    weights = class_balanced_weights(is_ai)

    def nll(x):
        # Independent: through the softmax of scaled logits, the bias as odds.
        p = np.exp(log_softmax(logits * np.exp(x[0]), axis=1))
        ai, real = (
            p[:, class_indices["ai"]].sum(1) * np.exp(x[1]),
            p[:, class_indices["real"]].sum(1),
        )
        return -(weights * np.log(np.where(is_ai, ai, real) / (ai + real))).sum()

    best = minimize(nll, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12})
    assert calibration.temperature == pytest.approx(np.exp(-best.x[0]), rel=1e-4)
    assert calibration.bias == pytest.approx(best.x[1], abs=1e-4)
    assert calibration.nll_after == pytest.approx(best.fun, abs=1e-6)
    assert calibration.nll_after < calibration.nll_before
    # What folding into the last layer does: divide the logits, add the bias to the ai classes.
    folded = logits / calibration.temperature
    folded[:, class_indices["ai"]] += calibration.bias
    np.testing.assert_allclose(
        calibration.apply_logits(logits, class_indices), log_odds_from_logits(folded, class_indices)
    )


@pytest.mark.parametrize("method", ["temperature", "temperature_bias"])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_grouped_is_as_good_as_a_search_on_a_grid(method, size):
    # Two ai classes that disagree, logits far from zero on the whole, and a bias that is wanted.
    rng = np.random.default_rng(3)
    class_indices = {"real": [0], "ai": [1, 2]}
    truth = rng.choice(3, p=[0.5, 0.25, 0.25], size=600)
    raw = 2.5 * (rng.normal(size=(600, 3)) + 1.5 * np.eye(3)[truth] + [0.4, 0, 0])
    logits, is_ai = size * raw + 50 * size, truth > 0
    calibration = fit_grouped(logits, class_indices, is_ai, method)
    weights = class_balanced_weights(is_ai)

    def nll(x):
        log_odds = log_odds_from_logits(raw * np.exp(x[0]), class_indices) + (
            x[1] if len(x) > 1 else 0.0
        )
        return metrics.nll(log_odds, is_ai, weights)

    start = [0.0, 0.0] if method == "temperature_bias" else [0.0]
    best = minimize(nll, start, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13})
    assert calibration.temperature == pytest.approx(size * np.exp(-best.x[0]), rel=1e-4)
    assert calibration.bias == pytest.approx(best.x[1] if len(best.x) > 1 else 0.0, abs=1e-4)
    assert (calibration.bias != 0) == (method == "temperature_bias")
    assert calibration.nll_after == pytest.approx(best.fun, abs=1e-6)


def test_grouped_without_information_keeps_the_identity():
    is_ai = np.arange(20) < 10
    for logits in (np.zeros((20, 3)), np.tile([1.0, 2.0, 3.0], (20, 1))):
        calibration = fit_grouped(logits, {"real": [0], "ai": [1, 2]}, is_ai, "temperature")
        assert (calibration.method, calibration.temperature, calibration.bias) == (
            "identity",
            1.0,
            0.0,
        )


def test_grouped_wrong_way_and_separable():
    rng = np.random.default_rng(1)
    is_ai = np.arange(100) < 50
    logits = rng.normal(size=(100, 3))
    class_indices = {"real": [0], "ai": [1, 2]}
    logits[:, 1] += np.where(is_ai, 30, -30)
    calibration = fit_grouped(logits, class_indices, is_ai)
    assert "separate" in calibration.reason and calibration.temperature > 1
    assert fit_grouped(logits, class_indices, ~is_ai).method == "identity"


def test_round_trip_and_bad_input():
    log_odds, is_ai = draw(50)
    calibration = fit(log_odds, is_ai)
    values = json.loads(json.dumps(calibration.to_dict(), allow_nan=False))
    assert Calibration.from_dict(values | {"folded": True}) == calibration
    with pytest.raises(ValueError, match="'platt'; use one of identity, temperature, "):
        fit(log_odds, is_ai, "platt")
    with pytest.raises(ValueError, match="NaN"):
        fit(np.r_[log_odds[1:], np.nan], is_ai)
    with pytest.raises(ValueError, match="infinite"):
        fit(np.r_[log_odds[1:], np.inf], is_ai)
    with pytest.raises(ValueError, match="groups"):
        fit(log_odds, is_ai, "auto", groups=[1, 2])
