"""Plots of a corpus audit: samples, sizes and spectra of the training images."""

from pathlib import Path

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
    is_ai = audit.labels[TRAIN]
    sizes = np.asarray([(fact.width, fact.height) for fact in audit.facts[TRAIN]], dtype=float)
    return [
        *_samples(audit, folder),
        (_sizes(folder / "sizes.png", sizes, is_ai), "Sizes of the images of train"),
        (
            _spectra(folder / "spectra.png", audit.spectra[TRAIN], is_ai),
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


def _sizes(path: Path, sizes: np.ndarray, is_ai: np.ndarray) -> Path:
    """Draw the distribution of widths, heights and aspect ratios by label; sizes are (n, 2)."""
    width, height = sizes.T
    panels = {"width (pixels)": width, "height (pixels)": height, "width / height": width / height}
    figure = new_figure(10.5, 3.2)
    for axes, (name, values) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        plain_axes(axes)
        low, high = np.quantile(values, [0, 0.99])
        edges = np.linspace(low, high, 33) if high > low else low + np.linspace(-0.5, 0.5, 33)
        for label in NAMES:
            some = values[is_ai == (label == AI)]
            if len(some):
                axes.hist(
                    some.clip(edges[0], edges[-1]),
                    edges,
                    weights=np.full(len(some), 100 / len(some)),
                    histtype="stepfilled",
                    facecolor=COLOURS[label] + "40",
                    edgecolor=COLOURS[label],
                    linestyle=_STYLES[label],
                    linewidth=1.4,
                    label=f"{label} (n = {len(some):,})",
                )
        axes.set_xlabel(name)
        axes.set_ylabel("% of the label's images")
    axes.legend(fontsize=9, frameon=False)
    return save(figure, path)


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
