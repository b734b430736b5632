"""The page's words: the strings of `languages/`, and numbers and sentences in these languages.

The answer to a request is in the language of its `Accept-Language` header ([`Words.from_header`]).
What the page starts with is there in every language ([`Localised`]), and the browser picks one.
"""

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
from babel import Locale
from babel.numbers import format_decimal, format_percent
from gradio.i18n import I18nData

from realfake.labels import AI, REAL
from realfake.prediction import Prediction
from realfake.statistics.verdicts import INCONCLUSIVE

LANGUAGES: dict[str, dict[str, str]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((Path(__file__).parent / "languages").glob("*.json"))
}
DEFAULT = "en"
# Browser language tags that get the strings of another language.
ALIASES = {"no": "nb", "nn": "nb"}
EXAMPLES = ("coffee.jpg", "cat.jpg", "astronaut.jpg", "temple.jpg", "flower.jpg")


class Words:
    """The strings and number formats of one language.

    Example:
        ```python
        Words("en")("verdict.ai")  # "Likely AI-generated"
        ```
    """

    def __init__(self, language: str = DEFAULT):
        self.language = language
        self._strings = LANGUAGES[language]

    def __call__(self, key: str, **values: Any) -> str:
        """Return the string of a key, its placeholders filled in."""
        return self._strings[key].format(**values)

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
        if seconds < 90:
            return self("time.seconds", n=max(1, round(seconds)))
        return self("time.minutes", n=round(seconds / 60))

    def reason(self, prediction: Prediction) -> str | None:
        """Return why a prediction is inconclusive, or `None` if it is not."""
        if prediction.verdict != INCONCLUSIVE:
            return None
        code = prediction.reason or "between"
        if code == "out_of_distribution" and prediction.ood is not None:
            return self("reason.ood_share", share=self.percent(prediction.ood))
        if code != "between":
            return self(f"reason.{code}")
        if prediction.alpha is None:
            return self("reason.no_thresholds")
        return self("reason.between", alpha=self.rate(prediction.alpha))

    def error_rate(self, verdict: str, evaluation: Any) -> str | None:
        """Return how often images of the other class got this verdict in the detector's test.

        Args:
            verdict: `"real"`, `"ai"` or `"inconclusive"`.
            evaluation: The checkpoint's `evaluation.json`, of any shape.

        Returns:
            A sentence with the measured share, its 95 % interval and the number of images. `None`
            if one of them is missing or the verdict is `"inconclusive"`.
        """
        if verdict not in (REAL, AI):
            return None
        other = AI if verdict == REAL else REAL
        measured = dig(evaluation, "test", "figures", "verdicts", "wrong", other)
        share, low, high, n = (number(dig(measured, key)) for key in ("value", "low", "high", "n"))
        if share is None or low is None or high is None or not n:
            return None
        values = {"share": self.rate(share), "low": self.rate(low), "high": self.rate(high)}
        return self(f"rate.{verdict}", n=self.number(n), **values)

    def evidence(self, evidence: Any) -> str:
        """Return what removing the marked part does to the score, like `Evidence.sentence`."""
        if not evidence.share:
            return self(f"evidence.nothing.{evidence.target}")
        shown = self._distinct(evidence.before, evidence.after, evidence.random)
        before, share = shown[0], self.rate(evidence.share)
        name = self(f"evidence.name.{evidence.target}")

        def change(part: str, value: float, text: str) -> str:
            way = "leaves" if text == before else "lowers" if value < evidence.before else "raises"
            values = {"share": share, "name": name, "before": before, "after": text}
            return self(f"evidence.{part}.{way}", **values)

        marked = change("marked", evidence.after, shown[1])
        message = f"{marked}; {change('random', evidence.random, shown[2])}."
        return message if evidence.beats_random else f"{message} {self('evidence.chance')}"

    def _distinct(self, *probabilities: float) -> list[str]:
        """Two decimals, or up to four if the first two numbers would look alike."""
        for digits in (2, 3, 4):
            shown = [self.decimal(p, digits) for p in probabilities]
            if shown[0] != shown[1]:
                return shown
        return [self.decimal(p, 2) for p in probabilities]

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
        self._entries = {language: dict(strings) for language, strings in LANGUAGES.items()}
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
