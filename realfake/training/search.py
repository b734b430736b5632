"""Hyperparameter search with Optuna: short trainings, compared on the selection split.

The study is stored in the output folder as SQLite, so the same command continues an interrupted
search. `search.json` lists the trials.
"""

import dataclasses
import json
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import optuna
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from optuna.trial import TrialState
from transformers import PreTrainedModel
from transformers.trainer_utils import SaveStrategy

from realfake.io import command_line, redact, write_atomically
from realfake.models.folding import set_dropout
from realfake.training.arguments import ModelArguments, RunArguments
from realfake.training.model import prepare_classifier
from realfake.training.trainer import DetectorTrainer

STUDY = "study.db"
NAME = "search"


def search_space(
    args: RunArguments, model: PreTrainedModel
) -> Callable[[optuna.trial.BaseTrial], dict]:
    """Return the function that draws the options of a trial; the same ones for the same trial."""
    batch, rate = args.per_device_train_batch_size, args.learning_rate
    batches = sorted({max(1, batch // 2), batch, batch * 2})
    try:
        set_dropout(type(model.config).from_dict(model.config.to_dict()), 0.1)
        has_dropout = True
    except ValueError:
        has_dropout = False

    def suggest(trial: optuna.trial.BaseTrial) -> dict:
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


def search(trainer: DetectorTrainer, model_args: ModelArguments, n_trials: int) -> None:
    """Run trials until there are `n_trials`, with those of an earlier call, and write the history.

    Args:
        trainer: Its data, metric and epochs are those of every trial.
        model_args: Each trial starts with a new model of these arguments.

    Raises:
        ValueError: The folder holds a search with other options, or no trial was completed.
        OSError: The study cannot be written.
    """
    args, folder = trainer.args, Path(trainer.args.output_dir)
    suggest = search_space(args, trainer.model)
    metric = (args.metric_for_best_model or "loss").removeprefix("eval_")
    direction = "minimize" if metric in ("loss", "ece", "nll", "brier") else "maximize"

    def new_model(trial: optuna.trial.BaseTrial | None) -> PreTrainedModel:
        drawn = suggest(trial) if trial is not None else {}
        images = trainer.train_dataset
        if "augmentation" in drawn:
            images.augmentation = dataclasses.replace(
                images.augmentation, strength=drawn["augmentation"]
            )
        dropout = drawn.get("dropout", model_args.dropout)
        return prepare_classifier(dataclasses.replace(model_args, dropout=dropout))[0]

    def of_arguments(trial: optuna.trial.BaseTrial) -> dict:
        return {name: value for name, value in suggest(trial).items() if hasattr(args, name)}

    is_main, storage = PartialState().is_main_process, f"sqlite:///{folder / STUDY}"
    left = [_open_study(storage, direction, folder, n_trials) if is_main else 0]
    broadcast_object_list(left)
    args.save_strategy, args.load_best_model_at_end = SaveStrategy.NO, False
    trainer.model_init = new_model
    try:
        if left[0]:
            trainer.hyperparameter_search(
                hp_space=of_arguments,
                compute_objective=lambda metrics: metrics[f"eval_{metric}"],
                n_trials=left[0],
                direction=direction,
                backend="optuna",
                storage=storage,
                study_name=NAME,
                load_if_exists=True,
                # Another seed than before, or a continued search would repeat its first draws.
                sampler=optuna.samplers.TPESampler(seed=args.seed + n_trials - left[0]),
                # A trial pruned in one process would leave the others waiting.
                pruner=optuna.pruners.NopPruner()
                if args.world_size > 1
                else optuna.pruners.MedianPruner(),
            )
    finally:
        if is_main:
            record = history(optuna.load_study(study_name=NAME, storage=storage), metric)
            write_atomically(folder / "search.json", json.dumps(record, indent=1) + "\n")
    if is_main:
        if record["best"] is None:
            raise ValueError(f"No trial was completed; see {folder / 'search.json'}.")
        value = record["trials"][record["best"]]["value"]
        print(f"Best {metric}: {value:.4f}; train with these options:\n{record['command']}")


def _open_study(storage: str, direction: str, folder: Path, n_trials: int) -> int:
    """Create or continue the study, and return the number of trials to run."""
    study = optuna.create_study(
        storage=storage, study_name=NAME, direction=direction, load_if_exists=True
    )
    words = _without(redact(sys.argv[1:]), "--search")  # the number of trials may change
    if study.user_attrs.get("words", words) != words:
        raise ValueError(
            f"{folder} holds a search with other options; give the same ones again, or pass "
            "another --output_dir."
        )
    study.set_user_attr("words", words)
    # Trials that were running when a process died.
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    ended = len(study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)))
    if ended:
        print(f"Continuing the search: {ended} of {n_trials} trials are done.", flush=True)
    return max(0, n_trials - ended)


def _without(words: list[str], option: str) -> list[str]:
    kept, skip = [], False
    for word in words:
        if not skip and word != option and not word.startswith(f"{option}="):
            kept.append(word)
        skip = word == option
    return kept


def history(study: optuna.Study, metric: str) -> dict:
    """Return the trials of a study as JSON values, with the command of the best one."""
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    sign = 1 if study.direction.name == "MINIMIZE" else -1
    best = min(complete, key=lambda trial: sign * trial.value, default=None)
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
    words = shlex.split(command_line())
    for option in ("search", "output_dir", *params):
        words = _without(words, f"--{option}")
    for name, value in params.items():
        words += [f"--{name}", f"{value:.4g}" if isinstance(value, float) else str(value)]
    return shlex.join([*words, "--output_dir", "runs/best"])
