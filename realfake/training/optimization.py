"""The parts of a training step: losses, learning rates, the average of the weights, the clock."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import ExportableState

from realfake.labels import NAMES
from realfake.models.folding import final_linears

# In a checkpoint: the weights from which the training continues.
UNAVERAGED_NAME = "unaveraged.safetensors"


# Losses


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


# Learning rates


def scale_backbone_lr(
    optimizer: torch.optim.Optimizer, model: PreTrainedModel, factor: float
) -> None:
    """Give the backbone its own learning rate, in place, before the optimizer's first step.

    Args:
        factor: The backbone's learning rate as a share of the last layer's.
    """
    head = {id(each) for layer in final_linears(model).values() for each in layer.parameters()}
    head_groups, backbone_groups = [], []
    for group in optimizer.param_groups:
        in_head = [p for p in group["params"] if id(p) in head]
        in_backbone = [p for p in group["params"] if id(p) not in head]
        if in_head:
            head_groups.append({**group, "params": in_head})
        if in_backbone:
            backbone_groups.append({**group, "params": in_backbone, "lr": group["lr"] * factor})
    # The learning rate of the first group is the one that is logged: that of the head.
    optimizer.param_groups[:] = head_groups + backbone_groups


def clock_schedule(
    optimizer: torch.optim.Optimizer, warmup_steps: int, progress: Callable[[], float]
) -> torch.optim.lr_scheduler.LambdaLR:
    """Return a linear warm-up over steps, and half a cosine over the share of time, `progress`."""

    def factor(step: int) -> float:
        rising = min(1.0, (step + 1) / (warmup_steps + 1))
        return rising * (1 + math.cos(math.pi * progress())) / 2

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class ElapsedCallback(TrainerCallback, ExportableState):
    """Sum the seconds of training over interruptions, and stop after `--max_minutes`.

    Checkpoints store the sum and [`batch_facts`]. All processes follow the clock of the first one.
    """

    def __init__(self, seconds: float = 0.0):
        self.seconds = seconds
        # Share of `--max_minutes`, after the last step.
        self.progress = 0.0
        self.batch: dict[str, int] = {}
        self._started: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._started, self.batch = time.monotonic(), batch_facts(args)
        self._measure(args)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._measure(args)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.progress >= 1:
            control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.seconds, self._started = self._total(), None

    def _measure(self, args: TrainingArguments) -> None:
        if args.max_minutes:
            seconds = [self._total()]
            if args.world_size > 1:
                broadcast_object_list(seconds)
            self.progress = min(1.0, seconds[0] / (60 * args.max_minutes))

    def _total(self) -> float:
        return self.seconds + (
            time.monotonic() - self._started if self._started is not None else 0.0
        )

    def state(self) -> dict:
        return {"args": {"seconds": self._total()}, "attributes": {"batch": self.batch}}


def batch_facts(args: TrainingArguments) -> dict[str, int]:
    """Return what determines the number of images in a training step: their product."""
    return {
        "batch size": args.train_batch_size,
        "gradient accumulation": args.gradient_accumulation_steps,
        "processes": args.world_size,
    }


# The average of the weights


class WeightAverage:
    """The average of the weights: average ← d · average + (1 - d) · weights.

    d is `decay`, but at most (1 + t) / (10 + t) at step t: the warm-up of TensorFlow's
    `ExponentialMovingAverage`, which limits the influence of a random head. The running statistics
    of batch normalisation are averaged, too.

    Args:
        model: The trained model; the average starts with its current weights.
        decay: d, between 0 and 1. The average spans about 1 / (1 - d) steps.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self._model = model
        self._average = {name: tensor.detach().clone() for name, tensor in _tensors(model).items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the model's weights after the optimizer's step number `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        average, weights = [], []
        for name, tensor in _tensors(self._model).items():
            if tensor.is_floating_point():
                average.append(self._average[name])
                weights.append(tensor.detach())
            else:  # a count of batches
                self._average[name].copy_(tensor)
        torch._foreach_lerp_(average, weights, 1 - decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average into the model within the context, by swapping tensors."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for name, tensor in _tensors(self._model).items():
            tensor.data, self._average[name] = self._average[name], tensor.data

    @torch.no_grad()
    def adopt(self) -> None:
        """Replace the model's weights by the average."""
        for name, tensor in _tensors(self._model).items():
            tensor.copy_(self._average[name])


class AverageCallback(TrainerCallback):
    """Update the trainer's average after each step."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.trainer.average is None:  # a resumed run brings its own
            self.trainer.average = WeightAverage(self.trainer.model, args.ema_decay)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.average.update(state.global_step)


def save_unaveraged(model: nn.Module, folder: str | Path) -> None:
    """Write the trained weights, in full precision, next to the average."""
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in _tensors(model).items()}
    save_file(tensors, Path(folder) / UNAVERAGED_NAME)


@torch.no_grad()
def load_unaveraged(model: nn.Module, folder: str | Path) -> None:
    """Load the file of [`save_unaveraged`], if it exists, into the model."""
    path = Path(folder) / UNAVERAGED_NAME
    if path.is_file():
        stored = load_file(path)
        for name, tensor in _tensors(model).items():
            tensor.copy_(stored[name])


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    # Tied weights appear once.
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
