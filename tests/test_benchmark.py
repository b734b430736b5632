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

from realfake.attribution.layers import find_layer
from realfake.corpus.load import load_corpus
from realfake.detector import Detector
from realfake.imaging.decode import open_image
from realfake.training.balance import BalancedOrder

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


def test_rounds_alternate_and_keep_their_order(part, monkeypatch):
    timing = part("timing")
    clock = iter(range(1000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock) ** 2)
    called = []
    functions = {name: lambda n, name=name: called.append((name, n)) for name in "ab"}
    times = timing.rounds(functions, 3)
    assert called == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]
    # The clock's steps are 1, 5, 9, …: the first of a round takes less, and is a, b, a.
    assert times == {"a": [1, 13, 17], "b": [5, 9, 21]}


@pytest.mark.parametrize("at_least, met", [(True, False), (False, True)])
def test_a_row_is_the_median_of_its_rounds(part, at_least, met):
    row = part("timing").ratio_row("x", [6.0, 1.0, 3.0], [2.0, 1.0, 2.0], 2.0, at_least, seconds=4)
    found = (row["value"], row["low"], row["high"], row["n"], row["seconds"])
    assert found == (1.5, 1.0, 3.0, 3, 4)
    assert row["met"] is met


def test_the_table(part):
    report, timing = part("report"), part("timing")
    row = timing.ratio_row("Scoring", [3.0, 6.82, 3.5], [1.0, 2.0, 1.0], 3.0)
    small = timing.row("Difference", 2.34e-7, 0.01)
    parts = {"a": {"rows": [row, small]}, "b": {"error": "RuntimeError: no GPU here\nmore"}}
    others = [timing.row("Share", 7.25, 15, unit=" %"), timing.row("Early", None, 0.5)]
    assert report.table(parts, others).splitlines()[2:] == [
        "| Scoring | 3.41× (3 – 3.50, n = 3) | ≥ 3× | met |",
        "| Difference | 2.3e-07 | ≤ 0.0100 | met |",
        "| b | not measured: RuntimeError: no GPU here | | |",
        "| Share | 7.25 % | ≤ 15 % | met |",
        "| Early | not measured | ≤ 0.50 |  |",
    ]
    assert "**missed**" in report.table({"a": {"rows": [{**row, "met": False}]}})


def test_misses_are_listed_with_their_times(part):
    report, row = part("report"), part("timing").row
    slow = row("Page", 2.0, 1.5, profile={"upload": 0.0123, "answer": 1.26})
    parts = {"a": {"rows": [slow, row("Rest", 1.0, 1.5)]}}
    assert report.misses(parts) == "- Page: upload 12.3 ms, answer 1.3 s."
    assert report.misses({}, [row("Memory", 4.0, 3.0)]) == "- Memory."
    assert report.misses({"a": {"rows": [row("Rest", 1.0, 1.5)]}}) == "- None."
    assert report.misses({"a": {"error": "not run yet"}}) == "- Nothing is measured yet."


def test_the_cost_follows_from_the_rates(part):
    report, row = part("report"), part("timing").row
    parts = {
        "scoring": {"images_a_second": {"score": 40.0}, "views_an_image": 1.0},
        "ray": {"rows": [row("Ray", 0.8, 0.9, True)]},
        "views": {"error": "not run yet"},
    }
    one, all_ = report.cost(parts, 2).splitlines()[2:]
    # 10 million images / 40 a second · 2 cores = 138.9 hours; / 16 cores; / 10 machines / 0.8.
    assert one == "| one view | 40.0 | 139 | 8.7 h | 1.1 h |"
    assert all_.count("not measured") == 4
    parts["views"] = {"images_a_second": {"score": 4.0}, "views_an_image": 15.25}
    del parts["ray"]
    assert report.cost(parts, 2).endswith(
        "| all views, 15.2 of an image | 4.0 | 1,389 | 86.8 h | not measured |"
    )


def test_figures_of_other_commands_are_read_from_their_files(part, tmp_path):
    report = part("report")
    views, soak = tmp_path / "views.json", tmp_path / "soak.json"
    assert all(row["value"] is None for row in report.other_rows(views, soak))
    early = {"mean_share_of_views": 0.55, "changed": {"value": 0.002}, "n": 300}
    views.write_text(json.dumps({"test": {"early_exit": early}}))
    page = {"minutes": 30, "most_gb": 2.5, "settled": {"after_minutes": 10, "low": 1.5}}
    soak.write_text(json.dumps({"page": {**page, "huge": {"more_gb": 1.0, "given_back": 0.95}}}))
    rows = report.other_rows(views, soak)
    assert [row["value"] for row in rows] == [0.55, 0.002, 2.5, 1.5, 1.0, 0.95]
    assert [row["met"] for row in rows] == [True, True, True, False, True, True]


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
        "    return {'rows': [ratio_row('good', [2.0], [1.0], 1.0, process=os.getpid())]}\n"
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
    assert "| bad | not measured: RuntimeError: no chromium |" in said
    assert "| dies | not measured: the process of this part died |" in said
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
        "benchmark.py: error: There is no part 'scorin'; there are scoring,"
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


@pytest.mark.parametrize("kind", ["mobilenet_v2", "dinov2"])
def test_the_plain_grad_cam_is_the_positive_part_of_ours(part, tmp_path, kind):
    """So that the two timed functions do the same work."""
    explaining = part("explaining")
    detector = Detector.from_pretrained(save_tiny(kind, tmp_path / "m"), device="cpu")
    picture = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    )
    ours = detector.explain(picture)
    pixels = detector.pixels(picture)
    size = tuple(pixels.shape[2:])
    layer = find_layer(detector.model, size, ours.details["layer"])
    heat = explaining.PlainGradCam(detector.model, layer, detector.class_indices["ai"][0])(pixels)
    assert heat.shape == (1, 1, *size) and heat.min() >= 0 and heat.max() <= 1
    with layer.tap() as tap:
        kept = []
        handle = tap.register_forward_hook(lambda *hook: kept.append(hook[2]))
        logits = detector.model(pixel_values=pixels).logits
        handle.remove()
    (gradient,) = torch.autograd.grad(logits[0, detector.class_indices["ai"][0]], kept[0])
    by_hand = torch.relu((gradient.mean(dim=(2, 3), keepdim=True) * kept[0]).sum(1, keepdim=True))
    expected = torch.nn.functional.interpolate(by_hand, size, mode="bilinear").detach()
    assert np.corrcoef(heat.numpy().ravel(), expected.numpy().ravel())[0, 1] > 0.999


def test_the_scaling_is_drawn(part, tmp_path):
    runs = [{"images": n, "seconds": n / 50, "peak_mib": 500 + n / 1e4} for n in (100, 1000, 20000)]
    part("report").plot_scaling(runs, tmp_path / "scaling.png")
    assert Image.open(tmp_path / "scaling.png").size[0] > 800


def test_the_memory_is_drawn(part, tmp_path):
    page = {"curve": [[0.0, 0.6], [5.0, 1.2], [10.0, 0.9]], "settled_at": None, "huge_at": 6.0}
    part("report").plot_memory(page, tmp_path / "memory.png")
    assert Image.open(tmp_path / "memory.png").size[0] > 800


def test_the_corpus_of_the_training_has_aligned_pairs(part, tmp_path, monkeypatch):
    training = part("training")
    monkeypatch.setattr(training, "DRAWN", (48, 40))
    path = training.draw_corpus(tmp_path / "train.parquet", 36)
    rows = load_corpus(str(path)).splits["train"]
    order = BalancedOrder(rows, None, seed=0, pair_share=0.5)
    assert len(order.aligned) == len(order.pairs) > 0
    for ai, photographs in order.pairs.items():
        pixels = [open_image(rows[row]["image"]) for row in (ai, *photographs)]
        assert len({image.size for image in pixels}) == 1 and len(pixels) == 2


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
