"""The Hub's image-classification API: base64 `inputs`, `parameters`, and a list of label and score.

The Space (`realfake.space`) and Inference Endpoints (`handler.py` of a pushed checkpoint) use it.
`InferenceClient` works with both. The scores are those of the stock pipeline.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, softmax

if TYPE_CHECKING:
    from transformers import PretrainedConfig

TOP_K = 5
FUNCTIONS = ("softmax", "sigmoid", "none")


@dataclass(frozen=True)
class Parameters:
    """The parameters of a request.

    Args:
        top_k: Number of classes in the answer, by descending score.
        function_to_apply: `"softmax"`, `"sigmoid"`, `"none"`, or `None` for the checkpoint's own.
    """

    top_k: int = TOP_K
    function_to_apply: str | None = None

    @classmethod
    def read(cls, sent: Mapping | None) -> "Parameters":
        """Read the `parameters` of a request; numbers may be strings, as forms send them.

        Raises:
            ValueError: A parameter has the wrong type; the message names it.
        """
        if sent is None:
            return cls()
        if not isinstance(sent, Mapping):
            raise ValueError('"parameters" must be an object, such as {"top_k": 1}.')
        top_k, function = sent.get("top_k"), sent.get("function_to_apply")
        top_k = TOP_K if top_k is None else top_k
        if isinstance(top_k, str) and top_k.strip().isdecimal():
            top_k = int(top_k)
        if not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1:
            raise ValueError(f'"top_k" must be an integer of at least 1, not {_shown(top_k)}.')
        function = None if function == "" else function
        if function not in (None, *FUNCTIONS):
            names = ", ".join(FUNCTIONS)
            raise ValueError(f'"function_to_apply" must be one of {names}, not {_shown(function)}.')
        return cls(top_k, function)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def decode_inputs(inputs: object) -> bytes:
    """Return the image file in the `inputs` of a request: base64, also as a `data:…;base64,` URL.

    Raises:
        ValueError: The text is not base64.
    """
    if not isinstance(inputs, str):
        raise ValueError('"inputs" must be the image file as a base64 string.')
    if inputs.lower().startswith(("http://", "https://")):
        raise ValueError(
            '"inputs" must be the image file as a base64 string; URLs are not fetched.'
        )
    if inputs.lower().startswith(("/", "./", "~", "file:")) and "." in inputs:
        raise ValueError(
            '"inputs" must be the image file as a base64 string; files of the server are not read.'
        )
    if inputs[:5].lower() == "data:":
        inputs = inputs.partition(",")[2]
    try:
        return base64.b64decode("".join(inputs.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError('"inputs" is not valid base64.') from None


def scores(
    logits: ArrayLike, config: "PretrainedConfig", parameters: Parameters | None = None
) -> list[dict]:
    """Return the scores of one image like `pipeline("image-classification")`.

    Args:
        logits: Of shape `(labels,)`.
        config: The checkpoint's configuration, with the class names and the default function.

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


def _default_function(config: "PretrainedConfig") -> str:
    """Return the function that the stock pipeline applies by default."""
    if config.problem_type == "regression":
        return "none"
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        return "sigmoid"
    return "softmax"
