"""Which rows go to training, validation and test: names of splits, carving, subsets, leaks through groups.

Called by the corpus loader and, for the two uses of validation, by the training script. Everything but
[`part_validation`] works on plain sequences, knows nothing of images, and depends on the seed and the data only:
the order of the draw comes from a hash, so it is the same in every process, on every platform.
"""

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from datasets import Dataset

from realfake.labels import NAMES

TRAIN = "train"
VALIDATION = "validation"
TEST = "test"
SPLITS = (TRAIN, VALIDATION, TEST)
# Halves of validation: one chooses the checkpoint, the other fits calibration and thresholds.
VALIDATION_PARTS = ("selection", "calibration")
EVALUABLE_SPLITS = (TRAIN, VALIDATION, *VALIDATION_PARTS, TEST)

_ROLES = {
    TRAIN: ("train", "training"),
    VALIDATION: ("validation", "valid", "val", "dev", "eval", "evaluation"),
    TEST: ("test", "testing"),
}
_ROLE_BY_NAME = {name: role for role, names in _ROLES.items() for name in names}


def split_role(name: str) -> str | None:
    """Map the name of a split in the wild to `"train"`, `"validation"` or `"test"`, or to `None`."""
    return _ROLE_BY_NAME.get(str(name).strip().lower())


def assign_roles(
    names: Sequence[str], asked: Mapping[str, str | None] | None = None
) -> dict[str, str]:
    """Decide which of a corpus's splits is used for what.

    Args:
        names: The splits found.
        asked: What the user said, `{"train": name, "validation": name or None, ...}`; it wins over the names.
            `"none"` for validation or test: an existing split is not to be used.

    Returns:
        `{"train": name, ...}`; `"train"` is always there, the others where the corpus has them. A lone split
        of any name is `"train"`, unless it was asked for as something else.

    Raises:
        ValueError: A split that was asked for does not exist or has two roles, two names mean the same role,
            or none is for training.
    """
    names = [str(name) for name in names]
    asked = {role: name for role, name in (asked or {}).items() if name is not None}
    refused = {
        role
        for role, name in asked.items()
        if role != TRAIN and name == "none" and name not in names
    }
    asked = {role: name for role, name in asked.items() if role not in refused}
    listed = ", ".join(names)
    for role, name in asked.items():
        if name not in names:
            raise ValueError(f"--{role}_split names {name!r}, but the splits are: {listed}.")
    if len(set(asked.values())) < len(asked):
        raise ValueError(
            "One split cannot be used for two things; give --train_split, --validation_split and "
            "--test_split different names."
        )
    roles = {}
    for role in SPLITS:
        if role in asked:
            roles[role] = asked[role]
            continue
        if role in refused:
            continue
        found = [name for name in names if split_role(name) == role and name not in asked.values()]
        if len(found) > 1:
            raise ValueError(
                f"The splits {', '.join(found)} all look like {role}; pick one with --{role}_split."
            )
        if found:
            roles[role] = found[0]
    if len(names) == 1 and not asked:
        return {TRAIN: names[0]}
    if TRAIN not in roles:
        raise ValueError(
            f"None of the splits {listed} is for training; name one with --train_split."
        )
    return roles


def carve(
    labels: Sequence[Hashable],
    groups: Sequence[str | None] | None,
    fractions: Sequence[float],
    seed: int,
    strata: Sequence[Hashable] | None = None,
) -> list[np.ndarray]:
    """Part rows at random into shares that resemble each other, never through a group.

    Groups of several rows are placed first, the largest ones first, each where its labels and strata are most
    lacking and where it still fits. Single rows then fill up what each part lacks, stratum by stratum, the
    rounding error of one stratum being carried on to the next: with no groups, parts have the wanted size to one
    row, in all and in each label.

    Args:
        labels: Label of each of the n rows.
        groups: Group of each row; rows of one group stay together, whatever their labels. `None` for a row
            stands for a group of its own, `None` for all for no groups.
        fractions: Share of each part; they are positive and add up to 1.
        seed: Another seed gives another draw.
        strata: A finer property to be balanced within each label (the generator, say).

    Returns:
        For each fraction, the ascending indices of its rows (int64). Together they hold each row once. Parts can
        be empty or lack a label where there are too few rows or groups.

    Raises:
        ValueError: Lengths differ, or the fractions are not positive or do not add up to 1.
    """
    shares = np.asarray(fractions, dtype=np.float64)
    if shares.ndim != 1 or len(shares) == 0 or (shares <= 0).any() or abs(shares.sum() - 1) > 1e-9:
        raise ValueError(f"The fractions must be positive and add up to 1, not {list(fractions)}.")
    count = len(labels)
    for name, values in (("groups", groups), ("strata", strata)):
        if values is not None and len(values) != count:
            raise ValueError(f"There are {count} labels but {len(values)} {name}.")

    of_label = _codes([str(label) for label in labels])
    # A stratum belongs to one label: a generator's name that occurs under both labels counts twice.
    of_stratum = _codes(
        [(str(labels[i]), "" if strata is None else str(strata[i])) for i in range(count)]
    )
    balances = [_Balance(of_label, shares), _Balance(of_stratum, shares)]

    members = defaultdict(list)
    for index in range(count):
        group = None if groups is None else groups[index]
        members[("row", str(index)) if group is None else ("group", str(group))].append(index)
    draw = {key: _draw(seed, *key) for key in members}
    units = sorted(members, key=lambda key: (-len(members[key]), draw[key]))

    part_of = np.zeros(count, dtype=np.int64)
    singles = []
    for unit in units:
        rows = members[unit]
        if len(rows) == 1:
            singles.append((rows[0], draw[unit]))
            continue
        fits = balances[0].fits(rows)
        lacking = sum(balance.lacking(rows) for balance in balances)
        # Of parts that lack as much, the largest one: argmax takes the first of equals.
        order = np.argsort(-shares, kind="stable")
        candidates = [part for part in order if fits[part]] or list(order)
        part = candidates[int(np.argmax(np.round(lacking[candidates], 9)))]
        part_of[rows] = part
        for balance in balances:
            balance.add(rows, part)

    wanted = balances[1].missing_shares()
    error = [0.0] * len(shares)
    for row, _ in sorted(
        singles, key=lambda single: (of_label[single[0]], of_stratum[single[0]], single[1])
    ):
        error = [left + share for left, share in zip(error, wanted[of_stratum[row]])]
        part = max(range(len(error)), key=lambda index: round(error[index], 9))
        error[part] -= 1
        part_of[row] = part
    return [np.flatnonzero(part_of == part) for part in range(len(shares))]


def subset(
    labels: Sequence[Hashable], size: int | None, seed: int, strata: Sequence | None = None
) -> np.ndarray:
    """Draw `size` rows with the shares of labels and strata kept; all rows if there are no more than that.

    Returns:
        Ascending indices.

    Raises:
        ValueError: `size` is not positive.
    """
    if size is not None and size < 1:
        raise ValueError(f"The number of samples must be positive, not {size}.")
    if size is None or size >= len(labels):
        return np.arange(len(labels))
    share = size / len(labels)
    return carve(labels, None, [share, 1 - share], seed, strata)[0]


def shared_groups(groups: Mapping[str, Sequence[str | None]]) -> dict[str, dict[int, str]]:
    """Find the rows through which one split knows what is in another.

    Test wins over validation, and validation over training: a test split is what others published, and is left
    as it is.

    Args:
        groups: For each split its rows' groups.

    Returns:
        `{split: {row index: the split that keeps the group}}` for the rows of training and validation to drop.
    """
    keeper = {}
    dropped = {}
    for split in (TEST, VALIDATION, TRAIN):
        if split not in groups:
            continue
        dropped[split] = {
            index: keeper[group]
            for index, group in enumerate(groups[split])
            if group is not None and group in keeper
        }
        for group in groups[split]:
            if group is not None:
                keeper.setdefault(group, split)
    return dropped


def part_validation(dataset: Dataset, seed: int = 42) -> tuple[Dataset, Dataset]:
    """Part a validation split into two halves, never through a group, stratified by label and generator.

    What is chosen by one half is not judged by it: *selection* decides on the checkpoint and on early stopping,
    *calibration* fits the temperature, the bias and the thresholds.

    Args:
        dataset: Rows with `label` (`ClassLabel`) and, optionally, `group` and `generator`.
        seed: Of the draw.

    Returns:
        `(selection, calibration)`

    Raises:
        ValueError: A half would lack a class.
    """
    names = dataset.features["label"].names
    labels = [names[label] for label in dataset["label"]]
    groups = dataset["group"][:] if "group" in dataset.column_names else None
    strata = dataset["generator"][:] if "generator" in dataset.column_names else None
    halves = carve(labels, groups, [0.5, 0.5], seed, strata)
    for half in halves:
        lacking = set(NAMES) - {labels[index] for index in half}
        if lacking:
            raise ValueError(
                f"The validation split ({len(labels)} images) is too small to be parted into selection and "
                f"calibration: one half would hold no '{min(lacking)}' image. Give it more images or smaller groups."
            )
    return dataset.select(halves[0]), dataset.select(halves[1])


class _Balance:
    """How many rows of each class each part holds, and how many it should hold in the end."""

    def __init__(self, codes: np.ndarray, shares: np.ndarray):
        self.codes = codes
        self.totals = np.bincount(codes, minlength=1).astype(np.float64)  # (classes,)
        self.target = np.outer(shares, self.totals)  # (parts, classes)
        self.held = np.zeros_like(self.target)

    def _count(self, rows: list[int]) -> np.ndarray:
        return np.bincount(self.codes[rows], minlength=len(self.totals))

    def fits(self, rows: list[int]) -> np.ndarray:
        """Whether each part stays within its size, to half a row."""
        return (self.held + self._count(rows) <= self.target + 0.5).all(axis=1)

    def lacking(self, rows: list[int]) -> np.ndarray:
        """What share of its rows each part still lacks, averaged over the classes of these rows; (parts,)."""
        counts = self._count(rows)
        present = counts > 0
        missing = (self.target - self.held)[:, present] / self.target[:, present]
        return missing @ (counts[present] / len(rows))

    def add(self, rows: list[int], part: int) -> None:
        self.held[part] += self._count(rows)

    def missing_shares(self) -> list[list[float]]:
        """For each class, how the rows still to come are to be shared out among the parts."""
        missing = np.maximum(self.target - self.held, 0)
        total = missing.sum(axis=0)
        even = self.target / np.maximum(self.totals, 1)
        return np.where(total > 0, missing / np.where(total > 0, total, 1), even).T.tolist()


def _codes(values: list) -> np.ndarray:
    order = {value: code for code, value in enumerate(sorted(set(values)))}
    return np.asarray([order[value] for value in values], dtype=np.int64)


def _draw(seed: int, kind: str, name: str) -> bytes:
    return hashlib.blake2b(
        f"{seed}\0{kind}\0{name}".encode("utf-8", "backslashreplace"), digest_size=16
    ).digest()
