"""Fine-tune several image classifiers on the same images and compare them in a table.

    realfake compare --dataset ./corpus --output runs/compare --num_train_epochs 5
    realfake compare --dataset ./corpus --output runs/compare --seeds 42,43 \\
        --models resnet-18,vit-b/16,user/my-model

    # tiny versions of the seven architectures, from random weights
    realfake compare --dataset ./corpus --output runs/scratch --from_scratch --scale tiny \\
        --image_size 32

    # models from a JSON file: [{"name": "wide", "words": ["--model_type", "vit", …]}]
    realfake compare --dataset ./corpus --output runs/own --models models.json

All other options go to `realfake train`. All models are trained with the same options, splits and
seeds. `comparison.md` is the table, `comparison.json` holds all figures. The same command continues
an interrupted series.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from realfake import io
from realfake.cli import options as cli_options

if TYPE_CHECKING:
    from realfake.training.series import Run


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    from realfake.training.architectures import ARCHITECTURES, SCALES

    cli_options.add_output(parser, "folder of the runs and the table")
    parser.add_argument(
        "--models",
        default=",".join(ARCHITECTURES),
        help="names of these seven, Hub ids or folders, separated by commas; or a JSON file",
    )
    parser.add_argument(
        "--from_scratch", action="store_true", help="start from random weights, not the Hub's"
    )
    parser.add_argument("--scale", choices=SCALES, default="full", help="size, from scratch")
    parser.add_argument("--seeds", default="42", help="one run of each model for each seed")
    parser.add_argument(
        "--split",
        choices=("validation", "held_out", "test"),
        default="validation",
        help="split to compare on",
    )
    parser.add_argument(
        "--tier_samples",
        type=cli_options.at_least(0),
        default=400,
        help="images of validation (or held_out) to degrade for the worst tier; 0: no tiers",
    )
    parser.add_argument(
        "--launcher",
        help='command that starts a run, such as "accelerate launch --num_processes 2"',
    )


def run(options: argparse.Namespace) -> int:
    """Train, compare and print, in a folder that no other process writes to."""
    from realfake.training import comparison, series

    seeds = _seeds(options.seeds)
    runs = _runs(options, seeds)
    series.check_folders(runs)
    with io.locked_folder(options.output):
        failed = series.train_all(runs, options.launcher)
        names = [run.name for run in runs if run.finished]
        done = [run for run in runs if run.finished and names.count(run.name) == len(seeds)]
        if len({run.name for run in done}) < 2:
            reasons = "; ".join(f"{name}: {line}" for name, line in failed.items())
            raise ValueError(f"Fewer than two models were trained; {reasons}")
        figures = {"seeds": seeds, **comparison.figures_of(done, options.split)}
        measured = comparison.measure_all(done, options.split, options.tier_samples)
        for name, more in measured.items():
            figures["models"][name] |= more
        return series.write_report(
            Path(options.output), "comparison", figures, failed, comparison.comparison_page
        )


def _runs(options: argparse.Namespace, seeds: list[int]) -> list["Run"]:
    from realfake.formatting import slug
    from realfake.training.arguments import parse
    from realfake.training.series import Run, refuse_options

    words = options.training_options
    refuse_options(
        words,
        *("--seed", "--measure_test", "--output_dir"),
        *("--model_name_or_path", "--model_type", "--config_overrides"),
        hint="use --seeds, --split, --models or --output",
    )
    models = _models(options, words)
    if len(models) < 2:
        raise ValueError("--models names fewer than two models; there is nothing to compare.")
    runs = []
    for seed in seeds:
        for name, model in models.items():
            folder = Path(options.output) / f"{slug(name.replace('/', '-'))}-s{seed}"
            own = ["--seed", str(seed), "--measure_test", str(options.split == "test")]
            run = Run(name, (*words, *model, *own), folder)
            parse([*run.words, "--output_dir", str(folder)])
            runs.append(run)
    return runs


def _models(options: argparse.Namespace, words: list[str]) -> dict[str, list[str]]:
    """Return `{name: training options}`."""
    from realfake.training.architectures import model_options

    if options.scale != "full" and not options.from_scratch:
        raise ValueError("--scale needs --from_scratch: a pretrained checkpoint has a fixed size.")
    path = Path(options.models)
    if path.suffix == ".json":
        if options.from_scratch:
            raise ValueError("--from_scratch has no effect on a JSON file; leave it out.")
        return _read_models(path)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--image_size", type=int)
    image_size = parser.parse_known_args(words)[0].image_size
    scratch = {"from_scratch": options.from_scratch, "scale": options.scale}
    names = [name.strip() for name in options.models.split(",") if name.strip()]
    return {name: model_options(name, **scratch, image_size=image_size) for name in names}


def _seeds(text: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(seed) for seed in text.split(",")))
    except ValueError:
        raise ValueError(
            f"--seeds must be whole numbers separated by commas, not {text!r}."
        ) from None


def _read_models(path: Path) -> dict[str, list[str]]:
    try:
        models = json.loads(path.read_text(encoding="utf-8"))
        return {str(model["name"]): [str(word) for word in model["words"]] for model in models}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path} must hold a list of {{"name": …, "words": ["--model_type", …]}} ({error}).'
        ) from error
