"""The results of the benchmark: the tables of the README, and the plots of time and memory."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from realfake.statistics.stopping import ERROR

from .timing import row

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "scripts" / "benchmarks" / "results.json"
SOAK = ROOT / "scripts" / "reliability" / "soak.json"
MEMORY = RESULTS.with_name("memory.png")
VIEWS = ROOT / "realfake" / "checkpoints" / "photos" / "views.json"
IMAGES = 10_000_000
CORES, MACHINES = 16, 10


def tables(record: Mapping, names: Iterable[str]) -> dict[str, str]:
    """Return the tables `speed` and `cost`, the list `misses` and the picture `memory` in Markdown.

    Args:
        record: The content of `results.json`.
        names: All parts. Those that did not run are listed as not measured.
    """
    parts = {name: record["parts"].get(name, {"error": "not run yet"}) for name in names}
    others = other_rows()
    cores = record.get("machine", {}).get("cores")
    return {
        "speed": table(parts, others),
        "misses": misses(parts, others),
        "cost": cost(parts, cores),
        "memory": f"![Memory of the page]({MEMORY.name})"
        if MEMORY.is_file()
        else "Not measured yet.",
    }


def table(parts: Mapping[str, Mapping], others: Iterable[Mapping] = ()) -> str:
    """Return the rows of all parts as a Markdown table, and the error of each failed part.

    Args:
        parts: `{name: figures}`.
        others: Rows that are measured elsewhere, see [`other_rows`].
    """
    lines = [
        "| | measured (lowest – highest of n rounds) | target | |",
        "| :-- | --: | --: | :-- |",
    ]
    for name, part in parts.items():
        if "error" in part:
            lines.append(f"| {name} | not measured: {part['error'].splitlines()[0]} | | |")
        lines += [_line(each) for each in part.get("rows", ())]
    return "\n".join([*lines, *map(_line, others)])


def _line(row: Mapping) -> str:
    unit = row.get("unit", "")
    value = "not measured" if row["value"] is None else number(row["value"]) + unit
    if row["value"] is not None and "n" in row:
        spread = f"{number(row['low'])} – {number(row['high'])}, " if row["n"] > 1 else ""
        value = f"{value} ({spread}n = {row['n']})"
    target = ""
    if row["target"] is not None:
        target = f"{'≥' if row['at_least'] else '≤'} {number(row['target'])}{unit}"
    mark = {True: "met", False: "**missed**", None: ""}[row["met"]]
    return f"| {row['what']} | {value} | {target} | {mark} |"


def number(value: float) -> str:
    """Format a number: two decimals for ratios, two significant digits for tiny differences."""
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    if abs(value) >= 0.1:
        return f"{value:.2f}"
    return f"{value:.4f}" if abs(value) >= 1e-3 else f"{value:.1e}"


def other_rows(views: Path = VIEWS, soak: Path = SOAK) -> list[dict]:
    """Return the rows that other commands measure: the early exit, and the memory of the page.

    Args:
        views: Record of `realfake evaluate views`.
        soak: Record of `scripts/soak.py`.
    """
    early = (_read(views).get("test") or {}).get("early_exit") or {}
    share, changed = early.get("mean_share_of_views"), early.get("changed") or {}
    return [
        row("Early exit: share of the views of a test image that are examined, mean", share, 0.6),
        row("Early exit: share of verdicts that it changes", changed.get("value"), ERROR),
        *memory_rows(_read(soak).get("page") or {}),
    ]


def memory_rows(page: Mapping) -> list[dict]:
    """Return the rows about the memory of the page, from the record of `soak.py --page`."""
    settled, huge = page.get("settled") or {}, page.get("huge") or {}
    visit = f"Page, two visitors in a browser for {page.get('minutes', 30):g} minutes"
    after = f"growth after {settled.get('after_minutes', 10):g} minutes"
    return [
        row(f"{visit}: peak memory", page.get("most_gb"), 3.0, unit=" GB"),
        row(
            f"{visit}: {after}, lower end of the 95 % interval",
            settled.get("low"),
            1.0,
            unit=" MiB a minute",
        ),
        row(
            "Page, an image of 100 megapixels: memory above that peak",
            huge.get("more_gb"),
            2.0,
            unit=" GB",
        ),
        row(
            "Page, an image of 100 megapixels: share of its memory that is given back in a minute",
            huge.get("given_back"),
            0.9,
            at_least=True,
        ),
    ]


def misses(parts: Mapping[str, Mapping], others: Iterable[Mapping] = ()) -> str:
    """Return the missed targets and where their time goes, as a Markdown list."""
    rows = [each for part in parts.values() for each in part.get("rows", ())] + list(others)
    lines = []
    for each in rows:
        if each["met"] is False:
            profile = each.get("profile") or {}
            times = ", ".join(f"{name} {_time(value)}" for name, value in profile.items())
            lines.append(f"- {each['what']}{': ' if times else ''}{times}.")
    if lines:
        return "\n".join(lines)
    return "- None." if any(each["met"] for each in rows) else "- Nothing is measured yet."


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def cost(parts: Mapping[str, Mapping], cores: int | None) -> str:
    """Return the time for ten million images as a Markdown table, from the measured rates.

    Args:
        parts: `{name: figures}`.
        cores: Cores of the machine that was measured.
    """
    ray = next((each["value"] for each in parts.get("ray", {}).get("rows", ())), None)
    lines = [
        f"| {IMAGES:,} images | images a second, {cores} cores | core hours "
        f"| one machine with {CORES} cores | {MACHINES} such machines with Ray |",
        "| :-- | --: | --: | --: | --: |",
    ]
    for name, label in (("scoring", "one view"), ("views", "all views")):
        facts = parts.get(name, {})
        cells = ["not measured"] * 4
        if "score" in facts.get("images_a_second", {}):
            rate = facts["images_a_second"]["score"]
            hours = IMAGES / rate * cores / 3600
            alone = hours / CORES
            together = "not measured" if ray is None else f"{alone / MACHINES / ray:.1f} h"
            cells = [f"{rate:.1f}", f"{hours:,.0f}", f"{alone:.1f} h", together]
            label += f", {facts['views_an_image']:.1f} of an image" if name == "views" else ""
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def plot_scaling(runs: Sequence[Mapping], path: Path) -> None:
    """Plot time, with a fitted line, and peak memory against the number of images."""
    import numpy as np

    plt = _pyplot()
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
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _save(figure, path)


def plot_memory(page: Mapping, path: Path) -> None:
    """Plot the memory of the page over time, from the record of `soak.py --page`."""
    figure, axes = _pyplot().subplots(figsize=(9, 3.4), layout="constrained")
    minutes, used = zip(*((second / 60, gb) for second, gb in page["curve"]), strict=True)
    axes.plot(minutes, used, color="#0b6e99", linewidth=1)
    axes.axhline(3, color="#b4530a", linestyle="--", label="target of the peak")
    for name, label in (("settled_at", "settled"), ("huge_at", "100 megapixels")):
        if page.get(name) is not None:
            axes.axvline(page[name] / 60, color="0.7")
            axes.annotate(label, (page[name] / 60, 0.1), rotation=90, ha="right")
    axes.set(xlabel="minutes", ylabel="GB", title="Memory of the page", ylim=(0, None))
    axes.legend(frameon=False, loc="lower left")
    _save(figure, path)


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save(figure, path: Path) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    _pyplot().close(figure)
