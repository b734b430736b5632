"""Read class folders: their images, a metadata file beside them, or a ZIP file of them.

Step of the corpus loader for images that no table lists. No image is decoded here.
"""

import csv
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
from datasets import Dataset, Features, Image, Value

from realfake.corpus.rows import TEXT_COLUMNS, as_text
from realfake.corpus.splits import TRAIN, split_role
from realfake.labels import REAL, canonical


def walk(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder in the order of their names.

    Links to files, and links to folders outside of this one, are followed. A link to a folder
    inside is skipped, because its files are found there. Hidden files and folders, and folders that
    begin with `__`, are skipped too.
    """
    root = os.path.realpath(folder)
    visited = set()
    for top, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(top)
        if real in visited or (
            top != str(folder) and os.path.islink(top) and _leads_back(top, root)
        ):
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(top, name)


def _leads_back(link: str, root: str) -> bool:
    """Return whether a link leads into the folder that is walked, or to one that contains it."""
    parent = os.path.realpath(os.path.dirname(link))
    for target in (os.path.join(parent, os.readlink(link)), os.path.realpath(link)):
        target = os.path.normpath(target)
        if os.path.commonpath([target, root]) in (target, root):
            return True
    return False


def listed(files: Sequence[Path], root: Path) -> str:
    """Name the first files, for a message."""
    names = ", ".join(str(file.relative_to(root)) for file in files[:3])
    return names + (f" and {len(files) - 3} more" if len(files) > 3 else "")


def unpacked(path: Path, cache_dir: str | None) -> Path:
    """Unpack a ZIP file into the cache, once, and return the folder.

    Raises:
        ValueError: The file is damaged or encrypted.
        OSError: It cannot be read, or is larger than the free space.
    """
    status = path.stat()
    key = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}".encode(errors="replace")
    cache = Path(cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser() / "realfake"
    folder = cache / f"{path.stem[:50]}-{hashlib.sha256(key).hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    # Another process may unpack the same file.
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > shutil.disk_usage(cache).free:
                raise OSError(f"{path} does not fit on the disk of {cache}; pass --cache_dir.")
            archive.extractall(scratch)
        if not folder.is_dir():
            scratch.rename(folder)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        detail = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be unpacked ({detail}); pack it again.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


@dataclass
class Layout:
    """The meaning of the folders above the images."""

    splits: dict[str, list[tuple[Path, str, str | None]]]  # image, class, generator
    has_known_class: bool
    has_generators: bool


def read_layout(root: Path, images: Sequence[Path], label_map: Mapping[str, str]) -> Layout:
    """Read `[split/]class/…` or `generator/[split/]class/…`, inside any outer folders."""

    def is_class(name: str) -> bool:
        return name in label_map or canonical(name) is not None

    folders = {image: image.relative_to(root).parts[:-1] for image in images}
    while len(first := {names[:1] for names in folders.values()}) == 1 and first != {()}:
        ((name,),) = first
        if split_role(name) or is_class(name) or any(len(names) == 1 for names in folders.values()):
            break
        folders = {image: names[1:] for image, names in folders.items()}

    def refuse(stray: list[Path]) -> None:
        raise ValueError(
            f"{len(stray)} images are not in a class folder: {listed(stray, root)}; put each "
            "image in a folder named after its class, such as real/ or ai/."
        )

    if stray := [
        image
        for image, names in folders.items()
        if not names or len(names) == 1 and split_role(names[0])
    ]:
        refuse(stray)
    by_generator = all(
        not (split_role(names[0]) or is_class(names[0]))
        and len(names) > 1
        and (split_role(names[1]) or is_class(names[1]))
        for names in folders.values()
    )
    splits: dict[str, list] = {}
    for image, names in folders.items():
        generator, names = (names[0], names[1:]) if by_generator else (None, names)
        split, names = (names[0], names[1:]) if split_role(names[0]) else ("", names)
        if not names:
            refuse([image])
        # The folder of a generator may also hold photographs.
        if label_map.get(names[0], canonical(names[0])) == REAL:
            generator = None
        splits.setdefault(split, []).append((image, names[0], generator))
    if "" in splits and len(splits) > 1:
        named = ", ".join(sorted(filter(None, splits)))
        others = ", ".join(sorted({name for _, name, _ in splits[""]}))
        raise ValueError(
            f"{root} holds folders of splits ({named}) and others beside them ({others}); move the "
            "others into a split or out of the corpus."
        )
    if "" in splits:
        splits[TRAIN] = splits.pop("")
    known = any(is_class(name) for rows in splits.values() for _, name, _ in rows)
    return Layout(splits, known, by_generator)


def read_class_folders(
    layout: Layout, tables: Sequence[Path]
) -> tuple[dict[str, Dataset], str, str, list[str]]:
    """Return the rows by split, the kind of the source, its image column, and remarks.

    tables: Data files in the folder. Those named `metadata` may add text columns.
    """
    extra: dict[str, dict[str, str | None]] = {}
    read = [file for file in tables if is_metadata(file)]
    for file in read:
        extra |= _read_metadata(file)
    present = {name for row in extra.values() for name in row}
    names = [name for name in TEXT_COLUMNS if name in present]
    if layout.has_generators and "generator" not in names:
        names.append("generator")
    splits = {}
    for split, rows in layout.splits.items():
        columns: dict[str, list] = {
            "image": [{"bytes": None, "path": str(image)} for image, _, _ in rows],
            "label": [label for _, label, _ in rows],
        }
        features = Features({"image": Image(decode=False), "label": Value("string")})
        for name in names:
            features[name] = Value("string")
            columns[name] = [
                extra.get(str(image), {}).get(name) or (generator if name == "generator" else None)
                for image, _, generator in rows
            ]
        splits[split] = Dataset.from_dict(columns, features=features)
    notes = [f"Columns of metadata files: {', '.join(sorted(present))}."] if present else []
    return splits, "class folders", "image", notes


def is_metadata(file: Path) -> bool:
    """Return whether a data file describes the images beside it, as for datasets' imagefolder."""
    return file.stem.lower() == "metadata"


def _read_metadata(file: Path) -> dict[str, dict[str, str | None]]:
    """Return the text columns of a metadata file by image; nothing without a column `file_name`.

    Raises:
        ValueError: It cannot be read.
    """
    suffix = file.suffix.lower()
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            if suffix in (".csv", ".tsv"):
                rows = list(csv.DictReader(lines, delimiter="\t" if suffix == ".tsv" else ","))
            elif suffix == ".jsonl":
                rows = [json.loads(line) for line in lines if line.strip()]
            else:
                rows = json.load(lines)
        return {
            os.path.normpath(file.parent / row["file_name"]): {
                name: as_text(row[name]) for name in TEXT_COLUMNS if name in row
            }
            for row in rows
            if isinstance(row, Mapping) and row.get("file_name")
        }
    except (ValueError, TypeError, csv.Error) as error:
        detail = " ".join(str(error).split())[:200]
        raise ValueError(f"{file} cannot be read ({detail}); correct or remove it.") from error
