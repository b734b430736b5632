"""The allocator's settings: that they hold where there is something to set, and change no answer."""

import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from realfake import runtime

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
        return int(
            subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        )

    # With huge pages there are fewer to begin with.
    assert faults("keep") <= faults("leave") / 4


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_other_systems_are_left_as_they_are(monkeypatch, error):
    def refuse(name):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert runtime.keep_freed_memory() is False
