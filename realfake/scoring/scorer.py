"""Score batches of images, with the results of [`~realfake.detector.Detector.predict`].

A fast engine scores all images. Those whose verdict could differ in fp32 are scored again in fp32.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.special import expit

from realfake.detector import Detector
from realfake.engines import Choice, Engine, choose, open_engine
from realfake.imaging.decode import open_image
from realfake.labels import AI, REAL
from realfake.models.preprocessing import Preprocessing
from realfake.runtime import one_thread
from realfake.scoring.source import Row, ScoringSource
from realfake.statistics.log_odds import log_odds_from_logits

# Number of images on which engines are compared.
_SAMPLE = 24
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
        preprocessing: *optional*. The preprocessing of the detector, to share it.
    """

    def __init__(
        self,
        detector: Detector,
        choice: Choice | None = None,
        threads: int = 1,
        preprocessing: Preprocessing | None = None,
    ):
        self.detector = detector
        self.choice = choice = choice or Choice()
        self.preprocessing = preprocessing or Preprocessing(detector.processor)
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
        by_shape: dict[tuple[int, ...], list[tuple[dict, np.ndarray]]] = {}
        for row, answer in zip(rows, answers, strict=True):
            try:
                pixels = self.preprocessing.shrink(_decoded(row))
            except (ValueError, OSError) as error:
                answer["error"] = " ".join(str(error).split()) or type(error).__name__
                continue
            by_shape.setdefault(pixels.shape, []).append((answer, pixels))
        deviation = 0.0
        for group in by_shape.values():
            group_answers, images = zip(*group, strict=True)
            deviation = max(deviation, self._score(group_answers, images))
        return answers, deviation

    def _score(self, answers: Sequence[dict], images: Sequence[np.ndarray]) -> float:
        log_odds, ood = self._run(self._engine, images)
        doubtful = np.flatnonzero(self.choice.doubtful(self.detector, log_odds, ood)).tolist()
        deviation = 0.0
        if doubtful:
            precise, precise_ood = self._run(self._reference, [images[index] for index in doubtful])
            deviation = float(np.nan_to_num(np.abs(log_odds[doubtful] - precise)).max())
            log_odds[doubtful] = precise
            if ood is not None:
                ood[doubtful] = precise_ood
            for index in doubtful:
                answers[index]["recomputed"] = True
        finite = np.isfinite(log_odds)
        known = np.where(finite, log_odds, 0.0)
        verdicts, reasons = self.detector.verdicts(known, ood), self.detector.reasons(known, ood)
        for index, answer in enumerate(answers):
            if not finite[index]:
                answer["error"] = "the model gives no finite score for it"
                continue
            answer |= {
                REAL: float(expit(-log_odds[index])),
                AI: float(expit(log_odds[index])),
                "log_odds": float(log_odds[index]),
                "verdict": str(verdicts[index]),
                "reason": reasons[index],
                "ood": None if ood is None else float(ood[index]),
            }
        return deviation

    def _run(
        self, engine: Engine, images: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        logits, ood = engine(self.preprocessing.stack(images))
        return log_odds_from_logits(logits, self.detector.class_indices), ood


def _decoded(row: Row) -> Image.Image:
    image = row.image
    if not image or image.get("bytes") is None and not image.get("path"):
        raise ValueError("it has no image")
    if image.get("error"):
        raise OSError(image["error"])
    return open_image(image)


def choose_engine(
    detector: Detector,
    source: ScoringSource,
    preprocessing: Preprocessing,
    *,
    exact: bool,
    engine: str | None = None,
) -> Choice:
    """Choose the engine of a run by measurement, or check a given one.

    Args:
        detector: The detector.
        source: The images to score.
        preprocessing: The preprocessing of the detector.
        exact: Whether to compute in fp32 only.
        engine: *optional*. The engine to use.

    Raises:
        ValueError: The given engine does not fit the images or `exact`.
        OSError: The given engine needs a package that is not installed.
    """
    if engine is None and not source.streamed and source.rows < _LEAST_TO_COMPARE:
        return Choice()
    sample = _sample_pixels(source, preprocessing)
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
