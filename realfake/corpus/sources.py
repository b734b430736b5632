"""Read the rows of a corpus: class folders, data files, `save_to_disk` folders, or the Hub.

First step of the corpus loader. The result is the same for every source: named splits whose `image`
column is `Image(decode=False)`, and the other columns as they were found.
"""

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import pyarrow
import pyarrow.compute
from datasets import Dataset, DatasetInfo, Image, IterableDataset
from datasets.data_files import DataFilesDict, DataFilesList, EmptyDatasetError
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from datasets.packaged_modules.arrow.arrow import Arrow
from datasets.packaged_modules.csv.csv import Csv
from datasets.packaged_modules.json.json import Json
from datasets.packaged_modules.parquet.parquet import Parquet
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError

from realfake.corpus.folders import (
    is_metadata,
    listed,
    read_class_folders,
    read_layout,
    unpacked,
    walk,
)
from realfake.corpus.rows import LABEL_COLUMNS, features_of, find_image_column, is_text, undecoded
from realfake.corpus.splits import TRAIN, split_role
from realfake.imaging.decode import SUFFIXES

# If a folder holds several kinds of data files, the first of these is read.
BUILDERS = {
    ".parquet": Parquet,
    ".arrow": Arrow,
    ".csv": Csv,
    ".tsv": Csv,
    ".jsonl": Json,
    ".json": Json,
}
_NOT_DATA = frozenset(
    ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")
    + ("config.json", "report.json", "package.json")
)
_SHARD = re.compile(r"^(\w+(?:\.\w+)*)-\d{5}-of-\d{5}")
_LOCAL_ONLY = re.compile(r"^(\.{0,2}/|~|[A-Za-z]:\\|\.{1,2}$)")


@dataclass
class Source:
    """The rows of a corpus before labels are mapped.

    Args:
        splits: `{name: rows}`; each has a column `image` of type `Image(decode=False)`.
        notes: Remarks for the report, such as files that were not read.
    """

    splits: dict[str, Dataset | IterableDataset]
    kind: str
    image_column: str = "image"
    notes: list[str] = field(default_factory=list)


def is_saved(path: Path) -> bool:
    """Return whether a folder was written by `save_to_disk`."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:299]}…"


def read_source(
    source: str | os.PathLike,
    *,
    config_name: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    streaming: bool = False,
    image_column: str | None = None,
    label_map: Mapping[str, str] | None = None,
    cache_dir: str | None = None,
) -> Source:
    """Read the rows of a corpus. For the arguments see [`~realfake.corpus.load.load_corpus`].

    Raises:
        ValueError: The source cannot be read as a corpus.
        OSError: There is no such file, folder or Hub dataset, or the Hub cannot be reached.
    """
    source = os.fspath(source)
    path = Path(source).expanduser()
    try:
        if not path.exists():
            return _read_hub(
                source, config_name, revision, token, streaming, image_column, cache_dir
            )
        if config_name is not None:
            path = path / config_name
            if not path.is_dir():
                raise ValueError(
                    f"{source} has no folder {config_name!r}; leave out the configuration's name."
                )
        return _read_local(path.resolve(), image_column, label_map or {}, streaming, cache_dir)
    except OSError:
        raise
    except (
        DatasetsError,
        TypeError,  # like NotImplementedError, from casts of pyarrow and datasets
        KeyError,  # damaged JSON
        NotImplementedError,
        pyarrow.ArrowException,
    ) as error:
        message = one_line(error.__cause__ or error)
        raise ValueError(f"{source} cannot be read: {message}") from error


def _read_local(
    path: Path,
    image_column: str | None,
    label_map: Mapping[str, str],
    streaming: bool,
    cache_dir: str | None,
) -> Source:
    """Read the rows of a file or folder; the arguments are those of [`load_corpus`]."""
    if "::" in str(path):
        raise ValueError(f"{path}: paths with '::' are not supported; rename the file or folder.")
    if path.suffix.lower() == ".zip" and path.is_file():
        path = unpacked(path, cache_dir)
    if path.is_file():
        if path.suffix.lower() not in BUILDERS:
            raise ValueError(
                f"{path} is not a corpus; pass a folder of class folders, a .zip of them, or a "
                f"{', '.join(BUILDERS)} file."
            )
        return _read_files(path.parent, [path], image_column, streaming, cache_dir)
    if is_saved(path):
        return _read_saved(path, image_column, streaming)

    images, data = [], []
    for file in walk(path):
        suffix = file.suffix.lower()
        if suffix in SUFFIXES:
            images.append(file)
        elif suffix in BUILDERS and file.name.lower() not in _NOT_DATA:
            data.append(file)
    # Labels in metadata files of all images win over folder names, as for datasets' "imagefolder".
    metadata = [file for file in data if is_metadata(file) and _has_labels(file)]
    described = {file.parent for file in metadata}
    if any(described.isdisjoint(image.parents) for image in images):
        metadata = []
    tables = {file.suffix.lower() for file in data} & {".parquet", ".arrow"}
    if metadata or tables:
        return _read_files(path, metadata or data, image_column, streaming, cache_dir)
    layout = read_layout(path, images, label_map) if images else None
    if layout is not None and (layout.has_known_class or not data):
        result = Source(*read_class_folders(layout, data))
        if streaming:
            result.splits = {
                name: rows.to_iterable_dataset() for name, rows in result.splits.items()
            }
        unread = [file for file in data if not is_metadata(file)]
        if unread:
            result.notes.append(f"Not read, beside the class folders: {listed(unread, path)}.")
        return result
    if data:
        return _read_files(path, data, image_column, streaming, cache_dir)
    raise ValueError(
        f"{path} holds no images and no data files; pass a folder of class folders (real/, ai/), "
        "Parquet, Arrow, CSV or JSON files, or a folder written by save_to_disk."
    )


# Data files


def _read_files(
    root: Path,
    files: Sequence[Path],
    image_column: str | None,
    streaming: bool,
    cache_dir: str | None,
) -> Source:
    """Read files of one kind, whose paths may name their split."""
    suffixes = {file.suffix.lower() for file in files}
    suffix = next(suffix for suffix in BUILDERS if suffix in suffixes)
    chosen = [file for file in files if file.suffix.lower() == suffix]
    # The datasets library reads `metadata.csv` and the like as the description of image files.
    described = all(file.stem.lower() == "metadata" for file in chosen)
    kind = f"images with metadata{suffix}" if described else f"{suffix[1:].upper()} files"
    result = Source({}, kind)
    by_split = _by_split(root, chosen)
    not_read = [file for file in files if file not in chosen]
    if len(by_split) > 1:
        not_read += by_split.pop(None, [])
    if not_read:
        result.notes.append(f"Not read: {listed(not_read, root)}.")
    for split, members in by_split.items():
        if streaming and suffix in (".parquet", ".arrow"):
            rows = _load_files(suffix, members, True, cache_dir)
            features = features_of(rows)
            result.image_column = find_image_column(features, image_column, str(root))
            if is_text(features[result.image_column]):
                raise ValueError(
                    f"{root}: files named in a column cannot be streamed; leave out --streaming."
                )
            result.splits[split or TRAIN] = undecoded(rows, features, result.image_column)
            continue
        pieces = []
        for folder in sorted({file.parent for file in members}):
            # Paths in a file are relative to its folder, so each folder is loaded separately.
            here = [file for file in members if file.parent == folder]
            rows = _load_files(suffix, here, False, cache_dir)
            result.image_column = find_image_column(rows.features, image_column, str(root))
            rows = _with_absolute_paths(rows, result.image_column, folder)
            pieces.append(undecoded(rows, rows.features, result.image_column))
        try:
            rows = datasets.concatenate_datasets(pieces)
        except ValueError as error:
            raise ValueError(
                f"The files of {root} do not have the same columns: {one_line(error)}"
            ) from error
        result.splits[split or TRAIN] = rows.to_iterable_dataset() if streaming else rows
    return result


def _by_split(root: Path, files: Sequence[Path]) -> dict[str | None, list[Path]]:
    """Sort files by the split that their path names: a shard's prefix, or a word of the path."""
    by_split: dict[str | None, list[Path]] = {}
    for file in files:
        shard = _SHARD.match(file.name)
        names = (*file.relative_to(root).parts[:-1], file.stem)
        words = [word for name in names for word in re.split(r"[-._ 0-9]+", name)]
        split = next((word.lower() for word in words if split_role(word)), None)
        by_split.setdefault(shard.group(1) if shard else split, []).append(file)
    return by_split


def _load_files(
    suffix: str, files: Sequence[Path], streaming: bool, cache_dir: str | None
) -> Dataset | IterableDataset:
    options = {"sep": "\t"} if suffix == ".tsv" else {}
    # `load_dataset` would read paths as patterns, in which brackets and stars are special.
    stamps = [(f"{file.stat().st_mtime_ns}", f"{file.stat().st_size}") for file in files]
    named = DataFilesDict({TRAIN: DataFilesList([str(file) for file in files], stamps)})
    try:
        builder = BUILDERS[suffix](cache_dir=cache_dir, data_files=named, **options)
        if streaming:
            return builder.as_streaming_dataset(split=TRAIN)
        builder.download_and_prepare()
        return builder.as_dataset(split=TRAIN)
    except (DatasetsError, ValueError) as error:
        label = files[0] if len(files) == 1 else f"{files[0].parent} ({len(files)} {suffix} files)"
        raise ValueError(f"{label} cannot be read: {one_line(error.__cause__ or error)}") from error


def _has_labels(file: Path) -> bool:
    """Return whether the first line of a metadata file names a label column."""
    if file.suffix.lower() == ".parquet":
        return True
    with open(file, encoding="utf-8-sig", errors="replace") as lines:
        first = lines.readline()
    if file.suffix.lower() in (".csv", ".tsv"):
        names = [name.strip().strip('"') for name in re.split(r"[,;\t]", first)]
    else:
        try:
            names = list(json.loads(first))
        except (json.JSONDecodeError, TypeError):
            return False
    return any(name.lower() in LABEL_COLUMNS for name in names)


# Folders written by save_to_disk


def _read_saved(path: Path, image_column: str | None, streaming: bool) -> Source:
    folders = {TRAIN: path}
    if (path / "dataset_dict.json").is_file():
        names = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        folders = {name: path / name for name in names}
    result = Source({}, "folder written by save_to_disk")
    for name, folder in folders.items():
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        if state["_data_files"]:
            rows = datasets.load_from_disk(str(folder))
        else:  # load_from_disk fails on a split without rows
            features = DatasetInfo.from_directory(str(folder)).features
            rows = Dataset.from_dict({column: [] for column in features}, features=features)
        result.image_column = find_image_column(rows.features, image_column, str(path))
        rows = _with_absolute_paths(rows, result.image_column, path)
        rows = undecoded(rows, rows.features, result.image_column)
        result.splits[name] = rows.to_iterable_dataset() if streaming else rows
    return result


def _with_absolute_paths(rows: Dataset, column: str, folder: Path) -> Dataset:
    """Make paths relative to `folder` absolute, in a column of paths or of images without bytes."""
    if not len(rows):
        return rows
    if is_text(rows.features[column]):
        paths = rows[column][:]
    else:
        chunks = rows.data.column(column).chunks
        if not all(pyarrow.types.is_struct(chunk.type) and _lacks_bytes(chunk) for chunk in chunks):
            return rows
        paths = [value and value.get("path") for chunk in chunks for value in chunk.to_pylist()]
    urls = [path for path in paths if path and path.lower().startswith(("http://", "https://"))]
    if urls:
        raise ValueError(
            f"Column {column!r} holds URLs ({urls[0][:80]} for one); download the images and name "
            "the files instead."
        )
    values = [
        {"bytes": None, "path": os.path.join(folder, path) if path else None} for path in paths
    ]
    return rows.remove_columns(column).add_column(column, values, feature=Image(decode=False))


def _lacks_bytes(chunk: pyarrow.StructArray) -> bool:
    names = [chunk.type.field(index).name for index in range(chunk.type.num_fields)]
    return "bytes" not in names or pyarrow.compute.struct_field(chunk, "bytes").null_count == len(
        chunk
    )


# The Hub


def _read_hub(
    source: str,
    config_name: str | None,
    revision: str | None,
    token: str | bool | None,
    streaming: bool,
    image_column: str | None,
    cache_dir: str | None,
) -> Source:
    if (
        _LOCAL_ONLY.match(source)
        or source.count("/") > 1
        or Path(source).suffix in (*BUILDERS, ".zip", ".tar")
    ):
        raise OSError(f"There is no file or folder {source}; check the path.")
    try:
        splits = datasets.load_dataset(
            source,
            config_name,
            revision=revision,
            token=token,
            streaming=streaming,
            cache_dir=cache_dir,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise _hub_error(source, revision, error) from error
    result = Source({}, "Hub dataset")
    for name, rows in splits.items():
        features = features_of(rows)
        result.image_column = find_image_column(features, image_column, source)
        if is_text(features[result.image_column]):
            raise ValueError(
                f"Column {result.image_column!r} of the Hub dataset {source} holds text, not "
                "images. If it names files, download them (`hf download --repo-type dataset "
                f"{shlex.quote(source)} --local-dir FOLDER`) and pass the folder."
            )
        result.splits[name] = undecoded(rows, features, result.image_column)
    return result


def _hub_error(source: str, revision: str | None, error: Exception) -> OSError | ValueError:
    """Return an error of one line: what went wrong at the Hub, and how to fix it."""
    message, name = one_line(error), f"The Hub dataset {source}"
    endpoint = datasets.config.HF_ENDPOINT
    sign_in = "sign in with `hf auth login` (or set HF_TOKEN)"
    status = getattr(getattr(error, "response", None), "status_code", None)
    kind: type[OSError] | type[ValueError] = OSError
    if isinstance(error, GatedRepoError) or "is a gated dataset" in message:
        page = f"{endpoint}/datasets/{source}"
        text = f"{name} is gated: accept its conditions on {page}, then {sign_in}."
    elif isinstance(error, DatasetNotFoundError) and "Revision" in message:
        text = f"{name} has no revision {revision!r}; name a branch, tag or commit."
    elif isinstance(error, ConnectionError) or "on the Hugging Face Hub either" in message:
        text = (
            f"There is no local file or folder {source}, and the Hub ({endpoint}) has no such "
            "dataset or cannot be reached. Check the spelling and the network."
        )
    elif isinstance(error, EmptyDatasetError) or "data files" in message:
        text = f"{name} holds no data files that can be read: {message}"
    elif isinstance(error, DatasetNotFoundError):
        text = (
            f"There is neither a local file or folder {source} nor a Hub dataset of that id that "
            f"you may read. Check the spelling; if it is private, {sign_in}."
        )
    elif isinstance(error, HfHubHTTPError) and status in (401, 403):
        text = f"{name} refuses access: {sign_in} with an account that may read it."
    elif isinstance(error, HFValidationError):
        text = f"{source} is neither a file, nor a folder, nor a Hub id; check the path."
    else:
        kind = OSError if isinstance(error, OSError) else ValueError
        if "Config name is missing" in message or "BuilderConfig" in message:
            text = f"{name} has other configurations; name one with --dataset_config. {message}"
        elif isinstance(error, RuntimeError) and "script" in message:
            text = f"{name} runs a loading script, which is not supported; use a Parquet copy."
        else:
            text = f"{name} cannot be read: {message}"
    return kind(text)
