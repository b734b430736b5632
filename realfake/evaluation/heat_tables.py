"""Tables of coloured cells: the confusion matrix, and the figures of every degradation.

Each function writes one PNG at `path` and returns the path.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from realfake.evaluation.measure import OTHER, too_many_wrong
from realfake.labels import NAMES, REAL
from realfake.plotting import INK, new_figure, plain_text, save


def confusion_matrix(path: str | os.PathLike, counts: Mapping[str, Mapping[str, int]]) -> Path:
    """Draw a confusion matrix with shares of the true label.

    Args:
        counts: `{true label: {answer: count}}`: the `confusion` of [`measure.measure`], or its
            `verdicts["counts"]`.

    Raises:
        ValueError: The rows do not have the same answers.
    """
    answers = list(next(iter(counts.values())))
    if any(set(row) != set(answers) for row in counts.values()):
        raise ValueError("Each true label needs a count for each answer.")
    numbers = np.array([[row[answer] for answer in answers] for row in counts.values()])
    totals = numbers.sum(axis=1)
    shares = np.divide(
        numbers, totals[:, None], out=np.full(numbers.shape, np.nan), where=totals[:, None] > 0
    )
    texts = [
        f"{_percent(share, 1)}\n{n:,}" for share, n in zip(shares.flat, numbers.flat, strict=True)
    ]
    return _draw(
        path,
        [f"{label}\n(n = {n:,})" for label, n in zip(counts, totals, strict=True)],
        [f"called {answer}" if answer in NAMES else answer for answer in answers],
        shares,
        texts,
        size=(1.5 + 1.35 * len(answers), 1.2 + len(counts)),
        fontsize=12,
        cmap="Blues",
        vmax=1.7,  # the pale half of the scale keeps dark text readable
        ylabel="true label",
    )


def auroc_table(path: str | os.PathLike, figures: Mapping[str, Mapping]) -> Path | None:
    """Draw the AUROC of every generator under every degradation, the worst generator first.

    Args:
        figures: Of [`robustness.grid_figures`].

    Returns:
        The path; `None` if no generators are known.
    """
    images = next(iter(figures.values())).get("by_generator") or {}
    if not images:
        return None
    names = sorted(images)
    values = _values(
        [entry["by_generator"][name]["auroc"] for entry in figures.values()] for name in names
    )
    order = np.argsort(np.where(np.isnan(values), np.inf, values).min(axis=1), kind="stable")
    values = values[order]
    return _draw(
        path,
        [f"{names[row]} (n = {images[names[row]]['n']:,})" for row in order],
        list(figures),
        values,
        ["–" if np.isnan(value) else f"{value:.2f}" for value in values.flat],
        # Chance is white, and below chance is orange: the colour-blind can tell them apart.
        cmap="PuOr",
        dark=abs(values - 0.5) > 0.26,
        scale="AUROC",
    )


def wrong_verdicts_table(path: str | os.PathLike, figures: Mapping[str, Mapping]) -> Path | None:
    """Draw the share of wrong verdicts by class and generator under every degradation.

    Args:
        figures: Of [`robustness.grid_figures`].

    Returns:
        The path; `None` if there are no verdicts.
    """
    first = next(iter(figures.values()))
    if not first.get("verdicts"):
        return None
    rows, entries = [], []
    for label, wrong in OTHER.items():
        rows.append(f"all {label}, verdict {wrong} (n = {first['n'][label]:,})")
        rated = [entry["verdicts"] for entry in figures.values()]
        entries.append([{key: one[key][label] for key in ("wrong", "promised")} for one in rated])
    for name in sorted(first.get("by_generator") or {}):
        rows.append(f"{name}, verdict {REAL} (n = {first['by_generator'][name]['n']:,})")
        entries.append([entry["by_generator"][name] for entry in figures.values()])
    values = _values([entry["wrong"] for entry in row] for row in entries)
    return _draw(
        path,
        rows,
        list(figures),
        values,
        [_percent(value, 0) for value in values.flat],
        cmap="Oranges",
        dark=values > 0.55,
        framed=np.array([[too_many_wrong(entry) for entry in row] for row in entries]),
        scale="share of wrong verdicts; boxed: more than stated",
    )


def _values(figures: Iterable[Sequence[Mapping]]) -> np.ndarray:
    return np.array([[one["value"] for one in row] for row in figures], dtype=np.float64)


def _percent(share: float, decimals: int) -> str:
    return "–" if np.isnan(share) else f"{100 * share:.{decimals}f} %"


def _draw(
    path: str | os.PathLike,
    rows: Sequence[str],
    columns: Sequence[str],
    values: np.ndarray,
    texts: Sequence[str],
    *,
    cmap: str,
    vmax: float = 1,
    size: tuple[float, float] | None = None,
    fontsize: float = 8.5,
    dark: np.ndarray | None = None,
    framed: np.ndarray | None = None,
    ylabel: str | None = None,
    scale: str | None = None,
) -> Path:
    """Draw values from 0 to 1; `scale` is the label of a colour bar."""
    from matplotlib.patches import Rectangle

    figure = new_figure(*(size or (3.0 + 0.72 * len(columns), 1.6 + 0.32 * len(rows))))
    axes = figure.add_subplot()
    drawn = axes.imshow(values, cmap=cmap, vmin=0, vmax=vmax, aspect="auto")
    for (row, column), text in zip(np.ndindex(values.shape), texts, strict=True):
        bold = framed is not None and framed[row, column]
        colour = "white" if dark is not None and dark[row, column] else INK
        style = {"color": colour, "fontweight": "bold" if bold else "normal"}
        axes.text(column, row, text, ha="center", va="center", fontsize=fontsize, **style)
        if bold:
            corner = (column - 0.45, row - 0.42)
            axes.add_patch(Rectangle(corner, 0.9, 0.84, fill=False, edgecolor=INK, linewidth=1.3))
    turned = {"rotation": 35, "ha": "right"} if scale else {}
    axes.set_xticks(range(len(columns)), [plain_text(name) for name in columns], **turned)
    axes.set_yticks(range(len(rows)), [plain_text(name) for name in rows])
    axes.tick_params(length=0, labelsize=9, colors=INK)
    axes.spines[:].set_visible(False)
    if ylabel:
        axes.set_ylabel(ylabel, color=INK)
    if scale:
        bar = figure.colorbar(drawn, ax=axes, shrink=0.8)
        bar.set_label(scale, fontsize=9, color=INK)
    return save(figure, path)
