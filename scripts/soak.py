"""Many users at once at a Space that this script starts, for as long as it is told, and what became of each request.

    python scripts/soak.py                              # 64 users for 10 minutes, and 10 minutes before
    python scripts/soak.py --users 8 --minutes 0.1      # a short look

Users send drawn pictures of mixed sizes and formats to `/predict`, in all three forms of a request, and one file in twenty
is broken. Then more come than the Space takes, half of whom hang up, and a lone request waits for its turn. The promises:
pictures are answered with the score that the detector gives the same bytes offline; broken files are refused in the
client's name (4xx); the only other answer is an honest "busy" (503 or 429 that says when to come back); no request stays
without an answer; the server's memory does not grow once as long a time has passed in which the allocator has seen the
largest coincidences; and a lone request is served as before within seconds. Exit status 1
if one is broken. `soak.json` holds the figures.
"""

import argparse
import base64
import contextlib
import json
import os
import random
import re
import socket
import statistics
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

BROKEN_SHARE = 0.05
FORMS = ("file", "form", "json")
# The promise of `Detector`: whatever else is in the batch.
TOLERANCE = 1e-5
BUSY = (429, 503)
# Seconds after which a user takes a request for lost; the server gives up on its side after 30.
PATIENCE = 120.0
RECOVERY = 10.0
# MiB a minute that memory may grow for certain. A leak of one picture in a hundred is twenty times that.
GROWTH = 1.0
BLOCKS = 10
# Below that many samples a slope says nothing.
ENOUGH = 60


@dataclass(frozen=True)
class File:
    """A file to send, and what the detector says of it offline.

    Attributes:
        name: For the report.
        data: Its bytes.
        kind: Its media type.
        scores: By form of request, `{label: score}`; `None` where the detector refuses it.
    """

    name: str
    data: bytes
    kind: str
    scores: dict[str, dict[str, float]] | None


@dataclass
class Tally:
    """What became of the requests, from all threads."""

    counts: Counter = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    broken: Counter = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, status: str, promise: str | None, words: str, seconds: float) -> None:
        with self.lock:
            self.counts[status] += 1
            self.seconds.append(seconds)
            if promise:
                self.broken[promise] += 1
                self.problems.append(f"{promise}: {words}")


def draw_files(detector, folder: Path, n: int) -> list[File]:
    """Draw `n` pictures of mixed sizes and formats, and break some of them."""
    from benchmarks.drawn import SIZES, draw_photographs
    from PIL import Image

    sizes = ((96, 96), (224, 224), (320, 240), *SIZES)
    pictures = []
    for number, path in enumerate(draw_photographs(folder, n, sizes)):
        data, form = path.read_bytes(), "JPEG"
        if number % 5 in (3, 4):
            form = ("PNG", "WEBP")[number % 5 - 3]
            buffer = BytesIO()
            with Image.open(path) as image:
                image.save(buffer, form, **({"quality": 85} if form == "WEBP" else {"compress_level": 1}))
            data = buffer.getvalue()
        pictures.append((path.stem, data, f"image/{form.lower()}"))
    files = [File(name, data, kind, _offline(detector, data)) for name, data, kind in pictures]
    files += [
        File(name, data, "image/jpeg", _offline(detector, data)) for name, data in _broken(pictures[0][1])
    ]
    for file in files[n:]:
        if file.scores is not None:
            raise RuntimeError(f"{file.name} was meant to be broken, and the detector reads it.")
    return files


def _broken(jpeg: bytes) -> list[tuple[str, bytes]]:
    """What must not be answered: damaged, hostile, or no image at all."""
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (60_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    return [
        ("nothing", b""),
        ("half a picture", jpeg[: len(jpeg) // 2]),
        ("a header alone", jpeg[:64]),
        ("noise", random.Random(0).randbytes(50_000)),
        ("words", b"This is no picture.\n" * 200),
        ("a drawing in SVG", b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"/>'),
        ("an archive", b"PK\x03\x04" + jpeg),
        ("a picture of 60,000 pixels a side", bomb + b"\0" * 4096),
    ]


def _offline(detector, data: bytes) -> dict[str, dict[str, float]] | None:
    from realfake.hub_api import Parameters, scores

    try:
        (logits,) = detector.logits([data])
    except (ValueError, OSError):
        return None
    config = detector.model.config
    return {
        form: {
            row["label"]: row["score"] for row in scores(logits, config, Parameters(function_to_apply=function))
        }
        for form, function in zip(FORMS, (None, "sigmoid", "none"), strict=True)
    }


def told_apart(files: Sequence[File]) -> float:
    """Share of pairs of pictures whose scores differ by more than the tolerance, so that a swap would be seen."""
    rows = [file.scores["json"] for file in files if file.scores is not None]
    pairs = [(one, other) for place, one in enumerate(rows) for other in rows[:place]]
    return sum(not _agree(one, other, TOLERANCE) for one, other in pairs) / max(1, len(pairs))


def _agree(one: dict[str, float], other: dict[str, float], tolerance: float) -> bool:
    # Logits are compared relative to their size, which is that of a few units; probabilities as they are.
    return one.keys() == other.keys() and all(
        abs(one[label] - other[label]) <= tolerance * max(1.0, abs(other[label])) for label in one
    )


def body(file: File, form: str) -> tuple[bytes, str]:
    """A request's body and its content type."""
    if form == "file":
        return file.data, file.kind
    if form == "json":
        sent = {"inputs": base64.b64encode(file.data).decode(), "parameters": {"function_to_apply": "none"}}
        return json.dumps(sent).encode(), "application/json"
    edge = b"--soak-7f3a9c"
    head = (
        b'\r\nContent-Disposition: form-data; name="file"; filename="x.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    )
    other = b'\r\nContent-Disposition: form-data; name="function_to_apply"\r\n\r\nsigmoid\r\n'
    data = edge + head + file.data + b"\r\n" + edge + other + edge + b"--\r\n"
    return data, "multipart/form-data; boundary=soak-7f3a9c"


def send(url: str, file: File, form: str, tally: Tally) -> float:
    """Send a file and judge what comes back.

    Returns:
        Seconds after which the server asks to be called again; 0 where it did not.
    """
    data, kind = body(file, form)
    request = urllib.request.Request(f"{url}/predict", data, {"Content-Type": kind}, method="POST")
    began = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:  # nosec B310  # loopback
            status, headers, text = response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        with error:
            status, headers, text = error.code, error.headers, error.read()
    except (OSError, ValueError) as error:
        tally.note("none", "no request is lost", f"{file.name}: {error}", time.monotonic() - began)
        return 0.0
    promise, words = judge(file, form, status, headers, text)
    tally.note(str(status), promise, f"{file.name} as {form}: {status}, {words}", time.monotonic() - began)
    return float(headers["Retry-After"]) if status in BUSY and not promise else 0.0


def judge(file: File, form: str, status: int, headers, text: bytes) -> tuple[str | None, str]:
    """The promise that an answer breaks, or `None`, and what is wrong with it."""
    words = text[:200].decode(errors="replace")
    try:
        said = json.loads(text)
    except ValueError:
        return "answers are as documented", f"no JSON: {words!r}"
    if status in BUSY:
        honest = isinstance(said, dict) and said.get("error") and (headers["Retry-After"] or "").isdecimal()
        return (None, "") if honest else ("only busy is said besides", f"not an honest busy: {words!r}")
    if file.scores is None:
        return (None, "") if 400 <= status < 500 else ("broken files are refused", words)
    if status != 200:
        return "only busy is said besides", words
    try:
        found = {row["label"]: row["score"] for row in said}
    except (TypeError, KeyError):
        return "answers are as documented", words
    if not _agree(found, file.scores[form], TOLERANCE):
        return "scores are those of the same bytes offline", f"{found}, not {file.scores[form]}"
    return None, ""


def soak(
    url: str, files: Sequence[File], users: int, seconds: float, seed: int, tally: Tally, wait: bool
) -> None:
    """Let users send files, one after the other each, until the time is up.

    Args:
        wait: Whether they come back when they are told to, and not at once.
    """
    whole = [file for file in files if file.scores is not None]
    broken = [file for file in files if file.scores is None]
    gate = threading.Barrier(users)

    def user(number: int) -> None:
        rng = random.Random(f"{seed}-{number}")
        gate.wait()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            file = rng.choice(broken if rng.random() < BROKEN_SHARE else whole)
            later = send(url, file, rng.choice(FORMS), tally)
            if wait and later:
                time.sleep(min(later, max(0.0, end - time.monotonic())))

    with ThreadPoolExecutor(users) as pool:
        for future in [pool.submit(user, number) for number in range(users)]:
            future.result()


def hang_up(url: str, file: File, n: int) -> None:
    """Send a file over `n` connections and close each without reading the answer."""
    address = re.fullmatch(r"http://([^:/]+):(\d+)", url).groups()
    head = f"POST /predict HTTP/1.1\r\nHost: {address[0]}\r\nContent-Type: {file.kind}\r\nContent-Length: {len(file.data)}\r\n\r\n"
    connections = [socket.create_connection((address[0], int(address[1])), PATIENCE) for _ in range(n)]
    for connection in connections:
        with contextlib.suppress(OSError):  # refused before it was read
            connection.sendall(head.encode() + file.data)
    for connection in connections:
        connection.close()


def lone(url: str, file: File, tally: Tally) -> float:
    """Seconds that one request takes when nobody else sends any."""
    began = time.monotonic()
    send(url, file, "file", tally)
    return time.monotonic() - began


def recovery(url: str, file: File, calm: float, tally: Tally) -> float | None:
    """Seconds until a lone request is served in at most twice the time that it takes in calm, and a tenth of a second.

    Returns:
        `None` where that does not come to pass.
    """
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE:
        before = tally.counts["200"]
        took = lone(url, file, tally)
        if tally.counts["200"] > before and took <= 2 * calm + 0.1:
            return time.monotonic() - began
        time.sleep(0.05)
    return None


class Memory:
    """Samples what a process and its children hold, in MiB, once a second while it is open."""

    def __init__(self, pid: int, every: float = 1.0):
        self.samples: list[tuple[float, float]] = []
        self._pid, self._every = pid, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        began = time.monotonic()
        while True:
            if (held := resident(self._pid)) is not None:
                self.samples.append((time.monotonic() - began, held))
            if self._stop.wait(self._every):
                return


def resident(pid: int) -> float | None:
    """MiB that a process and its children hold; `None` where the system does not say so as Linux does."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return None
    of_children = [resident(int(child)) or 0.0 for text in children for child in text.split()]
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20 + sum(of_children)


def slope(samples: Sequence[tuple[float, float]], settled: float) -> dict | None:
    """MiB a minute after `settled` seconds, by least squares with a 95 % interval, or `None` with too few samples.

    Samples that follow on each other are alike; the line is drawn through the means of blocks, which are less so.
    """
    import numpy as np
    from scipy import stats

    kept = np.asarray([sample for sample in samples if sample[0] >= settled])
    if len(kept) < ENOUGH:
        return None
    means = np.array([block.mean(axis=0) for block in np.array_split(kept, BLOCKS)])
    line = stats.linregress(means[:, 0] / 60, means[:, 1])
    middle, half = float(line.slope), float(stats.t.ppf(0.975, BLOCKS - 2) * line.stderr)
    return {"mib_per_minute": middle, "low": middle - half, "high": middle + half}


def measure(server, files: Sequence[File], options) -> dict:
    """Run the soak, the overload and the recovery against a page.

    Returns:
        The report; `promises` says of each whether it was kept.
    """
    whole = [file for file in files if file.scores is not None]
    tally, flood, alone = Tally(), Tally(), Tally()
    calm = statistics.median(lone(server.url, whole[0], alone) for _ in range(5))
    began = time.monotonic()
    settling = 60 * (options.minutes if options.settling is None else options.settling)
    with Memory(server.pid) as memory:
        seconds = settling + 60 * options.minutes
        soak(server.url, files, options.users, seconds, options.seed, tally, wait=True)
    lasted = time.monotonic() - began
    burst = min(10.0, 60 * options.minutes)
    soak(server.url, files, 3 * options.users, burst, options.seed + 1, flood, wait=False)
    hang_up(server.url, max(whole, key=lambda file: len(file.data)), options.users)
    recovered = recovery(server.url, whole[0], calm, alone)
    growth = slope(memory.samples, settling)
    tallies = (tally, flood, alone)
    broken = sum((one.broken for one in tallies), Counter())
    promises = {name: not broken[name] for name in PROMISES}
    promises["a lone request is served as before"] = recovered is not None and recovered <= RECOVERY
    if growth is not None:
        promises["memory does not grow"] = growth["low"] <= GROWTH
    held = [held for _, held in memory.samples]
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
            "first_mib": held[0] if held else None,
            "last_mib": held[-1] if held else None,
            "most_mib": max(held, default=None),
            "samples": [round(one, 1) for one in held],
            "slope": growth,
        },
        "files": len(files),
        "told_apart": told_apart(files),
        "broken": dict(broken),
        "problems": [problem for one in tallies for problem in one.problems][:20],
        "promises": promises,
        "seed": options.seed,
    }


PROMISES = (
    "no request is lost",
    "answers are as documented",
    "scores are those of the same bytes offline",
    "broken files are refused",
    "only busy is said besides",
)


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {f"p{share}": ordered[min(len(ordered) - 1, share * len(ordered) // 100)] for share in (50, 95, 99)}


def _seconds(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.2f} s"


def table(report: dict) -> str:
    """The report in a few lines."""
    memory, growth = report["memory"], report["memory"]["slope"]
    rows = [
        ("requests", f"{report['requests']:,} in {report['seconds']:.0f} s, {report['per_second']:.1f}/s"),
        ("answers", ", ".join(f"{status}: {n:,}" for status, n in report["answers"].items())),
        (
            "latency",
            ", ".join(f"{name} {seconds:.2f} s" for name, seconds in report["latency_seconds"].items()),
        ),
        ("overload", ", ".join(f"{status}: {n:,}" for status, n in report["overload"]["answers"].items())),
        ("recovery", f"{_seconds(report['recovery_seconds'])} (alone in calm: {report['calm_seconds']:.2f} s)"),
    ]
    if memory["samples"]:
        rows.append(
            (
                "memory",
                f"{memory['first_mib']:.0f} → {memory['last_mib']:.0f} MiB, most {memory['most_mib']:.0f}",
            )
        )
    if growth:
        rows.append(
            (
                "growth",
                f"{growth['mib_per_minute']:+.2f} MiB a minute ({growth['low']:+.2f} to {growth['high']:+.2f})",
            )
        )
    rows += [(name, "kept" if kept else "BROKEN") for name, kept in report["promises"].items()]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {words}" for name, words in rows)


def main(arguments: list[str] | None = None) -> int:
    """Start a Space, load it, and say what stood; 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--users", type=int, default=64, help="How many send at once; three times as many later."
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="How long.")
    parser.add_argument(
        "--settling", type=float, help="Minutes before, in which memory may still grow (default: as many)."
    )
    parser.add_argument("--pictures", type=int, default=60, help="How many different ones.")
    parser.add_argument("--seed", type=int, default=0, help="Of who sends what.")
    parser.add_argument("--report", default="soak.json", help="JSON file of the figures.")
    options = parser.parse_args(arguments)
    from benchmarks.serving import serving

    from realfake.detector import Detector

    os.environ.pop("REALFAKE_MODEL", None)  # the bundled one, as offline
    with tempfile.TemporaryDirectory() as work:
        files = draw_files(Detector.from_pretrained(device="cpu"), Path(work) / "drawn", options.pictures)
        with serving(Path(work), "app.py") as server:
            report = measure(server, files, options)
            report["tracebacks"] = server.log.read_text(errors="replace").count("Traceback")
    Path(options.report).write_text(json.dumps(report, indent=2) + "\n")
    print(table(report))
    for problem in report["problems"]:
        print(problem, file=sys.stderr)
    return 0 if all(report["promises"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
