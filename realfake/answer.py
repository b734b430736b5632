"""The one form in which an answer leaves the program: command line, HTTP, MCP and the page's report all write this.

Made of a [`~realfake.detector.Prediction`] and of what is known of the image it is for; plain values that `json` can write.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from realfake.detector import Detector
from realfake.imaging.decode import LIMITS, _read, open_image
from realfake.imaging.fetch import fetch
from realfake.prediction import Prediction

if TYPE_CHECKING:
    from realfake.prediction import Stability
    from realfake.provenance.reading import Provenance


def answer(
    detector: Detector,
    image,
    *,
    prior_ai: float = 0.5,
    stability: bool = False,
    provenance: bool = False,
) -> dict:
    """Answer for one image.

    Args:
        detector: The detector.
        image: As in [`~realfake.detector.Detector.predict`].
        prior_ai: The share of AI-generated images expected beforehand; it moves the probabilities, not the verdict.
        stability: Also judge the image recompressed, resized and cropped. A verdict that flips becomes inconclusive.
        provenance: Also say what the file says of its origin.

    Returns:
        `dict` with `verdict`, `reason`, `label`, `probabilities`, `prior_ai`, `log_odds`, `alpha`, `ood`, `stability` and
        `provenance` (`None` where they were not asked for, or there is no file to read), `model`, `revision`, and `sha256`
        of the file's bytes (`None` for an image that comes without them).

    Raises:
        ValueError: The image is unusable, or `prior_ai` is not inside (0, 1).
        OSError: The image cannot be read.
    """
    decoded, data = read_once(image)
    prediction = detector.predict(decoded, prior_ai=prior_ai)
    return compose(detector, prediction, decoded, data, stability=stability, provenance=provenance)


def answers(
    detector: Detector,
    images: Iterable,
    *,
    prior_ai: float = 0.5,
    stability: bool = False,
    provenance: bool = False,
    batch_size: int = 16,
) -> Iterator[dict | Exception]:
    """Answer for many images, in batches. One that fails yields its `ValueError` or `OSError` in its place.

    Args, and what is yielded: as in [`answer`].
    """
    batch: list[tuple | Exception] = []
    finish = _finisher(detector, prior_ai, stability, provenance)
    for image in images:
        try:
            batch.append(read_once(image))
        except (ValueError, OSError) as error:
            batch.append(error)
        if len(batch) == batch_size:
            yield from finish(batch)
            batch = []
    yield from finish(batch)


def _finisher(
    detector, prior_ai, stability, provenance
) -> Callable[[list], Iterator[dict | Exception]]:
    def finish(batch: list) -> Iterator[dict | Exception]:
        readable = [entry for entry in batch if not isinstance(entry, Exception)]
        predictions = iter(
            detector.predict([decoded for decoded, _ in readable], prior_ai=prior_ai)
        )
        for entry in batch:
            if isinstance(entry, Exception):
                yield entry
            else:
                yield compose(
                    detector, next(predictions), *entry, stability=stability, provenance=provenance
                )

    return finish


def compose(
    detector: Detector,
    prediction: Prediction,
    decoded: Image.Image | None,
    data: bytes | None,
    *,
    stability: "bool | Stability" = False,
    provenance: "bool | Provenance" = False,
) -> dict:
    """Write down an answer that was already given.

    Args:
        prediction: For this image.
        decoded: The decoded image.
        data: The file's bytes, where there are any.
        stability, provenance: Whether to find them out, or what was found.

    Returns:
        As [`answer`].
    """
    verdict, reason = prediction.verdict, prediction.reason
    tested = found = None
    if stability:
        stable = (
            detector.stability(decoded, prediction.prior_ai) if stability is True else stability
        )
        verdict, reason = stable.verdict, stable.reason
        tested = {
            "flips": stable.flips,
            "variants": [_variant(name, each) for name, each in stable.variants],
        }
    if provenance is True and data is not None:
        from realfake.provenance.reading import read_provenance

        found = read_provenance(data).to_dict()
    elif not isinstance(provenance, bool):
        found = provenance.to_dict()
    return {
        "verdict": verdict,
        "reason": reason,
        "label": prediction.label,
        "probabilities": prediction.probabilities,
        "prior_ai": prediction.prior_ai,
        "log_odds": prediction.log_odds,
        "alpha": prediction.alpha,
        "ood": prediction.ood,
        "stability": tested,
        "provenance": found,
        "model": detector.name,
        "revision": detector.revision,
        "sha256": None if data is None else hashlib.sha256(data).hexdigest(),
    }


def read_once(image) -> tuple[Image.Image, bytes | None]:
    """Decode an image and keep the file it came from, so that what is hashed is what was judged.

    Returns:
        The upright image, and the bytes of its file; `None` for a `PIL.Image` or an array.

    Raises:
        ValueError, OSError: As [`~realfake.imaging.decode.open_image`].
    """
    if isinstance(image, Mapping) and image.get("bytes") is not None:
        return open_image(image), bytes(image["bytes"])
    if isinstance(image, Mapping):
        image = image.get("path") or image
    if isinstance(image, (bytes, bytearray, memoryview)):
        return open_image(image), bytes(image)
    if isinstance(image, str) and image.lower().startswith(("http://", "https://")):
        data = fetch(image, max_bytes=LIMITS.max_bytes)
        return open_image({"bytes": data, "path": image.split("?")[0]}), data
    if isinstance(image, (str, os.PathLike)) and not str(image).startswith("data:"):
        data = _read(os.fsdecode(image), LIMITS)
        return open_image({"bytes": data, "path": Path(os.fsdecode(image)).name}), data
    return open_image(image), None


def _variant(name: str, prediction: Prediction) -> dict:
    return {
        "name": name,
        "verdict": prediction.verdict,
        "probabilities": prediction.probabilities,
        "log_odds": prediction.log_odds,
    }
