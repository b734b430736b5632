"""The options by which the scripts that work on a corpus alone are told which one: `prepare_corpus.py`, `audit_corpus.py`."""

import argparse

from .corpus import Corpus, load_corpus
from .labels import parse_overrides
from .splits import SPLITS


def add_source_options(parser: argparse.ArgumentParser, seed_help: str) -> None:
    """Add what [`load_corpus`] can be told, but for the source itself."""
    parser.add_argument("--dataset_config", help="Configuration name of a Hub dataset.")
    parser.add_argument("--dataset_revision", help="Branch, tag or commit of a Hub dataset.")
    for split in SPLITS:
        parser.add_argument(f"--{split}_split", help=f"Name of the {split} split, where it is unusual.")
        parser.add_argument(f"--max_{split}_samples", type=int, help=f"Use this many {split} images at most.")
    parser.add_argument("--image_column", help="Name of the column that holds the image.")
    parser.add_argument("--label_column", help="Name of the column that holds the label.")
    parser.add_argument("--label_map", help="Which classes are real and which ai: 'nature=real,midjourney=ai'.")
    parser.add_argument("--seed", type=int, default=42, help=seed_help)
    parser.add_argument("--num_proc", type=int, help="Processes that check the images.")
    parser.add_argument("--cache_dir", help="Where datasets keeps its files.")


def read_source(options: argparse.Namespace, limits: dict[str, int | None] | None = None) -> Corpus:
    """Load the corpus that the options name.

    Args:
        limits: *optional*. `{split: images at most}`, instead of what the options say.

    Raises:
        ValueError: As [`load_corpus`].
        OSError: As [`load_corpus`].
    """
    limits = limits or {split: getattr(options, f"max_{split}_samples") for split in SPLITS}
    return load_corpus(
        options.source,
        config_name=options.dataset_config,
        revision=options.dataset_revision,
        image_column=options.image_column,
        label_column=options.label_column,
        label_map=parse_overrides(options.label_map),
        seed=options.seed,
        num_proc=options.num_proc,
        cache_dir=options.cache_dir,
        **{f"{split}_split": getattr(options, f"{split}_split") for split in SPLITS},
        **{f"max_{split}_samples": limits[split] for split in SPLITS},
    )
