"""Write the report of a corpus audit: JSON, one self-contained HTML page, and plots.

Names of files, sources and generators come from the corpus, so the page escapes them.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from realfake.audit.audit import Audit
from realfake.audit.duplicates import Pair
from realfake.audit.leaks import ALONE, PROBES, TRANSFER
from realfake.corpus.rows import is_ai as is_ai_of
from realfake.corpus.splits import TEST, TRAIN
from realfake.corpus.write import saved
from realfake.imaging.decode import open_image
from realfake.io import write_atomically
from realfake.labels import AI, NAMES
from realfake.plotting import batch_sheet

TEMPLATES = Path(__file__).parent.parent / "templates"
_SHOWN_PAIRS = 24
_SHOWN_DROPPED = 20
_SHOWN_ORIGINS = 40
_THUMBNAIL = 112
_SHEET = 24  # images on a sample sheet
_PLACES = {
    TRAIN: "train, cross-validated",
    TEST: "test, cross-validated",
    TRANSFER: "fitted on train, measured on test",
}


def write_report(
    audit: Audit, output: str | Path, equalized: Audit | None = None, written: Mapping | None = None
) -> Path:
    """Write `audit.json`, `audit.html` and `plots/`; older files are overwritten.

    Args:
        equalized: *optional*. The audit of the equalized copy, shown next to the first.
        written: *optional*. Counts of [`~realfake.audit.equalize.write_equalized`].

    Raises:
        OSError: The folder cannot be written.
    """
    output = Path(output)
    (output / "plots").mkdir(parents=True, exist_ok=True)
    plots = _samples(audit, output / "plots")
    figures = audit.to_dict()
    if equalized is not None:
        figures["equalized"] = {"written": written, **equalized.to_dict()}
    text = json.dumps(figures, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(output / "audit.json", text.encode("utf-8", "backslashreplace"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    view = _view(audit, equalized, written)
    view["plots"] = [
        {"caption": caption, "url": _url(path.read_bytes(), "png")} for path, caption in plots
    ]
    page = environment.get_template("audit.html").render(view)
    write_atomically(output / "audit.html", page.encode("utf-8", "replace"))
    return output / "audit.html"


def summary(audit: Audit, equalized: Audit | None = None) -> str:
    """Return the findings as lines of text for the console."""
    lines = [_verdict(audit)]
    for name, description in PROBES.items():
        figures = "; ".join(
            f"{_figure(probe)} {_PLACES[where]}"
            for where, probe in audit.results["probes"][name].items()
        )
        if figures:
            lines.append(f"  AUC of {description}: {figures}")
    lines += [f"  {finding.severity}: {finding.message}" for finding in audit.findings]
    if equalized is not None:
        lines += ["", "The equalized copy:", summary(equalized)]
    return "\n".join(lines)


def _samples(audit: Audit, folder: Path) -> list[tuple[Path, str]]:
    """Write a sheet of random images of train for each label; return the files and captions."""
    rows = audit.splits[TRAIN]
    is_ai = is_ai_of(rows)
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


def _verdict(audit: Audit) -> str:
    source = audit.results["corpus"]["source"]
    if audit.leaks:
        number = len(audit.leaks)
        return (
            f"{source}: {number} leak{'s' if number > 1 else ''} found. Scores on this corpus may "
            "measure the leak instead of the detector."
        )
    if not audit.results["probes"]["container"]:
        return f"{source}: too few images to measure leaks."
    rows = sum(images["rows"] for images in audit.results["images"].values())
    return f"{source}: no leak found in {rows:,} images."


def _figure(probe: Mapping) -> str:
    return f"{probe['auc']:.2f} ({probe['low']:.2f} to {probe['high']:.2f})"


def _cell(probe: Mapping | None, max_auc: float) -> dict:
    if not probe:
        return {"text": "not measured", "over": False}
    return {"text": _figure(probe), "over": probe["low"] > max_auc}


def _view(audit: Audit, equalized: Audit | None, written: Mapping | None) -> dict:
    """Return the content of the page, as text and numbers."""
    results = audit.results
    max_auc = results["settings"]["max_auc"]
    audits = [audit] if equalized is None else [audit, equalized]
    probes = []
    for name, description in PROBES.items():
        for where, place in _PLACES.items():
            cells = [each.results["probes"][name].get(where) for each in audits]
            if any(cells):
                cells = [_cell(cell, max_auc) for cell in cells]
                probes.append({"what": description, "place": place, "cells": cells})
    return {
        "verdict": _verdict(audit),
        "leaks": bool(audit.leaks),
        "findings": audit.findings,
        "settings": results["settings"],
        "images": results["images"],
        "made": {split: _origin(results, split) for split in audit.splits},
        "probes": probes,
        "facts": _fact_rows(results, max_auc),
        "duplicate_rows": _duplicate_rows(audits),
        "n_pairs": len(audit.pairs),
        "pairs": [_pair_view(audit, pair) for pair in audit.pairs[:_SHOWN_PAIRS]],
        "origins": {
            column: {"rows": values[:_SHOWN_ORIGINS], "more": max(0, len(values) - _SHOWN_ORIGINS)}
            for column, values in results["origins"].items()
        },
        "splits": list(audit.splits),
        "dropped": results["corpus"]["dropped"][:_SHOWN_DROPPED],
        "n_dropped": len(results["corpus"]["dropped"]),
        "equalized": equalized
        and {
            "verdict": _verdict(equalized),
            "findings": equalized.findings,
            "written": written or {},
        },
    }


def _origin(results: Mapping, split: str) -> str:
    counts = results["images"][split]
    origin = results["corpus"]["origins"].get(split, "")
    if counts["rows"] == counts["available"]:
        return origin
    return f"{origin}; {counts['rows']:,} of {counts['available']:,} examined"


def _fact_rows(results: Mapping, max_auc: float) -> list[dict]:
    """Return each fact alone, the highest AUC first, with its typical values in train."""
    measured, typical = results["probes"]["facts"], results["facts"][TRAIN]

    def highest(name: str) -> float:
        return max((alone[name]["auc"] for alone in measured.values()), default=0.5)

    return [
        {
            "name": name,
            "cells": [
                _cell(measured[split][name] if split in measured else None, max_auc)
                for split in (TRAIN, TEST)
            ],
            **typical[name],
        }
        for name in sorted(ALONE, key=highest, reverse=True)
    ]


def _duplicate_rows(audits: Sequence[Audit]) -> list[dict]:
    return [
        {
            "what": what,
            "where": key.replace("_", " ") if key != "pairs" else "in total",
            "cells": [each.results["duplicates"][kind][key] for each in audits],
        }
        for kind, what in (("same_file", "the same file"), ("similar", "similar pictures"))
        for key in ("pairs", "across_splits", "across_labels")
    ]


def _pair_view(audit: Audit, pair: Pair) -> dict:
    ends = []
    for (split, row), label in zip((pair.first, pair.second), pair.labels, strict=True):
        entry = audit.splits[split][row]
        ends.append(
            {
                "where": f"{split}, row {row}",
                "label": label,
                "path": entry["image"]["path"] or "",
                "origin": entry.get("generator" if label == AI else "source") or "",
                "image": _thumbnail_url(entry["image"]),
            }
        )
    how = "same file" if pair.same_file else f"correlation {pair.correlation:.3f}"
    return {"ends": ends, "how": how + (", one group" if pair.same_group else "")}


def _thumbnail_url(image: Mapping) -> str:
    pixels = open_image(image)
    pixels.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
    return _url(saved(pixels, "JPEG", quality=80), "jpeg")


def _url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
