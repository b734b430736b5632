"""Threads that compute by themselves, each on its own images: this scales where many threads on one image do not."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from threadpoolctl import threadpool_limits


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
