"""The `realfake` command: help, errors and exit codes, and the commands for single images."""

import csv
import hashlib
import importlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny import draw_picture
from PIL import Image

from realfake import io as realfake_io
from realfake.cli.main import COMMANDS, main
from realfake.detector import Detector


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "deep").mkdir()
    draw_picture(64, seed=1).save(folder / "a.jpg")
    draw_picture(64, seed=2).save(folder / "deep" / "b.PNG")
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture(autouse=True)
def one_detector(monkeypatch, tiny_vit):
    """Open each checkpoint once."""
    opened = {}
    from_pretrained = Detector.from_pretrained.__func__

    def cached(cls, *arguments, **options):
        key = repr((arguments, options))
        if key not in opened:
            opened[key] = from_pretrained(cls, *arguments, **options)
        return opened[key]

    monkeypatch.setattr(Detector, "from_pretrained", classmethod(cached))


def run(*arguments: str, capsys=None) -> tuple[int, str, str]:
    status = main(arguments)
    out, err = capsys.readouterr()
    return status, out, err


def test_json_has_one_object_per_line(pictures, tiny_vit, capsys):
    status, out, err = run("predict", pictures, "--json", "--model", tiny_vit, capsys=capsys)
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [Path(row["file"]).name for row in rows] == ["a.jpg", "b.PNG"]
    expected = Detector.from_pretrained(tiny_vit).predict(pictures / "a.jpg")
    assert rows[0]["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
    assert rows[0]["sha256"] == hashlib.sha256((pictures / "a.jpg").read_bytes()).hexdigest()


def test_csv_has_a_header_and_one_line_per_file(pictures, tiny_vit, capsys):
    missing = pictures / "missing.jpg"
    status, out, err = run(
        "predict",
        pictures / "a.jpg",
        missing,
        "--csv",
        "--provenance",
        "--model",
        tiny_vit,
        capsys=capsys,
    )
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 1
    assert rows[0]["verdict"] in ("real", "ai")
    assert float(rows[0]["real"]) + float(rows[0]["ai"]) == pytest.approx(1)
    assert (rows[0]["c2pa"], rows[0]["error"]) == ("absent", "")
    assert "does not exist" in rows[1]["error"]
    assert rows[1]["verdict"] == ""


def test_the_default_output_is_a_sentence(pictures, tiny_vit, capsys):
    status, out, err = run("predict", pictures / "a.jpg", "--model", tiny_vit, capsys=capsys)
    assert status == 0
    assert "likely" in out
    assert "P(ai) = " in out


def test_an_unreadable_file_is_reported_and_the_others_are_classified(pictures, tiny_vit, capsys):
    files = [pictures / "a.jpg", pictures / "notes.txt", pictures / "deep" / "b.PNG"]
    status, out, err = run("predict", *files, "--json", "--model", tiny_vit, capsys=capsys)
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 1
    assert ["error" in row for row in rows] == [False, True, False]
    assert err.count("\n") == 1
    assert "notes.txt: notes.txt is a text file" in err


def test_the_prior_changes_the_probabilities(pictures, tiny_vit, capsys):
    arguments = ("predict", pictures / "a.jpg", "--json", "--model", tiny_vit)
    even = json.loads(run(*arguments, capsys=capsys)[1])
    rare = json.loads(run(*arguments, "--prior_ai", "0.01", capsys=capsys)[1])
    assert rare["prior_ai"] == 0.01
    assert rare["probabilities"]["ai"] < even["probabilities"]["ai"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["judge"], "invalid choice"),
        (["predict"], "FILE"),
        (["predict", "{a}", "--json", "--csv"], "not allowed with"),
        (["predict", "{a}", "--prior_ai", "1"], "between 0 and 1"),
        (["predict", "{a}", "--prior_ai", "nan"], "between 0 and 1"),
        (["predict", "{a}", "--batch_size", "0"], "--batch_size must be at least 1"),
        (["predict", "{a}", "--batch_size", "x"], "--batch_size: invalid whole number"),
        (["predict", "{a}", "--stab"], "--stab"),
        (["predict", "-", "-"], "once"),
        (["predict", "{empty}"], "folder without images"),
        (["predict", "{a}", "--model", "{empty}"], "config.json"),
        (["predict", "{a}", "--label_map", "x"], "NAME=real"),
        (["explain", "{a}"], "--output"),
        (["explain", "{a}", "-o", "{empty}/no/map.png"], "create it first"),
        (["explain", "{a}", "-o", "{empty}/map.txt"], "not a picture"),
        (["explain", "{a}", "-o", "{empty}/map.png", "--method", "guess"], "gradcam"),
        (["explain", "{a}", "-o", "{empty}/map.png", "--target", "fake"], "invalid choice"),
        (["provenance"], "--refresh_trust_list"),
    ],
)
def test_wrong_usage_ends_with_2_and_one_line(
    arguments, words, pictures, tiny_vit, tmp_path, capsys
):
    arguments = [argument.format(a=pictures / "a.jpg", empty=tmp_path) for argument in arguments]
    if arguments and arguments[0] != "provenance" and "--model" not in arguments:
        arguments += ["--model", str(tiny_vit)]
    status, out, err = run(*arguments, capsys=capsys)
    assert status == 2
    assert words in err
    assert out == ""
    assert err.startswith("realfake: error: ") and err.count("\n") == 1


def test_a_folder_is_expanded_through_its_links_once(pictures, tmp_path, capsys):
    folder = tmp_path / "album"
    folder.mkdir()
    (folder / "linked").symlink_to(pictures)
    (folder / "c.heic").symlink_to(pictures / "a.jpg")
    (folder / "loop").symlink_to(folder)
    status, out, err = run("provenance", folder, "--json", capsys=capsys)
    files = [json.loads(line)["file"] for line in out.splitlines()]
    assert status == 0 and err == ""
    names = ("c.heic", "linked/a.jpg", "linked/deep/b.PNG")
    assert files == [str(folder / name) for name in names]


def test_a_missing_package_names_its_extra(monkeypatch, capsys, pictures):
    def run_predict(args):
        raise ModuleNotFoundError("No module named 'peft'", name="peft")

    monkeypatch.setattr(importlib.import_module("realfake.cli.predict"), "run_predict", run_predict)
    status, _, err = run("predict", pictures / "a.jpg", capsys=capsys)
    assert status == 2 and 'pip install "realfake[train]"' in err


@pytest.mark.parametrize("name", ["map.png", "map.jpg"])
def test_explain_writes_the_map(name, pictures, tiny_convnext, tmp_path, capsys):
    path = tmp_path / name
    status, out, err = run(
        "explain",
        pictures / "a.jpg",
        "-o",
        path,
        "--model",
        tiny_convnext,
        "--target",
        "real",
        "--json",
        capsys=capsys,
    )
    found = json.loads(out)
    assert status == 0
    assert (found["map"], found["method"], found["target"]) == (str(path), "gradcam", "real")
    picture = np.asarray(Image.open(path))
    assert picture.std() > 1
    assert Image.open(path).width >= 256


def test_explain_of_a_bad_file_writes_nothing(pictures, tiny_convnext, tmp_path, capsys):
    path = tmp_path / "map.png"
    status, out, err = run(
        "explain", pictures / "notes.txt", "-o", path, "--model", tiny_convnext, capsys=capsys
    )
    assert (status, out) == (1, "")
    assert "text file" in err
    assert not path.exists()


def test_provenance_needs_no_model(pictures, capsys, monkeypatch):
    monkeypatch.setattr(Detector, "from_pretrained", None)
    status, out, err = run("provenance", pictures, pictures / "notes.txt", "--json", capsys=capsys)
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 1
    assert [finding["kind"] for finding in rows[0]["findings"]][0] == "c2pa"
    assert "error" in rows[2]
    status, out, err = run("provenance", pictures / "a.jpg", capsys=capsys)
    assert status == 0
    assert "No Content Credentials" in out


def test_file_names_print_no_control_characters(tiny_vit, tmp_path, capsys):
    path = tmp_path / "a\x1b[2Jb.jpg"
    draw_picture(32).save(path)
    status, out, err = run("predict", path, "--model", tiny_vit, capsys=capsys)
    assert status == 0
    assert "\x1b" not in out


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "train"])
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*name.split(), "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: realfake {name} ")
    assert "python scripts/" not in out and ".py" not in out.replace("train_hf.py", "")


def test_help_imports_no_large_library():
    code = (
        "import sys; from realfake.cli.main import main\n"
        "for words in ([], ['predict'], ['corpus'], ['space', 'run']):\n"
        "    try: main([*words, '--help'])\n"
        "    except SystemExit: pass\n"
        "    print({'torch', 'transformers', 'datasets', 'gradio'} & set(sys.modules), words)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    for words in ([], ["predict"], ["corpus"], ["space", "run"]):
        assert f"\nset() {words}\n" in done.stdout, (done.stdout[-300:], done.stderr)


def test_options_cannot_be_abbreviated():
    from realfake.cli.main import build_parser

    for name, command in COMMANDS.items():
        module = importlib.import_module(f"realfake.cli.{command.module}")
        if not hasattr(module, "parse"):
            assert build_parser(name).allow_abbrev is False


def test_records_store_the_command_as_typed(pictures, tiny_vit, capsys, monkeypatch):
    recorded = []
    monkeypatch.setattr(
        "realfake.cli.predict.run_predict",
        lambda options: recorded.append(realfake_io.command_line()) or 0,
    )
    before = list(sys.argv)
    assert main(["predict", "a b.jpg", "--json"]) == 0
    assert recorded == ["realfake predict 'a b.jpg' --json"]
    assert sys.argv == before


@pytest.mark.parametrize(("name", "hint"), [("score x --output y", True), ("predict x", False)])
def test_an_interruption_ends_in_one_line(name, hint, capsys, monkeypatch):
    def interrupted(options):
        raise KeyboardInterrupt

    command = name.split()[0]
    function = "run_predict" if command == "predict" else "run"
    monkeypatch.setattr(f"realfake.cli.{command}.{function}", interrupted)
    assert main(name.split()) == 130
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and ("same command" in err) is hint


def test_a_missing_optional_package_names_its_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setattr(
        "realfake.cli.predict.run_predict", lambda options: importlib.import_module("optuna")
    )
    assert main(["predict", "x"]) == 2
    err = capsys.readouterr().err
    assert "realfake[train]" in err and err.count("\n") == 1


def test_a_closed_pipe_is_not_an_error(pictures, tiny_vit, capsys, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    # It is closed at the end, as Python does, which writes what is left.
    with open(writer, "w") as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        assert main(["predict", str(pictures), "--model", str(tiny_vit), "--csv"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err and "Error" not in err


def test_the_program_reads_stdin_and_reports_errors(pictures, tiny_vit):
    words = ["predict", "-", str(pictures / "notes.txt"), "--json", "--model", str(tiny_vit)]
    done = subprocess.run(
        [sys.executable, "-m", "realfake", *words],
        input=(pictures / "a.jpg").read_bytes(),
        capture_output=True,
        timeout=300,
    )
    rows = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert done.returncode == 1
    assert rows[0]["file"] == "-" and rows[0]["verdict"] in ("real", "ai")
    assert done.stderr.count(b"\n") == 1, done.stderr
    assert b"notes.txt" in done.stderr
