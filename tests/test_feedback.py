"""Feedback: consent, what is stored, the Hub dataset, and the corpus made of it."""

import csv
import hashlib
import io
import json
import logging
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny import draw_picture
from PIL import Image

from realfake.cli.main import main
from realfake.space import feedback as module
from realfake.space.feedback import Feedback, look_alikes, read_feedback

ROOT = Path(__file__).parent.parent


def jpeg(seed: int, quality: int = 90) -> bytes:
    file = io.BytesIO()
    draw_picture(96, seed=seed).save(file, "JPEG", quality=quality)
    return file.getvalue()


def answer(data: bytes, verdict: str = "ai") -> dict:
    return {
        "verdict": verdict,
        "reason": None,
        "label": "ai",
        "probabilities": {"real": 0.1, "ai": 0.9},
        "prior_ai": 0.5,
        "log_odds": 2.2,
        "ood": None,
        "model": "photos",
        "revision": None,
        "sha256": hashlib.sha256(data).hexdigest(),
        "provenance": {"findings": "not kept"},
    }


def files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


# What is kept


def test_nothing_is_kept_without_consent(tmp_path):
    folder = tmp_path / "feedback"
    data = jpeg(0)
    assert (
        Feedback(folder).record(answer(data), consent=False, truth="real", note="no", image=data)
        is None
    )
    assert not folder.exists()


def test_consent_keeps_the_hash_the_answer_and_the_note_and_no_image(tmp_path):
    kept = Feedback(tmp_path)
    data = jpeg(0)
    first = kept.record(answer(data), consent=True, truth="real", note="my own photograph")
    second = kept.record(answer(data), consent=True)
    entries = list(read_feedback(tmp_path))
    assert [entry["id"] for entry in entries] == [first, second]
    assert entries[0]["sha256"] == hashlib.sha256(data).hexdigest()
    assert (entries[0]["verdict"], entries[0]["truth"], entries[0]["note"]) == (
        "ai",
        "real",
        "my own photograph",
    )
    assert entries[0]["image"] is None
    assert "provenance" not in entries[0]
    assert len(files(tmp_path)) == 1


def test_an_image_is_kept_once(tmp_path):
    kept = Feedback(tmp_path)
    data = jpeg(0)
    for _ in range(2):
        kept.record(answer(data), consent=True, truth="real", image=data)
    name = f"images/{hashlib.sha256(data).hexdigest()}.jpg"
    assert [entry["image"] for entry in read_feedback(tmp_path)] == [name, name]
    assert (tmp_path / name).read_bytes() == data


def test_an_image_without_an_answer_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not the one"):
        Feedback(tmp_path).record(answer(jpeg(0)), consent=True, image=jpeg(1))
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("truth", "sha256"), [("fake", None), ("real", ""), ("real", "../../x"), (7, None)]
)
def test_invalid_records_are_refused(truth, sha256, tmp_path):
    wrong = answer(jpeg(0))
    wrong["sha256"] = wrong["sha256"] if sha256 is None else sha256
    with pytest.raises(ValueError):
        Feedback(tmp_path).record(wrong, consent=True, truth=truth)
    assert files(tmp_path) == []


def test_notes_are_bounded_and_plain(tmp_path):
    Feedback(tmp_path).record(
        answer(jpeg(0)), consent=True, note="a\x00\x1b[2J\u2028b\n" + "c" * 5000
    )
    (entry,) = read_feedback(tmp_path)
    assert len(entry["note"]) == 1000
    assert "\x1b" not in entry["note"]


def test_the_disk_does_not_fill_up(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "MAX_TOTAL", len(jpeg(0)) + 10)
    monkeypatch.setattr(module, "MAX_RECORDS", 2)
    kept = Feedback(tmp_path)
    for seed in range(2):
        kept.record(answer(jpeg(seed)), consent=True, image=jpeg(seed))
    assert [bool(entry["image"]) for entry in read_feedback(tmp_path)] == [True, False]
    with pytest.raises(OSError, match="No more feedback"):
        kept.record(answer(jpeg(2)), consent=True)


_KILLED = """
import os, signal, sys
from realfake import io
from realfake.space.feedback import Feedback
answer = {"sha256": sys.argv[3]}
kept = Feedback(sys.argv[1])
kept.record(answer, consent=True, note="whole")
io.os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)  # written, not renamed
kept.record(answer, consent=True, image=open(sys.argv[2], "rb").read())
"""


def test_a_killed_process_leaves_whole_records(tmp_path):
    data, folder = jpeg(0), tmp_path / "feedback"
    (tmp_path / "x.jpg").write_bytes(data)
    arguments = [str(folder), str(tmp_path / "x.jpg"), hashlib.sha256(data).hexdigest()]
    killed = subprocess.run([sys.executable, "-c", _KILLED, *arguments], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert [entry["note"] for entry in read_feedback(folder)] == ["whole"]
    # The next process keeps the image; the unfinished file does not count.
    Feedback(folder).record(answer(data), consent=True, image=data)
    whole = [path for path in folder.glob("images/*") if not path.name.startswith(".")]
    assert [path.read_bytes() for path in whole] == [data]
    assert {entry["image"] for entry in read_feedback(folder)} == {None, f"images/{whole[0].name}"}


def test_a_record_that_does_not_fit_on_the_disk_leaves_the_others(tmp_path):
    resource = pytest.importorskip("resource")
    kept = Feedback(tmp_path)
    kept.record(answer(jpeg(0)), consent=True, note="before")
    (path,) = tmp_path.glob("records/*")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 40, limits[1]))
        with pytest.raises(OSError):
            kept.record(answer(jpeg(1)), consent=True, note="too much")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    kept.record(answer(jpeg(2)), consent=True, note="after")
    assert [entry["note"] for entry in read_feedback(tmp_path)] == ["before", "after"]


def test_damaged_lines_are_skipped(tmp_path, caplog):
    Feedback(tmp_path).record(answer(jpeg(0)), consent=True)
    (path,) = tmp_path.glob("records/*")
    path.write_text(path.read_text() + '{"half\n[]\n{"sha256": "x", "truth": null}\nnull\n')
    assert len(list(read_feedback(tmp_path))) == 1
    assert len(caplog.records) == 4


def test_the_environment_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Feedback.from_environ({}).folder == Path("feedback")
    assert Feedback.from_environ({"REALFAKE_FEEDBACK_FOLDER": "kept"}).folder == Path("kept")
    assert Feedback.from_environ({"REALFAKE_FEEDBACK_FOLDER": ""}) is None
    monkeypatch.setattr("os.environ", {"REALFAKE_FEEDBACK_FOLDER": "now"})
    assert Feedback.from_environ().folder == Path("now"), "the environment as it is when asked"
    assert files(tmp_path) == []


# The Hub


def test_records_and_images_go_to_a_private_dataset(hub, tmp_path):
    environ = {
        "REALFAKE_FEEDBACK_FOLDER": str(tmp_path / "kept"),
        "REALFAKE_FEEDBACK_REPO": "user/feedback",
    }
    kept = Feedback.from_environ({**environ, "HF_TOKEN": "hf_anything"})
    data = jpeg(0)
    try:
        kept.record(answer(data), consent=True, truth="real", image=data)
        kept.record(answer(jpeg(1)), consent=False, truth="real", image=jpeg(1))
        kept.scheduler.trigger().result()
    finally:
        kept.scheduler.stop()
    assert hub.repos["dataset", "user/feedback"].private
    pushed = {
        path: content
        for path, content in hub.files("user/feedback", "dataset").items()
        if path != ".gitattributes"
    }
    assert sorted(path.split("/")[0] for path in pushed) == ["images", "records"]
    (lines,) = (content for path, content in pushed.items() if path.startswith("records/"))
    assert json.loads(lines)["truth"] == "real"
    assert data in pushed.values()


def test_records_stay_in_the_folder_if_the_hub_refuses_them(hub, tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    environ = {"REALFAKE_FEEDBACK_FOLDER": str(tmp_path), "REALFAKE_FEEDBACK_REPO": "somebody/else"}
    kept = Feedback.from_environ({**environ, "HF_TOKEN": "hf_anything"})
    assert kept.scheduler is None
    assert "somebody/else" in caplog.text
    kept.record(answer(jpeg(0)), consent=True)
    assert len(files(tmp_path)) == 1


# The corpus


@pytest.fixture
def collected(tmp_path) -> Path:
    """Twelve photographs with the verdict AI-generated, and other records."""
    folder = tmp_path / "collected"
    kept = Feedback(folder)
    for seed in range(12):
        kept.record(answer(jpeg(seed)), consent=True, truth="real", image=jpeg(seed), note="=1+1")
    kept.record(
        answer(jpeg(20)), consent=True, truth="ai", image=jpeg(20)
    )  # the detector was right
    kept.record(answer(jpeg(21)), consent=True, truth="real", image=jpeg(21))
    kept.record(answer(jpeg(21)), consent=True, truth="ai", image=jpeg(21))  # visitors disagree
    kept.record(answer(jpeg(22)), consent=True, truth="real")  # no image
    kept.record(answer(jpeg(23)), consent=True, image=jpeg(23))  # no label
    kept.record(
        answer(jpeg(0, quality=60)), consent=True, truth="real", image=jpeg(0, quality=60)
    )  # looks like 0
    return folder


def rows(output: Path) -> dict[str, dict]:
    with open(output / "records.csv", newline="") as file:
        return {row["sha256"]: row for row in csv.DictReader(file)}


def digest(seed: int, quality: int = 90) -> str:
    return hashlib.sha256(jpeg(seed, quality)).hexdigest()


def test_feedback_becomes_an_evaluation_set_and_hard_examples(collected, tmp_path, capsys):
    output = tmp_path / "out"
    assert main(["corpus", "feedback", str(collected), "--output", str(output)]) == 0
    found = rows(output)
    sets = {
        name: {path.stem for path in (output / name).rglob("*.jpg")}
        for name in ("evaluation", "hard")
    }
    assert sets["evaluation"] and sets["hard"]
    assert not sets["evaluation"] & sets["hard"]
    assert {found[one]["set"] for one in sets["hard"]} == {"hard"}
    assert len(sets["evaluation"] | sets["hard"]) in (13, 14)
    assert found[digest(0)]["set"] == found[digest(0, 60)]["set"]  # they look the same
    assert found[digest(20)]["set"] in ("evaluation", "")
    assert found[digest(21)]["why_left_out"] == "visitors disagree"
    assert found[digest(22)]["why_left_out"] == "no visitor shared the image"
    assert found[digest(23)]["why_left_out"] == "no visitor gave a label"
    assert found[digest(1)]["note"] == "'=1+1"
    assert "Nobody has checked" in capsys.readouterr().out


def test_only_checked_feedback_is_used(collected, tmp_path):
    accepted = tmp_path / "checked.txt"
    accepted.write_text(f"{digest(3)}\n\n{digest(4).upper()} a comment\n")
    output = tmp_path / "out"
    arguments = [
        str(collected),
        "--output",
        str(output),
        "--accept",
        str(accepted),
        "--evaluation_share",
        "0",
    ]
    assert main(["corpus", "feedback", *arguments]) == 0
    assert {path.stem for path in output.rglob("*.jpg")} == {digest(3), digest(4)}
    assert {path.parent for path in output.rglob("*.jpg")} == {output / "hard" / "real"}


def test_a_dataset_on_the_hub_works_too(hub, collected, tmp_path):
    hub.put("user/feedback", collected, "dataset")
    output = tmp_path / "out"
    assert (
        main(
            [
                "corpus",
                "feedback",
                "user/feedback",
                "--output",
                str(output),
                "--evaluation_share",
                "1",
            ]
        )
        == 0
    )
    assert len(list((output / "evaluation").rglob("*.jpg"))) == 14


def test_a_record_cannot_point_outside_the_folder(tmp_path):
    folder = tmp_path / "collected"
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(jpeg(0))
    kept = Feedback(folder)
    kept.record(answer(jpeg(0)), consent=True, truth="real")
    (path,) = folder.glob("records/*")
    entry = json.loads(path.read_text())
    path.write_text(json.dumps(entry | {"image": "../secret.jpg"}) + "\n")
    output = tmp_path / "out"
    assert main(["corpus", "feedback", str(folder), "--output", str(output)]) == 0
    assert rows(output)[digest(0)]["set"] == ""


def test_unreadable_images_are_skipped_with_a_reason(tmp_path):
    folder, data = tmp_path / "collected", b"no image at all, but this is what was judged"
    Feedback(folder).record(answer(data), consent=True, truth="real", image=data)
    changed = jpeg(1)
    Feedback(folder).record(answer(changed), consent=True, truth="real", image=changed)
    (folder / "images" / f"{digest(1)}.jpg").write_bytes(jpeg(2))
    output = tmp_path / "out"
    assert main(["corpus", "feedback", str(folder), "--output", str(output)]) == 0
    reasons = {row["why_left_out"] for row in rows(output).values()}
    assert any("text file" in reason for reason in reasons)
    assert "the file is not the one that was judged" in reasons


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{empty}", "--output", "{new}"], "holds no feedback"),
        (["{missing}", "--output", "{new}"], "neither a folder"),
        (["{collected}", "--output", "{collected}"], "not empty"),
        (
            ["{collected}", "--output", "{new}", "--evaluation_share", "2"],
            "--evaluation_share must lie",
        ),
        (["{collected}", "--output", "{new}", "--accept", "{missing}"], "No such file"),
    ],
)
def test_wrong_usage_ends_in_one_line(arguments, words, collected, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    names = {
        "empty": tmp_path / "empty",
        "missing": tmp_path / "missing",
        "new": tmp_path / "new",
        "collected": collected,
    }
    assert main(["corpus", "feedback", *(each.format(**names) for each in arguments)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_images_that_look_the_same_form_one_group():
    noise = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    a, b, c = (Image.fromarray(pixels) for pixels in noise)
    assert look_alikes([a, b, a.copy(), c, b.resize((60, 60))])[:4] == [0, 1, 0, 3]
    assert look_alikes([]) == []
