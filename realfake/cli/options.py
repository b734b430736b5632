"""The options by which scripts are told their corpus and checkpoint, and how they say what went wrong.

Scripts that work on a corpus alone (`prepare_corpus.py`, `audit_corpus.py`) take it as an argument, with the options of
[`add_source_options`]. Those that measure (`calibrate.py`, `evaluate_checkpoint.py`) take a finished checkpoint, whose classes
need a mapping of their own: `--label_map` is about the checkpoint there, and the corpus is told by [`add_corpus_options`].
"""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from realfake.corpus.load import Corpus, load_corpus
from realfake.corpus.splits import EVALUABLE_SPLITS, SPLITS
from realfake.evaluation.results import checkpoint_hash
from realfake.labels import parse_overrides

if TYPE_CHECKING:
    from realfake.detector import Detector

# Of a split that is read only because the corpus has it, this many images are enough.
_UNUSED = 100


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """Add the checkpoint and what is needed to open it."""
    parser.add_argument(
        "model", metavar="MODEL", help="Hub id or folder of any image-classification checkpoint."
    )
    parser.add_argument("--model_revision", help="Branch, tag or commit of the checkpoint.")
    parser.add_argument(
        "--label_map",
        help="Which of the checkpoint's classes are real and which ai, where their names do not say it: "
        "'LABEL_0=real,LABEL_1=ai'.",
    )


def _add_where(group) -> None:
    """What a corpus' own names are, whichever way it is told."""
    group.add_argument("--dataset_config", help="Configuration name of a Hub dataset.")
    group.add_argument("--dataset_revision", help="Branch, tag or commit of a Hub dataset.")
    for split in SPLITS:
        group.add_argument(
            f"--{split}_split", help=f"Name of the {split} split, where it is unusual."
        )
    group.add_argument("--image_column", help="Name of the column that holds the image.")
    group.add_argument("--label_column", help="Name of the column that holds the label.")


def add_source_options(parser: argparse.ArgumentParser, seed_help: str) -> None:
    """Add what [`load_corpus`] can be told, but for the source itself."""
    _add_where(parser)
    for split in SPLITS:
        parser.add_argument(
            f"--max_{split}_samples", type=int, help=f"Use this many {split} images at most."
        )
    parser.add_argument(
        "--label_map", help="Which classes are real and which ai: 'nature=real,midjourney=ai'."
    )
    parser.add_argument("--seed", type=int, default=42, help=seed_help)
    parser.add_argument("--num_proc", type=int, help="Processes that check the images.")
    parser.add_argument("--cache_dir", help="Where datasets keeps its files.")


def read_source(options: argparse.Namespace, limits: dict[str, int | None] | None = None) -> Corpus:
    """Load the corpus that the options of [`add_source_options`] name.

    Args:
        limits: *optional*. `{split: images at most}`, instead of what the options say.

    Raises:
        ValueError: As [`load_corpus`].
        OSError: As [`load_corpus`].
    """
    limits = limits or {split: getattr(options, f"max_{split}_samples") for split in SPLITS}
    return _load(
        options,
        options.source,
        limits,
        label_map=parse_overrides(options.label_map),
        seed=options.seed,
        num_proc=options.num_proc,
        cache_dir=options.cache_dir,
    )


def add_corpus_options(parser: argparse.ArgumentParser) -> None:
    """Add the corpus options of `train_hf.py`."""
    group = parser.add_argument_group("corpus")
    group.add_argument(
        "--dataset",
        required=True,
        help="Hub dataset id, folder of class folders, or folder or file of Parquet/Arrow/CSV/JSON.",
    )
    group.add_argument(
        "--corpus_name", help="What the corpus is called; defaults to its id or folder name."
    )
    _add_where(group)
    group.add_argument(
        "--dataset_label_map",
        help="Which classes of the corpus are real and which ai: 'nature=real,midjourney=ai'.",
    )
    group.add_argument(
        "--split_seed", type=int, default=42, help="Seed of the splits that are carved."
    )
    group.add_argument(
        "--preprocessing_num_workers",
        type=int,
        help="Processes that check the images; defaults to one per core.",
    )


def add_measuring_options(
    parser: argparse.ArgumentParser, split: str, seed: str = "Seed of the bootstrap."
) -> None:
    """Add what every script that measures a split is told: which one, the intervals, and where a look at a test split is noted."""
    parser.add_argument(
        "--split", choices=EVALUABLE_SPLITS, default=split, help="What is measured."
    )
    parser.add_argument(
        "--n_resamples", type=int, default=1000, help="Bootstrap resamples; 0 for no intervals."
    )
    parser.add_argument("--seed", type=int, default=0, help=seed)
    parser.add_argument(
        "--measurement_log",
        default="realfake/checkpoints/measurements.jsonl",
        help="File that every measurement of a test split is added to.",
    )


def read_corpus(options: argparse.Namespace, limits: dict[str, int | None]) -> Corpus:
    """Load the corpus that the options of [`add_corpus_options`] name.

    Args:
        limits: `{split: images at most}` for the splits that are used, `None` for all of them. Of the others only a
            few are read.

    Raises:
        ValueError: As [`load_corpus`].
        OSError: As [`load_corpus`].
    """
    local = Path(options.dataset)
    options.corpus_name = options.corpus_name or (
        local.resolve().name if local.exists() else options.dataset
    )
    label_map = parse_overrides(options.dataset_label_map, "--dataset_label_map")
    try:
        corpus = _load(
            options,
            options.dataset,
            {split: limits.get(split, _UNUSED) for split in SPLITS},
            label_map=label_map,
            seed=options.split_seed,
            num_proc=options.preprocessing_num_workers,
        )
    except ValueError as error:
        # The loader names the option as the training script has it.
        raise ValueError(str(error).replace("--label_map", "--dataset_label_map")) from error
    print(corpus.report.summary(), flush=True)
    return corpus


def _load(
    options: argparse.Namespace, source: str, limits: dict[str, int | None], **more
) -> Corpus:
    return load_corpus(
        source,
        config_name=options.dataset_config,
        revision=options.dataset_revision,
        image_column=options.image_column,
        label_column=options.label_column,
        **{f"{split}_split": getattr(options, f"{split}_split") for split in SPLITS},
        **{f"max_{split}_samples": limits[split] for split in SPLITS},
        **more,
    )


def open_checkpoint(options: argparse.Namespace) -> "Detector":
    """Open the checkpoint that the options name.

    Raises:
        ValueError: As [`Detector.from_pretrained`].
        OSError: As [`Detector.from_pretrained`].
    """
    # Scripts that work on a corpus alone do not wait for torch.
    from realfake.detector import Detector

    label_map = parse_overrides(options.label_map)
    try:
        return Detector.from_pretrained(
            options.model, revision=options.model_revision, label_map=label_map
        )
    except ValueError as error:
        raise ValueError(re.sub(r"(?<!-)\blabel_map\b", "--label_map", str(error))) from error


def checkpoint_identity(model: str | Path, detector: "Detector") -> str:
    """Return what names the weights: their SHA-256 for a folder, the commit for a checkpoint of the Hub.

    Raises:
        OSError: The folder holds no `model.safetensors`.
    """
    return checkpoint_hash(model) if Path(model).is_dir() else str(detector.revision)
