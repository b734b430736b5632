"""Percentile bootstrap intervals over images or over groups of images that belong together.

A resample is a row of counts, how often each image was drawn, so a statistic that takes weights is
evaluated on many resamples at once without copying images. Stands under `metrics.py`; numpy alone.
"""

from collections.abc import Callable, Iterator

import numpy as np

_CHUNK = 4_000_000  # counts held in memory at once: 32 MB of float64


def group_index(groups, n: int) -> tuple[np.ndarray, int]:
    """Number the groups of `n` images; without groups each image is its own.

    Returns:
        The group number of each image, (n,), and the number of groups.

    Raises:
        ValueError: `groups` is not of length `n`.
    """
    if groups is None:
        return np.arange(n), n
    groups = np.asarray(groups)
    if groups.shape != (n,):
        raise ValueError(
            f"groups has shape {groups.shape}; one entry for each of the {n} images is needed."
        )
    names, index = np.unique(
        groups.astype(str) if groups.dtype == object else groups, return_inverse=True
    )
    return index.reshape(-1), len(names)


def resample_counts(
    n: int, groups=None, n_resamples: int = 1000, seed: int = 0
) -> Iterator[np.ndarray]:
    """Draw bootstrap resamples as counts.

    Args:
        n: Number of images.
        groups: (n,), *optional*. Whole groups are drawn with replacement, so that images which share a
            source do not count as independent.

    Yields:
        (resamples, n) float64 counts, in chunks of bounded size, `n_resamples` rows in all.
    """
    index, n_groups = group_index(groups, n)
    rng = np.random.default_rng(seed)
    rows = max(1, min(n_resamples, _CHUNK // max(n, 1)))
    for start in range(0, n_resamples, rows):
        size = min(rows, n_resamples - start)
        drawn = rng.integers(n_groups, size=(size, n_groups)) + n_groups * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n_groups).reshape(size, n_groups)
        yield counts.astype(np.float64)[:, index]


def percentile_interval(samples, level: float = 0.95) -> tuple[float, float]:
    """The central `level` of `samples` that are not NaN; `(nan, nan)` where there is none."""
    samples = np.asarray(samples, dtype=np.float64)
    samples = samples[~np.isnan(samples)]
    if not len(samples):
        return float("nan"), float("nan")
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_interval(
    statistic: Callable,
    *arrays,
    groups=None,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    weighted: bool = False,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic (Efron and Tibshirani 1993, chapter 13).

    Args:
        statistic: `statistic(*arrays) -> float`, called on resampled arrays. With `weighted=True`:
            `statistic(*arrays, weights=counts) -> (resamples,)`, called on the arrays as they are with
            counts of shape (resamples, n); every metric in `metrics.py` that takes 2-d weights can be
            given, and this is many times faster.
        arrays: Arrays whose first dimension is the image.
        groups: (n,), *optional*. Resample whole groups.

    Returns:
        `(low, high)`. Resamples on which the statistic is NaN (a class missing, say) are left out.

    Raises:
        ValueError: No arrays, or lengths differ.
    """
    arrays = [np.asarray(array) for array in arrays]
    if not arrays or len({len(array) for array in arrays}) != 1 or not len(arrays[0]):
        raise ValueError("bootstrap_interval needs arrays of one common length, at least 1.")
    samples = []
    for counts in resample_counts(len(arrays[0]), groups, n_resamples, seed):
        if weighted:
            samples.extend(np.atleast_1d(statistic(*arrays, weights=counts)))
        else:
            for row in counts.astype(np.int64):
                drawn = np.repeat(np.arange(len(row)), row)
                samples.append(statistic(*(array[drawn] for array in arrays)))
    return percentile_interval(samples, level)


def mean_figure(values, groups=None, n_resamples: int = 1000, seed: int = 0) -> dict:
    """A mean as figures are stored: `{"value", "low", "high", "n"}`.

    Args:
        values: Numbers, (n,). Of none of them there is no mean.
        groups, n_resamples, seed: As in [`bootstrap_interval`]; without resamples there is no interval.
    """
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        return {"value": None, "low": None, "high": None, "n": 0}

    def mean(numbers, weights):
        return weights @ numbers / weights.sum(axis=-1)

    low = high = None
    if n_resamples:
        low, high = bootstrap_interval(
            mean, values, groups=groups, n_resamples=n_resamples, seed=seed, weighted=True
        )
    return {"value": values.mean(), "low": low, "high": high, "n": len(values)}
