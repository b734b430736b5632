"""The images and batches of the `Trainer`.

The order and the augmentation of the images depend only on the seed, the epoch and the image's
index. So one process, several processes and a resumed run see the same data.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from PIL import Image
from transformers import TrainerCallback
from transformers.image_processing_utils import BaseImageProcessor

from realfake.imaging.decode import open_image
from realfake.training.augment import Augmentation
from realfake.training.views import ViewAugmentation, mix_pair


def training_processor(processor: BaseImageProcessor, crop_size: int | None) -> BaseImageProcessor:
    """Copy a processor for training; with a crop size it only normalises."""
    copy = type(processor).from_dict(processor.to_dict())
    if crop_size is not None:
        copy.do_resize = False
        copy.do_center_crop = False
    return copy


class Pick(NamedTuple):
    """A row that a sampler draws."""

    row: int
    # Seed of the augmentation. Both images of a pair have the same.
    draw: int
    # Row of the photograph of an aligned pair, which can be mixed with this image.
    photograph: int | None = None


class _AugmentedImages:
    """Decode and augment images.

    Args:
        dataset: Rows with an undecoded `image` and a `label` of `ClassLabel(["real", "ai"])`.
        augmentation: The random changes.
        label2id: The model's class indices.
        seed: With the epoch and the index it determines the augmentation.
        twins: Whether each image comes with a `twin`, see [`Augmentation.twins`].
    """

    def __init__(
        self,
        dataset: Dataset | IterableDataset,
        augmentation: Augmentation | ViewAugmentation,
        label2id: dict[str, int],
        seed: int,
        twins: bool = False,
    ):
        self.dataset = dataset
        self.augmentation = augmentation
        self.label_ids = _label_ids(dataset, label2id)
        self.seed = seed
        self.twins = twins
        self.epoch = 0

    def _item(self, row: dict, index: int, image: Image.Image | None = None) -> dict:
        draw = (self.seed, self.epoch, index)
        rng = np.random.default_rng(draw)
        image = open_image(row["image"]) if image is None else image
        item = {"label": self.label_ids[row["label"]], "draw": draw}
        if not self.twins:
            return {**item, "image": self.augmentation(image, rng)}
        image, twin = self.augmentation.twins(image, rng)
        return {**item, "image": image, "twin": twin}


class TrainingImages(_AugmentedImages, torch.utils.data.Dataset):
    """Decoded, augmented images of a corpus, by index or [`Pick`].

    Args:
        pair_mix: Share of the generated images of aligned pairs that are mixed with their
            photographs, see [`mix_pair`].
    """

    def __init__(self, *args, pair_mix: float = 0.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.pair_mix = pair_mix

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int | Pick) -> dict:
        pick = index if isinstance(index, Pick) else Pick(int(index), int(index))
        row, image = self.dataset[pick.row], None
        # Not the generator of the augmentation: both images of a pair are augmented alike.
        rng = np.random.default_rng([self.seed, self.epoch, pick.draw, 1])
        if pick.photograph is not None and rng.random() < self.pair_mix:
            photograph = self.dataset[pick.photograph]
            image = mix_pair(open_image(photograph["image"]), open_image(row["image"]), rng)
        return self._item(row, pick.draw, image)


class StreamedImages(_AugmentedImages, torch.utils.data.IterableDataset):
    """[`TrainingImages`] of a streamed corpus, numbered in the order of the stream.

    A pass can begin at batch `start`. The rows before it are read, because the shuffling buffer
    must be filled as before, but not augmented. Worker processes of the loader take turns; the
    skipped rows assume that each worker has an equal share of the stream.

    Args:
        batch_rows: Rows in a batch of one process.
    """

    def __init__(self, *args, batch_rows: int = 1, **kwargs):
        super().__init__(*args, **kwargs)
        self.batch_rows = batch_rows
        self.start = 0

    def __iter__(self) -> Iterator[dict]:
        began = False
        for item in self._pass(self._rows_before()):
            began = True
            yield item
        if self.start and not began:  # the interruption came at the end of the pass
            self.epoch, self.start = self.epoch + 1, 0
            yield from self._pass(0)

    def _rows_before(self) -> int:
        worker = torch.utils.data.get_worker_info()
        if worker is None:
            return self.start * self.batch_rows
        batches = (self.start + worker.num_workers - 1 - worker.id) // worker.num_workers
        return batches * self.batch_rows

    def _pass(self, rows_before: int) -> Iterator[dict]:
        self.dataset.set_epoch(self.epoch)
        for index, row in enumerate(self.dataset):
            if index >= rows_before:
                yield self._item(row, index)


class PlainImages(torch.utils.data.Dataset):
    """Decoded images without augmentation, with the model's class index."""

    def __init__(self, dataset: Dataset, label2id: dict[str, int]):
        self.dataset = dataset
        self.label_ids = _label_ids(dataset, label2id)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        row = self.dataset[int(index)]
        return {"image": open_image(row["image"]), "label": self.label_ids[row["label"]]}


def _label_ids(dataset, label2id: dict[str, int]) -> list[int]:
    return [label2id[name] for name in dataset.features["label"].names]


class Collator:
    """Turn images into `pixel_values`, and their twins into `twin_values`."""

    def __init__(self, processor: BaseImageProcessor):
        self.processor = processor

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = {
            "pixel_values": self._pixels([row["image"] for row in rows]),
            "labels": torch.tensor([row["label"] for row in rows]),
        }
        if "twin" in rows[0]:
            batch["twin_values"] = self._pixels([row["twin"] for row in rows])
        return batch

    def _pixels(self, images: list) -> torch.Tensor:
        return self.processor(images=images, return_tensors="pt")["pixel_values"]


class CutMixCollator(Collator):
    """Paste a rectangle of another image of the batch into each image (CutMix, Yun et al. 2019).

    One λ is drawn for a batch, from Beta(α, α), and the rectangle covers the share 1 - λ of the
    area. A small α makes λ mostly close to 0 or 1. The draw depends on the first image of the
    batch, so a resumed run repeats it. Each process mixes within its own share of a batch.
    """

    def __init__(self, processor: BaseImageProcessor, alpha: float):
        super().__init__(processor)
        self.alpha = alpha

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = super().__call__(rows)
        pixels, labels = batch["pixel_values"], batch["labels"]
        rng = np.random.default_rng([*rows[0]["draw"], len(rows)])
        share = float(rng.beta(self.alpha, self.alpha))
        partner = torch.from_numpy(rng.permutation(len(rows)))
        top, bottom, left, right = _rectangle(pixels.shape[-2:], 1 - share, rng)
        pixels[..., top:bottom, left:right] = pixels[partner][..., top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (pixels.shape[-2] * pixels.shape[-1])
        return {
            "pixel_values": pixels,
            "labels": labels,
            "partner_labels": labels[partner],
            "share": torch.full((len(rows),), share),
        }


def _rectangle(
    size: Sequence[int], share: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of a rectangle of about this share of the area."""
    edges = []
    for side in size:
        half, centre = side * share**0.5 / 2, rng.uniform(0, side)
        edges += [max(0, round(centre - half)), min(side, round(centre + half))]
    return tuple(edges)


class EpochCallback(TrainerCallback):
    """Set the epoch of the training images, so that each epoch has other augmentations.

    For a stream it also counts the passes and the position, because `Trainer` does not have the
    length of a pass.
    """

    def __init__(self, images: TrainingImages | StreamedImages):
        self.images = images
        self._next = 0
        self._start = 0
        self._taken = 0
        self._began = False
        self._resumed: dict | None = None

    @property
    def position(self) -> dict:
        """The position in a stream: the pass, and its batches so far, over all processes."""
        return {"pass": self.images.epoch, "batches": self.images.start + self._taken}

    def resume_at(self, position: dict) -> None:
        """Begin the next training at a [`position`]."""
        self._resumed = position

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._next, self._start, self._began = int(state.epoch or 0), 0, False
        if self._resumed is not None:
            self._next, self._start = self._resumed["pass"], self._resumed["batches"]
            self._resumed = None

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # `state.epoch` of a stream is its share of `max_steps`, not the number of passes.
        self._taken = 0
        if self._began:  # a resumed pass may have been at its end
            self._next = max(self._next, self.images.epoch + 1)
        self._began = True
        if isinstance(self.images, StreamedImages):
            self.images.start, self._start = self._start, 0
        self.images.epoch = self._next
        self._next += 1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._taken += args.world_size

    on_substep_end = on_step_end
