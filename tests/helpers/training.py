"""Trainings in tests: small data sets, trainers, and `train_hf.py` in this process."""

import importlib.util
import io
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature

from helpers.tiny import draw_picture
from realfake.training.arguments import DataArguments, ModelArguments, RunArguments
from realfake.training.model import prepare_classifier
from realfake.training.trainer import DetectorTrainer, build_trainer

ROOT = Path(__file__).parents[2]
_SETTINGS = (
    "--bf16 False --use_cpu True --disable_tqdm True --augmentation 0.1 --logging_steps 1 "
    "--per_device_train_batch_size 16 --learning_rate 3e-3 --measure_degradations 0"
)
SETTINGS = _SETTINGS.split()


def rows(n: int, ai_every: int = 2) -> Dataset:
    """Return `n` drawn pictures; every `ai_every`-th one is ai."""
    images, labels = [], []
    for index in range(n):
        buffer = io.BytesIO()
        draw_picture(40, seed=index, residue=index % ai_every == 0).save(buffer, "PNG")
        images.append({"bytes": buffer.getvalue(), "path": None})
        labels.append(int(index % ai_every == 0))
    features = Features(
        {"image": ImageFeature(decode=False), "label": ClassLabel(names=["real", "ai"])}
    )
    return Dataset.from_dict({"image": images, "label": labels}, features=features)


def arguments(folder: Path, **more) -> RunArguments:
    """Return the arguments of a short training without checkpoints and evaluations."""
    settings = {
        "per_device_train_batch_size": 8,
        "num_train_epochs": 1,
        "learning_rate": 1e-2,
        "warmup_steps": 0,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "eval_strategy": "no",
        "load_best_model_at_end": False,
        "bf16": False,
        "disable_tqdm": True,
        "logging_steps": 1,
    }
    return RunArguments(output_dir=str(folder), **{**settings, **more})


def trainer_for(
    folder: Path,
    dataset: Dataset,
    args: RunArguments,
    preprocessing: str = "processor",
    data: dict | None = None,
    **model,
) -> DetectorTrainer:
    """Return a trainer of a checkpoint, with the same images for training and selection."""
    prepared = prepare_classifier(
        ModelArguments(model_name_or_path=str(folder), preprocessing=preprocessing, **model)
    )
    data = DataArguments(dataset="drawn", **(data or {}))
    return build_trainer(*prepared, dataset, dataset, preprocessing, data, args)


def import_train_hf() -> ModuleType:
    """Import the script `train_hf.py`."""
    spec = importlib.util.spec_from_file_location("train_hf", ROOT / "train_hf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(dataset, output, *words, model=None, log=None) -> list[str]:
    """Return the options of a short training."""
    start = ["--model_name_or_path", model] if model else []
    log = log or Path(output).parent / "measurements.jsonl"
    where = ["--dataset", dataset, *start, "--output_dir", output, "--measurement_log", log]
    return [str(word) for word in (*where, *SETTINGS, *words)]


def train_hf(words: list[str]) -> int:
    """Run `train_hf.py` with these options in this process and return its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train_hf.py", *words])
        return import_train_hf().main()


def main(*arguments, **names) -> int:
    """Run `train_hf.py` with the options of [`command`] and return its exit status."""
    return train_hf(command(*arguments, **names))


def facts_of(folder: Path) -> dict:
    """Read `training.json`."""
    return json.loads((Path(folder) / "training.json").read_text())


def last_line(capsys) -> str:
    """Return the error line on stderr: the last line, the only error, without a traceback."""
    text = capsys.readouterr().err
    lines = text.strip().splitlines()
    assert lines[-1].startswith("realfake: error: ")
    assert sum(line.startswith("realfake: error:") for line in lines) == 1
    assert "Traceback" not in text
    return lines[-1].removeprefix("realfake: error: ")
