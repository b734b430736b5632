"""The command line of `train_hf.py`: what is trained, on what, and how.

`TrainingArguments` of transformers is reused with defaults that fit this task; the model and the corpus have
dataclasses of their own. Everything that can be checked without opening a file is checked here.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from realfake.corpus.hold_out import parse_hold_out
from realfake.corpus.splits import EVALUABLE_SPLITS
from realfake.labels import parse_overrides

# There is one where --hold_out asks for it.
MEASURED_SPLITS = (*EVALUABLE_SPLITS, "held_out")


@dataclass
class ModelArguments:
    """Which classifier is trained, and how much of it."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Hub id or folder of any image-classification checkpoint to fine-tune."},
    )
    model_type: str | None = field(
        default=None,
        metadata={
            "help": "Architecture to build with random weights instead: vit, convnextv2, swin, …"
        },
    )
    model_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the checkpoint."}
    )
    config_overrides: str | None = field(
        default=None,
        metadata={
            "help": "Fields of the configuration as JSON, e.g. '{\"depths\": [2, 2, 6, 2]}'."
        },
    )
    image_size: int | None = field(
        default=None,
        metadata={"help": "Side of the model's input in pixels; defaults to the checkpoint's own."},
    )
    preprocessing: str = field(
        default="processor",
        metadata={
            "choices": ["processor", "native"],
            "help": "'processor': as the checkpoint resizes; 'native': cut out at native pixels, without resampling.",
        },
    )
    trainable: str = field(
        default="all",
        metadata={
            "help": "'all', 'head' (last linear layer) or 'last:N' (last N blocks and the rest)."
        },
    )
    dropout: float | None = field(
        default=None,
        metadata={
            "help": "Dropout rate, set in the architecture's own field; refused where it has none."
        },
    )

    def __post_init__(self):
        if bool(self.model_name_or_path) == bool(self.model_type):
            raise ValueError(
                "Pass either --model_name_or_path (fine-tune a checkpoint) or --model_type (build one from scratch)."
            )
        if self.image_size is not None and self.image_size < 8:
            raise ValueError(f"--image_size must be at least 8 pixels, not {self.image_size}.")
        self.config_overrides = _json_object(self.config_overrides, "--config_overrides")


@dataclass
class DataArguments:
    """Which corpus is used, and what is done to its images on the way."""

    dataset: str = field(
        metadata={
            "help": "Hub dataset id, folder of class folders, or folder or file of Parquet/Arrow/CSV/JSON."
        }
    )
    corpus_name: str | None = field(
        default=None,
        metadata={
            "help": "What the corpus is called in the card; defaults to its id or folder name."
        },
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration name of a Hub dataset."}
    )
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of a Hub dataset."}
    )
    train_split: str | None = field(
        default=None, metadata={"help": "Name of the training split, where it is unusual."}
    )
    validation_split: str | None = field(
        default=None, metadata={"help": "Name of the validation split."}
    )
    test_split: str | None = field(default=None, metadata={"help": "Name of the test split."})
    image_column: str | None = field(
        default=None, metadata={"help": "Name of the column that holds the image."}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Name of the column that holds the label."}
    )
    label_map: str | None = field(
        default=None,
        metadata={"help": "Which classes are real and which ai: 'nature=real,midjourney=ai'."},
    )
    streaming: bool = field(
        default=False, metadata={"help": "Stream the training split; needs --max_steps."}
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Use this many training images at most."}
    )
    max_validation_samples: int | None = field(
        default=None, metadata={"help": "Use this many validation images."}
    )
    max_test_samples: int | None = field(
        default=None, metadata={"help": "Use this many test images at most."}
    )
    hold_out: str | None = field(
        default=None,
        metadata={
            "help": "Train without these generators, families or sources and measure them by themselves: "
            "'generator=midjourney,dall-e'."
        },
    )
    split_seed: int = field(default=42, metadata={"help": "Seed of the splits that are carved."})
    preprocessing_num_workers: int | None = field(
        default=None,
        metadata={"help": "Processes that check the images; defaults to one per core."},
    )
    augmentation: float = field(
        default=0.5, metadata={"help": "Strength of the augmentation, from 0 (none) to 1 (strong)."}
    )
    mixup: float = field(
        default=0.0,
        metadata={
            "help": "Blend the images of a training batch in pairs; α of the Beta distribution, mild at 0.1; 0: do not."
        },
    )
    cutmix: float = field(
        default=0.0,
        metadata={
            "help": "Put a rectangle of one training image into another; α as above; 0: do not."
        },
    )
    consistency: float = field(
        default=0.0,
        metadata={
            "help": "Show each training image with a copy of it that was saved once more, and add the Jensen-Shannon "
            "divergence between the two answers to the loss with this weight, such as 12; 0: do not. Twice the work."
        },
    )
    hard_examples: str | None = field(
        default=None,
        metadata={
            "help": "Go on training on the mistakes of an evaluation of the training images (--evaluate_only train), in this "
            "folder, mixed with ordinary images; validation is measured before and after."
        },
    )
    hard_share: float = field(
        default=0.3,
        metadata={"help": "Share of the mistakes among the images, with --hard_examples."},
    )
    train_crop_size: int | None = field(
        default=None,
        metadata={
            "help": "Side of the native training crop; with --preprocessing native, defaults to the input side."
        },
    )
    class_weights: str = field(
        default="none",
        metadata={
            "choices": ["none", "balanced"],
            "help": "'balanced' weights the loss by inverse class frequency.",
        },
    )

    def __post_init__(self):
        if not 0 <= self.augmentation <= 1:
            raise ValueError(f"--augmentation must lie between 0 and 1, not {self.augmentation}.")
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) <= 10:
                raise ValueError(f"--{name} must lie between 0 and 10, not {getattr(self, name)}.")
        if not 0 <= self.consistency <= 100:
            raise ValueError(f"--consistency must lie between 0 and 100, not {self.consistency}.")
        if self.consistency and (self.mixup or self.cutmix):
            raise ValueError("--consistency compares whole images; leave out --mixup and --cutmix.")
        if not 0 < self.hard_share <= 1:
            raise ValueError(f"--hard_share must lie in (0, 1], not {self.hard_share}.")
        if self.hard_examples and self.streaming:
            raise ValueError("--hard_examples cannot look into a stream; leave out --streaming.")
        for name in ("max_train_samples", "max_validation_samples", "max_test_samples"):
            value = getattr(self, name)
            if value is not None and value < 2:
                raise ValueError(f"--{name} must be at least 2, one image of each class.")
        self.label_map = parse_overrides(self.label_map)
        if parse_hold_out(self.hold_out) and self.streaming:
            raise ValueError("--hold_out cannot look into a stream; leave out --streaming.")
        local = Path(self.dataset)
        self.corpus_name = self.corpus_name or (
            local.resolve().name if local.exists() else self.dataset
        )


@dataclass
class RunArguments(TrainingArguments):
    """`TrainingArguments` with this task's defaults, and what happens around the training."""

    output_dir: str = field(
        default="runs/latest", metadata={"help": "Folder of the finished checkpoint and its card."}
    )
    learning_rate: float = field(default=3e-4, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning-rate schedule."})
    warmup_steps: float = field(
        default=0.05, metadata={"help": "Warm-up steps, or their share if below 1."}
    )
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of AdamW."})
    per_device_train_batch_size: int = field(
        default=32, metadata={"help": "Images a process takes in one step."}
    )
    per_device_eval_batch_size: int = field(
        default=64, metadata={"help": "Images a process measures at once."}
    )
    eval_strategy: str = field(
        default="epoch", metadata={"help": "When the selection part is measured."}
    )
    save_strategy: str = field(default="epoch", metadata={"help": "When a checkpoint is saved."})
    save_total_limit: int | None = field(
        default=2, metadata={"help": "Checkpoints kept; the best one is always kept."}
    )
    logging_steps: float = field(
        default=25, metadata={"help": "Steps between two lines of the log."}
    )
    load_best_model_at_end: bool = field(
        default=True, metadata={"help": "End with the best checkpoint."}
    )
    metric_for_best_model: str | None = field(
        default="loss",
        metadata={"help": "What the best checkpoint is chosen by: loss, accuracy or auroc."},
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True,
        metadata={"help": "A resumed run keeps its early-stopping patience and its elapsed time."},
    )
    remove_unused_columns: bool = field(
        default=False,
        metadata={"help": "Must stay off: the images are transformed as they are read."},
    )
    bf16: bool | None = field(
        default=None,
        metadata={
            "help": "bfloat16 autocast; defaults to on where the machine has bf16 arithmetic."
        },
    )

    channels_last: bool = field(
        default=False,
        metadata={
            "help": "Channels-last memory layout: faster for depthwise convolutions such as MobileNet's."
        },
    )
    backbone_lr_factor: float = field(
        default=1.0,
        metadata={
            "help": "Learning rate of all but the last layer, as a share of --learning_rate."
        },
    )
    l2_to_pretrained: float = field(
        default=0.0,
        metadata={
            "help": "Pull all but the last layer towards the checkpoint's weights, such as 0.1, instead of decaying them."
        },
    )
    head_epochs: int = field(
        default=0, metadata={"help": "Train the last layer alone for the first epochs, this many."}
    )
    ema_decay: float = field(
        default=0.0,
        metadata={
            "help": "Average the weights over the steps with this decay, such as 0.999, and measure and keep the "
            "average; 0: do not."
        },
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after this many measurements without an improvement."}
    )
    alpha: float = field(
        default=0.05,
        metadata={
            "help": "Rate of wrong verdicts among the images of a class; the rest is inconclusive."
        },
    )
    measure_test: bool = field(
        default=True, metadata={"help": "Measure the test split once, at the end."}
    )
    measure_degradations: int = field(
        default=2000,
        metadata={
            "help": "So many test images at most are measured recompressed, resized, … too; 0 for none."
        },
    )
    measurement_log: str = field(
        default="realfake/checkpoints/measurements.jsonl",
        metadata={"help": "File that every measurement of a test split is added to."},
    )
    evaluate_only: str | None = field(
        default=None,
        metadata={"help": f"Train nothing, measure one split: {', '.join(MEASURED_SPLITS)}."},
    )
    search: int = field(
        default=0,
        metadata={
            "help": "Search for good options in so many trainings (Optuna), by --metric_for_best_model, then stop; the same "
            "command continues a search that was interrupted."
        },
    )
    dry_run: bool = field(
        default=False,
        metadata={"help": "Show the corpus, the model and the first augmented batch, then stop."},
    )
    publish: bool = field(default=False, init=False)
    license: str = field(
        default="apache-2.0", metadata={"help": "Licence of the weights, for the card."}
    )
    corpus_notes: str | None = field(
        default=None,
        metadata={"help": "Markdown file on the corpus, its origins and weaknesses, for the card."},
    )

    def __post_init__(self):
        if self.evaluate_only is not None and self.evaluate_only not in MEASURED_SPLITS:
            raise ValueError(
                f"--evaluate_only must be one of {', '.join(MEASURED_SPLITS)}, not {self.evaluate_only!r}."
            )
        if self.measure_degradations < 0:
            raise ValueError(
                f"--measure_degradations must not be negative, as {self.measure_degradations} is."
            )
        if self.search < 0:
            raise ValueError(f"--search must be a number of trials, not {self.search}.")
        if self.search and (self.early_stopping_patience or self.evaluate_only or self.dry_run):
            raise ValueError(
                "--search trains every trial to its end or prunes it: leave out --early_stopping_patience, --evaluate_only "
                "and --dry_run."
            )
        if not 0 < self.alpha < 0.5:
            raise ValueError(f"--alpha must lie between 0 and 0.5, not {self.alpha}.")
        if not 0 < self.backbone_lr_factor <= 1:
            raise ValueError(
                f"--backbone_lr_factor must lie in (0, 1], not {self.backbone_lr_factor}."
            )
        if self.l2_to_pretrained < 0 or self.head_epochs < 0:
            raise ValueError("--l2_to_pretrained and --head_epochs must not be negative.")
        if self.head_epochs:
            # Otherwise two processes would wait for the gradients of the backbone.
            self.ddp_find_unused_parameters = True
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"--ema_decay must lie in [0, 1), not {self.ema_decay}.")
        if self.remove_unused_columns:
            raise ValueError(
                "--remove_unused_columns must stay off: the image column would be removed."
            )
        if self.corpus_notes and not Path(self.corpus_notes).is_file():
            raise ValueError(f"--corpus_notes: there is no file {self.corpus_notes}.")
        if self.early_stopping_patience is not None and (
            self.early_stopping_patience < 1 or not self.load_best_model_at_end
        ):
            raise ValueError(
                "--early_stopping_patience must be at least 1, and needs --load_best_model_at_end True."
            )
        if self.dataloader_persistent_workers:
            raise ValueError(
                "--dataloader_persistent_workers must stay off: workers that live on would repeat the first epoch's "
                "augmentation."
            )
        # The Trainer itself must not push: what it saves on the way is neither calibrated nor measured.
        self.publish, self.push_to_hub = self.push_to_hub, False
        if not torch.accelerator.is_available():
            # transformers refuses bf16 on a machine without a GPU unless it is told so.
            self.use_cpu = True
        if self.bf16 is None:
            self.bf16 = not self.fp16 and has_bf16(self.use_cpu)
        super().__post_init__()
        missing = sorted(
            set(self.report_to)
            & set(INTEGRATION_TO_CALLBACK) - set(get_available_reporting_integrations())
        )
        if missing:
            raise ValueError(
                f"--report_to {' '.join(missing)} needs a package: pip install {' '.join(missing)}"
            )


def has_bf16(use_cpu: bool) -> bool:
    """Say whether bfloat16 is arithmetic of this machine rather than an emulation."""
    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.backends.mps.is_available() and not use_cpu:
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _json_object(text: str | None, option: str) -> dict:
    try:
        value = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise ValueError(f"{option} is not JSON ({error}): {text}") from error
    if not isinstance(value, dict):
        raise ValueError(
            f"{option} must be a JSON object such as '{{\"depths\": [2, 2, 6, 2]}}', not {text}."
        )
    return value
