"""Logits, scores and features of a dataset, computed by all processes of a run together."""

from collections.abc import Callable

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset

from realfake.detector import Detector


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
    detector: Detector, dataset: Dataset, batch_size: int = 64, progress: str | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Compute the log-odds and the OOD scores of a dataset, each (n,), as [`Detector.scores`]."""
    batches = _collect(
        lambda images: detector.scores(images, batch_size), dataset, batch_size, progress
    )
    log_odds, shares = zip(*batches, strict=True)
    return np.concatenate(log_odds), None if shares[0] is None else np.concatenate(shares)


def collect_features(
    detector: Detector, dataset: Dataset, batch_size: int = 64, progress: str | None = None
) -> dict[str, np.ndarray]:
    """Compute the features of the OOD score, `{block: (n, size)}`."""
    batches = _collect(
        lambda images: detector.features(images, batch_size), dataset, batch_size, progress
    )
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


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
