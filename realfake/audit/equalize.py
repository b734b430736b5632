"""Write a copy of a corpus whose labels share codec, quality and sizes, so that the files' headers say nothing.

The remedy for what the corpus audit finds. Pictures are cropped, never resampled, and encoded anew and alike. What earlier
programs left in the pixels (a first JPEG compression, resizing) stays there: the audit of the copy shows it in the spectrum.
Images that a later split holds too are left out of the earlier one.
"""

import hashlib
import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Image
from huggingface_hub import DatasetCardData
from tqdm.auto import tqdm

from realfake.audit.duplicates import dhash, similar_pictures, thumbnail
from realfake.corpus.load import Corpus
from realfake.corpus.splits import SPLITS
from realfake.imaging.decode import image_bytes, open_image
from realfake.imaging.file_facts import container_facts
from realfake.io import check_empty
from realfake.labels import AI, NAMES, REAL

QUALITY = 90
MIN_SIDE = 16
GRID_SIDE = 8  # sides are multiples of it, so that many images share a size
_SHARD_BYTES = 256 * 2**20


def match_sizes(
    sizes: np.ndarray, is_ai: np.ndarray, seed: int = 42, min_side: int = MIN_SIDE
) -> tuple[np.ndarray, np.ndarray]:
    """The size to which each image is cropped, so that both labels have the same distribution of sizes.

    Each image of the smaller class is matched to one or more of the larger class, as many as there are (their numbers differ
    by one or so): first by the rank of the aspect ratio, then by that of the area. All of a match get the largest size that
    fits into each of them, in steps of 8 pixels.

    Args:
        sizes: (n, 2) int, width and height of the upright images.
        is_ai: (n,) bool.
        seed: Decides between images of the same size.
        min_side: In pixels. Images with a smaller side are not matched.

    Returns:
        Sizes, (n, 2) int, and the number of each image's match, (n,) int; 0 and -1 for images that are not matched.
    """
    sizes, is_ai = np.asarray(sizes, dtype=np.int64).reshape(-1, 2), np.asarray(is_ai, dtype=bool)
    targets, matches = np.zeros_like(sizes), np.full(len(sizes), -1)
    usable = sizes.min(axis=1, initial=np.iinfo(np.int64).max) >= min_side
    few, many = sorted((np.flatnonzero(usable & is_ai), np.flatnonzero(usable & ~is_ai)), key=len)
    if not len(few):
        return targets, matches
    tie = np.random.default_rng(seed).random(len(sizes))
    aspect, area = sizes[:, 0] / sizes[:, 1], sizes.prod(axis=1)
    few, many = (rows[np.lexsort((tie[rows], aspect[rows]))] for rows in (few, many))
    parts = int(np.clip(len(few) // 16, 1, 16))
    for mine, others in zip(np.array_split(few, parts), np.array_split(many, parts)):
        mine, others = (rows[np.lexsort((tie[rows], area[rows]))] for rows in (mine, others))
        partner = mine[np.arange(len(others)) * len(mine) // len(others)]
        fit = sizes.copy()
        np.minimum.at(fit, partner, sizes[others])
        fit = np.where(fit >= GRID_SIDE, fit // GRID_SIDE * GRID_SIDE, fit)
        targets[mine], targets[others] = fit[mine], fit[partner]
        matches[mine], matches[others] = mine, partner
    return targets, matches


def equalized(image, width: int, height: int) -> bytes | None:
    """The centre of an image, whatever [`open_image`] takes, as JPEG of quality 90, 4:2:0, without metadata; `None` where the image is smaller."""
    pixels = open_image(image)
    left, top = (pixels.width - width) // 2, (pixels.height - height) // 2
    if left < 0 or top < 0:
        return None
    buffer = BytesIO()
    cropped = pixels.crop((left, top, left + width, top + height))
    cropped.save(buffer, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return buffer.getvalue()


def write_equalized(
    corpus: Corpus, output: str | Path, seed: int = 42, progress: bool = True
) -> tuple[dict, dict[str, dict[str, int]]]:
    """Write the copy: `data/split-*.parquet` with the columns of the corpus, a dataset card, and `report.json`.

    Args:
        corpus: Of [`load_corpus`], not streamed.
        output: A folder that is empty or does not exist yet.

    Returns:
        For each split `rows`, rows by label, `unmatched` by label, of these `seen_later` (a later split holds the same file or
        a picture that looks alike), and `kept`, the median share of the pixels that was kept, by label; and for each split the match of each image by its path, as [`~realfake.audit.audit.audit`] takes them.

    Raises:
        ValueError: The output is not empty, or nothing can be matched in a split.
        OSError: It cannot be written.
    """
    output = check_empty(output, "--equalize")
    summary, matches = {}, {}
    seen_later = rows_seen_later(corpus.splits, progress)
    for split, rows in corpus.splits.items():
        summary[split], matches[split] = _write_split(
            output, split, rows, seen_later[split], seed, progress
        )
    settings = {
        "encoding": "jpeg",
        "quality": QUALITY,
        "subsampling": "4:2:0",
        "resampled": False,
        "seed": seed,
    }
    report = {"settings": settings, "equalized": summary, "corpus": corpus.report.to_dict()}
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    (output / "report.json").write_text(text, encoding="utf-8", errors="backslashreplace")
    (output / "README.md").write_text(_card(output.resolve().name, summary), encoding="utf-8")
    return summary, matches


def rows_seen_later(splits: Mapping[str, Dataset], progress: bool = True) -> dict[str, np.ndarray]:
    """Which images a later split holds too, as the same file or a picture that looks alike: bool arrays of shape `(n,)`.

    Test comes after validation, and validation after train: a test split is what others published, and is left as it is.
    """
    order = [split for split in SPLITS if split in splits]
    digests, hashes, thumbnails = [], [], []
    for split in order:
        images = splits[split].select_columns("image")
        for row in tqdm(images, desc=f"Comparing {split}", unit=" images", disable=not progress):
            digests.append(hashlib.sha256(image_bytes(row["image"])).digest())
            picture = open_image(row["image"])
            hashes.append(dhash(picture))
            thumbnails.append(thumbnail(picture))
    rank = np.repeat(np.arange(len(order)), [len(splits[split]) for split in order])
    later: dict[bytes, int] = {}
    for digest, place in zip(digests, rank):
        later[digest] = max(later.get(digest, 0), int(place))
    seen = np.array([later[digest] > place for digest, place in zip(digests, rank)], dtype=bool)
    pairs, _ = similar_pictures(np.array(hashes, dtype=np.uint64), np.array(thumbnails))
    for i, j in pairs:
        if rank[i] != rank[j]:
            seen[i if rank[i] < rank[j] else j] = True
    return {split: seen[rank == place] for place, split in enumerate(order)}


def _write_split(
    output: Path, split: str, rows: Dataset, seen_later: np.ndarray, seed: int, progress: bool
) -> tuple[dict, dict]:
    is_ai = np.asarray(rows["label"][:]) == rows.features["label"].str2int(AI)
    sizes = np.asarray(
        [
            container_facts(image_bytes(image), image["path"] or "an image").upright_size
            for image in rows["image"]
        ]
    )
    # Too small, an image is not matched.
    targets, matches = match_sizes(np.where(seen_later[:, None], 1, sizes), is_ai, seed)
    masks = {REAL: ~is_ai, AI: is_ai}
    if not targets.any():
        raise ValueError(
            f"No image of {split} can be matched: sides of at least {MIN_SIDE} pixels are needed in both classes."
        )
    data = output / "data"
    data.mkdir(parents=True, exist_ok=True)
    # Stored as images, so that whoever loads the shards is given pictures.
    features = Features({**rows.features, "image": Image()})
    columns, held, parts, written = (
        {name: [] for name in rows.column_names},
        0,
        [],
        np.zeros(len(rows), dtype=bool),
    )

    def flush() -> None:
        nonlocal held
        path = data / f"{split}-part-{len(parts):05d}"
        Dataset.from_dict(columns, features=features).to_parquet(path)
        parts.append(path)
        held = 0
        for values in columns.values():
            values.clear()

    bar = tqdm(
        np.flatnonzero(targets.any(axis=1)),
        desc=f"Equalizing {split}",
        unit=" images",
        disable=not progress,
    )
    for index in bar:
        row = rows[int(index)]
        encoded = equalized(row["image"], *map(int, targets[index]))
        if encoded is None:
            continue
        written[index] = True
        row["image"] = {"bytes": encoded, "path": _name(index)}
        for name, value in row.items():
            columns[name].append(value)
        held += len(encoded)
        if held >= _SHARD_BYTES:
            flush()
    if held:
        flush()
    for number, path in enumerate(parts):
        path.rename(data / f"{split}-{number:05d}-of-{len(parts):05d}.parquet")
    kept = targets.prod(axis=1) / sizes.prod(axis=1)
    counts = {
        "rows": int(written.sum()),
        **{label: int((written & mask).sum()) for label, mask in masks.items()},
        "unmatched": {label: int((~written & mask).sum()) for label, mask in masks.items()},
        "seen_later": {label: int((seen_later & mask).sum()) for label, mask in masks.items()},
        "kept": {
            label: round(float(np.median(kept[written & mask])), 3) for label, mask in masks.items()
        },
    }
    return counts, {_name(index): int(matches[index]) for index in np.flatnonzero(written)}


def _name(index: int) -> str:
    return f"{index:06d}.jpg"


def _card(name: str, summary: dict) -> str:
    files = [{"split": split, "path": f"data/{split}-*"} for split in summary]
    data = DatasetCardData(
        pretty_name=name,
        task_categories=["image-classification"],
        tags=["ai-generated-image-detection"],
        configs=[{"config_name": "default", "data_files": files}],
    )
    rows = [
        f"| {split} | {counts[REAL]:,} | {counts[AI]:,} | {sum(counts['unmatched'].values()):,} |"
        for split, counts in summary.items()
    ]
    lines = [
        "---",
        data.to_yaml(),
        "---",
        "",
        f"# {name}",
        "",
        f"Photographs (`{NAMES[0]}`) and AI-generated images (`{NAMES[1]}`), equalized: cropped at the centre, without resampling, to "
        "sizes that both classes share, then encoded alike as JPEG, quality 90, 4:2:0, without metadata.",
        "",
        "| split | real | ai | left out |",
        "| --- | ---: | ---: | ---: |",
        *rows,
        "",
        "Left out are images that found no partner of the other class, and images that a later split holds too. Traces of earlier "
        "compression and resizing remain in the pixels.",
        "",
        "State here where the images come from and under which licence they may be used.",
        "",
    ]
    return "\n".join(lines)
