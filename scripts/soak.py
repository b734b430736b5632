"""Load test: start the page, send the requests of many users, and check every answer.

    python scripts/soak.py         # 64 users for 10 minutes, after 10 to settle
    python scripts/soak.py --page  # the memory of the page with two visitors
    python scripts/soak.py --users 8 --minutes 0.1 --report /tmp/soak.json  # a short test

Users send drawn images of mixed sizes and formats to `/predict`, in all three forms of a request;
5 % of the files are broken. Then three times as many users overload the page, further users hang
up, and a single user returns. Requirements:

- Every request is answered.
- The score of an image equals the score of the same bytes offline.
- Broken files are refused (4xx).
- The only other answer is "busy" (503 or 429, with `Retry-After`).
- Memory does not grow after it has settled.
- A single request is as fast as before within seconds.

The exit status is 1 if a requirement failed. `reliability/soak.json` holds the figures.

With --page, two visitors in Chromium use the page for 30 minutes: all tabs, all six methods, images
from 20 pixels to 36 megapixels. Then one opens an image of 100 megapixels. Requirements: at most
3 GB; no growth after ten minutes; at most 2 GB more for the large image, of which 90 % are given
back within a minute. The curve of the memory is drawn to `--plot`.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from soaking.files import File, distinguishable, draw_files
from soaking.memory import Memory, slope
from soaking.users import REQUIREMENTS, Tally, hang_up, recovery, single, soak

# Seconds until a single request must be as fast as before.
RECOVERY = 10.0
# MiB per minute. A leak of one image in a hundred would be twenty times as much.
GROWTH = 1.0
FLAT = "memory does not grow"


def measure(server, files: Sequence[File], options) -> dict:
    """Run the load, the overload and the recovery against a page.

    Returns:
        The report; `promises` maps each requirement to whether it was met.
    """
    valid = [file for file in files if file.scores is not None]
    tally, flood, alone = Tally(), Tally(), Tally()
    calm = statistics.median(single(server.url, valid[0], alone) for _ in range(5))
    began = time.monotonic()
    settling = 60 * options.settling
    with Memory(server.pid) as memory:
        seconds = settling + 60 * options.minutes
        soak(server.url, files, options.users, seconds, options.seed, tally, wait=True)
    lasted = time.monotonic() - began
    burst = min(10.0, 60 * options.minutes)
    soak(server.url, files, 3 * options.users, burst, options.seed + 1, flood, wait=False)
    hang_up(server.url, max(valid, key=lambda file: len(file.data)), options.users)
    recovered = recovery(server.url, valid[0], calm, alone)
    growth = slope(memory.samples, settling)
    tallies = (tally, flood, alone)
    broken = sum((one.broken for one in tallies), Counter())
    met = {name: not broken[name] for name in REQUIREMENTS}
    met["a single request is as fast as before"] = recovered is not None and recovered <= RECOVERY
    tracebacks = server.log.read_text(errors="replace").count("Traceback")
    met["the log has no traceback"] = tracebacks == 0
    if growth is not None:
        met[FLAT] = growth["low"] <= GROWTH
    used = [mib for _, mib in memory.samples]
    return {
        "users": options.users,
        "seconds": round(lasted, 1),
        "settling_seconds": settling,
        "requests": tally.counts.total(),
        "per_second": tally.counts.total() / lasted,
        "answers": dict(sorted(tally.counts.items())),
        "latency_seconds": _quantiles(tally.seconds),
        "overload": {
            "users": 3 * options.users,
            "answers": dict(sorted(flood.counts.items())),
            "hung_up": options.users,
        },
        "recovery_seconds": recovered,
        "calm_seconds": calm,
        "memory": {
            "first_mib": used[0] if used else None,
            "last_mib": used[-1] if used else None,
            "most_mib": max(used, default=None),
            "samples": [round(mib, 1) for mib in used],
            "slope": growth,
        },
        "files": len(files),
        "told_apart": distinguishable(files),
        "tracebacks": tracebacks,
        "broken": dict(broken),
        "problems": [problem for one in tallies for problem in one.problems][:20],
        "promises": met,
        "seed": options.seed,
    }


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        f"p{share}": ordered[min(len(ordered) - 1, share * len(ordered) // 100)]
        for share in (50, 95, 99)
    }


def _seconds(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.2f} s"


def table(report: dict) -> str:
    """Return the report in a few lines."""
    memory, growth = report["memory"], report["memory"]["slope"]
    rows = [
        (
            "requests",
            f"{report['requests']:,} in {report['seconds']:.0f} s, {report['per_second']:.1f}/s",
        ),
        ("answers", ", ".join(f"{status}: {n:,}" for status, n in report["answers"].items())),
        (
            "latency",
            ", ".join(
                f"{name} {seconds:.2f} s" for name, seconds in report["latency_seconds"].items()
            ),
        ),
        (
            "overload",
            ", ".join(f"{status}: {n:,}" for status, n in report["overload"]["answers"].items()),
        ),
        (
            "recovery",
            f"{_seconds(report['recovery_seconds'])} (usually {report['calm_seconds']:.2f} s)",
        ),
    ]
    if memory["samples"]:
        rows.append(
            (
                "memory",
                f"{memory['first_mib']:.0f} → {memory['last_mib']:.0f} MiB, "
                f"most {memory['most_mib']:.0f}",
            )
        )
    if growth:
        rows.append(
            (
                "growth",
                f"{growth['mib_per_minute']:+.2f} MiB a minute "
                f"({growth['low']:+.2f} to {growth['high']:+.2f})",
            )
        )
    rows += [(name, "met" if met else "FAILED") for name, met in report["promises"].items()]
    if not growth:
        rows.append((FLAT, "unknown: the run is too short"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def page_table(report: dict) -> str:
    """Return the report of the page in a few lines."""
    from benchmarks.report import memory_rows, table

    actions = f"{report['actions']} actions, {len(report['failures'])} failed"
    return f"{table({}, memory_rows(report))}\n\n{actions}"


def measure_page(options: argparse.Namespace) -> dict:
    """Measure the memory of the page with two visitors."""
    from benchmarks.report import memory_rows, plot_memory
    from benchmarks.serving import serving
    from soaking.visitor import draw_pictures, visit

    with tempfile.TemporaryDirectory() as work:
        *usual, huge = draw_pictures(Path(work) / "drawn")
        pictures = [*usual[: options.pictures], huge]
        with serving(Path(work), "app.py") as server:
            report = visit(server.url, server.pid, pictures, options.minutes, options.settling)
    plot_memory(report, Path(options.plot))
    met = {row["what"]: row["met"] for row in memory_rows(report) if row["met"] is not None}
    return {**report, "promises": {**met, "no action fails": not report["failures"]}}


def measure_load(options: argparse.Namespace) -> dict:
    """Measure the page under the load of many users."""
    from benchmarks.serving import serving

    from realfake.detector import Detector

    with tempfile.TemporaryDirectory() as work:
        detector = Detector.from_pretrained(device="cpu")
        files = draw_files(detector, Path(work) / "drawn", options.pictures)
        with serving(Path(work), "app.py") as server:
            return measure(server, files, options)


def store(path: Path, name: str, report: dict) -> None:
    """Write a report into the file, and keep that of the other kind of test."""
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps({**stored, name: report}, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Start the page, load it, and print the report; return 1 if a requirement failed."""
    folder = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--users", type=int, default=64, help="users at once; three times as many in the overload"
    )
    parser.add_argument("--minutes", type=float, help="minutes of load (default: 10; --page: 30)")
    parser.add_argument(
        "--settling",
        type=float,
        help="minutes in which memory may grow: before the load (default: --minutes), or at the "
        "start of --page (default: 10)",
    )
    parser.add_argument("--pictures", type=int, default=60, help="number of different images")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of files")
    parser.add_argument(
        "--report",
        default=str(folder / "reliability" / "soak.json"),
        help="JSON file of the figures (default: %(default)s)",
    )
    parser.add_argument(
        "--page", action="store_true", help="measure the memory of the page with two visitors"
    )
    parser.add_argument(
        "--plot",
        default=str(folder / "benchmarks" / "memory.png"),
        help="PNG of the memory with --page (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    if options.minutes is None:
        options.minutes = 30.0 if options.page else 10.0
    if options.settling is None:
        options.settling = 10.0 if options.page else options.minutes
    os.environ.pop("REALFAKE_MODEL", None)  # the bundled detector, as offline
    report = measure_page(options) if options.page else measure_load(options)
    store(Path(options.report), "page" if options.page else "load", report)
    print(page_table(report) if options.page else table(report))
    for problem in report["failures" if options.page else "problems"]:
        print(problem, file=sys.stderr)
    return 0 if all(report["promises"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
