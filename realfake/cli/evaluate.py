"""Commands that measure a detector and show the figures: evaluate …, card."""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from realfake import io
from realfake.cli import options

if TYPE_CHECKING:
    from datasets import Dataset

    from realfake.corpus.load import Corpus
    from realfake.detector import Detector

_GRID = "grid"


def _opened(
    args: argparse.Namespace, accelerate: bool = True, **limits: int | None
) -> "tuple[Detector, str, Corpus, Dataset]":
    """Return the detector with its identity, and the corpus with the split to measure."""
    from realfake.training import runs

    detector = options.open_model(args)
    if accelerate:
        detector.accelerate()
    identity = options.model_identity(args.model, detector)
    corpus = options.read_corpus(args, {**limits, runs.source_split(args.split): args.max_samples})
    return detector, identity, corpus, runs.split_of(corpus, args.split, args.split_seed)


# Robustness


def configure_robustness(parser: argparse.ArgumentParser) -> None:
    """Measure a detector on recompressed, resized, cropped, blurred and noisy images.

        realfake evaluate robustness runs/photos --dataset ./corpus --output runs/photos/robustness
        realfake evaluate robustness user/detector --label_map LABEL_0=real,LABEL_1=ai \\
            --dataset user/corpus --output out --degradations clean,jpeg_40 \\
            --slice faces=ffhq,stylegan
        realfake evaluate robustness runs/photos --dataset ./corpus --update_card \\
            --degradations grid,retouched,small --max_category_samples 200

    Writes robustness.json and evaluation.md. Also measures two controls that ignore the content of
    an image. The groups `retouched` (edited photographs: false alarms) and `small` (small images)
    are measured on a sample and written to categories.json. With --update_card, writes the files
    beside the weights and rewrites the model card. Nothing is uploaded; `hf upload` does that. The
    same command continues an interrupted run.
    """
    from realfake.evaluation.variants import CATEGORIES
    from realfake.imaging.degradations import GRID

    options.add_measurement(parser, split="test")
    options.add_output(parser, "folder of the figures and the scores", required=False)
    parser.add_argument(
        "--update_card",
        action="store_true",
        help="instead of --output: write beside the weights and rewrite the model card",
    )
    parser.add_argument(
        "--degradations",
        default=_GRID,
        help=f"names of {', '.join(GRID)}, or of the groups {_GRID} (all of these), "
        f"{', '.join(CATEGORIES)}; separated by commas",
    )
    parser.add_argument("--max_samples", type=options.at_least(2), help="images to measure")
    parser.add_argument(
        "--max_category_samples",
        type=options.at_least(2),
        default=400,
        help="images to measure of each group but the grid",
    )
    options.add_batch_size(parser, default=16)
    parser.add_argument(
        "--slice",
        action="append",
        metavar="NAME=SOURCE,SOURCE",
        help="also report the images of these sources separately; can be repeated (default: known "
        "faces and matched subjects)",
    )
    parser.add_argument("--no_controls", action="store_true", help="leave out the two controls")
    parser.add_argument(
        "--max_control_samples",
        type=options.at_least(20),
        default=2000,
        help="training images for the controls",
    )


def run_robustness(args: argparse.Namespace) -> int:
    """Score the split under each degradation, and write the figures and the report or card."""
    _choose_folder(args)
    names, categories = _read_degradations(args.degradations)
    with io.output_folder(args.output):
        written = _measure_robustness(args, names, categories)
    print(f"Finished: {written}", flush=True)
    return 0


def _choose_folder(args: argparse.Namespace) -> None:
    from realfake.card.render import TRAINING

    if bool(args.output) == args.update_card:
        raise ValueError("Pass either --output, for a separate report, or --update_card.")
    if not args.update_card:
        return
    if not (Path(args.model) / TRAINING).is_file():
        raise ValueError(
            f"--update_card: {args.model} has no {TRAINING}, so it was not trained by this "
            "project; pass --output."
        )
    args.output = args.model


def _read_degradations(text: str) -> tuple[list[str], list[str]]:
    """Return the degradations of the grid and the categories that a text names."""
    from realfake.evaluation.variants import CATEGORIES
    from realfake.imaging.degradations import GRID

    words = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    known = [*GRID, _GRID, *CATEGORIES]
    unknown = [word for word in words if word not in known]
    if unknown or not words:
        wrong = f"unknown name {', '.join(map(repr, unknown))}" if unknown else "no name"
        raise ValueError(f"--degradations: {wrong}; choose from {', '.join(known)}.")
    names = list(GRID) if _GRID in words else [word for word in words if word in GRID]
    return names, [word for word in words if word in CATEGORIES]


def _measure_robustness(
    args: argparse.Namespace, names: Sequence[str], categories: Sequence[str]
) -> str | Path:
    from realfake.card.render import rewrite_card
    from realfake.corpus.rows import column, is_ai
    from realfake.evaluation import report, variants
    from realfake.evaluation.plots import write_robustness_plots
    from realfake.evaluation.robustness import known_slices, measure_robustness, read_slices

    controls = names and not args.no_controls
    limits = {"train": args.max_control_samples} if controls else {}
    detector, identity, corpus, dataset = _opened(args, **limits)
    shared = {"batch_size": args.batch_size, "seed": args.seed, **options.measurement_context(args)}
    written, tables = Path(args.output) / variants.CATEGORIES_FILE, []
    if categories:
        most = args.max_category_samples
        measured = variants.measure_categories(
            detector, identity, dataset, args.output, categories, most=most, **shared
        )
        tables = [variants.category_table(measured, category) for category in categories]
        print("\n\n".join(tables))
    if names:
        sources = column(dataset, "source")
        record, log_odds = measure_robustness(
            detector,
            identity,
            dataset,
            args.output,
            train=_control_images(args, corpus),
            degradations=names,
            slices=read_slices(args.slice, sources) if args.slice else known_slices(sources),
            **shared,
        )
        print(report.summary(record).replace("**", ""))
    if args.update_card:
        return rewrite_card(args.output, options.measurement_log(args))
    if names:
        plots = write_robustness_plots(
            args.output, args.split, record["degradations"], log_odds, is_ai(dataset)
        )
        written = Path(args.output) / report.ROBUSTNESS_NAME
        io.write_atomically(written, report.robustness_page(record, args.split, plots, tables))
    return written


def _control_images(args: argparse.Namespace, corpus: "Corpus") -> "Dataset | None":
    if args.no_controls:
        return None
    if args.split != "train":
        return corpus.splits["train"]
    print(
        "The controls are left out: they are fitted on the images that are measured.",
        file=sys.stderr,
    )
    return None


# Formats


def configure_formats(parser: argparse.ArgumentParser) -> None:
    """Measure how many verdicts change when images are saved as PNG, JPEG, WebP or equalized.

        realfake evaluate formats runs/photos --dataset ./corpus --output runs/photos

    Writes formats.json. `realfake card` shows its figures on the model card of the same folder.
    """
    options.add_measurement(parser, split="test")
    options.add_output(parser, "folder of the figures")
    parser.add_argument("--max_samples", type=options.at_least(2), help="images to measure")
    options.add_batch_size(parser)


def run_formats(args: argparse.Namespace) -> int:
    """Score each image in each format and write the figures."""
    from realfake.evaluation import variants

    with io.output_folder(args.output):
        detector, identity, _, dataset = _opened(args)
        record = variants.measure_formats(
            detector,
            identity,
            dataset,
            args.output,
            batch_size=args.batch_size,
            seed=args.seed,
            **options.measurement_context(args),
        )
    print(variants.formats_table(record))
    print(f"Finished: {Path(args.output) / variants.FORMATS_FILE}", flush=True)
    return 0


# Views


def configure_views(parser: argparse.ArgumentParser) -> None:
    """Measure one view, four views and the whole image, and how well an edited part is found.

        realfake evaluate views runs/photos --dataset ./corpus --output runs/photos

    Writes views.json: the figures for each number of views with paired differences, and how often
    spliced and untouched photographs have a part that differs from the rest.
    """
    from realfake.evaluation.views import NUMBERS

    options.add_measurement(parser, split="test")
    options.add_output(parser, "folder of the figures")
    parser.add_argument(
        "--numbers",
        type=options.at_least(1),
        nargs="+",
        default=list(NUMBERS),
        help="numbers of views to compare with the first one",
    )
    parser.add_argument(
        "--splices",
        type=options.at_least(0),
        default=100,
        help="spliced photographs to test; 0: none",
    )
    parser.add_argument("--max_samples", type=options.at_least(2), help="images to measure")
    parser.add_argument(
        "--sources", nargs="+", metavar="NAME", help="measure only images of these sources"
    )
    options.add_batch_size(parser, default=16)


def run_views(args: argparse.Namespace) -> int:
    """Score the split with each number of views and write the figures."""
    from realfake.corpus.rows import column
    from realfake.evaluation import views

    with io.output_folder(args.output):
        detector, identity, _, dataset = _opened(args)
        if args.sources:
            sources = column(dataset, "source") or []
            dataset = dataset.select(
                [row for row, source in enumerate(sources) if source in args.sources]
            )
            if not len(dataset):
                raise ValueError(f"--sources: no image is from {', '.join(args.sources)}.")
        record = views.write_views(
            detector,
            identity,
            dataset,
            args.output,
            numbers=args.numbers,
            n_splices=args.splices,
            batch_size=args.batch_size,
            seed=args.seed,
            **options.measurement_context(args),
        )
    print(views.views_table(record))
    print(f"Finished: {Path(args.output) / views.FILE_NAME}", flush=True)
    return 0


# Gallery


def configure_gallery(parser: argparse.ArgumentParser) -> None:
    """Score reported images, and list what changed since the last run.

        realfake corpus feedback user/feedback --output reported
        realfake evaluate gallery runs/vit reported --output gallery.json

    The folder holds images in folders `real` and `ai`, at any depth. Writes the verdict and the
    log-odds of each image. An existing output file is the earlier run to compare with.
    """
    options.add_model(parser)
    parser.add_argument("folder", metavar="FOLDER", help="folder of the reported images")
    options.add_output(parser, "JSON file to write")
    parser.add_argument(
        "--before", metavar="FILE", help="record to compare with (default: the file at --output)"
    )
    options.add_batch_size(parser, default=16)


def run_gallery(args: argparse.Namespace) -> int:
    """Score the images, and print and write the record."""
    from realfake.evaluation import gallery

    gallery.find_images(args.folder)
    detector = options.open_model(args)
    record = gallery.measure_gallery(
        detector,
        options.model_identity(args.model, detector),
        args.folder,
        args.output,
        before=args.before,
        command=io.command_line(),
        batch_size=args.batch_size,
    )
    print(gallery.summary(record))
    print(f"Finished: {args.output}", flush=True)
    return 0


# Explanations


def configure_explanations(parser: argparse.ArgumentParser) -> None:
    """Measure how faithful the maps of each attribution method are.

        realfake evaluate explanations runs/vit --dataset ./corpus --layers 6 --store -o runs/vit
        realfake evaluate explanations runs/vit --dataset ./corpus --split test -o runs/vit

    Choose the method and the layer on validation images, and measure them once on test images.
    Writes explanations.json and explanations.md. `realfake card` shows the figures on the model
    card of the same folder. The same command continues an interrupted run.
    """
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


def run_explanations(args: argparse.Namespace) -> int:
    """Measure the maps, and write the figures and the report."""
    from realfake.evaluation import explanations, report

    _check_explanations(args)
    output, model = Path(args.output), Path(args.model)
    with contextlib.ExitStack() as folders:
        folders.enter_context(io.output_folder(output))
        if args.store and model.resolve() != output.resolve():
            folders.enter_context(io.output_folder(model))
        detector, identity, _, dataset = _opened(args, accelerate=False)
        record = explanations.measure_explanations(
            detector,
            identity,
            dataset,
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
        print(report.best_method(record).replace("**", ""))
        if args.store:
            _store_choice(args.model, record)
    print(f"Finished: {output / report.EXPLANATIONS_NAME}", flush=True)
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


def _store_choice(model: str, record: dict) -> None:
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


# Model card


def configure_card(parser: argparse.ArgumentParser) -> None:
    """Rewrite the model card of a finished run from the files beside its weights.

        realfake card runs/photos

    Recomputes the figures from the stored scores and redraws the plots. Needs no corpus.
    """
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="folder of a finished run")
    options.add_measurement_log(parser)


def run_card(args: argparse.Namespace) -> int:
    """Write the cards."""
    from realfake.card.render import rewrite_card

    for folder in args.folders:
        print(f"Finished: {rewrite_card(folder, args.measurement_log or folder)}", flush=True)
    return 0
