"""Rows that are held out of training: which, with whom, and against whom."""

from collections import Counter

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from helpers.tiny import draw_corpus
from helpers.training import facts_of, last_line, main

from realfake.corpus.load import Corpus, hold_out, parse_hold_out
from realfake.corpus.report import CorpusReport
from realfake.evaluation.results import read_evaluation, read_scores


def dataset(rows, grouped=True):
    """Rows of `(label, generator, source, group)`."""
    columns = {
        "image": [{"bytes": str(number).encode(), "path": None} for number in range(len(rows))],
        "label": [["real", "ai"].index(row[0]) for row in rows],
        "generator": [row[1] for row in rows],
        "source": [row[2] for row in rows],
    }
    features = {
        "image": ImageFeature(decode=False),
        "label": ClassLabel(names=["real", "ai"]),
        "generator": Value("string"),
        "source": Value("string"),
    }
    if grouped:
        columns["group"] = [row[3] for row in rows]
        features["group"] = Value("string")
    return Dataset.from_dict(columns, features=Features(features))


def corpus(train, validation, grouped=True):
    test = dataset([("real", "none", "web", None), ("ai", "b", "web", None)], grouped)
    splits = {
        "train": dataset(train, grouped),
        "validation": dataset(validation, grouped),
        "test": test,
    }
    origins = dict.fromkeys(splits, "drawn")
    return Corpus(DatasetDict(splits), CorpusReport("drawn", label_column="label", origins=origins))


def pile(label, generator, source, n, group=None):
    return [
        (label, generator, source, f"{group}{number}" if group else None) for number in range(n)
    ]


def tuples(rows):
    names = rows.features["label"].names
    group = rows["group"][:] if "group" in rows.column_names else [None] * len(rows)
    return [
        (names[label], generator, source, one)
        for label, generator, source, one in zip(
            rows["label"], rows["generator"], rows["source"], group, strict=True
        )
    ]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("generator=a", ("generator", ["a"])),
        (" family = dall-e 2, a=b ,dall-e 2", ("family", ["dall-e 2", "a=b"])),
        (None, None),
        ("", None),
    ],
)
def test_the_option(text, expected):
    assert parse_hold_out(text) == expected


@pytest.mark.parametrize("text", ["generator", "generator=", "=a", "generator= , "])
def test_an_option_of_another_form(text):
    with pytest.raises(ValueError, match="--hold_out must look like"):
        parse_hold_out(text)


@pytest.mark.parametrize("grouped", [True, False])
def test_a_generator_is_gone_from_train_and_validation(grouped):
    train = pile("real", "none", "web", 40) + pile("ai", "a", "web", 20) + pile("ai", "b", "web", 5)
    before = corpus(train, train, grouped)
    test = tuples(before.splits["test"])
    after = hold_out(before, "generator", ["b"])
    for split in ("train", "validation"):
        assert {row[1] for row in tuples(after.splits[split])} == {"none", "a"}
    held = Counter(row[:2] for row in tuples(after.splits["held_out"]))
    assert held == {("ai", "b"): 10, ("real", "none"): 6}, (
        "15 % of the real training images stand against it"
    )
    assert after.report.splits["train"] == {
        "rows": 54,
        "real": 34,
        "ai": 20,
        **({"groups": 54} if grouped else {}),
        "generators": {"a": 20, "none": 34},
    }
    assert after.report.splits["validation"]["real"] == 40
    assert tuples(after.splits["test"]) == test
    assert "generator b, taken out of train and validation" in after.report.summary()
    images = [row["image"]["bytes"] for row in after.splits["train"]] + [
        row["image"]["bytes"] for row in after.splits["held_out"] if row["label"] == 0
    ]
    assert len(set(images)) == len(images), "no counterpart is trained on"


def test_groups_leave_whole():
    train = [
        ("ai", "a", "pairs", "p1"),
        ("real", "none", "pairs", "p1"),
        ("ai", "b", "pairs", "p1"),
        ("ai", "b", "pairs", "p2"),
        ("real", "none", "pairs", "p2"),
        *pile("real", "none", "web", 8, "r"),
        *pile("ai", "b", "web", 8, "g"),
    ]
    after = hold_out(
        corpus(train, pile("real", "none", "w", 3) + pile("ai", "b", "w", 3)), "generator", ["a"]
    )
    held = tuples(after.splits["held_out"])
    assert held == [("ai", "a", "pairs", "p1"), ("real", "none", "pairs", "p1")], (
        "its photograph comes along"
    )
    assert all(row[3] != "p1" for row in tuples(after.splits["train"]))
    assert any(row[3] == "p2" for row in tuples(after.splits["train"]))
    assert "1 rows are not used, because they share a group" in after.report.summary()


def test_counterparts_are_drawn_by_group():
    real = [("real", "none", "web", f"g{number // 4}") for number in range(80)]
    train = real + pile("ai", "a", "web", 10) + pile("ai", "b", "web", 30)
    after = hold_out(corpus(train, train[80:] + pile("real", "none", "v", 5)), "generator", ["a"])
    drawn = [row for row in tuples(after.splits["held_out"]) if row[0] == "real"]
    kept = {row[3] for row in tuples(after.splits["train"]) if row[0] == "real"}
    assert 8 <= len(drawn) <= 12 and not {row[3] for row in drawn} & kept
    again = hold_out(corpus(train, train[80:] + pile("real", "none", "v", 5)), "generator", ["a"])
    assert tuples(again.splits["held_out"]) == tuples(after.splits["held_out"])


def test_a_source_of_photographs():
    train = (
        pile("real", "none", "web", 30)
        + pile("real", "none", "kodak", 4)
        + pile("ai", "a", "lab", 40)
    )
    after = hold_out(corpus(train, train), "source", ["kodak"])
    held = Counter(row[0] for row in tuples(after.splits["held_out"]))
    assert held == {"real": 8, "ai": 6}
    assert all(
        row[2] != "kodak"
        for split in ("train", "validation")
        for row in tuples(after.splits[split])
    )


def test_a_source_of_both_classes_needs_no_counterparts():
    train = pile("real", "none", "web", 9) + pile("ai", "a", "web", 9)
    train += pile("real", "none", "fair", 3) + pile("ai", "a", "fair", 2)
    after = hold_out(corpus(train, train), "source", ["fair"])
    assert Counter(row[0] for row in tuples(after.splits["held_out"])) == {"real": 6, "ai": 4}
    assert len(after.splits["train"]) == 18


@pytest.mark.parametrize(
    "column, values, message",
    [
        ("model", ["a"], "no column 'model'; it has generator, source"),
        ("label", ["1"], None),
        ("generator", ["c"], "hold no generator 'c'; there are: a, none"),
        ("generator", ["a"], "--hold_out leaves no 'ai' image in train"),
    ],
)
def test_what_cannot_be_held_out(column, values, message):
    rows = pile("real", "none", "web", 8) + pile("ai", "a", "web", 8)
    if message is None:
        column, message = "image", "no column 'image'"
    with pytest.raises(ValueError, match=message):
        hold_out(corpus(rows, rows), column, values)


def test_a_stream_is_refused():
    rows = pile("real", "none", "web", 8) + pile("ai", "a", "web", 8)
    streamed = corpus(rows, rows)
    streamed.splits = {**streamed.splits, "train": streamed.splits["train"].to_iterable_dataset()}
    with pytest.raises(ValueError, match="leave out --streaming"):
        hold_out(streamed, "generator", ["a"])


# --- from the command line


@pytest.fixture
def by_generator(tmp_path):
    """Folders `generator/class/image`: photographs of one camera, and two generators."""
    drawn = draw_corpus(tmp_path / "drawn", n=80, size=40)
    for folder, label, part in (
        ("leica", "real", slice(0, 40)),
        ("a", "ai", slice(0, 26)),
        ("b", "ai", slice(0, 14)),
    ):
        target = tmp_path / "corpus" / folder / label
        target.mkdir(parents=True)
        for path in sorted((drawn / label).iterdir())[part]:
            path.rename(target / f"{label}-{path.name}")
    return tmp_path / "corpus"


def test_the_held_out_split_is_measured_and_stands_in_the_card(by_generator, tiny_vit, tmp_path):
    folder = tmp_path / "run"
    words = ["--hold_out", "generator=b", "--num_train_epochs", "1", "--measure_test", "False"]
    assert main(by_generator, folder, *words, model=tiny_vit) == 0
    measured = read_evaluation(folder)
    assert set(measured) == {"selection", "calibration", "held_out"}
    assert set(measured["held_out"]["figures"]["by_generator"]) == {"b"}
    assert "b" not in measured["selection"]["figures"]["by_generator"]
    facts = facts_of(folder)
    assert facts["hold_out"] == "generator=b"
    held = measured["held_out"]["figures"]["n"]
    assert facts["parts"]["held_out"] == held and held["ai"] > 0 and held["real"] > 0
    assert "left out of training" in (folder / "README.md").read_text()
    assert not (tmp_path / "measurements.jsonl").exists()
    log_odds = read_scores(folder / "scores-held_out.parquet")["log_odds"]
    assert len(log_odds) == sum(held.values())


def test_an_unknown_value(by_generator, tiny_vit, tmp_path, capsys):
    assert main(by_generator, tmp_path / "run", "--hold_out", "generator=c", model=tiny_vit) == 2
    assert "hold no generator 'c'; there are: a, b" in last_line(capsys)
