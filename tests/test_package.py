"""The wheel: it is complete, and it works in an environment without the repository."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from helpers.tiny import draw_corpus, draw_picture, save_tiny

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the tracked files."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "realfake", source / "realfake", ignore=ignored)
    command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "."]
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, *command, "--wheel-dir", folder], cwd=source, check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def program(wheel, tmp_path_factory) -> Path:
    """The `realfake` command in an environment with the wheel and the packages of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Only site-packages of this environment: its editable installation of the repository is a .pth
    # file, which is not followed.
    here = next(path for path in sys.path if path.endswith("site-packages"))
    (packages / "others.pth").write_text(f"{here}\n")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    install = ["install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", str(wheel)]
    subprocess.run([*pip, *install], check=True, capture_output=True)
    return folder / "bin" / "realfake"


def run(program, *arguments, cwd) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(program), *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_wheel_holds_every_file_of_the_package(wheel):
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "realfake"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout.split()
    if not tracked:
        pytest.skip("not a checkout of git")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    needed = {path for path in tracked if (ROOT / path).is_file() and not path.endswith(".parquet")}
    assert needed <= held, needed - held
    assert "realfake/py.typed" in held
    assert "realfake/checkpoints/photos/model-00001-of-00004.safetensors" in held
    assert not [path for path in held if path.endswith((".parquet", ".pyc"))]


def test_predict_explain_and_train_work_without_the_repository(program, tmp_path):
    draw_picture(96, seed=1).save(tmp_path / "photo.jpg")
    code = "import realfake; print(realfake.__file__)"
    python = program.with_name("python")
    where = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert str(program.parents[1]) in where.stdout, where.stderr

    assert "predict" in run(program, "--help", cwd=tmp_path)

    draw_corpus(tmp_path / "corpus", n=48, size=40)
    save_tiny("vit", tmp_path / "base")
    words = ["--model_name_or_path", "base", "--dataset", "corpus", "--output_dir", "run"]
    words += ["--num_train_epochs", "1", "--use_cpu", "True", "--bf16", "False"]
    words += ["--measure_degradations", "0", "--per_device_train_batch_size", "16"]
    predict = ["predict", "photo.jpg", "--json"]
    commands = [predict, ["explain", "photo.jpg", "-o", "map.png"], ["train", *words]]
    commands += [[*predict, "--model", "run"]]
    # In one process: most of the time of a command is that of its imports.
    code = "import json, sys; from realfake.cli.main import main; "
    code += "print([main(words) for words in json.loads(sys.argv[1])])"
    said = run(python, "-c", code, json.dumps(commands), cwd=tmp_path).splitlines()
    assert said[-1] == "[0, 0, 0, 0]"
    answer = json.loads(said[0])
    assert answer["model"] == "photos" and answer["verdict"] in ("real", "ai", "inconclusive")
    assert (tmp_path / "map.png").stat().st_size > 1000
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"model.safetensors", "training.json", "evaluation.json", "README.md"} <= written
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert record["command"].startswith("realfake train --model_name_or_path base")
    # The log of test measurements belongs to the run.
    package = next(program.parents[1].glob("lib/python*/site-packages/realfake"))
    log = package / "checkpoints" / "measurements.jsonl"
    assert log.read_bytes() == (ROOT / "realfake/checkpoints/measurements.jsonl").read_bytes()
    assert json.loads(said[-2])["model"] == "run"
