"""The forward pass of a detector: images, their views, and what the model says of each view."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from transformers import BaseImageProcessor, PreTrainedModel

from realfake.imaging.decode import open_image
from realfake.labels import NAMES, class_indices
from realfake.models.ood import OodReference, forward_with_features
from realfake.models.preprocessing import Preprocessing
from realfake.models.views import Box, crop_view, neighbours, overlaps, view_boxes, view_size
from realfake.statistics.contrast import Contrast, contrast
from realfake.statistics.metrics import log_odds_from_logits

ImageSource: TypeAlias = str | os.PathLike | bytes | Mapping | np.ndarray | Image.Image
# Keys of `config.realfake` in earlier versions.
_OLD_KEYS = {"novelty": "ood"}


@dataclass(frozen=True)
class Examined:
    """What the model says of one image.

    Attributes:
        boxes: The views, `v` boxes in pixels of the upright image.
        logits: float32 `(v, labels)`.
        log_odds: float64 `(v,)` log-odds of `ai`.
        ood: float64 `(v,)` out-of-distribution p-values, or `None` without statistics.
        size: `(width, height)` of the image.
        is_complete: Whether all views of the image were examined.
    """

    boxes: list[Box]
    logits: np.ndarray
    log_odds: np.ndarray
    ood: np.ndarray | None
    size: tuple[int, int]
    is_complete: bool = True

    @classmethod
    def joined(cls, parts: Sequence["Examined"], n_views: int) -> "Examined":
        """Join the results of some views of one image each.

        Args:
            n_views: Number of all views of the image.
        """
        boxes = [box for part in parts for box in part.boxes]
        return cls(
            boxes,
            np.concatenate([part.logits for part in parts]),
            np.concatenate([part.log_odds for part in parts]),
            None if parts[0].ood is None else np.concatenate([part.ood for part in parts]),
            parts[0].size,
            len(boxes) == n_views,
        )

    def contrast(self) -> Contrast | None:
        """Return the part that differs most from the rest, if there are enough views."""
        if len(self.boxes) < 3 or not self.is_complete:
            return None
        return contrast(self.log_odds, overlaps(self.boxes), neighbours(self.boxes))


def stored_facts(facts: Mapping | None) -> dict:
    """Return the `realfake` section of a `config.json` with the keys of this version."""
    facts = dict(facts or {})
    for old, new in _OLD_KEYS.items():
        if old in facts:
            facts.setdefault(new, facts.pop(old))
    return facts


class Examiner:
    """A classifier with its processor, which examines images in one or several views.

    Args:
        model: An image classifier of transformers.
        processor: Its image processor.
        label_map: *optional*. `{class name: "real" or "ai"}`, for names such as `LABEL_0`.
        name: Display name of the checkpoint.
        ood: *optional*. Statistics of the calibration images.

    Raises:
        ValueError: The classes cannot be mapped to `real` and `ai`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: BaseImageProcessor,
        *,
        label_map: Mapping[str, str] | None = None,
        name: str = "",
        ood: OodReference | None = None,
    ) -> None:
        if model.config.num_labels < len(NAMES):
            raise ValueError(
                f"{name or 'The model'} has a single output; a detector needs two classes or more."
            )
        self.class_indices = class_indices(model.config.id2label, label_map)
        self.model = model.eval()
        self.processor = processor
        self.name = name
        self.ood = ood
        self.facts: dict = stored_facts(getattr(model.config, "realfake", None))
        # Maps add hooks to the model, so only one thread may use it.
        self.lock = threading.RLock()
        # A faster engine, see `realfake.engines`, the shape of its inputs, and its weights.
        self.engine: tuple[Callable, tuple[int, ...], tuple] | None = None
        self._sees_everything: bool | None = None

    def weights_version(self) -> tuple:
        """Return what changes if the weights are changed in place, as a calibration does."""
        tensors = (*self.model.parameters(), *self.model.buffers())
        return tuple((id(tensor), tensor._version) for tensor in tensors)

    @property
    def views(self) -> int:
        """The largest number of views of an image: a setting of the checkpoint, usually 1 or 16."""
        return int(self.facts.get("views") or 1)

    @views.setter
    def views(self, views: int) -> None:
        self.facts["views"] = self.limit(views)
        stored = stored_facts(getattr(self.model.config, "realfake", None))
        self.model.config.realfake = {**stored, "views": views}

    def logits(
        self, images: Sequence[ImageSource], batch_size: int = 16, views: int | None = None
    ) -> np.ndarray:
        """Compute the logits, float32 of shape `(len(images), labels)`: means over the views."""
        batches = self.examined_batches(images, batch_size, views)
        logits = [each.logits.mean(axis=0) for batch in batches for each in batch]
        empty = np.zeros((0, self.model.config.num_labels), dtype=np.float32)
        return np.stack(logits) if logits else empty

    @torch.inference_mode()
    def features(
        self, images: Sequence[ImageSource], batch_size: int = 16
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Compute the features of OOD detection for all views of the images.

        Returns:
            `{block: float32 (views of all images, size)}`, and the number of views of each image,
            int `(len(images),)`.
        """
        batches, counts = [], []
        for start in range(0, len(images), batch_size):
            decoded = [open_image(image) for image in images[start : start + batch_size]]
            tensors, boxes = self.inputs(decoded, self.limit(None), batch_size)
            counts += [len(each) for each in boxes]
            for pixels in tensors:
                with self.lock:
                    _, features = forward_with_features(self.model, self.placed(pixels))
                batches.append({name: block.cpu().numpy() for name, block in features.items()})
        names = batches[0] if batches else ()
        joined = {name: np.concatenate([batch[name] for batch in batches]) for name in names}
        return joined, np.array(counts, dtype=int)

    def pixels(self, image: ImageSource) -> torch.Tensor:
        """Decode and preprocess one image to the model's input, `(1, 3, height, width)`."""
        return self.processor(images=open_image(image), return_tensors="pt")["pixel_values"]

    @torch.inference_mode()
    def forward(self, pixels: torch.Tensor) -> np.ndarray:
        """Run the model on a batch of inputs: logits, float32 of shape `(len(pixels), labels)`."""
        if (engine := self._engine_for(pixels)) is not None:
            return engine(pixels.float().cpu().numpy())[0]
        with self.lock:
            pixels = self.placed(pixels)
            return self.model(pixel_values=pixels).logits.float().cpu().numpy()

    @torch.inference_mode()
    def examine(self, pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray | None]:
        """Run the model once on a batch of inputs for logits and OOD p-values.

        Returns:
            Logits of shape `(len(pixels), labels)`, and p-values of shape `(len(pixels),)`, or
            `None` without statistics of the calibration images.
        """
        if (engine := self._engine_for(pixels)) is not None:
            return engine(pixels.float().cpu().numpy())
        if self.ood is None:
            return self.forward(pixels), None
        with self.lock:
            pixels = self.placed(pixels)
            logits, features = forward_with_features(self.model, pixels)
        blocks = {name: block.cpu().numpy() for name, block in features.items()}
        return logits.cpu().numpy(), self.ood.p_value(blocks)

    def _engine_for(self, pixels: torch.Tensor) -> Callable | None:
        """Return the faster engine if it computes the present weights on inputs of this size."""
        if self.engine is None:
            return None
        run, shape, weights = self.engine
        usable = tuple(pixels.shape[1:]) == shape and weights == self.weights_version()
        return run if usable else None

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """The steps of the processor."""
        return Preprocessing(self.processor)

    def limit(self, views: int | None) -> int:
        """Return the largest number of views, checked."""
        limit = self.views if views is None else views
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ValueError(f"views is {limit!r}; it must be a whole number of at least 1.")
        if limit > 1 and view_size(self.processor) is None:
            raise ValueError(
                f"{self.name or 'This detector'} resizes every image to its input, so it has one "
                "view; use views=1."
            )
        if limit > 1 and self.model.config.num_labels > len(NAMES):
            raise ValueError(
                f"{self.name or 'This detector'} has more than two classes, whose log-odds do not "
                "add up over views; use views=1."
            )
        return limit

    def boxes(self, size: tuple[int, int], views: int | None = None) -> list[Box]:
        """Return the views of an image, in pixels.

        Args:
            size: `(width, height)` of the upright image.
            views: As in [`Detector.predict`].
        """
        crop = view_size(self.processor)
        if crop is not None:
            return view_boxes(*size, crop, self.limit(views))
        from realfake.models.geometry import seen_region

        try:
            # Whether a processor sees everything does not depend on the size.
            if self._sees_everything is None:
                sizes = ((301, 240), (240, 301))
                self._sees_everything = all(
                    seen_region(self.processor, *each).complete for each in sizes
                )
            if not self._sees_everything:
                left, top, right, bottom = seen_region(self.processor, *size).box
                return [(round(left), round(top), round(right), round(bottom))]
        except ValueError:
            pass  # an unusual processor; its place in the image is unknown
        return [(0, 0, *size)]

    def examined_batches(
        self, images: Sequence[ImageSource], batch_size: int, views: int | None
    ) -> Iterator[list[Examined]]:
        limit = self.limit(views)
        # Pillow decodes without the interpreter's lock.
        with ThreadPoolExecutor(torch.get_num_threads(), "decode") as pool:
            for start in range(0, len(images), batch_size):
                decoded = pool.map(open_image, images[start : start + batch_size])
                yield self.examine_images(list(decoded), limit, batch_size)

    def examine_images(
        self, images: list[Image.Image], limit: int, batch_size: int = 16
    ) -> list[Examined]:
        tensors, boxes = self.inputs(images, limit, batch_size)
        outputs = [self.examine(pixels) for pixels in tensors]
        logits = np.concatenate([each for each, _ in outputs])
        ood = None if self.ood is None else np.concatenate([each for _, each in outputs])
        return self.split(logits, ood, boxes, [image.size for image in images])

    def split(
        self,
        logits: np.ndarray,
        ood: np.ndarray | None,
        boxes: Sequence[list[Box]],
        sizes: Sequence[tuple[int, int]],
    ) -> list[Examined]:
        """Return the results of each image from those of all views.

        Args:
            logits: `(views of all images, labels)`.
            ood: *optional*. `(views of all images,)` p-values.
            boxes: The views of each image.
            sizes: `(width, height)` of each image.
        """
        log_odds = log_odds_from_logits(logits, self.class_indices)
        ends = np.cumsum([len(each) for each in boxes])[:-1]
        pieces = zip(
            boxes,
            np.split(logits, ends),
            np.split(log_odds, ends),
            [None] * len(boxes) if ood is None else np.split(ood, ends),
            sizes,
            strict=True,
        )
        return [Examined(*each) for each in pieces]

    def inputs(
        self, images: list[Image.Image], limit: int, batch_size: int
    ) -> tuple[Iterator[torch.Tensor], list[list[Box]]]:
        """Return the model's inputs in batches, and the views of each image."""
        if limit == 1 and not self.preprocessing.fast:
            return iter(self._batches(images)), [self.boxes(image.size, 1) for image in images]
        cuts = [self.cut(image, limit) for image in images]
        boxes, pieces = [own for own, _ in cuts], [piece for _, own in cuts for piece in own]
        # Inputs of different sizes cannot be stacked and go through the model one at a time.
        step = batch_size if len({piece.shape for piece in pieces}) == 1 else 1
        stacked = (
            torch.from_numpy(self.preprocessing.stack(pieces[start : start + step]))
            for start in range(0, len(pieces), step)
        )
        return stacked, boxes

    def cut(self, image: Image.Image, limit: int) -> tuple[list[Box], list[np.ndarray]]:
        """Return the views of an image and their arrays of [`Preprocessing.shrink`].

        Args:
            limit: Largest number of views, from [`limit`].
        """
        boxes = self.boxes(image.size, limit)
        # A single view is that of the stock processor, which pads small images with black.
        views = [image]
        if limit > 1:
            size = view_size(self.processor)
            views = [crop_view(image, box, size) for box in boxes]
        return boxes, [self.preprocessing.shrink(view) for view in views]

    def placed(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.to(self.model.device, self.model.dtype)

    def _batches(self, images: list[Image.Image]) -> list[torch.Tensor]:
        tensors = [
            self.processor(images=image, return_tensors="pt")["pixel_values"] for image in images
        ]
        # Inputs of different sizes cannot be stacked and go through the model one at a time.
        if len({tensor.shape for tensor in tensors}) == 1:
            tensors = [torch.cat(tensors)]
        return [self.placed(tensor) for tensor in tensors]
