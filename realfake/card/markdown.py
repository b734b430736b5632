"""Other people's words as Markdown: names of generators, sources and corpora cannot break out of their place."""

import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote


def md(text) -> str:
    """Escape text for Markdown, tables included."""
    text = " ".join(str(text).split())
    text = re.sub(r"([\\`*_\[\]|~])", r"\\\1", text)
    for mark, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("$", "&#36;")):
        text = text.replace(mark, entity)
    return text


def code(text) -> str:
    """Text as inline code, for tables too."""
    text = " ".join(str(text).split()) or " "
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{ticks}{pad}{text}{pad}{ticks}".replace("|", "\\|")


def fence(text: str, language: str = "") -> str:
    """Text as a block of code, whatever it holds."""
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text.strip()}\n{ticks}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], words: bool = False) -> str:
    """Make a table of cells that are Markdown already; after the first column come numbers, or with `words` text."""
    others = " :-- |" if words else " --: |"
    lines = ["| " + " | ".join(header) + " |", "|" + " :-- |" + others * (len(header) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def link(path: str) -> str:
    """A file's path as the target of a link."""
    return quote(path)


def slug(text: str) -> str:
    """The last part of a name or path with nothing in it but letters, digits, dots, hyphens and underscores."""
    last = str(text).rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^\w.-]+", "-", last, flags=re.ASCII).strip("-.") or "corpus"
