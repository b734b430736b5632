"""How a detector holds up when images are recompressed, resized, cropped or blurred on their way.

Takes a split and the degradations of [`degradations.GRID`]; each image is decoded once, degraded in every way, and
scored. What was scored is kept on disk as the run proceeds, so that a run that was killed continues. `robustness_figures`
makes figures of the scores.
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
from realfake.models.folding import fold_batch_norms
from realfake.runtime import lone_threads

MARGINS = ".margins"
OOD = "ood"
# Changes when the same image and weights could give another margin.
_VERSION = 1
# What the network is tried on when it is made faster: noise excites all of it.
_TRIAL = np.random.default_rng(0).integers(0, 256, (320, 320, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Scorer:
    """Something that gives images a log-odds of ai: the detector, or a control that it is compared with.

    Args:
        name: What it is called in files and tables; letters, digits and hyphens.
        key: What its scores depend on, other than the image: the hash of its weights, say.
        score: From RGB images to float64 margins of shape `(n,)`, or of shape `(1 + len(also), n)`.
        also: Names of what it computes beside the margins, such as the novelty.
    """

    name: str
    key: str
    score: Callable[[list[Image.Image]], np.ndarray]
    also: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        return (self.name, *self.also)


def detector_scorer(detector: Detector, identity: str, batch_size: int) -> Scorer:
    """Make the [`Scorer`] of a detector; on a CPU its batch normalisations are folded, in a copy.

    Where the checkpoint stores what it knows of its images, the novelty is computed beside the margin.

    Args:
        identity: What names its weights, see [`corpus_options.checkpoint_identity`].
    """
    # The same weights with another processor or another mapping of the classes are another detector.
    processor = json.dumps(detector.processor.to_dict(), sort_keys=True, default=str)
    parts = [
        detector.name,
        identity,
        json.dumps(detector.class_indices),
        processor,
        str(detector.model.dtype),
    ]
    if detector.ood is not None:
        digest = hashlib.sha256()
        for label, scores in sorted(detector.ood.scores.items()):
            digest.update(label.encode() + np.ascontiguousarray(scores).tobytes())
        parts.append(digest.hexdigest())
    score = _in_each_thread(detector, batch_size)
    return Scorer("model", "|".join(parts), score, also=() if detector.ood is None else (OOD,))


def _in_each_thread(
    detector: Detector, batch_size: int
) -> Callable[[list[Image.Image]], np.ndarray]:
    """Score images with a copy of the detector for each thread that asks, on a CPU.

    The copies share their weights. One model would not do: features are caught by hooks on its layers.
    """
    model = detector.model
    if model.device.type == "cpu" and model.dtype == torch.float32:
        model = fold_batch_norms(model, detector.pixels(_TRIAL))
    own = threading.local()

    def score(images: list[Image.Image]) -> np.ndarray:
        if model.device.type == "cpu" and not hasattr(own, "detector"):
            own.detector = copy.copy(detector)
            own.detector.lock = threading.RLock()
            weights = [*model.parameters(), *model.buffers()]
            own.detector.model = copy.deepcopy(model, {id(tensor): tensor for tensor in weights})
        asked = getattr(own, "detector", detector)
        if detector.ood is None:
            return asked.log_odds(images, batch_size)
        return np.stack(asked.scores(images, batch_size))

    return score


def image_seed(content: bytes) -> int:
    """Return the seed of an image's degradations: its own, whatever subset of a corpus it is met in."""
    return int.from_bytes(hashlib.sha256(content).digest()[:4], "big")


def check_degradations(names: Iterable[str]) -> list[str]:
    """Return the names without repetitions.

    Raises:
        ValueError: There is no such degradation, or none was named.
    """
    names = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    unknown = [name for name in names if name not in GRID]
    if unknown or not names:
        raise ValueError(
            f"--degradations: there is no {', '.join(map(repr, unknown)) or 'name'}; choose from {', '.join(GRID)}."
        )
    return names


def degrade(image: Image.Image, name: str, seed: int) -> Image.Image:
    """Degrade an image in one of the ways of the grid.

    Raises:
        ValueError: Too little is left of it for a detector to open.
    """
    degraded = GRID[name](image, seed)
    if min(degraded.size) < LIMITS.min_side:
        raise ValueError(
            f"An image of {image.width} × {image.height} pixels is too small for {name}, which leaves "
            f"{degraded.width} × {degraded.height} of it; leave {name} out of --degradations."
        )
    return degraded


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
    """Score every image of a split under every degradation, continuing what an earlier run left.

    Args:
        dataset: Rows with an undecoded `image`.
        names: Degradations of [`degradations.GRID`].
        scorers: The detector, and controls.
        folder: Where margins are kept, in `.log_odds`: one Parquet file for each scorer and degradation.
        fingerprint: Of the images and their order, see [`rows.corpus_fingerprint`].
        batch_size: Images that a worker decodes and passes forward at a time, *defaults to* 16.
        save_every: Seconds between two savings, *defaults to* 20.
        workers: *optional*. Threads; *defaults to* as many as Torch would use for one operation.

    Returns:
        `{output: {degradation: float64 array of shape (n,)}}`, the margins by the scorer's name, and how many images a scorer
        had to look at because no earlier run had.

    Raises:
        ValueError: An image is unusable, or too small for a degradation.
        OSError: A file cannot be read or written.
    """
    from tqdm.auto import tqdm

    n = len(dataset)
    folder = Path(folder) / MARGINS
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [(scorer, name) for scorer in scorers for name in names]
    files = {
        (output, name): folder / f"{output}-{name}-{_key(scorer, name, fingerprint)}.parquet"
        for scorer, name in pairs
        for output in scorer.outputs
    }
    log_odds = {pair: _read(path, n) for pair, path in files.items()}

    def missing(batch: slice) -> dict[str, list[Scorer]]:
        wanted = {}
        for scorer, name in pairs:
            if any(np.isnan(log_odds[output, name][batch]).any() for output in scorer.outputs):
                wanted.setdefault(name, []).append(scorer)
        return wanted

    batches = [slice(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]
    todo = [(batch, wanted) for batch in batches if (wanted := missing(batch))]
    total = sum((batch.stop - batch.start) * len(wanted) for batch, wanted in todo)
    scored, changed, saved = 0, set(), time.monotonic()
    # One thread a core, each with its own images: both the codecs and the network release the interpreter.
    stop, lock = threading.Event(), threading.Lock()

    def save() -> None:
        for pair in changed:
            _write(files[pair], log_odds[pair])
        changed.clear()

    def keep(batch: slice, name: str, found: Sequence[tuple[Scorer, np.ndarray]]) -> None:
        nonlocal scored, saved
        with lock:
            for scorer, values in found:
                for output, row in zip(scorer.outputs, values, strict=True):
                    log_odds[output, name][batch] = row
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
            images.append(
                (open_image({"bytes": content, "path": row.get("path")}), image_seed(content))
            )
        # One degradation at a time: eleven copies of a batch of camera originals would fill the memory.
        for name, by in wanted.items():
            if stop.is_set():
                return
            degraded = [degrade(image, name, seed) for image, seed in images]
            keep(batch, name, [(scorer, _finite(scorer, name, degraded)) for scorer in by])

    bar = tqdm(
        total=total,
        desc=f"{n:,} images × {len(names)} degradations",
        unit="img",
        disable=not total,
        mininterval=0.5 if sys.stderr.isatty() else 15.0,
    )
    try:
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
    return {output: {name: log_odds[output, name] for name in names} for output in outputs}, scored


def _finite(scorer: Scorer, name: str, images: list[Image.Image]) -> np.ndarray:
    values = np.atleast_2d(np.asarray(scorer.score(images), dtype=np.float64))
    if not np.isfinite(values).all():
        raise ValueError(
            f"{scorer.name} gives margins that are not finite on {name}; its weights are broken."
        )
    return values


def _key(scorer: Scorer, name: str, fingerprint: str) -> str:
    text = "|".join((str(_VERSION), scorer.key, name, str(GRID[name].version), fingerprint))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(path: Path, n: int) -> np.ndarray:
    """The margins of an earlier run, NaN where it had none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    log_odds = np.full(n, np.nan)
    if path.is_file():
        try:
            table = pq.ParquetFile(path).read()
            found = table["log_odds"].to_numpy()
        except (pa.ArrowInvalid, KeyError):
            # Cut short by a full disk, say: computed again.
            return log_odds
        if len(found) == n:
            log_odds[:] = found
    return log_odds


def _write(path: Path, log_odds: np.ndarray) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    draft = path.with_suffix(".tmp")
    pq.write_table(pa.table({"log_odds": pa.array(log_odds)}), draft, compression="zstd")
    os.replace(draft, path)
