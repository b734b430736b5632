"""The scores of a corpus on disk: one Parquet file a chunk, and a manifest that says what they are scores of.

Shards are named after their chunk alone and appear whole or not at all, so that neither the number of processes nor a kill
changes the set of files. The folder may be on this machine or anything that fsspec opens (`hf://`, `s3://`, …).
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

from realfake.io import locked_folder

MANIFEST = "manifest.json"
FORMAT = "realfake-scores-1"
# Seconds after which a half-written file belongs to nobody.
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
        OSError: fsspec knows no such protocol, or a package for it is missing.
    """

    def __init__(self, location: str | os.PathLike):
        self.location = os.fspath(location)
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.location)
        except (ImportError, ValueError) as error:
            raise OSError(f"{self.location} cannot be opened: {error}") from error
        protocols = self._files.protocol
        self.local = "file" in ([protocols] if isinstance(protocols, str) else protocols)

    def alone(self) -> AbstractContextManager[None]:
        """Keep a second run out, where the scores are on this machine.

        Raises:
            OSError: Another run writes there.
        """
        return locked_folder(self._root) if self.local else contextlib.nullcontext()

    def scratch(self) -> Path | None:
        """Where listings are kept: beside the scores where they are on this machine, `None` elsewhere."""
        return Path(self._root) / ".listing" if self.local else None

    # Manifest

    def read_manifest(self) -> dict | None:
        """The manifest, or `None` where there is none yet.

        Raises:
            ValueError: It is not one.
        """
        data = self._read(MANIFEST)
        if data is None:
            if next(iter(self.chunks()), None) is not None:
                raise ValueError(
                    f"{self.location} holds scores without a {MANIFEST}, so nobody knows of what; choose another --out."
                )
            return None
        try:
            manifest = json.loads(data)
        except ValueError:
            manifest = None
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise ValueError(
                f"{self.location}/{MANIFEST} is none that this version reads; choose another --out."
            )
        return manifest

    def write_manifest(self, identity: Mapping, choice: Mapping) -> dict:
        """Say what the scores are of, before the first of them, unless another run has just done so.

        Returns:
            What stands there: this run's manifest, or the other's, which is to be checked.
        """
        manifest = {"format": FORMAT, "identity": dict(identity), "engine": dict(choice)}
        self._write(MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode(), replace=False)
        return self.read_manifest() or manifest

    def check(self, manifest: Mapping, identity: Mapping) -> None:
        """Refuse to mix scores of different images, models or settings.

        Raises:
            ValueError: Something differs; the message says what.
        """
        stored = manifest["identity"]
        differ = [name for name in {**stored, **identity} if stored.get(name) != identity.get(name)]
        if differ:
            told = "; ".join(
                f"{name} was {stored.get(name)!r}, now {identity.get(name)!r}" for name in differ
            )
            raise ValueError(
                f"{self.location} holds scores of something else ({told}). Choose another --out."
            )

    # Shards

    def chunks(self) -> Iterator[tuple[str, int]]:
        """Part and number of every chunk whose scores are complete."""
        for name in self._names():
            part, _, number = name.removesuffix(".parquet").rpartition("-")
            if name.endswith(".parquet") and part and number.isdigit():
                yield part, int(number)

    def has(self, part: str, chunk: int) -> bool:
        """Whether a chunk's scores are complete."""
        return self._files.exists(f"{self._root}/{self.file_name(part, chunk)}")

    @staticmethod
    def file_name(part: str, chunk: int) -> str:
        """What the shard of a chunk is called."""
        return f"{part}-{chunk:06d}.parquet"

    def write(self, part: str, chunk: int, rows: Sequence[Mapping], facts: Mapping) -> None:
        """Write the scores of a chunk, whole or not at all.

        Args:
            rows: One for each image, with the fields of [`SCHEMA`]; those that are missing are null.
            facts: What travels in the file's metadata, such as how the scores came about.
        """
        table = pa.Table.from_pylist(
            list(rows), schema=SCHEMA.with_metadata({"realfake": json.dumps(dict(facts))})
        )
        buffer = BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        self._write(self.file_name(part, chunk), buffer.getvalue())

    def read(self, part: str, chunk: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Read the scores of a chunk."""
        with self._files.open(f"{self._root}/{self.file_name(part, chunk)}", "rb") as file:
            return pq.read_table(file, columns=columns)

    # Ends of streams

    def write_length(self, part: str, rows: int) -> None:
        """Note how many rows a part of a stream turned out to have."""
        self._write(f"{part}.length", str(rows).encode())

    def read_length(self, part: str) -> int | None:
        """How many rows a part of a stream has, or `None` where its end was not reached yet."""
        data = self._read(f"{part}.length")
        return None if data is None else int(data)

    # Files

    def _names(self) -> list[str]:
        try:
            return sorted(
                name.rsplit("/", 1)[-1]
                for name in self._files.ls(self._root, detail=False, refresh=True)
            )
        except FileNotFoundError:
            return []
        except TypeError:  # a file system without a cache of listings
            return sorted(
                name.rsplit("/", 1)[-1] for name in self._files.ls(self._root, detail=False)
            )

    def _read(self, name: str) -> bytes | None:
        try:
            return self._files.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None

    def _write(self, name: str, data: bytes, replace: bool = True) -> None:
        if not self.local:  # an object appears when it is complete
            self._files.pipe_file(f"{self._root}/{name}", data)
            return
        folder = Path(self._root)
        folder.mkdir(parents=True, exist_ok=True)
        # Hidden and with the process's number: two processes may write the same chunk, and a killed one leaves its part.
        temporary = folder / f".{name}.{os.getpid()}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                os.replace(temporary, folder / name)
            else:
                _place(temporary, folder / name)
        finally:
            temporary.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what killed processes left half written, but not what another run is writing now."""
        if self.local and Path(self._root).is_dir():
            for path in Path(self._root).glob(".*.tmp"):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > _ABANDONED:
                        path.unlink()


def _place(temporary: Path, path: Path) -> None:
    """Give a finished file its name, unless there is one of that name already."""
    try:
        os.link(temporary, path)
    except OSError:
        # There is one, or the file system knows no hard links.
        if not path.exists():
            os.replace(temporary, path)
