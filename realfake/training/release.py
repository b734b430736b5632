"""From a classifier to a calibrated checkpoint: fold, check, save, reopen, fit.

Temperature and bias are fitted on the calibration split and folded into the last layer. The weights
are rounded to their stored precision, saved, and opened again. Thresholds and out-of-distribution
statistics are fitted on that stored checkpoint. Trainings and `realfake calibrate` share this path.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from realfake.corpus.rows import column, is_ai, own_groups
from realfake.detector import Detector
from realfake.io import apply_umask, write_atomically
from realfake.labels import NAMES, canonical
from realfake.models import ood
from realfake.models.classifiers import SAVING, input_size
from realfake.models.folding import fold, folding_error, has_bias
from realfake.prediction import Scores
from realfake.statistics.calibration import Calibration, fit_grouped
from realfake.statistics.contrast import fit_contrast
from realfake.statistics.metrics import class_balanced_weights, log_odds_from_logits, nll
from realfake.statistics.verdicts import fit_thresholds, operating_point
from realfake.training.measuring import compute_features, compute_scores

METHODS = ("auto", "temperature", "temperature_bias")
# Largest relative deviation of the folded logits from logits / T + b: rounding in fp32.
FOLDING_TOLERANCE = 1e-5
# Rates of photographs flagged, for the stored operating points.
OPERATING_RATES = (0.01, 0.05)
# Smallest gain in NLL, in nats, for which `realfake calibrate` rewrites weights.
SMALLEST_GAIN = 1e-4
# Entries of `config.json` that hold for one set of weights only.
_OF_THE_WEIGHTS = ("calibration", "thresholds", "differing", "operating_points", "ood", "novelty")


@dataclass
class Released:
    """A calibrated checkpoint.

    Args:
        detector: The stored checkpoint, opened again.
        calibration: The folded calibration; the identity if nothing was folded.
    """

    detector: Detector
    calibration: Calibration


def release(
    detector: Detector,
    calibration: Calibration,
    dataset: Dataset,
    logits: np.ndarray,
    folder: str | Path,
    facts: dict,
    alpha: float,
    batch_size: int = 64,
    degraded: bool = False,
    revert_if_worse: bool = False,
    max_shard_size: str | None = None,
) -> Released:
    """Fold a calibration, save the checkpoint, reopen it, and fit thresholds and OOD statistics.

    Args:
        detector: Its weights are changed in place.
        calibration: From [`fit_calibration`].
        dataset: The calibration images.
        logits: Their logits before calibration, of shape `(n, labels)`.
        folder: Folder of the checkpoint.
        facts: Further entries under `realfake` in `config.json`.
        alpha: Rate of wrong verdicts per class that the thresholds keep.
        batch_size: Images in one forward pass.
        degraded: Whether the images are degraded first.
        revert_if_worse: Whether to store the original weights if the calibrated, stored ones have a
            higher NLL on the calibration images.
        max_shard_size: *optional*. As in [`save_checkpoint`].

    Raises:
        ValueError: The folded layer does not give logits / T + b, or a weight overflows fp16.
        OSError: The folder cannot be written.
    """
    state = PartialState()
    truth, groups = is_ai(dataset), own_groups(column(dataset, "group"))
    nll_before = balanced_nll(log_odds_from_logits(logits, detector.class_indices), truth)
    original = {name: tensor.clone() for name, tensor in detector.model.state_dict().items()}
    while True:
        if calibration.method != "identity":
            _fold_and_check(detector, calibration, dataset, batch_size)
        if state.is_main_process:
            save_checkpoint(detector.model, detector.processor, folder, max_shard_size)
        state.wait_for_everyone()
        stored = Detector.from_pretrained(folder, device=detector.model.device)
        if stored.views > 1:
            stored.accelerate()
        scores = compute_scores(stored, dataset, batch_size, "thresholds", degraded)
        if calibration.method == "identity" or not revert_if_worse:
            break
        if balanced_nll(scores.log_odds, truth) <= nll_before:
            break
        reason = "the stored weights would have had a higher NLL than the original ones"
        calibration = _identity(calibration, reason)
        detector.model.load_state_dict(original)
        state.wait_for_everyone()
    centre = scores
    if stored.views > 1:
        centre = compute_scores(stored, dataset, batch_size, "centre views", degraded, views=1)
    if state.is_main_process:
        described = {**calibration.to_dict(), "folded": True}
        described |= {"degraded": True} if degraded else {}
        own = {"calibration": described, "image_size": input_size(stored.processor)[0]}
        decisions = decision_facts(scores, centre, truth, alpha, stored.views, groups)
        store_facts(folder, {**facts, **decisions, **own})
    fit_ood(stored, folder, dataset, batch_size=batch_size, degraded=degraded)
    state.wait_for_everyone()
    return Released(Detector.from_pretrained(folder, device=detector.model.device), calibration)


def fit_calibration(
    detector: Detector,
    logits: np.ndarray,
    dataset: Dataset,
    method: str = "temperature_bias",
    smallest_gain: float = 0.0,
) -> Calibration:
    """Fit a calibration that the detector's last layer can hold.

    The fit is class-balanced: the probabilities assume equal odds of real and ai. A last layer
    without a bias gets a temperature alone.

    Args:
        logits: Of the calibration images, of shape `(n, labels)`.
        dataset: The calibration images.
        method: `"temperature"`, `"temperature_bias"`, or `"auto"` (by cross-validation).
        smallest_gain: Smallest gain in NLL, in nats, that is worth a calibration.

    Returns:
        [`Calibration`]; the identity, with its reason, if the gain is smaller.
    """
    reason = None
    if method != "temperature" and not has_bias(detector.model):
        reason = "the last layer has no bias, so only a temperature was fitted"
        method = "temperature"
    groups = own_groups(column(dataset, "group"))
    fitted = fit_grouped(
        logits, detector.class_indices, is_ai(dataset), method=method, groups=groups
    )
    if fitted.method != "identity" and fitted.nll_before - fitted.nll_after < smallest_gain:
        return _identity(fitted, f"calibration would lower the NLL by less than {smallest_gain:g}")
    return dataclasses.replace(fitted, reason=fitted.reason or reason)


def _identity(fitted: Calibration, reason: str) -> Calibration:
    return dataclasses.replace(
        fitted,
        method="identity",
        temperature=1.0,
        bias=0.0,
        nll_after=fitted.nll_before,
        reason=reason,
    )


def balanced_nll(log_odds: np.ndarray, truth: np.ndarray) -> float:
    """Return the negative log-likelihood in nats with both classes weighted alike."""
    return float(nll(log_odds, truth, class_balanced_weights(truth)))


def _fold_and_check(
    detector: Detector, calibration: Calibration, dataset: Dataset, batch_size: int
) -> None:
    sample = dataset.select(range(min(len(dataset), 128)))["image"]
    scale, bias = calibration.temperature, calibration.bias
    before = torch.from_numpy(detector.logits(sample, batch_size))
    fold(detector.model, detector.class_indices, scale, bias)
    after = torch.from_numpy(detector.logits(sample, batch_size))
    error = folding_error(before, after, detector.class_indices, scale, bias)
    if error > FOLDING_TOLERANCE:
        raise ValueError(
            f"The calibration cannot be folded into {type(detector.model).__name__}: its logits "
            f"deviate from logits / T + b by {error:.1e} of the largest one, and "
            f"{FOLDING_TOLERANCE:.0e} is allowed."
        )


def save_checkpoint(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    folder: str | Path,
    max_shard_size: str | None = None,
) -> None:
    """Save a checkpoint with fp16 weights that every consumer computes in fp32, completely or not.

    Matrices and kernels are rounded to fp16; vectors (biases, norms, running statistics) stay in
    fp32. `config.json` says `float32`, so `from_pretrained` widens all of them. It is written last:
    a folder without it does not open.

    Args:
        max_shard_size: *optional*. Largest size of a file of weights, such as `"9MB"`; *defaults
            to* a single file.

    Raises:
        ValueError: A weight is not finite in fp16.
        OSError: The folder cannot be written; the files that were there are kept.
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
        overflowing = [
            name for name, tensor in state.items() if not torch.isfinite(tensor.float()).all()
        ]
        if overflowing:
            raise ValueError(
                f"The weights {', '.join(overflowing[:3])} are not finite in fp16; the training "
                "diverged. Lower --learning_rate."
            )
        sharding = {"max_shard_size": max_shard_size} if max_shard_size else {}
        model.save_pretrained(staging, state_dict=state, **sharding)
        config = json.loads((staging / "config.json").read_text())
        # timm's configuration leaves the labels out.
        config.update(dtype="float32", id2label=model.config.id2label)
        config.update(architectures=[type(model).__name__])
        for name in _OF_THE_WEIGHTS:
            (config.get("realfake") or {}).pop(name, None)
        (staging / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        processor.save_pretrained(staging)
        apply_umask(staging)
        # Without config.json nothing opens a mixture of the old and the new checkpoint.
        (folder / "config.json").unlink(missing_ok=True)
        # These statistics describe the previous weights, which may be in other files.
        for path in (*folder.glob("model*.safetensors*"), folder / ood.FILE_NAME):
            path.unlink(missing_ok=True)
        for path in sorted(
            staging.iterdir(), key=lambda path: (path.name == "config.json", path.name)
        ):
            os.replace(path, folder / path.name)
        staging.rmdir()
    except Exception:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def decision_facts(
    scores: Scores,
    centre: Scores,
    truth: np.ndarray,
    alpha: float,
    views: int = 1,
    groups: list | None = None,
) -> dict:
    """Fit the thresholds and the operating points, as `config.json` stores them.

    Args:
        scores: Of the calibration images.
        centre: Of their centre views.
        truth: Boolean array of shape `(n,)`, whether the image is ai.
        alpha: Rate of wrong verdicts per class, and of photographs with a part that differs.
        views: Largest number of views.
        groups: *optional*. One name for each image; a group counts as one image.
    """
    names = None if groups is None else np.asarray(groups, dtype=object)

    def chosen(mask: np.ndarray) -> list | None:
        return None if names is None else names[mask].tolist()

    thresholds = fit_thresholds(centre.log_odds, truth, alpha, groups=groups)
    facts: dict = {}
    # Most calibration images have the same number of views.
    usual = 1
    if scores.n_views is not None and len(scores.n_views):
        numbers, counts = np.unique(scores.n_views, return_counts=True)
        usual = int(numbers[counts.argmax()])
    if usual > 1:
        mask = scores.n_views >= usual
        own = fit_thresholds(scores.log_odds[mask], truth[mask], alpha, groups=chosen(mask))
        if own.real is not None and own.ai is not None:
            thresholds = dataclasses.replace(thresholds, by_views={usual: own})
        mask = (scores.n_views == usual) & ~truth & np.isfinite(scores.contrast)
        differing = fit_contrast(scores.contrast[mask], usual, views, alpha, chosen(mask))
        facts["differing"] = differing.to_dict() if differing else None
    points = [
        operating_point(scores.log_odds, truth, fpr, groups=groups) for fpr in OPERATING_RATES
    ]
    return {
        **facts,
        "thresholds": thresholds.to_dict(),
        "operating_points": [point.to_dict() for point in points],
    }


def fit_ood(
    detector: Detector,
    folder: str | Path,
    dataset: Dataset,
    alpha: float = ood.ALPHA,
    batch_size: int = 64,
    degraded: bool = False,
) -> ood.OodReference | None:
    """Fit the out-of-distribution statistics of a stored checkpoint and store them beside it.

    Args:
        detector: The checkpoint in `folder`.
        dataset: The calibration images.
        alpha: Share of in-distribution images per class that may be flagged.
        degraded: Whether the images are degraded first.

    Returns:
        What was stored; `None` if there are too few images for `alpha`. Nothing is stored then.

    Raises:
        OSError: The folder cannot be written.
    """
    groups = own_groups(column(dataset, "group"))
    dataset = dataset.select(ood.choose(len(dataset), groups))
    features, n_views = compute_features(detector, dataset, batch_size, "ood", degraded)
    groups = own_groups(column(dataset, "group"))
    images = np.repeat(np.arange(len(dataset)), n_views)
    if groups is None and len(images) > len(dataset):
        # The views of an image are one group, so that each image is scored once.
        groups = own_groups([None] * len(dataset))
    named = None if groups is None else [groups[index] for index in images]
    fitted = ood.fit(features, is_ai(dataset)[images], alpha, groups=named)
    if PartialState().is_main_process:
        # A config.json that names the file needs the file, or the checkpoint does not open.
        if fitted:
            fitted.save(folder)
        store_facts(folder, {"ood": fitted.to_dict() if fitted else None})
        if not fitted:
            (Path(folder) / ood.FILE_NAME).unlink(missing_ok=True)
    return fitted


def store_facts(folder: str | Path, facts: dict) -> None:
    """Add entries (calibration, thresholds, corpus) under `realfake` in `config.json`."""
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text())
    config["realfake"] = {**config.get("realfake", {}), **facts}
    write_atomically(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


def class_names(detector: Detector) -> Sequence[str]:
    """Return the class names in the order of the logits."""
    labels = detector.model.config.id2label
    return [labels[index] for index in sorted(labels)]


def name_classes(detector: Detector) -> Sequence[str]:
    """Rename classes so that each name says whether it is real or ai, in place.

    Two classes become `real` and `ai`. Of more, classes with such names keep them; the others
    become `ai 1`, `ai 2` and so on.

    Returns:
        The original names in the order of the logits.
    """
    config, before = detector.model.config, class_names(detector)
    label_of = {
        index: label for label, indices in detector.class_indices.items() for index in indices
    }
    names: list[str] = []
    for index, name in enumerate(before):
        label = label_of[index]
        if len(before) == len(NAMES) or canonical(name) == label:
            names.append(label if len(before) == len(NAMES) else name)
        elif len(detector.class_indices[label]) == 1:
            names.append(label)
        else:
            numbered = (f"{label} {number}" for number in range(1, len(before) + 1))
            names.append(next(free for free in numbered if free not in {*before, *names}))
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    # With "multi_label_classification" the stock pipeline would apply a sigmoid to each logit.
    config.problem_type = "single_label_classification"
    return before
