"""Faults: a Hub that fails, a full disk, a killed process, two processes at once.

Nothing that was complete may be lost, nothing half may be loaded, and the next run continues.
"""

import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from helpers.loopback_hub import TOKEN
from helpers.tiny import draw_corpus, draw_picture, save_tiny

from realfake import Detector, io, plotting
from realfake.audit.audit import audit
from realfake.audit.report import write_report
from realfake.card.facts import CardFacts
from realfake.card.render import write_card
from realfake.cli.main import main
from realfake.corpus.load import load_corpus
from realfake.evaluation import measure, results
from realfake.models import hub as models_hub
from realfake.models import ood
from realfake.plotting import batch_sheet
from realfake.space import loading
from realfake.statistics.calibration import Calibration
from realfake.statistics.verdicts import Thresholds
from realfake.training import publishing, release
from realfake.training.arguments import RunArguments

ROOT = Path(__file__).parent.parent


@pytest.fixture
def bundled(tiny_vit, tmp_path, monkeypatch):
    folder = shutil.copytree(tiny_vit, tmp_path / "bundled")
    monkeypatch.setattr("realfake.detector.DEFAULT_CHECKPOINT", folder)
    monkeypatch.setattr(loading, "DEFAULT_CHECKPOINT", folder)
    return folder


@pytest.fixture(scope="module")
def knowing(tmp_path_factory):
    """A checkpoint with all that changes a verdict: weights, thresholds, the OOD reference."""
    folder = save_tiny("vit", tmp_path_factory.mktemp("knowing") / "vit", seed=7)
    pictures, truth = (
        [draw_picture(40, seed, bool(seed % 2)) for seed in range(40)],
        np.arange(40) % 2 == 1,
    )
    features, _ = Detector.from_pretrained(folder).features(pictures)
    fitted = ood.fit(features, truth, alpha=0.1)
    fitted.save(folder)
    limits = {"alpha": 0.1, "real": -0.2, "ai": 0.2, "n": {"real": 20, "ai": 20}}
    release.store_facts(folder, {"thresholds": limits, "ood": fitted.to_dict()})
    return folder


@pytest.fixture
def served(hub, knowing, tmp_path):
    """A checkpoint on the Hub that is not the bundled one."""
    hub.put("user/served", shutil.copytree(knowing, tmp_path / "served"))
    return "user/served"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """The client waits longer and longer between its attempts; here it need not."""
    from huggingface_hub import file_download
    from huggingface_hub.utils import _http

    clock = __import__("time")
    for module in (_http, file_download):
        monkeypatch.setattr(
            module, "time", types.SimpleNamespace(**{**vars(clock), "sleep": lambda seconds: None})
        )
    monkeypatch.setattr(models_hub, "TIMEOUT", 0.3)


def start(model: str) -> loading.Loaded:
    return loading.load({"REALFAKE_MODEL": model, "REALFAKE_FALLBACK": "bundled"})


# A Hub that fails


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        (".", "stall"),
        (".", "drop"),
        (".", 429),
        (".", 500),
        (".", 503),
        ("model.safetensors", 500),
        ("model.safetensors", "truncate"),
        ("model.safetensors", "cut"),
        ("model.safetensors", "alter"),
        ("config.json", "truncate"),
        ("config.json", "alter"),
        ("preprocessor_config.json", "alter"),
        ("novelty.safetensors", 500),
        ("novelty.safetensors", "truncate"),
        ("novelty.safetensors", "alter"),
        (".", "drip"),
        ("model.safetensors", "drip"),
        ("novelty.safetensors", "drip"),
    ],
)
def test_a_failing_hub_at_the_first_start_leaves_the_bundled_one(
    hub, served, bundled, caplog, monkeypatch, path, fault
):
    hub.fail_next(path, fault, times=1000)
    with monkeypatch.context() as patch:
        if fault == "drip":
            patch.setattr(loading, "START_SECONDS", 0.4)
        loaded = start(served)
    assert (loaded.detector.name, loaded.missing) == ("bundled", served)
    assert f"{served} could not be opened" in caplog.text
    # Once the Hub is well again, so is the next start: nothing half is left to be loaded.
    hub.faults.clear()
    again = start(served)
    assert (again.detector.name, again.missing) == (served, None)
    image = draw_picture(40, seed=1)
    expected = Detector.from_pretrained(bundled.parent / "served").predict(image)
    found = again.detector.predict(image)
    assert (
        found.log_odds == pytest.approx(expected.log_odds, abs=1e-6) and found.ood == expected.ood
    )


def test_a_download_without_its_statistics_is_not_opened_when_the_hub_is_gone(
    hub, served, bundled, knowing
):
    hub.fail_next("novelty.safetensors", 500, times=1000)
    assert start(served).detector.name == "bundled"
    hub.fail_next(".", "drop", times=1000)
    assert start(served).detector.name == "bundled"
    (bundled.parent / "served" / ood.FILE_NAME).unlink()
    with pytest.raises(OSError, match="it lacks novelty.safetensors") as caught:
        Detector.from_pretrained(bundled.parent / "served")
    assert "\n" not in str(caught.value)


def test_a_hub_checkpoint_that_speaks_of_statistics_it_lacks_is_refused(hub, bundled, knowing):
    files = {
        path.name: path.read_bytes() for path in knowing.iterdir() if path.name != ood.FILE_NAME
    }
    hub.put("user/half", files)
    with pytest.raises(OSError, match="it lacks novelty.safetensors"):
        Detector.from_pretrained("user/half")
    assert start("user/half").missing == "user/half"


@pytest.mark.parametrize("fault", ["stall", "drop", 429, 500])
def test_a_failing_hub_at_a_later_start_leaves_the_download(hub, served, bundled, caplog, fault):
    first = start(served).detector
    hub.fail_next(".", fault, times=1000)
    with caplog.at_level(logging.WARNING, "realfake"):
        loaded = start(served)
    assert (loaded.detector.name, loaded.missing) == (served, None)
    assert loaded.detector.revision == first.revision
    assert f"{served} is opened from the cache, at {first.revision}" in caplog.text


def test_a_hub_that_drips_a_newer_version_leaves_the_older_one(
    hub, served, bundled, caplog, monkeypatch
):
    older = start(served).detector
    hub.put(
        served,
        {
            "model.safetensors": (bundled / "model.safetensors").read_bytes(),
            "evaluation.json": "{}",
        },
    )
    hub.fail_next(r"model\.safetensors|evaluation\.json", "drip", times=1000)
    monkeypatch.setattr(loading, "START_SECONDS", 0.4)
    with caplog.at_level(logging.WARNING, "realfake"):
        loaded = start(served)
    assert (loaded.detector.name, loaded.detector.revision, loaded.missing) == (
        served,
        older.revision,
        None,
    )
    assert (
        f"(it takes longer than 0.4 s): {served} is opened from the cache, at {older.revision}"
        in caplog.text
    )


def test_figures_that_drip_are_done_without(hub, served, bundled, monkeypatch):
    hub.put(served, {"evaluation.json": json.dumps({"test": {"text": "x" * 1000}})})
    hub.fail_next("evaluation.json", "drip", times=1000)
    monkeypatch.setattr(models_hub, "RECORD_SECONDS", 0.3)
    loaded = start(served)
    assert (loaded.detector.name, loaded.evaluation) == (served, None)


def test_a_hub_that_vanishes_while_a_newer_version_arrives_leaves_the_older_one(
    hub, served, bundled
):
    older = start(served).detector
    hub.put(served, {"model.safetensors": b"\1" * 100_000, "config.json": "{}"})
    hub.fail_next("model.safetensors", "cut", times=1000)
    assert start(served).detector.name == "bundled"
    hub.fail_next(".", "drop", times=1000)
    assert start(served).detector.revision == older.revision


def test_altered_weights_are_fetched_again_once(hub, served, bundled, caplog):
    hub.fail_next("model.safetensors", "alter", times=1)
    loaded = start(served)
    assert loaded.missing is None and "Hash mismatch" in caplog.text
    with pytest.raises(OSError, match="does not match the Hub") as caught:
        hub.put(served, {"model.safetensors": (bundled / "model.safetensors").read_bytes()})
        hub.fail_next("model.safetensors", "alter", times=100)
        Detector.from_pretrained(served)
    assert "\n" not in str(caught.value)


def test_altered_weights_in_the_cache_are_noticed(hub, served, bundled):
    start(served)
    (blob,) = [path for path in (hub.home / "hub").rglob("blobs/*") if path.stat().st_size > 50_000]
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    downloads = len(hub.requests_to("model.safetensors", "GET"))
    assert start(served).missing is None
    assert len(hub.requests_to("model.safetensors", "GET")) == downloads + 1


def test_only_safetensors_are_loaded(hub, bundled, tmp_path):
    """A pickle runs whatever its author likes when it is opened."""

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "opened",))

    import pickle

    files = {
        path.name: path.read_bytes()
        for path in bundled.iterdir()
        if path.name != "model.safetensors"
    }
    hub.put("user/pickled", {**files, "pytorch_model.bin": pickle.dumps(Bomb())})
    with pytest.raises((OSError, ValueError)) as caught:
        Detector.from_pretrained("user/pickled")
    assert "\n" not in str(caught.value) and "user/pickled" in str(caught.value)
    folder = tmp_path / "pickled"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises((OSError, ValueError), match="model.safetensors"):
        Detector.from_pretrained(folder)
    assert not (tmp_path / "opened").exists()
    assert not hub.requests_to("pytorch_model.bin", "GET")


def test_a_checkpoints_own_code_is_not_run(hub, bundled, tmp_path):
    config = json.loads((bundled / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "own.Own", "AutoModelForImageClassification": "own.Own"}}
    files = {path.name: path.read_bytes() for path in bundled.iterdir()} | {
        "config.json": json.dumps(config)
    }
    code = f"from pathlib import Path\nPath({str(tmp_path / 'run')!r}).touch()\n"
    hub.put("user/code", {**files, "own.py": code})
    assert (
        Detector.from_pretrained("user/code").name == "user/code"
    )  # its architecture is transformers' own
    config["model_type"] = "own"
    hub.put("user/code", {"config.json": json.dumps(config)})
    with pytest.raises((OSError, ValueError)) as caught:
        Detector.from_pretrained("user/code")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists() and not hub.requests_to(r"own\.py", "GET")


@pytest.mark.parametrize("fault", [401, 403, 404, 500, "drop"])
def test_the_token_is_in_no_message(hub, served, bundled, caplog, capfd, fault):
    hub.fail_next(".", fault, times=1000)
    with caplog.at_level(logging.DEBUG):
        loaded = start(served)
        with pytest.raises((OSError, ValueError)) as caught:
            Detector.from_pretrained("user/served", token="hf_secretsecret")
    printed = "".join(capfd.readouterr())
    for text in (caplog.text, printed, repr(loaded), str(caught.value)):
        assert TOKEN not in text and "hf_secretsecret" not in text


# A disk that is full


class _Full:
    """The disk fills up after a number of bytes."""

    def __init__(self, monkeypatch, room: int):
        self.room = room
        opened = open

        def limited(path, mode="r", *arguments, **options):
            file = opened(path, mode, *arguments, **options)
            if "w" in mode or "a" in mode:
                put = file.write

                def take(data):
                    self.room -= len(data)
                    if self.room < 0:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
                    return put(data)

                return _Proxy(file, take)
            return file

        monkeypatch.setattr("builtins.open", limited)


class _Proxy:
    def __init__(self, file, write):
        self._file, self.write = file, write

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()


def test_a_full_disk_leaves_the_old_record_whole(tmp_path, monkeypatch):
    path = tmp_path / "evaluation.json"
    io.write_atomically(path, '{"test": {}}')
    with monkeypatch.context() as patch:
        _Full(patch, room=100)
        with pytest.raises(OSError, match="No space left"):
            io.write_atomically(path, "x" * 1000)
    assert io.read_records(path) == {"test": {}}
    assert [entry.name for entry in tmp_path.iterdir()] == ["evaluation.json"]


def _write_calibrated_card(folder: Path, corpus: Path) -> None:
    limits = {"alpha": 0.1, "real": -0.2, "ai": 0.2, "n": {"real": 20, "ai": 20}}
    figures = measure.measure(
        np.linspace(-3, 3, 60),
        np.arange(60) % 2 == 1,
        thresholds=Thresholds.from_dict(limits),
        n_resamples=0,
    )
    facts = dict.fromkeys(("model_id", "revision", "ood", "measurements"))
    facts |= {
        "name": "x",
        "source": "x",
        "model": "x",
        "classes": ["real", "ai"],
        "original_classes": ["0", "1"],
    }
    facts |= {
        "corpus": "drawn",
        "command": "x",
        "degraded": False,
        "versions": {},
        "plots": [],
        "thresholds": limits,
    }
    fitted = Calibration("temperature", 2.0, 0.0, 1.0, 0.9, 60)
    evaluated = {"selection": {"figures": figures, "before_calibration": figures}}
    folder.mkdir(exist_ok=True)
    publishing.write_calibrated_card(folder, facts, fitted, evaluated, "selection", None)


def _write_audit(folder: Path, corpus: Path) -> None:
    limits = {f"max_{split}_samples": 8 for split in ("train", "validation", "test")}
    write_report(audit(load_corpus(corpus, **limits)), folder)


# Each writes files that are whole before and must be so after it failed.
WRITERS = {
    "scores": lambda folder, corpus: results.write_scores(
        folder, "test", np.linspace(-3, 3, 60), np.arange(60) % 2 == 1
    ),
    "card": lambda folder, corpus: write_card(folder, CardFacts(name="x")),
    "calibrated card": _write_calibrated_card,
    "audit": _write_audit,
    "plot": lambda folder, corpus: plotting.save(plotting.new_figure(1, 1), folder / "plot.png"),
    "sheet": lambda folder, corpus: batch_sheet(
        folder / "sheet.png", [draw_picture(40)], ["real"], tile=40
    ),
    "endpoint": lambda folder, corpus: publishing.write_endpoint(folder),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_every_file_that_was_whole(name, corpus, tmp_path, monkeypatch):
    def files() -> dict[str, bytes]:
        found = (path for path in (tmp_path / "out").rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in found}

    WRITERS[name](tmp_path / "out", corpus)
    before = files()
    with monkeypatch.context() as patch:
        _Full(patch, room=100)
        with pytest.raises(OSError, match="No space left"):
            WRITERS[name](tmp_path / "out", corpus)
    assert before and files() == before


def test_a_full_disk_while_figures_are_written_loses_none(tiny_vit, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    log_odds, truth = np.linspace(-3, 3, 60), np.arange(60) % 2 == 1
    figures = measure.measure(log_odds, truth)
    facts = {
        "checkpoint_hash": "0" * 64,
        "command": "x",
        "corpus": "drawn",
        "date": "2026-01-01T00:00:00+00:00",
        "corpus_fingerprint": "0" * 16,
        "versions": {},
    }
    results.write_evaluation(folder, "calibration", figures, **facts)
    before = (folder / "evaluation.json").read_bytes()
    with monkeypatch.context() as patch:
        _Full(patch, room=200)
        with pytest.raises(OSError, match="No space left"):
            results.write_evaluation(folder, "test", figures, **facts)
    assert (folder / "evaluation.json").read_bytes() == before


# A process that is killed


_KILLED = """
import json, os, signal, sys
from realfake.cli.main import main
from realfake.training import publishing, release

def killed(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

for module, name, argv in json.loads(sys.argv[1]):
    if not os.fork():
        setattr({"publishing": publishing, "release": release}[module], name, killed)
        os._exit(main(argv))
    print("status", os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


def run_killed(runs: list[tuple[str, str, list[str]]]) -> None:
    """Run each command in a process that kills itself where a function of a module is called.

    The processes are copies of one, which share the time of its imports.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", _KILLED, json.dumps(runs)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    ends = [line for line in done.stdout.splitlines() if line.startswith("status ")]
    assert ends == [f"status {-signal.SIGKILL}"] * len(runs), done.stderr[-1500:]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for seed, (split, n) in enumerate({"train": 24, "validation": 48, "test": 24}.items()):
        draw_corpus(folder / split, n=n, seed=seed)
    return folder


def test_a_calibration_that_was_killed_is_done_again(corpus, tiny_vit, tmp_path):
    runs = []
    for module, name in (("release", "store_facts"), ("publishing", "write_calibrated_card")):
        folder = tmp_path / name
        argv = ["calibrate", str(tiny_vit), "--dataset", str(corpus), "--output", str(folder)]
        argv += ["--corpus_name", "drawn", "--measurement_log", str(tmp_path / f"{name}.jsonl")]
        runs.append((module, name, argv))
    run_killed(runs)
    for _, name, argv in runs:
        folder = tmp_path / name
        for path in folder.glob("*.json"):
            json.loads(path.read_text())  # whole, as far as it came
        assert main(argv) == 0
        assert Detector.from_pretrained(folder).thresholds is not None
        assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


def test_a_push_that_was_killed_leaves_the_hub_as_it_was_and_goes_through_again(
    hub, tiny_vit, tmp_path
):
    folder = shutil.copytree(tiny_vit, tmp_path / "run")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Detector\n")
    hub.put("user/run", {"README.md": "---\nlicense: mit\n---\nold"})
    before = hub.files("user/run")
    hub.fail_next("/user/run/commit/", "stall", times=1)
    code = (
        "from realfake.training import publishing\n"
        "from realfake.training.arguments import RunArguments\n"
        f"publishing.push(RunArguments(output_dir={str(folder)!r}, hub_model_id='user/run'))"
    )
    environment = {**os.environ, **hub.environment, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE
    )
    while process.poll() is None and not hub.requests_to("/commit/"):
        time.sleep(0.02)
    process.kill()  # in the midst of the commit
    _, words = process.communicate()
    assert hub.requests_to("/commit/"), words
    assert hub.files("user/run") == before
    from realfake.training import publishing

    assert publishing.push(RunArguments(output_dir=str(folder), hub_model_id="user/run")) == 0
    assert hub.files("user/run")["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert len([each for each in hub.history("user/run") if "Calibrated" in each.title]) == 1


def test_what_a_killed_writer_leaves_is_not_published():
    from fnmatch import fnmatch

    from realfake.training.publishing import NOT_PUBLISHED

    assert any(fnmatch(".evaluation.json.4711.tmp", pattern) for pattern in NOT_PUBLISHED)


# Two at once


@pytest.mark.parametrize(
    ("words", "locked"),
    [
        ("corpus audit {corpus} --output {out}", "{out}"),
        ("corpus audit {corpus} --output {out} --equalize {equal}", "{equal}"),
        ("corpus prepare {corpus} --output {out}", "{out}"),
        ("calibrate {model} --dataset {corpus} --only_ood", "{model}"),
        (
            "evaluate explanations {model} --dataset {corpus} --output {out} --layers 2 --store",
            "{model}",
        ),
        ("score {corpus} --model {model} --output {out}", "{out}"),
    ],
)
def test_two_commands_do_not_write_to_one_folder(
    words, locked, corpus, tiny_vit, tmp_path, monkeypatch, capsys
):
    from filelock import FileLock

    places = {
        "out": tmp_path / "out",
        "equal": tmp_path / "equal",
        "model": tmp_path / "model",
        "corpus": corpus,
    }
    shutil.copytree(tiny_vit, places["model"])
    folder = Path(locked.format(**places))
    folder.mkdir(exist_ok=True)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    arguments = [word.format(**places) for word in words.split()]
    with FileLock(folder / ".lock"):
        assert main(arguments) == 2
    assert f"Another run is writing to {folder}; wait for it" in capsys.readouterr().err
    assert {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"
    } == before


@pytest.mark.parametrize("command", ["calibrate", "evaluate robustness"])
def test_two_processes_do_not_share_a_folder(command, corpus, tiny_vit, tmp_path, capsys):
    from filelock import FileLock

    (tmp_path / "out").mkdir()
    argv = [*command.split(), tiny_vit, "--dataset", corpus, "--output", tmp_path / "out"]
    argv += ["--corpus_name", "drawn", "--measurement_log", str(tmp_path / "log.jsonl")]
    with FileLock(tmp_path / "out" / ".lock"):
        assert main(argv) == 2
    assert "Another run is writing to" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {".lock"}
