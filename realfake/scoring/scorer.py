"""Score batches of images as fast as the machine allows: decode, forward pass, doubtful images again in fp32.

Between `engine.py` and `preprocessing.py`, which know how, and `run.py`, which goes through a corpus with it. The
answers are those of [`~realfake.detector.Detector.predict`].
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.special import expit

from realfake.detector import Detector
from realfake.engines import Choice, choose, open_engine
from realfake.imaging.decode import open_image
from realfake.labels import AI, REAL
from realfake.models.preprocessing import Preprocessing
from realfake.runtime import one_thread
from realfake.scoring.source import Row, ScoringSource
from realfake.statistics.log_odds import log_odds_from_logits

# Images by which the engine is chosen, and the fewest images for which choosing pays.
_SAMPLE = 24
_WORTH_CHOOSING = 200
# What says how a checkpoint answers: weights, labels and thresholds, preprocessing, what it calls novel.
_CHECKPOINT_FILES = (
    "config.json",
    "preprocessor_config.json",
    "novelty.safetensors",
    "*.safetensors",
    "*.index.json",
)


class Scorer:
    """Scores batches of rows; safe to be called from several threads at once.

    Args:
        detector: The detector.
        choice: *optional*. The engine and how far to trust it; *defaults to* PyTorch in fp32.
        threads: How many threads will call it at once.
        sample: *optional*. Inputs, `(n, 3, height, width)`, by which an engine is set up; needed by those of OpenVINO.
        preprocessing: *optional*. The preprocessing, where it has been made already.
    """

    def __init__(
        self,
        detector: Detector,
        choice: Choice | None = None,
        threads: int = 1,
        sample: np.ndarray | None = None,
        preprocessing: Preprocessing | None = None,
    ):
        choice = choice or Choice()
        self.detector = detector
        self.choice = choice
        self.preprocessing = preprocessing or Preprocessing(detector.processor)
        sample = example_pixels(self.preprocessing) if sample is None else sample
        with one_thread():
            self._engine = open_engine(choice.engine, detector, sample, threads)
            same = choice.reference == choice.engine
            self._reference = (
                self._engine if same else open_engine(choice.reference, detector, sample, threads)
            )
        self._model = model_name(detector)

    def __call__(self, rows: Sequence[Row]) -> tuple[list[dict], float]:
        """Score rows, in their order.

        Returns:
            The fields of [`~realfake.scoring.shards.SCHEMA`] for each, and the largest deviation of a margin from fp32 among those
            that were computed again.
        """
        answers = [
            {"key": row.key, "path": row.path, "recomputed": False, "model": self._model}
            for row in rows
        ]
        by_shape: dict[tuple, list[tuple[dict, np.ndarray]]] = {}
        for row, answer in zip(rows, answers, strict=True):
            try:
                small = self.preprocessing.shrink(_decoded(row))
            except (ValueError, OSError) as error:
                answer["error"] = " ".join(str(error).split()) or type(error).__name__
                continue
            by_shape.setdefault(small.shape, []).append((answer, small))
        strayed = 0.0
        for group in by_shape.values():
            strayed = max(
                strayed, self._score([answer for answer, _ in group], [small for _, small in group])
            )
        return answers, strayed

    def _score(self, answers: list[dict], images: list[np.ndarray]) -> float:
        log_odds, ood = self._run(self._engine, images)
        doubtful = np.flatnonzero(self.choice.doubtful(self.detector, log_odds, ood))
        strayed = 0.0
        if len(doubtful):
            precise, precise_ood = self._run(self._reference, [images[index] for index in doubtful])
            strayed = float(np.nan_to_num(np.abs(log_odds[doubtful] - precise)).max())
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
        return strayed

    def _run(self, engine, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
        logits, ood = engine(self.preprocessing.stack(images))
        return log_odds_from_logits(logits, self.detector.class_indices), ood


def _decoded(row: Row) -> Image.Image:
    image = row.image
    if not image or image.get("bytes") is None and not image.get("path"):
        raise ValueError("it has no image")
    if image.get("error"):
        raise OSError(image["error"])
    return open_image(image)


def example_pixels(preprocessing: Preprocessing) -> np.ndarray:
    """Two inputs made of noise, where no image is at hand."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 400, 400, 3), dtype=np.uint8)
    return preprocessing([Image.fromarray(image) for image in noise])


def sample_of(
    source: ScoringSource, preprocessing: Preprocessing, n: int = _SAMPLE
) -> np.ndarray | None:
    """Inputs of some of a source's images, those spread over it where its length is known.

    Returns:
        `(n or fewer, 3, height, width)`, or `None` where they have no common size, or none can be decoded.
    """
    images: list[np.ndarray] = []
    for row in _spread(source, n):
        try:
            images.append(preprocessing.shrink(_decoded(row)))
        except (ValueError, OSError):
            continue
    if not images or len({image.shape for image in images}) > 1:
        return None
    return preprocessing.stack(images)


def _spread(source: ScoringSource, n: int) -> Iterator[Row]:
    if source.streamed:
        yield from source.parts[0].read(0, n)
        return
    for number in np.unique(np.linspace(0, source.rows - 1, n).astype(int)):
        for part in source.parts:
            if number < part.rows:
                yield from part.read(int(number), int(number) + 1)
                break
            number -= part.rows


def choose_engine(
    detector: Detector,
    source: ScoringSource,
    preprocessing: Preprocessing,
    *,
    exact: bool,
    engine: str | None = None,
) -> Choice:
    """Choose the engine of a run, by measurement where that pays, or check one that was asked for.

    Raises:
        ValueError, OSError: The engine that was asked for does not exist or cannot be used here.
    """
    small = not source.streamed and source.rows < _WORTH_CHOOSING
    if engine is None and small:
        return Choice()
    sample = sample_of(source, preprocessing)
    if sample is None:
        if engine not in (None, "torch-fp32"):
            raise ValueError(
                f"--engine {engine} needs images that the processor brings to one size."
            )
        return Choice()
    if engine is None:
        return choose(detector, sample, exact=exact)
    if exact and not engine.endswith("-fp32"):
        raise ValueError(f"--exact computes in fp32, which --engine {engine} does not.")
    open_engine(engine, detector, sample)
    return choose(
        detector,
        sample,
        exact=exact,
        names=[engine] if engine.endswith("-fp32") else [engine, "torch-fp32"],
    )


def model_name(detector: Detector) -> str:
    """The checkpoint and its revision, as the rows name it."""
    return f"{detector.name}@{detector.revision}" if detector.revision else detector.name


def model_identity(model: str | os.PathLike, detector: Detector) -> str:
    """What names a checkpoint and all that its answers depend on: a hash for a folder, the commit on the Hub."""
    folder = Path(model)
    if not folder.is_dir():
        return f"{model}@{detector.revision}"
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _CHECKPOINT_FILES for path in folder.glob(pattern)}):
        with open(path, "rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]
