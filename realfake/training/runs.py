"""The steps around a training: corpus, folder, dry run, measurements; and series of trainings."""

import json
import math
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from accelerate import PartialState
from datasets import Dataset

from realfake.audit.audit import quick_audit
from realfake.corpus.load import Corpus, hold_out, load_corpus, parse_hold_out
from realfake.corpus.splits import VALIDATION_HALVES, split_validation
from realfake.detector import Detector
from realfake.evaluation import results, robustness
from realfake.io import command_line, redact, write_atomically
from realfake.labels import parse_overrides
from realfake.plotting import batch_sheet
from realfake.statistics.calibration import Calibration
from realfake.training.arguments import Arguments, DataArguments, RunArguments
from realfake.training.measuring import compute_scores, record_split
from realfake.training.optimization import batch_facts
from realfake.training.trainer import DetectorTrainer, count_labels

# Written last: it marks a finished run.
FINISHED = "training.json"
# The options of a run of a series, in its folder.
OPTIONS_NAME = "words.json"


def load(data: DataArguments) -> Corpus:
    """Load the corpus, first on the main process, and print its contents and warnings."""
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
            label_map=parse_overrides(data.label_map),
            streaming=data.streaming,
            seed=data.split_seed,
            max_train_samples=data.max_train_samples,
            max_validation_samples=data.max_validation_samples,
            max_test_samples=data.max_test_samples,
            num_proc=data.preprocessing_num_workers,
        )
    held_out = parse_hold_out(data.hold_out)
    if held_out:
        corpus = hold_out(corpus, *held_out, seed=data.split_seed)
    if PartialState().is_main_process:
        print(corpus.report.summary(), flush=True)
        for warning in quick_audit(corpus):
            print(f"Warning: {warning}", flush=True)
    return corpus


def splits_of(corpus: Corpus, seed: int) -> dict[str, Dataset]:
    """Return the corpus' splits and the two halves of validation, `selection` and `calibration`."""
    selection, calibration = split_validation(corpus.splits["validation"], seed)
    return {**corpus.splits, "selection": selection, "calibration": calibration}


def source_split(split: str) -> str:
    """Return the split of the corpus that contains a split of [`splits_of`]."""
    return "validation" if split in VALIDATION_HALVES else split


def split_of(corpus: Corpus, split: str, seed: int) -> Dataset:
    """Return one split of [`splits_of`]."""
    return (splits_of(corpus, seed) if split in VALIDATION_HALVES else corpus.splits)[split]


def checkpoint_to_resume(args: RunArguments, streaming: bool = False) -> str | None:
    """Return the checkpoint to continue from: the named one, or the newest complete one.

    Raises:
        ValueError: The named checkpoint is incomplete, its steps had another number of images, or
            the folder holds a finished run.
    """
    if args.resume_from_checkpoint:
        if not (Path(args.resume_from_checkpoint) / "trainer_state.json").is_file():
            raise ValueError(
                f"--resume_from_checkpoint: {args.resume_from_checkpoint} is not a complete "
                "checkpoint."
            )
        _check_batch(args.resume_from_checkpoint, args, streaming)
        return args.resume_from_checkpoint
    if (Path(args.output_dir) / FINISHED).is_file():
        raise ValueError(
            f"{args.output_dir} holds a finished run; pass another --output_dir, remove it, or "
            f"measure it with --evaluate_only test --model_name_or_path {args.output_dir}."
        )
    checkpoint = last_complete_checkpoint(args.output_dir)
    if checkpoint:
        _check_batch(checkpoint, args, streaming)
        if PartialState().is_main_process:
            print(f"Continuing the interrupted run from {checkpoint}.", flush=True)
    return checkpoint


def _check_batch(checkpoint: str, args: RunArguments, streaming: bool) -> None:
    # `Trainer` counts steps, so with other steps it would skip other images than it has seen.
    state = json.loads((Path(checkpoint) / "trainer_state.json").read_text())
    callbacks = state.get("stateful_callbacks", {})
    stored = callbacks.get("ElapsedCallback", {}).get("attributes", {}).get("batch")
    given = batch_facts(args)
    if not stored or (
        math.prod(stored.values()) == math.prod(given.values())
        and (not streaming or stored["batch size"] == given["batch size"])
    ):
        return
    before, now = (
        ", ".join(f"{name} {value}" for name, value in facts.items()) for facts in (stored, given)
    )
    raise ValueError(
        f"{checkpoint} was trained with other steps ({before}; now {now}); give the same "
        "--per_device_train_batch_size, --gradient_accumulation_steps and number of processes, or "
        "another --output_dir."
    )


def last_complete_checkpoint(folder: str | Path) -> str | None:
    """Return the newest complete checkpoint of a folder, or `None`.

    `Trainer` writes `trainer_state.json` last, so a checkpoint without a valid one is incomplete.
    """
    found = []
    for path in Path(folder).glob("checkpoint-*"):
        try:
            step = json.loads((path / "trainer_state.json").read_text())["global_step"]
        except (OSError, ValueError, KeyError):
            continue
        found.append((step, str(path)))
    return max(found)[1] if found else None


def show_dry_run(trainer: DetectorTrainer, splits: dict[str, Dataset]) -> None:
    """Print the model and the sizes, and save the first augmented batch as a picture."""
    model = trainer.model
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(
        f"{type(model).__name__}: {total:,} parameters, {trained:,} of them trained; labels "
        f"{model.config.id2label}"
    )
    for name in ("train", "selection", "calibration", "test"):
        if isinstance(splits.get(name), Dataset):
            print(f"{name}: {count_labels(splits[name])}")
    rows = list(trainer.first_images(min(trainer.args.train_batch_size, 32)))
    shape = tuple(trainer.data_collator(rows)["pixel_values"].shape)
    path = Path(trainer.args.output_dir) / "first_batch.png"
    names = [model.config.id2label[row["label"]] for row in rows]
    batch_sheet(path, [row["image"] for row in rows], names)
    print(f"First augmented batch, pixel_values {shape}: {path}")


def measure_split(
    detector: Detector,
    splits: dict[str, Dataset],
    split: str,
    arguments: Arguments,
    calibration: Calibration | None = None,
) -> None:
    """Measure a split with the stored weights, write its figures, and log a test split.

    Args:
        splits: Of [`splits_of`].
        calibration: *optional*, *defaults to* the checkpoint's. Folded into the weights; it is
            undone for the figures before calibration.

    Raises:
        ValueError: The split is streamed, or missing although `--evaluate_only` names it.
    """
    data, args = arguments.data, arguments.run
    dataset = splits.get(split)
    if dataset is None:
        if args.evaluate_only:
            raise ValueError(f"The corpus has no {split} split; it has {', '.join(splits)}.")
        return
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"The {split} split is streamed and cannot be measured; leave --streaming out."
        )
    scores = compute_scores(
        detector, dataset, args.per_device_eval_batch_size, f"measuring {split}"
    )
    if not PartialState().is_main_process:
        return
    stored, at_end_of_run = detector.facts.get("calibration"), calibration is not None
    if calibration is None and stored and len(detector.model.config.id2label) == 2:
        calibration = Calibration.from_dict(stored)
    before = None
    if calibration is not None:  # with two classes the folding can be undone exactly
        before = calibration.undo(scores.log_odds)
    source = Path(detector.model.config._name_or_path)
    record_split(
        detector,
        dataset,
        split,
        scores,
        folder=args.output_dir,
        weights=results.checkpoint_hash(source) if source.is_dir() else str(detector.revision),
        corpus=data.corpus_name,
        measurement_log=args.measurement_log,
        seed=args.seed,
        before=before,
    )
    if not at_end_of_run:  # there, the card adds the bands of all splits
        results.add_calibration_bands(Path(args.output_dir), stored)


def measure_degradations(
    detector: Detector, splits: dict[str, Dataset], arguments: Arguments
) -> None:
    """Measure the test split of a finished run under the grid of degradations."""
    args = arguments.run
    robustness.measure_finished_run(
        detector,
        args.output_dir,
        splits,
        args.measure_degradations,
        corpus=arguments.data.corpus_name,
        command=command_line(),
        measurement_log=args.measurement_log,
        seed=args.seed,
    )


# A series of trainings


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        name: Name of the model, or of the held-out value.
        words: Options of `realfake train`, without `--output_dir`.
        folder: Output folder.
    """

    name: str
    words: tuple[str, ...]
    folder: Path

    @property
    def log(self) -> Path:
        """File with the output of the run."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return (self.folder / FINISHED).is_file()


def refuse_options(words: Sequence[str], *names: str, hint: str) -> None:
    """Refuse training options that a series sets itself.

    Args:
        words: The options that the user gave for all runs.
        names: The refused options.
        hint: How to fix it.

    Raises:
        ValueError: One of them was given.
    """
    for name in names:
        if any(word.split("=")[0].replace("-", "_") == name.replace("-", "_") for word in words):
            raise ValueError(f"{name} is set for each run; {hint}.")


def check_folders(runs: Sequence[Run]) -> None:
    """Check that each run has its own folder, without a run of other options.

    Raises:
        ValueError: Two runs share a folder, or a folder holds a run of other options.
    """
    if len({run.folder for run in runs}) < len(runs):
        raise ValueError("Two runs would share a folder; leave one of them out, or rename it.")
    for run in runs:
        path = run.folder / OPTIONS_NAME
        if path.is_file() and json.loads(path.read_text()) != redact(run.words):
            raise ValueError(
                f"{run.folder} holds a run of other options; give the same ones again, or pass "
                "another --output."
            )


def train_all(runs: Sequence[Run], launcher: str | None = None) -> dict[str, str]:
    """Train the runs that are not finished; an interrupted run continues.

    Args:
        launcher: *optional*. Command that starts a run, such as `"accelerate launch
            --num_processes 2"`; *defaults to* this Python.

    Returns:
        `{folder name: last line of output}` of the runs that failed. The others are trained anyway.
    """
    start = [*(shlex.split(launcher) if launcher else [sys.executable]), "-m", "realfake.cli.train"]
    failed = {}
    for number, run in enumerate(runs, start=1):
        label = f"[{number}/{len(runs)}] {run.folder.name}"
        if run.finished:
            print(f"{label}: finished before", flush=True)
            continue
        run.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(run.folder / OPTIONS_NAME, json.dumps(redact(run.words)) + "\n")
        print(f"{label}: training; its output is in {run.log}", flush=True)
        began = time.monotonic()
        with open(run.log, "a", encoding="utf-8") as log:
            status = subprocess.run(
                [*start, *run.words, "--output_dir", str(run.folder)],
                stdout=log,
                stderr=subprocess.STDOUT,
            ).returncode
        if status or not run.finished:
            output = run.log.read_text(encoding="utf-8", errors="replace").strip()
            failed[run.folder.name] = output.rpartition("\n")[2]
            message = f"{label}: failed (status {status}): {failed[run.folder.name]}"
            print(message, file=sys.stderr, flush=True)
        else:
            print(f"{label}: {time.monotonic() - began:.0f} s", flush=True)
    return failed


def write_report(
    folder: Path,
    name: str,
    figures: Mapping,
    failed: Mapping[str, str],
    page: Callable[[Mapping], str],
) -> int:
    """Write the figures of a series to `name.json` and `name.md`, and print the page.

    Args:
        figures: Stored with the date, the command and the failures.
        failed: From [`train_all`].
        page: Returns the record as Markdown.

    Returns:
        The exit status: 2 if a run failed, else 0.

    Raises:
        OSError: A file cannot be written.
    """
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        **figures,
        "failed": failed,
    }
    text = page(record)
    content = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / f"{name}.json", content)
    write_atomically(folder / f"{name}.md", text)
    print(f"\n{text}\n{folder / f'{name}.md'}")
    return 2 if failed else 0


def read_run_scores(folder: Path, splits: Sequence[str]) -> dict[str, np.ndarray]:
    """Read the scores of a finished run, several splits concatenated.

    Returns:
        `{"log_odds": (n,), "is_ai": (n,), "groups": (n,)}`; images of different splits share no
        group.
    """
    log_odds, is_ai = [], []
    groups: list[np.ndarray] = []
    for split in splits:
        table = results.read_scores(folder / f"scores-{split}.parquet")
        own = table.get("groups")
        own = np.arange(len(table["log_odds"])) if own is None else np.asarray(own, dtype=np.int64)
        offset = max((int(part.max()) + 1 for part in groups if len(part)), default=0)
        log_odds.append(np.asarray(table["log_odds"], dtype=np.float64))
        is_ai.append(np.asarray(table["is_ai"], dtype=bool))
        groups.append(own - own.min(initial=0) + offset)
    return {
        "log_odds": np.concatenate(log_odds),
        "is_ai": np.concatenate(is_ai),
        "groups": np.concatenate(groups),
    }
