"""Commands that measure a detector: robustness, formats, views, gallery."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from realfake import io
from realfake.cli import options

if TYPE_CHECKING:
    from datasets import Dataset

    from realfake.corpus.load import Corpus

_GRID = "grid"


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
    from realfake.evaluation.categories import CATEGORIES
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
    from realfake.evaluation.categories import CATEGORIES
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
    from realfake.evaluation import categories as groups
    from realfake.evaluation import robustness, robustness_report
    from realfake.evaluation.plots import write_robustness_plots
    from realfake.training import runs

    detector = options.open_model(args)
    detector.accelerate()
    identity = options.model_identity(args.model, detector)
    limits = {runs.source_split(args.split): args.max_samples}
    if names and not args.no_controls:
        limits.setdefault("train", args.max_control_samples)
    corpus = options.read_corpus(args, limits)
    dataset = runs.split_of(corpus, args.split, args.split_seed)
    shared = {"batch_size": args.batch_size, "seed": args.seed, **options.measurement_context(args)}
    written, tables = Path(args.output) / groups.FILE_NAME, []
    if categories:
        most = args.max_category_samples
        measured = groups.measure_categories(
            detector, identity, dataset, args.output, categories, most=most, **shared
        )
        tables = [groups.category_table(measured, category) for category in categories]
        print("\n\n".join(tables))
    if names:
        sources = column(dataset, "source")
        record, log_odds = robustness.measure_robustness(
            detector,
            identity,
            dataset,
            args.output,
            train=_control_images(args, corpus),
            degradations=names,
            slices=_slices(args.slice, sources),
            **shared,
        )
        print(robustness_report.summary(record).replace("**", ""))
    if args.update_card:
        return rewrite_card(args.output, options.measurement_log(args))
    if names:
        plots = write_robustness_plots(
            args.output, args.split, record["degradations"], log_odds, is_ai(dataset)
        )
        written = Path(args.output) / robustness_report.REPORT_NAME
        io.write_atomically(written, robustness_report.render(record, args.split, plots, tables))
    return written


def _control_images(args: argparse.Namespace, corpus: "Corpus") -> "Dataset | None":
    if args.no_controls:
        return None
    if args.split == "train":
        print(
            "The controls are left out: they are fitted on the images that are measured.",
            file=sys.stderr,
        )
        return None
    return corpus.splits["train"]


def _slices(texts: Sequence[str] | None, sources: Sequence | None) -> dict[str, list[str]]:
    from realfake.evaluation.robustness import known_slices, read_slices

    return read_slices(texts, sources) if texts else known_slices(sources)


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
    from realfake.evaluation import formats
    from realfake.training import runs

    with io.output_folder(args.output):
        detector = options.open_model(args)
        detector.accelerate()
        corpus = options.read_corpus(args, {runs.source_split(args.split): args.max_samples})
        record = formats.measure_formats(
            detector,
            options.model_identity(args.model, detector),
            runs.split_of(corpus, args.split, args.split_seed),
            args.output,
            batch_size=args.batch_size,
            seed=args.seed,
            **options.measurement_context(args),
        )
    print(formats.formats_table(record))
    print(f"Finished: {Path(args.output) / formats.FILE_NAME}", flush=True)
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
    from realfake.training import runs

    with io.output_folder(args.output):
        detector = options.open_model(args)
        detector.accelerate()
        corpus = options.read_corpus(args, {runs.source_split(args.split): args.max_samples})
        dataset = runs.split_of(corpus, args.split, args.split_seed)
        if args.sources:
            sources = column(dataset, "source") or []
            dataset = dataset.select(
                [row for row, source in enumerate(sources) if source in args.sources]
            )
            if not len(dataset):
                raise ValueError(f"--sources: no image is from {', '.join(args.sources)}.")
        record = views.write_views(
            detector,
            options.model_identity(args.model, detector),
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
