"""What a finished run tells of itself: in its card, in `training.json`, and in the checkpoint's `config.json`."""

import dataclasses
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import torch
from datasets import Dataset

from ..card.facts import hub_id
from ..command import command_line, versions
from ..corpus.load import Corpus
from ..detector import Detector
from ..models.classifiers import input_size
from ..statistics.calibration import Calibration
from .runs import Arguments
from .trainer import DetectorTrainer, ElapsedCallback, count_labels


def training_facts(
    trainer: DetectorTrainer,
    corpus: Corpus,
    parts: dict[str, Dataset],
    calibration: Calibration,
    arguments: Arguments,
) -> dict:
    """Collect what a reader of the card needs to know of the run, JSON-serialisable."""
    args, model = trainer.args, trainer.model
    options = {
        name: value
        for name, value in (
            ("ema_decay", args.ema_decay),
            ("backbone_lr_factor", args.backbone_lr_factor),
            ("l2_to_pretrained", args.l2_to_pretrained),
            ("head_epochs", args.head_epochs),
            ("mixup", arguments.data.mixup),
            ("cutmix", arguments.data.cutmix),
            ("consistency", arguments.data.consistency),
        )
        if value != (1 if name == "backbone_lr_factor" else 0)
    }
    changed = {
        field.name: getattr(args, field.name)
        for field in dataclasses.fields(args)
        if field.name
        in (
            "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "per_device_train_batch_size",
            "gradient_accumulation_steps", "num_train_epochs", "max_steps", "label_smoothing_factor", "seed", "bf16",
            "metric_for_best_model", "early_stopping_patience", "optim", "max_grad_norm",
        )
    }  # fmt: skip
    elapsed = next(cb for cb in trainer.callback_handler.callbacks if isinstance(cb, ElapsedCallback))
    return {
        "command": command_line(),
        "date": datetime.now(UTC).date().isoformat(),
        "world_size": args.world_size,
        "hardware": hardware(),
        "train_runtime_seconds": round(elapsed.seconds, 1),
        "epochs_trained": round(float(trainer.state.epoch or 0), 2),
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step,
        "hyperparameters": {
            **{key: getattr(value, "value", value) for key, value in changed.items()},
            **options,
        },
        "model_class": type(trainer.plain_model()).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "base_model": arguments.model.model_name_or_path,
        "base_model_id": hub_id(arguments.model.model_name_or_path),
        "preprocessing": arguments.model.preprocessing,
        "trainable": arguments.model.trainable,
        "augmentation": trainer.train_dataset.augmentation.describe(),
        "class_weights": arguments.data.class_weights,
        "corpus": arguments.data.corpus_name,
        "corpus_id": hub_id(arguments.data.dataset),
        "hold_out": arguments.data.hold_out,
        "corpus_revision": arguments.data.dataset_revision,
        "corpus_report": corpus.report.to_dict(),
        "parts": {name: count_labels(part) for name, part in parts.items() if isinstance(part, Dataset)},
        "calibration": {**calibration.to_dict(), "folded": True},
        "license": args.license,
        "corpus_notes": Path(args.corpus_notes).read_text(encoding="utf-8") if args.corpus_notes else None,
        "repo_id": args.hub_model_id,
        "log_history": trainer.state.log_history,
        "versions": versions(),
    }


def config_facts(facts: dict, detector: Detector) -> dict:
    """Select what travels in `config.json`, where the page and the command line find it."""
    kept = ("corpus", "preprocessing", "calibration", "parts")
    return {**{name: facts[name] for name in kept}, "image_size": input_size(detector.processor)[0]}


def hardware() -> str:
    """Return the kind of machine in words, without its name."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name(0)}"
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"
