"""The two labels, `real` and `ai`, and how names found in the wild map onto them.

Corpora and checkpoints of other people call the classes `FAKE`, `0_real`, `human` or `LABEL_1`.
Everything behind this module speaks of `real` and `ai` only, and finds a class by its name, never by
its position.
"""

import re
from collections.abc import Iterable, Mapping

REAL = "real"
AI = "ai"
NAMES = (REAL, AI)

_WORDS = {
    REAL: (
        "real",
        "reals",
        "human",
        "humans",
        "nature",
        "natural",
        "photo",
        "photos",
        "photograph",
        "photographs",
        "photography",
        "photographic",
        "camera",
        "authentic",
        "genuine",
        "original",
        "pristine",
        "bonafide",
        "hum",
        "notai",
        "nonai",
        "notfake",
        "realimage",
        "realimages",
        "humanmade",
    ),
    AI: (
        "ai",
        "fake",
        "fakes",
        "artificial",
        "generated",
        "synthetic",
        "synth",
        "synthesized",
        "aigenerated",
        "aiart",
        "aigc",
        "generative",
        "machine",
        "deepfake",
        "deepfakes",
        "diffusion",
        "gan",
        "notreal",
        "fakeimage",
        "fakeimages",
        "aiimage",
        "aiimages",
        "aimade",
        "computergenerated",
        "spoof",
    ),
}
_BY_WORD = {word: label for label, words in _WORDS.items() for word in words}


def canonical(name: str) -> str | None:
    """Map a class name found in the wild to `"real"` or `"ai"`, or to `None` where it is unknown.

    Case, separators, and a number in front or behind are ignored: `0_real`, `Real-Images` and `REAL` are
    all `"real"`. A bare number or `LABEL_1` is unknown: nothing in it says which class is meant.
    """
    words = [word for word in re.split(r"[^a-z0-9]+", str(name).strip().lower()) if word]
    while words and words[0].isdigit():
        words = words[1:]
    while words and words[-1].isdigit():
        words = words[:-1]
    joined = "".join(words)
    if joined in _BY_WORD:
        return _BY_WORD[joined]
    # "ai_generated_images", "real photos": every word that is known must say the same thing.
    if "not" in words or "non" in words:
        return None
    found = {_BY_WORD[word] for word in words if word in _BY_WORD}
    unknown = [word for word in words if word not in _BY_WORD and word not in _FILLERS]
    return found.pop() if len(found) == 1 and not unknown else None


_FILLERS = {
    "image",
    "images",
    "img",
    "imgs",
    "picture",
    "pictures",
    "art",
    "face",
    "faces",
    "class",
    "made",
}


def resolve(
    names: Iterable[str], overrides: Mapping[str, str] | None = None, option: str = "--label_map"
) -> dict[str, str]:
    """Map every class name to `"real"` or `"ai"`.

    Args:
        names: The class names found.
        overrides: What the user said, `{found name: "real" or "ai"}`; it wins over the built-in words.
        option: How the user gives `overrides`, for the message.

    Returns:
        `{found name: "real" or "ai"}`, in the order given.

    Raises:
        ValueError: A name is unknown, an override names no class, or all names mean the same class. The
            message lists what was found and the option that resolves it.
    """
    names = [str(name) for name in names]
    overrides = {str(key): str(value).strip().lower() for key, value in (overrides or {}).items()}
    listed = ", ".join(repr(name) for name in names)
    example = ",".join(
        f"{name}={label}" for name, label in zip(names, [REAL, AI] + [AI] * len(names))
    )
    for key, value in overrides.items():
        if key not in names:
            raise ValueError(
                f"{option} names the class {key!r}, which is not among those found: {listed}."
            )
        if value not in NAMES:
            raise ValueError(f"{option} maps {key!r} to {value!r}; it must be 'real' or 'ai'.")
    mapping = {name: overrides.get(name) or canonical(name) for name in names}
    unknown = [name for name, label in mapping.items() if label is None]
    if unknown:
        raise ValueError(
            f"Cannot tell which of the classes {listed} are real and which are ai; "
            f"say it with {option}, for example {option} {example}"
        )
    missing = [label for label in NAMES if label not in mapping.values()]
    if missing:
        raise ValueError(
            f"The classes {listed} hold no '{missing[0]}' class; both 'real' and 'ai' are needed. "
            f"If a name was misread, correct it with {option}, for example {option} {example}"
        )
    return mapping


def parse_overrides(text: str | None, option: str = "--label_map") -> dict[str, str]:
    """Read `"nature=real,midjourney=ai"` as a mapping.

    Raises:
        ValueError: A part is not of the form `name=real` or `name=ai`.
    """
    overrides = {}
    for part in filter(None, (text or "").split(",")):
        name, equals, label = part.rpartition("=")
        if not equals or not name.strip() or label.strip().lower() not in NAMES:
            raise ValueError(f"{option}: {part!r} is not of the form NAME=real or NAME=ai.")
        overrides[name.strip()] = label.strip().lower()
    return overrides


def class_indices(
    id2label: Mapping[int, str],
    overrides: Mapping[str, str] | None = None,
    option: str = "label_map",
) -> dict[str, list[int]]:
    """Return the class indices of a checkpoint that belong to each label.

    Args:
        id2label: The checkpoint's `config.id2label`. More than two classes are allowed (one per generator, say).

    Returns:
        `{"real": [indices], "ai": [indices]}`, both non-empty.

    Raises:
        ValueError: As [`resolve`].
    """
    mapping = resolve(id2label.values(), overrides, option)
    return {
        label: sorted(int(i) for i, name in id2label.items() if mapping[str(name)] == label)
        for label in NAMES
    }
