"""The plots of a model card and of a robustness report.

Each plot function writes one PNG at `path` and returns the path; `title` is an optional line above
the plot. [`write_plots`] and [`write_robustness_plots`] write all plots of a measurement. The
arrays hold the log-odds or probabilities of ai and the labels (bool) of n images.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from realfake.evaluation.robustness import CLEAN, headline
from realfake.labels import AI, NAMES, REAL
from realfake.plotting import COLOURS, GREY, INK, new_figure, plain_axes, plain_text, save
from realfake.statistics.metrics import (
    check_log_odds,
    class_balanced_weights,
    ece,
    reliability_curve,
)
from realfake.statistics.verdicts import INCONCLUSIVE, Thresholds

_BAND_DRAWS = 200  # simulations of a perfectly calibrated model, for the grey band
_LEGEND = {"fontsize": 9, "frameon": True, "framealpha": 0.9, "edgecolor": "none"}


def roc(
    path: str | os.PathLike,
    log_odds: ArrayLike,
    is_ai: ArrayLike,
    auroc: Mapping | None = None,
    title: str | None = None,
) -> Path:
    """Draw the ROC curve with a logarithmic false-positive axis.

    Args:
        auroc: `{"value", "low", "high"}` of [`measure.measure`] for the legend, *optional*.

    Raises:
        ValueError: The images do not have both labels.
    """
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    n_ai, n_real = int(is_ai.sum()), int((~is_ai).sum())
    if not n_ai or not n_real:
        raise ValueError("A ROC curve needs images of both labels.")
    order = np.argsort(-log_odds, kind="stable")
    # A threshold cannot fall between equal values.
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
    (curve,) = axes.plot(fpr.clip(floor, 1), tpr, color=COLOURS[AI], linewidth=2, label=label)
    curve.set_drawstyle("steps-post")
    at = [float((log_odds[~is_ai] > 0).mean()), float((log_odds[is_ai] > 0).mean())]
    (point,) = axes.plot(max(at[0], floor), at[1], "o", color=INK, markersize=7, zorder=3)
    point.set(clip_on=False, label="at even odds (p = 0.5)")
    axes.set_xscale("log")
    axes.set_xlim(floor, 1)
    axes.set_ylim(0, 1.01)
    axes.set_xlabel(f"share of real images called ai (n = {n_real:,}; the left edge is none)")
    axes.set_ylabel(f"share of ai images found (n = {n_ai:,})")
    ticks = [tick for tick in (1e-4, 1e-3, 1e-2, 1e-1, 1) if tick >= floor]
    axes.set_xticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
    axes.set_yticks(np.linspace(0, 1, 6), [f"{tick} %" for tick in range(0, 101, 20)])
    axes.legend(loc="best", **_LEGEND)
    return save(figure, path)


def reliability_diagram(
    path: str | os.PathLike,
    p_ai: ArrayLike,
    is_ai: ArrayLike,
    before: ArrayLike | None = None,
    title: str | None = None,
    seed: int = 0,
) -> Path:
    """Draw a class-balanced reliability diagram.

    The grey band holds 90 % of the points of perfectly calibrated models with these probabilities.

    Raises:
        ValueError: The images do not have both labels.
    """
    p_ai, is_ai = np.asarray(p_ai, dtype=np.float64), np.asarray(is_ai, dtype=bool)
    if is_ai.all() or not is_ai.any():
        raise ValueError("A reliability diagram needs images of both labels.")
    weights = class_balanced_weights(is_ai)
    figure = new_figure(5.2, 5.4)
    upper, lower = figure.subplots(2, 1, height_ratios=[4, 1], sharex=True)
    plain_axes(upper, plain_text(title or ""))
    plain_axes(lower)
    diagonal = {"color": GREY, "linestyle": "--", "linewidth": 1.2}
    upper.plot([0, 1], [0, 1], label="perfect calibration", **diagonal)
    band = {"color": "#BDBDBD", "alpha": 0.55, "linewidth": 0}
    upper.fill_between(
        *_perfect_band(p_ai, is_ai.mean(), seed), label="90 % range of perfect calibration", **band
    )
    old = {"color": COLOURS[REAL], "marker": "s", "linestyle": ":", "markersize": 5}
    new = {"color": COLOURS[AI], "marker": "o", "linestyle": "-", "markersize": 5.5}
    curves = {"after calibration" if before is not None else "this model": (p_ai, new)}
    if before is not None:
        curves = {"before calibration": (before, old), **curves}
    for name, (probabilities, style) in curves.items():
        curve = reliability_curve(probabilities, is_ai, weights)
        style |= {"linewidth": 1.5, "clip_on": False, "zorder": 3}
        label = f"{name}: ECE {ece(probabilities, is_ai, weights):.3f}"
        upper.plot(curve["predicted"], curve["observed"], label=label, **style)
    upper.set_ylabel("share of ai, classes balanced")
    upper.set_ylim(0, 1)
    upper.legend(loc="upper left", **(_LEGEND | {"fontsize": 8.5}))
    for label in NAMES:
        lower.hist(
            p_ai[is_ai == (label == AI)], np.linspace(0, 1, 21), linewidth=1.3, **_bars(label)
        )
    lower.set_ylim(0, 1.5 * lower.get_ylim()[1])  # room for the legend
    lower.set_ylabel("images")
    lower.set_xlabel("probability of ai")
    lower.set_xlim(0, 1)
    lower.legend(fontsize=8.5, frameon=False, ncols=2, loc="upper center")
    return save(figure, path)


def _perfect_band(
    p_ai: np.ndarray, prior_ai: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, and the 5 % and 95 % quantiles of the curves of perfectly calibrated models."""
    rng = np.random.default_rng(seed)
    chance = p_ai * prior_ai / (p_ai * prior_ai + (1 - p_ai) * (1 - prior_ai))
    grid = np.linspace(0, 1, 101)
    curves = []
    for _ in range(_BAND_DRAWS):
        drawn = rng.random(len(p_ai)) < chance
        if drawn.all() or not drawn.any():
            continue
        weights = np.where(drawn, 0.5 / prior_ai, 0.5 / (1 - prior_ai))
        curve = reliability_curve(p_ai, drawn, weights)
        # A curve ends at its outermost points.
        ends = {"left": np.nan, "right": np.nan}
        curves.append(np.interp(grid, curve["predicted"], curve["observed"], **ends))
    seen = ~np.isnan(curves).any(axis=0) if curves else np.zeros(len(grid), dtype=bool)
    if not seen.any():
        return grid[:0], grid[:0], grid[:0]
    low, high = np.quantile(np.array(curves)[:, seen], [0.05, 0.95], axis=0)
    return grid[seen], low, high


def _bars(label: str) -> dict:
    """Return the style of a label's histogram."""
    return {
        "label": label,
        "histtype": "stepfilled",
        "facecolor": COLOURS[label] + "40",
        "edgecolor": COLOURS[label],
        "linestyle": "-" if label == AI else "--",
    }


def score_densities(
    path: str | os.PathLike,
    log_odds: ArrayLike,
    is_ai: ArrayLike,
    thresholds: Thresholds | None = None,
    title: str | None = None,
) -> Path:
    """Draw the distributions of the log-odds of both labels.

    The range between the thresholds is shaded as inconclusive.
    """
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    # Outliers are drawn in the outermost bars.
    low, high = np.quantile(log_odds, [0.002, 0.998])
    low, high = min(low, -1.0), max(high, 1.0)
    figure = new_figure(5.8, 3.6)
    axes = plain_axes(figure.add_subplot(), plain_text(title or ""))
    for label in NAMES:
        mine = log_odds[is_ai == (label == AI)]
        if len(mine):
            style = {**_bars(label), "linewidth": 1.5, "label": f"{label} (n = {len(mine):,})"}
            weights = np.full(len(mine), 100 / len(mine))
            axes.hist(mine.clip(low, high), np.linspace(low, high, 51), weights=weights, **style)
    if thresholds is not None:
        start = low if thresholds.real is None else thresholds.real
        stop = high if thresholds.ai is None else thresholds.ai
        start, stop = sorted((start, stop))
        span = axes.axvspan(max(start, low), min(stop, high), color="#999999", alpha=0.25)
        span.set(linewidth=0, zorder=0, label=INCONCLUSIVE)
    axes.set_xlim(low, high)
    axes.set_xlabel("log-odds of ai (above: probability of ai)")
    axes.set_ylabel("% of the label's images")
    top = axes.secondary_xaxis("top")
    marks = np.array([0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999])
    marks = marks[(logit(marks) >= low) & (logit(marks) <= high)]
    top.set_xticks(logit(marks), [f"{mark:g}" for mark in marks])
    top.tick_params(labelsize=8.5, colors=INK)
    axes.legend(loc="best", **_LEGEND)
    return save(figure, path)


def training_curves(path: str | os.PathLike, log_history: Sequence[Mapping]) -> Path:
    """Draw loss and metrics over the epochs.

    Args:
        log_history: `Trainer.state.log_history`: entries with `epoch` and `loss`, `eval_loss`,
            `eval_accuracy` or `eval_auroc`.

    Raises:
        ValueError: The log holds no loss and no metric.
    """
    ai = {"linewidth": 2, "markersize": 4, "color": COLOURS[AI], "marker": "o"}
    accuracy = ai | {"color": COLOURS[REAL], "marker": "s"}
    panels: dict[str, dict[str, dict]] = {
        "loss (nats)": {
            "loss": {"label": "training (augmented)", "color": GREY, "linewidth": 1.2},
            "eval_loss": {"label": "held out", **ai},
        },
        "held-out images": {
            "eval_accuracy": {"label": "accuracy", **accuracy},
            "eval_auroc": {"label": "AUROC", "linestyle": "--", **ai},
        },
    }
    drawn = []
    for title, styles in panels.items():
        curves = []
        for key, style in styles.items():
            entries = [e for e in log_history if "epoch" in e and e.get(key) is not None]
            if entries:
                curves.append(([e["epoch"] for e in entries], [e[key] for e in entries], style))
        if curves:
            drawn.append((title, curves))
    if not drawn:
        raise ValueError("The training log holds no loss and no metric; was anything trained?")
    figure = new_figure(4.3 * len(drawn) + 0.3, 3.4)
    subplots = np.atleast_1d(figure.subplots(1, len(drawn)))
    for axes, (title, curves) in zip(subplots, drawn, strict=True):
        plain_axes(axes, title)
        for x, y, style in curves:
            axes.plot(x, y, **style)
        axes.set_xlabel("epoch")
        axes.set_xlim(left=0)
        axes.legend(loc="best", **_LEGEND)
    return save(figure, path)


def auroc_table(path: str | os.PathLike, figures: Mapping[str, Mapping]) -> Path | None:
    """Draw the AUROC of every generator under every degradation, the worst generator first.

    Returns:
        The path; `None` if no generators are known.
    """
    images = next(iter(figures.values())).get("by_generator") or {}
    if not images:
        return None
    names = sorted(images)
    aurocs = [
        [entry["by_generator"][name]["auroc"]["value"] for entry in figures.values()]
        for name in names
    ]
    values = np.array(aurocs, dtype=np.float64)
    order = np.argsort(np.where(np.isnan(values), np.inf, values).min(axis=1), kind="stable")
    values, names = values[order], [names[row] for row in order]
    figure = new_figure(3.0 + 0.72 * len(figures), 1.6 + 0.32 * len(names))
    axes = figure.add_subplot()
    # Chance is white, and below chance is orange: the colour-blind can tell them apart.
    drawn = axes.imshow(values, cmap="PuOr", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        text = "–" if np.isnan(value) else f"{value:.2f}"
        colour = "white" if abs(value - 0.5) > 0.26 else INK
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8.5)
    axes.set_xticks(range(len(figures)), map(plain_text, figures), rotation=35, ha="right")
    labels = [plain_text(f"{name} (n = {images[name]['n']:,})") for name in names]
    axes.set_yticks(range(len(names)), labels)
    axes.tick_params(length=0, labelsize=9, colors=INK)
    axes.spines[:].set_visible(False)
    figure.colorbar(drawn, ax=axes, shrink=0.8).set_label("AUROC", fontsize=9, color=INK)
    return save(figure, path)


def write_plots(
    folder: str | os.PathLike,
    split: str,
    log_odds: ArrayLike,
    is_ai: ArrayLike,
    figures: Mapping,
    *,
    before: ArrayLike | None = None,
    log_history: Sequence[Mapping] | None = None,
) -> list[dict[str, str]]:
    """Write every plot of a measured split into `<folder>/plots`.

    Returns:
        `[{"file", "caption"}]`, with paths relative to the folder.
    """
    plots = Path(folder) / "plots"
    written = _curves(plots, split, split, log_odds, is_ai, figures, before=before)
    if log_history and any("loss" in entry or "eval_loss" in entry for entry in log_history):
        file = training_curves(plots / "training.png", log_history)
        written.append(_entry(file, "Loss and metrics during training"))
    return written


def write_robustness_plots(
    folder: str | os.PathLike,
    split: str,
    figures: Mapping[str, Mapping],
    log_odds: Mapping[str, np.ndarray] | None = None,
    is_ai: ArrayLike | None = None,
) -> list[dict[str, str]]:
    """Write the table of AUROCs, and the curves of the clean and of the worst degradation.

    Args:
        log_odds: `{degradation: (n,)}`, *optional*. Without it there are no curves.
        is_ai: (n,) bool, with `log_odds`.

    Returns:
        As [`write_plots`].
    """
    plots, written = Path(folder) / "plots", []
    if file := auroc_table(plots / f"robustness-{split}.png", figures):
        caption = f"AUROC on {split} of each generator against all real images, by degradation"
        written.append(_entry(file, caption))
    worst = headline(figures)["worst_degradation"]
    if log_odds is not None and worst:
        for name in dict.fromkeys((CLEAN, worst["degradation"])):
            if name in log_odds:
                title = f"{name}, the worst" if name == worst["degradation"] else name
                where = f"{split}-{name}", f"{split}, {title}"
                curves = (log_odds[name], is_ai, figures[name])
                written += _curves(plots, *where, *curves, title=title)
    return written


def _curves(
    plots: Path,
    name: str,
    described: str,
    log_odds: ArrayLike,
    is_ai: ArrayLike,
    figures: Mapping,
    before: ArrayLike | None = None,
    title: str | None = None,
) -> list[dict[str, str]]:
    """Write the ROC curve, the reliability diagram and the distributions of the scores."""
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    written = []
    if is_ai.any() and not is_ai.all():
        auroc = figures["summary"]["auroc"]
        file = roc(plots / f"roc-{name}.png", log_odds, is_ai, auroc, title)
        caption = f"ROC curve on {described}; the false-positive axis is logarithmic"
        written.append(_entry(file, caption))
        old = None if before is None else expit(before)
        path = plots / f"reliability-{name}.png"
        file = reliability_diagram(path, expit(log_odds), is_ai, old, title)
        caption = f"Reliability on {described}: share of generated images at each probability"
        written.append(_entry(file, caption))
    rated = figures.get("verdicts")
    thresholds = Thresholds.from_dict(rated["thresholds"]) if rated else None
    file = score_densities(plots / f"scores-{name}.png", log_odds, is_ai, thresholds, title)
    return [*written, _entry(file, f"Scores on {described} by true label")]


def _entry(file: Path, caption: str) -> dict[str, str]:
    return {"file": f"plots/{file.name}", "caption": caption}
