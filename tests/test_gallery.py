"""The regression gallery: reported images are scored, and changed verdicts are listed."""

import hashlib
import json

import pytest
from helpers.tiny import draw_picture, save_tiny

from realfake.cli.main import main
from realfake.detector import Detector
from realfake.evaluation.gallery import changes, outcomes


@pytest.fixture
def reported(tmp_path):
    """Images as `realfake corpus feedback` writes them."""
    for seed in range(6):
        path = tmp_path / "reported" / ("train", "test")[seed // 3] / ("real", "ai")[seed % 2]
        path.mkdir(parents=True, exist_ok=True)
        draw_picture(48, seed=seed).save(path / f"{seed}.png")
    (tmp_path / "reported" / "records.csv").write_text("image\n")
    return tmp_path / "reported"


def test_a_gallery_is_scored_and_compared(tmp_path, reported, capsys):
    model, output = save_tiny("mobilenet_v2", tmp_path / "one"), tmp_path / "gallery.json"
    (reported / "test" / "ai" / "broken.jpg").write_bytes(b"no image")
    assert main(["evaluate", "gallery", str(model), str(reported), "-o", str(output)]) == 0
    first = json.loads(output.read_text())
    assert "no earlier run" in capsys.readouterr().out and first["changes"] == []
    assert list(first["unreadable"]) == ["test/ai/broken.jpg"] and len(first["images"]) == 6
    path = reported / "train" / "real" / "0.png"
    entry = first["images"][hashlib.sha256(path.read_bytes()).hexdigest()]
    expected = Detector.from_pretrained(model).predict(path)
    assert (entry["path"], entry["label"]) == ("train/real/0.png", "real")
    assert entry["verdict"] == expected.verdict
    assert entry["log_odds"] == pytest.approx(expected.log_odds, abs=1e-5)
    assert entry["outcome"] == ("right" if expected.verdict == "real" else "wrong")

    # A detector that says the opposite: every verdict changes.
    config = json.loads((model / "config.json").read_text())
    config["id2label"] = {"0": config["id2label"]["1"], "1": config["id2label"]["0"]}
    config["label2id"] = {name: int(index) for index, name in config["id2label"].items()}
    (model / "config.json").write_text(json.dumps(config))
    path.unlink()
    draw_picture(48, seed=99).save(reported / "train" / "real" / "new.png")
    assert main(["evaluate", "gallery", str(model), str(reported), "-o", str(output)]) == 0
    second, printed = json.loads(output.read_text()), capsys.readouterr().out
    assert len(second["changes"]) == 5 and len(second["new"]) == len(second["removed"]) == 1
    assert second["compared_with"]["date"] == first["date"]
    assert ": 5; new images: 1; images that are gone: 1." in printed
    before = main(
        ["evaluate", "gallery", str(model), str(reported), "-o", str(output), "--before", "x.json"]
    )
    assert before == 2 and "x.json" in capsys.readouterr().err


def test_what_became_wrong_is_listed_first():
    def image(label, verdict, outcome):
        return {
            "path": f"{label}/{verdict}",
            "label": label,
            "verdict": verdict,
            "log_odds": 0.0,
            "outcome": outcome,
        }

    before = {
        "a": image("real", "inconclusive", "inconclusive"),
        "b": image("ai", "ai", "right"),
        "c": image("ai", "inconclusive", "inconclusive"),
        "d": image("real", "real", "right"),
    }
    after = {
        "a": image("real", "real", "right"),
        "b": image("ai", "inconclusive", "inconclusive"),
        "c": image("ai", "real", "wrong"),
        "d": image("real", "real", "right"),
        "e": image("real", "ai", "wrong"),
    }
    assert [change["sha256"] for change in changes(before, after)] == ["c", "b", "a"]
    assert outcomes(after) == {
        "real": {"right": 2, "inconclusive": 0, "wrong": 1},
        "ai": {"right": 0, "inconclusive": 1, "wrong": 1},
    }


def test_a_folder_without_labels_is_a_mistake(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    draw_picture(48).save(tmp_path / "images" / "a.png")
    words = ["evaluate", "gallery", "model", str(tmp_path / "images"), "-o", "x.json"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "`real` and `ai`" in error
