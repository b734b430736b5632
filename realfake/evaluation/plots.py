"""The plots of a model card and of a robustness report, each written as one small PNG.

The functions take arrays and figures of `measure` and `robustness_report`, never models.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from realfake.evaluation.measure import OTHER, too_many_wrong
from realfake.evaluation.robustness_report import CLEAN, headline
from realfake.labels import AI, NAMES, REAL
from realfake.plotting import COLOURS, GREY, INK, new_figure, plain_axes, plain_text, save
from realfake.statistics.log_odds import check_log_odds, class_balanced_weights
from realfake.statistics.metrics import ece, reliability_curve
from realfake.statistics.verdicts import INCONCLUSIVE, Thresholds

_BAND_DRAWS = 200  # simulations of a perfectly calibrated model, for the band of noise
_LEGEND = {"fontsize": 9, "frameon": True, "framealpha": 0.9, "edgecolor": "none"}


def confusion_matrix(
    path: str | os.PathLike, counts: Mapping[str, Mapping[str, int]], title: str | None = None
) -> Path:
    """Draw a confusion matrix with shares of the true label.

    Args:
        path: The PNG to write.
        counts: `{true label: {answer: count}}`: the `confusion` of [`measure.measure`], or its
            `verdicts["counts"]`.
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
    # The pale half of the scale keeps dark text readable.
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.7, aspect="auto")
    for i, j in np.ndindex(numbers.shape):
        share = f"{100 * shares[i, j]:.1f} %" if totals[i, 0] else "–"
        centred = {"ha": "center", "va": "center", "color": INK}
        axes.text(j, i - 0.08, share, fontsize=13, **centred)
        axes.text(j, i + 0.22, f"{int(numbers[i, j]):,}", fontsize=9, **centred)
    called = [f"called {name}" if name in NAMES else name for name in columns]
    axes.set_xticks(range(len(columns)), map(plain_text, called))
    names = zip(rows, totals[:, 0], strict=True)
    labels = [f"{plain_text(row)}\n(n = {int(total):,})" for row, total in names]
    axes.set_yticks(range(len(rows)), labels)
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
    path: str | os.PathLike,
    log_odds: ArrayLike,
    is_ai: ArrayLike,
    auroc: Mapping | None = None,
    title: str | None = None,
) -> Path:
    """Draw the ROC curve with a logarithmic false-positive axis.

    Args:
        path: The PNG to write.
        log_odds: (n,) log-odds of ai.
        is_ai: (n,) bool.
        auroc: `{"value", "low", "high"}` of [`measure.measure`] for the legend, *optional*.
        title: *optional*. A line above.

    Raises:
        ValueError: There are not both labels.
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
    axes.plot(
        fpr.clip(floor, 1), tpr, color=COLOURS[AI], linewidth=2, drawstyle="steps-post", label=label
    )
    at = [float((log_odds[~is_ai] > 0).mean()), float((log_odds[is_ai] > 0).mean())]
    point = {"marker": "o", "linestyle": "", "color": INK, "markersize": 7, "clip_on": False}
    axes.plot(max(at[0], floor), at[1], zorder=3, label="at even odds (p = 0.5)", **point)
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

    Args:
        path: The PNG to write.
        p_ai: (n,) calibrated probability of ai.
        is_ai: (n,) bool.
        before: (n,) probabilities before calibration, *optional*.
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
    old = {"color": COLOURS[REAL], "marker": "s", "linestyle": ":", "markersize": 5}
    new = {"color": COLOURS[AI], "marker": "o", "linestyle": "-", "markersize": 5.5}
    curves = {"before calibration": (before, old), "after calibration": (p_ai, new)}
    for name, (probabilities, style) in curves.items():
        if probabilities is None:
            continue
        curve = reliability_curve(probabilities, is_ai, weights)
        label = name if before is not None else "this model"
        style |= {"linewidth": 1.5, "clip_on": False, "zorder": 3}
        style["label"] = f"{label}: ECE {ece(probabilities, is_ai, weights):.3f}"
        upper.plot(curve["predicted"], curve["observed"], **style)
    upper.set_ylabel("share of ai, classes balanced")
    upper.set_ylim(0, 1)
    upper.legend(loc="upper left", **(_LEGEND | {"fontsize": 8.5}))
    edges = np.linspace(0, 1, 21)
    for label in NAMES:
        mine = is_ai if label == AI else ~is_ai
        lower.hist(p_ai[mine], edges, linewidth=1.3, label=label, **_step(label))
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
        log_history: `Trainer.state.log_history`: entries with `epoch` and `loss`, `eval_loss`,
            `eval_accuracy` or `eval_auroc`.

    Raises:
        ValueError: The log holds no loss and no metric.
    """
    series: dict[str, np.ndarray] = {}
    for key in ("loss", "eval_loss", "eval_accuracy", "eval_auroc"):
        points = [
            (entry["epoch"], entry[key])
            for entry in log_history
            if "epoch" in entry and entry.get(key) is not None
        ]
        if points:
            series[key] = np.array(points)
    if not series:
        raise ValueError("The training log holds no loss and no metric; was anything trained?")
    panels: dict[str, list[str]] = {
        "loss (nats)": [key for key in ("loss", "eval_loss") if key in series],
        "held-out images": [key for key in ("eval_accuracy", "eval_auroc") if key in series],
    }
    panels = {title: keys for title, keys in panels.items() if keys}
    marked = {"linewidth": 2, "markersize": 4}
    ai, real = marked | {"color": COLOURS[AI]}, marked | {"color": COLOURS[REAL]}
    styles: dict[str, dict] = {
        "loss": {"label": "training (augmented)", "color": GREY, "linewidth": 1.2},
        "eval_loss": {"label": "held out", "marker": "o", **ai},
        "eval_accuracy": {"label": "accuracy", "marker": "s", **real},
        "eval_auroc": {"label": "AUROC", "marker": "o", "linestyle": "--", **ai},
    }
    figure = new_figure(4.3 * len(panels) + 0.3, 3.4)
    subplots = np.atleast_1d(figure.subplots(1, len(panels)))
    for axes, (title, keys) in zip(subplots, panels.items(), strict=True):
        plain_axes(axes, title)
        for key in keys:
            axes.plot(*series[key].T, **styles[key])
        axes.set_xlabel("epoch")
        axes.set_xlim(left=0)
        axes.legend(loc="best", **_LEGEND)
    return save(figure, path)


def _step(label: str) -> dict:
    """Return the style of a label's histogram."""
    return {
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

    Args:
        path: The PNG to write.
        log_odds: (n,) log-odds of ai.
        is_ai: (n,) bool.
        thresholds: *optional*. The range between them is shaded as inconclusive.
        title: *optional*. A line above.
    """
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    # Outliers are drawn in the outermost bars.
    low, high = np.quantile(log_odds, [0.002, 0.998])
    low, high = min(low, -1.0), max(high, 1.0)
    edges = np.linspace(low, high, 51)
    figure = new_figure(5.8, 3.6)
    axes = plain_axes(figure.add_subplot(), plain_text(title or ""))
    for label in NAMES:
        mine = log_odds[is_ai] if label == AI else log_odds[~is_ai]
        if not len(mine):
            continue
        weights = np.full(len(mine), 100 / len(mine))
        text = f"{label} (n = {len(mine):,})"
        style = {"weights": weights, "linewidth": 1.5, "label": text, **_step(label)}
        axes.hist(mine.clip(low, high), edges, **style)
    if thresholds is not None:
        start = low if thresholds.real is None else thresholds.real
        stop = high if thresholds.ai is None else thresholds.ai
        start, stop = sorted((start, stop))
        grey = {"color": "#999999", "alpha": 0.25, "linewidth": 0, "zorder": 0}
        axes.axvspan(max(start, low), min(stop, high), label=INCONCLUSIVE, **grey)
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


def heat_table(path: str | os.PathLike, figures: Mapping[str, Mapping]) -> Path | None:
    """Draw the AUROC of every generator under every degradation, the worst generator first.

    Args:
        path: The PNG to write.
        figures: Of [`robustness_report.grid_figures`].

    Returns:
        The path; `None` if no generators are known.
    """
    tiers = list(figures)
    images = figures[tiers[0]].get("by_generator") or {}
    if not images:
        return None
    names = sorted(images)
    values = _values(
        [figures[tier]["by_generator"][name]["auroc"] for tier in tiers] for name in names
    )
    order = np.argsort(np.where(np.isnan(values), np.inf, values).min(axis=1), kind="stable")
    rows = [f"{names[row]} (n = {images[names[row]]['n']:,})" for row in order]
    # Chance is white, and below chance is orange: the colour-blind can tell them apart.
    return _heat(
        path,
        rows,
        tiers,
        values[order],
        "AUROC",
        "PuOr",
        lambda value: abs(value - 0.5) > 0.26,
        "{:.2f}".format,
    )


def coverage_heat_table(path: str | os.PathLike, figures: Mapping[str, Mapping]) -> Path | None:
    """Draw the share of wrong verdicts by class and generator under every degradation.

    Args:
        path, figures: As of [`heat_table`].

    Returns:
        The path; `None` if there are no verdicts.
    """
    tiers = list(figures)
    first = figures[tiers[0]]
    if not first.get("verdicts"):
        return None
    rows, entries = [], []
    for label, wrong in OTHER.items():
        rows.append(f"all {label}, verdict {wrong} (n = {first['n'][label]:,})")
        rated = [figures[tier]["verdicts"] for tier in tiers]
        entries.append([{key: one[key][label] for key in ("wrong", "promised")} for one in rated])
    for name in sorted(first.get("by_generator") or {}):
        rows.append(f"{name}, verdict {REAL} (n = {first['by_generator'][name]['n']:,})")
        entries.append([figures[tier]["by_generator"][name] for tier in tiers])
    return _heat(
        path,
        rows,
        tiers,
        _values([entry["wrong"] for entry in row] for row in entries),
        "share of wrong verdicts; boxed: more than stated",
        "Oranges",
        lambda value: value > 0.55,
        lambda value: f"{100 * value:.0f} %",
        np.array([[too_many_wrong(entry) for entry in row] for row in entries]),
    )


def _values(figures: Iterable[Sequence[Mapping]]) -> np.ndarray:
    return np.array(
        [[np.nan if one["value"] is None else one["value"] for one in row] for row in figures]
    )


def _heat(
    path: str | os.PathLike,
    rows: Sequence[str],
    columns: Sequence[str],
    values: np.ndarray,
    label: str,
    colours: str,
    is_dark: Callable[[float], bool],
    write: Callable[[float], str],
    marked: np.ndarray | None = None,
) -> Path:
    """Draw a table of coloured cells with their numbers; marked cells have a frame."""
    from matplotlib.patches import Rectangle

    figure = new_figure(3.0 + 0.72 * len(columns), 1.6 + 0.32 * len(rows))
    axes = figure.add_subplot()
    drawn = axes.imshow(values, cmap=colours, vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        bold = marked is not None and marked[row, column]
        axes.text(
            column,
            row,
            "–" if np.isnan(value) else write(value),
            ha="center",
            va="center",
            fontsize=8.5,
            color="white" if is_dark(value) else INK,
            fontweight="bold" if bold else "normal",
        )
        if bold:
            corner = (column - 0.45, row - 0.42)
            axes.add_patch(Rectangle(corner, 0.9, 0.84, fill=False, edgecolor=INK, linewidth=1.3))
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right")
    axes.set_yticks(range(len(rows)), [plain_text(name) for name in rows])
    axes.tick_params(length=0, labelsize=9, colors=INK)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8)
    bar.set_label(label, fontsize=9, color=INK)
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

    Args:
        folder: The checkpoint's folder.
        split: Name of the split.
        log_odds, is_ai: Arrays of shape (n,).
        figures: Of [`measure.measure`].
        before: (n,) log-odds before calibration, *optional*.
        log_history: `Trainer.state.log_history`, *optional*.

    Returns:
        `[{"file", "caption"}]`, with paths relative to the folder.
    """
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    plots, written = Path(folder) / "plots", []
    rated = figures.get("verdicts")
    file = confusion_matrix(
        plots / f"confusion-{split}.png", rated["counts"] if rated else figures["confusion"]
    )
    answers = "Verdicts" if rated else "Predictions"
    _note(written, file, f"{answers} on {split} by true label; each row adds up to 100 %")
    if is_ai.any() and not is_ai.all():
        file = roc(plots / f"roc-{split}.png", log_odds, is_ai, figures["summary"]["auroc"])
        _note(written, file, f"ROC curve on {split}; the false-positive axis is logarithmic")
        file = reliability_diagram(
            plots / f"reliability-{split}.png",
            expit(log_odds),
            is_ai,
            None if before is None else expit(before),
        )
        caption = f"Reliability on {split}: share of generated images at each probability"
        _note(written, file, caption)
    thresholds = Thresholds.from_dict(rated["thresholds"]) if rated else None
    file = score_densities(plots / f"scores-{split}.png", log_odds, is_ai, thresholds)
    _note(written, file, f"Scores on {split} by true label")
    if log_history and any("loss" in entry or "eval_loss" in entry for entry in log_history):
        file = training_curves(plots / "training.png", log_history)
        _note(written, file, "Loss and metrics during training")
    return written


def write_robustness_plots(
    folder: str | os.PathLike,
    split: str,
    figures: Mapping[str, Mapping],
    log_odds: Mapping[str, np.ndarray] | None = None,
    is_ai: ArrayLike | None = None,
) -> list[dict[str, str]]:
    """Write both heat tables, and the curves of the clean and of the worst degradation.

    Args:
        figures: Of [`robustness_report.grid_figures`].
        log_odds: `{degradation: (n,)}`, *optional*. Without it there are no curves.
        is_ai: (n,) bool, with `log_odds`.

    Returns:
        As [`write_plots`].
    """
    plots, written = Path(folder) / "plots", []
    if file := heat_table(plots / f"robustness-{split}.png", figures):
        caption = f"AUROC on {split} of each generator against all real images, by degradation"
        _note(written, file, caption)
    if file := coverage_heat_table(plots / f"coverage-{split}.png", figures):
        caption = f"Wrong verdicts on {split} by class and generator; framed: more than stated"
        _note(written, file, caption)
    is_ai = np.asarray(is_ai, dtype=bool)
    if log_odds is None or is_ai.all() or not is_ai.any():
        return written
    worst = headline(figures)["worst_degradation"]["degradation"]
    for name in dict.fromkeys(name for name in (CLEAN, worst) if name in log_odds):
        which = f"{name}, the worst" if name == worst else name
        rated, scores = figures[name].get("verdicts"), log_odds[name]
        auroc = figures[name]["summary"]["auroc"]
        file = roc(plots / f"roc-{split}-{name}.png", scores, is_ai, auroc, which)
        _note(written, file, f"ROC curve on {split}, {which}")
        path = plots / f"reliability-{split}-{name}.png"
        file = reliability_diagram(path, expit(scores), is_ai, title=which)
        _note(written, file, f"Reliability on {split}, {which}")
        thresholds = Thresholds.from_dict(rated["thresholds"]) if rated else None
        path = plots / f"scores-{split}-{name}.png"
        file = score_densities(path, scores, is_ai, thresholds, which)
        _note(written, file, f"Scores on {split}, {which}, by true label")
    return written


def _note(written: list[dict[str, str]], file: Path, caption: str) -> None:
    written.append({"file": f"plots/{file.name}", "caption": caption})
