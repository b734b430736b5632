"""The figures of a corpus audit: what the images of both labels look like before any detector has seen them.

The functions take arrays and images, and write one PNG each, in the style of the model card's. Used by `report`.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..labels import AI, NAMES
from ..plot_style import COLOURS, new_figure, plain_axes, save

_STYLES = {label: "--" if label == AI else "-" for label in NAMES}


def sizes(path: str | os.PathLike, width, height, is_ai) -> Path:
    """Draw how widths, heights and aspect ratios of both labels are distributed.

    Args:
        path: The PNG to write.
        width, height: (n,), of the stored pictures, in pixels.
        is_ai: (n,) bool.
    """
    width, height, is_ai = np.asarray(width, float), np.asarray(height, float), np.asarray(is_ai, bool)
    figure = new_figure(10.5, 3.2)
    panels = (("width (pixels)", width), ("height (pixels)", height), ("width / height", width / height))
    for axes, (name, values) in zip(figure.subplots(1, 3), panels):
        plain_axes(axes)
        _histogram(axes, values, is_ai)
        axes.set_xlabel(name)
        axes.set_ylabel("% of the label's images")
    axes.legend(fontsize=9, frameon=False)
    return save(figure, path)


def colours(path: str | os.PathLike, means, is_ai) -> Path:
    """Draw how the images' mean red, green and blue are distributed.

    Args:
        path: The PNG to write.
        means: (n, 3), 0..255.
        is_ai: (n,) bool.
    """
    means, is_ai = np.asarray(means, float), np.asarray(is_ai, bool)
    figure = new_figure(10.5, 3.2)
    for axes, name, values in zip(figure.subplots(1, 3), ("red", "green", "blue"), means.T):
        plain_axes(axes)
        _histogram(axes, values, is_ai, (0, 255))
        axes.set_xlabel(f"mean {name} of an image (0 to 255)")
        axes.set_ylabel("% of the label's images")
    axes.legend(fontsize=9, frameon=False)
    return save(figure, path)


def spectra(path: str | os.PathLike, spectrum, is_ai) -> Path:
    """Draw the mean log spectrum of both labels, and the middle half of the images.

    Args:
        path: The PNG to write.
        spectrum: (n, bins), of [`radial_spectrum`].
        is_ai: (n,) bool.
    """
    spectrum, is_ai = np.asarray(spectrum, float), np.asarray(is_ai, bool)
    frequency = (np.arange(spectrum.shape[1]) + 0.5) / spectrum.shape[1] / 2
    figure = new_figure(6.2, 3.8)
    axes = plain_axes(figure.add_subplot())
    for label in NAMES:
        mine = spectrum[is_ai if label == AI else ~is_ai]
        if not len(mine):
            continue
        low, high = np.quantile(mine, [0.25, 0.75], axis=0)
        axes.fill_between(frequency, low, high, color=COLOURS[label], alpha=0.15, linewidth=0)
        axes.plot(
            frequency, mine.mean(0), color=COLOURS[label], linestyle=_STYLES[label], linewidth=2,
            label=f"{label} (n = {len(mine):,}; band: middle half)",
        )  # fmt: skip
    axes.set_xlabel("spatial frequency (cycles per pixel)")
    axes.set_ylabel("log10 of the luminance's power")
    axes.legend(fontsize=9, frameon=False)
    return save(figure, path)


def _histogram(axes, values: np.ndarray, is_ai: np.ndarray, span: Sequence[float] | None = None) -> None:
    low, high = span or np.quantile(values, [0, 0.99])
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, 33)
    for label in NAMES:
        mine = values[is_ai if label == AI else ~is_ai]
        if len(mine):
            axes.hist(
                mine.clip(low, high), edges, weights=np.full(len(mine), 100 / len(mine)), histtype="stepfilled",
                facecolor=COLOURS[label] + "40", edgecolor=COLOURS[label], linestyle=_STYLES[label], linewidth=1.4,
                label=f"{label} (n = {len(mine):,})",
            )  # fmt: skip
