"""Find the strongest regions of a map: boxes and outlines on the upright image."""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, label

# Larger maps are shrunk; models do not resolve more.
_LONGEST = 512
# Threshold of a region, as a share of the largest smoothed value.
_LEVEL = 0.5
# Smallest share of the evidence, except of the strongest region: less would be shown as "0 %".
_LEAST = 0.005


@dataclass(frozen=True)
class EvidenceRegion:
    """A connected part of an image with evidence for the target.

    Attributes:
        box: `(left, top, right, bottom)` in pixels of the upright image; the whole image is
            `(0, 0, width, height)`.
        share: Its share of the map's evidence for the target, 0 to 1.
        outline: Closed polygon around it, `((x, y), …)` in pixels, without holes.
    """

    box: tuple[int, int, int, int]
    share: float
    outline: tuple[tuple[float, float], ...]

    def to_dict(self) -> dict:
        """Return the fields, for `json`."""
        outline = [list(point) for point in self.outline]
        return {"box": list(self.box), "share": self.share, "outline": outline}


def strongest_regions(heatmap: np.ndarray, n: int = 3) -> list[EvidenceRegion]:
    """Find the regions with the most evidence for the target.

    The positive part of the map is smoothed by a fiftieth of its side (the root of its area) and
    cut at half of its maximum. Connected parts are ordered by the evidence in the unsmoothed map.

    Args:
        heatmap: `(height, width)` of the upright image; positive supports the target, NaN was not
            seen by the model.
        n: Largest number of regions.

    Returns:
        At most `n` regions, the one with the largest share first. The others have at least 0.5 % of
        the evidence. Empty if there is no evidence for the target.

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
    # Normalised, so that regions at the border of the seen part are not weaker.
    smooth = gaussian_filter(positive, sigma, mode="constant")
    smooth /= np.maximum(gaussian_filter(visible, sigma, mode="constant"), 1e-6)
    smooth[visible < 0.5] = 0
    parts, count = label(smooth >= _LEVEL * smooth.max(), structure=np.ones((3, 3)))
    sums = np.bincount(parts.ravel(), weights=positive.ravel(), minlength=count + 1)[1:]
    down, across = height / parts.shape[0], width / parts.shape[1]
    regions = []
    for index in np.argsort(-sums, kind="stable")[:n]:
        if regions and sums[index] < _LEAST * total:
            break
        outline = tuple(
            (round(x * across, 1), round(y * down, 1)) for x, y in _outline(parts == index + 1)
        )
        y, x = np.nonzero(parts == index + 1)
        box = (x.min() * across, y.min() * down, (x.max() + 1) * across, (y.max() + 1) * down)
        share = float(sums[index] / total)
        regions.append(EvidenceRegion(tuple(round(edge) for edge in box), share, outline))
    return regions


def _shrunk(array: np.ndarray) -> np.ndarray:
    """Average over blocks, so that the longer side has at most 512 pixels."""
    array = array.astype(np.float32)
    scale = _LONGEST / max(array.shape)
    if scale >= 1:
        return array
    size = (max(1, round(array.shape[1] * scale)), max(1, round(array.shape[0] * scale)))
    return np.asarray(Image.fromarray(array).resize(size, Image.Resampling.BOX))


def _outline(part: np.ndarray) -> list[tuple[int, int]]:
    """Follow the outer border of a connected mask clockwise, and return its corners `(x, y)`."""
    mask = np.pad(part, 1)
    # The upper edge of the top row's leftmost pixel is on the border.
    y, x = (int(i) for i in np.argwhere(mask)[0])
    start, direction = (x, y), (1, 0)
    point, corners = start, []
    while True:
        corners.append(point)
        while True:
            (x, y), (dx, dy) = point, direction
            x, y = point = (x + dx, y + dy)
            # The pixels ahead: rows y - 1, y and columns x - 1, x surround the corner (x, y).
            ahead_x, ahead_y = (x if dx + dy > 0 else x - 1), (y if dx + dy > 0 else y - 1)
            if dx:
                ahead = mask[y - 1, ahead_x], mask[y, ahead_x]
            else:
                ahead = mask[ahead_y, x], mask[ahead_y, x - 1]
            left, right = ahead if dx + dy > 0 else ahead[::-1]
            # Left goes first, because pixels that touch at a corner are connected.
            if left:
                direction = (dy, -dx)
                break
            if not right:
                direction = (-dy, dx)
                break
        if point == start and direction == (1, 0):
            return [(x - 1, y - 1) for x, y in corners]
