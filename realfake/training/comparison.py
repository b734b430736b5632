"""Compares finished runs on the same images: one row a model, with paired differences from the best one.

Takes what the runs of [`realfake.training.series`] left behind; `scripts/compare.py` and `scripts/leave_one_out.py` print the
tables.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset
from scipy.special import expit

from realfake.corpus.rows import corpus_fingerprint, is_ai
from realfake.corpus.splits import subset
from realfake.detector import Detector
from realfake.evaluation import results, robustness, robustness_run
from realfake.formatting import md, number, percent, score, share, table
from realfake.io import write_atomically
from realfake.labels import AI, NAMES, REAL
from realfake.statistics import metrics as statistics_metrics
from realfake.statistics.bootstrap import bootstrap_interval
from realfake.statistics.log_odds import class_balanced_weights
from realfake.statistics.metrics import auroc, ece
from realfake.training.runs import FINISHED
from realfake.training.series import Run, read_run_scores

# The tiers that the worst one is looked for in: what messengers and pages do, and half the size.
TIERS = ("clean", "jpeg_40", "resize_768_jpeg_60", "resize_512_jpeg_40", "webp_50", "half_size")


def splits_of(split: str) -> tuple[str, ...]:
    """Return the parts that a run measured of a split: validation has two."""
    return ("selection", "calibration") if split == "validation" else (split,)


def _mean_over_seeds(statistic):
    """Of an array of margins of shape (n, seeds), so that whole images are resampled."""

    def mean(log_odds, truth, weights=None):
        each = [
            statistic(log_odds[:, seed], truth, weights=weights)
            for seed in range(log_odds.shape[1])
        ]
        return np.mean(each, axis=0)

    return mean


def _with_interval(statistic, *arrays, groups, resampling: Mapping) -> dict:
    value = float(statistic(*arrays))
    low, high = bootstrap_interval(statistic, *arrays, groups=groups, weighted=True, **resampling)
    return {"value": value, "low": low, "high": high}


def compare(
    log_odds: Mapping[str, np.ndarray],
    truth: np.ndarray,
    groups=None,
    *,
    seed: int = 0,
    n_resamples: int = 1000,
) -> dict:
    """Compute the figures of several models on the same images.

    Args:
        log_odds: `{model: (n, seeds) float64}`; figures are means over the seeds.
        truth: (n,) bool, whether the image is ai.
        groups: (n,), *optional*. Images that are resampled together.

    Returns:
        `dict`: `best`, the model of the highest AUROC, and `models`, for each of them `accuracy`, `balanced_accuracy` and
        `auroc` with 95 % intervals, precision, recall and F1 by class, `ece` (class-balanced), `auroc_by_seed`, and
        `auroc_difference` and `accuracy_difference` from the best one, whose intervals come from resamples that both
        models share (the paired bootstrap).
    """
    resampling = {"seed": seed, "n_resamples": n_resamples}
    metrics = {
        "accuracy": _mean_over_seeds(statistics_metrics.accuracy),
        "balanced_accuracy": _mean_over_seeds(statistics_metrics.balanced_accuracy),
        "auroc": _mean_over_seeds(auroc),
    }
    weights = class_balanced_weights(truth)
    models = {}
    for name, own in log_odds.items():
        figures = {
            metric: _with_interval(statistic, own, truth, groups=groups, resampling=resampling)
            for metric, statistic in metrics.items()
        }
        for label in NAMES:
            for metric in ("precision", "recall", "f1"):
                statistic = getattr(statistics_metrics, metric)
                each = [float(statistic(column, truth, label)) for column in own.T]
                mean = float(np.mean(each))
                # Of a label that was never given there is no precision.
                figures[f"{metric}_{label}"] = mean if np.isfinite(mean) else None
        figures["ece"] = float(np.mean([ece(expit(column), truth, weights) for column in own.T]))
        figures["auroc_by_seed"] = [float(auroc(column, truth)) for column in own.T]
        models[name] = figures
    best = max(models, key=lambda name: models[name]["auroc"]["value"])
    for name, own in log_odds.items():
        for metric in ("auroc", "accuracy"):
            statistic = metrics[metric]

            def difference(own, other, truth, weights=None, statistic=statistic):
                return statistic(own, truth, weights) - statistic(other, truth, weights)

            models[name][f"{metric}_difference"] = (
                None
                if name == best
                else _with_interval(
                    difference, own, log_odds[best], truth, groups=groups, resampling=resampling
                )
            )
    return {"best": best, "models": models}


def figures_of(runs: Sequence[Run], split: str, **resampling) -> dict:
    """Compare finished runs by the scores that lie in their folders; runs of one name are seeds of one model.

    Raises:
        ValueError: Two runs were measured on different images.
    """
    scores = {run: read_run_scores(run.folder, splits_of(split)) for run in runs}
    first = next(iter(scores.values()))
    fingerprints = {json.dumps(_fingerprints(run.folder, split)) for run in runs}
    if len(fingerprints) > 1 or any(
        not np.array_equal(one["is_ai"], first["is_ai"]) for one in scores.values()
    ):
        raise ValueError("The runs were measured on different images; pass another --output_dir.")
    names = list(dict.fromkeys(run.name for run in runs))
    log_odds = {
        name: np.stack([scores[run]["log_odds"] for run in runs if run.name == name], axis=1)
        for name in names
    }
    return {
        "split": split,
        "n": {REAL: int((~first["is_ai"]).sum()), AI: int(first["is_ai"].sum())},
        **compare(log_odds, first["is_ai"], first["groups"], **resampling),
    }


def _fingerprints(folder: Path, split: str) -> list[str]:
    measured = results.read_evaluation(folder)
    return [measured[part]["corpus_fingerprint"] for part in splits_of(split)]


def measure_run(run: Run, dataset: Dataset, n: int, seed: int = 0) -> dict:
    """Measure what scores of clean images do not say: the worst tier, the size and the speed.

    Args:
        dataset: The split that the comparison is about.
        n: Images under degradations, half of each class; 0 for none.

    Returns:
        `dict`: `parameters`, `images_per_second` (decoding included, on this machine) and, with `n`, `tiers`
        (`{tier: balanced accuracy}`), `worst_tier` and `worst` (its balanced accuracy).
    """
    detector = Detector.from_pretrained(run.folder)
    facts = json.loads((run.folder / FINISHED).read_text())
    figures = {
        "parameters": facts["parameters"],
        "images_per_second": images_per_second(detector, dataset),
    }
    if n:
        part = balanced_part(dataset, n, seed)
        names = robustness_run.possible(part, TIERS)
        scorer = robustness.detector_scorer(detector, results.checkpoint_hash(run.folder), 16)
        log_odds, _ = robustness.score_grid(
            part, names, [scorer], run.folder, corpus_fingerprint(part)
        )
        truth = is_ai(part)
        tiers = {
            name: float(statistics_metrics.balanced_accuracy(own, truth))
            for name, own in log_odds["model"].items()
        }
        worst = min(tiers, key=tiers.__getitem__)
        figures |= {
            "tiers": tiers,
            "worst_tier": worst,
            "worst": tiers[worst],
            "tiers_n": len(part),
        }
    return figures


def balanced_part(dataset: Dataset, n: int, seed: int) -> Dataset:
    """Draw about `n` images, half of each class as far as there are enough."""
    truth = is_ai(dataset)
    chosen = []
    for label in (False, True):
        rows = np.flatnonzero(truth == label)
        chosen.append(rows[subset([label] * len(rows), min(max(1, n // 2), len(rows)), seed)])
    return dataset.select(np.sort(np.concatenate(chosen)))


def images_per_second(
    detector: Detector, dataset: Dataset, n: int = 64, batch_size: int = 16, repeats: int = 3
) -> float:
    """Return how many images a detector decodes and scores in a second: the best of some repeats."""
    images = dataset[: min(n, len(dataset))]["image"]
    detector.log_odds(images[:batch_size], batch_size)  # the first pass allocates
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        detector.log_odds(images, batch_size)
        seconds.append(time.perf_counter() - start)
    return len(images) / min(seconds)


def comparison_table(record: Mapping) -> str:
    """The comparison as a Markdown table, the best model first."""
    models = record["models"]
    header = [
        "model",
        "accuracy",
        "real: P / R / F1",
        "ai: P / R / F1",
        "AUROC",
        "Δ AUROC to the best",
        "ECE",
        "worst tier",
        "parameters",
        "images/s",
    ]
    rows = []
    for name in sorted(models, key=lambda name: -models[name]["auroc"]["value"]):
        one = models[name]
        worst = f"{percent(one['worst'])} ({one['worst_tier']})" if "worst" in one else "–"
        rows.append(
            [
                md(name),
                share(one["accuracy"]),
                *(
                    " / ".join(
                        percent(one[f"{metric}_{label}"]).removesuffix(" %")
                        for metric in ("precision", "recall", "f1")
                    )
                    for label in NAMES
                ),
                score(one["auroc"]),
                "best" if one["auroc_difference"] is None else signed(one["auroc_difference"]),
                number(one["ece"]),
                worst,
                size(one["parameters"]),
                f"{one['images_per_second']:,.0f}",
            ]
        )
    return table(header, rows)


def signed(figure: Mapping) -> str:
    """A difference with its interval: `-0.021 (-0.034 … -0.008)`."""
    return f"{figure['value']:+.3f} ({figure['low']:+.3f} … {figure['high']:+.3f})"


def size(parameters: int) -> str:
    """A number of parameters: `4.8 M`."""
    return f"{parameters / 1e6:.1f} M" if parameters >= 1e6 else f"{parameters / 1e3:.0f} k"


def measure_all(runs: Sequence[Run], split: str, n: int) -> dict[str, dict]:
    """Measure one run of each model with [`measure_run`], and keep what came of it in its folder.

    Under degradations stand images of validation, or of `held_out` where the comparison is about that: a test split is
    measured by the runs alone, which log it.
    """
    from realfake.training import runs as training_runs

    dataset, found = None, {}
    of = "held_out" if split == "held_out" else "validation"
    for run in runs:
        if run.name in found:
            continue
        path = run.folder / "comparison.json"
        asked = {
            "checkpoint_sha256": results.checkpoint_hash(run.folder),
            "tiers_of": of,
            "asked": n,
        }
        known = json.loads(path.read_text()) if path.is_file() else {}
        if {name: known.get(name) for name in asked} != asked:
            if dataset is None:
                arguments = training_runs.parse([*run.words, "--output_dir", str(run.folder)])
                dataset = training_runs.load(arguments.data, arguments.run).splits[of]
            print(f"Measuring {run.folder.name}", flush=True)
            known = {**asked, **measure_run(run, dataset, n)}
            write_atomically(path, json.dumps(known, indent=1) + "\n")
        found[run.name] = {name: value for name, value in known.items() if name not in asked}
    return found


def comparison_page(record: Mapping) -> str:
    """The comparison as Markdown."""
    n, seeds = record["n"], record["seeds"]
    some = next(iter(record["models"].values()))
    lines = [
        "# Comparison",
        "",
        f"On {record['split']}: {n[REAL]:,} real and {n[AI]:,} ai images; "
        + (
            f"means over the seeds {', '.join(map(str, seeds))}. "
            if len(seeds) > 1
            else f"seed {seeds[0]}. "
        )
        + "In parentheses 95 % intervals by bootstrap over groups of images; differences on resamples that both models share. "
        "P / R / F1: precision, recall and F1 in per cent.",
    ]
    if record["split"] == "validation":
        lines += [
            "",
            "Validation chose the checkpoints and fitted their calibration: good for comparing, not for promising.",
        ]
    if "tiers" in some:
        lines += [
            "",
            f"Worst tier: the lowest balanced accuracy of {', '.join(some['tiers'])}, on {some['tiers_n']:,} images.",
        ]
    lines += ["", comparison_table(record), ""]
    lines += [f"{name} failed: {line}" for name, line in record["failed"].items()]
    return "\n".join(lines)


def held_out_figures(runs: Sequence[Run]) -> dict[str, dict]:
    """Read what runs with `--hold_out` measured: of what was left out, and of what was not."""
    values = {}
    for run in runs:
        figures = results.read_evaluation(run.folder)["held_out"]["figures"]
        seen = read_run_scores(run.folder, splits_of("validation"))
        values[run.name] = {
            "n": figures["n"],
            **{
                name: figures["summary"][name]
                for name in ("auroc", "balanced_accuracy", "recall_ai", "recall_real")
            },
            "seen_auroc": float(auroc(seen["log_odds"], seen["is_ai"])),
        }
    return values


def held_out_page(record: Mapping) -> str:
    """The table of [`held_out_figures`] as Markdown, the worst value first, with their mean and minimum."""
    values = record["values"]

    def rank(name: str) -> float:
        value = values[name]["auroc"]["value"]
        return 2.0 if value is None else value

    rows = [
        [
            md(name),
            f"{one['n'][AI]:,} / {one['n'][REAL]:,}",
            score(one["auroc"]),
            share(one["recall_ai"]),
            share(one["recall_real"]),
            number(one["seen_auroc"]),
        ]
        for name, one in sorted(values.items(), key=lambda item: rank(item[0]))
    ]
    known = [one["auroc"]["value"] for one in values.values() if one["auroc"]["value"] is not None]
    header = [
        record["column"],
        "ai / real",
        "AUROC",
        "ai found",
        "real left alone",
        "AUROC on what was seen",
    ]
    lines = [
        f"# Without one {record['column']} at a time",
        "",
        "Each row is a detector that was trained and chosen without it. In parentheses 95 % intervals by bootstrap over groups.",
        "",
        table(header, rows),
        "",
    ]
    if known:
        lines += [f"AUROC: mean {number(float(np.mean(known)))}, minimum {number(min(known))}.", ""]
    lines += [f"{name} failed: {line}" for name, line in record["failed"].items()]
    return "\n".join(lines)
