"""Fine-tune several image classifiers on the same images, and print one table.

    python scripts/compare.py --dataset ./corpus --output_dir runs/compare --num_train_epochs 5
    python scripts/compare.py --dataset ./corpus --output_dir runs/compare --models resnet-18,vit-b/16,user/my-model --seeds 42,43

    # without checkpoints: small versions of the seven architectures, from random weights
    python scripts/compare.py --dataset ./corpus --output_dir runs/scratch --from_scratch --scale tiny --image_size 32

    # models of your own making, as a JSON file: [{"name": "wide", "words": ["--model_type", "vit", "--config_overrides", "{…}"]}]
    python scripts/compare.py --dataset ./corpus --output_dir runs/own --models models.json

Every option that is not listed below goes to `train_hf.py`: epochs, learning rate, `--hold_out`, `--max_train_samples`, … All
models train with the same options, splits and seeds, and end calibrated. The table goes to `comparison.md`, all figures to
`comparison.json`. Give the same command again, and finished runs are kept, an interrupted one continues.
"""

import argparse
import json
from pathlib import Path

from realfake import io
from realfake.cli import options as cli_options


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    from realfake.training.series import ARCHITECTURES, SCALES

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
    words = options.training_options
    _check(options, words)
    series = runs_of(options, words)
    with io.locked_folder(options.output):
        return train_and_compare(options, series)


def _check(options: argparse.Namespace, words: list[str]) -> None:
    if options.scale != "full" and not options.from_scratch:
        raise ValueError("--scale needs --from_scratch: a pretrained checkpoint has a fixed size.")
    try:
        options.seeds = list(dict.fromkeys(int(seed) for seed in options.seeds.split(",")))
    except ValueError:
        raise ValueError(
            f"--seeds must be whole numbers separated by commas, not {options.seeds!r}."
        ) from None
    for word in (
        "--seed",
        "--measure_test",
        "--model_name_or_path",
        "--model_type",
        "--config_overrides",
        "--output_dir",
    ):
        if any(given == word or given.startswith(f"{word}=") for given in words):
            raise ValueError(
                f"{word} is set for each run; use --seeds, --split, --models or --output."
            )


def runs_of(options: argparse.Namespace, words: list[str]):
    """The runs that were asked for, their options checked."""
    from realfake.formatting import slug
    from realfake.training import runs
    from realfake.training.series import Run, words_for

    image_size = _image_size(words)
    path = Path(options.models)
    if path.suffix == ".json":
        if options.from_scratch:
            raise ValueError(
                "--from_scratch and --scale do not go with a JSON file, which says what each model is."
            )
        models = _read_models(path)
    else:
        names = [name.strip() for name in options.models.split(",") if name.strip()]
        scale = {
            "from_scratch": options.from_scratch,
            "scale": options.scale,
            "image_size": image_size,
        }
        models = {name: words_for(name, **scale) for name in dict.fromkeys(names)}
    if len(models) < 2:
        raise ValueError("--models names fewer than two models; there is nothing to compare.")
    found = []
    for seed in options.seeds:
        for name, own in models.items():
            folder = Path(options.output) / f"{slug(name.replace('/', '-'))}-s{seed}"
            whole = (
                *words,
                *own,
                "--seed",
                str(seed),
                "--measure_test",
                str(options.split == "test"),
            )
            runs.parse([*whole, "--output_dir", str(folder)])
            found.append(Run(name, whole, folder))
    if len({run.folder for run in found}) < len(found):
        raise ValueError(
            "--models: two models would share a folder; name them apart in a JSON file."
        )
    return found


def _image_size(words: list[str]) -> int | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--image_size", type=int)
    return parser.parse_known_args(words)[0].image_size


def _read_models(path: Path) -> dict[str, list[str]]:
    try:
        models = json.loads(path.read_text(encoding="utf-8"))
        return {str(model["name"]): [str(word) for word in model["words"]] for model in models}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path} must hold a list of {{"name": …, "words": ["--model_type", …]}} ({error}).'
        ) from error


def train_and_compare(options: argparse.Namespace, series: list) -> int:
    """Runs → scores → figures → table."""
    from realfake.training import comparison
    from realfake.training import series as training_series

    training_series.check_folders(series)
    failed = training_series.train_all(series, options.launcher)
    done = [run for run in series if run.finished]
    done = [
        run for run in done if sum(other.name == run.name for other in done) == len(options.seeds)
    ]
    if len({run.name for run in done}) < 2:
        raise ValueError(
            f"Fewer than two models were trained; {'; '.join(f'{name}: {line}' for name, line in failed.items())}"
        )
    found = {"seeds": options.seeds, **comparison.figures_of(done, options.split)}
    beside = comparison.measure_all(done, options.split, options.tier_samples)
    for name, figures in beside.items():
        found["models"][name] |= figures
    return training_series.conclude(
        Path(options.output), "comparison", found, failed, comparison.comparison_page
    )
