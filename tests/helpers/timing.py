"""How long something takes at least: what else the machine or the process does must not make a test fail."""

import gc
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def least(function: Callable[[], T], times: int = 3) -> tuple[float, T]:
    """Seconds of processor time that this thread needs for a call, the least of a few, and what the last one returns.

    Without the collector of garbage, whose work depends on all that the process holds.
    """
    took = []
    gc.disable()
    try:
        for _ in range(times):
            begun = time.thread_time()
            result = function()
            took.append(time.thread_time() - begun)
    finally:
        gc.enable()
    return min(took), result
