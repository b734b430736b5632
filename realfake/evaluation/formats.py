"""Measure how many verdicts stay the same when pictures are saved in other file formats.

The formats change nothing visible; `robustness` measures visible degradations. The results go to
`formats.json`.
"""

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from datasets import Dataset
from PIL import Image
from scipy.special import expit

from realfake.corpus.rows import column, corpus_fingerprint, own_groups
from realfake.corpus.write import GRID_SIDE, equalized
from realfake.detector import Detector
from realfake.evaluation.collecting import joined_scores
from realfake.evaluation.degraded_scores import detector_scorer
from realfake.evaluation.log import log_once, new_record, plain
from realfake.evaluation.measure import OTHER
from realfake.formatting import md, number, share, table
from realfake.imaging.decode import open_image
from realfake.io import write_record
from realfake.prediction import Scores
from realfake.runtime import lone_threads
from realfake.statistics.bootstrap import mean_figure
from realfake.statistics.verdicts import INCONCLUSIVE

FILE_NAME = "formats.json"
UNCHANGED = "as it is"


def _saved(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _equalized(image: Image.Image) -> bytes:
    sides = (max(side // GRID_SIDE * GRID_SIDE, min(side, GRID_SIDE)) for side in image.size)
    return equalized(image, *sides)


# name -> (description, function from the upright RGB picture to a file)
FORMATS: dict[str, tuple[str, Callable[[Image.Image], bytes]]] = {
    "png": ("PNG", lambda image: _saved(image, "PNG", compress_level=1)),
    "jpeg_95": (
        "JPEG, quality 95, 4:2:0",
        lambda image: _saved(image, "JPEG", quality=95, subsampling="4:2:0"),
    ),
    "webp_80": ("WebP, quality 80", lambda image: _saved(image, "WEBP", quality=80)),
    "equalized": ("equalized: JPEG, quality 90, sides cut to multiples of 8", _equalized),
}


def score_formats(detector: Detector, dataset: Dataset, batch_size: int = 32) -> dict[str, Scores]:
    """Score each picture as it is and in each of [`FORMATS`].

    Args:
        dataset: Rows with an undecoded `image`.

    Returns:
        `{format: scores}`, with the original files as `UNCHANGED`.

    Raises:
        ValueError: An image is unusable.
        OSError: An image cannot be read.
    """
    from tqdm.auto import tqdm

    score = detector_scorer(detector, "", batch_size).score

    def work(start: int) -> list[Scores]:
        pictures = [open_image(image) for image in dataset[start : start + batch_size]["image"]]
        files = (
            [open_image(save(picture)) for picture in pictures] for _, save in FORMATS.values()
        )
        return [score(images) for images in (pictures, *files)]

    starts = range(0, len(dataset), batch_size)
    bar = {"total": len(starts), "desc": "files", "unit": "batch", "mininterval": 2.0}
    with lone_threads() as pool:
        batches = list(tqdm(pool.map(work, starts), **bar))
    return {
        name: joined_scores(parts)
        for name, parts in zip((UNCHANGED, *FORMATS), zip(*batches, strict=True), strict=True)
    }


def format_figures(
    detector: Detector,
    scores: Mapping[str, Scores],
    dataset: Dataset,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict]:
    """Compute how many pictures keep their verdict in each format.

    Args:
        scores: Of [`score_formats`].

    Returns:
        `{format: {"kept", "flipped", "inconclusive", "change"}}`. The first three are shares of
        the pictures whose original file has the verdict real or ai: now the same verdict, the
        opposite one, or inconclusive. `change` holds the largest and the median change of p(ai).
    """
    groups = own_groups(column(dataset, "group"))
    before = detector.verdicts(*scores[UNCHANGED])
    decided = before != INCONCLUSIVE
    opposite = np.array([OTHER.get(verdict, "") for verdict in before])
    if groups is not None:
        groups = [group for group, one in zip(groups, decided, strict=True) if one]
    figures = {}
    for name in FORMATS:
        after = detector.verdicts(*scores[name])
        outcomes = {
            "kept": after == before,
            "flipped": after == opposite,
            "inconclusive": after == INCONCLUSIVE,
        }
        figures[name] = {
            key: mean_figure(values[decided], groups, n_resamples, seed)
            for key, values in outcomes.items()
        }
        change = np.abs(expit(scores[name].log_odds) - expit(scores[UNCHANGED].log_odds))
        figures[name]["change"] = {
            "value": change.max(),
            "median": np.median(change),
            "n": len(change),
        }
    return plain(figures)


def measure_formats(
    detector: Detector,
    identity: str,
    dataset: Dataset,
    folder: str | Path,
    *,
    split: str,
    corpus: str,
    command: str,
    measurement_log: str | Path,
    batch_size: int = 32,
    seed: int = 0,
    n_resamples: int = 1000,
) -> dict:
    """Score a split in all formats, compute the figures, and write `formats.json`.

    Args:
        folder: Of `formats.json`.
        identity, dataset, split, corpus, command, measurement_log: As in
            [`robustness.measure_robustness`].

    Returns:
        The record.
    """
    scores = score_formats(detector, dataset, batch_size)
    record = {
        **new_record(detector.name, identity, corpus, corpus_fingerprint(dataset), command),
        "n": len(dataset),
        "described": {name: description for name, (description, _) in FORMATS.items()},
        "formats": format_figures(detector, scores, dataset, n_resamples, seed),
    }
    if split == "test":
        log_once(
            measurement_log,
            checkpoint_hash=identity,
            # It does not count as a measurement of accuracy.
            corpus=f"{corpus} (files)",
            split=split,
            n=len(dataset),
            date=record["date"],
            command=command,
            figures={name: figures["kept"]["value"] for name, figures in record["formats"].items()},
        )
    write_record(Path(folder) / FILE_NAME, split, record)
    return record


def formats_table(record: Mapping) -> str:
    """Return the figures of a record as a Markdown table."""
    rows = [
        [
            FORMATS[name][0] if name in FORMATS else md(record["described"][name]),
            f"{figures['kept']['n']:,}",
            *(share(figures[key]) for key in ("kept", "inconclusive", "flipped")),
            f"{number(figures['change']['median'])}, {number(figures['change']['value'])}",
        ]
        for name, figures in record["formats"].items()
    ]
    header = ["Saved as", "n", "same verdict", "now inconclusive", "opposite verdict"]
    return table([*header, "change of p(ai): median, largest"], rows)
