"""Score a corpus of any size with a detector: one Parquet row an image, on one machine or on many.

    python scripts/score.py ./photos --out scores
    python scripts/score.py user/corpus --split test --streaming --model user/my-detector --out scores
    python scripts/score.py 'hf://datasets/user/corpus/data/*.parquet' --out hf://datasets/user/scores/run-1

SOURCE is a folder of images (any folders below it, or class folders), a Hub dataset, Parquet, Arrow, CSV or JSON files, a
folder written by `save_to_disk`, or a URL of Parquet or WebDataset files. `--out` becomes a folder of shards of fixed size
with the columns key, path, real, ai, margin, verdict, reason, novelty, recomputed, error and model; an image that cannot be
read is a row with its error. Read it with `datasets.load_dataset("parquet", data_dir="scores")`.

Verdicts are those of the detector; a probability may differ from the stock pipeline's by up to 0.01, because the fastest
engine that stays within that is measured and used, bfloat16 among them, and images near a threshold are computed again in
fp32. `--exact` computes everything in fp32, equal to the pipeline to 1e-5.

Killed and started again, the same command finishes what is missing, with any number of processes. While it runs, a second one
into the same folder is refused, unless both are parts (`--part`):

    accelerate launch --multi_gpu --num_processes 2 scripts/score.py ./photos --out scores    # without GPUs, too

    # two machines, both of which see ./photos and scores; --machine_rank 1 on the second
    accelerate launch --multi_gpu --num_machines 2 --machine_rank 0 --num_processes 16 --main_process_ip 10.0.0.1 \\
        --main_process_port 29500 scripts/score.py ./photos --out scores

    # Slurm, four nodes of one process each, which uses all cores; requeued after preemption, it goes on
    sbatch --nodes 4 --ntasks-per-node 1 --cpus-per-task 64 --requeue --wrap 'srun bash -c "torchrun --nnodes 4 \\
        --nproc_per_node 1 --rdzv_backend c10d --rdzv_id $SLURM_JOB_ID --rdzv_endpoint $(scontrol show hostnames | head -n 1) \\
        scripts/score.py hf://datasets/user/corpus/data/*.parquet --out s3://bucket/scores"'

    # Jobs that know nothing of each other, such as a job array or Hugging Face Jobs: each takes its part
    sbatch --array 1-32 --wrap 'python scripts/score.py ./photos --out scores --part $SLURM_ARRAY_TASK_ID/32'
    for i in $(seq 32); do hf jobs run --detach --flavor cpu-upgrade --secrets HF_TOKEN python:3.11 bash -c "
        git clone https://github.com/user/realfake && cd realfake && pip install -q -r requirements.txt openvino &&
        PYTHONPATH=. python scripts/score.py user/corpus --streaming --out hf://datasets/user/scores/run-1 --part $i/32"; done
"""

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path

from realfake.cli import options as cli_options


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    # PyTorch reads it when it is imported. Each thread of this command computes on one core.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from realfake.engines import ENGINES

    at_least = cli_options.at_least
    parser.add_argument(
        "source", metavar="SOURCE", help="folder, file, Hub dataset, or URL of files"
    )
    cli_options.add_output(parser, "folder of the shards, or a URL that fsspec opens")
    cli_options.add_model(parser, positional=False)
    parser.add_argument(
        "--split", action="append", help="score this split only; can be repeated (default: all)"
    )
    parser.add_argument("--dataset_config", help="configuration of a Hub dataset")
    parser.add_argument("--dataset_revision", help="branch, tag or commit of a Hub dataset")
    parser.add_argument("--image_column", help="column of the images")
    parser.add_argument(
        "--streaming",
        action="store_true",
        help="read the dataset while scoring, without a local copy",
    )
    parser.add_argument("--cache_dir", help="folder for the files of the datasets library")
    parser.add_argument(
        "--exact", action="store_true", help="compute in fp32: the pipeline's probabilities to 1e-5"
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
        help="images in one shard, which a kill can cost (default: by the source's size)",
    )
    parser.add_argument(
        "--num_threads",
        type=at_least(1),
        help="threads of each process (default: its share of the cores)",
    )
    parser.add_argument(
        "--part", metavar="I/N", help="score the I-th of N parts, for separate jobs"
    )
    parser.add_argument("--quiet", action="store_true", help="print the summary only")


def run(options: argparse.Namespace) -> int:
    """Score the share of this process."""
    from realfake.distributed import ProcessGroup

    options.part = _part(options.part)
    return score(options, ProcessGroup.join())


def _part(text: str | None) -> tuple[int, int]:
    """Which part of how many, counted from 0."""
    if text is None:
        return 0, 1
    number, _, total = text.partition("/")
    if not (number.isdigit() and total.isdigit() and 1 <= int(number) <= int(total)):
        raise ValueError(
            f"--part must be like 3/32, with the first number from 1 to the second, not {text!r}."
        )
    return int(number) - 1, int(total)


def score(options: argparse.Namespace, processes) -> int:
    """Source and detector → share of the chunks → scores → shards → summary."""
    from transformers.utils import logging

    from realfake.detector import DEFAULT_CHECKPOINT
    from realfake.models.preprocessing import Preprocessing
    from realfake.scoring import run as scoring_run
    from realfake.scoring import scorer as scoring
    from realfake.engines import Choice
    from realfake.scoring.shards import ScoreFolder

    logging.set_verbosity_error()
    logging.disable_progress_bar()

    def tell(text: str) -> None:
        if not options.quiet:
            who = (
                f"process {processes.rank + 1} of {processes.world_size}: "
                if processes.world_size > 1
                else ""
            )
            print(who + text, file=sys.stderr, flush=True)

    folder = ScoreFolder(options.output)
    detector = cli_options.open_model(options, processes.device())
    preprocessing = Preprocessing(detector.processor)
    checkpoint = scoring.model_identity(options.model or DEFAULT_CHECKPOINT, detector)
    threads = options.num_threads or processes.threads()

    with tempfile.TemporaryDirectory() as elsewhere, contextlib.ExitStack() as held:
        scratch = folder.scratch() or Path(elsewhere)

        def prepare() -> dict:
            if options.part == (0, 1):  # parts share the folder
                held.enter_context(folder.alone())
            folder.sweep()
            source = _open(options, scratch)
            manifest = folder.read_manifest()
            identity = _identity(options, manifest, source, checkpoint)
            if manifest is None:
                choice = scoring.choose_engine(
                    detector, source, preprocessing, exact=options.exact, engine=options.engine
                )
                manifest = folder.write_manifest(identity, choice.to_dict())
            folder.check(manifest, identity)
            used = manifest["engine"]["engine"]
            if options.engine not in (None, used):
                raise ValueError(
                    f"{options.output} was begun with --engine {used}; leave --engine out or choose another --output."
                )
            chunks = (
                []
                if source.streamed
                else scoring_run.missing(source, folder, identity["chunk_size"])
            )
            return {"fingerprint": source.fingerprint, "manifest": manifest, "chunks": chunks}

        told = processes.broadcast_from_first(prepare)
        source = _open(options, scratch, told["fingerprint"])
        if source.fingerprint != told["fingerprint"]:
            raise ValueError(
                "The processes do not see the same source; give all of them the same files."
            )
        if processes.is_first:
            for note in source.notes:
                tell(note)
        identity, choice = (
            told["manifest"]["identity"],
            Choice.from_dict(told["manifest"]["engine"]),
        )

        def scorer():
            return scoring.Scorer(detector, choice, threads, preprocessing=preprocessing)

        settings = {
            "chunk_size": identity["chunk_size"],
            "batch_size": identity["batch_size"],
            "threads": threads,
        }
        part, parts = options.part
        if source.streamed:
            progress = scoring_run.score_stream(
                scorer(),
                source,
                folder,
                process=part * processes.world_size + processes.rank,
                processes=parts * processes.world_size,
                say=tell,
                **settings,
            )
        else:
            # By the chunk's own number among the parts, because these are not started together; by what is left within one.
            mine = [chunk for chunk in told["chunks"] if chunk[1] % parts == part][
                processes.rank :: processes.world_size
            ]
            tell(
                f"Scoring {len(mine):,} chunks of {identity['chunk_size']:,} images with {choice.engine}, threads: {threads}."
            )
            if mine:
                progress = scoring_run.score_chunks(
                    scorer(), source, folder, mine, say=tell, **settings
                )
            else:
                progress = scoring_run.Progress(0)
        tell(progress.line())
        processes.barrier()
        if processes.is_first:
            _report(options, scoring_run.summarise(source, folder, identity["chunk_size"]), parts)
        if choice.band and progress.strayed > choice.band:
            tell(
                f"A margin strayed by {progress.strayed:.3f} from fp32, more than the {choice.band:.3f} that was allowed for; "
                "use --exact where a verdict must not depend on that."
            )
        processes.barrier()
    return 0


def _open(options: argparse.Namespace, scratch: Path, fingerprint: str | None = None):
    from realfake.scoring.source import open_source

    return open_source(
        options.source,
        scratch,
        splits=options.split,
        config_name=options.dataset_config,
        revision=options.dataset_revision,
        streaming=options.streaming,
        image_column=options.image_column,
        cache_dir=options.cache_dir,
        fingerprint=fingerprint,
    )


def _identity(options: argparse.Namespace, manifest: dict | None, source, checkpoint: str) -> dict:
    """What must not change from one start to the next."""
    from realfake.scoring.run import BATCH_SIZE

    before = (manifest or {}).get("identity", {})
    return {
        "source": source.fingerprint,
        "checkpoint": checkpoint,
        "label_map": options.label_map,
        "exact": options.exact,
        "batch_size": options.batch_size or before.get("batch_size") or BATCH_SIZE,
        "chunk_size": options.chunk_size or before.get("chunk_size") or source.default_chunk(),
    }


def _report(options: argparse.Namespace, summary: dict, parts: int) -> None:
    verdicts = (
        ", ".join(f"{count:,} {verdict}" for verdict, count in summary["verdicts"].items())
        or "no verdicts"
    )
    unreadable = f", {summary['unreadable']:,} unreadable" if summary["unreadable"] else ""
    again = f"; {summary['recomputed']:,} computed again in fp32" if summary["recomputed"] else ""
    print(f"{options.output}: {summary['images']:,} images: {verdicts}{unreadable}{again}.")
    if summary["missing"]:
        why = "by the other parts" if parts > 1 else "by the same command"
        print(f"{summary['missing']:,} images are still to be scored, {why}.")
