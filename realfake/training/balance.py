"""The order of training images: equal classes, limited shares of large sources, and aligned pairs.

Corpora are collections: one source may have half of the photographs, and another most of the
generated images. A classifier would learn to tell these two sources apart.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset

from realfake.corpus.reconstruction import FAMILY
from realfake.corpus.rows import column, is_ai
from realfake.training.data import Pick, TrainingImages


class _Cell(NamedTuple):
    """The rows with one label, family and source, and their share of the draws of a class."""

    rows: np.ndarray
    share: float


class BalancedOrder(torch.utils.data.Sampler[Pick]):
    """Draw as many rows as the dataset has, half of each class.

    A cell is the rows with the same label, family and source. Its share of the draws of its class
    is proportional to its size to the power of `exponent`. A row is drawn again only after all
    other rows of its cell. Entries come in twos: a photograph and a generated image, and in a
    share of the cases both are of one group. A batch of even size contains both.

    The order depends only on the seed and on the epoch of the images.

    Args:
        dataset: Rows with a `label` and, if the corpus has them, `family`, `source`, `generator`
            and `group`.
        images: The training images. Their `epoch` is read when a pass begins.
        seed: Seed of the draws.
        exponent (`float`, *optional*, defaults to 0.5): 1 draws all rows equally often, 0 draws all
            cells equally often.
        pair_share (`float`, *optional*, defaults to 0.0): Share of the images that come as pairs of
            one group.

    Raises:
        ValueError: A class has no rows, or there are no pairs to draw.
    """

    def __init__(
        self,
        dataset: Dataset,
        images: TrainingImages,
        seed: int,
        exponent: float = 0.5,
        pair_share: float = 0.0,
    ):
        self.images = images
        self.seed = seed
        self.pair_share = pair_share
        truth = is_ai(dataset)
        if truth.all() or not truth.any():
            raise ValueError(
                "--balance needs training images of both classes; the corpus has one only."
            )
        self.pairs = find_pairs(truth, column(dataset, "group")) if pair_share else {}
        if pair_share and not self.pairs:
            raise ValueError(
                "--pair_share: no generated training image shares its group with a photograph; "
                "leave the option out, or make pairs with `realfake corpus reconstruct`."
            )
        generators = column(dataset, "generator") or [None] * len(dataset)
        self.aligned = {row for row in self.pairs if str(generators[row]).startswith(f"{FAMILY} (")}
        # Outside of its pair a reconstruction would teach that its source is generated.
        single = truth.copy()
        single[list(self.aligned)] = False
        if not single.any():  # a corpus of photographs and their reconstructions only
            single, self.pair_share = truth, 1.0 if self.pairs else 0.0
        cells = _cells(dataset)
        self._photographs = _by_cell(np.flatnonzero(~truth), cells, exponent)
        self._generated = _by_cell(np.flatnonzero(single), cells, exponent)
        self._paired = _by_cell(np.array(sorted(self.pairs), dtype=np.int64), cells, exponent)
        self._length = len(dataset) // 2 * 2

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Pick]:
        rng = np.random.default_rng([self.seed, self.images.epoch, 1])
        count = self._length // 2
        paired: np.ndarray = np.zeros(count, dtype=bool)
        paired[: round(count * self.pair_share)] = True
        rng.shuffle(paired)
        counterparts = iter(_draw(self._paired, int(paired.sum()), rng))
        generated = iter(_draw(self._generated, int((~paired).sum()), rng))
        photographs = iter(_draw(self._photographs, int((~paired).sum()), rng))
        for number, together in enumerate(paired):
            if together:
                ai = next(counterparts)
                real = self.pairs[ai][int(rng.integers(len(self.pairs[ai])))]
                yield Pick(real, 2 * number)
                yield Pick(ai, 2 * number, real if ai in self.aligned else None)
            else:
                yield Pick(next(photographs), 2 * number)
                yield Pick(next(generated), 2 * number + 1)


def find_pairs(is_ai: np.ndarray, groups: Sequence[str | None] | None) -> dict[int, list[int]]:
    """Find the generated images that share a group with photographs.

    Args:
        is_ai: Boolean array of shape `(n,)`.
        groups: n names, `None` for an image without a group; or `None` for a corpus without groups.

    Returns:
        `{row of a generated image: [rows of its photographs]}`
    """
    photographs = defaultdict(list)
    for row, (ai, group) in enumerate(zip(is_ai, groups or ())):
        if group and not ai:
            photographs[group].append(row)
    return {
        row: photographs[group]
        for row, (ai, group) in enumerate(zip(is_ai, groups or ()))
        if ai and group in photographs
    }


def _cells(dataset: Dataset) -> np.ndarray:
    """Name the cell of each row, except for its label."""
    columns = [column(dataset, name) for name in ("family", "source")]
    known = [values for values in columns if values] or [column(dataset, "generator") or []]
    names = [
        "/".join(str(values[row]) for values in known if values) for row in range(len(dataset))
    ]
    return np.array(names, dtype=object)


def _by_cell(rows: np.ndarray, cells: np.ndarray, exponent: float) -> list[_Cell]:
    members = [rows[cells[rows] == name] for name in sorted(set(cells[rows]))]
    weights = np.array([len(each) ** exponent for each in members])
    return [_Cell(each, weight / weights.sum()) for each, weight in zip(members, weights)]


def _draw(cells: Sequence[_Cell], count: int, rng: np.random.Generator) -> list[int]:
    """Draw `count` rows by the shares of their cells, in random order."""
    if not count:
        return []
    # One random offset for all cells: the counts differ from their expectation by less than one.
    edges = np.cumsum([0.0, *(cell.share for cell in cells)]) * count
    edges = np.floor(edges + rng.random()).astype(int)
    edges[0], edges[-1] = 0, count
    drawn: list[int] = []
    for cell, wanted in zip(cells, np.diff(edges)):
        rounds = -(-wanted // len(cell.rows))
        rows = np.concatenate([rng.permutation(cell.rows) for _ in range(rounds)] or [[]])
        drawn += [int(row) for row in rows[:wanted]]
    rng.shuffle(drawn)
    return drawn
