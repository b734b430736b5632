"""Ways to move a pretrained backbone less than the new head: smaller steps, a pull towards its start, the head first.

Given to [`~realfake.training.trainer.DetectorTrainer`] by `--backbone_lr_factor`, `--l2_to_pretrained` and `--head_epochs`.
"""

import torch
from torch import nn
from transformers import PreTrainedModel, TrainerCallback

from ..models.heads import final_linears


def head_parameters(model: PreTrainedModel) -> set[str]:
    """Name the parameters of the last linear layer."""
    heads = tuple(f"{name}." for name in final_linears(model))
    return {name for name, _ in model.named_parameters() if name.startswith(heads)}


def slow_backbone(
    optimizer: torch.optim.Optimizer, model: PreTrainedModel, factor: float, decayed: bool
) -> None:
    """Give the backbone a learning rate of its own, in place; for an optimizer that has not made a step.

    Args:
        factor: The backbone's learning rate as a share of the head's.
        decayed: Whether weight decay, towards zero, stays on the backbone. Pulled towards its start, it does not.
    """
    names = head_parameters(model)
    head = {id(parameter) for name, parameter in model.named_parameters() if name in names}
    groups = []
    for group in optimizer.param_groups:
        for is_head in (True, False):
            parameters = [p for p in group["params"] if (id(p) in head) == is_head]
            if not parameters:
                continue
            own = {**group, "params": parameters}
            if not is_head:
                own["lr"] = group["lr"] * factor
                own["weight_decay"] = group["weight_decay"] if decayed else 0.0
            groups.append((not is_head, own))
    # The head's come first: the first group's learning rate is the one that is logged.
    optimizer.param_groups[:] = [group for _, group in sorted(groups, key=lambda entry: entry[0])]


class PullToStart(TrainerCallback):
    """Pulls the backbone towards the weights it started from: before each step w ← w - lr · λ · (w - w₀).

    The L2-SP penalty of Li, Grandvalet & Davoine (2018), "Explicit Inductive Bias for Transfer Learning with
    Convolutional Networks", decoupled from the gradient as AdamW decouples weight decay.

    Args:
        model: With its pretrained weights; the head, which has none, is left alone.
        strength: λ.
    """

    def __init__(self, model: PreTrainedModel, strength: float):
        self.strength = strength
        head = head_parameters(model)
        self._start = {
            id(parameter): parameter.detach().clone()
            for name, parameter in model.named_parameters()
            if name not in head and parameter.requires_grad
        }

    @torch.no_grad()
    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                start = self._start.get(id(parameter))
                if start is not None and parameter.grad is not None:  # frozen, for the time being
                    parameter.lerp_(start, min(1.0, group["lr"] * self.strength))


class HeadFirst(TrainerCallback):
    """Trains the last linear layer alone for some epochs, so that its random start does not shake the backbone.

    Linear probing before fine-tuning (Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform
    Out-of-Distribution"). The backbone's normalisation keeps its running statistics meanwhile.

    Args:
        trainer: Its frozen modules are looked up again whenever they change.
        epochs: For how long.
    """

    def __init__(self, trainer, epochs: int):
        self.trainer = trainer
        self.epochs = epochs
        head = head_parameters(trainer.model)
        self._backbone: list[nn.Parameter] = [
            parameter
            for name, parameter in trainer.model.named_parameters()
            if name not in head and parameter.requires_grad
        ]
        self._next = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self._next = int(state.epoch or 0)

    def on_epoch_begin(self, args, state, control, **kwargs):
        # Not before: every process must have registered all parameters that will be trained.
        for parameter in self._backbone:
            parameter.requires_grad_(self._next >= self.epochs)
        self.trainer.find_frozen()
        self._next += 1

    def on_train_end(self, args, state, control, **kwargs):
        for parameter in self._backbone:
            parameter.requires_grad_(True)
        self.trainer.find_frozen()
