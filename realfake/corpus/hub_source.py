"""A corpus on the Hub, and what went wrong there in a line that names the way out."""

import re
from pathlib import Path

import datasets
from datasets.data_files import EmptyDatasetError
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError

from .columns import find_image_column
from .data_files import BUILDERS
from .source_rows import Source, features_of, is_text, one_line, undecoded

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
    if _LOCAL_ONLY.match(source) or source.count("/") > 1 or Path(source).suffix in (*BUILDERS, ".zip", ".tar"):
        raise OSError(f"There is no file or folder {source}; check the path.")
    try:
        splits = datasets.load_dataset(
            source, config_name, revision=revision, token=token, streaming=streaming, cache_dir=cache_dir
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


def _hub_error(source: str, config_name: str | None, revision: str | None, error: Exception) -> Exception:
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
