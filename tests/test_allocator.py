"""Memory: freed blocks are reused, all threads share them, and an idle page returns them."""

import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from realfake import runtime

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")

_START = """
import os, resource, sys, threading, time
import numpy as np
from realfake.runtime import keep_freed_memory, keep_memory_low

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

def in_threads(count, work):
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

if sys.argv[1] == "keep":
    assert keep_freed_memory() and keep_freed_memory()
"""
# Page faults of freeing and allocating blocks of 40 MiB, outside the main thread.
_FAULTS = """
def work():
    np.ones(10 * 2**20, np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(10 * 2**20, np.float32)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
in_threads(1, work)
"""
# MiB that stay after 12 threads have each used 48 MiB in small blocks, some of which remain.
_THREADS = """
before = resident()
kept = []
gate = threading.Barrier(12)
turn = threading.Lock()
def work():
    np.ones(2**12, np.float32)
    gate.wait()  # all threads have a heap by now
    with turn:
        blocks = [np.ones(2**14, np.float32) for _ in range(768)]
        kept.append(blocks[-1])
        del blocks
    gate.wait()
in_threads(12, work)
print(resident() - before)
"""
# MiB that stay after 400 MiB were freed, while the process is idle or busy.
_LOW = """
before = resident()
blocks = [np.ones(2**20, np.float32) for _ in range(100)]
last = np.ones(2**10)  # keeps the end of the heap in use
del blocks
limit = sys.maxsize if sys.argv[2] == "idle" else 0
keep_memory_low(limit, every=0.2)
end = time.monotonic() + 60
sum(range(40_000_000))  # a second of work
while resident() - before > 50 and time.monotonic() < end:
    sum(range(2_000_000)) if sys.argv[2] == "busy" else time.sleep(0.2)
print(resident() - before)
"""


def measured(code: str, *arguments: str) -> float:
    command = [sys.executable, "-c", _START + code, *(arguments or ["keep"])]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(process.stdout)


def test_freed_blocks_are_reused():
    # With huge pages there are fewer faults without it, too.
    assert measured(_FAULTS) <= measured(_FAULTS, "leave") / 4


def test_threads_share_one_heap():
    assert measured(_THREADS) < measured(_THREADS, "leave") / 2


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_a_server_returns_its_free_memory(state):
    assert measured(_LOW, "keep", state) < 50


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_other_systems_are_left_unchanged(monkeypatch, error):
    def refuse(name):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert runtime.keep_freed_memory() is False
    assert runtime.give_back_memory() is False
