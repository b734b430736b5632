"""Fuzz test: send damaged files through decoding, prediction, explanation and provenance.

    PYTHONPATH=tests python -m helpers.bad_files /tmp/fuzz      # files to damage, a tiny model
    python scripts/fuzz.py /tmp/fuzz/files --model /tmp/fuzz/tiny --inputs 100000 --processes 2 \
        --report fuzz.json

An input is determined by the seed and its number. It fails if it takes too much time or memory,
ends the process, or raises anything but a one-line error. Failed inputs are kept in a folder. The
same command continues an interrupted run; `--minutes` ends a run early. The report counts all runs.
"""

import argparse
import json
import multiprocessing
import os
import struct
import sys
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

BLOCK = 250
# Numbers at which integers overflow or change sign.
EDGES = (
    *(0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF),
    *(0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF),
)
# Seconds from the start of a process to its first input, for imports and the checkpoint.
STARTUP = 300.0
# Allowed clock time per second of CPU time. The machine may be busy with other work, and an input
# that waits uses no CPU time.
CLOCK = 4
# States of a process that is not working on an input.
IDLE, STARTING = -1, -2


def mutated(files: list[bytes], seed: int, number: int) -> bytes:
    """Return input `number` of a run: one of the files, damaged in one to four ways."""
    rng = np.random.default_rng([seed, number])
    data = bytearray(files[rng.integers(len(files))])
    for _ in range(rng.integers(1, 5)):
        if len(data) < 8:
            break
        # Mostly in the headers, where decoders fail.
        reach = min(len(data), int(rng.choice([64, 512, len(data)])))
        place = int(rng.integers(reach))
        match int(rng.integers(9)):
            case 0:
                del data[place:]
            case 1:
                data[place] ^= 1 << int(rng.integers(8))
            case 2:
                data[place] = int(rng.choice([0, 0xFF, 0x7F, 0x80, int(rng.integers(256))]))
            case 3:
                form = str(rng.choice(["<H", ">H", "<I", ">I"]))
                value = EDGES[rng.integers(len(EDGES))] & (2 ** (8 * struct.calcsize(form)) - 1)
                data[place : place + struct.calcsize(form)] = struct.pack(form, value)
            case 4:
                del data[place : place + int(rng.integers(1, 64))]
            case 5:
                data[place:place] = rng.bytes(int(rng.integers(1, 64)))
            case 6:
                other = int(rng.integers(len(data)))
                data[place:place] = data[other : other + int(rng.integers(1, 4096))]
            case 7:
                donor = files[rng.integers(len(files))]
                cut = int(rng.integers(max(1, len(donor))))
                data[place:] = donor[cut:]
            case 8:
                data += files[rng.integers(len(files))]
    # Half of the PNG files get valid checksums; otherwise decoders stop at the checksum.
    return repaired(bytes(data)) if rng.random() < 0.5 else bytes(data)


def repaired(data: bytes) -> bytes:
    """Return a PNG file with valid checksums, or another file unchanged."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    fixed, position = bytearray(data), 8
    while position + 12 <= len(data):
        end = position + 8 + struct.unpack_from(">I", data, position)[0]
        if end + 4 > len(data):
            break
        struct.pack_into(">I", fixed, end, zlib.crc32(data[position + 4 : end]))
        position = end + 4
    return bytes(fixed)


def pass_through(detector, data: bytes, name: str = "upload.jpg") -> str:
    """Process one file like an upload.

    Returns:
        `"answered"` or `"refused"`.

    Raises:
        AssertionError: The answer or the error message is invalid.
        MemoryError: There is not enough memory. Any other exception is a fault, too.
    """
    from realfake.imaging.decode import open_image
    from realfake.provenance.content_credentials import TOO_MUCH_MEMORY
    from realfake.provenance.reading import read_provenance

    findings = read_provenance(data).to_dict()["findings"]
    # A lack of memory must not be counted as a damaged file.
    if TOO_MUCH_MEMORY in [finding["fields"].get("reason") for finding in findings]:
        raise MemoryError(TOO_MUCH_MEMORY)
    _expect(len(findings) == 4 and json.dumps(findings), "four findings that are valid JSON")
    try:
        image = open_image({"bytes": data, "path": name})
    except MemoryError:  # before the next clause: OutOfMemory is a ValueError, too
        raise
    except (ValueError, OSError) as error:
        message = str(error)
        _expect(
            "\n" not in message and message.startswith(name) and len(message) < 400,
            f"one line, not {message!r}",
        )
        return "refused"
    prediction = detector.predict(image)
    _expect(
        abs(sum(prediction.probabilities.values()) - 1) < 1e-6,
        f"probabilities, not {prediction.probabilities}",
    )
    explanation = detector.explain(image)
    _expect(explanation.heatmap.shape == image.size[::-1], "a map with the size of the image")
    _expect(not np.isinf(explanation.heatmap).any(), "a finite map")
    _expect(max(explanation.overlay().size) >= min(max(image.size), 1024), "a picture of the map")
    return "answered"


def _expect(condition: object, expected: str) -> None:
    if not condition:
        raise AssertionError(f"expected {expected}")


def work(options, todo, results, state) -> None:
    """Process blocks of inputs. `state` tells the main process the current input and its start."""
    import resource
    import warnings

    os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1")
    import torch

    from realfake.detector import Detector

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    # libtiff writes warnings to stderr.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    files = read_files(options.files)
    detector = Detector.from_pretrained(options.model, device="cpu")
    pass_through(detector, files[0])  # imports the remaining modules
    size = Path("/proc/self/statm")
    if size.is_file():
        used = int(size.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        # Protects the machine. Twice the limit, because a C library without memory reports a
        # damaged file, which would hide the failure.
        resource.setrlimit(resource.RLIMIT_AS, (used + 2 * options.memory * 2**20,) * 2)
    trial = Trial(options, files, lambda data: pass_through(detector, data), state)
    while (block := todo.get()) is not None:
        results.put(trial.run(*block))


def peak_mib() -> int:
    """Return the peak memory of this process."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) // 1024
    import resource

    # Not on Linux, where this includes the peak of the parent process.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


class Trial:
    """Processes inputs one by one, and measures the time and memory of each."""

    def __init__(self, options, files: list[bytes], attempt: Callable[[bytes], str], state):
        self.options, self.files, self.attempt, self.state = options, files, attempt, state
        self.base = self.peak = peak_mib()

    def run(self, start: int, stop: int) -> dict:
        """Process inputs `start` to `stop` and return a line of the log."""
        counts, faults, slowest = Counter(), [], (0.0, -1)
        for number in range(start, stop):
            self.state[0], self.state[1] = number, time.monotonic()
            begun = time.process_time()
            data = mutated(self.files, self.options.seed, number)
            try:
                counts[self.attempt(data)] += 1
            except BaseException as error:
                last = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{Path(last.filename).name}:{last.lineno}"
                kind = f"{type(error).__name__}: {error}"[:300]
                faults.append({"input": number, "fault": kind, "where": where})
            took, waited = time.process_time() - begun, time.monotonic() - self.state[1]
            slowest = max(slowest, (took, number))
            if took > self.options.seconds:
                faults.append({"input": number, "fault": f"took {took:.1f} s of CPU"})
            elif waited > CLOCK * self.options.seconds:
                faults.append({"input": number, "fault": f"took {waited:.1f} s by the clock"})
            grown = self._grown()
            if grown is not None:
                faults.append({"input": number, "fault": f"memory grew by {grown:,} MiB"})
        self.state[0] = IDLE
        return {
            "start": start,
            "stop": stop,
            "counts": counts,
            "faults": faults,
            "slowest": slowest,
            "grown_mib": self.peak - self.base,
        }

    def _grown(self) -> int | None:
        """Return the MiB of growth if the last input raised the peak beyond the limit."""
        before, self.peak = self.peak, peak_mib()
        grown = self.peak - self.base
        return grown if self.peak > before and grown > self.options.memory else None


def read_files(folder: str | Path) -> list[bytes]:
    """Return the files to damage."""
    files = [path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()]
    if not files:
        raise ValueError(
            f"{folder} has no files to damage; write some with: PYTHONPATH=tests python -m "
            "helpers.bad_files FOLDER"
        )
    return files


class Worker:
    """A process that processes blocks of inputs, as the main process sees it."""

    def __init__(self, options, blocks: list):
        context = multiprocessing.get_context("spawn")
        self.state = context.Array("d", [STARTING, time.monotonic()])
        self.todo, self.results = context.Queue(), context.Queue()
        for block in blocks:
            self.todo.put(block)
        self.todo.put(None)
        self.left = list(blocks)
        self.started = time.monotonic()
        arguments = (options, self.todo, self.results, self.state)
        self.process = context.Process(target=work, args=arguments, daemon=True)
        self.process.start()

    def fault(self, seconds: float) -> tuple[int, str] | None:
        """Return the input at which the process died or hangs, and the reason."""
        number, since = int(self.state[0]), self.state[1]
        if not self.process.is_alive():
            reason = f"the process ended with status {self.process.exitcode}"
            return (number, reason) if self.left else None
        if number >= 0 and time.monotonic() - since > CLOCK * seconds:
            return number, f"no answer for {CLOCK * seconds:g} s"
        if number == STARTING and time.monotonic() - self.started > STARTUP:
            return number, "did not start"
        return None


def run(options) -> dict:
    """Process all inputs, log the finished blocks, and return the report."""
    log = Path(options.log)
    settings = {"seed": options.seed, "files": zlib.crc32(b"".join(read_files(options.files)))}
    done: list[dict] = []
    if log.is_file():
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        if lines and lines[0] != settings:
            raise ValueError(
                f"{log} belongs to a run with other files or another seed; pass another --log."
            )
        done = lines[1:]
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(json.dumps(settings) + "\n")
    covered = {number for entry in done for number in range(entry["start"], entry["stop"])}
    blocks = []
    for start in range(0, options.inputs, BLOCK):
        missing = [
            number
            for number in range(start, min(start + BLOCK, options.inputs))
            if number not in covered
        ]
        if missing:  # a block ends where a process died
            blocks.append((missing[0], missing[-1] + 1))
    count = min(options.processes, max(1, len(blocks)))
    workers = [Worker(options, blocks[first::count]) for first in range(count)] if blocks else []
    begun, tried = time.monotonic(), 0

    def note(entry: dict) -> None:
        done.append(entry)
        with log.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    while any(worker.left for worker in workers):
        time.sleep(0.1)
        if options.minutes is not None and time.monotonic() - begun > 60 * options.minutes:
            for worker in workers:
                worker.process.kill()
            break
        for position, worker in enumerate(workers):
            fault = worker.fault(options.seconds)
            while not worker.results.empty():
                entry = worker.results.get()
                worker.left = [block for block in worker.left if block[0] != entry["start"]]
                tried += entry["stop"] - entry["start"]
                note(entry)
            if fault is None or not worker.left:
                continue
            number, reason = fault
            worker.process.kill()
            worker.process.join()
            start, stop = worker.left[0]
            if number < start or number >= stop:
                raise RuntimeError(
                    f"A process of the fuzzer failed: {reason}. Run with --processes 1."
                )
            # Cut the block there, and repeat the inputs before it.
            rest = [block for block in ((start, number), (number + 1, stop)) if block[0] < block[1]]
            note(
                {
                    "start": number,
                    "stop": number + 1,
                    "counts": {},
                    "faults": [{"input": number, "fault": reason}],
                    "slowest": (options.seconds, number),
                    "grown_mib": 0,
                }
            )
            workers[position] = Worker(options, rest + worker.left[1:])
        if tried and options.progress:
            print(
                f"\r{tried:,} inputs, {tried / (time.monotonic() - begun):.0f}/s",
                end="",
                file=sys.stderr,
            )
    for worker in workers:
        worker.process.join()
    return report(options, done, tried, time.monotonic() - begun)


def report(options, done: list[dict], tried: int, seconds: float) -> dict:
    """Sum up the blocks, and save the failed inputs."""
    faults = [fault for entry in done for fault in entry["faults"]]
    files = read_files(options.files)
    for fault in faults:
        Path(options.keep).mkdir(parents=True, exist_ok=True)
        (Path(options.keep) / f"{fault['input']}.bin").write_bytes(
            mutated(files, options.seed, fault["input"])
        )
    counts = sum((Counter(entry["counts"]) for entry in done), Counter())
    slowest = max((tuple(entry["slowest"]) for entry in done), default=(0.0, -1))
    return {
        "inputs": sum(entry["stop"] - entry["start"] for entry in done),
        "answered": counts["answered"],
        "refused": counts["refused"],
        "faults": faults,
        "slowest_seconds": round(slowest[0], 2),
        "slowest_input": slowest[1],
        "memory_grown_mib": max((entry["grown_mib"] for entry in done), default=0),
        "inputs_per_second": round(tried / seconds, 1) if tried else None,
        "seed": options.seed,
        "files": len(files),
        "limits": {
            "seconds": options.seconds,
            "clock_seconds": CLOCK * options.seconds,
            "memory_mib": options.memory,
        },
    }


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("files", help="folder of files to damage, see tests/helpers/bad_files.py")
    parser.add_argument(
        "--model", help="checkpoint (default: the bundled detector; a tiny model is faster)"
    )
    parser.add_argument("--inputs", type=int, default=100_000, help="number of inputs")
    parser.add_argument(
        "--minutes", type=float, help="stop after this many minutes; the same command continues"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the damage")
    parser.add_argument("--processes", type=int, default=2, help="number of processes")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="CPU time that an input may take"
    )
    parser.add_argument("--memory", type=int, default=3072, help="MiB that an input may add")
    parser.add_argument(
        "--log", default="fuzz/log.jsonl", help="log of finished inputs, to continue a run"
    )
    parser.add_argument("--keep", default="fuzz/faults", help="folder for failed inputs")
    parser.add_argument("--report", help="JSON file for the report")
    parser.add_argument(
        "--quiet", dest="progress", action="store_false", help="print only the report"
    )
    return parser


def main() -> int:
    """Run and print the report; return 1 after faults, 2 for a user's mistake."""
    options = parser().parse_args()
    try:
        found = run(options)
        text = json.dumps(found, indent=1)
        if options.report:
            Path(options.report).write_text(text + "\n")
    except (ValueError, OSError) as error:
        print(f"fuzz.py: error: {error}", file=sys.stderr)
        return 2
    print(f"\n{text}" if options.progress else text)
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
