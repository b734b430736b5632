"""Figures and tables of finished runs that were measured on the same images.

`realfake compare` compares models with paired differences; `realfake leave-one-out` lists how well
each held-out generator is detected. Both read the folders of [`realfake.training.runs`].
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.special import expit

from realfake.corpus.rows import corpus_fingerprint, is_ai
from realfake.corpus.splits import subset
from realfake.detector import Detector
from realfake.evaluation import results
from realfake.evaluation import scores as degraded
from realfake.formatting import md, number, percent, score, share, table
from realfake.io import write_atomically
from realfake.labels import AI, NAMES, REAL
from realfake.statistics import metrics
from realfake.statistics.metrics import bootstrap_interval, class_balanced_weights
from realfake.training.arguments import parse
from realfake.training.runs import FINISHED, Run, load, read_run_scores

# Degradations of the worst tier: those of messengers and web pages, and half the size.
TIERS = ("clean", "jpeg_40", "resize_768_jpeg_60", "resize_512_jpeg_40", "webp_50", "half_size")
_PAIRED = ("auroc", "accuracy")


def splits_of(split: str) -> tuple[str, ...]:
    """Return the splits that a run measured; validation has two halves."""
    return ("selection", "calibration") if split == "validation" else (split,)


def compare(
    log_odds: Mapping[str, np.ndarray],
    truth: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    seed: int = 0,
    n_resamples: int = 1000,
) -> dict:
    """Compute the figures of several models on the same images.

    Args:
        log_odds: `{model: (n, seeds) float64}`; figures are means over the seeds.
        truth: Boolean array of shape `(n,)`, whether the image is ai.
        groups: *optional*. Of shape `(n,)`; images of a group are resampled together.

    Returns:
        `dict`: `best`, the model of the highest AUROC, and `models`: for each `accuracy`,
        `balanced_accuracy` and `auroc` with 95 % intervals; precision, recall and F1 by class;
        `ece` (class-balanced); `auroc_by_seed`; `auroc_difference` and `accuracy_difference` from
        the best model, by paired bootstrap.
    """

    def interval(statistic: Callable, *arrays: np.ndarray) -> dict:
        low, high = bootstrap_interval(
            statistic, *arrays, groups=groups, weighted=True, seed=seed, n_resamples=n_resamples
        )
        return {"value": float(statistic(*arrays)), "low": low, "high": high}

    averaged = {
        name: _mean_over_seeds(getattr(metrics, name))
        for name in ("accuracy", "balanced_accuracy", "auroc")
    }
    weights = class_balanced_weights(truth)
    models = {}
    for name, own in log_odds.items():
        figures: dict[str, Any] = {
            metric: interval(function, own, truth) for metric, function in averaged.items()
        }
        decisions = [metrics.decision_metrics(run, truth) for run in own.T]
        for metric in (
            f"{kind}_{label}" for label in NAMES for kind in ("precision", "recall", "f1")
        ):
            mean = float(np.mean([one[metric] for one in decisions]))
            # Precision is undefined if a label is never predicted.
            figures[metric] = mean if np.isfinite(mean) else None
        eces = [metrics.ece(expit(run), truth, weights) for run in own.T]
        figures["ece"] = float(np.mean(eces))
        figures["auroc_by_seed"] = [float(metrics.auroc(run, truth)) for run in own.T]
        models[name] = figures
    best = max(models, key=lambda name: models[name]["auroc"]["value"])
    for name, own in log_odds.items():
        for metric in _PAIRED:
            models[name][f"{metric}_difference"] = (
                None
                if name == best
                else interval(_difference(averaged[metric]), own, log_odds[best], truth)
            )
    return {"best": best, "models": models}


def _mean_over_seeds(statistic: Callable) -> Callable:
    """Return a statistic of log-odds of shape `(n, seeds)`, so that whole images are resampled."""

    def mean(log_odds, truth, weights=None):
        runs = [
            statistic(log_odds[:, run], truth, weights=weights) for run in range(log_odds.shape[1])
        ]
        return np.mean(runs, axis=0)

    return mean


def _difference(statistic: Callable) -> Callable:
    def difference(first, second, truth, weights=None):
        return statistic(first, truth, weights) - statistic(second, truth, weights)

    return difference


def figures_of(runs: Sequence[Run], split: str, **resampling: int) -> dict:
    """Compare finished runs by their stored scores; runs of one name are seeds of one model.

    Raises:
        ValueError: Two runs were measured on different images.
    """
    scores = {run: read_run_scores(run.folder, splits_of(split)) for run in runs}
    first = next(iter(scores.values()))
    fingerprints = {_fingerprint(run.folder, split) for run in runs}
    if len(fingerprints) > 1 or any(
        not np.array_equal(one["is_ai"], first["is_ai"]) for one in scores.values()
    ):
        raise ValueError("The runs were measured on different images; pass another --output.")
    log_odds = {
        name: np.stack([scores[run]["log_odds"] for run in runs if run.name == name], axis=1)
        for name in dict.fromkeys(run.name for run in runs)
    }
    return {
        "split": split,
        "n": {REAL: int((~first["is_ai"]).sum()), AI: int(first["is_ai"].sum())},
        **compare(log_odds, first["is_ai"], first["groups"], **resampling),
    }


def _fingerprint(folder: Path, split: str) -> tuple[str, ...]:
    measured = results.read_evaluation(folder)
    return tuple(measured[name]["corpus_fingerprint"] for name in splits_of(split))


def measure_all(runs: Sequence[Run], split: str, n: int) -> dict[str, dict]:
    """Measure one run of each model with [`measure_run`], and store the result in its folder.

    The degraded images are those of validation, or of `held_out` if that is compared. A test split
    is measured by the runs alone, which log it.
    """
    dataset, measured = None, {}
    source = "held_out" if split == "held_out" else "validation"
    for run in {run.name: run for run in reversed(runs)}.values():
        path = run.folder / "comparison.json"
        key = {
            "checkpoint_sha256": results.checkpoint_hash(run.folder),
            "tiers_of": source,
            "asked": n,
        }
        known = json.loads(path.read_text()) if path.is_file() else {}
        if not key.items() <= known.items():
            if dataset is None:
                data = parse([*run.words, "--output_dir", str(run.folder)]).data
                dataset = load(data).splits[source]
            print(f"Measuring {run.folder.name}", flush=True)
            known = {**key, **measure_run(run, dataset, n)}
            write_atomically(path, json.dumps(known, indent=1) + "\n")
        measured[run.name] = {name: value for name, value in known.items() if name not in key}
    return measured


def measure_run(run: Run, dataset: Dataset, n: int, seed: int = 0) -> dict:
    """Measure the worst degradation, the size and the speed of a finished run.

    Args:
        dataset: The split to measure on.
        n: Number of degraded images, half of each class; 0 for none.

    Returns:
        `dict`: `parameters`, `images_per_second` (with decoding, on this machine) and, with `n`,
        `tiers` (`{tier: balanced accuracy}`), `worst_tier`, `worst` (its balanced accuracy) and
        `tiers_n` (number of images).
    """
    detector = Detector.from_pretrained(run.folder)
    facts = json.loads((run.folder / FINISHED).read_text())
    speed = images_per_second(detector, dataset)
    figures = {"parameters": facts["parameters"], "images_per_second": speed}
    if not n:
        return figures
    sample = balanced_sample(dataset, n, seed)
    names = degraded.possible_degradations(sample, TIERS)
    scorer = degraded.detector_scorer(detector, results.checkpoint_hash(run.folder), 16)
    scores, _ = degraded.score_grid(sample, names, [scorer], run.folder, corpus_fingerprint(sample))
    truth = is_ai(sample)
    tiers = {
        name: float(metrics.balanced_accuracy(own.log_odds, truth))
        for name, own in scores["model"].items()
    }
    worst = min(tiers, key=tiers.__getitem__)
    return figures | {
        "tiers": tiers,
        "worst_tier": worst,
        "worst": tiers[worst],
        "tiers_n": len(sample),
    }


def balanced_sample(dataset: Dataset, n: int, seed: int) -> Dataset:
    """Draw about `n` images, half of each class if there are enough."""
    truth = is_ai(dataset)
    chosen = []
    for label in (False, True):
        rows = np.flatnonzero(truth == label)
        chosen.append(rows[subset([label] * len(rows), min(max(1, n // 2), len(rows)), seed)])
    return dataset.select(np.sort(np.concatenate(chosen)))


def images_per_second(
    detector: Detector, dataset: Dataset, n: int = 64, batch_size: int = 16, repeats: int = 3
) -> float:
    """Return how many images a detector decodes and scores per second: the best of the repeats."""
    images = dataset[: min(n, len(dataset))]["image"]
    detector.log_odds(images[:batch_size], batch_size)  # the first pass allocates memory
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        detector.log_odds(images, batch_size)
        seconds.append(time.perf_counter() - start)
    return len(images) / min(seconds)


def comparison_page(record: Mapping) -> str:
    """Return the comparison as Markdown, the best model first."""
    n, models, seeds = record["n"], record["models"], record["seeds"]
    means = "means over seeds" if len(seeds) > 1 else "seed"
    text = [
        f"On {record['split']}: {n[REAL]:,} real and {n[AI]:,} ai images; {means} "
        f"{', '.join(map(str, seeds))}. In parentheses 95 % intervals by bootstrap over groups of "
        "images; differences by paired bootstrap. P / R / F1: precision, recall and F1 in per cent."
    ]
    if record["split"] == "validation":
        text.append(
            "Validation chose the checkpoints and fitted their calibration: these figures "
            "compare models and are optimistic for new images."
        )
    some = next(iter(models.values()))
    if "tiers" in some:
        text.append(
            f"Worst tier: the lowest balanced accuracy of {', '.join(some['tiers'])}, on "
            f"{some['tiers_n']:,} images."
        )
    text.append(comparison_table(models))
    text += [f"{name} failed: {line}" for name, line in record["failed"].items()]
    return "\n\n".join(["# Comparison", *text]) + "\n"


def comparison_table(models: Mapping[str, Mapping]) -> str:
    """Return the figures of [`compare`] and [`measure_run`] as a Markdown table."""
    header = ["model", "accuracy", "real: P / R / F1", "ai: P / R / F1", "AUROC"]
    header += ["Δ AUROC to the best", "ECE", "worst tier", "parameters", "images/s"]
    rows = []
    for name in sorted(models, key=lambda name: -models[name]["auroc"]["value"]):
        one = models[name]
        by_class = [
            " / ".join(
                percent(one[f"{metric}_{label}"]).removesuffix(" %")
                for metric in ("precision", "recall", "f1")
            )
            for label in NAMES
        ]
        difference = one["auroc_difference"]
        worst = f"{percent(one['worst'])} ({one['worst_tier']})" if "worst" in one else "–"
        rows.append([md(name), share(one["accuracy"]), *by_class, score(one["auroc"])])
        rows[-1] += ["best" if difference is None else signed(difference), number(one["ece"])]
        rows[-1] += [worst, size(one["parameters"]), f"{one['images_per_second']:,.0f}"]
    return table(header, rows)


def signed(figure: Mapping) -> str:
    """Format a difference with its interval: `-0.021 (-0.034 … -0.008)`."""
    return f"{figure['value']:+.3f} ({figure['low']:+.3f} … {figure['high']:+.3f})"


def size(parameters: int) -> str:
    """Format a number of parameters: `4.8 M`."""
    return f"{parameters / 1e6:.1f} M" if parameters >= 1e6 else f"{parameters / 1e3:.0f} k"


def held_out_figures(runs: Sequence[Run]) -> dict[str, dict]:
    """Read the figures of runs with `--hold_out`: on the held-out images, and on validation."""
    values = {}
    for run in runs:
        figures = results.read_evaluation(run.folder)["held_out"]["figures"]
        seen = read_run_scores(run.folder, splits_of("validation"))
        names = ("auroc", "balanced_accuracy", "recall_ai", "recall_real")
        values[run.name] = {
            "n": figures["n"],
            **{name: figures["summary"][name] for name in names},
            "seen_auroc": float(metrics.auroc(seen["log_odds"], seen["is_ai"])),
        }
    return values


def held_out_page(record: Mapping) -> str:
    """Return [`held_out_figures`] as Markdown, the worst value first, with mean and minimum."""
    values = record["values"]
    known = {
        name: one["auroc"]["value"]
        for name, one in values.items()
        if one["auroc"]["value"] is not None
    }
    rows = [
        [
            md(name),
            f"{one['n'][AI]:,} / {one['n'][REAL]:,}",
            score(one["auroc"]),
            share(one["recall_ai"]),
            share(one["recall_real"]),
            number(one["seen_auroc"]),
        ]
        for name, one in sorted(values.items(), key=lambda item: known.get(item[0], 2.0))
    ]
    header = [record["column"], "ai / real", "AUROC", "ai recall", "real recall", "AUROC on seen"]
    text = [
        f"# Without one {record['column']} at a time",
        "Each row is a detector that was trained and selected without that value. In parentheses "
        "95 % intervals by bootstrap over groups.",
        table(header, rows),
    ]
    if known:
        mean, lowest = number(float(np.mean(list(known.values())))), number(min(known.values()))
        text.append(f"AUROC: mean {mean}, minimum {lowest}.")
    text += [f"{name} failed: {line}" for name, line in record["failed"].items()]
    return "\n\n".join(text) + "\n"
