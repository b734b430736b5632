"""Conformal verdicts against thresholds by hand, brute-force p-values and simulations."""

import json

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binom, binomtest, norm
from sklearn.base import BaseEstimator, ClassifierMixin

from realfake.statistics.calibration import fit
from realfake.statistics.verdicts import (
    OperatingPoint,
    Thresholds,
    binomial_interval,
    check_prior,
    coverage_band,
    fit_thresholds,
    operating_point,
    prediction_sets,
    rank_allowed,
    verdicts,
    with_prior,
)


def draw(n_real, n_ai, seed=0, distance=2.0):
    rng = np.random.default_rng(seed)
    log_odds = np.r_[rng.normal(-distance, 2, n_real), rng.normal(distance, 2, n_ai)]
    return log_odds, np.r_[np.zeros(n_real, bool), np.ones(n_ai, bool)]


def test_thresholds_by_hand():
    # 9 images a class and alpha 0.2: k = floor(0.2 * 10) = 2.
    real, ai = np.arange(-9.0, 0), np.arange(-2.0, 7)
    log_odds, is_ai = np.r_[real, ai], np.arange(18) >= 9
    thresholds = fit_thresholds(log_odds, is_ai, alpha=0.2)
    assert thresholds == Thresholds(0.2, real=-1.0, ai=-2.0, n_real=9, n_ai=9)
    thresholds = fit_thresholds(np.r_[real + 3, ai], is_ai, alpha=0.2)
    assert (thresholds.real, thresholds.ai) == (-1.0, 1.0)
    said = verdicts([-1.5, -1.0, 0.0, 1.0, 1.5, np.nan], thresholds)
    assert said.tolist() == [
        "real",
        "inconclusive",
        "inconclusive",
        "inconclusive",
        "ai",
        "inconclusive",
    ]


def test_crossed_thresholds_leave_a_gap_between_them():
    thresholds = Thresholds(0.2, real=3.0, ai=-3.0, n_real=9, n_ai=9)
    assert verdicts([-4.0, -3.0, 0.0, 3.0, 4.0], thresholds).tolist() == [
        "real",
        "real",
        "inconclusive",
        "ai",
        "ai",
    ]
    sets = prediction_sets([0.0], thresholds)
    assert not sets["real"][0] and not sets["ai"][0]


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1, 0.3])
@pytest.mark.parametrize(
    ("n_real", "n_ai", "distance"), [(99, 40, 1.0), (200, 150, 4.0), (19, 20, 1.0)]
)
def test_brute_force_p_values(alpha, n_real, n_ai, distance):
    log_odds, is_ai = draw(n_real, n_ai, distance=distance)
    log_odds = np.round(log_odds, 1)  # ties
    thresholds = fit_thresholds(log_odds, is_ai, alpha)
    new = np.round(np.linspace(-8, 8, 321), 2)
    sets = prediction_sets(new, thresholds)
    for x, has_real, has_ai, said in zip(
        new, sets["real"], sets["ai"], verdicts(new, thresholds), strict=True
    ):
        p_ai = (1 + sum(m <= x for m in log_odds[is_ai])) / (n_ai + 1)
        p_real = (1 + sum(m >= x for m in log_odds[~is_ai])) / (n_real + 1)
        assert has_ai == (p_ai > alpha + 1e-12) and has_real == (p_real > alpha + 1e-12)
        labels = [name for name, p in (("real", p_real), ("ai", p_ai)) if p > alpha + 1e-12]
        assert said == (labels[0] if len(labels) == 1 else "inconclusive")


def test_rank_allowed():
    assert (
        rank_allowed(18, 0.05) == 0 and rank_allowed(19, 0.05) == 1 and rank_allowed(99, 0.01) == 1
    )
    assert rank_allowed(99, 0.29) == 29  # 0.29 * 100 is 28.999999999999996


def test_too_few_images_never_give_the_verdict():
    log_odds, is_ai = draw(100, 18)
    thresholds = fit_thresholds(log_odds, is_ai, alpha=0.05)
    assert thresholds.real is None and thresholds.ai is not None
    assert set(verdicts(np.linspace(-100, 100, 51), thresholds)) == {"ai", "inconclusive"}
    only_real = fit_thresholds(log_odds[:100], is_ai[:100])
    assert only_real.real is None and only_real.n_ai == 0
    nothing = Thresholds(0.05, None, None, 0, 0)
    assert set(verdicts(log_odds, nothing)) == {"inconclusive"}


def test_round_trip():
    thresholds = fit_thresholds(*draw(100, 10))
    values = json.loads(json.dumps(thresholds.to_dict(), allow_nan=False))
    assert values["n"] == {"real": 100, "ai": 10} and values["real"] is None
    assert Thresholds.from_dict(values) == thresholds
    both = Thresholds(0.1, real=-1.5, ai=2.5, n_real=30, n_ai=20)
    assert Thresholds.from_dict(both.to_dict()) == both
    # What an older record lacks.
    assert Thresholds.from_dict({"alpha": 0.1}) == Thresholds(0.1, None, None, 0, 0)
    assert Thresholds.from_dict({"alpha": 0.1, "n": {"ai": 3}}) == Thresholds(0.1, None, None, 0, 3)


def test_log_odds_are_compared_in_double_precision():
    # 0.1 in single precision is a little more than 0.1, and -0.1 a little less than -0.1.
    thresholds = Thresholds(0.1, real=-0.1, ai=0.1, n_real=20, n_ai=20)
    assert verdicts(np.float32([0.1, -0.1]), thresholds).tolist() == ["ai", "real"]
    assert with_prior(np.float32([0.1]), 0.3).dtype == np.float64


def test_groups_count_once():
    log_odds, is_ai = draw(50, 50)
    groups = np.r_[np.arange(50), np.arange(50)]  # a photograph and its forgery share a group
    once = fit_thresholds(log_odds, is_ai, 0.1, groups)
    assert once == fit_thresholds(log_odds, is_ai, 0.1)
    again = fit_thresholds(np.tile(log_odds, 3), np.tile(is_ai, 3), 0.1, np.tile(groups, 3))
    assert again == once
    # Groups of different images: the choice follows the seed.
    grouped = [fit_thresholds(log_odds, is_ai, 0.1, groups // 2, seed=seed) for seed in (0, 0, 1)]
    assert grouped[0] == grouped[1] != grouped[2] and grouped[0].n_ai == 25


def test_recalibration_changes_no_verdict():
    log_odds, is_ai = draw(300, 200)
    calibration = fit(log_odds * 3 + 1, is_ai)
    raw = verdicts(log_odds * 3 + 1, fit_thresholds(log_odds * 3 + 1, is_ai))
    calibrated = calibration.apply(log_odds * 3 + 1)
    assert (verdicts(calibrated, fit_thresholds(calibrated, is_ai)) == raw).all()


class Prefit(ClassifierMixin, BaseEstimator):
    """A fitted classifier for MAPIE with the log-odds as its feature; class 1 is ai."""

    classes_ = np.array([0, 1])

    def fit(self, X, y):
        return self

    def __sklearn_is_fitted__(self):
        return True

    def predict_proba(self, X):
        return np.c_[expit(-X[:, 0]), expit(X[:, 0])]

    def predict(self, X):
        return (X[:, 0] > 0).astype(int)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1, 0.3])
@pytest.mark.parametrize(("n_real", "n_ai", "distance"), [(300, 150, 1.0), (120, 410, 2.0)])
@pytest.mark.filterwarnings("ignore:WARNING. your conformalization dataset has less labels")
def test_mapie_gives_the_same_sets_and_verdicts(alpha, n_real, n_ai, distance):
    from mapie.classification import SplitConformalClassifier

    log_odds, is_ai = draw(n_real, n_ai, distance=distance)
    new, _ = draw(500, 500, seed=1, distance=distance)
    thresholds = fit_thresholds(log_odds, is_ai, alpha)
    sets = prediction_sets(new, thresholds)
    theirs = {}
    for column, (label, of_class) in enumerate((("real", ~is_ai), ("ai", is_ai))):
        # Class-conditional: one marginal split conformal predictor for each class, on the images of
        # that class.
        mapie = SplitConformalClassifier(
            Prefit(), confidence_level=1 - alpha, conformity_score="lac", prefit=True
        )
        mapie.conformalize(log_odds[of_class, None], is_ai[of_class].astype(int))
        theirs[label] = mapie.predict_set(new[:, None])[1][:, column, 0]
        np.testing.assert_array_equal(sets[label], theirs[label], err_msg=label)
    said = np.where(
        theirs["real"] == theirs["ai"], "inconclusive", np.where(theirs["ai"], "ai", "real")
    )
    assert (verdicts(new, thresholds) == said).all() and len(set(said)) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
def test_coverage_of_a_thousand_simulated_models(alpha):
    assert_simulated_coverage(alpha, n_cal=250, n_test=1000, repetitions=1000, tolerance=0.0025)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
def test_simulated_coverage(alpha):
    assert_simulated_coverage(alpha, n_cal=150, n_test=400, repetitions=200, tolerance=0.006)


def assert_simulated_coverage(alpha, n_cal, n_test, repetitions, tolerance):
    low, high = coverage_band(n_cal, n_test, alpha)
    inside = {"real": 0, "ai": 0}
    coverages, wrong = [], []
    for seed in range(repetitions):
        thresholds = fit_thresholds(*draw(n_cal, n_cal, seed=2 * seed), alpha)
        log_odds, is_ai = draw(n_test, n_test, seed=2 * seed + 1)
        sets = prediction_sets(log_odds, thresholds)
        for label, of_class in (("real", ~is_ai), ("ai", is_ai)):
            coverage = sets[label][of_class].mean()
            coverages.append(coverage)
            inside[label] += low - 1e-12 <= coverage <= high + 1e-12
        given = verdicts(log_odds, thresholds)
        wrong += [np.mean(given[~is_ai] == "ai"), np.mean(given[is_ai] == "real")]
    # The mean is 1 - k / (n + 1), and at least 95 % fall in the band.
    expected = 1 - rank_allowed(n_cal, alpha) / (n_cal + 1)
    print(
        f"alpha {alpha}: mean coverage {np.mean(coverages):.4f}, expected {expected:.4f}; "
        f"in the band {inside}"
    )
    assert np.mean(coverages) == pytest.approx(expected, abs=tolerance) and expected >= 1 - alpha
    assert min(inside.values()) >= binom(repetitions, 0.95).ppf(1e-3)
    assert np.mean(wrong) <= alpha + tolerance


def test_coverage_band_by_hand():
    # One calibration image and alpha 1/2: the error rate is uniform, so is the number of errors
    # among 3.
    assert coverage_band(1, 3, 0.5, level=0.4) == pytest.approx((1 / 3, 2 / 3))
    assert coverage_band(5, 100, 0.05) == (1.0, 1.0)
    low, high = coverage_band(10**6, 100, 0.05)  # a large calibration set: only the test varies
    assert (low, high) == (
        1 - binom(100, 0.05).ppf(0.975) / 100,
        1 - binom(100, 0.05).ppf(0.025) / 100,
    )


def test_binomial_interval_against_scipy():
    for level in (0.95, 0.5):
        exact = binomtest(1, 4).proportion_ci(level, method="exact")
        assert binomial_interval(1, 4, level) == pytest.approx((exact.low, exact.high))
    assert binomial_interval(0, 4)[0] == 0 and binomial_interval(4, 4)[1] == 1
    assert binomial_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (3, 17)])
def test_binomial_interval(successes, n):
    exact = binomtest(successes, n).proportion_ci(method="exact")
    assert binomial_interval(successes, n) == pytest.approx((exact.low, exact.high))


def test_with_prior():
    # Even evidence at a prior of 1 %; evidence of 99 to 1 brings it to even.
    np.testing.assert_allclose(expit(with_prior([0.0, np.log(99)], 0.01)), [0.01, 0.5])
    np.testing.assert_array_equal(with_prior([1.5], 0.5), [1.5])
    with pytest.raises(ValueError, match="prior_ai"):
        with_prior([0.0], 0.0)


@pytest.mark.parametrize("prior", [0, 1, -1, 2, float("nan"), None, "0.5", 1j])
def test_check_prior(prior):
    with pytest.raises(ValueError, match="prior_ai is"):
        check_prior(prior)
    check_prior(0.001), check_prior(np.float32(0.5))


# --- operating points


def test_operating_point_by_hand():
    # 99 photographs with log-odds 1..99 and a rate of 5 %: k = floor(0.05 * 100) = 5, the fifth
    # largest is 95.
    log_odds, is_ai = np.r_[np.arange(1.0, 100), [1000.0] * 7], np.arange(106) >= 99
    point = operating_point(log_odds, is_ai, 0.05)
    assert (point.threshold, point.fpr, point.n_real) == (95.0, 0.05, 99)
    # Of 99 photographs none exceeds the 95 % quantile with probability 0.006, at most one with
    # 0.039: the largest lies above it, the second largest need not. Ten or more exceed it with
    # probability 0.027, eleven or more with 0.011.
    assert (point.low, point.high) == (89.0, 99.0)
    # At 80 %: 8 or more exceed it with probability 0.12, 9 or more with 0.06; 2 or fewer with 0.12,
    # one or none with 0.04.
    wide = operating_point(log_odds, is_ai, 0.05, level=0.8)
    assert (wide.low, wide.high, wide.threshold) == (91.0, 98.0, 95.0)
    # The outermost photographs count: of one, at a rate of one half, it is the threshold itself.
    assert operating_point([3.0], [False], 0.5).threshold == 3.0
    # ai images are passed over, whatever their log-odds.
    assert operating_point(np.r_[log_odds[:99], -log_odds[99:]], is_ai, 0.05) == point
    few = operating_point(log_odds[:18], is_ai[:18], 0.05)
    assert (few.threshold, few.low, few.n_real) == (None, 15.0, 18) and few.high is None
    nothing = operating_point([1.0], [True], 0.05)
    assert (nothing.threshold, nothing.low, nothing.high, nothing.n_real) == (None, None, None, 0)


def test_an_operating_point_is_the_threshold_of_the_verdict_ai():
    log_odds, is_ai = draw(300, 200)
    groups = np.arange(500) // 3
    for fpr in (0.01, 0.05, 0.2):
        point = operating_point(log_odds, is_ai, fpr, groups, seed=3)
        assert point.threshold == fit_thresholds(log_odds, is_ai, fpr, groups, seed=3).ai
        assert point.n_real == len(set(groups[:300]))
        assert point.low < point.threshold and (point.high is None or point.threshold < point.high)
    assert OperatingPoint.from_dict(json.loads(json.dumps(point.to_dict())) | {"more": 1}) == point


@pytest.mark.parametrize("level", [0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("fpr", [0.1, 0.25, 0.5])
def test_the_interval_of_an_operating_point_is_that_of_a_quantile(level, fpr):
    """Its ends are the innermost photographs that hold the level, by a summed binomial."""
    n = 200
    point = operating_point(np.arange(n, 0, -1.0), np.zeros(n, bool), fpr, level=level)
    tail, at_most = (1 - level) / 2, [binom(n, fpr).cdf(count) for count in range(n)]
    # The r-th largest value is n + 1 - r.
    assert n + 1 - point.low == 1 + next(count for count in range(n) if at_most[count] >= 1 - tail)
    assert n + 1 - point.high == next(count for count in range(n) if at_most[count] >= tail)


def test_images_of_groups_are_chosen_with_seed_0_by_default():
    log_odds, is_ai = draw(50, 50)
    groups = np.arange(100) // 4
    assert operating_point(log_odds, is_ai, 0.1, groups) == operating_point(
        log_odds, is_ai, 0.1, groups, seed=0
    )
    assert operating_point(log_odds, is_ai, 0.1, groups) != operating_point(
        log_odds, is_ai, 0.1, groups, seed=1
    )
    assert fit_thresholds(log_odds, is_ai, 0.1, groups) == fit_thresholds(
        log_odds, is_ai, 0.1, groups, seed=0
    )


def test_operating_point_holds_its_rate_and_its_interval_the_quantile():
    exceeded, held = [], 0
    for seed in range(400):
        log_odds = np.random.default_rng(seed).normal(size=200)
        point = operating_point(log_odds, np.zeros(200, bool), 0.05)
        exceeded.append(norm.sf(point.threshold))
        held += point.low <= norm.isf(0.05) <= point.high
    assert np.mean(exceeded) == pytest.approx(10 / 201, abs=0.003)
    assert held / 400 >= 0.93


def test_bad_rate():
    for fpr in (0, 1, 5, float("nan")):
        with pytest.raises(ValueError, match="fpr is"):
            operating_point([1.0], [False], fpr)


def test_bad_alpha():
    for alpha in (0.0, 1.0, 5.0):
        with pytest.raises(ValueError, match="alpha"):
            fit_thresholds(*draw(30, 30), alpha)
