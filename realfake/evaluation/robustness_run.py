"""Measures a checkpoint under the grid of degradations, beside its controls, and writes down what came of it.

The common part of `scripts/evaluate_checkpoint.py` and of the end of a training: split → margins → figures →
`robustness.json`, and one line in the log of measurements where it was a test split.
"""

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from datasets import Dataset

from realfake.corpus.rows import column, corpus_fingerprint, is_ai
from realfake.corpus.splits import subset
from realfake.detector import Detector
from realfake.evaluation import controls, robustness, robustness_figures
from realfake.evaluation.log import log_once
from realfake.evaluation.robustness_report import write_record
from realfake.imaging.decode import LIMITS, image_bytes
from realfake.imaging.degradations import GRID
from realfake.io import versions


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
    """Measure a split and write the record.

    Args:
        identity: What names the weights, see [`corpus_options.checkpoint_identity`].
        dataset: Rows with an undecoded `image` and `label`.
        folder: Of `robustness.json`, and of the scores so far.
        split: Name of the split.
        corpus: Name of the corpus.
        command: The exact command line.
        measurement_log: Where a measurement of a test split is noted.
        train: *optional*. Training images that the controls are fitted on; without them there are none.
        degradations: Names of the grid, *defaults to* all of them.
        slices: *optional*. `{name: sources}`, looked at by themselves.
        of: *optional*. Images of the whole split, where `dataset` is a part of it.
        batch_size: Images in one forward pass of a core.
        seed, n_resamples: Of the bootstrap.

    Returns:
        The record as [`robustness_report.write_record`] takes it, and what was scored, `{output: {degradation: (n,)}}`.

    Raises:
        ValueError: An image is unusable.
        OSError: A file cannot be read or written.
    """
    truth, fingerprint = is_ai(dataset), corpus_fingerprint(dataset)
    known = {f"{name}s": column(dataset, name) for name in ("group", "generator", "source")}
    scorers = [robustness.detector_scorer(detector, identity, batch_size)]
    if train is not None:
        print(f"Fitting the controls on {len(train):,} training images.", flush=True)
        scorers.append(controls.spectrum_scorer(train, corpus_fingerprint(train)))
    log_odds, _ = robustness.score_grid(
        dataset, degradations, scorers, folder, fingerprint, batch_size
    )
    if train is not None and robustness_figures.CLEAN in degradations:
        log_odds[controls.CONTAINER] = controls.container_log_odds(train, dataset)

    print("Computing the figures.", flush=True)
    resampling = {"seed": seed, "n_resamples": n_resamples}
    out_of_distribution = None
    if detector.ood is not None:
        out_of_distribution = {
            name: detector.ood.is_out_of_distribution(shares)
            for name, shares in log_odds[robustness.OOD].items()
        }
    figures = robustness_figures.grid_figures(
        log_odds["model"],
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
        "headline": robustness_figures.headline(figures),
        "described": {name: GRID[name].description for name in degradations},
        "slices": dict(slices or {}),
        "degradations": figures,
        "controls": {
            name: robustness_figures.grid_figures(
                tiers, truth, groups=known["groups"], generators=known["generators"], **resampling
            )
            for name, tiers in log_odds.items()
            if name in controls.NAMES
        },
        "controls_n": len(train) if train is not None else 0,
    }
    if split == "test":
        _log(measurement_log, record)
    write_record(folder, split, record)
    return record, log_odds


def _log(path: str | os.PathLike, record: Mapping) -> None:
    figures = record["degradations"]
    first = figures.get(robustness_figures.CLEAN) or next(iter(figures.values()))
    clean = {
        name: first["summary"][name] for name in ("accuracy", "balanced_accuracy", "auroc", "ece")
    }
    log_once(
        path,
        checkpoint_hash=record["checkpoint_sha256"],
        corpus=record["corpus"],
        split="test",
        n=first["n"],
        date=record["date"],
        command=record["command"],
        figures={**clean, "headline": record["headline"]},
        degradations=list(figures),
    )


def possible(dataset: Dataset, names: Sequence[str] = tuple(GRID)) -> list[str]:
    """The degradations that leave enough of the smallest image for a detector to open."""
    import numpy as np
    from PIL import Image

    from realfake.imaging.file_facts import container_facts

    sizes = {container_facts(image_bytes(row)).upright_size for row in dataset["image"]}
    # What is left depends on the size alone, and is least of the narrowest, the lowest and the most oblong images.
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


def part(dataset: Dataset, most: int, seed: int) -> Dataset:
    """At most so many images of a split, with the shares of labels and generators kept."""
    if len(dataset) <= most:
        return dataset
    return dataset.select(subset(dataset["label"][:], most, seed, column(dataset, "generator")))


def at_the_end_of_a_run(
    detector: Detector,
    folder: str | Path,
    parts: Mapping[str, Dataset],
    most: int,
    *,
    corpus: str,
    command: str,
    measurement_log: str | os.PathLike,
    seed: int,
) -> dict | None:
    """Measure a finished checkpoint's test split, or so many images of it, on the main process.

    Args:
        folder: The checkpoint's.
        parts: The corpus' splits; the controls are fitted on `train`, where it is not streamed.
        most: Images of test and of train, at most; 0 measures nothing.

    Returns:
        The record; `None` where there is no such split.
    """
    from realfake.evaluation.results import checkpoint_hash

    test, train = parts.get("test"), parts.get("train")
    if not most or not isinstance(test, Dataset):
        return None
    chosen = part(test, most, seed)
    record, _ = measure_robustness(
        detector,
        checkpoint_hash(folder),
        chosen,
        folder,
        split="test",
        corpus=corpus,
        command=command,
        measurement_log=measurement_log,
        train=part(train, most, seed) if isinstance(train, Dataset) else None,
        degradations=possible(chosen),
        slices=robustness_figures.known_slices(column(chosen, "source")),
        of=len(test),
        seed=seed,
    )
    return record
