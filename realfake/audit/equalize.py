"""Write a copy of a corpus in which both labels have the same encoding and the same sizes.

This removes what the audit finds in the files' headers. Pictures are cropped, never resampled, and
encoded again in the same way. Traces of earlier compression and resizing stay in the pixels; the
audit of the copy shows them in the spectrum. Images that also occur in a later split are left out.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from realfake.audit.duplicates import dhash, similar_pictures, thumbnail
from realfake.corpus.load import Corpus
from realfake.corpus.rows import is_ai as is_ai_of
from realfake.corpus.splits import SPLITS
from realfake.corpus.write import (
    EQUAL_QUALITY,
    GRID_SIDE,
    equalized,
    write_card,
    write_parquet,
    write_report,
)
from realfake.imaging.decode import image_bytes, open_image
from realfake.imaging.file_facts import container_facts
from realfake.io import check_empty
from realfake.labels import AI, REAL

MIN_SIDE = 16


def match_sizes(
    sizes: np.ndarray, is_ai: np.ndarray, seed: int = 42
) -> tuple[np.ndarray, np.ndarray]:
    """Choose crop sizes so that both labels have the same distribution of sizes.

    Each image of the smaller class is matched to one or more images of the larger class, first by
    the rank of the aspect ratio, then by that of the area. All images of a match get the largest
    size that fits into each of them, in steps of 8 pixels.

    Args:
        sizes: (n, 2) int, width and height of the upright images.

    Returns:
        Sizes, (n, 2) int, and the number of each image's match, (n,) int. Images with a side
        below 16 pixels are not matched: 0 and -1.
    """
    sizes, is_ai = np.asarray(sizes, dtype=np.int64).reshape(-1, 2), np.asarray(is_ai, dtype=bool)
    targets, matches = np.zeros_like(sizes), np.full(len(sizes), -1)
    usable = sizes.min(axis=1, initial=np.iinfo(np.int64).max) >= MIN_SIDE
    few, many = sorted((np.flatnonzero(usable & is_ai), np.flatnonzero(usable & ~is_ai)), key=len)
    if not len(few):
        return targets, matches
    tie = np.random.default_rng(seed).random(len(sizes))
    aspect, area = sizes[:, 0] / sizes[:, 1], sizes.prod(axis=1)
    few, many = (rows[np.lexsort((tie[rows], aspect[rows]))] for rows in (few, many))
    bands = int(np.clip(len(few) // 16, 1, 16))
    for some, others in zip(np.array_split(few, bands), np.array_split(many, bands), strict=True):
        some, others = (rows[np.lexsort((tie[rows], area[rows]))] for rows in (some, others))
        partner = some[np.arange(len(others)) * len(some) // len(others)]
        fit = sizes.copy()
        np.minimum.at(fit, partner, sizes[others])
        fit = np.where(fit >= GRID_SIDE, fit // GRID_SIDE * GRID_SIDE, fit)
        targets[some], targets[others] = fit[some], fit[partner]
        matches[some], matches[others] = some, partner
    return targets, matches


def write_equalized(
    corpus: Corpus, output: str | Path, seed: int = 42
) -> tuple[dict[str, dict], dict[str, dict[str, int]]]:
    """Write the copy: `data/split-*.parquet` with the columns of the corpus, a card, `report.json`.

    Args:
        corpus: A corpus that is not streamed.
        output: A folder that is empty or does not exist.

    Returns:
        For each split: `rows`, rows by label, `unmatched` by label, `seen_later` by label (a
        later split holds the file or a similar picture), and `kept` by label, the median share of
        the pixels that is kept. Also, for each split, the match of each image, by its path.

    Raises:
        ValueError: The output is not empty, or nothing can be matched in a split.
        OSError: The output cannot be written.
    """
    output = check_empty(output, "--equalize")
    summary, matches = {}, {}
    seen_later = rows_seen_later(corpus.splits)
    for split, rows in corpus.splits.items():
        summary[split], matches[split] = _write_split(output, split, rows, seen_later[split], seed)
    settings = {
        "encoding": "jpeg",
        "quality": EQUAL_QUALITY,
        "subsampling": "4:2:0",
        "resampled": False,
        "seed": seed,
    }
    report = {"settings": settings, "equalized": summary, "corpus": corpus.report.to_dict()}
    write_report(output, report)
    write_card(
        output,
        output.resolve().name,
        summary,
        "left out",
        {split: f"{sum(counts['unmatched'].values()):,}" for split, counts in summary.items()},
        [
            "The images are equalized: cropped at the centre, without resampling, to sizes that "
            "both classes share, then encoded as JPEG, quality 90, 4:2:0, without metadata.",
            "Images without a match in the other class, and images that also occur in a later "
            "split, are left out. Traces of earlier compression and resizing remain in the pixels.",
        ],
    )
    return summary, matches


def rows_seen_later(splits: Mapping[str, Dataset]) -> dict[str, np.ndarray]:
    """Find the images that also occur in a later split, as the same file or a similar picture.

    The order is train, validation, test, so that published test splits do not change.
    """
    order = [split for split in SPLITS if split in splits]
    digests, hashes, thumbnails = [], [], []
    for split in order:
        images = splits[split].select_columns("image")
        for row in tqdm(images, desc=f"Comparing {split}", unit=" images"):
            digests.append(hashlib.sha256(image_bytes(row["image"])).digest())
            picture = open_image(row["image"])
            hashes.append(dhash(picture))
            thumbnails.append(thumbnail(picture))
    rank = np.repeat(np.arange(len(order)), [len(splits[split]) for split in order])
    last: dict[bytes, int] = {}
    for digest, place in zip(digests, rank, strict=True):
        last[digest] = max(last.get(digest, 0), int(place))
    seen = np.array([last[digest] > place for digest, place in zip(digests, rank)], dtype=bool)
    pairs, _ = similar_pictures(np.array(hashes, dtype=np.uint64), np.array(thumbnails))
    for i, j in pairs:
        if rank[i] != rank[j]:
            seen[i if rank[i] < rank[j] else j] = True
    return {split: seen[rank == place] for place, split in enumerate(order)}


def _write_split(
    output: Path, split: str, rows: Dataset, seen_later: np.ndarray, seed: int
) -> tuple[dict, dict[str, int]]:
    is_ai = is_ai_of(rows)
    sizes = np.asarray(
        [
            container_facts(image_bytes(image), image["path"] or "an image").upright_size
            for image in rows["image"]
        ]
    )
    # A size of 1 is too small to be matched.
    targets, matches = match_sizes(np.where(seen_later[:, None], 1, sizes), is_ai, seed)
    chosen = np.flatnonzero(targets.any(axis=1)).tolist()
    if not len(chosen):
        raise ValueError(
            f"No image of {split} can be matched: sides of at least {MIN_SIDE} pixels are needed "
            "in both classes."
        )
    written = np.zeros(len(rows), dtype=bool)

    def files() -> Iterator[tuple[str, bytes, dict]]:
        bar = tqdm(chosen, desc=f"Equalizing {split}", unit=" images")
        for index in bar:
            row = rows[index]
            data = equalized(row.pop("image"), *map(int, targets[index]))
            if data is not None:
                written[index] = True
                yield _name(index), data, row

    write_parquet(output, split, rows, files())
    masks = {REAL: ~is_ai, AI: is_ai}
    share = targets.prod(axis=1) / sizes.prod(axis=1)

    def by_label(values: np.ndarray) -> dict[str, int]:
        return {label: int((values & mask).sum()) for label, mask in masks.items()}

    kept = {
        label: round(float(np.median(share[written & mask])), 3) for label, mask in masks.items()
    }
    counts = {
        "rows": int(written.sum()),
        **by_label(written),
        "unmatched": by_label(~written),
        "seen_later": by_label(seen_later),
        "kept": kept,
    }
    return counts, {_name(index): int(matches[index]) for index in np.flatnonzero(written).tolist()}


def _name(index: int) -> str:
    return f"{index:06d}.jpg"
