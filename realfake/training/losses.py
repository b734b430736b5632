"""Losses of the training: class weights and the consistency of two predictions."""

import math

import numpy as np
import torch
from datasets import Dataset

from realfake.labels import NAMES


def class_weights(kind: str, dataset: Dataset, label2id: dict[str, int]) -> torch.Tensor | None:
    """Return weights of the loss: inverse class frequency, with mean 1 over the images.

    Args:
        kind: `"balanced"`, or `"none"` for no weights.
        label2id: The model's class indices.
    """
    if kind == "none":
        return None
    names = dataset.features["label"].names
    counts = np.bincount(dataset["label"], minlength=len(names))
    weights = torch.zeros(len(NAMES))
    for name, count in zip(names, counts, strict=True):
        weights[label2id[name]] = len(dataset) / (len(names) * count)
    return weights


def jensen_shannon(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the Jensen-Shannon divergence between two predictions, as the mean over a batch.

    AugMix (Hendrycks et al. 2020) uses it as a consistency loss between three copies of an image.

    Args:
        first, second: Logits of shape `(batch, classes)`.

    Returns:
        A scalar in nats, from 0 to ln 2.
    """
    first, second = first.log_softmax(-1), second.log_softmax(-1)
    mean = torch.logaddexp(first, second) - math.log(2)
    return (_divergence(first, mean) + _divergence(second, mean)) / 2


def _divergence(of: torch.Tensor, against: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.kl_div(against, of, reduction="batchmean", log_target=True)
