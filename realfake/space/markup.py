"""HTML by hand: escaping, cards, icons, tables, pictures inside the page.

Below everything of the page that draws. Whatever comes from a checkpoint, a file or a request goes through [`escape`].
"""

import base64
import html
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PIL import Image

MAX_CHARACTERS = 300
# A space that keeps a number together stays.
_SPACES = re.compile(r"[^\S\u00a0]+")

_ICONS = {
    "real": '<path d="M4 8h3l1.5-2.5h7L17 8h3v11H4z"/><circle cx="12" cy="13" r="3.5"/>',
    "ai": '<path d="M12 3l1.9 5.6L19.5 10.5 13.9 12.4 12 18l-1.9-5.6L4.5 10.5l5.6-1.9z"/><path d="M19 16v5M16.5 18.5h5"/>',
    "inconclusive": '<circle cx="12" cy="12" r="8.5"/><path d="M9.5 9.6a2.6 2.6 0 1 1 3.6 2.4c-.8.4-1.1.9-1.1 1.8M12 16.6v.1"/>',
    "empty": '<rect x="3.5" y="5" width="17" height="14" rx="2"/><path d="M4 16.5l5-5 4 4 2.5-2.5 4.5 4.5"/><circle cx="15.5" cy="9" r="1.3"/>',
    "problem": '<path d="M12 4l9 16H3z"/><path d="M12 10v4.5M12 17.2v.1"/>',
    "holds": '<path d="M5 12.5l4.5 4.5L19 7.5"/>',
}


def escape(value: Any, limit: int = MAX_CHARACTERS) -> str:
    """Make a foreign value safe and short enough to stand in the page's HTML.

    Gradio fills its HTML component through templates, so `{` and `$` are escaped beside what `html.escape` covers.
    """
    shown = re.sub(r"(?<=\d) %", "\u00a0%", _SPACES.sub(" ", str(value)).strip())
    if len(shown) > limit:
        shown = shown[: limit - 1] + "…"
    return literal(shown)


def literal(text: str) -> str:
    """Escape text as it is, line breaks and all: for code."""
    escaped = html.escape(text)
    for character in "{}$`":
        escaped = escaped.replace(character, f"&#{ord(character)};")
    return escaped


def unbroken(words: str) -> str:
    """Escape, and keep words with a hyphen whole: a narrow window would break the one word that matters."""
    return re.sub(r"(\w+-\w+)", r'<span class="rf-keep">\1</span>', escape(words))


def icon(name: str, size: int = 28) -> str:
    return (
        f'<svg viewBox="0 0 24 24" width="{size}" height="{size}" fill="none" stroke="currentColor" stroke-width="1.8" '
        f'stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">{_ICONS[name]}</svg>'
    )


def card(title: str, body: str, kind: str = "", level: int = 2) -> str:
    """A card with a heading; `title` is escaped, `body` is HTML."""
    return f'<section class="rf-card {kind}"><h{level}>{escape(title)}</h{level}>{body}</section>'


def paragraph(words: str, kind: str = "") -> str:
    return (
        f'<p class="{kind}">{escape(words, 1000)}</p>' if kind else f"<p>{escape(words, 1000)}</p>"
    )


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    label: str,
    kind: str = "",
    row_heads: bool = True,
) -> str:
    """A table that scrolls sideways by itself where it is too wide. Cells are HTML already, `head` and `label` are not."""
    cells = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = []
    for row in rows:
        first, *others = row
        lead = f'<th scope="row">{first}</th>' if row_heads else f"<td>{first}</td>"
        body.append(f"<tr>{lead}{''.join(f'<td>{cell}</td>' for cell in others)}</tr>")
    # Focusable, so that who has no mouse can scroll it.
    return (
        f'<div class="rf-table {kind}" tabindex="0" role="region" aria-label="{escape(label)}"><table><thead><tr>{cells}</tr>'
        f"</thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def picture(image: Image.Image, alt: str, side: int, kind: str = "", quality: int = 80) -> str:
    """An image inside the page, at most `side` pixels a side."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<img class="{kind}" src="data:image/jpeg;base64,{data}" alt="{escape(alt)}" width="{small.width}" '
        f'height="{small.height}">'
    )


def dig(value: Any, *keys: str) -> Any:
    """Follow keys into foreign JSON of any shape; `None` where they lead nowhere."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def number(value: Any) -> float | None:
    """A finite number out of foreign JSON, or `None`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)
