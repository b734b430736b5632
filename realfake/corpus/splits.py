"""Training, validation and test splits: names, random draws, and leaks through groups.

All functions but [`split_validation`] work on plain sequences. A draw depends on the seed and the
data only. Its order comes from a hash, so it is the same in every process and on every platform.
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
# The first half of validation chooses the checkpoint, the second fits calibration and thresholds.
VALIDATION_HALVES = ("selection", "calibration")
EVALUABLE_SPLITS = (TRAIN, VALIDATION, *VALIDATION_HALVES, TEST)

_ROLE_NAMES = {
    TRAIN: ("train", "training"),
    VALIDATION: ("validation", "valid", "val", "dev", "eval", "evaluation"),
    TEST: ("test", "testing"),
}
_ROLES = {name: role for role, names in _ROLE_NAMES.items() for name in names}


def split_role(name: str) -> str | None:
    """Return `"train"`, `"validation"` or `"test"` for a usual name of a split, else `None`."""
    return _ROLES.get(str(name).strip().lower())


def assign_roles(
    names: Sequence[str], asked: Mapping[str, str | None] | None = None
) -> dict[str, str]:
    """Decide which split of a corpus is used for training, validation and test.

    Args:
        asked: *optional*. The user's choice, `{"train": name, "validation": name or None, ...}`,
            which takes precedence. `"none"` for validation or test leaves a split unused.

    Returns:
        `{"train": name, ...}`. `"train"` is always there, the others where the corpus has them. A
        single split of any name is `"train"`, unless the user chose another role for it.

    Raises:
        ValueError: A chosen split does not exist or has two roles, two names mean the same role, or
            no split is for training.
    """
    names = [str(name) for name in names]
    asked = {role: name for role, name in (asked or {}).items() if name is not None}
    unused = {
        role
        for role, name in asked.items()
        if role != TRAIN and name == "none" and name not in names
    }
    asked = {role: name for role, name in asked.items() if role not in unused}
    listed = ", ".join(names)
    for role, name in asked.items():
        if name not in names:
            raise ValueError(f"--{role}_split names {name!r}, but the splits are: {listed}.")
    if len(set(asked.values())) < len(asked):
        raise ValueError(
            "One split cannot have two roles; give --train_split, --validation_split and "
            "--test_split different names."
        )
    if len(names) == 1 and not asked:
        return {TRAIN: names[0]}
    roles = {}
    for role in SPLITS:
        if role in asked:
            roles[role] = asked[role]
        elif role not in unused:
            matching = [
                name for name in names if split_role(name) == role and name not in asked.values()
            ]
            if len(matching) > 1:
                raise ValueError(
                    f"The splits {', '.join(matching)} all look like {role}; pick one with "
                    f"--{role}_split."
                )
            if matching:
                roles[role] = matching[0]
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
    """Split rows at random, stratified, without dividing a group.

    Groups of several rows are placed first, the largest ones first. Each goes to a split with room
    that lacks its labels and strata most. Then single rows fill the splits, stratum by stratum, and
    the rounding error of one stratum is carried over to the next. Without groups, the sizes are
    exact to one row, in total and for each label.

    Args:
        labels: Label of each of the n rows.
        groups: Group of each row; rows of a group stay together. `None` for a row means a group of
            one row, `None` for all means no groups.
        fractions: Share of each split; they are positive and add up to 1.
        strata: *optional*. A finer property to balance within each label, such as the generator.

    Returns:
        For each fraction, the ascending indices of its rows (int64). Each row is in exactly one of
        them. With few rows or groups, one can be empty or lack a label.

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

    label_codes = _codes([str(label) for label in labels])
    # A generator's name under both labels makes two strata.
    stratum_codes = _codes(
        [(str(labels[i]), "" if strata is None else str(strata[i])) for i in range(count)]
    )
    balances = [_Balance(label_codes, shares), _Balance(stratum_codes, shares)]

    members = defaultdict(list)
    for index in range(count):
        group = None if groups is None else groups[index]
        members[("row", str(index)) if group is None else ("group", str(group))].append(index)
    order = {key: _random_key(seed, *key) for key in members}
    split_of: np.ndarray = np.zeros(count, dtype=np.int64)
    by_size = np.argsort(-shares, kind="stable")
    singles = []
    for unit in sorted(members, key=lambda key: (-len(members[key]), order[key])):
        rows = members[unit]
        if len(rows) == 1:
            singles.append((label_codes[rows[0]], stratum_codes[rows[0]], order[unit], rows[0]))
            continue
        fits = balances[0].fits(rows)
        lacking = balances[0].lacking(rows) + balances[1].lacking(rows)
        # argmax takes the first of equal values, so the largest split wins a tie.
        candidates = [split for split in by_size if fits[split]] or list(by_size)
        split = candidates[int(np.argmax(np.round(lacking[candidates], 9)))]
        split_of[rows] = split
        for balance in balances:
            balance.add(rows, split)

    missing = balances[1].missing_shares()
    error = [0.0] * len(shares)
    for _, stratum, _, row in sorted(singles):
        error = [rest + share for rest, share in zip(error, missing[stratum])]
        split = max(range(len(error)), key=lambda index: round(error[index], 9))
        error[split] -= 1
        split_of[row] = split
    return [np.flatnonzero(split_of == split) for split in range(len(shares))]


def subset(
    labels: Sequence[Hashable], size: int | None, seed: int, strata: Sequence | None = None
) -> np.ndarray:
    """Draw rows with the shares of labels and strata kept.

    Args:
        size: Number of rows to draw; `None` for all.
        strata: *optional*. As for [`carve`].

    Returns:
        Ascending indices of `size` rows, or of all rows if there are no more than that.

    Raises:
        ValueError: `size` is not positive.
    """
    if size is not None and size < 1:
        raise ValueError(f"The number of samples must be positive, not {size}.")
    if size is None or size >= len(labels):
        return np.arange(len(labels))
    share = size / len(labels)
    return carve(labels, None, [share, 1 - share], seed, strata)[0]


def subsample(dataset: Dataset, most: int | None, seed: int) -> Dataset:
    """Return at most `most` images, with the shares of labels and generators kept."""
    if most is None or len(dataset) <= most:
        return dataset
    strata = dataset["generator"][:] if "generator" in dataset.column_names else None
    return dataset.select(subset(dataset["label"][:], most, seed, strata))


def shared_groups(groups: Mapping[str, Sequence[str | None]]) -> dict[str, dict[int, str]]:
    """Find the rows to drop so that no two splits share a group.

    A group stays in test if it occurs there, else in validation. So published test splits do not
    change.

    Returns:
        `{split: {row index: split that keeps the group}}`
    """
    keeper: dict[str, str] = {}
    dropped: dict[str, dict[int, str]] = {}
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


def split_validation(dataset: Dataset, seed: int = 42) -> tuple[Dataset, Dataset]:
    """Split validation into halves, stratified by label and generator, without dividing a group.

    *Selection* decides on the checkpoint and on early stopping. *Calibration* fits the temperature,
    the bias and the thresholds, on images that did not influence the choice.

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
                f"The validation split ({len(labels)} images) is too small to be divided into "
                f"selection and calibration: one half would hold no '{min(lacking)}' image. Give "
                "it more images or smaller groups."
            )
    return dataset.select(halves[0]), dataset.select(halves[1])


class _Balance:
    """Counts how many rows of each class each split holds, against its target."""

    def __init__(self, codes: np.ndarray, shares: np.ndarray):
        self.codes = codes
        self.totals = np.bincount(codes, minlength=1).astype(np.float64)  # (classes,)
        self.target = np.outer(shares, self.totals)  # (splits, classes)
        self.held = np.zeros_like(self.target)

    def _count(self, rows: list[int]) -> np.ndarray:
        return np.bincount(self.codes[rows], minlength=len(self.totals))

    def fits(self, rows: list[int]) -> np.ndarray:
        """Whether each split stays within its size, to half a row; (splits,)."""
        return (self.held + self._count(rows) <= self.target + 0.5).all(axis=1)

    def lacking(self, rows: list[int]) -> np.ndarray:
        """Share of its rows that each split lacks, mean over the classes of `rows`; (splits,)."""
        counts = self._count(rows)
        present = counts > 0
        missing = (self.target - self.held)[:, present] / self.target[:, present]
        return missing @ (counts[present] / len(rows))

    def add(self, rows: list[int], split: int) -> None:
        self.held[split] += self._count(rows)

    def missing_shares(self) -> list[list[float]]:
        """For each class, the share of the remaining rows that each split gets."""
        missing = np.maximum(self.target - self.held, 0)
        total = missing.sum(axis=0)
        even = self.target / np.maximum(self.totals, 1)
        return np.where(total > 0, missing / np.where(total > 0, total, 1), even).T.tolist()


def _codes(values: list) -> np.ndarray:
    order = {value: code for code, value in enumerate(sorted(set(values)))}
    return np.asarray([order[value] for value in values], dtype=np.int64)


def _random_key(seed: int, kind: str, name: str) -> bytes:
    text = f"{seed}\0{kind}\0{name}".encode("utf-8", "backslashreplace")
    return hashlib.blake2b(text, digest_size=16).digest()
