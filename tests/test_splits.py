"""Splits: names, and draws that keep groups together, stay balanced and never change."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from realfake.corpus.splits import (
    assign_roles,
    carve,
    shared_groups,
    split_role,
    split_validation,
    subset,
)


def rows(count: int, **columns) -> Dataset:
    """`count` numbered rows, half real and half ai."""
    features = Features({"label": ClassLabel(names=["real", "ai"]), "number": Value("int64")})
    features |= {name: Value("string") for name in columns}
    data = {"label": [i % 2 for i in range(count)], "number": list(range(count)), **columns}
    return Dataset.from_dict(data, features=Features(features))


def refuses(call, *arguments) -> str:
    """The one line with which it ends."""
    with pytest.raises(ValueError) as error:
        call(*arguments)
    return str(error.value)


@pytest.mark.parametrize(
    ("role", "names"),
    [
        ("train", ["train", "training", "TRAIN", " Train "]),
        ("validation", ["validation", "valid", "val", "dev", "eval", "evaluation", "Val"]),
        ("test", ["test", "testing"]),
        (None, ["unlabeled", "tests", ""]),
    ],
)
def test_names_of_splits(role, names):
    assert [split_role(name) for name in names] == [role] * len(names)


@pytest.mark.parametrize(
    ("names", "asked", "roles"),
    [
        (["anything"], None, {"train": "anything"}),
        (["test"], {}, {"train": "test"}),
        (["train", "test"], {"test": "none"}, {"train": "train"}),
        (["train", "dev", "test"], {"validation": "none"}, {"train": "train", "test": "test"}),
        (["a", "test"], {"train": "a"}, {"train": "a", "test": "test"}),
        (["a", "test"], {"train": "a", "validation": None}, {"train": "a", "test": "test"}),
        # What was asked for is taken from the names that would mean something else.
        (["train", "val", "test"], {"train": "val"}, {"train": "val", "test": "test"}),
        (
            ["train", "val", "dev"],
            {"test": "dev"},
            {"train": "train", "validation": "val", "test": "dev"},
        ),
        # A split may be called "none", and training cannot be refused.
        (["train", "none"], {"test": "none"}, {"train": "train", "test": "none"}),
        (["a"], {"train": "a"}, {"train": "a"}),
    ],
)
def test_roles_of_splits(names, asked, roles):
    assert assign_roles(names, asked) == roles


@pytest.mark.parametrize(
    ("names", "asked", "option"),
    [
        (["train", "val", "dev"], None, "--validation_split"),
        (["train", "test"], {"train": "train", "test": "train"}, "--test_split"),
        (["train", "test"], {"test": "exam"}, "--test_split names 'exam'"),
        (["train", "test"], {"train": "none"}, "--train_split names 'none'"),
        (["a", "b"], None, "--train_split"),
        (["a", "test"], {"validation": "a"}, "--train_split"),
        (["a"], {"test": "a"}, "--train_split"),
    ],
)
def test_roles_that_cannot_be(names, asked, option):
    message = refuses(assign_roles, names, asked)
    assert option in message and "\n" not in message


def test_shared_groups_prefers_test_then_validation():
    groups = {
        "train": ["a", "b", "c", None],
        "validation": ["b", "d", "a", None],
        "test": ["a", None],
    }
    assert shared_groups(groups) == {
        "test": {},
        "validation": {2: "test"},
        "train": {0: "test", 1: "validation"},
    }


@pytest.mark.parametrize("seed", range(25))
def test_carving_keeps_groups_together_and_balances(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(200, 600))
    labels = rng.choice(["real", "ai"], count, p=[0.6, 0.4]).tolist()
    strata = [str(rng.integers(0, 4)) if label == "ai" else "camera" for label in labels]
    sizes_of_groups = rng.integers(1, 9, count)
    groups = np.repeat([f"g{i}" for i in range(count)], sizes_of_groups)[:count].astype(object)
    rng.shuffle(groups)  # groups lie scattered and hold both labels
    groups[rng.random(count) < 0.3] = None
    fractions = [0.7, 0.15, 0.15]
    parts = carve(labels, groups.tolist(), fractions, seed, strata)

    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    homes = {}
    for number, part in enumerate(parts):
        assert (np.diff(part) > 0).all()
        for index in part:
            if groups[index] is not None:
                assert homes.setdefault(groups[index], number) == number
        for label in ("real", "ai"):
            wanted = fractions[number] * labels.count(label)
            assert abs(sum(labels[i] == label for i in part) - wanted) <= 2
        for stratum in set(strata):
            wanted = fractions[number] * strata.count(stratum)
            assert abs(sum(strata[i] == stratum for i in part) - wanted) <= 4


def test_carving_without_groups_is_exact_to_a_row():
    labels = ["real"] * 103 + ["ai"] * 61
    strata = ["camera"] * 103 + [
        f"g{i % 30}" for i in range(61)
    ]  # thirty generators with two rows each
    parts = carve(labels, None, [0.7, 0.15, 0.15], 3, strata)
    for part, fraction in zip(parts, [0.7, 0.15, 0.15]):
        assert abs(len(part) - 164 * fraction) <= 1
        assert abs(sum(labels[i] == "ai" for i in part) - 61 * fraction) <= 1.5


def test_one_huge_group_goes_to_the_largest_part():
    groups = ["huge"] * 60 + [None] * 40
    train, validation, test = carve(["real", "ai"] * 50, groups, [0.7, 0.15, 0.15], 0)
    assert set(range(60)) <= set(train.tolist())
    assert len(validation) >= 13 and len(test) >= 13


def test_few_large_groups_leave_no_part_empty():
    groups = [f"g{i // 50}" for i in range(200)]
    assert [len(part) for part in carve(["real", "ai"] * 100, groups, [0.7, 0.15, 0.15], 0)] == [
        100,
        50,
        50,
    ]


def test_carving_depends_on_the_seed_and_on_nothing_else():
    labels, groups = ["real", "ai"] * 60, [f"g{i // 3}" for i in range(120)]
    first = carve(labels, groups, [0.5, 0.5], 1)
    assert all((a == b).all() for a, b in zip(first, carve(labels, groups, [0.5, 0.5], 1)))
    assert set(first[0].tolist()) != set(carve(labels, groups, [0.5, 0.5], 2)[0].tolist())
    code = (
        "from realfake.corpus.splits import carve; "
        "groups = [f'g{i // 3}' for i in range(120)]; "
        "print(carve(['real', 'ai'] * 60, groups, [0.5, 0.5], 1)[0].tolist())"
    )
    root = str(Path(__file__).parent.parent)
    # The hashes of this process's strings come from another seed.
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": root}
    output = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(output.stdout) == first[0].tolist()


# Draws written down: neither a platform nor a new version may move an image from test to train.
DRAWN = {
    42: [
        [0, 1, 2, 3, 4, 5, 12, 13, 14, 15, 16, 17, 20, 21, 24, 25, 26, 27, 28, 29]
        + [30, 31, 32, 33, 34, 37, 38, 39, 40, 42, 44, 46, 47],
        [6, 7, 8, 18, 19, 35, 36, 41],
        [9, 10, 11, 22, 23, 43, 45],
    ],
    7: [
        [0, 1, 2, 3, 4, 5, 12, 13, 14, 15, 16, 17, 20, 21, 24, 25, 26, 27, 29, 31]
        + [32, 33, 34, 36, 37, 38, 39, 42, 43, 44, 45, 46, 47],
        [6, 7, 8, 18, 19, 30, 35, 41],
        [9, 10, 11, 22, 23, 28, 40],
    ],
}


@pytest.mark.parametrize("seed", DRAWN)
def test_the_draw_never_changes(seed):
    labels = ["real" if i % 5 < 3 else "ai" for i in range(48)]
    strata = [
        "camera" if label == "real" else ("sdxl", "flux", "dalle")[i % 3]
        for i, label in enumerate(labels)
    ]
    groups = [f"g{i // 3}" if i < 18 else f"h{i // 2}" if i < 26 else None for i in range(48)]
    drawn = carve(labels, groups, [0.7, 0.15, 0.15], seed, strata)
    assert [part.tolist() for part in drawn] == DRAWN[seed]
    assert all(part.dtype == np.int64 for part in drawn)


def test_the_draw_of_single_rows_never_changes():
    assert [part.tolist() for part in carve(["real", "ai"] * 5, None, [0.6, 0.4], 42)] == [
        [0, 1, 2, 5, 6, 7],
        [3, 4, 8, 9],
    ]


def test_a_name_with_a_lone_surrogate_can_be_drawn():
    # What a file system returns for a name in another encoding.
    groups = ["\udcff", "a", "b", "c"]
    assert sorted(np.concatenate(carve(["real", "ai"] * 2, groups, [0.5, 0.5], 0)).tolist()) == [
        0,
        1,
        2,
        3,
    ]


@pytest.mark.parametrize("fractions", [[0.5, 0.4], [1.5, -0.5], [1.0, 0.0], [], [[0.5, 0.5]]])
def test_carving_refuses_bad_fractions(fractions):
    assert f"not {fractions}" in refuses(carve, ["real"], None, fractions, 0)


def test_carving_refuses_lengths_that_differ():
    assert "1 groups" in refuses(carve, ["real", "ai"], ["a"], [1.0], 0)
    assert "1 strata" in refuses(carve, ["real", "ai"], None, [1.0], 0, ["a"])


def test_carving_nothing_or_into_one():
    assert [part.tolist() for part in carve([], None, [0.5, 0.5], 0)] == [[], []]
    assert carve(["real", "ai"], None, [1.0], 0)[0].tolist() == [0, 1]


def test_subset_keeps_the_shares():
    labels = ["real"] * 300 + ["ai"] * 100
    drawn = subset(labels, 40, 0)
    assert len(drawn) == 40 and sum(labels[i] == "ai" for i in drawn) == 10
    assert drawn.tolist() == sorted(drawn.tolist()) != subset(labels, 40, 1).tolist()
    for size in (None, 400, 500):
        assert subset(labels, size, 0).tolist() == list(range(400))
    assert len(subset(labels, 1, 0)) == 1
    assert "not 0" in refuses(subset, labels, 0, 0)


def test_subset_keeps_the_shares_of_strata():
    labels, strata = ["ai"] * 40, ["sdxl"] * 30 + ["flux"] * 10
    assert sum(strata[i] == "flux" for i in subset(labels, 8, 0, strata)) == 2


@pytest.mark.parametrize("seed", range(10))
def test_validation_is_divided_into_halves_without_dividing_a_group(seed):
    groups = [i // 5 for i in range(100)]
    generators = [("camera", "sdxl", "camera", "flux")[i % 4] for i in range(100)]
    dataset = rows(100, group=[f"g{group}" for group in groups], generator=generators)
    selection, calibration = split_validation(dataset, seed)
    assert len(selection) == len(calibration) == 50
    assert not set(selection["group"]) & set(calibration["group"])
    assert sorted([*selection["number"], *calibration["number"]]) == list(range(100))
    for half in (selection, calibration):
        assert 22 <= sum(half["label"]) <= 28


def test_halves_of_validation_are_seeded_and_balance_generators():
    generators = ["camera" if i % 2 == 0 else ("sdxl", "flux")[i // 50] for i in range(100)]
    dataset = rows(100, generator=generators)
    halves = split_validation(dataset)
    for half in halves:
        assert len(half) == 50 and half["generator"][:].count("flux") in (12, 13)
    assert halves[0]["number"][:] == split_validation(dataset, 42)[0]["number"][:]
    assert halves[0]["number"][:] != split_validation(dataset, 43)[0]["number"][:]


def test_validation_too_small_to_be_divided():
    dataset = rows(4, group=["a", "a", "a", "b"])
    message = refuses(split_validation, dataset)
    assert "4 images" in message and "no 'real' image" in message and "smaller groups" in message
