"""Check whether a corpus gives its labels away: through file headers, duplicates or origins.

    realfake corpus audit corpus --output audit
    realfake corpus audit user/corpus --output audit --strict           # exit status 1 after a leak
    realfake corpus audit raw/ --output audit --equalize corpus-equal   # write a copy without leaks

It reads the same sources as `corpus prepare`, with the same options. It writes audit.html for
people, audit.json for programs, and plots/. --equalize also writes a Parquet corpus in which both
labels have the same encoding, quality and sizes. Its images are cropped and encoded again. The
copy is audited too, and --strict then judges the copy.
"""

import argparse
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from realfake import io
from realfake.cli import options

if TYPE_CHECKING:
    from realfake.audit.audit import Audit


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    # The probes are small; several threads would only wait for each other on a busy machine.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    options.add_corpus(parser, measured=False)
    options.add_limits(parser, "train", "validation", "test")
    options.add_output(parser, "folder of the report; an older report is overwritten")
    parser.add_argument(
        "--sample", type=options.at_least(2), default=5000, help="images per split to examine"
    )
    parser.add_argument(
        "--max_auc",
        type=options.between(0.5, 1),
        default=0.6,
        help="areas under the ROC curve above this value are findings",
    )
    parser.add_argument("--strict", action="store_true", help="exit with status 1 after a leak")
    parser.add_argument(
        "--equalize", metavar="FOLDER", help="write a copy without the leaks to this empty folder"
    )
    parser.add_argument("--seed", type=int, default=42, help="seed of the sample and the folds")


def run(args: argparse.Namespace) -> int:
    """Audit, equalize if requested, write the report, and return 1 after a leak with `--strict`."""
    from realfake.audit.report import summary

    output = Path(args.output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"The output {output} is a file; name a folder.")
    if args.equalize:
        io.check_empty(args.equalize, "--equalize")
        if Path(args.equalize).resolve() == output.resolve():
            raise ValueError("--equalize and --output name the same folder; name two folders.")
    original, copy = _audit(args, output)
    print(summary(original, copy))
    print(f"Written to {output / 'audit.html'}")
    if copy is not None:
        print(f"The equalized copy is in {args.equalize}")
    return 1 if args.strict and (copy or original).leaks else 0


def _audit(args: argparse.Namespace, output: Path) -> "tuple[Audit, Audit | None]":
    """Return the audit of the corpus, and that of its equalized copy."""
    from realfake.audit.audit import audit
    from realfake.audit.equalize import write_equalized
    from realfake.audit.report import write_report
    from realfake.corpus.load import load_corpus
    from realfake.corpus.splits import SPLITS

    limits = {split: getattr(args, f"max_{split}_samples") for split in SPLITS}
    if not args.equalize:  # then the sample is enough
        limits = {split: min(limit or args.sample, args.sample) for split, limit in limits.items()}
    corpus = options.read_corpus(args, limits)
    settings = {"sample": args.sample, "max_auc": args.max_auc, "seed": args.seed}
    with contextlib.ExitStack() as locks:
        for folder in filter(None, (args.output, args.equalize)):
            locks.enter_context(io.locked_folder(folder))
        original, copy, written = audit(corpus, **settings), None, None
        if args.equalize:
            written, matches = write_equalized(corpus, args.equalize, args.seed)
            equalized = load_corpus(
                args.equalize,
                seed=args.split_seed,
                num_proc=args.preprocessing_num_workers,
                cache_dir=args.cache_dir,
            )
            copy = audit(equalized, **settings, matches=matches)
        write_report(original, output, copy, written)
    return original, copy
