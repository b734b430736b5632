"""The pictures of an answer: the tile map over the whole image, and the detail inside its tiles.

The log-odds of an image are the mean over its views, so each view's share of them is exact. A tile
is the part of the image that belongs to one view. The detail is an attribution map of one method.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.special import expit

from realfake.attribution.faithfulness import Evidence
from realfake.attribution.overlay import SMOOTH, caveats, overlay
from realfake.attribution.views import FAST_METHODS, SLOW_LIMIT
from realfake.labels import AI, REAL
from realfake.prediction import Explanation, Prediction
from realfake.space.text import jpeg

# Pixels of the longer side of the pictures that are kept and sent to the browser.
MAP_SIDE = 1024
TILE_SIDE = 384
REGIONS = 3
# Work of a method for one view, in forward passes of the model. The numbers of samples are fixed,
# so they bound the time; with batches of 8 inputs, they bound the memory.
PASSES = {
    "gradcam": 3,
    "smoothgrad": 45,
    "gradient_shap": 85,
    "integrated_gradients": 160,
    "kernel_shap": 225,
    "occlusion": 245,
}
# A change of the probability that a person can see.
_VISIBLE = 0.05
# Log-odds of a part from which on its colour is the strongest.
_CLEAR = 4
# Share of a side below which a part has its number beside it.
_SMALL = 0.1
# `(left, top, right, bottom)` as shares of the image's sides.
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Tile:
    """One part of an image, and what it adds to the answer.

    Attributes:
        box: Its place.
        share: Its share of the image's log-odds of `ai`; the shares sum to them.
        weight: The size of the share relative to the sizes of all shares, 0 to 1.
        alone: Probability of `ai` of this part alone, at equal odds.
        strength: How clear this part is on its own, 0 to 1.
        differs: Whether it stands out from the rest of the image.
    """

    box: Box
    share: float
    weight: float
    alone: float
    strength: float
    differs: bool = False

    @property
    def small(self) -> bool:
        """Whether the part is too small on the page for a number inside it."""
        left, top, right, bottom = self.box
        return min(right - left, bottom - top) < _SMALL

    @property
    def label(self) -> str:
        """The label that this part speaks for."""
        return AI if self.share > 0 else REAL


def tiles_of(prediction: Prediction, size: tuple[int, int]) -> tuple[Tile, ...]:
    """Return the tiles of an image of this size, row by row."""
    views, tiles = prediction.views, prediction.tiles
    total = sum(abs(tile.share) for tile in tiles) or 1.0
    return tuple(
        Tile(
            box=_relative(tile.box, size),
            share=tile.share,
            weight=abs(tile.share) / total,
            alone=float(expit(view.log_odds)),
            strength=min(1.0, abs(view.log_odds) / _CLEAR),
            differs=index in (prediction.differing or ()),
        )
        for index, (view, tile) in enumerate(zip(views, tiles, strict=True))
    )


def _relative(box: Sequence[float], size: tuple[int, int]) -> Box:
    left, top, right, bottom = box
    width, height = size
    return left / width, top / height, right / width, bottom / height


@dataclass(frozen=True)
class Map:
    """The detail by one method.

    Attributes:
        plain: The image in grey with the outlined regions: the map at no opacity.
        coloured: The same at full opacity. A blend of the two is the map at any opacity.
        tiles: `(plain, coloured)` of each tile as JPEG, at the image's own pixels.
        regions: Place and share of the strongest regions.
        partial: Whether the detector saw only a part of the image.
        evidence: The test of the map against removing random parts.
        caveats: Warnings about the map, in English.
        file_name: Name of the file that the visitor saves.
    """

    method: str
    target: str
    plain: bytes = field(repr=False)
    coloured: bytes = field(repr=False)
    tiles: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    regions: tuple[tuple[Box, float], ...]
    partial: bool
    evidence: Evidence | None
    caveats: tuple[str, ...]
    file_name: str

    @property
    def confirmed(self) -> bool | None:
        """Whether removing the marked part has a visible effect that random parts do not have.

        `None` without a test, if the map marks nothing, or if there is nothing to remove.
        """
        tested = self.evidence
        if tested is None or not tested.share or tested.before < 2 * _VISIBLE:
            return None
        effect = tested.before - tested.after
        more = tested.random - tested.after
        return tested.beats_random and effect >= _VISIBLE and more >= _VISIBLE


def mapped_views(method: str, n_views: int) -> int:
    """Return how many views of an image a method maps."""
    return n_views if method in FAST_METHODS else min(n_views, SLOW_LIMIT)


def draw_map(explanation: Explanation, tiles: Sequence[Tile], name: str) -> Map:
    """Draw an explanation and the inside of each tile."""
    small = bounded(explanation)
    regions = small.regions(REGIONS)
    stem = Path(name).stem
    return Map(
        method=small.method,
        target=small.target,
        plain=jpeg(_drawn(small, 0.0, regions), MAP_SIDE),
        coloured=jpeg(_drawn(small, 1.0, regions), MAP_SIDE),
        tiles=tuple(
            (jpeg(part.image, TILE_SIDE), jpeg(_drawn(part, 0.6), TILE_SIDE))
            for part in (_cut(explanation, tile.box) for tile in tiles)
        ),
        regions=tuple((_relative(each.box, small.image.size), each.share) for each in regions),
        partial=bool(np.isnan(small.heatmap).any()),
        evidence=explanation.evidence,
        caveats=tuple(caveats(explanation.details)),
        file_name=f"{stem}-{explanation.method}-{explanation.target}.jpg",
    )


def _drawn(explanation: Explanation, opacity: float, regions: Sequence = ()) -> Image.Image:
    return overlay(
        explanation.image,
        explanation.heatmap,
        explanation.target,
        opacity,
        legend=False,
        regions=regions,
        smooth=SMOOTH,
    )


def _cut(explanation: Explanation, box: Sequence[float]) -> Explanation:
    width, height = explanation.image.size
    left, top, right, bottom = (
        round(edge * side) for edge, side in zip(box, (width, height, width, height))
    )
    part = replace(
        explanation,
        image=explanation.image.crop((left, top, right, bottom)),
        heatmap=explanation.heatmap[top:bottom, left:right],
    )
    return bounded(part, TILE_SIDE)


def bounded(explanation: Explanation, side: int = MAP_SIDE) -> Explanation:
    """Shrink an explanation's image and map to at most `side` pixels."""
    width, height = explanation.image.size
    if max(width, height) <= side:
        return explanation
    image = explanation.image.copy()
    image.thumbnail((side, side))
    # The nearest value keeps NaN, which marks what the model did not look at, from spreading.
    rows = ((np.arange(image.height) + 0.5) * height // image.height).astype(int)
    columns = ((np.arange(image.width) + 0.5) * width // image.width).astype(int)
    return replace(explanation, image=image, heatmap=explanation.heatmap[rows][:, columns])
