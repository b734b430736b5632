"""Does a part of an image differ from the rest? A conformal test on the log-odds of its views.

The contrast of a set of views is their mean log-odds minus the mean of the other views, divided by
its standard deviation if every pixel contributed independently. Then overlapping views, whose
log-odds are alike, and separate ones can be compared. The contrast of an image is the largest one
of a single view or of two neighbouring views, towards `ai`.

The threshold is the conformal one of `verdicts.py` on calibration photographs. An image with more
views has more sets, so its allowed rate is divided accordingly (Bonferroni).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from realfake.statistics.metrics import group_index
from realfake.statistics.verdicts import one_per_group, rank_allowed


@dataclass(frozen=True)
class Contrast:
    """The largest contrast of an image.

    Attributes:
        value: In log-odds, see the module.
        views: Indices of the views that stand out.
        scale: Change of `value` if the difference between these views and the others grows by 1.
    """

    value: float
    views: tuple[int, ...]
    scale: float


def contrast(
    log_odds: ArrayLike, overlaps: np.ndarray, neighbours: Sequence[tuple[int, int]]
) -> Contrast | None:
    """Find the part of an image with the largest contrast; `None` for fewer than three views.

    Args:
        log_odds: (n,) log-odds of ai of the views.
        overlaps: (n, n) shared area of each pair of views, 1 on the diagonal.
        neighbours: Pairs of adjacent views.
    """
    values = np.asarray(log_odds, dtype=np.float64)
    n = len(values)
    if n < 3:
        return None
    best = None
    # A pair needs at least two other views.
    sets = [(index,) for index in range(n)] + [pair for pair in neighbours if n > 3]
    for members in sets:
        weights = np.full(n, -1 / (n - len(members)))
        weights[list(members)] = 1 / len(members)
        deviation = np.sqrt(max(weights @ overlaps @ weights, 1e-6))
        value = float(weights @ values / deviation)
        if best is None or value > best.value:
            best = Contrast(value, members, float(1 / deviation))
    return best


@dataclass(frozen=True)
class ContrastThresholds:
    """Contrasts above which a part differs, by the number of views.

    Attributes:
        alpha: Allowed share of photographs with a part that differs.
        by_views: `{number of views: threshold}`; images with other numbers are not tested.
    """

    alpha: float
    by_views: dict[int, float]
    n: int

    def to_dict(self) -> dict:
        """Return plain values for `json`."""
        return {
            "alpha": self.alpha,
            "by_views": {str(views): value for views, value in self.by_views.items()},
            "n": self.n,
        }

    @classmethod
    def from_dict(cls, values: Mapping) -> "ContrastThresholds":
        """Read what [`to_dict`] wrote."""
        by_views = {int(views): float(value) for views, value in values["by_views"].items()}
        return cls(float(values["alpha"]), by_views, int(values["n"]))

    def differs(self, contrast: np.ndarray, n_views: np.ndarray) -> np.ndarray:
        """Return which images have a part that differs, (n,) bool.

        Args:
            contrast: (n,) contrasts, NaN for too few views.
            n_views: (n,) numbers of views.
        """
        limits = [self.by_views.get(int(number), np.inf) for number in n_views]
        return np.asarray(contrast) > np.array(limits, dtype=np.float64)


def fit_contrast(
    values: Sequence[float],
    n_views: int,
    limit: int,
    alpha: float = 0.05,
    groups: Sequence | None = None,
    seed: int = 0,
) -> ContrastThresholds | None:
    """Fit the thresholds on calibration photographs with `n_views` views each.

    Args:
        limit: Largest number of views to fit a threshold for.
        alpha: Allowed share of photographs with a part that differs.
        groups: (n,), *optional*. One photograph of each group is used, chosen with `seed`.

    Returns:
        The thresholds of `n_views` to `limit` views, as far as there are enough photographs; `None`
        if there are too few for `n_views`.
    """
    array = np.asarray(values, dtype=np.float64)
    index, _ = group_index(groups, len(array))
    highest = np.sort(one_per_group(array, index, np.random.default_rng(seed)))[::-1]
    by_views = {}
    for views in range(n_views, limit + 1):
        rank = rank_allowed(len(highest), alpha * n_views / views)
        if rank:
            by_views[views] = float(highest[rank - 1])
    return ContrastThresholds(float(alpha), by_views, len(highest)) if by_views else None
