"""For tests of the page: a detector with fixed answers, hostile text, and the text of HTML."""

import re
from dataclasses import dataclass, field
from html import unescape

import numpy as np
from PIL import Image

from realfake.attribution.faithfulness import Evidence
from realfake.labels import AI, REAL
from realfake.prediction import VARIANTS, Explanation, Prediction, Stability, View
from realfake.space.handlers import at_prior

FACTS = {
    "corpus": "scenes",
    "preprocessing": "native",
    "image_size": 288,
    "calibration": {"method": "temperature_bias", "n": 2400, "folded": True},
    "thresholds": {"alpha": 0.05, "real": -1.0, "ai": 1.0, "n": {"real": 900, "ai": 900}},
}
HOSTILE = "<img src=x onerror=alert(1)>${alert(2)}{{constructor}}`'\""


def prediction(
    p_ai: float = 0.9, verdict: str = AI, size: tuple[int, int] = (60, 40), **more
) -> Prediction:
    """A prediction with this probability of AI for an image of this size, in two views."""
    label = AI if p_ai > 0.5 else REAL
    log_odds = float(np.log(p_ai / (1 - p_ai)))
    width, height = size
    views = (
        View((0, 0, width // 2, height), log_odds + 3),
        View((width // 2, 0, width, height), log_odds - 3),
    )
    return Prediction(
        label,
        {REAL: 1 - p_ai, AI: p_ai},
        verdict,
        log_odds,
        **{"alpha": 0.05, "views": views, **more},
    )


@dataclass
class FakeDetector:
    """Gives every image the same answer, notes its maps, and raises `failure` if there is one."""

    facts: object = field(default_factory=lambda: FACTS)
    name: str = "user/model"
    revision: str | None = "0123456789abcdef"
    failure: Exception | None = None
    map_failure: Exception | None = None
    explained: list = field(default_factory=list)
    variants: tuple = ((0.9, AI), (0.8, AI), (0.6, "inconclusive"), (0.95, AI))
    # The answer for the original, instead of the first variant.
    found: Prediction | None = None
    explanation_method: str = "gradcam"
    views: int = 1

    def predict(self, images, batch_size=16, prior_ai=0.5, views=None):
        if self.failure:
            raise self.failure
        if isinstance(images, list):
            return [self.predict(image, prior_ai=prior_ai) for image in images]
        size = getattr(images, "size", (60, 40))
        return at_prior(self.found or prediction(*self.variants[0], size=size), prior_ai)

    def stability(self, image, prior_ai=0.5, views=None, original=None):
        if self.failure:
            raise self.failure
        original = original or self.predict(image, prior_ai=prior_ai)
        names = list(VARIANTS)[1 : len(self.variants)]
        copies = [
            at_prior(prediction(*each, size=image.size), prior_ai) for each in self.variants[1:]
        ]
        return Stability([("original", original), *zip(names, copies, strict=True)])

    def explain(self, image, method="gradcam", target=AI, evidence=False):
        if self.failure or self.map_failure:
            raise self.failure or self.map_failure
        self.explained.append((method, target))
        heatmap = np.linspace(-1, 1, 40 * 60, dtype=np.float32).reshape(40, 60)
        tested = Evidence(target, 0.1, 0.9, 0.3, (0.8, 0.85, 0.8, 0.9, 0.8)) if evidence else None
        image = Image.new("RGB", (60, 40), "gray")
        return Explanation(heatmap, method, target, prediction(), image, evidence=tested)


class Norwegian:
    """A request from a browser that asks for Norwegian."""

    headers = {"accept-language": "nb-NO,nb;q=0.9,en;q=0.8"}


def shown(html: str) -> str:
    """The text of HTML."""
    return re.sub(r"[ \n]+", " ", unescape(re.sub(r"<[^>]+>", " ", html))).strip()


def markup_in(html: str) -> set[str]:
    """Return the parts of [`HOSTILE`] that became markup or that Gradio would evaluate."""
    return {part for part in ("<img", "{", "}", "$", "`") if part in html}
