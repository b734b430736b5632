"""What goes wrong around the program: a Hub that fails, a disk that is full, a process that is killed, two at once.

Nothing that was complete may be lost, nothing half may be loaded, and the next run continues.
"""

import errno
import importlib.util
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from loopback_hub import TOKEN
from tiny import draw_corpus, draw_picture, save_tiny

from realfake import Detector, records
from realfake.evaluation import evaluation, results
from realfake.models import hub_files
from realfake.space import loading
from realfake.training.arguments import RunArguments

ROOT = Path(__file__).parent.parent


@pytest.fixture
def bundled(tiny_vit, tmp_path, monkeypatch):
    folder = shutil.copytree(tiny_vit, tmp_path / "bundled")
    monkeypatch.setattr("realfake.detector.DEFAULT_CHECKPOINT", folder)
    monkeypatch.setattr(loading, "DEFAULT_CHECKPOINT", folder)
    return folder


@pytest.fixture
def served(hub, tmp_path):
    """A checkpoint on the Hub that is not the bundled one."""
    folder = save_tiny("vit", tmp_path / "served", seed=7)
    hub.put("user/served", folder)
    return "user/served"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """The client waits longer and longer between its attempts; here it need not."""
    from huggingface_hub.utils import _http

    clock = __import__("time")
    monkeypatch.setattr(_http, "time", types.SimpleNamespace(**{**vars(clock), "sleep": lambda seconds: None}))
    monkeypatch.setattr(hub_files, "TIMEOUT", 0.3)


def start(model: str) -> loading.Loaded:
    return loading.load({"REALFAKE_MODEL": model})


# A Hub that fails


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        (".", "stall"), (".", "drop"), (".", 429), (".", 500), (".", 503), ("model.safetensors", 500),
        ("model.safetensors", "truncate"), ("model.safetensors", "cut"), ("model.safetensors", "alter"),
        ("config.json", "truncate"), ("config.json", "alter"), ("preprocessor_config.json", "alter"),
    ],
)  # fmt: skip
def test_a_failing_hub_at_the_first_start_leaves_the_bundled_one(hub, served, bundled, caplog, path, fault):
    hub.fail_next(path, fault, times=1000)
    loaded = start(served)
    assert (loaded.detector.name, loaded.missing) == ("bundled", served)
    assert f"{served} could not be loaded; the bundled detector is used instead" in caplog.text
    # Once the Hub is well again, so is the next start: nothing half is left to be loaded.
    hub._faults.clear()
    again = start(served)
    assert (again.detector.name, again.missing) == (served, None)
    image = draw_picture(40, seed=1)
    expected = Detector.from_pretrained(bundled.parent / "served").predict(image)
    assert again.detector.predict(image).margin == pytest.approx(expected.margin, abs=1e-6)


@pytest.mark.parametrize("fault", ["stall", "drop", 429, 500])
def test_a_failing_hub_at_a_later_start_leaves_the_download(hub, served, bundled, caplog, fault):
    first = start(served).detector
    hub.fail_next(".", fault, times=1000)
    with caplog.at_level(logging.WARNING, "realfake"):
        loaded = start(served)
    assert (loaded.detector.name, loaded.missing) == (served, None)
    assert loaded.detector.revision == first.revision
    assert f"{served} is opened from the cache, at {first.revision}" in caplog.text


def test_a_hub_that_vanishes_while_a_newer_version_arrives_leaves_the_older_one(hub, served, bundled):
    older = start(served).detector
    hub.put(served, {"model.safetensors": b"\1" * 100_000, "config.json": "{}"})
    hub.fail_next("model.safetensors", "cut", times=1000)
    assert start(served).detector.name == "bundled"
    hub.fail_next(".", "drop", times=1000)
    assert start(served).detector.revision == older.revision


def test_altered_weights_are_fetched_again_once(hub, served, bundled, caplog):
    hub.fail_next("model.safetensors", "alter", times=1)
    loaded = start(served)
    assert loaded.missing is None and "Not what the Hub announced" in caplog.text
    with pytest.raises(OSError, match="something on the way alters it") as caught:
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

    files = {path.name: path.read_bytes() for path in bundled.iterdir() if path.name != "model.safetensors"}
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
    files = {path.name: path.read_bytes() for path in bundled.iterdir()} | {"config.json": json.dumps(config)}
    code = f"from pathlib import Path\nPath({str(tmp_path / 'run')!r}).touch()\n"
    hub.put("user/code", {**files, "own.py": code})
    assert Detector.from_pretrained("user/code").name == "user/code"  # its architecture is transformers' own
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
    """The disk fills up after so many bytes."""

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
    records.write_atomically(path, '{"test": {}}')
    with monkeypatch.context() as patch:
        _Full(patch, room=100)
        with pytest.raises(OSError, match="No space left"):
            records.write_atomically(path, "x" * 1000)
    assert records.read_records(path) == {"test": {}}
    assert [entry.name for entry in tmp_path.iterdir()] == ["evaluation.json"]


def test_a_full_disk_while_figures_are_written_loses_none(tiny_vit, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    margins, truth = np.linspace(-3, 3, 60), np.arange(60) % 2 == 1
    figures = evaluation.measure(margins, truth)
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
import os, signal, sys
sys.argv = {argv!r}
from realfake.training import {module} as module
whole = module.{name}
def killed(*arguments, **options):
    if {after}:
        whole(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
module.{name} = killed
import runpy
runpy.run_path({script!r}, run_name="__main__")
"""


def run_killed(script: str, argv: list[str], module: str, name: str, after: bool) -> None:
    """Run a script in a process that kills itself where `module.name` is called."""
    code = _KILLED.format(
        argv=[script, *argv], module=module, name=name, script=str(ROOT / script), after=after
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-1500:]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for seed, (split, n) in enumerate({"train": 24, "validation": 48, "test": 24}.items()):
        draw_corpus(folder / split, n=n, seed=seed)
    return folder


@pytest.mark.parametrize(
    ("module", "name", "after"),
    [
        ("release", "store_facts", False),
        ("recalibrate", "write_card", False),
    ],
)
def test_a_calibration_that_was_killed_is_done_again(corpus, tiny_vit, tmp_path, module, name, after):
    argv = [
        str(tiny_vit), "--dataset", str(corpus), "--output_dir", str(tmp_path / "out"), "--corpus_name", "drawn",
        "--measurement_log", str(tmp_path / "log.jsonl"),
    ]  # fmt: skip
    run_killed("scripts/calibrate.py", argv, module, name, after)
    for path in (tmp_path / "out").glob("*.json"):
        json.loads(path.read_text())  # whole, as far as it came
    calibrate = _script("scripts/calibrate.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["calibrate.py", *argv])
        assert calibrate.main() == 0
    assert Detector.from_pretrained(tmp_path / "out").thresholds is not None
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.endswith(".tmp")]


def test_a_push_that_was_killed_leaves_the_hub_as_it_was_and_goes_through_again(hub, tiny_vit, tmp_path):
    folder = shutil.copytree(tiny_vit, tmp_path / "run")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Detector\n")
    hub.put("user/run", {"README.md": "---\nlicense: mit\n---\nold"})
    before = hub.files("user/run")
    hub.fail_next("/user/run/commit/", "stall", times=1)
    code = (
        "from realfake.training import publishing\nfrom realfake.training.arguments import RunArguments\n"
        f"publishing.push(RunArguments(output_dir={str(folder)!r}, hub_model_id='user/run'))"
    )
    environment = {**os.environ, **hub.environment, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE)
    while process.poll() is None and not hub.requests_to("/commit/"):
        pass
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


@pytest.mark.parametrize("script", ["calibrate.py", "evaluate_checkpoint.py"])
def test_two_processes_do_not_share_a_folder(script, corpus, tiny_vit, tmp_path, capsys):
    from filelock import FileLock

    (tmp_path / "out").mkdir()
    module = _script(f"scripts/{script}")
    argv = [script, str(tiny_vit), "--dataset", str(corpus), "--output_dir", str(tmp_path / "out")]
    argv += ["--corpus_name", "drawn", "--measurement_log", str(tmp_path / "log.jsonl")]
    with FileLock(tmp_path / "out" / ".lock"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        assert module.main() == 2
    assert "Another run is writing to" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {".lock"}


def _script(path: str):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
