"""The pictures of a robustness report: a heat table of generators by degradation, and curves of the best and worst tier.

Takes the figures of [`robustness.grid_figures`] and margins; the curves are those of [`plots`].
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.special import expit

from .plots import reliability_diagram, roc
from .robustness import CLEAN, headline

_INK = "#222222"
_DPI = 110


def heat_table(path: str | os.PathLike, figures: Mapping[str, Mapping], metric: str = "auroc") -> Path | None:
    """Draw one metric of every generator under every degradation, the worst generators first.

    Args:
        path: The PNG to write.
        figures: What [`robustness.grid_figures`] returned.
        metric: `"auroc"`, `"balanced_accuracy"` or `"detected"`, *defaults to* `"auroc"`.

    Returns:
        The path; `None` where no generators are known.
    """
    from matplotlib.figure import Figure

    tiers = list(figures)
    names = sorted({name for tier in figures.values() for name in tier.get("by_generator") or {}})
    if not names:
        return None
    values = np.array(
        [[_value(figures[tier]["by_generator"][name][metric]) for tier in tiers] for name in names]
    )
    lowest = np.where(np.isnan(values), np.inf, values).min(axis=1)
    order = np.argsort(lowest, kind="stable")
    values, names = values[order], [names[row] for row in order]
    images = figures[tiers[0]]["by_generator"]
    figure = Figure(
        figsize=(2.6 + 0.72 * len(tiers), 1.5 + 0.32 * len(names)),
        dpi=_DPI,
        layout="constrained",
        facecolor="white",
    )
    axes = figure.add_subplot()
    # Chance is white, worse than chance orange: the colour-blind tell these two apart.
    drawn = axes.imshow(values, cmap="PuOr", vmin=0, vmax=1, aspect="auto")
    for row in range(len(names)):
        for column in range(len(tiers)):
            value = values[row, column]
            shade = "white" if abs(value - 0.5) > 0.26 else _INK
            text = "–" if np.isnan(value) else f"{value:.2f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8.5, color=shade)
    axes.set_xticks(range(len(tiers)), tiers, rotation=35, ha="right")
    axes.set_yticks(
        range(len(names)), [f"{name} (n = {images[name]['n']:,})".replace("$", r"\$") for name in names]
    )
    axes.tick_params(length=0, labelsize=9, colors=_INK)
    axes.spines[:].set_visible(False)
    figure.colorbar(drawn, ax=axes, shrink=0.8, label={"auroc": "AUROC"}.get(metric, metric.replace("_", " ")))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without a software tag the same figures give the same bytes.
    figure.savefig(path, format="png", dpi=_DPI, metadata={"Software": None})
    return path


def write_plots(
    folder: str | os.PathLike,
    split: str,
    margins: Mapping[str, np.ndarray],
    is_ai,
    figures: Mapping[str, Mapping],
) -> list[dict[str, str]]:
    """Write the heat table, and reliability and ROC of the clean and of the worst tier, into `<folder>/plots`.

    Returns:
        `list[dict]`: `{"file", "caption"}` for each, paths relative to the folder.
    """
    plots = Path(folder) / "plots"
    written = []
    if heat_table(plots / f"robustness-{split}.png", figures):
        caption = f"AUROC on {split} of each generator against all real images, under each degradation"
        written.append({"file": f"plots/robustness-{split}.png", "caption": caption})
    is_ai = np.asarray(is_ai, dtype=bool)
    if is_ai.all() or not is_ai.any():
        return written
    worst = headline(figures)["worst_degradation"]["degradation"]
    for name in dict.fromkeys(name for name in (CLEAN, worst) if name in margins):
        which = f"{name}, the worst" if name == worst else name
        file = roc(
            plots / f"roc-{split}-{name}.png", margins[name], is_ai, figures[name]["summary"]["auroc"], which
        )
        caption = f"ROC curve on {split}, {which}; the false-positive axis is logarithmic"
        written.append({"file": f"plots/{file.name}", "caption": caption})
        file = reliability_diagram(
            plots / f"reliability-{split}-{name}.png", expit(margins[name]), is_ai, title=which
        )
        caption = f"Reliability on {split}, {which}: how often images with a given probability are generated"
        written.append({"file": f"plots/{file.name}", "caption": caption})
    return written


def _value(figure: Mapping) -> float:
    return np.nan if figure["value"] is None else figure["value"]
