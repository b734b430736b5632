"""Scoring a corpus: the detector's answers, in shards that depend on the source only."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.tiny import draw_picture, save_tiny
from PIL import Image

from realfake.cli.main import main
from realfake.detector import Detector
from realfake.engines import Choice
from realfake.scoring import run as scoring_run
from realfake.scoring import scorer as scoring
from realfake.scoring.shards import ScoreFolder
from realfake.scoring.source import FolderSegment, Row, iter_images, list_images

ROOT = Path(__file__).parents[1]
# Streams would measure the engines first.
PLAIN = ("--engine", "torch-fp32")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A tiny MobileNetV2 with thresholds, as a calibrated checkpoint has them."""
    folder = save_tiny("mobilenet_v2", tmp_path_factory.mktemp("scoring") / "tiny")
    config = json.loads((folder / "config.json").read_text())
    detector = Detector.from_pretrained(folder)
    log_odds = np.sort(detector.log_odds([draw_picture(60, seed) for seed in range(30)]))
    limits = {
        "alpha": 0.1,
        "real": float(log_odds[8]),
        "ai": float(log_odds[20]),
        "n": {"real": 99, "ai": 99},
    }
    config["realfake"] = {"thresholds": limits}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """90 images in folders of odd names, and 5 files that are none."""
    folder = tmp_path_factory.mktemp("images")
    for seed in range(90):
        place = folder / ("b/deep" if seed % 3 else "a photo")
        place.mkdir(parents=True, exist_ok=True)
        draw_picture((40 + seed % 7, 50), seed, bool(seed % 2)).save(
            place / f"{seed:03d}.{'png' if seed % 5 else 'jpg'}"
        )
    (folder / "b" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    (folder / "b" / "empty.png").write_bytes(b"")
    (folder / "b" / "page.webp").write_bytes(b"<!DOCTYPE html><html></html>")
    Image.new("RGB", (3, 3)).save(folder / "b" / "small.png")
    (folder / "b" / "leads nowhere.png").symlink_to(folder / "absent.png")
    (folder / "b" / "grün\n\udcff.png").symlink_to(folder / "a photo" / "003.png")
    (folder / ".hidden").mkdir()
    draw_picture(40).save(folder / ".hidden" / "x.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def run(*arguments, code: int = 0) -> None:
    assert main(["score", *arguments]) == code


def score(source, out, checkpoint, *arguments) -> pa.Table:
    run(source, "--output", out, "--model", checkpoint, "--quiet", *arguments)
    return union(out)


def union(out) -> pa.Table:
    """All rows of all shards; no key twice."""
    tables = [pq.read_table(path) for path in sorted(Path(out).glob("*.parquet"))]
    table = pa.concat_tables(tables).combine_chunks()
    keys = table["key"].to_pylist()
    assert len(set(keys)) == len(keys)
    return table.sort_by("key")


def shards(out) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(out).glob("*.parquet"))}


@pytest.fixture(scope="module")
def scored(images, checkpoint, tmp_path_factory) -> Path:
    """The scores of `images` from one process of one thread that nobody disturbed."""
    out = tmp_path_factory.mktemp("scored") / "out"
    score(images, out, checkpoint, "--chunk_size", "20", "--num_threads", "1")
    return out


# What is written


def test_rows_are_the_detectors_predictions(images, checkpoint, scored):
    table = union(scored)
    assert len(table) == 96
    detector = Detector.from_pretrained(checkpoint)
    good = [row for row in table.to_pylist() if row["error"] is None]
    assert len(good) == 91
    named = [row for row in good if "\n" not in row["path"]]
    assert len(named) == 90
    expected = detector.predict([images / row["path"] for row in named])
    for row, prediction in zip(named, expected, strict=True):
        assert row["real"] == pytest.approx(prediction.probabilities["real"], abs=1e-5)
        assert row["ai"] == pytest.approx(prediction.probabilities["ai"], abs=1e-5)
        assert row["log_odds"] == pytest.approx(prediction.log_odds, abs=1e-4)
        assert (row["verdict"], row["reason"]) == (prediction.verdict, prediction.reason)
        assert row["model"] == "tiny" and row["ood"] is None and not row["recomputed"]
    assert {row["verdict"] for row in good} == {"real", "ai", "inconclusive"}


def test_a_bad_file_is_a_row_with_its_error(scored):
    bad = {row["path"]: row for row in union(scored).to_pylist() if row["error"] is not None}
    assert sorted(bad) == [
        "b/broken.jpg",
        "b/empty.png",
        "b/leads nowhere.png",
        "b/page.webp",
        "b/small.png",
    ]
    assert "does not exist" in bad["b/leads nowhere.png"]["error"]
    assert "HTML" in bad["b/page.webp"]["error"]
    assert "at least 8" in bad["b/small.png"]["error"]
    for row in bad.values():
        assert row["real"] is row["ai"] is row["log_odds"] is row["verdict"] is None
        assert "\n" not in row["error"]


def test_out_of_distribution_images_get_the_detectors_verdicts(checkpoint):
    detector = Detector.from_pretrained(checkpoint)
    pictures = [draw_picture(60, seed) for seed in range(8)]

    class Statistics:
        alpha = 0.05

        def p_value(self, features):
            return np.linspace(0.01, 0.5, len(next(iter(features.values()))))

        def is_out_of_distribution(self, p_value):
            return np.asarray(p_value) <= self.alpha

    detector.ood = Statistics()
    rows = [
        Row(str(index), None, {"bytes": png(picture)}) for index, picture in enumerate(pictures)
    ]
    answers, _ = scoring.Scorer(detector)(rows)
    expected = detector.predict(pictures)
    assert [answer["verdict"] for answer in answers] == [
        prediction.verdict for prediction in expected
    ]
    assert [answer["reason"] for answer in answers] == [
        prediction.reason for prediction in expected
    ]
    assert [answer["ood"] for answer in answers] == [prediction.ood for prediction in expected]
    assert answers[0]["reason"] == "out_of_distribution"


def png(picture: Image.Image) -> bytes:
    from io import BytesIO

    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def test_doubtful_images_are_computed_again(checkpoint):
    detector = Detector.from_pretrained(checkpoint)
    rows = [Row(str(seed), None, {"bytes": png(draw_picture(60, seed))}) for seed in range(16)]
    precise, _ = scoring.Scorer(detector)(rows)
    # A band under 0.04 moves a probability by 0.01 at most, so only images near an edge count.
    scorer = scoring.Scorer(detector, Choice("torch-bf16", "torch-fp32", band=0.035))
    fp32 = scorer._reference
    shift = np.where(np.arange(16) % 2, 0.03, -0.03)
    scorer._engine = lambda pixels: (
        fp32(pixels)[0] + shift[:, None] * np.array([[-0.5, 0.5]]),
        None,
    )
    answers, strayed = scorer(rows)
    again = [answer["recomputed"] for answer in answers]
    assert any(again) and not all(again)
    for answer, expected, moved in zip(answers, precise, shift, strict=True):
        assert answer["verdict"] == expected["verdict"]
        error = 0 if answer["recomputed"] else moved
        assert answer["log_odds"] == pytest.approx(expected["log_odds"] + error, abs=1e-5)
    assert strayed == pytest.approx(0.03, abs=1e-5)


def test_scores_that_are_not_finite_are_errors(checkpoint):
    detector = Detector.from_pretrained(checkpoint)
    rows = [Row(str(seed), None, {"bytes": png(draw_picture(60, seed))}) for seed in range(3)]
    scorer = scoring.Scorer(detector)
    engine = scorer._engine
    scorer._engine = lambda pixels: (
        np.where(np.arange(3)[:, None] == 1, np.nan, engine(pixels)[0]),
        None,
    )
    answers, _ = scorer(rows)
    assert ["error" in answer for answer in answers] == [False, True, False]
    assert "verdict" not in answers[1] and answers[1]["error"].startswith(
        "the model gives no finite score"
    )


def test_native_images_of_different_sizes_are_batched_by_shape(tmp_path, checkpoint):
    folder = tmp_path / "native"
    shutil.copytree(checkpoint, folder)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    settings |= {"do_resize": False, "do_center_crop": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for seed in range(6):
        draw_picture([(40, 48), (56, 40)][seed % 2], seed).save(pictures / f"{seed}.png")
    table = score(pictures, tmp_path / "out", folder)
    detector = Detector.from_pretrained(folder)
    expected = [detector.predict(pictures / f"{seed}.png").log_odds for seed in range(6)]
    np.testing.assert_allclose(table["log_odds"].to_numpy(), expected, atol=1e-4)


# The same for every writer


@pytest.mark.parametrize(
    "arguments", [("--num_threads", "3"), ("--num_threads", "2", "--engine", "torch-fp32")]
)
def test_threads_change_nothing(images, checkpoint, scored, tmp_path, arguments):
    score(images, tmp_path / "out", checkpoint, "--chunk_size", "20", *arguments)
    assert shards(tmp_path / "out") == shards(scored)


def test_what_is_missing_is_finished_and_nothing_else_is_touched(
    images, checkpoint, scored, tmp_path
):
    out = tmp_path / "out"
    shutil.copytree(scored, out)
    for name in ("files-000001.parquet", "files-000004.parquet"):
        (out / name).unlink()
    (out / ".files-000001.parquet.77.tmp").write_bytes(b"half")
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    # The chunk size is remembered.
    score(images, out, checkpoint)
    assert shards(out) == shards(scored)
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before


def test_an_interruption_loses_no_finished_chunk(images, checkpoint, scored, tmp_path, monkeypatch):
    out, calls = tmp_path / "out", []
    original = scoring.Scorer.__call__

    def interrupted(self, rows):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return original(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(scoring.Scorer, "__call__", interrupted)
        limits = ("--chunk_size", "20", "--num_threads", "1")
        run(images, "--output", out, "--model", checkpoint, *limits, code=130)
    done = shards(out)
    assert 0 < len(done) < len(shards(scored))
    score(images, out, checkpoint)
    assert shards(out) == shards(scored) and done.items() <= shards(out).items()


def command(source, out, checkpoint) -> list[str]:
    named = [
        "-m",
        "realfake",
        "score",
        str(source),
        "--output",
        str(out),
        "--model",
        str(checkpoint),
    ]
    return [*named, "--chunk_size", "20", "--engine", "torch-fp32", "--num_threads", "1"]


def started(*words: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.slow
def test_killed_at_random(images, checkpoint, scored, tmp_path):
    """SIGKILL 20 times, between the first import and the last shard, then once to the end."""
    out, rng, moments = tmp_path / "out", random.Random(0), []
    for attempt in range(20):
        process = started(sys.executable, *command(images, out, checkpoint))
        # Half of them as soon as another shard is there, half by the clock, from imports on.
        before, deadline = len(list(out.glob("*.parquet"))), time.monotonic() + rng.uniform(0.2, 12)
        while time.monotonic() < deadline and process.poll() is None:
            if attempt % 2 and len(list(out.glob("*.parquet"))) > before:
                break
            time.sleep(0.01)
        ended = process.poll()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        done = shards(out)
        moments.append((attempt, len(done), "finished" if ended is not None else "killed"))
        assert done.items() <= shards(scored).items()
        if len(done) == len(shards(scored)) and attempt < 19:
            for name in rng.sample(
                sorted(done), 3
            ):  # more to do, so that later kills fall into work
                (out / name).unlink()
    print(*moments, sep="\n")
    score(images, out, checkpoint, "--engine", "torch-fp32")
    assert shards(out) == shards(scored)


# What must not be mixed


def test_other_images_models_and_settings_are_refused(images, checkpoint, scored, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(scored, out)
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    config = json.loads((other / "config.json").read_text())
    config["realfake"]["thresholds"]["ai"] += 1
    (other / "config.json").write_text(json.dumps(config))
    fewer = tmp_path / "fewer"
    shutil.copytree(images, fewer, symlinks=True)
    (fewer / "a photo" / "000.jpg").unlink()
    for source, model, extra, told in (
        (images, other, (), "checkpoint was"),
        (fewer, checkpoint, (), "source was"),
        (images, checkpoint, ("--exact",), "exact was False, now True"),
        (images, checkpoint, ("--chunk_size", "30"), "chunk_size was 20, now 30"),
        (images, checkpoint, ("--engine", "torch-bf16"), "--engine torch-fp32"),
    ):
        run(source, "--output", out, "--model", model, *extra, code=2)
        said = capsys.readouterr().err
        assert told in said and said.startswith("realfake: error: ") and said.count("\n") == 1
    assert shards(out) == shards(scored)


def test_a_copy_elsewhere_is_the_same_source(images, checkpoint, scored, tmp_path):
    out, copy = tmp_path / "out", tmp_path / "copy"
    shutil.copytree(scored, out)
    shutil.copytree(images, copy, symlinks=True)
    (out / "files-000002.parquet").unlink()
    score(copy, out, checkpoint)
    assert shards(out) == shards(scored)


@pytest.mark.parametrize(
    "arguments, told",
    [
        (("nowhere",), "no local file or folder nowhere"),
        (("{images}", "--num_threads", "0"), "--num_threads must be at least 1"),
        (("{images}", "--split", "test"), "without splits"),
        (("{images}", "--model", "{images}"), "cannot be opened as a checkpoint"),
        (("{images}", "--exact", "--engine", "torch-bf16"), "--exact"),
        (("https://example.invalid/photos.zip",), ".parquet or .tar"),
        (("{empty}",), "holds no images and no data files"),
    ],
)
def test_mistakes_end_in_one_line(
    images, checkpoint, tmp_path, capsys, monkeypatch, arguments, told
):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = [word.format(images=images, empty=tmp_path / "empty") for word in arguments]
    model = () if "--model" in words else ("--model", checkpoint)
    run(*words, "--output", tmp_path / "out", *model, code=2)
    said = capsys.readouterr().err
    assert told in said and "Traceback" not in said
    assert said.rstrip().splitlines()[-1].startswith("realfake: error: ")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_of_two_runs_that_start_together_the_first_owns_the_folder(tmp_path):
    one, other = ScoreFolder(tmp_path / "out"), ScoreFolder(tmp_path / "out")
    assert one.read_manifest() is other.read_manifest() is None
    first = one.write_manifest({"checkpoint": "a"}, {"engine": "torch-fp32"})
    assert (
        other.write_manifest({"checkpoint": "b"}, {"engine": "torch-bf16"})
        == first
        == other.read_manifest()
    )
    with pytest.raises(ValueError, match="checkpoint was 'a', now 'b'"):
        other.check(first, {"checkpoint": "b"})
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.json"]


def test_a_run_of_another_model_that_started_meanwhile_is_refused(
    images, checkpoint, scored, tmp_path, capsys, monkeypatch
):
    out, other = tmp_path / "out", tmp_path / "other"
    save_tiny("mobilenet_v2", other, seed=3)

    def slowly(*arguments, **options):
        # While this run tries out the engines, a part of the other one begins.
        shutil.copytree(scored, out, dirs_exist_ok=True)
        return Choice()

    monkeypatch.setattr(scoring_run, "choose_engine", slowly)
    run(images, "--output", out, "--model", other, "--chunk_size", "20", code=2)
    assert "checkpoint was" in capsys.readouterr().err
    assert shards(out) == shards(scored)


def test_one_run_at_a_time(images, checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    with ScoreFolder(out).lock():
        run(images, "--output", out, "--model", checkpoint, "--chunk_size", "20", code=2)
        assert "Another run is writing to" in capsys.readouterr().err and not shards(out)


def test_scores_without_a_manifest_are_left_alone(images, checkpoint, scored, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(scored, out)
    (out / "manifest.json").unlink()
    run(images, "--output", out, "--model", checkpoint, code=2)
    assert "without a manifest.json" in capsys.readouterr().err
    (out / "manifest.json").write_text("{}")
    run(images, "--output", out, "--model", checkpoint, code=2)
    assert "realfake-scores-3" in capsys.readouterr().err


# Sources


@pytest.fixture(scope="module")
def parquet(images, tmp_path_factory) -> Path:
    """The same images in two Parquet files of a split, one of them without an image in a row."""
    folder = tmp_path_factory.mktemp("parquet")
    rows = [
        {"bytes": (images / os.fsdecode(path)).read_bytes(), "path": f"{number}.png"}
        for number, (path, size) in enumerate(iter_images(images))
        if size > 100
    ]
    rows[7] = None
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for number, part in enumerate((rows[:50], rows[50:])):
        table = pa.table({"image": pa.array(part, kind), "label": pa.array([0] * len(part))})
        pq.write_table(table, folder / f"train-{number:05d}-of-00002.parquet")
    return folder


def test_a_stream_gives_the_scores_of_the_table(parquet, checkpoint, tmp_path, capsys):
    table = score(parquet, tmp_path / "table", checkpoint, "--chunk_size", "16")
    assert table["key"][0].as_py() == "train/000000000" and table["path"][0].as_py() == "0.png"
    assert table.to_pylist()[7]["error"] == "it has no image"
    streamed = score(
        parquet, tmp_path / "stream", checkpoint, "--streaming", *PLAIN, "--chunk_size", "16"
    )
    assert sorted(path.name for path in (tmp_path / "stream").glob("*.length")) == [
        "train-00000.length",
        "train-00001.length",
    ]
    assert streamed["log_odds"].to_pylist() == pytest.approx(
        table["log_odds"].to_pylist(), abs=1e-5, nan_ok=True
    )
    assert streamed["error"].to_pylist() == table["error"].to_pylist()
    assert f"{len(table)} images" in capsys.readouterr().out


def test_a_stream_continues_after_a_kill(parquet, checkpoint, tmp_path):
    out, limits = tmp_path / "out", (*PLAIN, "--chunk_size", "16")
    score(parquet, tmp_path / "whole", checkpoint, "--streaming", *limits)
    score(parquet, out, checkpoint, "--streaming", *limits)
    # As a kill between the last shard and the note of the length leaves it, and one in the middle.
    (out / "train-00000.length").unlink()
    (out / "train-00001.length").unlink()
    (out / "train-00001-000001.parquet").unlink()
    score(parquet, out, checkpoint, "--streaming")
    assert shards(out) == shards(tmp_path / "whole")
    lengths = {path.name: path.read_text() for path in out.glob("*.length")}
    assert lengths == {
        path.name: path.read_text() for path in (tmp_path / "whole").glob("*.length")
    }


def test_a_finished_stream_is_not_read_again(parquet, checkpoint, tmp_path, monkeypatch):
    score(parquet, tmp_path / "out", checkpoint, "--streaming", *PLAIN, "--chunk_size", "16")
    before = shards(tmp_path / "out")
    monkeypatch.setattr(scoring.Scorer, "__call__", lambda *_: pytest.fail("scored again"))
    score(parquet, tmp_path / "out", checkpoint, "--streaming")
    assert shards(tmp_path / "out") == before


def test_a_hub_dataset_streams_from_the_hub(parquet, checkpoint, tmp_path, hub):
    from huggingface_hub import HfApi

    HfApi().create_repo("user/pictures", repo_type="dataset")
    HfApi().upload_folder(repo_id="user/pictures", repo_type="dataset", folder_path=parquet)
    table = score(
        "user/pictures", tmp_path / "out", checkpoint, "--streaming", "--split", "train", *PLAIN
    )
    local = score(parquet, tmp_path / "local", checkpoint)
    assert table["log_odds"].to_pylist() == pytest.approx(
        local["log_odds"].to_pylist(), abs=1e-5, nan_ok=True
    )
    # The same scores from the files' URL.
    url = score("hf://datasets/user/pictures/*.parquet", tmp_path / "url", checkpoint, *PLAIN)
    assert url["log_odds"].to_pylist() == pytest.approx(
        local["log_odds"].to_pylist(), abs=1e-5, nan_ok=True
    )


def test_scores_in_an_object_store(images, checkpoint, scored):
    import fsspec

    run(
        images,
        "--output",
        "memory://bucket/run",
        "--model",
        checkpoint,
        "--chunk_size",
        "20",
        "--quiet",
    )
    files = fsspec.filesystem("memory")
    found = {
        path.rsplit("/", 1)[-1]: files.cat_file(path)
        for path in files.ls("/bucket/run", detail=False)
    }
    manifest = json.loads(found.pop("manifest.json"))
    assert manifest["identity"]["chunk_size"] == 20
    assert found == shards(scored)
    files.rm("/bucket/run/files-000001.parquet")
    run(images, "--output", "memory://bucket/run", "--model", checkpoint, "--quiet")
    assert (
        files.cat_file("/bucket/run/files-000001.parquet") == shards(scored)["files-000001.parquet"]
    )
    with pytest.raises(OSError, match="cannot be opened"):
        ScoreFolder("nosuchprotocol://x")


def test_a_listing_gives_any_rows_without_reading_the_others(tmp_path):
    folder = tmp_path / "many"
    names = [f"{number % 7}/{'x' * (number % 90)}{number:04d}.png" for number in range(500)]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * len(name))
    fingerprint = list_images(folder, tmp_path / "scratch")
    part = FolderSegment("files", folder, tmp_path / "scratch" / f"listing-{fingerprint}")
    assert part.rows == 500
    everything = [row.key for row in part.read(0, 10_000)]
    assert everything == [os.fsdecode(path) for path, _ in iter_images(folder)] and sorted(
        everything
    ) == sorted(names)
    for start, stop in ((0, 1), (63, 65), (64, 128), (100, 333), (499, 500), (498, 900)):
        assert [row.key for row in part.read(start, stop)] == everything[start:stop]
    assert list(part.read(500, 600)) == []
    (folder / names[3]).write_bytes(b"changed")
    assert list_images(folder, tmp_path / "scratch") != fingerprint


@pytest.mark.parametrize("rows, size", [(1, 64), (5_000, 80), (20_000, 320), (10**9, 4096)])
def test_chunk_size_depends_on_the_source_only(rows, size):
    from types import SimpleNamespace

    from realfake.scoring.source import ScoringSource

    assert ScoringSource([SimpleNamespace(rows=rows)], "", False, []).default_chunk() == size


def test_progress_estimates_the_remaining_time():
    progress = scoring_run.Progress(1_000)
    progress.images, progress.errors, progress.started = 250, 2, time.monotonic() - 100
    line = progress.line()
    assert "250 of 1,000 (25%)" in line and "2.5 per second" in line and "2 unreadable" in line
    assert "5 min 0 s left" in line or "4 min 59 s left" in line or "5 min 1 s left" in line
    assert scoring_run.Progress(None).line() == "0 images, 0.0 per second"
    assert scoring_run.duration(3 * 3600 + 125) == "3 h 2 min"


@pytest.mark.slow
def test_a_cluster_gives_the_scores_of_one_machine_although_a_node_is_killed(
    images, checkpoint, scored, tmp_path
):
    pytest.importorskip("ray")
    from threading import Thread

    from ray.cluster_utils import Cluster

    out = tmp_path / "out"
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    lost = nodes.add_node(num_cpus=1)
    words = [str(images), "--output", str(out), "--model", str(checkpoint), "--chunk_size", "20"]
    result: list[int] = []
    try:
        worker = Thread(
            target=lambda: result.append(main(["score", *words, "--ray", nodes.address]))
        )
        worker.start()
        deadline = time.monotonic() + 300
        while worker.is_alive() and time.monotonic() < deadline:
            if len(list(out.glob("*.parquet"))) > 1:
                break
            time.sleep(0.05)
        nodes.remove_node(lost, allow_graceful=False)
        worker.join(timeout=300)
    finally:
        nodes.shutdown()
    assert result == [0] and shards(out) == shards(scored)


@pytest.mark.slow
def test_a_cluster_scores_what_is_missing(images, checkpoint, scored, tmp_path, capsys):
    pytest.importorskip("ray")
    out = tmp_path / "out"
    shutil.copytree(scored, out)
    (out / "files-000001.parquet").unlink()
    run(images, "--output", out, "--model", checkpoint, "--ray", "--ray_actors", "1")
    assert "Scoring 1 tasks with 1 actors" in capsys.readouterr().err
    assert shards(out) == shards(scored)


def test_a_cluster_needs_ray(images, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    run(images, "--output", tmp_path, "--model", checkpoint, "--ray", code=2)
    assert "realfake[ray]" in capsys.readouterr().err
