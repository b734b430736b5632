"""Files written whole or not at all; the JSON files that lie beside a checkpoint, read with a message that names the fix."""

import contextlib
import errno
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8, so that a crash leaves the old one or the new one, never half of either."""
    path = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    # Two processes must not write to the same one.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def append_line(path: str | Path, text: str) -> None:
    """Add a line to a file. Where it does not fit on the disk, none of it stays: the next line must not hang on to half of it.

    Raises:
        OSError: It cannot be written.
    """
    with open(path, "ab", buffering=0) as file:
        end = file.tell()
        data = (text + "\n").encode("utf-8")
        try:
            written = file.write(data)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            file.truncate(end)
            raise


def write_record(path: str | os.PathLike, split: str, record: Mapping, indent: int = 2) -> dict:
    """Write one split's record into a file of them, beside those of other splits measured with the same weights.

    Args:
        record: What JSON holds, with `checkpoint_sha256`.

    Returns:
        The whole file, `{split: record}`.

    Raises:
        ValueError: As [`read_records`].
    """
    kept = {
        name: entry
        for name, entry in read_records(path).items()
        if entry.get("checkpoint_sha256") == record["checkpoint_sha256"]
    }
    kept[split] = record
    write_atomically(
        path, json.dumps(kept, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    )
    return kept


def read_records(path: str | os.PathLike) -> dict:
    """Read a file of measurements, one record per split; `{}` where there is none.

    Raises:
        ValueError: It is not JSON, or not one record per split.
    """
    path = Path(path)
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); remove it and measure again.") from None
    if not isinstance(content, dict) or not all(
        isinstance(record, dict) for record in content.values()
    ):
        raise ValueError(f"{path} does not hold one record per split; remove it and measure again.")
    return content


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
    if output.exists() and (
        not output.is_dir() or {path.name for path in output.iterdir()} - {LOCK_NAME}
    ):
        named = f"{output} of {option}" if option else f"{output}"
        raise ValueError(
            f"The output {named} is not empty; name another folder, or empty it first."
        )
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
        raise OSError(
            f"Another run is writing to {folder}; wait for it, or name another folder."
        ) from None
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
        word in text
        for word in ("No space left", "Disk quota", "inline_container.cc", "PytorchStreamWriter")
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
    words = [
        f"scripts/{script.name}" if script.absolute().parent.name == "scripts" else script.name
    ]
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
