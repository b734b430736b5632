"""The `Trainer` of a detector: its loss, its images, its checkpoints.

It adds to transformers' `Trainer`: class weights, CutMix and consistency losses, a learning rate
for the backbone, frozen layers, averaged weights, exact evaluation losses, and resumable streams.
"""

import contextlib
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    ProgressCallback,
    Trainer,
    TrainerCallback,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from realfake.evaluation.trainer_metrics import check_metric, metrics_of
from realfake.io import apply_umask, write_atomically
from realfake.labels import AI, REAL
from realfake.models.classifiers import input_size
from realfake.training.arguments import DataArguments, RunArguments
from realfake.training.augment import Augmentation
from realfake.training.balance import BalancedOrder
from realfake.training.data import (
    Collator,
    CutMixCollator,
    EpochCallback,
    PlainImages,
    StreamedImages,
    TrainingImages,
    training_processor,
)
from realfake.training.lora import has_adapters, load_trained, merged_state, save_trained
from realfake.training.model import PatchDropout, Probe, start_head, try_out
from realfake.training.optimization import (
    AverageCallback,
    ElapsedCallback,
    WeightAverage,
    class_weights,
    clock_schedule,
    jensen_shannon,
    load_unaveraged,
    save_unaveraged,
    scale_backbone_lr,
)
from realfake.training.views import ViewAugmentation

Callback = TypeVar("Callback", bound=TrainerCallback)
# In a checkpoint of a streamed corpus: its position in the stream.
STREAM_NAME = "stream.json"


class DetectorTrainer(Trainer):
    """A `Trainer` with class weights, frozen layers, and plain images for evaluation.

    If images come with a recompressed copy, the loss covers both and a consistency term. With
    `--ema_decay` the average of the weights is measured, saved and kept at the end.

    Args:
        class_weights: *optional*. Weights of the loss by class, of shape `(classes,)`.
        consistency: Weight of the consistency loss.
        eval_collator: Collator of images that are measured.
        order: *optional*. Order of the training images; *defaults to* a random permutation.
    """

    def __init__(
        self,
        *args,
        class_weights: torch.Tensor | None = None,
        consistency: float = 0.0,
        eval_collator: Collator,
        order: BalancedOrder | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.order = order
        self.class_weights = class_weights
        self.consistency = consistency
        self.eval_collator = eval_collator
        self.average: WeightAverage | None = None
        adapted = has_adapters(self.model)
        if (self.args.ema_decay or adapted) and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            option = "--lora_rank" if adapted else "--ema_decay"
            raise ValueError(
                f"{option} does not work with FSDP or DeepSpeed; leave one of them out."
            )
        if self.args.ema_decay:
            self.add_callback(AverageCallback(self))
        # The loss below is a mean over the batch, so gradient accumulation has to average.
        self.model_accepts_loss_kwargs = False
        self._prepare_model()

    def call_model_init(self, trial: Any = None) -> PreTrainedModel:
        # Each trial of a search starts with a new model.
        model = super().call_model_init(trial)
        self.model = (
            model.to(memory_format=torch.channels_last) if self.args.channels_last else model
        )
        self._prepare_model()
        return self.model

    def _report_to_hp_search(self, trial, step: int, metrics: dict[str, float]) -> None:
        # Trials differ in batch size, so they are compared by epochs, not by steps.
        super()._report_to_hp_search(trial, round(1000 * (self.state.epoch or 0)), metrics)

    def _prepare_model(self) -> None:
        self._patches = None
        if self.args.patch_dropout:
            self._patches = PatchDropout(self.model, self.args.patch_dropout)
        self._frozen = [
            module
            for module in self.model.modules()
            if list(module.parameters(recurse=False))
            and not any(p.requires_grad for p in module.parameters(recurse=False))
        ]

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler | None:
        return self.order or super()._get_train_sampler(train_dataset)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        made = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if made and self.args.backbone_lr_factor != 1:
            scale_backbone_lr(optimizer, self.model, self.args.backbone_lr_factor)
        return optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        if not self.args.max_minutes:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:  # type: ignore[has-type]
            warmup = self.args.warmup_steps
            # A share of the steps is no measure of the time: `--max_steps` may never be reached.
            steps = int(warmup) if warmup >= 1 else min(100, math.ceil(warmup * num_training_steps))
            optimizer = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = clock_schedule(optimizer, steps, self.progress)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def progress(self) -> float:
        """Return the share of the training that is done: of `--max_minutes`, or of the steps."""
        if self.args.max_minutes:
            return self.find_callback(ElapsedCallback).progress
        return self.state.global_step / max(1, self.state.max_steps)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, dict[str, torch.Tensor]]:
        for module in self._frozen:
            # Frozen batch normalisation must not update its running statistics.
            module.eval()
        if self._patches:
            self._patches.active = self.progress() < self.args.patch_dropout_until
        labels = inputs["labels"]
        pixels = inputs["pixel_values"]
        has_twins = "twin_values" in inputs
        if has_twins:
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
        if has_twins:
            loss = loss + self.consistency * jensen_shannon(*outputs.logits.float().chunk(2))
        return (loss, {"logits": outputs.logits}) if return_outputs else loss

    def _cross_entropy(
        self, logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0
    ) -> torch.Tensor:
        weights = None if self.class_weights is None else self.class_weights.to(labels.device)
        return torch.nn.functional.cross_entropy(
            logits.float(), labels, weight=weights, label_smoothing=smoothing
        )

    def first_images(self, count: int) -> Iterator[dict]:
        """Yield augmented training images: the first ones of an order, or a random sample."""
        images = self.train_dataset
        if isinstance(images, StreamedImages):
            yield from itertools.islice(images, count)
            return
        order = self.order or np.random.default_rng(self.args.seed).permutation(len(images))
        yield from (images[index] for index in itertools.islice(order, count))

    def start_head(self) -> Probe:
        """Start the last layer from a linear probe of `--probe_images` training images."""
        images = self.first_images(self.args.probe_images)
        collator = Collator(self.data_collator.processor)
        size = self.args.per_device_eval_batch_size
        batches = iter(lambda: list(itertools.islice(images, size)), [])
        with self.autocast_smart_context_manager():
            probe = start_head(self.model, map(collator, batches))
        if self.is_world_process_zero():
            print(f"Probe: loss {probe.loss:.3f}, accuracy {probe.accuracy:.3f}", flush=True)
        return probe

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        self.average = None
        try:
            output = super().train(*args, **kwargs)
        finally:  # an open progress bar would be printed after an error line
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, ProgressCallback) and callback.training_bar is not None:
                    callback.training_bar.close()
        if self.average is not None:  # without --load_best_model_at_end
            self.average.adopt()
            self.average = None
        return output

    def _averaged(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.average is None else self.average.in_place()

    def evaluation_loop(
        self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        with self._averaged():
            self._share_buffers()
            output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        # `Trainer` weights a smaller last batch like a full one and, with several processes, counts
        # some images twice: the loss would depend on the batch size and the number of processes.
        loss = self._cross_entropy(
            torch.from_numpy(output.predictions), torch.from_numpy(output.label_ids)
        )
        output.metrics[f"{metric_key_prefix}_loss"] = loss.item()
        return output

    def _share_buffers(self) -> None:
        # Running statistics differ between processes, and only those of the first one are saved.
        if self.args.world_size > 1 and not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        with self._averaged():
            if has_adapters(self.model) and self.args.should_save:
                # The checkpoint opens without peft; a resumed training needs the adapters.
                state_dict = merged_state(self.plain_model())
                folder.mkdir(parents=True, exist_ok=True)
                save_trained(self.plain_model(), folder)
            super()._save(output_dir, state_dict)
        if self.average is not None and self.args.should_save:
            save_unaveraged(self.model, folder)
        if self.args.should_save:
            apply_umask(folder)
        if isinstance(self.train_dataset, StreamedImages) and self.args.should_save:
            write_atomically(
                folder / STREAM_NAME, json.dumps(self.find_callback(EpochCallback).position) + "\n"
            )

    def find_callback(self, kind: type[Callback]) -> Callback:
        """Return the callback of a class. A resumed training replaces some."""
        return next(each for each in self.callback_handler.callbacks if isinstance(each, kind))

    def plain_model(self) -> PreTrainedModel:
        """Return the model without accelerate's wrappers: bf16 autocast would round its logits."""
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
                    f"{resume_from_checkpoint} has no {STREAM_NAME}; remove it and start again."
                )
            self.find_callback(EpochCallback).resume_at(json.loads(path.read_text()))

    def _load_best_model(self):
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_best_model()
        else:
            self._load_weights(self.state.best_model_checkpoint)
            self.average = None  # the best checkpoint is an average already

    def _load_weights(self, folder: str) -> None:
        if has_adapters(self.model):
            load_trained(self.model, folder)
            return
        # transformers 5 saves some architectures (ViT) with older tensor names. `Trainer` would
        # load nothing from such a file; `from_pretrained` translates the names.
        stored = type(self.model).from_pretrained(
            folder, dtype=self.model.dtype, use_safetensors=True
        )
        self.model.load_state_dict(stored.state_dict())

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        training_collator = self.data_collator  # type: ignore[has-type]
        self.data_collator = self.eval_collator
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
        selection: The half of validation that chooses the checkpoint and stops early.
        preprocessing: `"native"` crops without resampling, `"processor"` resizes as the processor.

    Raises:
        ValueError: The model cannot take crops of `--train_crop_size`, or the metric of the best
            checkpoint is unknown.
    """
    crop = (
        (data.train_crop_size or min(input_size(processor)))
        if preprocessing == "native"
        else data.train_crop_size
    )
    augmented = ViewAugmentation if data.native_views else Augmentation
    augmentation = augmented(strength=data.augmentation, crop_size=crop)
    streamed = isinstance(train, IterableDataset)
    common = (train, augmentation, model.config.label2id, args.seed, bool(data.consistency))
    images = (
        StreamedImages(*common, batch_rows=args.train_batch_size)
        if streamed
        else TrainingImages(*common, pair_mix=data.pair_mix)
    )
    order = None
    if data.balance is not None:
        order = BalancedOrder(train, images, args.seed, data.balance, data.pair_share)
    if streamed:
        # A resumed `Trainer` would skip one batch per step and end if the stream is shorter.
        args.ignore_data_skip = True
    collator = Collator(training_processor(processor, crop if preprocessing == "native" else None))
    if crop is not None:
        try_out(model, collator, crop)
    if data.cutmix:
        collator = CutMixCollator(collator.processor, data.cutmix)
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
        order=order,
        compute_metrics=metrics_of(model.config.label2id),
        callbacks=callbacks,
        class_weights=None
        if streamed
        else class_weights(data.class_weights, train, model.config.label2id),
    )


def count_labels(dataset: Dataset) -> dict[str, int]:
    """Count the images of each label, by name."""
    names = dataset.features["label"].names
    counts = np.bincount(dataset["label"], minlength=len(names))
    return {
        name: int(count) for name, count in zip(names, counts, strict=True) if name in (REAL, AI)
    }
