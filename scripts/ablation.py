"""Compare ways to train the bundled detector: same images, same time, unseen generators.

    python scripts/ablation.py ../shared/data/scenes reconstructed runs/ablation

Each row of the table is one training of a few minutes. All of them are measured on generators and
sources of photographs that no training saw, as they are and after JPEG 40, with the central view
and with all views. The test split is not used. A row that is finished is not trained again.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from corpora.scenes_pairs import addable, free_rows, group_names, left_out, read
from datasets import Dataset, Image, concatenate_datasets
from tqdm.auto import tqdm

from realfake.corpus.rows import column, is_ai, own_groups
from realfake.detector import Detector
from realfake.evaluation.scores import degrade
from realfake.formatting import score, table
from realfake.imaging.decode import open_image
from realfake.io import write_atomically
from realfake.statistics.metrics import auroc, bootstrap_interval

FAMILIES = ("gpt-image", "flux", "qwen-image", "midjourney", "grok")
SOURCES = ("photo-stream", "phone-snapshots", "pets", "faces-web", "picsum")
# Generators from 2024 on, and the file of scenes that holds them.
NEW_FILE = "train-00002"
CALIBRATION_SHARE = 0.08
# Name, degradation, largest number of views.
CONDITIONS = (
    ("central view", None, 1),
    ("all views", None, 16),
    ("JPEG 40, central view", "jpeg_40", 1),
)
BATCH = 16
COMMON = (
    "--corpus_name scenes --preprocessing native --image_size 224 --native_views "
    "--probe_images 1504 --augmentation 0.6 --balance 0.5 --weight_decay 0.05 "
    "--label_smoothing_factor 0.02 --max_steps 100000 --warmup_steps 30 --eval_strategy no "
    "--load_best_model_at_end False --save_strategy no --no_measure_test "
    "--max_validation_samples 160 --seed 3"
)
PAIRS = "--pair_share 0.4 --pair_mix 0.2"
WHOLE = "--learning_rate 6e-5 --backbone_lr_factor 0.4 --ema_decay 0.98"
FAST = "--patch_dropout 0.65 --patch_dropout_until 0.9"
LORA = "--learning_rate 5e-4 --backbone_lr_factor 1 --lora_rank 8 --lora_alpha 16"
# Name: corpus, number of blocks, further options.
ROWS = {
    "linear probe, 8 blocks": ("all", 8, f"--trainable head {PAIRS}"),
    "linear probe, 12 blocks": ("all", 12, f"--trainable head {PAIRS}"),
    "fine-tuned, 8 blocks": ("all", 8, f"{WHOLE} {FAST} {PAIRS}"),
    "LoRA, 8 blocks": ("all", 8, f"{LORA} {FAST} {PAIRS}"),
    "fine-tuned, 12 blocks": ("all", 12, f"{WHOLE} {FAST} {PAIRS}"),
    "fine-tuned, 8 blocks, no pairs": ("no reconstructions", 8, f"{WHOLE} {FAST}"),
    "fine-tuned, 8 blocks, no new generators": ("no new generators", 8, f"{WHOLE} {FAST} {PAIRS}"),
}


def build(scenes: Path, reconstructed: Path, output: Path, seed: int = 0) -> None:
    """Write the corpora of all rows; they share the validation and the test images."""
    files = sorted(scenes.glob("train-*.parquet"))
    parts = [read([file]) for file in files]
    is_new = np.concatenate(
        [np.full(len(part), file.name.startswith(NEW_FILE)) for file, part in zip(files, parts)]
    )
    rows = concatenate_datasets(parts)
    ai, groups = is_ai(rows), group_names(rows)
    unseen = left_out(rows, FAMILIES, SOURCES)
    free = free_rows(groups, unseen)
    order = np.random.default_rng(seed).permutation(np.unique(groups[free]))
    held = free & np.isin(groups, order[: round(len(order) * CALIBRATION_SHARE)])
    train = free & ~held
    added = addable(read(sorted(reconstructed.rglob("*.parquet"))), rows, train)
    variants = {
        "all": [rows.select(np.flatnonzero(train)), added],
        "no reconstructions": [rows.select(np.flatnonzero(train))],
        "no new generators": [rows.select(np.flatnonzero(train & ~(ai & is_new))), added],
    }
    shared = {"validation": held, "test": unseen}
    for name, chosen in variants.items():
        folder = output / "corpora" / name.replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        splits = {"train": concatenate_datasets(chosen)}
        splits |= {split: rows.select(np.flatnonzero(mask)) for split, mask in shared.items()}
        for split, dataset in splits.items():
            dataset.cast_column("image", Image()).to_parquet(folder / f"{split}-00000.parquet")
        print(f"{name}: {', '.join(f'{split} {len(each)}' for split, each in splits.items())}")


def measure(folder: Path, dataset: Dataset, families: Sequence[str] = ()) -> dict:
    """Return the AUROC of all conditions, with intervals, as `{condition: figure}`.

    Args:
        families: Measure these families of generators alone as well, against all photographs:
            `{"condition, family": figure}`.
    """
    detector = Detector.from_pretrained(folder)
    detector.accelerate()
    truth, groups = is_ai(dataset), own_groups(column(dataset, "group"))
    family = np.array(column(dataset, "family"), dtype=object)
    files = [row["bytes"] for row in dataset["image"]]
    figures = {}
    for name, degradation, views in CONDITIONS:
        batches = []
        for start in tqdm(range(0, len(files), BATCH), desc=name, mininterval=2.0):
            images = [open_image(file) for file in files[start : start + BATCH]]
            if degradation:
                # These degradations do not use the seed.
                images = [degrade(image, degradation, seed=0) for image in images]
            batches.append(detector.scores(images, BATCH, views).log_odds)
        log_odds = np.concatenate(batches)
        parts = {f"{name}, {each}": ~truth | (family == each) for each in families}
        for part, rows in {name: np.full(len(truth), True), **parts}.items():
            arrays = (log_odds[rows], truth[rows])
            own = None if groups is None else [groups[row] for row in np.flatnonzero(rows)]
            low, high = bootstrap_interval(auroc, *arrays, groups=own, n_resamples=1000, seed=0)
            figures[part] = {"value": auroc(*arrays), "low": low, "high": high, "n": len(arrays[0])}
    return figures


def train(name: str, model: str, output: Path, minutes: float) -> Path:
    """Train one row, unless it is finished, and return the folder of its checkpoint."""
    corpus, blocks, options = ROWS[name]
    folder = output / name.replace(" ", "-").replace(",", "")
    if not (folder / "training.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        command = [sys.executable, "train_hf.py", "--output_dir", str(folder)]
        command += ["--dataset", str(output / "corpora" / corpus.replace(" ", "-"))]
        command += ["--model_name_or_path", model, *shlex.split(f"{COMMON} {options}")]
        command += ["--blocks", str(blocks)] if blocks < 12 else []
        subprocess.run([*command, "--max_minutes", str(minutes)], check=True)
    return folder


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("scenes", "reconstructed", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--model", default="facebook/dinov2-small", help="backbone to start from")
    parser.add_argument("--minutes", type=float, default=3.5, help="duration of each training")
    args = parser.parse_args(argv)
    if not (args.output / "corpora").is_dir():
        build(args.scenes, args.reconstructed, args.output)
    choosing = read([args.output / "corpora" / "all" / "test-00000.parquet"])
    results = args.output / "ablation.json"
    for name in ROWS:
        done = json.loads(results.read_text())["rows"] if results.is_file() else {}
        if name in done:
            continue
        folder = train(name, args.model, args.output, args.minutes)
        facts = json.loads((folder / "training.json").read_text())
        row = {key: facts[key] for key in ("command", "steps", "train_runtime_seconds")}
        record = {"rows": {**done, name: row | measure(folder, choosing)}}
        write_atomically(results, json.dumps(record, indent=1) + "\n")
    rows = json.loads(results.read_text())["rows"]
    conditions = [name for name, *_ in CONDITIONS]
    lines = [
        [name, str(row["steps"]), *(score(row[condition]) for condition in conditions)]
        for name, row in rows.items()
    ]
    text = table(["training", "steps", *conditions], lines)
    (args.output / "ablation.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
