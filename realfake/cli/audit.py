"""Ask whether the label of a corpus leaks: through the files' headers, through duplicates, through where images come from.

    python scripts/audit_corpus.py corpus --output audit
    python scripts/audit_corpus.py user/corpus --output audit --strict 1          # exit status 1 where there is a leak
    python scripts/audit_corpus.py raw/ --output audit --equalize corpus-equal    # and write a copy without the leaks

Reads the same sources as prepare_corpus.py, with the same options. Writes audit.html and audit.md (for people), audit.json (for
machines) and plots/ into --output. --equalize writes a Parquet corpus whose labels share encoder, quality and sizes, by cropping
and encoding anew, and audits it too; then --strict judges that copy.
"""

import argparse
import contextlib
import sys
from pathlib import Path

from realfake import io
from realfake.audit.audit import MAX_AUC, SAMPLE, audit
from realfake.audit.equalize import write_equalized
from realfake.audit.report import summary, write_report
from realfake.audit.result import Audit
from realfake.cli.options import add_source_options, read_source
from realfake.corpus.load import load_corpus
from realfake.corpus.splits import SPLITS


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "source",
        help="Hub dataset id, folder of class folders, data files, or save_to_disk folder.",
    )
    parser.add_argument(
        "--output", required=True, help="Folder for the report; an older report is overwritten."
    )
    parser.add_argument(
        "--sample", type=int, default=SAMPLE, help="Images to look at in each split, at most."
    )
    parser.add_argument(
        "--max_auc",
        type=float,
        default=MAX_AUC,
        help="Areas under the ROC curve surely above this are findings.",
    )
    parser.add_argument(
        "--strict",
        type=int,
        choices=(0, 1),
        nargs="?",
        const=1,
        default=0,
        help="1: exit with status 1 where there is a leak, duplicates across splits included.",
    )
    parser.add_argument(
        "--equalize",
        metavar="OUT",
        help="Folder to write a copy without the leaks to; it must be empty or not exist yet.",
    )
    add_source_options(parser, "Seed of carved splits, of the sample and of the folds.")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> tuple[Audit, Audit | None]:
    """Load, audit, equalize if asked to, and write the report.

    Returns:
        The audit of the corpus, and of its equalized copy or `None`.

    Raises:
        ValueError: An option is out of range, or as [`load_corpus`].
        OSError: Something cannot be read or written.
    """
    if options.sample < 2:
        raise ValueError(
            f"--sample must be at least 2, one image of each class, not {options.sample}."
        )
    if not 0.5 <= options.max_auc < 1:
        raise ValueError(f"--max_auc must be at least 0.5 and below 1, not {options.max_auc}.")
    output = Path(options.output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"The output {output} is a file; name a folder.")
    if options.equalize:
        io.check_empty(options.equalize, "--equalize")
        if Path(options.equalize).resolve() == output.resolve():
            raise ValueError(
                "--equalize and --output name the same folder; the copy needs one of its own."
            )
    limits = {split: getattr(options, f"max_{split}_samples") for split in SPLITS}
    if not options.equalize:  # then no more than the sample need be checked
        limits = {
            split: min(limit or options.sample, options.sample) for split, limit in limits.items()
        }
    corpus = read_source(options, limits)
    settings = {"sample": options.sample, "max_auc": options.max_auc, "seed": options.seed}
    with contextlib.ExitStack() as folders:
        for folder in filter(None, (options.output, options.equalize)):
            folders.enter_context(io.locked_folder(folder))
        found, equal, written = audit(corpus, **settings), None, None
        if options.equalize:
            written, matches = write_equalized(corpus, options.equalize, options.seed)
            copy = load_corpus(
                options.equalize,
                seed=options.seed,
                num_proc=options.num_proc,
                cache_dir=options.cache_dir,
            )
            equal = audit(copy, **settings, matches=matches)
        write_report(found, output, equal, written)
    return found, equal


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        found, equal = run(options)
    except (ValueError, OSError) as error:
        return io.report_failure("audit_corpus.py", error)
    print(summary(found, equal))
    print(f"Written to {Path(options.output) / 'audit.html'}")
    if options.equalize:
        print(f"The equalized copy is in {options.equalize}")
    return 1 if options.strict and (equal or found).leaks else 0


if __name__ == "__main__":
    sys.exit(main())
