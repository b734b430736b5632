"""Find the images of a corpus that cannot be decoded, by decoding each of them once.

Third step of the corpus loader, after splitting. It decodes as training and prediction do, with
[`~realfake.imaging.decode.open_image`]. Results are cached; images are not changed.
"""

import hashlib
import inspect
import os
from collections.abc import Mapping
from pathlib import Path

import datasets
import numpy as np
import PIL
import pyarrow
import pyarrow.compute
from datasets import Dataset, Features, Value

from realfake.imaging import decode, limits
from realfake.imaging.decode import open_image

# Images per batch of the check. A batch is held in memory, undecoded.
CHECK_BATCH = 32


def find_problems(
    dataset: Dataset,
    rows: np.ndarray,
    split: str,
    num_proc: int | None = None,
    cache_dir: str | None = None,
) -> dict[int, str]:
    """Decode images and return why some cannot be decoded.

    Args:
        dataset: Rows with an undecoded `image`.
        rows: Indices of the rows to check.
        split: Name of the split, for the progress bar.
        num_proc: *optional*. Number of processes.
        cache_dir: *optional*. Folder of the results; *defaults to* the cache of datasets.

    Returns:
        `{index in the dataset: reason}`
    """
    if not len(rows):
        return {}
    checked = (
        dataset.select_columns("image")
        .select(rows)
        .map(
            _check_batch,
            batched=True,
            batch_size=CHECK_BATCH,
            remove_columns=["image"],
            features=Features({"problem": Value("string")}),
            num_proc=num_proc if num_proc and 1 < num_proc <= len(rows) else None,
            cache_file_name=_cache_file(dataset, rows, cache_dir),
            desc=f"Checking the {split} images",
        )
    )
    problems = zip(rows, checked["problem"], strict=True)
    return {int(row): problem for row, problem in problems if problem is not None}


def _check_batch(batch: Mapping[str, list]) -> dict[str, list[str | None]]:
    return {"problem": [problem_of(image) for image in batch["image"]]}


def problem_of(image: Mapping | None) -> str | None:
    """Return why an image `{"bytes", "path"}` cannot be decoded, on one line; `None` if it can."""
    if not image or image["bytes"] is None and not image["path"]:
        return "it has no image"
    try:
        open_image({"bytes": image["bytes"], "path": image["path"] or "the image"})
    except (ValueError, OSError) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return None


def _cache_file(dataset: Dataset, rows: np.ndarray, cache_dir: str | None) -> str:
    """Return a name that depends on the rows, their files and the code that decodes them."""
    key = hashlib.sha256(f"{dataset._fingerprint}\0{PIL.__version__}\0".encode())
    for module in (decode, limits):
        key.update(inspect.getsource(module).encode())
    key.update(np.asarray(rows, dtype="<i8").tobytes())
    inline = [
        valid for array in _fields(dataset, "bytes") for valid in array.is_valid().to_pylist()
    ]
    if not all(inline):
        paths = image_paths(dataset)
        for path in (paths[row] for row in rows if not inline[row]):
            try:
                status = os.stat(path or "")
                stamp = f"{status.st_size} {status.st_mtime_ns}"
            except (OSError, ValueError):
                stamp = "missing"
            key.update(f"{path}\0{stamp}\0".encode("utf-8", "backslashreplace"))
    # The folder of the source may be read-only.
    folder = Path(cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser() / "realfake"
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder / f"checked-{key.hexdigest()[:32]}.arrow")


def image_paths(dataset: Dataset) -> list[str | None]:
    """Return the path of every image of a dataset without indices; no bytes are read."""
    return [path for array in _fields(dataset, "path") for path in array.to_pylist()]


def _fields(dataset: Dataset, name: str) -> list[pyarrow.Array]:
    chunks = dataset.data.column("image").chunks
    return [pyarrow.compute.struct_field(chunk, name) for chunk in chunks]
