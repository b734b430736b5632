"""Load and build image classifiers of transformers together with their image processors."""

import json
from pathlib import Path

import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    StrictDataclassError,
)
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

# An input side that every architecture accepts.
DEFAULT_IMAGE_SIZE = 224
# Folder inside a checkpoint's folder for new files, until all of them are written.
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
    # Timm's wrapper needs torchvision's processors, which this project does without.
    if (
        config.model_type not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
        or config.model_type == "timm_wrapper"
    ):
        raise ValueError(
            f"{model} is a {config.model_type!r} checkpoint, which transformers has no image "
            "classifier for; "
            "pass one such as google/vit-base-patch16-224 or facebook/convnextv2-tiny-22k-224."
        )
    with _readable_errors(model, revision):
        classifier, found = AutoModelForImageClassification.from_pretrained(
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
    # transformers initialises missing weights and weights of another shape at random, with a
    # warning.
    random = {key for key, *_ in found["mismatched_keys"]} | (
        set() if new_head else set(found["missing_keys"])
    )
    heads = tuple(f"{name}." for name in final_linears(classifier)) if new_head else ()
    random = [
        name
        for name, _ in classifier.named_parameters()
        if name in random and not name.startswith(heads)
    ]
    if random:
        raise ValueError(
            f"The weights of {model} do not fit its configuration: {len(random)} are missing or "
            "have another shape, "
            f"{random[0]} for one. Undo what was changed, or pass a checkpoint with a trained "
            "classifier."
        )
    return classifier


def load_config(model: str | Path, *, revision: str | None = None, token: str | None = None):
    """Load a checkpoint's configuration.

    Raises:
        OSError: As [`load_classifier`].
    """
    with _readable_errors(model, revision):
        return AutoConfig.from_pretrained(
            model, revision=revision, token=token, trust_remote_code=False
        )


def load_processor(
    model: str | Path, *, revision: str | None = None, token: str | None = None
) -> BaseImageProcessor:
    """Load a checkpoint's image processor, always with the PIL backend.

    transformers prefers the torchvision backend where it is installed. That backend resizes to
    other pixels and would give other scores.

    Raises:
        OSError: As [`load_classifier`].
    """
    with _readable_errors(model, revision):
        return AutoImageProcessor.from_pretrained(
            model, revision=revision, token=token, backend="pil", trust_remote_code=False
        )


def optional_file(
    model: str | Path, name: str, *, revision: str | None = None, token: str | None = None
) -> Path | None:
    """Find an optional file of a checkpoint, in its folder or on the Hub; `None` if it has none.

    Raises:
        OSError: The Hub answers with an error, or cannot be reached and the file is not in the
            cache.
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
    known = sorted(
        name for name in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES if name != "timm_wrapper"
    )
    if model_type not in known:
        raise ValueError(
            f"--model_type {model_type!r} is no image classifier of transformers; known: "
            f"{', '.join(known)}."
        )
    default = AutoConfig.for_model(model_type)
    settings = dict(overrides or {})
    override_config(default, settings)
    own_size = settings.get("image_size")
    image_size = image_size or (own_size if isinstance(own_size, int) else DEFAULT_IMAGE_SIZE)
    if hasattr(default, "image_size"):
        settings["image_size"] = image_size
    class_name = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[model_type]
    try:
        # Created again, because some fields follow from others, such as a ConvNeXt's stage names
        # from its depths.
        config = AutoConfig.for_model(model_type, **settings)
        name_labels(config)
        config.architectures = [class_name if isinstance(class_name, str) else class_name[0]]
        model = AutoModelForImageClassification.from_config(config)
    except (
        ValueError,
        TypeError,
        RuntimeError,
        ZeroDivisionError,
        IndexError,
        KeyError,
        AttributeError,
        StrictDataclassError,
    ) as error:
        raise ValueError(
            f"{model_type} cannot be built with these settings ({' '.join(str(error).split())}); "
            "check --config_overrides "
            "and --image_size."
        ) from error
    from transformers import ViTImageProcessorPil

    processor = ViTImageProcessorPil(size={"height": image_size, "width": image_size})
    return model, processor


def override_config(config, overrides: dict) -> None:
    """Set fields of a configuration.

    Raises:
        ValueError: The field does not exist, the value has the wrong type, or the field sets
            labels.
    """
    for key, value in overrides.items():
        if key in ("num_labels", "id2label", "label2id", "model_type"):
            raise ValueError(
                f"--config_overrides cannot set {key!r}: the labels are always 'real' and 'ai', "
                "and the architecture is "
                "chosen by --model_type or --model_name_or_path."
            )
        if not hasattr(config, key):
            raise ValueError(
                f"--config_overrides: the {config.model_type!r} configuration has no field {key!r}."
            )
        try:
            setattr(config, key, value)
        except (StrictDataclassError, TypeError, ValueError) as error:
            raise ValueError(
                f"--config_overrides: {value!r} does not suit the field {key!r} of the "
                f"{config.model_type!r} configuration."
            ) from error


def name_labels(config) -> None:
    """Set the labels of a configuration to `real` and `ai`."""
    config.id2label = dict(enumerate(NAMES))
    config.label2id = {name: index for index, name in enumerate(NAMES)}
    _take_softmax(config)


def _take_softmax(config) -> None:
    # With "multi_label_classification" the stock pipeline would apply a sigmoid to each logit.
    config.problem_type = "single_label_classification"


def keeps_head(config) -> bool:
    """Return whether a checkpoint is a real/AI classifier whose head fine-tuning can start from.

    If so, its two labels are renamed in place to `real` and `ai`; their order stays.
    """
    if config.num_labels != len(NAMES):
        return False
    try:
        indices = class_indices(config.id2label)
    except ValueError:
        return False
    config.id2label = {index: name for name, (index,) in indices.items()}
    config.label2id = {name: index for name, (index,) in indices.items()}
    _take_softmax(config)
    return True


def use_native_pixels(processor: BaseImageProcessor, image_size: int) -> None:
    """Set a processor to crop the centre at native pixels instead of resizing, in place.

    Resizing removes much of the evidence that generators leave in the pixels. The stock processors
    pad smaller images with zeros.
    """
    processor.do_resize = False
    processor.do_center_crop = True
    processor.crop_size = {"height": image_size, "width": image_size}


def input_size(processor: BaseImageProcessor) -> tuple[int, int]:
    """Return the height and width in pixels of a processor's output."""
    size = (
        processor.crop_size
        if getattr(processor, "do_center_crop", False) and processor.crop_size
        else processor.size
    )
    size = size if isinstance(size, dict) else dict(size)
    height = size.get("height") or size["shortest_edge"]
    return int(height), int(size.get("width") or height)


def _missing_files(folder: Path) -> list[str]:
    """List the files that are missing in a checkpoint's folder. An index stands for its shards."""
    return [
        name
        for name in ("config.json", "model.safetensors", "preprocessor_config.json")
        if not (folder / name).is_file() and not (folder / f"{name}.index.json").is_file()
    ]


class _readable_errors:
    """Turns errors of the libraries about a checkpoint into one line."""

    def __init__(self, model: str | Path, revision: str | None):
        self.model = str(model)
        self.where = f"{model}@{revision}" if revision else str(model)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        if error is None or not isinstance(error, Exception):
            return False
        if isinstance(error, GatedRepoError) or isinstance(error.__cause__, GatedRepoError):
            raise OSError(
                f"{self.where} is gated: accept its terms on the Hub and run `hf auth login`."
            ) from error
        folder = Path(self.model)
        missing = _missing_files(folder) if folder.is_dir() else []
        if (
            isinstance(error, (OSError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError))
            or "config.json" in missing
        ):
            if folder.is_dir():
                detail = f"it lacks {', '.join(missing)}" if missing else str(error).splitlines()[0]
                if "config.json" in missing and (folder / SAVING).is_dir():
                    detail = "saving it was interrupted; run the command that saves it again"
                raise OSError(f"{self.where} cannot be opened as a checkpoint: {detail}") from error
            raise OSError(
                f"No checkpoint {self.where!r}: it is neither a folder here nor to be had from the "
                "Hub "
                f"({type(error.__cause__ or error).__name__}). Check the name, the connection and "
                "`hf auth login`."
            ) from error
        if type(error).__name__ == "SafetensorError" or isinstance(
            error, (json.JSONDecodeError, UnicodeDecodeError)
        ):
            raise OSError(f"{self.where} is broken, download or save it again: {error}") from error
        if isinstance(error, (ValueError, KeyError, TypeError, RuntimeError, StrictDataclassError)):
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"{self.where} cannot be opened as an image classifier: {first[:300]}"
            ) from error
        return False
