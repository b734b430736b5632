"""The corpus loader: sources, labels by name, carving, shared groups, broken files, streams."""

import hashlib
import json
import os
import shlex
import shutil
import zipfile
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, IterableDataset, Value
from PIL import Image as PILImage

from realfake.corpus.load import load_corpus
from realfake.corpus.rows import as_text
from realfake.corpus.splits import split_validation
from realfake.labels import parse_overrides


def picture(number: int, side: int = 12) -> PILImage.Image:
    return PILImage.fromarray(
        np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    )


def encoded(number: int, format: str = "PNG", side: int = 12) -> bytes:
    buffer = BytesIO()
    picture(number, side).save(buffer, format)
    return buffer.getvalue()


def draw_folders(root: Path, counts: dict[str, int]) -> Path:
    """`{"train/real": 10}`: ten PNGs, no two alike."""
    number = sum(len(files) for _, _, files in os.walk(root))
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            (root / folder / f"{index:03d}.png").write_bytes(encoded(number))
            number += 1
    return root


def rows(count: int, start: int = 0, **columns) -> Dataset:
    """`count` rows, half real and half ai, with bytes."""
    data = {
        "image": [{"bytes": encoded(start + i), "path": None} for i in range(count)],
        "label": [i % 2 for i in range(count)],
        **columns,
    }
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=["real", "ai"])})
    for name, values in columns.items():
        features[name] = Value("int64") if isinstance(values[0], int) else Value("string")
    return Dataset.from_dict(data, features=features)


@pytest.fixture
def load(tmp_path):
    def load(source, **options):
        return load_corpus(source, cache_dir=str(tmp_path / "cache"), **options)

    return load


def sizes(corpus) -> dict[str, int]:
    return {name: len(split) for name, split in corpus.splits.items()}


def contents(split) -> list[tuple[str, str]]:
    """Label by name and a digest of the file, for every row, sorted."""
    names = split.features["label"].names
    return sorted(
        (
            names[row["label"]],
            hashlib.sha256(
                row["image"]["bytes"] or Path(row["image"]["path"]).read_bytes()
            ).hexdigest(),
        )
        for row in split
    )


# Sources


def test_class_folders_with_splits(tmp_path, load):
    counts = {
        "train/REAL": 6,
        "train/FAKE": 8,
        "valid/REAL": 2,
        "valid/FAKE": 3,
        "test/REAL": 4,
        "test/FAKE": 5,
    }
    corpus = load(draw_folders(tmp_path / "raw", counts))
    assert {
        split: {"real": c["real"], "ai": c["ai"]} for split, c in corpus.report.splits.items()
    } == {
        "train": {"real": 6, "ai": 8},
        "validation": {"real": 2, "ai": 3},
        "test": {"real": 4, "ai": 5},
    }
    assert corpus.splits["train"].features == Features(
        {"image": Image(decode=False), "label": ClassLabel(names=["real", "ai"])}
    )
    for row in corpus.splits["train"]:
        folder = Path(row["image"]["path"]).parent.name
        assert (folder == "FAKE") == (
            corpus.splits["train"].features["label"].int2str(row["label"]) == "ai"
        )
    assert corpus.report.label_map == {"FAKE": "ai", "REAL": "real"}
    assert not corpus.report.dropped


def test_class_folders_inside_lone_folders_and_among_other_files(tmp_path, load):
    root = draw_folders(
        tmp_path / "raw", {"archive/data/0_real/deep": 20, "archive/data/1_fake": 20, ".git/x": 3}
    )
    (root / "archive/data/notes.csv").write_text("a,b\n1,2\n")
    corpus = load(root)
    assert sum(sizes(corpus).values()) == 40
    assert any("notes.csv" in note for note in corpus.report.notes)


def test_generator_folders_above_split_and_class(tmp_path, load):
    counts = {
        f"{g}/{s}/{c}": 6
        for g in ("Midjourney", "ADM")
        for s in ("train", "val")
        for c in ("ai", "nature")
    }
    corpus = load(draw_folders(tmp_path / "raw", counts))
    assert corpus.report.splits["validation"]["generators"] == {
        "ADM": 6,
        "Midjourney": 6,
        "none": 12,
    }


def test_images_outside_class_folders_are_refused(tmp_path, load):
    root = draw_folders(tmp_path / "raw", {"train/real": 3, "train/ai": 3, "train": 2})
    with pytest.raises(ValueError, match="2 images are not in a class folder: train/000.png"):
        load(root)


def test_split_folders_beside_class_folders_are_refused(tmp_path, load):
    root = draw_folders(tmp_path / "raw", {"test/real": 3, "test/ai": 3, "real": 3, "ai": 3})
    with pytest.raises(ValueError, match=r"splits \(test\) and others beside them \(ai, real\)"):
        load(root)


def test_csv_with_relative_paths_in_two_folders(tmp_path, load):
    for part in ("a", "b"):
        draw_folders(tmp_path / "raw" / part, {"pictures": 20})
        lines = [
            f"pictures/{i:03d}.png,{'human' if i % 2 else 'generated'},{i // 4}" for i in range(20)
        ]
        (tmp_path / "raw" / part / "train.csv").write_text("\n".join(["path,class,group", *lines]))
    corpus = load(tmp_path / "raw")
    assert sum(sizes(corpus).values()) == 40
    assert corpus.report.image_column == "path" and corpus.report.label_column == "class"
    paths = [row["image"]["path"] for split in corpus.splits.values() for row in split]
    assert all(Path(path).is_absolute() and Path(path).is_file() for path in paths)
    assert corpus.splits["train"].features["group"] == Value("string")


def test_jsonl_with_split_in_the_file_name_and_a_missing_file(tmp_path, load):
    root = draw_folders(tmp_path / "raw", {"images": 30})
    for name, numbers in {"train": range(20), "dev": range(20, 24), "test": range(24, 32)}.items():
        lines = [
            json.dumps(
                {
                    "file_name": f"images/{i:03d}.png",
                    "label": ["real", "fake"][i % 2],
                    "generator": None,
                }
            )
            for i in numbers
        ]
        (root / f"{name}.jsonl").write_text("\n".join(lines))
    corpus = load(root)
    assert sizes(corpus) == {"train": 20, "validation": 4, "test": 6}
    assert [
        (row["split"], row["index"], Path(row["path"]).name) for row in corpus.report.dropped
    ] == [("test", 6, "030.png"), ("test", 7, "031.png")]
    assert "does not exist" in corpus.report.dropped[0]["reason"]


def test_one_json_lines_file_with_image_structs(tmp_path, load):
    root = draw_folders(tmp_path / "raw", {"images": 40})
    lines = [
        json.dumps({"image": {"path": f"images/{i:03d}.png"}, "label": ["real", "ai"][i % 2]})
        for i in range(40)
    ]
    (root / "all.jsonl").write_text("\n".join(lines))
    assert sum(sizes(load(root / "all.jsonl")).values()) == 40


@pytest.mark.parametrize("plain_bytes", [False, True])
def test_parquet_shards(tmp_path, load, plain_bytes):
    for split, count in {"train": 40, "validation": 10, "test": 10}.items():
        dataset = rows(count, start=100 * len(split))
        for shard in range(2):
            part = dataset.shard(2, shard, contiguous=True)
            if plain_bytes:  # a column of bytes that no metadata calls an image
                names = part.features["label"].names
                part = Dataset.from_dict(
                    {
                        "img": [row["image"]["bytes"] for row in part],
                        "label": [names[row["label"]] for row in part],
                    }
                )
            (tmp_path / "raw" / "data").mkdir(parents=True, exist_ok=True)
            part.to_parquet(tmp_path / "raw" / "data" / f"{split}-0000{shard}-of-00002.parquet")
    corpus = load(tmp_path / "raw")
    assert sizes(corpus) == {"train": 40, "validation": 10, "test": 10}
    first = corpus.splits["train"][1]
    assert first["label"] == 1 and first["image"]["bytes"] == encoded(501)


def test_save_to_disk_is_read_without_writing_there(tmp_path, load):
    DatasetDict({"train": rows(40), "test": rows(10, 200)}).save_to_disk(tmp_path / "raw")
    before = sorted(path.name for path in (tmp_path / "raw").rglob("*"))
    corpus = load(tmp_path / "raw")
    assert sizes(corpus) == {"train": 34, "validation": 6, "test": 10}
    assert sorted(path.name for path in (tmp_path / "raw").rglob("*")) == before


def test_metadata_with_labels_wins_over_folder_names(tmp_path, load):
    root = draw_folders(tmp_path / "raw", {"train/a": 20, "test/a": 6})
    for split, count in {"train": 20, "test": 6}.items():
        lines = [f"a/{i:03d}.png,{['real', 'ai'][i % 2]},g{split}{i}" for i in range(count)]
        (root / split / "metadata.csv").write_text("\n".join(["file_name,label,group", *lines]))
    corpus = load(root)
    assert sizes(corpus) == {"train": 17, "validation": 3, "test": 6}
    assert corpus.splits["test"]["group"][:2] == ["gtest0", "gtest1"]
    assert corpus.report.kind == "images with metadata.csv"


def test_metadata_beside_class_folders_adds_its_columns(tmp_path, load):
    root = draw_folders(tmp_path / "raw", {"real": 20, "ai": 20})
    lines = ["file_name,generator,group,caption"]
    lines += [f"ai/{i:03d}.png,sdxl,g{i},words" for i in range(19)]
    (root / "metadata.csv").write_text("\n".join(lines))
    with open(root / "real" / "metadata.jsonl", "w") as file:
        for i in range(20):
            file.write(json.dumps({"file_name": f"{i:03d}.png", "group": i}) + "\n")
    corpus = load(root)
    assert sum(sizes(corpus).values()) == 40 and corpus.report.kind == "class folders"
    rows = [row for split in corpus.splits.values() for row in split]
    generated = [row for row in rows if row["label"] == 1]
    assert sorted(row["generator"] for row in generated) == ["sdxl"] * 19 + ["unknown"]
    assert {row["group"] for row in rows if row["label"] == 0} == {str(i) for i in range(20)}
    assert any("generator, group" in note for note in corpus.report.notes)
    (root / "metadata.csv").write_text("file_name\n" + '"' * 3)
    (root / "real" / "metadata.jsonl").write_text("{")
    with pytest.raises(ValueError, match="metadata.jsonl cannot be read"):
        load(root)


def test_metadata_with_labels_of_one_class_does_not_lose_the_other(tmp_path, load):
    root = draw_folders(tmp_path / "raw", {"real": 20, "ai": 20})
    lines = ["file_name,label,source", *(f"{i:03d}.png,ai,web" for i in range(20))]
    (root / "ai" / "metadata.csv").write_text("\n".join(lines))
    corpus = load(root)
    assert sum(sizes(corpus).values()) == 40
    assert set(corpus.splits["train"]["source"]) == {"web", None}


def test_links_are_followed_once(tmp_path, load):
    pool = draw_folders(tmp_path / "pool", {"photos": 20, "more": 6})
    root = draw_folders(tmp_path / "raw", {"ai": 20})
    (root / "real").symlink_to(pool / "photos")
    for file in (pool / "more").iterdir():
        (root / "ai" / f"linked-{file.name}").symlink_to(file)
    # Loops, a second name of a class, and links to nowhere.
    (root / "ai" / "again").symlink_to(root / "ai")
    (root / "ai" / "below").symlink_to(root / "real")
    (root / "ai" / "loop").symlink_to(root)
    (pool / "photos" / "above").symlink_to(root)
    (root / "0 other name").symlink_to(root / "ai")
    (root / "ai" / "nowhere.png").symlink_to(tmp_path / "absent.png")
    corpus = load(root)
    rows = [row for split in corpus.splits.values() for row in split]
    assert sum(row["label"] == 1 for row in rows) == 26
    assert len({row["image"]["path"] for row in rows}) == len(rows)
    assert sum(row["label"] == 0 for row in rows) == 20
    assert [entry["code"] for entry in corpus.report.dropped] == ["unreadable"]


def test_a_zip_of_class_folders_is_unpacked_once(tmp_path, load, monkeypatch):
    draw_folders(tmp_path / "raw" / "set", {"train/real": 20, "train/ai": 20})
    (tmp_path / "raw" / "__MACOSX").mkdir()
    (tmp_path / "raw" / "__MACOSX" / "._000.png").write_bytes(b"clutter")
    packed = Path(shutil.make_archive(tmp_path / "corpus", "zip", tmp_path / "raw"))
    corpus = load(packed)
    assert sum(sizes(corpus).values()) == 40 and corpus.report.source == str(packed)
    monkeypatch.setattr(zipfile, "ZipFile", None)
    assert sizes(load(packed)) == sizes(corpus)
    monkeypatch.undo()
    packed.write_bytes(packed.read_bytes()[:-100])
    with pytest.raises(ValueError, match="corpus.zip cannot be unpacked"):
        load(packed)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "nowhere", "There is no file or folder"),
        (lambda root: root, "holds no images and no data files"),
        (lambda root: (root / "a.zip").write_bytes(b"PK") and root / "a.zip", "cannot be unpacked"),
        (lambda root: (root / "a.tar").write_bytes(b"PK") and root / "a.tar", "is not a corpus"),
        (lambda root: (root / "a.csv").write_text("") or root / "a.csv", "a.csv cannot be read"),
        (
            lambda root: (root / "a.parquet").write_bytes(b"no") and root / "a.parquet",
            "a.parquet cannot be read",
        ),
        (
            lambda root: (root / "a.csv").write_text("a,label\n1,real\n") and root,
            "no image column; its columns are: a, label",
        ),
        (
            lambda root: (
                (root / "a.csv").write_text("url,label\nhttps://x.invalid/a.png,real\n") and root
            ),
            "no image column; its columns are: url, label",
        ),
        (
            lambda root: (
                (root / "a.csv").write_text("image,label\nhttps://x.invalid/a.png,real\n") and root
            ),
            "holds URLs",
        ),
        (lambda root: "user/nothing", "no local file or folder user/nothing.*cannot be reached"),
    ],
)
def test_unusable_sources_end_in_one_line(tmp_path, load, make, message):
    with pytest.raises((ValueError, OSError), match=message) as error:
        load(make(tmp_path))
    assert "\n" not in str(error.value)


# Labels


def test_labels_are_mapped_by_name_whatever_their_order(tmp_path, load):
    dataset = rows(40)
    other = dataset.cast_column("label", Value("int64")).cast_column(
        "label", ClassLabel(names=["fake", "human"])
    )
    other.save_to_disk(tmp_path / "raw")
    corpus = load(tmp_path / "raw")
    found = {
        (row["image"]["bytes"], row["label"]) for split in corpus.splits.values() for row in split
    }
    # What the source calls 0 is fake: `ai`, and so 1 in the corpus.
    assert found == {(row["image"]["bytes"], 1 - row["label"]) for row in dataset}


@pytest.mark.parametrize("values", [[0, 1], [False, True], [0.0, 1.0], ["0", "1"]])
def test_labels_without_names_end_with_the_classes_found(tmp_path, load, values):
    dataset = rows(40).remove_columns("label")
    dataset = dataset.add_column("target", [values[i % 4 == 0] for i in range(40)])
    dataset.save_to_disk(tmp_path / "raw")
    names = [as_text(value) for value in values]
    with pytest.raises(ValueError) as error:
        load(tmp_path / "raw")
    message = str(error.value)
    assert f"column 'target' holds '{names[0]}' (30 rows), '{names[1]}' (10 rows)" in message
    # Nothing in the names tells which is which, so nothing is guessed.
    assert f"--label_map '{names[0]}=?,{names[1]}=?'" in message
    corpus = load(tmp_path / "raw", label_map={names[0]: "real", names[1]: "ai"})
    assert sum(counts["ai"] for counts in corpus.report.splits.values()) == 10


def test_unknown_folder_names_need_the_label_map(tmp_path, load):
    root = draw_folders(tmp_path / "raw", {"nature": 20, "sdxl": 20, "flux": 20})
    with pytest.raises(
        ValueError, match="Cannot tell which of the classes 'flux', 'nature', 'sdxl'.*--label_map"
    ):
        load(root)
    corpus = load(root, label_map={"sdxl": "ai", "flux": "ai"})
    assert sum(counts["ai"] for counts in corpus.report.splits.values()) == 40


def test_the_report_names_the_folders_of_each_label_with_three_files(tmp_path, load):
    root = draw_folders(tmp_path / "raw", {"AI generated, v2": 20, "echt real": 20})
    with pytest.raises(ValueError) as error:
        load(root)
    option, value = shlex.split(str(error.value).split("for example ")[1])
    assert option == "--label_map"
    corpus = load(root, label_map=parse_overrides(value))
    assert corpus.report.label_map == {"AI generated, v2": "ai", "echt real": "real"}
    files = {name: len(paths) for name, paths in corpus.report.examples.items()}
    assert files == {"AI generated, v2": 3, "echt real": 3}
    lines = corpus.report.summary().splitlines()
    (line,) = [line for line in lines if "'echt real' is real" in line]
    assert "000.png, 001.png, 002.png" in line


def test_one_class_only(tmp_path, load):
    with pytest.raises(ValueError, match=r"'real' \(20 rows\).*'ai'"):
        load(draw_folders(tmp_path / "raw", {"real": 20}))


def test_missing_and_wrong_label_columns(tmp_path, load):
    rows(20, kind=["x"] * 20).rename_column("label", "verdict").save_to_disk(tmp_path / "raw")
    with pytest.raises(
        ValueError, match="no label column.*its columns are: verdict, kind.*--label_column"
    ):
        load(tmp_path / "raw")
    with pytest.raises(
        ValueError, match=r"no column 'truth' \(--label_column\); its columns are: verdict, kind"
    ):
        load(tmp_path / "raw", label_column="truth")
    assert sum(sizes(load(tmp_path / "raw", label_column="verdict")).values()) == 20


def test_a_column_of_many_values_is_not_taken_for_classes(tmp_path, load):
    rows(120).remove_columns("label").add_column("label", list(range(120))).save_to_disk(
        tmp_path / "raw"
    )
    with pytest.raises(ValueError, match="holds 120 different values.*--label_column"):
        load(tmp_path / "raw")


def test_rows_without_a_label_are_dropped_and_listed(tmp_path, load):
    dataset = rows(40)
    labels = [
        None if i == 5 else -1 if i == 7 else label for i, label in enumerate(dataset["label"])
    ]
    dataset = dataset.remove_columns("label").add_column(
        "label", labels, feature=ClassLabel(names=["real", "ai"])
    )
    dataset.save_to_disk(tmp_path / "raw")
    corpus = load(tmp_path / "raw")
    assert [(row["index"], row["code"]) for row in corpus.report.dropped] == [
        (5, "unlabelled"),
        (7, "unlabelled"),
    ]
    assert sum(sizes(corpus).values()) == 38


def test_generator_and_group_are_texts_and_missing_ones_are_named(tmp_path, load):
    generators = [None if i < 4 else "sdxl" if i % 2 else "camera" for i in range(40)]
    rows(40, generator=generators, group=[i // 2 for i in range(40)]).save_to_disk(tmp_path / "raw")
    corpus = load(tmp_path / "raw")
    total = sum((Counter(c["generators"]) for c in corpus.report.splits.values()), Counter())
    assert total == {"none": 2, "unknown": 2, "camera": 18, "sdxl": 18}
    assert all(isinstance(group, str) for group in corpus.splits["train"]["group"])


def test_values_that_mean_the_same_have_the_same_text():
    assert [as_text(value) for value in (3, 3.0, "3", " 3 ")] == ["3"] * 4
    assert [as_text(value) for value in (None, float("nan"), "", "  ")] == [None] * 4


# Broken files


def test_truncated_files_are_dropped_and_listed(tmp_path, load):
    counts = {
        "train/real": 60,
        "train/ai": 60,
        "val/real": 20,
        "val/ai": 20,
        "test/real": 20,
        "test/ai": 20,
    }
    root = draw_folders(tmp_path / "raw", counts)
    files = sorted(root.rglob("*.png"))
    broken = {str(path) for path in files[:: len(files) // 6]}  # 3 % of 200
    for path in broken:
        data = Path(path).read_bytes()
        Path(path).write_bytes(data[: len(data) // 2])
    (root / "train/real/000.png").write_bytes(b"")
    PILImage.new("RGB", (3, 2000)).save(root / "train/ai/000.png")
    broken |= {str(root / "train/real/000.png"), str(root / "train/ai/000.png")}
    corpus = load(root, num_proc=2)
    assert {row["path"] for row in corpus.report.dropped} == broken
    assert sum(sizes(corpus).values()) == 200 - len(broken)
    assert not broken & {row["image"]["path"] for split in corpus.splits.values() for row in split}
    reasons = {row["path"]: row["reason"] for row in corpus.report.dropped}
    assert "empty" in reasons[str(root / "train/real/000.png")]
    assert "3 x 2000" in reasons[str(root / "train/ai/000.png")]
    assert f"dropped {len(broken)} rows" in corpus.report.summary()
    json.dumps(corpus.report.to_dict())


def test_the_check_is_cached_until_a_file_changes(tmp_path, load, monkeypatch):
    counts = {
        "train/real": 10,
        "train/ai": 10,
        "val/real": 2,
        "val/ai": 2,
        "test/real": 2,
        "test/ai": 2,
    }
    root = draw_folders(tmp_path / "raw", counts)
    load(root)
    opened = []
    monkeypatch.setattr(
        "realfake.corpus.report.open_image", lambda image: opened.append(image["path"])
    )
    load(root)
    assert not opened
    (root / "train/real/003.png").write_bytes(b"broken")
    monkeypatch.undo()
    corpus = load(root)
    assert [Path(row["path"]).name for row in corpus.report.dropped] == ["003.png"]


# Splits


def test_one_split_is_divided_70_15_15_within_labels_and_generators(tmp_path, load):
    generators = [("camera", "sdxl", "camera", "flux")[i % 4] for i in range(200)]
    rows(200, generator=generators).save_to_disk(tmp_path / "raw")
    corpus = load(tmp_path / "raw")
    assert sizes(corpus) == {"train": 140, "validation": 30, "test": 30}
    for split, counts in corpus.report.splits.items():
        assert counts["real"] == counts["ai"] == len(corpus.splits[split]) / 2
        assert abs(counts["generators"]["sdxl"] - counts["generators"]["flux"]) <= 1
    everything = [item for split in corpus.splits.values() for item in contents(split)]
    assert sorted(everything) == contents(
        Dataset.load_from_disk(str(tmp_path / "raw")).cast_column("image", Image(decode=False))
    )
    assert (
        "70% of 'train', stratified by label and generator (seed 42)"
        in corpus.report.origins["train"]
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"train": 100, "test": 20}, {"train": 85, "validation": 15, "test": 20}),
        ({"train": 100, "dev": 20}, {"train": 85, "validation": 20, "test": 15}),
        (
            {"training": 100, "eval": 10, "testing": 20},
            {"train": 100, "validation": 10, "test": 20},
        ),
    ],
)
def test_what_is_missing_is_carved_from_train(tmp_path, load, given, expected):
    DatasetDict({n: rows(c, 1000 * i) for i, (n, c) in enumerate(given.items())}).save_to_disk(
        tmp_path / "raw"
    )
    assert sizes(load(tmp_path / "raw")) == expected


def test_splits_can_be_chosen_or_left_unused(tmp_path, load):
    names = {"part1": 60, "part2": 10, "part3": 10, "rest": 4}
    DatasetDict({n: rows(c, 1000 * i) for i, (n, c) in enumerate(names.items())}).save_to_disk(
        tmp_path / "raw"
    )
    with pytest.raises(
        ValueError,
        match="None of the splits part1, part2, part3, rest is for training.*--train_split",
    ):
        load(tmp_path / "raw")
    corpus = load(tmp_path / "raw", train_split="part1", test_split="part3")
    assert sizes(corpus) == {"train": 51, "validation": 9, "test": 10}
    assert any("part2, rest are not used" in note for note in corpus.report.notes)
    with pytest.raises(ValueError, match="--test_split names 'part9'"):
        load(tmp_path / "raw", train_split="part1", test_split="part9")


def test_an_empty_split_is_named(tmp_path, load):
    DatasetDict({"train": rows(40), "validation": rows(10, 100).select([])}).save_to_disk(
        tmp_path / "raw"
    )
    with pytest.raises(
        ValueError, match="The validation split is empty: it has no rows.*--validation_split none"
    ):
        load(tmp_path / "raw")
    assert sizes(load(tmp_path / "raw", validation_split="none")) == {
        "train": 28,
        "validation": 6,
        "test": 6,
    }


def test_a_split_that_loses_all_its_rows_is_named(tmp_path, load):
    broken = rows(6).map(lambda row: {"image": {"bytes": b"nothing", "path": None}})
    DatasetDict({"train": rows(40), "test": broken}).save_to_disk(tmp_path / "raw")
    with pytest.raises(
        ValueError, match="The test split is empty: all its rows were dropped, the last because"
    ):
        load(tmp_path / "raw")


def test_a_split_without_a_class_is_named(tmp_path, load):
    test = rows(10, 100).filter(lambda row: row["label"] == 0)
    DatasetDict({"train": rows(40), "test": test}).save_to_disk(tmp_path / "raw")
    with pytest.raises(
        ValueError, match=r"The test split .* holds no 'ai' image \(5 real, 0 ai\).*--test_split"
    ):
        load(tmp_path / "raw")


def test_too_little_to_carve(tmp_path, load):
    rows(4).save_to_disk(tmp_path / "raw")
    with pytest.raises(ValueError, match="split .15% of 'train'.*holds no.*more images"):
        load(tmp_path / "raw")


def test_groups_shared_by_given_splits_are_dropped_from_train_never_from_test(tmp_path, load):
    splits = DatasetDict(
        {
            "train": rows(
                40, 0, group=[f"t{i // 2}" for i in range(36)] + ["v0", "v0", "e0", "e0"]
            ),
            "validation": rows(12, 100, group=[f"v{i // 2}" for i in range(10)] + ["e1", "e1"]),
            "test": rows(12, 200, group=[f"e{i // 2}" for i in range(12)]),
        }
    )
    splits.save_to_disk(tmp_path / "raw")
    corpus = load(tmp_path / "raw")
    assert sizes(corpus) == {"train": 36, "validation": 10, "test": 12}
    assert Counter(row["split"] for row in corpus.report.dropped) == {"train": 4, "validation": 2}
    assert any("4 rows of 2 groups were dropped from train" in note for note in corpus.report.notes)
    groups = {name: set(split["group"]) for name, split in corpus.splits.items()}
    assert not (groups["train"] | groups["validation"]) & groups["test"]
    assert not groups["train"] & groups["validation"]


def test_groups_are_compared_as_texts(tmp_path, load):
    train = "\n".join(
        ["image,label,group"]
        + [f"images/{i:03d}.png,{'real' if i % 2 else 'ai'},{i}" for i in range(40)]
    )
    # A gap makes pandas read the column as floats: 7.0.
    test = "\n".join(
        ["image,label,group", "images/040.png,real,7", "images/041.png,ai,", "images/042.png,ai,"]
    )
    root = draw_folders(tmp_path / "raw", {"images": 43})
    (root / "train.csv").write_text(train)
    (root / "test.csv").write_text(test)
    corpus = load(root)
    assert [row["index"] for row in corpus.report.dropped] == [7]
    assert corpus.splits["test"]["group"][:] == ["7", None, None]


def test_max_samples_are_drawn_before_the_check(tmp_path, load, monkeypatch):
    DatasetDict({"train": rows(200), "test": rows(60, 500)}).save_to_disk(tmp_path / "raw")
    opened = []
    monkeypatch.setattr("realfake.corpus.report.open_image", lambda image: opened.append(image))
    corpus = load(
        tmp_path / "raw", max_train_samples=20, max_validation_samples=10, max_test_samples=8
    )
    assert sizes(corpus) == {"train": 20, "validation": 10, "test": 8}
    assert len(opened) == 38
    assert all(counts["real"] == counts["ai"] for counts in corpus.report.splits.values())
    assert "20 of 170 drawn" in corpus.report.origins["train"]


def test_loading_twice_gives_the_same_and_another_seed_another(tmp_path, load):
    rows(100, group=[i // 2 for i in range(100)]).save_to_disk(tmp_path / "raw")
    first, again, other = (load(tmp_path / "raw", seed=seed) for seed in (1, 1, 2))
    assert (
        contents(first.splits["test"])
        == contents(again.splits["test"])
        != contents(other.splits["test"])
    )


# Streams


def test_a_streamed_corpus(tmp_path, load, monkeypatch):
    # datasets waits five seconds for Arrow's threads at the end of each pass
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1)
    for split, count in {"train": 60, "validation": 20, "test": 20}.items():
        dataset = rows(count, 100 * len(split), group=[f"{split}{i}" for i in range(count)])
        dataset = dataset.sort("label")  # as corpora often are
        if split == "train":
            dataset = dataset.map(
                lambda row, i: {"image": {"bytes": b"x", "path": None}} if i == 3 else row,
                with_indices=True,
            )
        (tmp_path / "raw").mkdir(exist_ok=True)
        dataset.to_parquet(tmp_path / "raw" / f"{split}.parquet")
    corpus = load(tmp_path / "raw", streaming=True, max_test_samples=10)
    train = corpus.splits["train"]
    assert isinstance(train, IterableDataset)
    assert train.features == corpus.splits["test"].features
    assert train.features["image"] == Image(decode=False)
    assert corpus.report.splits["test"]["real"] == corpus.report.splits["test"]["ai"] == 5
    assert len(corpus.splits["validation"]) == 20
    assert not corpus.report.dropped
    for _ in range(2):
        labels = [row["label"] for row in train]
        assert len(labels) == 59 and labels != sorted(labels)
    assert len(corpus.report.dropped) == 1 and corpus.report.dropped[0]["split"] == "train"
    assert any("cannot be checked" in note for note in corpus.report.notes)
    assert "train: streamed" in corpus.report.summary()


def test_a_stream_of_class_folders_and_wild_names(tmp_path, load):
    counts = {f"{split}/{name}": 4 for split in ("train", "val", "test") for name in ("hum", "sd")}
    root = draw_folders(tmp_path / "raw", counts)
    with pytest.raises(ValueError, match="Cannot tell which.*--label_map"):
        load(root, streaming=True)
    corpus = load(root, streaming=True, label_map={"sd": "ai"})
    assert sorted(row["label"] for row in corpus.splits["train"]) == [0] * 4 + [1] * 4


def test_a_stream_of_files_on_the_hub(tmp_path, load, hub, monkeypatch):
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1)
    counts = {
        f"{split}/{name}": 6 for split in ("train", "val", "test") for name in ("fake", "real")
    }
    root = draw_folders(tmp_path / "raw", counts)
    (root / "test/real/003.png").write_bytes(b"broken")
    hub.put("user/pictures", root, "dataset")
    corpus = load("user/pictures", streaming=True)
    # The files themselves, not pictures that datasets decoded on the way.
    assert next(iter(corpus.splits["train"]))["image"]["bytes"].startswith(b"\x89PNG")
    assert len(corpus.splits["test"]) == 11
    assert [Path(row["path"]).name for row in corpus.report.dropped] == ["003.png"]


def test_a_stream_cannot_be_carved(tmp_path, load):
    DatasetDict({"train": rows(40), "test": rows(10, 100)}).save_to_disk(tmp_path / "raw")
    with pytest.raises(ValueError, match="needs a validation split.*--validation_split"):
        load(tmp_path / "raw", streaming=True)


# The corpora of the documentation


@pytest.mark.corpora
def test_scenes(tmp_path):
    folder = Path(os.environ["REALFAKE_CORPORA"]) / "scenes"
    limits = {f"max_{split}_samples": 100 for split in ("train", "validation", "test")}
    corpus = load_corpus(folder, cache_dir=str(tmp_path), **limits)
    assert not corpus.report.dropped
    assert not set(corpus.splits["train"]["group"]) & set(corpus.splits["validation"]["group"])
    selection, calibration = split_validation(corpus.splits["validation"])
    assert not set(selection["group"]) & set(calibration["group"])
