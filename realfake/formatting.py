"""Format text and numbers for Markdown: escaped names, tables, numbers in one format."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from urllib.parse import quote

from scipy.special import expit

MISSING = "–"


def md(text: object) -> str:
    """Escape text for Markdown, including tables."""
    text = " ".join(str(text).split())
    text = re.sub(r"([\\`*_\[\]|~])", r"\\\1", text)
    for mark, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("$", "&#36;")):
        text = text.replace(mark, entity)
    return text


def code(text: object) -> str:
    """Return text as inline code, also for tables."""
    text = " ".join(str(text).split()) or " "
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{ticks}{pad}{text}{pad}{ticks}".replace("|", "\\|")


def fence(text: str, language: str = "") -> str:
    """Return text as a code block that its content cannot close."""
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text.strip()}\n{ticks}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], words: bool = False) -> str:
    """Return a table of Markdown cells.

    Args:
        words: Align all columns left; by default, columns after the first are aligned right.
    """
    others = " :-- |" if words else " --: |"
    lines = ["| " + " | ".join(header) + " |", "|" + " :-- |" + others * (len(header) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def link(path: str) -> str:
    """Return a file's path as the target of a link."""
    return quote(path)


def slug(text: str) -> str:
    """Return the last part of a name or path, with ASCII letters, digits, `.`, `-` and `_` only."""
    last = str(text).rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^\w.-]+", "-", last, flags=re.ASCII).strip("-.") or "corpus"


def percent(value: float | None) -> str:
    """Return a share as `88.3 %`. Only 0 and 1 read as `0.0 %` and `100.0 %`."""
    if value is None:
        return MISSING
    if 0 < value < 0.0005:
        return "< 0.1 %"
    if 0.9995 <= value < 1:
        return "> 99.9 %"
    return f"{100 * value:.1f} %"


def number(value: float | None) -> str:
    """Return a score as `0.931`, with a fourth digit near 0 and 1."""
    if value is None:
        return MISSING
    return f"{value:.4f}" if 0.995 < value < 1 or 0 < value < 0.005 else f"{value:.3f}"


def share(figure: Mapping | None) -> str:
    """Return a proportion with its interval: `88.3 % (86.5 – 89.9)`."""
    return _with_interval(figure, percent, bare=False)


def score(figure: Mapping | None, bare: bool = False) -> str:
    """Return a number with its interval: `0.931 (0.917 – 0.944)`; `bare`: only the interval."""
    return _with_interval(figure, number, bare)


def _with_interval(figure: Mapping | None, write: Callable[[float | None], str], bare: bool) -> str:
    if not figure or figure.get("value") is None:
        return MISSING
    if figure.get("low") is None:
        return write(figure["value"])
    low, high = (write(figure[end]).removesuffix(" %") for end in ("low", "high"))
    return f"{low} – {high}" if bare else f"{write(figure['value'])} ({low} – {high})"


def probability(log_odds: float) -> str:
    """Return log-odds of ai as a probability."""
    p = float(expit(log_odds))
    return f"{p:.3f}" if 0.01 < p < 0.99 else f"{p:.4g}"


def duration(seconds: float) -> str:
    """Return a duration in seconds, minutes or hours."""
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def words(value: object) -> str:
    """Return nested settings as one line of text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {words(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        numbers = len(value) == 2 and all(isinstance(item, int | float) for item in value)
        return (" to " if numbers else ", ").join(words(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
