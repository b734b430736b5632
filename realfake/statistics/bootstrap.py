"""Percentile bootstrap intervals over images, or over groups of images that belong together.

A resample is a row of counts: how often each image was drawn. A statistic that takes weights is
evaluated on many resamples at once, without copies of the images.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike

_CHUNK = 4_000_000  # counts held in memory at once: 32 MB of float64


def group_index(groups: ArrayLike | None, n: int) -> tuple[np.ndarray, int]:
    """Number the groups of `n` images. Without groups, each image is a group.

    Returns:
        The group number of each image, (n,), and the number of groups.

    Raises:
        ValueError: `groups` is not of length `n`.
    """
    if groups is None:
        return np.arange(n), n
    groups = np.asarray(groups)
    if groups.shape != (n,):
        raise ValueError(f"groups has shape {groups.shape}; it needs an entry per image, ({n},).")
    groups = groups.astype(str) if groups.dtype == object else groups
    names, index = np.unique(groups, return_inverse=True)
    return index.reshape(-1), len(names)


def resample_counts(
    n: int, groups: ArrayLike | None = None, n_resamples: int = 1000, seed: int = 0
) -> Iterator[np.ndarray]:
    """Draw bootstrap resamples as counts.

    Args:
        n: Number of images.
        groups: (n,), *optional*. Whole groups are drawn with replacement, because images of a group
            are not independent.

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


def percentile_interval(samples: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Return the central `level` of the samples without NaN; `(nan, nan)` if none is left."""
    samples = np.asarray(samples, dtype=np.float64)
    samples = samples[~np.isnan(samples)]
    if not len(samples):
        return float("nan"), float("nan")
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_interval(
    statistic: Callable,
    *arrays: ArrayLike,
    groups: ArrayLike | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    weighted: bool = False,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a statistic (Efron and Tibshirani 1993, ch. 13).

    Args:
        statistic: `statistic(*arrays) -> float`, called on resampled arrays. With `weighted=True`:
            `statistic(*arrays, weights=counts) -> (resamples,)`, called on the whole arrays with
            counts of shape (resamples, n). This is many times faster.
        arrays: Arrays whose first dimension is the image.
        groups: (n,), *optional*. Resample whole groups.

    Returns:
        `(low, high)`. Resamples on which the statistic is NaN are left out.

    Raises:
        ValueError: No arrays, or lengths differ.
    """
    arrays = tuple(np.asarray(array) for array in arrays)
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


def mean_figure(
    values: ArrayLike, groups: ArrayLike | None = None, n_resamples: int = 1000, seed: int = 0
) -> dict[str, float | int | None]:
    """Return a mean as records store it: `{"value", "low", "high", "n"}`, `None` for no values.

    Args:
        values: (n,) numbers.
        groups, n_resamples, seed: As in [`bootstrap_interval`]; 0 resamples give no interval.
    """
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        return {"value": None, "low": None, "high": None, "n": 0}

    def mean(numbers: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return weights @ numbers / weights.sum(axis=-1)

    low = high = None
    if n_resamples:
        low, high = bootstrap_interval(
            mean, values, groups=groups, n_resamples=n_resamples, seed=seed, weighted=True
        )
    return {"value": values.mean(), "low": low, "high": high, "n": len(values)}
