"""Controls that a detector has to beat: logistic regressions on a few plain numbers of an image, or of its file.

Fitted on the corpus' training split and measured like the detector. Where one of them does as well, the corpus gives its
labels away by something that has nothing to do with what the images show.
"""

import dataclasses

import numpy as np
from datasets import Dataset

from realfake.audit.file_facts import NUMBERS, ContainerFacts, container_facts, radial_spectrum
from realfake.audit.probes import line
from realfake.corpus.rows import is_ai
from realfake.evaluation.robustness import Scorer
from realfake.evaluation.robustness_figures import CLEAN
from realfake.imaging.decode import image_bytes, open_image

SPECTRUM = "power-spectrum"
CONTAINER = "container-facts"
NAMES = {
    SPECTRUM: "logistic regression on the radial power spectrum",
    CONTAINER: "logistic regression on facts of the file alone",
}
# Words that fewer training images than this have are left out.
_RARE = 5


def spectrum_scorer(train: Dataset, fingerprint: str) -> Scorer:
    """Fit a logistic regression on the radial power spectra of the training images, as they are.

    Args:
        train: Rows with an undecoded `image` and `label`.
        fingerprint: Of these images, see [`rows.corpus_fingerprint`].

    Raises:
        ValueError: An image is unusable.
        OSError: An image cannot be read.
    """
    decision = line(_spectra(open_image(row) for row in _images(train)), is_ai(train))
    return Scorer(SPECTRUM, fingerprint, lambda images: decision(_spectra(images)))


def container_log_odds(train: Dataset, dataset: Dataset) -> dict[str, np.ndarray]:
    """Score images by a logistic regression on their files' facts, without decoding them.

    Returns:
        `{"clean": margins of shape (n,)}`: a degraded image has no file of its own.

    Raises:
        ValueError: A file is no image.
        OSError: A file cannot be read.
    """
    known = [container_facts(image_bytes(row)) for row in _images(train)]
    words = _words(known)
    decision = line(_numbers(known, words), is_ai(train))
    met = [container_facts(image_bytes(row)) for row in _images(dataset)]
    return {CLEAN: decision(_numbers(met, words))}


def _images(dataset: Dataset):
    return (row["image"] for row in dataset.select_columns(["image"]))


def _spectra(images) -> np.ndarray:
    return np.stack([radial_spectrum(image) for image in images])


def _words(known: list[ContainerFacts]) -> list[tuple[str, str]]:
    """The facts in words, and their values, that enough of the training images have."""
    names = [
        field.name for field in dataclasses.fields(ContainerFacts) if field.name not in NUMBERS
    ]
    words = []
    for name in names:
        values, counts = np.unique(
            [str(getattr(facts, name)) for facts in known], return_counts=True
        )
        words += [(name, str(value)) for value, count in zip(values, counts) if count >= _RARE]
    return words


def _numbers(known: list[ContainerFacts], words: list[tuple[str, str]]) -> np.ndarray:
    """Features of shape `(n, features)`: the numbers, and for each known word whether it is said."""
    rows = []
    for facts in known:
        numbers = [getattr(facts, name) for name in NUMBERS]
        # What a file does not have, such as the quality of a PNG, is told by the words.
        row = [0.0 if number is None else float(number) for number in numbers]
        rows.append(row + [float(str(getattr(facts, name)) == value) for name, value in words])
    return np.array(rows)
