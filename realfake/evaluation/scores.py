"""Score a dataset: as it is, by all processes of a run together, or under degradations.

[`score_grid`] saves the scores of each finished degradation, so that an interrupted run continues.
"""

import copy
import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from PIL import Image

from realfake.detector import Detector
from realfake.evaluation.results import write_columns
from realfake.imaging.decode import LIMITS, image_bytes, open_image
from realfake.imaging.degradations import DEGRADATIONS, GRID
from realfake.imaging.file_facts import container_facts
from realfake.models.folding import fold_batch_norms
from realfake.prediction import Scores
from realfake.runtime import lone_threads

_FOLDER = ".scores"
# Increase it when the same image and weights can get another score.
_VERSION = 2
# Input on which the folding of batch normalisations is checked.
_TRIAL = np.random.default_rng(0).integers(0, 256, (320, 320, 3), dtype=np.uint8)


# As it is


def collect_logits(
    detector: Detector, dataset: Dataset, batch_size: int = 64, progress: str | None = None
) -> np.ndarray:
    """Compute the logits of a dataset in fp32.

    Args:
        dataset: Rows with an undecoded `image`.

    Returns:
        Float32 array of shape `(len(dataset), labels)`, the same on every process.
    """
    batches = _collect(
        lambda images: detector.logits(images, batch_size), dataset, batch_size, progress
    )
    return np.concatenate(batches)


def collect_scores(
    detector: Detector,
    dataset: Dataset,
    batch_size: int = 64,
    progress: str | None = None,
    views: int | None = None,
) -> Scores:
    """Compute the scores of a dataset, as [`Detector.scores`]."""
    batches = _collect(
        lambda images: detector.scores(images, batch_size, views), dataset, batch_size, progress
    )
    return joined_scores(batches)


def joined_scores(batches: Sequence[Scores]) -> Scores:
    """Concatenate the scores of batches."""
    fields = zip(*batches, strict=True)
    return Scores(*(None if each[0] is None else np.concatenate(each) for each in fields))


def collect_features(
    detector: Detector, dataset: Dataset, batch_size: int = 64, progress: str | None = None
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Compute the features of the OOD score for all views, as [`Detector.features`]."""
    return joined_features(
        _collect(
            lambda images: detector.features(images, batch_size), dataset, batch_size, progress
        )
    )


def joined_features(
    batches: Sequence[tuple[dict[str, np.ndarray], np.ndarray]],
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Concatenate the features and the numbers of views of batches."""
    features, counts = zip(*batches, strict=True)
    joined = {name: np.concatenate([each[name] for each in features]) for name in features[0]}
    return joined, np.concatenate(counts)


def _collect(compute: Callable, dataset: Dataset, batch_size: int, progress: str | None) -> list:
    from tqdm.auto import tqdm

    state = PartialState()
    # Of k processes, each computes every k-th batch.
    starts = range(state.process_index * batch_size, len(dataset), state.num_processes * batch_size)
    hidden = progress is None or not state.is_main_process
    rows = [
        (start, compute(dataset[start : start + batch_size]["image"]))
        for start in tqdm(starts, desc=progress, unit="batch", disable=hidden, mininterval=2.0)
    ]
    gathered = gather_object(rows) if state.num_processes > 1 else rows
    return [result for _, result in sorted(gathered, key=lambda entry: entry[0])]


# Under degradations

# {scorer: {degradation: scores of the dataset}}
GridScores = dict[str, dict[str, Scores]]


@dataclass(frozen=True)
class Scorer:
    """A function from RGB images to scores: the detector or a control.

    name: Its name in files and tables; letters, digits and hyphens.
    key: What its scores depend on apart from the image, such as the hash of its weights.
    """

    name: str
    key: str
    score: Callable[[list[Image.Image]], Scores]


def detector_scorer(detector: Detector, identity: str, batch_size: int) -> Scorer:
    """Return the [`Scorer`] of a detector.

    On a CPU, batch normalisations are folded in a copy, and each thread has its own copy.
    """
    # Another processor or other class indices give other scores with the same weights.
    processor = json.dumps(detector.processor.to_dict(), sort_keys=True, default=str)
    settings = json.dumps([detector.class_indices, detector.views])
    key = [detector.name, identity, settings, processor, str(detector.model.dtype)]
    if detector.ood is not None:
        digest = hashlib.sha256()
        for label, scores in sorted(detector.ood.scores.items()):
            digest.update(label.encode() + np.ascontiguousarray(scores).tobytes())
        key.append(digest.hexdigest())
    if detector.engine is not None:
        # It is faster than copies for each thread, and thread-safe.
        return Scorer("model", "|".join(key), lambda images: detector.scores(images, batch_size))
    model = detector.model
    if model.device.type == "cpu" and model.dtype == torch.float32:
        model = fold_batch_norms(model, detector.pixels(_TRIAL))
    local = threading.local()

    def score(images: list[Image.Image]) -> Scores:
        if model.device.type == "cpu" and not hasattr(local, "detector"):
            local.detector = copy.copy(detector)
            local.detector.lock = threading.RLock()
            # The copies share their weights, but not the hooks that record features.
            weights = [*model.parameters(), *model.buffers()]
            local.detector.model = copy.deepcopy(model, {id(tensor): tensor for tensor in weights})
        return getattr(local, "detector", detector).scores(images, batch_size)

    return Scorer("model", "|".join(key), score)


def image_seed(content: bytes) -> int:
    """Return the seed of an image's degradations, which depends only on its file."""
    return int.from_bytes(hashlib.sha256(content).digest()[:4], "big")


def degrade(image: Image.Image, name: str, seed: int) -> Image.Image:
    """Apply a degradation.

    Raises:
        ValueError: The result is too small for a detector.
    """
    degraded = DEGRADATIONS[name](image, seed)
    if min(degraded.size) < LIMITS.min_side:
        raise ValueError(
            f"An image of {image.width} × {image.height} pixels is too small for {name}, which "
            f"leaves {degraded.width} × {degraded.height}; leave {name} out of --degradations."
        )
    return degraded


def possible_degradations(dataset: Dataset, names: Iterable[str] = tuple(GRID)) -> list[str]:
    """Return the degradations whose results are large enough for a detector, for all images."""
    sizes = {container_facts(image_bytes(row)).upright_size for row in dataset["image"]}
    # A degradation's smallest result comes from the smallest width or height, or from the most
    # elongated image.
    smallest = {
        *(min(sizes, key=lambda size: size[side]) for side in (0, 1)),
        *(extreme(sizes, key=lambda size: size[0] / size[1]) for extreme in (min, max)),
    }
    blank = [Image.new("RGB", size) for size in smallest]
    return [
        name
        for name in names
        if all(min(DEGRADATIONS[name](image, 0).size) >= LIMITS.min_side for image in blank)
    ]


def score_grid(
    dataset: Dataset,
    names: Sequence[str],
    scorers: Sequence[Scorer],
    folder: str | os.PathLike,
    fingerprint: str,
    batch_size: int = 16,
    workers: int | None = None,
) -> tuple[GridScores, int]:
    """Score every image under every degradation, apart from those of an earlier run.

    Args:
        folder: Its subfolder `.scores` gets one Parquet file per scorer and degradation.
        fingerprint: Of the images and their order, see [`rows.corpus_fingerprint`].
        batch_size: Images that a thread scores at once.

    Returns:
        The scores, and the number of images that this call scored.

    Raises:
        ValueError: An image is unusable, or too small for a degradation.
        OSError: A file cannot be read or written.
    """
    from tqdm.auto import tqdm

    n, folder = len(dataset), Path(folder) / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        (scorer.name, name): folder / f"{scorer.name}-{name}-{_key(scorer, name, fingerprint)}"
        for scorer in scorers
        for name in names
    }
    scores: GridScores = {scorer.name: {} for scorer in scorers}
    missing: dict[str, list[Scorer]] = {}
    for name in names:
        for scorer in scorers:
            stored = _read(files[scorer.name, name], n)
            if stored is None:
                missing.setdefault(name, []).append(scorer)
            else:
                scores[scorer.name][name] = stored
    total = n * sum(map(len, missing.values()))
    bar = tqdm(
        total=total,
        desc=f"{n:,} images × {len(missing)} degradations",
        unit="img",
        disable=not total,
        mininterval=0.5 if sys.stderr.isatty() else 15.0,
    )

    def work(start: int, name: str) -> list[Scores]:
        images = []
        for row in dataset[start : start + batch_size]["image"]:
            content = image_bytes(row)
            image = open_image({"bytes": content, "path": row.get("path")})
            images.append(degrade(image, name, image_seed(content)))
        result = [_finite(scorer, name, images) for scorer in missing[name]]
        bar.update(len(images) * len(result))
        return result

    # Codecs and network release the interpreter lock, so threads use all cores.
    with bar, lone_threads(workers) as pool:
        for name, wanted in missing.items():
            futures = [pool.submit(work, start, name) for start in range(0, n, batch_size)]
            try:
                batches = [future.result() for future in futures]
            finally:
                for future in futures:
                    future.cancel()
            for scorer, parts in zip(wanted, zip(*batches, strict=True), strict=True):
                joined = joined_scores(parts)
                _write(files[scorer.name, name], joined)
                scores[scorer.name][name] = joined
    return {scorer: {name: own[name] for name in names} for scorer, own in scores.items()}, total


def _finite(scorer: Scorer, name: str, images: list[Image.Image]) -> Scores:
    scores = scorer.score(images)
    if not np.isfinite(scores.log_odds).all():
        raise ValueError(
            f"{scorer.name} gives scores that are not finite on {name}; its weights are broken."
        )
    return scores


def _key(scorer: Scorer, name: str, fingerprint: str) -> str:
    version = str(DEGRADATIONS[name].version)
    text = "|".join((str(_VERSION), scorer.key, name, version, fingerprint))
    return f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.parquet"


def _read(path: Path, n: int) -> Scores | None:
    """Return the scores of an earlier run; `None` without a readable file of `n` scores."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        return None
    try:
        columns: Mapping = pq.ParquetFile(path).read().to_pydict()
        scores = Scores(**{name: np.array(values) for name, values in columns.items()})
    except (pa.ArrowInvalid, TypeError):
        return None  # a damaged file is computed again
    return scores if len(scores.log_odds) == n else None


def _write(path: Path, scores: Scores) -> None:
    write_columns(path, {name: own for name, own in scores._asdict().items() if own is not None})
