"""Find the images of a corpus that cannot be used, by decoding each of them once.

Third step of the corpus loader, after splitting. The decoding is the one of training and prediction
([`~realfake.imaging.decode.open_image`]); results are cached, images are neither changed nor rewritten.
"""

import hashlib
import inspect
import os
from collections.abc import Mapping
from pathlib import Path

import datasets
import numpy as np
import PIL
import pyarrow.compute
from datasets import Dataset, Features, Value

from realfake.imaging import decode
from realfake.imaging.decode import open_image

# Images in a batch of the check. Small, because a batch is held in memory undecoded.
CHECKED_AT_ONCE = 32


def find_problems(
    dataset: Dataset,
    rows: np.ndarray,
    split: str,
    num_proc: int | None = None,
    cache_dir: str | None = None,
) -> dict[int, str]:
    """Decode images to see whether they can be.

    Args:
        dataset: Rows with an undecoded `image`.
        rows: Indices of those to look at.
        split: For the progress bar.
        num_proc: Processes to use.
        cache_dir: Where the result is kept; by default datasets' cache.

    Returns:
        `{index in the dataset: reason}` for those that cannot be decoded.
    """
    if not len(rows):
        return {}
    checked = (
        dataset.select_columns("image")
        .select(rows)
        .map(
            _check_batch,
            batched=True,
            batch_size=CHECKED_AT_ONCE,
            remove_columns=["image"],
            features=Features({"problem": Value("string")}),
            num_proc=num_proc if num_proc and 1 < num_proc <= len(rows) else None,
            cache_file_name=_cache_file(dataset, rows, cache_dir),
            desc=f"Checking the {split} images",
        )
    )
    return {
        int(row): problem for row, problem in zip(rows, checked["problem"]) if problem is not None
    }


def _check_batch(batch: Mapping[str, list]) -> dict[str, list[str | None]]:
    return {"problem": [problem_of(image) for image in batch["image"]]}


def problem_of(image: Mapping | None) -> str | None:
    """Why an image `{"bytes", "path"}` cannot be used, on one line; `None` if it can."""
    if not image or image["bytes"] is None and not image["path"]:
        return "it has no image"
    try:
        open_image({"bytes": image["bytes"], "path": image["path"] or "the image"})
    except (ValueError, OSError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return None


def _cache_file(dataset: Dataset, rows: np.ndarray, cache_dir: str | None) -> str:
    """Where the result is kept: apart from the source, which may be read-only.

    The name depends on all that the result depends on: the rows, the files they name, the code that decodes them.
    """
    key = hashlib.sha256(f"{dataset._fingerprint}\0{PIL.__version__}\0".encode())
    key.update(inspect.getsource(decode).encode())
    key.update(np.asarray(rows, dtype="<i8").tobytes())
    files = _files(dataset)
    for path in (files[row] for row in rows) if files else ():
        try:
            status = os.stat(path or "")
            stamp = f"{status.st_size} {status.st_mtime_ns}"
        except (OSError, ValueError):
            stamp = "missing"
        key.update(f"{path}\0{stamp}\0".encode("utf-8", "backslashreplace"))
    folder = Path(cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser() / "realfake"
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder / f"checked-{key.hexdigest()[:32]}.arrow")


def image_paths(dataset: Dataset) -> list[str | None]:
    """The path of every image of a dataset that has not been indexed; no bytes are read."""
    chunks = dataset.data.column("image").chunks
    return [
        path for chunk in chunks for path in pyarrow.compute.struct_field(chunk, "path").to_pylist()
    ]


def _files(dataset: Dataset) -> list[str | None]:
    """The path of every image that is read from its file; empty where all images are bytes."""
    chunks = dataset.data.column("image").chunks
    inline = [
        is_inline
        for chunk in chunks
        for is_inline in pyarrow.compute.struct_field(chunk, "bytes").is_valid().to_pylist()
    ]
    if all(inline):
        return []
    return [None if is_inline else path for is_inline, path in zip(inline, image_paths(dataset))]
