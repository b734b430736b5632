"""Measure groups of images that people bring: retouched photographs and small images.

Each group is a set of degradations, applied to a sample of a split: [`degradations.RETOUCHED`] to
photographs only, whose figure is the rate of false alarms, [`degradations.SMALL`] to all images.
The results go to `categories.json`.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset

from realfake import io
from realfake.corpus.rows import column, corpus_fingerprint, is_ai, own_groups
from realfake.detector import Detector
from realfake.evaluation.collecting import joined_scores
from realfake.evaluation.degraded_scores import detector_scorer, possible_degradations, score_grid
from realfake.evaluation.log import log_once, new_record, plain
from realfake.evaluation.robustness import CLEAN, short_figures, subsample, verdict_columns
from realfake.formatting import MISSING, code, md, score, share, table
from realfake.imaging.degradations import DEGRADATIONS, RETOUCHED, SMALL, Degradation
from realfake.labels import AI, REAL
from realfake.prediction import Scores

FILE_NAME = "categories.json"
RETOUCHED_NAME, SMALL_NAME = "retouched", "small"
CATEGORIES: dict[str, Mapping[str, Degradation]] = {RETOUCHED_NAME: RETOUCHED, SMALL_NAME: SMALL}
# All degradations of a category together.
ALL = "all"
_UNCHANGED = "unchanged"


def category_figures(
    detector: Detector,
    scores: Mapping[str, Scores],
    dataset: Dataset,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict]:
    """Compute the figures under each degradation, and [`ALL`] of them together.

    Args:
        scores: `{degradation: scores of the dataset}`, with the unchanged images as `clean`.

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
        categories: Of [`CATEGORIES`].
        most: Largest number of images of each category.
        identity, dataset, folder, split, corpus, command, measurement_log: As in
            [`robustness.measure_robustness`].

    Returns:
        The record.

    Raises:
        ValueError: An image is unusable, or the split has no photograph.
        OSError: A file cannot be read or written.
    """
    scorer = detector_scorer(detector, identity, batch_size)
    photographs = dataset.select(np.flatnonzero(~is_ai(dataset)))
    if RETOUCHED_NAME in categories and not len(photographs):
        raise ValueError(f"The split {split} has no photographs to retouch; leave out retouched.")
    fingerprint = corpus_fingerprint(dataset)
    record = new_record(detector.name, identity, corpus, fingerprint, command)
    record["categories"] = {}
    path = Path(folder) / FILE_NAME
    before = io.read_records(path).get(split) or {}
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
        if split == "test":
            log_once(
                measurement_log,
                checkpoint_hash=identity,
                corpus=f"{corpus} ({category})",
                split=split,
                n=figures[CLEAN]["n"],
                date=record["date"],
                command=command,
                figures={name: own["false_positives"] for name, own in figures.items()},
                degradations=names,
            )
    io.write_record(path, split, plain(record), indent=1)
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
        title = {CLEAN: _UNCHANGED, ALL: "**all together**"}.get(name, code(name))
        rows.append([title, counts, *cells, share(rated.get("verdict_rate")) if rated else MISSING])
    header = ["Images", "n real / ai" if pairs else "n", *(["AUROC"] if pairs else [])]
    header += ["photographs with p(ai) > ½", "photographs with verdict `ai`"]
    header += ["generated with verdict `real`"] if pairs else []
    return table([*header, "verdict given"], rows)


def described(record: Mapping, category: str) -> str:
    """Return a list that describes the degradations of a measured category."""
    texts = record["categories"][category]["described"].items()
    return "\n".join(f"- {code(name)}: {md(text)}" for name, text in texts)
