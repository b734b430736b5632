"""Time and memory of scoring: by the size of the corpus, with Ray, and without the allocator."""

import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from realfake.detector import BUNDLED
from realfake.engines import has_openvino

from .drawn import draw_photographs, link_many
from .timing import in_turn, ratio_row, row

ROOT = Path(__file__).parents[2]
STEPS = (100, 1_000, 5_000, 20_000)
# A fixed engine, so that all runs compute in the same way.
ENGINE = "openvino-fp32" if has_openvino() else "torch-fp32"
_FINAL = re.compile(r"([\d,]+)(?: of [\d,]+ \(\d+%\))? images, ([\d.]+) (?:a|per) second")
_ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class _Run(NamedTuple):
    """The output of `realfake score`, its peak memory, and the times of its shards in order."""

    text: str
    peak_mib: float
    written: list[float]


def memory(work: Path, quick: bool) -> dict:
    """Measure peak memory and time of one process for growing numbers of linked images."""
    paths = draw_photographs(work / "small", 500, sizes=((320, 240), (256, 256), (400, 300)))
    steps = (100, 1_000, 1_500) if quick else STEPS
    runs = []
    for n in steps:
        images = link_many(paths, work / f"linked-{n}", n)
        run = _score(images, "--model", str(BUNDLED / "cifake"), "--chunk_size", "256")
        runs.append({"images": n, "seconds": _seconds(run.text), "peak_mib": run.peak_mib})
        print(runs[-1], flush=True)
    at = {run["images"]: run["peak_mib"] for run in runs}
    what = f"Memory at {steps[-1]:,} images over memory at 1,000"
    more = [at[steps[-1]]], [at[1_000]]
    return {"rows": [ratio_row(what, *more, 1.05, at_least=False)], "scaling": runs}


def ray(work: Path, quick: bool) -> dict:
    """Compare actors on a local Ray cluster with one process of as many threads.

    The rate is that of the second half of the shards, when all actors run.
    """
    n, chunk, cores = (48, 2, 2) if quick else (384, 16, len(os.sched_getaffinity(0)))
    images = draw_photographs(work / "views", 96, sizes=((224, 224),))
    folder = link_many(images, work / f"views-{n}", n)
    kinds = {"one process": ("--num_threads",), "Ray": ("--ray", "--ray_actors")}
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for name in in_turn(list(kinds), 1 if quick else 2):
        words = ("--views", "1", "--chunk_size", str(chunk), *kinds[name], str(cores))
        written = _score(folder, *words).written
        middle = len(written) // 2
        shards = len(written) - 1 - middle
        rates[name].append(chunk * shards / (written[-1] - written[middle]))
    what = f"Scoring with {cores} Ray actors: images a second over one process of as many threads"
    profile = {f"an image, {name}": 1 / statistics.median(each) for name, each in rates.items()}
    return {"rows": [ratio_row(what, rates["Ray"], rates["one process"], 0.9, profile=profile)]}


def _score(images: Path, *words: str) -> _Run:
    """Run `realfake score` with a new output.

    Raises:
        RuntimeError: The command failed.
    """
    command = [sys.executable, "-m", "realfake", "score", str(images), "--engine", ENGINE, *words]
    with tempfile.TemporaryDirectory() as out, tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*command, "--output", f"{out}/scores"],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **_ENVIRONMENT},
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        text = log.read().decode(errors="replace")
        written = sorted(path.stat().st_mtime for path in Path(out).glob("scores/*.parquet"))
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{text[-2000:]}")
    return _Run(text, usage.ru_maxrss / 1024, written)


def _seconds(text: str) -> float:
    """Return the time of a run: its images over its rate, from its last line."""
    images, rate = _FINAL.findall(text)[-1]
    return int(images.replace(",", "")) / float(rate)


_RATE = """
import resource, sys, time
from pathlib import Path
import realfake.detector as module
if sys.argv[1] == "default":
    module.keep_freed_memory = lambda: False
detector = module.Detector.from_pretrained(device="cpu")
images = [path.read_bytes() for path in sorted(Path(sys.argv[2]).glob("*.jpg"))]
detector.predict(images[:16], views=1)
began = time.perf_counter()
detector.predict(images, views=1)
seconds = (time.perf_counter() - began) / len(images)
print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def allocator(work: Path, quick: bool) -> dict:
    """Return what `keep_freed_memory` changes for `Detector.predict`: time and peak memory."""
    images = work / "users"
    draw_photographs(images, 32, sizes=((640, 480), (512, 512), (480, 640)))
    times: dict[str, list[float]] = {"kept": [], "default": []}
    peaks: dict[str, list[float]] = {"kept": [], "default": []}
    for kind in in_turn(list(times), 1 if quick else 2):
        command = [sys.executable, "-c", _RATE, kind, str(images)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        took, peak = map(float, done.stdout.split())
        times[kind].append(took)
        peaks[kind].append(peak)
    profile = {f"an image, {kind}": statistics.median(each) for kind, each in times.items()}
    what = "Allocator: `Detector.predict` in PyTorch, one view, time over the C library's defaults"
    more = statistics.median(peaks["kept"]) - statistics.median(peaks["default"])
    rows = [
        ratio_row(what, times["kept"], times["default"], 1.0, at_least=False, profile=profile),
        row("Allocator: peak memory above that of these defaults", more, None, unit=" MiB"),
    ]
    return {"rows": rows, "peak_mib": peaks}
