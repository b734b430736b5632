"""The images in a ZIP archive from a stranger, one at a time, never unpacked onto the disk.

Between the page's upload of many images and the detector. What a hostile archive can do is bounded
before a byte is decompressed (number of entries, sizes, compression ratio, overlapping entries) and
again while reading, since its directory may lie. Names are only shown, never used as paths; one
that tries to lead somewhere is refused all the same.
"""

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from realfake.imaging.decode import LIMITS

# Of compressed archives of photographs hardly any goes beyond 2; text reaches 20, a bomb 1,000.
MAX_RATIO = 100
# Entries of the directory for each file that is read: folders count, and what operating systems
# leave behind.
_LISTED = 4
# Bytes of the directory for each file that is read.
_LINE = 2048
_CHUNK = 2**16
_ARCHIVES = (
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x1f\x8b",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!",
    b"BZh",
    b"\xfd7zXZ\x00",
)
_ENCRYPTED = 0x1
# What operating systems put beside people's files.
_CLUTTER = ("__MACOSX/", ".DS_Store", "Thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Bounds:
    """What is read of an archive.

    Args:
        max_entries (`int`, *optional*, defaults to 500): Files in it.
        max_total (`int`, *optional*, defaults to 512 MiB): Bytes of all files together,
            decompressed.
        max_entry (`int`, *optional*, defaults to the decoder's limit): Bytes of one file,
            decompressed.
        max_ratio (`int`, *optional*, defaults to 100): Decompressed by compressed size, of one
            file.
    """

    max_entries: int = 500
    max_total: int = 512 * 2**20
    max_entry: int = LIMITS.max_bytes
    max_ratio: int = MAX_RATIO


BOUNDS = Bounds()


@dataclass(frozen=True)
class Entry:
    """One file of an archive: its bytes, or why there are none.

    Attributes:
        name: Its name in the archive, printable and short.
        data: Its bytes; `None` where it was refused.
        problem: Why it was refused, one line.
    """

    name: str
    data: bytes | None = None
    problem: str | None = None


def is_archive(path: str | os.PathLike) -> bool:
    """Tell a ZIP archive by its first bytes, whatever the file is called."""
    try:
        with open(path, "rb") as file:
            return file.read(4) in _ARCHIVES[:2]
    except OSError:
        return False


def read_archive(path: str | os.PathLike, bounds: Bounds = BOUNDS) -> Iterator[Entry]:
    """Read an archive's files, in its order. Folders and what operating systems leave behind are
    passed over.

    Args:
        path: A ZIP file.
        bounds: What to read of it.

    Returns:
        An iterator of [`Entry`], whose length is not known before; see [`count`]. A single entry
        that is refused (a nested archive, an encrypted or damaged one, a name that leads elsewhere)
        is an entry with its problem.

    Raises:
        ValueError: The archive as a whole is refused, before any of it is decompressed: not a ZIP
            file, too many or too large files, a compression ratio that no image has, or entries
            that share their bytes.
    """
    name = _shown(os.path.basename(os.fsdecode(path)))
    try:
        _check_directory(path, name, bounds)
        with zipfile.ZipFile(path) as archive:
            entries = _checked(archive, name, os.path.getsize(path), bounds)
            budget = bounds.max_total
            for info in entries:
                entry, used = _read(archive, info, bounds, budget)
                budget -= used
                yield entry
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, struct.error) as error:
        raise ValueError(
            f"{name} is damaged or no ZIP archive ({_reason(error)}). Pack the images anew."
        ) from error


def count(path: str | os.PathLike, bounds: Bounds = BOUNDS) -> int:
    """Count the files that [`read_archive`] gives. It raises what that raises, and reads no file's
    content.
    """
    name = _shown(os.path.basename(os.fsdecode(path)))
    try:
        _check_directory(path, name, bounds)
        with zipfile.ZipFile(path) as archive:
            return len(_checked(archive, name, os.path.getsize(path), bounds))
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, struct.error) as error:
        raise ValueError(
            f"{name} is damaged or no ZIP archive ({_reason(error)}). Pack the images anew."
        ) from error


def _check_directory(path: str | os.PathLike, name: str, bounds: Bounds) -> None:
    """Bound the directory by the record at its end, before `zipfile` makes an object of each of a
    million entries.
    """
    with open(path, "rb") as file:
        try:
            # The archive's own reader, so that both look at the same record; it knows ZIP64 too.
            record = zipfile._EndRecData(file)
        except OSError:
            record = None
    if not record:
        return  # `zipfile` says what is wrong
    entries, size = record[zipfile._ECD_ENTRIES_TOTAL], record[zipfile._ECD_SIZE]
    if entries > _LISTED * bounds.max_entries:
        raise ValueError(
            f"{name} lists {entries:,} entries, more than {bounds.max_entries:,} files need. Split it."
        )
    # The number may lie; `zipfile` reads as many entries as there are bytes.
    if size > _LINE * bounds.max_entries:
        raise ValueError(
            f"{name} has a directory of {size:,} bytes, more than {bounds.max_entries:,} files need. Split it."
        )


def _checked(
    archive: zipfile.ZipFile, name: str, size: int, bounds: Bounds
) -> list[zipfile.ZipInfo]:
    """The entries that are files, after what can be known from the directory alone has been
    checked.
    """
    entries = [
        info for info in archive.infolist() if not info.is_dir() and not _is_clutter(info.filename)
    ]
    if len(entries) > bounds.max_entries:
        raise ValueError(
            f"{name} holds {len(entries):,} files, more than the limit of {bounds.max_entries:,}. Split it."
        )
    total = sum(info.file_size for info in entries)
    if total > bounds.max_total:
        raise ValueError(
            f"{name} holds {total / 2**20:,.0f} MiB when unpacked, more than the limit of "
            f"{bounds.max_total / 2**20:,.0f} MiB. Split it."
        )
    # Entries that overlap are the other way to pack much into little (Fifield, "A better zip bomb",
    # 2019).
    if sum(info.compress_size for info in entries) > size:
        raise ValueError(
            f"{name} is refused: its files share their bytes, as in a zip bomb. Pack the images anew."
        )
    for info in entries:
        if (
            info.file_size > bounds.max_ratio * max(info.compress_size, 1)
            and info.file_size > _CHUNK
        ):
            raise ValueError(
                f"{name} is refused: {_shown(info.filename)} grows more than {bounds.max_ratio} times when unpacked, as in "
                "a zip bomb. Pack the images without it."
            )
    return entries


def _read(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, bounds: Bounds, budget: int
) -> tuple[Entry, int]:
    """One file, and how many bytes were decompressed for it."""
    shown = _shown(info.filename)
    if _leads_elsewhere(info):
        return Entry(shown, problem="Its name leads out of the archive; it is not read."), 0
    if info.flag_bits & _ENCRYPTED:
        return Entry(shown, problem="It is encrypted; pack it without a password."), 0
    limit = min(bounds.max_entry, budget)
    data = bytearray()
    try:
        with archive.open(info) as file:
            while chunk := file.read(_CHUNK):
                data += chunk
                # The directory said less, or the entry would not have been opened.
                if len(data) > limit:
                    return Entry(
                        shown,
                        problem=f"It has over {limit / 2**20:,.0f} MiB; use a smaller version.",
                    ), len(data)
                if data[:6].startswith(_ARCHIVES):
                    return Entry(
                        shown, problem="It is an archive inside the archive, which is not opened."
                    ), len(data)
    except (
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        RuntimeError,
        EOFError,
        OSError,
    ) as error:
        return Entry(shown, problem=f"It is damaged ({_reason(error)}); pack it anew."), len(data)
    return Entry(shown, bytes(data)), len(data)


def _leads_elsewhere(info: zipfile.ZipInfo) -> bool:
    name = info.orig_filename.replace("\\", "/")
    if stat.S_ISLNK(info.external_attr >> 16) or "\0" in name:
        return True
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or ":" in (path.parts[0] if path.parts else "")


def _is_clutter(name: str) -> bool:
    return name.startswith(_CLUTTER[0]) or PurePosixPath(name).name in _CLUTTER[1:]


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _shown(name: str) -> str:
    printable = "".join(c if c.isprintable() else "?" for c in name)
    return printable if len(printable) <= 120 else f"…{printable[-119:]}"
