"""Turn raw folders, data files or a Hub dataset into a cleaned, split corpus: folders, Parquet, or a Hub dataset.

    python scripts/prepare_corpus.py raw/ --output corpus
    python scripts/prepare_corpus.py raw/ --output corpus --format parquet --label_map nature=real,midjourney=ai
    python scripts/prepare_corpus.py raw/ --output corpus --format hub --push_to_hub user/name --private

Reads with `realfake.corpus.load.load_corpus`, which reads the result again with the same splits. Images that cannot be decoded
are left out; `report.json` in the output says which and why. By default the files keep their bytes. With `--resize` or
`--encoding` every image is encoded anew and alike, whatever its class and size, without metadata, so that neither size nor
encoder gives the class away: JPEG of quality 95 without chroma subsampling, or PNG.
"""

import argparse
import csv
import json
import math
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import PIL.Image
from datasets import Dataset, Features, Image
from huggingface_hub import DatasetCardData, HfApi

from realfake import io
from realfake.cli import options
from realfake.corpus.load import Corpus
from realfake.imaging.decode import open_image
from realfake.labels import NAMES

SHARD_BYTES = 256 * 2**20
_SIGNATURES = (
    (b"\xff\xd8", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"\0\0\0\x0cjP", ".jp2"),
    (b"P5", ".pgm"),
    (b"P6", ".ppm"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    options.add_corpus(parser, measured=False)
    options.add_limits(parser, "train", "validation", "test")
    options.add_output(parser, "folder to write; it must be empty or not exist yet")
    parser.add_argument(
        "--format",
        choices=("folders", "parquet", "hub"),
        default="folders",
        help="folders: split/label/file with a metadata.csv per split; parquet: shards with a dataset card; "
        "hub: the same, uploaded to --push_to_hub",
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


def prepare(args: argparse.Namespace) -> Corpus:
    """Load, write and, if asked to, upload a corpus.

    Raises:
        ValueError: The options contradict each other, the output is not empty, or as [`load_corpus`].
        OSError: Something cannot be read, written or uploaded.
    """
    output = Path(args.output)
    if (args.format == "hub") != bool(args.push_to_hub):
        raise ValueError(
            "--format hub and --push_to_hub USER/NAME go together; give both or neither."
        )
    if args.private and not args.push_to_hub:
        raise ValueError(
            "--private is about a Hub dataset; give --format hub and --push_to_hub USER/NAME too."
        )
    io.check_empty(output)
    corpus = options.read_corpus(args)
    with io.locked_folder(output):
        io.check_empty(output)  # of what somebody else wrote there meanwhile, too
        write_corpus(corpus, output, args)
        if args.push_to_hub:
            push(output, args.push_to_hub, args.private)
    return corpus


def write_corpus(corpus: Corpus, output: Path, args: argparse.Namespace) -> None:
    """Write the splits, the report and, beside Parquet, the card."""
    encoding = args.encoding or ("jpeg" if args.resize else None)
    write = write_folders if args.format == "folders" else write_parquet
    for split, rows in corpus.splits.items():
        write(output, split, rows, args.resize, encoding)
    settings = {
        "format": args.format,
        "resize": args.resize,
        "encoding": encoding,
        "seed": args.split_seed,
    }
    report = {"settings": settings, "corpus": corpus.report.to_dict()}
    (output / "report.json").write_text(
        json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    if args.format != "folders":
        name = (args.push_to_hub or output.resolve().name).split("/")[-1]
        (output / "README.md").write_text(
            dataset_card(name, corpus, args.resize, encoding), encoding="utf-8"
        )


def encoded(image: dict, resize: int | None, encoding: str | None) -> bytes:
    """The bytes of an image's file: as they are, or encoded anew."""
    if encoding is None:
        return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
    pixels = open_image(image)
    if resize is not None:
        pixels.thumbnail((resize, resize), PIL.Image.Resampling.LANCZOS)
    buffer = BytesIO()
    if encoding == "png":
        pixels.save(buffer, "PNG")
    else:
        pixels.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def suffix_of(data: bytes) -> str:
    """The file name suffix that says what the bytes are; the name a file had may lie."""
    for signature, suffix in _SIGNATURES:
        if data.startswith(signature):
            return suffix
    return ".avif" if data[4:8] == b"ftyp" else ".webp"


def files_of(
    rows: Dataset, resize: int | None, encoding: str | None
) -> Iterator[tuple[str, bytes, dict]]:
    """For each row its file's name, the bytes, and the other columns with the label by name."""
    names = rows.features["label"].names
    for index, row in enumerate(rows):
        data = encoded(row.pop("image"), resize, encoding)
        row["label"] = names[row["label"]]
        yield f"{index:06d}{suffix_of(data)}", data, row


def write_folders(
    output: Path, split: str, rows: Dataset, resize: int | None, encoding: str | None
) -> None:
    """Write `split/label/file`, and `split/metadata.csv` in the form that datasets' `imagefolder` reads."""
    for label in NAMES:
        (output / split / label).mkdir(parents=True)
    columns = [name for name in rows.column_names if name != "image"]
    with open(output / split / "metadata.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["file_name", *columns])
        writer.writeheader()
        for name, data, row in files_of(rows, resize, encoding):
            path = f"{row['label']}/{name}"
            (output / split / path).write_bytes(data)
            writer.writerow({"file_name": path, **row})


def write_parquet(
    output: Path, split: str, rows: Dataset, resize: int | None, encoding: str | None
) -> None:
    """Write `data/split-00000-of-00001.parquet`, …, each of about 256 MiB, which is held in memory."""
    (output / "data").mkdir(exist_ok=True)
    sample = rows.select(range(0, len(rows), max(1, len(rows) // 100)))
    mean = sum(len(data) for _, data, _ in files_of(sample, resize, encoding)) / len(sample)
    shards = math.ceil(mean * len(rows) / SHARD_BYTES)
    for index in range(shards):
        shard = rows.shard(shards, index, contiguous=True)
        columns = {name: [] for name in rows.column_names}
        for name, data, row in files_of(shard, resize, encoding):
            columns["image"].append({"bytes": data, "path": name})
            for column, value in row.items():
                columns[column].append(value)
        path = output / "data" / f"{split}-{index:05d}-of-{shards:05d}.parquet"
        # Stored as images, so that whoever loads the shards is given pictures.
        features = Features({**rows.features, "image": Image()})
        Dataset.from_dict(columns, features=features).to_parquet(path)


def dataset_card(name: str, corpus: Corpus, resize: int | None, encoding: str | None) -> str:
    """A small dataset card, with the metadata by which the Hub finds the splits."""
    report = corpus.report
    files = [{"split": split, "path": f"data/{split}-*"} for split in corpus.splits]
    data = DatasetCardData(
        pretty_name=name,
        task_categories=["image-classification"],
        tags=["ai-generated-image-detection"],
        configs=[{"config_name": "default", "data_files": files}],
    )
    rows = [
        f"| {split} | {counts['real']:,} | {counts['ai']:,} | {report.origins[split]} |"
        for split, counts in report.splits.items()
    ]
    if encoding is None:
        how = "Files keep their original bytes."
    else:
        how = f"All images were encoded anew and alike ({'PNG' if encoding == 'png' else 'JPEG, quality 95, 4:4:4'})"
        how += f", the longest side at most {resize} pixels." if resize else "."
    lines = [
        "---",
        data.to_yaml(),
        "---",
        "",
        f"# {name}",
        "",
        "Photographs (`real`) and AI-generated images (`ai`).",
        "",
        "| split | real | ai | how it was made |",
        "| --- | ---: | ---: | --- |",
        *rows,
        "",
        "Classes of the source: "
        + ", ".join(f"`{found}` is {label}" for found, label in report.label_map.items())
        + ".",
        "",
        f"{how} {len(report.dropped):,} rows of the source are left out (no label, not decodable, or of a group that is in "
        "another split too).",
        "",
        "State here where the images come from and under which licence they may be used.",
        "",
    ]
    return "\n".join(lines)


def push(folder: Path, repo_id: str, private: bool) -> None:
    """Upload the card and the shards. The report stays here: it names files of this machine."""
    api = HfApi()
    repo_id = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
    api.upload_folder(
        repo_id=repo_id,
        repo_type="dataset",
        folder_path=folder,
        ignore_patterns=["report.json", io.LOCK_NAME],
        delete_patterns=["data/*.parquet"],  # shards of an earlier upload would be read too
        commit_message="Upload the corpus",
    )


def run(args: argparse.Namespace) -> int:
    """Prepare the corpus and print what it holds."""
    corpus = prepare(args)
    print(corpus.report.summary())
    uploaded = f", uploaded to {args.push_to_hub}" if args.push_to_hub else ""
    print(f"Written to {args.output}{uploaded}")
    return 0
