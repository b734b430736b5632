"""Ways to move a pretrained backbone less than the new head: smaller steps, a pull towards its start, the head first.

Given to [`~realfake.training.trainer.DetectorTrainer`] by `--backbone_lr_factor`, `--l2_to_pretrained` and `--head_epochs`.
"""

import contextlib
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from torch import nn
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer, TrainerCallback
from transformers.image_processing_utils import BaseImageProcessor
from transformers.trainer_callback import ExportableState

from realfake.evaluation.measure import check_metric, metrics_of
from realfake.io import write_atomically
from realfake.labels import AI, NAMES, REAL
from realfake.models.classifiers import input_size
from realfake.models.folding import final_linears
from realfake.training.arguments import DataArguments, RunArguments
from realfake.training.augment import Augmentation
from realfake.training.averaging import (
    AverageCallback,
    WeightAverage,
    load_unaveraged,
    save_unaveraged,
)
from realfake.training.data import (
    Collator,
    EpochCallback,
    MixingCollator,
    PlainImages,
    StreamedImages,
    TrainingImages,
    training_processor,
)
from realfake.training.model import try_out


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


# In a checkpoint of a streamed corpus: how far it had come.
STREAM_NAME = "stream.json"


class ElapsedCallback(TrainerCallback, ExportableState):
    """Adds up the seconds of training over interruptions; the sum travels in the checkpoints."""

    def __init__(self, seconds: float = 0.0):
        self.seconds = seconds
        self._started: float | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self._started = time.monotonic()

    def on_train_end(self, args, state, control, **kwargs):
        self.seconds, self._started = self._total(), None

    def _total(self) -> float:
        return self.seconds + (
            time.monotonic() - self._started if self._started is not None else 0.0
        )

    def state(self) -> dict:
        return {"args": {"seconds": self._total()}, "attributes": {}}


class DetectorTrainer(Trainer):
    """A `Trainer` with class weights, frozen layers that stay as they are, and plain images for measuring.

    Where images come with twins, these are learnt from as well, and the answers to the two are pulled together.

    With `--ema_decay` the weights are averaged as they are trained; the average is what is measured, saved in the
    checkpoints, and left in the model at the end.
    """

    def __init__(
        self,
        *args,
        class_weights: torch.Tensor | None = None,
        consistency: float = 0.0,
        eval_collator: Collator,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.class_weights = class_weights
        self.consistency = consistency
        self.eval_collator = eval_collator
        self.average: WeightAverage | None = None
        if self.args.ema_decay:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise ValueError(
                    "--ema_decay does not go with FSDP or DeepSpeed; leave one of them out."
                )
            self.add_callback(AverageCallback(self))
        # The loss below is a mean over the batch, so gradient accumulation has to average.
        self.model_accepts_loss_kwargs = False
        self._look_at_model()

    def _look_at_model(self) -> None:
        self.find_frozen()
        for kind in (PullToStart, HeadFirst):
            self.pop_callback(kind)
        if self.args.l2_to_pretrained:
            self.add_callback(PullToStart(self.model, self.args.l2_to_pretrained))
        if self.args.head_epochs:
            self.add_callback(HeadFirst(self, self.args.head_epochs))

    def call_model_init(self, trial=None) -> PreTrainedModel:
        # A trial of a search begins with a new model.
        model = super().call_model_init(trial)
        self.model = (
            model.to(memory_format=torch.channels_last) if self.args.channels_last else model
        )
        self._look_at_model()
        return self.model

    def _report_to_hp_search(self, trial, step: int, metrics: dict[str, float]) -> None:
        # Trials differ in their batch size: they are compared after as many passes, not after as many steps.
        super()._report_to_hp_search(trial, round(1000 * (self.state.epoch or 0)), metrics)

    def find_frozen(self) -> None:
        """Look up which layers are not trained."""
        self._frozen = [
            module
            for module in self.model.modules()
            if list(module.parameters(recurse=False))
            and not any(p.requires_grad for p in module.parameters(recurse=False))
        ]

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        made = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if made and (self.args.backbone_lr_factor != 1 or self.args.l2_to_pretrained):
            slow_backbone(
                optimizer,
                self.model,
                self.args.backbone_lr_factor,
                decayed=not self.args.l2_to_pretrained,
            )
        return optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        for module in self._frozen:
            # Frozen batch normalisation must not drift with the batches' statistics.
            module.eval()
        labels = inputs["labels"]
        pixels = inputs["pixel_values"]
        twins = "twin_values" in inputs
        if twins:
            pixels, labels = torch.cat([pixels, inputs["twin_values"]]), labels.repeat(2)
        if self.args.channels_last:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        outputs = model(pixel_values=pixels)
        smoothing = self.args.label_smoothing_factor if model.training else 0.0
        loss = self._cross_entropy(outputs.logits, labels, smoothing)
        if "partner_labels" in inputs:
            share = inputs["share"][0]
            loss = share * loss + (1 - share) * self._cross_entropy(
                outputs.logits, inputs["partner_labels"], smoothing
            )
        if twins:
            loss = loss + self.consistency * jensen_shannon(*outputs.logits.float().chunk(2))
        return (loss, {"logits": outputs.logits}) if return_outputs else loss

    def _cross_entropy(
        self, logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0
    ) -> torch.Tensor:
        weights = None if self.class_weights is None else self.class_weights.to(labels.device)
        return torch.nn.functional.cross_entropy(
            logits.float(), labels, weight=weights, label_smoothing=smoothing
        )

    def train(self, *args, **kwargs):
        self.average = None
        output = super().train(*args, **kwargs)
        if self.average is not None:  # the best checkpoint was not asked for
            self.average.adopt()
            self.average = None
        return output

    def _averaged(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.average is None else self.average.in_place()

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        with self._averaged():
            self._share_buffers()
            output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        # `Trainer` counts a last, smaller batch as a whole one and, with several processes, some images twice: the
        # loss that chooses the checkpoint would depend on the batch size and on the number of processes.
        loss = self._cross_entropy(
            torch.from_numpy(output.predictions), torch.from_numpy(output.label_ids)
        )
        output.metrics[f"{metric_key_prefix}_loss"] = loss.item()
        return output

    def _share_buffers(self) -> None:
        # Each process has running statistics of its own since the last step, and only the first one's are saved.
        if self.args.world_size > 1 and not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        with self._averaged():
            super()._save(output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)
        if self.average is not None and self.args.should_save:
            save_unaveraged(self.model, folder)
        if isinstance(self.train_dataset, StreamedImages) and self.args.should_save:
            write_atomically(folder / STREAM_NAME, json.dumps(self._epochs().position) + "\n")

    def _epochs(self) -> EpochCallback:
        return next(
            callback
            for callback in self.callback_handler.callbacks
            if isinstance(callback, EpochCallback)
        )

    def plain_model(self) -> PreTrainedModel:
        """Return the model without what accelerate wraps around it: bf16 autocast would blur its logits."""
        return self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self._load_weights(resume_from_checkpoint)
            if self.args.ema_decay:
                self.average = WeightAverage(self.model, self.args.ema_decay)
            load_unaveraged(self.model, resume_from_checkpoint)
        if isinstance(self.train_dataset, StreamedImages):
            path = Path(resume_from_checkpoint) / STREAM_NAME
            if not path.is_file():
                raise ValueError(
                    f"{resume_from_checkpoint} does not say how far its stream had come; train anew."
                )
            self._epochs().resume_at(json.loads(path.read_text()))

    def _load_best_model(self):
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_best_model()
        else:
            self._load_weights(self.state.best_model_checkpoint)
            self.average = None  # the best checkpoint is an average already

    def _load_weights(self, folder: str) -> None:
        # `Trainer` matches the file's tensors by the names in it, but transformers 5 saves some architectures (ViT)
        # under their older names: it would warn of missing keys and load nothing. `from_pretrained` translates.
        stored = type(self.model).from_pretrained(
            folder, dtype=self.model.dtype, use_safetensors=True
        )
        self.model.load_state_dict(stored.state_dict())

    def get_eval_dataloader(self, eval_dataset=None):
        training_collator, self.data_collator = self.data_collator, self.eval_collator
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = training_collator


def build_trainer(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    train: Dataset | IterableDataset,
    selection: Dataset,
    preprocessing: str,
    data: DataArguments,
    args: RunArguments,
) -> DetectorTrainer:
    """Put model, images, loss and metrics together.

    Args:
        selection: The part of validation that chooses the checkpoint and stops early.
        preprocessing: `"native"` trains on native crops of `--train_crop_size`, `"processor"` as the processor resizes.

    Raises:
        ValueError: The model cannot take crops of that size, or the best checkpoint is to be chosen by a metric that
            there is not.
    """
    crop = (
        (data.train_crop_size or min(input_size(processor)))
        if preprocessing == "native"
        else data.train_crop_size
    )
    augmentation = Augmentation(strength=data.augmentation, crop_size=crop)
    streamed = isinstance(train, IterableDataset)
    common = (train, augmentation, model.config.label2id, args.seed, bool(data.consistency))
    images = (
        StreamedImages(*common, batch_rows=args.train_batch_size)
        if streamed
        else TrainingImages(*common)
    )
    if streamed:
        # `Trainer` would look for its place by passing over as many batches as it made steps, which ends the training
        # where the stream is shorter than that.
        args.ignore_data_skip = True
    collator = Collator(training_processor(processor, crop if preprocessing == "native" else None))
    if crop is not None:
        try_out(model, collator, crop)
    if data.mixup or data.cutmix:
        collator = MixingCollator(collator.processor, data.mixup, data.cutmix)
    check_metric(args.metric_for_best_model)
    callbacks: list[TrainerCallback] = [EpochCallback(images), ElapsedCallback()]
    if args.early_stopping_patience:
        callbacks.append(
            EarlyStoppingCallback(early_stopping_patience=args.early_stopping_patience)
        )
    return DetectorTrainer(
        model=model.to(memory_format=torch.channels_last) if args.channels_last else model,
        args=args,
        train_dataset=images,
        eval_dataset=PlainImages(selection, model.config.label2id),
        data_collator=collator,
        consistency=data.consistency,
        eval_collator=Collator(processor),
        compute_metrics=metrics_of(model.config.label2id),
        callbacks=callbacks,
        class_weights=None
        if streamed
        else class_weights(data.class_weights, train, model.config.label2id),
    )


def jensen_shannon(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The Jensen-Shannon divergence between two batches of answers, in nats, as a mean over the batch.

    The consistency loss of AugMix (Hendrycks et al. 2020), there between three copies of an image. It lies in 0..ln 2.

    Args:
        first, second: Logits of shape `(batch, classes)`.
    """
    first, second = first.log_softmax(-1), second.log_softmax(-1)
    mean = torch.logaddexp(first, second) - math.log(2)
    return (_divergence(first, mean) + _divergence(second, mean)) / 2


def _divergence(of: torch.Tensor, against: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.kl_div(against, of, reduction="batchmean", log_target=True)


def class_weights(kind: str, dataset: Dataset, label2id: dict[str, int]) -> torch.Tensor | None:
    """Weights of the loss by class, in the model's numbering: inverse frequency, mean one over the images."""
    if kind == "none":
        return None
    names = dataset.features["label"].names
    counts = np.bincount(dataset["label"], minlength=len(names))
    weights = torch.zeros(len(NAMES))
    for name, count in zip(names, counts, strict=True):
        weights[label2id[name]] = len(dataset) / (len(names) * count)
    return weights


def last_complete_checkpoint(folder: str | Path) -> str | None:
    """Find the newest checkpoint that was written to its end.

    `Trainer` writes `trainer_state.json` last: a folder in which it is missing or broken was being written when the
    process died.
    """
    found = []
    for path in Path(folder).glob("checkpoint-*"):
        try:
            step = json.loads((path / "trainer_state.json").read_text())["global_step"]
        except (OSError, ValueError, KeyError):
            continue
        found.append((step, str(path)))
    return max(found)[1] if found else None


def count_labels(dataset: Dataset) -> dict[str, int]:
    """Count the images of each label, by name."""
    names = dataset.features["label"].names
    counts = np.bincount(dataset["label"], minlength=len(names))
    return {
        name: int(count) for name, count in zip(names, counts, strict=True) if name in (REAL, AI)
    }
