"""Splices: test images in which a region comes from an image of the other class.

A map should find the region; [`energy_inside`] scores it. Every splice has a control with the same
base, mask and seam, whose region comes from another image of the base's class. What a map finds
there is the seam or the change of content.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from datasets import Dataset
from PIL import Image
from scipy.ndimage import gaussian_filter

from realfake.attribution.faithfulness import importance_order, random_orders
from realfake.corpus.write import saved
from realfake.imaging.decode import open_image
from realfake.labels import AI, NAMES, REAL

# kind: label of the base, label of the region
KINDS = {"ai_in_real": (REAL, AI), "real_in_ai": (AI, REAL)}
DESCRIPTIONS = {
    "ai_in_real": "a generated region in a photograph",
    "real_in_ai": "a region of a photograph in a generated image",
}
_LARGEST, _SMALLEST = 512, 32
_SHARES = (0.08, 0.25)


@dataclass(frozen=True)
class Splice:
    """A spliced image and its control.

    Attributes:
        image: The base with a region of the donor.
        control: The base with the same region of another image of the base's class.
        mask: Boolean `(height, width)`, true where the donor's weight is above one half.
        kind: A key of [`KINDS`].
        rows: Rows of base, donor and the control's donor in the dataset.
    """

    image: Image.Image = field(repr=False)
    control: Image.Image = field(repr=False)
    mask: np.ndarray = field(repr=False)
    kind: str
    target: str
    rows: tuple[int, int, int]


def splices(
    dataset: Dataset,
    n: int,
    seed: int = 0,
    *,
    kinds: Sequence[str] = tuple(KINDS),
    largest: int = _LARGEST,
    shares: tuple[float, float] = _SHARES,
) -> Iterator[Splice]:
    """Make `n` splices of each kind, the same ones for the same rows and seed.

    Base and donors are from different groups if the dataset has more than two. Images are cropped
    to the largest size that all three have, at most `largest` pixels.

    Args:
        largest: Largest side in pixels.
        shares: Smallest and largest share of the image that the region covers.

    Raises:
        ValueError: A class has fewer than two images that are large enough.
    """
    labels = np.array(dataset["label"])
    names = dataset.features["label"].names
    by_label = {label: np.flatnonzero(labels == names.index(label)) for label in NAMES}
    if min(len(rows) for rows in by_label.values()) < 2:
        raise ValueError("Splices need at least two images of each class.")
    has_groups = "group" in dataset.column_names
    groups = np.array(dataset["group"] if has_groups else np.arange(len(dataset)).astype(str))
    generators = {kind: np.random.default_rng((seed, i)) for i, kind in enumerate(KINDS)}
    for _ in range(n):
        for kind in kinds:
            yield _draw(dataset, by_label, groups, kind, generators[kind], largest, shares)


def blend(base: Image.Image, donor: Image.Image, mask: np.ndarray) -> Image.Image:
    """Put a region of one image into another of the same size.

    Both images and the result are compressed to JPEG alike, so that both parts have the same
    history of compression.

    Args:
        mask: `(height, width)`, the weight of the donor, 0 to 1.
    """
    first, second = (np.asarray(_compressed(image), dtype=np.float64) for image in (base, donor))
    mixed = first + np.asarray(mask, dtype=np.float64)[..., None] * (second - first)
    return _compressed(Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8)))


def draw_mask(
    size: tuple[int, int], rng: np.random.Generator, shares: tuple[float, float] = _SHARES
) -> np.ndarray:
    """Draw a smooth blob that covers a random share of an image of a (width, height), 0 to 1.

    Its border is feathered. The result is float64 `(height, width)`.
    """
    width, height = size
    y, x = np.mgrid[0:height, 0:width] + 0.5
    wanted = rng.uniform(*shares)
    orders = np.arange(2, 5)[:, None, None]
    waves = rng.normal(0, 0.12, 3)[:, None, None]
    phases = rng.uniform(0, 2 * np.pi, 3)[:, None, None]
    stretch = np.sqrt(rng.uniform(0.7, 1.4))
    # The blob is as elongated as the image, so that it fits.
    aspect = np.sqrt(width / height)
    centre_x, centre_y = rng.uniform(0.3, 0.7, 2) * (width, height)
    dx, dy = (x - centre_x) / (stretch * aspect), (y - centre_y) * stretch * aspect
    border = 1 + (waves * np.cos(orders * np.arctan2(dy, dx) + phases)).sum(axis=0)

    low, high = 0.0, float(np.hypot(width, height))
    for _ in range(30):  # bisection of the radius
        middle = (low + high) / 2
        covered = (np.hypot(dx, dy) < middle * border).mean()
        low, high = (middle, high) if covered < wanted else (low, middle)
    blob = (np.hypot(dx, dy) < high * border).astype(np.float64)
    return gaussian_filter(blob, max(0.5, min(size) / 100))


def energy_inside(heatmap: np.ndarray, mask: np.ndarray) -> float:
    """Return the share of a map's positive evidence that is in the mask (Wang et al. 2020).

    Args:
        heatmap: `(height, width)`. NaN marks pixels outside the model's input; they are ignored.
        mask: Boolean `(height, width)`.

    Returns:
        0 without positive evidence; NaN if the mask, or everything outside it, is ignored.

    Raises:
        ValueError: The shapes differ.
    """
    if heatmap.shape != mask.shape:
        raise ValueError(
            f"The map has shape {heatmap.shape}, the mask {mask.shape}; they must be the same."
        )
    seen = np.isfinite(heatmap)
    positive, inside = heatmap[seen].astype(np.float64).clip(0), np.asarray(mask, bool)[seen]
    if not inside.any() or inside.all():
        return float("nan")
    return float(positive[inside].sum() / positive.sum()) if positive.any() else 0.0


def random_maps(heatmap: np.ndarray, n: int, seed: int = 0) -> list[np.ndarray]:
    """Return `n` maps with the values of a map at random places, see [`random_orders`]."""
    seen = np.isfinite(heatmap)
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    descending = np.sort(heatmap[seen])[::-1]
    maps = []
    for order in random_orders(importance_order(np.where(seen, heatmap, 0), box), n, seed):
        moved = np.full(heatmap.shape, np.nan)
        moved[order >= 0] = descending[order[order >= 0]]
        maps.append(moved)
    return maps


def chance_energy(heatmap: np.ndarray, mask: np.ndarray, n: int = 5, seed: int = 0) -> float:
    """Return the mean [`energy_inside`] of `n` [`random_maps`]."""
    return float(np.mean([energy_inside(moved, mask) for moved in random_maps(heatmap, n, seed)]))


def _draw(
    dataset: Dataset,
    by_label: dict[str, np.ndarray],
    groups: np.ndarray,
    kind: str,
    rng: np.random.Generator,
    largest: int,
    shares: tuple[float, float],
) -> Splice:
    base_label, target = KINDS[kind]
    for _ in range(100):
        base, other = rng.choice(by_label[base_label], 2, replace=False)
        rows = int(base), int(rng.choice(by_label[target])), int(other)
        if len({groups[row] for row in rows}) < 3 and len(set(groups)) > 2:
            continue
        images = [open_image(dataset[row]["image"]) for row in rows]
        size = tuple(min(largest, *(image.size[axis] for image in images)) for axis in (0, 1))
        if min(size) >= _SMALLEST:
            break
    else:
        raise ValueError(
            f"Splices need images of at least {_SMALLEST} pixels, in at least three groups."
        )
    mask = draw_mask(size, rng, shares)
    first, second, third = (_middle(image, size) for image in images)
    image, control = blend(first, second, mask), blend(first, third, mask)
    return Splice(image, control, mask > 0.5, kind, target, rows)


def _middle(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    left, top = ((have - want) // 2 for have, want in zip(image.size, size, strict=True))
    return image.crop((left, top, left + size[0], top + size[1]))


def _compressed(image: Image.Image) -> Image.Image:
    # The settings are common in messengers and on websites.
    return open_image(saved(image.convert("RGB"), "JPEG", quality=90, subsampling="4:2:0"))
