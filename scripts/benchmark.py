"""Measure the speed of realfake on this machine, as ratios to the usual alternatives.

    python scripts/benchmark.py             # all parts, 16 minutes on two cores
    python scripts/benchmark.py --only scoring,views    # these parts; keep the other figures
    python scripts/benchmark.py --quick     # fewer images and rounds, to test the benchmark
    python scripts/benchmark.py --table     # print the table of the last measurements

Each part runs in a separate process. Its figures are written to `benchmarks/results.json` at once,
so `--only` continues an interrupted run. Times are measured in rounds in alternating order; a ratio
is the median of the rounds. The script draws its images into `--work_dir`. Run nothing else on the
machine at the same time.
"""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = {
    "scoring": "scoring.one_view",
    "views": "scoring.all_views",
    "deviations": "scoring.deviations",
    "ray": "scaling.ray",
    "scaling": "scaling.memory",
    "allocator": "scaling.allocator",
    "explaining": "explaining.explaining",
    "training": "training.training",
    "space-start": "space.start",
    "space-drop": "space.drop",
    "space-users": "space.users",
    "gpu": "gpu.gpu",
}
VERSIONED = (
    *("torch", "transformers", "openvino", "pillow", "numpy"),
    *("datasets", "accelerate", "gradio", "captum"),
)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line.

    Raises:
        ValueError: There is no such part.
    """
    parser = argparse.ArgumentParser(prog="benchmark.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", help=f"parts to run, separated by commas: {', '.join(PARTS)}")
    parser.add_argument(
        "--quick", action="store_true", help="use fewer images and rounds, and mark the figures"
    )
    parser.add_argument(
        "--table", action="store_true", help="print the table of the last measurements"
    )
    results = ROOT / "scripts" / "benchmarks" / "results.json"
    parser.add_argument("--output", default=str(results), help="JSON file of the figures")
    cache = Path.home() / ".cache" / "realfake-benchmark"
    parser.add_argument("--work_dir", default=str(cache), help="folder for images and runs")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # for the process of a part
    options = parser.parse_args(arguments)
    names = options.only.split(",") if options.only else list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        raise ValueError(f"There is no part {unknown[0]!r}; there are {', '.join(PARTS)}.")
    options.only = names
    options.work_dir = str(Path(options.work_dir).resolve())  # parts run in another folder
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the parts and write their figures; return 1 if a part failed, 2 for a user's mistake."""
    try:
        options = parse_arguments(arguments)
        if options.part:
            return run_part(
                options.part, Path(options.work_dir), options.quick, Path(options.output)
            )
        return run(options)
    except ValueError as error:
        print(f"benchmark.py: error: {error}", file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    """Run the parts, each in a separate process, and print the table."""
    from benchmarks import report

    output = Path(options.output)
    record, failed = _read(output), []
    if not options.table:
        Path(options.work_dir).mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        for name in options.only:
            print(f"{name} …", flush=True)
            figures = _run_in_process(name, options)
            parts = {**record["parts"], name: figures}
            record["parts"] = {key: parts[key] for key in PARTS if key in parts}
            if name != "gpu":  # whose figures can be from another machine
                record |= {"machine": machine(), "versions": versions()}
            _write(output, record)
            for line in report.table({name: figures}).splitlines()[2:]:
                print(f"  {line}", flush=True)
            print(f"  {figures['seconds']:.0f} seconds", flush=True)
            if "error" in figures:
                failed.append(name)
        print(f"{time.monotonic() - started:.0f} seconds.\n")
    shown = report.tables(record, PARTS)
    print(f"{shown['speed']}\n\nMissed:\n\n{shown['misses']}\n\n{shown['cost']}")
    if scaling := record["parts"].get("scaling", {}).get("scaling"):
        report.plot_scaling(scaling, output.with_name("scaling.png"))
    if any(part.get("quick") for part in record["parts"].values()):
        print("\nSome figures are from quick runs.")
    return 1 if failed else 0


def _run_in_process(name: str, options: argparse.Namespace) -> dict:
    """Return the figures of a part, or its error."""
    result = Path(options.work_dir) / f"{name}.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--part", name, "--work_dir", options.work_dir]
    command += ["--output", str(result), *(["--quick"] if options.quick else [])]
    began = time.monotonic()
    subprocess.run(command, cwd=ROOT, env=_environment())
    if result.is_file():
        figures = json.loads(result.read_text())
    else:
        figures = {"error": "the process of this part died"}
    figures |= {
        "seconds": round(time.monotonic() - began, 1),
        "quick": options.quick,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return figures


def run_part(name: str, work: Path, quick: bool, output: Path) -> int:
    """Run one part in this process and write its figures, or its error."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    module, function = PARTS[name].split(".")
    try:
        found = getattr(importlib.import_module(f"benchmarks.{module}"), function)(work, quick)
    except Exception as error:
        traceback.print_exc()
        found = {"error": f"{type(error).__name__}: {error}"}
    _write(output, found)
    return 1 if "error" in found else 0


def _environment() -> dict[str, str]:
    """Return the environment of a part, without settings of threads."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    }
    return {**kept, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}


def machine() -> dict:
    """Describe the machine that the figures depend on."""
    name = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
        flags = next(line for line in lines if line.startswith("flags")).split()
    except (OSError, StopIteration):
        flags = []
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    cores = len(os.sched_getaffinity(0))
    return {
        "processor": name,
        "cores": cores,
        "instructions": [flag for flag in wanted if flag in flags],
    }


def versions() -> dict[str, str]:
    """Return the versions that the figures depend on."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _read(path: Path) -> dict:
    if not path.is_file():
        return {"parts": {}}
    try:
        record = json.loads(path.read_text())
        return record if isinstance(record["parts"], dict) else {"parts": {}}
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path} was not written by this script; remove it or pass another --output."
        ) from None


def _write(path: Path, record: dict) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main())
