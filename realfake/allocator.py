"""Memory that a batch has given back is kept for the next one.

A network on the CPU asks for the same large blocks at every layer of every batch. By glibc's defaults each of them is mapped
from the system, cleared by it page by page, and unmapped again: for a MobileNetV2 on 288 x 288 pixels that takes longer than
the network itself (`scripts/benchmark.py --only allocator`).
"""

import ctypes

# Of malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
# Bytes: larger blocks are mapped as before, and as much as this may lie idle.
KEPT = 2**30
_STEP = 2**26


def keep_freed_memory() -> bool:
    """Set the process's allocator so, whoever asks it. Calling it again changes nothing.

    Returns:
        Whether there was something to set: on Linux with glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return False
    settings = ((_MMAP_THRESHOLD, KEPT), (_TRIM_THRESHOLD, KEPT), (_TOP_PAD, _STEP))
    return all([mallopt(name, value) == 1 for name, value in settings])
