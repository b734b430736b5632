"""Measure images as people bring them: retouched photographs, small images, other file formats.

Retouching and small sizes are groups of degradations, applied to a sample of a split:
[`degradations.RETOUCHED`] to photographs only, whose figure is the rate of false alarms,
[`degradations.SMALL`] to all images; the results go to `categories.json`. File formats change
nothing visible, and their figure is the share of verdicts that stay; the results go to
`formats.json`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset
from PIL import Image
from scipy.special import expit

from realfake.corpus.rows import column, corpus_fingerprint, is_ai, own_groups
from realfake.corpus.splits import subsample
from realfake.corpus.write import GRID_SIDE, equalized, saved
from realfake.detector import Detector
from realfake.evaluation.log import log_test, new_record, plain
from realfake.evaluation.measure import OTHER
from realfake.evaluation.robustness import CLEAN, short_figures, verdict_columns
from realfake.evaluation.scores import (
    detector_scorer,
    joined_scores,
    possible_degradations,
    score_grid,
)
from realfake.formatting import MISSING, code, md, number, score, share, table
from realfake.imaging.decode import open_image
from realfake.imaging.degradations import DEGRADATIONS, RETOUCHED, SMALL, Degradation
from realfake.io import read_records, write_record
from realfake.labels import AI, REAL
from realfake.prediction import Scores
from realfake.runtime import lone_threads
from realfake.statistics.metrics import mean_figure
from realfake.statistics.verdicts import INCONCLUSIVE

CATEGORIES_FILE = "categories.json"
FORMATS_FILE = "formats.json"
RETOUCHED_NAME, SMALL_NAME = "retouched", "small"
CATEGORIES: dict[str, Mapping[str, Degradation]] = {RETOUCHED_NAME: RETOUCHED, SMALL_NAME: SMALL}
# All degradations of a category together.
ALL = "all"
# Of the formats: the original file.
UNCHANGED = "as it is"

# Retouched photographs and small images


def category_figures(
    detector: Detector,
    scores: Mapping[str, Scores],
    dataset: Dataset,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict]:
    """Compute the figures under each degradation, and [`ALL`] of them together.

    Returns:
        `{degradation: figures}` of [`short_figures`]. Each image counts once per degradation in
        [`ALL`]; the bootstrap draws images, or groups of images, with all their copies.
    """
    truth = is_ai(dataset)
    known = own_groups(column(dataset, "group"))
    groups = np.array(known or [str(row) for row in range(len(dataset))])
    options = {"seed": seed, "n_resamples": n_resamples}

    def figures(own: Scores, copies: int = 1) -> dict:
        columns = {**verdict_columns(detector, own), "groups": np.tile(groups, copies)}
        chosen = np.ones(len(truth) * copies, dtype=bool)
        labels = np.tile(truth, copies)
        return short_figures(own.log_odds, labels, chosen, detector.thresholds, columns, options)

    result = {name: figures(own) for name, own in scores.items()}
    changed = [own for name, own in scores.items() if name != CLEAN]
    if len(changed) > 1:
        result[ALL] = figures(joined_scores(changed), len(changed))
    return plain(result)


def measure_categories(
    detector: Detector,
    identity: str,
    dataset: Dataset,
    folder: str | os.PathLike,
    categories: Sequence[str],
    *,
    split: str,
    corpus: str,
    command: str,
    measurement_log: str | os.PathLike,
    most: int = 400,
    batch_size: int = 16,
    seed: int = 0,
    n_resamples: int = 1000,
) -> dict:
    """Score a sample of a split, compute the figures, and write `categories.json`.

    Categories that an earlier call measured with the same weights and images are kept.

    Args:
        most: Largest number of images of each category.
        identity, dataset, folder, split, corpus, command, measurement_log: As in
            [`robustness.measure_robustness`].
    """
    scorer = detector_scorer(detector, identity, batch_size)
    photographs = dataset.select(np.flatnonzero(~is_ai(dataset)))
    if RETOUCHED_NAME in categories and not len(photographs):
        raise ValueError(f"The split {split} has no photographs to retouch; leave out retouched.")
    fingerprint = corpus_fingerprint(dataset)
    record = new_record(detector.name, identity, corpus, fingerprint, command)
    record["categories"] = {}
    path = Path(folder) / CATEGORIES_FILE
    before = read_records(path).get(split) or {}
    if all(before.get(key) == record[key] for key in ("checkpoint_sha256", "corpus_fingerprint")):
        record["categories"] = before["categories"]
    for category in categories:
        images = photographs if category == RETOUCHED_NAME else dataset
        sample = subsample(images, most, seed)
        names = [CLEAN, *possible_degradations(sample, CATEGORIES[category])]
        own = corpus_fingerprint(sample)
        scores, _ = score_grid(sample, names, [scorer], folder, own, batch_size)
        figures = category_figures(detector, scores[scorer.name], sample, n_resamples, seed)
        record["categories"][category] = {
            "of": len(images),
            "described": {name: DEGRADATIONS[name].description for name in names[1:]},
            "degradations": figures,
        }
        log_test(
            measurement_log,
            record,
            split,
            kind=category,
            n=figures[CLEAN]["n"],
            figures={name: own["false_positives"] for name, own in figures.items()},
            degradations=names,
        )
    write_record(path, split, plain(record), indent=1)
    return record


def category_table(record: Mapping, category: str) -> str | None:
    """Return the figures of a category as a Markdown table; `None` if it was not measured."""
    measured = record.get("categories", {}).get(category)
    if not measured:
        return None
    pairs = category != RETOUCHED_NAME
    rows = []
    for name, figures in measured["degradations"].items():
        rated = figures.get("verdicts") or {}
        wrong = rated.get("wrong") or {}
        cells = [score(figures["auroc"])] if pairs else []
        cells += [share(figures["false_positives"]), share(wrong.get(REAL))]
        cells += [share(wrong.get(AI))] if pairs else []
        n = figures["n"]
        counts = f"{n[REAL]:,} / {n[AI]:,}" if pairs else f"{n[REAL]:,}"
        title = {CLEAN: "unchanged", ALL: "**all together**"}.get(name, code(name))
        rows.append([title, counts, *cells, share(rated.get("verdict_rate")) if rated else MISSING])
    header = ["Images", "n real / ai" if pairs else "n", *(["AUROC"] if pairs else [])]
    header += ["photographs with p(ai) > ½", "photographs with verdict `ai`"]
    header += ["generated with verdict `real`"] if pairs else []
    return table([*header, "verdict given"], rows)


def described(record: Mapping, category: str) -> str:
    """Return a list that describes the degradations of a measured category."""
    texts = record["categories"][category]["described"].items()
    return "\n".join(f"- {code(name)}: {md(text)}" for name, text in texts)


# File formats


def _equalized(image: Image.Image) -> bytes:
    sides = (max(side // GRID_SIDE * GRID_SIDE, min(side, GRID_SIDE)) for side in image.size)
    return equalized(image, *sides)


# name -> (description, function from the upright RGB picture to a file)
FORMATS: dict[str, tuple[str, Callable[[Image.Image], bytes]]] = {
    "png": ("PNG", lambda image: saved(image, "PNG", compress_level=1)),
    "jpeg_95": (
        "JPEG, quality 95, 4:2:0",
        lambda image: saved(image, "JPEG", quality=95, subsampling="4:2:0"),
    ),
    "webp_80": ("WebP, quality 80", lambda image: saved(image, "WEBP", quality=80)),
    "equalized": ("equalized: JPEG, quality 90, sides cut to multiples of 8", _equalized),
}


def score_formats(detector: Detector, dataset: Dataset, batch_size: int = 32) -> dict[str, Scores]:
    """Score each picture as it is and in each of [`FORMATS`].

    Returns:
        `{format: scores}`, with the original files as `UNCHANGED`.
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

    identity, dataset, split, corpus, command, measurement_log: As in
        [`robustness.measure_robustness`].
    """
    scores = score_formats(detector, dataset, batch_size)
    record = {
        **new_record(detector.name, identity, corpus, corpus_fingerprint(dataset), command),
        "n": len(dataset),
        "described": {name: description for name, (description, _) in FORMATS.items()},
        "formats": format_figures(detector, scores, dataset, n_resamples, seed),
    }
    kept = {name: figures["kept"]["value"] for name, figures in record["formats"].items()}
    log_test(measurement_log, record, split, kind="files", n=len(dataset), figures=kept)
    write_record(Path(folder) / FORMATS_FILE, split, record)
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
