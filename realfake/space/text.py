"""The page's words: the strings of a language, and how probabilities and verdicts are put into sentences.

`languages` holds the strings; nothing here knows of HTML or Gradio. On the server a sentence is made in the language that the
request asks for (`Words.asked_for`); what stands on the page from the start is put into the reader's language in the browser.
"""

from collections.abc import Sequence
from functools import cache

from realfake.space.languages import ALSO, DEFAULT, LANGUAGES
from realfake.statistics.verdicts import INCONCLUSIVE

EXAMPLES = ("coffee.jpg", "cat.jpg", "astronaut.jpg", "temple.jpg", "flower.jpg")


class Words:
    """The strings of one language, called by key.

    Example:
        ```python
        Words("en")("verdict.ai")  # "Likely AI-generated"
        ```
    """

    def __init__(self, language: str = DEFAULT):
        self.language = language
        self._strings = LANGUAGES[language]

    def __call__(self, key: str, **values) -> str:
        return self._strings[key].format(**values)

    def named(self, prefix: str, name: str) -> str:
        """The string `prefix.name`, or the bare name where there is none: names come from checkpoints and modules, too."""
        return self._strings.get(f"{prefix}.{name}", name)

    @staticmethod
    def asked_for(header: str | None) -> "Words":
        """Choose by a request's `Accept-Language` header, as the browser does for what it translates itself: by the first
        language in it, whatever the weights of the others."""
        first = (header or "").split(",")[0].split(";")[0].strip().lower().split("-")[0]
        return words(ALSO.get(first, first))

    def percent(self, probability: float) -> str:
        """Word a probability, never as certainty: `"97%"`, `"less than 1%"`, `"more than 99%"`."""
        if probability < 0.005:
            return self("number.least")
        if probability >= 0.995:
            return self("number.most")
        return self("number.percent", n=min(max(round(100 * probability), 1), 99))

    def share(self, probability: float) -> str:
        """Word a probability as a share of images, never as none or all: `"about 9 in 10"`, `"about half"`."""
        if probability < 0.005:
            return self("share.fewest")
        if probability >= 0.995:
            return self("share.most")
        if probability < 0.055 or probability >= 0.945:
            return self("share.of_100", n=min(max(round(100 * probability), 1), 99))
        if 0.45 <= probability < 0.55:
            return self("share.half")
        return self("share.of_10", n=round(10 * probability))

    def number(self, n: float) -> str:
        """A whole number, its thousands apart."""
        return f"{n:,.0f}".replace(",", self("number.thousands"))

    def decimal(self, value: float, digits: int = 2) -> str:
        """A number with a fraction."""
        return f"{value:.{digits}f}".replace(".", self("number.point"))

    def duration(self, seconds: float) -> str:
        """How long something takes, roughly."""
        if seconds < 90:
            return self("time.seconds", n=max(1, round(seconds)))
        return self("time.minutes", n=round(seconds / 60))


@cache
def words(language: str) -> Words:
    """The words of a language, or the default ones where it has none."""
    return Words(language if language in LANGUAGES else DEFAULT)


ENGLISH = words(DEFAULT)


def meaning(words: Words, prediction, calibrated: bool) -> str:
    """Say in a sentence or three what a `Prediction`'s probability means.

    Args:
        words: In which language.
        prediction: The prediction; an inconclusive one is described by its more probable label.
        calibrated: Whether the checkpoint says that its probabilities are calibrated. Where it does not, they are not
            described as frequencies.
    """
    named = named_label(prediction)
    probability, prior = prediction.probabilities[named], prediction.prior_ai
    if not calibrated:
        percent = words.percent(probability)
        return words("meaning.uncalibrated", label=words(f"label.{named}"), percent=percent)
    key = "meaning.even" if prior == 0.5 else "meaning.prior"
    said = words(
        key, share=words.share(probability), kind=words(f"kind.{named}"), prior=words.percent(prior)
    )
    if prediction.verdict != INCONCLUSIVE and prediction.label != prediction.verdict:
        said = f"{said} {words('meaning.against', label=words(f'label.{prediction.label}'))}"
    return said


def reason(words: Words, prediction) -> str | None:
    """Say why there is no verdict; `None` where there is one."""
    if prediction.verdict != INCONCLUSIVE:
        return None
    if prediction.reason == "out_of_distribution":
        if prediction.ood is None:
            return words("reason.novel_bare")
        return words("reason.novel", share=words.percent(prediction.ood))
    if prediction.reason == "unstable":
        return words("reason.unstable")
    if prediction.alpha is None:
        return words("reason.between_bare")
    return words("reason.between", alpha=words("number.percent", n=f"{100 * prediction.alpha:g}"))


def named_label(prediction) -> str:
    """The label that an answer speaks of: the verdict's, or the more probable one where there is no verdict."""
    return prediction.label if prediction.verdict == INCONCLUSIVE else prediction.verdict


def evidence(words: Words, evidence) -> str:
    """Say what became of the score when the map's strongest part was taken away, as `Evidence.sentence` does in English."""
    if not evidence.share:
        return words(f"evidence.nothing.{evidence.target}")
    before, after, random = _apart(words, evidence.before, evidence.after, evidence.random)
    share = words(
        "number.percent_apart", n=f"{100 * evidence.share:.2g}".replace(".", words("number.point"))
    )
    name = words(f"evidence.name.{evidence.target}")

    def change(what: str, value: float, text: str) -> str:
        way = "leaves" if text == before else "lowers" if value < evidence.before else "raises"
        return words(f"evidence.{what}.{way}", share=share, name=name, before=before, after=text)

    said = (
        f"{change('marked', evidence.after, after)}; {change('random', evidence.random, random)}."
    )
    return said if evidence.beats_random else f"{said} {words('evidence.chance')}"


def place(words: Words, box: Sequence[float], size: tuple[int, int]) -> str:
    """Say where in an image a box lies: `"top left"`, `"centre"`."""
    left, top, right, bottom = box
    column = _third((left + right) / 2 / size[0], ("left", "centre", "right"))
    row = _third((top + bottom) / 2 / size[1], ("top", "middle", "bottom"))
    if column == "centre":
        return words("place.centre" if row == "middle" else f"place.{row}")
    return words("place.both", vertical=words(f"place.{row}"), horizontal=words(f"place.{column}"))


def _third(position: float, names: tuple[str, str, str]) -> str:
    return names[min(int(3 * position), 2)]


def _apart(words: Words, *probabilities: float) -> list[str]:
    """With two decimals, or up to four where the first two would look alike."""
    for digits in (2, 3, 4):
        shown = [words.decimal(p, digits) for p in probabilities]
        if shown[0] != shown[1]:
            return shown
    return [words.decimal(p, 2) for p in probabilities]
