"""A report on one image, from its record: JSON for programs, and one HTML file for people.

The JSON has the form of `realfake.answer`. The pictures are inside the HTML file.
"""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

from PIL import Image

from realfake.answer import compose
from realfake.space.handlers import MAP_SIDE, Handlers, Map, Record, at_prior
from realfake.space.render import jpeg, render
from realfake.space.text import Words
from realfake.space.tidying import new_folder


def as_dict(handlers: Handlers, record: Record, drawn: Map | None, prior_ai: float) -> dict:
    """Return the report as plain values: the answer, the file, the map and the date."""
    stable = record.stability
    if stable is not None:
        stable = replace(
            stable, variants=[(name, at_prior(each, prior_ai)) for name, each in stable.variants]
        )
    answer = compose(
        handlers.detector,
        at_prior(record.prediction, prior_ai),
        None,
        None,
        stability=stable or False,
        provenance=record.provenance or False,
    )
    evidence = drawn and drawn.evidence
    return answer | {
        "sha256": record.sha256,
        "file": record.name,
        "width": record.size[0],
        "height": record.size[1],
        "date": record.date.isoformat(timespec="seconds"),
        "map": drawn
        and {
            "method": drawn.method,
            "target": drawn.target,
            "regions": [
                {"box": [round(edge, 4) for edge in box], "share": share}
                for box, share in drawn.regions
            ],
            "evidence": evidence and evidence.to_dict(),
        },
    }


def write_report(
    kind: str,
    handlers: Handlers,
    record: Record,
    drawn: Map | None,
    prior_ai: float,
    opacity: float,
    words: Words,
) -> str:
    """Write a report to a file, and return the file's path.

    Args:
        kind: `"html"` or `"json"`.
        handlers: The detector and its test results.
        record: The answer for the image.
        drawn: The map, or `None` if it could not be drawn.
        prior_ai: The visitor's prior, 0 to 1.
        opacity: Opacity of the map's colours, 0 to 1.
        words: The language of the HTML file.
    """
    if kind == "json":
        report = as_dict(handlers, record, drawn, prior_ai)
        text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
    else:
        text = _html(handlers, record, drawn, prior_ai, opacity, words)
    stem = re.sub(r"[^\w-]+", "-", Path(record.name).stem)[:60].strip("-") or "image"
    path = new_folder() / f"{stem}-realfake.{kind}"
    path.write_text(text + "\n", encoding="utf-8")
    return str(path)


def _html(
    handlers: Handlers,
    record: Record,
    drawn: Map | None,
    prior_ai: float,
    opacity: float,
    words: Words,
) -> str:
    prediction = at_prior(record.prediction, prior_ai)
    stable = record.stability
    detector = handlers.detector
    facts = [
        (words("report.file"), record.name),
        (words("report.hash"), record.sha256),
        (words("report.size"), f"{record.size[0]} × {record.size[1]}"),
        (words("report.model"), detector.name),
        (words("about.revision"), detector.revision or words("report.nothing")),
        (words("report.date"), record.date.strftime("%Y-%m-%d %H:%M:%S UTC")),
    ]
    return render(
        "report",
        "report",
        words,
        record=record,
        prediction=prediction,
        variants=stable and [(name, at_prior(each, prior_ai)) for name, each in stable.variants],
        map=drawn,
        map_picture=drawn and blended(drawn, opacity),
        why=words.reason(prediction),
        rate=words.error_rate(prediction.verdict, handlers.evaluation),
        calibrated=handlers.calibrated,
        facts=facts,
        title=f"{words('report.heading')}: {record.name}",
    )


def blended(drawn: Map, opacity: float) -> bytes:
    """Return a map at an opacity, 0 to 1, as JPEG."""
    plain, coloured = (Image.open(io.BytesIO(data)) for data in (drawn.plain, drawn.coloured))
    return jpeg(Image.blend(plain, coloured, opacity), MAP_SIDE)
