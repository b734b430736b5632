"""Clean and split raw images into a corpus: folders, Parquet files, or a Hub dataset.

    realfake corpus prepare raw/ --output corpus
    realfake corpus prepare raw/ --output corpus --format parquet --label_map nature=real,sdxl=ai
    realfake corpus prepare raw/ --output corpus --format hub --push_to_hub user/name --private

Every command that takes a corpus reads the result with the same splits. Images that cannot be
decoded are left out; report.json lists them with the reason. By default the files keep their bytes.
With --resize or --encoding, every image is encoded again in the same way, without metadata, so that
neither size nor encoder reveals the class: as JPEG of quality 95 without chroma subsampling, or
PNG.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from realfake import io
from realfake.cli import options

if TYPE_CHECKING:
    from realfake.corpus.load import Corpus


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    options.add_corpus(parser, measured=False)
    options.add_limits(parser, "train", "validation", "test")
    options.add_output(parser, "folder to write; it must be empty or not exist yet")
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
        help="shrink images to this longest side; encodes every image again",
    )
    parser.add_argument(
        "--encoding", choices=("jpeg", "png"), help="encode every image again (--resize: jpeg)"
    )
    parser.add_argument(
        "--push_to_hub", metavar="USER/NAME", help="Hub dataset to upload to, with --format hub"
    )
    parser.add_argument("--private", action="store_true", help="make the Hub dataset private")


def run(args: argparse.Namespace) -> int:
    """Prepare the corpus and print its report."""
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
        _write(corpus, output, args)
        if args.push_to_hub:
            _push(output, args.push_to_hub, args.private)
    print(corpus.report.summary())
    uploaded = f", uploaded to {args.push_to_hub}" if args.push_to_hub else ""
    print(f"Written to {args.output}{uploaded}")
    return 0


def _write(corpus: "Corpus", output: Path, args: argparse.Namespace) -> None:
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
    how = "The files keep their original bytes."
    if encoding is not None:
        name = "PNG" if encoding == "png" else "JPEG, quality 95, 4:4:4"
        shrunk = f", with a longest side of at most {args.resize} pixels" if args.resize else ""
        how = f"All images were encoded again in the same way: {name}{shrunk}."
    classes = ", ".join(f"`{found}` is {label}" for found, label in report.label_map.items())
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
