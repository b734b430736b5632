"""Robustness: a detector and its controls on images that were recompressed, resized, cropped, …

[`score_grid`] decodes each image once, applies every degradation of [`degradations.GRID`] and
scores the results. Scores are saved during the run, so that an interrupted run continues.
[`measure_robustness`] also computes the figures and writes `robustness.json`.
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
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from PIL import Image

from realfake.corpus.rows import column, corpus_fingerprint, is_ai
from realfake.corpus.splits import subset
from realfake.detector import Detector
from realfake.evaluation import controls
from realfake.evaluation.log import log_once
from realfake.evaluation.results import checkpoint_hash
from realfake.evaluation.robustness_report import CLEAN, grid_figures, headline, write_record
from realfake.imaging.decode import LIMITS, image_bytes, open_image
from realfake.imaging.degradations import GRID
from realfake.imaging.file_facts import container_facts
from realfake.io import versions
from realfake.models.folding import fold_batch_norms
from realfake.runtime import lone_threads

SCORES_FOLDER = ".scores"
OOD = "ood"
# Increase it when the same image and weights can get another score.
_VERSION = 1
# Input on which the folding of batch normalisations is checked.
_TRIAL = np.random.default_rng(0).integers(0, 256, (320, 320, 3), dtype=np.uint8)
# Sources that are also reported separately, if a split has them: faces, and sources whose real and
# generated images show the same subjects.
SLICES = {
    "faces": ["faces-256", "faces-300", "tpdne", "man"],
    "truman-pairs (matched subjects)": ["truman-pairs"],
    "fjell (matched subjects)": ["fjell"],
}


@dataclass(frozen=True)
class Scorer:
    """A function from images to log-odds of ai: the detector or a control.

    Args:
        name: Its name in files and tables; letters, digits and hyphens.
        key: What its scores depend on besides the image, such as the hash of its weights.
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
    """Return the [`Scorer`] of a detector. On a CPU, batch normalisations are folded in a copy.

    The OOD score is computed as well if the checkpoint stores a reference.

    Args:
        identity: What identifies the weights, such as their hash.
    """
    # The same weights with another processor or other class indices are another detector.
    processor = json.dumps(detector.processor.to_dict(), sort_keys=True, default=str)
    key = [
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
        key.append(digest.hexdigest())
    score = _score_in_threads(detector, batch_size)
    return Scorer("model", "|".join(key), score, also=() if detector.ood is None else (OOD,))


def _score_in_threads(
    detector: Detector, batch_size: int
) -> Callable[[list[Image.Image]], np.ndarray]:
    """Return a function that uses one copy of the detector per thread on a CPU.

    The copies share their weights, but not the hooks that record features.
    """
    model = detector.model
    if model.device.type == "cpu" and model.dtype == torch.float32:
        model = fold_batch_norms(model, detector.pixels(_TRIAL))
    local = threading.local()

    def score(images: list[Image.Image]) -> np.ndarray:
        if model.device.type == "cpu" and not hasattr(local, "detector"):
            local.detector = copy.copy(detector)
            local.detector.lock = threading.RLock()
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
        ValueError: There are no names, or there is no such degradation.
    """
    names = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    unknown = [name for name in names if name not in GRID]
    if unknown or not names:
        raise ValueError(
            f"--degradations: there is no {', '.join(map(repr, unknown)) or 'name'}; "
            f"choose from {', '.join(GRID)}."
        )
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
    # The result depends on the size, and is smallest for one of these.
    smallest = {
        *(min(sizes, key=lambda size: size[side]) for side in (0, 1)),
        *(extreme(sizes, key=lambda size: size[0] / size[1]) for extreme in (min, max)),
    }
    blank = [
        Image.fromarray(np.zeros((height, width, 3), dtype=np.uint8)) for width, height in smallest
    ]
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
        folder: Scores are saved in its subfolder `.scores`, one Parquet file per scorer and
            degradation.
        fingerprint: Of the images and their order, see [`rows.corpus_fingerprint`].
        batch_size: Images per forward pass of a thread, *defaults to* 16.
        save_every: Seconds between two savings, *defaults to* 20.
        workers: *optional*. Threads; *defaults to* the number that Torch uses.

    Returns:
        `{output: {degradation: (n,) float64}}`, the log-odds under the scorer's name, and the
        number of images that were scored now.

    Raises:
        ValueError: An image is unusable, or too small for a degradation.
        OSError: A file cannot be read or written.
    """
    from tqdm.auto import tqdm

    n = len(dataset)
    folder = Path(folder) / SCORES_FOLDER
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
    total = sum((batch.stop - batch.start) * len(wanted) for batch, wanted in todo)
    scored, changed, saved = 0, set(), time.monotonic()
    stop, lock = threading.Event(), threading.Lock()

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

    bar = tqdm(
        total=total,
        desc=f"{n:,} images × {len(names)} degradations",
        unit="img",
        disable=not total,
        mininterval=0.5 if sys.stderr.isatty() else 15.0,
    )
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

    scores = np.full(n, np.nan)
    if path.is_file():
        try:
            stored = pq.ParquetFile(path).read()["log_odds"].to_numpy()
        except (pa.ArrowInvalid, KeyError):
            # A damaged file is computed again.
            return scores
        if len(stored) == n:
            scores[:] = stored
    return scores


def _write(path: Path, scores: np.ndarray) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    draft = path.with_suffix(".tmp")
    pq.write_table(pa.table({"log_odds": pa.array(scores)}), draft, compression="zstd")
    os.replace(draft, path)


# Slices


def read_slices(texts: Sequence[str], sources: Sequence | None) -> dict[str, list[str]]:
    """Parse `"faces=ffhq,stylegan"` as `{"faces": ["ffhq", "stylegan"]}`.

    Raises:
        ValueError: The form is another one, or the split has no image of these sources.
    """
    known = sorted({str(source) for source in sources or () if source})
    slices = {}
    for text in texts:
        name, equals, members = text.partition("=")
        members = [member.strip() for member in members.split(",") if member.strip()]
        if not equals or not name.strip() or not members:
            raise ValueError(f"--slice: {text!r} is not of the form NAME=SOURCE,SOURCE.")
        if not set(members) & set(known):
            raise ValueError(
                f"--slice {name}: the split has no image of {', '.join(members)}; its sources are "
                f"{', '.join(known[:20]) or 'not stated'}."
            )
        slices[name.strip()] = members
    return slices


def known_slices(sources: Sequence | None) -> dict[str, list[str]]:
    """Return the [`SLICES`] that a split has images of."""
    known = set(sources or ())
    return {name: members for name, members in SLICES.items() if known & set(members)}


# A whole measurement


def measure_robustness(
    detector: Detector,
    identity: str,
    dataset: Dataset,
    folder: str | os.PathLike,
    *,
    split: str,
    corpus: str,
    command: str,
    measurement_log: str | os.PathLike,
    train: Dataset | None = None,
    degradations: Sequence[str] = tuple(GRID),
    slices: Mapping[str, Sequence[str]] | None = None,
    of: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    n_resamples: int = 1000,
) -> tuple[dict, dict]:
    """Score a split, compute the figures, and write `robustness.json`.

    Args:
        identity: What identifies the weights, such as their hash.
        dataset: Rows with an undecoded `image` and `label`.
        folder: Of `robustness.json` and of the saved scores.
        split: Name of the split.
        corpus: Name of the corpus.
        command: The command line.
        measurement_log: Where a measurement of a test split is logged.
        train: *optional*. Training images for the controls; without them there are no controls.
        degradations: Names of the grid, *defaults to* all of them.
        slices: `{name: sources}`, *optional*. Measured separately.
        of: *optional*. Images of the whole split, if `dataset` is a sample of it.
        batch_size: Images per forward pass of a thread.
        seed, n_resamples: Of the bootstrap.

    Returns:
        The record, and the scores as [`score_grid`] returns them.

    Raises:
        ValueError: An image is unusable.
        OSError: A file cannot be read or written.
    """
    truth, fingerprint = is_ai(dataset), corpus_fingerprint(dataset)
    known = {f"{name}s": column(dataset, name) for name in ("group", "generator", "source")}
    scorers = [detector_scorer(detector, identity, batch_size)]
    if train is not None:
        print(f"Fitting the controls on {len(train):,} training images.", flush=True)
        control = controls.spectrum_control(train)
        scorers.append(Scorer(controls.SPECTRUM, corpus_fingerprint(train), control))
    scores, _ = score_grid(dataset, degradations, scorers, folder, fingerprint, batch_size)
    if train is not None and CLEAN in degradations:
        # A degraded image has no file.
        scores[controls.CONTAINER] = {CLEAN: controls.container_log_odds(train, dataset)}

    print("Computing the figures.", flush=True)
    resampling = {"seed": seed, "n_resamples": n_resamples}
    out_of_distribution = None
    if detector.ood is not None:
        out_of_distribution = {
            name: detector.ood.is_out_of_distribution(values)
            for name, values in scores[OOD].items()
        }
    figures = grid_figures(
        scores["model"],
        truth,
        thresholds=detector.thresholds,
        out_of_distribution=out_of_distribution,
        slices=slices,
        **known,
        **resampling,
    )
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint_sha256": identity,
        "model": detector.name,
        "corpus": corpus,
        "corpus_fingerprint": fingerprint,
        "command": command,
        "versions": versions(),
        "of": of or len(dataset),
        "headline": headline(figures),
        "described": {name: GRID[name].description for name in degradations},
        "slices": dict(slices or {}),
        "degradations": figures,
        "controls": {
            name: grid_figures(
                tiers, truth, groups=known["groups"], generators=known["generators"], **resampling
            )
            for name, tiers in scores.items()
            if name in controls.NAMES
        },
        "controls_n": len(train) if train is not None else 0,
    }
    if split == "test":
        first = figures.get(CLEAN) or next(iter(figures.values()))
        kept = ("accuracy", "balanced_accuracy", "auroc", "ece")
        log_once(
            measurement_log,
            checkpoint_hash=identity,
            corpus=corpus,
            split=split,
            n=first["n"],
            date=record["date"],
            command=command,
            figures={**{k: first["summary"][k] for k in kept}, "headline": record["headline"]},
            degradations=list(figures),
        )
    write_record(folder, split, record)
    return record, scores


def subsample(dataset: Dataset, most: int, seed: int) -> Dataset:
    """Return at most `most` images, with the shares of labels and generators kept."""
    if len(dataset) <= most:
        return dataset
    return dataset.select(subset(dataset["label"][:], most, seed, column(dataset, "generator")))


def measure_finished_run(
    detector: Detector,
    folder: str | Path,
    splits: Mapping[str, Dataset],
    most: int,
    *,
    corpus: str,
    command: str,
    measurement_log: str | os.PathLike,
    seed: int,
) -> dict | None:
    """Measure the test split of a finished training, on the main process.

    Args:
        folder: The checkpoint's folder.
        splits: Of the corpus. The controls are fitted on `train` unless it is streamed.
        most: Largest number of images of test and of train; 0 measures nothing.

    Returns:
        The record; `None` if there is no test split.
    """
    test, train = splits.get("test"), splits.get("train")
    if not most or not isinstance(test, Dataset):
        return None
    chosen = subsample(test, most, seed)
    record, _ = measure_robustness(
        detector,
        checkpoint_hash(folder),
        chosen,
        folder,
        split="test",
        corpus=corpus,
        command=command,
        measurement_log=measurement_log,
        train=subsample(train, most, seed) if isinstance(train, Dataset) else None,
        degradations=possible_degradations(chosen),
        slices=known_slices(column(chosen, "source")),
        of=len(test),
        seed=seed,
    )
    return record
