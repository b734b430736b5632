"""Logits, scores and features of a split, plain or degraded, and the record of its figures."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image

from realfake.corpus.rows import column, corpus_fingerprint, is_ai
from realfake.detector import Detector
from realfake.evaluation import measure, results
from realfake.evaluation.log import log_measurement
from realfake.evaluation.robustness import verdict_columns
from realfake.evaluation.scores import (
    collect_features,
    collect_logits,
    collect_scores,
    image_seed,
    joined_features,
    joined_scores,
)
from realfake.imaging.decode import LIMITS, image_bytes, open_image
from realfake.imaging.degradations import GRID
from realfake.io import command_line, versions
from realfake.prediction import Scores


def degraded_batches(
    dataset: Dataset, batch_size: int, progress: str | None = None
) -> Iterator[list[Image.Image]]:
    """Yield a dataset's images in batches, each with one degradation chosen by the file's hash."""
    from tqdm.auto import tqdm

    names = list(GRID)
    starts = range(0, len(dataset), batch_size)
    for start in tqdm(starts, desc=progress, unit="batch", mininterval=2.0):
        images = []
        for row in dataset[start : start + batch_size]["image"]:
            content = image_bytes(row)
            image = open_image({"bytes": content, "path": row.get("path")})
            seed = image_seed(content)
            degraded = GRID[names[seed % len(names)]](image, seed)
            # A degraded tiny image may be smaller than a detector accepts.
            images.append(degraded if min(degraded.size) >= LIMITS.min_side else image)
        yield images


def compute_logits(
    detector: Detector, dataset: Dataset, batch_size: int, progress: str, degraded: bool = False
) -> np.ndarray:
    """Return the logits of a dataset: float32 array of shape `(len(dataset), labels)`."""
    if not degraded:
        return collect_logits(detector, dataset, batch_size, progress)
    batches = degraded_batches(dataset, batch_size, progress)
    return np.concatenate([detector.logits(images, batch_size) for images in batches])


def compute_features(
    detector: Detector, dataset: Dataset, batch_size: int, progress: str, degraded: bool = False
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the features of the out-of-distribution check, as [`Detector.features`]."""
    if not degraded:
        return collect_features(detector, dataset, batch_size, progress)
    batches = degraded_batches(dataset, batch_size, progress)
    return joined_features([detector.features(images, batch_size) for images in batches])


def compute_scores(
    detector: Detector,
    dataset: Dataset,
    batch_size: int,
    progress: str,
    degraded: bool = False,
    views: int | None = None,
) -> Scores:
    """Return the scores of a dataset, as [`Detector.scores`]."""
    if not degraded:
        return collect_scores(detector, dataset, batch_size, progress, views)
    batches = degraded_batches(dataset, batch_size, progress)
    return joined_scores([detector.scores(images, batch_size, views) for images in batches])


def record_split(
    detector: Detector,
    dataset: Dataset,
    split: str,
    scores: Scores,
    *,
    folder: str | Path,
    weights: str,
    corpus: str,
    measurement_log: str | Path,
    seed: int,
    before: np.ndarray | None = None,
) -> dict:
    """Compute a split's figures and write them and the scores; log a test split.

    Args:
        scores: As from [`compute_scores`].
        folder: Folder of `evaluation.json` and the scores.
        weights: Hash of the weights, or their commit.
        corpus: Name of the corpus.
        measurement_log: Log of the measurements of test splits.
        seed: Seed of the bootstrap.
        before: *optional*. Log-odds before calibration, for comparison.

    Returns:
        The figures.
    """
    truth = is_ai(dataset)
    columns: dict[str, Any] = {
        f"{name}s": column(dataset, name) for name in ("group", "generator", "source")
    }
    columns |= verdict_columns(detector, scores)
    figures = measure.measure(
        scores.log_odds, truth, thresholds=detector.thresholds, seed=seed, **columns
    )
    before_figures = None
    if before is not None:
        before_figures = measure.measure(before, truth, groups=columns["groups"], seed=seed)
    facts = {
        "checkpoint_hash": weights,
        "command": command_line(),
        "corpus": corpus,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if split == "test":
        names = ("accuracy", "balanced_accuracy", "auroc", "ece")
        headline = {name: figures["summary"][name] for name in names}
        log_measurement(measurement_log, split=split, n=figures["n"], figures=headline, **facts)
    results.write_evaluation(
        folder,
        split,
        figures,
        before=before_figures,
        corpus_fingerprint=corpus_fingerprint(dataset),
        versions=versions(),
        **facts,
    )
    results.write_scores(folder, split, scores.log_odds, truth, **columns)
    return figures
