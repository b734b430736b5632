"""Writes the figures of a robustness run down: `robustness.json` for programs, `evaluation.md` for people.

The record has the conventions of `evaluation.json`: `{"value", "low", "high", "n"}` at 95 %, a figure that does not exist is
`null`, and with every figure stand the weights, the images and the command that it was made with.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from .controls import NAMES as CONTROLS
from .labels import AI, REAL
from .measurement_log import plain
from .model_card import code, fence, md, table
from .records import read_records, write_atomically
from .robustness import headline

FILE_NAME = "robustness.json"
REPORT_NAME = "evaluation.md"


def write_record(folder: str | os.PathLike, split: str, record: Mapping) -> dict:
    """Write one split's record into `robustness.json`, beside those of other splits measured with the same weights.

    Args:
        record: `checkpoint_sha256` and what else [`render`] takes.

    Returns:
        The whole file, `{split: record}`.
    """
    path = Path(folder) / FILE_NAME
    known = read_records(path)
    kept = {
        name: entry
        for name, entry in known.items()
        if entry.get("checkpoint_sha256") == record["checkpoint_sha256"]
    }
    kept[split] = plain(record)
    write_atomically(path, json.dumps(kept, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return kept


def summary(record: Mapping) -> str:
    """Word the headline: the worst degradation and the worst generator, never the average alone."""
    worst = headline(record["degradations"])
    tier, cell, clean = worst["worst_degradation"], worst["worst_generator"], worst["clean"]
    if tier is None:
        return "The split holds one label only; there is no balanced accuracy."
    words = (
        f"**Balanced accuracy {_percent(tier['balanced_accuracy'])} under the worst degradation, "
        f"{code(tier['degradation'])}**"
    )
    words += f" ({_percent(clean)} on the images as they are)." if clean else "."
    if cell:
        words += (
            f" **The weakest generator is {md(cell['generator'])} under {code(cell['degradation'])}: balanced accuracy "
            f"{_percent(cell['balanced_accuracy'])}**, AUROC {_score(cell['auroc'])}, {_percent(cell['detected'])} of "
            f"{cell['n']:,} images found."
        )
    return words + (
        f" The mean over the {len(record['degradations'])} degradations is {100 * worst['mean']:.1f} %, which hides both."
    )


def render(record: Mapping, split: str, plots: Sequence[Mapping[str, str]] = ()) -> str:
    """Write a record as Markdown.

    Args:
        record: `model`, `checkpoint_sha256`, `corpus`, `corpus_fingerprint`, `command`, `date`, `versions`, `described`
            (`{degradation: what it does}`), `degradations` (figures, see [`robustness.grid_figures`]), `controls`
            (`{control: {degradation: figures}}`) and `controls_n`, the training images they were fitted on.
        split: Name of the split.
        plots: `{"file", "caption"}` for each.
    """
    figures, controls = record["degradations"], record["controls"]
    first = next(iter(figures.values()))
    rated = any(entry.get("verdicts") for entry in figures.values())
    parts = [
        f"# {md(record['model'])} on {md(record['corpus'])}, split {code(split)}",
        summary(record),
        f"{first['n'][REAL]:,} real and {first['n'][AI]:,} generated images. Numbers in brackets are 95 % intervals "
        f"({md(first['intervals'])}); those of a worst case do not know that it was chosen as the worst. An image counts as "
        "called `ai` where its probability of `ai` is above one half, unless verdicts are mentioned. ECE is class-balanced; "
        "in the column beside it is what a perfectly calibrated model would show by chance.",
        "## By degradation",
    ]
    header = [
        "Scored by",
        "degradation",
        "n",
        "AUROC",
        "balanced accuracy",
        "ECE",
        "ECE by chance",
        "false positives",
    ]
    header += ["with a verdict", "verdicts right", "real called `ai`", "ai called `real`"] if rated else []
    rows = [["model", *_tier(name, entry, rated)] for name, entry in figures.items()]
    for control, tiers in controls.items():
        rows += [[f"*{code(control)}*", *_tier(name, entry, rated)] for name, entry in tiers.items()]
    parts.append(table(header, rows))
    if controls:
        names = "; ".join(f"{code(name)} is a {CONTROLS.get(name, name)}" for name in controls)
        parts.append(
            f"Controls: {names}, each fitted on {record['controls_n']:,} training images as they are. Their probabilities "
            "are not calibrated. Where a control comes near the model, the corpus gives its labels away."
        )
    parts.append("\n".join(f"- {code(name)}: {md(record['described'][name])}" for name in figures))

    generators = sorted({name for entry in figures.values() for name in entry.get("by_generator") or {}})
    if generators:
        parts += [
            "## By generator",
            f"Each against all {first['n'][REAL]:,} real images: AUROC, then the share found.",
        ]
        parts.append(
            table(
                ["Generator", "n", *map(code, figures), "lowest"],
                [
                    [md(name), f"{first['by_generator'][name]['n']:,}", *cells, low]
                    for name in generators
                    for cells, low in [_row(figures, name)]
                ],
            )
        )
    sources = sorted({name for entry in figures.values() for name in entry.get("by_source") or {}})
    if sources:
        parts += ["## False positives by source of the photographs"]
        parts.append(
            table(
                ["Source", "n", *map(code, figures)],
                [
                    [
                        md(name),
                        f"{first['by_source'][name]['n']:,}",
                        *(_percent(entry["by_source"][name]["false_positives"]) for entry in figures.values()),
                    ]
                    for name in sources
                ],
            )
        )
    for name in first.get("by_slice") or {}:
        counts = first["by_slice"][name]["n"]
        parts += [f"## Slice: {md(name)}", f"{counts[REAL]:,} real and {counts[AI]:,} generated images."]
        if not sum(counts.values()):
            continue
        header = ["Degradation", "AUROC", "balanced accuracy", "generated images found", "false positives"]
        rows = []
        for tier, entry in figures.items():
            cell = entry["by_slice"][name]
            rows.append(
                [
                    code(tier),
                    _score(cell["auroc"]),
                    *(_percent(cell[key]) for key in ("balanced_accuracy", "detected", "false_positives")),
                ]
            )
        parts.append(table(header, rows))
    parts += [f"![{md(plot['caption'])}]({plot['file']})\n\n{md(plot['caption'])}." for plot in plots]
    parts += [
        "## How it was made",
        fence(record["command"], "bash"),
        f"{md(record['date'][:10])}; weights {code(record['checkpoint_sha256'])}; images {code(record['corpus_fingerprint'])}; "
        + ", ".join(f"{md(name)} {md(number)}" for name, number in record["versions"].items())
        + f". All figures are in [{code(FILE_NAME)}]({FILE_NAME}).",
    ]
    return "\n\n".join(parts) + "\n"


def _tier(name: str, entry: Mapping, rated: bool) -> list[str]:
    found = entry["summary"]
    floor = found["ece_noise_floor"]
    cells = [
        code(name),
        f"{sum(entry['n'].values()):,}",
        _score(found["auroc"]),
        _percent(found["balanced_accuracy"]),
        _score(found["ece"]),
        "–" if floor["value"] is None else f"{floor['value']:.3f}, up to {floor['high']:.3f}",
        _percent(entry["false_positives"]),
    ]
    if not rated:
        return cells
    verdicts = entry.get("verdicts")
    if not verdicts:
        return cells + ["–"] * 4
    shares = (verdicts["given"], verdicts["accuracy"], verdicts["wrong"][REAL], verdicts["wrong"][AI])
    return cells + [_percent(share) for share in shares]


def _row(figures: Mapping, name: str) -> tuple[list[str], str]:
    entries = [entry["by_generator"][name] for entry in figures.values()]
    cells = [
        f"{_bare(entry['auroc'], '{:.3f}')}, {_bare(entry['detected'], '{:.0%}').replace('%', ' %')}"
        for entry in entries
    ]
    known = [entry["auroc"]["value"] for entry in entries if entry["auroc"]["value"] is not None]
    return cells, f"{min(known):.3f}" if known else "–"


def _bare(figure: Mapping, pattern: str) -> str:
    return "–" if figure["value"] is None else pattern.format(figure["value"])


def _percent(figure: Mapping | None) -> str:
    if not figure or figure["value"] is None:
        return "–"
    text = f"{100 * figure['value']:.1f} %"
    return text if figure["low"] is None else f"{text} ({100 * figure['low']:.1f} – {100 * figure['high']:.1f})"


def _score(figure: Mapping | None) -> str:
    if not figure or figure["value"] is None:
        return "–"
    text = f"{figure['value']:.3f}"
    return text if figure["low"] is None else f"{text} ({figure['low']:.3f} – {figure['high']:.3f})"
