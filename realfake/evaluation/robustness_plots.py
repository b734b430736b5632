"""The pictures of a robustness report: heat tables of generators by degradation, and curves of the best and worst tier.

Takes the figures of [`robustness_figures.grid_figures`] and margins; the curves are those of [`plots`].
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.special import expit

from realfake.card.limits import too_many_wrong
from realfake.evaluation.plots import reliability_diagram, roc, score_densities
from realfake.evaluation.robustness_figures import CLEAN, headline
from realfake.labels import AI, REAL
from realfake.plotting import INK, new_figure, plain_text, save
from realfake.statistics.verdicts import Thresholds

_METRICS = {
    "auroc": "AUROC",
    "balanced_accuracy": "balanced accuracy",
    "detected": "share found at p > ½",
}


def heat_table(
    path: str | os.PathLike, figures: Mapping[str, Mapping], metric: str = "auroc"
) -> Path | None:
    """Draw one metric of every generator under every degradation, the worst generators first.

    Args:
        path: The PNG to write.
        figures: What [`robustness_figures.grid_figures`] returned.
        metric: `"auroc"`, `"balanced_accuracy"` or `"detected"`, *defaults to* `"auroc"`.

    Returns:
        The path; `None` where no generators are known.
    """
    tiers = list(figures)
    images = figures[tiers[0]].get("by_generator") or {}
    if not images:
        return None
    names = sorted(images)
    values = np.array(
        [[_value(figures[tier]["by_generator"][name][metric]) for tier in tiers] for name in names]
    )
    order = np.argsort(np.where(np.isnan(values), np.inf, values).min(axis=1), kind="stable")
    rows = [f"{names[row]} (n = {images[names[row]]['n']:,})" for row in order]
    # Chance is white, worse than chance orange: the colour-blind tell these two apart.
    return _heat(
        path,
        rows,
        tiers,
        values[order],
        _METRICS[metric],
        "PuOr",
        (0, 1),
        lambda value: abs(value - 0.5) > 0.26,
        "{:.2f}".format,
    )


def coverage_table(path: str | os.PathLike, figures: Mapping[str, Mapping]) -> Path | None:
    """Draw the share of wrong verdicts by class and generator under every degradation, shortfalls marked.

    Args:
        path, figures: As of [`heat_table`].

    Returns:
        The path; `None` where no verdicts are given.
    """
    tiers = list(figures)
    first = figures[tiers[0]]
    if not first.get("verdicts"):
        return None
    rows, entries = [], []
    for label, said in ((REAL, AI), (AI, REAL)):
        rated = [figures[tier]["verdicts"] for tier in tiers]
        rows.append(f"all {label}, called {said} (n = {first['n'][label]:,})")
        entries.append(
            [{"wrong": each["wrong"][label], "promised": each["promised"][label]} for each in rated]
        )
    for name in sorted(first.get("by_generator") or {}):
        rows.append(f"{name}, called {REAL} (n = {first['by_generator'][name]['n']:,})")
        entries.append([figures[tier]["by_generator"][name] for tier in tiers])
    values = np.array([[_value(entry["wrong"]) for entry in row] for row in entries])
    marked = np.array([[too_many_wrong(entry) for entry in row] for row in entries])
    return _heat(
        path,
        rows,
        tiers,
        values,
        "share of wrong verdicts; boxed: more than promised",
        "Oranges",
        (0, 1),
        lambda value: value > 0.55,
        lambda value: f"{100 * value:.0f} %",
        marked,
    )


def _heat(
    path,
    rows: Sequence[str],
    columns: Sequence[str],
    values: np.ndarray,
    label: str,
    colours: str,
    span,
    is_dark,
    write,
    marked: np.ndarray | None = None,
) -> Path:
    """A table of coloured cells with their numbers in them; marked cells get a frame."""
    from matplotlib.patches import Rectangle

    figure = new_figure(3.0 + 0.72 * len(columns), 1.6 + 0.32 * len(rows))
    axes = figure.add_subplot()
    drawn = axes.imshow(values, cmap=colours, vmin=span[0], vmax=span[1], aspect="auto")
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        text = "–" if np.isnan(value) else write(value)
        bold = marked is not None and marked[row, column]
        axes.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize=8.5,
            color="white" if is_dark(value) else INK,
            fontweight="bold" if bold else "normal",
        )
        if bold:
            axes.add_patch(
                Rectangle(
                    (column - 0.45, row - 0.42), 0.9, 0.84, fill=False, edgecolor=INK, linewidth=1.3
                )
            )
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right")
    axes.set_yticks(range(len(rows)), [plain_text(name) for name in rows])
    axes.tick_params(length=0, labelsize=9, colors=INK)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8)
    bar.set_label(label, fontsize=9, color=INK)
    return save(figure, path)


def write_card_plots(
    folder: str | os.PathLike, split: str, figures: Mapping[str, Mapping]
) -> list[dict[str, str]]:
    """Draw what figures alone allow, without margins: both heat tables, into `<folder>/plots`.

    Returns:
        `list[dict]`: `{"file", "caption"}` for each, paths relative to the folder.
    """
    plots, written = Path(folder) / "plots", []
    if heat_table(plots / f"robustness-{split}.png", figures):
        caption = (
            f"AUROC on {split} of each generator against all real images, under each degradation"
        )
        written.append({"file": f"plots/robustness-{split}.png", "caption": caption})
    if coverage_table(plots / f"coverage-{split}.png", figures):
        caption = f"Wrong verdicts on {split} by class and generator, under each degradation; a frame marks more than promised"
        written.append({"file": f"plots/coverage-{split}.png", "caption": caption})
    return written


def write_robustness_plots(
    folder: str | os.PathLike,
    split: str,
    log_odds: Mapping[str, np.ndarray],
    is_ai,
    figures: Mapping[str, Mapping],
) -> list[dict[str, str]]:
    """Write the heat tables, and ROC, reliability and score densities of the clean and of the worst tier.

    Returns:
        As of [`write_card_plots`].
    """
    plots = Path(folder) / "plots"
    written = write_card_plots(folder, split, figures)
    is_ai = np.asarray(is_ai, dtype=bool)
    if is_ai.all() or not is_ai.any():
        return written

    def note(file: Path, caption: str) -> None:
        written.append({"file": f"plots/{file.name}", "caption": caption})

    worst = headline(figures)["worst_degradation"]["degradation"]
    for name in dict.fromkeys(name for name in (CLEAN, worst) if name in log_odds):
        which = f"{name}, the worst" if name == worst else name
        rated, scores = figures[name].get("verdicts"), log_odds[name]
        file = roc(
            plots / f"roc-{split}-{name}.png",
            scores,
            is_ai,
            figures[name]["summary"]["auroc"],
            which,
        )
        note(file, f"ROC curve on {split}, {which}; the false-positive axis is logarithmic")
        file = reliability_diagram(
            plots / f"reliability-{split}-{name}.png", expit(scores), is_ai, title=which
        )
        note(
            file,
            f"Reliability on {split}, {which}: how often images with a given probability are generated",
        )
        thresholds = Thresholds.from_dict(rated["thresholds"]) if rated else None
        file = score_densities(
            plots / f"scores-{split}-{name}.png", scores, is_ai, thresholds, which
        )
        note(file, f"Scores on {split}, {which}, by true label")
    return written


def _value(figure: Mapping) -> float:
    return np.nan if figure["value"] is None else figure["value"]
