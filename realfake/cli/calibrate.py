"""Calibrate an existing checkpoint: any image classifier that tells photographs from AI-generated images.

    python scripts/calibrate.py user/detector --dataset ./corpus --output runs/calibrated
    python scripts/calibrate.py user/detector --label_map LABEL_0=real,LABEL_1=ai --dataset ./corpus --output runs/calibrated \
        --degraded --push_to_hub --hub_model_id user/detector-calibrated

A temperature and a bias are fitted on the calibration half of the corpus' validation split and folded into the last layer, so
that the stock pipeline gives calibrated probabilities; thresholds of the verdict are stored beside them. The other half, and with
`--measure_test` the test split, show what it was worth. With `--degraded` every image is recompressed, resized or otherwise
degraded first, so that the calibration holds after a trip through the web. Where nothing lowers the NLL, nothing is changed.
"""

import argparse
from pathlib import Path

from realfake import io
from realfake.cli import options as cli_options


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    from realfake.training.release import METHODS

    cli_options.add_model(parser)
    cli_options.add_corpus(parser)
    cli_options.add_limits(parser, "validation", "test")
    cli_options.add_output(parser, "folder of the calibrated checkpoint and its card")
    parser.add_argument(
        "--method", choices=METHODS, default="auto", help="what to fit; auto: by cross-validation"
    )
    parser.add_argument(
        "--alpha",
        type=cli_options.between(0, 0.5),
        default=0.05,
        help="rate of wrong verdicts per class; less certain images are inconclusive",
    )
    parser.add_argument(
        "--degraded", action="store_true", help="fit on images with a random degradation each"
    )
    cli_options.add_batch_size(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap")
    parser.add_argument(
        "--measure_test", action="store_true", help="measure the test split, too, and log it"
    )
    cli_options.add_measurement_log(parser)
    parser.add_argument("--license", help="licence of the original weights, for the card")
    hub = parser.add_argument_group("Hub")
    hub.add_argument("--push_to_hub", action="store_true", help="upload the result")
    hub.add_argument("--hub_model_id", help="where to upload, such as user/detector-calibrated")
    hub.add_argument("--hub_token", help="token (default: that of `hf auth login`)")
    hub.add_argument("--hub_private_repo", action="store_true", help="create it private")
    hub.add_argument("--hub_revision", help="branch to upload to")


def run(options: argparse.Namespace) -> int:
    """Calibrate, in a folder that no other process writes to."""
    _check_output(options)
    options.output_dir = options.output
    with io.output_folder(options.output):
        return calibrate(options)


def _check_output(options: argparse.Namespace) -> None:
    from realfake.training.runs import FINISHED

    folder = Path(options.output)
    if folder.resolve() == Path(options.model).resolve():
        raise ValueError(
            "--output is the checkpoint itself, which would be overwritten; pass another folder."
        )
    if (folder / FINISHED).is_file():
        raise ValueError(f"{folder} holds a finished training run; pass another --output.")


def calibrate(options: argparse.Namespace) -> int:
    """Checkpoint → logits → calibration → stored checkpoint → figures → card → Hub."""
    from realfake.corpus import rows
    from realfake.statistics.log_odds import log_odds_from_logits
    from realfake.training import publishing, release, runs

    limits = {"validation": options.max_validation_samples}
    if options.measure_test:
        limits["test"] = options.max_test_samples
    detector = cli_options.open_model(options)
    if options.push_to_hub:
        publishing.check_login(options)
    parts = runs.parts_of(cli_options.read_corpus(options, limits), options.split_seed)
    original = {
        "model": str(options.model),
        "revision": detector.revision,
        "classes": release.name_classes(detector),
        "sha256": _identity(options, detector),
    }

    measured = {"selection": False, "calibration": options.degraded}
    if options.degraded:
        measured["selection-degraded"] = True
    if options.measure_test:
        measured["test"] = False
    before = {}
    for name, degraded in measured.items():
        part = parts[name.removesuffix("-degraded")]
        before[name] = release.compute_logits(
            detector, part, options.batch_size, f"{name}, before", degraded
        )

    part = parts["calibration"]
    fitted = release.fit(
        detector,
        before["calibration"],
        rows.is_ai(part),
        rows.column(part, "group"),
        options.method,
    )
    facts = {
        "calibrated_from": original,
        "calibrated_on": options.corpus_name,
        "calibration_parts": {
            name: release.count(parts[name]) for name in ("selection", "calibration")
        },
    }
    class_indices = detector.class_indices
    result = release.fold_save_reopen(
        detector,
        fitted,
        part,
        before["calibration"],
        options.output,
        facts,
        options.alpha,
        options.batch_size,
        options.degraded,
    )
    for name, degraded in measured.items():
        rows = parts[name.removesuffix("-degraded")]
        scores = release.compute_scores(result.detector, rows, options.batch_size, name, degraded)
        _write_down(
            options,
            result.detector,
            parts,
            name,
            *scores,
            log_odds_from_logits(before[name], class_indices),
        )
    _finish(options, result, original)
    return publishing.push(options, "realfake calibrate") if options.push_to_hub else 0


def _identity(options, detector) -> str | None:
    try:
        return cli_options.model_identity(options.model, detector)
    except OSError:
        # Weights in several files are opened all the same; they have no single hash.
        return None


def _write_down(options, detector, parts, name: str, log_odds, out_of_distribution, before) -> None:
    from datetime import UTC, datetime

    from realfake.corpus import rows
    from realfake.evaluation import measure, results
    from realfake.evaluation.log import log_measurement

    dataset = parts[name.removesuffix("-degraded")]
    truth = rows.is_ai(dataset)
    known = {f"{key}s": rows.column(dataset, key) for key in ("group", "generator", "source")}
    figures = measure.measure(
        log_odds,
        truth,
        thresholds=detector.thresholds,
        out_of_distribution=out_of_distribution,
        seed=options.seed,
        **known,
    )
    facts = {
        "checkpoint_hash": results.checkpoint_hash(options.output),
        "command": io.command_line(),
        "corpus": options.corpus_name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if name == "test":
        headline = {
            key: figures["summary"][key]
            for key in ("accuracy", "balanced_accuracy", "auroc", "ece")
        }
        log_measurement(
            cli_options.measurement_log(options),
            split=name,
            n=figures["n"],
            figures=headline,
            **facts,
        )
    results.write_evaluation(
        options.output,
        name,
        figures,
        before=measure.measure(before, truth, groups=known["groups"], seed=options.seed),
        corpus_fingerprint=rows.corpus_fingerprint(dataset),
        versions=io.versions(),
        **facts,
    )
    results.write_scores(
        options.output, name, log_odds, truth, out_of_distribution=out_of_distribution, **known
    )


def _finish(options, result, original) -> None:
    """Write the card, and say what the calibration was worth."""
    from realfake.card.facts import hub_id
    from realfake.evaluation import log, results
    from realfake.evaluation.plots import write_plots
    from realfake.training import release

    folder = Path(options.output)
    content = results.read_evaluation(folder)
    split = "test" if options.measure_test else "selection"
    scores = results.read_scores(folder / f"scores-{split}.parquet")
    calibration, record = result.calibration, content[split]
    repo = options.hub_model_id
    facts = {
        "name": (repo or folder.resolve().name).rsplit("/", 1)[-1],
        "source": repo or "path/to/this/folder",
        "model": original["model"] if hub_id(original["model"]) else Path(original["model"]).name,
        "model_id": hub_id(original["model"]),
        "revision": original["revision"],
        "classes": release.names_in_order(result.detector),
        "original_classes": original["classes"],
        "corpus": options.corpus_name,
        "command": io.command_line(),
        "degraded": options.degraded,
        "thresholds": result.detector.thresholds.to_dict(),
        "ood": result.detector.facts.get("ood"),
        "versions": io.versions(),
        "plots": write_plots(folder, split, scores["log_odds"], scores["is_ai"], record["figures"]),
        "measurements": log.count(
            cli_options.measurement_log(options), split="test", corpus=options.corpus_name
        )
        if options.measure_test
        else None,
    }
    card = release.write_card(folder, facts, calibration, content, split, options.license)
    if calibration.method == "identity":
        print(f"Nothing was changed: {calibration.reason}.")
    else:
        note = f" ({calibration.reason})" if calibration.reason else ""
        print(
            f"{calibration.method}: T = {calibration.temperature:.4g}, b = {calibration.bias:+.4g}, fitted on "
            f"{calibration.n:,} images{note}."
        )
    for name, entry in content.items():
        old, new = entry["before_calibration"]["summary"], entry["figures"]["summary"]
        print(f"{name}:")
        for key, text in (("nll", "NLL"), ("ece", "ECE")):
            print(f"  {text} {_figure(old[key])} -> {_figure(new[key])}")
        floor = new["ece_noise_floor"]
        if floor["value"] is not None:
            within = "within" if new["ece"]["value"] <= floor["high"] else "above"
            print(
                f"  a perfectly calibrated model would show an ECE of {_figure(floor)}; this one is {within} that"
            )
        if name.startswith("selection") and new["nll"]["value"] > old["nll"]["value"]:
            print(
                "  its NLL went up on these images, which the calibration did not see; the corpus may be too small"
            )
    print(f"Finished: {card}", flush=True)


def _figure(figure) -> str:
    text = "none" if figure["value"] is None else f"{figure['value']:.4f}"
    return (
        text if figure["low"] is None else f"{text} ({figure['low']:.4f} to {figure['high']:.4f})"
    )
