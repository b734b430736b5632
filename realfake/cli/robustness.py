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

PROGRAM = "evaluate_checkpoint.py"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line.

    Raises:
        ValueError: An option's value makes no sense.
    """
    from realfake.cli.options import (
        add_checkpoint_options,
        add_corpus_options,
        add_measuring_options,
    )
    from realfake.evaluation.robustness import check_degradations
    from realfake.imaging.degradations import GRID
    from realfake.io import check_least

    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_checkpoint_options(parser)
    add_corpus_options(parser)
    add_measuring_options(parser, split="test")
    parser.add_argument("--output_dir", help="Folder of the figures, and of the scores so far.")
    parser.add_argument(
        "--update_card",
        action="store_true",
        help="Write the figures beside the weights, and the card of this finished run anew; instead of --output_dir.",
    )
    parser.add_argument(
        "--degradations", default=",".join(GRID), help="Which of the grid, separated by commas."
    )
    parser.add_argument("--max_samples", type=int, help="Measure this many images at most.")
    parser.add_argument(
        "--batch_size", type=int, default=16, help="Images in one forward pass of a core."
    )
    parser.add_argument(
        "--slice",
        action="append",
        metavar="NAME=SOURCE,SOURCE",
        help="Look at the images of these sources by themselves; may be repeated. By default faces and sources of matched "
        "subjects, where the corpus has those that are known.",
    )
    parser.add_argument("--no_controls", action="store_true", help="Leave the two controls out.")
    parser.add_argument(
        "--max_control_samples",
        type=int,
        default=2000,
        help="Training images that the controls are fitted on.",
    )
    options = parser.parse_args(arguments)
    _choose_folder(options)
    options.degradations = check_degradations(options.degradations.split(","))
    check_least(options, batch_size=1, max_control_samples=20, max_samples=2, n_resamples=0)
    return options


def _choose_folder(options: argparse.Namespace) -> None:
    from pathlib import Path

    from realfake.card.render import TRAINING

    if bool(options.output_dir) == options.update_card:
        raise ValueError("Pass either --output_dir, for a report by itself, or --update_card.")
    if not options.update_card:
        return
    if not (Path(options.model) / TRAINING).is_file():
        raise ValueError(
            f"--update_card: {options.model} holds no {TRAINING}; it writes the card of a checkpoint that was trained here. "
            "Pass --output_dir for a report by itself."
        )
    options.output_dir = options.model


def main() -> int:
    """Parse the command line and do what it says; a user's mistake ends in one line and exit status 2."""
    from realfake import io

    try:
        options = parse_arguments()
        with io.output_folder(options.output_dir):
            return evaluate(options)
    except (ValueError, OSError) as error:
        return io.report_failure(PROGRAM, error)


def evaluate(options: argparse.Namespace) -> int:
    """Checkpoint and corpus → margins under each degradation → figures → report."""
    from pathlib import Path

    from realfake import io
    from realfake.card.render import rewrite_card
    from realfake.card.results import summary
    from realfake.cli import options as cli_options
    from realfake.corpus.rows import column, is_ai
    from realfake.evaluation import robustness_plots, robustness_report
    from realfake.evaluation.robustness_run import measure_robustness

    detector = cli_options.open_checkpoint(options)
    identity = cli_options.checkpoint_identity(options.model, detector)
    dataset, train = _splits(options)
    record, log_odds = measure_robustness(
        detector,
        identity,
        dataset,
        options.output_dir,
        split=options.split,
        corpus=options.corpus_name,
        command=io.command_line(),
        measurement_log=options.measurement_log,
        train=train,
        degradations=options.degradations,
        slices=_slices(options, column(dataset, "source")),
        batch_size=options.batch_size,
        seed=options.seed,
        n_resamples=options.n_resamples,
    )
    if options.update_card:
        written = rewrite_card(options.output_dir, options.measurement_log)
    else:
        plots = robustness_plots.write_robustness_plots(
            options.output_dir,
            options.split,
            log_odds["model"],
            is_ai(dataset),
            record["degradations"],
        )
        written = Path(options.output_dir) / robustness_report.REPORT_NAME
        io.write_atomically(written, robustness_report.render(record, options.split, plots))
    print(summary(record).replace("**", ""))
    print(f"Finished: {written}", flush=True)
    return 0


def _splits(options: argparse.Namespace):
    """The split to measure, and the training images of the controls or `None`."""
    from realfake.cli import options as cli_options
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


if __name__ == "__main__":
    sys.exit(main())
