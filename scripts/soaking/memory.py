"""The memory of a process under load, and its growth."""

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

BLOCKS = 10
# Fewer samples give no slope.
MIN_SAMPLES = 60


class Memory:
    """Samples the memory of a process and its children, in MiB, in a `with` block."""

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
            if (used := resident(self._pid)) is not None:
                self.samples.append((time.monotonic() - began, used))
            if self._stop.wait(self._every):
                return


def resident(pid: int) -> float | None:
    """Return the MiB of a process and its children; `None` if the system does not report them."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return None
    of_children = [resident(int(child)) or 0.0 for text in children for child in text.split()]
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20 + sum(of_children)


def slope(samples: Sequence[tuple[float, float]], settled: float) -> dict | None:
    """Fit MiB per minute after `settled` seconds, by least squares, with a 95 % interval.

    The line is fitted to means of blocks, because consecutive samples are correlated. Returns
    `None` if there are too few samples.
    """
    kept = np.asarray([sample for sample in samples if sample[0] >= settled])
    if len(kept) < MIN_SAMPLES:
        return None
    means = np.array([block.mean(axis=0) for block in np.array_split(kept, BLOCKS)])
    line = stats.linregress(means[:, 0] / 60, means[:, 1])
    middle, half = float(line.slope), float(stats.t.ppf(0.975, BLOCKS - 2) * line.stderr)
    return {"mib_per_minute": middle, "low": middle - half, "high": middle + half}
