"""The allocator's settings: that they hold where there is something to set, and change no answer."""

import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from realfake import allocator

ROOT = Path(__file__).parents[1]
# Page faults of handing back and asking again for blocks of 40 MiB, from a thread that is not the main one.
_FAULTS = """
import resource, sys, threading
import numpy as np
from realfake.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory() and keep_freed_memory()
def work():
    np.ones(10 * 2**20, np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(10 * 2**20, np.float32)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is no glibc to set")
def test_blocks_are_mapped_once():
    def faults(what: str) -> int:
        command = [sys.executable, "-c", _FAULTS, what]
        return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)

    # With huge pages there are fewer to begin with.
    assert faults("keep") <= faults("leave") / 4


_HELD = """
import time
import numpy as np
from pathlib import Path
from realfake.allocator import give_back_regularly, keep_freed_memory
def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) / 256
keep_freed_memory()
blocks = [np.ones(2**19, np.float32) for _ in range(200)]  # 400 MiB
kept = [blocks[number] for number in range(0, 200, 10)]  # so that there is no end of the heap to cut off
before = held()
del blocks
freed = held()
assert give_back_regularly(0.05)
time.sleep(2)
print(before, freed, held())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is no glibc to set")
def test_what_lies_idle_is_given_back():
    command = [sys.executable, "-c", _HELD]
    before, freed, after = map(
        float, subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    )
    assert freed > before - 20 and after < before - 300


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_other_systems_are_left_as_they_are(monkeypatch, error):
    def refuse(name):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert allocator.keep_freed_memory() is False and allocator.give_back_regularly() is False
