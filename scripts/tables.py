"""Write the tables of the READMEs from the stored measurements.

    python scripts/tables.py            # rewrite the tables
    python scripts/tables.py --check    # exit with status 1 if a table is outdated

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from benchmark import PARTS
from benchmarks.report import RESULTS
from benchmarks.report import tables as benchmark_tables

from realfake.evaluation.measure import interval_of
from realfake.evaluation.results import read_scores, scores_file
from realfake.evaluation.robustness import SLICES
from realfake.io import read_records
from realfake.statistics.metrics import auroc

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINTS = ROOT / "realfake" / "checkpoints"
DETECTORS = ("photos", "cifake")
DEGRADATIONS = {"crop_60": "60 % crop", "noise_5": "noise"}


def read(name: str, file: str) -> dict:
    """Return the record of the test split in a file of a bundled checkpoint; `{}` without one."""
    path = CHECKPOINTS / name / file
    return read_records(path).get("test", {})


def percent(figure: Mapping) -> str:
    """Format a share with its interval."""
    value, low, high = (100 * figure[key] for key in ("value", "low", "high"))
    return f"{value:.1f} % ({low:.1f} – {high:.1f})"


def decimal(figure: Mapping) -> str:
    """Format a figure between 0 and 1 with its interval."""
    return f"{figure['value']:.3f} ({figure['low']:.3f} – {figure['high']:.3f})"


def matched(name: str) -> dict[str, str]:
    """Return the AUROC on sources whose photographs and generated images show the same subjects."""
    scores = read_scores(scores_file(CHECKPOINTS / name, "test"))
    mine = np.isin(np.array(scores.get("sources") or [""], dtype=str), SLICES["matched subjects"])
    if not mine.any():
        return {}
    groups = np.array(scores["groups"])[mine]
    figure = interval_of(
        auroc,
        scores["log_odds"][mine],
        scores["is_ai"][mine],
        groups,
        {"seed": 0, "n_resamples": 1000},
    )
    return {"AUROC, subjects matched": f"{decimal(figure)}, n = {mine.sum()}"}


def column(name: str) -> dict[str, str]:
    """Return the figures of a bundled detector, by the name of the row."""
    record, robustness, formats = (
        read(name, f"{kind}.json") for kind in ("evaluation", "robustness", "formats")
    )
    figures = record["figures"]
    summary, verdicts, n = figures["summary"], figures["verdicts"], figures["n"]
    before = record["before_calibration"]["summary"]["ece"]["value"]
    rows = {
        "Test images": f"{n['real']:,} real, {n['ai']:,} ai",
        "AUROC": decimal(summary["auroc"]),
        **matched(name),
        "Accuracy": percent(summary["accuracy"]),
        "ECE (before calibration)": f"{summary['ece']['value']:.3f} ({before:.3f})",
        "Images with a verdict": percent(verdicts["verdict_rate"]),
        "Photographs with the verdict AI-generated": percent(verdicts["wrong"]["real"]),
        "AI-generated images with the verdict photograph": percent(verdicts["wrong"]["ai"]),
    }
    if robustness:
        worst = robustness["headline"]["worst_degradation"]
        name = DEGRADATIONS.get(worst["degradation"], worst["degradation"])
        rows["Balanced accuracy, worst of ten degradations"] = (
            f"{percent(worst['balanced_accuracy'])}, {name}"
        )
    if formats:
        rows["Verdicts kept as WebP, quality 80"] = percent(formats["formats"]["webp_80"]["kept"])
    generators = figures.get("by_generator") or {}
    if len(generators) > 1:
        weakest = min(generators, key=lambda key: generators[key]["auroc"]["value"])
        rows["Weakest generator, AUROC"] = f"{weakest}: {decimal(generators[weakest]['auroc'])}"
    return rows


def detectors_table() -> str:
    """Return the results of the bundled detectors as a Markdown table."""
    columns = {name: column(name) for name in DETECTORS}
    names = list(dict.fromkeys(row for rows in columns.values() for row in rows))
    links = [f"[{name}](realfake/checkpoints/{name}/README.md)" for name in columns]
    lines = [
        f"| Test split, 95 % intervals | {' | '.join(links)} |",
        "| :-- |" + " --: |" * len(links),
    ]
    for name in names:
        cells = (rows.get(name, "–") for rows in columns.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def benchmark(name: str) -> str:
    """Return a table of the last measurements of speed."""
    return benchmark_tables(json.loads(RESULTS.read_text(encoding="utf-8")), PARTS)[name]


SPEED = ROOT / "scripts" / "benchmarks" / "README.md"
TABLES: dict[str, tuple[Path, Callable[[], str]]] = {
    "detectors": (ROOT / "README.md", detectors_table),
    **{name: (SPEED, partial(benchmark, name)) for name in ("speed", "misses", "memory", "cost")},
}


def replaced(text: str, name: str, table: str) -> str:
    """Return a text with a new table between the markers of `name`.

    Raises:
        ValueError: The text has no such markers, or more than one pair.
    """
    start, end = f"<!-- table: {name} -->\n", "<!-- end of table -->"
    pattern = re.escape(start) + ".*?" + re.escape(end)
    text, count = re.subn(pattern, lambda _: f"{start}{table}\n{end}", text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"There are {count} tables named {name!r}; there must be one.")
    return text


def main(arguments: list[str] | None = None) -> int:
    """Rewrite or check the tables; return 1 if a checked table is outdated."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="only report outdated tables")
    options = parser.parse_args(arguments)
    outdated = []
    for name, (path, make) in TABLES.items():
        text = path.read_text(encoding="utf-8")
        new = replaced(text, name, make())
        if new != text:
            outdated.append(f"{path.relative_to(ROOT)}, {name}")
            if not options.check:
                path.write_text(new, encoding="utf-8")
    for place in outdated:
        print(f"{place}: {'outdated' if options.check else 'updated'}")
    return 1 if options.check and outdated else 0


if __name__ == "__main__":
    sys.exit(main())
