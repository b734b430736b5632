"""The processes that `accelerate launch`, `torchrun` or Slurm started for one command.

Little is exchanged, at the start and at the end, so gloo over TCP serves with and without GPUs.
"""

import atexit
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
import torch.distributed

T = TypeVar("T")
# One process may finish long before another.
_TIMEOUT = timedelta(days=30)


@dataclass(frozen=True)
class ProcessGroup:
    """The process group, seen from this process.

    Args:
        rank: Number of this process, from 0.
        world_size: Number of processes.
        local_world_size: Number of processes on this machine.
        local_rank: Number of this process on this machine, from 0.
    """

    rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    local_rank: int = 0

    @classmethod
    def join(cls) -> "ProcessGroup":
        """Connect to the other processes, if the launcher's environment names any."""
        world_size = int(os.environ.get("WORLD_SIZE", 1))
        if world_size == 1:
            return cls()
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo", timeout=_TIMEOUT)
        local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        return cls(torch.distributed.get_rank(), world_size, local_world_size, local_rank)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def threads(self) -> int:
        """Return this process's share of the machine's cores."""
        return max(1, len(os.sched_getaffinity(0)) // self.local_world_size)

    def device(self) -> torch.device:
        """Return this process's GPU, or the CPU."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", self.local_rank % torch.cuda.device_count())

    def broadcast_from_first(self, make: Callable[[], T]) -> T:
        """Call a function in the first process and return its result in all of them.

        Args:
            make: Its result can be pickled.

        Raises:
            ValueError, OSError: `make` raised it; every process raises it, so that none waits.
        """
        if self.world_size == 1:
            return make()
        result: list = [None]
        if self.is_first:
            try:
                result = [make()]
            except (ValueError, OSError) as error:
                result = [error]
        torch.distributed.broadcast_object_list(result, src=0)
        if isinstance(result[0], (ValueError, OSError)):
            raise result[0]
        return result[0]

    def barrier(self) -> None:
        """Wait until all processes have reached this line."""
        if self.world_size > 1:
            torch.distributed.barrier()


def end(status: int) -> NoReturn:
    """End this process; if it belongs to a process group, without destroying the group.

    A gloo worker releases a collective's tensors some time after the collective returned. It then
    holds the group's mutex and waits for the interpreter's lock (GIL). At interpreter exit, Python
    3.11 to 3.13 ends such a thread with `pthread_exit`, which aborts the process. Destroying the
    group deadlocks: its destructor holds the GIL and waits for the mutex. So the exit handlers run,
    the streams are flushed, and `os._exit` ends the process.

    Args:
        status: The exit status.

    Raises:
        SystemExit: There is no process group.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        sys.exit(status)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
