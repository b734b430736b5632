"""Requests that arrive together share a forward pass.

The HTTP routes decode images on threads of their own; one thread here feeds the model. It takes all
items that arrived during the last batch and does not wait for more. Its queue is bounded: further
callers are refused at once.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
import torch

# With 16, two cores serve 40 % fewer requests than with 8, because decoding waits for the model
# (`scripts/benchmark.py --only space-users`).
MAX_BATCH = 8
MAX_WAITING = 64


class Busy(RuntimeError):
    """The queue is full."""


class Batcher:
    """Run a function of a batch for callers that have one item each.

    Args:
        forward: From `(n, 3, height, width)` to `(n, labels)`, such as
            [`~realfake.detector.Detector.forward`].
        max_batch: Views in one call, unless a single item has more.
        max_waiting: Items that may wait.

    Attributes:
        batches: The number of calls so far.
        items: The number of items in these calls.
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
        """Add the views of one image, `(views, 3, height, width)`, to the queue.

        Returns:
            A future of the mean of their rows, of shape `(labels,)`. A cancelled item is not
            computed.

        Raises:
            Busy: The queue is full.
        """
        future: Future = Future()
        try:
            self._queue.put_nowait((pixels, future))
        except queue.Full:
            raise Busy(f"{self._queue.maxsize} images are waiting; try again later.") from None
        # Started with the first item: a thread does not survive the fork of ZeroGPU.
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
            views = len(batch[0][0])
            while views < self.max_batch and not self._queue.empty():
                batch.append(self._queue.get_nowait())  # this thread is the only reader
                views += len(batch[-1][0])
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
                    ends = np.cumsum([len(pixels) for pixels, _ in group])[:-1]
                    for (_, future), own in zip(group, np.split(rows, ends), strict=True):
                        future.set_result(own.mean(axis=0))


def _by_shape(items: list[tuple[torch.Tensor, Future]]) -> list[list[tuple[torch.Tensor, Future]]]:
    # Some processors keep an image's own size.
    groups: dict[tuple, list] = {}
    for item in items:
        groups.setdefault(tuple(item[0].shape[1:]), []).append(item)
    return list(groups.values())
