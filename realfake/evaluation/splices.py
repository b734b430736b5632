"""Pictures with a known answer: a region of a generated image blended into a photograph, or the reverse, with its mask.

Maps are scored on them by `realfake.evaluation.map_checks`. Anyone can rebuild the same splices from a corpus and a seed. Beside every splice
stands its control, in which the region comes from another image of the same class as the base: same base, same mask, same seam. What
a map finds there is the seam and the change of content, not the generator.
"""

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datasets import Dataset
from PIL import Image
from scipy.ndimage import gaussian_filter

from realfake.imaging.decode import open_image
from realfake.io import write_atomically
from realfake.labels import AI, NAMES, REAL

KINDS = {
    "ai_in_real": (REAL, AI),
    "real_in_ai": (AI, REAL),
}  # label of the base, label of the region
LARGEST, SMALLEST = 512, 32
# As in the usual messenger or site: quality 90, chroma at half resolution.
_QUALITY, _SUBSAMPLING = 90, 2


@dataclass(frozen=True)
class Splice:
    """A picture of two, and its control.

    Attributes:
        image: The base with a region of the donor.
        control: The base with the same region of another image of the base's class.
        mask: Boolean `(height, width)`, true where more than half comes from the donor.
        kind: A key of [`KINDS`].
        target: The donor's label: what a map should find in the mask.
        rows: Base, donor and the control's donor in the data set.
    """

    image: Image.Image = field(repr=False)
    control: Image.Image = field(repr=False)
    mask: np.ndarray = field(repr=False)
    kind: str
    target: str
    rows: tuple[int, int, int]


def blend(base: Image.Image, donor: Image.Image, mask: np.ndarray) -> Image.Image:
    """Put a region of one image into another.

    Both are encoded as JPEG alike before, and their mixture after, so that no part has another history of compression than the
    other since they met.

    Args:
        base, donor: RGB images of one size.
        mask: `(height, width)`, 1 where the donor shows, 0 where the base does, between them in the feathered border.
    """
    first, second = (np.asarray(_encoded(image), dtype=np.float64) for image in (base, donor))
    mixed = first + np.asarray(mask, dtype=np.float64)[..., None] * (second - first)
    return _encoded(Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8)))


def draw_mask(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw a smooth blob that covers 8 to 25 % of an image and lies within it, with a feathered border.

    Args:
        size: `(width, height)`.
        rng: Where the randomness comes from.

    Returns:
        Float64 `(height, width)`, 0 to 1.
    """
    width, height = size
    y, x = np.mgrid[0:height, 0:width] + 0.5
    wanted = rng.uniform(0.08, 0.25)
    orders = np.arange(2, 5)
    waves, phases = rng.normal(0, 0.12, 3), rng.uniform(0, 2 * np.pi, 3)
    stretch = np.sqrt(rng.uniform(0.7, 1.4))
    # Of an elongated image a blob as wide as it is high would not fit.
    aspect = np.sqrt(width / height)
    across, down = rng.uniform(0.3, 0.7, 2) * (width, height)

    def blob(radius):
        dx, dy = (x - across) / (stretch * aspect), (y - down) * stretch * aspect
        angle = np.arctan2(dy, dx)
        border = 1 + (
            waves[:, None, None] * np.cos(orders[:, None, None] * angle + phases[:, None, None])
        ).sum(axis=0)
        return np.hypot(dx, dy) < radius * border

    low, high = 0.0, float(np.hypot(width, height))
    for _ in range(30):  # the radius at which it covers what was drawn
        middle = (low + high) / 2
        low, high = (middle, high) if blob(middle).mean() < wanted else (low, middle)
    return gaussian_filter(blob(high).astype(np.float64), max(0.5, min(size) / 100))


def splices(
    dataset: Dataset, n: int, seed: int = 0, kinds: Sequence[str] = tuple(KINDS)
) -> Iterator[Splice]:
    """Make splices from a data set, the same ones for the same rows and seed.

    Donors never share a `group` with the base, where the data set has groups. Images are cut at their own pixels to the largest
    size that all three have, 512 pixels at most.

    Args:
        dataset: Rows with `image` (undecoded), `label` and perhaps `group`.
        n: How many of each kind.
        seed: Of the choice of rows and the masks.
        kinds: Of [`KINDS`].

    Yields:
        [`Splice`], the kinds in turn.

    Raises:
        ValueError: An unknown kind, or too few images of a class, or none that are large enough.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"There is no splice {unknown[0]!r}; there are {', '.join(KINDS)}.")
    labels = np.array(dataset["label"])
    names = dataset.features["label"].names
    by_label = {label: np.flatnonzero(labels == names.index(label)) for label in NAMES}
    if min(len(rows) for rows in by_label.values()) < 2:
        raise ValueError("Splices need at least two images of each class.")
    groups = np.array(
        dataset["group"] if "group" in dataset.column_names else np.arange(len(dataset)).astype(str)
    )
    generators = {kind: np.random.default_rng((seed, list(KINDS).index(kind))) for kind in kinds}
    for _ in range(n):
        for kind in kinds:
            yield _draw(dataset, by_label, groups, kind, generators[kind])


def save_splices(dataset: Dataset, folder: str | os.PathLike, n: int, seed: int = 0) -> int:
    """Write the pictures of [`splices`] for other people's methods: `image-*`, `control-*`, `mask-*` and `splices.csv`.

    As PNG, which holds the very pixels that maps are scored on: another JPEG would change them.

    Returns:
        How many splices were written.

    Raises:
        ValueError: As [`splices`].
        OSError: A file cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["number,kind,target,base_row,donor_row,control_row"]
    for number, splice in enumerate(splices(dataset, n, seed)):
        pictures = {
            "image": splice.image,
            "control": splice.control,
            "mask": Image.fromarray(splice.mask),
        }
        for name, picture in pictures.items():
            picture.save(folder / f"{name}-{number:04d}.png")
        lines.append(f"{number},{splice.kind},{splice.target},{','.join(map(str, splice.rows))}")
    write_atomically(folder / "splices.csv", "\n".join(lines) + "\n")
    return len(lines) - 1


def _draw(dataset, by_label, groups, kind: str, rng: np.random.Generator) -> Splice:
    base_label, target = KINDS[kind]
    for _ in range(100):
        base, other = rng.choice(by_label[base_label], 2, replace=False)
        donor = rng.choice(by_label[target])
        if len({groups[base], groups[other], groups[donor]}) < 3 and len(set(groups)) > 2:
            continue
        images = [open_image(dataset[int(row)]["image"]) for row in (base, donor, other)]
        size = tuple(min(LARGEST, *(image.size[axis] for image in images)) for axis in (0, 1))
        if min(size) >= SMALLEST:
            break
    else:
        raise ValueError(
            f"Splices need images of {SMALLEST} pixels or more, in at least three groups."
        )
    mask = draw_mask(size, rng)
    first, second, third = (_middle(image, size) for image in images)
    return Splice(
        blend(first, second, mask),
        blend(first, third, mask),
        mask > 0.5,
        kind,
        target,
        (int(base), int(donor), int(other)),
    )


def _middle(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    left, top = ((have - want) // 2 for have, want in zip(image.size, size, strict=True))
    return image.crop((left, top, left + size[0], top + size[1]))


def _encoded(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=_QUALITY, subsampling=_SUBSAMPLING)
    return open_image(file.getvalue())
