"""Memory that a batch has given back is kept for the next one.

A network on the CPU asks for the same large blocks at every layer of every batch. By glibc's defaults each of them is mapped
from the system, cleared by it page by page, and unmapped again: for a MobileNetV2 on 288 x 288 pixels that takes longer than
the network itself (`scripts/benchmark.py --only allocator`).
"""

import ctypes
import threading
import time

# Of malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
# Bytes: larger blocks are mapped as before, and as much as this may lie idle.
KEPT = 2**30
_STEP = 2**26


def keep_freed_memory() -> bool:
    """Set the process's allocator so, whoever asks it. Calling it again changes nothing.

    One arena serves all threads, because only the main one can hold blocks of any size.

    Returns:
        Whether there was something to set: on Linux with glibc.
    """
    mallopt = _function("mallopt")
    if mallopt is None:
        return False
    settings = ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, KEPT), (_TRIM_THRESHOLD, KEPT), (_TOP_PAD, _STEP))
    return all([mallopt(name, value) == 1 for name, value in settings])


def give_back_regularly(seconds: float = 60.0) -> bool:
    """Hand free memory back to the system once in a while, from a thread of its own: for a process that serves for days.

    What is kept between batches lies around what other threads hold, and such gaps add up for a quarter of an hour before they
    are all in use. A minute's worth of them costs little to ask for again.

    Returns:
        Whether there is something to call: on Linux with glibc.
    """
    trim = _function("malloc_trim")
    if trim is None:
        return False

    def run() -> None:
        while True:
            time.sleep(seconds)
            trim(0)

    threading.Thread(target=run, name="memory", daemon=True).start()
    return True


def _function(name: str):
    """A function of the C library, or `None` where it is another one, or Windows."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
