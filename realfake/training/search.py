"""Hyperparameter search: short trainings with options drawn by Optuna, chosen by the selection part.

`train_hf.py --search N` ends here instead of with a checkpoint. The study lies in the output folder as SQLite, so that a search
that was interrupted continues; its history goes to `search.json` and `search.md`.
"""

import dataclasses
import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel
from transformers.trainer_utils import SaveStrategy

from realfake.formatting import code, duration, fence, number, table
from realfake.io import write_atomically
from realfake.models.folding import set_dropout
from realfake.training.arguments import ModelArguments, RunArguments
from realfake.training.model import prepare_classifier
from realfake.training.trainer import DetectorTrainer

STUDY = "study.db"
NAME = "search"


def search_space(args: RunArguments, model_args: ModelArguments, model: PreTrainedModel):
    """Make the function that draws the options of a trial; called again with the same trial, it repeats them.

    Learning rate (a tenth to ten times `--learning_rate`, log-uniform), batch size (half of it, itself, twice), weight decay
    (0.001 to 0.3, log-uniform), strength of the augmentation (0 to 1), and dropout (0 to 0.5) where the architecture has it.
    """
    batch = args.per_device_train_batch_size
    batches = sorted({max(1, batch // 2), batch, batch * 2})
    try:
        set_dropout(type(model.config).from_dict(model.config.to_dict()), 0.1)
        has_dropout = True
    except ValueError:
        has_dropout = False
    rate = args.learning_rate

    def suggest(trial) -> dict:
        drawn = {
            "learning_rate": trial.suggest_float("learning_rate", rate / 10, rate * 10, log=True),
            "per_device_train_batch_size": trial.suggest_categorical(
                "per_device_train_batch_size", batches
            ),
            "weight_decay": trial.suggest_float("weight_decay", 1e-3, 0.3, log=True),
            "augmentation": trial.suggest_float("augmentation", 0.0, 1.0),
        }
        if has_dropout:
            drawn["dropout"] = trial.suggest_float("dropout", 0.0, 0.5)
        return drawn

    return suggest


def search(trainer: DetectorTrainer, model_args: ModelArguments, n_trials: int) -> dict | None:
    """Run trials until there are `n_trials` of them, those of an earlier call included, and write the history.

    Args:
        trainer: Whose data, metric and epochs every trial has.
        model_args: Of which each trial begins with a fresh model.

    Returns:
        The history on the main process, see [`history`].

    Raises:
        ValueError: The folder holds a search of other options, or no trial came to its end.
        OSError: The study cannot be written.
    """
    import optuna

    args = trainer.args
    folder = Path(args.output_dir)
    suggest = search_space(args, model_args, trainer.model)
    metric = (args.metric_for_best_model or "loss").removeprefix("eval_")
    direction = "minimize" if metric in ("loss", "ece", "nll", "brier") else "maximize"

    def fresh_model(trial) -> PreTrainedModel:
        drawn = suggest(trial) if trial is not None else {}
        images = trainer.train_dataset
        if "augmentation" in drawn:
            images.augmentation = dataclasses.replace(
                images.augmentation, strength=drawn["augmentation"]
            )
        own = dataclasses.replace(
            model_args, config_overrides=json.dumps(model_args.config_overrides)
        )
        own.dropout = drawn.get("dropout", model_args.dropout)
        return prepare_classifier(own)[0]

    def of_arguments(trial) -> dict:
        return {name: value for name, value in suggest(trial).items() if hasattr(args, name)}

    storage = f"sqlite:///{folder / STUDY}"
    left = [0]
    if PartialState().is_main_process:
        study = optuna.create_study(
            storage=storage, study_name=NAME, direction=direction, load_if_exists=True
        )
        _check_same(study, folder)
        # A trial that was running when the process died never tells.
        for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        left = [max(0, n_trials - len(_ended(study)))]
        if left != [n_trials]:
            print(
                f"Continuing the search: {len(_ended(study))} of {n_trials} trials are there.",
                flush=True,
            )
    broadcast_object_list(left)

    args.save_strategy, args.load_best_model_at_end = SaveStrategy.NO, False
    trainer.model_init = fresh_model
    try:
        if left[0]:
            distributed = args.world_size > 1
            trainer.hyperparameter_search(
                hp_space=of_arguments,
                compute_objective=lambda metrics: metrics[f"eval_{metric}"],
                n_trials=left[0],
                direction=direction,
                backend="optuna",
                storage=storage,
                study_name=NAME,
                load_if_exists=True,
                # Seeded anew by what is known, lest a continued search repeats its first draws.
                sampler=optuna.samplers.TPESampler(seed=args.seed + n_trials - left[0]),
                # A trial that is pruned on one process would leave the others waiting.
                pruner=optuna.pruners.NopPruner() if distributed else optuna.pruners.MedianPruner(),
            )
    finally:
        found = None
        if PartialState().is_main_process:
            found = history(optuna.load_study(study_name=NAME, storage=storage), metric)
            write_atomically(folder / "search.json", json.dumps(found, indent=1) + "\n")
            write_atomically(folder / "search.md", page(found))
    if found is not None and found["best"] is None:
        raise ValueError(f"No trial came to its end; {folder / 'search.md'} lists what happened.")
    if found is not None:
        print(f"\n{page(found)}\n{folder / 'search.md'}")
    return found


def _ended(study) -> list:
    from optuna.trial import TrialState

    return study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))


def _check_same(study, folder: Path) -> None:
    # How many trials there are to be may change between two calls.
    words = _without(sys.argv[1:], "--search")
    known = study.user_attrs.get("words")
    if known is None:
        study.set_user_attr("words", words)
    elif known != words:
        raise ValueError(
            f"{folder} holds a search of other options; give the same ones again, or pass another --output_dir."
        )


def _without(words: list[str], option: str) -> list[str]:
    kept, skip = [], False
    for word in words:
        if not skip and word != option and not word.startswith(f"{option}="):
            kept.append(word)
        skip = word == option
    return kept


def history(study, metric: str) -> dict:
    """Collect what a study knows, JSON-serialisable.

    Returns:
        `dict`: `metric`, `direction`, `best` (number of the best trial, or `None`), `trials` (for each `number`, `state`,
        `value`, `params`, `seconds` and `curve`, `{step: value}`), and `command`, to train with the best options.
    """
    ended = [trial for trial in _ended(study) if trial.state.name == "COMPLETE"]
    lowest = study.direction.name == "MINIMIZE"
    best = min(ended, key=lambda trial: trial.value if lowest else -trial.value, default=None)
    return {
        "metric": metric,
        "direction": study.direction.name.lower(),
        "best": best and best.number,
        "command": best and _command(best.params),
        "trials": [
            {
                "number": trial.number,
                "state": trial.state.name.lower(),
                "value": trial.value,
                "params": trial.params,
                "seconds": trial.duration and round(trial.duration.total_seconds(), 1),
                "curve": trial.intermediate_values,
            }
            for trial in study.get_trials()
        ],
    }


def _command(params: Mapping) -> str:
    words = _without(sys.argv[1:], "--search")
    for name in params:
        words = _without(words, f"--{name}")
    words = _without(words, "--output_dir")
    values = [
        word
        for name, value in params.items()
        for word in (f"--{name}", f"{value:.4g}" if isinstance(value, float) else str(value))
    ]
    return f"python train_hf.py {shlex.join([*words, *values, '--output_dir', 'runs/best'])}"


def page(found: Mapping) -> str:
    """The history as Markdown, the best trial first."""
    sign = 1 if found["direction"] == "minimize" else -1
    trials = sorted(
        found["trials"],
        key=lambda trial: (trial["value"] is None, sign * (trial["value"] or 0), trial["number"]),
    )
    names = list(dict.fromkeys(name for trial in trials for name in trial["params"]))
    rows = [
        [
            str(trial["number"]),
            number(trial["value"])
            + ("" if trial["state"] == "complete" else f" ({trial['state']})"),
            *(_value(trial["params"].get(name)) for name in names),
            duration(trial["seconds"]) if trial["seconds"] is not None else "–",
        ]
        for trial in trials
    ]
    lines = [
        "# Hyperparameter search",
        "",
        f"By {found['metric']} on the selection part ({found['direction']}).",
        "",
    ]
    lines += [table(["trial", found["metric"], *map(code, names), "time"], rows), ""]
    if found["command"]:
        lines += ["Train with the best options:", "", fence(found["command"], "bash"), ""]
    return "\n".join(lines)


def _value(value) -> str:
    return "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
