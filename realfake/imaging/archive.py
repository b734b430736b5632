"""Read the images of an untrusted ZIP archive one at a time, without unpacking it to disk.

The batch tab of the page uses this. The number of entries, the sizes, the compression ratios and
overlaps are checked before anything is decompressed. Sizes are checked again while reading, because
the archive's directory can be wrong. Names are never used as paths.
"""

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath

from realfake.imaging.decode import LIMITS

# Photographs rarely exceed a ratio of 2; text reaches 20, zip bombs 1,000.
MAX_RATIO = 100
# Limits of the directory per file: entries, as folders and system files are listed too, and bytes.
_LISTED, _LINE = 4, 2048
_CHUNK = 2**16
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_ARCHIVES = (*_ZIP, b"\x1f\x8b", b"7z\xbc\xaf\x27\x1c", b"Rar!", b"BZh", b"\xfd7zXZ\x00")
_ENCRYPTED = 0x1
# Files that operating systems add to archives.
_CLUTTER_FOLDER, _CLUTTER = "__MACOSX/", (".DS_Store", "Thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Bounds:
    """Limits of an archive: number of files, decompressed bytes of all files and of one file, and
    decompressed over compressed size of a file.
    """

    max_entries: int = 500
    max_total: int = 512 * 2**20
    max_entry: int = LIMITS.max_bytes
    max_ratio: int = MAX_RATIO


BOUNDS = Bounds()


@dataclass(frozen=True)
class Entry:
    """One file of an archive: its bytes, or the reason why it was refused, in one line.

    Its name is made printable and short.
    """

    name: str
    data: bytes | None = None
    problem: str | None = None


def is_archive(path: str | os.PathLike) -> bool:
    """Return whether the first bytes of a file are those of a ZIP archive."""
    try:
        with open(path, "rb") as file:
            return file.read(4) in _ZIP
    except OSError:
        return False


def read_archive(path: str | os.PathLike, bounds: Bounds = BOUNDS) -> Iterator[Entry]:
    """Read the files of a ZIP archive in order, without folders and system files.

    Yields:
        One [`Entry`] per file; [`count`] returns their number. A refused file (a nested archive, an
        encrypted or damaged file, a name that points outside) is an entry with a problem.

    Raises:
        ValueError: The whole archive is refused before anything is decompressed: not a ZIP file,
            too many or too large files, an extreme compression ratio, or overlapping entries.
    """
    with _opened(path, bounds) as (archive, entries):
        budget = bounds.max_total
        for info in entries:
            entry, used = _read(archive, info, bounds, budget)
            budget -= used
            yield entry


def count(path: str | os.PathLike, bounds: Bounds = BOUNDS) -> int:
    """Count the files that [`read_archive`] yields, or refuse the archive as it does."""
    with _opened(path, bounds) as (_, entries):
        return len(entries)


@contextmanager
def _opened(
    path: str | os.PathLike, bounds: Bounds
) -> Iterator[tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]]:
    name = _shown(os.path.basename(os.fsdecode(path)))
    try:
        _check_directory(path, name, bounds)
        with zipfile.ZipFile(path) as archive:
            yield archive, _checked(archive, name, os.path.getsize(path), bounds)
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, struct.error) as error:
        raise ValueError(
            f"{name} is damaged or not a ZIP archive ({_reason(error)}). Pack the images again."
        ) from error


def _check_directory(path: str | os.PathLike, name: str, bounds: Bounds) -> None:
    """Check the size of the directory before `zipfile` creates an object per entry."""
    with open(path, "rb") as file:
        try:
            # zipfile's own reader, so that both use the same record; it supports ZIP64.
            record = zipfile._EndRecData(file)  # type: ignore[attr-defined]
        except OSError:
            record = None
    if not record:
        return  # `zipfile` reports the error
    entries = record[zipfile._ECD_ENTRIES_TOTAL]  # type: ignore[attr-defined]
    size = record[zipfile._ECD_SIZE]  # type: ignore[attr-defined]
    if entries > _LISTED * bounds.max_entries:
        raise ValueError(
            f"{name} lists {entries:,} entries, too many for {bounds.max_entries:,} files. "
            "Split it."
        )
    # The number can be wrong; `zipfile` reads as many entries as there are bytes.
    if size > _LINE * bounds.max_entries:
        raise ValueError(
            f"{name} has a directory of {size:,} bytes, too large for "
            f"{bounds.max_entries:,} files. Split it."
        )


def _checked(
    archive: zipfile.ZipFile, name: str, size: int, bounds: Bounds
) -> list[zipfile.ZipInfo]:
    """Return the entries that are files, after checks that need only the directory."""
    entries = [
        info
        for info in archive.infolist()
        if not info.is_dir()
        and not info.filename.startswith(_CLUTTER_FOLDER)
        and PurePosixPath(info.filename).name not in _CLUTTER
    ]
    if len(entries) > bounds.max_entries:
        raise ValueError(
            f"{name} has {len(entries):,} files; the limit is {bounds.max_entries:,}. Split it."
        )
    total = sum(info.file_size for info in entries)
    if total > bounds.max_total:
        raise ValueError(
            f"{name} has {total / 2**20:,.0f} MiB when unpacked; the limit is "
            f"{bounds.max_total / 2**20:,.0f} MiB. Split it."
        )
    # Overlapping entries are another way to build a zip bomb (Fifield, "A better zip bomb", 2019).
    if sum(info.compress_size for info in entries) > size:
        raise ValueError(
            f"{name} is refused: its files overlap, as in a zip bomb. Pack the images again."
        )
    for info in entries:
        if info.file_size > max(bounds.max_ratio * max(info.compress_size, 1), _CHUNK):
            raise ValueError(
                f"{name} is refused: {_shown(info.filename)} grows more than "
                f"{bounds.max_ratio} times when unpacked, as in a zip bomb. "
                "Pack the images without it."
            )
    return entries


def _read(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, bounds: Bounds, budget: int
) -> tuple[Entry, int]:
    """Return one file and the number of bytes that were decompressed for it."""
    shown = _shown(info.filename)
    if _points_outside(info):
        return Entry(shown, problem="Its name points outside the archive; rename it."), 0
    if info.flag_bits & _ENCRYPTED:
        return Entry(shown, problem="It is encrypted; pack it without a password."), 0
    limit = min(bounds.max_entry, budget)
    data = bytearray()
    try:
        with archive.open(info) as file:
            while chunk := file.read(_CHUNK):
                data += chunk
                problem = None
                if len(data) > limit:
                    problem = f"It has over {limit / 2**20:,.0f} MiB; use a smaller version."
                elif data[:6].startswith(_ARCHIVES):
                    problem = "It is an archive inside the archive; unpack it first."
                if problem:
                    return Entry(shown, problem=problem), len(data)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError) as error:
        return Entry(shown, problem=f"It is damaged ({_reason(error)}); pack it again."), len(data)
    return Entry(shown, bytes(data)), len(data)


def _points_outside(info: zipfile.ZipInfo) -> bool:
    name = info.orig_filename.replace("\\", "/")
    if stat.S_ISLNK(info.external_attr >> 16) or "\0" in name:
        return True
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or ":" in (path.parts[0] if path.parts else "")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _shown(name: str) -> str:
    printable = "".join(c if c.isprintable() else "?" for c in name)
    return printable if len(printable) <= 120 else f"…{printable[-119:]}"
