"""The handler that Hugging Face Inference Endpoints run for this checkpoint.

`inputs` is the image: bytes, base64, or a PIL image. The result is a list of `{"label", "score"}`,
like that of the stock pipeline. With the package `realfake` (see `requirements.txt`),
`parameters={"details": true}` adds the full answer of the detector, and `{"map": true}` adds an
attribution map.
"""

import base64
import io
from pathlib import Path
from typing import Any

try:
    from realfake import hub_api
    from realfake.answer import compose, read_once
    from realfake.detector import Detector
except ImportError:
    Detector = None

_DEFAULTS: dict[str, Any] = {
    "details": False,
    "map": False,
    "stability": False,
    "provenance": False,
    "method": "",
    "target": "ai",
    "opacity": 0.5,
    "prior_ai": 0.5,
    "views": 0,
}


class EndpointHandler:
    """Open the checkpoint in a folder and answer requests.

    Args:
        path: The folder of the checkpoint.
    """

    def __init__(self, path: str = ""):
        folder = path or str(Path(__file__).resolve().parent)
        if Detector is None:
            from transformers import pipeline

            self.pipeline = pipeline("image-classification", model=folder)
        else:
            self.detector = Detector.from_pretrained(folder)

    def __call__(self, data: dict[str, Any]) -> list[dict] | dict:
        """Answer one request.

        Args:
            data: `inputs`, and `parameters`: `top_k` and `function_to_apply` as on the Hub;
                `details` (`bool`); `map` (`bool`), with `method`, `target` (`"ai"` or `"real"`) and
                `opacity` (0 to 1); `prior_ai`, the expected share of AI-generated images;
                `provenance` and `stability` (`bool`), for `details`; `views`, the largest number of
                views of the image (0: the setting of the checkpoint).

        Returns:
            `[{"label", "score"}]`; or, for `details` or `map`, `{"scores": …, "answer": {…}}` and a
            `map` of `{"image": base64 PNG, "method", "target"}`.

        Raises:
            ValueError: The image or a parameter is invalid.
        """
        parameters = data.get("parameters") or {}
        if Detector is None:
            return self._stock(data.get("inputs"), parameters)
        options = _options(parameters)
        image = data.get("inputs")
        if isinstance(image, str):
            image = hub_api.decode_inputs(image)
        decoded, file = read_once(image)
        views = options["views"] or None
        examined = self.detector.examine_images([decoded], self.detector.limit(views))
        logits = examined[0].logits.mean(axis=0)
        config = self.detector.model.config
        scores = hub_api.scores(logits, config, hub_api.Parameters.read(parameters))
        if not (options["details"] or options["map"]):
            return scores
        result: dict[str, Any] = {"scores": scores}
        if options["map"]:
            explanation = self.detector.explain(
                decoded,
                method=options["method"] or None,
                target=options["target"],
                prior_ai=options["prior_ai"],
                views=views,
            )
            picture = io.BytesIO()
            explanation.overlay(options["opacity"]).save(picture, "PNG")
            result["map"] = {
                "image": base64.b64encode(picture.getvalue()).decode("ascii"),
                "method": explanation.method,
                "target": explanation.target,
            }
            prediction = explanation.prediction
        else:
            prediction = self.detector.predictions(examined, options["prior_ai"])[0]
        stable = None
        if options["stability"]:
            stable = self.detector.stability(decoded, options["prior_ai"], views, prediction)
        result["answer"] = compose(
            self.detector,
            prediction,
            decoded,
            file,
            stability=stable,
            provenance=options["provenance"],
        )
        return result

    def _stock(self, image: Any, parameters: dict) -> list[dict]:
        if unknown := set(parameters) - {"top_k", "function_to_apply"}:
            raise ValueError(
                f"Parameters {', '.join(sorted(unknown))} need the package realfake; install it."
            )
        if isinstance(image, str):
            image = base64.b64decode(image.partition(",")[2] or image)
        if isinstance(image, bytes):
            from PIL import Image

            image = Image.open(io.BytesIO(image))
        return self.pipeline(image, **parameters)


def _options(parameters: dict) -> dict[str, Any]:
    """Return the parameters of this handler; the detector checks their values."""
    options = {}
    for name, default in _DEFAULTS.items():
        value = parameters.get(name, default)
        kinds = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
            raise ValueError(f'"{name}" must be a {type(default).__name__}, not {value!r:.40}.')
        options[name] = value
    return options
