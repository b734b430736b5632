"""Measure what further views of an image bring, and how well a part that differs is found.

[`measure_views`] compares numbers of views on the same images. [`measure_early_exit`] counts the
views that a verdict needs. [`measure_parts`] counts how often spliced photographs, their controls
and untouched photographs have a part that differs. The results go to `views.json`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.special import expit
from tqdm.auto import tqdm

from realfake.corpus.rows import column, corpus_fingerprint, is_ai, own_groups
from realfake.detector import Detector
from realfake.evaluation.log import log_test, new_record, plain
from realfake.evaluation.measure import OTHER
from realfake.evaluation.scores import collect_scores
from realfake.evaluation.splices import KINDS, splices
from realfake.formatting import score, share, table
from realfake.io import write_record
from realfake.labels import AI, NAMES, REAL
from realfake.prediction import Scores
from realfake.scoring.scorer import Scorer
from realfake.scoring.source import Row
from realfake.statistics.metrics import (
    auroc,
    balanced_accuracy,
    bootstrap_interval,
    class_balanced_weights,
    ece,
    mean_figure,
)
from realfake.statistics.stopping import STEP
from realfake.statistics.verdicts import INCONCLUSIVE

FILE_NAME = "views.json"
NUMBERS = (1, 4, 16)
# Shares of the image that a spliced region covers, and the smallest one that should be found.
SPLICED_SHARES = (0.05, 0.30)
LARGE_SHARE = 0.10
_LARGEST = 640


def measure_views(
    detector: Detector,
    dataset: Dataset,
    numbers: Sequence[int] = NUMBERS,
    *,
    batch_size: int = 16,
    seed: int = 0,
    n_resamples: int = 1000,
) -> dict:
    """Measure a split with each number of views, and the differences to the first number.

    Returns:
        `{number: figures}` with the keys `mean_views`, `auroc`, `balanced_accuracy`, `ece`
        (class-balanced), `verdict_rate`, the share of images with a verdict, and `wrong` by label,
        as `{"value", "low", "high", "n"}`; from the second number on, `difference` holds the paired
        differences of the first four. `by_source` has the AUROC of each source with both classes.
    """
    truth = is_ai(dataset)
    groups = own_groups(column(dataset, "group"))
    sources = np.array(column(dataset, "source") or [""] * len(truth), dtype=object).astype(str)
    options: dict[str, Any] = {"groups": groups, "n_resamples": n_resamples, "seed": seed}
    result: dict[str, dict] = {}
    first: tuple[np.ndarray, ...] = ()
    for views in numbers:
        scores = collect_scores(detector, dataset, batch_size, f"{views} views", views=views)
        arrays = _arrays(detector, scores, truth)
        figures: dict[str, Any] = {"mean_views": float(np.mean(scores.n_views))}
        for name, statistic in _STATISTICS.items():
            low, high = bootstrap_interval(statistic, *arrays, **options)
            figures[name] = {"value": statistic(*arrays), "low": low, "high": high, "n": len(truth)}
        figures["wrong"] = {
            label: mean_figure(
                arrays[2][mine] == OTHER[label],
                None if groups is None else np.array(groups)[mine],
                n_resamples,
                seed,
            )
            for label, mine in ((REAL, ~truth), (AI, truth))
        }
        figures["by_source"] = {
            str(name): auroc(scores.log_odds[sources == name], truth[sources == name])
            for name in np.unique(sources)
            if 0 < truth[sources == name].mean() < 1
        }
        if first:
            figures["difference"] = {
                name: _difference(statistic, arrays, first, options)
                for name, statistic in _STATISTICS.items()
            }
        first = first or arrays
        result[str(views)] = figures
    return plain(result)


def _arrays(detector: Detector, scores: Scores, truth: np.ndarray) -> tuple[np.ndarray, ...]:
    return scores.log_odds, truth, detector.verdicts(*scores)


_STATISTICS: dict[str, Callable] = {
    "auroc": lambda log_odds, truth, verdicts: auroc(log_odds, truth),
    "balanced_accuracy": lambda log_odds, truth, verdicts: balanced_accuracy(log_odds, truth),
    "ece": lambda log_odds, truth, verdicts: ece(
        expit(log_odds), truth, class_balanced_weights(truth)
    ),
    "verdict_rate": lambda log_odds, truth, verdicts: float(np.mean(verdicts != INCONCLUSIVE)),
}


def _difference(
    statistic: Callable,
    arrays: tuple[np.ndarray, ...],
    first: tuple[np.ndarray, ...],
    options: Mapping,
) -> dict:
    def paired(truth: np.ndarray, *both: np.ndarray) -> float:
        return statistic(both[0], truth, both[1]) - statistic(both[2], truth, both[3])

    values = (arrays[1], arrays[0], arrays[2], first[0], first[2])
    low, high = bootstrap_interval(paired, *values, **options)
    return {"value": paired(*values), "low": low, "high": high}


def measure_early_exit(detector: Detector, dataset: Dataset, *, batch_size: int = 16) -> dict:
    """Measure how many views `realfake score --early_exit` needs, and how many verdicts it changes.

    Images with three views or fewer are left out, because all of them are examined.

    Returns:
        `n`, the number of images; `mean_share_of_views`; `stopped`, the share of images that did
        not need all views; `changed`, the share of images whose verdict is another one than after
        all views, as `{"value", "low", "high", "n"}`.
    """
    full = collect_scores(detector, dataset, batch_size, "all views")
    large = np.flatnonzero(full.n_views > STEP)
    if not len(large):
        return {"n": 0}
    dataset, scorer = dataset.select(large), Scorer(detector, early_exit=True)
    answers: list[dict] = []
    for start in tqdm(range(0, len(dataset), batch_size), desc="early exit", mininterval=2.0):
        images = dataset[start : start + batch_size]["image"]
        answers += scorer([Row(str(index), None, image) for index, image in enumerate(images)])[0]
    shares = [answer["n_views"] for answer in answers] / full.n_views[large]
    verdicts = detector.verdicts(*full)[large]
    changed = [answer["verdict"] for answer in answers] != verdicts
    return plain(
        {
            "n": len(shares),
            "mean_share_of_views": float(np.mean(shares)),
            "stopped": float(np.mean(shares < 1)),
            "changed": mean_figure(changed),
        }
    )


def measure_parts(
    detector: Detector, dataset: Dataset, n: int = 100, *, batch_size: int = 16, seed: int = 0
) -> dict:
    """Measure how often a part differs in spliced photographs, their controls, and photographs.

    The region of a splice comes from a generated image and covers 5 to 30 % of a photograph of up
    to 640 pixels. The control has the same seam, and a region of another photograph.

    Args:
        n: Number of splices.

    Returns:
        - `untouched`: the share of photographs of the split with a part that differs
        - `spliced`, `spliced_large` (10 % or more of the area), `control`: the same of the splices
        - `hits`, `random_hits`: how often the view with the largest contrast, and a random view,
          has its centre in the region
        - `n_views`: the mean number of views of the splices
    """
    photographs = dataset.select(np.flatnonzero(~is_ai(dataset)))
    scores = collect_scores(detector, photographs, batch_size, "photographs")
    flagged = np.zeros(len(photographs), dtype=bool)
    if detector.differing is not None:
        flagged = detector.differing.differs(scores.contrast, scores.n_views)
    tested = scores.n_views > 2
    rows: dict[str, list] = {name: [] for name in ("flag", "control", "area", "hit", "random")}
    counts = []
    kind = next(name for name, labels in KINDS.items() if labels == (REAL, AI))
    made = splices(dataset, n, seed, kinds=(kind,), largest=_LARGEST, shares=SPLICED_SHARES)
    for splice in tqdm(made, total=n, desc="splices", unit="image", mininterval=2.0):
        images = [splice.image, splice.control]
        examined = detector.examine_images(images, detector.limit(None), batch_size)
        changed, control = detector.predictions(examined)
        counts.append(len(changed.views))
        rows["flag"].append(changed.differing is not None)
        rows["control"].append(control.differing is not None)
        rows["area"].append(splice.mask.mean())
        inside = [_centre_inside(tile.box, splice.mask) for tile in changed.tiles]
        found = examined[0].contrast()
        hits = [inside[index] for index in found.views] if found else [False]
        rows["hit"].append(float(np.mean(hits)))
        rows["random"].append(float(np.mean(inside)))
    large = np.array(rows["area"]) >= LARGE_SHARE
    flags = np.array(rows["flag"], dtype=float)
    return plain(
        {
            "untouched": mean_figure(flagged[tested], seed=seed),
            "spliced": mean_figure(flags, seed=seed),
            "spliced_large": mean_figure(flags[large], seed=seed),
            "control": mean_figure(rows["control"], seed=seed),
            "hits": mean_figure(rows["hit"], seed=seed),
            "random_hits": mean_figure(rows["random"], seed=seed),
            "n_views": float(np.mean(counts)) if counts else None,
        }
    )


def _centre_inside(box: Sequence[int], mask: np.ndarray) -> bool:
    return bool(mask[(box[1] + box[3]) // 2, (box[0] + box[2]) // 2])


def write_views(
    detector: Detector,
    identity: str,
    dataset: Dataset,
    folder: str | Path,
    *,
    numbers: Sequence[int] = NUMBERS,
    n_splices: int = 100,
    split: str,
    corpus: str,
    command: str,
    measurement_log: str | Path,
    batch_size: int = 16,
    seed: int = 0,
    n_resamples: int = 1000,
) -> dict:
    """Measure a split with several numbers of views, and write `views.json`.

    Args:
        identity: What identifies the weights, such as their hash.
        n_splices: Number of splices; 0 leaves them out.

        The others are those of [`measure_views`] and
        [`~realfake.evaluation.log.log_measurement`].
    """
    truth = is_ai(dataset)
    record: dict[str, Any] = {
        **new_record(detector.name, identity, corpus, corpus_fingerprint(dataset), command),
        "n": {label: int((truth == (label == AI)).sum()) for label in NAMES},
        "views": measure_views(
            detector, dataset, numbers, batch_size=batch_size, seed=seed, n_resamples=n_resamples
        ),
    }
    record["early_exit"] = measure_early_exit(detector, dataset, batch_size=batch_size)
    if n_splices:
        record["parts"] = measure_parts(
            detector, dataset, n_splices, batch_size=batch_size, seed=seed
        )
    figures = {views: each["auroc"] for views, each in record["views"].items()}
    log_test(measurement_log, record, split, kind="views", n=record["n"], figures=figures)
    write_record(Path(folder) / FILE_NAME, split, plain(record), indent=1)
    return record


def views_table(record: Mapping) -> str:
    """Return the figures of each number of views as a Markdown table."""
    rows = [
        [
            str(views),
            f"{figures['mean_views']:.1f}",
            score(figures["auroc"]),
            share(figures["balanced_accuracy"]),
            score(figures["ece"]),
            share(figures["verdict_rate"]),
            *(share(figures["wrong"][label]) for label in NAMES),
        ]
        for views, figures in record["views"].items()
    ]
    head = ["views", "mean", "AUROC", "balanced accuracy", "ECE", "get a verdict"]
    return table([*head, "photographs wrong", "generated wrong"], rows)
