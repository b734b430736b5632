"""The steps around a training: its corpus, its folder, its dry run, and its measurements."""

import json
import math
from pathlib import Path

from accelerate import PartialState
from datasets import Dataset

from realfake.audit.audit import quick_audit
from realfake.corpus.hold_out import hold_out, parse_hold_out
from realfake.corpus.load import Corpus, load_corpus
from realfake.corpus.splits import VALIDATION_HALVES, split_validation
from realfake.detector import Detector
from realfake.evaluation import results, robustness
from realfake.io import command_line
from realfake.plotting import batch_sheet
from realfake.statistics.calibration import Calibration
from realfake.training.arguments import Arguments, DataArguments, RunArguments
from realfake.training.measuring import compute_scores, record_split
from realfake.training.optimization import batch_facts
from realfake.training.trainer import DetectorTrainer, count_labels

# Written last: it marks a finished run.
FINISHED = "training.json"


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
            label_map=data.label_map,
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
        before = (scores.log_odds - calibration.bias) * calibration.temperature
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
