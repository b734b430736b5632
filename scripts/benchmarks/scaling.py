"""Time and memory of `realfake score` by the size of the corpus."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from realfake.detector import BUNDLED
from realfake.engines import has_openvino

from .drawn import draw_photographs, link_many
from .timing import ratio_row

ROOT = Path(__file__).parents[2]
SCORE = ["-m", "realfake", "score"]
STEPS = (100, 1_000, 5_000, 20_000)
_FINAL = re.compile(r"([\d,]+)(?: of [\d,]+ \(\d+%\))? images, ([\d.]+) (?:a|per) second")


def memory(work: Path, quick: bool) -> dict:
    """Measure peak memory and time of one process for growing numbers of linked images."""
    paths = draw_photographs(work / "small", 500, sizes=((320, 240), (256, 256), (400, 300)))
    # A fixed engine, so that all runs compute in the same way.
    engine = "openvino-fp32" if has_openvino() else "torch-fp32"
    steps = STEPS[:3] if quick else STEPS
    runs = []
    for n in steps:
        images = link_many(paths, work / f"linked-{n}", n)
        arguments = ["--model", str(BUNDLED / "cifake"), "--engine", engine]
        arguments += ["--chunk_size", "256"]
        output, peak = _measured([sys.executable, *SCORE, str(images), *arguments])
        runs.append({"images": n, "seconds": _seconds(output), "peak_mib": peak / 2**20})
        print(runs[-1], flush=True)
    at = {run["images"]: run["peak_mib"] for run in runs}
    what = f"Memory at {steps[-1]:,} images over memory at 1,000"
    row = ratio_row(what, [at[steps[-1]] / at[1_000]], 1.05, at_least=False, peak_mib=at)
    return {"rows": [row], "scaling": runs}


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
    """Return the time of a run: its images over its rate, from its last line."""
    images, rate = _FINAL.findall(text)[-1]
    return int(images.replace(",", "")) / float(rate)
