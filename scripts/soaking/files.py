"""Files for the load test: drawn images and broken files, each with its expected scores."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

FORMS = ("file", "form", "json")
# `Detector` gives the same scores to this tolerance, whatever else is in the batch.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class File:
    """A file to send, and its scores offline.

    Attributes:
        name: Name in the report.
        data: The bytes.
        kind: The media type.
        scores: `{form of request: {label: score}}`, or `None` if the detector refuses the file.
    """

    name: str
    data: bytes
    kind: str
    scores: dict[str, dict[str, float]] | None


def draw_files(detector, folder: Path, n: int) -> list[File]:
    """Draw `n` images of mixed sizes and formats, and make broken files."""
    from benchmarks.drawn import SIZES, draw_photographs
    from PIL import Image

    sizes = ((96, 96), (224, 224), (320, 240), *SIZES)
    pictures = []
    for number, path in enumerate(draw_photographs(folder, n, sizes)):
        data, form = path.read_bytes(), "JPEG"
        if number % 5 in (3, 4):
            form = ("PNG", "WEBP")[number % 5 - 3]
            buffer = BytesIO()
            with Image.open(path) as image:
                image.save(
                    buffer, form, **({"quality": 85} if form == "WEBP" else {"compress_level": 1})
                )
            data = buffer.getvalue()
        pictures.append((path.stem, data, f"image/{form.lower()}"))
    files = [File(name, data, kind, _offline(detector, data)) for name, data, kind in pictures]
    files += [
        File(name, data, "image/jpeg", _offline(detector, data))
        for name, data in _broken(pictures[0][1])
    ]
    for file in files[n:]:
        if file.scores is not None:
            raise RuntimeError(f"The detector reads {file.name}, which should be broken.")
    return files


def _broken(jpeg: bytes) -> list[tuple[str, bytes]]:
    """Return files that must be refused: damaged, hostile, or not an image."""
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (60_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    return [
        ("nothing", b""),
        ("half an image", jpeg[: len(jpeg) // 2]),
        ("a header alone", jpeg[:64]),
        ("noise", random.Random(0).randbytes(50_000)),
        ("text", b"This is not an image.\n" * 200),
        ("an SVG drawing", b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"/>'),
        ("an archive", b"PK\x03\x04" + jpeg),
        ("an image of 60,000 pixels a side", bomb + b"\0" * 4096),
    ]


def _offline(detector, data: bytes) -> dict[str, dict[str, float]] | None:
    from realfake.hub_api import Parameters, scores

    try:
        (logits,) = detector.logits([data])
    except (ValueError, OSError):
        return None
    config = detector.model.config
    return {
        form: {
            row["label"]: row["score"]
            for row in scores(logits, config, Parameters(function_to_apply=function))
        }
        for form, function in zip(FORMS, (None, "sigmoid", "none"), strict=True)
    }


def distinguishable(files: Sequence[File]) -> float:
    """Return the share of pairs of images with different scores: a swap would be detected."""
    rows = [file.scores["json"] for file in files if file.scores is not None]
    pairs = [(one, other) for place, one in enumerate(rows) for other in rows[:place]]
    return sum(not agree(one, other) for one, other in pairs) / max(1, len(pairs))


def agree(one: dict[str, float], other: dict[str, float]) -> bool:
    """Return whether two answers are equal within the tolerance."""
    # Logits are compared relative to their size; probabilities absolutely.
    return one.keys() == other.keys() and all(
        abs(one[label] - other[label]) <= TOLERANCE * max(1.0, abs(other[label])) for label in one
    )
