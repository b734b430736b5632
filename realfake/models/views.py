"""The views of an image: crops at native pixels, of the model's input size, that cover it.

A detector whose processor crops without resizing sees only the middle of a larger image. It can
examine the rest in further views. The log-odds of the image are the mean over its views.
"""

from collections.abc import Sequence
from math import ceil, exp, log
from typing import Any

import numpy as np
from PIL import Image

# (left, top, right, bottom) in pixels; edges, so the whole image is (0, 0, width, height).
Box = tuple[int, int, int, int]


def view_size(processor: Any) -> tuple[int, int] | None:
    """Return the `(width, height)` of a processor's native crop; `None` if it resizes images."""
    crop = getattr(processor, "crop_size", None)
    if getattr(processor, "do_resize", True) or not getattr(processor, "do_center_crop", False):
        return None
    height, width = (crop.get("height"), crop.get("width")) if crop else (None, None)
    return (int(width), int(height)) if width and height else None


def view_boxes(width: int, height: int, size: tuple[int, int], limit: int) -> list[Box]:
    """Return the views of an image, row by row.

    If at most `limit` views cover the image, they do, with even overlaps. Otherwise they are spread
    evenly over it. A single view is the centre, at the same pixels as the processor's crop.

    Args:
        width, height: Size of the image in pixels.
        size: `(width, height)` of a view. In a smaller image, a view ends at the image's edge.
        limit: Largest number of views.
    """
    across, down = ceil(width / size[0]), ceil(height / size[1])
    if across * down > limit:
        across, down = _spread(width / height * size[1] / size[0], across, down, limit)
    columns = _starts(width, size[0], across)
    rows = _starts(height, size[1], down)
    return [
        (left, top, min(left + size[0], width), min(top + size[1], height))
        for top in rows
        for left in columns
    ]


def _spread(aspect: float, across: int, down: int, limit: int) -> tuple[int, int]:
    """Return the columns and rows of a grid within the limit: many views in square cells."""

    def value(columns: int) -> float:
        rows = min(down, limit // columns)
        return columns * rows * exp(-abs(log(aspect * rows / columns)))

    columns = max(range(1, min(across, limit) + 1), key=value)
    return columns, min(down, limit // columns)


def _starts(length: int, side: int, count: int) -> list[int]:
    if count == 1:
        return [max(0, (length - side) // 2)]
    if count * side >= length:
        return [round(start) for start in np.linspace(0, length - side, count)]
    return [round((index + 0.5) * length / count - side / 2) for index in range(count)]


def crop_view(image: Image.Image, box: Box, size: tuple[int, int]) -> Image.Image:
    """Cut a view out of an image. A smaller image is centred and reflected at its edges."""
    view = image.crop(box)
    if view.size == size:
        return view
    pads = [((full - side) // 2, (full - side + 1) // 2) for full, side in zip(size, view.size)]
    padded = np.pad(np.asarray(view), (pads[1], pads[0], (0, 0)), mode="reflect")
    return Image.fromarray(padded)


def spread_order(boxes: Sequence[Box]) -> list[int]:
    """Return an order of the views whose beginning is spread over the image.

    It starts at the view closest to the centre. Each further view is the one farthest from those
    before it.
    """
    edges = np.array(boxes, dtype=np.float64)
    centres = (edges[:, :2] + edges[:, 2:]) / 2
    middle = (centres.min(axis=0) + centres.max(axis=0)) / 2
    order = [int(np.linalg.norm(centres - middle, axis=1).argmin())]
    distance = np.full(len(boxes), np.inf)
    while len(order) < len(boxes):
        distance = np.minimum(distance, np.linalg.norm(centres - centres[order[-1]], axis=1))
        distance[order] = -1
        order.append(int(distance.argmax()))
    return order


def padding_box(box: Box, size: tuple[int, int]) -> Box:
    """Return where [`crop_view`] puts the pixels of `box` in the view."""
    width, height = box[2] - box[0], box[3] - box[1]
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height


def tile_boxes(boxes: Sequence[Box]) -> list[Box]:
    """Return disjoint parts of the views' union, one for each: overlaps are cut in the middle."""
    columns = _cuts([(box[0], box[2]) for box in boxes])
    rows = _cuts([(box[1], box[3]) for box in boxes])
    tiles = []
    for left, top, right, bottom in boxes:
        across, down = columns[left, right], rows[top, bottom]
        tiles.append((across[0], down[0], across[1], down[1]))
    return tiles


def _cuts(spans: Sequence[tuple[int, int]]) -> dict[tuple[int, int], tuple[int, int]]:
    """Return `{span: span without overlaps}` along one axis."""
    ordered = sorted(set(spans))
    edges = [list(span) for span in ordered]
    for before, after in zip(edges, edges[1:]):
        if after[0] < before[1]:
            before[1] = after[0] = (before[1] + after[0]) // 2
    return {span: (start, stop) for span, (start, stop) in zip(ordered, edges)}


def overlaps(boxes: Sequence[Box]) -> np.ndarray:
    """Return the overlap of each pair of views as a share of a view, `(n, n)`."""
    edges = np.array(boxes, dtype=np.float64)
    low = np.maximum(edges[:, None, :2], edges[None, :, :2])
    high = np.minimum(edges[:, None, 2:], edges[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = np.diag(shared)
    return shared / np.sqrt(areas[:, None] * areas[None, :])


def neighbours(boxes: Sequence[Box]) -> list[tuple[int, int]]:
    """Return the pairs of views that are next to each other in a row or column of the grid."""
    columns = {left: index for index, left in enumerate(sorted({box[0] for box in boxes}))}
    rows = {top: index for index, top in enumerate(sorted({box[1] for box in boxes}))}
    places = [(columns[box[0]], rows[box[1]]) for box in boxes]
    return [
        (first, second)
        for first, (x, y) in enumerate(places)
        for second, (u, v) in enumerate(places)
        if (u - x, v - y) in ((1, 0), (0, 1))
    ]
