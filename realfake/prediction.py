"""What the detector answers: a prediction for an image, and the map that explains it."""

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


@dataclass(frozen=True)
class Prediction:
    """What the detector says of one image.

    Attributes:
        label: `"real"` or `"ai"`, whichever is the more probable under `prior_ai`.
        probabilities: `{"real": p, "ai": 1 - p}` under `prior_ai`, by Bayes' rule, where the checkpoint is calibrated.
        verdict: `"real"`, `"ai"` or `"inconclusive"`, at the error rate `alpha`. It does not move with `prior_ai`: the
            thresholds bound the errors within each class, whatever the share of the classes.
        log_odds: Log-odds of `ai` at equal odds beforehand, from which label, probabilities and verdict follow.
        alpha: The stated rate of wrong verdicts among the images of a class, or `None` where the checkpoint stores no
            thresholds; the verdict is then the more probable label at equal odds.
        reason: Why the verdict is inconclusive: `"between"` (the margin is one that images of both classes have, or
            neither), `"novel"` (the image is unlike those that the checkpoint was calibrated on) or `"unstable"` (its
            verdict flips when the image is recompressed, resized or cropped, see `Detector.stability`). `None`
            beside any other verdict.
        ood: Share of calibration images that are at least as unusual as this one, or `None` where the checkpoint
            stores no statistics of them.
        prior_ai: The share of `ai` images that was expected beforehand.
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
    """Where in an image the evidence lies.

    Attributes:
        heatmap: Float32 array of shape `(height, width)` of the upright image, positive where the image speaks for
            `target`, negative where it speaks against it, NaN where the model did not look.
        method: The attribution method.
        target: `"real"` or `"ai"`.
        prediction: The prediction that is explained.
        image: The upright image.
        details: What the method reports of itself, such as the completeness gap of integrated gradients.
        evidence: What became of the score when the map's strongest part was taken away, or `None` where that was not
            asked for; see `realfake.attribution.faithfulness`.
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
        """Draw the map over the image, with a legend that says where the map is not to be relied on.

        Args:
            opacity: Of the strongest colour, 0 to 1.
            regions: How many of the strongest regions are outlined, *defaults to* none.
            smooth: How much the drawing is smoothed, as in [`~realfake.attribution.overlay.overlay`], *defaults to* a little; 0
                draws the map as it is. `heatmap` and all that is measured of it stay as they are.
        """
        from realfake.attribution.overlay import SMOOTH, caveats, overlay

        outlined = self.regions(regions) if regions else ()
        notes = caveats(self.details, self.evidence)
        smooth = SMOOTH if smooth is None else smooth
        return overlay(
            self.image,
            self.heatmap,
            self.target,
            opacity,
            regions=outlined,
            notes=notes,
            smooth=smooth,
        )

    def regions(self, n: int = 3) -> "list[EvidenceRegion]":
        """Find the regions that hold the most evidence for the target, the strongest first: boxes, shares, outlines."""
        from realfake.attribution.regions import strongest_regions

        return strongest_regions(self.heatmap, n)


ORIGINAL = "original"
# name -> what is done to the image; each a degradation that evaluations report on.
VARIANTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    ORIGINAL: GRID["clean"],
    "messenger": GRID["resize_768_jpeg_60"],
    "half_size": GRID["half_size"],
    "crop": GRID["crop_60"],
}


@dataclass(frozen=True)
class Stability:
    """What the detector says of an image and of its variants.

    Attributes:
        variants: `[(name, prediction)]`, the image as it is first, under `"original"`. A variant that leaves too few
            pixels to judge is not among them.
    """

    variants: list[tuple[str, Prediction]]

    @property
    def flips(self) -> bool:
        """Whether two variants get opposite verdicts. One that is inconclusive is opposed to none."""
        return {REAL, AI} <= {prediction.verdict for _, prediction in self.variants}

    @property
    def verdict(self) -> str:
        """`"inconclusive"` if the verdict flips, else the original's."""
        return INCONCLUSIVE if self.flips else self.variants[0][1].verdict

    @property
    def reason(self) -> str | None:
        """Why the verdict is inconclusive, as in [`Prediction`]; the original's own reason comes first."""
        own = self.variants[0][1].reason
        return "unstable" if self.flips and own is None else own


def variants_of(image: Image.Image) -> dict[str, Image.Image]:
    """Make the variants of an upright RGB image, without those too small to judge: `{name: image}`."""
    made = {name: change(image) for name, change in VARIANTS.items()}
    return {name: variant for name, variant in made.items() if min(variant.size) >= LIMITS.min_side}
