"""Prepare a classifier for training: open or build it, set its labels and its input, test it."""

import torch
from PIL import Image
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

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
from realfake.models.folding import check_foldable, select_trainable, set_dropout
from realfake.models.truncation import truncate
from realfake.runtime import keep_freed_memory
from realfake.training.arguments import ModelArguments
from realfake.training.data import Collator
from realfake.training.lora import add_adapters


def prepare_classifier(arguments: ModelArguments) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Open or build the classifier to train, with the labels real and ai.

    Raises:
        ValueError: The checkpoint is not an image classifier, or an option does not fit the
            architecture.
        OSError: The checkpoint does not exist.
    """
    keep_freed_memory()
    if arguments.model_type:
        overrides = dict(arguments.config_overrides)
        model, processor = build_classifier(
            arguments.model_type, overrides=overrides, image_size=arguments.image_size
        )
        if arguments.dropout is not None:
            field = set_dropout(model.config, arguments.dropout)
            model, processor = build_classifier(
                arguments.model_type,
                overrides={**overrides, field: arguments.dropout},
                image_size=arguments.image_size,
            )
    else:
        source, revision = arguments.model_name_or_path, arguments.model_revision
        config = load_config(source, revision=revision)
        if not keeps_head(config):
            name_labels(config)
        # Calibration and thresholds of the original weights do not apply after training.
        config.__dict__.pop("realfake", None)
        override_config(config, arguments.config_overrides)
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
        if (
            isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
            and (module.momentum or 0) > 0.5
        ):
            module.momentum = max(1 - module.momentum, 0.01)


def _resize_input(processor: BaseImageProcessor, image_size: int) -> None:
    if getattr(processor, "do_center_crop", False):
        processor.crop_size = {"height": image_size, "width": image_size}
    keys = dict(processor.size)
    processor.size = (
        {key: image_size for key in keys} if keys else {"height": image_size, "width": image_size}
    )
