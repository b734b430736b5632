"""What the card says of files: whether the same picture in another file keeps its verdict.

From `formats.json`, which `scripts/evaluate_formats.py` writes beside the weights.
"""

from collections.abc import Mapping

from .facts import CardFacts
from .markdown import table
from .numbers import number, share

FILE_NAME = "formats.json"


def formats_section(facts: CardFacts) -> dict[str, str | None]:
    """The section's parts; `None` where nothing was measured with these weights."""
    record = facts.formats.get(facts.split)
    if record is None or record["checkpoint_sha256"] != facts.record.get("checkpoint_sha256"):
        return {"formats_note": None, "formats": None}
    note = (
        f"The {record['n']:,} {facts.split} images of {record['corpus']} saved in another way, with nothing changed that a person "
        "would see. Shares of those that got a verdict as they are."
    )
    return {"formats_note": note, "formats": formats_table(record)}


def formats_table(record: Mapping) -> str:
    """The figures of a record as a table."""
    rows = [
        [
            record["described"][name],
            f"{figures['kept']['n']:,}",
            *(share(figures[key]) for key in ("kept", "withheld", "flipped")),
            f"{number(figures['moved']['median'])}, {number(figures['moved']['value'])}",
        ]
        for name, figures in record["formats"].items()
    ]
    header = [
        "Saved as",
        "n",
        "same verdict",
        "now inconclusive",
        "opposite verdict",
        "change of P(ai): median, largest",
    ]
    return table(header, rows)
