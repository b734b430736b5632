"""The processes that `accelerate launch`, `torchrun` or Slurm started together for one command, and what they tell each other.

Only a few words pass between them, at the beginning and at the end, so gloo over TCP serves on any machine, with or without
GPUs.
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


def end(status: int) -> NoReturn:
    """End this process; where it belongs to a process group, without taking the group apart.

    A gloo worker lets go of a collective's tensors some time after that collective has returned: it then holds the
    group's mutex and asks for the interpreter's lock. Neither way of cleaning up is safe from that. Where the
    interpreter is ending, Python 3.11 to 3.13 ends the asking thread with `pthread_exit`, which unwinds through a
    destructor of C++ and aborts a process that has done all its work. Where the group is destroyed, its destructor holds
    the interpreter's lock and asks for the mutex: both wait for ever. So exit handlers run, what was printed is flushed,
    and the system takes back the rest.

    Args:
        status: The exit status.

    Raises:
        SystemExit: There is no process group; the interpreter ends as usual.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        sys.exit(status)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
