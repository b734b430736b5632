"""Early exit: when the remaining views of an image can hardly change its verdict."""

import numpy as np
from scipy.stats import t

# Views between two decisions. With two, their spread is hardly known at the first one.
STEP = 3
# Probability that a decision to stop is wrong.
ERROR = 0.05


def mean_interval(log_odds: np.ndarray, n_views: int, error: float) -> tuple[float, float]:
    """Return an interval of the mean log-odds over all views from those of the first views.

    It is the t-interval of the mean of a finite population (Cochran 1977, section 2.8):
    `m ± t(1 - error / 2, k - 1) · s · sqrt((1 - k / n) / k)`. It takes the first views as a random
    sample of all views.

    Args:
        log_odds: (k,) log-odds of the first views, `k >= 2`.
        n_views: Number of all views, `n >= k`.
        error: Probability that the mean over all views lies outside.
    """
    k = len(log_odds)
    spread = float(np.std(log_odds, ddof=1) * np.sqrt((1 - k / n_views) / k))
    half = float(t.ppf(1 - error / 2, k - 1)) * spread
    mean = float(np.mean(log_odds))
    return mean - half, mean + half


def is_settled(
    log_odds: np.ndarray, n_views: int, thresholds: tuple[float, float], error: float = ERROR
) -> bool:
    """Return whether no threshold of the verdict lies inside [`mean_interval`].

    Args:
        log_odds: (k,) log-odds of the first views, `k >= 2`.
        n_views: Number of all views.
        thresholds: Log-odds of the verdicts `real` and `ai`; they may be infinite.
        error: Probability that the mean over all views lies outside of the interval.
    """
    low, high = mean_interval(log_odds, n_views, error)
    return not any(low <= threshold <= high for threshold in thresholds)
