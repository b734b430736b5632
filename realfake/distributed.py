"""The end of a process that belongs to a process group of PyTorch."""

import atexit
import os
import sys
from typing import NoReturn

import torch
import torch.distributed


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
