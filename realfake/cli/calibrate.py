"""Calibrate an existing image classifier that tells photographs from AI-generated images.

    realfake calibrate user/detector --dataset ./corpus --output runs/calibrated
    realfake calibrate user/detector --dataset ./corpus --output runs/calibrated \\
        --label_map LABEL_0=real,LABEL_1=ai --degraded \\
        --push_to_hub --hub_model_id user/detector-calibrated

    # fit only the out-of-distribution check, in the folder of a checkpoint
    realfake calibrate runs/vit --dataset ./corpus --only_ood --false_alarms 0.01

Fits a temperature and a bias on the calibration half of the validation split, or on
--calibration_split, and folds them into the last layer, so the stock pipeline gives calibrated
probabilities. --views N stores how many views of an image to examine. Also stores the thresholds of
the verdict and the out-of-distribution check. Measures the effect on the other half of the
validation split, and on the test split with --measure_test. If nothing lowers the NLL, the weights
stay unchanged.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from realfake import io
from realfake.cli import options

if TYPE_CHECKING:
    from datasets import Dataset

    from realfake.corpus.load import Corpus
    from realfake.detector import Detector
    from realfake.training.release import Released


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    from realfake.models.ood import ALPHA
    from realfake.training.release import METHODS

    options.add_model(parser)
    options.add_corpus(parser)
    options.add_limits(parser, "validation", "test")
    options.add_output(parser, "folder of the calibrated checkpoint and its card", required=False)
    parser.add_argument(
        "--method", choices=METHODS, default="auto", help="what to fit; auto: cross-validate"
    )
    parser.add_argument(
        "--alpha",
        type=options.between(0, 0.5),
        default=0.05,
        help="allowed rate of wrong verdicts per class; other images are inconclusive",
    )
    parser.add_argument(
        "--degraded", action="store_true", help="degrade each image at random before fitting"
    )
    parser.add_argument(
        "--only_ood",
        action="store_true",
        help="fit only the out-of-distribution check, in the folder of the model",
    )
    parser.add_argument(
        "--false_alarms",
        type=options.between(0, 0.5),
        default=ALPHA,
        help="with --only_ood: share of in-distribution images per class to flag",
    )
    parser.add_argument(
        "--calibration_split",
        metavar="NAME",
        help="fit on this whole split, such as one of generators that the training did not see "
        "(default: half of the validation split)",
    )
    options.add_views(parser)
    parser.add_argument(
        "--max_shard_size",
        metavar="SIZE",
        help="save the weights in files of at most this size, such as 9MB",
    )
    options.add_batch_size(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap")
    parser.add_argument(
        "--measure_test", action="store_true", help="also measure the test split, and log it"
    )
    options.add_measurement_log(parser)
    parser.add_argument("--license", help="license of the original weights, for the model card")
    hub = parser.add_argument_group("Hub")
    hub.add_argument("--push_to_hub", action="store_true", help="upload the calibrated checkpoint")
    hub.add_argument("--hub_model_id", help="repository, such as user/detector-calibrated")
    hub.add_argument("--hub_token", help="token (default: from `hf auth login`)")
    hub.add_argument(
        "--hub_private_repo",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="create a private repository",
    )
    hub.add_argument("--hub_revision", help="branch to upload to")


def run(args: argparse.Namespace) -> int:
    """Calibrate, or fit only the out-of-distribution check."""
    if args.only_ood:
        if not Path(args.model).is_dir():
            raise ValueError(f"{args.model} is not a folder; download it, or leave out --only_ood.")
        with io.output_folder(args.model):
            return _fit_ood(args)
    _check_output(args)
    args.output_dir = args.output
    with io.output_folder(args.output):
        return _calibrate(args)


def _check_output(args: argparse.Namespace) -> None:
    from realfake.training.runs import FINISHED

    if args.output is None:
        raise ValueError("--output is missing: name a folder for the calibrated checkpoint.")
    folder = Path(args.output)
    if folder.resolve() == Path(args.model).resolve():
        raise ValueError(
            "--output is the checkpoint itself, which would be overwritten; pass another folder."
        )
    if (folder / FINISHED).is_file():
        raise ValueError(f"{folder} holds a finished training run; pass another --output.")


def _fit_ood(args: argparse.Namespace) -> int:
    from realfake.corpus.rows import is_ai
    from realfake.detector import Detector
    from realfake.labels import AI, REAL
    from realfake.statistics.verdicts import binomial_interval
    from realfake.training import measuring, release

    detector = options.open_model(args)
    corpus = options.read_corpus(args, {"validation": args.max_validation_samples})
    splits = _splits(args, corpus)
    dataset, batch_size = splits["calibration"], args.batch_size
    fitted = release.fit_ood(
        detector, args.model, dataset, args.false_alarms, batch_size, args.degraded
    )
    if fitted is None:
        raise ValueError(
            f"{len(dataset)} calibration images are too few for --false_alarms "
            f"{args.false_alarms:g}; nothing was stored."
        )
    names = detector.model.config.id2label
    label_map = {
        names[index]: label
        for label, indices in detector.class_indices.items()
        for index in indices
    }
    stored = Detector.from_pretrained(args.model, label_map=label_map)
    scores = measuring.compute_scores(
        stored, splits["selection"], batch_size, "false alarms", args.degraded
    )
    flagged = fitted.is_out_of_distribution(scores.ood)
    n = fitted.to_dict()["n"]
    print(f"Fitted on {n[REAL]:,} real and {n[AI]:,} ai images.")
    truth = is_ai(splits["selection"])
    for label, rows in ((REAL, ~truth), (AI, truth)):
        count, total = int(flagged[rows].sum()), int(rows.sum())
        low, high = binomial_interval(count, total)
        rate = count / total if total else float("nan")
        print(
            f"Flagged among {total:,} other images ({label}): {rate:.3f} ({low:.3f} to {high:.3f})"
        )
    print(f"Finished: {args.model}", flush=True)
    return 0


def _calibrate(args: argparse.Namespace) -> int:
    from realfake.card.render import TRAINING
    from realfake.evaluation.results import checkpoint_hash
    from realfake.statistics.metrics import log_odds_from_logits
    from realfake.training import measuring, publishing, release
    from realfake.training.trainer import count_labels

    limits = {"validation": args.max_validation_samples}
    if args.measure_test:
        limits["test"] = args.max_test_samples
    detector = options.open_model(args)
    if args.push_to_hub:
        publishing.check_login(args)
    splits = _splits(args, options.read_corpus(args, limits))
    if args.views:
        detector.views = args.views
    original = {
        "model": str(args.model),
        "revision": detector.revision,
        "classes": release.name_classes(detector),
        "sha256": _identity(args, detector),
    }
    # {name of the measurement: (split, whether it is degraded)}
    measured = {
        "selection": ("selection", False),
        "calibration": ("calibration", args.degraded),
        "selection-degraded": ("selection", True),
        "test": ("test", False),
    }
    if "selection" not in splits:
        del measured["selection"]
    if not args.degraded or "selection" not in splits:
        del measured["selection-degraded"]
    if not args.measure_test:
        del measured["test"]
    batch_size = args.batch_size
    detector.accelerate()
    # With two classes, the log-odds before calibration follow from those after it.
    binary = len(original["classes"]) == 2
    before = {
        name: measuring.compute_logits(
            detector, splits[split], batch_size, f"{name}, before", degraded
        )
        for name, (split, degraded) in measured.items()
        if name == "calibration" or not binary
    }
    fitted = release.fit_calibration(
        detector,
        before["calibration"],
        splits["calibration"],
        args.method,
        smallest_gain=release.SMALLEST_GAIN,
    )
    halves = [name for name in ("selection", "calibration") if name in splits]
    facts = {
        "calibrated_from": original,
        "calibrated_on": args.corpus_name,
        "calibration_parts": {name: count_labels(splits[name]) for name in halves},
    }
    released = release.release(
        detector,
        fitted,
        splits["calibration"],
        before["calibration"],
        args.output,
        facts,
        args.alpha,
        batch_size,
        args.degraded,
        revert_if_worse=True,
        max_shard_size=args.max_shard_size,
    )
    released.detector.accelerate()
    for name, (split, degraded) in measured.items():
        scores = measuring.compute_scores(
            released.detector, splits[split], batch_size, name, degraded
        )
        measuring.record_split(
            released.detector,
            splits[split],
            name,
            scores,
            folder=args.output,
            weights=checkpoint_hash(args.output),
            corpus=args.corpus_name,
            measurement_log=options.measurement_log(args),
            seed=args.seed,
            before=log_odds_from_logits(before[name], released.detector.class_indices)
            if name in before
            else released.calibration.undo(scores.log_odds),
        )
    if (Path(args.model) / TRAINING).is_file():
        _carry_over_training(args, released, splits, halves)
    else:
        _write_card(args, released, original)
    return publishing.push(args) if args.push_to_hub else 0


def _splits(args: argparse.Namespace, corpus: "Corpus") -> "dict[str, Dataset]":
    """Return the splits, with the one to fit on as `calibration`."""
    from realfake.training import runs

    if args.calibration_split is None:
        return runs.splits_of(corpus, args.split_seed)
    if args.calibration_split == "test":
        raise ValueError("--calibration_split test: the test split only measures; name another.")
    if args.calibration_split not in corpus.splits:
        raise ValueError(
            f"--calibration_split {args.calibration_split}: the corpus has "
            f"{', '.join(corpus.splits)}."
        )
    return {**corpus.splits, "calibration": corpus.splits[args.calibration_split]}


def _identity(args: argparse.Namespace, detector: "Detector") -> str | None:
    try:
        return options.model_identity(args.model, detector)
    except OSError:  # weights in several files have no single hash
        return None


def _carry_over_training(
    args: argparse.Namespace,
    released: "Released",
    splits: "Mapping[str, Dataset]",
    halves: Sequence[str],
) -> None:
    """Write the card of a training that was calibrated again, with both commands."""
    from realfake.card.render import TRAINING, rewrite_card
    from realfake.training.release import store_facts
    from realfake.training.trainer import count_labels

    facts = json.loads((Path(args.model) / TRAINING).read_text(encoding="utf-8"))
    facts["calibration"] = released.detector.facts["calibration"]
    facts["calibration_command"] = io.command_line()
    parts = {name: count for name, count in facts["parts"].items() if name == "train"}
    facts["parts"] = parts | {name: count_labels(splits[name]) for name in halves}
    if args.measure_test:
        facts["parts"]["test"] = count_labels(splits["test"])
    text = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
    io.write_atomically(Path(args.output) / TRAINING, text)
    names = ("corpus", "preprocessing", "parts")
    store_facts(args.output, {name: facts[name] for name in names if name in facts})
    card = rewrite_card(args.output, options.measurement_log(args))
    print(f"Finished: {card}", flush=True)


def _write_card(args: argparse.Namespace, released: "Released", original: Mapping) -> None:
    from realfake.card.facts import hub_id
    from realfake.evaluation import log, results
    from realfake.evaluation.plots import write_plots
    from realfake.training import publishing, release

    folder, calibration = Path(args.output), released.calibration
    content = results.read_evaluation(folder)
    split = next(name for name in ("test", "selection", "calibration") if name in content)
    scores = results.read_scores(folder / f"scores-{split}.parquet")
    figures = content[split]["figures"]
    plots = write_plots(folder, split, scores["log_odds"], scores["is_ai"], figures)
    measurements = None
    if args.measure_test:
        path = options.measurement_log(args)
        measurements = log.count(path, split="test", corpus=args.corpus_name)
    repo, model = args.hub_model_id, original["model"]
    facts = {
        "name": (repo or folder.resolve().name).rsplit("/", 1)[-1],
        "source": repo or "path/to/this/folder",
        "model": model if hub_id(model) else Path(model).name,
        "model_id": hub_id(model),
        "revision": original["revision"],
        "classes": release.class_names(released.detector),
        "original_classes": original["classes"],
        "corpus": args.corpus_name,
        "command": io.command_line(),
        "degraded": args.degraded,
        "thresholds": released.detector.thresholds.to_dict(),
        "ood": released.detector.facts.get("ood"),
        "versions": io.versions(),
        "plots": plots,
        "measurements": measurements,
    }
    card = publishing.write_calibrated_card(
        folder, facts, calibration, content, split, args.license
    )
    if calibration.method == "identity":
        print(f"Nothing was changed: {calibration.reason}.")
    else:
        note = f" ({calibration.reason})" if calibration.reason else ""
        print(
            f"{calibration.method}: T = {calibration.temperature:.4g}, "
            f"b = {calibration.bias:+.4g}, fitted on {calibration.n:,} images{note}."
        )
    for name, entry in content.items():
        old, new = entry["before_calibration"]["summary"], entry["figures"]["summary"]
        print(f"{name}:")
        for key in ("nll", "ece"):
            print(f"  {key.upper()} {_figure(old[key])} -> {_figure(new[key])}")
        floor = new["ece_noise_floor"]
        if floor["value"] is not None:
            print(f"  ECE of a perfectly calibrated model, by chance: {_figure(floor)}")
        if name.startswith("selection") and new["nll"]["value"] > old["nll"]["value"]:
            print("  the NLL rose on these images; the corpus may be too small for calibration")
    print(f"Finished: {card}", flush=True)


def _figure(figure: Mapping) -> str:
    if figure["value"] is None:
        return "none"
    text = f"{figure['value']:.4f}"
    return (
        text if figure["low"] is None else f"{text} ({figure['low']:.4f} to {figure['high']:.4f})"
    )
