"""Files written whole or not at all; the JSON files that lie beside a checkpoint, read with a message that names the fix."""

import errno
import json
import os
from collections.abc import Mapping
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
    write_atomically(path, json.dumps(kept, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")
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
    if not isinstance(content, dict) or not all(isinstance(record, dict) for record in content.values()):
        raise ValueError(f"{path} does not hold one record per split; remove it and measure again.")
    return content
