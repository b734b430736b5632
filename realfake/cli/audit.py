"""Check whether a corpus gives its labels away: through file headers, duplicates or origins.

    realfake corpus audit corpus --output audit
    realfake corpus audit user/corpus --output audit --strict           # exit status 1 after a leak
    realfake corpus audit raw/ --output audit --equalize corpus-equal   # write a copy without leaks

It reads the same sources as `corpus prepare`, with the same options. It writes audit.html and
audit.md for people, audit.json for programs, and plots/. --equalize also writes a Parquet corpus
in which both labels have the same encoding, quality and sizes. Its images are cropped and encoded
again. The copy is audited too, and --strict then judges the copy.
"""

import argparse
import contextlib
from pathlib import Path

from realfake import io
from realfake.audit.audit import MAX_AUC, SAMPLE, Audit, audit
from realfake.audit.equalize import write_equalized
from realfake.audit.report import summary, write_report
from realfake.cli import options
from realfake.corpus.load import load_corpus
from realfake.corpus.splits import SPLITS


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    options.add_corpus(parser, measured=False)
    options.add_limits(parser, "train", "validation", "test")
    options.add_output(parser, "folder of the report; an older report is overwritten")
    parser.add_argument(
        "--sample", type=options.at_least(2), default=SAMPLE, help="images per split to examine"
    )
    parser.add_argument(
        "--max_auc",
        type=options.between(0.5, 1),
        default=MAX_AUC,
        help="areas under the ROC curve above this value are findings",
    )
    parser.add_argument("--strict", action="store_true", help="exit with status 1 after a leak")
    parser.add_argument(
        "--equalize", metavar="FOLDER", help="write a copy without the leaks to this empty folder"
    )
    parser.add_argument("--seed", type=int, default=42, help="seed of the sample and the folds")


def audit_corpus(args: argparse.Namespace) -> tuple[Audit, Audit | None]:
    """Load, audit, equalize if asked to, and write the report.

    Returns:
        The audit of the corpus, and of its equalized copy or `None`.

    Raises:
        ValueError: An option is out of range, or as [`load_corpus`].
        OSError: Something cannot be read or written.
    """
    output = Path(args.output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"The output {output} is a file; name a folder.")
    if args.equalize:
        io.check_empty(args.equalize, "--equalize")
        if Path(args.equalize).resolve() == output.resolve():
            raise ValueError(
                "--equalize and --output name the same folder; the copy needs one of its own."
            )
    limits = {split: getattr(args, f"max_{split}_samples") for split in SPLITS}
    if not args.equalize:  # then the sample is enough
        limits = {split: min(limit or args.sample, args.sample) for split, limit in limits.items()}
    corpus = options.read_corpus(args, limits)
    settings = {"sample": args.sample, "max_auc": args.max_auc, "seed": args.seed}
    with contextlib.ExitStack() as folders:
        for folder in filter(None, (args.output, args.equalize)):
            folders.enter_context(io.locked_folder(folder))
        found, equal, written = audit(corpus, **settings), None, None
        if args.equalize:
            written, matches = write_equalized(corpus, args.equalize, args.seed)
            copy = load_corpus(
                args.equalize,
                seed=args.split_seed,
                num_proc=args.preprocessing_num_workers,
                cache_dir=args.cache_dir,
            )
            equal = audit(copy, **settings, matches=matches)
        write_report(found, output, equal, written)
    return found, equal


def run(args: argparse.Namespace) -> int:
    """Audit, print the summary, and return 1 after a leak with `--strict`."""
    found, equal = audit_corpus(args)
    print(summary(found, equal))
    print(f"Written to {Path(args.output) / 'audit.html'}")
    if args.equalize:
        print(f"The equalized copy is in {args.equalize}")
    return 1 if args.strict and (equal or found).leaks else 0
