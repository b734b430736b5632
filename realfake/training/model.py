"""Prepare a classifier for training: labels, input size, a probe as its head, patch dropout."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from realfake.labels import AI, REAL
from realfake.models.classifiers import (
    build_classifier,
    input_size,
    keeps_head,
    load_classifier,
    load_config,
    load_processor,
    name_labels,
    override_config,
    use_native_pixels,
)
from realfake.models.folding import check_foldable, final_linears, select_trainable, set_dropout
from realfake.runtime import keep_freed_memory
from realfake.training.arguments import ModelArguments
from realfake.training.data import Collator
from realfake.training.lora import add_adapters

# λ of the probe's penalty λ/2 · |w|² beside the mean loss, with w for standardised features.
PENALTY = 0.1


def prepare_classifier(arguments: ModelArguments) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Open or build the classifier to train, with the labels real and ai.

    Raises:
        ValueError: The checkpoint is not an image classifier, or an option does not fit the
            architecture.
        OSError: The checkpoint does not exist.
    """
    keep_freed_memory()
    if arguments.model_type:
        kind, overrides, side = arguments.model_type, arguments.overrides, arguments.image_size
        model, processor = build_classifier(kind, overrides=overrides, image_size=side)
        if arguments.dropout is not None:
            overrides[set_dropout(model.config, arguments.dropout)] = arguments.dropout
            model, processor = build_classifier(kind, overrides=overrides, image_size=side)
    else:
        source, revision = arguments.model_name_or_path, arguments.model_revision
        config = load_config(source, revision=revision)
        if not keeps_head(config):
            name_labels(config)
        # Calibration and thresholds of the original weights do not apply after training.
        config.__dict__.pop("realfake", None)
        override_config(config, arguments.overrides)
        if arguments.dropout is not None:
            set_dropout(config, arguments.dropout)
        model = load_classifier(source, revision=revision, config=config, new_head=True)
        processor = load_processor(source, revision=revision)
    if arguments.preprocessing == "native":
        use_native_pixels(processor, arguments.image_size or min(input_size(processor)))
    elif arguments.image_size and arguments.model_name_or_path:
        _resize_input(processor, arguments.image_size)
    if arguments.blocks is not None:
        truncate(model, arguments.blocks)
    fix_batch_norm_momentum(model)
    select_trainable(model, arguments.trainable)
    check_foldable(model, try_out(model, Collator(processor)))
    if arguments.lora_rank:
        add_adapters(model, arguments.lora_rank, arguments.lora_alpha)
    return model, processor


def truncate(model: PreTrainedModel, blocks: int) -> None:
    """Keep the first blocks of a vision transformer, in place, and correct its configuration.

    The middle blocks of a pretrained transformer often hold more of a generator's traces than the
    last ones, and fewer blocks cost less.

    Raises:
        ValueError: The model has no single list of equal blocks, or fewer blocks.
    """
    config = getattr(model.config, "vision_config", model.config)
    count = getattr(config, "num_hidden_layers", None)
    lists = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == count
    ]
    # The stages of Swin have different widths, so its head would not fit.
    if count is None or len(lists) != 1 or hasattr(config, "depths"):
        raise ValueError(
            f"--blocks: {type(model).__name__} is not a transformer with one list of blocks; leave "
            "the option out."
        )
    if not 1 <= blocks <= count:
        raise ValueError(f"--blocks must lie between 1 and {count}, not {blocks}.")
    parent, name, layers = lists[0]
    setattr(parent, name, layers[:blocks])
    config.num_hidden_layers = blocks
    # A backbone such as DINOv2 also lists its stages: the stem and one for each block. Its
    # configuration does not open if the list and the number of blocks differ.
    if stages := getattr(config, "stage_names", None):
        config.stage_names = list(stages)[: blocks + 1]
        config.set_output_features_output_indices([config.stage_names[-1]], [blocks])


def try_out(model: PreTrainedModel, collator: Collator, side: int = 64) -> torch.Tensor:
    """Classify a blank image, to find an unsuitable input size before the training.

    Returns:
        The image's `pixel_values`.
    """
    pixels = collator([{"image": Image.new("RGB", (side, side), "grey"), "label": 0}])[
        "pixel_values"
    ]
    try:
        with torch.inference_mode():
            model.eval()(pixel_values=pixels)
    except (ValueError, RuntimeError, TypeError) as error:
        height, width = pixels.shape[-2:]
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{type(model).__name__} cannot take images of {height}x{width} pixels ({reason}); "
            "change --image_size or --train_crop_size, or leave it out."
        ) from error
    return pixels


def fix_batch_norm_momentum(model: PreTrainedModel) -> None:
    """Convert TensorFlow's momentum of batch normalisation to PyTorch's, in place.

    In TensorFlow momentum is the share of the running statistics that is kept (0.997 in
    MobileNetV2), in PyTorch the share of the new batch. Unconverted, the running statistics would
    be those of the last batch. The result is at least 0.01, for short trainings.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and (module.momentum or 0) > 0.5:
            module.momentum = max(1 - module.momentum, 0.01)


def _resize_input(processor: BaseImageProcessor, image_size: int) -> None:
    if getattr(processor, "do_center_crop", False):
        processor.crop_size = {"height": image_size, "width": image_size}
    keys = dict(processor.size) or ("height", "width")
    processor.size = dict.fromkeys(keys, image_size)


# The probe


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
    bias = float(model.intercept_[0] - weights @ mean)
    loss = float(log_loss(truth, model.predict_proba(scaled)))
    return Probe(weights, bias, loss, model.score(scaled, truth))


def start_head(model: PreTrainedModel, batches: Iterable[Mapping]) -> Probe:
    """Put a linear probe of the frozen features into the last linear layer, in place.

    Gradients through a random head carry no information, but they move the pretrained weights
    (Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform
    Out-of-Distribution"). The features are those of the training: dropout and patch dropout act.

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
    handle = heads[0].register_forward_pre_hook(
        lambda module, given: inputs.append(given[0].double().cpu())
    )
    for module in model.train().modules():
        if isinstance(module, _BatchNorm):
            module.eval()  # in training mode it would change its running statistics
    try:
        with torch.inference_mode():
            for batch in batches:
                model(pixel_values=batch["pixel_values"].to(model.device))
                labels.append(batch["labels"])
    finally:
        handle.remove()
    if len(heads) > 1 or any(each.ndim != 2 for each in inputs):
        raise ValueError(
            f"--probe_images: {type(model).__name__} has no single head on one vector per image; "
            "leave the option out."
        )
    label2id = model.config.label2id
    probe = fit_probe(torch.cat(inputs).numpy(), torch.cat(labels).numpy() == label2id[AI])
    head = heads[0]
    with torch.no_grad():
        for label, sign in ((AI, 0.5), (REAL, -0.5)):
            head.weight[label2id[label]] = torch.from_numpy(sign * probe.weights).to(head.weight)
            if head.bias is not None:
                head.bias[label2id[label]] = sign * probe.bias
    return probe


# Patch dropout


class PatchDropout:
    """Drop a random share of the patch tokens of a vision transformer while it trains.

    Half of the patches cost half the time (Liu et al. 2023, "PatchDropout: Economizing Vision
    Transformers Using Patch Dropout"). All images of a batch lose the same places, so both images
    of a pair show the same part. Evaluations see all patches.

    Args:
        model: A classifier with a class token before the patches: ViT, DeiT or DINOv2.
        rate: Share of the patches that is dropped while `active` is true.

    Raises:
        ValueError: The model has no such tokens.
    """

    def __init__(self, model: PreTrainedModel, rate: float):
        self.rate = rate
        self.active = True
        embeddings = [
            module
            for name, module in model.named_modules()
            if name.endswith(".embeddings")
            and hasattr(module, "cls_token")
            and hasattr(getattr(module, "patch_embeddings", None), "num_patches")
        ]
        if len(embeddings) != 1:
            raise ValueError(
                f"--patch_dropout: {type(model).__name__} has no patches after a class token; "
                "leave the option out."
            )
        embeddings[0].register_forward_hook(self._drop)

    def _drop(self, module: nn.Module, inputs: tuple, tokens: torch.Tensor) -> torch.Tensor:
        if not (module.training and self.active and self.rate):
            return tokens
        height, width = (
            side // patch
            for side, patch in zip(inputs[0].shape[-2:], module.patch_embeddings.patch_size)
        )
        count = height * width
        first = tokens.shape[1] - count  # after the class token and registers
        kept = torch.randperm(count, device=tokens.device)[: max(1, round(count * (1 - self.rate)))]
        before = torch.arange(first, device=tokens.device)
        return tokens[:, torch.cat([before, kept.sort().values + first])]
