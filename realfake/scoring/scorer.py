"""Score batches of images, with the results of [`~realfake.detector.Detector.predict`].

A fast engine scores all images. Those whose verdict could differ in fp32 are scored again in fp32.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from realfake.detector import Detector
from realfake.engines import Choice, Engine, choose, open_engine
from realfake.examiner import Examined
from realfake.imaging.decode import open_image
from realfake.models.preprocessing import Preprocessing
from realfake.models.views import Box, spread_order
from realfake.runtime import one_thread
from realfake.scoring.source import Row, ScoringSource
from realfake.statistics.stopping import STEP

# Number of images on which engines are compared.
_SAMPLE = 24
# Views in one forward pass, so that memory does not grow with the number of views.
_VIEWS_AT_ONCE = 32
# With fewer images, the comparison takes longer than it saves.
_LEAST_TO_COMPARE = 200
# Files that determine the answers of a checkpoint.
_CHECKPOINT_FILES = ("config.json", "preprocessor_config.json", "*.safetensors", "*.index.json")


class Scorer:
    """Scores batches of rows. Several threads can call it at the same time.

    Args:
        detector: The detector.
        choice: *optional*. The engine; *defaults to* PyTorch in fp32.
        threads: Number of threads that call it.
        views: *optional*. As in [`~realfake.detector.Detector.predict`].
        early_exit: Whether to skip views that can hardly change the verdict of an image.
    """

    def __init__(
        self,
        detector: Detector,
        choice: Choice | None = None,
        threads: int = 1,
        views: int | None = None,
        early_exit: bool = False,
    ):
        self.detector = detector
        self.choice = choice = choice or Choice()
        self.preprocessing = detector.preprocessing
        self._views = detector.limit(views)
        self._early_exit = early_exit
        noise = np.random.default_rng(0).integers(0, 256, (2, 400, 400, 3), dtype=np.uint8)
        example = self.preprocessing([Image.fromarray(image) for image in noise])
        with one_thread():
            self._engine = open_engine(choice.engine, detector, example, threads)
            self._reference = self._engine
            if choice.reference != choice.engine:
                self._reference = open_engine(choice.reference, detector, example, threads)
        revision = f"@{detector.revision}" if detector.revision else ""
        self._model = f"{detector.name}{revision}"

    def __call__(self, rows: Sequence[Row]) -> tuple[list[dict], float]:
        """Score rows.

        Returns:
            The fields of [`~realfake.scoring.shards.SCHEMA`] for each row, and the largest
            deviation of the log-odds from fp32 among images that were computed again.
        """
        answers = [
            {"key": row.key, "path": row.path, "recomputed": False, "model": self._model}
            for row in rows
        ]
        readable: list[tuple[dict, _Cut]] = []
        for row, answer in zip(rows, answers, strict=True):
            try:
                image = _decoded(row)
                cut = _Cut(*self.detector.cut(image, self._views), image.size)
                readable.append((answer, cut))
            except (ValueError, OSError) as error:
                answer["error"] = " ".join(str(error).split()) or type(error).__name__
        if not readable:
            return answers, 0.0
        group_answers, images = zip(*readable, strict=True)
        return answers, self._score(group_answers, images)

    def _score(self, answers: Sequence[dict], images: Sequence["_Cut"]) -> float:
        if self._early_exit:
            images, examined = self._until_settled(images)
        else:
            examined = self._run(self._engine, images)
        scores = self.detector.combine(examined)
        doubtful = np.flatnonzero(
            self.choice.doubtful(self.detector, scores)
            | [self._may_differ(each) for each in examined]
        ).tolist()
        deviation = 0.0
        if doubtful:
            precise = self._run(self._reference, [images[index] for index in doubtful])
            for index, each in zip(doubtful, precise, strict=True):
                difference = np.abs(examined[index].log_odds - each.log_odds)
                deviation = max(deviation, float(np.nan_to_num(difference).max()))
                examined[index] = each
                answers[index]["recomputed"] = True
        for answer, prediction in zip(answers, self.detector.predictions(examined), strict=True):
            if not np.isfinite(prediction.log_odds):
                answer["error"] = "the model gives no finite score for it"
                continue
            answer |= {
                **prediction.probabilities,
                "log_odds": prediction.log_odds,
                "verdict": prediction.verdict,
                "reason": prediction.reason,
                "ood": prediction.ood,
                "n_views": len(prediction.views),
                "differing": prediction.differing is not None,
            }
        return deviation

    def _until_settled(self, images: Sequence["_Cut"]) -> tuple[list["_Cut"], list[Examined]]:
        """Examine a few views of each image at a time, until its verdict is settled.

        Returns:
            The images with the views that were examined, and the results.
        """
        orders = [spread_order(image.boxes) for image in images]
        examined: dict[int, Examined] = {}
        used, pending = 0, list(range(len(images)))
        while pending:
            pieces = [images[index].only(orders[index][used : used + STEP]) for index in pending]
            for index, found in zip(pending, self._run(self._engine, pieces), strict=True):
                parts = [examined[index], found] if used else [found]
                examined[index] = Examined.joined(parts, len(images[index].boxes))
            used += STEP
            pending = [
                index
                for index in pending
                if not self.detector.is_settled(examined[index], len(images[index].boxes))
            ]
        cuts = [
            image.only(order[: len(examined[index].boxes)])
            for index, (image, order) in enumerate(zip(images, orders, strict=True))
        ]
        return cuts, [examined[index] for index in range(len(images))]

    def _may_differ(self, examined: Examined) -> bool:
        """Return whether the test for a part that differs could change in fp32."""
        contrast, limits = examined.contrast(), self.detector.differing
        if contrast is None or limits is None or not self.choice.band:
            return False
        edge = limits.by_views.get(len(examined.boxes), np.inf)
        # Two means can deviate in opposite directions.
        return abs(contrast.value - edge) <= 2 * self.choice.band * contrast.scale

    def _run(self, engine: Engine, images: Sequence["_Cut"]) -> list[Examined]:
        """Run the views of all images through an engine, those of one shape together."""
        views = [view for image in images for view in image.views]
        logits: list[np.ndarray] = [np.zeros(0)] * len(views)
        ood = None if self.detector.ood is None else np.zeros(len(views))
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for index, view in enumerate(views):
            by_shape.setdefault(view.shape, []).append(index)
        for indices in by_shape.values():
            for start in range(0, len(indices), _VIEWS_AT_ONCE):
                part = indices[start : start + _VIEWS_AT_ONCE]
                found, p_values = engine(self.preprocessing.stack([views[i] for i in part]))
                for index, values in zip(part, found, strict=True):
                    logits[index] = values
                if ood is not None and p_values is not None:
                    ood[part] = p_values
        boxes, sizes = [each.boxes for each in images], [each.size for each in images]
        examined = self.detector.split(np.stack(logits), ood, boxes, sizes)
        return [
            replace(each, is_complete=image.is_complete)
            for each, image in zip(examined, images, strict=True)
        ]


@dataclass(frozen=True)
class _Cut:
    """The views of an image as arrays of [`Preprocessing.shrink`]."""

    boxes: list[Box]
    views: list[np.ndarray]
    size: tuple[int, int]
    is_complete: bool = True

    def only(self, views: Sequence[int]) -> "_Cut":
        boxes, arrays = [self.boxes[i] for i in views], [self.views[i] for i in views]
        return _Cut(boxes, arrays, self.size, len(views) == len(self.boxes))


def _decoded(row: Row) -> Image.Image:
    image = row.image
    if not image or image.get("bytes") is None and not image.get("path"):
        raise ValueError("it has no image")
    if image.get("error"):
        raise OSError(image["error"])
    return open_image(image)


def choose_engine(
    detector: Detector, source: ScoringSource, *, exact: bool, engine: str | None = None
) -> Choice:
    """Choose the engine of a run by measurement, or check a given one.

    Args:
        detector: The detector.
        source: The images to score.
        exact: Whether to compute in fp32 only.
        engine: *optional*. The engine to use.

    Raises:
        ValueError: The given engine does not fit the images or `exact`.
        OSError: The given engine needs a package that is not installed.
    """
    if engine is None and not source.streamed and source.rows < _LEAST_TO_COMPARE:
        return Choice()
    sample = _sample_pixels(source, detector.preprocessing)
    if sample is None:
        if engine not in (None, "torch-fp32"):
            raise ValueError(f"--engine {engine} needs a processor that gives inputs of one size.")
        return Choice()
    if engine is None:
        return choose(detector, sample, exact=exact)
    is_fp32 = engine.endswith("-fp32")
    if exact and not is_fp32:
        raise ValueError(f"--engine {engine} is not fp32; leave out --engine or --exact.")
    open_engine(engine, detector, sample)
    names = [engine] if is_fp32 else [engine, "torch-fp32"]
    return choose(detector, sample, exact=exact, names=names)


def _sample_pixels(source: ScoringSource, preprocessing: Preprocessing) -> np.ndarray | None:
    """Return inputs of some images; `None` if sizes differ or none can be decoded."""
    images: list[np.ndarray] = []
    for row in _sample_rows(source):
        try:
            images.append(preprocessing.shrink(_decoded(row)))
        except (ValueError, OSError):
            continue
    if not images or len({image.shape for image in images}) > 1:
        return None
    return preprocessing.stack(images)


def _sample_rows(source: ScoringSource) -> Iterator[Row]:
    """Yield the first rows of a stream, or rows spread over a source of known length."""
    if source.streamed:
        yield from source.segments[0].read(0, _SAMPLE)
        return
    for number in np.unique(np.linspace(0, source.rows - 1, _SAMPLE).astype(int)):
        for segment in source.segments:
            if number < segment.rows:
                yield from segment.read(int(number), int(number) + 1)
                break
            number -= segment.rows


def model_identity(model: str | os.PathLike, detector: Detector) -> str:
    """Return what identifies a checkpoint: the hash of a folder, or the commit of a Hub id."""
    folder = Path(model)
    if not folder.is_dir():
        return f"{model}@{detector.revision}"
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _CHECKPOINT_FILES for path in folder.glob(pattern)}):
        with open(path, "rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]
