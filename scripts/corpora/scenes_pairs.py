"""Build the training corpus of the bundled detector from scenes and reconstructed photographs.

    realfake corpus reconstruct PHOTOS --autoencoder taef2 --output reconstructed
    python scripts/corpora/scenes_pairs.py ../shared/data/scenes reconstructed runs/scenes-pairs

`train` holds the training images of scenes with the reconstructions of photographs in it.
`validation` holds generators and sources of photographs that are in no other split, for the
calibration: what a detector says of unseen generators is what its probabilities must be right for.
`test` is that of scenes.
"""

import argparse
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, Value, concatenate_datasets, load_dataset

# Left out of training: generators of two ages, and photographs of a phone and of the web.
FAMILIES = ("flux", "qwen-image", "midjourney")
SOURCES = ("photo-stream", "oliva")
FEATURES = Features(
    {
        "image": Image(decode=False),
        "label": ClassLabel(names=["real", "ai"]),
        **{name: Value("string") for name in ("generator", "family", "source", "group")},
    }
)


def read(files: list[Path]) -> Dataset:
    """Read Parquet files with the columns of scenes; missing columns are empty."""
    rows = load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    for name in set(FEATURES) - set(rows.column_names):
        rows = rows.add_column(name, [None] * len(rows))
    rows = rows.select_columns(list(FEATURES)).cast_column("image", Image(decode=False))
    return rows.cast(FEATURES)


def left_out(rows: Dataset) -> np.ndarray:
    """Return which rows are of the families and sources that calibrate."""
    is_ai = np.array(rows["label"]) == 1
    families, sources = (np.array(rows[name], dtype=object) for name in ("family", "source"))
    return is_ai & np.isin(families, FAMILIES) | ~is_ai & np.isin(sources, SOURCES)


def build(scenes: Path, reconstructed: Path) -> dict[str, Dataset]:
    """Return the three splits. Groups of the validation images are not in train."""
    rows, pairs = (
        read(sorted(scenes.glob("train-*.parquet"))),
        read(sorted(reconstructed.rglob("*.parquet"))),
    )
    held = left_out(rows)
    groups = np.array(rows["group"], dtype=object)
    shared = set(groups[held]) - {None}
    kept = ~held & ~np.isin(groups, list(shared))
    mine = np.isin(np.array(pairs["group"], dtype=object), list(set(groups[kept]) - {None}))
    return {
        "train": concatenate_datasets(
            [rows.select(np.flatnonzero(kept)), pairs.select(np.flatnonzero(mine))]
        ),
        "validation": rows.select(np.flatnonzero(held)),
        "test": read(sorted(scenes.glob("test-*.parquet"))),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("scenes", "reconstructed", "output"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for name, dataset in build(args.scenes, args.reconstructed).items():
        dataset.cast_column("image", Image()).to_parquet(args.output / f"{name}-00000.parquet")
        print(f"{name}: {len(dataset)} images, {sum(dataset['label'])} generated")
