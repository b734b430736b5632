"""The page's named endpoints, for `gradio_client` and as MCP tools: predict, explain, stability, provenance.

On inputs of their own, so that their parameters read well in the documentation of the API, which is made of the docstrings here.
Every answer has the form of `realfake.answer`.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from realfake.answer import answer, compose, read_once
from realfake.attribution.methods import METHODS
from realfake.detector import Detector
from realfake.labels import AI, NAMES
from realfake.provenance.reading import read_provenance
from realfake.space.handlers import REGIONS, bounded
from realfake.space.image_input import ImageInput
from realfake.space.render import error_line
from realfake.space.text import ENGLISH

logger = logging.getLogger(__name__)


class Api:
    """The endpoints of one detector."""

    def __init__(self, detector: Detector):
        self.detector = detector

    def predict(
        self,
        image: str | None,
        prior_ai: float = 0.5,
        stability: bool = False,
        provenance: bool = False,
    ) -> dict:
        """Tell a photograph from an AI-generated image.

        The answer holds the verdict ("real", "ai" or "inconclusive", with the reason), the calibrated probabilities of both
        labels, the log-odds of "ai", the model and its revision, and the file's SHA-256. A verdict is a reason to look closer, not
        proof.

        Args:
            image: The image: a file or its URL.
            prior_ai: Share of AI-generated images expected beforehand, 0 to 1. It moves the probabilities, not the verdict.
            stability: Also judge the image recompressed, resized and cropped. A verdict that flips becomes "inconclusive".
            provenance: Also say what the file says of its origin: Content Credentials, labels, generator settings, camera data.
        """
        with _one_line_for_the_client(image):
            return answer(
                self.detector, image, prior_ai=prior_ai, stability=stability, provenance=provenance
            )

    def explain(
        self, image: str | None, method: str | None = None, target: str = AI, opacity: float = 0.5
    ) -> tuple:
        """Draw the evidence for a label over an image.

        Returns the picture, at most 1024 pixels a side, and the answer it explains, with what removing the marked part does to the
        probability, against chance, and the strongest regions.

        Args:
            image: The image: a file or its URL.
            method: How the evidence is found: gradcam, integrated_gradients, smoothgrad, gradient_shap, occlusion or kernel_shap;
                by default the one that measurements of this detector support.
            target: The label whose evidence is orange, "ai" or "real".
            opacity: Strength of the colours, 0 to 1.
        """
        with _one_line_for_the_client(image):
            decoded, data = read_once(image)
            explanation = self.detector.explain(
                decoded, method=method, target=target, evidence=True
            )
            said = compose(self.detector, explanation.prediction, decoded, data)
            evidence = explanation.evidence
            said |= {
                "method": explanation.method,
                "target": target,
                "evidence": None if evidence is None else evidence.to_dict(),
                "regions": [region.to_dict() for region in explanation.regions(REGIONS)],
            }
            return bounded(explanation).overlay(opacity, regions=REGIONS), said

    def stability(self, image: str | None, prior_ai: float = 0.5) -> dict:
        """Judge an image as it is, after a messenger's recompression, at half its size, and cropped.

        Args:
            image: The image: a file or its URL.
            prior_ai: Share of AI-generated images expected beforehand, 0 to 1.
        """
        with _one_line_for_the_client(image):
            said = answer(self.detector, image, prior_ai=prior_ai, stability=True)
            return {
                key: said[key]
                for key in ("verdict", "reason", "stability", "model", "revision", "sha256")
            }

    def provenance(self, image: str | None) -> dict:
        """Say what an image file says of its origin, by its metadata alone: Content Credentials (C2PA), IPTC's digital source type,
        settings of a generator, camera data. Absence means nothing.

        Args:
            image: The image: a file or its URL.
        """
        with _one_line_for_the_client(image):
            _, data = read_once(image)
            return read_provenance(data).to_dict()


def add_api(detector: Detector) -> None:
    """Add the endpoints, inside `gr.Blocks`."""
    api = Api(detector)
    image = ImageInput(label="image: a JPEG, PNG, WebP, … file or its URL", visible=False)
    prior = gr.Number(0.5, minimum=0, maximum=1, label="prior_ai", visible=False)
    stability = gr.Checkbox(label="stability", visible=False)
    provenance = gr.Checkbox(label="provenance", visible=False)
    method = gr.Radio(
        list(METHODS), value=detector.explanation_method, label="method", visible=False
    )
    target = gr.Radio(list(NAMES), value=AI, label="target: whose evidence is warm", visible=False)
    opacity = gr.Slider(0, 1, value=0.5, label="opacity of the map", visible=False)
    said = gr.JSON(label="answer", visible=False)
    overlay = gr.Image(label="overlay", format="png", visible=False)
    queue = {"concurrency_limit": 2, "concurrency_id": "model"}
    for name, function, inputs, outputs in (
        ("predict", api.predict, [image, prior, stability, provenance], said),
        ("explain", api.explain, [image, method, target, opacity], [overlay, said]),
        ("stability", api.stability, [image, prior], said),
        ("provenance", api.provenance, [image], said),
    ):
        gr.Button(visible=False).click(function, inputs, outputs, api_name=name, **queue)


@contextmanager
def _one_line_for_the_client(path: str | None) -> Iterator[None]:
    if path is None:
        raise gr.Error(ENGLISH("image.none"), print_exception=False)
    try:
        yield
    except (ValueError, OSError) as error:
        raise gr.Error(error_line(error, path), print_exception=False) from error
    except Exception as error:
        logger.exception("An API call failed")
        raise gr.Error(ENGLISH("problem.unexpected"), print_exception=False) from error
