"""Write a corpus audit down: audit.json for machines, audit.md and a self-contained audit.html for people, and the plots.

Takes what [`~realfake.audit.audit.audit`] returns. Names of files, sources and generators come from whoever made the corpus:
nothing of them reaches the pages unescaped.
"""

import base64
import json
import os
import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from realfake.audit.probes import ALONE, PROBES
from realfake.audit.result import LEAK, Audit, Pair
from realfake.corpus.splits import TEST, TRAIN
from realfake.imaging.decode import open_image
from realfake.io import write_atomically
from realfake.labels import AI, NAMES, REAL
from realfake.plotting import COLOURS, batch_sheet, new_figure, plain_axes, save

TEMPLATES = Path(__file__).parent.parent / "templates"
_SHOWN_PAIRS = 24
_SHOWN_DROPPED = 20
_SHOWN_ORIGINS = 40
_SHEET = 24
_THUMBNAIL = 112
_PLACES = {
    TRAIN: "train, cross-validated",
    TEST: "test, cross-validated",
    "train to test": "learnt on train, judged on test",
}


def write_report(
    audit: Audit, output: str | Path, equalized: Audit | None = None, written: Mapping | None = None
) -> Path:
    """Write `audit.json`, `audit.md`, `audit.html` and `plots/` into a folder; older ones are overwritten.

    Args:
        audit: What was found.
        output: The folder.
        equalized: *optional*. The audit of the equalized copy, shown beside it.
        written: *optional*. What [`~realfake.audit.equalize.write_equalized`] returned.

    Returns:
        The path of `audit.html`.

    Raises:
        OSError: The folder cannot be written.
    """
    output = Path(output)
    (output / "plots").mkdir(parents=True, exist_ok=True)
    plots = _plots(audit, output / "plots")
    figures = audit.to_dict()
    if equalized is not None:
        figures["equalized"] = {"written": written, **equalized.to_dict()}
    text = json.dumps(figures, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(output / "audit.json", text.encode("utf-8", "backslashreplace"))
    view = _view(audit, equalized, written)
    for name, autoescape in (("audit.md", False), ("audit.html", True)):
        # Markdown is escaped by a filter of its own, which the template names.
        environment = jinja2.Environment(  # nosec B701
            loader=jinja2.FileSystemLoader(TEMPLATES),
            autoescape=autoescape,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
            keep_trailing_newline=True,
        )
        environment.filters["md"] = markdown
        if autoescape:
            view["pairs"] = [
                {**_pair_text(audit, pair), "images": _pair_images(audit, pair)}
                for pair in audit.pairs[:_SHOWN_PAIRS]
            ]
            view["plots"] = [
                {"caption": caption, "url": _url(path.read_bytes(), "png")}
                for path, caption in plots
            ]
        else:
            view["pairs"] = [_pair_text(audit, pair) for pair in audit.pairs[:_SHOWN_PAIRS]]
            view["plots"] = [
                {"caption": caption, "url": f"plots/{path.name}"} for path, caption in plots
            ]
        page = environment.get_template(name).render(view)
        write_atomically(output / name, page.encode("utf-8", "replace"))
    return output / "audit.html"


def summary(audit: Audit, equalized: Audit | None = None) -> str:
    """The findings as lines of text for the console."""
    lines = [_verdict(audit)]
    for name, what in PROBES.items():
        listed = "; ".join(
            f"{_probe_text(figures)} {_PLACES[where]}"
            for where, figures in _probes(audit, name).items()
        )
        if listed:
            lines.append(f"  AUC of {what}: {listed}")
    lines += [f"  {finding.severity}: {finding.message}" for finding in audit.findings]
    if equalized is not None:
        lines += ["", "The equalized copy:", summary(equalized)]
    return "\n".join(lines)


def markdown(value) -> str:
    """Text from elsewhere as one line of Markdown that starts no markup, link, table cell or HTML."""
    text = " ".join(str(value).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|#!~$]|(?<!\w)_|_(?!\w))", r"\\\1", text)


def _verdict(audit: Audit) -> str:
    source = audit.results["corpus"]["source"]
    if audit.leaks:
        number = len(audit.leaks)
        return f"{source}: {number} leak{'s' if number > 1 else ''} found. Scores on this corpus may measure the leak, not a detector."
    if not audit.results["probes"]["container"]:
        return f"{source}: too few images to tell whether the label leaks."
    rows = sum(images["rows"] for images in audit.results["images"].values())
    return f"{source}: no leak found in the {rows:,} images looked at."


def _probes(audit: Audit, name: str) -> dict:
    return audit.results["probes"][name]


def _probe_text(figures: Mapping) -> str:
    return f"{figures['auc']:.2f} ({figures['low']:.2f} to {figures['high']:.2f})"


def _view(audit: Audit, equalized: Audit | None, written: Mapping | None) -> dict:
    """What the templates show, as text and numbers."""
    max_auc = audit.results["settings"]["max_auc"]
    columns = [audit] if equalized is None else [audit, equalized]
    rows = []
    for name, what in PROBES.items():
        for where, place in _PLACES.items():
            cells = [_probes(each, name).get(where) for each in columns]
            if any(cells):
                rows.append(
                    {
                        "what": what,
                        "place": place,
                        "cells": [
                            {
                                "text": _probe_text(cell) if cell else "not measured",
                                "over": bool(cell and cell["low"] > max_auc),
                            }
                            for cell in cells
                        ],
                    }
                )
    return {
        "verdict": _verdict(audit),
        "leaks": bool(audit.leaks),
        "findings": audit.findings,
        "settings": audit.results["settings"],
        "corpus": audit.results["corpus"],
        "images": audit.results["images"],
        "made": {split: _made(audit, split) for split in audit.splits},
        "probes": rows,
        "facts": _fact_rows(audit, max_auc),
        "duplicates": audit.results["duplicates"],
        "duplicate_rows": _duplicate_rows(columns),
        "n_pairs": len(audit.pairs),
        "origins": {
            column: {"rows": values[:_SHOWN_ORIGINS], "more": max(0, len(values) - _SHOWN_ORIGINS)}
            for column, values in audit.results["origins"].items()
        },
        "splits": list(audit.splits),
        "dropped": audit.results["corpus"]["dropped"][:_SHOWN_DROPPED],
        "n_dropped": len(audit.results["corpus"]["dropped"]),
        "equalized": None
        if equalized is None
        else {
            "verdict": _verdict(equalized),
            "findings": equalized.findings,
            "written": written or {},
        },
        "names": NAMES,
        "real": REAL,
        "ai": AI,
        "leak": LEAK,
    }


def _made(audit: Audit, split: str) -> str:
    counts = audit.results["images"][split]
    part = (
        ""
        if counts["rows"] == counts["available"]
        else f"; {counts['rows']:,} of {counts['available']:,} looked at"
    )
    return audit.results["corpus"]["origins"].get(split, "") + part


def _fact_rows(audit: Audit, max_auc: float) -> list[dict]:
    """Each fact alone within train and test, the most telling first, and what is typical in train."""
    measured = _probes(audit, "facts")
    described = audit.results["facts"][TRAIN]

    def worst(name: str) -> float:
        return max((alone[name]["auc"] for alone in measured.values()), default=0.5)

    rows = []
    for name in sorted(ALONE, key=worst, reverse=True):
        cells = [measured[split][name] if split in measured else None for split in (TRAIN, TEST)]
        cells = [
            {
                "text": _probe_text(cell) if cell else "not measured",
                "over": bool(cell and cell["low"] > max_auc),
            }
            for cell in cells
        ]
        rows.append({"name": name, "cells": cells, **described[name]})
    return rows


def _duplicate_rows(columns: list[Audit]) -> list[dict]:
    rows = []
    for kind, what in (("same_file", "the same file"), ("similar", "similar pictures")):
        for key, where in (
            ("pairs", "in all"),
            ("across_splits", "across splits"),
            ("across_labels", "across labels"),
        ):
            cells = [each.results["duplicates"][kind][key] for each in columns]
            rows.append({"what": what, "where": where, "cells": cells})
    return rows


def _pair_text(audit: Audit, pair: Pair) -> dict:
    ends = []
    for (split, row), label in zip((pair.first, pair.second), pair.labels):
        entry = audit.splits[split][row]
        origin = entry.get("generator") if label == AI else entry.get("source")
        ends.append(
            {
                "where": f"{split}, row {row}",
                "label": label,
                "path": entry["image"]["path"] or "",
                "origin": origin or "",
            }
        )
    how = "same file" if pair.same_file else f"correlation {pair.correlation:.3f}"
    return {"ends": ends, "how": how + (", one group" if pair.same_group else "")}


def _pair_images(audit: Audit, pair: Pair) -> list[str]:
    return [
        _thumbnail_url(audit.splits[split][row]["image"])
        for split, row in (pair.first, pair.second)
    ]


def _thumbnail_url(image: Mapping) -> str:
    pixels = open_image(image)
    pixels.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    pixels.save(buffer, "JPEG", quality=80)
    return _url(buffer.getvalue(), "jpeg")


def _url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _plots(audit: Audit, folder: Path) -> list[tuple[Path, str]]:
    """Write the figures of train and a sheet of each label."""
    facts, is_ai = audit.facts[TRAIN], audit.labels[TRAIN]
    width, height = [fact.width for fact in facts], [fact.height for fact in facts]
    rows, rng = audit.splits[TRAIN], np.random.default_rng(audit.results["settings"]["seed"])
    written = []
    for label in NAMES:
        chosen = np.flatnonzero(is_ai if label == AI else ~is_ai)
        chosen = np.sort(rng.permutation(chosen)[:_SHEET])
        entries = [rows[int(index)] for index in chosen]
        column = "generator" if label == AI and "generator" in rows.column_names else "source"
        captions = [entry.get(column) or "" for entry in entries]
        images = [open_image(entry["image"]) for entry in entries]
        path = batch_sheet(
            folder / f"sample-{label}.png", images, [label] * len(images), captions, 8, 104
        )
        written.append((path, f"A random sample of the {label} images of train"))
    drawn = (
        (sizes(folder / "sizes.png", width, height, is_ai), "Sizes of the images of train"),
        (
            colours(folder / "colours.png", audit.pixels[TRAIN]["colour"], is_ai),
            "Mean colours of the images of train",
        ),
        (
            spectra(folder / "spectra.png", audit.pixels[TRAIN]["spectrum"], is_ai),
            "Mean radial power spectra of train",
        ),
    )
    return [*written, *drawn]


_STYLES = {label: "--" if label == AI else "-" for label in NAMES}


def sizes(path: str | os.PathLike, width, height, is_ai) -> Path:
    """Draw how widths, heights and aspect ratios of both labels are distributed.

    Args:
        path: The PNG to write.
        width, height: (n,), of the stored pictures, in pixels.
        is_ai: (n,) bool.
    """
    width, height, is_ai = (
        np.asarray(width, float),
        np.asarray(height, float),
        np.asarray(is_ai, bool),
    )
    figure = new_figure(10.5, 3.2)
    panels = (
        ("width (pixels)", width),
        ("height (pixels)", height),
        ("width / height", width / height),
    )
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
            frequency,
            mine.mean(0),
            color=COLOURS[label],
            linestyle=_STYLES[label],
            linewidth=2,
            label=f"{label} (n = {len(mine):,}; band: middle half)",
        )
    axes.set_xlabel("spatial frequency (cycles per pixel)")
    axes.set_ylabel("log10 of the luminance's power")
    axes.legend(fontsize=9, frameon=False)
    return save(figure, path)


def _histogram(
    axes, values: np.ndarray, is_ai: np.ndarray, span: Sequence[float] | None = None
) -> None:
    low, high = span or np.quantile(values, [0, 0.99])
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, 33)
    for label in NAMES:
        mine = values[is_ai if label == AI else ~is_ai]
        if len(mine):
            axes.hist(
                mine.clip(low, high),
                edges,
                weights=np.full(len(mine), 100 / len(mine)),
                histtype="stepfilled",
                facecolor=COLOURS[label] + "40",
                edgecolor=COLOURS[label],
                linestyle=_STYLES[label],
                linewidth=1.4,
                label=f"{label} (n = {len(mine):,})",
            )
