"""Load test: start the page, send the requests of many users, and check every answer.

    python scripts/soak.py                          # 64 users for 10 minutes, after 10 to settle
    python scripts/soak.py --users 8 --minutes 0.1  # a short test
    python scripts/soak.py --page --minutes 5       # the memory of the page with one visitor

Users send drawn images of mixed sizes and formats to `/predict`, in all three forms of a request;
5 % of the files are broken. Then three times as many users overload the page, further users hang
up, and a single user returns. Requirements:

- Every request is answered.
- The score of an image equals the score of the same bytes offline.
- Broken files are refused (4xx).
- The only other answer is "busy" (503 or 429, with `Retry-After`).
- Memory does not grow after it has settled.
- A single request is as fast as before within seconds.

The exit status is 1 if a requirement failed. `soak.json` holds the figures.

With --page, one visitor draws maps with all six methods for images from 20 pixels to 36 megapixels,
then uses the batch and the comparison. Requirement: the page never uses more than 3 GiB.
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
from dataclasses import asdict
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
    settling = 60 * (options.minutes if options.settling is None else options.settling)
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


def measure_page(options: argparse.Namespace) -> int:
    """Measure the memory of one visit; return 1 if the page used too much or a call failed."""
    from benchmarks.serving import serving
    from soaking import visitor

    with tempfile.TemporaryDirectory() as work:
        pictures = visitor.draw_pictures(Path(work) / "drawn")
        with serving(Path(work), "app.py") as server:
            visit = visitor.visit(server.url, server.pid, pictures, options.minutes)
    Path(options.report).write_text(json.dumps(asdict(visit), indent=2) + "\n")
    print(visitor.table(visit))
    return int(visit.most > visitor.MOST or bool(visit.failures))


def main(arguments: list[str] | None = None) -> int:
    """Start the page, load it, and print the report; return 1 if a requirement failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--users", type=int, default=64, help="users at once; three times as many in the overload"
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes of load")
    parser.add_argument(
        "--settling",
        type=float,
        help="minutes of load before, in which memory may grow (default: --minutes)",
    )
    parser.add_argument("--pictures", type=int, default=60, help="number of different images")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of files")
    parser.add_argument("--report", default="soak.json", help="JSON file of the figures")
    parser.add_argument(
        "--page", action="store_true", help="measure the memory of the page with one visitor"
    )
    options = parser.parse_args(arguments)
    from benchmarks.serving import serving

    from realfake.detector import Detector

    os.environ.pop("REALFAKE_MODEL", None)  # the bundled detector, as offline
    if options.page:
        return measure_page(options)
    with tempfile.TemporaryDirectory() as work:
        files = draw_files(
            Detector.from_pretrained(device="cpu"), Path(work) / "drawn", options.pictures
        )
        with serving(Path(work), "app.py") as server:
            report = measure(server, files, options)
    Path(options.report).write_text(json.dumps(report, indent=2) + "\n")
    print(table(report))
    for problem in report["problems"]:
        print(problem, file=sys.stderr)
    return 0 if all(report["promises"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
