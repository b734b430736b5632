"""The answers to programs: named endpoints for `gradio_client` and MCP, and a tab of code snippets.

The endpoints have inputs separate from the page's widgets, so that their parameters have good
names. The docstrings of [`Api`] are the documentation that clients see; Gradio reads one line per
parameter. The tests run the snippets.
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from gradio import mcp
from gradio_client import utils as client_utils
from PIL import Image

from realfake.answer import answer, compose, read_once
from realfake.attribution.methods import METHODS
from realfake.detector import Detector
from realfake.labels import AI, NAMES
from realfake.provenance.reading import read_provenance
from realfake.space.loading import Loaded
from realfake.space.maps import REGIONS, bounded
from realfake.space.text import ENGLISH, Localised, Words, error_line, render
from realfake.space.uploads import ImageInput, replace_function

logger = logging.getLogger(__name__)

MCP_OUTPUT = "postprocess_output_data"
# In the snippets until the browser puts in the page's own address.
ADDRESS = "http://127.0.0.1:7860"


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

        The answer has the verdict ("real", "ai" or "inconclusive", with the reason) and the
        calibrated probabilities of both labels. It also has the log-odds of "ai", the model, its
        revision and the file's SHA-256. A verdict is a reason to look closer, not proof.

        Args:
            image: The image: a file, its URL or a data URI.
            prior_ai: Expected share of AI-generated images, 0 to 1; the verdict ignores it.
            stability: Test changed copies too; a verdict that flips becomes "inconclusive".
            provenance: Read the file's metadata too: Content Credentials, labels, camera data.
        """
        with _clear_errors(image):
            return answer(
                self.detector, image, prior_ai=prior_ai, stability=stability, provenance=provenance
            )

    def explain(
        self, image: str | None, method: str | None = None, target: str = AI, opacity: float = 0.5
    ) -> tuple[Image.Image, dict]:
        """Draw the evidence for a label over an image.

        Returns the picture, at most 1024 pixels a side, and the answer that it explains. The answer
        also has the strongest regions, and the change of the probability when the marked part is
        removed, compared with random parts.

        Args:
            image: The image: a file, its URL or a data URI.
            method: The attribution method, for example gradcam; by default this detector's best.
            target: The label whose evidence is orange, "ai" or "real".
            opacity: Strength of the colours, 0 to 1.
        """
        with _clear_errors(image):
            decoded, data = read_once(image)
            explanation = self.detector.explain(
                decoded, method=method, target=target, evidence=True
            )
            result = compose(self.detector, explanation.prediction, decoded, data)
            evidence = explanation.evidence
            result |= {
                "method": explanation.method,
                "target": target,
                "evidence": None if evidence is None else evidence.to_dict(),
                "regions": [region.to_dict() for region in explanation.regions(REGIONS)],
            }
            return bounded(explanation).overlay(opacity, regions=REGIONS), result

    def stability(self, image: str | None, prior_ai: float = 0.5) -> dict:
        """Judge an image as it is, recompressed as by a messenger, at half its size, and cropped.

        Args:
            image: The image: a file, its URL or a data URI.
            prior_ai: Expected share of AI-generated images, 0 to 1.
        """
        with _clear_errors(image):
            result = answer(self.detector, image, prior_ai=prior_ai, stability=True)
            names = ("verdict", "reason", "stability", "model", "revision", "sha256")
            return {name: result[name] for name in names}

    def provenance(self, image: str | None) -> dict:
        """Read the origin of an image from its metadata.

        The metadata may have Content Credentials (C2PA), IPTC's digital source type, settings of a
        generator, and camera data. Missing metadata means nothing.

        Args:
            image: The image: a file, its URL or a data URI.
        """
        with _clear_errors(image):
            _, data = read_once(image)
            return read_provenance(data).to_dict()


def add_api(detector: Detector) -> None:
    """Add the endpoints, inside `gr.Blocks`."""
    api = Api(detector)
    image = ImageInput(
        label="image: a JPEG, PNG, WebP, … file, its URL or a data URI", visible=False
    )
    prior = gr.Number(0.5, minimum=0, maximum=1, label="prior_ai", visible=False)
    stability = gr.Checkbox(label="stability", visible=False)
    provenance = gr.Checkbox(label="provenance", visible=False)
    method = gr.Radio(
        list(METHODS), value=detector.explanation_method, label="method", visible=False
    )
    target = gr.Radio(list(NAMES), value=AI, label="target: the orange label", visible=False)
    opacity = gr.Slider(0, 1, value=0.5, label="opacity of the map", visible=False)
    result = gr.JSON(label="answer", visible=False)
    overlay = gr.Image(label="overlay", format="png", visible=False)
    queue: dict[str, Any] = {"concurrency_limit": 2, "concurrency_id": "model"}
    for name, function, inputs, outputs in (
        ("predict", api.predict, [image, prior, stability, provenance], result),
        ("explain", api.explain, [image, method, target, opacity], [overlay, result]),
        ("stability", api.stability, [image, prior], result),
        ("provenance", api.provenance, [image], result),
    ):
        gr.Button(visible=False).click(function, inputs, outputs, api_name=name, **queue)


@contextmanager
def _clear_errors(path: str | None) -> Iterator[None]:
    """Turn errors into one line for the client."""
    if path is None:
        raise gr.Error(ENGLISH("image.none"), print_exception=False)
    try:
        yield
    except (ValueError, OSError) as error:
        raise gr.Error(error_line(error, path), print_exception=False) from error
    except Exception as error:
        logger.exception("An API call failed")
        raise gr.Error(ENGLISH("problem.unexpected"), print_exception=False) from error


def answer_mcp_in_json() -> None:
    """Let MCP tools write dictionaries and lists as JSON, and several outputs one after the other.

    Gradio's own function writes Python's `repr` of both.
    """
    original = getattr(mcp.GradioMCPServer, MCP_OUTPUT, None)
    if not getattr(original, "answers_json", False):
        replace_function(mcp.GradioMCPServer, MCP_OUTPUT, _in_json(original))


def _in_json(original: Callable | None) -> Callable:
    def postprocess(server: mcp.GradioMCPServer, data: list, *arguments, **options) -> list:
        outputs = []
        for value in data:
            outputs += value if isinstance(value, tuple) else [value]
        outputs = [
            json.dumps(value, ensure_ascii=False)
            if isinstance(value, (dict, list)) and not client_utils.is_file_obj(value)
            else value
            for value in outputs
        ]
        return original(server, outputs, *arguments, **options)

    postprocess.answers_json = True  # type: ignore[attr-defined]
    return postprocess


def build_code(loaded: Loaded, local: Localised) -> None:
    """Lay out the tab of code, inside `gr.Blocks`."""
    # The path of a folder on the server is private, and of no use elsewhere.
    is_folder = loaded.source is not None and loaded.source != loaded.detector.name
    model = f"path/to/{loaded.detector.name}" if is_folder else loaded.source
    with gr.Column(elem_id="rf-code", elem_classes="rf-panel"):
        gr.HTML(local.html("code", lambda t: code(t, model)), js_on_load=_COPYING)


def snippets(model: str | None, address: str = ADDRESS, image: str = "photo.jpg") -> dict[str, str]:
    """Return the snippets by name."""
    named = json.dumps(model) if model else ""
    option = f" --model {model}" if model else ""
    # The bundled checkpoint is inside the installed package, wherever that is.
    imported = "" if model else "from realfake.detector import DEFAULT_CHECKPOINT\n"
    folder = named or "str(DEFAULT_CHECKPOINT)"
    return {
        "client": f"""from gradio_client import Client, handle_file

client = Client("{address}")
image = handle_file("{image}")
answer = client.predict(image, api_name="/predict")
print(answer["verdict"], answer["probabilities"])""",
        "local": f"""from realfake import Detector

detector = Detector.from_pretrained({named})
prediction = detector.predict("{image}")
print(prediction.verdict, prediction.probabilities)
detector.explain("{image}").overlay().save("map.png")""",
        "inference": f"""from huggingface_hub import InferenceClient

client = InferenceClient(
    model="{address}/predict"
)
with open("{image}", "rb") as file:
    scores = client.image_classification(file.read())
print(scores[0].label, scores[0].score)""",
        "pipeline": f"""{imported}from transformers import pipeline

classifier = pipeline(
    "image-classification", model={folder}
)
print(classifier("{image}"))""",
        "curl": f"curl -F file=@{image} {address}/predict",
        "shell": f"realfake predict {image} --json{option}",
        "mcp": json.dumps(
            {"mcpServers": {"realfake": {"url": f"{address}/gradio_api/mcp/"}}}, indent=2
        ),
    }


def code(words: Words, model: str | None) -> str:
    """Render the snippets, each with a button that copies it."""
    return render("code", "code", words, snippets=snippets(model), address=ADDRESS)


_COPYING = """
const here = location.origin + location.pathname.replace(/\\/$/, "");
element.querySelectorAll(".rf-origin").forEach(place => { place.textContent = here; });
element.addEventListener("click", async event => {
    const button = event.target.closest("button[data-copied]");
    if (!button) return;
    const code = button.closest("section").querySelector("code").textContent;
    await navigator.clipboard.writeText(code);
    const before = button.textContent;
    button.textContent = button.dataset.copied;
    setTimeout(() => { button.textContent = before; }, 1500);
});
"""
