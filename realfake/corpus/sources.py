"""Find a corpus: on this machine (`local`) or on the Hub.

First step of the corpus loader. The result is the same for every source: named splits whose `image`
column is `Image(decode=False)`, and the other columns as they were found.
"""

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import datasets
import pyarrow
from datasets.data_files import EmptyDatasetError
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError

from realfake.corpus.columns import features_of, find_image_column, is_text, undecoded
from realfake.corpus.local import BUILDERS, Source, one_line, read_local

_LOCAL_ONLY = re.compile(r"^(\.{0,2}/|~|[A-Za-z]:\\|\.{1,2}$)")


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
        return read_local(path.resolve(), image_column, label_map or {}, streaming, cache_dir)
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
