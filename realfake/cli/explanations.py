"""Measure whether a checkpoint's maps are to be believed, method by method.

    python scripts/evaluate_explanations.py runs/vit --dataset ./corpus --split validation --layers 6 --store --output_dir runs/vit
    python scripts/evaluate_explanations.py runs/vit --dataset ./corpus --split test --output_dir runs/vit

Method and layer are chosen on validation images, and reported once on test images. Writes `explanations.md` and `explanations.json`,
which the card shows where they lie beside the weights (`scripts/write_card.py`). Findings are kept in `.explanations` as they are
made: give the same command again, and a run that was interrupted continues. `--store` writes what was chosen, the method and
Grad-CAM's layer, into the checkpoint's configuration, where explanations look for their defaults.
"""

import argparse
import contextlib
import sys
from pathlib import Path

from realfake.cli import options as cli_options


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    from realfake.attribution.methods import METHODS

    at_least = cli_options.at_least
    cli_options.add_model(parser)
    cli_options.add_corpus(parser)
    cli_options.add_measurement(parser, split="validation", seed="seed of everything random")
    cli_options.add_output(parser, "folder of the figures and the findings so far")
    parser.add_argument(
        "--methods", default=",".join(METHODS), help="methods to measure, separated by commas"
    )
    parser.add_argument(
        "--layers", type=at_least(0), default=0, help="number of further layers for Grad-CAM"
    )
    parser.add_argument(
        "--store",
        action="store_true",
        help="store the best method and Grad-CAM's best layer in the checkpoint; not with --split test",
    )
    parser.add_argument(
        "--max_samples", type=at_least(2), default=200, help="number of images to explain"
    )
    parser.add_argument(
        "--max_slow_samples",
        type=at_least(2),
        help="number of images for integrated gradients, occlusion and KernelSHAP (default: all); with fewer images "
        "these methods are not candidates for --store",
    )
    parser.add_argument(
        "--splices", type=at_least(0), default=50, help="spliced pictures of each kind"
    )
    parser.add_argument(
        "--save_splices",
        metavar="FOLDER",
        help="write the spliced pictures, controls and masks there",
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
    with contextlib.ExitStack() as folders:
        for folder in _written(options):
            folders.enter_context(io.output_folder(folder))
        return evaluate(options)


def _check(options: argparse.Namespace) -> None:
    from realfake.attribution.methods import METHODS

    options.methods = list(dict.fromkeys(options.methods.split(",")))
    if unknown := [name for name in options.methods if name not in METHODS]:
        raise ValueError(f"--methods: {unknown[0]!r} is unknown; choose from {', '.join(METHODS)}.")
    if options.store and options.split == "test":
        raise ValueError("--store must not use test images; pass --split validation.")
    if options.save_splices and not options.splices:
        raise ValueError("--save_splices needs splices; leave it out, or raise --splices.")
    if options.store and not options.layers:
        raise ValueError("--store needs candidate layers; pass --layers as well.")
    if options.store and not (Path(options.model) / "config.json").is_file():
        raise ValueError(f"--store needs a folder; download {options.model} first.")


def _written(options: argparse.Namespace) -> list[Path]:
    """The folders that are written to."""
    output, model = Path(options.output), Path(options.model)
    return [output, model] if options.store and model.resolve() != output.resolve() else [output]


def evaluate(options: argparse.Namespace) -> int:
    """Checkpoint and corpus → maps → findings → figures → report."""
    from dataclasses import asdict
    from datetime import UTC, datetime

    from tqdm.auto import tqdm

    from realfake import io
    from realfake.card import method as card_method
    from realfake.corpus import rows
    from realfake.evaluation import explanation_report, explanations
    from realfake.evaluation.explanations import Findings, findings_file
    from realfake.evaluation.log import count, log_measurement
    from realfake.evaluation.splices import save_splices
    from realfake.training import runs

    detector = cli_options.open_model(options)
    identity = cli_options.model_identity(options.model, detector)
    corpus = cli_options.read_corpus(
        options, {runs.source_split(options.split): options.max_samples}
    )
    dataset = runs.split_of(corpus, options.split, options.split_seed)
    # In an order that does not follow the classes: the slow checks are made on the first ones.
    dataset = dataset.shuffle(seed=options.seed)
    fingerprint = rows.corpus_fingerprint(dataset)
    slow = options.max_samples if options.max_slow_samples is None else options.max_slow_samples
    settings = explanations.Settings(
        options.steps, options.n_random, options.n_checks, slow, seed=options.seed
    )
    first = detector.pixels(dataset[0]["image"])
    compared = explanations.candidates(detector, options.methods, options.layers, first)
    stored = detector.facts.get("gradcam_layer")
    path = findings_file(options.output, identity, stored, fingerprint, asdict(settings))
    findings = Findings(path)
    before = len(findings.lines)

    if options.save_splices:
        written = save_splices(dataset, options.save_splices, options.splices, settings.seed)
        print(f"Wrote {written} splices to {options.save_splices}.", flush=True)
    total = sum(len(settings.methods(item, compared)) for item in range(len(dataset)))
    total += options.splices * 2 * (len(settings.methods(len(dataset) - 1, compared)) + 1)
    with tqdm(total=total, desc="maps", mininterval=0.5 if sys.stderr.isatty() else 15.0) as bar:
        explanations.measure_faithfulness(
            detector, dataset, compared, findings, settings, bar.update
        )
        if options.splices:
            explanations.measure_localisation(
                detector, dataset, compared, findings, settings, options.splices, bar.update
            )
    print("Computing the figures.", flush=True)
    names = [one.name for one in compared]
    groups = rows.column(dataset, "group")
    figures = explanation_report.summarise(
        findings, names, groups, options.n_resamples, options.seed
    )
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint_sha256": identity,
        "model": detector.name,
        "gradcam_layer": stored,
        "corpus": options.corpus_name,
        "corpus_fingerprint": fingerprint,
        "split": options.split,
        "n": len(dataset),
        "settings": asdict(settings),
        "command": io.command_line(),
        "versions": io.versions(),
        "figures": figures,
    }
    # The corpus' name tells these figures from those of the detector's answers, whose looks at the split are counted apart.
    known = {
        "checkpoint_hash": identity,
        "split": "test",
        "corpus": f"{options.corpus_name} (maps)",
    }
    if options.split == "test" and not (
        len(findings.lines) == before and count(cli_options.measurement_log(options), **known)
    ):
        gains = {name: found["gain"]["value"] for name, found in figures["faithfulness"].items()}
        log_measurement(
            cli_options.measurement_log(options),
            n=len(dataset),
            date=record["date"],
            command=record["command"],
            figures={"gain_over_chance": gains, "supports": figures["default"]},
            **known,
        )
    folder = Path(options.output)
    everything = {**io.read_records(folder / card_method.EXPLANATIONS_FILE), options.split: record}
    io.write_atomically(folder / card_method.EXPLANATIONS_FILE, records_text(everything))
    pages = [explanation_report.render(known) for known in everything.values()]
    io.write_atomically(folder / explanation_report.REPORT_NAME, "\n".join(pages))
    print(explanation_report.conclusion(record).replace("**", ""))
    if options.store:
        store(options.model, detector, compared, figures)
    print(f"Finished: {folder / explanation_report.REPORT_NAME}", flush=True)
    return 0


def records_text(content: dict) -> str:
    """JSON as it is written beside checkpoints."""
    import json

    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def store(model: str, detector, compared, figures: dict) -> None:
    """Write the supported method, and the layer of the Grad-CAM with the largest gain, into the checkpoint's configuration."""
    from realfake.training.release import store_facts

    faithfulness = figures["faithfulness"]
    gains = {
        one.name: faithfulness[one.name]["gain"]["value"]
        for one in compared
        if one.method == "gradcam"
    }
    best = max(gains, key=lambda name: -1e9 if gains[name] is None else gains[name], default="")
    layer = best.partition("@")[2] or detector.facts.get("gradcam_layer")
    # A name such as gradcam@stage.3 is a method and one of its layers.
    method = (figures["default"] or "").partition("@")[0]
    chosen = {"gradcam_layer": layer, "explanation_method": method}
    chosen = {name: value for name, value in chosen.items() if value}
    if chosen:
        store_facts(model, chosen)
    said = ", ".join(f"{name} = {value}" for name, value in chosen.items())
    print(
        f"Stored in {model}/config.json: {said or 'nothing, for no map beats chance'}.", flush=True
    )
