"""Find files that are the same, and pictures that look the same.

Same files by their SHA-256; same-looking pictures by a 64-bit difference hash, then by the correlation of thumbnails, so that
flat pictures do not pair up. Used by the corpus audit; works on arrays and knows nothing of splits and labels.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np
from PIL import Image

MAX_DISTANCE = 5
MIN_CORRELATION = 0.97
THUMBNAIL = 32  # side, in pixels
_FLATTEST = 6.0  # standard deviation in grey levels below which a thumbnail says too little


def dhash(image: Image.Image) -> np.uint64:
    """The 64-bit difference hash: which of two neighbours in a 9 x 8 thumbnail is brighter (Krawetz 2013).

    Recompression and resizing change few bits of it; crops of more than a few percent change many.
    """
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return np.packbits(small[:, 1:] > small[:, :-1]).view(">u8")[0].astype(np.uint64)


def thumbnail(image: Image.Image) -> np.ndarray:
    """A grey thumbnail, uint8 of shape `(32, 32)`, the aspect ratio given up."""
    return np.asarray(image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))


def same_files(digests: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Pairs of equal digests: the first of each with every later one, so that n copies give n - 1 pairs."""
    found = defaultdict(list)
    for index, digest in enumerate(digests):
        found[digest].append(index)
    return [(copies[0], other) for copies in found.values() for other in copies[1:]]


def near_hashes(hashes: np.ndarray, max_distance: int = MAX_DISTANCE) -> np.ndarray:
    """All pairs of hashes that differ in at most `max_distance` of their 64 bits.

    Multi-index hashing (Norouzi, Punjani and Fleet 2012): of `max_distance + 1` bands of bits at least one is equal in such
    a pair, so only images that share a band are compared.

    Args:
        hashes: (n,) uint64.
        max_distance: 0..15. The bands are 64 / (max_distance + 1) bits wide, so the search is slower for larger ones.

    Returns:
        `np.ndarray` of shape `(pairs, 2)`, `i < j`, in ascending order.

    Raises:
        ValueError: `max_distance` is out of range.
    """
    if not 0 <= max_distance <= 15:
        raise ValueError(f"max_distance must lie in 0..15 bits of 64, not {max_distance}.")
    hashes = np.asarray(hashes, dtype=np.uint64)
    edges = np.linspace(0, 64, max_distance + 2).astype(int)
    found = []
    for low, high in zip(edges, edges[1:]):
        band = (hashes >> np.uint64(low)) & np.uint64(2 ** int(high - low) - 1)
        order = np.argsort(band, kind="stable")
        ranked = band[order]
        first = np.arange(len(order))
        # Each image against its next neighbour of the same band, then the one after, while there is one.
        for step in range(1, len(order)):
            first = first[first + step < len(order)]
            first = first[ranked[first] == ranked[first + step]]
            if not len(first):
                break
            i, j = order[first], order[first + step]
            close = np.bitwise_count(hashes[i] ^ hashes[j]) <= max_distance
            found.append(np.sort(np.stack([i[close], j[close]], axis=1), axis=1))
    if not found:
        return np.empty((0, 2), dtype=np.int64)
    return np.unique(np.concatenate(found), axis=0)


def similar_pictures(
    hashes: np.ndarray,
    thumbnails: np.ndarray,
    max_distance: int = MAX_DISTANCE,
    min_correlation: float = MIN_CORRELATION,
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs whose hashes are near and whose thumbnails correlate; flat pictures are left out.

    Args:
        hashes: (n,) uint64, of [`dhash`].
        thumbnails: (n, 32, 32) uint8, of [`thumbnail`].

    Returns:
        Pairs of shape `(pairs, 2)`, and their correlations of shape `(pairs,)`.
    """
    thumbnails = np.asarray(thumbnails)
    flat = thumbnails.reshape(len(thumbnails), -1)
    spread = flat.std(axis=1, dtype=np.float32) if len(flat) else np.empty(0)
    rows = np.flatnonzero(spread >= _FLATTEST)
    pairs = rows[near_hashes(np.asarray(hashes, dtype=np.uint64)[rows], max_distance)].reshape(
        -1, 2
    )
    correlations = np.empty(len(pairs), dtype=np.float32)
    for start in range(0, len(pairs), 10_000):  # 2 x 40 MB of float32 at a time
        part = pairs[start : start + 10_000]
        left, right = (flat[part[:, side]].astype(np.float32) for side in (0, 1))
        left -= left.mean(axis=1, keepdims=True)
        right -= right.mean(axis=1, keepdims=True)
        norm = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        correlations[start : start + 10_000] = (left * right).sum(axis=1) / norm
    confirmed = correlations >= min_correlation
    return pairs[confirmed], correlations[confirmed]
