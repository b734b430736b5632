"""Write the card of a finished run anew, from the files beside its weights.

    python scripts/write_card.py runs/photos

No corpus is needed, and nothing is measured: figures are computed again from the stored scores, plots are drawn again, and
the card says what this version of the project says of them.
"""

import argparse
import sys

PROGRAM = "write_card.py"


def main() -> int:
    """Parse the command line and do what it says; a user's mistake ends in one line and exit status 2."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="Folder of a finished run.")
    parser.add_argument(
        "--measurement_log",
        default="realfake/checkpoints/measurements.jsonl",
        help="File in which measurements of test splits are noted.",
    )
    options = parser.parse_args()

    from realfake import io
    from realfake.card.render import rewrite_card

    try:
        for folder in options.folders:
            print(f"Finished: {rewrite_card(folder, options.measurement_log)}", flush=True)
    except (ValueError, OSError) as error:
        return io.report_failure(PROGRAM, error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
