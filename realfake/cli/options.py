"""Options that several commands share: model, corpus, output."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realfake.io import command_line
from realfake.labels import parse_overrides

if TYPE_CHECKING:
    from realfake.corpus.load import Corpus
    from realfake.detector import Detector

SPLITS = ("train", "validation", "test")
# Splits to measure; validation has two halves.
MEASURED = ("train", "validation", "selection", "calibration", "test")
# Images to read of a split that a command does not use.
_UNUSED = 100
_AS_JSON = 'JSON for names with a comma: {"a, b": "ai", "c": "real"}'


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keep the lines of examples, add defaults that are not obvious, and shorten placeholders."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32)

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if action.nargs == argparse.PARSER:  # argparse ignores the indentation of commands
            self._action_max_length += self._indent_increment

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return action.dest.split("_")[-1].upper()  # --batch_size SIZE

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        if action.default in (None, []) or action.default is False or "(default" in text:
            return text
        return super()._get_help_string(action)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        # transformers adds --batch-size to --batch_size.
        names = [name for name in action.option_strings if "-" not in name[2:]]
        if not names:
            return super()._format_action_invocation(action)
        if action.nargs == 0:
            return ", ".join(names)
        metavar = self._get_default_metavar_for_optional(action)
        return f"{', '.join(names)} {self._format_args(action, metavar)}"


# Types of numbers. A value outside its range is a `ValueError` that names the option.


def at_least(smallest: int) -> Callable[[str], int]:
    """Return an argument type: a whole number that is `smallest` or larger."""

    def parse(text: str) -> int:
        value = int(text)
        if value < smallest:
            raise argparse.ArgumentTypeError(f"must be at least {smallest}, not {value}")
        return value

    parse.__name__ = "whole number"
    return parse


def between(low: float, high: float, inclusive: bool = False) -> Callable[[str], float]:
    """Return an argument type: a number between two bounds."""

    def parse(text: str) -> float:
        value = float(text)
        if not (low <= value <= high if inclusive else low < value < high):
            raise argparse.ArgumentTypeError(f"must lie between {low:g} and {high:g}, not {text}")
        return value

    parse.__name__ = "number"
    return parse


# The model


def add_model(parser: argparse.ArgumentParser, positional: bool = True) -> None:
    """Add the model: a required argument, or `--model` with the bundled detector as default."""
    text = "Hub id, user/name@revision, or folder of an image classifier"
    if positional:
        parser.add_argument("model", metavar="MODEL", help=text)
    else:
        parser.add_argument(
            "--model", metavar="MODEL", help=f"{text} (default: the bundled detector)"
        )
    parser.add_argument(
        "--label_map",
        metavar="NAME=real,NAME=ai",
        help="labels of the model's classes, if their names are unclear, such as "
        f"LABEL_0=real,LABEL_1=ai; {_AS_JSON}",
    )


def add_views(parser: argparse.ArgumentParser) -> None:
    """Add `--views`."""
    parser.add_argument(
        "--views",
        type=at_least(1),
        metavar="N",
        help="examine each image in at most N views (default: the setting of the checkpoint; 1: "
        "only the centre, like the stock pipeline)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the device."""
    parser.add_argument(
        "--device", help="cpu, cuda or another PyTorch device (default: a GPU if available)"
    )


def open_model(options: argparse.Namespace) -> "Detector":
    """Open the detector that the options of [`add_model`] name.

    Raises:
        ValueError, OSError: As [`Detector.from_pretrained`].
    """
    from realfake.detector import Detector

    model, revision = split_revision(options.model)
    label_map = parse_overrides(options.label_map) or None
    return Detector.from_pretrained(
        model, revision=revision, device=getattr(options, "device", None), label_map=label_map
    )


def split_revision(model: str | None) -> tuple[str | None, str | None]:
    """Split `user/name@revision` into the id and the revision; a folder has no revision."""
    if not model or "@" not in model or Path(model).exists():
        return model, None
    model, _, revision = model.rpartition("@")
    return model, revision or None


def model_identity(model: str | Path, detector: "Detector") -> str:
    """Return an identifier of the weights: their SHA-256 for a folder, the commit for a Hub id.

    Raises:
        OSError: The folder holds no `model.safetensors`.
    """
    from realfake.evaluation.results import checkpoint_hash

    return checkpoint_hash(model) if Path(model).is_dir() else str(detector.revision)


# The corpus


def add_corpus(parser: argparse.ArgumentParser, measured: bool = True) -> None:
    """Add the corpus and the options for reading it.

    Args:
        measured: Whether the command measures a model on the corpus. If so, the corpus is
            `--dataset` with `--dataset_label_map`; else the argument SOURCE with `--label_map`.
    """
    group = parser.add_argument_group("corpus") if measured else parser
    text = "Hub dataset, folder or .zip with a folder per class, data files, or save_to_disk folder"
    if measured:
        group.add_argument("--dataset", metavar="SOURCE", required=True, help=text)
        group.add_argument("--corpus_name", help="name in reports (default: id or folder name)")
    else:
        group.add_argument("source", metavar="SOURCE", help=text)
    group.add_argument("--dataset_config", help="configuration of a Hub dataset")
    group.add_argument("--dataset_revision", help="branch, tag or commit of a Hub dataset")
    for split in SPLITS:
        group.add_argument(f"--{split}_split", help=f"name of the {split} split")
    group.add_argument("--image_column", help="column of the images")
    group.add_argument("--label_column", help="column of the labels")
    group.add_argument(
        "--dataset_label_map" if measured else "--label_map",
        metavar="NAME=real,NAME=ai",
        help=f"labels of the corpus' classes, such as nature=real,midjourney=ai; {_AS_JSON}",
    )
    group.add_argument("--split_seed", type=int, default=42, help="seed of random splits")
    group.add_argument(
        "--preprocessing_num_workers",
        type=at_least(1),
        help="processes that check the images (default: one per core)",
    )
    group.add_argument("--cache_dir", help="cache folder of the datasets library")


def add_limits(parser: argparse.ArgumentParser, *splits: str) -> None:
    """Add `--max_SPLIT_samples` for each split."""
    for split in splits:
        parser.add_argument(
            f"--max_{split}_samples",
            type=at_least(1),
            help=f"read at most this many {split} images",
        )


def read_corpus(
    options: argparse.Namespace, limits: Mapping[str, int | None] | None = None
) -> "Corpus":
    """Load the corpus that the options of [`add_corpus`] name.

    Args:
        limits: *optional*. `{split: maximal number of images}`, `None` for all images. Of a
            missing split, which the command does not use, few images are read. *Defaults to* the
            options of [`add_limits`].

    Raises:
        ValueError: As [`load_corpus`].
        OSError: As [`load_corpus`].
    """
    from realfake.corpus.load import load_corpus

    measured = hasattr(options, "dataset")
    source = options.dataset if measured else options.source
    option = "--dataset_label_map" if measured else "--label_map"
    label_map = parse_overrides(getattr(options, option.removeprefix("--")), option)
    if limits is None:
        limits = {split: getattr(options, f"max_{split}_samples") for split in SPLITS}
    by_split: dict[str, Any] = {}
    for split in SPLITS:
        by_split[f"{split}_split"] = getattr(options, f"{split}_split")
        by_split[f"max_{split}_samples"] = limits.get(split, _UNUSED)
    try:
        corpus = load_corpus(
            source,
            config_name=options.dataset_config,
            revision=options.dataset_revision,
            image_column=options.image_column,
            label_column=options.label_column,
            label_map=label_map,
            seed=options.split_seed,
            num_proc=options.preprocessing_num_workers,
            cache_dir=options.cache_dir,
            **by_split,
        )
    except ValueError as error:
        # The loader names the option of the training command.
        raise ValueError(str(error).replace("--label_map", option)) from error
    if measured:
        local = Path(source)
        name = local.resolve().name if local.exists() else source
        options.corpus_name = options.corpus_name or name
        print(corpus.report.summary(), flush=True)
    return corpus


# Output and measurement


def add_output(parser: argparse.ArgumentParser, text: str, required: bool = True) -> None:
    """Add `--output`."""
    parser.add_argument("-o", "--output", required=required, metavar="PATH", help=text)


def add_batch_size(parser: argparse.ArgumentParser, default: int = 32) -> None:
    """Add `--batch_size`."""
    parser.add_argument(
        "--batch_size", type=at_least(1), default=default, help="images in one forward pass"
    )


def add_measurement_log(parser: argparse.ArgumentParser) -> None:
    """Add the log of measurements on test splits."""
    parser.add_argument(
        "--measurement_log",
        metavar="FILE",
        help="log of test measurements (default: measurements.jsonl in the output folder)",
    )


def measurement_log(options: argparse.Namespace) -> Path:
    """Return the log of measurements on test splits."""
    from realfake.evaluation.log import FILE_NAME

    return Path(options.measurement_log or Path(options.output) / FILE_NAME)


def add_measurement(
    parser: argparse.ArgumentParser, split: str, seed: str = "seed of the bootstrap"
) -> None:
    """Add the model, the corpus, the split to measure, the bootstrap and the log."""
    add_model(parser)
    add_corpus(parser)
    parser.add_argument("--split", choices=MEASURED, default=split, help="split to measure")
    parser.add_argument(
        "--n_resamples", type=at_least(0), default=1000, help="bootstrap samples; 0: no intervals"
    )
    parser.add_argument("--seed", type=int, default=0, help=seed)
    add_measurement_log(parser)


def measurement_context(options: argparse.Namespace) -> dict[str, Any]:
    """Return what every measurement records and logs."""
    return {
        "split": options.split,
        "corpus": options.corpus_name,
        "command": command_line(),
        "measurement_log": measurement_log(options),
        "n_resamples": options.n_resamples,
    }
