"""Beta and isotonic calibration against scikit-learn, and what each method reaches on images it has not seen."""

import numpy as np
import pytest
from scipy.special import expit, log_expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from realfake.statistics import summary
from realfake.statistics.calibration import fit, folds
from realfake.statistics.calibration_comparison import cross_validated_nll, fit_beta, fit_isotonic


def draw(n, seed=0, prior=0.4):
    """Margins that are calibrated log-odds at equal odds."""
    rng = np.random.default_rng(seed)
    is_ai = rng.random(n) < prior
    return rng.normal(np.where(is_ai, 2.0, -2.0), 2.0), is_ai


def test_beta_is_a_logistic_regression_on_two_logarithms():
    log_odds, is_ai = draw(3000)
    # Squeezed on one side only, which no temperature undoes.
    log_odds = np.where(log_odds > 0, log_odds / 3, log_odds)
    features = np.stack([log_expit(log_odds), -log_expit(-log_odds)], axis=1)
    model = LogisticRegression(
        C=np.inf, class_weight="balanced", tol=1e-12, solver="newton-cholesky"
    )
    expected = model.fit(features, is_ai).decision_function(features)
    assert (model.coef_ > 0).all()
    np.testing.assert_allclose(fit_beta(log_odds, is_ai)(log_odds), expected, atol=1e-4)


def test_beta_never_falls_with_the_margin():
    log_odds, is_ai = draw(400)
    calibrated = fit_beta(-log_odds, is_ai)(np.linspace(-20, 20, 101))
    assert (np.diff(calibrated) >= -1e-9).all() and np.ptp(calibrated) < 1e-3


def test_isotonic_by_hand():
    # Shares of ai 0, 1/2 (pooled: 1 then 0), 1 with equal classes: three and three.
    log_odds = np.array([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0])
    is_ai = np.array([False, False, True, False, True, True])
    calibrated = expit(fit_isotonic(log_odds, is_ai)(log_odds))
    # 0 and 1 are kept away by half an image of four.
    np.testing.assert_allclose(calibrated, [1 / 8, 1 / 8, 1 / 2, 1 / 2, 7 / 8, 7 / 8])
    assert expit(fit_isotonic(log_odds, is_ai)([-50.0, 50.0])) == pytest.approx([1 / 8, 7 / 8])


def test_isotonic_is_that_of_scikit_learn():
    log_odds, is_ai = draw(500)
    log_odds = np.round(log_odds, 1)
    weights = summary.class_balanced_weights(is_ai)
    model = IsotonicRegression(out_of_bounds="clip").fit(log_odds, is_ai.astype(float), weights)
    low, high = 0.5 / ((~is_ai).sum() + 1), 1 - 0.5 / (is_ai.sum() + 1)
    expected = model.predict(log_odds).clip(low, high)
    np.testing.assert_allclose(expit(fit_isotonic(log_odds, is_ai)(log_odds)), expected, atol=1e-9)


def test_cross_validated_nll():
    log_odds, is_ai = draw(2000)
    calm = cross_validated_nll(log_odds, is_ai)
    assert list(calm) == ["identity", "temperature", "temperature_bias", "beta", "isotonic"]
    balanced = summary.nll(log_odds, is_ai, summary.class_balanced_weights(is_ai))
    assert calm["identity"] == pytest.approx(balanced)
    # Nothing is to be gained on a calibrated model, and flexibility costs.
    assert (
        max(calm["temperature_bias"], calm["beta"]) < balanced + 0.005
        and calm["isotonic"] > calm["temperature"]
    )
    # Too sure by a factor of four: any method mends that.
    sure = cross_validated_nll(4 * log_odds, is_ai)
    assert sure["identity"] > 1.5 * balanced
    assert all(
        sure[name] == pytest.approx(balanced, rel=0.06) for name in sure if name != "identity"
    )
    # Squeezed on one side: beta follows, a temperature cannot.
    bent = cross_validated_nll(np.where(log_odds > 0, log_odds / 4, 2 * log_odds), is_ai)
    assert bent["beta"] < bent["temperature_bias"] - 0.005
    assert cross_validated_nll(log_odds, is_ai) == calm


def test_each_fold_is_judged_by_the_others_alone():
    log_odds, is_ai = draw(300, seed=4)
    fold, weights = folds(is_ai, None, 5, 0), summary.class_balanced_weights(is_ai)
    held_out = np.empty(300)
    for k in range(5):
        held_out[fold == k] = fit_isotonic(log_odds[fold != k], is_ai[fold != k])(
            log_odds[fold == k]
        )
    found = cross_validated_nll(log_odds, is_ai)
    assert found["isotonic"] == pytest.approx(summary.nll(held_out, is_ai, weights), abs=1e-12)
    assert (
        found
        == cross_validated_nll(log_odds, is_ai, n_folds=5, seed=0)
        != cross_validated_nll(log_odds, is_ai, seed=1)
    )


def test_held_out_means_held_out():
    # Every group has a margin of its own: what is learnt of others says nothing, unless copies leak between folds.
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 5)
    log_odds, is_ai = np.repeat(rng.normal(size=60), 5), np.repeat(rng.random(60) < 0.5, 5)
    whole = cross_validated_nll(log_odds, is_ai, groups=groups)
    leaking = cross_validated_nll(log_odds, is_ai)
    assert leaking["isotonic"] < whole["isotonic"]


def test_too_few_and_bad_input():
    assert cross_validated_nll([1.0, -1.0], [True, False]) is None
    with pytest.raises(ValueError, match="NaN"):
        cross_validated_nll([np.nan, 1.0], [True, False])
    log_odds, is_ai = draw(60)
    assert (
        fit(log_odds, is_ai).method
        and np.isfinite(list(cross_validated_nll(log_odds, is_ai).values())).all()
    )
    assert np.isfinite(
        logit(expit(fit_isotonic(np.sort(log_odds), np.sort(is_ai))(log_odds)))
    ).all()
