"""Measure a detector and its controls on recompressed, resized, cropped, blurred and noisy images.

[`measure_robustness`] scores a split under every degradation, computes the figures and writes
`robustness.json`.
"""

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike

from realfake import io
from realfake.corpus.rows import column, corpus_fingerprint, is_ai, own_groups
from realfake.corpus.splits import subset
from realfake.detector import Detector
from realfake.evaluation import controls
from realfake.evaluation.degraded_scores import (
    OOD,
    Scorer,
    detector_scorer,
    possible_degradations,
    score_grid,
)
from realfake.evaluation.log import log_once, plain
from realfake.evaluation.measure import ENOUGH, complement, interval_of, measure
from realfake.evaluation.results import checkpoint_hash, current_names
from realfake.imaging.degradations import GRID
from realfake.labels import NAMES
from realfake.statistics.metrics import balanced_accuracy
from realfake.statistics.verdicts import Thresholds

FILE_NAME = "robustness.json"
CLEAN = "clean"
# Sources that are also reported separately, if a split has them: faces, and sources whose real and
# generated images show the same subjects.
SLICES = {
    "faces": ["faces-256", "faces-300", "tpdne", "man"],
    "truman-pairs (matched subjects)": ["truman-pairs"],
    "fjell (matched subjects)": ["fjell"],
}


# Figures


def grid_figures(
    log_odds: Mapping[str, np.ndarray],
    truth: ArrayLike,
    *,
    thresholds: Thresholds | None = None,
    out_of_distribution: Mapping[str, Sequence[bool]] | None = None,
    groups: Sequence | None = None,
    generators: Sequence | None = None,
    sources: Sequence | None = None,
    slices: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
    n_resamples: int = 1000,
) -> dict[str, dict]:
    """Compute the figures of each degradation.

    Args:
        log_odds: `{degradation: (n,) float64}`.
        truth: (n,) bool, True for ai.
        out_of_distribution: *optional*. For each degradation, as in [`measure.measure`].
        slices: `{name: sources}`, *optional*. Images of these sources are also measured separately.
        thresholds, groups, generators, sources, seed, n_resamples: As in [`measure.measure`].

    Returns:
        `{degradation: figures}` of [`measure.measure`], with `false_positives` (share of real
        images with log-odds above 0), `by_generator[name]["balanced_accuracy"]`, and `by_slice`.
    """
    truth = np.asarray(truth, dtype=bool)
    options = {"seed": seed, "n_resamples": n_resamples}
    independent = own_groups(groups)
    result = {}
    for name, values in log_odds.items():
        unlike = out_of_distribution and np.asarray(out_of_distribution[name], dtype=bool)
        figures = measure(
            values,
            truth,
            thresholds=thresholds,
            out_of_distribution=unlike,
            groups=groups,
            generators=generators,
            sources=sources,
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
            mine = np.isin(np.asarray(sources, dtype=object).astype(str), members)
            if not mine.any():
                figures["by_slice"][title] = {"n": dict.fromkeys(NAMES, 0)}
                continue
            measured = measure(
                values[mine],
                truth[mine],
                thresholds=thresholds,
                out_of_distribution=None if unlike is None else unlike[mine],
                groups=None if groups is None else np.asarray(groups, dtype=object)[mine],
                **options,
            )
            figures["by_slice"][title] = _slice_figures(measured)
        result[name] = plain(figures)
    return result


def _slice_figures(figures: Mapping) -> dict:
    summary = figures["summary"]
    result = {
        "n": figures["n"],
        "auroc": summary["auroc"],
        "balanced_accuracy": summary["balanced_accuracy"],
        "detected": summary["recall_ai"],
        "false_positives": complement(summary["recall_real"]),
    }
    if "verdicts" in figures:
        kept = ("given", "accuracy", "wrong", "promised")
        result["verdicts"] = {key: figures["verdicts"][key] for key in kept}
    return result


def headline(figures: Mapping[str, Mapping]) -> dict:
    """Return the worst degradation and the worst generator.

    Intervals ignore that a cell was chosen as the lowest.

    Args:
        figures: Of [`grid_figures`].

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


def read_robustness(folder: str | os.PathLike) -> dict:
    """Read `robustness.json`, `{split: record}`; `{}` if there is none.

    Raises:
        ValueError: The file does not hold one record per split.
    """
    return current_names(io.read_records(Path(folder) / FILE_NAME))


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
) -> tuple[dict, dict]:
    """Score a split, compute the figures, and write `robustness.json`.

    Args:
        identity: What identifies the weights, such as their hash.
        dataset: Rows with an undecoded `image` and `label`.
        folder: Of `robustness.json` and of the saved scores.
        split: Name of the split.
        corpus: Name of the corpus.
        command: The command line.
        measurement_log: Where a measurement of a test split is logged.
        train: *optional*. Training images for the controls; without them there are no controls.
        degradations: Names of the grid, *defaults to* all of them.
        slices: `{name: sources}`, *optional*. Measured separately.
        of: *optional*. Images of the whole split, if `dataset` is a sample of it.
        batch_size: Images per forward pass of a thread.
        seed, n_resamples: Of the bootstrap.

    Returns:
        The record, and the scores as [`degraded_scores.score_grid`] returns them.

    Raises:
        ValueError: An image is unusable.
        OSError: A file cannot be read or written.
    """
    truth, fingerprint = is_ai(dataset), corpus_fingerprint(dataset)
    known = {f"{name}s": column(dataset, name) for name in ("group", "generator", "source")}
    scorers = [detector_scorer(detector, identity, batch_size)]
    if train is not None:
        print(f"Fitting the controls on {len(train):,} training images.", flush=True)
        control = controls.spectrum_control(train)
        scorers.append(Scorer(controls.SPECTRUM, corpus_fingerprint(train), control))
    scores, _ = score_grid(dataset, degradations, scorers, folder, fingerprint, batch_size)
    if train is not None and CLEAN in degradations:
        # A degraded image has no file.
        scores[controls.CONTAINER] = {CLEAN: controls.container_log_odds(train, dataset)}

    print("Computing the figures.", flush=True)
    resampling = {"seed": seed, "n_resamples": n_resamples}
    unlike = {
        name: detector.ood.is_out_of_distribution(values)
        for name, values in scores.get(OOD, {}).items()
    }
    figures = grid_figures(
        scores["model"],
        truth,
        thresholds=detector.thresholds,
        out_of_distribution=unlike or None,
        slices=slices,
        **known,
        **resampling,
    )
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint_sha256": identity,
        "model": detector.name,
        "corpus": corpus,
        "corpus_fingerprint": fingerprint,
        "command": command,
        "versions": io.versions(),
        "of": of or len(dataset),
        "headline": headline(figures),
        "described": {name: GRID[name].description for name in degradations},
        "slices": dict(slices or {}),
        "degradations": figures,
        "controls": {
            name: grid_figures(
                tiers, truth, groups=known["groups"], generators=known["generators"], **resampling
            )
            for name, tiers in scores.items()
            if name in controls.NAMES
        },
        "controls_n": len(train) if train is not None else 0,
    }
    if split == "test":
        first = figures.get(CLEAN) or next(iter(figures.values()))
        kept = ("accuracy", "balanced_accuracy", "auroc", "ece")
        log_once(
            measurement_log,
            checkpoint_hash=identity,
            corpus=corpus,
            split=split,
            n=first["n"],
            date=record["date"],
            command=command,
            figures={**{k: first["summary"][k] for k in kept}, "headline": record["headline"]},
            degradations=list(figures),
        )
    io.write_record(Path(folder) / FILE_NAME, split, plain(record), indent=1)
    return record, scores


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
    chosen = _subsample(test, most, seed)
    record, _ = measure_robustness(
        detector,
        checkpoint_hash(folder),
        chosen,
        folder,
        split="test",
        corpus=corpus,
        command=command,
        measurement_log=measurement_log,
        train=_subsample(train, most, seed) if isinstance(train, Dataset) else None,
        degradations=possible_degradations(chosen),
        slices=known_slices(column(chosen, "source")),
        of=len(test),
        seed=seed,
    )
    return record


def _subsample(dataset: Dataset, most: int, seed: int) -> Dataset:
    """Return at most `most` images, with the shares of labels and generators kept."""
    if len(dataset) <= most:
        return dataset
    return dataset.select(subset(dataset["label"][:], most, seed, column(dataset, "generator")))
