"""Commands that train a series of models: compare, leave-one-out."""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import realfake
from realfake import io
from realfake.cli import options

if TYPE_CHECKING:
    from realfake.corpus.load import Corpus
    from realfake.training.runs import Run

# The image classifiers that are compared by default, as papers on generated images do: checkpoints
# of the Hub, and fields of their configurations at full size and at about a sixteenth of the width.
ARCHITECTURES = Path(realfake.__file__).parent / "templates" / "architectures.json"
SCALES = ("tiny", "full")


# Compare


def configure_compare(parser: argparse.ArgumentParser) -> None:
    """Fine-tune several image classifiers on the same images and compare them in a table.

        realfake compare --dataset ./corpus --output runs/compare --num_train_epochs 5
        realfake compare --dataset ./corpus --output runs/compare --seeds 42,43 \\
            --models resnet-18,vit-b/16,user/my-model

        # tiny versions of the seven architectures, from random weights
        realfake compare --dataset ./corpus --output runs/scratch --from_scratch --scale tiny \\
            --image_size 32

        # models from a JSON file: [{"name": "wide", "words": ["--model_type", "vit", …]}]
        realfake compare --dataset ./corpus --output runs/own --models models.json

    All other options are passed to `realfake train`: all models are trained with the same options,
    splits and seeds. Writes the table to comparison.md and all figures to comparison.json. The same
    command continues an interrupted series.
    """
    known = ", ".join(json.loads(ARCHITECTURES.read_text()))
    options.add_output(parser, "folder of the runs and the table")
    parser.add_argument(
        "--models",
        default=known.replace(" ", ""),
        help="known names, Hub ids or folders, separated by commas; or a JSON file (default: the "
        f"known names {known})",
    )
    parser.add_argument(
        "--from_scratch", action="store_true", help="start from random weights instead of the Hub's"
    )
    parser.add_argument(
        "--scale", choices=SCALES, default="full", help="size of the models with --from_scratch"
    )
    parser.add_argument(
        "--seeds", default="42", help="seeds, separated by commas; each model has a run per seed"
    )
    parser.add_argument(
        "--split",
        choices=("validation", "held_out", "test"),
        default="validation",
        help="split to compare on",
    )
    parser.add_argument(
        "--tier_samples",
        type=options.at_least(0),
        default=400,
        help="images to degrade for the worst tier, from validation or held_out; 0: no tiers",
    )
    _add_launcher(parser)


def run_compare(args: argparse.Namespace) -> int:
    """Train and measure all models, write the figures and print the table."""
    from realfake.training import comparison
    from realfake.training.runs import check_folders, train_all, write_report

    seeds = _seeds(args.seeds)
    runs = _runs(args, seeds)
    check_folders(runs)
    with io.locked_folder(args.output):
        failed = train_all(runs, args.launcher)
        names = [run.name for run in runs if run.finished]
        done = [run for run in runs if run.finished and names.count(run.name) == len(seeds)]
        if len({run.name for run in done}) < 2:
            raise ValueError(f"Fewer than two models were trained; {_reasons(failed)}")
        figures = {"seeds": seeds, **comparison.figures_of(done, args.split)}
        for name, more in comparison.measure_all(done, args.split, args.tier_samples).items():
            figures["models"][name] |= more
        return write_report(
            Path(args.output), "comparison", figures, failed, comparison.comparison_page
        )


def _runs(args: argparse.Namespace, seeds: Sequence[int]) -> list["Run"]:
    from realfake.formatting import slug
    from realfake.training.arguments import parse
    from realfake.training.runs import Run, refuse_options

    refuse_options(
        args.training_options,
        *("--seed", "--measure_test", "--output_dir"),
        *("--model_name_or_path", "--model_type", "--config_overrides"),
        hint="use --seeds, --split, --models or --output",
    )
    models = _models(args)
    if len(models) < 2:
        raise ValueError("--models names fewer than two models; there is nothing to compare.")
    runs = []
    for seed in seeds:
        for name, model in models.items():
            folder = Path(args.output) / f"{slug(name.replace('/', '-'))}-s{seed}"
            own = ("--seed", str(seed), "--measure_test", str(args.split == "test"))
            run = Run(name, (*args.training_options, *model, *own), folder)
            parse([*run.words, "--output_dir", str(folder)])
            runs.append(run)
    return runs


def _models(args: argparse.Namespace) -> dict[str, list[str]]:
    """Return `{name: training options}`."""
    if args.scale != "full" and not args.from_scratch:
        raise ValueError("--scale needs --from_scratch: a pretrained checkpoint has a fixed size.")
    path = Path(args.models)
    if path.suffix == ".json":
        if args.from_scratch:
            raise ValueError("--from_scratch has no effect on a JSON file; leave it out.")
        return _read_models(path)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--image_size", type=int)
    image_size = parser.parse_known_args(args.training_options)[0].image_size
    scratch = {"from_scratch": args.from_scratch, "scale": args.scale}
    return {
        name: model_options(name, **scratch, image_size=image_size) for name in _names(args.models)
    }


def model_options(
    name: str, *, from_scratch: bool, scale: str, image_size: int | None
) -> list[str]:
    """Return the training options that select a model.

    Args:
        name: A name in [`ARCHITECTURES`], or a Hub id or folder.
        from_scratch: Whether to use random weights instead of the Hub's.
        scale: `"full"` or `"tiny"`; only from scratch.
        image_size: Side of the input in pixels; below 128 the first layer's patches are smaller.

    Raises:
        ValueError: A model that is not in [`ARCHITECTURES`] cannot be built from scratch.
    """
    models = json.loads(ARCHITECTURES.read_text())
    known = models.get(name)
    if not from_scratch:
        return ["--model_name_or_path", known["hub_id"] if known else name]
    if known is None:
        raise ValueError(
            f"--from_scratch knows {', '.join(models)}, not {name!r}; describe other models in a "
            "JSON file."
        )
    kind, overrides = known["model_type"], known[scale]
    if image_size is not None and image_size < 128:
        patches = {"vit": max(2, image_size // 8), "convnextv2": 2 if image_size < 64 else 4}
        if kind in patches:
            overrides = {**overrides, "patch_size": patches[kind]}
    return ["--model_type", kind, "--config_overrides", json.dumps(overrides)]


def _read_models(path: Path) -> dict[str, list[str]]:
    try:
        models = json.loads(path.read_text(encoding="utf-8"))
        return {str(model["name"]): [str(word) for word in model["words"]] for model in models}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path} must hold a list of {{"name": …, "words": ["--model_type", …]}} ({error}).'
        ) from error


def _seeds(text: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(seed) for seed in text.split(",")))
    except ValueError:
        raise ValueError(
            f"--seeds must be whole numbers separated by commas, not {text!r}."
        ) from None


# Leave one out


def configure_leave_one_out(parser: argparse.ArgumentParser) -> None:
    """Train without each generator in turn and measure how well it is detected.

        realfake leave-one-out --dataset ./corpus --column family --output runs/leave-one-out \\
            --model_name_or_path google/vit-base-patch16-224 --num_train_epochs 3

    All other options are passed to `realfake train`. Neither the training nor the choice of the
    checkpoint uses images of the left-out value or of its groups. The test split is not measured:
    choose a model by these figures, then measure it once on the test split. The same command
    continues an interrupted series.
    """
    options.add_output(parser, "folder of the runs and the table")
    parser.add_argument(
        "--column", default="generator", help="column to leave out: generator, family or source"
    )
    parser.add_argument(
        "--values",
        help="values to leave out, separated by commas (default: those with --min_images)",
    )
    parser.add_argument(
        "--min_images",
        type=options.at_least(1),
        default=30,
        help="ai images that a value must have to be left out",
    )
    _add_launcher(parser)


def run_leave_one_out(args: argparse.Namespace) -> int:
    """Train and measure a run per value, write the figures and print the table."""
    from realfake.formatting import slug
    from realfake.training import comparison, runs
    from realfake.training.arguments import parse

    folder, words = Path(args.output), [*args.training_options, "--measure_test", "False"]
    runs.refuse_options(
        args.training_options, "--hold_out", "--measure_test", "--output_dir", hint="leave it out"
    )
    corpus = runs.load(parse([*words, "--output_dir", str(folder)]).data)
    trainings = [
        runs.Run(
            value,
            (*words, "--hold_out", f"{args.column}={value}"),
            folder / slug(value.replace("/", "-").replace(" ", "-")),
        )
        for value in _values(args, corpus)
    ]
    runs.check_folders(trainings)
    with io.locked_folder(folder):
        failed = runs.train_all(trainings, args.launcher)
        done = [training for training in trainings if training.finished]
        if not done:
            raise ValueError(f"No run was finished; {_reasons(failed)}")
        figures = {"column": args.column, "values": comparison.held_out_figures(done)}
        return runs.write_report(folder, "leave_one_out", figures, failed, comparison.held_out_page)


def _values(args: argparse.Namespace, corpus: "Corpus") -> list[str]:
    from realfake.corpus.rows import is_ai

    counts: Counter = Counter()
    for split in ("train", "validation"):
        rows = corpus.splits[split]
        if args.column not in rows.column_names:
            raise ValueError(
                f"--column: the corpus has no column {args.column!r}; it has "
                f"{', '.join(rows.column_names)}."
            )
        values = zip(rows[args.column], is_ai(rows), strict=True)
        counts.update(value for value, generated in values if generated and value)
    if args.values:
        return _names(args.values)
    large = sorted(
        value for value, n in counts.items() if n >= args.min_images and "," not in value
    )
    if not large:
        raise ValueError(f"No {args.column} has {args.min_images} ai images; lower --min_images.")
    return large


# Shared


def _add_launcher(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--launcher",
        metavar="COMMAND",
        help='command that starts a run, such as "accelerate launch --num_processes 2"',
    )


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _reasons(failed: dict[str, str]) -> str:
    return "; ".join(f"{name}: {line}" for name, line in failed.items())
