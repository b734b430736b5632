"""A report to keep: everything the page said of an image, as JSON for programs and as a PDF for people.

Made from what the page keeps of an answer (`handlers.Checked`); the JSON has the form of `realfake.answer`, as every other way in.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

from realfake.answer import compose
from realfake.detector import Detector
from realfake.space import text
from realfake.space.about import is_calibrated
from realfake.space.handlers import REGIONS, Checked, at_prior
from realfake.space.sheet import Sheet
from realfake.space.text import Words
from realfake.space.tidying import new_folder

_COLOURS = {"ai": "#b4480f", "real": "#175f9c", "inconclusive": "#475569"}


def as_dict(detector: Detector, checked: Checked, prior_ai: float) -> dict:
    """The report as plain values: the answer, and beside it the file, the map and the date."""
    stable = checked.stability
    if stable is not None:
        stable = replace(
            stable, variants=[(name, at_prior(each, prior_ai)) for name, each in stable.variants]
        )
    prediction = at_prior(checked.prediction, prior_ai)
    said = compose(
        detector,
        prediction,
        checked.image,
        None,
        stability=stable or False,
        provenance=checked.provenance or False,
    )
    said |= {
        "sha256": checked.sha256,
        "file": checked.name,
        "width": checked.size[0],
        "height": checked.size[1],
        "date": checked.date.isoformat(timespec="seconds"),
        "map": None,
    }
    explanation = checked.explanation
    if explanation is not None:
        evidence = explanation.evidence
        said["map"] = {
            "method": explanation.method,
            "target": explanation.target,
            # The map is kept smaller than the image: boxes in shares of its sides hold for both.
            "regions": [
                {"box": _relative(region.box, explanation.image.size), "share": region.share}
                for region in explanation.regions(REGIONS)
            ],
            "evidence": None if evidence is None else evidence.to_dict(),
        }
    return said


def write_json(detector: Detector, checked: Checked, prior_ai: float, words: Words) -> str:
    """Write the report as JSON; returns the file's path."""
    said = as_dict(detector, checked, prior_ai)
    path = _file(checked, "json")
    path.write_text(
        json.dumps(said, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )
    return str(path)


def write_pdf(detector: Detector, checked: Checked, prior_ai: float, words: Words) -> str:
    """Write the report as a PDF of A4 pages, in the reader's language; returns the file's path."""
    path = _file(checked, "pdf")
    prediction = at_prior(checked.prediction, prior_ai)
    with Sheet(path, title=f"{words('report.heading')}: {checked.name}") as sheet:
        sheet.write(words("report.heading"), 9, colour="#475569")
        sheet.write(
            words(f"verdict.{prediction.verdict}"),
            22,
            bold=True,
            colour=_COLOURS[prediction.verdict],
        )
        named = text.named_label(prediction)
        lead = words(f"lead.{named}", percent=words.percent(prediction.probabilities[named]))
        sheet.write(lead, 12, bold=True)
        if why := text.reason(words, prediction):
            sheet.write(f"{words('why')}: {why}")
        sheet.write(text.meaning(words, prediction, is_calibrated(detector.facts)))
        sheet.space()
        _write_pictures(sheet, checked, words)
        _write_stability(sheet, checked, prior_ai, words)
        _write_provenance(sheet, checked, words)
        sheet.heading(words("report.facts"))
        sheet.rows(
            [
                (words("report.file"), checked.name),
                (words("report.hash"), checked.sha256),
                (words("report.size"), f"{checked.size[0]} × {checked.size[1]}"),
                (words("report.model"), detector.name),
                (words("about.revision"), detector.revision or words("report.nothing")),
                (
                    words("report.prior"),
                    words("report.prior_value", percent=words.percent(prior_ai)),
                ),
                (words("report.date"), checked.date.isoformat(sep=" ", timespec="seconds")),
            ]
        )
        sheet.space()
        sheet.write(words("report.caution"), colour="#475569")
    return str(path)


def _write_pictures(sheet: Sheet, checked: Checked, words: Words) -> None:
    explanation = checked.explanation
    pictures = [(words("report.image"), checked.image)]
    if explanation is not None:
        method = words.named("method", explanation.method)
        pictures.append((f"{words('report.map')}: {method}", explanation.overlay(regions=REGIONS)))
    sheet.pictures(pictures)
    if explanation is None:
        return
    if explanation.evidence is not None:
        sheet.write(text.evidence(words, explanation.evidence))
    regions = [
        words(
            "regions.one",
            place=text.place(words, region.box, explanation.image.size),
            share=words.percent(region.share),
        )
        for region in explanation.regions(REGIONS)
    ]
    sheet.write(
        f"{words('regions.title')}: {'; '.join(regions)}." if regions else words("regions.none")
    )
    sheet.write(words("map.note", target=words(f"label.{explanation.target}")), 8, colour="#475569")


def _write_stability(sheet: Sheet, checked: Checked, prior_ai: float, words: Words) -> None:
    sheet.heading(words("stability.title"))
    if checked.stability is None:
        sheet.write(words("report.nothing"))
        return
    sheet.write(words("stability.flips" if checked.stability.flips else "stability.holds"))
    rows = []
    for name, prediction in checked.stability.variants:
        moved = at_prior(prediction, prior_ai)
        verdict, percent = (
            words(f"verdict.{moved.verdict}"),
            words.percent(moved.probabilities["ai"]),
        )
        rows.append((words.named("variant", name), f"{verdict}; {words('label.ai')} {percent}"))
    sheet.rows(rows)


def _write_provenance(sheet: Sheet, checked: Checked, words: Words) -> None:
    sheet.heading(words("provenance.title"))
    found = checked.provenance
    if found is None:
        sheet.write(words("provenance.failed"))
        return
    absent = []
    for finding in found.findings:
        kind = words.named("provenance", finding.kind)
        if finding.state == "absent":
            absent.append(kind)
        else:
            sheet.write(f"{finding.title} ({kind}). {finding.detail}")
    if absent:
        key = "provenance.nothing" if len(absent) == len(found.findings) else "provenance.absent"
        sheet.write(words(key, kinds=", ".join(absent)))
    sheet.write(words("provenance.apart"), 8, colour="#475569")


def _relative(box, size: tuple[int, int]) -> list[float]:
    left, top, right, bottom = box
    return [
        round(edge / side, 4)
        for edge, side in zip((left, top, right, bottom), size * 2, strict=True)
    ]


def _file(checked: Checked, ending: str) -> Path:
    """A file in a folder of its own, so that it has a name that says what it is."""
    stem = re.sub(r"[^\w-]+", "-", Path(checked.name).stem)[:60].strip("-") or "image"
    return new_folder() / f"{stem}-realfake.{ending}"
