"""Is it the picture that is judged, or the file? The same picture saved in another way must keep its verdict.

Used by `scripts/evaluate_formats.py`. Nothing here degrades what a person sees; what does is the grid of
`realfake.imaging.degradations`.
"""

import io
from collections.abc import Callable, Mapping

import numpy as np
from datasets import Dataset
from PIL import Image
from scipy.special import expit
from tqdm.auto import tqdm

from realfake.audit.equalize import GRID_SIDE, equalized
from realfake.corpus.rows import column, own_groups
from realfake.detector import Detector
from realfake.evaluation.log import plain
from realfake.evaluation.robustness import detector_scorer
from realfake.imaging.decode import open_image
from realfake.labels import AI, REAL
from realfake.runtime import lone_threads
from realfake.statistics.bootstrap import mean_figure
from realfake.statistics.verdicts import INCONCLUSIVE

AS_IT_IS = "as it is"


def _saved(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _equalized(image: Image.Image) -> bytes:
    width, height = (
        max(side // GRID_SIDE * GRID_SIDE, min(side, GRID_SIDE)) for side in image.size
    )
    return equalized(image, width, height)


# name -> (what it is, how it is made of the upright RGB picture)
FORMATS: dict[str, tuple[str, Callable[[Image.Image], bytes]]] = {
    "png": ("PNG", lambda image: _saved(image, "PNG", compress_level=1)),
    "jpeg_95": (
        "JPEG, quality 95, 4:2:0",
        lambda image: _saved(image, "JPEG", quality=95, subsampling="4:2:0"),
    ),
    "webp_80": ("WebP, quality 80", lambda image: _saved(image, "WEBP", quality=80)),
    "equalized": (
        "as `audit_corpus.py --equalize` writes it: JPEG, quality 90, sides cut to multiples of 8",
        _equalized,
    ),
}


def score_formats(
    detector: Detector, dataset: Dataset, batch_size: int = 32
) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Score each picture as it is and in each of [`FORMATS`].

    Args:
        dataset: Rows with an undecoded `image`.

    Returns:
        `{format: (margins, novelty)}`, each of shape `(n,)`, as [`Detector.scores`]; `AS_IT_IS` first.

    Raises:
        ValueError: An image is unusable.
        OSError: An image cannot be read.
    """
    score = detector_scorer(detector, "", batch_size).score

    def work(start: int) -> list[np.ndarray]:
        pictures = [open_image(image) for image in dataset[start : start + batch_size]["image"]]
        files = (
            [open_image(save(picture)) for picture in pictures] for _, save in FORMATS.values()
        )
        return [np.atleast_2d(score(images)) for images in (pictures, *files)]

    starts = range(0, len(dataset), batch_size)
    with lone_threads() as pool:
        batches = list(
            tqdm(
                pool.map(work, starts),
                total=len(starts),
                desc="files",
                unit="batch",
                mininterval=2.0,
            )
        )
    scores = {}
    for name, parts in zip((AS_IT_IS, *FORMATS), zip(*batches, strict=True), strict=True):
        log_odds, *ood = np.concatenate(parts, axis=1)
        scores[name] = log_odds, ood[0] if ood else None
    return scores


def format_figures(
    detector: Detector,
    scores: Mapping[str, tuple[np.ndarray, np.ndarray | None]],
    dataset: Dataset,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict]:
    """How many pictures keep their verdict in each file.

    Args:
        scores: Of [`score_formats`].

    Returns:
        `{format: {"kept", "flipped", "withheld", "moved"}}`. The first three are shares of the pictures that got a verdict as
        they are: the same verdict, the opposite one, none. `moved` is the largest change of a probability, over all pictures.
    """
    groups = own_groups(column(dataset, "group"))
    before = detector.verdicts(*scores[AS_IT_IS])
    decided = before != INCONCLUSIVE
    opposite = np.where(before == AI, REAL, AI)
    whose = (
        None
        if groups is None
        else [group for group, mine in zip(groups, decided, strict=True) if mine]
    )
    figures = {}
    for name in FORMATS:
        after = detector.verdicts(*scores[name])
        became = {
            "kept": after == before,
            "flipped": after == opposite,
            "withheld": after == INCONCLUSIVE,
        }
        figures[name] = {
            key: mean_figure(values[decided], whose, n_resamples, seed)
            for key, values in became.items()
        }
        moved = np.abs(expit(scores[name][0]) - expit(scores[AS_IT_IS][0]))
        figures[name]["moved"] = {"value": moved.max(), "median": np.median(moved), "n": len(moved)}
    return plain(figures)
