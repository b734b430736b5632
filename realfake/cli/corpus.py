"""Commands that make a training corpus: prepare, reconstruct, audit, feedback."""

import argparse
import contextlib
import csv
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from realfake import io
from realfake.cli import options
from realfake.labels import AI, NAMES, REAL

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


# Reconstruct


def configure_reconstruct(parser: argparse.ArgumentParser) -> None:
    """Make aligned pairs: photographs, and the same photographs through a generator's autoencoder.

        realfake corpus reconstruct photos/ --autoencoder stabilityai/sd-vae-ft-mse --output pairs
        realfake corpus reconstruct corpus/ --autoencoder taef2/ --output more --counterparts_only
        realfake train --dataset pairs --balance 0.5 --pair_share 0.5 --pair_mix 0.2 …

    The output is a corpus in Parquet files. A reconstruction has the size, format, JPEG quality
    and group of its photograph, and the generator "autoencoder (…)". Of a corpus, the photographs
    of the training split are used. Needs diffusers, except for the tiny autoencoder of FLUX.2
    (taef2).
    """
    parser.add_argument("photos", metavar="PHOTOS", help="folder of image files, or a corpus")
    parser.add_argument(
        "--autoencoder",
        required=True,
        metavar="ID_OR_FOLDER",
        help="AutoencoderKL or AutoencoderTiny of diffusers, or the folder of taef2",
    )
    options.add_output(parser, "new or empty folder for the corpus")
    parser.add_argument(
        "--counterparts_only",
        action="store_true",
        help="write the reconstructions without the photographs, to add them to a corpus",
    )
    parser.add_argument(
        "--max_images", type=options.at_least(1), help="number of photographs, drawn at random"
    )
    parser.add_argument(
        "--max_side",
        type=options.at_least(16),
        default=1024,
        metavar="PIXELS",
        help="crop larger photographs to their centre",
    )
    options.add_batch_size(parser, 8)
    options.add_device(parser)


def run_reconstruct(args: argparse.Namespace) -> int:
    """Reconstruct the photographs and write the corpus."""
    import numpy as np
    from datasets import Dataset
    from tqdm.auto import tqdm

    from realfake.corpus import reconstruction, write
    from realfake.models.autoencoders import load_autoencoder

    output = io.check_empty(args.output)
    photographs = reconstruction.read_photographs(args.photos)
    if args.counterparts_only and "group" not in photographs.column_names:
        raise ValueError(
            f"--counterparts_only: {args.photos} has no column group that ties a reconstruction to "
            "its photograph; leave the option out."
        )
    if args.max_images and args.max_images < len(photographs):
        drawn = np.random.default_rng(0).permutation(len(photographs))[: args.max_images]
        photographs = photographs.select(np.sort(drawn))
    folder = Path(args.autoencoder)
    name = folder.resolve().name if folder.is_dir() else args.autoencoder
    autoencoder = load_autoencoder(args.autoencoder, args.device)
    counts: Counter = Counter()

    def rows() -> Iterator[dict]:
        pairs = reconstruction.reconstruct(
            photographs, autoencoder, name, args.batch_size, args.max_side
        )
        for pair in tqdm(pairs, total=len(photographs), unit=" images"):
            for row in pair[1:] if args.counterparts_only else pair:
                counts[NAMES[row["label"]]] += 1
                yield row

    with io.locked_folder(output):
        io.check_empty(output)  # again, because reading takes time
        empty = Dataset.from_dict(
            {name: [] for name in reconstruction.FEATURES}, features=reconstruction.FEATURES
        )
        write.write_parquet(output, "train", empty, write.files_of(rows()))
        if not counts[AI]:
            raise ValueError(f"{args.photos} holds no photograph that can be decoded.")
        write.write_card(
            output,
            output.resolve().name,
            {"train": {label: counts[label] for label in (REAL, AI)}},
            "generator",
            {"train": f"{reconstruction.FAMILY} ({name})"},
            [
                "Each image of class `ai` is a photograph that passed through the autoencoder of "
                "an image generator. It has the size, format, JPEG quality and `group` of its "
                "photograph."
            ],
        )
    print(f"{counts[AI]:,} photographs reconstructed, written to {args.output}")
    return 0


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
    from realfake.space.feedback import sort_feedback

    output = io.check_empty(args.output)
    folder = _feedback_folder(args.feedback)
    accepted = None
    if args.accept is not None:
        lines = Path(args.accept).read_text(encoding="utf-8").splitlines()
        accepted = {line.split()[0].lower() for line in lines if line.strip()}
    rows = sort_feedback(folder, accepted, args.evaluation_share)
    if not rows:
        raise ValueError(f"{args.feedback} holds no feedback.")
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


def _escape(note: str | None) -> str:
    """Prevent a spreadsheet from reading the note as a formula."""
    note = " ".join((note or "").split())
    return f"'{note}" if note[:1] in ("=", "+", "-", "@") else note
