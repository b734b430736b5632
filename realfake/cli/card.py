"""Rewrite the model card of a finished run from the files beside its weights.

    realfake card runs/photos

Recomputes the figures from the stored scores and redraws the plots. Needs no corpus.
"""

import argparse

from realfake.cli import options


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="folder of a finished run")
    options.add_measurement_log(parser)


def run(args: argparse.Namespace) -> int:
    """Write the cards."""
    from realfake.card.render import rewrite_card

    for folder in args.folders:
        print(f"Finished: {rewrite_card(folder, args.measurement_log or folder)}", flush=True)
    return 0
