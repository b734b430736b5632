"""What a Hugging Face Inference Endpoint runs for this checkpoint; `realfake` lies beside it.

`inputs` is the image: bytes, base64, or a PIL image. The answer is the Hub's, `[{"label", "score"}]`, or with
`parameters={"details": true}` everything the detector says, and with `{"map": true}` a picture of its evidence as well.
"""

import base64
import io
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:  # Endpoints put it there themselves
    sys.path.insert(0, str(HERE))

from realfake import hub_api  # noqa: E402
from realfake.answer import compose, read_once  # noqa: E402
from realfake.detector import Detector  # noqa: E402


class EndpointHandler:
    """Opens the checkpoint in a folder, and answers requests.

    Args:
        path: The folder of the checkpoint.
    """

    def __init__(self, path: str = ""):
        self.detector = Detector.from_pretrained(path or HERE)

    def __call__(self, data: dict[str, Any]) -> list[dict] | dict:
        """Answer one request.

        Args:
            data: `inputs`, and `parameters`: `top_k` and `function_to_apply` as on the Hub; `details` (`bool`); `map`
                (`bool`), with `method`, `target` (`"ai"` or `"real"`) and `opacity` (0 to 1); `prior_ai`, the share of
                AI-generated images expected beforehand; `provenance` and `stability` (`bool`), for `details`.

        Returns:
            `[{"label", "score"}]`; or, for `details` or `map`, `{"scores": the same, "answer": {...}}` and a `map` of
            `{"image": base64 PNG, "method", "target"}`.

        Raises:
            ValueError: The image or a parameter is unusable; the message says why.
        """
        sent = data.get("parameters") or {}
        parameters = hub_api.Parameters.read(sent)
        options = _options(sent)
        image = data.get("inputs")
        if isinstance(image, str):
            image = hub_api.decode_inputs(image)
        decoded, file = read_once(image)
        logits = self.detector.logits([decoded])[0]
        scores = hub_api.scores(logits, self.detector.model.config, parameters)
        if not (options["details"] or options["map"]):
            return scores
        result = {"scores": scores}
        if options["map"]:
            explanation = self.detector.explain(
                decoded,
                method=options["method"] or None,
                target=options["target"],
                prior_ai=options["prior_ai"],
            )
            picture = io.BytesIO()
            explanation.overlay(options["opacity"]).save(picture, "PNG")
            encoded = base64.b64encode(picture.getvalue()).decode("ascii")
            result["map"] = {
                "image": encoded,
                "method": explanation.method,
                "target": explanation.target,
            }
            prediction = explanation.prediction
        else:
            prediction = self.detector.predict(decoded, prior_ai=options["prior_ai"])
        result["answer"] = compose(
            self.detector,
            prediction,
            decoded,
            file,
            stability=options["stability"],
            provenance=options["provenance"],
        )
        return result


def _options(sent: dict) -> dict[str, Any]:
    """The parameters that are this handler's own, checked for their kinds; the detector checks their values."""
    options: dict[str, Any] = {
        "details": False,
        "map": False,
        "stability": False,
        "provenance": False,
        "method": "",
        "target": "ai",
        "opacity": 0.5,
        "prior_ai": 0.5,
    }
    for name, default in options.items():
        value = sent.get(name, default)
        kinds = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
            raise ValueError(f'"{name}" must be of the kind of {default!r}, not {value!r:.40}.')
        options[name] = value
    return options
