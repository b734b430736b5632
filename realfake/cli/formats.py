"""Measure how many verdicts change when pictures are saved as PNG, JPEG, WebP or equalized.

    realfake evaluate formats runs/photos --dataset ./corpus --output runs/photos

Writes `formats.json`, which the card of the checkpoint in the same folder shows (`realfake card`).
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
    """Score every picture in every format and write the figures."""
    from pathlib import Path

    from realfake import io
    from realfake.evaluation import formats
    from realfake.training import runs

    detector = cli_options.open_model(options)
    limits = {runs.source_split(options.split): options.max_samples}
    corpus = cli_options.read_corpus(options, limits)
    record = formats.measure_formats(
        detector,
        cli_options.model_identity(options.model, detector),
        runs.split_of(corpus, options.split, options.split_seed),
        options.output,
        split=options.split,
        corpus=options.corpus_name,
        command=io.command_line(),
        measurement_log=cli_options.measurement_log(options),
        batch_size=options.batch_size,
        seed=options.seed,
        n_resamples=options.n_resamples,
    )
    print(formats.formats_table(record))
    print(f"Finished: {Path(options.output) / formats.FILE_NAME}", flush=True)
    return 0
