"""What the first tab does with an image: judge it, map the evidence, test it, read its file, keep the answer.

Functions of a detector and plain values, between the widgets of `check` and the detector. A file that cannot be used becomes a
message with advice; an unforeseen failure becomes a general one, and its traceback goes to the log alone.
"""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import gradio as gr
import numpy as np
from PIL import Image
from scipy.special import expit

from realfake.answer import read_once
from realfake.detector import Detector
from realfake.labels import AI, REAL
from realfake.prediction import Explanation, Prediction, Stability
from realfake.provenance.reading import Provenance, read_provenance
from realfake.space import about, render
from realfake.space.localised import marker
from realfake.space.text import Words
from realfake.statistics.verdicts import with_prior

logger = logging.getLogger(__name__)

# The map is drawn, kept for the opacity slider and sent to the browser at no more than this many pixels a side.
MAP_SIDE = 1024
REGIONS = 3


@dataclass(frozen=True, eq=False)
class Checked:
    """All that was found out about an image, kept while the visitor looks at it.

    Attributes:
        name: The file's name.
        sha256: Of the file's bytes.
        size: Width and height of the upright image.
        image: The upright image, no larger than the map.
        date: When it was judged.
        prediction: At equal odds beforehand, its verdict withheld where it flips.
        stability: The variants, or `None` where they could not be judged.
        provenance: `None` where the metadata could not be read.
        explanation: No larger than the map; `None` until there is one.
    """

    name: str
    sha256: str
    size: tuple[int, int]
    image: Image.Image
    date: datetime
    prediction: Prediction
    stability: Stability | None = None
    provenance: Provenance | None = None
    explanation: Explanation | None = None


class Handlers:
    """The page's answers, given by one detector."""

    def __init__(self, detector: Detector):
        self.detector = detector
        self.calibrated = about.is_calibrated(detector.facts)

    def analyse(
        self,
        current: dict,
        path: str | None,
        method: str,
        target: str,
        opacity: float,
        prior: float,
        request: gr.Request | None = None,
    ) -> Iterator[tuple]:
        """Answer for the image in the drop area: the verdict, what its file says, then the map.

        Whether the verdict holds when the image is changed is found out with it, in one batch: a verdict that is taken back
        a second later would be worse than one that comes a moment later.

        Args:
            current: The session's record of what lies in the drop area, see [`begin`]. Once it is another image nothing more
                is said of this one.
            path: The uploaded file; `None` once it was taken away.
            method: Attribution method.
            target: `"real"` or `"ai"`.
            opacity: Of the map, in percent.
            prior: Share of AI-generated images expected beforehand, in percent.

        Yields:
            The verdict, the map, the note under it, stability and provenance as HTML, and the `Checked` to keep.
        """
        if current.get("path") != path:
            return
        if path is None:
            yield blank()
            return
        words = language(request)
        checked, verdict, stability, provenance = self._judge(words, path, prior / 100)
        if current.get("path") != path:
            return
        if checked is None:
            yield verdict, *blank()[1:]
            return
        yield verdict, *_drawing(), stability, provenance, checked
        picture, note, checked = self._draw(words, checked, path, method, target, opacity)
        if current.get("path") == path:
            yield gr.skip(), picture, note, gr.skip(), gr.skip(), checked

    def _judge(self, words: Words, path: str, prior_ai: float) -> tuple:
        try:
            decoded, data = read_once(path)
            found, stable = judge(self.detector, decoded)
        except (ValueError, OSError) as error:
            return None, _problem(words, render.reason(error, path)), None, None
        except Exception:
            logger.exception("The detector failed on an upload")
            return None, _problem(words), None, None
        checked = Checked(
            Path(path).name,
            hashlib.sha256(data).hexdigest(),
            decoded.size,
            shrunk(decoded),
            datetime.now(UTC),
            found,
            None if isinstance(stable, str) else stable,
            _provenance(data),
        )
        verdict, stability = self._said(words, checked, prior_ai)
        if isinstance(stable, str):
            stability = render.stability_failed(words, stable)
        if checked.provenance is None:
            return checked, verdict, stability, render.provenance_failed(words)
        return checked, verdict, stability, render.provenance(words, checked.provenance)

    def _said(self, words: Words, checked: Checked, prior_ai: float) -> tuple[str, str | None]:
        """The verdict and stability cards under a prior."""
        verdict = render.verdict(words, at_prior(checked.prediction, prior_ai), self.calibrated)
        if checked.stability is None:
            return verdict, None
        variants = [
            (name, at_prior(prediction, prior_ai))
            for name, prediction in checked.stability.variants
        ]
        return verdict, render.stability(words, replace(checked.stability, variants=variants))

    def reprior(
        self, checked: Checked | None, prior: float, request: gr.Request | None = None
    ) -> tuple:
        """Word the answer under another prior, in percent. The model does not run."""
        if checked is None:
            return gr.skip(), gr.skip()
        verdict, stability = self._said(language(request), checked, prior / 100)
        return verdict, gr.skip() if stability is None else stability

    def remap(
        self,
        current: dict,
        path: str | None,
        method: str,
        target: str,
        opacity: float,
        checked: Checked | None,
        request: gr.Request | None = None,
    ) -> tuple:
        """Compute the map anew, for another method or target.

        Returns:
            The map, the note under it, and the `Checked` to keep.
        """
        if path is None or checked is None or current.get("path") != path:
            return gr.skip(), gr.skip(), gr.skip()
        drawn = self._draw(language(request), checked, path, method, target, opacity)
        return drawn if current.get("path") == path else (gr.skip(), gr.skip(), gr.skip())

    def _draw(
        self, words: Words, checked: Checked, path: str, method: str, target: str, opacity: float
    ) -> tuple:
        without = replace(checked, explanation=None)
        try:
            explanation = self.detector.explain(path, method=method, target=target, evidence=True)
            explanation = bounded(explanation)
            note = render.map_evidence(words, explanation, explanation.regions(REGIONS))
            return (
                _picture(words, explanation, opacity),
                note,
                replace(checked, explanation=explanation),
            )
        except (ValueError, OSError) as error:
            message = words("map.failed", reason=render.reason(error, path))
        except Exception:
            logger.exception("The map of an upload could not be drawn by %s", method)
            message = words("map.unexpected")
        return gr.update(value=None), render.map_note(message), without


def judge(detector: Detector, decoded: Image.Image) -> tuple[Prediction, Stability | str]:
    """Judge an image and its changed copies: the verdict that all tabs show.

    Returns:
        The prediction with its final verdict, and the `Stability`, or why there is none: an image can be judged as it is
        and too small to be halved.
    """
    try:
        stable = detector.stability(decoded)
    except (ValueError, OSError) as error:
        return detector.predict(decoded), render.reason(error, "")
    return replace(stable.variants[0][1], verdict=stable.verdict, reason=stable.reason), stable


def begin(current: dict, path: str | None) -> tuple:
    """Clear the previous answer the moment the image changes, so that none stands beside another image.

    Args:
        current: The session's record of what lies in the drop area, written here for the answers on their way to
            read: the browser's request to cancel one does not always arrive in time.
        path: What lies there now.

    Returns:
        What [`Handlers.analyse`] yields, and a value that never comes twice, whose change starts it: also for an
        image that was taken away and dropped again before anything was said of it.
    """
    current["path"] = path
    if path is None:
        return *blank(), uuid4().hex
    _, _, _, stability, provenance, _ = blank()
    return marker("html.waiting"), *_drawing(), stability, provenance, None, uuid4().hex


def recolour(checked: Checked | None, opacity: float, request: gr.Request | None = None):
    """Redraw the map at another opacity, from the kept attribution: the model does not run."""
    if checked is None or checked.explanation is None:
        return gr.skip()
    return _picture(language(request), checked.explanation, opacity)


def at_prior(prediction: Prediction, prior_ai: float) -> Prediction:
    """Move a prediction to another prior by Bayes' rule, as `Detector.predict(prior_ai=…)` gives it."""
    log_odds = float(with_prior(prediction.log_odds, prior_ai))
    return replace(
        prediction,
        label=AI if log_odds > 0 else REAL,
        probabilities={REAL: float(expit(-log_odds)), AI: float(expit(log_odds))},
        prior_ai=prior_ai,
    )


def bounded(explanation: Explanation, side: int = MAP_SIDE) -> Explanation:
    """Shrink an explanation's image and map to at most `side` pixels, so that a kept one costs a few megabytes."""
    width, height = explanation.image.size
    image = shrunk(explanation.image, side)
    if image.size == (width, height):
        return explanation
    # The nearest value keeps NaN, which marks what the model did not look at, from spreading.
    rows = (np.arange(image.height) + 0.5) * height // image.height
    columns = (np.arange(image.width) + 0.5) * width // image.width
    heatmap = explanation.heatmap[rows.astype(int)][:, columns.astype(int)]
    return replace(explanation, image=image, heatmap=heatmap)


def shrunk(image: Image.Image, side: int = MAP_SIDE) -> Image.Image:
    """At most `side` pixels a side."""
    scale = side / max(image.size)
    if scale >= 1:
        return image
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def language(request: gr.Request | None) -> Words:
    """The words for whoever asks."""
    return Words.asked_for(request.headers.get("accept-language") if request else None)


def blank() -> tuple:
    """What [`Handlers.analyse`] yields where there is no image, in whatever language the browser has."""
    static = [marker(f"html.{name}") for name in ("empty", "map_empty", "stability", "provenance")]
    return static[0], gr.update(value=None), *static[1:], None


def _drawing() -> tuple:
    return gr.update(value=None), marker("html.map_waiting")


def _problem(words: Words, reason: str | None = None) -> str:
    if reason is None:
        return render.problem(
            words, words("problem.unexpected"), words("problem.unexpected_advice")
        )
    return render.problem(words, reason, words("problem.advice"))


def _provenance(data: bytes) -> Provenance | None:
    try:
        return read_provenance(data)
    except (
        Exception
    ):  # a trust list that cannot be read, or a format's reader that fails: the verdict stands
        logger.exception("The metadata of an upload could not be read")
        return None


def _picture(words: Words, explanation: Explanation, opacity: float):
    method = words.named("method", explanation.method)
    alt = words("map.alt", target=words(f"label.{explanation.target}"), method=method)
    return gr.update(value=explanation.overlay(opacity / 100, regions=REGIONS), alt_text=alt)
