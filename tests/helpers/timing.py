"""Lower bounds of running times, which other work on the machine does not change."""

import gc
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def least(function: Callable[[], T], times: int = 3) -> tuple[float, T]:
    """Return the least processor time of a few calls in this thread, and the last result.

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
