"""Requests that arrive together share a forward pass.

Between the HTTP routes, which decode each request's image on their own threads, and the detector's model, which one thread
here feeds: it takes whatever has come in while the last batch ran, and waits for nobody. The queue is bounded; beyond it
callers are told at once, so that they can come back, instead of waiting for an answer that nobody reads any more.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
import torch

# Large enough for the model, small enough that one is decoded and answered while the next one runs: with 16, two cores serve
# three fifths of what they do with 8 (`scripts/benchmark.py --only space-users`).
MAX_BATCH = 8
MAX_WAITING = 64


class Busy(RuntimeError):
    """More is waiting than will be answered in time."""


class Batcher:
    """Runs a function of a batch for callers who have one item each.

    Args:
        forward: From `(n, 3, height, width)` to `(n, labels)`; [`~realfake.detector.Detector.forward`], which lets one
            caller at a time through.
        max_batch: Items in one call.
        max_waiting: Items that may wait.

    Attributes:
        batches: Forward passes so far.
        items: What went through them.
    """

    def __init__(
        self,
        forward: Callable[[torch.Tensor], np.ndarray],
        max_batch: int = MAX_BATCH,
        max_waiting: int = MAX_WAITING,
    ):
        self.forward = forward
        self.max_batch = max_batch
        self.batches = self.items = 0
        self._queue: queue.Queue[tuple[torch.Tensor, Future]] = queue.Queue(max_waiting)
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, pixels: torch.Tensor) -> Future:
        """Hand in one item of shape `(1, 3, height, width)`.

        Returns:
            A future of its row, `(labels,)`; cancelling it takes the item out of the queue.

        Raises:
            Busy: The queue is full.
        """
        future: Future = Future()
        try:
            self._queue.put_nowait((pixels, future))
        except queue.Full:
            raise Busy(f"{self._queue.maxsize} images are waiting already.") from None
        # Not before the first item: a process that forks, as ZeroGPU does, must not lose its thread in doing so.
        with self._start:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
                self._thread.start()
        return future

    @property
    def full(self) -> bool:
        """Whether the next item would be refused."""
        return self._queue.full()

    def _run(self) -> None:
        while True:
            batch = [self._queue.get()]
            while len(batch) < self.max_batch and not self._queue.empty():
                batch.append(self._queue.get_nowait())  # nobody else takes any
            wanted = [
                (pixels, future)
                for pixels, future in batch
                if future.set_running_or_notify_cancel()
            ]
            for group in _by_shape(wanted):
                self.batches += 1
                self.items += len(group)
                try:
                    rows = self.forward(torch.cat([pixels for pixels, _ in group]))
                except BaseException as error:
                    for _, future in group:
                        future.set_exception(error)
                else:
                    for (_, future), row in zip(group, rows, strict=True):
                        future.set_result(row)


def _by_shape(items: list[tuple[torch.Tensor, Future]]) -> list[list[tuple[torch.Tensor, Future]]]:
    """Inputs of a processor that keeps an image's own size cannot be stacked with others."""
    groups: dict[tuple, list] = {}
    for item in items:
        groups.setdefault(tuple(item[0].shape), []).append(item)
    return list(groups.values())
