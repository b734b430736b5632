"""HTML from the Jinja2 templates of `templates/`: escaping, and pictures inside the page.

A template is a file of macros, one for each piece of a tab. All values are escaped.
"""

import base64
import html
import io
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from realfake.space.text import Words

TEMPLATES = Path(__file__).parent / "templates"
MAX_CHARACTERS = 1000
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
# White space, except the one that keeps a number and its unit together.
_SPACES = re.compile(r"[^\S\u00a0]+")


def render(template: str, macro: str, words: Words, **values: Any) -> Markup:
    """Render one macro of a template.

    Args:
        template: The file's name in `templates/`, without its ending.
        macro: The macro's name.
        words: The language; its name in the template is `t`.
        values: The macro's arguments.
    """
    module = _module(template, words)
    return Markup(str(getattr(module, macro)(**values)).strip())


@cache
def _module(template: str, words: Words) -> Any:
    return _environment().get_template(f"{template}.html").make_module({"t": words})


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else escape(value),
    )
    environment.filters |= {
        "data_uri": data_uri,
        "literal": literal,
        "short": lambda value, limit=300: escape(value, limit),
        "unbroken": unbroken,
    }
    environment.tests["hub_id"] = is_hub_id
    return environment


def escape(value: Any, limit: int = MAX_CHARACTERS) -> Markup:
    """Escape a value for HTML, join its white space and cut it at `limit` characters."""
    shown = re.sub(r"(?<=\d) %", "\u00a0%", _SPACES.sub(" ", str(value)).strip(" "))
    if len(shown) > limit:
        shown = shown[: limit - 1] + "…"
    return literal(shown)


def literal(text: str) -> Markup:
    """Escape text for HTML and keep its white space.

    `gr.HTML` fills its value through templates, so their characters are escaped as well.
    """
    escaped = html.escape(text)
    for character in "{}$`":
        escaped = escaped.replace(character, f"&#{ord(character)};")
    return Markup(escaped)


def unbroken(text: str) -> Markup:
    """Escape text, and keep words with a hyphen on one line."""
    return Markup(re.sub(r"(\w+-\w+)", r'<span class="rf-keep">\1</span>', str(escape(text))))


def is_hub_id(name: str) -> bool:
    """Tell whether a name has the form of a Hub id, so that a link to it cannot lead elsewhere."""
    return _HUB_ID.fullmatch(name) is not None and ".." not in name and "--" not in name


def jpeg(image: Image.Image, side: int, quality: int = 85) -> bytes:
    """Encode an image as JPEG, with at most `side` pixels on its longer side."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def data_uri(data: bytes) -> Markup:
    """Return the address of a JPEG that is part of the page."""
    return Markup("data:image/jpeg;base64," + base64.b64encode(data).decode())


def error_line(error: Exception, path: str) -> str:
    """Return an error's first line, with the file's name in place of its path."""
    message = str(error).replace(path, Path(path).name).strip()
    return message.splitlines()[0] if message else type(error).__name__
