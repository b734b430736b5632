"""Compare checkpoints on generators and sources of photographs that their trainings left out.

    python scripts/choose.py runs/scenes-templates runs/earlier runs/both --output choice.json

The images are the validation split of `corpora/scenes_pairs.py`. The test split is not used.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from ablation import CONDITIONS, measure
from corpora.scenes_pairs import FAMILIES, read

from realfake.formatting import score, table
from realfake.io import write_atomically


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", type=Path, help="folder of Parquet files")
    parser.add_argument("checkpoints", type=Path, nargs="+", help="folders")
    parser.add_argument("--output", type=Path, help="JSON file of the figures", required=True)
    args = parser.parse_args(argv)
    dataset = read(sorted(args.corpus.glob("validation-*.parquet")))
    found = {}
    for folder in args.checkpoints:
        found[str(folder)] = measure(folder, dataset, FAMILIES)
        write_atomically(args.output, json.dumps(found, indent=1) + "\n")
    columns = [name for name, *_ in CONDITIONS]
    columns += [f"all views, {family}" for family in FAMILIES]
    rows = [[name, *(score(each[column]) for column in columns)] for name, each in found.items()]
    print(table(["checkpoint", *columns], rows))


if __name__ == "__main__":
    main()
