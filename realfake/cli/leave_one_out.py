"""Train without one generator after the other, and print how well each is found by a detector that never saw it.

    python scripts/leave_one_out.py --dataset ./corpus --column family --output_dir runs/leave-one-out \
        --model_name_or_path google/vit-base-patch16-224 --num_train_epochs 3

Every option that is not listed below goes to `train_hf.py`. Neither training nor the choice of the checkpoint sees the value
that is left out, nor an image of its groups, and the test split is not measured: choose by these figures, and measure test
once, at the end. Finished runs are kept when the same command is given again.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

PROGRAM = "leave_one_out.py"


def parse_arguments(arguments: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Parse the command line.

    Returns:
        The script's own options, and the words for `train_hf.py`.

    Raises:
        ValueError: An option's value makes no sense.
    """
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=__doc__.split("\n\n")[0],
        epilog="All other options go to train_hf.py.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--output_dir", required=True, help="Folder of the runs and of the table.")
    parser.add_argument(
        "--column",
        default="generator",
        help="Whose values are left out: generator, family, source.",
    )
    parser.add_argument(
        "--values",
        help="Which of them, separated by commas; defaults to all that are large enough.",
    )
    parser.add_argument(
        "--min_images",
        type=int,
        default=30,
        help="Leave out values with so many ai images, or more.",
    )
    parser.add_argument(
        "--launcher", help='What starts a run, e.g. "accelerate launch --num_processes 2".'
    )
    options, words = parser.parse_known_args(arguments)
    if options.min_images < 1:
        raise ValueError(f"--min_images must be at least 1, not {options.min_images}.")
    for word in ("--hold_out", "--measure_test"):
        if any(given == word or given.startswith(f"{word}=") for given in words):
            raise ValueError(f"{word} is set for each run; leave it out.")
    return options, words


def main(arguments: list[str] | None = None) -> int:
    """Train, compare and print; a user's mistake ends in one line and exit status 2."""
    from realfake import io

    try:
        return leave_one_out(*parse_arguments(arguments))
    except (ValueError, OSError) as error:
        return io.report_failure(PROGRAM, error)


def leave_one_out(options: argparse.Namespace, words: list[str]) -> int:
    """Corpus → values → runs → table, in a folder that nobody else writes to."""
    from realfake import io
    from realfake.formatting import slug
    from realfake.training import runs
    from realfake.training import series as training_series

    folder = Path(options.output_dir)
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
        Path(options.output_dir), "leave_one_out", found, failed, comparison.held_out_page
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


if __name__ == "__main__":
    sys.exit(main())
