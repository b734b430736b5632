"""Commands that make a training corpus: prepare, audit, feedback."""

import argparse
import contextlib
import csv
import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from realfake import io
from realfake.cli import options
from realfake.labels import NAMES

if TYPE_CHECKING:
    from realfake.audit.audit import Audit
    from realfake.corpus.load import Corpus


# Prepare


def configure_prepare(parser: argparse.ArgumentParser) -> None:
    """Clean and split raw images into a corpus: folders, Parquet files, or a Hub dataset.

        realfake corpus prepare raw/ --output corpus
        realfake corpus prepare raw/ --output corpus --format parquet \\
            --label_map nature=real,sdxl=ai
        realfake corpus prepare raw/ --output corpus --format hub --push_to_hub user/name --private

    All other commands read the result with the same splits. Images that cannot be decoded are left
    out; report.json lists them with the reason. By default, files are copied unchanged. With
    --resize or --encoding, all images are encoded again in the same way and without metadata, so
    that neither size nor encoder reveals the class. JPEG has quality 95 and 4:4:4 chroma.
    """
    options.add_corpus(parser, measured=False)
    options.add_limits(parser, *options.SPLITS)
    options.add_output(parser, "new or empty folder for the corpus")
    parser.add_argument(
        "--format",
        choices=("folders", "parquet", "hub"),
        default="folders",
        help="folders: split/label/file with a metadata.csv per split; parquet: files with a "
        "dataset card; hub: the same, uploaded to --push_to_hub",
    )
    parser.add_argument(
        "--resize",
        type=options.at_least(8),
        metavar="PIXELS",
        help="shrink images to this longest side; encodes all images again",
    )
    parser.add_argument(
        "--encoding",
        choices=("jpeg", "png"),
        help="encode all images again (default with --resize: jpeg)",
    )
    parser.add_argument(
        "--push_to_hub", metavar="USER/NAME", help="Hub dataset to upload to, with --format hub"
    )
    parser.add_argument("--private", action="store_true", help="make the Hub dataset private")


def run_prepare(args: argparse.Namespace) -> int:
    """Write the corpus and print its report."""
    if (args.format == "hub") != bool(args.push_to_hub):
        raise ValueError(
            "--format hub and --push_to_hub USER/NAME go together; give both or neither."
        )
    if args.private and not args.push_to_hub:
        raise ValueError("--private needs --format hub and --push_to_hub USER/NAME.")
    output = io.check_empty(args.output)
    corpus = options.read_corpus(args)
    with io.locked_folder(output):
        io.check_empty(output)  # again, because reading takes time
        _write_corpus(corpus, output, args)
        if args.push_to_hub:
            _push(output, args.push_to_hub, args.private)
    print(corpus.report.summary())
    uploaded = f", uploaded to {args.push_to_hub}" if args.push_to_hub else ""
    print(f"Written to {args.output}{uploaded}")
    return 0


def _write_corpus(corpus: "Corpus", output: Path, args: argparse.Namespace) -> None:
    from realfake.corpus import write

    encoding = args.encoding or ("jpeg" if args.resize else None)
    write_split = write.write_folders if args.format == "folders" else write.write_parquet
    for split, rows in corpus.splits.items():
        write_split(output, split, rows, write.files_of(rows, args.resize, encoding))
    report = corpus.report
    settings = {
        "format": args.format,
        "resize": args.resize,
        "encoding": encoding,
        "seed": args.split_seed,
    }
    write.write_report(output, {"settings": settings, "corpus": report.to_dict()})
    if args.format == "folders":
        return
    how = "The files are unchanged."
    if encoding is not None:
        name = "PNG" if encoding == "png" else "JPEG, quality 95, 4:4:4"
        shrunk = f", with a longest side of at most {args.resize} pixels" if args.resize else ""
        how = f"All images were encoded again in the same way: {name}{shrunk}."
    classes = ", ".join(f"`{name}` is {label}" for name, label in report.label_map.items())
    write.write_card(
        output,
        (args.push_to_hub or output.resolve().name).split("/")[-1],
        report.splits,
        "origin",
        report.origins,
        [
            f"Classes of the source: {classes}.",
            f"{how} {len(report.dropped):,} rows of the source are left out: they have no label, "
            "cannot be decoded, or belong to a group of another split.",
        ],
    )


def _push(folder: Path, repo_id: str, private: bool) -> None:
    """Upload the card and the Parquet files, but not the report, which names local files."""
    from huggingface_hub import HfApi

    api = HfApi()
    repo_id = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
    api.upload_folder(
        repo_id=repo_id,
        repo_type="dataset",
        folder_path=folder,
        ignore_patterns=["report.json", io.LOCK_NAME],
        delete_patterns=["data/*.parquet"],  # files of an earlier upload would be read too
        commit_message="Upload the corpus",
    )


# Audit


def configure_audit(parser: argparse.ArgumentParser) -> None:
    """Check whether file properties, duplicates or origins reveal the labels of a corpus.

        realfake corpus audit corpus --output audit
        realfake corpus audit user/corpus --output audit --strict          # status 1 after a leak
        realfake corpus audit raw/ --output audit --equalize corpus-equal  # write a copy, no leaks

    Writes audit.html for people, audit.json for programs, and plots. Reads the same sources as
    `realfake corpus prepare`, with the same options. --equalize also writes a Parquet corpus in
    which both labels have the same encoding, quality and sizes: its images are cropped and encoded
    again. The copy is audited too, and --strict then applies to the copy.
    """
    # The probes are small; several threads would only wait for each other on a busy machine.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    options.add_corpus(parser, measured=False)
    options.add_limits(parser, *options.SPLITS)
    options.add_output(parser, "folder of the report; an older report is overwritten")
    parser.add_argument(
        "--sample", type=options.at_least(2), default=5000, help="images per split to examine"
    )
    parser.add_argument(
        "--max_auc",
        type=options.between(0.5, 1),
        default=0.6,
        help="report areas under the ROC curve above this value as findings",
    )
    parser.add_argument("--strict", action="store_true", help="exit with status 1 after a leak")
    parser.add_argument(
        "--equalize", metavar="FOLDER", help="write a copy without the leaks to this empty folder"
    )
    parser.add_argument("--seed", type=int, default=42, help="seed of the sample and the folds")


def run_audit(args: argparse.Namespace) -> int:
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

    limits = {split: getattr(args, f"max_{split}_samples") for split in options.SPLITS}
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


# Feedback

_COLUMNS = (
    *("sha256", "truth", "verdict", "log_odds", "model", "revision", "reports", "set"),
    *("why_left_out", "note"),
)


def configure_feedback(parser: argparse.ArgumentParser) -> None:
    """Turn feedback from the Space into an evaluation set and a set of hard examples.

        realfake corpus feedback feedback/ --output feedback-corpus --accept checked.txt
        realfake corpus feedback user/feedback --output feedback-corpus

    Uses the records with an image and a visitor's label. Visitors' labels are unchecked: read
    records.csv, write the hashes of images with a correct label to a file, and pass it as --accept.
    Images with contradicting labels are left out. The sets are disjoint; images that look the same
    are in the same set:

        evaluation/{real,ai}/    for `realfake evaluate robustness`
        hard/{real,ai}/          images with a wrong or no verdict, to add to a training corpus
        records.csv              all images with their labels and sets
    """
    parser.add_argument("feedback", metavar="SOURCE", help="folder of feedback, or Hub dataset")
    options.add_output(parser, "new or empty folder for the two sets")
    parser.add_argument(
        "--accept",
        metavar="FILE",
        help="SHA-256 hashes, one per line, of images with a checked label",
    )
    parser.add_argument(
        "--evaluation_share",
        type=options.between(0, 1, inclusive=True),
        default=0.5,
        help="share of the images for the evaluation set",
    )


def run_feedback(args: argparse.Namespace) -> int:
    """Write the two sets and the table of all images, and print the counts."""
    from realfake.space.feedback import read_feedback

    output = io.check_empty(args.output)
    folder = _feedback_folder(args.feedback)
    accepted = None
    if args.accept is not None:
        lines = Path(args.accept).read_text(encoding="utf-8").splitlines()
        accepted = {line.split()[0].lower() for line in lines if line.strip()}
    rows = _by_image(read_feedback(folder))
    if not rows:
        raise ValueError(f"{args.feedback} holds no feedback.")
    usable = []
    for row in rows:
        row["why_left_out"] = _unusable(row, accepted) or _load(row, folder)
        if not row["why_left_out"]:
            usable.append(row)
    for row, group in zip(usable, look_alikes([row["decoded"] for row in usable]), strict=True):
        # By the hash of the group's first image, so that feedback collected later changes nothing.
        digest = hashlib.sha256(usable[group]["sha256"].encode()).hexdigest()
        if int(digest[:8], 16) / 2**32 < args.evaluation_share:
            row["set"] = "evaluation"
        elif row["verdict"] != row["truth"]:
            row["set"] = "hard"
        else:
            row["why_left_out"] = "the verdict was right, and it is not in the evaluation set"
    _write_sets(rows, output)
    for name in ("evaluation", "hard"):
        chosen = [row["truth"] for row in rows if row["set"] == name]
        print(f"{name}: " + ", ".join(f"{chosen.count(label)} {label}" for label in NAMES))
    print(f"left out: {sum(not row['set'] for row in rows)}, see {output / 'records.csv'}")
    if accepted is None:
        print("Nobody has checked these labels; see --accept.")
    return 0


def _write_sets(rows: list[dict], output: Path) -> None:
    for row in rows:
        if row["set"]:
            target = output / row["set"] / row["truth"] / Path(row["image"]).name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(row["data"])
    output.mkdir(parents=True, exist_ok=True)
    with open(output / "records.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, "note": _escape(row["note"])} for row in rows)


def _feedback_folder(feedback: str) -> Path:
    if Path(feedback).is_dir():
        return Path(feedback)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        # No revision: the newest feedback is wanted, and its files are data, not code.
        folder = snapshot_download(  # nosec B615
            feedback, repo_type="dataset", allow_patterns=["records/*.jsonl", "images/*"]
        )
        return Path(folder)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        kind = type(error).__name__
        raise ValueError(
            f"{feedback} is neither a folder nor a readable dataset on the Hub ({kind})."
        ) from None


def _by_image(entries: Iterable[dict]) -> list[dict]:
    """Merge the reports on each image: the last report counts, and the label if all agree."""
    rows: dict[str, dict] = {}
    for entry in entries:
        row = rows.setdefault(entry["sha256"], {"truths": set(), "reports": 0, "image": None})
        row["truths"] |= {entry["truth"]} - {None}
        row["reports"] += 1
        row["image"] = entry.get("image") or row["image"]
        for name in ("sha256", "verdict", "log_odds", "model", "revision", "note"):
            row[name] = entry.get(name)
    for row in rows.values():
        row["truth"] = next(iter(row["truths"])) if len(row["truths"]) == 1 else None
        row["set"] = ""
    return [rows[digest] for digest in sorted(rows)]


def _unusable(row: dict, accepted: set[str] | None) -> str:
    """Return why a record cannot be used, or an empty text."""
    if not row["truths"]:
        return "no visitor gave a label"
    if len(row["truths"]) > 1:
        return "visitors disagree"
    if not row["image"]:
        return "no visitor shared the image"
    if accepted is not None and row["sha256"] not in accepted:
        return "not in --accept"
    return ""


def _load(row: dict, folder: Path) -> str:
    """Read the image into the row. Return why it cannot be used, or an empty text."""
    from realfake.imaging.decode import open_image

    if not re.fullmatch(r"images/[0-9a-f]{64}\.[a-z0-9]{1,8}", str(row["image"])):
        return "the file name is not one that feedback has"
    path = folder / row["image"]
    if not path.is_file():
        return "the file is missing"
    try:
        row["data"] = path.read_bytes()
        if hashlib.sha256(row["data"]).hexdigest() != row["sha256"]:
            return "the file is not the one that was judged"
        row["decoded"] = open_image(row["data"])
    except (ValueError, OSError) as error:
        return str(error)
    return ""


def look_alikes(images: list) -> list[int]:
    """Return for each image the index of the first image that looks the same."""
    import numpy as np

    from realfake.audit.duplicates import dhash, near_hashes

    first = list(range(len(images)))
    if len(images) > 1:
        for i, j in near_hashes(np.array([dhash(image) for image in images], dtype=np.uint64)):
            a, b = sorted((first[int(i)], first[int(j)]))
            first = [a if group == b else group for group in first]
    return first


def _escape(note: str | None) -> str:
    """Prevent a spreadsheet from reading the note as a formula."""
    note = " ".join((note or "").split())
    return f"'{note}" if note[:1] in ("=", "+", "-", "@") else note
