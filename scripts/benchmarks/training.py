"""Training of a ViT-S/14 with adapters: what its images cost, and the loop of the example.

The step rates are those of the trainer of `realfake train`, on drawn images and random weights.
"""

import contextlib
import io
import os
import statistics
import time
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from transformers import Trainer, TrainerCallback, TrainingArguments

from realfake.corpus.reconstruction import FAMILY, FEATURES
from realfake.imaging.decode import open_image
from realfake.labels import AI, REAL
from realfake.models.classifiers import build_classifier
from realfake.training import runs
from realfake.training import trainer as training_module
from realfake.training.arguments import parse
from realfake.training.data import Pick
from realfake.training.model import prepare_classifier

from .drawn import Drawer
from .timing import PLACES, in_turn, ratio_row, row, seconds

SIDE = 224
# Of the images, which are larger than the crop.
DRAWN = (512, 512)
STEPS, WARM_UP = 8, 2
PAIRS = ("--pair_share", "0.5", "--pair_mix", "0.2")


class StepTimes(TrainerCallback):
    """Records when each step ends."""

    def __init__(self):
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def seconds(self) -> float:
        """Return the median of a step, without the first steps."""
        return statistics.median(np.diff(self.ends)[WARM_UP:])


class RandomTensors(torch.utils.data.Dataset):
    """Images without decoding: a few in memory, repeated."""

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


def draw_corpus(path: Path, n: int) -> Path:
    """Write a Parquet file of `n` images: of six, two are photographs with counterparts.

    A counterpart has the content of its photograph and a checkerboard of 2 × 2 pixel cells. The
    other two are a photograph and a generated image without counterparts.
    """
    if path.is_file():
        return path
    draw, columns = Drawer(), {name: [] for name in FEATURES}
    for number in range(n):
        kind = number % 6
        content = number - 2 if kind in (2, 3) else number
        label = REAL if kind in (0, 1, 4) else AI
        file = BytesIO()
        draw(DRAWN, content, label == AI).save(file, "JPEG", quality=92)
        generator = {REAL: "none", AI: "drawn" if kind == 5 else f"{FAMILY} (drawn)"}[label]
        texts = {"generator": generator, "family": "drawn", "source": "drawn"}
        values = {"image": {"bytes": file.getvalue(), "path": None}, "label": label, **texts}
        for name, value in {**values, "group": f"group-{content}"}.items():
            columns[name].append(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    Dataset.from_dict(columns, features=FEATURES).to_parquet(str(temporary))
    os.replace(temporary, path)
    return path


def random_checkpoint(folder: Path, blocks: int) -> Path:
    """Write a DINOv2 ViT-S/14 with random weights, which is as fast as a trained one."""
    if not (folder / "preprocessor_config.json").is_file():
        network = {"hidden_size": 384, "num_attention_heads": 6, "patch_size": 14}
        settings = {**network, "num_hidden_layers": blocks}
        for each in build_classifier("dinov2", overrides=settings, image_size=SIDE):
            each.save_pretrained(folder)
    return folder


def training(work: Path, quick: bool) -> dict:
    """Compare training steps on this machine's cores."""
    if quick:
        return compared(work, 1, batch=4, workers=1, device="cpu", blocks=2)
    return compared(work, 2, batch=8, workers=1, device="cpu")


def compared(
    work: Path, n_rounds: int, batch: int, workers: int, device: str, blocks: int = 12
) -> dict:
    """Time steps with pairs, without pairs, on random tensors, and in the example's loop.

    Args:
        batch: Images in a step.
        workers: Processes of the loader; the example has none.
        device: `"cpu"`, or `"cuda"`.
        blocks: Blocks of the network.
    """
    corpus_file = draw_corpus(work / "pairs" / "train.parquet", 480)
    words = ["--dataset", str(corpus_file.parent), "--output_dir", str(work / "training")]
    words += ["--model_name_or_path", str(random_checkpoint(work / f"vit-{blocks}", blocks))]
    words += ["--image_size", str(SIDE), "--preprocessing", "native"]
    words += ["--lora_rank", "8", "--native_views", "--augmentation", "1.0", "--balance", "0.5"]
    words += ["--per_device_train_batch_size", str(batch), "--max_steps", str(STEPS)]
    words += ["--dataloader_num_workers", str(workers), "--preprocessing_num_workers", "1"]
    words += ["--eval_strategy", "no", "--save_strategy", "no", "--logging_strategy", "no"]
    words += ["--load_best_model_at_end", "False", "--disable_tqdm", "True"]
    words += ["--use_cpu", str(device == "cpu")]
    arguments = parse(words)
    with contextlib.redirect_stdout(io.StringIO()):  # the summary of the corpus
        splits = runs.splits_of(runs.load(arguments.data), arguments.data.split_seed)
    build = partial(build_trainer, splits, words)
    took: dict[str, list[float]] = {"pairs": [], "single": [], "random": [], "example": []}
    for kind in in_turn(list(took), n_rounds):
        trainer = build(*PAIRS) if kind in ("pairs", "random") else build()
        if kind == "random":
            use_random_tensors(trainer)
        elif kind == "example":
            trainer = example_of(trainer, work, splits["train"], batch, device)
        times = StepTimes()
        trainer.add_callback(times)
        trainer.train()
        took[kind].append(times.seconds())
    profile = {f"step, {kind}": statistics.median(each) for kind, each in took.items()}
    profile |= steps(build(*PAIRS), batch)
    share = [100 * (1 - one / both) for one, both in zip(took["single"], took["pairs"])]
    rates, example, pairs = lines(device)
    rows = [
        ratio_row(rates, took["random"], took["pairs"], 0.9, profile=profile),
        row(pairs, statistics.median(share), 15, unit=" %", profile=profile),
        ratio_row(example, took["example"], took["pairs"], 1.3, profile=profile),
    ]
    return {"rows": rows, "seconds_a_step": took, "images_a_step": batch}


def lines(device: str) -> tuple[str, str, str]:
    """Return the descriptions of the rows."""
    start = f"Training, LoRA on ViT-S/14, {PLACES[device]}: "
    return (
        f"{start}step rate with native views and pairs over random tensors in memory",
        f"{start}step rate over the transformers example's loop at its defaults (fp32)",
        f"{start}share of a step that aligned pairs cost",
    )


def build_trainer(splits: dict[str, Dataset], words: list[str], *more: str):
    """Return the trainer of `realfake train` for these options."""
    arguments = parse([*words, *more])
    model, processor = prepare_classifier(arguments.model)
    return training_module.build_trainer(
        model,
        processor,
        splits["train"],
        splits["selection"],
        arguments.model.preprocessing,
        arguments.data,
        arguments.run,
    )


def use_random_tensors(trainer) -> None:
    """Replace the images of a trainer."""
    trainer.order = None
    trainer.train_dataset = RandomTensors(len(trainer.train_dataset))
    trainer.data_collator = _stacked
    trainer.remove_callback(training_module.EpochCallback)


def example_of(trainer, work: Path, rows: Dataset, batch: int, device: str) -> Trainer:
    """Return a plain `Trainer` of the same model: fp32, no workers."""
    defaults = TrainingArguments(
        str(work / "example"),
        max_steps=STEPS,
        per_device_train_batch_size=batch,
        use_cpu=device == "cpu",
        remove_unused_columns=False,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    images = ExampleImages(rows, trainer.eval_collator.processor)
    return Trainer(trainer.model, defaults, data_collator=_stacked, train_dataset=images)


def steps(trainer, batch: int) -> dict[str, float]:
    """Return the seconds of decoding and augmenting a batch of pairs, and of collating it."""
    images: list[dict] = []
    picks: list[Pick] = [pick for pick, _ in zip(trainer.order, range(batch))]
    took = seconds(lambda: images.extend(trainer.train_dataset[pick] for pick in picks))
    collated = seconds(lambda: trainer.data_collator(images))
    return {"decoding and augmenting of a batch, one core": took, "collating": collated}


def _stacked(rows: list[dict]) -> dict[str, torch.Tensor]:
    pixels = torch.stack([row["pixel_values"] for row in rows])
    return {"pixel_values": pixels, "labels": torch.tensor([row["labels"] for row in rows])}
