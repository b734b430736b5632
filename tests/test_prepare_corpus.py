"""`corpus prepare`: the output loads again as the same splits; mistakes end in one line."""

import csv
import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from helpers.bad_files import encode, heic
from PIL import Image as PILImage

from realfake.cli.main import main
from realfake.corpus import write
from realfake.corpus.load import load_corpus


@pytest.fixture
def run(tmp_path, capsys):
    def run(*arguments):
        code = main(["corpus", "prepare", *arguments, "--cache_dir", tmp_path / "cache"])
        return code, capsys.readouterr()

    return run


@pytest.fixture
def raw(tmp_path):
    """Two classes of different size and format, in one split, with groups and a broken file."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(60):
        is_ai = number % 3 == 0
        side = 64 if is_ai else 24
        pixels = PILImage.fromarray(rng.integers(0, 256, (side, side * 2, 3), dtype=np.uint8))
        path = tmp_path / "raw" / "files" / (f"{number}.png" if is_ai else f"{number}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels.save(path)
        if number == 7:
            path.write_bytes(path.read_bytes()[:200])
        lines.append(f"files/{path.name},{'sd,sd-1.5' if is_ai else 'human,'},g{number // 2},web")
    (tmp_path / "raw" / "all.csv").write_text(
        "\n".join(["path,class,generator,group,source", *lines])
    )
    return tmp_path / "raw"


def contents(corpus) -> dict[str, list]:
    result = {}
    for name, split in corpus.splits.items():
        names = split.features["label"].names
        rows = [
            (
                row["image"]["bytes"] or Path(row["image"]["path"]).read_bytes(),
                names[row["label"]],
                *(row.get(column) for column in ("generator", "group", "source")),
            )
            for row in split
        ]
        result[name] = sorted(rows)
    return result


@pytest.mark.parametrize("format", ["folders", "parquet"])
def test_the_output_loads_as_the_same_splits(run, raw, tmp_path, format):
    output = tmp_path / "out"
    code, printed = run(
        raw, "--output", output, "--format", format, "--label_map", "sd=ai", "--split_seed", 3
    )
    assert code == 0, printed.err
    assert "dropped 1 rows" in printed.out and f"Written to {output}" in printed.out
    before = load_corpus(raw, label_map={"sd": "ai"}, seed=3, cache_dir=str(tmp_path / "cache"))
    # No label map, another seed: all is in what was written.
    after = load_corpus(output, seed=99, cache_dir=str(tmp_path / "cache"))
    assert contents(before) == contents(after)
    assert sum(map(len, contents(after).values())) == 59
    assert {row["generator"] for row in after.splits["test"]} == {"none", "sd-1.5"}
    assert not set(after.splits["train"]["group"]) & set(after.splits["test"]["group"])
    report = json.loads((output / "report.json").read_text())
    assert [Path(row["path"]).name for row in report["corpus"]["dropped"]] == ["7.jpg"]
    assert report["corpus"]["label_map"] == {"human": "real", "sd": "ai"}
    assert report["settings"] == {"format": format, "resize": None, "encoding": None, "seed": 3}


def test_folders_load_as_an_imagefolder(run, raw, tmp_path):
    output = tmp_path / "out"
    assert run(raw, "--output", output, "--label_map", "sd=ai")[0] == 0
    for split in ("train", "validation", "test"):
        with open(output / split / "metadata.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["file_name", "label", "generator", "group", "source"]
        for row in rows:
            assert row["file_name"].startswith(row["label"] + "/")
            assert row["file_name"].endswith(".png" if row["label"] == "ai" else ".jpg")
        written = {str(path.relative_to(output / split)) for path in (output / split).glob("*/*")}
        assert written == {row["file_name"] for row in rows}
    dataset = load_dataset("imagefolder", data_dir=str(output), cache_dir=str(tmp_path / "cache"))
    assert set(dataset) == {"train", "validation", "test"}
    assert {"image", "label", "generator", "group"} <= set(dataset["train"].features)


@pytest.mark.parametrize(("encoding", "format"), [(None, "JPEG"), ("jpeg", "JPEG"), ("png", "PNG")])
def test_resize_encodes_both_classes_in_the_same_way_and_only_shrinks(
    run, raw, tmp_path, encoding, format
):
    output = tmp_path / "out"
    extra = ["--encoding", encoding] if encoding else []
    assert run(raw, "--output", output, "--resize", 60, "--label_map", "sd=ai", *extra)[0] == 0
    corpus = load_corpus(output, cache_dir=str(tmp_path / "cache"))
    sizes, tables = {}, set()
    for split in corpus.splits.values():
        for row in split:
            image = PILImage.open(BytesIO(Path(row["image"]["path"]).read_bytes()))
            assert image.format == format
            sizes.setdefault(row["label"], set()).add(image.size)
            tables.add(str(getattr(image, "quantization", None)))
    assert sizes == {0: {(48, 24)}, 1: {(60, 30)}}
    assert len(tables) == 1


def test_max_samples_and_a_parquet_card(run, raw, tmp_path):
    output = tmp_path / "out"
    code, printed = run(
        raw,
        "--output",
        output,
        "--format",
        "parquet",
        "--label_map",
        "sd=ai",
        "--max_train_samples",
        12,
    )
    assert code == 0, printed.err
    card = (output / "README.md").read_text()
    assert card.startswith("---\n") and "path: data/train-*" in card and "| train | 8 | 4 |" in card
    dataset = load_dataset(str(output), cache_dir=str(tmp_path / "cache"))
    assert len(dataset["train"]) == 12
    assert dataset["train"].features["label"].names == ["real", "ai"]
    assert dataset["train"][0]["image"].mode == "RGB"


def test_several_shards(run, raw, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "SHARD_BYTES", 100_000)
    output = tmp_path / "out"
    assert run(raw, "--output", output, "--format", "parquet", "--label_map", "sd=ai")[0] == 0
    shards = sorted(path.name for path in (output / "data").glob("train-*"))
    assert (
        len(shards) > 1
        and shards[-1] == f"train-{len(shards) - 1:05d}-of-{len(shards):05d}.parquet"
    )
    before = load_corpus(raw, label_map={"sd": "ai"}, cache_dir=str(tmp_path / "cache"))
    assert contents(before) == contents(load_corpus(output, cache_dir=str(tmp_path / "cache")))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([], "Cannot tell which of the classes 'human', 'sd'"),
        (["--label_map", "sd"], "--label_map: 'sd' is not of the form"),
        (["--label_map", "sd=ai", "--label_column", "truth"], "no column 'truth'"),
        (["--label_map", "sd=ai", "--format", "hub"], "--format hub and --push_to_hub"),
        (["--label_map", "sd=ai", "--private"], "--private needs --format hub"),
        (["--label_map", "sd=ai", "--resize", "3"], "--resize must be at least 8"),
        (
            ["--label_map", "sd=ai", "--max_test_samples", "1"],
            "--max_test_samples must be at least 2",
        ),
    ],
)
def test_mistakes_end_in_one_line_and_write_nothing(run, raw, tmp_path, extra, message):
    code, printed = run(raw, "--output", tmp_path / "out", *extra)
    assert code == 2
    # datasets' progress bars go to stderr too; the error is the last line.
    last = printed.err.rstrip("\n").split("\n")[-1]
    assert last.startswith("realfake: error: ") and message in last
    assert "Traceback" not in printed.err
    assert not (tmp_path / "out").exists()


def test_a_nonempty_output_is_refused_and_unchanged(run, raw, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    code, printed = run(raw, "--output", tmp_path / "out", "--label_map", "sd=ai")
    assert code == 2 and "is not empty" in printed.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_pushed_to_the_hub_and_read_back(run, raw, tmp_path, hub):
    output = tmp_path / "out"
    code, printed = run(
        raw,
        "--output",
        output,
        "--label_map",
        "sd=ai",
        "--format",
        "hub",
        "--push_to_hub",
        "user/pictures",
        "--private",
    )
    assert code == 0, printed.err
    after = load_corpus("user/pictures", cache_dir=str(tmp_path / "cache"))
    before = load_corpus(raw, label_map={"sd": "ai"}, cache_dir=str(tmp_path / "cache"))
    assert contents(after) == contents(before)
    assert after.report.kind == "Hub dataset"


def test_file_names_end_as_their_formats():
    picture = PILImage.new("RGB", (16, 16), "teal")
    formats = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "AVIF": ".avif", "GIF": ".gif"}
    for format, suffix in formats.items():
        assert write.suffix_of(encode(picture, format)) == suffix
    assert write.suffix_of(heic(picture)) == ".heic"
