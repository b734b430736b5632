"""Measure a detector and its controls on recompressed, resized, cropped, blurred and noisy images.

[`measure_robustness`] scores a split under every degradation, computes the figures and writes
`robustness.json`.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike

from realfake import io
from realfake.corpus.rows import column, corpus_fingerprint, is_ai, own_groups
from realfake.corpus.splits import subsample
from realfake.detector import Detector
from realfake.evaluation import probes
from realfake.evaluation.log import log_test, new_record, plain
from realfake.evaluation.measure import ENOUGH, complement, interval_of, measure
from realfake.evaluation.results import checkpoint_hash
from realfake.evaluation.scores import Scorer, detector_scorer, possible_degradations, score_grid
from realfake.imaging.degradations import GRID
from realfake.labels import NAMES
from realfake.prediction import Scores
from realfake.statistics.metrics import balanced_accuracy
from realfake.statistics.verdicts import Thresholds

FILE_NAME = "robustness.json"
CLEAN = "clean"
# Sources whose photographs and generated images show the same subjects.
_MATCHED = ("press-pairs", "truman-pairs", "cards", "playground", "fjell")
# Sources that are also reported separately, if a split has them.
SLICES = {
    "faces": ["faces-256", "faces-300", "faces-web", "tpdne", "man"],
    "photographs of screens and prints": ["recaptured"],
    "matched subjects": list(_MATCHED),
    **{f"{name} (matched subjects)": [name] for name in _MATCHED},
}


# Figures


def verdict_columns(detector: Detector, scores: Scores) -> dict[str, np.ndarray | None]:
    """Return the arguments of [`measure.measure`] that the verdicts follow from."""
    columns: dict[str, np.ndarray | None] = {"n_views": scores.n_views}
    if detector.differing is not None:
        columns["differing"] = detector.differing.differs(scores.contrast, scores.n_views)
    if detector.ood is not None and scores.ood is not None:
        columns["out_of_distribution"] = detector.ood.is_out_of_distribution(scores.ood)
    return columns


def grid_figures(
    log_odds: Mapping[str, np.ndarray],
    truth: ArrayLike,
    *,
    thresholds: Thresholds | None = None,
    columns: Mapping[str, Mapping] | None = None,
    groups: Sequence | None = None,
    generators: Sequence | None = None,
    sources: Sequence | None = None,
    slices: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
    n_resamples: int = 1000,
) -> dict[str, dict]:
    """Compute the figures of each degradation.

    Args:
        columns: *optional*. Of [`verdict_columns`], for each degradation.
        slices: `{name: sources}`, *optional*. Images of these sources are also measured separately.
        thresholds, groups, generators, sources, seed, n_resamples: As in [`measure.measure`].

    Returns:
        `{degradation: figures}` of [`measure.measure`], with `false_positives` (share of real
        images with log-odds above 0), `by_generator[name]["balanced_accuracy"]`, and `by_slice`.
    """
    truth = np.asarray(truth, dtype=bool)
    options: dict[str, Any] = {"seed": seed, "n_resamples": n_resamples}
    independent = own_groups(None if groups is None else list(groups))
    named = np.asarray(sources if sources is not None else [""] * len(truth), dtype=object)
    result = {}
    for name, values in log_odds.items():
        own: dict[str, Any] = {**(columns or {}).get(name, {}), "groups": groups}
        figures = measure(
            values,
            truth,
            thresholds=thresholds,
            generators=generators,
            sources=sources,
            **own,
            **options,
        )
        figures["false_positives"] = complement(figures["summary"]["recall_real"])
        for generator, entry in figures.get("by_generator", {}).items():
            mine = ~truth | (np.asarray(generators, dtype=object) == generator)
            whose = None if independent is None else np.array(independent)[mine]
            entry["balanced_accuracy"] = interval_of(
                balanced_accuracy, values[mine], truth[mine], whose, options
            )
        if slices:
            figures["by_slice"] = {}
        for title, members in (slices or {}).items():
            mine = np.isin(named.astype(str), members)
            figures["by_slice"][title] = short_figures(
                values, truth, mine, thresholds, own, options
            )
        result[name] = plain(figures)
    return result


def short_figures(
    log_odds: np.ndarray,
    truth: np.ndarray,
    chosen: np.ndarray,
    thresholds: Thresholds | None,
    columns: Mapping[str, Sequence | None],
    options: Mapping,
) -> dict:
    """Return the main figures of some of the images.

    Args:
        columns: Further arguments of [`measure.measure`] with an entry for each of the n images.

    Returns:
        `n`, `auroc`, `balanced_accuracy`, `detected` and `false_positives` (shares with log-odds
        above 0 among ai and real images), and with thresholds the main `verdicts`.
    """
    if not chosen.any():
        return {"n": dict.fromkeys(NAMES, 0)}
    picked = {
        name: None if values is None else _array(values)[chosen] for name, values in columns.items()
    }
    figures = measure(log_odds[chosen], truth[chosen], thresholds=thresholds, **picked, **options)
    summary = figures["summary"]
    result = {
        "n": figures["n"],
        "auroc": summary["auroc"],
        "balanced_accuracy": summary["balanced_accuracy"],
        "detected": summary["recall_ai"],
        "false_positives": complement(summary["recall_real"]),
    }
    if "verdicts" in figures:
        kept = ("verdict_rate", "accuracy", "wrong", "max_wrong")
        result["verdicts"] = {key: figures["verdicts"][key] for key in kept}
    return result


def _array(values: Sequence) -> np.ndarray:
    """Return names with `None` among them, or numbers, as an array."""
    return values if isinstance(values, np.ndarray) else np.asarray(values, dtype=object)


def headline(figures: Mapping[str, Mapping]) -> dict:
    """Return the worst degradation and the worst generator.

    Intervals ignore that a cell was chosen as the lowest.

    Returns:
        `worst_degradation` `{"degradation", "balanced_accuracy"}`; `worst_generator` `{"generator",
        "degradation", "n", "balanced_accuracy", "auroc", "detected"}`, of those with ten images or
        more if there are any; `clean`, the balanced accuracy of `clean`; `mean`, that over all
        degradations. `None` for what is not defined.
    """
    tiers = {
        name: entry["summary"]["balanced_accuracy"]
        for name, entry in figures.items()
        if entry["summary"]["balanced_accuracy"]["value"] is not None
    }
    if not tiers:
        return {"worst_degradation": None, "worst_generator": None, "clean": None, "mean": None}
    worst = min(tiers, key=lambda name: tiers[name]["value"])
    cells = [
        {"generator": generator, "degradation": name, **entry}
        for name in figures
        for generator, entry in (figures[name].get("by_generator") or {}).items()
        if entry["balanced_accuracy"]["value"] is not None
    ]
    cells = [cell for cell in cells if cell["n"] >= ENOUGH] or cells
    lowest = min(cells, key=lambda cell: cell["balanced_accuracy"]["value"]) if cells else None
    kept = ("generator", "degradation", "n", "balanced_accuracy", "auroc", "detected")
    return {
        "worst_degradation": {"degradation": worst, "balanced_accuracy": tiers[worst]},
        "worst_generator": lowest and {key: lowest[key] for key in kept},
        "clean": tiers.get(CLEAN),
        "mean": float(np.mean([entry["value"] for entry in tiers.values()])),
    }


# Slices


def read_slices(texts: Sequence[str], sources: Sequence | None) -> dict[str, list[str]]:
    """Parse `"faces=ffhq,stylegan"` as `{"faces": ["ffhq", "stylegan"]}`.

    Raises:
        ValueError: A text has another form, or the split has no image of these sources.
    """
    known = sorted({str(source) for source in sources or () if source})
    slices = {}
    for text in texts:
        name, _, listed = text.partition("=")
        members = [member.strip() for member in listed.split(",") if member.strip()]
        if not name.strip() or not members:
            raise ValueError(f"--slice: {text!r} is not of the form NAME=SOURCE,SOURCE.")
        if not set(members) & set(known):
            raise ValueError(
                f"--slice {name}: the split has no image of {', '.join(members)}; its sources are "
                f"{', '.join(known[:20]) or 'not stated'}."
            )
        slices[name.strip()] = members
    return slices


def known_slices(sources: Sequence | None) -> dict[str, list[str]]:
    """Return those of [`SLICES`] that a split has images of."""
    known = set(sources or ())
    return {name: members for name, members in SLICES.items() if known & set(members)}


# The measurement and its record


def measure_robustness(
    detector: Detector,
    identity: str,
    dataset: Dataset,
    folder: str | os.PathLike,
    *,
    split: str,
    corpus: str,
    command: str,
    measurement_log: str | os.PathLike,
    train: Dataset | None = None,
    degradations: Sequence[str] = tuple(GRID),
    slices: Mapping[str, Sequence[str]] | None = None,
    of: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    n_resamples: int = 1000,
) -> tuple[dict, dict[str, np.ndarray]]:
    """Score a split, compute the figures, and write `robustness.json`.

    Args:
        folder: Of `robustness.json` and of the saved scores.
        measurement_log: Where a measurement of a test split is logged.
        train: *optional*. Training images for the controls; without them there are no controls.
        slices: `{name: sources}`, *optional*. Measured separately.
        of: *optional*. Images of the whole split, if `dataset` is a sample of it.

    Returns:
        The record, and the model's log-odds, `{degradation: (n,)}`.
    """
    truth, fingerprint = is_ai(dataset), corpus_fingerprint(dataset)
    names = ("group", "generator", "source")
    known: dict[str, Any] = {f"{name}s": column(dataset, name) for name in names}
    scorers = [detector_scorer(detector, identity, batch_size)]
    if train is not None:
        print(f"Fitting the controls on {len(train):,} training images.", flush=True)
        control = probes.spectrum_control(train)
        key = corpus_fingerprint(train)
        scorers.append(Scorer(probes.SPECTRUM, key, lambda images: Scores(control(images))))
    scores, _ = score_grid(dataset, degradations, scorers, folder, fingerprint, batch_size)
    if train is not None and CLEAN in degradations:
        # A degraded image has no file.
        scores[probes.CONTAINER] = {CLEAN: Scores(probes.container_log_odds(train, dataset))}

    print("Computing the figures.", flush=True)
    resampling: dict[str, Any] = {"seed": seed, "n_resamples": n_resamples}
    figures = grid_figures(
        {name: own.log_odds for name, own in scores["model"].items()},
        truth,
        thresholds=detector.thresholds,
        columns={name: verdict_columns(detector, own) for name, own in scores["model"].items()},
        slices=slices,
        **known,
        **resampling,
    )
    record = {
        **new_record(detector.name, identity, corpus, fingerprint, command),
        "of": of or len(dataset),
        "headline": headline(figures),
        "described": {name: GRID[name].description for name in degradations},
        "slices": dict(slices or {}),
        "degradations": figures,
        "controls": {
            name: grid_figures(
                {tier: own.log_odds for tier, own in tiers.items()},
                truth,
                groups=known["groups"],
                generators=known["generators"],
                **resampling,
            )
            for name, tiers in scores.items()
            if name in probes.CONTROLS
        },
        "controls_n": len(train) if train is not None else 0,
    }
    first = figures.get(CLEAN) or next(iter(figures.values()))
    kept = ("accuracy", "balanced_accuracy", "auroc", "ece")
    logged = {**{name: first["summary"][name] for name in kept}, "headline": record["headline"]}
    log_test(
        measurement_log, record, split, n=first["n"], figures=logged, degradations=list(figures)
    )
    io.write_record(Path(folder) / FILE_NAME, split, plain(record), indent=1)
    return record, {name: own.log_odds for name, own in scores["model"].items()}


def measure_finished_run(
    detector: Detector,
    folder: str | Path,
    splits: Mapping[str, Dataset],
    most: int,
    *,
    corpus: str,
    command: str,
    measurement_log: str | os.PathLike,
    seed: int,
) -> dict | None:
    """Measure the test split of a finished training, on the main process.

    Args:
        folder: The checkpoint's folder.
        splits: Of the corpus. The controls are fitted on `train` unless it is streamed.
        most: Largest number of images of test and of train; 0 measures nothing.
        corpus, command, measurement_log, seed: As in [`measure_robustness`].

    Returns:
        The record; `None` if nothing was measured.
    """
    test, train = splits.get("test"), splits.get("train")
    if not most or not isinstance(test, Dataset):
        return None
    chosen = subsample(test, most, seed)
    record, _ = measure_robustness(
        detector,
        checkpoint_hash(folder),
        chosen,
        folder,
        split="test",
        corpus=corpus,
        command=command,
        measurement_log=measurement_log,
        train=subsample(train, most, seed) if isinstance(train, Dataset) else None,
        degradations=possible_degradations(chosen),
        slices=known_slices(column(chosen, "source")),
        of=len(test),
        seed=seed,
    )
    return record
