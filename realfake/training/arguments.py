"""The command line of the training: the model, the corpus, and the run.

`TrainingArguments` of transformers is reused with defaults for this task; the model and the corpus
have dataclasses of their own. Everything that needs no file is checked here.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from transformers import HfArgumentParser, TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from realfake.corpus.load import parse_hold_out
from realfake.corpus.splits import EVALUABLE_SPLITS
from realfake.evaluation import results
from realfake.evaluation.log import FILE_NAME as MEASUREMENTS
from realfake.io import redact
from realfake.labels import parse_overrides

# `held_out` exists with --hold_out.
MEASURED_SPLITS = (*EVALUABLE_SPLITS, "held_out")


def _option(default: Any, text: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": text, **more})


@dataclass
class ModelArguments:
    """Which classifier is trained, and how much of it."""

    _argument_group_name = "model"

    model_name_or_path: str | None = _option(None, "Hub id or folder to fine-tune.")
    model_type: str | None = _option(None, "Architecture with random weights: vit, swin, …")
    model_revision: str | None = _option(None, "Branch, tag or commit of the checkpoint.")
    config_overrides: str | None = _option(
        None, "Fields of the configuration as JSON, such as '{\"depths\": [2, 2, 6, 2]}'."
    )
    image_size: int | None = _option(None, "Side of the model's input in pixels.")
    preprocessing: str = _option(
        "processor",
        "'processor' resizes as the checkpoint does; 'native' crops without resampling.",
        choices=["processor", "native"],
    )
    trainable: str = _option(
        "all", "'all', 'head' (last linear layer) or 'last:N' (head and last N blocks)."
    )
    blocks: int | None = _option(None, "Keep only the first blocks of a transformer.")
    lora_rank: int = _option(
        0, "Train only adapters of this rank (LoRA) and the last layer, and merge them at the end."
    )
    lora_alpha: float | None = _option(
        None, "Scale of the adapters, as alpha / rank (default: twice the rank)."
    )
    dropout: float | None = _option(None, "Dropout rate, for architectures that have dropout.")

    def __post_init__(self):
        if bool(self.model_name_or_path) == bool(self.model_type):
            raise ValueError("Pass either --model_name_or_path or --model_type (random weights).")
        _check_range(self, "image_size", 8)
        _check_range(self, "lora_rank", 0)
        if self.lora_alpha is not None and not (self.lora_rank and self.lora_alpha > 0):
            raise ValueError("--lora_alpha must be positive, and needs --lora_rank.")
        if self.lora_rank and self.trainable != "all":
            raise ValueError("--lora_rank freezes the backbone itself; leave out --trainable.")
        if not isinstance(self.overrides, dict):
            raise ValueError(
                "--config_overrides must be JSON such as '{\"depths\": [2, 2, 6, 2]}'."
            )

    @property
    def overrides(self) -> dict:
        """`config_overrides` as a dictionary."""
        try:
            return json.loads(self.config_overrides or "{}")
        except json.JSONDecodeError as error:
            raise ValueError(f"--config_overrides is not JSON: {error}.") from error


@dataclass
class DataArguments:
    """Which corpus is used, and how its images are changed for training."""

    _argument_group_name = "corpus"

    dataset: str = _option(
        MISSING, "Hub dataset, folder with a folder per class, or Parquet/Arrow/CSV/JSON files."
    )
    corpus_name: str | None = _option(None, "Name of the corpus in the card.")
    dataset_config: str | None = _option(None, "Configuration of a Hub dataset.")
    dataset_revision: str | None = _option(None, "Branch, tag or commit of a Hub dataset.")
    train_split: str | None = _option(None, "Name of the training split.")
    validation_split: str | None = _option(None, "Name of the validation split.")
    test_split: str | None = _option(None, "Name of the test split.")
    image_column: str | None = _option(None, "Column of the images.")
    label_column: str | None = _option(None, "Column of the labels.")
    label_map: str | None = _option(
        None, "Labels of the classes: 'nature=real,midjourney=ai' or '{\"a, b\": \"ai\"}'."
    )
    streaming: bool = _option(False, "Stream the training split; needs --max_steps.")
    max_train_samples: int | None = _option(None, "Largest number of training images.")
    max_validation_samples: int | None = _option(None, "Largest number of validation images.")
    max_test_samples: int | None = _option(None, "Largest number of test images.")
    hold_out: str | None = _option(
        None, "Exclude from training and measure as held_out: 'generator=midjourney,dall-e'."
    )
    split_seed: int = _option(42, "Seed of random splits.")
    preprocessing_num_workers: int | None = _option(None, "Processes that check images.")
    augmentation: float = _option(0.5, "Strength of the augmentation, from 0 (none) to 1 (strong).")
    native_views: bool = _option(
        False, "Augment native crops: thumbnails, rescaling, repeated compression, reflection."
    )
    balance: float | None = _option(
        None,
        "Draw classes equally often, and families and sources by their size to this power: 1 for "
        "equal images, 0 for equal sources.",
    )
    pair_share: float = _option(
        0.0,
        "Share of images that come as pairs, a photograph and its generated counterpart of one "
        "group, in one batch and augmented alike.",
    )
    pair_mix: float = _option(
        0.0, "Share of reconstructed counterparts that are mixed with their photographs."
    )
    cutmix: float = _option(
        0.0, "Paste parts of images into others; α of the Beta distribution of the area."
    )
    consistency: float = _option(
        0.0,
        "Weight, such as 12, of the Jensen-Shannon divergence between the outputs for an image and "
        "its recompressed copy.",
    )
    train_crop_size: int | None = _option(
        None, "Side of the training crop (default with --preprocessing native: the input side)."
    )
    class_weights: str = _option(
        "none", "'balanced' weights by inverse class frequency.", choices=["none", "balanced"]
    )

    def __post_init__(self):
        for name in ("augmentation", "balance", "pair_share", "pair_mix"):
            _check_range(self, name, 0, 1)
        _check_range(self, "cutmix", 0, 10)
        _check_range(self, "consistency", 0, 100)
        _check_range(self, "train_crop_size", 1)
        for name in ("max_train_samples", "max_validation_samples", "max_test_samples"):
            _check_range(self, name, 2)
        if self.pair_share and self.balance is None:
            raise ValueError("--pair_share needs --balance, such as --balance 0.5.")
        if self.pair_mix and not self.pair_share:
            raise ValueError("--pair_mix needs --pair_share, such as --pair_share 0.5.")
        weighted, balanced = self.class_weights != "none", self.balance is not None
        if balanced and weighted:
            raise ValueError("--balance does not work with --class_weights; leave out one of them.")
        if self.consistency and self.cutmix:
            raise ValueError("--consistency compares whole images; leave out --cutmix.")
        if self.streaming and (weighted or balanced or parse_hold_out(self.hold_out)):
            option = "--class_weights" if weighted else "--balance" if balanced else "--hold_out"
            raise ValueError(f"{option} needs the whole corpus; leave out --streaming.")
        parse_hold_out(self.hold_out)
        parse_overrides(self.label_map)
        local = Path(self.dataset)
        if not self.corpus_name:
            self.corpus_name = local.resolve().name if local.exists() else self.dataset


@dataclass
class RunArguments(TrainingArguments):
    """`TrainingArguments` with this task's defaults, and the options of a whole run."""

    _argument_group_name = "training"

    output_dir: str = _option("runs/latest", "Folder of the checkpoint and its card.")
    learning_rate: float = _option(3e-4, "Peak learning rate.")
    lr_scheduler_type: str = _option("cosine", "Learning-rate schedule.")
    warmup_steps: float = _option(0.05, "Warm-up steps, or their share if below 1.")
    weight_decay: float = _option(0.05, "Weight decay of AdamW.")
    per_device_train_batch_size: int = _option(32, "Training batch size of a process.")
    per_device_eval_batch_size: int = _option(64, "Evaluation batch size of a process.")
    eval_strategy: str = _option("epoch", "When the selection split is measured.")
    save_strategy: str = _option("epoch", "When a checkpoint is saved.")
    save_total_limit: int | None = _option(2, "Checkpoints to keep, with the best one.")
    logging_steps: float = _option(25, "Steps between two log lines.")
    load_best_model_at_end: bool = _option(True, "Use the best checkpoint, not the last one.")
    metric_for_best_model: str | None = _option(
        "loss", "Best checkpoint by loss, accuracy or auroc."
    )
    restore_callback_states_from_checkpoint: bool = _option(
        True, "Restore the elapsed time and the early-stopping count when a run continues."
    )
    remove_unused_columns: bool = _option(
        False, "Must stay off: images are transformed when they are read."
    )
    # transformers' own default is False; None is resolved below. `nargs` lets `--bf16` stand alone.
    bf16: bool | None = _option(
        None, "bfloat16 autocast (default: if the machine has it).", nargs="?", const=True
    )
    hub_private_repo: bool = _option(True, "Whether --push_to_hub creates a private repository.")

    channels_last: bool = _option(False, "Channels-last memory layout.")
    backbone_lr_factor: float = _option(
        1.0, "Learning rate of all but the last layer, as a share of --learning_rate."
    )
    probe_images: int = _option(
        0, "Start the last layer from a linear probe of this number of augmented training images."
    )
    max_minutes: float = _option(
        0.0, "Stop after this time, or the number of steps; the learning rate falls by the clock."
    )
    patch_dropout: float = _option(
        0.0, "Drop this share of a vision transformer's patches in each step, to save time."
    )
    patch_dropout_until: float = _option(1.0, "Share of the training with patch dropout.")
    ema_decay: float = _option(
        0.0, "Decay, such as 0.999, of an average of the weights, which is measured and kept."
    )
    early_stopping_patience: int | None = _option(
        None, "Stop after this number of measurements without improvement."
    )
    views: int = _option(
        1, "Examine an image in at most this number of native crops, after the training."
    )
    alpha: float = _option(
        0.05, "Rate of wrong verdicts per class; less certain images are inconclusive."
    )
    measure_test: bool = _option(True, "Measure the test split once, at the end.")
    measure_degradations: int = _option(
        2000, "Largest number of test images measured under degradations; 0 for none."
    )
    measurement_log: str | None = _option(
        None, f"File of all measurements of a test split (default: {MEASUREMENTS} in --output_dir)."
    )
    evaluate_only: str | None = _option(
        None, f"Measure one split and train nothing: {', '.join(MEASURED_SPLITS)}."
    )
    search: int = _option(
        0, "Search for hyperparameters in this number of trials (Optuna), then stop."
    )
    dry_run: bool = _option(False, "Show the corpus, the model and one augmented batch, then stop.")
    publish: bool = field(default=False, init=False)
    license: str | None = _option(
        None, "Licence of the weights for the card; default: that of the base model."
    )
    corpus_notes: str | None = _option(
        None, "Markdown file on the corpus, its origins and weaknesses, for the card."
    )

    def __post_init__(self):
        if self.evaluate_only is not None and self.evaluate_only not in MEASURED_SPLITS:
            raise ValueError(f"--evaluate_only must be one of {', '.join(MEASURED_SPLITS)}.")
        for name in ("measure_degradations", "search", "probe_images", "max_minutes"):
            _check_range(self, name, 0)
        _check_range(self, "views", 1)
        _check_range(self, "alpha", 0, 0.5, "()")
        _check_range(self, "backbone_lr_factor", 0, 1, "(]")
        _check_range(self, "ema_decay", 0, 1, "[)")
        _check_range(self, "patch_dropout", 0, 1, "[)")
        _check_range(self, "patch_dropout_until", 0, 1)
        _check_range(self, "early_stopping_patience", 1)
        for name in ("early_stopping_patience", "max_minutes", "evaluate_only", "dry_run"):
            if self.search and getattr(self, name):
                raise ValueError(f"--search runs whole trials; leave out --{name}.")
        if self.early_stopping_patience and not self.load_best_model_at_end:
            raise ValueError("--early_stopping_patience needs --load_best_model_at_end True.")
        if self.patch_dropout_until < 1 and not self.patch_dropout:
            raise ValueError("--patch_dropout_until needs --patch_dropout, such as 0.5.")
        if self.max_minutes and self.lr_scheduler_type != "cosine":
            raise ValueError("--max_minutes has a cosine schedule; leave out --lr_scheduler_type.")
        if self.corpus_notes and not Path(self.corpus_notes).is_file():
            raise ValueError(f"--corpus_notes: there is no file {self.corpus_notes}.")
        off = {
            "remove_unused_columns": "the image column would be removed",
            "dataloader_persistent_workers": "workers would repeat the first epoch's augmentation",
        }
        for name, reason in off.items():
            if getattr(self, name):
                raise ValueError(f"--{name} must stay off: {reason}.")
        self.measurement_log = self.measurement_log or str(Path(self.output_dir) / MEASUREMENTS)
        # The Trainer must not push: its checkpoints are neither calibrated nor measured.
        self.publish, self.push_to_hub = self.push_to_hub, False
        if not torch.accelerator.is_available():
            # Without this, transformers refuses bf16 on a machine without a GPU.
            self.use_cpu = True
        if self.fp16 and self.use_cpu:
            raise ValueError("--fp16 needs a GPU, or small gradients become zero; use --bf16.")
        if self.bf16 is None:
            self.bf16 = not self.fp16 and has_bf16(self.use_cpu)
        super().__post_init__()
        missing = sorted(
            set(self.report_to)
            & set(INTEGRATION_TO_CALLBACK) - set(get_available_reporting_integrations())
        )
        if missing:
            names = " ".join(missing)
            raise ValueError(f"--report_to {names} needs a package: pip install {names}")

    def __getstate__(self) -> dict:
        # The Trainer pickles its arguments into every checkpoint; the token must not be in there.
        return {name: value for name, value in self.__dict__.items() if name != "hub_token"}


@dataclass
class Arguments:
    """The three groups of options."""

    model: ModelArguments
    data: DataArguments
    run: RunArguments


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see --help.")


def parse(argv: Sequence[str], **settings: Any) -> Arguments:
    """Parse the command line of a training.

    Args:
        argv: The options, without the program.
        settings: *optional*. Settings of the parser for `--help`, such as `description`.

    Raises:
        ValueError: An option is unknown, or its value is invalid, alone or with the others.
    """
    # Abbreviations are refused: `--hub_tok` would bypass the redaction of tokens by name.
    settings = {"prog": "realfake train", "allow_abbrev": False, **settings}
    parser = _Parser((ModelArguments, DataArguments, RunArguments), **settings)
    *groups, unknown = parser.parse_args_into_dataclasses(
        args=list(argv), return_remaining_strings=True
    )
    if unknown:
        raise ValueError(f"Unknown options: {' '.join(redact(unknown))}; see --help.")
    arguments = Arguments(*groups)
    _check_together(arguments)
    return arguments


def _check_together(arguments: Arguments) -> None:
    model, data, args = arguments.model, arguments.data, arguments.run
    if args.evaluate_only:
        if model.model_type:
            raise ValueError("--evaluate_only needs --model_name_or_path, not --model_type.")
        if args.dry_run:
            raise ValueError("--evaluate_only and --dry_run exclude each other; leave out one.")
        folder, measured = Path(args.output_dir), model.model_name_or_path
        own = folder.resolve() == Path(measured).resolve()
        if (folder / results.WEIGHTS_NAME).is_file() and not own:
            raise ValueError(
                f"--output_dir {folder} holds another checkpoint; pass --output_dir {measured}, or "
                "a new folder."
            )
    pretrained = {
        "--backbone_lr_factor": args.backbone_lr_factor != 1,
        "--lora_rank": model.lora_rank,
        "--probe_images": args.probe_images,
    }
    for option, used in pretrained.items():
        if model.model_type and used:
            raise ValueError(f"{option} needs --model_name_or_path, a pretrained checkpoint.")
    if data.native_views and model.preprocessing != "native" and not data.train_crop_size:
        raise ValueError("--native_views needs --preprocessing native or --train_crop_size.")
    if data.pair_share and args.per_device_train_batch_size % 2:
        raise ValueError(
            "--pair_share puts pairs into a batch: --per_device_train_batch_size must be even."
        )
    if data.streaming and args.max_steps <= 0 and not args.evaluate_only:
        raise ValueError("A streamed corpus has no known length: pass --max_steps.")


def has_bf16(use_cpu: bool) -> bool:
    """Return whether this machine has bfloat16 arithmetic, not an emulation of it."""
    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.backends.mps.is_available() and not use_cpu:
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _check_range(
    options: object, name: str, low: float, high: float = math.inf, ends: str = "[]"
) -> None:
    value = getattr(options, name)
    if value is None:
        return
    above = low < value if ends[0] == "(" else low <= value
    if not above or not (value < high if ends[1] == ")" else value <= high):
        within = (
            f"lie in {ends[0]}{low}, {high}{ends[1]}" if high < math.inf else f"be at least {low}"
        )
        raise ValueError(f"--{name} must {within}, not {value}.")
