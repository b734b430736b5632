"""Controls that a detector has to beat: logistic regressions on features without content.

They are fitted on the training split and measured like the detector. If one of them comes close to
the detector, something other than the content of the images reveals the labels.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from datasets import Dataset
from PIL import Image

from realfake.corpus.rows import is_ai
from realfake.evaluation.probes import line
from realfake.imaging.decode import image_bytes, open_image
from realfake.imaging.file_facts import NUMBERS, ContainerFacts, container_facts, radial_spectrum

SPECTRUM = "power-spectrum"
CONTAINER = "container-facts"
NAMES = {
    SPECTRUM: "logistic regression on the radial power spectrum",
    CONTAINER: "logistic regression on facts of the file, without its pixels",
}
# Least number of training images with a value of a file fact; rarer values are left out.
_RARE = 5


def spectrum_control(train: Dataset) -> Callable[[list[Image.Image]], np.ndarray]:
    """Fit a logistic regression on the radial power spectra of the training images.

    Args:
        train: Rows with an undecoded `image` and `label`.

    Returns:
        A function from RGB images to log-odds, (n,).

    Raises:
        ValueError: An image is unusable.
        OSError: An image cannot be read.
    """
    decision = line(_spectra(open_image(row) for row in _images(train)), is_ai(train))
    return lambda images: decision(_spectra(images))


def container_log_odds(train: Dataset, dataset: Dataset) -> np.ndarray:
    """Fit a logistic regression on file facts, without decoding pixels, and score a dataset.

    Args:
        train: Rows with an undecoded `image` and `label`.
        dataset: Rows with an undecoded `image`.

    Returns:
        (n,) log-odds of `dataset`.

    Raises:
        ValueError: A file is not an image.
        OSError: A file cannot be read.
    """
    facts = [container_facts(image_bytes(row)) for row in _images(train)]
    values = _frequent_values(facts)
    decision = line(_features(facts, values), is_ai(train))
    measured = [container_facts(image_bytes(row)) for row in _images(dataset)]
    return decision(_features(measured, values))


def _images(dataset: Dataset) -> Iterator[dict]:
    return (row["image"] for row in dataset.select_columns(["image"]))


def _spectra(images: Iterable[Image.Image]) -> np.ndarray:
    return np.stack([radial_spectrum(image) for image in images])


def _frequent_values(facts: list[ContainerFacts]) -> list[tuple[str, str]]:
    """Return (name, value) of the frequent categorical facts."""
    fields = [field.name for field in dataclasses.fields(ContainerFacts)]
    frequent = []
    for name in (name for name in fields if name not in NUMBERS):
        values, counts = np.unique([str(getattr(one, name)) for one in facts], return_counts=True)
        frequent += [(name, str(value)) for value, n in zip(values, counts) if n >= _RARE]
    return frequent


def _features(facts: list[ContainerFacts], values: list[tuple[str, str]]) -> np.ndarray:
    """Return (n, features): the numeric facts, 0 if absent, and an indicator for each value."""
    rows = []
    for one in facts:
        numbers = [getattr(one, name) for name in NUMBERS]
        row = [0.0 if number is None else float(number) for number in numbers]
        rows.append(row + [float(str(getattr(one, name)) == value) for name, value in values])
    return np.array(rows)
