"""What surrounds a training run: its command line, its folder, its corpus, and its measurements.

`train_hf.py` reads as the run's steps; this module holds what each of them involves.
"""

import contextlib
import errno
import gc
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
import torch.distributed.nn  # before any group exists: its functions would hold the group as a default argument
from accelerate import PartialState
from datasets import Dataset
from safetensors import SafetensorError
from transformers import HfArgumentParser

from . import evaluation
from .arguments import DataArguments, ModelArguments, RunArguments
from .audit import quick_audit
from .calibration import Calibration
from .corpus import Corpus, load_corpus
from .detector import Detector
from .hold_out import hold_out, parse_hold_out
from .measurement_log import log_measurement
from .release import collect_scores, column, is_ai
from .splits import part_validation
from .training import DetectorTrainer, count_labels, last_complete_checkpoint

VERSIONED = ("torch", "transformers", "datasets", "accelerate", "evaluate", "numpy", "pillow")
# Written last: its presence says that the run is finished.
FINISHED = "training.json"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass
class Arguments:
    """The three parts of the command line."""

    model: ModelArguments
    data: DataArguments
    run: RunArguments


def parse(argv: Sequence[str]) -> Arguments:
    """Parse the command line of `train_hf.py`.

    Raises:
        ValueError: An option's value makes no sense, alone or beside the others, or there is no such option.
    """
    parser = HfArgumentParser((ModelArguments, DataArguments, RunArguments), prog="train_hf.py")
    arguments = Arguments(*parser.parse_args_into_dataclasses(args=list(argv)))
    _check_together(arguments)
    return arguments


def _check_together(arguments: Arguments) -> None:
    model, data, args = arguments.model, arguments.data, arguments.run
    if args.evaluate_only:
        if not model.model_name_or_path:
            raise ValueError(
                "--evaluate_only measures a checkpoint: pass --model_name_or_path, not --model_type."
            )
        if args.dry_run:
            raise ValueError("--evaluate_only and --dry_run exclude each other; leave one of them out.")
        folder = Path(args.output_dir)
        own = folder.resolve() == Path(model.model_name_or_path).resolve()
        if (folder / evaluation.WEIGHTS_NAME).is_file() and not own:
            raise ValueError(
                f"--output_dir {folder} holds another checkpoint, whose figures would be mixed up with these; pass "
                f"--output_dir {model.model_name_or_path}, or a new folder."
            )
    if model.model_type and (args.backbone_lr_factor != 1 or args.l2_to_pretrained or args.head_epochs):
        raise ValueError(
            "--backbone_lr_factor, --l2_to_pretrained and --head_epochs spare a pretrained backbone: pass "
            "--model_name_or_path rather than --model_type."
        )
    if data.hard_examples and model.model_type:
        raise ValueError(
            "--hard_examples goes on with a trained detector: pass --model_name_or_path rather than --model_type."
        )
    if model.trainable == "head" and args.head_epochs:
        raise ValueError("--trainable head never trains more than the head; leave --head_epochs out.")
    if not args.evaluate_only and data.streaming and args.max_steps <= 0:
        raise ValueError("A streamed corpus has no known length: pass --max_steps with --streaming.")
    if data.streaming and data.class_weights != "none":
        raise ValueError(
            "The classes of a stream cannot be counted beforehand: leave out --class_weights or --streaming."
        )


def _is_main_process() -> bool:
    # The launchers say it in the environment, where it stands even if the processes never found each other.
    return int(os.environ.get("RANK", 0)) == 0


def report_failure(error: BaseException) -> int:
    """Print a user's mistake as one line and return the exit status 2."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        text = (
            f"The disk is full ({error.filename or 'no file named'}). Nothing complete was lost: free some space and "
            "give the same command again; it continues from the last checkpoint."
        )
    # What happens to another process alone must not get lost, yet the line for people stands there once.
    who = "error" if _is_main_process() else f"process {os.environ['RANK']}"
    print(f"train_hf.py: {who}: {' '.join(text.split())}", file=sys.stderr)
    return 2


def _means_full_disk(error: Exception) -> bool:
    # Neither safetensors nor torch.save raises an OSError when the disk is full.
    text = str(error)
    return any(
        word in text for word in ("No space left", "Disk quota", "inline_container.cc", "PytorchStreamWriter")
    )


def leave_process_group() -> None:
    """Part from the other processes, where there are any, and join the backend's threads.

    A gloo worker lets go of a collective's tensors some time after that collective has returned, and takes the
    interpreter's lock to do so. Where the interpreter is ending by then, Python 3.11 to 3.13 ends the asking thread
    with `pthread_exit`, which unwinds through a destructor of C++: "terminate called without an active exception",
    SIGABRT, in a process that has done all its work. Only the process group's destructor joins the workers, and
    `destroy_process_group` alone does not lead to it while the trainer, a cycle of references, still holds the group.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        gc.collect()


@contextlib.contextmanager
def output_folder(args: RunArguments) -> Iterator[None]:
    """Create the run's folder and keep a second run out of it.

    Raises:
        OSError: Another process writes there, it cannot be created, or the disk is full.
    """
    from filelock import FileLock, Timeout

    if not PartialState().is_main_process:
        yield
        return
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    # The system releases the lock when the process dies, however it dies.
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OSError(
            f"Another run is writing to {folder}; wait for it, or pass another --output_dir."
        ) from None
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if _means_full_disk(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise
    finally:
        lock.release()


def load(data: DataArguments, args: RunArguments) -> Corpus:
    """Load the corpus, on the main process first, and print what it holds and what is suspicious about it."""
    with PartialState().main_process_first():
        corpus = load_corpus(
            data.dataset,
            config_name=data.dataset_config,
            revision=data.dataset_revision,
            train_split=data.train_split,
            validation_split=data.validation_split,
            test_split=data.test_split,
            image_column=data.image_column,
            label_column=data.label_column,
            label_map=data.label_map,
            streaming=data.streaming,
            seed=data.split_seed,
            max_train_samples=data.max_train_samples,
            max_validation_samples=data.max_validation_samples,
            max_test_samples=data.max_test_samples,
            num_proc=data.preprocessing_num_workers,
        )
    left_out = parse_hold_out(data.hold_out)
    if left_out:
        corpus = hold_out(corpus, *left_out, seed=data.split_seed)
    if PartialState().is_main_process:
        print(corpus.report.summary(), flush=True)
        for warning in quick_audit(corpus):
            print(f"Warning: {warning}", flush=True)
    return corpus


def parts_of(corpus: Corpus, seed: int) -> dict[str, Dataset]:
    """Return the corpus' splits, with validation parted by group into `selection` and `calibration`."""
    selection, calibration = part_validation(corpus.splits["validation"], seed)
    return {**corpus.splits, "selection": selection, "calibration": calibration}


def checkpoint_to_resume(args: RunArguments) -> str | None:
    """Return the checkpoint to continue from: the one named, or the newest whole one of an interrupted run.

    Raises:
        ValueError: The named checkpoint is not complete, or the folder holds a run that is finished.
    """
    if args.resume_from_checkpoint:
        if not (Path(args.resume_from_checkpoint) / "trainer_state.json").is_file():
            raise ValueError(
                f"--resume_from_checkpoint: {args.resume_from_checkpoint} is no complete checkpoint."
            )
        return args.resume_from_checkpoint
    if (Path(args.output_dir) / FINISHED).is_file():
        raise ValueError(
            f"{args.output_dir} holds a finished run; pass another --output_dir, remove it, or measure it with "
            f"--evaluate_only test --model_name_or_path {args.output_dir}."
        )
    checkpoint = last_complete_checkpoint(args.output_dir)
    if checkpoint and PartialState().is_main_process:
        print(f"Continuing the interrupted run from {checkpoint}.", flush=True)
    return checkpoint


def show_dry_run(trainer: DetectorTrainer, corpus: Corpus, parts: dict[str, Dataset]) -> None:
    """Print the model and the sizes, and save the first augmented batch as a picture."""
    from .contact_sheet import batch_sheet

    model = trainer.model
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(
        f"{type(model).__name__}: {total:,} parameters, {trained:,} of them trained; labels {model.config.id2label}"
    )
    for name in ("train", "selection", "calibration", "test"):
        if isinstance(parts.get(name), Dataset):
            print(f"{name}: {count_labels(parts[name])}")
    images = trainer.train_dataset
    count = min(trainer.args.train_batch_size, 32)
    if hasattr(images, "__len__"):
        import numpy as np

        order = np.random.default_rng(trainer.args.seed).permutation(len(images))[:count]
        rows = [images[int(index)] for index in order]
    else:
        rows = [row for row, _ in zip(images, range(count), strict=False)]
    shape = tuple(trainer.data_collator(rows)["pixel_values"].shape)
    path = Path(trainer.args.output_dir) / "first_batch.png"
    batch_sheet(path, [row["image"] for row in rows], [model.config.id2label[row["label"]] for row in rows])
    print(f"First augmented batch, pixel_values {shape}: {path}")


def measure_split(
    detector: Detector,
    parts: dict[str, Dataset],
    split: str,
    data: DataArguments,
    args: RunArguments,
    calibration: Calibration | None = None,
) -> dict | None:
    """Measure a split with the weights as they are stored, write the figures down, and log it if it is a test split.

    Args:
        calibration: *optional*, defaults to the one the checkpoint stores. What was folded into the weights, for the
            figures before it.

    Returns:
        The figures; `None` where the corpus has no such split.

    Raises:
        ValueError: The split was streamed, or the corpus does not have it and it alone was asked for.
    """
    dataset = parts.get(split)
    if dataset is None:
        if args.evaluate_only:
            raise ValueError(f"The corpus has no {split} split; it has {', '.join(parts)}.")
        return None
    if not isinstance(dataset, Dataset):
        raise ValueError(f"The {split} split is streamed and cannot be measured; leave --streaming out.")
    margins, novelty = collect_scores(
        detector, dataset, args.per_device_eval_batch_size, progress=f"measuring {split}"
    )
    if not PartialState().is_main_process:
        return None
    truth = is_ai(dataset)
    known = {f"{name}s": column(dataset, name) for name in ("group", "generator", "source")}
    novel = None if novelty is None else detector.novelty.is_novel(novelty)
    figures = evaluation.measure(
        margins,
        truth,
        thresholds=detector.thresholds,
        novel=novel,
        seed=args.seed,
        **known,
    )
    before = None
    stored = detector.facts.get("calibration")
    if calibration is None and stored and len(detector.model.config.id2label) == 2:
        calibration = Calibration.from_dict(stored)
    if calibration is not None:
        # Two classes: the folding can be undone on the margins exactly.
        raw = (margins - calibration.bias) * calibration.temperature
        before = evaluation.measure(raw, truth, groups=known["groups"], seed=args.seed)
    folder = Path(args.output_dir)
    source = Path(detector.model.config._name_or_path)
    weights = evaluation.checkpoint_hash(source) if source.is_dir() else str(detector.revision)
    facts = {
        "checkpoint_hash": weights,
        "command": command_line(),
        "corpus": data.corpus_name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if split == "test":
        headline = {
            name: figures["summary"][name] for name in ("accuracy", "balanced_accuracy", "auroc", "ece")
        }
        log_measurement(args.measurement_log, split=split, n=figures["n"], figures=headline, **facts)
    evaluation.write_evaluation(
        folder,
        split,
        figures,
        before=before,
        corpus_fingerprint=corpus_fingerprint(dataset),
        versions=versions(),
        **facts,
    )
    evaluation.write_scores(folder, split, margins, truth, novel=novel, **known)
    return figures


def corpus_fingerprint(dataset: Dataset) -> str:
    """Hash the bytes of a dataset's images, in their order, so that a figure names what it was measured on.

    Returns:
        The first 16 hexadecimal digits of a SHA-256.
    """
    import hashlib

    digest = hashlib.sha256()
    for row in dataset.select_columns(["image"]):
        content = row["image"]["bytes"]
        digest.update(content if content is not None else Path(row["image"]["path"]).read_bytes())
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Return the versions that a figure depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in VERSIONED}}


def command_line() -> str:
    """Return the command that started this process, without secrets, so that it can be given again."""
    words = [Path(sys.argv[0]).name]
    secret = False
    for word in sys.argv[1:]:
        words.append("…" if secret else word)
        secret = word.split("=")[0] in ("--hub_token", "--token") and "=" not in word
        if word.startswith(("--hub_token=", "--token=")):
            words[-1] = word.split("=")[0] + "=…"
    if "ACCELERATE_MIXED_PRECISION" not in os.environ:
        return f"python {shlex.join(words)}"
    count, threads = PartialState().num_processes, os.environ.get("OMP_NUM_THREADS")
    processes = f" --multi_gpu --num_processes {count}" if count > 1 else ""
    return f"accelerate launch{processes}{f' --num_cpu_threads_per_process {threads}' if threads else ''} {shlex.join(words)}"
