"""Open the images to score, in chunks of fixed size that depend on the source only.

A source is a list of segments: the images of a folder, a split of a dataset, or one file of a
stream. Chunk `k` of a segment holds its rows `k * size` to `(k + 1) * size`. So any number of
processes can share the chunks, and a continued run finds the missing ones.
"""

import hashlib
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from datasets import Dataset, DownloadConfig, IterableDataset
from datasets.utils.file_utils import xopen
from transformers.utils.hub import resolve_revision

from realfake.corpus.folders import walk
from realfake.corpus.rows import find_image_column, undecoded
from realfake.corpus.sources import Source, is_saved, one_line, read_source
from realfake.corpus.splits import TRAIN
from realfake.imaging.decode import SUFFIXES

# Chunk size of streams, whose length is unknown.
STREAMED_CHUNK = 1024
_SMALLEST_CHUNK, _LARGEST_CHUNK, _CHUNKS = 64, 4096, 64
_ROWS_AT_ONCE = 16
_STREAMED_FILES = {".parquet": "parquet", ".tar": "webdataset"}


@dataclass(frozen=True)
class Row:
    """One image.

    Args:
        key: Its unique name within the source.
        path: Its path in the source, if it has one.
        image: `{"bytes", "path"}`, with `"error"` if it could not be downloaded; `None` without
            an image.
    """

    key: str
    path: str | None
    image: dict | None


class FolderSegment:
    """The images below a folder, in the order of their paths, read from a listing on disk.

    Args:
        folder: The folder that the paths are relative to.
        listing: File written by [`list_images`].
    """

    def __init__(self, name: str, folder: Path, listing: Path):
        self.name = name
        self._folder = folder
        self._listing = listing
        self._offsets = np.load(_index_of(listing), mmap_mode="r")
        self.rows: int | None = len(self._offsets) - 1

    def read(self, start: int, stop: int | None) -> Iterator[Row]:
        """Yield the rows from `start` to `stop`."""
        stop = self.rows if stop is None else min(stop, self.rows)
        if start >= stop:
            return
        offsets = self._offsets[start : stop + 1].tolist()
        with open(self._listing, "rb") as file:
            file.seek(offsets[0])
            for position, end in zip(offsets, offsets[1:]):
                path = os.fsdecode(file.read(end - position))
                shown = _printable(path)
                yield Row(shown, shown, {"bytes": None, "path": str(self._folder / path)})


class TableSegment:
    """A split of a local dataset, or one file of a stream.

    Args:
        rows: The rows, with an undecoded `image`.
        folder: *optional*. The folder that shown paths are relative to.
    """

    def __init__(self, name: str, rows: Dataset | IterableDataset, folder: Path | None = None):
        self.name = name
        self._rows = rows
        self._folder = folder
        self.rows: int | None = len(rows) if isinstance(rows, Dataset) else None

    def read(self, start: int, stop: int | None) -> Iterator[Row]:
        """Yield the rows from `start` to `stop`; `None` for the end of a stream."""
        for index, image in enumerate(self._images(start, stop), start):
            path = image.get("path") if image else None
            if image and image.get("bytes") is None and path and "://" in path:
                image = self._downloaded(image)
            yield Row(f"{self.name}/{index:09d}", self._shown(path), image)

    def _images(self, start: int, stop: int | None) -> Iterator[dict | None]:
        rows = self._rows.select_columns(["image"])
        if isinstance(rows, Dataset):
            stop = len(rows) if stop is None else min(stop, len(rows))
            # Slices are faster than single rows, and small ones need little memory.
            for first in range(start, stop, _ROWS_AT_ONCE):
                yield from rows[first : min(first + _ROWS_AT_ONCE, stop)]["image"]
        else:
            rows = rows.skip(start) if start else rows
            rows = rows if stop is None else rows.take(stop - start)
            yield from (row["image"] for row in rows)

    def _downloaded(self, image: dict) -> dict:
        try:
            with xopen(image["path"], "rb", download_config=DownloadConfig()) as file:
                return {**image, "bytes": file.read()}
        except OSError as error:
            return {**image, "error": f"it cannot be downloaded: {one_line(error)}"}

    def _shown(self, path: str | None) -> str | None:
        if path and self._folder and Path(path).is_relative_to(self._folder):
            path = os.path.relpath(path, self._folder)
        return path and _printable(path)


Segment = FolderSegment | TableSegment


def _printable(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@dataclass
class ScoringSource:
    """An opened source.

    Args:
        segments: In a fixed order, with unique names.
        fingerprint: Identifies the source and its state.
        streamed: Whether the lengths of the segments are unknown.
        notes: Remarks, such as files that were not read.
    """

    segments: list[Segment]
    fingerprint: str
    streamed: bool
    notes: list[str]

    @property
    def rows(self) -> int | None:
        """Number of images, `None` for a stream."""
        return None if self.streamed else sum(segment.rows for segment in self.segments)

    def default_chunk(self) -> int:
        """Return a chunk size for about 64 chunks, within 64 to 4,096 images."""
        if self.streamed:
            return STREAMED_CHUNK
        size = -(-self.rows // _CHUNKS // 16) * 16
        return min(max(size, _SMALLEST_CHUNK), _LARGEST_CHUNK)


def open_source(
    source: str | os.PathLike,
    scratch: Path,
    *,
    splits: Sequence[str] | None = None,
    config_name: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    image_column: str | None = None,
    cache_dir: str | None = None,
) -> ScoringSource:
    """Open a folder of images, a corpus, or files by URL.

    Args:
        source: As for [`~realfake.corpus.load.load_corpus`], but a folder needs no class folders.
            Also `hf://`, `s3://` and other URLs of Parquet or WebDataset (`.tar`) files, with `*`
            for several files; these are streamed.
        scratch: Folder for the listing of a folder.
        splits: *optional*. The splits to score; *defaults to* all.

        The others are those of [`~realfake.corpus.load.load_corpus`].

    Raises:
        ValueError: There is nothing to score, or a split does not exist.
        OSError: The source does not exist or cannot be reached.
    """
    text = os.fspath(source)
    path = Path(text).expanduser()
    if path.is_dir() and not is_saved(path):
        root = path.resolve() / (config_name or "")
        if next(iter_images(root), None) is not None and not _has_data_files(root):
            if splits:
                raise ValueError(
                    f"{text} is a folder of images without splits; leave out --split, or name a "
                    "folder in it."
                )
            scratch = Path(scratch)
            fingerprint = list_images(root, scratch)
            segment = FolderSegment("files", root, _listing(scratch, fingerprint))
            return ScoringSource([segment], fingerprint, False, [])
    if "://" in text and not path.exists():
        return _open_tables(_read_urls(text, image_column), text, splits, path)
    raw = read_source(
        source,
        config_name=config_name,
        revision=revision,
        streaming=streaming,
        image_column=image_column,
        cache_dir=cache_dir,
    )
    identity = _identity(path, text, config_name, revision)
    return _open_tables(raw, identity, splits, path)


# Folders of images


def iter_images(folder: Path) -> Iterator[tuple[bytes, int]]:
    """Yield the relative path and the size in bytes of every image file below a folder.

    The size of a broken link is -1.
    """
    for file in walk(folder):
        if file.suffix.lower() in SUFFIXES:
            try:
                size = file.stat().st_size
            except OSError:
                size = -1
            yield os.fsencode(file.relative_to(folder)), size


def list_images(folder: Path, scratch: Path) -> str:
    """Write the paths of the images below a folder into a listing, and their positions.

    Returns:
        A fingerprint of paths and sizes, which is part of the listing's name. A changed folder gets
        a new listing, so that a run can still read the old one.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    digest, offsets = hashlib.sha256(), array("Q", [0])
    temporary = scratch / f"listing.{os.getpid()}.tmp"
    with open(temporary, "wb") as file:
        for path, size in iter_images(folder):
            digest.update(b"%s\0%d\0" % (path, size))
            offsets.append(offsets[-1] + file.write(path))
    fingerprint = digest.hexdigest()[:32]
    index = temporary.with_suffix(".npy")
    np.save(index, np.frombuffer(offsets, dtype=np.uint64))
    os.replace(index, _index_of(_listing(scratch, fingerprint)))
    os.replace(temporary, _listing(scratch, fingerprint))
    return fingerprint


def _listing(scratch: Path, fingerprint: str) -> Path:
    return scratch / f"listing-{fingerprint}"


def _index_of(listing: Path) -> Path:
    return listing.with_suffix(".npy")


def _has_data_files(root: Path) -> bool:
    """Return whether a folder also holds Parquet or Arrow files, or a metadata file."""
    if any((root / f"metadata{suffix}").is_file() for suffix in (".csv", ".jsonl")):
        return True
    return any(file.suffix.lower() in (".parquet", ".arrow") for file in walk(root))


# Datasets and files by URL


def _read_urls(pattern: str, image_column: str | None) -> Source:
    suffix = next((suffix for suffix in _STREAMED_FILES if pattern.endswith(suffix)), None)
    if suffix is None:
        raise ValueError(
            f"{pattern}: URLs must name {' or '.join(_STREAMED_FILES)} files, with * for several."
        )
    # A builder of the library reads the files; their content is data, not code.
    rows = datasets.load_dataset(  # nosec B615
        _STREAMED_FILES[suffix], data_files=pattern, split=TRAIN, streaming=True
    )
    features = rows.features
    if features is None:
        features = Dataset.from_list(list(rows.decode(False).take(1))).features
    column = find_image_column(features, image_column, pattern)
    return Source({TRAIN: undecoded(rows, features, column)}, "files by URL", column)


def _open_tables(
    raw: Source, identity: str, splits: Sequence[str] | None, path: Path
) -> ScoringSource:
    unknown = [name for name in splits or () if name not in raw.splits]
    if unknown:
        raise ValueError(
            f"There is no split {unknown[0]!r}; the source has: {', '.join(raw.splits)}."
        )
    folder = (path if path.is_dir() else path.parent).resolve() if path.exists() else None
    segments: list[Segment] = []
    for name in splits or raw.splits:
        rows = raw.splits[name]
        if isinstance(rows, Dataset):
            segments.append(TableSegment(name, rows, folder))
            continue
        for index in range(rows.num_shards):
            shard = rows.shard(rows.num_shards, index) if rows.num_shards > 1 else rows
            segments.append(TableSegment(f"{name}-{index:05d}", shard, folder))
    streamed = any(segment.rows is None for segment in segments)
    digest = hashlib.sha256(identity.encode("utf-8", "surrogateescape"))
    for segment in segments:
        digest.update(f"\0{segment.name}\0{segment.rows}".encode())
    if not streamed and not sum(segment.rows for segment in segments):
        raise ValueError("The source has no rows to score.")
    return ScoringSource(segments, digest.hexdigest()[:32], streamed, list(raw.notes))


def _identity(path: Path, text: str, config_name: str | None, revision: str | None) -> str:
    """Return names and sizes of local files, or the commit on the Hub."""
    if not path.exists():
        pinned = resolve_revision(text, revision, repo_type="dataset")
        return f"{text}\0{config_name}\0{getattr(pinned, 'resolved', None) or pinned}"
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    # Relative names, so that a copy in another folder is the same source.
    names = (
        f"{file.relative_to(path) if path.is_dir() else file.name}\0{file.stat().st_size}"
        for file in files
    )
    return f"{config_name}\0" + "\0".join(names)
