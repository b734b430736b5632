"""Measure how faithful the maps of each attribution method are.

realfake evaluate explanations runs/vit --dataset ./corpus --layers 6 --store -o runs/vit
realfake evaluate explanations runs/vit --dataset ./corpus --split test -o runs/vit

Choose the method and the layer on validation images, and report them once on test images. The
command writes explanations.md and explanations.json, which the card shows. To continue an
interrupted run, give the same command again.
"""

import argparse
import contextlib
import sys
from pathlib import Path

from realfake.cli import options as cli_options


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    from realfake.attribution import METHOD_NAMES

    at_least = cli_options.at_least
    cli_options.add_model(parser)
    cli_options.add_corpus(parser)
    cli_options.add_measurement(parser, split="validation", seed="seed of everything random")
    cli_options.add_output(parser, "folder of the figures and the findings so far")
    parser.add_argument(
        "--methods", default=",".join(METHOD_NAMES), help="methods to measure, separated by commas"
    )
    parser.add_argument(
        "--layers", type=at_least(0), default=0, help="number of further layers for Grad-CAM"
    )
    parser.add_argument(
        "--store",
        action="store_true",
        help="store the best method and Grad-CAM layer in the checkpoint; not with --split test",
    )
    parser.add_argument(
        "--max_samples", type=at_least(2), default=200, help="number of images to explain"
    )
    parser.add_argument(
        "--max_slow_samples",
        type=at_least(2),
        help="number of images for integrated gradients, occlusion and KernelSHAP (default: all); "
        "with fewer images these methods are not candidates for --store",
    )
    parser.add_argument(
        "--splices", type=at_least(0), default=50, help="spliced pictures of each kind"
    )
    parser.add_argument(
        "--steps", type=at_least(2), default=8, help="steps of the deletion and insertion curves"
    )
    parser.add_argument(
        "--n_random", type=at_least(1), default=3, help="random maps to compare each map with"
    )
    parser.add_argument(
        "--n_checks",
        type=at_least(0),
        default=32,
        help="images for the slow checks: ROAD, sensitivity, shuffled weights",
    )


def run(options: argparse.Namespace) -> int:
    """Measure, in folders that no other process writes to."""
    from realfake import io

    _check(options)
    output, model = Path(options.output), Path(options.model)
    with contextlib.ExitStack() as folders:
        folders.enter_context(io.output_folder(output))
        if options.store and model.resolve() != output.resolve():
            folders.enter_context(io.output_folder(model))
        return evaluate(options)


def _check(options: argparse.Namespace) -> None:
    from realfake.attribution import METHOD_NAMES

    options.methods = list(dict.fromkeys(options.methods.split(",")))
    if unknown := [name for name in options.methods if name not in METHOD_NAMES]:
        known = ", ".join(METHOD_NAMES)
        raise ValueError(f"--methods: {unknown[0]!r} is unknown; choose from {known}.")
    if options.store and options.split == "test":
        raise ValueError("--store must not use test images; pass --split validation.")
    if options.store and not options.layers:
        raise ValueError("--store needs candidate layers; pass --layers as well.")
    if options.store and not (Path(options.model) / "config.json").is_file():
        raise ValueError(f"--store needs a folder; download {options.model} first.")


def evaluate(options: argparse.Namespace) -> int:
    """Measure the maps, and write the figures and the report."""
    from dataclasses import asdict
    from datetime import UTC, datetime

    from tqdm.auto import tqdm

    from realfake import io
    from realfake.corpus import rows
    from realfake.evaluation import explanation_report as report
    from realfake.evaluation import explanations
    from realfake.training import runs

    detector = cli_options.open_model(options)
    identity = cli_options.model_identity(options.model, detector)
    limits = {runs.source_split(options.split): options.max_samples}
    corpus = cli_options.read_corpus(options, limits)
    dataset = runs.split_of(corpus, options.split, options.split_seed)
    # Shuffled, because the slow checks take the first images, which may all be of one class.
    dataset = dataset.shuffle(seed=options.seed)
    fingerprint = rows.corpus_fingerprint(dataset)
    settings = explanations.Settings(
        steps=options.steps,
        n_random=options.n_random,
        n_checks=options.n_checks,
        n_slow=options.max_slow_samples or options.max_samples,
        seed=options.seed,
    )
    pixels = detector.pixels(dataset[0]["image"])
    compared = explanations.candidates(detector, options.methods, options.layers, pixels)
    layer = detector.facts.get("gradcam_layer")
    findings = explanations.Findings(
        explanations.findings_file(options.output, identity, layer, fingerprint, asdict(settings))
    )
    known = len(findings.lines)
    n = len(dataset)
    total = sum(len(settings.methods(item, compared)) for item in range(n))
    total += options.splices * 2 * (len(settings.methods(n - 1, compared)) + 1)
    with tqdm(total=total, desc="maps", mininterval=0.5 if sys.stderr.isatty() else 15.0) as bar:
        arguments = detector, dataset, compared, findings, settings
        explanations.measure_faithfulness(*arguments, progress=bar.update)
        if options.splices:
            explanations.measure_localisation(*arguments, options.splices, progress=bar.update)
    print("Computing the figures.", flush=True)
    names, groups = [each.name for each in compared], rows.column(dataset, "group")
    figures = report.summarise(findings, names, groups, options.n_resamples, options.seed)
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint_sha256": identity,
        "model": detector.name,
        "gradcam_layer": layer,
        "corpus": options.corpus_name,
        "corpus_fingerprint": fingerprint,
        "split": options.split,
        "n": n,
        "settings": asdict(settings),
        "command": io.command_line(),
        "versions": io.versions(),
        "figures": figures,
    }
    if options.split == "test":
        _log(options, record, repeated=len(findings.lines) == known)
    records = io.write_record(Path(options.output) / report.FILE_NAME, options.split, record)
    page = Path(options.output) / report.REPORT_NAME
    io.write_atomically(page, "\n".join(report.render(each) for each in records.values()))
    print(report.conclusion(record).replace("**", ""))
    if options.store:
        _store(options.model, layer, figures)
    print(f"Finished: {page}", flush=True)
    return 0


def _log(options: argparse.Namespace, record: dict, repeated: bool) -> None:
    """Log a measurement of test images, unless this one was logged before."""
    from realfake.evaluation.log import count, log_measurement

    log = cli_options.measurement_log(options)
    # A name of its own: measurements of maps are counted apart from those of predictions.
    key = {
        "checkpoint_hash": record["checkpoint_sha256"],
        "split": "test",
        "corpus": f"{options.corpus_name} (maps)",
    }
    if repeated and count(log, **key):
        return
    figures = record["figures"]
    gains = {name: each["gain"]["value"] for name, each in figures["faithfulness"].items()}
    log_measurement(
        log,
        n=record["n"],
        date=record["date"],
        command=record["command"],
        figures={"gain_over_chance": gains, "supports": figures["default"]},
        **key,
    )


def _store(model: str, layer: str | None, figures: dict) -> None:
    """Store the best method, and the Grad-CAM layer with the largest gain, in `config.json`."""
    from realfake.training.release import store_facts

    gains = {
        name: each["gain"]["value"]
        for name, each in figures["faithfulness"].items()
        if name.partition("@")[0] == "gradcam" and each["gain"]["value"] is not None
    }
    # A name such as gradcam@stage.3 has a method and a layer.
    best = max(gains, key=gains.get, default="")
    facts = {
        "gradcam_layer": best.partition("@")[2] or layer,
        "explanation_method": (figures["default"] or "").partition("@")[0],
    }
    facts = {name: value for name, value in facts.items() if value}
    if facts:
        store_facts(model, facts)
    stored = ", ".join(f"{name} = {value}" for name, value in facts.items())
    print(f"Stored in {model}/config.json: {stored or 'nothing, no map beats chance'}.", flush=True)
