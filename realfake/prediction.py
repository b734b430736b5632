"""The results of a detector: predictions, explanations and stability, as immutable records."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from realfake.imaging.decode import LIMITS
from realfake.imaging.degradations import GRID
from realfake.labels import AI, REAL
from realfake.models.views import Box, tile_boxes
from realfake.statistics.verdicts import INCONCLUSIVE

if TYPE_CHECKING:
    from realfake.attribution.faithfulness import Evidence
    from realfake.attribution.overlay import EvidenceRegion

ORIGINAL = "original"
# Variants of an image for `Detector.stability`; evaluations report on the same degradations.
VARIANTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    ORIGINAL: GRID["clean"],
    "messenger": GRID["resize_768_jpeg_60"],
    "half_size": GRID["half_size"],
    "crop": GRID["crop_60"],
}


class Scores(NamedTuple):
    """What the verdicts on `n` images follow from; the arguments of `Detector.verdicts`.

    Attributes:
        log_odds: (n,) float64 log-odds of `ai`, each the mean over the views of an image.
        ood: (n,) float64 out-of-distribution p-values, each the median over the views; `None` if
            the checkpoint stores no statistics.
        n_views: (n,) int numbers of views; `None` means one each.
        contrast: (n,) float64, how much a part of each image differs from the rest, see
            `statistics/contrast.py`; NaN for fewer than three views.
    """

    log_odds: np.ndarray
    ood: np.ndarray | None = None
    n_views: np.ndarray | None = None
    contrast: np.ndarray | None = None


@dataclass(frozen=True)
class View:
    """A part of an image that went through the model.

    Attributes:
        box: `(left, top, right, bottom)` in pixels of the upright image.
        log_odds: Its log-odds of `ai`.
        ood: Its out-of-distribution p-value; `None` if the checkpoint stores no statistics.
    """

    box: Box
    log_odds: float
    ood: float | None = None


@dataclass(frozen=True)
class Tile:
    """A part of an image and its share of the image's log-odds.

    The tiles of an image do not overlap, and their shares add up to the log-odds.

    Attributes:
        box: `(left, top, right, bottom)` in pixels of the upright image.
        share: Log-odds of the tile's view, divided by the number of views. Positive for `ai`.
    """

    box: Box
    share: float


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
        label: The label with the larger probability, `"real"` or `"ai"`.
        probabilities: `{"real": p, "ai": 1 - p}` given `prior_ai`, by Bayes' rule.
        verdict: `"real"`, `"ai"` or `"inconclusive"`, at the error rate `alpha`. It does not depend
            on `prior_ai`: the thresholds bound the errors within each class.
        log_odds: Log-odds of `ai` for equal priors; the other fields follow from it.
        alpha: Largest rate of wrong verdicts among the images of a class; `None` if the checkpoint
            stores no thresholds. The verdict is then the label for equal priors.
        reason: Why the verdict is inconclusive, otherwise `None`:

            - `"between"`: the log-odds are common in both classes, or in neither.
            - `"no_thresholds"`: the checkpoint has no threshold for this label, because there were
              too few calibration images.
            - `"out_of_distribution"`: the image is unlike the calibration images.
            - `"differing"`: the whole image looks like a photograph, but a part of it differs.
            - `"unstable"`: the verdict changes if the image is recompressed, resized or cropped,
              see `Detector.stability`.
        ood: Out-of-distribution p-value: the share of calibration images that are at least as
            unusual; `None` if the checkpoint stores no statistics. The median over the views.
        prior_ai: Expected share of `ai` images.
        views: The views of the image, row by row. `log_odds` is the mean of theirs.
        examined: Share of the image's area that the views cover, 0 to 1.
        differing: Indices of the views that differ from the rest, towards `ai`, more than in
            calibration photographs; `None` if none do.
        ood_share: Share of the views that are unlike the calibration images; `None` if the
            checkpoint stores no statistics.
    """

    label: str
    probabilities: dict[str, float]
    verdict: str
    log_odds: float
    alpha: float | None = None
    reason: str | None = None
    ood: float | None = None
    prior_ai: float = 0.5
    views: tuple[View, ...] = ()
    examined: float = 1.0
    differing: tuple[int, ...] | None = None
    ood_share: float | None = None

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """The part of the image that each view stands for, and its share of the log-odds."""
        boxes = tile_boxes([view.box for view in self.views])
        n = len(self.views)
        return tuple(
            Tile(box, view.log_odds / n) for box, view in zip(boxes, self.views, strict=True)
        )

    @property
    def strongest(self) -> View | None:
        """The view with the most evidence for `ai`."""
        return max(self.views, key=lambda view: view.log_odds, default=None)


@dataclass(frozen=True)
class Explanation:
    """A map of the evidence in an image.

    Attributes:
        heatmap: Float32 `(height, width)` of the upright image: positive for evidence for `target`,
            negative for evidence against it, NaN where the model does not see the image.
        method: The attribution method.
        target: `"real"` or `"ai"`.
        prediction: The explained prediction.
        image: The upright image.
        details: Details of the method, such as the completeness gap of integrated gradients.
        evidence: The test of the map (`realfake.attribution.faithfulness`); `None` if not
            requested.
    """

    heatmap: np.ndarray
    method: str
    target: str
    prediction: Prediction
    image: Image.Image = field(repr=False)
    details: dict = field(default_factory=dict)
    evidence: "Evidence | None" = None

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """[`Prediction.tiles`] of the explained prediction: evidence that adds up."""
        return self.prediction.tiles

    def overlay(
        self, opacity: float = 0.5, regions: int = 0, smooth: float | None = None
    ) -> Image.Image:
        """Draw the map over the image, with a legend and the map's caveats.

        Args:
            opacity: Opacity of the strongest colour, 0 to 1.
            regions: Number of strongest regions to outline.
            smooth: Smoothing for display, see [`~realfake.attribution.overlay.overlay`]. 0 draws
                the unchanged map.
        """
        from realfake.attribution.overlay import SMOOTH, caveats, overlay

        return overlay(
            self.image,
            self.heatmap,
            self.target,
            opacity,
            regions=self.regions(regions) if regions else (),
            notes=caveats(self.details, self.evidence),
            smooth=SMOOTH if smooth is None else smooth,
        )

    def regions(self, n: int = 3) -> "list[EvidenceRegion]":
        """Find the regions with the most evidence for the target, the strongest first."""
        from realfake.attribution.overlay import strongest_regions

        return strongest_regions(self.heatmap, n)


@dataclass(frozen=True)
class Stability:
    """The predictions for an image and its variants.

    Attributes:
        variants: `[(name, prediction)]`, beginning with the unchanged image, `"original"`. Variants
            too small for a prediction are missing.
    """

    variants: list[tuple[str, Prediction]]

    @property
    def flips(self) -> bool:
        """Whether one variant's verdict is `"real"` and another's is `"ai"`."""
        return {REAL, AI} <= {prediction.verdict for _, prediction in self.variants}

    @property
    def verdict(self) -> str:
        """`"inconclusive"` if the verdict flips, otherwise the original's verdict."""
        return INCONCLUSIVE if self.flips else self.variants[0][1].verdict

    @property
    def reason(self) -> str | None:
        """Why the verdict is inconclusive; the original's reason takes precedence."""
        original = self.variants[0][1].reason
        return "unstable" if self.flips and original is None else original


def variants_of(image: Image.Image) -> dict[str, Image.Image]:
    """Return the variants of an upright RGB image, except those too small for a prediction."""
    variants = {name: change(image) for name, change in VARIANTS.items()}
    return {name: each for name, each in variants.items() if min(each.size) >= LIMITS.min_side}
