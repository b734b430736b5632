"""Where a corpus comes from: a Hub dataset, class folders, data files, or a folder written by `save_to_disk`.

First step of the corpus loader. Whatever the source, the result is the same: named splits whose `image` column
is `Image(decode=False)`, the other columns as they were found. No image is decoded here.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import pyarrow.compute
from datasets import Dataset, DatasetInfo, Features, Image, IterableDataset, Value
from datasets.data_files import EmptyDatasetError
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError

from ..labels import canonical
from .columns import find_image_column
from .splits import TRAIN, split_role

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".ppm",
     ".pgm", ".heic", ".heif")
)  # fmt: skip
_BUILDERS = {
    ".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json",
}  # fmt: skip
# Files of this kind win over those behind them, where a folder holds several kinds.
_PRECEDENCE = (".parquet", ".arrow", ".csv", ".tsv", ".jsonl", ".json")
_NOT_DATA = frozenset(
    ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "config.json", "report.json",
     "package.json")
)  # fmt: skip
_SHARD = re.compile(r"^(\w+(?:\.\w+)*)-\d{5}-of-\d{5}")
_LOCAL_ONLY = re.compile(r"^(\.{0,2}/|~|[A-Za-z]:\\|\.{1,2}$)")


@dataclass
class Source:
    """What was read.

    Args:
        splits: `{name found: rows}`; each has a column `image` of type `Image(decode=False)`.
        kind: What the source turned out to be, for the report.
        image_column: Name that the image column had.
        notes: What a person should know: files passed over, and the like.
    """

    splits: dict[str, Dataset | IterableDataset]
    kind: str
    image_column: str = "image"
    notes: list[str] = field(default_factory=list)


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
        ValueError: The source holds nothing that can be read as a corpus.
        OSError: There is no such file, folder or Hub dataset, or it cannot be reached.
    """
    source = os.fspath(source)
    path = Path(source).expanduser()
    try:
        if not path.exists():
            return _read_hub(source, config_name, revision, token, streaming, image_column, cache_dir)
        if config_name is not None:
            if not (path / config_name).is_dir():
                raise ValueError(f"{source} has no folder {config_name!r}; leave the configuration's name out.")
            path = path / config_name
        return _read_local(path.resolve(), image_column, label_map or {}, streaming, cache_dir)
    except (DatasetsError, TypeError, KeyError, NotImplementedError, pyarrow.ArrowException) as error:
        # TypeError and NotImplementedError are what pyarrow's and datasets' casts raise, KeyError what damaged JSON does.
        if isinstance(error, OSError):
            raise
        raise ValueError(f"{source} cannot be read: {_one_line(error.__cause__ or error)}") from error


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
        or Path(source).suffix in (*_BUILDERS, ".zip", ".tar")
    ):
        raise OSError(f"There is no file or folder {source}; check the path.")
    try:
        splits = datasets.load_dataset(
            source, config_name, revision=revision, token=token, streaming=streaming, cache_dir=cache_dir
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise _hub_error(source, config_name, revision, error) from error
    found = Source({}, "Hub dataset")
    for name, rows in splits.items():
        features = _features(rows)
        found.image_column = find_image_column(features, image_column, source)
        if _is_text(features[found.image_column]):
            raise ValueError(
                f"Column {found.image_column!r} of the Hub dataset {source} holds text, not images. If it names files, "
                f"download them (`hf download --repo-type dataset {source} --local-dir FOLDER`) and pass the folder."
            )
        found.splits[name] = _undecoded(rows, features, found.image_column)
    return found


def _hub_error(source: str, config_name: str | None, revision: str | None, error: Exception) -> Exception:
    """Say in one line what went wrong at the Hub, and what helps."""
    sign_in = "sign in with `hf auth login` (or set HF_TOKEN)"
    said = _one_line(error)
    if isinstance(error, GatedRepoError) or "is a gated dataset" in said:
        return OSError(
            f"The Hub dataset {source} is gated: accept its conditions on {datasets.config.HF_ENDPOINT}/datasets/{source}, "
            f"then {sign_in}."
        )
    if isinstance(error, DatasetNotFoundError) and "Revision" in said:
        return OSError(
            f"The Hub dataset {source} has no revision {revision!r}; name a branch, tag or commit it has."
        )
    if isinstance(error, ConnectionError) or "on the Hugging Face Hub either" in said:
        return OSError(
            f"There is no local file or folder {source}, and the Hub ({datasets.config.HF_ENDPOINT}) has no dataset of that id "
            "or cannot be reached to look for it. Check the spelling and the network."
        )
    if isinstance(error, EmptyDatasetError) or "data files" in said:
        return OSError(f"The Hub dataset {source} holds no data files that can be read: {said}")
    if isinstance(error, DatasetNotFoundError):
        return OSError(
            f"There is neither a local file or folder {source} nor a Hub dataset of that id that you may read. Check the "
            f"spelling; if it is private, {sign_in}."
        )
    if (
        isinstance(error, HfHubHTTPError)
        and error.response is not None
        and error.response.status_code in (401, 403)
    ):
        return OSError(
            f"The Hub refuses access to the dataset {source}: {sign_in} with an account that may read it."
        )
    if isinstance(error, HFValidationError):
        return OSError(f"There is no file or folder {source}, and it is no Hub id either; check the path.")
    if "Config name is missing" in said or "BuilderConfig" in said:
        return ValueError(
            f"The Hub dataset {source} has several configurations or another one; name it with --dataset_config. {said}"
        )
    if isinstance(error, RuntimeError) and "script" in said:
        return ValueError(
            f"The Hub dataset {source} runs a loading script, which is not supported; use a Parquet copy."
        )
    return (OSError if isinstance(error, OSError) else ValueError)(
        f"The Hub dataset {source} cannot be read: {said}"
    )


def _read_local(
    path: Path, image_column: str | None, label_map: Mapping[str, str], streaming: bool, cache_dir: str | None
) -> Source:
    if path.is_file():
        if path.suffix.lower() not in _BUILDERS:
            raise ValueError(
                f"{path} is not a corpus; pass a folder of class folders or a {', '.join(_PRECEDENCE)} file."
            )
        return _read_files(path.parent, [path], image_column, streaming, cache_dir)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _read_saved(path, image_column, streaming)

    images, data = _walk(path)
    # A metadata file that knows the labels says more than the folders do (the "imagefolder" convention).
    metadata = [file for file in data if file.stem.lower() == "metadata" and _names_labels(file)]
    kinds = {file.suffix.lower() for file in data}
    if metadata:
        return _read_files(path, metadata, image_column, streaming, cache_dir)
    if kinds & {".parquet", ".arrow"}:
        return _read_files(path, data, image_column, streaming, cache_dir)
    layout = _layout(path, images, label_map) if images else None
    if layout is not None and (layout.known or not data):
        found = _read_class_folders(layout, streaming)
        if data:
            found.notes.append(f"{_listed(data, path)} beside the class folders was not read.")
        return found
    if data:
        return _read_files(path, data, image_column, streaming, cache_dir)
    raise ValueError(
        f"{path} holds no images and no data files; pass a folder of class folders (real/, ai/), Parquet, Arrow, "
        "CSV or JSON files, or a folder written by save_to_disk."
    )


def _read_saved(path: Path, image_column: str | None, streaming: bool) -> Source:
    if (path / "dataset_dict.json").is_file():
        names = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        folders = {name: path / name for name in names}
    else:
        folders = {TRAIN: path}
    found = Source({}, "folder written by save_to_disk")
    for name, folder in folders.items():
        rows = _load_saved_split(folder)
        found.image_column = find_image_column(rows.features, image_column, str(path))
        rows = _with_paths(rows, found.image_column, path)
        rows = _undecoded(rows, rows.features, found.image_column)
        found.splits[name] = rows.to_iterable_dataset() if streaming else rows
    return found


def _load_saved_split(folder: Path) -> Dataset:
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if not state["_data_files"]:  # load_from_disk fails on a split without rows
        features = DatasetInfo.from_directory(str(folder)).features
        return Dataset.from_dict({name: [] for name in features}, features=features)
    return datasets.load_from_disk(str(folder))


def _walk(path: Path) -> tuple[list[Path], list[Path]]:
    """List the images and the data files below a folder, in a fixed order. Links are followed, loops are not."""
    images, data, seen = [], [], set()
    for folder, folders, files in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        for name in sorted(files):
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if suffix in IMAGE_SUFFIXES:
                images.append(Path(folder, name))
            elif suffix in _BUILDERS and name.lower() not in _NOT_DATA:
                data.append(Path(folder, name))
    return images, data


@dataclass
class _Layout:
    """What the folders above the images mean: `{split name: [(image, class, generator or None)]}`."""

    path: Path
    splits: dict[str, list[tuple[Path, str, str | None]]]
    known: bool  # whether a class folder's name says what it holds
    generators: bool


def _layout(path: Path, images: Sequence[Path], label_map: Mapping[str, str]) -> _Layout:
    """Read `[split/]class/…`, `generator/[split/]class/…`, and either of them inside folders that hold nothing else."""

    def is_class(name: str) -> bool:
        return name in label_map or canonical(name) is not None

    parts = {image: image.relative_to(path).parts[:-1] for image in images}
    while True:
        heads = {part[:1] for part in parts.values()}
        if (
            len(heads) != 1
            or heads == {()}
            or split_role(next(iter(heads))[0])
            or is_class(next(iter(heads))[0])
        ):
            break
        if any(len(part) == 1 for part in parts.values()):  # the lone folder holds images: it is a class
            break
        parts = {image: part[1:] for image, part in parts.items()}
    loose = [image for image, part in parts.items() if not part or len(part) == 1 and split_role(part[0])]
    if loose:
        raise ValueError(
            f"{len(loose)} images lie outside any class folder, {_listed(loose, path)} for one; put each image in a "
            "folder named after its class, such as real/ or ai/."
        )
    generators = not any(split_role(part[0]) or is_class(part[0]) for part in parts.values()) and all(
        len(part) > 1 and (split_role(part[1]) or is_class(part[1])) for part in parts.values()
    )
    splits: dict[str, list] = {}
    for image, part in parts.items():
        generator, part = (part[0], part[1:]) if generators else (None, part)
        split, part = (part[0], part[1:]) if split_role(part[0]) else ("", part)
        if not part:
            raise ValueError(
                f"{_listed([image], path)} lies outside any class folder; put it in one, such as real/."
            )
        # The real images of a folder named after a generator were not made by it.
        made_by = None if label_map.get(part[0], canonical(part[0])) == "real" else generator
        splits.setdefault(split, []).append((image, part[0], made_by))
    if "" in splits and len(splits) > 1:
        stray = sorted({name for _, name, _ in splits[""]})
        named = sorted(name for name in splits if name)
        raise ValueError(
            f"{path} holds folders of splits ({', '.join(named)}) and others beside them ({', '.join(stray)}); "
            "move the others into a split or out of the corpus."
        )
    if "" in splits:
        splits[TRAIN] = splits.pop("")
    known = any(is_class(name) for rows in splits.values() for _, name, _ in rows)
    return _Layout(path, splits, known, generators)


def _read_class_folders(layout: _Layout, streaming: bool) -> Source:
    found = Source({}, "class folders", "image")
    for name, rows in layout.splits.items():
        columns = {
            "image": [{"bytes": None, "path": str(image)} for image, _, _ in rows],
            "label": [label for _, label, _ in rows],
        }
        features = Features({"image": Image(decode=False), "label": Value("string")})
        if layout.generators:
            columns["generator"] = [generator for _, _, generator in rows]
            features["generator"] = Value("string")
        dataset = Dataset.from_dict(columns, features=features)
        found.splits[name] = dataset.to_iterable_dataset() if streaming else dataset
    return found


def _read_files(
    root: Path, files: Sequence[Path], image_column: str | None, streaming: bool, cache_dir: str | None
) -> Source:
    suffix = next(suffix for suffix in _PRECEDENCE if any(file.suffix.lower() == suffix for file in files))
    chosen = [file for file in files if file.suffix.lower() == suffix]
    found = Source({}, f"{suffix[1:].upper()} files")
    by_split = _by_split(root, chosen)
    passed_over = [file for file in files if file not in chosen] + (
        by_split.pop(None, []) if len(by_split) > 1 else []
    )
    if passed_over:
        found.notes.append(f"Not read: {_listed(passed_over, root)}.")
    for split, members in by_split.items():
        # One folder at a time: the paths in a file are relative to it.
        folders = sorted({file.parent for file in members})
        if streaming and suffix in (".parquet", ".arrow"):
            rows = _load_files(suffix, members, True, cache_dir)
            features = _features(rows)
            found.image_column = find_image_column(features, image_column, str(root))
            if _is_text(features[found.image_column]):
                raise ValueError(f"{root}: files named in a column cannot be streamed; leave out --streaming.")
            found.splits[split or TRAIN] = _undecoded(rows, features, found.image_column)
            continue
        pieces = []
        for folder in folders:
            rows = _load_files(suffix, [file for file in members if file.parent == folder], False, cache_dir)
            found.image_column = find_image_column(rows.features, image_column, str(root))
            rows = _with_paths(rows, found.image_column, folder)
            pieces.append(_undecoded(rows, rows.features, found.image_column))
        rows = pieces[0] if len(pieces) == 1 else _concatenated(pieces, root)
        found.splits[split or TRAIN] = rows.to_iterable_dataset() if streaming else rows
    return found


def _concatenated(pieces: list[Dataset], root: Path) -> Dataset:
    try:
        return datasets.concatenate_datasets(pieces)
    except ValueError as error:
        raise ValueError(f"The files of {root} do not have the same columns: {_one_line(error)}") from error


def _by_split(root: Path, files: Sequence[Path]) -> dict[str | None, list[Path]]:
    """Sort files by the split that their path names, as datasets does: a shard's prefix, or a word of a folder or file."""
    by_split: dict[str | None, list[Path]] = {}
    for file in files:
        shard = _SHARD.match(file.name)
        words = [
            word
            for part in (*file.relative_to(root).parts[:-1], file.stem)
            for word in re.split(r"[-._ 0-9]+", part)
        ]
        named = [word.lower() for word in words if split_role(word)]
        by_split.setdefault(shard.group(1) if shard else named[0] if named else None, []).append(file)
    return by_split


def _load_files(
    suffix: str, files: Sequence[Path], streaming: bool, cache_dir: str | None
) -> Dataset | IterableDataset:
    options = {"sep": "\t"} if suffix == ".tsv" else {}
    try:
        return datasets.load_dataset(  # nosec B615  # a builder of the library's own, for files of this machine
            _BUILDERS[suffix],
            data_files=[str(file) for file in files],
            split=TRAIN,
            streaming=streaming,
            cache_dir=cache_dir,
            **options,
        )
    except (DatasetsError, ValueError) as error:
        named = files[0] if len(files) == 1 else f"{files[0].parent} ({len(files)} {suffix} files)"
        raise ValueError(f"{named} cannot be read: {_one_line(error.__cause__ or error)}") from error


def _names_labels(file: Path) -> bool:
    """Whether a metadata file has a label column, from its first line."""
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
    return any(name.lower() in ("label", "labels", "class", "target") for name in names)


def _features(rows: Dataset | IterableDataset) -> Features:
    if rows.features is not None:
        return rows.features
    # A streamed format without a schema: look at the first rows.
    return Dataset.from_list(list(rows.take(20))).features


def _is_text(feature) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string", "string_view")


def _undecoded(rows: Dataset | IterableDataset, features: Features, column: str) -> Dataset | IterableDataset:
    """Name the image column `image` and keep datasets from decoding it."""
    if isinstance(rows, IterableDataset) and rows.features is not None:
        # Hub streams are decoded by threads of their own, which a cast does not reach.
        rows = rows.decode(False)
    if column != "image":
        if "image" in features:
            rows = rows.remove_columns("image")
        rows = rows.rename_column(column, "image")
    return rows.cast_column("image", Image(decode=False))


def _with_paths(rows: Dataset, column: str, folder: Path) -> Dataset:
    """Make paths that are relative to `folder` absolute, in a column of paths or of images that are paths only."""
    if not len(rows):
        return rows
    if _is_text(rows.features[column]):
        paths = rows[column][:]
    else:
        chunks = rows.data.column(column).chunks
        if not all(pyarrow.types.is_struct(chunk.type) and _is_empty(chunk, "bytes") for chunk in chunks):
            return rows
        paths = [value and value.get("path") for chunk in chunks for value in chunk.to_pylist()]
    urls = [path for path in paths if path and path.lower().startswith(("http://", "https://"))]
    if urls:
        raise ValueError(
            f"Column {column!r} holds URLs ({urls[0][:80]} for one); download the images and name the files instead."
        )
    values = [{"bytes": None, "path": os.path.join(folder, path) if path else None} for path in paths]
    return rows.remove_columns(column).add_column(column, values, feature=Image(decode=False))


def _is_empty(chunk, field_name: str) -> bool:
    names = [chunk.type.field(i).name for i in range(chunk.type.num_fields)]
    return field_name not in names or pyarrow.compute.struct_field(chunk, field_name).null_count == len(chunk)


def _listed(files: Sequence[Path], root: Path, most: int = 3) -> str:
    names = [str(file.relative_to(root)) for file in files[:most]]
    return ", ".join(names) + (f" and {len(files) - most} more" if len(files) > most else "")


def _one_line(error: BaseException, length: int = 300) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= length else f"{text[: length - 1]}…"
