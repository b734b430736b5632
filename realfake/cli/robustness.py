"""Measure a checkpoint on a corpus under the degradations that images meet on the web.

    python scripts/evaluate_checkpoint.py runs/photos --dataset ./corpus --split test --output_dir runs/photos/robustness
    python scripts/evaluate_checkpoint.py user/detector --label_map LABEL_0=real,LABEL_1=ai --dataset user/corpus --split test \
        --output_dir out --degradations clean,jpeg_40,webp_50 --slice faces=ffhq,stylegan

    python scripts/evaluate_checkpoint.py runs/photos --dataset ./corpus --update_card

Writes `evaluation.md` and `robustness.json`. Every image is decoded once and scored as it is, recompressed, resized, cropped,
blurred and so on; beside the checkpoint stand two controls that know nothing of what images show. Scores are kept in
`.log_odds` as they are computed: give the same command again, and a run that was interrupted continues. With `--update_card`
the record and its plots go into the checkpoint's own folder, and its card is written anew.
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
        help="report the images of these sources separately; can be repeated (default: known faces and matched "
        "subjects)",
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
            f"--update_card: {options.model} has no {TRAINING}, so it was not trained by this project; pass --output."
        )
    options.output = options.model


def evaluate(options: argparse.Namespace) -> int:
    """Checkpoint and corpus → margins under each degradation → figures → report."""
    from pathlib import Path

    from realfake import io
    from realfake.card.render import rewrite_card
    from realfake.card.results import summary
    from realfake.corpus.rows import column, is_ai
    from realfake.evaluation import robustness_plots, robustness_report
    from realfake.evaluation.robustness_run import measure_robustness

    detector = cli_options.open_model(options)
    identity = cli_options.model_identity(options.model, detector)
    dataset, train = _splits(options)
    record, log_odds = measure_robustness(
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
        plots = robustness_plots.write_robustness_plots(
            options.output, options.split, log_odds["model"], is_ai(dataset), record["degradations"]
        )
        written = Path(options.output) / robustness_report.REPORT_NAME
        io.write_atomically(written, robustness_report.render(record, options.split, plots))
    print(summary(record).replace("**", ""))
    print(f"Finished: {written}", flush=True)
    return 0


def _splits(options: argparse.Namespace):
    """The split to measure, and the training images of the controls or `None`."""
    from realfake.training import runs

    limits = {runs.split_to_read(options.split): options.max_samples}
    if not options.no_controls:
        # One split cannot be read twice: what is measured is then what the controls are fitted on.
        limits.setdefault("train", options.max_control_samples)
    corpus = cli_options.read_corpus(options, limits)
    return runs.part_of(corpus, options.split, options.split_seed), _training(options, corpus)


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
    from realfake.evaluation.robustness_figures import known_slices, read_slices

    return read_slices(options.slice, sources) if options.slice else known_slices(sources)
