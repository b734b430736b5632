"""Score a corpus of any size: one row per image in Parquet files, on one machine or a cluster.

    realfake score photos --output scores
    realfake score user/corpus --split test --streaming --model user/my-detector --output scores
    realfake score 'hf://datasets/user/corpus/data/*.parquet' --output hf://datasets/user/scores/run-1
    realfake score s3://bucket/corpus/*.parquet --output s3://bucket/scores --ray

SOURCE is a folder of images at any depth, a Hub dataset, Parquet, Arrow, CSV or JSON files, a
folder written by save_to_disk, or a URL of Parquet or WebDataset files. --output is a folder of
Parquet files of fixed size, with the columns key, path, real, ai, log_odds, verdict, reason, ood,
n_views, differing, recomputed, error and model. An unreadable image is a row with an error. To read
the folder: datasets.load_dataset("parquet", data_dir="scores").

Verdicts equal those of `realfake predict`. Probabilities can differ from those of the stock
pipeline by up to 0.01: the command measures which engine is fastest within this tolerance, and
computes images near a threshold again in fp32. --exact computes everything in fp32, equal to the
pipeline to 1e-5.

After an interruption, the same command scores the missing images. Two runs cannot write to the same
folder at once.

With --ray, the machines of a Ray cluster share the work, and a machine that is lost is replaced by
the others. All machines must see the source and the output. To use several GPUs of one machine:

    realfake score photos --output scores --ray --gpus_per_actor 1
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from realfake.cli import options

if TYPE_CHECKING:
    from realfake.scoring.cluster import Cluster


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    # One core per thread of this command. PyTorch reads the variable when it is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from realfake.engines import ENGINES

    at_least = options.at_least
    parser.add_argument("source", metavar="SOURCE", help="folder, file, Hub dataset, or URL")
    options.add_output(parser, "folder or fsspec URL for the Parquet files")
    options.add_model(parser, positional=False)
    parser.add_argument(
        "--split", action="append", help="split to score; can be repeated (default: all)"
    )
    parser.add_argument("--dataset_config", help="configuration of a Hub dataset")
    parser.add_argument("--dataset_revision", help="branch, tag or commit of a Hub dataset")
    parser.add_argument("--image_column", help="column of the images")
    parser.add_argument(
        "--streaming", action="store_true", help="stream the dataset instead of downloading it"
    )
    parser.add_argument("--cache_dir", help="cache folder of the datasets library")
    parser.add_argument(
        "--exact", action="store_true", help="compute in fp32, equal to the stock pipeline to 1e-5"
    )
    parser.add_argument(
        "--engine", choices=ENGINES, help="use this engine instead of measuring which is fastest"
    )
    parser.add_argument(
        "--batch_size", type=at_least(1), help="images in one forward pass (default: 16)"
    )
    parser.add_argument(
        "--chunk_size",
        type=at_least(1),
        help="images in one Parquet file; an interruption loses at most these (default: depends on "
        "the size of the source)",
    )
    parser.add_argument(
        "--num_threads", type=at_least(1), help="number of threads (default: all cores)"
    )
    parser.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="score on a Ray cluster (default: the cluster of RAY_ADDRESS, or this machine)",
    )
    parser.add_argument(
        "--ray_actors",
        type=at_least(1),
        metavar="N",
        help="processes on the cluster (default: one for each core or GPU)",
    )
    parser.add_argument(
        "--gpus_per_actor",
        type=options.between(0, 64, inclusive=True),
        default=0.0,
        metavar="G",
        help="GPUs of each process on the cluster; 0.5 lets two share one (default: 0)",
    )
    options.add_views(parser)
    parser.add_argument(
        "--early_exit",
        action="store_true",
        help="skip views that can hardly change the verdict of an image; an edited part can then "
        "be missed (default: examine all views)",
    )
    parser.add_argument("--quiet", action="store_true", help="print the summary only")


def run(args: argparse.Namespace) -> int:
    """Score the source, and print a summary."""
    from transformers.utils import logging

    from realfake.detector import DEFAULT_CHECKPOINT
    from realfake.scoring.run import score_corpus
    from realfake.scoring.scorer import model_identity
    from realfake.scoring.shards import ScoreFolder
    from realfake.scoring.source import open_source

    logging.set_verbosity_error()
    logging.disable_progress_bar()

    def log(text: str) -> None:
        if not args.quiet:
            print(text, file=sys.stderr, flush=True)

    source = {
        "source": args.source,
        "splits": args.split,
        "config_name": args.dataset_config,
        "revision": args.dataset_revision,
        "streaming": args.streaming,
        "image_column": args.image_column,
        "cache_dir": args.cache_dir,
    }

    detector = options.open_model(args)
    cluster = None if args.ray is None else _cluster(args, source)
    try:
        counts = score_corpus(
            detector,
            lambda scratch: open_source(**source, scratch=scratch),
            ScoreFolder(args.output),
            {
                "checkpoint": model_identity(args.model or DEFAULT_CHECKPOINT, detector),
                "label_map": args.label_map,
                "views": detector.limit(args.views),
                **({"early_exit": True} if args.early_exit else {}),
            },
            exact=args.exact,
            engine=args.engine,
            batch_size=args.batch_size,
            chunk_size=args.chunk_size,
            threads=args.num_threads,
            views=args.views,
            early_exit=args.early_exit,
            cluster=cluster,
            log=log,
        )
    finally:
        if cluster is not None:
            cluster.close()
    _print_summary(args.output, counts)
    return 0


def _cluster(args: argparse.Namespace, source: dict) -> "Cluster":
    from realfake.scoring.cluster import Cluster

    model, revision = options.split_revision(args.model)
    if model and Path(model).is_dir():
        model = str(Path(model).resolve())  # the actors have another working directory
    if "://" not in args.source and Path(args.source).exists():
        source = {**source, "source": str(Path(args.source).resolve())}
    return Cluster(
        {
            "model": model,
            "revision": revision,
            "label_map": options.parse_overrides(args.label_map) or None,
        },
        source,
        args.output if "://" in args.output else str(Path(args.output).resolve()),
        address=args.ray or None,
        actors=args.ray_actors,
        gpus=args.gpus_per_actor,
    )


def _print_summary(output: str, counts: dict) -> None:
    verdicts = ", ".join(f"{count:,} {verdict}" for verdict, count in counts["verdicts"].items())
    unreadable = f", {counts['unreadable']:,} unreadable" if counts["unreadable"] else ""
    again = f"; {counts['recomputed']:,} recomputed in fp32" if counts["recomputed"] else ""
    print(f"{output}: {counts['images']:,} images: {verdicts or 'no verdicts'}{unreadable}{again}.")
    if counts["missing"]:
        print(f"{counts['missing']:,} images are not scored yet; give the same command again.")
