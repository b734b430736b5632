"""What surrounds a training run: its command line, its folder, its corpus, and its measurements.

`train_hf.py` reads as the run's steps; this module holds what each of them involves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from accelerate import PartialState
from datasets import Dataset
from transformers import HfArgumentParser

from realfake.audit.audit import quick_audit
from realfake.corpus.hold_out import hold_out, parse_hold_out
from realfake.corpus.load import Corpus, load_corpus
from realfake.corpus.rows import column, corpus_fingerprint, is_ai
from realfake.corpus.splits import VALIDATION_HALVES, split_validation
from realfake.detector import Detector
from realfake.evaluation import measure, results
from realfake.evaluation.collecting import collect_scores
from realfake.evaluation.log import log_measurement
from realfake.io import command_line, versions
from realfake.statistics.calibration import Calibration
from realfake.training.arguments import DataArguments, ModelArguments, RunArguments
from realfake.training.trainer import DetectorTrainer, count_labels, last_complete_checkpoint

# Written last: its presence says that the run is finished.
FINISHED = "training.json"


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
            raise ValueError(
                "--evaluate_only and --dry_run exclude each other; leave one of them out."
            )
        folder = Path(args.output_dir)
        own = folder.resolve() == Path(model.model_name_or_path).resolve()
        if (folder / results.WEIGHTS_NAME).is_file() and not own:
            raise ValueError(
                f"--output_dir {folder} holds another checkpoint, whose figures would be mixed up with these; pass "
                f"--output_dir {model.model_name_or_path}, or a new folder."
            )
    if model.model_type and (
        args.backbone_lr_factor != 1 or args.l2_to_pretrained or args.head_epochs
    ):
        raise ValueError(
            "--backbone_lr_factor, --l2_to_pretrained and --head_epochs spare a pretrained backbone: pass "
            "--model_name_or_path rather than --model_type."
        )
    if data.hard_examples and model.model_type:
        raise ValueError(
            "--hard_examples goes on with a trained detector: pass --model_name_or_path rather than --model_type."
        )
    if model.trainable == "head" and args.head_epochs:
        raise ValueError(
            "--trainable head never trains more than the head; leave --head_epochs out."
        )
    if not args.evaluate_only and data.streaming and args.max_steps <= 0:
        raise ValueError(
            "A streamed corpus has no known length: pass --max_steps with --streaming."
        )
    if data.streaming and data.class_weights != "none":
        raise ValueError(
            "The classes of a stream cannot be counted beforehand: leave out --class_weights or --streaming."
        )


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
    selection, calibration = split_validation(corpus.splits["validation"], seed)
    return {**corpus.splits, "selection": selection, "calibration": calibration}


def split_to_read(split: str) -> str:
    """Return the split of the corpus that a split of [`parts_of`] is a part of, or is."""
    return "validation" if split in VALIDATION_HALVES else split


def part_of(corpus: Corpus, split: str, seed: int) -> Dataset:
    """Return one of [`parts_of`]; validation is parted only where a part of it is asked for."""
    return (parts_of(corpus, seed) if split in VALIDATION_HALVES else corpus.splits)[split]


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
    from realfake.plotting import batch_sheet

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
    batch_sheet(
        path, [row["image"] for row in rows], [model.config.id2label[row["label"]] for row in rows]
    )
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
        raise ValueError(
            f"The {split} split is streamed and cannot be measured; leave --streaming out."
        )
    log_odds, ood = collect_scores(
        detector, dataset, args.per_device_eval_batch_size, progress=f"measuring {split}"
    )
    if not PartialState().is_main_process:
        return None
    truth = is_ai(dataset)
    known = {f"{name}s": column(dataset, name) for name in ("group", "generator", "source")}
    out_of_distribution = None if ood is None else detector.ood.is_out_of_distribution(ood)
    figures = measure.measure(
        log_odds,
        truth,
        thresholds=detector.thresholds,
        out_of_distribution=out_of_distribution,
        seed=args.seed,
        **known,
    )
    before = None
    stored = detector.facts.get("calibration")
    alone = calibration is None  # at the end of a run the card adds the bands of all splits
    if calibration is None and stored and len(detector.model.config.id2label) == 2:
        calibration = Calibration.from_dict(stored)
    if calibration is not None:
        # Two classes: the folding can be undone on the margins exactly.
        raw = (log_odds - calibration.bias) * calibration.temperature
        before = measure.measure(raw, truth, groups=known["groups"], seed=args.seed)
    folder = Path(args.output_dir)
    source = Path(detector.model.config._name_or_path)
    weights = results.checkpoint_hash(source) if source.is_dir() else str(detector.revision)
    facts = {
        "checkpoint_hash": weights,
        "command": command_line(),
        "corpus": data.corpus_name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if split == "test":
        headline = {
            name: figures["summary"][name]
            for name in ("accuracy", "balanced_accuracy", "auroc", "ece")
        }
        log_measurement(
            args.measurement_log, split=split, n=figures["n"], figures=headline, **facts
        )
    results.write_evaluation(
        folder,
        split,
        figures,
        before=before,
        corpus_fingerprint=corpus_fingerprint(dataset),
        versions=versions(),
        **facts,
    )
    results.write_scores(
        folder, split, log_odds, truth, out_of_distribution=out_of_distribution, **known
    )
    if alone:
        results.add_calibration_bands(folder, stored)
    return figures
