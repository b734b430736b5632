"""The arithmetic, tables and records of the benchmark, without its measurements."""

import importlib
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny import save_tiny
from PIL import Image

from realfake.detector import Detector

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    spec = importlib.util.spec_from_file_location("benchmark_script", SCRIPTS / "benchmark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def part(script):
    """Import a module of `scripts/benchmarks`."""
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def test_pairs_alternate_and_keep_their_order(part, monkeypatch):
    timing = part("timing")
    clock = iter(range(1000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock) ** 2)
    called = []
    times = timing.paired(lambda n: called.append(("a", n)), lambda n: called.append(("b", n)), 3)
    assert called == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]
    # The clock's steps are 1, 5, 9, …: the first of a pair takes less, and is a, b, a.
    assert times == [(1, 5), (13, 9), (17, 21)]


@pytest.mark.parametrize("at_least, met", [(True, False), (False, True)])
def test_a_row_is_the_median_of_its_pairs(part, at_least, met):
    row = part("timing").ratio_row("x", [3.0, 1.0, 1.5], 2.0, at_least, seconds=4)
    assert (row["value"], row["low"], row["high"], row["n"], row["seconds"]) == (
        1.5,
        1.0,
        3.0,
        3,
        4,
    )
    assert row["met"] is met


def test_the_table(part):
    report = part("report")
    row = part("timing").ratio_row("Scoring", [3.0, 3.41, 3.5], 3.0, True)
    small = {"what": "Difference", "value": 2.34e-7, "target": 0.01, "at_least": False, "met": True}
    parts = {"a": {"rows": [row, small]}, "b": {"error": "RuntimeError: no GPU here\nmore"}}
    assert report.table(parts).splitlines()[2:] == [
        "| Scoring | 3.41× (3 – 3.50, n = 3) | ≥ 3× | met |",
        "| Difference | 2.3e-07 | ≤ 0.0100 | met |",
        "| b | not measured: RuntimeError: no GPU here | | |",
    ]
    assert "**missed**" in report.table({"a": {"rows": [{**row, "met": False}]}})


def test_parts_run_in_separate_processes_and_are_kept(script, tmp_path, monkeypatch, capsys):
    """A failed part is reported; the figures of the others stay."""
    package = tmp_path / "benchmarks"
    package.mkdir()
    for name in ("__init__", "report", "timing"):
        (package / f"{name}.py").write_text((SCRIPTS / "benchmarks" / f"{name}.py").read_text())
    (package / "fake.py").write_text(
        "import os\n"
        "from .timing import ratio_row\n"
        "def good(work, quick):\n"
        "    assert 'OMP_NUM_THREADS' not in os.environ\n"
        "    return {'rows': [ratio_row('good', [2.0], 1.0, True, process=os.getpid())]}\n"
        "def bad(work, quick):\n    raise RuntimeError('no chromium')\n"
        "def dies(work, quick):\n    os._exit(9)\n"
    )
    source = (SCRIPTS / "benchmark.py").read_text()
    start, end = source.index("PARTS = {"), source.index("}\n", source.index("PARTS = {")) + 2
    fake = 'PARTS = {"good": "fake.good", "bad": "fake.bad", "dies": "fake.dies"}\n'
    (tmp_path / "benchmark.py").write_text(source[:start] + fake + source[end:])
    # The copies come first, for this process and for those that are started.
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    spec = importlib.util.spec_from_file_location("benchmark_copy", tmp_path / "benchmark.py")
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    monkeypatch.setattr(copy, "ROOT", SCRIPTS.parent)

    output = tmp_path / "out.json"
    arguments = ["--output", str(output), "--work_dir", str(tmp_path / "work")]
    assert copy.main(["--only", "good", *arguments]) == 0
    first = json.loads(output.read_text())
    assert first["parts"]["good"]["rows"][0]["met"] and not first["parts"]["good"]["quick"]
    assert first["machine"]["cores"] >= 1 and first["versions"]["torch"]
    assert copy.main(["--only", "bad,dies", "--quick", *arguments]) == 1
    said = capsys.readouterr().out
    assert (
        "failed: RuntimeError: no chromium" in said
        and "failed: the process of this part died" in said
    )
    record = json.loads(output.read_text())
    assert record["parts"]["good"] == first["parts"]["good"]
    assert list(record["parts"]) == ["good", "bad", "dies"] and record["parts"]["bad"]["quick"]
    assert copy.main(["--table", *arguments]) == 0
    said = capsys.readouterr().out
    assert "| good | 2× (n = 1) | ≥ 1× | met |" in said and "quick runs" in said
    assert len(output.read_text()) == len(json.dumps(record, indent=2) + "\n")


def test_the_tables_are_up_to_date(script, capsys):
    tables = importlib.import_module("tables")
    assert tables.main(["--check"]) == 0, capsys.readouterr().out
    record = json.loads((SCRIPTS / "benchmarks" / "results.json").read_text())
    for name, measured in record["parts"].items():
        assert not measured["quick"] and "error" not in measured, name


def test_a_table_is_replaced_between_its_markers(script):
    replaced = importlib.import_module("tables").replaced
    old = "a\n<!-- table: x -->\nold\n<!-- end of table -->\nb"
    assert replaced(old, "x", "new") == old.replace("old", "new")
    assert replaced(old.replace("old\n", ""), "x", "old") == old
    with pytest.raises(ValueError):
        replaced(old, "y", "new")


def test_mistakes_end_in_one_line(script, tmp_path, capsys):
    assert script.main(["--only", "scorin"]) == 2
    assert capsys.readouterr().err.startswith(
        "benchmark.py: error: There is no part 'scorin'; there are scoring-vit,"
    )
    (tmp_path / "x.json").write_text("[1]")
    assert script.main(["--table", "--output", str(tmp_path / "x.json")]) == 2
    assert "not written by this script" in capsys.readouterr().err


def test_every_part_exists(script, part):
    for name, place in script.PARTS.items():
        module, function = place.split(".")
        assert callable(getattr(part(module), function)), name


def test_drawn_images_are_as_large_as_photographs(part, tmp_path):
    drawn = part("drawn")
    megapixels = [width * height / 1e6 for width, height in drawn.SIZES]
    assert min(megapixels) >= 0.3 and max(megapixels) <= 4 and 1.3 < np.mean(megapixels) < 2
    (path,) = drawn.draw_photographs(tmp_path, 1, sizes=((1200, 900),))
    bits = 8 * path.stat().st_size / (1200 * 900)
    assert 1.5 < bits < 4.5
    stamp = path.stat().st_mtime_ns
    assert (
        drawn.draw_photographs(tmp_path, 1, sizes=((1200, 900),)) == [path]
        and path.stat().st_mtime_ns == stamp
    )
    drawer = drawn.Drawer()
    assert np.array_equal(drawer((64, 80), 3), drawer((64, 80), 3))
    assert not np.array_equal(drawer((64, 80), 3), drawer((64, 80), 4))


def test_linked_files_open(part, tmp_path):
    drawn = part("drawn")
    paths = drawn.draw_photographs(tmp_path / "a", 2, sizes=((32, 24),))
    folder = drawn.link_many(paths, tmp_path / "b", 5)
    assert [Image.open(path).size for path in sorted(folder.iterdir())] == [(32, 24)] * 5
    assert len(list(drawn.link_many(paths, folder, 7).iterdir())) == 7


def test_the_time_of_a_run_is_read_from_its_last_line(part):
    scaling = part("scaling")
    text = """Scoring with torch-fp32, 1 threads.
16 of 40 (40%) images, 2.0 per second, 2 s left
1,040 of 1,040 (100%) images, 4.0 per second, 2 unreadable
out: 1,040 images: 1,040 real.
"""
    assert scaling._seconds(text) == 260.0


def test_the_plain_grad_cam_is_the_positive_part_of_ours(part, tmp_path):
    """So that the two timed functions do the same work."""
    explaining = part("explaining")
    detector = Detector.from_pretrained(save_tiny("mobilenet_v2", tmp_path / "m"), device="cpu")
    picture = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    )
    ours = detector.explain(picture)
    layer = detector.model.get_submodule(ours.details["layer"])
    plain = explaining.PlainGradCam(detector.model, layer, detector.class_indices["ai"][0])
    heat = plain(detector.pixels(picture))[0, 0]
    assert heat.shape == (32, 32) and heat.min() >= 0 and heat.max() <= 1
    weights = plain.gradients.mean(dim=(2, 3), keepdim=True)
    by_hand = torch.relu((weights * plain.activations).sum(1, keepdim=True))
    expected = torch.nn.functional.interpolate(by_hand, (32, 32), mode="bilinear")[0, 0]
    assert np.corrcoef(heat.numpy().ravel(), expected.detach().numpy().ravel())[0, 1] > 0.999


def test_the_scaling_is_drawn(part, tmp_path):
    runs = [{"images": n, "seconds": n / 50, "peak_mib": 500 + n / 1e4} for n in (100, 1000, 20000)]
    part("report").plot_scaling(runs, tmp_path / "scaling.png")
    assert Image.open(tmp_path / "scaling.png").size[0] > 800


def test_the_example_transform_gives_model_inputs(part, tmp_path):
    training = part("training")
    detector = Detector.from_pretrained(save_tiny("vit", tmp_path / "m"), device="cpu")
    path = tmp_path / "x.png"
    Image.fromarray(np.full((300, 200, 3), 255, dtype=np.uint8)).save(path)
    images = training.ExampleImages(
        [{"image": {"bytes": None, "path": str(path)}, "label": 1}], detector.processor
    )
    row = images[0]
    assert row["pixel_values"].shape == (3, training.SIDE, training.SIDE) and row["labels"] == 1
    # White, normalised with mean and standard deviation 0.5.
    assert torch.allclose(row["pixel_values"], torch.ones(()))
