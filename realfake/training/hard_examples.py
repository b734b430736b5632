"""Go on training a detector on the training images it got wrong, mixed with ordinary ones.

A second stage after a finished run: `train_hf.py --evaluate_only train` scores its training images, `--hard_examples` takes the
mistakes from there. What it brings is measured on the validation split as it was, before and after.
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
from realfake.training.arguments import DataArguments, ModelArguments, RunArguments

FILE_NAME = "hard_examples.json"


def find_mistakes(folder: str | Path, train: Dataset) -> np.ndarray:
    """Find the training images that an evaluation called wrong.

    Args:
        folder: Of the evaluation: `evaluation.json` and `scores-train.parquet`.
        train: The training split, the same images in the same order.

    Returns:
        Their rows, ascending.

    Raises:
        ValueError: The evaluation is none of this training split, or it found no mistakes.
        OSError: There is none.
    """
    folder = Path(folder)
    measured = results.read_evaluation(folder)
    measure = (
        f"measure the training images first: train_hf.py --evaluate_only train --model_name_or_path {folder} "
        f"--output_dir {folder}, with the same corpus options"
    )
    if not measured:
        raise OSError(f"--hard_examples: there is no {results.FILE_NAME} in {folder}; {measure}.")
    if "train" not in measured:
        why = (
            "was made on a test split, and one that was trained on measures nothing any more"
            if "test" in measured
            else "is of validation, which has to judge what comes of this"
        )
        raise ValueError(
            f"--hard_examples: the evaluation in {folder} ({', '.join(measured)}) {why}; {measure}."
        )
    if measured["train"]["corpus_fingerprint"] != corpus_fingerprint(train):
        raise ValueError(
            f"--hard_examples: the evaluation in {folder} is of other training images; give the corpus options "
            "(--dataset, --split_seed, --max_train_samples, --hold_out) that it was made with."
        )
    scores = results.read_scores(folder / "scores-train.parquet")
    if len(scores["log_odds"]) != len(train) or not np.array_equal(scores["is_ai"], is_ai(train)):
        raise ValueError(
            f"--hard_examples: the scores in {folder} are not those of the evaluation; {measure}."
        )
    wrong = np.flatnonzero((scores["log_odds"] > 0) != scores["is_ai"])
    if not len(wrong):
        raise ValueError(
            f"--hard_examples: the evaluation in {folder} found no mistake to learn from."
        )
    return wrong


def mix(train: Dataset, mistakes: np.ndarray, share: float, seed: int) -> tuple[Dataset, dict]:
    """Put the mistakes among ordinary images, of which so many are drawn that the mistakes are `share` of all.

    The ordinary images keep the shares of labels and generators. Where there are too few of them, all are used.

    Returns:
        The training images, in an order of their own, and `{"mistakes": {label: n}, "ordinary": {label: n}}`.
    """
    ordinary = np.setdiff1d(np.arange(len(train)), mistakes)
    wanted = round(len(mistakes) * (1 - share) / share)
    names = train.features["label"].names
    labels = np.asarray([names[label] for label in train["label"]])
    strata = column(train, "generator")
    if len(ordinary) and wanted:
        drawn = subset(
            labels[ordinary].tolist(),
            wanted,
            seed,
            None if strata is None else [strata[row] for row in ordinary],
        )
        ordinary = ordinary[drawn]
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


def prepare(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: RunArguments,
    parts: dict[str, Dataset],
) -> dict:
    """Measure validation with the detector as it is, and replace `parts["train"]` by mistakes and ordinary images.

    Returns:
        What [`conclude`] needs.

    Raises:
        ValueError: As [`find_mistakes`] and [`mix`], or the checkpoint is no detector yet.
        OSError: As [`find_mistakes`].
    """
    mistakes = find_mistakes(data_args.hard_examples, parts["train"])
    detector = Detector.from_pretrained(
        model_args.model_name_or_path, revision=model_args.model_revision
    )
    before = validation_log_odds(
        detector, parts["validation"], args.per_device_eval_batch_size, "before"
    )
    parts["train"], counts = mix(parts["train"], mistakes, data_args.hard_share, args.seed)
    return {"before": before, "counts": counts}


def conclude(
    detector: Detector, prepared: Mapping, facts: dict, validation: Dataset, args: RunArguments
) -> None:
    """Measure validation again, write and print the comparison, and add it to the facts of the run."""
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
    """Score the whole validation split, shared out over the processes that run; float64 array of shape `(n,)`."""
    logits = collect_logits(detector, validation, batch_size, progress=f"validation {when}")
    return log_odds_from_logits(logits, detector.class_indices)


def before_and_after(
    before: np.ndarray, after: np.ndarray, validation: Dataset, seed: int = 0
) -> dict:
    """Compare the margins of the same images before and after.

    Returns:
        `dict`: `n`, and for `before` and `after` the accuracy, the share of either class that is called wrong, AUROC and ECE;
        `auroc_difference` and `accuracy_difference` with intervals by paired bootstrap over groups.
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
    """[`before_and_after`] as lines of text."""
    counts = {kind: sum(record[kind].values()) for kind in ("mistakes", "ordinary")}
    lines = [
        f"Hard examples: {counts['mistakes']:,} mistakes among {counts['ordinary']:,} ordinary images; on validation "
        f"({sum(record['n'].values()):,} images):"
    ]
    for name in ("before", "after"):
        one = record[name]
        lines.append(
            f"  {name:6}: accuracy {one['accuracy']:.3f}, AUROC {one['auroc']:.3f}, real called ai {one['wrong_real']:.3f}, "
            f"ai called real {one['wrong_ai']:.3f}, ECE {one['ece']:.3f}"
        )
    for name in ("auroc", "accuracy"):
        change = record[f"{name}_difference"]
        lines.append(
            f"  {name}: {change['value']:+.3f} ({change['low']:+.3f} … {change['high']:+.3f})"
        )
    return "\n".join(lines)
