"""From the best weights of a run to a checkpoint that can be handed out.

Calibration is fitted on the calibration part's logits and folded into the last layer; the weights are rounded to
the precision they are stored in, saved, and opened again. Only then come thresholds and figures, so that they are
those of the file that people download.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from ..corpus.rows import column, is_ai, own_groups
from ..detector import Detector
from ..evaluation.collecting import collect_features, collect_logits
from ..models import novelty
from ..models.classifiers import SAVING
from ..models.heads import fold, folding_error, has_bias
from ..records import write_atomically
from ..statistics.calibration import Calibration, fit_grouped
from ..statistics.conformal import fit_thresholds, operating_point
from ..statistics.metrics import margin_from_logits

# Largest relative deviation of the folded logits from logits / T + b that is taken for rounding in fp32.
FOLDING_TOLERANCE = 1e-5
# Rates of photographs flagged that thresholds are stored for.
OPERATING_RATES = (0.01, 0.05)
# What `config.json` says of one set of weights, which no other set may take over.
_OF_THE_WEIGHTS = ("calibration", "thresholds", "operating_points", "novelty")


def calibrate_and_fold(detector: Detector, calibration_part: Dataset, batch_size: int = 64) -> Calibration:
    """Fit a temperature and a bias on the calibration part and fold them into the detector's weights, in place.

    The fit is class-balanced: the probabilities then mean equal odds beforehand, whatever the corpus' mix. A layer
    without a bias gets a temperature alone.

    Raises:
        ValueError: The folded layer does not give logits / T + b.
    """
    model, columns = detector.model, detector.columns
    before = collect_logits(detector, calibration_part, batch_size, progress="calibration")
    method = "temperature_bias" if has_bias(model) else "temperature"
    calibration = fit_grouped(before, columns, is_ai(calibration_part), method=method)
    fold(model, columns, calibration.temperature, calibration.bias)
    sample = calibration_part.select(range(min(len(calibration_part), 256)))
    after = torch.from_numpy(detector.logits(sample["image"], batch_size))
    error = folding_error(
        torch.from_numpy(before[: len(sample)]), after, columns, calibration.temperature, calibration.bias
    )
    if error > FOLDING_TOLERANCE:
        raise ValueError(
            f"The calibration cannot be folded into {type(model).__name__}: its logits deviate from logits / T + b "
            f"by {error:.1e} of the largest one, and {FOLDING_TOLERANCE:.0e} is allowed."
        )
    return calibration


def save_checkpoint(model: PreTrainedModel, processor: BaseImageProcessor, folder: str | Path) -> None:
    """Save a checkpoint with fp16 weights that every consumer computes in fp32, whole or not at all.

    Matrices and kernels are rounded to fp16; vectors (biases, norms, running statistics), which are small and
    sensitive, stay in fp32. `config.json` says `float32`, so that `from_pretrained` widens all of them. It comes last:
    stopped before, the folder is refused as one that was being saved.

    Raises:
        OSError: The folder cannot be written, for example because the disk is full; what was there before is kept.
    """
    folder = Path(folder)
    staging = folder / SAVING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        state = {
            name: (tensor.half() if tensor.dtype == torch.float32 and tensor.ndim >= 2 else tensor)
            .contiguous()
            .cpu()
            for name, tensor in model.state_dict().items()
        }
        overflowing = [name for name, tensor in state.items() if not torch.isfinite(tensor.float()).all()]
        if overflowing:
            raise ValueError(
                f"The weights {', '.join(overflowing[:3])} are not finite in fp16; the training diverged."
            )
        model.save_pretrained(staging, state_dict=state)
        config = json.loads((staging / "config.json").read_text())
        config.update(dtype="float32", architectures=[type(model).__name__])
        for name in _OF_THE_WEIGHTS:
            (config.get("realfake") or {}).pop(name, None)
        (staging / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        processor.save_pretrained(staging)
        # Without it nothing opens the folder, so that nobody is given half of one checkpoint and half of the other.
        (folder / "config.json").unlink(missing_ok=True)
        # Statistics of the weights that were there before say nothing of these.
        (folder / novelty.FILE_NAME).unlink(missing_ok=True)
        for path in sorted(staging.iterdir(), key=lambda path: (path.name == "config.json", path.name)):
            os.replace(path, folder / path.name)
        staging.rmdir()
    except Exception:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def save_and_reopen(
    detector: Detector,
    folder: str | Path,
    calibration_part: Dataset,
    facts: dict,
    alpha: float,
    batch_size: int = 64,
) -> Detector:
    """Save a calibrated detector, open what was saved, and store the verdict's thresholds of those weights with it.

    Args:
        facts: What else belongs under `realfake` in `config.json`.
        alpha: Stated rate of wrong verdicts among the images of a class.

    Returns:
        The detector as everybody else will open it.

    Raises:
        OSError: The folder cannot be written.
    """
    state = PartialState()
    if state.is_main_process:
        save_checkpoint(detector.model, detector.processor, folder)
    state.wait_for_everyone()
    stored = Detector.from_pretrained(folder, device=detector.model.device)
    margins = margin_from_logits(
        collect_logits(stored, calibration_part, batch_size, progress="thresholds"), stored.columns
    )
    decisions = decision_facts(
        margins, is_ai(calibration_part), alpha, groups=own_groups(column(calibration_part, "group"))
    )
    if state.is_main_process:
        store_facts(folder, {**facts, **decisions})
    fit_novelty(stored, folder, calibration_part, batch_size=batch_size)
    state.wait_for_everyone()
    return Detector.from_pretrained(folder, device=detector.model.device)


def decision_facts(margins: np.ndarray, truth: np.ndarray, alpha: float, groups: list | None = None) -> dict:
    """Fit what turns margins into decisions, as `config.json` holds it: the verdict's `thresholds` at the rate `alpha`, and
    a moderator's `operating_points` at stated rates of photographs flagged."""
    points = [operating_point(margins, truth, fpr, groups=groups) for fpr in OPERATING_RATES]
    return {
        "thresholds": fit_thresholds(margins, truth, alpha, groups=groups).to_dict(),
        "operating_points": [point.to_dict() for point in points],
    }


def fit_novelty(
    detector: Detector,
    folder: str | Path,
    calibration_part: Dataset,
    alpha: float = novelty.ALPHA,
    batch_size: int = 64,
) -> novelty.Novelty | None:
    """Describe the calibration images as the stored weights see them, and store it beside these.

    Args:
        detector: The checkpoint in `folder`.
        alpha: Share of the images of each class that may be taken for novel.

    Returns:
        What was stored; `None` where there are too few images to promise `alpha`, and nothing is then stored.

    Raises:
        OSError: The folder cannot be written.
    """
    groups = own_groups(column(calibration_part, "group"))
    part = calibration_part.select(novelty.choose(len(calibration_part), groups))
    features = collect_features(detector, part, batch_size, progress="novelty")
    fitted = novelty.fit(features, is_ai(part), alpha, groups=own_groups(column(part, "group")))
    if PartialState().is_main_process:
        # The file is there as long as config.json speaks of it: else what is stopped in between would not open.
        if fitted:
            fitted.save(folder)
        store_facts(folder, {"novelty": fitted.to_dict() if fitted else None})
        if not fitted:
            (Path(folder) / novelty.FILE_NAME).unlink(missing_ok=True)
    return fitted


def store_facts(folder: str | Path, facts: dict) -> None:
    """Write facts (calibration, thresholds, corpus) into the checkpoint's `config.json` under `realfake`."""
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text())
    config["realfake"] = {**config.get("realfake", {}), **facts}
    write_atomically(path, json.dumps(config, indent=2, sort_keys=True) + "\n")
