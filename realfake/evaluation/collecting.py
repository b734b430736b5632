"""Logits, scores and features of a dataset, computed by all processes of a run together."""

from collections.abc import Callable, Sequence

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset

from realfake.detector import Detector
from realfake.prediction import Scores


def collect_logits(
    detector: Detector, dataset: Dataset, batch_size: int = 64, progress: str | None = None
) -> np.ndarray:
    """Compute the logits of a dataset in fp32.

    Args:
        dataset: Rows with an undecoded `image`.
        progress: *optional*. Name of a progress bar on the main process.

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
