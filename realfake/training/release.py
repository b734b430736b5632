"""From the best weights of a run to a checkpoint that can be handed out.

Calibration is fitted on the calibration part's logits and folded into the last layer; the weights are rounded to
the precision they are stored in, saved, and opened again. Only then come thresholds and figures, so that they are
those of the file that people download.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from PIL import Image
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from realfake.card.facts import CardFacts
from realfake.card.limits import limits
from realfake.card.render import card_data
from realfake.corpus.rows import column, is_ai, own_groups
from realfake.detector import Detector, stored_facts
from realfake.evaluation.collecting import collect_features, collect_logits, collect_scores
from realfake.evaluation.robustness import image_seed
from realfake.formatting import code, fence, md, table
from realfake.imaging.decode import LIMITS, image_bytes, open_image
from realfake.imaging.degradations import GRID
from realfake.io import write_atomically
from realfake.labels import AI, NAMES, REAL, canonical
from realfake.models import ood
from realfake.models.classifiers import SAVING, input_size
from realfake.models.folding import fold, folding_error, has_bias
from realfake.statistics.calibration import Calibration, fit_grouped
from realfake.statistics.log_odds import class_balanced_weights, log_odds_from_logits
from realfake.statistics.metrics import nll
from realfake.statistics.verdicts import fit_thresholds, operating_point

# Largest relative deviation of the folded logits from logits / T + b that is taken for rounding in fp32.
FOLDING_TOLERANCE = 1e-5
# Rates of photographs flagged that thresholds are stored for.
OPERATING_RATES = (0.01, 0.05)
# What `config.json` says of one set of weights, which no other set may take over.
_OF_THE_WEIGHTS = ("calibration", "thresholds", "operating_points", "ood")


def calibrate_and_fold(
    detector: Detector, calibration_part: Dataset, batch_size: int = 64
) -> Calibration:
    """Fit a temperature and a bias on the calibration part and fold them into the detector's weights, in place.

    The fit is class-balanced: the probabilities then mean equal odds beforehand, whatever the corpus' mix. A layer
    without a bias gets a temperature alone.

    Raises:
        ValueError: The folded layer does not give logits / T + b.
    """
    model, class_indices = detector.model, detector.class_indices
    before = collect_logits(detector, calibration_part, batch_size, progress="calibration")
    method = "temperature_bias" if has_bias(model) else "temperature"
    calibration = fit_grouped(before, class_indices, is_ai(calibration_part), method=method)
    fold(model, class_indices, calibration.temperature, calibration.bias)
    sample = calibration_part.select(range(min(len(calibration_part), 256)))
    after = torch.from_numpy(detector.logits(sample["image"], batch_size))
    error = folding_error(
        torch.from_numpy(before[: len(sample)]),
        after,
        class_indices,
        calibration.temperature,
        calibration.bias,
    )
    if error > FOLDING_TOLERANCE:
        raise ValueError(
            f"The calibration cannot be folded into {type(model).__name__}: its logits deviate from logits / T + b "
            f"by {error:.1e} of the largest one, and {FOLDING_TOLERANCE:.0e} is allowed."
        )
    return calibration


def save_checkpoint(
    model: PreTrainedModel, processor: BaseImageProcessor, folder: str | Path
) -> None:
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
        overflowing = [
            name for name, tensor in state.items() if not torch.isfinite(tensor.float()).all()
        ]
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
        (folder / ood.FILE_NAME).unlink(missing_ok=True)
        for path in sorted(
            staging.iterdir(), key=lambda path: (path.name == "config.json", path.name)
        ):
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
    log_odds = log_odds_from_logits(
        collect_logits(stored, calibration_part, batch_size, progress="thresholds"),
        stored.class_indices,
    )
    decisions = decision_facts(
        log_odds,
        is_ai(calibration_part),
        alpha,
        groups=own_groups(column(calibration_part, "group")),
    )
    if state.is_main_process:
        store_facts(folder, {**facts, **decisions})
    fit_ood(stored, folder, calibration_part, batch_size=batch_size)
    state.wait_for_everyone()
    return Detector.from_pretrained(folder, device=detector.model.device)


def decision_facts(
    log_odds: np.ndarray, truth: np.ndarray, alpha: float, groups: list | None = None
) -> dict:
    """Fit what turns margins into decisions, as `config.json` holds it: the verdict's `thresholds` at the rate `alpha`, and
    a moderator's `operating_points` at stated rates of photographs flagged."""
    points = [operating_point(log_odds, truth, fpr, groups=groups) for fpr in OPERATING_RATES]
    return {
        "thresholds": fit_thresholds(log_odds, truth, alpha, groups=groups).to_dict(),
        "operating_points": [point.to_dict() for point in points],
    }


def fit_ood(
    detector: Detector,
    folder: str | Path,
    calibration_part: Dataset,
    alpha: float = ood.ALPHA,
    batch_size: int = 64,
) -> ood.OodReference | None:
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
    part = calibration_part.select(ood.choose(len(calibration_part), groups))
    features = collect_features(detector, part, batch_size, progress="ood")
    fitted = ood.fit(features, is_ai(part), alpha, groups=own_groups(column(part, "group")))
    if PartialState().is_main_process:
        # The file is there as long as config.json speaks of it: else what is stopped in between would not open.
        if fitted:
            fitted.save(folder)
        store_facts(folder, {"ood": fitted.to_dict() if fitted else None})
        if not fitted:
            (Path(folder) / ood.FILE_NAME).unlink(missing_ok=True)
    return fitted


def store_facts(folder: str | Path, facts: dict) -> None:
    """Write facts (calibration, thresholds, corpus) into the checkpoint's `config.json` under `realfake`."""
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text())
    config["realfake"] = {**stored_facts(config.get("realfake")), **facts}
    write_atomically(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


TEMPLATE = Path(__file__).parent.parent / "templates" / "calibrated_card.md"
METHODS = ("auto", "temperature", "temperature_bias")
# A calibration that is worth less is not worth rewriting weights for: rounding them to fp16 costs about as much.
SMALLEST_GAIN = 1e-4


@dataclass
class Recalibrated:
    """What came of a calibration.

    Args:
        detector: The stored checkpoint, opened again.
        calibration: What was folded into it; the identity where nothing helped.
    """

    detector: Detector
    calibration: Calibration


def name_classes(detector: Detector) -> list[str]:
    """Rename the classes that do not say whether they are real or ai, in place, so that no mapping is needed later.

    Two classes become `real` and `ai`. Of more, those with names of their own keep them, the others become `ai 1`,
    `ai 2` and so on.

    Returns:
        The names as they were, in the order of the logits.
    """
    config = detector.model.config
    before = [config.id2label[index] for index in sorted(config.id2label)]
    label_of = {
        index: label for label, indices in detector.class_indices.items() for index in indices
    }
    names = []
    for index, name in enumerate(before):
        label = label_of[index]
        alone = len(detector.class_indices[label]) == 1
        if len(before) == len(NAMES):
            names.append(label)
        elif canonical(name) == label:
            names.append(name)
        else:
            taken = {*before, *names}
            numbered = (f"{label} {number}" for number in range(1, len(before) + 1))
            names.append(label if alone else next(free for free in numbered if free not in taken))
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    # Left at "multi_label_classification", the stock pipeline would apply a sigmoid to each logit.
    config.problem_type = "single_label_classification"
    return before


def degraded_batches(
    dataset: Dataset, batch_size: int, progress: str | None = None
) -> Iterator[list[Image.Image]]:
    """Yield a dataset's images, each degraded in one way of the grid, which its contents choose."""
    from tqdm.auto import tqdm

    names = list(GRID)
    for start in tqdm(
        range(0, len(dataset), batch_size), desc=progress, unit="batch", mininterval=2.0
    ):
        images = []
        for row in dataset[start : start + batch_size]["image"]:
            content = image_bytes(row)
            image, seed = (
                open_image({"bytes": content, "path": row.get("path")}),
                image_seed(content),
            )
            made = GRID[names[seed % len(names)]](image, seed)
            # Of a tiny image some degradations leave nothing to look at.
            images.append(made if min(made.size) >= LIMITS.min_side else image)
        yield images


def compute_logits(
    detector: Detector, dataset: Dataset, batch_size: int, progress: str, degraded: bool = False
) -> np.ndarray:
    """Compute the logits of a dataset, as it is or degraded: float32 array of shape `(len(dataset), labels)`."""
    if not degraded:
        return collect_logits(detector, dataset, batch_size, progress)
    batches = degraded_batches(dataset, batch_size, progress)
    return np.concatenate([detector.logits(images, batch_size) for images in batches])


def compute_scores(
    detector: Detector, dataset: Dataset, batch_size: int, progress: str, degraded: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """Compute margins of a dataset, as it is or degraded, and which of its images are novel, as far as the detector knows.

    Returns:
        Float64 and boolean arrays of shape `(len(dataset),)`; `None` in place of the latter where the checkpoint stores
        nothing that tells.
    """
    if degraded:
        batches = degraded_batches(dataset, batch_size, progress)
        found, shares = zip(*(detector.scores(images, batch_size) for images in batches))
        log_odds = np.concatenate(found)
        ood = None if detector.ood is None else np.concatenate(shares)
    else:
        log_odds, ood = collect_scores(detector, dataset, batch_size, progress)
    return log_odds, None if ood is None else detector.ood.is_out_of_distribution(ood)


def fit(
    detector: Detector, logits: np.ndarray, truth: np.ndarray, groups, method: str
) -> Calibration:
    """Fit a calibration that the detector's last layer can hold.

    Args:
        logits: Of the calibration images, of shape `(n, labels)`.
        truth: Boolean array of shape `(n,)`.
        groups: One name for each image, or `None`.
        method: `"auto"`, `"temperature"` or `"temperature_bias"`.

    Returns:
        [`Calibration`]; the identity, with its reason, where the NLL would not fall by 0.0001 nats or more.

    Raises:
        ValueError: A bias was asked for, and the last layer has none.
    """
    reason = None
    if not has_bias(detector.model):
        if method == "temperature_bias":
            raise ValueError(
                "The checkpoint's last layer has no bias to fold one into; pass --method temperature."
            )
        if method == "auto":
            method, reason = (
                "temperature",
                "the last layer has no bias, so only a temperature was fitted",
            )
    fitted = fit_grouped(
        logits, detector.class_indices, truth, method=method, groups=own_groups(groups)
    )
    if fitted.method != "identity" and fitted.nll_before - fitted.nll_after < SMALLEST_GAIN:
        return unchanged(fitted, f"calibration would lower the NLL by less than {SMALLEST_GAIN:g}")
    return dataclasses.replace(fitted, reason=fitted.reason or reason)


def unchanged(fitted: Calibration, reason: str) -> Calibration:
    """Return the identity in place of a fitted calibration."""
    return Calibration(
        "identity",
        1.0,
        0.0,
        fitted.nll_before,
        fitted.nll_before,
        fitted.n,
        fitted.class_balanced,
        reason,
    )


def fold_save_reopen(
    detector: Detector,
    calibration: Calibration,
    part: Dataset,
    before: np.ndarray,
    folder: str | Path,
    facts: dict,
    alpha: float,
    batch_size: int = 64,
    degraded: bool = False,
) -> Recalibrated:
    """Fold a calibration, save the checkpoint, open what was saved, and store the verdict's thresholds with it.

    If the stored weights' NLL on the calibration images is above what it was, they are stored as they were.

    Args:
        detector: Its weights are changed in place.
        part: The calibration images.
        before: Their logits before, of shape `(n, labels)`.
        folder: Where the checkpoint is saved.
        facts: What else belongs under `realfake` in `config.json`.
        alpha: Stated rate of wrong verdicts among the images of a class.
        degraded: Whether the images are degraded before they are looked at.

    Raises:
        ValueError: The folded layer does not give logits / T + b, or a weight is not finite in fp16.
        OSError: The folder cannot be written.
    """
    truth, groups = is_ai(part), column(part, "group")
    old_nll = balanced_nll(log_odds_from_logits(before, detector.class_indices), truth)
    kept = {name: tensor.clone() for name, tensor in detector.model.state_dict().items()}
    while True:
        if calibration.method != "identity":
            _fold_and_check(detector, calibration, part, batch_size)
        save_checkpoint(detector.model, detector.processor, folder)
        stored = Detector.from_pretrained(folder, device=detector.model.device)
        logits = compute_logits(stored, part, batch_size, "calibrated", degraded)
        log_odds = log_odds_from_logits(logits, stored.class_indices)
        new_nll = balanced_nll(log_odds, truth)
        if new_nll <= old_nll or calibration.method == "identity":
            break
        calibration = unchanged(
            calibration, "the stored weights' NLL would have been above what it was"
        )
        detector.model.load_state_dict(kept)
    described = {**calibration.to_dict(), "folded": True, "degraded": degraded}
    decisions = decision_facts(log_odds, truth, alpha, groups=own_groups(groups))
    image_size = input_size(stored.processor)[0]
    store_facts(folder, {**facts, **decisions, "calibration": described, "image_size": image_size})
    _store_ood(stored, folder, part, batch_size, degraded)
    return Recalibrated(Detector.from_pretrained(folder, device=detector.model.device), calibration)


def _store_ood(
    stored: Detector, folder: str | Path, part: Dataset, batch_size: int, degraded: bool
) -> None:
    """Describe the images that the calibration stands for, so that others can be told from them."""
    groups = own_groups(column(part, "group"))
    chosen = ood.choose(len(part), groups)
    part = part.select(chosen)
    if degraded:
        batches = [
            stored.features(images, batch_size)
            for images in degraded_batches(part, batch_size, "ood")
        ]
        features = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    else:
        features = collect_features(stored, part, batch_size, progress="ood")
    groups = None if groups is None else [groups[row] for row in chosen]
    fitted = ood.fit(features, is_ai(part), groups=groups)
    if fitted:
        fitted.save(folder)
    store_facts(folder, {"ood": fitted.to_dict() if fitted else None})


def balanced_nll(log_odds: np.ndarray, truth: np.ndarray) -> float:
    """Return the NLL in nats with both classes counted alike."""
    return float(nll(log_odds, truth, class_balanced_weights(truth)))


def _fold_and_check(
    detector: Detector, calibration: Calibration, part: Dataset, batch_size: int
) -> None:
    sample = part.select(range(min(len(part), 128)))["image"]
    before = torch.from_numpy(detector.logits(sample, batch_size))
    fold(detector.model, detector.class_indices, calibration.temperature, calibration.bias)
    after = torch.from_numpy(detector.logits(sample, batch_size))
    error = folding_error(
        before, after, detector.class_indices, calibration.temperature, calibration.bias
    )
    if error > FOLDING_TOLERANCE:
        raise ValueError(
            f"The calibration cannot be folded into {type(detector.model).__name__}: its logits deviate from "
            f"logits / T + b by {error:.1e} of the largest one, and {FOLDING_TOLERANCE:.0e} is allowed."
        )


# What is said of it


def before_and_after(record: Mapping) -> str:
    """Return the comparison of a split's figures as a Markdown table.

    Args:
        record: What `evaluation.json` holds of the split.
    """
    old, new = record["before_calibration"]["summary"], record["figures"]["summary"]
    rows = [
        [name, _figure(old[key]), _figure(new[key])]
        for key, name in (
            ("nll", "NLL (nats, classes balanced)"),
            ("ece", "ECE (classes balanced)"),
            ("ece_noise_floor", "ECE of a perfectly calibrated model, by chance"),
            ("brier", "Brier score (classes balanced)"),
            ("balanced_accuracy", "Balanced accuracy"),
            ("auroc", "AUROC"),
        )
    ]
    return table(["", "before", "as published"], rows)


def _figure(figure: Mapping) -> str:
    if figure["value"] is None:
        return "–"
    text = f"{figure['value']:.4f}"
    return text if figure["low"] is None else f"{text} ({figure['low']:.4f} – {figure['high']:.4f})"


def write_card(
    folder: str | Path,
    facts: dict,
    calibration: Calibration,
    evaluation: Mapping,
    split: str,
    license: str | None,
) -> Path:
    """Write the `README.md` of a checkpoint that was calibrated here and trained elsewhere.

    Args:
        folder: The checkpoint's folder.
        facts: `model`, `model_id` (on the Hub, or `None`), `revision`, `repo_id`, `name`, `classes`,
            `original_classes`, `corpus`, `command`, `degraded`, `thresholds`, `ood`, `versions`, `plots`,
            `measurements`.
        evaluation: The content of `evaluation.json`.
        split: The split whose figures stand for the model.
        license: Of the weights, by the Hub's identifier; `None` where it is not known.
    """
    from huggingface_hub import ModelCard

    record = evaluation[split]
    # The calibration is what the limits of a card ask for; nothing else of these facts says how it was trained.
    known = CardFacts(
        name=facts["name"],
        base_model_id=facts["model_id"],
        corpus=facts["corpus"],
        tags=["calibrated"],
        calibration=calibration.to_dict(),
        evaluation={split: record},
        measurements=facts["measurements"],
    )
    data = card_data(known)
    data.license = license
    others = {name: entry for name, entry in evaluation.items() if name != split}
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        facts=facts,
        calibration=calibration,
        thresholds=facts["thresholds"],
        ood=facts["ood"],
        split=split,
        record=record,
        comparison=before_and_after(record),
        others={name: before_and_after(entry) for name, entry in others.items()},
        limits=[
            line for line in limits(known) if not line.startswith("No test split was measured")
        ],
        license=license,
        real=REAL,
        ai=AI,
        md=md,
        code=code,
        fence=fence,
    )
    path = Path(folder) / "README.md"
    write_atomically(path, str(card))
    return path


def count(part: Dataset) -> dict[str, int]:
    """Count the images of each label."""
    truth = is_ai(part)
    return {REAL: int((~truth).sum()), AI: int(truth.sum())}


def names_in_order(detector: Detector) -> Sequence[str]:
    """Return the class names in the order of the logits."""
    labels = detector.model.config.id2label
    return [labels[index] for index in sorted(labels)]
