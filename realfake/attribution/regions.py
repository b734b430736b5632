"""The strongest regions of a map, as boxes and outlines that a person can point at.

Takes the map that `realfake.models.geometry` carried onto the image; `realfake.attribution.overlay` draws the regions, and interfaces list them.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, label

# Regions are found on a map of this size at most: their outlines are no finer than what a model resolves.
_LONGEST = 512
# Of the strongest smoothed value: half of it, the width at half maximum of a single spot.
_LEVEL = 0.5
# Of all the evidence: what is less is shown as "0 %" and points at nothing. The strongest region is kept whatever it holds.
_LEAST = 0.005


@dataclass(frozen=True)
class EvidenceRegion:
    """A connected part of an image that speaks for the target.

    Attributes:
        box: `(left, top, right, bottom)` in pixels of the upright image; edges, so the whole image is
            `(0, 0, width, height)`.
        share: Its share of all the evidence for the target that the map holds, 0 to 1.
        outline: Closed polygon around it, `((x, y), …)` in pixels; holes are not in it.
    """

    box: tuple[int, int, int, int]
    share: float
    outline: tuple[tuple[float, float], ...]

    def to_dict(self) -> dict:
        """As JSON holds it."""
        return {
            "box": list(self.box),
            "share": self.share,
            "outline": [list(point) for point in self.outline],
        }


def strongest_regions(heatmap: np.ndarray, n: int = 3) -> list[EvidenceRegion]:
    """Find the regions that hold the most evidence for the target.

    The positive part of the map is smoothed by a fiftieth of its side (the root of its area), so that scattered pixels join, and cut at half
    of its maximum; connected parts are ordered by the evidence that the map itself, unsmoothed, holds in them.

    Args:
        heatmap: `(height, width)` of the upright image; positive supports the target, NaN was not seen by the model.
        n: How many at most.

    Returns:
        At most `n` [`EvidenceRegion`], the one with the largest share first; those after it hold half a per cent at least. None
        where nothing speaks for the target.

    Raises:
        ValueError: The map is not two-dimensional, or `n` is under 1.
    """
    heatmap = np.asarray(heatmap, dtype=np.float32)
    if heatmap.ndim != 2:
        raise ValueError(f"The map has shape {heatmap.shape}; it must be (height, width).")
    if n < 1:
        raise ValueError(f"n is {n}; it must be at least 1.")
    height, width = heatmap.shape
    seen = np.isfinite(heatmap)
    positive = _shrunk(np.where(seen, heatmap, 0).clip(0))
    total = float(positive.sum(dtype=np.float64))
    if not total > 0:
        return []
    visible = _shrunk(seen.astype(np.float32))
    sigma = positive.size**0.5 / 50
    # Divided by what was seen nearby: a region at the rim of the seen part is not weaker for that.
    smooth = gaussian_filter(positive, sigma, mode="constant")
    smooth /= np.maximum(gaussian_filter(visible, sigma, mode="constant"), 1e-6)
    smooth[visible < 0.5] = 0
    parts, count = label(smooth >= _LEVEL * smooth.max(), structure=np.ones((3, 3)))
    sums = np.bincount(parts.ravel(), weights=positive.ravel(), minlength=count + 1)[1:]
    found = []
    for index in np.argsort(-sums, kind="stable")[:n]:
        if found and sums[index] < _LEAST * total:
            break
        part = parts == index + 1
        rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
        down, across = height / part.shape[0], width / part.shape[1]
        box = (
            columns[0] * across,
            rows[0] * down,
            (columns[-1] + 1) * across,
            (rows[-1] + 1) * down,
        )
        outline = tuple((round(x * across, 1), round(y * down, 1)) for x, y in _outline(part))
        found.append(
            EvidenceRegion(tuple(round(edge) for edge in box), float(sums[index] / total), outline)
        )
    return found


def _shrunk(array: np.ndarray) -> np.ndarray:
    """The mean over blocks, so that the longer side is 512 pixels at most."""
    scale = _LONGEST / max(array.shape)
    if scale >= 1:
        return array.astype(np.float32)
    size = (max(1, round(array.shape[1] * scale)), max(1, round(array.shape[0] * scale)))
    return np.asarray(Image.fromarray(array.astype(np.float32)).resize(size, Image.Resampling.BOX))


def _outline(part: np.ndarray) -> list[tuple[int, int]]:
    """Follow the outer border of a connected mask along the edges of its pixels, clockwise; corners only."""
    padded = np.pad(part, 1)
    y, x = (
        int(i) for i in np.argwhere(padded)[0]
    )  # the top row's leftmost pixel: its upper edge is outside
    start, direction = (x, y), (1, 0)
    point, corners = start, []
    while True:
        corners.append(point)
        while True:
            point = (point[0] + direction[0], point[1] + direction[1])
            ahead_left, ahead_right = _ahead(padded, point, direction)
            if (
                ahead_left
            ):  # touches over a corner as well: the parts are connected in eight directions
                turn = (direction[1], -direction[0])
                break
            if not ahead_right:
                turn = (-direction[1], direction[0])
                break
        direction = turn
        if point == start and direction == (1, 0):
            return [(x - 1, y - 1) for x, y in corners]


def _ahead(
    mask: np.ndarray, point: tuple[int, int], direction: tuple[int, int]
) -> tuple[bool, bool]:
    """The pixels in front of a corner, left and right of the way, for one who has the mask on his right."""
    (x, y), (dx, dy) = point, direction
    # The four pixels around a corner (x, y): columns x - 1 and x, rows y - 1 and y.
    forward = (x if dx > 0 else x - 1) if dx else None
    down = (y if dy > 0 else y - 1) if dy else None
    if dx:
        left, right = (
            ((forward, y - 1), (forward, y)) if dx > 0 else ((forward, y), (forward, y - 1))
        )
    else:
        left, right = ((x, down), (x - 1, down)) if dy > 0 else ((x - 1, down), (x, down))
    return bool(mask[left[1], left[0]]), bool(mask[right[1], right[0]])
