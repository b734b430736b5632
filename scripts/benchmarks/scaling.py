"""Time and memory of `realfake score` by the size of the corpus and the number of processes."""

import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from realfake.detector import BUNDLED, DEFAULT_CHECKPOINT
from realfake.engines import has_openvino

from .drawn import draw_photographs, link_many
from .timing import LAUNCH, ratio_row

ROOT = Path(__file__).parents[2]
SCORE = ["-m", "realfake", "score"]
STEPS = (100, 1_000, 5_000, 20_000)
_FINAL = re.compile(r"([\d,]+)(?: of [\d,]+ \(\d+%\))? images, ([\d.]+) a second")
_PAIRS = 3


def memory(work: Path, quick: bool) -> dict:
    """Measure peak memory and time of one process for growing numbers of linked images."""
    paths = draw_photographs(work / "small", 500, sizes=((320, 240), (256, 256), (400, 300)))
    # A fixed engine, so that all runs compute in the same way.
    engine = "openvino-fp32" if has_openvino() else "torch-fp32"
    steps = STEPS[:3] if quick else STEPS
    runs = []
    for n in steps:
        images = link_many(paths, work / f"linked-{n}", n)
        arguments = ["--model", str(BUNDLED / "cifake-mobilenet"), "--engine", engine]
        arguments += ["--chunk_size", "256"]
        output, peak = _measured([sys.executable, *SCORE, str(images), *arguments])
        runs.append({"images": n, "seconds": _seconds(output), "peak_mib": peak / 2**20})
        print(runs[-1], flush=True)
    at = {run["images"]: run["peak_mib"] for run in runs}
    what = f"Memory at {steps[-1]:,} images over memory at 1,000"
    row = ratio_row(what, [at[steps[-1]] / at[1_000]], 1.05, at_least=False, peak_mib=at)
    return {"rows": [row], "scaling": runs}


def processes(work: Path, quick: bool) -> dict:
    """Compare two processes with one, a thread each, on the bundled photos detector."""
    n = 60 if quick else 480
    images = link_many(draw_photographs(work / "photographs", n), work / f"photographs-{n}", n)
    engine = "openvino-fp32" if has_openvino() else "torch-fp32"
    arguments = [str(images), "--model", str(DEFAULT_CHECKPOINT), "--engine", engine]
    arguments += ["--num_threads", "1", "--chunk_size", "10"]
    launch = [sys.executable, *LAUNCH, "--multi_gpu", "--num_processes", "2"]
    ratios, times = [], []
    for _ in range(1 if quick else _PAIRS):
        one, _ = _measured([sys.executable, *SCORE, *arguments])
        two, _ = _measured([*launch, *SCORE, *arguments])
        if "process 2 of 2" not in two:
            raise RuntimeError(f"The launcher started no second process:\n{two}")
        times.append((_seconds(one), _seconds(two)))
        ratios.append(times[-1][0] / times[-1][1])
    what = "Scoring, images a second with 2 processes over 1, a thread each"
    row = ratio_row(what, ratios, 1.7, at_least=True, images=len(list(images.glob("*.jpg"))))
    return {
        "rows": [
            row | {"seconds": [statistics.median(column) for column in zip(*times, strict=True)]}
        ]
    }


def _measured(command: list[str]) -> tuple[str, int]:
    """Run a command with a new `--output`; return its output and peak memory in bytes.

    Raises:
        RuntimeError: The command failed.
    """
    with tempfile.TemporaryDirectory() as out, tempfile.TemporaryFile() as log:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }
        process = subprocess.Popen(
            [*command, "--output", f"{out}/scores"],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        text = log.read().decode(errors="replace")
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{text[-2000:]}")
    return text, usage.ru_maxrss * 1024


def _seconds(text: str) -> float:
    """Return the time of the slowest process: its images over its rate, from its last line."""
    by_process = {}
    for line in text.splitlines():
        if found := _FINAL.search(line):
            by_process[line[: found.start()]] = int(found[1].replace(",", "")) / float(found[2])
    return max(by_process.values())
