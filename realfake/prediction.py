"""The results of a detector: predictions, explanations and stability, as immutable records."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from realfake.imaging.decode import LIMITS
from realfake.imaging.degradations import GRID
from realfake.labels import AI, REAL
from realfake.statistics.verdicts import INCONCLUSIVE

if TYPE_CHECKING:
    from realfake.attribution.faithfulness import Evidence
    from realfake.attribution.regions import EvidenceRegion

ORIGINAL = "original"
# Variants of an image for `Detector.stability`; evaluations report on the same degradations.
VARIANTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    ORIGINAL: GRID["clean"],
    "messenger": GRID["resize_768_jpeg_60"],
    "half_size": GRID["half_size"],
    "crop": GRID["crop_60"],
}


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
            - `"unstable"`: the verdict changes if the image is recompressed, resized or cropped,
              see `Detector.stability`.
        ood: Out-of-distribution p-value: the share of calibration images that are at least as
            unusual; `None` if the checkpoint stores no statistics.
        prior_ai: Expected share of `ai` images.
    """

    label: str
    probabilities: dict[str, float]
    verdict: str
    log_odds: float
    alpha: float | None = None
    reason: str | None = None
    ood: float | None = None
    prior_ai: float = 0.5


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
        from realfake.attribution.regions import strongest_regions

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
