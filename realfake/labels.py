"""The two labels, `real` and `ai`, and the mapping of class names to them.

Corpora and checkpoints call their classes `FAKE`, `0_real`, `human` or `LABEL_1`. All other modules
use `real` and `ai` only, and find a class by its name, never by its position.
"""

import json
import re
import shlex
from collections.abc import Iterable, Mapping

REAL = "real"
AI = "ai"
NAMES = (REAL, AI)

_WORDS = {
    REAL: (
        *("real", "reals", "human", "humans", "nature", "natural", "photo", "photos"),
        *("photograph", "photographs", "photography", "photographic", "camera", "authentic"),
        *("genuine", "original", "pristine", "bonafide", "hum", "notai", "nonai", "notfake"),
        *("realimage", "realimages", "humanmade"),
    ),
    AI: (
        *("ai", "fake", "fakes", "artificial", "generated", "synthetic", "synth", "synthesized"),
        *("aigenerated", "aiart", "aigc", "generative", "machine", "deepfake", "deepfakes"),
        *("diffusion", "gan", "notreal", "fakeimage", "fakeimages", "aiimage", "aiimages"),
        *("aimade", "computergenerated", "spoof"),
    ),
}
_BY_WORD = {word: label for label, words in _WORDS.items() for word in words}
_FILLERS = frozenset(
    ("image", "images", "img", "imgs", "picture", "pictures")
    + ("art", "face", "faces", "class", "made")
)
_NEGATIONS = frozenset(("not", "non", "no", "un", "without"))
# Placeholder for an unknown label. It is not a label, so an unedited example is refused.
_UNKNOWN = "?"


def canonical(name: str) -> str | None:
    """Map a class name to `"real"` or `"ai"`, or to `None` if it is unknown.

    Case, separators and leading or trailing numbers are ignored: `0_real`, `Real-Images` and `REAL`
    are all `"real"`. A plain number and `LABEL_1` are unknown.
    """
    words = _words(name)
    while words and words[0].isdigit():
        words = words[1:]
    while words and words[-1].isdigit():
        words = words[:-1]
    joined = "".join(words)
    if joined in _BY_WORD:
        return _BY_WORD[joined]
    # All known words must agree, and no word may be unknown: "ai_generated_images", "real photos".
    labels = {_BY_WORD[word] for word in words if word in _BY_WORD}
    unknown = [word for word in words if word not in _BY_WORD and word not in _FILLERS]
    return labels.pop() if len(labels) == 1 and not unknown else None


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", str(name).strip().lower()) if word]


def _guess(name: str) -> str | None:
    """Guess a label for an example: `canonical`, or the common label of the known words."""
    words = _words(name)
    labels = {_BY_WORD[word] for word in words if word in _BY_WORD}
    negated = _NEGATIONS.intersection(words)
    return canonical(name) or (labels.pop() if len(labels) == 1 and not negated else None)


def resolve(
    names: Iterable[str], overrides: Mapping[str, str] | None = None, option: str = "--label_map"
) -> dict[str, str]:
    """Map every class name to `"real"` or `"ai"`.

    Args:
        names: The class names found.
        overrides: *optional*. The user's mapping, `{class name: "real" or "ai"}`. It takes
            precedence over the built-in words.
        option: The option that sets `overrides`, for the message.

    Returns:
        `{class name: "real" or "ai"}`, in the order of `names`.

    Raises:
        ValueError: A name is unknown, an override names no class, or all names have one label. The
            message lists the classes, with an example that can be pasted into a shell.
    """
    names = [str(name) for name in names]
    overrides = {str(key): str(value).strip().lower() for key, value in (overrides or {}).items()}
    listed = ", ".join(repr(name) for name in names)
    for key, value in overrides.items():
        if key not in names:
            raise ValueError(f"{option} names {key!r}, which is not one of the classes {listed}.")
        if value not in NAMES:
            raise ValueError(f"{option} maps {key!r} to {value!r}; it must be 'real' or 'ai'.")
    mapping = {name: overrides.get(name) or canonical(name) for name in names}
    if None in mapping.values():
        guesses = {name: label or _guess(name) for name, label in mapping.items()}
        raise ValueError(
            f"Cannot tell which of the classes {listed} are real and which are ai; set it with "
            f"{option}, for example {_example(guesses, option)}"
        )
    missing = [label for label in NAMES if label not in mapping.values()]
    if missing:
        raise ValueError(
            f"None of the classes {listed} is '{missing[0]}'; both 'real' and 'ai' are needed. "
            f"Correct wrong labels with {option}, for example "
            f"{_example(dict.fromkeys(names), option)}"
        )
    return mapping


def _example(guesses: Mapping[str, str | None], option: str) -> str:
    """Return an option that can be pasted, with `?` for every label that the user must fill in."""
    mapping = {name: label or _UNKNOWN for name, label in guesses.items()}
    text = f"{option} {shlex.quote(format_label_map(mapping))}"
    return f"{text} (replace each ? by real or ai)" if _UNKNOWN in mapping.values() else text


def parse_overrides(text: str | None, option: str = "--label_map") -> dict[str, str]:
    """Read a label map from the command line.

    Args:
        text: `nature=real,midjourney=ai`, or a JSON object, `{"nature": "real", "a, b": "ai"}`, for
            names that contain a comma. Empty or `None` for no mapping.
        option: The option, for the message.

    Raises:
        ValueError: The text has neither form, or a value is neither `real` nor `ai`.
    """
    text = (text or "").strip()
    if text.startswith("{"):
        try:
            pairs = list(json.loads(text).items())
        except ValueError as error:
            raise ValueError(f"{option}: {text!r} is not a JSON object ({error}).") from None
    else:
        pairs = []
        for item in filter(None, text.split(",")):
            name, equals, label = item.rpartition("=")
            if not equals or not name.strip():
                raise ValueError(
                    f"{option}: {item!r} is not of the form NAME=real or NAME=ai. Write names that "
                    'contain a comma as JSON, such as \'{"NAME": "real"}\'.'
                )
            pairs.append((name.strip(), label))
    overrides = {name: str(label).strip().lower() for name, label in pairs}
    for name, label in overrides.items():
        if label not in NAMES:
            raise ValueError(f"{option}: {name!r} must be 'real' or 'ai', not {label!r}.")
    return overrides


def format_label_map(mapping: Mapping[str, str]) -> str:
    """Format a label map as [`parse_overrides`] reads it, as JSON if a name needs it."""
    if any("," in name or name != name.strip() or name[:1] in ("", "{") for name in mapping):
        return json.dumps(dict(mapping), ensure_ascii=False)
    return ",".join(f"{name}={label}" for name, label in mapping.items())


def class_indices(
    id2label: Mapping[int, str], overrides: Mapping[str, str] | None = None
) -> dict[str, list[int]]:
    """Find the class indices of a classifier that belong to each label.

    Args:
        id2label: The checkpoint's `config.id2label`. More than two classes are allowed.
        overrides: *optional*. The user's mapping, as for [`resolve`].

    Returns:
        `{"real": [indices], "ai": [indices]}`, neither of them empty.

    Raises:
        ValueError: As [`resolve`].
    """
    mapping = resolve(id2label.values(), overrides)
    return {
        label: sorted(int(index) for index, name in id2label.items() if mapping[str(name)] == label)
        for label in NAMES
    }
