"""Measure whether a checkpoint judges the picture or the file: the same picture as PNG, JPEG, WebP and equalized.

    python scripts/evaluate_formats.py runs/photos --dataset ./corpus --split test --output_dir runs/photos

Of the pictures that get a verdict as they are: how many keep it, turn to the opposite one, or get none. Writes `formats.json`,
which the card shows where it lies beside the weights (`scripts/write_card.py`).
"""

import argparse

from realfake.cli import options as cli_options


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    cli_options.add_model(parser)
    cli_options.add_corpus(parser)
    cli_options.add_measurement(parser, split="test")
    cli_options.add_output(parser, "folder of the figures")
    parser.add_argument("--max_samples", type=cli_options.at_least(2), help="images to measure")
    cli_options.add_batch_size(parser)


def run(options: argparse.Namespace) -> int:
    """Measure, in a folder that no other process writes to."""
    from realfake import io

    with io.output_folder(options.output):
        return evaluate(options)


def evaluate(options: argparse.Namespace) -> int:
    """Checkpoint and corpus → scores of each file → figures → record."""
    from datetime import UTC, datetime
    from pathlib import Path

    from realfake import io
    from realfake.card import results as words
    from realfake.corpus.rows import corpus_fingerprint
    from realfake.evaluation import formats
    from realfake.evaluation.log import log_once
    from realfake.training import runs

    detector = cli_options.open_model(options)
    corpus = cli_options.read_corpus(
        options, {runs.split_to_read(options.split): options.max_samples}
    )
    dataset = runs.part_of(corpus, options.split, options.split_seed)
    scores = formats.score_formats(detector, dataset, options.batch_size)
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint_sha256": cli_options.model_identity(options.model, detector),
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
            cli_options.measurement_log(options),
            checkpoint_hash=record["checkpoint_sha256"],
            # Named apart: these figures say nothing of how often the detector is right.
            corpus=f"{options.corpus_name} (files)",
            split=options.split,
            n=len(dataset),
            date=record["date"],
            command=record["command"],
            figures={name: figures["kept"]["value"] for name, figures in record["formats"].items()},
        )
    written = Path(options.output) / words.FILE_NAME
    io.write_record(written, options.split, record)
    print(words.formats_table(record))
    print(f"Finished: {written}", flush=True)
    return 0
