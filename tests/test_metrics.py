"""Metrics against answers worked out by hand, scikit-learn, torchmetrics and simulated models."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
import torchmetrics.functional.classification as tm
from scipy.special import expit
from sklearn.calibration import calibration_curve

from realfake.evaluation.trainer_metrics import DetectionMetrics
from realfake.statistics import metrics
from realfake.statistics.metrics import (
    bootstrap_interval,
    class_balanced_weights,
    log_odds_from_logits,
    mean_figure,
    percentile_interval,
    resample_counts,
)
from realfake.statistics.summary import binary_summary, noise_floor

# Two real and three ai images; from the highest log-odds down: ai, real, ai, (ai, real tied).
LOG_ODDS = np.array([3.0, 2.0, 1.0, -1.0, -1.0])
IS_AI = np.array([True, False, True, True, False])


def draw(n, seed=0, prior=0.4, sharpness=1.0, ties=True):
    """Return log-odds that are calibrated at equal odds, times `sharpness`."""
    rng = np.random.default_rng(seed)
    is_ai = rng.random(n) < prior
    log_odds = rng.normal(np.where(is_ai, 2.0, -2.0), 2.0)
    return sharpness * (np.round(log_odds, 1) if ties else log_odds), is_ai


def named(name):
    """Return a metric of decisions or rankings by its name."""

    def metric(log_odds, is_ai, weights=None):
        found = metrics.decision_metrics(log_odds, is_ai, weights)
        return {**found, **metrics.ranking_metrics(log_odds, is_ai, weights)}[name]

    return metric


NAMED = {
    name: named(name)
    for name in (
        *metrics.decision_metrics([0.0], [True]),
        *("auroc", "average_precision", "tpr_at_fpr_1", "tpr_at_fpr_5"),
    )
}
accuracy = metrics.accuracy


def test_decisions_by_hand():
    assert metrics.confusion_matrix(LOG_ODDS, IS_AI) == {
        "real": {"real": 1.0, "ai": 1.0},
        "ai": {"real": 1.0, "ai": 2.0},
    }
    assert metrics.decision_metrics(LOG_ODDS, IS_AI) == {
        "accuracy": pytest.approx(3 / 5),
        "balanced_accuracy": pytest.approx((1 / 2 + 2 / 3) / 2),
        "precision_real": pytest.approx(1 / 2),
        "recall_real": pytest.approx(1 / 2),
        "f1_real": pytest.approx(1 / 2),
        "precision_ai": pytest.approx(2 / 3),
        "recall_ai": pytest.approx(2 / 3),
        "f1_ai": pytest.approx(2 / 3),
    }
    # Log-odds of exactly 0 are called real.
    assert accuracy([0.0], [False]) == 1 and accuracy([0.0], [True]) == 0


def test_ranking_by_hand():
    # Of 6 pairs the ai image wins 1+1 (first), 1 (third over the tied real), 1/2 (the tie).
    assert metrics.auroc(LOG_ODDS, IS_AI) == pytest.approx(3.5 / 6)
    # Precision 1 at the first third of recall, 2/3 at the second, 3/5 at the last.
    found = metrics.ranking_metrics(LOG_ODDS, IS_AI)
    assert found["auroc"] == metrics.auroc(LOG_ODDS, IS_AI)
    assert found["average_precision"] == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert found["tpr_at_fpr_1"] == found["tpr_at_fpr_5"] == pytest.approx(1 / 3)
    # Twenty real images, one above half of the ai images: at 5 % it may be called ai, at 1 % not.
    found = metrics.ranking_metrics(
        [3.0, 2.0, 1.0, *[0.0] * 19], [True, False, True] + [False] * 19
    )
    assert (found["tpr_at_fpr_1"], found["tpr_at_fpr_5"]) == (1 / 2, 1)
    # The highest value belongs to the only real image: no ai image is found without calling it ai.
    assert metrics.ranking_metrics([5.0, 1.0], [False, True])["tpr_at_fpr_5"] == 0


def test_probabilities_by_hand():
    log_odds = np.log([3.0, 1 / 3])  # p_ai = 3/4, 1/4
    assert metrics.nll(log_odds, [True, True]) == pytest.approx(
        -(np.log(3 / 4) + np.log(1 / 4)) / 2
    )
    assert metrics.brier([0.75, 0.25], [True, True]) == pytest.approx((1 / 16 + 9 / 16) / 2)
    assert metrics.nll([-800.0], [True]) == pytest.approx(800)


def test_calibration_errors_by_hand():
    p_ai = [0.1, 0.2, 0.3, 0.6, 0.8, 1.0]
    is_ai = [False, True, False, True, True, False]
    # Two bins: mean p 0.2 and 0.8, shares of ai 1/3 and 2/3.
    assert metrics.ece(p_ai, is_ai, n_bins=2) == pytest.approx(
        (1 / 3 - 0.2) / 2 + (0.8 - 2 / 3) / 2
    )
    curve = metrics.reliability_curve(p_ai, is_ai, n_bins=2)
    assert curve["predicted"] == pytest.approx([0.2, 0.8]) and curve["observed"] == pytest.approx(
        [1 / 3, 2 / 3]
    )
    assert curve["count"] == [3, 3] and curve["mass"] == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("weighted", [False, True])
def test_scikit_learn(weighted):
    log_odds, is_ai = draw(700)
    weights = class_balanced_weights(is_ai) if weighted else None
    p_ai, called = expit(log_odds), log_odds > 0
    options = {"sample_weight": weights}
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        is_ai, called, labels=[False, True], **options
    )
    fpr, tpr, _ = sk.roc_curve(is_ai, log_odds, drop_intermediate=False, **options)
    theirs = {
        **{f"precision_{label}": precision[i] for i, label in enumerate(("real", "ai"))},
        **{f"recall_{label}": recall[i] for i, label in enumerate(("real", "ai"))},
        **{f"f1_{label}": f1[i] for i, label in enumerate(("real", "ai"))},
        "accuracy": sk.accuracy_score(is_ai, called, **options),
        "balanced_accuracy": sk.balanced_accuracy_score(is_ai, called, **options),
        "auroc": sk.roc_auc_score(is_ai, log_odds, **options),
        "average_precision": sk.average_precision_score(is_ai, log_odds, **options),
        "tpr_at_fpr_1": tpr[fpr <= 0.01].max(),
        "tpr_at_fpr_5": tpr[fpr <= 0.05].max(),
        "nll": sk.log_loss(is_ai, p_ai, **options),
        "brier": sk.brier_score_loss(is_ai, p_ai, **options),
    }
    ours = {
        **metrics.decision_metrics(log_odds, is_ai, weights),
        **metrics.ranking_metrics(log_odds, is_ai, weights),
        "nll": metrics.nll(log_odds, is_ai, weights),
        "brier": metrics.brier(p_ai, is_ai, weights),
    }
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_torchmetrics():
    log_odds, is_ai = draw(600)
    p_ai, target = torch.tensor(expit(log_odds)), torch.tensor(is_ai).long()
    pairs = [
        (metrics.auroc(log_odds, is_ai), tm.binary_auroc(p_ai, target)),
        (
            metrics.ranking_metrics(log_odds, is_ai)["average_precision"],
            tm.binary_average_precision(p_ai, target),
        ),
        (accuracy(log_odds, is_ai), tm.binary_accuracy(p_ai, target)),
        (metrics.decision_metrics(log_odds, is_ai)["f1_ai"], tm.binary_f1_score(p_ai, target)),
    ]
    for ours, theirs in pairs:
        assert ours == pytest.approx(float(theirs), abs=1e-6)


def test_torchmetrics_at_a_rate():
    log_odds, is_ai = draw(900, ties=False)
    scores, target = torch.tensor(log_odds), torch.tensor(is_ai).long()
    for percent in (1, 5):
        theirs, _ = tm.binary_sensitivity_at_specificity(
            expit(scores), target, min_specificity=1 - percent / 100
        )
        ours = metrics.ranking_metrics(log_odds, is_ai)[f"tpr_at_fpr_{percent}"]
        assert ours == pytest.approx(float(theirs), abs=1e-6)


def test_torchmetrics_calibration_error():
    # Probabilities spread evenly over [0, 1]: bins of equal mass are bins of equal width.
    n = 1500
    p_ai = (np.arange(n) + 0.5) / n
    is_ai = np.random.default_rng(0).random(n) < p_ai**2
    p, target = torch.tensor(p_ai), torch.tensor(is_ai).long()
    theirs = float(tm.binary_calibration_error(p, target, n_bins=15, norm="l1"))
    assert metrics.ece(p_ai, is_ai) == pytest.approx(theirs, abs=1e-6)


def test_equal_mass_bins_are_those_of_scikit_learn():
    log_odds, is_ai = draw(150, ties=False)
    p_ai = expit(log_odds)
    curve = metrics.reliability_curve(p_ai, is_ai)
    observed, predicted = calibration_curve(is_ai, p_ai, n_bins=15, strategy="quantile")
    np.testing.assert_allclose(curve["predicted"], predicted, atol=1e-12)
    np.testing.assert_allclose(curve["observed"], observed, atol=1e-12)
    assert metrics.ece(p_ai, is_ai) == pytest.approx(np.abs(observed - predicted).mean())


def test_ties_share_a_bin_so_that_order_does_not_matter():
    p_ai, is_ai = np.full(40, 0.5), np.arange(40) < 20
    # Bins that split the ties would show 0.5.
    assert metrics.ece(p_ai, is_ai) == pytest.approx(0, abs=1e-12)
    assert metrics.ece(p_ai, is_ai[::-1]) == pytest.approx(0, abs=1e-12)


def test_class_balanced_weights():
    weights = class_balanced_weights([True, False, False, False])
    np.testing.assert_allclose(weights, [1 / 2, 1 / 6, 1 / 6, 1 / 6])
    np.testing.assert_allclose(class_balanced_weights([True, True]), [1 / 4, 1 / 4])
    # Under them precision is what it would be on a balanced set.
    found = metrics.decision_metrics([1.0, 1.0, -1.0, -1.0], [True, False, False, False], weights)
    assert found["precision_ai"] == pytest.approx(1 / (1 + 1 / 3))


def test_log_odds_from_logits():
    class_indices = {"real": [1], "ai": [0, 2]}
    probabilities = np.array([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])
    log_odds = log_odds_from_logits(np.log(probabilities) + 7, class_indices)
    np.testing.assert_allclose(expit(log_odds), [0.5, 0.9])
    assert log_odds_from_logits([[-2000.0, 1000.0]], {"real": [0], "ai": [1]}) == pytest.approx(
        [3000]
    )
    for wrong in (
        class_indices,
        {"real": [], "ai": [0]},
        {"real": [0], "ai": []},
        {"real": [-1], "ai": [0]},
    ):
        with pytest.raises(ValueError, match="2 classes"):
            log_odds_from_logits(np.zeros((3, 2)), wrong)
    with pytest.raises(ValueError, match=r"logits has shape \(2,\); \(images, classes\) is needed"):
        log_odds_from_logits([1.0, 2.0], {"real": [0], "ai": [1]})


WEIGHTABLE = {
    **NAMED,
    "nll": metrics.nll,
    "brier": lambda m, y, weights=None: metrics.brier(expit(m), y, weights),
}


@pytest.mark.parametrize("name", WEIGHTABLE)
def test_a_weight_is_a_multiplicity(name):
    log_odds, is_ai = draw(80, seed=3)
    counts = np.random.default_rng(0).integers(0, 4, size=(5, 80))
    batch = WEIGHTABLE[name](log_odds, is_ai, weights=counts)
    for row, value in zip(counts, batch, strict=True):
        drawn = np.repeat(np.arange(80), row)
        assert value == pytest.approx(WEIGHTABLE[name](log_odds[drawn], is_ai[drawn]), abs=1e-6)
        assert value == pytest.approx(
            WEIGHTABLE[name](log_odds, is_ai, weights=row * 0.37), abs=1e-6
        )


def test_a_weight_is_a_multiplicity_in_bins():
    log_odds, is_ai = draw(80, seed=3)
    counts = np.random.default_rng(0).integers(0, 4, size=80)
    drawn = np.repeat(np.arange(80), counts)
    p_ai = expit(log_odds)
    assert metrics.confusion_matrix(log_odds, is_ai, counts) == metrics.confusion_matrix(
        log_odds[drawn], is_ai[drawn]
    )
    curve, copied = (
        metrics.reliability_curve(p_ai, is_ai, counts, 5),
        metrics.reliability_curve(p_ai[drawn], is_ai[drawn], None, 5),
    )
    for key in ("predicted", "observed", "mass"):
        assert curve[key] == pytest.approx(copied[key]), key
    assert metrics.ece(p_ai, is_ai, counts / 7) == pytest.approx(
        metrics.ece(p_ai[drawn], is_ai[drawn])
    )


def test_one_class():
    log_odds, is_ai = np.array([1.0, -2.0, 3.0]), np.ones(3, bool)
    for labels in (is_ai, ~is_ai):
        assert np.isnan(list(metrics.ranking_metrics(log_odds, labels).values())).all()
        assert np.isnan(metrics.balanced_accuracy(log_odds, labels))
    assert np.isnan(metrics.decision_metrics(log_odds, is_ai)["recall_real"])
    assert np.isnan(metrics.decision_metrics([-1.0], [True])["precision_ai"])
    summary = binary_summary(log_odds, is_ai, n_resamples=50)
    json.dumps(summary, allow_nan=False)
    assert summary["auroc"] == {"value": None, "low": None, "high": None, "n": 3}
    assert summary["ece"]["value"] is None and summary["precision_ai"]["value"] is None
    assert summary["accuracy"]["value"] == pytest.approx(2 / 3)
    assert (
        summary["recall_ai"]["value"] == pytest.approx(2 / 3)
        and summary["recall_real"]["value"] is None
    )


@pytest.mark.parametrize(
    ("log_odds", "is_ai", "message"),
    [
        ([1.0, np.nan], [True, False], "1 of 2 log-odds are NaN"),
        ([1.0], [True, False], "one label for each"),
        ([1.0, 2.0], [1, 2], "booleans"),
        ([], [], "no images"),
        ([[1.0]], [True], "one log-odds"),
    ],
)
def test_bad_input(log_odds, is_ai, message):
    with pytest.raises(ValueError, match=message):
        metrics.decision_metrics(log_odds, is_ai)


def test_bad_probabilities():
    with pytest.raises(ValueError, match="expit"):
        metrics.ece([2.0, -1.0], [True, False])
    with pytest.raises(ValueError, match="prior_ai"):
        noise_floor(np.array([0.5]), prior_ai=1.0)


def test_bootstrap_of_a_mean_is_close_to_theory():
    x = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap_interval(np.mean, x, n_resamples=2000)
    half = 1.96 * x.std() / 20
    assert (low, high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.02)


def test_bootstrap_counts_and_copies_agree():
    log_odds, is_ai = draw(60)
    copies = bootstrap_interval(metrics.auroc, log_odds, is_ai, n_resamples=100, seed=4)
    counts = bootstrap_interval(
        metrics.auroc, log_odds, is_ai, n_resamples=100, seed=4, weighted=True
    )
    assert copies == pytest.approx(counts)


def test_bootstrap_resamples_whole_groups():
    groups = np.array(["a", "b", "a", "c", "b"])
    for counts in resample_counts(5, groups, 50):
        assert (counts[:, 0] == counts[:, 2]).all() and (counts[:, 1] == counts[:, 4]).all()
        assert (counts[:, [0, 1, 3]].sum(1) == 3).all()
    # Each image given four times over, as one group, carries no more than the image once.
    log_odds, is_ai = draw(100)
    once = bootstrap_interval(accuracy, log_odds, is_ai, weighted=True)
    again, labels = np.repeat(log_odds, 4), np.repeat(is_ai, 4)
    grouped = bootstrap_interval(
        accuracy, again, labels, groups=np.repeat(range(100), 4), weighted=True
    )
    naive = bootstrap_interval(accuracy, again, labels, weighted=True)
    assert grouped == pytest.approx(once)
    assert naive[1] - naive[0] < 0.7 * (once[1] - once[0])
    with pytest.raises(ValueError, match="groups"):
        bootstrap_interval(np.mean, log_odds, groups=[1, 2])


def test_bootstrap_by_hand():
    # Two images, one called right: resamples hold 0, 1 or 2 of it with chances 1/4, 1/2, 1/4.
    values = np.array([0.0, 1.0])
    assert bootstrap_interval(np.mean, values, n_resamples=4000) == (0.0, 1.0)
    assert bootstrap_interval(np.mean, values, n_resamples=4000, level=0.4) == (0.5, 0.5)
    assert bootstrap_interval(np.mean, values, n_resamples=4000, level=0.6)[0] == 0.0
    # Another seed draws others; the same seed the same, and the usual one is 0.
    x = np.random.default_rng(0).normal(size=50)
    assert bootstrap_interval(np.mean, x) == bootstrap_interval(
        np.mean, x, seed=0, n_resamples=1000, level=0.95
    )
    assert bootstrap_interval(np.mean, x) != bootstrap_interval(np.mean, x, seed=1)
    assert percentile_interval([1.0, np.nan, 3.0], 0.5) == (1.5, 2.5)
    assert np.isnan(percentile_interval([np.nan])).all()


@pytest.mark.parametrize("arrays", [(), ([],), ([1.0], [1.0, 2.0]), ([], [1.0])])
def test_bootstrap_needs_arrays_of_one_length(arrays):
    with pytest.raises(ValueError) as error:
        bootstrap_interval(lambda *drawn: 0.0, *arrays)
    assert str(error.value) == "bootstrap_interval needs arrays of one common length, at least 1."


def test_mean_figure():
    values = np.random.default_rng(1).normal(size=60) + 2
    groups = np.arange(60) // 4
    for whose in (None, groups):
        low, high = bootstrap_interval(np.mean, values, groups=whose, n_resamples=300, seed=5)
        found = mean_figure(values, whose, n_resamples=300, seed=5)
        assert found == {
            "value": pytest.approx(values.mean()),
            "low": pytest.approx(low),
            "high": pytest.approx(high),
            "n": 60,
        }
    assert (
        mean_figure(values)
        == mean_figure(values, n_resamples=1000, seed=0)
        != mean_figure(values, seed=1)
    )
    assert mean_figure([True, False, True, True], n_resamples=0) == {
        "value": 0.75,
        "low": None,
        "high": None,
        "n": 4,
    }
    assert mean_figure([]) == {"value": None, "low": None, "high": None, "n": 0}


def test_summary_equals_each_metric():
    log_odds, is_ai = draw(240, seed=2, prior=0.25, sharpness=1.4)
    groups = np.arange(240) // 3
    found = binary_summary(log_odds, is_ai, groups, n_resamples=150, seed=3)
    balanced = {
        "nll": lambda m, y: metrics.nll(m, y, class_balanced_weights(y)),
        "brier": lambda m, y: metrics.brier(expit(m), y, class_balanced_weights(y)),
    }
    assert set(found) == {*NAMED, *balanced, "ece", "ece_noise_floor"}
    # Intervals: each resample measured as its own test set.
    for name, metric in {**NAMED, **balanced}.items():
        assert found[name]["value"] == pytest.approx(metric(log_odds, is_ai)), name
        assert (found[name]["low"], found[name]["high"]) == pytest.approx(
            bootstrap_interval(metric, log_odds, is_ai, groups=groups, n_resamples=150, seed=3)
        ), name
    weights = class_balanced_weights(is_ai)
    assert found["ece"]["value"] == pytest.approx(metrics.ece(expit(log_odds), is_ai, weights))
    floor = noise_floor(expit(log_odds), is_ai.mean(), seed=3)
    floor = {"value": floor["mean"], "low": floor["low"], "high": floor["high"], "n": 240}
    assert found["ece_noise_floor"] == floor


@pytest.mark.parametrize("sharpness", [1.0, 1.6, 3.0])
def test_interval_of_the_calibration_error_by_trying_every_factor(sharpness):
    """Keep the multiples of the residuals that explain the error, with resampling noise added."""
    log_odds, is_ai = draw(200, seed=8, sharpness=sharpness, ties=False)
    found = binary_summary(log_odds, is_ai, n_resamples=200, seed=1)
    p_ai, weights = expit(log_odds), class_balanced_weights(is_ai)
    order = np.argsort(p_ai)
    residuals = np.zeros((200, 15))
    # Bins of equal mass, an image in the bin where the middle of its mass lies.
    middle = np.cumsum(weights[order]) - weights[order] / 2
    bins = np.minimum((middle * 15).astype(int), 14)
    residuals[order, bins] = p_ai[order] - is_ai[order]
    drawn = np.concatenate(list(resample_counts(200, None, 200, 1)))
    drawn = np.stack([class_balanced_weights(is_ai, row) for row in drawn]) @ residuals
    own = weights @ residuals
    error = np.abs(own).sum()
    factors = np.arange(0, 4, 0.01)
    noisy = np.array(
        [
            np.quantile(np.abs(factor * own + drawn - own).sum(-1), [0.025, 0.975])
            for factor in factors
        ]
    )
    kept = factors[(noisy[:, 0] <= error) & (error <= noisy[:, 1])]
    low, high = kept.min() * error, max(1.0, kept.max()) * error
    assert (found["ece"]["low"], found["ece"]["high"]) == pytest.approx(
        (low, min(1.0, high)), abs=0.02 * error
    )


def test_summary():
    log_odds, is_ai = draw(300, prior=0.3)
    summary = binary_summary(log_odds, is_ai, n_resamples=100)
    weights = class_balanced_weights(is_ai)
    assert summary == json.loads(json.dumps(summary, allow_nan=False))
    assert summary["auroc"]["value"] == metrics.auroc(log_odds, is_ai)
    assert summary["nll"]["value"] == pytest.approx(metrics.nll(log_odds, is_ai, weights))
    assert summary["ece"]["value"] == pytest.approx(metrics.ece(expit(log_odds), is_ai, weights))
    assert summary["recall_ai"]["n"] == is_ai.sum() and summary["accuracy"]["n"] == 300
    for name, entry in summary.items():
        assert set(entry) == {"value", "low", "high", "n"}
        if entry["low"] is not None:
            assert entry["low"] <= entry["value"] <= entry["high"], name
    assert binary_summary(log_odds, is_ai, n_resamples=100) == summary
    assert binary_summary(log_odds, is_ai, n_resamples=0)["auroc"]["low"] is None


def interval_coverage(repetitions, n, sharpness):
    """Share of simulated test sets whose intervals hold the model's true values."""
    log_odds, is_ai = draw(500_000, seed=10**6, sharpness=sharpness, ties=False)
    weights = class_balanced_weights(is_ai)
    truth = {
        "accuracy": accuracy(log_odds, is_ai),
        "auroc": metrics.auroc(log_odds, is_ai),
        "nll": metrics.nll(log_odds, is_ai, weights),
        "ece": 0.0 if sharpness == 1 else metrics.ece(expit(log_odds), is_ai, weights),
    }
    held = dict.fromkeys(truth, 0)
    for seed in range(repetitions):
        summary = binary_summary(
            *draw(n, seed=seed, sharpness=sharpness, ties=False), n_resamples=200, seed=seed
        )
        for name, value in truth.items():
            held[name] += summary[name]["low"] <= value <= summary[name]["high"]
    return {name: count / repetitions for name, count in held.items()}


@pytest.mark.parametrize("sharpness", [1.0, 2.0])
def test_interval_coverage(sharpness):
    # 95 % is meant; 30 of 40 or fewer has a chance below 1e-5.
    coverage = interval_coverage(40, 400, sharpness)
    assert all(share > 0.76 for share in coverage.values()), coverage


@pytest.mark.slow
@pytest.mark.parametrize("sharpness", [1.0, 2.0])
def test_interval_coverage_on_a_thousand_simulated_models(sharpness):
    coverage = interval_coverage(1000, 500, sharpness)
    # Percentile intervals from 200 resamples fall a little short of 95 %.
    assert all(share > 0.9 for share in coverage.values()), coverage


def test_detection_metrics():
    log_odds, is_ai = draw(200)
    metric = DetectionMetrics()
    values = metric.compute(predictions=log_odds, references=is_ai.astype(int))
    assert list(values) == [
        "accuracy",
        "balanced_accuracy",
        "precision_real",
        "recall_real",
        "f1_real",
        "precision_ai",
        "recall_ai",
        "f1_ai",
        "auroc",
        "ece",
        "nll",
        "brier",
    ]
    weights = class_balanced_weights(is_ai)
    assert values["auroc"] == metrics.auroc(log_odds, is_ai)
    assert values["ece"] == metrics.ece(expit(log_odds), is_ai, weights)
    for half in (slice(0, 120), slice(120, 200)):
        metric.add_batch(predictions=log_odds[half], references=is_ai[half].astype(int))
    assert metric.compute() == values
    with pytest.raises(ValueError, match="0 and 1"):
        metric.compute(predictions=[1.0, 2.0], references=[1, 2])


def test_detection_metrics_needs_no_network_and_leaves_no_files(tmp_path):
    # Two processes at once, which share the time of the imports.
    code = (
        "import os, socket\n"
        "def refuse(*args, **kwargs): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from realfake.evaluation.trainer_metrics import DetectionMetrics\n"
        "child = os.fork()\n"
        "for _ in range(20):\n"
        "    values = DetectionMetrics().compute(predictions=[1.0, -1.0], references=[1, 0])\n"
        "    os.write(1, f'{values[\"accuracy\"]}\\n'.encode())\n"
        "assert not child or os.wait()[1] == 0\n"
    )
    root = str(Path(metrics.__file__).resolve().parents[2])
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_"))}
    environment = keep | {"HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": root}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1.0"] * 40
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
