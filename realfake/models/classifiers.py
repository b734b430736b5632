"""Opening and building image classifiers of transformers together with their image processor.

The one place that knows how a checkpoint is found, which backend decodes for it, and which errors
of the libraries a user's mistake turns into.
"""

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

# The side that every architecture accepts when it is built from scratch and nothing else is asked
# for.
DEFAULT_IMAGE_SIZE = 224
# Where a checkpoint's new files wait in its folder until all of them are written.
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
    """Load an image classifier from a Hub id or a folder, from safetensors only and without remote
    code.

    Args:
        config: *optional*. Its configuration, changed.
        new_head: Whether the last linear layer may start from random weights, as for fine-tuning.
            Other weights must have their stored shapes either way.

    Raises:
        ValueError: The checkpoint is no image classifier, or its weights do not fit its
            configuration.
        OSError: There is no such checkpoint, it is gated, or its files are missing or broken.
    """
    config = config or load_config(model, revision=revision, token=token)
    # Timm's wrapper needs torchvision's processors, which this project does without.
    if (
        config.model_type not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
        or config.model_type == "timm_wrapper"
    ):
        raise ValueError(
            f"{model} is a {config.model_type!r} checkpoint, which transformers has no image classifier for; "
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
    # transformers draws what is missing or of another shape at random, and only warns of it.
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
            f"The weights of {model} do not fit its configuration: {len(random)} are missing or have another shape, "
            f"{random[0]} for one. Undo what was changed, or pass a checkpoint with a trained classifier."
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

    The torchvision backend, which transformers prefers where it is installed, resizes to other
    pixels and so would give other scores on other machines.

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
    """Find a file that a checkpoint may hold beside its weights, in its folder or on the Hub;
    `None` where it does not.

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
    """Build an architecture with random weights, for where no checkpoint can be had.

    Args:
        model_type: A name that transformers knows: `vit`, `convnextv2`, `swin`, …
        overrides: Fields of the configuration, such as `{"hidden_sizes": [48, 96, 192, 384]}`.
        image_size: Side of the model's input in pixels.

    Raises:
        ValueError: There is no such architecture, or a field is unknown to it.
    """
    known = sorted(
        name for name in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES if name != "timm_wrapper"
    )
    if model_type not in known:
        raise ValueError(
            f"--model_type {model_type!r} is no image classifier of transformers; known: {', '.join(known)}."
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
        # Made anew, because some fields follow from others, such as the names of a ConvNeXt's
        # stages from its depths.
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
            f"{model_type} cannot be built with these settings ({' '.join(str(error).split())}); check --config_overrides "
            "and --image_size."
        ) from error
    from transformers import ViTImageProcessorPil

    processor = ViTImageProcessorPil(size={"height": image_size, "width": image_size})
    return model, processor


def override_config(config, overrides: dict) -> None:
    """Set fields of a configuration.

    Raises:
        ValueError: The configuration has no such field, the value is of another type, or it is the
            labels' field.
    """
    for key, value in overrides.items():
        if key in ("num_labels", "id2label", "label2id", "model_type"):
            raise ValueError(
                f"--config_overrides cannot set {key!r}: the labels are always 'real' and 'ai', and the architecture is "
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
                f"--config_overrides: {value!r} does not suit the field {key!r} of the {config.model_type!r} configuration."
            ) from error


def name_labels(config) -> None:
    """Give a configuration the project's two labels."""
    config.id2label = dict(enumerate(NAMES))
    config.label2id = {name: index for index, name in enumerate(NAMES)}
    _take_softmax(config)


def _take_softmax(config) -> None:
    # Left at "multi_label_classification", the stock pipeline would apply a sigmoid to each logit.
    config.problem_type = "single_label_classification"


def keeps_head(config) -> bool:
    """Say whether a checkpoint is a real/ai classifier already, so that fine-tuning starts from its
    own head.

    Its two labels are renamed in place to the project's, in the order that they have.
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
    """Let a processor cut the centre out at native pixels instead of resampling, in place.

    Resampling erases much of what a generator leaves behind in the pixels. Images smaller than the
    crop are padded with zeros by the stock processors.
    """
    processor.do_resize = False
    processor.do_center_crop = True
    processor.crop_size = {"height": image_size, "width": image_size}


def input_size(processor: BaseImageProcessor) -> tuple[int, int]:
    """Return the height and width in pixels of what a processor hands to the model."""
    size = (
        processor.crop_size
        if getattr(processor, "do_center_crop", False) and processor.crop_size
        else processor.size
    )
    size = size if isinstance(size, dict) else dict(size)
    height = size.get("height") or size["shortest_edge"]
    return int(height), int(size.get("width") or height)


def _missing_files(folder: Path) -> list[str]:
    """Name what a checkpoint's folder lacks; large weights are in several files that an index
    names.
    """
    return [
        name
        for name in ("config.json", "model.safetensors", "preprocessor_config.json")
        if not (folder / name).is_file() and not (folder / f"{name}.index.json").is_file()
    ]


class _readable_errors:
    """Turns what the libraries raise for a checkpoint that cannot be opened into one line."""

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
                    detail = "it was being saved when that was interrupted; give the command that saves it again"
                raise OSError(f"{self.where} cannot be opened as a checkpoint: {detail}") from error
            raise OSError(
                f"No checkpoint {self.where!r}: it is neither a folder here nor to be had from the Hub "
                f"({type(error.__cause__ or error).__name__}). Check the name, the connection and `hf auth login`."
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
