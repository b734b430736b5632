"""Write the card of a finished run anew, from the files beside its weights.

    python scripts/write_card.py runs/photos

No corpus is needed, and nothing is measured: figures are computed again from the stored scores, plots are drawn again, and
the card says what this version of the project says of them.
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
