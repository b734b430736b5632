"""The results of the benchmark: the table of the README, and the plot of time and memory."""

from collections.abc import Mapping
from pathlib import Path


def table(parts: Mapping[str, Mapping]) -> str:
    """Return the rows of all parts as a Markdown table, and the error of each failed part."""
    lines = ["| | measured (lowest – highest of n pairs) | target | |", "| :-- | --: | --: | :-- |"]
    for name, part in parts.items():
        if "error" in part:
            lines.append(f"| {name} | not measured: {part['error'].splitlines()[0]} | | |")
        lines += [_line(row) for row in part.get("rows", ())]
    return "\n".join(lines)


def _line(row: Mapping) -> str:
    value, target = number(row["value"]), number(row["target"])
    target = f"{'≥' if row['at_least'] else '≤'} {target}"
    if "n" in row:  # a ratio
        spread = f"{number(row['low'])} – {number(row['high'])}, " if row["n"] > 1 else ""
        value, target = f"{value}× ({spread}n = {row['n']})", f"{target}×"
    return f"| {row['what']} | {value} | {target} | {'met' if row['met'] else '**missed**'} |"


def number(value: float) -> str:
    """Format a number: two decimals for ratios, two significant digits for tiny differences."""
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    if abs(value) >= 0.1:
        return f"{value:.2f}"
    return f"{value:.4f}" if abs(value) >= 1e-3 else f"{value:.1e}"


def gpu_table(part: Mapping) -> str:
    """Return the measurements on a GPU, one run each, as a Markdown table."""
    lines = [
        f"| {part['device']}, 1 run each | images a second | share of peak |",
        "| :-- | --: | --: |",
    ]
    for row in part["gpu"]:
        share = "" if row["share_of_peak"] is None else f"{row['share_of_peak']:.0%}"
        lines.append(f"| {row['what']} | {row['images_a_second']:,.0f} | {share} |")
    return "\n".join(lines)


def plot_scaling(runs: list[Mapping], path: Path) -> None:
    """Plot time, with a fitted line, and peak memory against the number of images."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    images, seconds, memory = (
        np.array([run[key] for run in runs]) for key in ("images", "seconds", "peak_mib")
    )
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    slope = float((images * seconds).sum() / (images**2).sum())
    left.plot(
        [0, images.max()],
        [0, slope * images.max()],
        color="0.7",
        label=f"{1 / slope:.0f} images a second",
        zorder=1,
    )
    left.scatter(images, seconds, color="#0b6e99", zorder=2)
    left.set(xlabel="images", ylabel="seconds", title="Time to score", ylim=(0, None))
    left.legend(frameon=False)
    right.plot(images, memory, "o-", color="#b4530a")
    right.set(
        xlabel="images",
        ylabel="MiB",
        title="Peak memory of the process",
        ylim=(0, 1.2 * memory.max()),
    )
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)
