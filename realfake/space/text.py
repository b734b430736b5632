"""The page's words and HTML: the strings of `languages/`, numbers and sentences, and the templates.

The answer to a request is in the language of its `Accept-Language` header ([`Words.from_header`]).
What the page starts with is there in every language ([`Localised`]), and the browser picks one. A
template is a file of macros, one for each piece of a tab. All values are escaped.
"""

import base64
import html
import io
import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from babel import Locale
from babel.numbers import format_decimal, format_percent
from gradio.i18n import I18nData
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from realfake.labels import AI, REAL
from realfake.prediction import Prediction, Stability
from realfake.statistics.verdicts import INCONCLUSIVE

if TYPE_CHECKING:
    from realfake.attribution.faithfulness import Evidence
    from realfake.space.maps import Tile

_FOLDER = Path(__file__).parent
LANGUAGES: dict[str, dict[str, str]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((_FOLDER / "languages").glob("*.json"))
}
# Generators and sources of photographs as people know them; the same in every language.
NAMES: dict[str, str] = json.loads((_FOLDER / "names.json").read_text(encoding="utf-8"))
DEFAULT = "en"
# Browser language tags that get the strings of another language.
ALIASES = {"no": "nb", "nn": "nb"}
EXAMPLES = (
    "astronaut.jpg",
    "temple.jpg",
    "coffee-edited.jpg",
    "rocket-edited.jpg",
    "cat-edited.jpg",
)


class Words:
    """The strings and number formats of one language."""

    def __init__(self, language: str = DEFAULT):
        self.language = language
        self._strings = LANGUAGES[DEFAULT] | LANGUAGES[language]

    def __call__(self, key: str, **values: Any) -> str:
        """Return the string of a key, its placeholders filled in."""
        return self._strings[key].format(**values)

    @staticmethod
    def known(name: str) -> str:
        """Return a generator or a source as people know it, or the bare name."""
        return NAMES.get(name, name)

    def named(self, prefix: str, name: str) -> str:
        """Return the string `prefix.name`, or the bare name if there is none."""
        return self._strings.get(f"{prefix}.{name}", name)

    @staticmethod
    def from_header(header: str | None) -> "Words":
        """Return the words for an `Accept-Language` header: those of its first language.

        Weights are ignored, because the browser ignores them for the strings that it translates.
        """
        first = (header or "").split(",")[0].split(";")[0].strip().lower().split("-")[0]
        return words(ALIASES.get(first, first))

    def percent(self, probability: float) -> str:
        """Format a probability as a whole percentage, never as 0 % or 100 %."""
        if probability < 0.005:
            return self("number.least")
        if probability >= 0.995:
            return self("number.most")
        return self.rate(min(max(round(100 * probability), 1), 99) / 100, "0")

    def rate(self, share: float, digits: str = "0.#") -> str:
        """Format a measured share as a percentage with the digits of a CLDR pattern."""
        pattern = Locale(self.language).percent_formats[None].pattern.replace("#,##0", digits)
        return format_percent(share, format=pattern, locale=self.language)

    def number(self, n: float) -> str:
        """Format a whole number."""
        return format_decimal(round(n), locale=self.language)

    def decimal(self, value: float, digits: int = 2) -> str:
        """Format a number with `digits` decimals."""
        return format_decimal(value, format="#,##0." + "0" * digits, locale=self.language)

    def duration(self, seconds: float) -> str:
        """Format a duration to the second, or to the minute from 90 seconds on."""
        if seconds < 0.95:
            return self("time.moment")
        if seconds < 90:
            return self("time.seconds", n=round(seconds))
        return self("time.minutes", n=round(seconds / 60))

    def reason(self, prediction: Prediction) -> str | None:
        """Return why a prediction is inconclusive, or `None` if it is not."""
        if prediction.verdict != INCONCLUSIVE:
            return None
        code = prediction.reason or "between"
        if code == "between" and prediction.alpha is None:
            code = "no_thresholds"
        return self(f"reason.{code}")

    def why(self, prediction: Prediction, tiles: Sequence["Tile"]) -> str:
        """Return the reason for a verdict, or for its absence, in one sentence or two."""
        reason = self.reason(prediction)
        if reason is None and len(tiles) < 2:
            return self(f"why.one.{prediction.verdict}")
        if reason is None:
            alike = sum(tile.label == prediction.verdict for tile in tiles)
            kind = "all" if alike == len(tiles) else "many"
            return self(f"why.{kind}.{prediction.verdict}", n=alike, total=len(tiles))
        places = [self.place(tile.box) for tile in tiles if tile.differs]
        if places:
            reason = f"{reason} {self('why.place', places=', '.join(dict.fromkeys(places)))}"
        return reason

    def looked(self, prediction: Prediction) -> str:
        """Return how much of the image the detector examined, and in how many parts."""
        n, share = len(prediction.views), self.percent(prediction.examined)
        kind = "whole" if prediction.examined > 0.99 else "part"
        looked = self(f"looked.{kind}.{'many' if n > 1 else 'one'}", n=n, share=share)
        if n > 1 and prediction.ood_share:
            unusual = self("looked.unusual", n=round(n * prediction.ood_share))
            looked = f"{looked} {unusual}"
        return looked

    def error_rate(self, verdict: str, evaluation: Any) -> str | None:
        """Return how often this detector was wrong in its test, for the kind of error that matters.

        It is a sentence with the measured share and its 95 % interval; without a verdict, the share
        of images that got one. `None` if a figure is missing in the checkpoint's `evaluation.json`.
        """
        other = AI if verdict == REAL else REAL
        path = ("verdict_rate",) if verdict == INCONCLUSIVE else ("wrong", other)
        measured = dig(evaluation, "test", "figures", "verdicts", *path)
        share, low, high, n = (number(dig(measured, key)) for key in ("value", "low", "high", "n"))
        if share is None or low is None or high is None or not n:
            return None
        values = {"low": self.rate(low), "high": self.rate(high), "n": self.number(n)}
        return self(f"rate.{verdict}", share=self._of_hundred(share), **values)

    def right_rate(self, evaluation: Any) -> str | None:
        """Return how often this detector's clear answers were right in its test, if measured."""
        share = number(dig(evaluation, "test", "figures", "verdicts", "accuracy", "value"))
        return None if share is None else self("rate.right", share=self._of_hundred(share))

    def _of_hundred(self, share: float) -> str:
        """Format a share as a number of 100; below 1 with one decimal."""
        return format_decimal(round(100 * share, 0 if share >= 0.01 else 1), locale=self.language)

    def evidence(self, evidence: "Evidence") -> str:
        """Return what removing the marked part does to the probability, in percent."""
        return self(
            "evidence.effect",
            share=self.rate(evidence.share, "0"),
            name=self(f"evidence.name.{evidence.target}"),
            before=self.percent(evidence.before),
            after=self.percent(evidence.after),
            random=self.percent(evidence.random),
        )

    def holds(self, stability: Stability) -> tuple[str, str]:
        """Tell whether a verdict holds when the image is changed, and describe the largest change.

        The answer is `"yes"`, `"partly"` or `"no"`.
        """
        (_, original), *copies = stability.variants
        if not copies:
            return "partly", self("stability.none")
        same = all(copy.verdict == original.verdict for _, copy in copies)
        answer = "no" if stability.flips else "yes" if same else "partly"
        before = original.probabilities[AI]
        name, moved = max(copies, key=lambda each: abs(each[1].probabilities[AI] - before))
        values = {"before": self.percent(before), "after": self.percent(moved.probabilities[AI])}
        key = "same" if values["before"] == values["after"] else "moved"
        return answer, self(f"stability.{key}", variant=self.named("variant", name), **values)

    def regions(self, regions: Sequence[tuple[Sequence[float], float]]) -> str:
        """Return the places of the strongest regions, each place once, with their shares."""
        places: dict[str, float] = {}
        for box, share in regions:
            place = self.place(box)
            places[place] = places.get(place, 0.0) + share
        return ", ".join(f"{place} ({self.percent(share)})" for place, share in places.items())

    def place(self, box: Sequence[float]) -> str:
        """Return where a box is: `"top left"`. Its edges are shares of the image's sides."""
        left, top, right, bottom = box
        column = _third((left + right) / 2, ("left", "centre", "right"))
        row = _third((top + bottom) / 2, ("top", "middle", "bottom"))
        if column == "centre":
            return self("place.centre" if row == "middle" else f"place.{row}")
        values = {"vertical": self(f"place.{row}"), "horizontal": self(f"place.{column}")}
        return self("place.both", **values)


def _third(position: float, names: tuple[str, str, str]) -> str:
    return names[min(int(3 * position), 2)]


@cache
def words(language: str) -> Words:
    """Return the words of a language, or the English ones if there are none."""
    return Words(language if language in LANGUAGES else DEFAULT)


def words_for(request: gr.Request | None) -> Words:
    """Return the words in the language of a request."""
    return Words.from_header(request.headers.get("accept-language") if request else None)


ENGLISH = words(DEFAULT)


class Localised:
    """Strings and HTML in every language, for the components that the page starts with.

    Gradio's browser code replaces a marker by the string of the reader's language.
    """

    def __init__(self):
        self._entries = {name: LANGUAGES[DEFAULT] | own for name, own in LANGUAGES.items()}
        self._entries |= {tag: self._entries[language] for tag, language in ALIASES.items()}
        self.i18n = gr.I18n(**self._entries)

    def __call__(self, key: str) -> str:
        """Return the marker of a string."""
        return str(I18nData(key))

    def html(self, name: str, draw: Callable[[Words], str]) -> str:
        """Add HTML that `draw` makes in one language, and return its marker."""
        for language in LANGUAGES:
            self._entries[language][f"html.{name}"] = draw(words(language))
        return self(f"html.{name}")


def dig(value: Any, *keys: str) -> Any:
    """Follow keys into JSON of any shape. Return `None` where there is nothing."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def number(value: Any) -> float | None:
    """Return a finite number out of JSON of any shape, or `None`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < float("inf") else None


TEMPLATES = Path(__file__).parent / "templates"
MAX_CHARACTERS = 1000
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
# White space, except the one that keeps a number and its unit together.
_SPACES = re.compile(r"[^\S\u00a0]+")


def render(template: str, macro: str, words: Words, **values: Any) -> Markup:
    """Render one macro of a template; the language is `t` in it, and `values` are its arguments."""
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
