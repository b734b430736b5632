"""Measure whether a checkpoint judges the picture or the file: the same picture as PNG, JPEG, WebP and equalized.

    python scripts/evaluate_formats.py runs/photos --dataset ./corpus --split test --output_dir runs/photos

Of the pictures that get a verdict as they are: how many keep it, turn to the opposite one, or get none. Writes `formats.json`,
which the card shows where it lies beside the weights (`scripts/write_card.py`).
"""

import argparse
import sys

PROGRAM = "evaluate_formats.py"


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
    from realfake.io import check_least

    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_checkpoint_options(parser)
    add_corpus_options(parser)
    add_measuring_options(parser, split="test")
    parser.add_argument("--output_dir", required=True, help="Folder of the figures.")
    parser.add_argument("--max_samples", type=int, help="Measure this many images at most.")
    parser.add_argument("--batch_size", type=int, default=32, help="Images in one forward pass.")
    options = parser.parse_args(arguments)
    check_least(options, max_samples=2, batch_size=1, n_resamples=0)
    return options


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
    """Checkpoint and corpus → scores of each file → figures → record."""
    from datetime import UTC, datetime
    from pathlib import Path

    from realfake import io
    from realfake.card import results as words
    from realfake.cli import options as cli_options
    from realfake.corpus.rows import corpus_fingerprint
    from realfake.evaluation import formats
    from realfake.evaluation.log import log_once
    from realfake.training import runs

    detector = cli_options.open_checkpoint(options)
    corpus = cli_options.read_corpus(
        options, {runs.split_to_read(options.split): options.max_samples}
    )
    dataset = runs.part_of(corpus, options.split, options.split_seed)
    scores = formats.score_formats(detector, dataset, options.batch_size)
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint_sha256": cli_options.checkpoint_identity(options.model, detector),
        "model": detector.name,
        "corpus": options.corpus_name,
        "corpus_fingerprint": corpus_fingerprint(dataset),
        "n": len(dataset),
        "described": {name: described for name, (described, _) in formats.FORMATS.items()},
        "command": io.command_line(),
        "versions": io.versions(),
        "formats": formats.format_figures(
            detector, scores, dataset, options.n_resamples, options.seed
        ),
    }
    if options.split == "test":
        log_once(
            options.measurement_log,
            checkpoint_hash=record["checkpoint_sha256"],
            # Named apart: these figures say nothing of how often the detector is right.
            corpus=f"{options.corpus_name} (files)",
            split=options.split,
            n=len(dataset),
            date=record["date"],
            command=record["command"],
            figures={name: figures["kept"]["value"] for name, figures in record["formats"].items()},
        )
    written = Path(options.output_dir) / words.FILE_NAME
    io.write_record(written, options.split, record)
    print(words.formats_table(record))
    print(f"Finished: {written}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
