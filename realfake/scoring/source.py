"""What is to be scored, in chunks of fixed size that depend on the source alone.

A source is a list of parts: the images of a folder, a split of a dataset, or one file of a stream. Each part is read in
its own order, and chunk `k` of a part holds its rows `k * size` to `(k + 1) * size`. So any number of processes can share the
chunks, and a run that was killed knows what is missing. `scorer.py` reads them, `shards.py` writes what becomes of them.
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

from realfake.corpus.columns import find_image_column
from realfake.corpus.local import IMAGE_SUFFIXES, Source
from realfake.corpus.sources import read_source
from realfake.corpus.splits import TRAIN

# For streams, whose length nobody knows.
STREAMED_CHUNK = 1024
_SMALLEST_CHUNK, _LARGEST_CHUNK, _CHUNKS = 64, 4096, 64
_LISTING_EVERY = 64
_SLICE = 16
_STREAMED_FILES = {".parquet": "parquet", ".tar": "webdataset"}


@dataclass(frozen=True)
class Row:
    """One image: `key` names it within the source and no other, `path` is what the source calls it, if anything."""

    key: str
    path: str | None
    image: dict | None


class FolderPart:
    """The images below a folder, in the order of their paths, as a listing on disk names them.

    Args:
        name: Of the part.
        folder: What paths are relative to.
        listing: The file that [`list_images`] wrote.
    """

    def __init__(self, name: str, folder: Path, listing: Path):
        self.name = name
        self._folder = folder
        self._listing = listing
        self._offsets = np.load(_index_of(listing), mmap_mode="r")
        self.rows = int(self._offsets[-1])

    def read(self, start: int, stop: int) -> Iterator[Row]:
        """Rows `start` to `stop`."""
        block, skip = divmod(start, _LISTING_EVERY)
        with open(self._listing, "rb") as file:
            file.seek(int(self._offsets[block]))
            rest = b""
            wanted = min(stop, self.rows) - start
            while wanted > 0:
                names = (rest + file.read(1 << 16)).split(b"\0")
                rest = names.pop()
                for name in names[skip:][:wanted]:
                    path = os.fsdecode(name)
                    shown = os.fsencode(path).decode("utf-8", "backslashreplace")
                    yield Row(shown, shown, {"bytes": None, "path": str(self._folder / path)})
                    wanted -= 1
                skip = max(0, skip - len(names))


class TablePart:
    """A split of a dataset on this machine, or one of its files in a stream.

    Args:
        name: Of the part.
        rows: The rows, with an undecoded `image`.
        folder: *optional*. What paths are shown relative to.
        token: *optional*. For images that a stream names by URL.
    """

    def __init__(
        self, name: str, rows: Dataset | IterableDataset, folder: Path | None = None, token=None
    ):
        self.name = name
        self._rows = rows
        self._folder = folder
        self._token = token
        self.rows = len(rows) if isinstance(rows, Dataset) else None

    def read(self, start: int, stop: int | None) -> Iterator[Row]:
        """Rows `start` to `stop`; `None` for all that a stream has."""
        rows = self._rows.select_columns(["image"])
        if isinstance(rows, Dataset):
            images = _in_slices(rows, start, min(stop, len(rows)))
        else:
            rows = rows.skip(start) if start else rows
            images = (row["image"] for row in (rows if stop is None else rows.take(stop - start)))
        for index, image in enumerate(images, start):
            path = image.get("path") if image else None
            if image and image.get("bytes") is None and path and "://" in path:
                image = self._fetched(image)
            yield Row(f"{self.name}/{index:09d}", self._shown(path), image)

    def _fetched(self, image: dict) -> dict:
        try:
            with xopen(
                image["path"], "rb", download_config=DownloadConfig(token=self._token)
            ) as file:
                return {**image, "bytes": file.read()}
        except OSError as error:
            return {**image, "error": f"it cannot be downloaded: {' '.join(str(error).split())}"}

    def _shown(self, path: str | None) -> str | None:
        if (
            path
            and self._folder
            and os.path.isabs(path)
            and Path(path).is_relative_to(self._folder)
        ):
            path = os.path.relpath(path, self._folder)
        return path and os.fsencode(path).decode("utf-8", "backslashreplace")


def _in_slices(rows: Dataset, start: int, stop: int) -> Iterator[dict | None]:
    """Faster than one at a time, and without holding the bytes of a whole chunk."""
    for first in range(start, stop, _SLICE):
        yield from rows[first : min(first + _SLICE, stop)]["image"]


Part = FolderPart | TablePart


@dataclass
class ScoringSource:
    """A source, opened.

    Args:
        parts: In a fixed order, with names that no two share.
        fingerprint: Tells this source from any other, and from itself after a change.
        streamed: Whether the parts' lengths are unknown.
        notes: What a person should know.
    """

    parts: list[Part]
    fingerprint: str
    streamed: bool
    notes: list[str]

    @property
    def rows(self) -> int | None:
        """Images in all, `None` for a stream."""
        return None if self.streamed else sum(part.rows for part in self.parts)

    def default_chunk(self) -> int:
        """A chunk's size: so that some tens of them can be shared out, and a kill costs little."""
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
    token: str | bool | None = None,
    streaming: bool = False,
    image_column: str | None = None,
    cache_dir: str | None = None,
    fingerprint: str | None = None,
) -> ScoringSource:
    """Open a folder of images with any folders below it, or what [`~realfake.corpus.sources.read_source`] reads, or files by URL.

    Args:
        source: As for [`~realfake.corpus.load.load_corpus`]; a folder needs no class folders. Besides, `hf://`, `s3://` and other
            URLs of Parquet or WebDataset (`.tar`) files, with `*` for several, which are streamed.
        scratch: A folder where the listing of a folder is kept.
        splits: *optional*. The splits to score; *defaults to* all.
        fingerprint: *optional*. The source's, as another process found it; a folder that this one has listed in `scratch` is
            not walked again.

    Raises:
        ValueError: There is nothing to score, or no such split.
        OSError: The source does not exist or cannot be reached.
    """
    text = os.fspath(source)
    path = Path(text).expanduser()
    if (
        path.is_dir()
        and not (path / "dataset_dict.json").is_file()
        and not (path / "state.json").is_file()
    ):
        root = path.resolve()
        root = root / config_name if config_name else root
        first = next(iter_images(root), None)
        if first is not None and not _has_data_files(root):
            if splits:
                raise ValueError(
                    f"{text} is a folder of images without splits; leave out --split, or name a folder in it."
                )
            return _open_folder(root, Path(scratch), fingerprint)
    if "://" in text:
        found = _read_urls(text, image_column)
        identity = text
    else:
        found = read_source(
            source,
            config_name=config_name,
            revision=revision,
            token=token,
            streaming=streaming,
            image_column=image_column,
            cache_dir=cache_dir,
        )
        identity = _identity(path, text, config_name, revision, token)
    return _open_tables(found, identity, splits, path, token)


def iter_images(folder: Path) -> Iterator[tuple[bytes, int]]:
    """Every image file below a folder with its size in bytes, in the order of a walk by name; paths are relative to it.

    Links are followed, loops are not, hidden files and folders are left out: as in `sources.py`, without a list in memory.
    """
    seen = set()
    for top, folders, files in os.walk(os.fsencode(folder), followlinks=True):
        real = os.path.realpath(top)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((b".", b"__")))
        for name in sorted(files):
            suffix = os.path.splitext(name)[1].lower().decode("ascii", "replace")
            if suffix in IMAGE_SUFFIXES and not name.startswith(b"."):
                path = os.path.join(top, name)
                try:
                    size = os.stat(path).st_size
                except OSError:  # a link that leads nowhere: its row will say so
                    size = -1
                yield os.path.relpath(path, os.fsencode(folder)), size


def list_images(folder: Path, scratch: Path) -> str:
    """Walk a folder, and write the paths into `scratch`, one after the other, with an index.

    Returns:
        A fingerprint of paths and sizes, which the listing is named after: a folder that has changed gets another one, and a
        run that still reads the old one is not disturbed.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    digest, count, offsets, position = hashlib.sha256(), 0, array("Q"), 0
    temporary = scratch / f"listing.{os.getpid()}.tmp"
    with open(temporary, "wb") as file:
        for path, size in iter_images(folder):
            if count % _LISTING_EVERY == 0:
                offsets.append(position)
            digest.update(b"%s\0%d\0" % (path, size))
            position += file.write(path + b"\0")
            count += 1
    fingerprint = digest.hexdigest()[:32]
    index = temporary.with_suffix(".npy")
    np.save(index, np.array([*offsets, count], dtype=np.uint64))
    os.replace(index, _index_of(_listing(scratch, fingerprint)))
    os.replace(temporary, _listing(scratch, fingerprint))
    return fingerprint


def _listing(scratch: Path, fingerprint: str) -> Path:
    return scratch / f"listing-{fingerprint}"


def _index_of(listing: Path) -> Path:
    return listing.with_suffix(".npy")


def _open_folder(root: Path, scratch: Path, fingerprint: str | None) -> ScoringSource:
    if fingerprint is None or not _listing(scratch, fingerprint).is_file():
        fingerprint = list_images(root, scratch)
    return ScoringSource(
        [FolderPart("files", root, _listing(scratch, fingerprint))], fingerprint, False, []
    )


def _has_data_files(root: Path) -> bool:
    """Whether a folder is a dataset in files, with Parquet or Arrow tables or a metadata file beside its images."""
    for _, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        if any(name.lower().endswith((".parquet", ".arrow")) for name in files):
            return True
    return any((root / f"metadata{suffix}").is_file() for suffix in (".csv", ".jsonl"))


def _read_urls(pattern: str, image_column: str | None) -> Source:
    suffix = next((suffix for suffix in _STREAMED_FILES if pattern.endswith(suffix)), None)
    if suffix is None:
        raise ValueError(
            f"{pattern}: of URLs only {' and '.join(_STREAMED_FILES)} files are read, with * for several."
        )
    # A builder of the library's own reads files that the user names; their rows are data, and no code.
    rows = datasets.load_dataset(  # nosec B615
        _STREAMED_FILES[suffix], data_files=pattern, split=TRAIN, streaming=True
    )
    features = rows.features
    if features is None:
        features = Dataset.from_list(list(rows.decode(False).take(1))).features
    column = find_image_column(features, image_column, pattern)
    rows = rows.decode(False) if rows.features is not None else rows
    if column != "image":
        rows = rows.rename_column(column, "image")
    return Source(
        {TRAIN: rows.cast_column("image", datasets.Image(decode=False))}, "files by URL", column
    )


def _open_tables(found: Source, identity: str, splits, path: Path, token) -> ScoringSource:
    unknown = [name for name in splits or () if name not in found.splits]
    if unknown:
        raise ValueError(
            f"There is no split {unknown[0]!r}; the source has: {', '.join(found.splits)}."
        )
    chosen = {name: found.splits[name] for name in splits or found.splits}
    folder = (path if path.is_dir() else path.parent).resolve() if path.exists() else None
    parts: list[Part] = []
    for name, rows in chosen.items():
        if isinstance(rows, Dataset):
            parts.append(TablePart(name, rows, folder))
            continue
        for index in range(rows.num_shards):
            shard = rows.shard(rows.num_shards, index) if rows.num_shards > 1 else rows
            parts.append(TablePart(f"{name}-{index:05d}", shard, folder, token))
    streamed = any(part.rows is None for part in parts)
    digest = hashlib.sha256(identity.encode("utf-8", "surrogateescape"))
    for part in parts:
        digest.update(f"\0{part.name}\0{part.rows}".encode())
    if not streamed and not sum(part.rows for part in parts):
        raise ValueError("The source holds no rows; nothing can be scored.")
    return ScoringSource(parts, digest.hexdigest()[:32], streamed, list(found.notes))


def _identity(path: Path, text: str, config_name: str | None, revision: str | None, token) -> str:
    """What tells a source from another: names and sizes of the files of a local one, the commit of one on the Hub."""
    if not path.exists():
        pinned = resolve_revision(text, revision, repo_type="dataset", token=token)
        return f"{text}\0{config_name}\0{getattr(pinned, 'resolved', None) or pinned}"
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    # Relative, so that a copy on another machine is the same source.
    names = (
        f"{file.relative_to(path) if path.is_dir() else file.name}\0{file.stat().st_size}"
        for file in files
    )
    return f"{config_name}\0" + "\0".join(names)
