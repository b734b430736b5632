"""Scoring and training on a GPU, with the comparisons of the processor's cores."""

from pathlib import Path

import torch

from . import scoring, training
from .timing import row


def gpu(work: Path, quick: bool) -> dict:
    """Measure on a GPU; without one, return the lines as not measured."""
    if not torch.cuda.is_available():
        named = [*scoring.lines(1, "cuda").values(), *scoring.lines(None, "cuda").values()]
        return {"rows": [row(what, None, None) for what in (*named, *training.lines("cuda"))]}
    n, n_rounds = (12, 1) if quick else (96, 3)
    parts = [
        scoring.against_pipeline(work, 1, n, n_rounds, "cuda"),
        scoring.against_pipeline(work, None, n // 4, n_rounds, "cuda"),
        training.compared(work, n_rounds, batch=16 if quick else 64, workers=8, device="cuda"),
    ]
    rows = [each for part in parts for each in part.pop("rows")]
    return {"rows": rows, "device": torch.cuda.get_device_name(), "parts": parts}
