"""Score a dataset under every degradation of [`degradations.GRID`].

[`score_grid`] decodes each image once, degrades it and scores the results. It saves the scores
during the run, so that an interrupted run continues.
"""

import copy
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from PIL import Image

from realfake.detector import Detector
from realfake.imaging.decode import LIMITS, image_bytes, open_image
from realfake.imaging.degradations import GRID
from realfake.imaging.file_facts import container_facts
from realfake.models.folding import fold_batch_norms
from realfake.runtime import lone_threads

OOD = "ood"
_FOLDER = ".scores"
# Increase it when the same image and weights can get another score.
_VERSION = 1
# Input on which the folding of batch normalisations is checked.
_TRIAL = np.random.default_rng(0).integers(0, 256, (320, 320, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Scorer:
    """A function from images to log-odds of ai: the detector or a control.

    Args:
        name: Its name in files and tables; letters, digits and hyphens.
        key: What its scores depend on apart from the image, such as the hash of its weights.
        score: From RGB images to float64 log-odds (n,), or (1 + len(also), n).
        also: Names of further outputs, such as the OOD score.
    """

    name: str
    key: str
    score: Callable[[list[Image.Image]], np.ndarray]
    also: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of all outputs."""
        return (self.name, *self.also)


def detector_scorer(detector: Detector, identity: str, batch_size: int) -> Scorer:
    """Return the [`Scorer`] of a detector, with the OOD score if the checkpoint has a reference.

    On a CPU, batch normalisations are folded in a copy, and each thread has its own copy.

    Args:
        identity: What identifies the weights, such as their hash.
    """
    # Another processor or other class indices give other scores with the same weights.
    processor = json.dumps(detector.processor.to_dict(), sort_keys=True, default=str)
    indices = json.dumps(detector.class_indices)
    key = [detector.name, identity, indices, processor, str(detector.model.dtype)]
    if detector.ood is not None:
        digest = hashlib.sha256()
        for label, scores in sorted(detector.ood.scores.items()):
            digest.update(label.encode() + np.ascontiguousarray(scores).tobytes())
        key.append(digest.hexdigest())
    score = _score_in_threads(detector, batch_size)
    return Scorer("model", "|".join(key), score, also=() if detector.ood is None else (OOD,))


def _score_in_threads(
    detector: Detector, batch_size: int
) -> Callable[[list[Image.Image]], np.ndarray]:
    model = detector.model
    if model.device.type == "cpu" and model.dtype == torch.float32:
        model = fold_batch_norms(model, detector.pixels(_TRIAL))
    local = threading.local()

    def score(images: list[Image.Image]) -> np.ndarray:
        if model.device.type == "cpu" and not hasattr(local, "detector"):
            local.detector = copy.copy(detector)
            local.detector.lock = threading.RLock()
            # The copies share their weights, but not the hooks that record features.
            weights = [*model.parameters(), *model.buffers()]
            local.detector.model = copy.deepcopy(model, {id(tensor): tensor for tensor in weights})
        chosen = getattr(local, "detector", detector)
        if detector.ood is None:
            return chosen.log_odds(images, batch_size)
        return np.stack(chosen.scores(images, batch_size))

    return score


def image_seed(content: bytes) -> int:
    """Return the seed of an image's degradations, which depends only on its file."""
    return int.from_bytes(hashlib.sha256(content).digest()[:4], "big")


def check_degradations(names: Iterable[str]) -> list[str]:
    """Return the names without repetitions.

    Raises:
        ValueError: There are no names, or one is not in the grid.
    """
    names = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    unknown = [name for name in names if name not in GRID]
    if unknown or not names:
        wrong = f"unknown name {', '.join(map(repr, unknown))}" if unknown else "no name"
        raise ValueError(f"--degradations: {wrong}; choose from {', '.join(GRID)}.")
    return names


def degrade(image: Image.Image, name: str, seed: int) -> Image.Image:
    """Apply a degradation of the grid.

    Raises:
        ValueError: The result is too small for a detector.
    """
    degraded = GRID[name](image, seed)
    if min(degraded.size) < LIMITS.min_side:
        raise ValueError(
            f"An image of {image.width} × {image.height} pixels is too small for {name}, which "
            f"leaves {degraded.width} × {degraded.height}; leave {name} out of --degradations."
        )
    return degraded


def possible_degradations(dataset: Dataset, names: Sequence[str] = tuple(GRID)) -> list[str]:
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
        if all(min(GRID[name](image, 0).size) >= LIMITS.min_side for image in blank)
    ]


def score_grid(
    dataset: Dataset,
    names: Sequence[str],
    scorers: Sequence[Scorer],
    folder: str | os.PathLike,
    fingerprint: str,
    batch_size: int = 16,
    save_every: float = 20.0,
    workers: int | None = None,
) -> tuple[dict[str, dict[str, np.ndarray]], int]:
    """Score every image under every degradation, starting from the scores of an earlier run.

    Args:
        dataset: Rows with an undecoded `image`.
        names: Degradations of [`degradations.GRID`].
        scorers: The detector, and controls.
        folder: Its subfolder `.scores` gets one Parquet file per output and degradation.
        fingerprint: Of the images and their order, see [`rows.corpus_fingerprint`].
        batch_size: Images per forward pass of a thread, *defaults to* 16.
        save_every: Seconds between two savings, *defaults to* 20.
        workers: *optional*. Threads; *defaults to* the number that Torch uses.

    Returns:
        `{output: {degradation: (n,) float64}}`, the log-odds under the scorer's name, and the
        number of images that this call scored.

    Raises:
        ValueError: An image is unusable, or too small for a degradation.
        OSError: A file cannot be read or written.
    """
    from tqdm.auto import tqdm

    n = len(dataset)
    folder = Path(folder) / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [(scorer, name) for scorer in scorers for name in names]
    files = {
        (output, name): folder / f"{output}-{name}-{_key(scorer, name, fingerprint)}.parquet"
        for scorer, name in pairs
        for output in scorer.outputs
    }
    scores = {pair: _read(path, n) for pair, path in files.items()}

    def missing(batch: slice) -> dict[str, list[Scorer]]:
        wanted = {}
        for scorer, name in pairs:
            if any(np.isnan(scores[output, name][batch]).any() for output in scorer.outputs):
                wanted.setdefault(name, []).append(scorer)
        return wanted

    batches = [slice(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]
    todo = [(batch, wanted) for batch in batches if (wanted := missing(batch))]
    scored, changed, saved = 0, set(), time.monotonic()
    stop, lock = threading.Event(), threading.Lock()
    bar = tqdm(
        total=sum((batch.stop - batch.start) * len(wanted) for batch, wanted in todo),
        desc=f"{n:,} images × {len(names)} degradations",
        unit="img",
        disable=not todo,
        mininterval=0.5 if sys.stderr.isatty() else 15.0,
    )

    def save() -> None:
        for pair in changed:
            _write(files[pair], scores[pair])
        changed.clear()

    def keep(batch: slice, name: str, results: Sequence[tuple[Scorer, np.ndarray]]) -> None:
        nonlocal scored, saved
        with lock:
            for scorer, values in results:
                for output, row in zip(scorer.outputs, values, strict=True):
                    scores[output, name][batch] = row
                    changed.add((output, name))
                scored += batch.stop - batch.start
            bar.update(batch.stop - batch.start)
            if time.monotonic() - saved >= save_every:
                save()
                saved = time.monotonic()

    def work(batch: slice, wanted: Mapping[str, list[Scorer]]) -> None:
        if stop.is_set():
            return
        images = []
        for row in dataset[batch]["image"]:
            content = image_bytes(row)
            image = open_image({"bytes": content, "path": row.get("path")})
            images.append((image, image_seed(content)))
        # One degradation at a time limits the memory.
        for name, by in wanted.items():
            if stop.is_set():
                return
            degraded = [degrade(image, name, seed) for image, seed in images]
            keep(batch, name, [(scorer, _finite(scorer, name, degraded)) for scorer in by])

    try:
        # Codecs and network release the interpreter lock, so threads use all cores.
        with bar, lone_threads(workers) as pool:
            futures = [pool.submit(work, batch, wanted) for batch, wanted in todo]
            try:
                for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                    future.result()
            finally:
                stop.set()
    finally:
        save()
    outputs = [output for scorer in scorers for output in scorer.outputs]
    return {output: {name: scores[output, name] for name in names} for output in outputs}, scored


def _finite(scorer: Scorer, name: str, images: list[Image.Image]) -> np.ndarray:
    values = np.atleast_2d(np.asarray(scorer.score(images), dtype=np.float64))
    if not np.isfinite(values).all():
        raise ValueError(
            f"{scorer.name} gives scores that are not finite on {name}; its weights are broken."
        )
    return values


def _key(scorer: Scorer, name: str, fingerprint: str) -> str:
    text = "|".join((str(_VERSION), scorer.key, name, str(GRID[name].version), fingerprint))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(path: Path, n: int) -> np.ndarray:
    """Return the scores of an earlier run, (n,), NaN where there are none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.is_file():
        try:
            stored = pq.ParquetFile(path).read()["log_odds"].to_numpy()
            if len(stored) == n:
                return stored.copy()
        except (pa.ArrowInvalid, KeyError):
            pass  # a damaged file is computed again
    return np.full(n, np.nan)


def _write(path: Path, scores: np.ndarray) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    draft = path.with_suffix(".tmp")
    pq.write_table(pa.table({"log_odds": pa.array(scores)}), draft, compression="zstd")
    os.replace(draft, path)
