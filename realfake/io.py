"""Atomic writes, locked output folders, and the lines that commands print and record."""

import contextlib
import errno
import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

VERSIONED = ("torch", "transformers", "datasets", "accelerate", "evaluate", "numpy", "pillow")
LOCK_NAME = ".lock"

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_TOKEN_OPTIONS = ("hub_token", "hf_token", "token")
_TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_TOKEN = re.compile(r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{8,}")
_HIDDEN = "…"

# Files


def write_atomically(path: str | os.PathLike, content: str | bytes) -> None:
    """Write a file, text as UTF-8: a crash leaves the old file or the new one, never a part."""
    path = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    # The process id keeps two processes from writing to the same temporary file.
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
    """Append a line to a file, or leave the file unchanged."""
    with open(path, "ab", buffering=0) as file:
        end = file.tell()
        data = (text + "\n").encode("utf-8")
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            file.truncate(end)
            raise


def apply_umask(folder: str | Path) -> None:
    """Give the files of a folder the permissions of the process's umask.

    safetensors creates its files readable by their owner alone.
    """
    umask = os.umask(0)
    os.umask(umask)
    for path in Path(folder).iterdir():
        if path.is_file():
            path.chmod(0o666 & ~umask)


# Records: a JSON file with one record per split


def write_record(path: str | os.PathLike, split: str, record: Mapping, indent: int = 2) -> dict:
    """Write one split's record into a file, and keep those of other splits with the same weights.

    Args:
        record: JSON values, with `checkpoint_sha256`.

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
    """Read a file of measurements, one record per split; `{}` if there is no file.

    Raises:
        ValueError: The file is not JSON, or does not hold one record per split.
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


# Folders


@contextlib.contextmanager
def output_folder(folder: str | os.PathLike) -> Iterator[None]:
    """Create and lock the output folder of a command that may run as several processes."""
    from accelerate import PartialState

    with locked_folder(folder) if PartialState().is_main_process else contextlib.nullcontext():
        yield


def check_empty(output: str | os.PathLike, option: str = "") -> Path:
    """Refuse an output folder that holds more than a lock.

    Args:
        option: *optional*. The option that names the folder, for the message.

    Returns:
        The folder as a path.

    Raises:
        ValueError: The folder is not empty, or is a file.
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
    """Create a folder and lock it for this process.

    Raises:
        OSError: Another process holds the lock, the folder cannot be created, or the disk is full.
    """
    from filelock import FileLock, Timeout
    from safetensors import SafetensorError

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # The system releases the lock when the process ends.
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


# Commands


def report_failure(error: BaseException) -> int:
    """Print a user's mistake as one line on stderr, and return the exit status 2."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        text = (
            f"The disk is full ({error.filename or 'no file named'}). Finished files are complete. "
            "Free some space and give the same command again to continue."
        )
    # An error of one process alone must be printed, but "error:" appears once.
    # The launchers set the environment even if the processes never connected.
    rank = int(os.environ.get("RANK", 0))
    kind = f"process {rank}" if rank else "error"
    print(f"realfake: {kind}: {_hide_tokens(' '.join(text.split()))}", file=sys.stderr)
    return 2


def versions() -> dict[str, str]:
    """Return the versions that a figure depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in VERSIONED}}


def redact(words: Sequence[str]) -> list[str]:
    """Replace access tokens in the words of a command line by `…`.

    A token is the value of a token option (`--hub_token X`, `--hub-token=X`, an abbreviation such
    as `--hub_tok X`, `HF_TOKEN=X`), or any text that looks like a token of the Hub (`hf_…`).
    """
    redacted, is_value = [], False
    for word in words:
        name, equals, _ = word.partition("=")
        is_option = _is_token_option(name)
        if is_value and not is_option:
            word = _HIDDEN
        elif is_option and equals:
            word = f"{name}={_HIDDEN}"
        redacted.append(_hide_tokens(word))
        is_value = is_option and not equals
    return redacted


def _is_token_option(name: str) -> bool:
    if not name.startswith("--"):
        return name in _TOKEN_VARIABLES
    option = name[2:].replace("-", "_")
    return bool(option) and any(known.startswith(option) for known in _TOKEN_OPTIONS)


def _hide_tokens(text: str) -> str:
    return _TOKEN.sub(f"hf_{_HIDDEN}", text)


def command_line() -> str:
    """Return the command that started this process, without tokens."""
    script, words = Path(sys.argv[0]), redact(sys.argv[1:])
    folder = script.absolute().parent.name
    if script.name in ("realfake", "__main__.py"):
        program = ["realfake"]
    else:
        program = ["python", f"scripts/{script.name}" if folder == "scripts" else script.name]
    if "ACCELERATE_MIXED_PRECISION" not in os.environ:
        return shlex.join([*program, *words])
    from accelerate import PartialState

    launch = ["accelerate", "launch"]
    count, threads = PartialState().num_processes, os.environ.get("OMP_NUM_THREADS")
    launch += ["--multi_gpu", "--num_processes", str(count)] if count > 1 else []
    launch += ["--num_cpu_threads_per_process", threads] if threads else []
    program = ["-m", "realfake"] if program[0] == "realfake" else program[1:]
    return shlex.join([*launch, *program, *words])
