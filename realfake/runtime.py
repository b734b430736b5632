"""The process's allocator, threads and end, and work with a time limit.

A network on the CPU allocates the same large blocks at every layer of every batch. By default,
glibc maps each block from the system and unmaps it again, which takes time
(`scripts/benchmark.py --only allocator`).
"""

import atexit
import contextlib
import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NoReturn, TypeVar

from threadpoolctl import threadpool_limits

T = TypeVar("T")

# From malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
# Larger blocks are mapped, and unmapped when they are freed: full-size pictures and maps. The
# largest block of a batch of 32 views in a ViT-B has 97 MiB.
LARGEST_KEPT = 2**27
# Bytes that may stay free at the end of the heap.
KEPT = 2**30
_STEP = 2**26
# Bytes above which a server returns its free memory at once, not only when it is idle.
RESIDENT_LIMIT = 2**31
# Share of a core below which a process counts as idle.
_IDLE = 0.1
_IDLE_SECONDS = 5.0
# CPU seconds after which there may be memory to return.
_WORKED = 0.5


def keep_freed_memory() -> bool:
    """Let the process reuse the memory that it frees, from one heap for all threads.

    With a heap for each thread, as glibc has by default, each would keep its own peak. Returns
    whether the allocator was set: on Linux with glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return False
    settings = {
        _ARENA_MAX: 1,
        _MMAP_THRESHOLD: LARGEST_KEPT,
        _TRIM_THRESHOLD: KEPT,
        _TOP_PAD: _STEP,
    }
    return all([mallopt(name, value) == 1 for name, value in settings.items()])


def give_back_memory() -> bool:
    """Return all free memory to the system; whether there was any, on Linux with glibc."""
    try:
        return ctypes.CDLL(None).malloc_trim(0) == 1
    except (AttributeError, OSError, TypeError):
        return False


def keep_memory_low(limit: int = RESIDENT_LIMIT, every: float = 1.0) -> threading.Thread:
    """Return free memory to the system when the process is idle or large, on a daemon thread.

    Args:
        limit: Bytes of resident memory above which the process counts as large.
        every: Seconds between two checks.
    """

    def run() -> None:
        idle, given_back = 0.0, 0.0
        while True:
            before = time.process_time()
            time.sleep(every)
            now = time.process_time()
            idle = idle + every if now - before < _IDLE * every else 0.0
            if now - given_back > _WORKED and (idle >= _IDLE_SECONDS or _resident() > limit):
                give_back_memory()
                given_back = time.process_time()

    thread = threading.Thread(target=run, name="memory", daemon=True)
    thread.start()
    return thread


def _resident() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch and NumPy compute on the calling thread only."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def lone_threads(workers: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads, each of which computes on one core.

    If the block fails, work that has not begun is dropped. The block ends when the pool's work has
    ended.

    Args:
        workers: *optional*. The number of threads, *defaults to* PyTorch's threads for one
            operation.

    Yields:
        The pool.
    """
    import torch

    workers = workers or torch.get_num_threads()
    # Each calling thread has its own setting.
    with one_thread(), ThreadPoolExecutor(workers, "compute", torch.set_num_threads, (1,)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def within(seconds: float | None, work: Callable[[], T]) -> T:
    """Return the result of work that cannot be interrupted, or abandon its thread.

    Args:
        seconds: The time limit; `None` for none.

    Raises:
        TimeoutError: The work takes longer. Otherwise the errors of `work`.
    """
    if seconds is None:
        return work()
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    # A daemon thread: endless work must not keep the program from ending.
    threading.Thread(target=run, name="time limit", daemon=True).start()
    if wait([result], seconds).not_done:
        raise TimeoutError(f"it takes longer than {seconds:g} s")
    return result.result()


def end(status: int) -> NoReturn:
    """End this process; if it belongs to a process group, without destroying the group.

    A gloo worker releases a collective's tensors some time after the collective returned. It then
    holds the group's mutex and waits for the interpreter's lock (GIL). At interpreter exit, Python
    3.11 to 3.13 ends such a thread with `pthread_exit`, which aborts the process. Destroying the
    group deadlocks: its destructor holds the GIL and waits for the mutex. So the exit handlers run,
    the streams are flushed, and `os._exit` ends the process.

    Raises:
        SystemExit: There is no process group.
    """
    torch = sys.modules.get("torch")
    if torch is None or not (
        torch.distributed.is_available() and torch.distributed.is_initialized()
    ):
        sys.exit(status)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
