"""All metrics of a split with their intervals, as in `evaluation.json`."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.fft import dct
from scipy.special import expit

from realfake.labels import AI, NAMES, REAL
from realfake.statistics import metrics
from realfake.statistics.bootstrap import percentile_interval, resample_counts
from realfake.statistics.log_odds import check_log_odds, class_balanced_weights
from realfake.statistics.metrics import N_BINS
from realfake.statistics.noise_floor import noise_floor

_LOW_FPR = {"tpr_at_fpr_1": 0.01, "tpr_at_fpr_5": 0.05}
# Also defined on one class. Precision would then be 1, and probabilities assume equal odds.
_ONE_CLASS = ("accuracy", *(f"recall_{label}" for label in NAMES), "nll", "brier")


def _factor_interval(
    residual: np.ndarray, deviations: np.ndarray, size: Callable, level: float
) -> tuple[float, float]:
    """Return the range of factors of the residuals that explain the observed size.

    Noise raises a calibration error, because it cannot be negative. Resampling adds noise again, so
    percentiles of resampled errors are too high. Instead, this inverts a test: a factor is in the
    range if `size(residual)` is in the central `level` of `size(factor * residual + noise)`. Factor
    0 is a calibrated model.

    Args:
        residual: (cells,) signed residual masses of the sample.
        deviations: (resamples, cells) resampled masses minus `residual`.
        size: Maps (..., cells) to (...), rising with the factor.
    """
    value = size(residual)
    factors = []
    for quantile in ((1 + level) / 2, (1 - level) / 2):
        low, high = 0.0, 4.0
        for _ in range(14):
            factor = (low + high) / 2
            if np.quantile(size(factor * residual + deviations), quantile) < value:
                low = factor
            else:
                high = factor
        factors.append(low)
    # The interval always contains the plug-in value.
    return factors[0], max(1.0, factors[1])


def _bin_masses(
    p_ai: np.ndarray, is_ai: np.ndarray, weights: np.ndarray, n_bins: int
) -> tuple[np.ndarray, dict[str, Callable]]:
    """Return residuals by image and bin, (n, bins), and each error as a function of bin mass."""
    mass = metrics.bins(p_ai, is_ai, weights, n_bins)[0]
    _, index = np.unique(metrics.bin_index(p_ai, weights, n_bins), return_inverse=True)
    residuals = np.zeros((len(p_ai), len(mass)))
    residuals[np.arange(len(p_ai)), index] = p_ai - is_ai
    errors = {
        "ece": lambda x: np.abs(x).sum(-1),
        "debiased_ece": lambda x: np.sqrt((x**2 / mass).sum(-1)),
        "max_calibration_error": lambda x: (np.abs(x) / mass).max(-1),
    }
    return residuals, errors


def _linear_metrics(
    log_odds: np.ndarray, is_ai: np.ndarray, counts: np.ndarray, class_balanced: bool
) -> dict[str, metrics.Value]:
    """Return the metrics with plain bootstrap percentiles, each of shape `counts.shape[:-1]`."""
    cells = metrics.cells_of(log_odds, is_ai, counts)
    points = metrics.operating_points(log_odds, is_ai, counts)
    weights = class_balanced_weights(is_ai, counts) if class_balanced else counts
    p_ai = expit(log_odds)
    values = {
        "accuracy": metrics.accuracy_of(cells),
        "balanced_accuracy": (metrics.recall_of(cells, REAL) + metrics.recall_of(cells, AI)) / 2,
    }
    for label in NAMES:
        values[f"precision_{label}"] = metrics.precision_of(cells, label)
        values[f"recall_{label}"] = metrics.recall_of(cells, label)
        values[f"f1_{label}"] = metrics.f1_of(cells, label)
    values["auroc"] = metrics.auroc_of(*points)
    values["average_precision"] = metrics.average_precision_of(*points)
    values |= {name: metrics.tpr_at_fpr_of(*points, max_fpr) for name, max_fpr in _LOW_FPR.items()}
    values["fpr_at_tpr_95"] = metrics.fpr_at_tpr_of(*points, 0.95)
    values["nll"] = metrics.nll(log_odds, is_ai, weights)
    values["brier"] = metrics.brier(p_ai, is_ai, weights)
    values["signed_calibration_error"] = metrics.signed_calibration_error(p_ai, is_ai, weights)
    return values


def binary_summary(
    log_odds: ArrayLike,
    is_ai: ArrayLike,
    groups: ArrayLike | None = None,
    class_balanced: bool = True,
    n_bins: int = N_BINS,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, dict]:
    """Return every metric with its interval, as in `evaluation.json`.

    Args:
        log_odds: (n,) log-odds of ai.
        is_ai: (n,) bool.
        groups: (n,), *optional*. Images that share a source; intervals resample whole groups.
        class_balanced: Weight the metrics of probabilities (`nll`, `brier*`, all calibration
            errors) with [`class_balanced_weights`]. Other metrics are never weighted.
        n_resamples: Bootstrap resamples; 0 for no intervals.

    Returns:
        `{name: {"value", "low", "high", "n"}}`: floats, `None` if undefined, and the number of
        images. Names: `accuracy`, `balanced_accuracy`, `precision_real/ai`,
        `recall_real/ai`, `f1_real/ai`, `auroc`, `average_precision`, `tpr_at_fpr_1`,
        `tpr_at_fpr_5` (per cent), `fpr_at_tpr_95`, `nll`, `brier`, `brier_reliability`,
        `brier_resolution`, `brier_uncertainty`, `ece`, `debiased_ece`, `smooth_ece`,
        `max_calibration_error`, `signed_calibration_error`, `ece_noise_floor` (its `low` and `high`
        are the 5 % and 95 % quantiles).

        Intervals are bootstrap percentiles. For the four calibration errors that cannot be
        negative, they are the true errors that explain the plug-in value with noise, extended to
        contain it. They reach 0 if a calibrated model explains it. A proportion of exactly 0 or 1
        has an interval of width 0.
    """
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    n, n_ai = len(log_odds), int(is_ai.sum())
    p_ai = expit(log_odds)
    two_classes = 0 < n_ai < n
    values = _linear_metrics(log_odds, is_ai, np.ones(n), class_balanced)
    weights = class_balanced_weights(is_ai) if class_balanced else np.full(n, 1 / n)
    weights = weights / weights.sum()
    residuals, errors = _bin_masses(p_ai, is_ai, weights, n_bins)
    murphy = metrics.brier_decomposition(p_ai, is_ai, weights, n_bins)
    values |= {
        f"brier_{name}": murphy[name] for name in ("reliability", "resolution", "uncertainty")
    }
    values["ece"] = metrics.ece(p_ai, is_ai, weights, n_bins)
    values["debiased_ece"] = metrics.debiased_ece(p_ai, is_ai, weights, n_bins)
    values["smooth_ece"] = metrics.smooth_ece(p_ai, is_ai, weights)
    values["max_calibration_error"] = metrics.max_calibration_error(p_ai, is_ai, weights, n_bins)

    intervals: dict[str, tuple[float, float]] = {}
    if n_resamples:
        samples: dict[str, list] = {}
        binned, residual_grids = [], []
        for counts in resample_counts(n, groups, n_resamples, seed):
            for name, sample in _linear_metrics(log_odds, is_ai, counts, class_balanced).items():
                samples.setdefault(name, []).append(sample)
            if two_classes:
                drawn = class_balanced_weights(is_ai, counts) if class_balanced else counts
                drawn = drawn / drawn.sum(-1, keepdims=True)
                binned.append(drawn @ residuals)
                residual_grids.append(metrics.residual_grid(p_ai, is_ai, drawn))
        intervals = {
            name: percentile_interval(np.concatenate(chunks), level)
            for name, chunks in samples.items()
        }
        if two_classes:
            of_bins = weights @ residuals
            deviations = np.concatenate(binned) - of_bins
            for name, error in errors.items():
                low, high = _factor_interval(of_bins, deviations, error, level)
                intervals[name] = min(1.0, error(low * of_bins)), min(1.0, error(high * of_bins))
            # The interval is that of the plug-in error; the corrected value may lie below it.
            low, high = intervals["debiased_ece"]
            intervals["debiased_ece"] = min(low, float(values["debiased_ece"])), high
            # The smooth error exceeds a value if the error at that bandwidth does.
            sigma = np.asarray(values["smooth_ece"])
            grid = metrics.residual_grid(p_ai, is_ai, weights)
            smoothed = metrics.smooth(dct(np.concatenate(residual_grids), norm="ortho"), sigma)
            at_sigma = metrics.smooth(dct(grid, norm="ortho"), sigma)
            low, high = _factor_interval(at_sigma, smoothed - at_sigma, errors["ece"], level)
            intervals["smooth_ece"] = (
                float(metrics.smooth_ece_of_grid(low * grid)),
                float(metrics.smooth_ece_of_grid(high * grid)),
            )
    if two_classes:
        floor = noise_floor(p_ai, n_ai / n if class_balanced else None, n_bins, seed=seed)
        values["ece_noise_floor"] = floor["mean"]
        intervals["ece_noise_floor"] = floor["low"], floor["high"]
    else:
        values["ece_noise_floor"] = float("nan")

    sizes = {
        "recall_ai": n_ai,
        "recall_real": n - n_ai,
        "tpr_at_fpr_1": n_ai,
        "tpr_at_fpr_5": n_ai,
        "fpr_at_tpr_95": n - n_ai,
    }
    summary = {}
    for name, value in values.items():
        defined = two_classes or name in _ONE_CLASS
        numbers = (value, *intervals.get(name, (None, None))) if defined else (None, None, None)
        value, low, high = (None if x is None or np.isnan(x) else float(x) for x in numbers)
        summary[name] = {"value": value, "low": low, "high": high, "n": sizes.get(name, n)}
    return summary
