"""What the page and its API do with an image: judge it, map the evidence, redraw the map.

Functions of a detector and plain values, between the widgets of `page` and the detector. A file that cannot be used
becomes a message with advice; an unforeseen failure becomes a general one, and its traceback goes to the log alone.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from uuid import uuid4

import gradio as gr
import numpy as np

from ..detector import Detector, Explanation
from ..labels import AI
from . import render, text

logger = logging.getLogger(__name__)

# The map is drawn, kept for the opacity slider and sent to the browser at no more than this many pixels a side.
MAP_SIDE = 1024


class Handlers:
    """The page's answers, given by one detector."""

    def __init__(self, detector: Detector):
        self.detector = detector
        self.calibrated = render.is_calibrated(detector.facts)

    def analyse(
        self, current: dict, path: str | None, method: str, target: str, opacity: float
    ) -> Iterator[tuple]:
        """Answer for the image in the drop area: first the verdict, then the map.

        Args:
            current: The session's record of what lies in the drop area, see [`begin`]. Once it is another image
                nothing more is said of this one.
            path: The uploaded file; `None` once it was taken away.
            method: Attribution method.
            target: `"real"` or `"ai"`.
            opacity: Of the map, in percent.

        Yields:
            The verdict's HTML, the map, the note under it, and the `Explanation` to keep for redrawing.
        """
        if current.get("path") != path:
            return
        if path is None:
            yield _blank()
            return
        answer, usable = self._judge(path)
        if current.get("path") != path:
            return
        yield answer, *(_drawing() if usable else _blank()[1:])
        if usable:
            mapped = self.remap(current, path, method, target, opacity)
            if current.get("path") == path:
                yield answer, *mapped

    def _judge(self, path: str) -> tuple[str, bool]:
        try:
            return render.verdict(self.detector.predict(path), self.calibrated), True
        except (ValueError, OSError) as error:
            return render.problem(render.reason(error, path), text.PROBLEM_ADVICE), False
        except Exception:
            logger.exception("The detector failed on an upload")
            return render.problem(text.UNEXPECTED, text.UNEXPECTED_ADVICE), False

    def remap(self, current: dict, path: str | None, method: str, target: str, opacity: float) -> tuple:
        """Compute the map anew, for another method or target.

        Returns:
            The map, the note under it, and the `Explanation` to keep.
        """
        if path is None or current.get("path") != path:
            return gr.skip(), gr.skip(), gr.skip()
        drawn = self._draw(path, method, target, opacity)
        return drawn if current.get("path") == path else (gr.skip(), gr.skip(), gr.skip())

    def _draw(self, path: str, method: str, target: str, opacity: float) -> tuple:
        try:
            explanation = bounded(self.detector.explain(path, method=method, target=target))
            drawn = explanation.overlay(opacity / 100)
        except (ValueError, OSError) as error:
            message = text.MAP_FAILED.format(reason=render.reason(error, path))
            return _picture(None), render.map_note(message), None
        except Exception:
            logger.exception("The map of an upload could not be drawn by %s", method)
            return _picture(None), render.map_note(text.MAP_UNEXPECTED), None
        note = render.map_note(text.MAP_NOTE.format(target=text.TARGETS[target]))
        return _picture(drawn, explanation), note, explanation

    def predict(self, image: str | None) -> dict:
        """Tell a photograph from an AI-generated image.

        Returns the verdict ("real", "ai" or "inconclusive"), the more probable label, the probabilities of both
        labels, the log-odds of "ai", and the detector's name and revision.
        """
        with _one_line_for_the_client(image):
            return self._as_json(self.detector.predict(image))

    def explain(
        self, image: str | None, method: str = "gradcam", target: str = AI, opacity: float = 0.5
    ) -> tuple:
        """Draw the evidence for a label over an image.

        Returns the picture, at most 1024 pixels a side, and the prediction it explains.
        """
        with _one_line_for_the_client(image):
            explanation = bounded(self.detector.explain(image, method=method, target=target))
            return explanation.overlay(opacity), self._as_json(explanation.prediction)

    def _as_json(self, prediction) -> dict:
        return {
            "verdict": prediction.verdict,
            "label": prediction.label,
            "probabilities": prediction.probabilities,
            "margin": prediction.margin,
            "model": self.detector.name,
            "revision": self.detector.revision,
        }


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
    cleared = _blank() if path is None else (render.waiting(), *_drawing())
    return *cleared, uuid4().hex


def recolour(explanation: Explanation | None, opacity: float):
    """Redraw the map at another opacity, from the kept attribution: the model does not run."""
    if explanation is None:
        return gr.skip()
    return _picture(explanation.overlay(opacity / 100), explanation)


def bounded(explanation: Explanation, side: int = MAP_SIDE) -> Explanation:
    """Shrink an explanation's image and map to at most `side` pixels, so that a kept one costs a few megabytes."""
    width, height = explanation.image.size
    scale = side / max(width, height)
    if scale >= 1:
        return explanation
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # The nearest value keeps NaN, which marks what the model did not look at, from spreading.
    rows = (np.arange(size[1]) + 0.5) * height // size[1]
    columns = (np.arange(size[0]) + 0.5) * width // size[0]
    heatmap = explanation.heatmap[rows.astype(int)][:, columns.astype(int)]
    return replace(explanation, image=explanation.image.resize(size), heatmap=heatmap)


@contextmanager
def _one_line_for_the_client(path: str | None):
    if path is None:
        raise gr.Error(text.NO_IMAGE, print_exception=False)
    try:
        yield
    except (ValueError, OSError) as error:
        raise gr.Error(render.reason(error, path), print_exception=False) from error
    except Exception as error:
        logger.exception("An API call failed")
        raise gr.Error(text.UNEXPECTED, print_exception=False) from error


def _blank() -> tuple:
    return render.empty(), _picture(None), render.map_note(text.MAP_EMPTY), None


def _drawing() -> tuple:
    return _picture(None), render.map_note(text.MAP_WAITING, waiting=True), None


def _picture(drawn, explanation: Explanation | None = None):
    alt = text.MAP_EMPTY
    if explanation is not None:
        method = text.METHODS.get(explanation.method, explanation.method)
        alt = text.MAP_ALT.format(target=text.TARGETS[explanation.target], method=method)
    return gr.update(value=drawn, alt_text=alt)
