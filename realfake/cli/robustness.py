"""Measure a checkpoint on recompressed, resized, cropped, blurred and noisy images.

    realfake evaluate robustness runs/photos --dataset ./corpus --output runs/photos/robustness
    realfake evaluate robustness user/detector --label_map LABEL_0=real,LABEL_1=ai \\
        --dataset user/corpus --output out --degradations clean,jpeg_40 --slice faces=ffhq,stylegan
    realfake evaluate robustness runs/photos --dataset ./corpus --update_card

Writes `evaluation.md` and `robustness.json`. Two controls that ignore the content are measured
beside the checkpoint. Scores are saved during the run: give the same command again to continue an
interrupted run. With `--update_card` the record and its plots are written into the checkpoint's
folder, and its card is rewritten.
"""

import argparse
import sys

from realfake.cli import options as cli_options


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    from realfake.imaging.degradations import GRID

    cli_options.add_model(parser)
    cli_options.add_corpus(parser)
    cli_options.add_measurement(parser, split="test")
    cli_options.add_output(parser, "folder of the figures and the scores", required=False)
    parser.add_argument(
        "--update_card",
        action="store_true",
        help="write the figures beside the weights and rewrite the card, instead of --output",
    )
    parser.add_argument(
        "--degradations", default=",".join(GRID), help="names of the grid, separated by commas"
    )
    parser.add_argument("--max_samples", type=cli_options.at_least(2), help="images to measure")
    cli_options.add_batch_size(parser, default=16)
    parser.add_argument(
        "--slice",
        action="append",
        metavar="NAME=SOURCE,SOURCE",
        help="report the images of these sources separately; can be repeated "
        "(default: known faces and matched subjects)",
    )
    parser.add_argument("--no_controls", action="store_true", help="leave out the two controls")
    parser.add_argument(
        "--max_control_samples",
        type=cli_options.at_least(20),
        default=2000,
        help="training images for the controls",
    )


def run(options: argparse.Namespace) -> int:
    """Measure, in a folder that no other process writes to."""
    from realfake import io
    from realfake.evaluation.robustness import check_degradations

    _choose_folder(options)
    options.degradations = check_degradations(options.degradations.split(","))
    with io.output_folder(options.output):
        return evaluate(options)


def _choose_folder(options: argparse.Namespace) -> None:
    from pathlib import Path

    from realfake.card.render import TRAINING

    if bool(options.output) == options.update_card:
        raise ValueError("Pass either --output, for a separate report, or --update_card.")
    if not options.update_card:
        return
    if not (Path(options.model) / TRAINING).is_file():
        raise ValueError(
            f"--update_card: {options.model} has no {TRAINING}, so it was not trained by this "
            "project; pass --output."
        )
    options.output = options.model


def evaluate(options: argparse.Namespace) -> int:
    """Score the split under each degradation, and write the figures and the report."""
    from pathlib import Path

    from realfake import io
    from realfake.card.render import rewrite_card
    from realfake.corpus.rows import column, is_ai
    from realfake.evaluation import robustness_report
    from realfake.evaluation.plots import write_robustness_plots
    from realfake.evaluation.robustness import measure_robustness

    detector = cli_options.open_model(options)
    identity = cli_options.model_identity(options.model, detector)
    dataset, train = _splits(options)
    record, scores = measure_robustness(
        detector,
        identity,
        dataset,
        options.output,
        split=options.split,
        corpus=options.corpus_name,
        command=io.command_line(),
        measurement_log=cli_options.measurement_log(options),
        train=train,
        degradations=options.degradations,
        slices=_slices(options, column(dataset, "source")),
        batch_size=options.batch_size,
        seed=options.seed,
        n_resamples=options.n_resamples,
    )
    if options.update_card:
        written = rewrite_card(options.output, cli_options.measurement_log(options))
    else:
        plots = write_robustness_plots(
            options.output, options.split, record["degradations"], scores["model"], is_ai(dataset)
        )
        written = Path(options.output) / robustness_report.REPORT_NAME
        io.write_atomically(written, robustness_report.render(record, options.split, plots))
    print(robustness_report.summary(record).replace("**", ""))
    print(f"Finished: {written}", flush=True)
    return 0


def _splits(options: argparse.Namespace):
    """Return the split to measure, and the training images of the controls or `None`."""
    from realfake.training import runs

    limits = {runs.source_split(options.split): options.max_samples}
    if not options.no_controls:
        limits.setdefault("train", options.max_control_samples)
    corpus = cli_options.read_corpus(options, limits)
    return runs.split_of(corpus, options.split, options.split_seed), _training(options, corpus)


def _training(options: argparse.Namespace, corpus):
    if options.no_controls:
        return None
    if options.split == "train":
        print(
            "The controls are left out: they are fitted on the images that are measured.",
            file=sys.stderr,
        )
        return None
    return corpus.splits["train"]


def _slices(options: argparse.Namespace, sources) -> dict[str, list[str]]:
    from realfake.evaluation.robustness import known_slices, read_slices

    return read_slices(options.slice, sources) if options.slice else known_slices(sources)
