"""Start a new head from a linear probe, so that the first steps do not damage the backbone.

Gradients through a random head carry no information, but they move the pretrained weights (Kumar
et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution").
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from realfake.labels import AI, REAL
from realfake.models.folding import final_linears

# λ of the penalty λ/2 · |w|² beside the mean loss, with w for standardised features.
PENALTY = 0.1


class Probe(NamedTuple):
    """A fitted probe: log-odds of ai = features · weights + bias.

    Args:
        weights: Array of shape `(features,)`.
        bias: In nats.
        loss: Mean cross-entropy on the images of the fit, in nats.
        accuracy: Share of these images that are on the right side of 0.
    """

    weights: np.ndarray
    bias: float
    loss: float
    accuracy: float


def fit_probe(features: np.ndarray, truth: np.ndarray, penalty: float = PENALTY) -> Probe:
    """Fit a logistic regression to standardised features.

    Args:
        features: Array of shape `(n, features)`.
        truth: Boolean array of shape `(n,)`, whether the image is ai.
        penalty: λ.

    Raises:
        ValueError: All images are of one class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    if truth.all() or not truth.any():
        raise ValueError("--probe_images found images of one class only; pass a larger number.")
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    scaled = (features - mean) / scale
    model = LogisticRegression(C=1 / (penalty * len(truth)), max_iter=500).fit(scaled, truth)
    weights = model.coef_[0] / scale
    loss = float(log_loss(truth, model.predict_proba(scaled)))
    return Probe(
        weights, float(model.intercept_[0] - weights @ mean), loss, model.score(scaled, truth)
    )


def start_head(model: PreTrainedModel, batches: Iterable[Mapping]) -> Probe:
    """Put a probe of the frozen features into the last linear layer, in place.

    Args:
        model: An image classifier of transformers with the labels real and ai.
        batches: Training batches with `pixel_values` and `labels`.

    Raises:
        ValueError: The images are of one class, or the model averages two heads or classifies
            positions.
    """
    heads = list(final_linears(model).values())
    inputs: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    handle = heads[0].register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    try:
        with torch.inference_mode():
            for batch in batches:
                model.eval()(pixel_values=batch["pixel_values"].to(model.device))
                labels.append(batch["labels"])
    finally:
        handle.remove()
    if len(heads) > 1 or any(each.ndim != 2 for each in inputs):
        raise ValueError(
            f"--probe_images: {type(model).__name__} has no single head on one vector per image; "
            "leave the option out."
        )
    label2id = model.config.label2id
    features = torch.cat(inputs).double().cpu().numpy()
    probe = fit_probe(features, torch.cat(labels).numpy() == label2id[AI])
    head = heads[0]
    with torch.no_grad():
        for label, sign in ((AI, 0.5), (REAL, -0.5)):
            head.weight[label2id[label]] = torch.from_numpy(sign * probe.weights).to(head.weight)
            if head.bias is not None:
                head.bias[label2id[label]] = sign * probe.bias
    return probe
