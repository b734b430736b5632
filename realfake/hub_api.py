"""The Hub's image-classification API: what a request says, and the scores that answer it.

Spoken by the Space (`realfake.space.routes`) and by Inference Endpoints (`handler.py` beside a pushed checkpoint), so that
`InferenceClient` finds the same at every address: base64 `inputs`, `parameters`, and a list of `{"label", "score"}` as the
stock pipeline computes it.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, softmax

TOP_K = 5
FUNCTIONS = ("softmax", "sigmoid", "none")


@dataclass(frozen=True)
class Parameters:
    """What a request may ask for.

    Attributes:
        top_k: How many classes are answered, the most probable first.
        function_to_apply: `"softmax"`, `"sigmoid"`, `"none"`, or `None` for what the checkpoint says.
    """

    top_k: int = TOP_K
    function_to_apply: str | None = None

    @classmethod
    def read(cls, sent: Mapping | None) -> "Parameters":
        """Read a request's `parameters`; those of a form are strings.

        Raises:
            ValueError: One is of the wrong kind; the message names it.
        """
        if sent is None:
            return cls()
        if not isinstance(sent, Mapping):
            raise ValueError('"parameters" must be an object, such as {"top_k": 1}.')
        return cls(_top_k(sent.get("top_k")), _function(sent.get("function_to_apply")))


def _top_k(value) -> int:
    if value is None:
        return TOP_K
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f'"top_k" must be a whole number, 1 or more, not {_shown(value)}.')
    return value


def _function(value) -> str | None:
    if value is None or value == "":
        return None
    if value not in FUNCTIONS:
        raise ValueError(
            f'"function_to_apply" must be one of {", ".join(FUNCTIONS)}, not {_shown(value)}.'
        )
    return value


def _shown(value) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def decode_inputs(inputs) -> bytes:
    """The file in a request's `inputs`: base64, with or without `data:…;base64,` before it.

    Raises:
        ValueError: It is no base64.
    """
    if not isinstance(inputs, str):
        raise ValueError('"inputs" must be the image file as a base64 string.')
    if inputs.lower().startswith(("http://", "https://")):
        raise ValueError(
            '"inputs" must be the image file as a base64 string; an address is not fetched.'
        )
    if inputs[:5].lower() == "data:":
        inputs = inputs.partition(",")[2]
    try:
        return base64.b64decode("".join(inputs.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError('"inputs" is not valid base64.') from None


def scores(logits, config, parameters: Parameters | None = None) -> list[dict]:
    """The scores of one image, as `pipeline("image-classification")` gives them.

    Args:
        logits: `(labels,)`.
        config: The checkpoint's configuration, which names the classes and may name the function.

    Returns:
        `[{"label": name, "score": probability}, …]`, the highest score first.
    """
    parameters = parameters or Parameters()
    function = parameters.function_to_apply or _default_function(config)
    values = np.asarray(logits, dtype=np.float64)
    if function == "softmax":
        values = softmax(values)
    elif function == "sigmoid":
        values = expit(values)
    order = np.argsort(-values, kind="stable")[: parameters.top_k]
    return [
        {"label": config.id2label[int(place)], "score": float(values[place])} for place in order
    ]


def _default_function(config) -> str:
    """What the pipeline does where nothing is asked for."""
    if config.problem_type == "regression":
        return "none"
    return (
        "sigmoid"
        if config.problem_type == "multi_label_classification" or config.num_labels == 1
        else "softmax"
    )
