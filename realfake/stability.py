"""Does the verdict survive a trip through the web? The same image recompressed, halved and cropped, judged beside itself.

Stands beside [`Detector.stability`], so that command line, API and page say the same.
"""

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from .imaging.degradations import GRID
from .imaging.images import LIMITS
from .labels import AI, REAL
from .prediction import Prediction
from .statistics.conformal import INCONCLUSIVE

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
