"""The scores of a corpus on disk: one Parquet file per chunk, and a manifest.

A shard is named after its chunk and is written completely or not at all, so the files do not depend
on the number of processes or on interruptions. The folder can be local or any URL that fsspec
opens.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from realfake.io import locked_folder, write_atomically

MANIFEST = "manifest.json"
FORMAT = "realfake-scores-3"
# Age in seconds after which a temporary file is removed.
_ABANDONED = 600
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("path", pa.string()),
        ("real", pa.float64()),
        ("ai", pa.float64()),
        ("log_odds", pa.float64()),
        ("verdict", pa.string()),
        ("reason", pa.string()),
        ("ood", pa.float64()),
        ("n_views", pa.int32()),
        ("differing", pa.bool_()),
        ("recomputed", pa.bool_()),
        ("error", pa.string()),
        ("model", pa.dictionary(pa.int32(), pa.string())),
    ]
)


class ScoreFolder:
    """The folder of one run.

    Args:
        location: A folder, or a URL that fsspec opens.

    Raises:
        OSError: fsspec does not have this protocol, or a package for it is missing.
    """

    def __init__(self, location: str | os.PathLike):
        self.location = os.fspath(location)
        self._files: fsspec.AbstractFileSystem = LocalFileSystem()
        self._root = os.path.abspath(os.path.expanduser(self.location))
        if "://" in self.location:
            try:
                self._files, self._root = fsspec.core.url_to_fs(self.location)
            except (ImportError, ValueError) as error:
                raise OSError(f"{self.location} cannot be opened: {error}") from error
        self.is_local = isinstance(self._files, LocalFileSystem)

    def lock(self) -> AbstractContextManager[None]:
        """Lock a local folder."""
        return locked_folder(self._root) if self.is_local else contextlib.nullcontext()

    def scratch(self) -> Path | None:
        """Return the folder for listings: beside local scores, `None` for remote ones."""
        return Path(self._root) / ".listing" if self.is_local else None

    # Manifest

    def read_manifest(self) -> dict | None:
        """Return the manifest, or `None` if there is none; a `ValueError` if it cannot be read."""
        data = self._read(MANIFEST)
        if data is None:
            if next(iter(self.chunks()), None) is not None:
                raise ValueError(
                    f"{self.location} holds scores without a {MANIFEST}; choose another --output."
                )
            return None
        try:
            manifest = json.loads(data)
        except ValueError:
            manifest = None
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise ValueError(
                f"{self.location}/{MANIFEST} is not of format {FORMAT}; choose another --output."
            )
        return manifest

    def write_manifest(self, identity: Mapping, choice: Mapping) -> dict:
        """Write the manifest, unless another run has just written one; return the folder's."""
        if (other := self.read_manifest()) is not None:
            return other
        manifest = {"format": FORMAT, "identity": dict(identity), "engine": dict(choice)}
        self._write(MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
        return manifest

    def check(self, manifest: Mapping, identity: Mapping) -> None:
        """Raise a `ValueError` if the scores are of other images, another model or settings."""
        stored = manifest["identity"]
        differences = "; ".join(
            f"{name} was {stored.get(name)!r}, now {identity.get(name)!r}"
            for name in {**stored, **identity}
            if stored.get(name) != identity.get(name)
        )
        if differences:
            raise ValueError(
                f"{self.location} holds other scores ({differences}). Choose another --output."
            )

    # Shards

    def chunks(self) -> Iterator[tuple[str, int]]:
        """Yield the segment and the number of every finished chunk."""
        for name in self._names():
            segment, _, number = name.removesuffix(".parquet").rpartition("-")
            if name.endswith(".parquet") and segment and number.isdigit():
                yield segment, int(number)

    def has(self, segment: str, chunk: int) -> bool:
        """Return whether a chunk is finished."""
        return self._files.exists(f"{self._root}/{self.file_name(segment, chunk)}")

    @staticmethod
    def file_name(segment: str, chunk: int) -> str:
        """Return the name of a chunk's shard."""
        return f"{segment}-{chunk:06d}.parquet"

    def write(self, segment: str, chunk: int, rows: Sequence[Mapping], facts: Mapping) -> None:
        """Write the scores of a chunk, and facts about them as metadata of the file.

        Args:
            rows: One per image, with the fields of [`SCHEMA`]; missing fields become null.
        """
        schema = SCHEMA.with_metadata({"realfake": json.dumps(dict(facts))})
        buffer = BytesIO()
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), buffer, compression="zstd")
        self._write(self.file_name(segment, chunk), buffer.getvalue())

    def read(self, segment: str, chunk: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the scores of a chunk."""
        with self._files.open(f"{self._root}/{self.file_name(segment, chunk)}", "rb") as file:
            return pq.read_table(file, columns=columns)

    # Lengths of streams

    def write_length(self, segment: str, rows: int) -> None:
        """Store the number of rows of a streamed segment."""
        self._write(f"{segment}.length", str(rows).encode())

    def read_length(self, segment: str) -> int | None:
        """Return the number of rows of a streamed segment, or `None` if its end was not reached."""
        data = self._read(f"{segment}.length")
        return None if data is None else int(data)

    # Files

    def _names(self) -> list[str]:
        try:
            self._files.invalidate_cache(self._root)
            paths = self._files.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        return sorted(path.rsplit("/", 1)[-1] for path in paths)

    def _read(self, name: str) -> bytes | None:
        try:
            return self._files.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None

    def _write(self, name: str, data: bytes) -> None:
        if self.is_local:
            Path(self._root).mkdir(parents=True, exist_ok=True)
            write_atomically(f"{self._root}/{name}", data)
        else:  # an object appears when it is complete
            self._files.pipe_file(f"{self._root}/{name}", data)

    def sweep(self) -> None:
        """Remove the temporary files of killed processes."""
        if self.is_local:
            for path in Path(self._root).glob(".*.tmp"):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > _ABANDONED:
                        path.unlink()
