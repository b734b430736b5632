"""The processes that `accelerate launch`, `torchrun` or Slurm started together for one command, and what they tell each other.

Only a few words pass between them, at the beginning and at the end, so gloo over TCP serves on any machine, with or without
GPUs.
"""

import gc
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed
import torch.distributed.nn  # before any group exists: its functions would hold the group as a default argument

T = TypeVar("T")
# One process may have finished long before another.
_PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class Processes:
    """This process among the others.

    Args:
        index: Which one it is, from 0.
        count: How many there are.
        on_this_machine: How many of them share this machine.
        local_index: Which one of these it is.
    """

    index: int = 0
    count: int = 1
    on_this_machine: int = 1
    local_index: int = 0

    @classmethod
    def join(cls) -> "Processes":
        """Meet the others, if the launcher's environment says that there are any."""
        count = int(os.environ.get("WORLD_SIZE", 1))
        if count == 1:
            return cls()
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
        local = int(os.environ.get("LOCAL_WORLD_SIZE", count))
        return cls(torch.distributed.get_rank(), count, local, int(os.environ.get("LOCAL_RANK", 0)))

    @property
    def first(self) -> bool:
        """Whether this is the one that speaks for all."""
        return self.index == 0

    def threads(self) -> int:
        """How many cores of this machine are this process's share."""
        return max(1, len(os.sched_getaffinity(0)) // self.on_this_machine)

    def device(self) -> torch.device:
        """The GPU that is this process's share, or the CPU."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", self.local_index % torch.cuda.device_count())

    def told_by_first(self, make: Callable[[], T]) -> T:
        """Let the first process make something that can be pickled, and hand it to all.

        Raises:
            ValueError, OSError: What `make` raised, in every process, so that none waits for one that has given up.
        """
        if self.count == 1:
            return make()
        told: list = [None]
        if self.first:
            try:
                told = [make()]
            except (ValueError, OSError) as error:
                told = [error]
        torch.distributed.broadcast_object_list(told, src=0)
        if isinstance(told[0], (ValueError, OSError)):
            raise told[0]
        return told[0]

    def wait(self) -> None:
        """Wait until all have come this far."""
        if self.count > 1:
            torch.distributed.barrier()

    def leave(self) -> None:
        """Part from the others."""
        if self.count > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def leave_process_group() -> None:
    """Part from the other processes, where there are any, and join the backend's threads.

    A gloo worker lets go of a collective's tensors some time after that collective has returned, and takes the
    interpreter's lock to do so. Where the interpreter is ending by then, Python 3.11 to 3.13 ends the asking thread
    with `pthread_exit`, which unwinds through a destructor of C++: "terminate called without an active exception",
    SIGABRT, in a process that has done all its work. Only the process group's destructor joins the workers, and
    `destroy_process_group` alone does not lead to it while the trainer, a cycle of references, still holds the group.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        gc.collect()
