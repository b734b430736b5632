"""An exponential moving average of the weights.

[`~realfake.training.trainer.DetectorTrainer`] measures and saves the average and trains the
weights. The running statistics of batch normalisation are averaged, too.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

# In a checkpoint: the weights from which the training continues.
UNAVERAGED_NAME = "unaveraged.safetensors"


class WeightAverage:
    """The average of the weights: average ← d · average + (1 - d) · weights.

    d is `decay`, but at most (1 + t) / (10 + t) at step t: the warm-up of TensorFlow's
    `ExponentialMovingAverage`, which limits the influence of a random head.

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


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    # Tied weights appear once.
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


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
