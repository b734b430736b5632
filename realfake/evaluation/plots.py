"""The figures of a model card, each written as one small PNG.

The functions take arrays and dictionaries from `evaluation` and `Trainer`, never models.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.special import expit

from realfake.labels import AI, NAMES, REAL
from realfake.plotting import COLOURS, GREY, INK, new_figure, plain_axes, plain_text, save
from realfake.statistics.log_odds import check_log_odds, class_balanced_weights
from realfake.statistics.metrics import ece, reliability_curve
from realfake.statistics.verdicts import INCONCLUSIVE, Thresholds

# Draws of a perfectly calibrated model, for the band of noise.
_BAND_DRAWS = 200


def confusion_matrix(
    path: str | os.PathLike, counts: Mapping[str, Mapping[str, int]], title: str | None = None
) -> Path:
    """Draw how many images of each label got which answer.

    Args:
        path: The PNG to write.
        counts: `{true label: {answer: count}}`: the `confusion` of [`evaluation.measure`], or its
            `verdicts["counts"]`, with the inconclusive ones.
        title: *optional*. A line above.

    Raises:
        ValueError: The rows do not have the same answers.
    """
    rows = list(counts)
    columns = list(counts[rows[0]])
    if any(set(counts[row]) != set(columns) for row in rows):
        raise ValueError("Each true label needs a count for each answer.")
    numbers = np.array(
        [[counts[row][column] for column in columns] for row in rows], dtype=np.float64
    )
    totals = numbers.sum(1, keepdims=True)
    shares = np.divide(numbers, totals, out=np.zeros_like(numbers), where=totals > 0)
    figure = new_figure(1.5 + 1.35 * len(columns), 1.2 + 1.0 * len(rows))
    axes = figure.add_subplot()
    # The pale half of the scale: dark figures stay readable on all of it.
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.7, aspect="auto")
    for i in range(len(rows)):
        for j in range(len(columns)):
            share = f"{100 * shares[i, j]:.1f} %" if totals[i, 0] else "–"
            axes.text(j, i - 0.08, share, ha="center", va="center", fontsize=13, color=INK)
            axes.text(
                j,
                i + 0.22,
                f"{int(numbers[i, j]):,}",
                ha="center",
                va="center",
                fontsize=9,
                color=INK,
            )
    axes.set_xticks(
        range(len(columns)),
        [f"called {plain_text(name)}" if name in NAMES else plain_text(name) for name in columns],
    )
    axes.set_yticks(
        range(len(rows)),
        [f"{plain_text(row)}\n(n = {int(total):,})" for row, total in zip(rows, totals[:, 0])],
    )
    axes.set_ylabel("true label", color=INK)
    axes.tick_params(length=0, labelsize=10, colors=INK)
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(True, which="minor", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    if title:
        axes.set_title(plain_text(title), fontsize=10.5, color=INK, loc="left")
    return save(figure, path)


def roc(
    path: str | os.PathLike, log_odds, is_ai, auroc: Mapping | None = None, title: str | None = None
) -> Path:
    """Draw the ROC curve over a logarithmic false-positive axis, where detectors differ.

    Args:
        path: The PNG to write.
        margin (`np.ndarray` of shape `(n,)`): Log-odds of ai.
        is_ai (`np.ndarray` of shape `(n,)`): Labels.
        auroc: *optional*. `{"value", "low", "high"}` for the legend, from [`evaluation.measure`].
        title: *optional*. A line above.

    Raises:
        ValueError: There are not both labels.
    """
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    n_ai, n_real = int(is_ai.sum()), int((~is_ai).sum())
    if not n_ai or not n_real:
        raise ValueError("A ROC curve needs images of both labels.")
    order = np.argsort(-log_odds, kind="stable")
    # A threshold cannot fall between equal margins.
    last = np.flatnonzero(np.diff(log_odds[order], append=-np.inf))
    tpr = np.r_[0, np.cumsum(is_ai[order])[last] / n_ai]
    fpr = np.r_[0, np.cumsum(~is_ai[order])[last] / n_real]
    floor = 0.5 / n_real
    figure = new_figure(5.2, 4.2)
    axes = plain_axes(figure.add_subplot(), plain_text(title or ""))
    label = "this model"
    if auroc and auroc.get("value") is not None:
        label = f"AUROC {auroc['value']:.3f}"
        if auroc.get("low") is not None:
            label += f" (95 %: {auroc['low']:.3f} to {auroc['high']:.3f})"
    chance = np.geomspace(floor, 1, 200)
    axes.plot(chance, chance, color=GREY, linestyle="--", linewidth=1.2, label="chance")
    axes.plot(
        fpr.clip(floor, 1), tpr, color=COLOURS[AI], linewidth=2, drawstyle="steps-post", label=label
    )
    at = [float((log_odds[~is_ai] > 0).mean()), float((log_odds[is_ai] > 0).mean())]
    axes.plot(
        max(at[0], floor),
        at[1],
        "o",
        color=INK,
        markersize=7,
        label="at even odds (p = 0.5)",
        clip_on=False,
        zorder=3,
    )
    axes.set_xscale("log")
    axes.set_xlim(floor, 1)
    axes.set_ylim(0, 1.01)
    axes.set_xlabel(f"share of real images called ai (n = {n_real:,}; the left edge is none)")
    axes.set_ylabel(f"share of ai images found (n = {n_ai:,})")
    ticks = [tick for tick in (1e-4, 1e-3, 1e-2, 1e-1, 1) if tick >= floor]
    axes.set_xticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
    axes.set_yticks(np.linspace(0, 1, 6), [f"{tick} %" for tick in range(0, 101, 20)])
    axes.legend(loc="best", fontsize=9, frameon=True, framealpha=0.9, edgecolor="none")
    return save(figure, path)


def reliability_diagram(
    path: str | os.PathLike, p_ai, is_ai, before=None, title: str | None = None, seed: int = 0
) -> Path:
    """Draw how often images with a given probability are generated, both labels counted alike.

    The grey band is where 90 % of the points of a model with these probabilities would lie if it were perfectly
    calibrated: noise of a sample of this size.

    Args:
        path: The PNG to write.
        p_ai (`np.ndarray` of shape `(n,)`): Calibrated probability of ai.
        is_ai (`np.ndarray` of shape `(n,)`): Labels.
        before: *optional*. The probabilities before calibration, of shape `(n,)`.
        title: *optional*. A line above.
        seed: Seed of the band.

    Raises:
        ValueError: There are not both labels, or shapes differ.
    """
    p_ai, is_ai = np.asarray(p_ai, dtype=np.float64), np.asarray(is_ai, dtype=bool)
    if is_ai.all() or not is_ai.any():
        raise ValueError("A reliability diagram needs images of both labels.")
    weights = class_balanced_weights(is_ai)
    figure = new_figure(5.2, 5.4)
    upper, lower = figure.subplots(2, 1, height_ratios=[4, 1], sharex=True)
    plain_axes(upper, plain_text(title or ""))
    plain_axes(lower)
    upper.plot(
        [0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2, label="perfect calibration"
    )
    band = _perfect_band(p_ai, is_ai.mean(), seed)
    upper.fill_between(
        *band, color="#BDBDBD", alpha=0.55, linewidth=0, label="90 % range of perfect calibration"
    )
    for probabilities, name, style in (
        (
            before,
            "before",
            {"color": COLOURS[REAL], "marker": "s", "linestyle": ":", "markersize": 5},
        ),
        (p_ai, "after", {"color": COLOURS[AI], "marker": "o", "linestyle": "-", "markersize": 5.5}),
    ):
        if probabilities is None:
            continue
        curve = reliability_curve(probabilities, is_ai, weights)
        label = (
            f"{name} calibration: ECE {ece(probabilities, is_ai, weights):.3f}"
            if before is not None
            else (f"this model: ECE {ece(probabilities, is_ai, weights):.3f}")
        )
        upper.plot(
            curve["predicted"],
            curve["observed"],
            linewidth=1.5,
            label=label,
            clip_on=False,
            zorder=3,
            **style,
        )
    upper.set_ylabel("share of ai, classes balanced")
    upper.set_ylim(0, 1)
    upper.legend(loc="upper left", fontsize=8.5, frameon=True, framealpha=0.9, edgecolor="none")
    edges = np.linspace(0, 1, 21)
    for label in NAMES:
        mine = is_ai if label == AI else ~is_ai
        lower.hist(
            p_ai[mine],
            edges,
            histtype="stepfilled",
            facecolor=COLOURS[label] + "40",
            edgecolor=COLOURS[label],
            linestyle="-" if label == AI else "--",
            linewidth=1.3,
            label=label,
        )
    lower.set_ylim(0, 1.5 * lower.get_ylim()[1])  # room for the legend
    lower.set_ylabel("images")
    lower.set_xlabel("probability of ai")
    lower.set_xlim(0, 1)
    lower.legend(fontsize=8.5, frameon=False, ncols=2, loc="upper center")
    return save(figure, path)


def _perfect_band(p_ai, prior_ai: float, seed: int):
    """Where the curve of a calibrated model with these probabilities would run: x, 5 % and 95 % quantiles."""
    rng = np.random.default_rng(seed)
    chance = p_ai * prior_ai / (p_ai * prior_ai + (1 - p_ai) * (1 - prior_ai))
    grid = np.linspace(0, 1, 101)
    curves = []
    for _ in range(_BAND_DRAWS):
        drawn = rng.random(len(p_ai)) < chance
        if drawn.all() or not drawn.any():
            continue
        curve = reliability_curve(
            p_ai, drawn, np.where(drawn, 0.5 / prior_ai, 0.5 / (1 - prior_ai))
        )
        # Outside the outermost points there is no curve.
        curves.append(
            np.interp(grid, curve["predicted"], curve["observed"], left=np.nan, right=np.nan)
        )
    seen = ~np.isnan(curves).any(axis=0) if curves else np.zeros(len(grid), dtype=bool)
    if not seen.any():
        return grid[:0], grid[:0], grid[:0]
    low, high = np.quantile(np.array(curves)[:, seen], [0.05, 0.95], axis=0)
    return grid[seen], low, high


def training_curves(path: str | os.PathLike, log_history: Sequence[Mapping]) -> Path:
    """Draw loss and metrics over the epochs.

    Args:
        path: The PNG to write.
        log_history: `Trainer.state.log_history`: entries with `epoch` and `loss`, or with `eval_loss`,
            `eval_accuracy`, `eval_auroc` as far as they were computed.

    Raises:
        ValueError: The log holds no loss and no metric.
    """
    series = {
        key: np.array(
            [
                (entry["epoch"], entry[key])
                for entry in log_history
                if "epoch" in entry and entry.get(key) is not None
            ]
        )
        for key in ("loss", "eval_loss", "eval_accuracy", "eval_auroc")
    }
    series = {key: points for key, points in series.items() if len(points)}
    if not series:
        raise ValueError("The training log holds no loss and no metric; was anything trained?")
    scores = [key for key in ("eval_accuracy", "eval_auroc") if key in series]
    panels = ([["loss", "eval_loss"]] if {"loss", "eval_loss"} & series.keys() else []) + (
        [scores] if scores else []
    )
    figure = new_figure(4.3 * len(panels) + 0.3, 3.4)
    styles = {
        "loss": ("training (augmented)", {"color": GREY, "linewidth": 1.2}),
        "eval_loss": (
            "held out",
            {"color": COLOURS[AI], "linewidth": 2, "marker": "o", "markersize": 4},
        ),
        "eval_accuracy": (
            "accuracy",
            {"color": COLOURS[REAL], "linewidth": 2, "marker": "s", "markersize": 4},
        ),
        "eval_auroc": (
            "AUROC",
            {
                "color": COLOURS[AI],
                "linewidth": 2,
                "marker": "o",
                "markersize": 4,
                "linestyle": "--",
            },
        ),
    }
    for axes, keys in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        plain_axes(
            axes, "loss (nats)" if "eval_loss" in keys or "loss" in keys else "held-out images"
        )
        for key in keys:
            if key in series:
                name, style = styles[key]
                axes.plot(*series[key].T, label=name, **style)
        axes.set_xlabel("epoch")
        axes.set_xlim(left=0)
        axes.legend(fontsize=9, frameon=True, framealpha=0.9, edgecolor="none", loc="best")
    return save(figure, path)


def score_densities(
    path: str | os.PathLike,
    log_odds,
    is_ai,
    thresholds: Thresholds | None = None,
    title: str | None = None,
) -> Path:
    """Draw how the margins of both labels are spread, and where verdicts begin.

    Args:
        path: The PNG to write.
        margin (`np.ndarray` of shape `(n,)`): Log-odds of ai.
        is_ai (`np.ndarray` of shape `(n,)`): Labels.
        thresholds: *optional*. Between them lies what is inconclusive.
        title: *optional*. A line above.
    """
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    # A few far outliers must not squeeze the rest into one bar; they are drawn in the outermost ones.
    low, high = np.quantile(log_odds, [0.002, 0.998])
    low, high = min(low, -1.0), max(high, 1.0)
    edges = np.linspace(low, high, 51)
    figure = new_figure(5.8, 3.6)
    axes = plain_axes(figure.add_subplot(), plain_text(title or ""))
    for label in NAMES:
        mine = log_odds[is_ai] if label == AI else log_odds[~is_ai]
        if not len(mine):
            continue
        axes.hist(
            mine.clip(low, high),
            edges,
            weights=np.full(len(mine), 100 / len(mine)),
            histtype="stepfilled",
            facecolor=COLOURS[label] + "40",
            edgecolor=COLOURS[label],
            linestyle="-" if label == AI else "--",
            linewidth=1.5,
            label=f"{label} (n = {len(mine):,})",
        )
    if thresholds is not None:
        start = low if thresholds.real is None else thresholds.real
        stop = high if thresholds.ai is None else thresholds.ai
        start, stop = sorted((start, stop))
        axes.axvspan(
            max(start, low),
            min(stop, high),
            color="#999999",
            alpha=0.25,
            linewidth=0,
            label=INCONCLUSIVE,
            zorder=0,
        )
    axes.set_xlim(low, high)
    axes.set_xlabel("log-odds of ai (above: probability of ai)")
    axes.set_ylabel("% of the label's images")
    top = axes.secondary_xaxis("top")
    marks = [
        mark
        for mark in (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
        if low <= np.log(mark / (1 - mark)) <= high
    ]
    top.set_xticks([np.log(mark / (1 - mark)) for mark in marks], [f"{mark:g}" for mark in marks])
    top.tick_params(labelsize=8.5, colors=INK)
    axes.legend(fontsize=9, frameon=True, framealpha=0.9, edgecolor="none", loc="best")
    return save(figure, path)


def write_plots(
    folder: str | os.PathLike,
    split: str,
    log_odds,
    is_ai,
    figures: Mapping,
    *,
    before=None,
    log_history: Sequence[Mapping] | None = None,
) -> list[dict[str, str]]:
    """Write every plot of a measured split into `<folder>/plots`.

    Args:
        folder: The checkpoint's folder.
        split: Name of the split.
        log_odds, is_ai: Arrays of shape `(n,)`.
        figures: What [`evaluation.measure`] returned for them.
        before: *optional*. The margins before calibration, of shape `(n,)`.
        log_history: *optional*. `Trainer.state.log_history`.

    Returns:
        `list[dict]`: `{"file", "caption"}` for each, as `CardFacts.plots` takes them; paths are relative to the folder.
    """
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    plots = Path(folder) / "plots"
    written = []

    def note(file: Path, caption: str) -> None:
        written.append({"file": f"plots/{file.name}", "caption": caption})

    rated = figures.get("verdicts")
    two_classes = bool(is_ai.any() and not is_ai.all())
    counts = rated["counts"] if rated else figures["confusion"]
    file = confusion_matrix(plots / f"confusion-{split}.png", counts)
    note(
        file,
        f"{'Verdicts' if rated else 'Predictions'} on {split} by true label; each row adds up to 100 %",
    )
    if two_classes:
        file = roc(plots / f"roc-{split}.png", log_odds, is_ai, figures["summary"]["auroc"])
        note(file, f"ROC curve on {split}; the false-positive axis is logarithmic")
        file = reliability_diagram(
            plots / f"reliability-{split}.png",
            expit(log_odds),
            is_ai,
            None if before is None else expit(before),
        )
        note(
            file, f"Reliability on {split}: how often images with a given probability are generated"
        )
    thresholds = Thresholds.from_dict(rated["thresholds"]) if rated else None
    file = score_densities(plots / f"scores-{split}.png", log_odds, is_ai, thresholds)
    note(file, f"Scores on {split} by true label")
    if log_history and any("loss" in entry or "eval_loss" in entry for entry in log_history):
        note(
            training_curves(plots / "training.png", log_history), "Loss and metrics during training"
        )
    return written
