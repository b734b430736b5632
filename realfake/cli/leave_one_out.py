"""Train without each generator in turn and measure how well it is detected.

    realfake leave-one-out --dataset ./corpus --column family --output runs/leave-one-out \\
        --model_name_or_path google/vit-base-patch16-224 --num_train_epochs 3

All other options go to `realfake train`. The training and the choice of the checkpoint exclude the
value and its groups. The test split is not measured: choose a model by these figures and measure it
once, at the end. The same command continues an interrupted series.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from realfake.cli import options as cli_options

if TYPE_CHECKING:
    from realfake.corpus.load import Corpus


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    cli_options.add_output(parser, "folder of the runs and the table")
    parser.add_argument(
        "--column", default="generator", help="column to leave out: generator, family or source"
    )
    parser.add_argument(
        "--values", help="values to leave out, separated by commas (default: all large ones)"
    )
    parser.add_argument(
        "--min_images",
        type=cli_options.at_least(1),
        default=30,
        help="smallest number of ai images of a value",
    )
    parser.add_argument(
        "--launcher",
        help='command that starts a run, such as "accelerate launch --num_processes 2"',
    )


def run(options: argparse.Namespace) -> int:
    """Train, measure and print, in a folder that no other process writes to."""
    from realfake import io
    from realfake.formatting import slug
    from realfake.training import comparison, runs, series
    from realfake.training.arguments import parse

    folder, words = Path(options.output), [*options.training_options, "--measure_test", "False"]
    set_here = ("--hold_out", "--measure_test", "--output_dir")
    series.refuse_options(options.training_options, *set_here, hint="leave it out")
    corpus = runs.load(parse([*words, "--output_dir", str(folder)]).data)
    trainings = [
        series.Run(
            value,
            (*words, "--hold_out", f"{options.column}={value}"),
            folder / slug(value.replace("/", "-").replace(" ", "-")),
        )
        for value in _values(options, corpus)
    ]
    series.check_folders(trainings)
    with io.locked_folder(folder):
        failed = series.train_all(trainings, options.launcher)
        done = [training for training in trainings if training.finished]
        if not done:
            reasons = "; ".join(f"{name}: {line}" for name, line in failed.items())
            raise ValueError(f"No run was finished; {reasons}")
        figures = {"column": options.column, "values": comparison.held_out_figures(done)}
        return series.write_report(
            folder, "leave_one_out", figures, failed, comparison.held_out_page
        )


def _values(options: argparse.Namespace, corpus: "Corpus") -> list[str]:
    from realfake.corpus.rows import is_ai

    counts: Counter = Counter()
    for split in ("train", "validation"):
        rows = corpus.splits[split]
        if options.column not in rows.column_names:
            raise ValueError(
                f"--column: the corpus has no column {options.column!r}; it has "
                f"{', '.join(rows.column_names)}."
            )
        values = zip(rows[options.column], is_ai(rows), strict=True)
        counts.update(value for value, generated in values if generated and value)
    if options.values:
        return list(
            dict.fromkeys(value.strip() for value in options.values.split(",") if value.strip())
        )
    large = sorted(
        value for value, n in counts.items() if n >= options.min_images and "," not in value
    )
    if not large:
        raise ValueError(
            f"No {options.column} has {options.min_images} ai images; lower --min_images."
        )
    return large
