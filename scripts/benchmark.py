"""Measure the speed of realfake as ratios against the usual alternatives, on this machine.

    python scripts/benchmark.py             # everything, 15 minutes on two cores
    python scripts/benchmark.py --only scoring-photos,memory    # parts; other figures are kept
    python scripts/benchmark.py --quick     # fewer images and pairs, to test the benchmark
    python scripts/benchmark.py --table     # print the table of the last measurements

Every part runs in a process of its own. Its figures go to `benchmarks/results.json` at once, so
`--only` continues an interrupted run. Times are measured in pairs in alternating order, and a ratio
is the median of the pairs. The script draws its pictures into `--work_dir`. Run nothing else on the
machine meanwhile.
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
    "scoring-vit": "scoring.vit",
    "scoring-photos": "scoring.photos",
    "scoring-model-size": "scoring.model_size",
    "deviations": "scoring.deviations",
    "memory": "scaling.memory",
    "processes": "scaling.processes",
    "allocator": "memory.allocator",
    "explaining": "explaining.explaining",
    "training": "training.training_rate",
    "training-processes": "training.training_processes",
    "space-start": "space.start",
    "space-drop": "space.drop",
    "space-users": "space.users",
    "gpu": "gpu.gpu",
}
VERSIONED = (
    "torch",
    "transformers",
    "openvino",
    "pillow",
    "numpy",
    "datasets",
    "accelerate",
    "gradio",
    "captum",
)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line.

    Raises:
        ValueError: There is no such part.
    """
    parser = argparse.ArgumentParser(
        prog="benchmark.py",
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--only", help=f"Parts to run, separated by commas: {', '.join(PARTS)}.")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="Fewer images and pairs; the figures are marked as such.",
    )
    parser.add_argument(
        "--table",
        action="store_true",
        help="Print the table of what was measured before, and stop.",
    )
    parser.add_argument(
        "--output",
        default=str(ROOT / "scripts" / "benchmarks" / "results.json"),
        help="File of the figures.",
    )
    parser.add_argument("--plot", help="PNG of the scaling (default: beside the figures).")
    parser.add_argument(
        "--work_dir",
        default=str(Path.home() / ".cache" / "realfake-benchmark"),
        help="For pictures and runs.",
    )
    parser.add_argument(
        "--part", help=argparse.SUPPRESS
    )  # what the process of a part is started with
    options = parser.parse_args(arguments)
    names = (
        options.only.split(",")
        if options.only
        else [name for name in PARTS if name != "gpu" or _has_gpu()]
    )
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise ValueError(f"There is no part {unknown[0]!r}; there are {', '.join(PARTS)}.")
    options.only = names
    return options


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def main(arguments: list[str] | None = None) -> int:
    """Run the parts and write their figures; the exit status is 1 where a part could not run."""
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
    """Run the parts one after the other, each in a process of its own."""
    from benchmarks import report

    output, work = Path(options.output), Path(options.work_dir)
    record = _read(output)
    if not options.table:
        work.mkdir(parents=True, exist_ok=True)
        started, failed = time.monotonic(), []
        for name in options.only:
            print(f"{name} …", flush=True)
            result = work / f"{name}.json"
            result.unlink(missing_ok=True)
            command = [
                sys.executable,
                __file__,
                "--part",
                name,
                "--work_dir",
                str(work),
                "--output",
                str(result),
            ]
            began = time.monotonic()
            subprocess.run(
                [*command, *(["--quick"] if options.quick else [])], cwd=ROOT, env=_environment()
            )
            found = (
                json.loads(result.read_text())
                if result.is_file()
                else {"error": "the process of this part died"}
            )
            found |= {
                "seconds": round(time.monotonic() - began, 1),
                "quick": options.quick,
                "date": _now(),
            }
            record["parts"] = {
                key: {**record["parts"], name: found}[key]
                for key in PARTS
                if key in {*record["parts"], name}
            }
            record |= {"machine": machine(), "versions": versions()}
            _write(output, record)
            for row in found.get("rows", ()):
                print("  " + report.table({"": {"rows": [row]}}).splitlines()[-1], flush=True)
            if "error" in found:
                failed.append(name)
                print(f"  failed: {found['error'].splitlines()[0]}", flush=True)
        print(f"{time.monotonic() - started:.0f} seconds.\n")
    else:
        failed = []
    print(report.table(record["parts"]))
    if "gpu" in record["parts"].get("gpu", {}):
        print("\n" + report.gpu_table(record["parts"]["gpu"]))
    if scaling := record["parts"].get("memory", {}).get("scaling"):
        plot = Path(options.plot) if options.plot else output.with_name("scaling.png")
        report.plot_scaling(scaling, plot)
    if any(part.get("quick") for part in record["parts"].values()):
        print("\nSome figures are of quick runs.")
    return 1 if failed else 0


def run_part(name: str, work: Path, quick: bool, output: Path) -> int:
    """Run one part in this process and write what it found, or why it could not."""
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
    """What the figures were measured on."""
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
    """The versions that the figures depend on."""
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
            f"{path} is not what this script wrote; remove it or pass another --output."
        ) from None


def _write(path: Path, record: dict) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(temporary, path)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    sys.exit(main())
