"""Training: the cost of augmentation, the loop of the transformers example, a second process.

The step rates are those of the trainer of `realfake train`, on drawn images.
"""

import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import Trainer, TrainerCallback, TrainingArguments

from realfake import distributed
from realfake.imaging.decode import open_image
from realfake.training import runs
from realfake.training import trainer as training
from realfake.training.arguments import parse
from realfake.training.model import prepare_classifier

from .drawn import draw_classes
from .timing import LAUNCH, in_turn, ratio_row

ROOT = Path(__file__).parents[2]
SIDE = 224
WARM_UP = 2
# Images per step of a process; with few images, the exchange of gradients weighs too much.
EACH = 24


class StepTimes(TrainerCallback):
    """Records when each step ends."""

    def __init__(self):
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())

    def seconds(self) -> float:
        """Return the median of a step, without the first steps."""
        return statistics.median(np.diff(self.ends)[WARM_UP:])


def build(work: Path, *words: str):
    """Return the trainer of `realfake train` for these options, and the training images."""
    draw_classes(work / "classes-480", 480, (512, 512))
    options = ["--dataset", str(work / "classes-480"), "--output_dir", str(work / "training")]
    options += ["--image_size", str(SIDE), "--augmentation", "1.0"]
    options += ["--preprocessing_num_workers", "1", "--disable_tqdm", "True"]
    options += ["--eval_strategy", "no", "--save_strategy", "no", "--logging_strategy", "no"]
    arguments = parse([*options, "--load_best_model_at_end", "False", *words])
    with contextlib.redirect_stdout(io.StringIO()):  # the summary of the corpus
        corpus = runs.load(arguments.data)
    splits = runs.splits_of(corpus, arguments.data.split_seed)
    model, processor = prepare_classifier(arguments.model)
    trainer = training.build_trainer(
        model,
        processor,
        splits["train"],
        splits["selection"],
        arguments.model.preprocessing,
        arguments.data,
        arguments.run,
    )
    return trainer, splits["train"]


class RandomTensors(torch.utils.data.Dataset):
    """Images without decoding: one batch in memory, repeated."""

    def __init__(self, n: int):
        self.pixels = torch.randn(8, 3, SIDE, SIDE)
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> dict:
        return {"pixel_values": self.pixels[index % 8], "labels": index % 2}


class ExampleImages(torch.utils.data.Dataset):
    """The training transforms of transformers' `run_image_classification.py`, without torchvision.

    Decode, convert to RGB, crop 8 to 100 % at random, resize, flip, convert to a tensor, normalize.
    """

    def __init__(self, rows, processor):
        self.rows = rows
        self.mean, self.std = (
            np.array(values, np.float32)[:, None, None]
            for values in (processor.image_mean, processor.image_std)
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        row = self.rows[index]
        image = open_image(row["image"])
        area = image.width * image.height * torch.empty(1).uniform_(0.08, 1).item()
        ratio = torch.empty(1).uniform_(np.log(3 / 4), np.log(4 / 3)).exp().item()
        width = min(image.width, round((area * ratio) ** 0.5))
        height = min(image.height, round((area / ratio) ** 0.5))
        left, top = (
            int(torch.randint(0, most + 1, (1,)))
            for most in (image.width - width, image.height - height)
        )
        image = image.resize(
            (SIDE, SIDE), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height)
        )
        if torch.rand(1) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255
        return {
            "pixel_values": torch.from_numpy((pixels - self.mean) / self.std),
            "labels": row["label"],
        }


def training_rate(work: Path, quick: bool) -> dict:
    """Compare strong augmentation with random tensors, and with the loop of the example."""
    # Few images: a step of ViT-B/16 on 8 images takes a second or two.
    model = ["--model_type", "vit"]
    if quick:
        model += ["--config_overrides", '{"num_hidden_layers": 2}']
    steps = WARM_UP + 3
    batch = ["--per_device_train_batch_size", "8", "--max_steps", str(steps)]
    took: dict[str, list[float]] = {"ours": [], "random": [], "example": []}
    for kind in in_turn(("ours", "random", "example"), 1 if quick else 2):
        trainer, rows = build(work, *model, *batch, "--dataloader_num_workers", "1")
        if kind == "random":
            trainer.train_dataset, trainer.data_collator = RandomTensors(len(rows)), _stacked
            trainer.callback_handler.callbacks = [
                callback
                for callback in trainer.callback_handler.callbacks
                if not isinstance(callback, training.EpochCallback)
            ]
        elif kind == "example":
            # Its defaults: fp32, no workers, 8 images.
            defaults = TrainingArguments(
                str(work / "example"),
                max_steps=steps,
                per_device_train_batch_size=8,
                use_cpu=True,
                remove_unused_columns=False,
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            )
            images = ExampleImages(rows, trainer.eval_collator.processor)
            trainer = Trainer(trainer.model, defaults, data_collator=_stacked, train_dataset=images)
        times = StepTimes()
        trainer.add_callback(times)
        trainer.train()
        took[kind].append(times.seconds())
    what = "Training, ViT-B/16: step rate with strong augmentation over random tensors in memory"
    ratios = [plain / ours for plain, ours in zip(took["random"], took["ours"], strict=True)]
    rows = [ratio_row(what, ratios, 0.9, at_least=True, seconds_a_step=took)]
    what = (
        "Training, ViT-B/16: step rate over the transformers example's loop at its defaults (fp32)"
    )
    ratios = [example / ours for example, ours in zip(took["example"], took["ours"], strict=True)]
    return {"rows": [*rows, ratio_row(what, ratios, 1.3, at_least=True)]}


def _stacked(rows: list[dict]) -> dict[str, torch.Tensor]:
    pixels = torch.stack([row["pixel_values"] for row in rows])
    return {"pixel_values": pixels, "labels": torch.tensor([row["labels"] for row in rows])}


def training_processes(work: Path, quick: bool) -> dict:
    """Compare two processes with one, a thread each, under `accelerate launch`."""
    launch = [sys.executable, *LAUNCH, "--num_cpu_threads_per_process", "1"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}", "OMP_NUM_THREADS": "1"}
    rates: dict[int, list[float]] = {1: [], 2: []}
    for count in in_turn((1, 2), 1 if quick else 2):
        several = ["--multi_gpu", "--num_processes", "2"]
        if count == 1:
            several = ["--num_processes", "1", "--cpu"]
        result = work / f"processes-{count}.json"
        result.unlink(missing_ok=True)
        command = [*launch, *several, "-m", "benchmarks.training", str(work), str(result)]
        command += ["quick" if quick else "whole"]
        run = subprocess.run(command, env=environment, capture_output=True, text=True)
        if run.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{run.stderr[-3000:]}")
        measured = json.loads(result.read_text())
        if measured["processes"] != count:
            raise RuntimeError(f"The launcher started {measured['processes']}, not {count}.")
        rates[count].append(measured["images_a_second"])
    what = "Training, ViT-S/16: images a second with 2 processes over 1, a thread each"
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    return {"rows": [ratio_row(what, ratios, 1.7, at_least=True, images_a_second=rates)]}


def _work(work: Path, result: Path, quick: bool) -> None:
    """Run one process of [`training_processes`]."""
    torch.set_num_threads(1)
    layers = 2 if quick else 12
    small = {
        "hidden_size": 384,
        "num_hidden_layers": layers,
        "num_attention_heads": 6,
        "intermediate_size": 1536,
    }
    words = ["--model_type", "vit", "--config_overrides", json.dumps(small)]
    words += ["--max_steps", str(WARM_UP + 3), "--use_cpu", "True"]
    words += ["--per_device_train_batch_size", str(EACH)]
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        words += ["--ddp_backend", "gloo"]
    trainer, _ = build(work, *words)
    times = StepTimes()
    trainer.add_callback(times)
    trainer.train()
    if trainer.is_world_process_zero():
        count = trainer.args.world_size
        result.write_text(
            json.dumps({"processes": count, "images_a_second": EACH * count / times.seconds()})
        )
    distributed.end(0)


if __name__ == "__main__":
    _work(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "quick")
