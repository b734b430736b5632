"""Train without one generator after the other, and print how well each is found by a detector that never saw it.

    python scripts/leave_one_out.py --dataset ./corpus --column family --output_dir runs/leave-one-out \
        --model_name_or_path google/vit-base-patch16-224 --num_train_epochs 3

Every option that is not listed below goes to `train_hf.py`. Neither training nor the choice of the checkpoint sees the value
that is left out, nor an image of its groups, and the test split is not measured: choose by these figures, and measure test
once, at the end. Finished runs are kept when the same command is given again.
"""

import argparse
from collections import Counter
from pathlib import Path

from realfake.cli import options as cli_options


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
    """Train, compare and print; `options.training_options` go to each run."""
    words = options.training_options
    for word in ("--hold_out", "--measure_test", "--output_dir"):
        if any(given == word or given.startswith(f"{word}=") for given in words):
            raise ValueError(f"{word} is set for each run; leave it out.")
    return leave_one_out(options, words)


def leave_one_out(options: argparse.Namespace, words: list[str]) -> int:
    """Corpus → values → runs → table, in a folder that nobody else writes to."""
    from realfake import io
    from realfake.formatting import slug
    from realfake.training import runs
    from realfake.training import series as training_series

    folder = Path(options.output)
    words = [*words, "--measure_test", "False"]
    parsed = runs.parse([*words, "--output_dir", str(folder)])
    corpus = runs.load(parsed.data, parsed.run)
    series = [
        training_series.Run(
            value,
            (*words, "--hold_out", f"{options.column}={value}"),
            folder / slug(value.replace("/", "-").replace(" ", "-")),
        )
        for value in _values(options, corpus)
    ]
    if len({run.folder for run in series}) < len(series):
        raise ValueError("Two values would share a folder; leave one of them out with --values.")
    with io.locked_folder(folder):
        return train_and_compare(options, series)


def train_and_compare(options: argparse.Namespace, series: list) -> int:
    """Runs → figures → table."""
    from realfake.training import comparison
    from realfake.training import series as training_series

    training_series.check_folders(series)
    failed = training_series.train_all(series, options.launcher)
    done = [run for run in series if run.finished]
    if not done:
        raise ValueError(
            f"No run was finished; {'; '.join(f'{name}: {line}' for name, line in failed.items())}"
        )
    found = {"column": options.column, "values": comparison.held_out_figures(done)}
    return training_series.conclude(
        Path(options.output), "leave_one_out", found, failed, comparison.held_out_page
    )


def _values(options: argparse.Namespace, corpus) -> list[str]:
    from realfake.corpus.rows import is_ai

    counts: Counter = Counter()
    for split in ("train", "validation"):
        rows = corpus.splits[split]
        if options.column not in rows.column_names:
            raise ValueError(
                f"--column: the corpus has no column {options.column!r}; it has {', '.join(rows.column_names)}."
            )
        counts.update(
            value
            for value, made in zip(rows[options.column], is_ai(rows), strict=True)
            if made and value
        )
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
