"""Calibration of a checkpoint that was trained elsewhere, and the card that says what was done to it.

The steps are those of [`release`] at the end of a training, for a checkpoint of any number of classes, whose weights
before are at hand, so that a calibration which does not keep its promise can be taken back. Stands behind
`scripts/calibrate.py`.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from PIL import Image

from ..audit.container import image_bytes
from ..card.facts import CardFacts
from ..card.limits import limits
from ..card.markdown import code, fence, md, table
from ..card.metadata import card_data
from ..corpus.rows import column, is_ai, own_groups
from ..detector import Detector
from ..evaluation.collecting import collect_features, collect_logits, collect_scores
from ..evaluation.robustness import image_seed
from ..imaging.degradations import GRID
from ..imaging.images import LIMITS, open_image
from ..labels import AI, NAMES, REAL, canonical
from ..models import novelty
from ..models.classifiers import input_size
from ..models.heads import fold, folding_error, has_bias
from ..records import write_atomically
from ..statistics.calibration import Calibration, fit_grouped
from ..statistics.metrics import class_balanced_weights, margin_from_logits, nll
from .release import FOLDING_TOLERANCE, decision_facts, save_checkpoint, store_facts

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
    label_of = {index: label for label, columns in detector.columns.items() for index in columns}
    names = []
    for index, name in enumerate(before):
        label = label_of[index]
        alone = len(detector.columns[label]) == 1
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
    for start in tqdm(range(0, len(dataset), batch_size), desc=progress, unit="batch", mininterval=2.0):
        images = []
        for row in dataset[start : start + batch_size]["image"]:
            content = image_bytes(row)
            image, seed = open_image({"bytes": content, "path": row.get("path")}), image_seed(content)
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
        margins = np.concatenate(found)
        novelty = None if detector.novelty is None else np.concatenate(shares)
    else:
        margins, novelty = collect_scores(detector, dataset, batch_size, progress)
    return margins, None if novelty is None else detector.novelty.is_novel(novelty)


def fit(detector: Detector, logits: np.ndarray, truth: np.ndarray, groups, method: str) -> Calibration:
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
            method, reason = "temperature", "the last layer has no bias, so only a temperature was fitted"
    fitted = fit_grouped(logits, detector.columns, truth, method=method, groups=own_groups(groups))
    if fitted.method != "identity" and fitted.nll_before - fitted.nll_after < SMALLEST_GAIN:
        return unchanged(fitted, f"calibration would lower the NLL by less than {SMALLEST_GAIN:g}")
    return dataclasses.replace(fitted, reason=fitted.reason or reason)


def unchanged(fitted: Calibration, reason: str) -> Calibration:
    """Return the identity in place of a fitted calibration."""
    return Calibration(
        "identity", 1.0, 0.0, fitted.nll_before, fitted.nll_before, fitted.n, fitted.class_balanced, reason
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
    old_nll = balanced_nll(margin_from_logits(before, detector.columns), truth)
    kept = {name: tensor.clone() for name, tensor in detector.model.state_dict().items()}
    while True:
        if calibration.method != "identity":
            _fold_and_check(detector, calibration, part, batch_size)
        save_checkpoint(detector.model, detector.processor, folder)
        stored = Detector.from_pretrained(folder, device=detector.model.device)
        logits = compute_logits(stored, part, batch_size, "calibrated", degraded)
        margins = margin_from_logits(logits, stored.columns)
        new_nll = balanced_nll(margins, truth)
        if new_nll <= old_nll or calibration.method == "identity":
            break
        calibration = unchanged(calibration, "the stored weights' NLL would have been above what it was")
        detector.model.load_state_dict(kept)
    described = {**calibration.to_dict(), "folded": True, "degraded": degraded}
    decisions = decision_facts(margins, truth, alpha, groups=own_groups(groups))
    image_size = input_size(stored.processor)[0]
    store_facts(folder, {**facts, **decisions, "calibration": described, "image_size": image_size})
    _store_novelty(stored, folder, part, batch_size, degraded)
    return Recalibrated(Detector.from_pretrained(folder, device=detector.model.device), calibration)


def _store_novelty(
    stored: Detector, folder: str | Path, part: Dataset, batch_size: int, degraded: bool
) -> None:
    """Describe the images that the calibration stands for, so that others can be told from them."""
    groups = own_groups(column(part, "group"))
    chosen = novelty.choose(len(part), groups)
    part = part.select(chosen)
    if degraded:
        batches = [
            stored.features(images, batch_size) for images in degraded_batches(part, batch_size, "novelty")
        ]
        features = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    else:
        features = collect_features(stored, part, batch_size, progress="novelty")
    groups = None if groups is None else [groups[row] for row in chosen]
    fitted = novelty.fit(features, is_ai(part), groups=groups)
    if fitted:
        fitted.save(folder)
    store_facts(folder, {"novelty": fitted.to_dict() if fitted else None})


def balanced_nll(margin: np.ndarray, truth: np.ndarray) -> float:
    """Return the NLL in nats with both classes counted alike."""
    return float(nll(margin, truth, class_balanced_weights(truth)))


def _fold_and_check(detector: Detector, calibration: Calibration, part: Dataset, batch_size: int) -> None:
    sample = part.select(range(min(len(part), 128)))["image"]
    before = torch.from_numpy(detector.logits(sample, batch_size))
    fold(detector.model, detector.columns, calibration.temperature, calibration.bias)
    after = torch.from_numpy(detector.logits(sample, batch_size))
    error = folding_error(before, after, detector.columns, calibration.temperature, calibration.bias)
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
            `original_classes`, `corpus`, `command`, `degraded`, `thresholds`, `novelty`, `versions`, `plots`,
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
        novelty=facts["novelty"],
        split=split,
        record=record,
        comparison=before_and_after(record),
        others={name: before_and_after(entry) for name, entry in others.items()},
        limits=[line for line in limits(known) if not line.startswith("No test split was measured")],
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
