"""Measure how faithful the maps of each attribution method are.

    realfake evaluate explanations runs/vit --dataset ./corpus --layers 6 --store -o runs/vit
    realfake evaluate explanations runs/vit --dataset ./corpus --split test -o runs/vit

Choose the method and the layer on validation images, and measure them once on test images.
Writes explanations.json and explanations.md. `realfake card` shows the figures on the model
card of the same folder. The same command continues an interrupted run.
"""

import argparse
import contextlib
from pathlib import Path

from realfake import io
from realfake.cli import options


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    from realfake.attribution import METHOD_NAMES

    at_least = options.at_least
    options.add_measurement(parser, split="validation", seed="seed of all random choices")
    options.add_output(parser, "folder of the figures and the unfinished results")
    parser.add_argument(
        "--methods", default=",".join(METHOD_NAMES), help="methods to measure, separated by commas"
    )
    parser.add_argument(
        "--layers", type=at_least(0), default=0, help="further layers to try for Grad-CAM"
    )
    parser.add_argument(
        "--store",
        action="store_true",
        help="store the best method and Grad-CAM layer in the checkpoint; not with --split test",
    )
    parser.add_argument("--max_samples", type=at_least(2), default=200, help="images to explain")
    parser.add_argument(
        "--max_slow_samples",
        type=at_least(2),
        help="images for integrated gradients, occlusion and KernelSHAP (default: all); with "
        "fewer images, --store does not choose these methods",
    )
    parser.add_argument(
        "--splices", type=at_least(0), default=50, help="spliced images of each kind"
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
        help="images for the slow checks: sensitivity, shuffled weights",
    )


def run(args: argparse.Namespace) -> int:
    """Measure the maps, and write the figures and the report."""
    from realfake.evaluation import explanation_report as report
    from realfake.evaluation import explanations
    from realfake.training import runs

    _check_explanations(args)
    output, model = Path(args.output), Path(args.model)
    with contextlib.ExitStack() as folders:
        folders.enter_context(io.output_folder(output))
        if args.store and model.resolve() != output.resolve():
            folders.enter_context(io.output_folder(model))
        detector = options.open_model(args)
        corpus = options.read_corpus(args, {runs.source_split(args.split): args.max_samples})
        record = explanations.measure_explanations(
            detector,
            options.model_identity(args.model, detector),
            runs.split_of(corpus, args.split, args.split_seed),
            args.output,
            methods=args.methods,
            layers=args.layers,
            n_splices=args.splices,
            settings=explanations.Settings(
                steps=args.steps,
                n_random=args.n_random,
                n_checks=args.n_checks,
                n_slow=args.max_slow_samples or args.max_samples,
                seed=args.seed,
            ),
            **options.measurement_context(args),
        )
        print(report.conclusion(record).replace("**", ""))
        if args.store:
            _store(args.model, record)
    print(f"Finished: {output / report.REPORT_NAME}", flush=True)
    return 0


def _check_explanations(args: argparse.Namespace) -> None:
    from realfake.attribution import METHOD_NAMES

    args.methods = list(dict.fromkeys(args.methods.split(",")))
    if unknown := [name for name in args.methods if name not in METHOD_NAMES]:
        known = ", ".join(METHOD_NAMES)
        raise ValueError(f"--methods: {unknown[0]!r} is unknown; choose from {known}.")
    if args.store and args.split == "test":
        raise ValueError("--store must not use test images; pass --split validation.")
    if args.store and not args.layers:
        raise ValueError("--store needs candidate layers; pass --layers as well.")
    if args.store and not (Path(args.model) / "config.json").is_file():
        raise ValueError(f"--store needs a folder; download {args.model} first.")


def _store(model: str, record: dict) -> None:
    """Store the best method, and the Grad-CAM layer with the largest gain, in `config.json`."""
    from realfake.training.release import store_facts

    figures = record["figures"]
    gains = {
        name: each["gain"]["value"]
        for name, each in figures["faithfulness"].items()
        if name.partition("@")[0] == "gradcam" and each["gain"]["value"] is not None
    }
    # A name such as gradcam@stage.3 has a method and a layer.
    best = max(gains, key=gains.get, default="")
    facts = {
        "gradcam_layer": best.partition("@")[2] or record["gradcam_layer"],
        "explanation_method": (figures["default"] or "").partition("@")[0],
    }
    facts = {name: value for name, value in facts.items() if value}
    if facts:
        store_facts(model, facts)
    stored = ", ".join(f"{name} = {value}" for name, value in facts.items())
    print(f"Stored in {model}/config.json: {stored or 'nothing, no map beats chance'}.", flush=True)
