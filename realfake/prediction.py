"""What the detector answers: a prediction for an image, and the map that explains it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from .attribution.faithfulness import Evidence
    from .attribution.regions import EvidenceRegion


@dataclass(frozen=True)
class Prediction:
    """What the detector says of one image.

    Attributes:
        label: `"real"` or `"ai"`, whichever is the more probable under `prior_ai`.
        probabilities: `{"real": p, "ai": 1 - p}` under `prior_ai`, by Bayes' rule, where the checkpoint is calibrated.
        verdict: `"real"`, `"ai"` or `"inconclusive"`, at the error rate `alpha`. It does not move with `prior_ai`: the
            thresholds bound the errors within each class, whatever the share of the classes.
        margin: Log-odds of `ai` at equal odds beforehand, from which label, probabilities and verdict follow.
        alpha: The stated rate of wrong verdicts among the images of a class, or `None` where the checkpoint stores no
            thresholds; the verdict is then the more probable label at equal odds.
        reason: Why the verdict is inconclusive: `"between"` (the margin is one that images of both classes have, or
            neither), `"novel"` (the image is unlike those that the checkpoint was calibrated on) or `"unstable"` (its
            verdict flips when the image is recompressed, resized or cropped, see `Detector.stability`). `None`
            beside any other verdict.
        novelty: Share of calibration images that are at least as unusual as this one, or `None` where the checkpoint
            stores no statistics of them.
        prior_ai: The share of `ai` images that was expected beforehand.
    """

    label: str
    probabilities: dict[str, float]
    verdict: str
    margin: float
    alpha: float | None = None
    reason: str | None = None
    novelty: float | None = None
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

    def overlay(self, opacity: float = 0.5, regions: int = 0, smooth: float | None = None) -> Image.Image:
        """Draw the map over the image, with a legend that says where the map is not to be relied on.

        Args:
            opacity: Of the strongest colour, 0 to 1.
            regions: How many of the strongest regions are outlined, *defaults to* none.
            smooth: How much the drawing is smoothed, as in [`~realfake.attribution.overlay.overlay`], *defaults to* a little; 0
                draws the map as it is. `heatmap` and all that is measured of it stay as they are.
        """
        from .attribution.overlay import SMOOTH, caveats, overlay

        outlined = self.regions(regions) if regions else ()
        notes = caveats(self.details, self.evidence)
        smooth = SMOOTH if smooth is None else smooth
        return overlay(
            self.image, self.heatmap, self.target, opacity, regions=outlined, notes=notes, smooth=smooth
        )

    def regions(self, n: int = 3) -> "list[EvidenceRegion]":
        """Find the regions that hold the most evidence for the target, the strongest first: boxes, shares, outlines."""
        from .attribution.regions import strongest_regions

        return strongest_regions(self.heatmap, n)
