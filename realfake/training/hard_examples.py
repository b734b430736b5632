"""Continue the training of a detector on the training images that it got wrong.

`--evaluate_only train` scores the training images; `--hard_examples` mixes the errors with other
images. Validation is measured before and after.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from accelerate import PartialState
from datasets import Dataset
from scipy.special import expit

from realfake.corpus.rows import column, corpus_fingerprint, is_ai
from realfake.corpus.splits import subset
from realfake.detector import Detector
from realfake.evaluation import results
from realfake.evaluation.collecting import collect_logits
from realfake.io import write_atomically
from realfake.labels import AI, NAMES, REAL
from realfake.statistics.bootstrap import bootstrap_interval
from realfake.statistics.log_odds import class_balanced_weights, log_odds_from_logits
from realfake.statistics.metrics import accuracy, auroc, ece
from realfake.training.arguments import Arguments, RunArguments

FILE_NAME = "hard_examples.json"


def find_mistakes(folder: str | Path, train: Dataset) -> np.ndarray:
    """Return the rows of the training images that an evaluation classified wrong, ascending.

    Args:
        folder: Folder of the evaluation: `evaluation.json` and `scores-train.parquet`.
        train: The training split, with the same images in the same order.

    Raises:
        ValueError: The evaluation is of other images, or it found no errors.
        OSError: There is no evaluation.
    """
    folder = Path(folder)
    measured = results.read_evaluation(folder)
    fix = (
        f"measure the training images first: --evaluate_only train --model_name_or_path {folder} "
        f"--output_dir {folder}, with the same corpus options"
    )
    if not measured:
        raise OSError(f"--hard_examples: there is no {results.FILE_NAME} in {folder}; {fix}.")
    if "train" not in measured:
        raise ValueError(
            f"--hard_examples: the evaluation in {folder} is of {', '.join(measured)}. Training on "
            f"its errors would make that split useless; {fix}."
        )
    if measured["train"]["corpus_fingerprint"] != corpus_fingerprint(train):
        raise ValueError(
            f"--hard_examples: the evaluation in {folder} is of other training images; give the "
            "same corpus options (--dataset, --split_seed, --max_train_samples, --hold_out)."
        )
    scores = results.read_scores(folder / "scores-train.parquet")
    if len(scores["log_odds"]) != len(train) or not np.array_equal(scores["is_ai"], is_ai(train)):
        raise ValueError(f"--hard_examples: the scores in {folder} are of another run; {fix}.")
    wrong = np.flatnonzero((scores["log_odds"] > 0) != scores["is_ai"])
    if not len(wrong):
        raise ValueError(f"--hard_examples: the evaluation in {folder} found no errors.")
    return wrong


def mix(train: Dataset, mistakes: np.ndarray, share: float, seed: int) -> tuple[Dataset, dict]:
    """Mix the errors with other images, so that the errors are `share` of all.

    The other images keep the shares of labels and generators. If there are too few, all are used.

    Returns:
        The training images, and `{"mistakes": {label: n}, "ordinary": {label: n}}`.

    Raises:
        ValueError: A label would have no images.
    """
    ordinary = np.setdiff1d(np.arange(len(train)), mistakes)
    wanted = round(len(mistakes) * (1 - share) / share)
    names = train.features["label"].names
    labels = np.asarray([names[label] for label in train["label"]])
    strata = column(train, "generator")
    if len(ordinary) and wanted:
        own_strata = None if strata is None else [strata[row] for row in ordinary]
        ordinary = ordinary[subset(labels[ordinary].tolist(), wanted, seed, own_strata)]
    else:
        ordinary = ordinary[:0]
    counts = {
        kind: {name: int((labels[rows] == name).sum()) for name in NAMES}
        for kind, rows in (("mistakes", mistakes), ("ordinary", ordinary))
    }
    lacking = [name for name in NAMES if not counts["mistakes"][name] + counts["ordinary"][name]]
    if lacking:
        raise ValueError(
            f"--hard_share {share} leaves no {lacking[0]!r} image to train on; lower it."
        )
    return train.select(np.sort(np.concatenate([mistakes, ordinary]))), counts


def prepare(arguments: Arguments, splits: dict[str, Dataset]) -> dict:
    """Measure validation with the detector, and replace `splits["train"]` by the mixture.

    Returns:
        The argument `prepared` of [`conclude`].

    Raises:
        ValueError: As [`find_mistakes`] and [`mix`], or the checkpoint is not a detector.
        OSError: As [`find_mistakes`].
    """
    model, data, args = arguments.model, arguments.data, arguments.run
    mistakes = find_mistakes(data.hard_examples, splits["train"])
    detector = Detector.from_pretrained(model.model_name_or_path, revision=model.model_revision)
    batch_size = args.per_device_eval_batch_size
    before = validation_log_odds(detector, splits["validation"], batch_size, "before")
    splits["train"], counts = mix(splits["train"], mistakes, data.hard_share, args.seed)
    return {"before": before, "counts": counts}


def conclude(
    detector: Detector, prepared: Mapping, facts: dict, validation: Dataset, args: RunArguments
) -> None:
    """Measure validation again, write and print the comparison, and add it to the run's facts."""
    after = validation_log_odds(detector, validation, args.per_device_eval_batch_size, "after")
    if not PartialState().is_main_process:
        return
    record = {
        **prepared["counts"],
        **before_and_after(prepared["before"], after, validation, args.seed),
    }
    write_atomically(Path(args.output_dir) / FILE_NAME, json.dumps(record, indent=1) + "\n")
    facts["hard_examples"] = record
    print(summary(record), flush=True)


def validation_log_odds(
    detector: Detector, validation: Dataset, batch_size: int, when: str
) -> np.ndarray:
    """Return the log-odds of the validation split: float64 array of shape `(n,)`."""
    logits = collect_logits(detector, validation, batch_size, progress=f"validation {when}")
    return log_odds_from_logits(logits, detector.class_indices)


def before_and_after(
    before: np.ndarray, after: np.ndarray, validation: Dataset, seed: int = 0
) -> dict:
    """Compare the log-odds of the same images before and after, arrays of shape `(n,)`.

    Returns:
        `dict`: `n`; for `before` and `after` the accuracy, the error rate of each class, AUROC and
        ECE; `auroc_difference` and `accuracy_difference` with intervals by paired bootstrap over
        groups.
    """
    truth, groups = is_ai(validation), column(validation, "group")
    if groups is not None:
        groups = [name or f"row {row}" for row, name in enumerate(groups)]
    record = {"n": {REAL: int((~truth).sum()), AI: int(truth.sum())}}
    for name, log_odds in (("before", before), ("after", after)):
        record[name] = {
            "accuracy": float(accuracy(log_odds, truth)),
            f"wrong_{REAL}": float((log_odds[~truth] > 0).mean()),
            f"wrong_{AI}": float((log_odds[truth] <= 0).mean()),
            "auroc": float(auroc(log_odds, truth)),
            "ece": float(ece(expit(log_odds), truth, class_balanced_weights(truth))),
        }
    for name, metric in (("auroc", auroc), ("accuracy", accuracy)):

        def difference(after, before, truth, weights=None, metric=metric):
            return metric(after, truth, weights=weights) - metric(before, truth, weights=weights)

        low, high = bootstrap_interval(
            difference, after, before, truth, groups=groups, weighted=True, seed=seed
        )
        value = record["after"][name] - record["before"][name]
        record[f"{name}_difference"] = {"value": value, "low": low, "high": high}
    return record


def summary(record: Mapping) -> str:
    """Return [`before_and_after`] as text."""
    counts = {kind: sum(record[kind].values()) for kind in ("mistakes", "ordinary")}
    lines = [
        f"Hard examples: {counts['mistakes']:,} errors among {counts['ordinary']:,} other images; "
        f"on validation ({sum(record['n'].values()):,} images):"
    ]
    for name in ("before", "after"):
        one = record[name]
        lines.append(
            f"  {name:6}: accuracy {one['accuracy']:.3f}, AUROC {one['auroc']:.3f}, real called ai "
            f"{one['wrong_real']:.3f}, ai called real {one['wrong_ai']:.3f}, ECE {one['ece']:.3f}"
        )
    for name in ("auroc", "accuracy"):
        change = record[f"{name}_difference"]
        interval = f"({change['low']:+.3f} … {change['high']:+.3f})"
        lines.append(f"  {name}: {change['value']:+.3f} {interval}")
    return "\n".join(lines)
