"""Memory that a batch has given back is kept for the next one.

A network on the CPU asks for the same large blocks at every layer of every batch. By glibc's defaults each of them is mapped
from the system, cleared by it page by page, and unmapped again: for a MobileNetV2 on 288 x 288 pixels that takes longer than
the network itself (`scripts/benchmark.py --only allocator`).
"""

import contextlib
import ctypes
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from threadpoolctl import threadpool_limits

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


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch and NumPy compute on the calling thread alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def lone_threads(workers: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads, each of which computes alone.

    Work that has not begun is dropped when the block fails; the block ends when the work under way has ended.

    Args:
        workers: *optional*. How many; *defaults to* as many as PyTorch would use for one operation.
    """
    workers = workers or torch.get_num_threads()
    # The number of threads of an operation is set by each thread that calls one.
    with one_thread(), ThreadPoolExecutor(workers, "compute", torch.set_num_threads, (1,)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
