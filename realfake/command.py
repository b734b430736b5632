"""What every command has around its work: the line that started it, the folder that it alone writes to, its last words.

Used by `train_hf.py` and the scripts. Nothing here waits for torch, which scripts on a corpus alone do without.
"""

import contextlib
import errno
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

VERSIONED = ("torch", "transformers", "datasets", "accelerate", "evaluate", "numpy", "pillow")
LOCK_NAME = ".lock"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def output_folder(folder: str | os.PathLike) -> Iterator[None]:
    """Create the folder of a command that may be several processes, and keep a second command out of it.

    Raises:
        OSError: As [`locked_folder`].
    """
    from accelerate import PartialState

    with locked_folder(folder) if PartialState().is_main_process else contextlib.nullcontext():
        yield


def check_empty(output: str | os.PathLike, option: str = "") -> Path:
    """Refuse an output folder that holds something besides a command's lock.

    Args:
        option: *optional*. The option that names the folder, where the command has another one.

    Returns:
        The folder as a path.

    Raises:
        ValueError: It holds something, or is a file.
    """
    output = Path(output)
    if output.exists() and (not output.is_dir() or {path.name for path in output.iterdir()} - {LOCK_NAME}):
        named = f"{output} of {option}" if option else f"{output}"
        raise ValueError(f"The output {named} is not empty; name another folder, or empty it first.")
    return output


@contextlib.contextmanager
def locked_folder(folder: str | os.PathLike) -> Iterator[None]:
    """Create a folder that this process alone writes to.

    Raises:
        OSError: Another process writes there, it cannot be created, or the disk is full.
    """
    from filelock import FileLock, Timeout
    from safetensors import SafetensorError

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # The system releases the lock when the process dies, however it dies.
    lock = FileLock(folder / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OSError(f"Another run is writing to {folder}; wait for it, or name another folder.") from None
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if _means_full_disk(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise
    finally:
        lock.release()


def _means_full_disk(error: Exception) -> bool:
    # Neither safetensors nor torch.save raises an OSError when the disk is full.
    text = str(error)
    return any(
        word in text for word in ("No space left", "Disk quota", "inline_container.cc", "PytorchStreamWriter")
    )


def check_least(options, **least: int) -> None:
    """Refuse numbers that are too small; options that were left out are not looked at.

    Args:
        least: `{option: its smallest value}`.

    Raises:
        ValueError: One of them is smaller.
    """
    for name, smallest in least.items():
        value = getattr(options, name)
        if value is not None and value < smallest:
            raise ValueError(f"--{name} must be at least {smallest}, not {value}.")


def report_failure(program: str, error: BaseException) -> int:
    """Print a user's mistake as one line and return the exit status 2."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        text = (
            f"The disk is full ({error.filename or 'no file named'}). Nothing complete was lost: free some space and "
            "give the same command again; it goes on from what is there."
        )
    # What happens to another process alone must not get lost, yet the line for people stands there once.
    who = "error" if _is_main_process() else f"process {os.environ['RANK']}"
    print(f"{program}: {who}: {' '.join(text.split())}", file=sys.stderr)
    return 2


def _is_main_process() -> bool:
    # The launchers say it in the environment, where it stands even if the processes never found each other.
    return int(os.environ.get("RANK", 0)) == 0


def versions() -> dict[str, str]:
    """Return the versions that a figure depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in VERSIONED}}


def command_line() -> str:
    """Return the command that started this process, without secrets, so that it can be given again from the project's folder."""
    script = Path(sys.argv[0])
    words = [f"scripts/{script.name}" if script.absolute().parent.name == "scripts" else script.name]
    secret = False
    for word in sys.argv[1:]:
        words.append("…" if secret else word)
        secret = word.split("=")[0] in ("--hub_token", "--token") and "=" not in word
        if word.startswith(("--hub_token=", "--token=")):
            words[-1] = word.split("=")[0] + "=…"
    if "ACCELERATE_MIXED_PRECISION" not in os.environ:
        return f"python {shlex.join(words)}"
    from accelerate import PartialState

    count, threads = PartialState().num_processes, os.environ.get("OMP_NUM_THREADS")
    processes = f" --multi_gpu --num_processes {count}" if count > 1 else ""
    return f"accelerate launch{processes}{f' --num_cpu_threads_per_process {threads}' if threads else ''} {shlex.join(words)}"
