"""Score a corpus of any size: one row per image in Parquet files, on one machine or many.

    realfake score photos --output scores
    realfake score user/corpus --split test --streaming --model user/my-detector --output scores
    realfake score 'hf://datasets/user/corpus/data/*.parquet' --output hf://datasets/user/scores/run-1

SOURCE is a folder of images at any depth, a Hub dataset, Parquet, Arrow, CSV or JSON files, a
folder written by save_to_disk, or a URL of Parquet or WebDataset files. --output is a folder of
Parquet files of fixed size, with the columns key, path, real, ai, log_odds, verdict, reason, ood,
n_views, differing, recomputed, error and model. An unreadable image is a row with an error. To read
the folder: datasets.load_dataset("parquet", data_dir="scores").

Verdicts equal those of `realfake predict`. Probabilities can differ from those of the stock
pipeline by up to 0.01: the command measures which engine is fastest within this tolerance, and
computes images near a threshold again in fp32. --exact computes everything in fp32, equal to the
pipeline to 1e-5.

After an interruption, the same command scores the missing images, with any number of processes.
Two runs cannot write to the same folder at once, unless both have --part.

    # two processes on one machine, with or without GPUs
    accelerate launch --multi_gpu --num_processes 2 -m realfake score photos --output scores

    # two machines that both see photos and scores; --machine_rank 1 on the second
    accelerate launch --multi_gpu --num_machines 2 --machine_rank 0 --num_processes 16 \\
        --main_process_ip 10.0.0.1 --main_process_port 29500 \\
        -m realfake score photos --output scores

    # Slurm: four nodes, one process with all cores on each; continues after preemption
    sbatch --nodes 4 --ntasks-per-node 1 --cpus-per-task 64 --requeue --wrap 'srun bash -c "
        torchrun --nnodes 4 --nproc_per_node 1 --rdzv_backend c10d --rdzv_id $SLURM_JOB_ID \\
        --rdzv_endpoint $(scontrol show hostnames | head -n 1) -m realfake score \\
        hf://datasets/user/corpus/data/*.parquet --output s3://bucket/scores"'

    # separate jobs, each with its part: a Slurm job array, or Hugging Face Jobs
    sbatch --array 1-32 --wrap \\
        'realfake score photos --output scores --part $SLURM_ARRAY_TASK_ID/32'
    for i in $(seq 32); do hf jobs run --detach --flavor cpu-upgrade --secrets HF_TOKEN \\
        python:3.11 bash -c "pip install -q openvino git+https://github.com/user/realfake && \\
        realfake score user/corpus --streaming --output hf://datasets/user/scores/run-1 \\
        --part $i/32"; done
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from realfake.cli import options

if TYPE_CHECKING:
    from realfake.scoring.source import ScoringSource


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
        "--num_threads",
        type=at_least(1),
        help="threads of each process (default: its share of the cores)",
    )
    options.add_views(parser)
    parser.add_argument("--part", metavar="I/N", help="score only part I of N, for separate jobs")
    parser.add_argument("--quiet", action="store_true", help="print the summary only")


def run(args: argparse.Namespace) -> int:
    """Score the share of this process, and print the summary in the first process."""
    part = _part(args.part)

    from transformers.utils import logging

    from realfake.detector import DEFAULT_CHECKPOINT
    from realfake.distributed import ProcessGroup
    from realfake.scoring.run import score_corpus
    from realfake.scoring.scorer import model_identity
    from realfake.scoring.shards import ScoreFolder
    from realfake.scoring.source import open_source

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    group = ProcessGroup.join()
    prefix = f"process {group.rank + 1} of {group.world_size}: " if group.world_size > 1 else ""

    def log(text: str) -> None:
        if not args.quiet:
            print(prefix + text, file=sys.stderr, flush=True)

    def open_(scratch: Path, fingerprint: str | None) -> "ScoringSource":
        return open_source(
            args.source,
            scratch,
            splits=args.split,
            config_name=args.dataset_config,
            revision=args.dataset_revision,
            streaming=args.streaming,
            image_column=args.image_column,
            cache_dir=args.cache_dir,
            fingerprint=fingerprint,
        )

    folder = ScoreFolder(args.output)
    detector = options.open_model(args, group.device())
    counts = score_corpus(
        detector,
        open_,
        folder,
        {
            "checkpoint": model_identity(args.model or DEFAULT_CHECKPOINT, detector),
            "label_map": args.label_map,
            "views": detector.limit(args.views),
        },
        group=group,
        part=part,
        exact=args.exact,
        engine=args.engine,
        batch_size=args.batch_size,
        chunk_size=args.chunk_size,
        threads=args.num_threads,
        views=args.views,
        log=log,
    )
    if counts is not None:
        _print_summary(args.output, counts, part[1])
    return 0


def _part(text: str | None) -> tuple[int, int]:
    """Return the index of the part, from 0, and the number of parts."""
    if text is None:
        return 0, 1
    number, _, total = text.partition("/")
    if not (number.isdigit() and total.isdigit() and 1 <= int(number) <= int(total)):
        raise ValueError(f"--part must be I/N with I from 1 to N, such as 3/32, not {text!r}.")
    return int(number) - 1, int(total)


def _print_summary(output: str, counts: dict, parts: int) -> None:
    verdicts = ", ".join(f"{count:,} {verdict}" for verdict, count in counts["verdicts"].items())
    unreadable = f", {counts['unreadable']:,} unreadable" if counts["unreadable"] else ""
    again = f"; {counts['recomputed']:,} recomputed in fp32" if counts["recomputed"] else ""
    print(f"{output}: {counts['images']:,} images: {verdicts or 'no verdicts'}{unreadable}{again}.")
    if counts["missing"]:
        how = "run the other parts" if parts > 1 else "give the same command again"
        print(f"{counts['missing']:,} images are not scored yet; {how}.")
