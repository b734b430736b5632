"""Brackets, spaces, #, %, quotes and unicode in paths: all local sources and outputs work."""

import json
import shutil
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from helpers.tiny import save_tiny
from PIL import Image as PILImage

from realfake.cli.main import main
from realfake.corpus.load import load_corpus

NAMES = ["[pq] set", "50% off #1 %20", 'it\'s "q" & co;', "ünï 写真", "a*b? {c,d}", "c: d\\e"]
COUNT = 24


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(COUNT):
        buffer = BytesIO()
        PILImage.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    return encoded


def dataset(files) -> Dataset:
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=["real", "ai"])})
    images = [{"bytes": data, "path": f"{index}.png"} for index, data in enumerate(files)]
    labels = [index % 2 for index in range(len(files))]
    return Dataset.from_dict({"image": images, "label": labels}, features=features)


def class_folders(folder, files):
    for index, data in enumerate(files):
        path = folder / ("real", "ai")[index % 2] / f"{folder.name.replace('/', '')} {index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def images_beside(folder, files) -> list[dict]:
    (folder / folder.name).mkdir()
    rows = []
    for index, data in enumerate(files):
        name = f"{folder.name}/{folder.name} {index}.png"
        (folder / name).write_bytes(data)
        rows.append({"file_name": name, "label": ("real", "ai")[index % 2]})
    return rows


def csv(folder, files):
    rows = images_beside(folder, files)
    quoted = ['"' + row["file_name"].replace('"', '""') + '",' + row["label"] for row in rows]
    (folder / "all.csv").write_text("\n".join(["file_name,label", *quoted]), encoding="utf-8")


def jsonl(folder, files):
    lines = [json.dumps(row) for row in images_beside(folder, files)]
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")


def parquet(folder, files):
    pq.write_table(dataset(files).data.table, str(folder / f"{folder.name}.parquet"))


def arrow(folder, files):
    table = dataset(files).data.table
    with (
        pa.OSFile(str(folder / "all.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as writer,
    ):
        writer.write_table(table)


def saved(folder, files):
    dataset(files).save_to_disk(str(folder))


WRITERS = [class_folders, csv, jsonl, parquet, arrow, saved]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", NAMES)
def test_every_local_source_is_read(tmp_path, files, name, write):
    folder = tmp_path / name
    folder.mkdir()
    write(folder, files)
    corpus = load_corpus(folder, cache_dir=str(tmp_path / "cache"))
    assert not corpus.report.dropped
    assert sum(len(rows) for rows in corpus.splits.values()) == COUNT


@pytest.mark.parametrize("write", [class_folders, jsonl, parquet, arrow])
@pytest.mark.parametrize("name", NAMES)
def test_every_local_source_is_streamed(tmp_path, files, name, write, monkeypatch):
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1)
    for split in ("train", "validation", "test"):
        folder = tmp_path / name / split / name
        folder.mkdir(parents=True)
        # Outer folders of one name tell nothing, so class folders lie directly below the split.
        write(folder if write is not class_folders else folder.parent, files)
    if write is class_folders:
        for split in ("train", "validation", "test"):
            shutil.rmtree(tmp_path / name / split / name)
    corpus = load_corpus(tmp_path / name, streaming=True, cache_dir=str(tmp_path / "cache"))
    assert len(corpus.splits["test"]) == len(list(corpus.splits["train"])) == COUNT


def test_a_changed_file_is_read_again(tmp_path, files):
    folder = tmp_path / NAMES[0]
    folder.mkdir()
    csv(folder, files)
    cache = str(tmp_path / "cache")
    before = load_corpus(folder, cache_dir=cache).report.splits
    lines = (folder / "all.csv").read_text().splitlines()
    (folder / "all.csv").write_text("\n".join(lines[:-4]))
    after = load_corpus(folder, cache_dir=cache).report.splits
    counts = [sum(split["rows"] for split in each.values()) for each in (before, after)]
    assert counts == [COUNT, COUNT - 4]


def test_a_path_that_datasets_takes_for_a_chain_of_urls_is_refused(tmp_path, files):
    folder = tmp_path / "a::b"
    class_folders(folder, files)
    with pytest.raises(ValueError, match="'::'.*rename"):
        load_corpus(folder, cache_dir=str(tmp_path / "cache"))


@pytest.mark.parametrize("format", ["folders", "parquet"])
@pytest.mark.parametrize("name", NAMES)
def test_every_output_is_written_and_read_again(tmp_path, files, name, format, capsys):
    source, output = tmp_path / name / "in", tmp_path / name / "out" / name
    class_folders(source, files)
    cache = ["--cache_dir", tmp_path / "cache"]
    arguments = ["corpus", "prepare", source, "--output", output, "--format", format, *cache]
    assert main(arguments) == 0, capsys.readouterr().err
    corpus = load_corpus(output, cache_dir=str(tmp_path / "cache"))
    assert sum(len(rows) for rows in corpus.splits.values()) == COUNT


def test_an_audit_reads_and_writes_there(tmp_path, files, capsys):
    name = " ".join(NAMES).replace("\\", "")
    source, output, copy = (tmp_path / name / part for part in ("in", "out", "copy"))
    source.mkdir(parents=True)
    parquet(source, files)
    arguments = ["corpus", "audit", source, "--output", output, "--equalize", copy]
    assert main([*arguments, "--cache_dir", tmp_path / "cache"]) == 0, capsys.readouterr().err
    assert (output / "audit.html").is_file()
    assert len(load_corpus(copy, cache_dir=str(tmp_path / "cache")).splits["train"])


@pytest.mark.parametrize("write", [class_folders, parquet])
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_read_and_written_there(tmp_path, files, name, write, capsys):
    model = tmp_path / "model"
    save_tiny("vit", model)
    source, output = tmp_path / name, tmp_path / "out" / name
    source.mkdir()
    write(source, files)
    arguments = ["score", source, "--output", output, "--model", model, "--num_threads", "1"]
    for _ in range(2):  # the second run finds nothing to do
        assert main([*arguments, "--cache_dir", tmp_path / "cache"]) == 0, capsys.readouterr().err
    tables = [pq.read_table(str(path)) for path in sorted(output.glob("*.parquet"))]
    rows = [row for table in tables for row in table.to_pylist()]
    assert len(rows) == COUNT and not any(row["error"] for row in rows)
