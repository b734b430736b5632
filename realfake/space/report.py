"""A report on one image, from its record: JSON for programs, and one HTML file for people.

The JSON has the form of `realfake.answer`. The pictures are inside the HTML file.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from realfake.answer import compose
from realfake.labels import AI, REAL
from realfake.space.handlers import Handlers, Record, at_prior
from realfake.space.maps import Map
from realfake.space.text import Words, dig, render
from realfake.space.uploads import new_folder
from realfake.statistics.verdicts import INCONCLUSIVE


def as_dict(handlers: Handlers, record: Record, drawn: Map | None, prior_ai: float) -> dict:
    """Return the report as plain values: the answer, the file, the maps and the date."""
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
        stability=stable,
        provenance=record.provenance or False,
    )
    statement = record.statement
    return answer | {
        "sha256": record.sha256,
        "file": record.name,
        "width": record.size[0],
        "height": record.size[1],
        "date": record.date.isoformat(timespec="seconds"),
        "statement": statement and statement.to_dict(),
        "measured": dig(handlers.evaluation, "test", "figures", "verdicts"),
        "map": drawn and _map(drawn),
    }


def _map(drawn: Map) -> dict[str, Any]:
    return {
        "method": drawn.method,
        "target": drawn.target,
        "regions": [
            {"box": [round(edge, 4) for edge in box], "share": share}
            for box, share in drawn.regions
        ],
        "evidence": drawn.evidence and drawn.evidence.to_dict(),
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
    """Write a report of a kind, `"html"` or `"json"`, to a file, and return its path.

    `drawn` is `None` if the detail could not be drawn. The visitor's prior and the opacity of the
    detail's colours are 0 to 1.
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
    detector, prediction = handlers.detector, record.prediction
    facts = [
        (words("report.file"), record.name),
        (words("report.hash"), record.sha256),
        (words("report.size"), f"{record.size[0]} × {record.size[1]}"),
        (words("report.model"), words.named("detector", detector.name)),
        (words("about.model"), detector.name),
        (words("about.revision"), detector.revision or words("report.nothing")),
        (words("report.date"), record.date.strftime("%Y-%m-%d %H:%M:%S UTC")),
    ]
    return render(
        "report",
        "report",
        words,
        record=record,
        prediction=prediction,
        moved=at_prior(prediction, prior_ai) if prior_ai != prediction.prior_ai else None,
        map=drawn,
        opacity=opacity,
        why=words.why(prediction, record.tiles),
        looked=words.looked(prediction),
        rates=handlers.rates(words, REAL, AI, INCONCLUSIVE),
        calibrated=handlers.calibrated,
        facts=facts,
        title=f"{words('report.heading')}: {record.name}",
    )
