"""Plots of a corpus audit: samples, sizes, mean colours and spectra of the training images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from realfake.audit.audit import Audit
from realfake.corpus.splits import TRAIN
from realfake.imaging.decode import open_image
from realfake.labels import AI, NAMES
from realfake.plotting import COLOURS, batch_sheet, new_figure, plain_axes, save

_STYLES = {label: "--" if label == AI else "-" for label in NAMES}
_SHEET = 24  # images on a sample sheet


def write_plots(audit: Audit, folder: Path) -> list[tuple[Path, str]]:
    """Write the plots of train.

    Returns:
        The files and their captions.
    """
    facts, is_ai, pixels = audit.facts[TRAIN], audit.labels[TRAIN], audit.pixels[TRAIN]
    width, height = (
        np.asarray([getattr(fact, name) for fact in facts], dtype=float)
        for name in ("width", "height")
    )
    sizes = [
        ("width (pixels)", width, None),
        ("height (pixels)", height, None),
        ("width / height", width / height, None),
    ]
    colours = [
        (f"mean {name} of an image (0 to 255)", values, (0, 255))
        for name, values in zip(("red", "green", "blue"), pixels["colour"].T, strict=True)
    ]
    return [
        *_samples(audit, folder),
        (_histograms(folder / "sizes.png", sizes, is_ai), "Sizes of the images of train"),
        (
            _histograms(folder / "colours.png", colours, is_ai),
            "Mean colours of the images of train",
        ),
        (
            _spectra(folder / "spectra.png", pixels["spectrum"], is_ai),
            "Mean radial power spectra of train",
        ),
    ]


def _samples(audit: Audit, folder: Path) -> list[tuple[Path, str]]:
    rows, is_ai = audit.splits[TRAIN], audit.labels[TRAIN]
    rng = np.random.default_rng(audit.results["settings"]["seed"])
    sheets = []
    for label in NAMES:
        chosen = np.sort(rng.permutation(np.flatnonzero(is_ai == (label == AI)))[:_SHEET])
        entries = [rows[int(index)] for index in chosen]
        column = "generator" if label == AI and "generator" in rows.column_names else "source"
        path = batch_sheet(
            folder / f"sample-{label}.png",
            [open_image(entry["image"]) for entry in entries],
            [label] * len(entries),
            [entry.get(column) or "" for entry in entries],
            columns=8,
            tile=104,
        )
        sheets.append((path, f"A random sample of the {label} images of train"))
    return sheets


def _histograms(
    path: Path,
    panels: Sequence[tuple[str, np.ndarray, tuple[float, float] | None]],
    is_ai: np.ndarray,
) -> Path:
    """Draw the distribution of values (n,) by label, one panel for each `(name, values, range)`."""
    figure = new_figure(10.5, 3.2)
    for axes, (name, values, span) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        plain_axes(axes)
        _histogram(axes, values, is_ai, span or tuple(np.quantile(values, [0, 0.99])))
        axes.set_xlabel(name)
        axes.set_ylabel("% of the label's images")
    axes.legend(fontsize=9, frameon=False)
    return save(figure, path)


def _histogram(axes: Any, values: np.ndarray, is_ai: np.ndarray, span: tuple[float, float]) -> None:
    low, high = span if span[1] > span[0] else (span[0] - 0.5, span[0] + 0.5)
    edges = np.linspace(low, high, 33)
    for label in NAMES:
        some = values[is_ai == (label == AI)]
        if len(some):
            axes.hist(
                some.clip(low, high),
                edges,
                weights=np.full(len(some), 100 / len(some)),
                histtype="stepfilled",
                facecolor=COLOURS[label] + "40",
                edgecolor=COLOURS[label],
                linestyle=_STYLES[label],
                linewidth=1.4,
                label=f"{label} (n = {len(some):,})",
            )


def _spectra(path: Path, spectrum: np.ndarray, is_ai: np.ndarray) -> Path:
    """Draw the mean log spectrum (n, bins) by label, and the middle half of the images."""
    frequency = (np.arange(spectrum.shape[1]) + 0.5) / spectrum.shape[1] / 2
    figure = new_figure(6.2, 3.8)
    axes = plain_axes(figure.add_subplot())
    for label in NAMES:
        some = spectrum[is_ai == (label == AI)]
        if not len(some):
            continue
        low, high = np.quantile(some, [0.25, 0.75], axis=0)
        axes.fill_between(frequency, low, high, color=COLOURS[label], alpha=0.15, linewidth=0)
        axes.plot(
            frequency,
            some.mean(0),
            color=COLOURS[label],
            linestyle=_STYLES[label],
            linewidth=2,
            label=f"{label} (n = {len(some):,}; band: middle half)",
        )
    axes.set_xlabel("spatial frequency (cycles per pixel)")
    axes.set_ylabel("log10 of the luminance's power")
    axes.legend(fontsize=9, frameon=False)
    return save(figure, path)
