"""Writes the figures of a robustness run down: `robustness.json` for programs, `evaluation.md` for people.

The record has the conventions of `evaluation.json`: `{"value", "low", "high", "n"}` at 95 %, a figure that does not exist is
`null`, and with every figure stand the weights, the images and the command that it was made with. The card shows the same
record in short.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from realfake import io
from realfake.card import results as words
from realfake.evaluation.log import plain
from realfake.formatting import code, fence, md, number, percent, score, share, table
from realfake.labels import AI, REAL

FILE_NAME = "robustness.json"
REPORT_NAME = "evaluation.md"


def read_robustness(folder: str | os.PathLike) -> dict:
    """Read `robustness.json`; `{}` where there is none.

    Raises:
        ValueError: It is not what [`write_record`] writes.
    """
    return io.read_records(Path(folder) / FILE_NAME)


def write_record(folder: str | os.PathLike, split: str, record: Mapping) -> dict:
    """Write one split's record into `robustness.json`, beside those of other splits measured with the same weights.

    Args:
        record: `checkpoint_sha256` and what else [`render`] takes.

    Returns:
        The whole file, `{split: record}`.
    """
    return io.write_record(Path(folder) / FILE_NAME, split, plain(record), indent=1)


def render(record: Mapping, split: str, plots: Sequence[Mapping[str, str]] = ()) -> str:
    """Write a record as Markdown.

    Args:
        record: `model`, `checkpoint_sha256`, `corpus`, `corpus_fingerprint`, `command`, `date`, `versions`, `of` (images of
            the whole split), `described` (`{degradation: what it does}`), `degradations` (figures, see
            [`robustness_figures.grid_figures`]), `controls` (`{control: {degradation: figures}}`) and `controls_n`, the
            training images they were fitted on.
        split: Name of the split.
        plots: `{"file", "caption"}` for each.
    """
    figures = record["degradations"]
    parts = [
        f"# {md(record['model'])} on {md(record['corpus'])}, split {code(split)}",
        words.summary(record),
        words.note(record),
        "## By degradation",
        words.tiers_table(record),
        words.controls_note(record),
        words.described(record),
        "## Calibration by degradation",
        "ECE with both classes counted alike; beside it what a perfectly calibrated model would show by chance.",
        _calibration(figures),
    ]
    coverage = words.coverage_table(figures)
    if coverage:
        parts += ["## Wrong verdicts", words.coverage_note(figures), coverage]
    parts += _generators(record) + _slices(figures)
    parts += [
        f"![{md(plot['caption'])}]({plot['file']})\n\n{md(plot['caption'])}." for plot in plots
    ]
    parts += [
        "## How it was made",
        f"Intervals: {md(next(iter(figures.values()))['intervals'])}.",
        fence(record["command"], "bash"),
        f"{md(record['date'][:10])}; weights {code(record['checkpoint_sha256'])}; images {code(record['corpus_fingerprint'])}; "
        + ", ".join(f"{md(name)} {md(version)}" for name, version in record["versions"].items())
        + f". All figures are in [{code(FILE_NAME)}]({FILE_NAME}).",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _calibration(figures: Mapping) -> str:
    rows = []
    for name, entry in figures.items():
        found, floor = entry["summary"], entry["summary"]["ece_noise_floor"]
        by_chance = (
            "–"
            if floor["value"] is None
            else f"{number(floor['value'])}, up to {number(floor['high'])}"
        )
        rows.append(
            [code(name), score(found["ece"]), by_chance, score(found["nll"]), score(found["brier"])]
        )
    return table(["Degradation", "ECE", "by chance", "NLL", "Brier score"], rows)


def _generators(record: Mapping) -> list[str]:
    """AUROC and share found of each generator under each degradation, then the sources of the photographs."""
    figures = record["degradations"]
    first = next(iter(figures.values()))
    parts = []
    generators = sorted(first.get("by_generator") or {})
    if generators:
        rows = []
        for name in generators:
            entries = [entry["by_generator"][name] for entry in figures.values()]
            cells = [
                f"{number(entry['auroc']['value'])}, {percent(entry['detected']['value'])}"
                for entry in entries
            ]
            known = [
                entry["auroc"]["value"] for entry in entries if entry["auroc"]["value"] is not None
            ]
            lowest = number(min(known)) if known else "–"
            rows.append([md(name), f"{first['by_generator'][name]['n']:,}", *cells, lowest])
        parts += [
            "## By generator",
            f"Each against all {first['n'][REAL]:,} real images: AUROC, then the share found at a probability above one half.",
            table(["Generator", "n", *map(code, figures), "lowest AUROC"], rows),
        ]
        controls = [
            [
                md(name),
                *(
                    number(tiers[next(iter(tiers))]["by_generator"][name]["auroc"]["value"])
                    for tiers in record["controls"].values()
                    if name in (tiers[next(iter(tiers))].get("by_generator") or {})
                ),
            ]
            for name in generators
        ]
        if record["controls"] and all(len(row) == 1 + len(record["controls"]) for row in controls):
            parts += [
                "AUROC of the controls on the first of these degradations; below 0.5 means that what a control learnt of the "
                "training generators points the wrong way on this one:",
                table(["Generator", *map(code, record["controls"])], controls),
            ]
    sources = sorted(first.get("by_source") or {})
    if sources:
        rows = [
            [
                md(name),
                f"{first['by_source'][name]['n']:,}",
                *(share(entry["by_source"][name]["false_positives"]) for entry in figures.values()),
            ]
            for name in sources
        ]
        parts += [
            "## False positives by source of the photographs",
            "At a probability above one half.",
            table(["Source", "n", *map(code, figures)], rows),
        ]
    return parts


def _slices(figures: Mapping) -> list[str]:
    parts = []
    first = next(iter(figures.values()))
    for name, entry in (first.get("by_slice") or {}).items():
        counts = entry["n"]
        parts += [
            f"## Slice: {md(name)}",
            f"{counts[REAL]:,} real and {counts[AI]:,} generated images.",
        ]
        if not sum(counts.values()):
            continue
        rows = []
        for tier, figure in figures.items():
            cell = figure["by_slice"][name]
            rated = cell.get("verdicts")
            row = [code(tier), score(cell["auroc"])]
            row += [
                share(cell[key]) for key in ("balanced_accuracy", "detected", "false_positives")
            ]
            row += (
                [share(rated["wrong"][label]) for label in (REAL, AI)] + [share(rated["given"])]
                if rated
                else []
            )
            rows.append(row)
        header = [
            "Degradation",
            "AUROC",
            "balanced accuracy",
            "generated images found",
            "false positives",
        ]
        if entry.get("verdicts"):
            header += ["photographs called `ai`", "generated called `real`", "got a verdict"]
        parts.append(table(header, rows))
    return parts
