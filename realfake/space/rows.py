"""The rows of many images: drawn as a table that can be sorted, written as CSV and JSON.

Below `batch`, which fills them.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from realfake.labels import AI, NAMES
from realfake.space.markup import escape, picture, unbroken
from realfake.space.text import Words
from realfake.space.tidying import new_folder

THUMBNAIL = 56
COLUMNS = (
    "file",
    "verdict",
    "reason",
    "label",
    *NAMES,
    "log_odds",
    "alpha",
    "ood",
    "model",
    "revision",
    "sha256",
    "error",
)
# What spreadsheets take for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Row:
    """An image that was judged, or why it could not be.

    Attributes:
        name: The file's name.
        answer: In the form of `realfake.answer`; `None` where there is none.
        thumbnail: An `<img>`.
        problem: Why there is no answer.
    """

    name: str
    answer: dict | None = None
    thumbnail: str = ""
    problem: str | None = None


def thumbnail(image: Image.Image) -> str:
    # The name stands beside it: to a screen reader the picture says nothing more.
    return picture(image, "", THUMBNAIL, quality=60)


def status(said: str, done: int | None = None, total: int = 0) -> str:
    """How far it is, in words and as a bar."""
    bar = (
        ""
        if done is None
        else f'<progress value="{done}" max="{max(total, 1)}" aria-hidden="true"></progress>'
    )
    return f'<div class="rf-status"><p>{escape(said)}</p>{bar}</div>'


def table(words: Words, rows: Sequence[Row]) -> str:
    """Draw the rows; a click on a column's name sorts by it ([`SORTING`])."""
    head = [f'<th scope="col"><span>{escape(words("batch.image"))}</span></th>']
    for column, kind in (("name", "text"), ("verdict", "text"), ("probability", "number")):
        title = words(f"batch.{column}")
        head.append(
            f'<th scope="col" aria-sort="none"><button type="button" data-kind="{kind}" '
            f'title="{escape(words("batch.sort", column=title))}">{escape(title)}</button></th>'
        )
    body = "".join(_drawn(words, row) for row in rows)
    return (
        f'<div class="rf-table rf-rows" tabindex="0" role="region" aria-label="{escape(words("batch.region"))}"><table><thead><tr>'
        f"{''.join(head)}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _drawn(words: Words, row: Row) -> str:
    name = f'<th scope="row" data-key="{escape(row.name.lower())}">{escape(row.name)}</th>'
    if row.answer is None:
        return (
            f'<tr class="rf-bad"><td></td>{name}<td data-key="~"><strong>{escape(words("batch.bad"))}</strong> '
            f'<span lang="en">{escape(row.problem)}</span></td><td data-key="-1">–</td></tr>'
        )
    verdict, share = row.answer["verdict"], row.answer["probabilities"][AI]
    why = row.answer["reason"]
    why = f' <span class="rf-small">({escape(words.named("short", why))})</span>' if why else ""
    return (
        f'<tr><td>{row.thumbnail}</td>{name}<td data-key="{verdict}"><span class="rf-said rf-said-{verdict}">'
        f'{unbroken(words(f"verdict.{verdict}"))}</span>{why}</td><td data-key="{share:.6f}">{escape(words.percent(share))}</td></tr>'
    )


def write(rows: Sequence[Row]) -> tuple[str, str]:
    """Write the rows as CSV and as JSON; returns both paths."""
    folder = new_folder()
    with open(folder / "realfake.csv", "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            found = row.answer or {}
            shares = found.get("probabilities", {})
            writer.writerow(
                {
                    **found,
                    **shares,
                    "file": _harmless(row.name),
                    "error": _harmless(row.problem or ""),
                }
            )
    entries = [{"file": row.name, **(row.answer or {"error": row.problem})} for row in rows]
    text = json.dumps(entries, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "realfake.json").write_text(text + "\n", encoding="utf-8")
    return str(folder / "realfake.csv"), str(folder / "realfake.json")


def _harmless(cell: str) -> str:
    """Names come from strangers, and a spreadsheet runs what looks like a formula."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


# JavaScript of the table's component: `element` stays while rows are added, and so does what it is sorted by.
SORTING = """
    let by = null;
    const sort = () => {
        const table = element.querySelector('table');
        if (!by || !table) return;
        const head = [...table.tHead.rows[0].cells];
        head.forEach((cell, i) => cell.hasAttribute('aria-sort') &&
            cell.setAttribute('aria-sort', i === by.column ? (by.down ? 'descending' : 'ascending') : 'none'));
        const key = row => row.cells[by.column].dataset.key;
        const compare = by.kind === 'number' ? (a, b) => key(a) - key(b) : (a, b) => key(a).localeCompare(key(b));
        const rows = [...table.tBodies[0].rows].sort(compare);
        if (by.down) rows.reverse();
        table.tBodies[0].append(...rows);
    };
    element.addEventListener('click', event => {
        const button = event.target.closest('button[data-kind]');
        if (!button) return;
        const column = button.closest('th').cellIndex;
        by = {column, kind: button.dataset.kind, down: by && by.column === column ? !by.down : button.dataset.kind === 'number'};
        sort();
    });
    watch('value', sort);
"""
