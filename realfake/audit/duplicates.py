"""Find equal files and similar pictures.

Equal files have the same SHA-256. Similar pictures have 64-bit difference hashes that differ in few
bits, and correlated thumbnails. Flat pictures are ignored.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

MAX_DISTANCE = 5
MIN_CORRELATION = 0.97
THUMBNAIL = 32  # side in pixels
# Thumbnails with a smaller standard deviation, in grey levels, are not compared.
_FLATTEST = 6.0
_PAIRS_AT_ONCE = 10_000


@dataclass(frozen=True)
class Pair:
    """Two images, each a `(split, row)`, that are the same file or look similar.

    `correlation` is that of the thumbnails.
    """

    first: tuple[str, int]
    second: tuple[str, int]
    same_file: bool
    correlation: float
    labels: tuple[str, str]
    same_group: bool

    @property
    def across_splits(self) -> bool:
        return self.first[0] != self.second[0]

    @property
    def across_labels(self) -> bool:
        return self.labels[0] != self.labels[1]


def dhash(image: Image.Image) -> np.uint64:
    """Return the 64-bit difference hash (Krawetz 2013) from the neighbours in a 9 x 8 thumbnail.

    Recompression and resizing change few bits of it; crops of more than a few percent change many.
    """
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return np.uint64(np.packbits(small[:, 1:] > small[:, :-1]).view(">u8")[0])


def thumbnail(image: Image.Image) -> np.ndarray:
    """Return a grey thumbnail, uint8 of shape `(32, 32)`, stretched to a square."""
    return np.asarray(image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))


def same_files(digests: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Return pairs of equal digests: the first copy with each later one."""
    copies = defaultdict(list)
    for index, digest in enumerate(digests):
        copies[digest].append(index)
    return [(first, other) for first, *others in copies.values() for other in others]


def near_hashes(hashes: np.ndarray) -> np.ndarray:
    """Return all pairs of hashes that differ in at most five of their 64 bits.

    Multi-index hashing (Norouzi, Punjani and Fleet 2012): at least one of six bands of
    bits is equal in such a pair, so only images that share a band are compared.

    Args:
        hashes: (n,) uint64.

    Returns:
        (pairs, 2) int64, ascending.
    """
    hashes = np.asarray(hashes, dtype=np.uint64)
    edges = np.linspace(0, 64, MAX_DISTANCE + 2).astype(int)
    pairs = []
    for low, high in zip(edges, edges[1:]):
        band = (hashes >> np.uint64(low)) & np.uint64(2 ** int(high - low) - 1)
        order = np.argsort(band, kind="stable")
        ranked = band[order]
        first = np.arange(len(order))
        # Compare each image with its next neighbour of the same band, then with the one after.
        for step in range(1, len(order)):
            first = first[first + step < len(order)]
            first = first[ranked[first] == ranked[first + step]]
            if not len(first):
                break
            i, j = order[first], order[first + step]
            close = np.bitwise_count(hashes[i] ^ hashes[j]) <= MAX_DISTANCE
            pairs.append(np.sort(np.stack([i[close], j[close]], axis=1), axis=1))
    if not pairs:
        return np.empty((0, 2), dtype=np.int64)
    return np.unique(np.concatenate(pairs), axis=0)


def similar_pictures(hashes: np.ndarray, thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of pictures with near hashes and correlated thumbnails.

    Returns:
        The pairs, (pairs, 2), and their correlations, (pairs,).
    """
    thumbnails = np.asarray(thumbnails)
    flat = thumbnails.reshape(len(thumbnails), -1)
    spread = flat.std(axis=1, dtype=np.float32) if len(flat) else np.empty(0)
    rows = np.flatnonzero(spread >= _FLATTEST)
    pairs = rows[near_hashes(np.asarray(hashes, dtype=np.uint64)[rows])].reshape(-1, 2)
    correlations = np.empty(len(pairs), dtype=np.float32)
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        some = pairs[start : start + _PAIRS_AT_ONCE]
        left, right = (flat[some[:, side]].astype(np.float32) for side in (0, 1))
        left -= left.mean(axis=1, keepdims=True)
        right -= right.mean(axis=1, keepdims=True)
        norm = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        correlations[start : start + _PAIRS_AT_ONCE] = (left * right).sum(axis=1) / norm
    confirmed = correlations >= MIN_CORRELATION
    return pairs[confirmed], correlations[confirmed]


def find_pairs(
    ends: Sequence[tuple[str, int]],
    labels: Sequence[str],
    groups: Sequence[str | None],
    digests: Sequence[bytes],
    hashes: np.ndarray,
    thumbnails: np.ndarray,
) -> list[Pair]:
    """Return the duplicates among the images of all splits, the worst first.

    Args:
        ends: `(split, row)` of each of the n images.
        labels, groups, digests: Of the images; a digest is the SHA-256 of the file.
        hashes, thumbnails: As in [`similar_pictures`].
    """

    def pair(i: int, j: int, same_file: bool, correlation: float) -> Pair:
        same_group = groups[i] is not None and groups[i] == groups[j]
        return Pair(ends[i], ends[j], same_file, correlation, (labels[i], labels[j]), same_group)

    pairs = [pair(i, j, True, 1.0) for i, j in same_files(digests)]
    for (i, j), correlation in zip(*similar_pictures(hashes, thumbnails), strict=True):
        if digests[i] != digests[j]:
            pairs.append(pair(int(i), int(j), False, float(correlation)))

    def severity(pair: Pair) -> tuple:
        return (
            not pair.across_splits,
            not pair.across_labels,
            not pair.same_file,
            -pair.correlation,
            pair.first,
            pair.second,
        )

    return sorted(pairs, key=severity)


def count_pairs(pairs: Sequence[Pair], splits: Sequence[str]) -> dict[str, dict]:
    """Count pairs by kind, and the images of each split that also occur in another split."""
    counts = {}
    for kind, same_file in (("same_file", True), ("similar", False)):
        chosen = [pair for pair in pairs if pair.same_file == same_file]
        elsewhere = {
            end for pair in chosen if pair.across_splits for end in (pair.first, pair.second)
        }
        counts[kind] = {
            "pairs": len(chosen),
            "across_splits": sum(pair.across_splits for pair in chosen),
            "across_labels": sum(pair.across_labels for pair in chosen),
            "images_seen_elsewhere": {
                split: sum(end[0] == split for end in elsewhere) for split in splits
            },
        }
    return counts
