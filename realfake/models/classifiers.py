"""Load and build image classifiers of transformers and their image processors."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub.errors import GatedRepoError, HFValidationError, StrictDataclassError
from PIL import Image
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
from transformers.utils.hub import cached_file

from realfake.labels import NAMES, class_indices
from realfake.models.folding import final_linears

# Checkpoints of timm. They cannot be built from scratch, because their type has no architecture.
_TIMM = "timm_wrapper"
_MODEL_TYPES = sorted(set(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES) - {_TIMM})
# An input side that every architecture accepts.
DEFAULT_IMAGE_SIZE = 224
# Sub-folder of a checkpoint for new files, until all of them are written.
SAVING = ".saving"


def load_classifier(
    model: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    dtype: torch.dtype = torch.float32,
    config=None,
    new_head: bool = False,
) -> PreTrainedModel:
    """Load an image classifier from a Hub id or a folder, from safetensors, without remote code.

    Args:
        model: Hub id or folder.
        revision, token, dtype: As in `from_pretrained` of transformers.
        config: *optional*. A changed configuration to use instead of the stored one.
        new_head: Whether the last linear layer may start from random weights, as in fine-tuning.
            All other weights must have their stored shapes.

    Raises:
        ValueError: The checkpoint is not an image classifier, or its weights do not fit its
            configuration.
        OSError: The checkpoint does not exist, is gated, or has missing or broken files.
    """
    config = config or load_config(model, revision=revision, token=token)
    if config.model_type not in (*_MODEL_TYPES, _TIMM):
        raise ValueError(
            f"{model} is a {config.model_type!r} checkpoint, for which transformers has no image "
            "classifier; pass one such as google/vit-base-patch16-224 or "
            "facebook/convnextv2-tiny-22k-224."
        )
    with _readable_errors(model, revision):
        classifier, info = AutoModelForImageClassification.from_pretrained(
            model,
            revision=revision,
            token=token,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    # transformers only warns about weights that are missing or have another shape.
    reported = {key for key, *_ in info["mismatched_keys"]}
    if not new_head:
        reported |= set(info["missing_keys"])
    heads = tuple(f"{name}." for name in final_linears(classifier)) if new_head else ()
    parameters = [name for name, _ in classifier.named_parameters() if not name.startswith(heads)]
    wrong = [name for name in parameters if name in reported]
    if wrong:
        raise ValueError(
            f"The weights of {model} do not fit its configuration: {len(wrong)} are missing or "
            f"have another shape, such as {wrong[0]}. Restore the configuration, or pass a "
            "checkpoint with a trained classifier."
        )
    return classifier


def load_config(model: str | Path, *, revision: str | None = None, token: str | None = None):
    """Load a checkpoint's configuration.

    Raises:
        OSError: As [`load_classifier`].
    """
    with _readable_errors(model, revision):
        config = AutoConfig.from_pretrained(
            model, revision=revision, token=token, trust_remote_code=False
        )
    if config.model_type == _TIMM:
        # transformers would prefer them to the stored processor and to the labels.
        for name in ("pretrained_cfg", "label_names"):
            config.__dict__.pop(name, None)
    return config


def load_processor(
    model: str | Path, *, revision: str | None = None, token: str | None = None
) -> BaseImageProcessor:
    """Load a checkpoint's image processor with the PIL backend.

    The torchvision backend, which transformers prefers, resizes differently and would change the
    scores.

    Raises:
        OSError: As [`load_classifier`].
    """
    with _readable_errors(model, revision):
        processor = AutoImageProcessor.from_pretrained(
            model, revision=revision, token=token, backend="pil", trust_remote_code=False
        )
        data_config = getattr(processor, "data_config", None)
        return processor if data_config is None else _timm_processor(data_config)


def _timm_processor(data_config: dict) -> BaseImageProcessor:
    """Return a processor that does what timm's evaluation transform does.

    Where the crop's edges fall between two pixels, timm rounds to the other one.
    """
    from transformers import CLIPImageProcessorPil

    _, height, width = data_config["input_size"]
    if height != width or data_config["crop_mode"] != "center":
        raise ValueError("timm's preprocessing is no centre crop of a square")
    return CLIPImageProcessorPil(
        size={"shortest_edge": math.floor(height / data_config["crop_pct"])},
        crop_size={"height": height, "width": width},
        resample=Image.Resampling[data_config["interpolation"].upper()],
        image_mean=list(data_config["mean"]),
        image_std=list(data_config["std"]),
        do_convert_rgb=True,
    )


def optional_file(
    model: str | Path, name: str, *, revision: str | None = None, token: str | None = None
) -> Path | None:
    """Find an optional file of a checkpoint, in its folder or on the Hub; `None` if missing.

    Raises:
        OSError: The Hub answers with an error, or it cannot be reached and the file is not cached.
    """
    with _readable_errors(model, revision):
        path = cached_file(
            str(model),
            name,
            revision=revision,
            token=token,
            _raise_exceptions_for_missing_entries=False,
        )
    return Path(path) if path else None


def build_classifier(
    model_type: str, *, overrides: dict | None = None, image_size: int | None = None
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Build a classifier with random weights.

    Args:
        model_type: A model type of transformers: `vit`, `convnextv2`, `swin`, …
        overrides: Fields of the configuration, such as `{"hidden_sizes": [48, 96, 192, 384]}`.
        image_size: Side of the model's input in pixels.

    Raises:
        ValueError: The architecture or a field does not exist.
    """
    if model_type not in _MODEL_TYPES:
        raise ValueError(
            f"--model_type {model_type!r} is not an image classifier of transformers; use one of "
            f"{', '.join(_MODEL_TYPES)}."
        )
    default = AutoConfig.for_model(model_type)
    settings = dict(overrides or {})
    override_config(default, settings)
    given_size = settings.get("image_size")
    image_size = image_size or (given_size if isinstance(given_size, int) else DEFAULT_IMAGE_SIZE)
    if hasattr(default, "image_size"):
        settings["image_size"] = image_size
    class_name = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[model_type]
    try:
        # Created again, because some fields follow from others: a ConvNeXt's stage names from its
        # depths.
        config = AutoConfig.for_model(model_type, **settings)
        name_labels(config)
        config.architectures = [class_name if isinstance(class_name, str) else class_name[0]]
        model = AutoModelForImageClassification.from_config(config)
    except (
        ValueError,
        TypeError,
        RuntimeError,
        ZeroDivisionError,
        LookupError,
        AttributeError,
        StrictDataclassError,
    ) as error:
        raise ValueError(
            f"{model_type} cannot be built with these settings ({' '.join(str(error).split())}); "
            "check --config_overrides and --image_size."
        ) from error
    from transformers import ViTImageProcessorPil

    processor = ViTImageProcessorPil(size={"height": image_size, "width": image_size})
    return model, processor


def override_config(config, overrides: dict) -> None:
    """Set fields of a configuration.

    Raises:
        ValueError: A field does not exist or sets the labels, or a value has the wrong type.
    """
    for key, value in overrides.items():
        if key in ("num_labels", "id2label", "label2id", "model_type"):
            raise ValueError(
                f"--config_overrides cannot set {key!r}: the labels are always 'real' and 'ai', "
                "and --model_type or --model_name_or_path sets the architecture."
            )
        if not hasattr(config, key):
            raise ValueError(
                f"--config_overrides: the {config.model_type!r} configuration has no field {key!r}."
            )
        try:
            setattr(config, key, value)
        except (StrictDataclassError, TypeError, ValueError) as error:
            raise ValueError(
                f"--config_overrides: {value!r} is not valid for the field {key!r} of the "
                f"{config.model_type!r} configuration."
            ) from error


def name_labels(config) -> None:
    """Set the labels of a configuration to `real` and `ai`."""
    _set_labels(config, dict(enumerate(NAMES)))


def _set_labels(config, id2label: dict[int, str]) -> None:
    config.id2label = id2label
    config.label2id = {name: index for index, name in id2label.items()}
    # With "multi_label_classification", the stock pipeline applies a sigmoid to each logit.
    config.problem_type = "single_label_classification"


def keeps_head(config) -> bool:
    """Return whether fine-tuning can start from the head of a checkpoint, a real/AI classifier.

    If so, its two labels are renamed in place to `real` and `ai`, in their order.
    """
    if config.num_labels != len(NAMES):
        return False
    try:
        indices = class_indices(config.id2label)
    except ValueError:
        return False
    _set_labels(config, {index: name for name, (index,) in indices.items()})
    return True


def use_native_pixels(processor: BaseImageProcessor, image_size: int) -> None:
    """Make a processor crop the centre at native resolution instead of resizing, in place.

    Resizing removes many of the traces that generators leave in the pixels. The stock processors
    pad smaller images with zeros.
    """
    processor.do_resize = False
    processor.do_center_crop = True
    processor.crop_size = {"height": image_size, "width": image_size}


def input_size(processor: BaseImageProcessor) -> tuple[int, int]:
    """Return the height and width in pixels of a processor's output."""
    is_cropped = getattr(processor, "do_center_crop", False) and processor.crop_size
    size = dict(processor.crop_size if is_cropped else processor.size)
    height = size.get("height") or size["shortest_edge"]
    return int(height), int(size.get("width") or height)


def _missing_files(folder: Path) -> list[str]:
    """List the missing files of a checkpoint's folder. An index replaces sharded weights."""
    return [
        name
        for name in ("config.json", "model.safetensors", "preprocessor_config.json")
        if not (folder / name).is_file() and not (folder / f"{name}.index.json").is_file()
    ]


@contextmanager
def _readable_errors(model: str | Path, revision: str | None) -> Iterator[None]:
    """Turn the libraries' errors about a checkpoint into one line."""
    where = f"{model}@{revision}" if revision else str(model)
    try:
        yield
    except Exception as error:
        if isinstance(error, ImportError) and "timm" in str(error):
            raise ValueError(f"{where} is a checkpoint of timm: pip install timm") from error
        if isinstance(error, GatedRepoError) or isinstance(error.__cause__, GatedRepoError):
            raise OSError(
                f"{where} is gated: accept its terms on the Hub and run `hf auth login`."
            ) from error
        folder = Path(model)
        missing = _missing_files(folder) if folder.is_dir() else []
        first = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, (OSError, HFValidationError)) or "config.json" in missing:
            if folder.is_dir():
                detail = f"it lacks {', '.join(missing)}" if missing else first
                if "config.json" in missing and (folder / SAVING).is_dir():
                    detail = "saving was interrupted; run the command that saves it again"
                raise OSError(f"{where} cannot be opened as a checkpoint: {detail}") from error
            raise OSError(
                f"No checkpoint {where!r}: it is neither a local folder nor available on the Hub "
                f"({type(error.__cause__ or error).__name__}). Check the name, the connection and "
                "`hf auth login`."
            ) from error
        if isinstance(error, (SafetensorError, json.JSONDecodeError, UnicodeDecodeError)):
            raise OSError(f"{where} is broken, download or save it again: {error}") from error
        if isinstance(error, (ValueError, KeyError, TypeError, RuntimeError, StrictDataclassError)):
            raise ValueError(
                f"{where} cannot be opened as an image classifier: {first[:300]}"
            ) from error
        raise
