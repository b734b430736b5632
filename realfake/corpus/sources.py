"""Where a corpus comes from: a Hub dataset, class folders, data files, or a folder written by `save_to_disk`.

First step of the corpus loader. Whatever the source, the result is the same: named splits whose `image` column
is `Image(decode=False)`, the other columns as they were found. No image is decoded here.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import datasets
import pyarrow
from datasets import Dataset, DatasetInfo
from datasets.data_files import EmptyDatasetError
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError

from realfake.corpus.class_folders import layout_of, read_class_folders
from realfake.corpus.columns import find_image_column
from realfake.corpus.data_files import BUILDERS, PRECEDENCE, names_labels, read_files
from realfake.corpus.rows import (
    Source,
    features_of,
    is_text,
    listed,
    one_line,
    undecoded,
    with_paths,
)
from realfake.corpus.splits import TRAIN

IMAGE_SUFFIXES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".avif",
        ".jp2",
        ".ppm",
        ".pgm",
        ".heic",
        ".heif",
    )
)
_NOT_DATA = frozenset(
    (
        "dataset_infos.json",
        "dataset_info.json",
        "dataset_dict.json",
        "state.json",
        "config.json",
        "report.json",
        "package.json",
    )
)


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
            return read_hub(
                source, config_name, revision, token, streaming, image_column, cache_dir
            )
        if config_name is not None:
            if not (path / config_name).is_dir():
                raise ValueError(
                    f"{source} has no folder {config_name!r}; leave the configuration's name out."
                )
            path = path / config_name
        return _read_local(path.resolve(), image_column, label_map or {}, streaming, cache_dir)
    except (
        DatasetsError,
        TypeError,
        KeyError,
        NotImplementedError,
        pyarrow.ArrowException,
    ) as error:
        # TypeError and NotImplementedError are what pyarrow's and datasets' casts raise, KeyError what damaged JSON does.
        if isinstance(error, OSError):
            raise
        raise ValueError(
            f"{source} cannot be read: {one_line(error.__cause__ or error)}"
        ) from error


def _read_local(
    path: Path,
    image_column: str | None,
    label_map: Mapping[str, str],
    streaming: bool,
    cache_dir: str | None,
) -> Source:
    if path.is_file():
        if path.suffix.lower() not in BUILDERS:
            raise ValueError(
                f"{path} is not a corpus; pass a folder of class folders or a {', '.join(PRECEDENCE)} file."
            )
        return read_files(path.parent, [path], image_column, streaming, cache_dir)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _read_saved(path, image_column, streaming)

    images, data = _walk(path)
    # A metadata file that knows the labels says more than the folders do (the "imagefolder" convention).
    metadata = [file for file in data if file.stem.lower() == "metadata" and names_labels(file)]
    kinds = {file.suffix.lower() for file in data}
    if metadata:
        return read_files(path, metadata, image_column, streaming, cache_dir)
    if kinds & {".parquet", ".arrow"}:
        return read_files(path, data, image_column, streaming, cache_dir)
    layout = layout_of(path, images, label_map) if images else None
    if layout is not None and (layout.known or not data):
        found = read_class_folders(layout, streaming)
        if data:
            found.notes.append(f"{listed(data, path)} beside the class folders was not read.")
        return found
    if data:
        return read_files(path, data, image_column, streaming, cache_dir)
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
        rows = with_paths(rows, found.image_column, path)
        rows = undecoded(rows, rows.features, found.image_column)
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
            elif suffix in BUILDERS and name.lower() not in _NOT_DATA:
                data.append(Path(folder, name))
    return images, data


_LOCAL_ONLY = re.compile(r"^(\.{0,2}/|~|[A-Za-z]:\\|\.{1,2}$)")


def read_hub(
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
        raise _hub_error(source, config_name, revision, error) from error
    found = Source({}, "Hub dataset")
    for name, rows in splits.items():
        features = features_of(rows)
        found.image_column = find_image_column(features, image_column, source)
        if is_text(features[found.image_column]):
            raise ValueError(
                f"Column {found.image_column!r} of the Hub dataset {source} holds text, not images. If it names files, "
                f"download them (`hf download --repo-type dataset {source} --local-dir FOLDER`) and pass the folder."
            )
        found.splits[name] = undecoded(rows, features, found.image_column)
    return found


def _hub_error(
    source: str, config_name: str | None, revision: str | None, error: Exception
) -> Exception:
    """Say in one line what went wrong at the Hub, and what helps."""
    sign_in = "sign in with `hf auth login` (or set HF_TOKEN)"
    said = one_line(error)
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
        return OSError(
            f"There is no file or folder {source}, and it is no Hub id either; check the path."
        )
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
