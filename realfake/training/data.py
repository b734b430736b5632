"""The images and batches that the `Trainer` is given.

The order of the images and the augmentation of each depend on the seed, the epoch and the image's index
alone, so that one process and several, and a run that was killed and resumed, see the same data.
"""

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from transformers import TrainerCallback
from transformers.image_processing_utils import BaseImageProcessor

from realfake.imaging.decode import open_image
from realfake.training.augment import Augmentation


def training_processor(processor: BaseImageProcessor, crop_size: int | None) -> BaseImageProcessor:
    """Copy a processor for training: where the augmentation cuts the crop itself, it only normalises."""
    copy = type(processor).from_dict(processor.to_dict())
    if crop_size is not None:
        copy.do_resize = False
        copy.do_center_crop = False
    return copy


class _AugmentedImages:
    """Makes the item of a row: the decoded, augmented image with the label's index in the model.

    Args:
        dataset: Rows with an undecoded `image` and a `label` of `ClassLabel(["real", "ai"])`.
        augmentation: What is done to each image.
        label2id: The model's own numbering of the labels.
        seed: Together with the epoch and the index it decides the augmentation.
        twins: Whether each image comes with a `twin`, see [`Augmentation.twins`].
    """

    def __init__(
        self,
        dataset: Dataset | IterableDataset,
        augmentation: Augmentation,
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

    def _item(self, row: dict, index: int) -> dict:
        draw = (self.seed, self.epoch, index)
        rng = np.random.default_rng(draw)
        image = open_image(row["image"])
        item = {"label": self.label_ids[row["label"]], "draw": draw}
        if not self.twins:
            return {**item, "image": self.augmentation(image, rng)}
        image, twin = self.augmentation.twins(image, rng)
        return {**item, "image": image, "twin": twin}


class TrainingImages(_AugmentedImages, torch.utils.data.Dataset):
    """Decoded, augmented images of a corpus, see [`_AugmentedImages`] for the arguments."""

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        return self._item(self.dataset[int(index)], int(index))


class StreamedImages(_AugmentedImages, torch.utils.data.IterableDataset):
    """The same as [`TrainingImages`] for a streamed corpus, numbered in the order of the stream.

    Args:
        batch_rows: Rows in a batch of one process.

    A pass can begin at `start`, counted in such batches. What lies before is read past, because the shuffling buffer has to be filled
    as it was: a resumed run sees what it would have seen, and waits for the download once more, but not for the augmentation.
    Worker processes of the loader take turns, which is accounted for as long as each has its fair share of the stream.
    """

    def __init__(self, *args, batch_rows: int = 1, **kwargs):
        super().__init__(*args, **kwargs)
        self.batch_rows = batch_rows
        self.start = 0

    def __iter__(self):
        began = False
        for item in self._pass(self._rows_before()):
            began = True
            yield item
        if self.start and not began:  # it was interrupted just as the pass ended
            self.epoch, self.start = self.epoch + 1, 0
            yield from self._pass(0)

    def _rows_before(self) -> int:
        worker = torch.utils.data.get_worker_info()
        if worker is None:
            return self.start * self.batch_rows
        return (
            (self.start + worker.num_workers - 1 - worker.id)
            // worker.num_workers
            * self.batch_rows
        )

    def _pass(self, rows_before: int):
        self.dataset.set_epoch(self.epoch)
        for index, row in enumerate(self.dataset):
            if index >= rows_before:
                yield self._item(row, index)


class PlainImages(torch.utils.data.Dataset):
    """Decoded images as they are, with the label's index in the model."""

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
    """Turns images into `pixel_values`, and their twins into `twin_values`, with an image processor."""

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


class MixingCollator(Collator):
    """Mixes every image of a training batch with another one of it, and says with which label.

    One share λ is drawn for a batch, from Beta(α, α): with a small α it is mostly close to 0 or 1, which is a mild
    mixture. *Mixup* (Zhang et al. 2018) blends the pixels: λ · image + (1 - λ) · partner. *CutMix* (Yun et al. 2019)
    puts a rectangle of the partner, of the share 1 - λ of the area, into the image, whose pixels stay as they are. Where
    both are asked for, each batch gets one of them.

    The draw depends on the first image of the batch, so that a resumed run repeats it; several processes mix within
    their own parts of a batch.

    Args:
        mixup, cutmix: α of either; 0 for none.
    """

    def __init__(self, processor: BaseImageProcessor, mixup: float, cutmix: float):
        super().__init__(processor)
        self.mixup = mixup
        self.cutmix = cutmix

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = super().__call__(rows)
        pixels, labels = batch["pixel_values"], batch["labels"]
        rng = np.random.default_rng([*rows[0]["draw"], len(rows)])
        cut = rng.random() < 0.5 if self.mixup and self.cutmix else bool(self.cutmix)
        share = float(rng.beta(*[self.cutmix if cut else self.mixup] * 2))
        partner = torch.from_numpy(rng.permutation(len(rows)))
        if cut:
            top, bottom, left, right = _rectangle(pixels.shape[-2:], 1 - share, rng)
            pixels[..., top:bottom, left:right] = pixels[partner][..., top:bottom, left:right]
            share = 1 - (bottom - top) * (right - left) / (pixels.shape[-2] * pixels.shape[-1])
        else:
            pixels = share * pixels + (1 - share) * pixels[partner]
        return {
            "pixel_values": pixels,
            "labels": labels,
            "partner_labels": labels[partner],
            "share": torch.full((len(rows),), share),
        }


def _rectangle(size, share: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a rectangle of about this share of the area, cut off at the edges."""
    edges = []
    for side in size:
        half, centre = side * share**0.5 / 2, rng.uniform(0, side)
        edges += [max(0, round(centre - half)), min(side, round(centre + half))]
    return tuple(edges)


class EpochCallback(TrainerCallback):
    """Tells the training images which epoch it is, so that each one sees other augmentations.

    Of a stream it counts the passes and how far the present one has come, which `Trainer` cannot know: it does not know how
    long a pass is.
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
        """Where a stream stands: the pass, and the batches of a process taken of it, over all processes."""
        return {"pass": self.images.epoch, "batches": self.images.start + self._taken}

    def resume_at(self, position: dict) -> None:
        """Begin the next training there."""
        self._resumed = position

    def on_train_begin(self, args, state, control, **kwargs):
        self._next, self._start, self._began = int(state.epoch or 0), 0, False
        if self._resumed is not None:
            self._next, self._start = self._resumed["pass"], self._resumed["batches"]
            self._resumed = None

    def on_epoch_begin(self, args, state, control, **kwargs):
        # Counted, because `state.epoch` of a stream is its share of `max_steps`, not the passes over it.
        self._taken = 0
        if self._began:  # a resumed pass may have turned out to be at its end
            self._next = max(self._next, self.images.epoch + 1)
        self._began = True
        if isinstance(self.images, StreamedImages):
            self.images.start, self._start = self._start, 0
        self.images.epoch = self._next
        self._next += 1

    def on_step_end(self, args, state, control, **kwargs):
        self._taken += args.world_size

    def on_substep_end(self, args, state, control, **kwargs):
        self._taken += args.world_size
