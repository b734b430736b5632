"""The JSON form of an answer, shared by the command line, HTTP, MCP and the Space's report."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from realfake.detector import Detector, ImageSource
from realfake.imaging.decode import LIMITS, frames, open_image, read_file
from realfake.imaging.fetch import fetch, is_data_uri, read_data_uri
from realfake.prediction import Prediction

if TYPE_CHECKING:
    from realfake.prediction import Stability
    from realfake.provenance.reading import Provenance


def answer(
    detector: Detector,
    image: ImageSource,
    *,
    prior_ai: float = 0.5,
    stability: bool = False,
    provenance: bool = False,
    views: int | None = None,
) -> dict:
    """Predict one image, and return the result for JSON.

    Args:
        prior_ai: Expected share of AI-generated images; changes probabilities, not verdicts.
        stability: Whether to predict recompressed, resized and cropped copies too. A verdict that
            flips becomes inconclusive.
        provenance: Whether to read the file's records about its origin.
        views: *optional*. As in [`~realfake.detector.Detector.predict`].

    Returns:
        `dict` with `verdict`, `reason`, `label`, `probabilities`, `prior_ai`, `log_odds`, `alpha`,
        `ood`, `ood_share`, `examined` and `differing` (as in
        [`~realfake.prediction.Prediction`]); `views`, for each the `box`, `log_odds`, its `share`
        of the image's log-odds, and `ood`; `stability` and `provenance` (`None` if not requested);
        `model`, `revision`, and `sha256` of the file (`None` without a file); `frames`, the
        verdicts on up to five frames of an animation (`None` for a single picture). The answer is
        that of the first frame.

    Raises:
        ValueError: The image is unusable, `prior_ai` is not inside (0, 1), or the detector cannot
            examine an image in several views.
        OSError: The image cannot be read.
    """
    decoded, data = read_once(image)
    prediction = detector.predict(decoded, prior_ai=prior_ai, views=views)
    stable = detector.stability(decoded, prior_ai, views, prediction) if stability else None
    return compose(detector, prediction, decoded, data, stability=stable, provenance=provenance)


def answers(
    detector: Detector,
    images: Iterable[ImageSource],
    *,
    prior_ai: float = 0.5,
    stability: bool = False,
    provenance: bool = False,
    batch_size: int = 16,
    views: int | None = None,
) -> Iterator[dict | Exception]:
    """Predict many images in batches.

    Args:
        prior_ai, stability, provenance, views: As in [`answer`].
        batch_size: Images in one forward pass.

    Yields:
        For each image the result of [`answer`], or the `ValueError` or `OSError` that it raises.
    """
    images = iter(images)
    while batch := [_read_or_error(image) for image in islice(images, batch_size)]:
        decoded = [entry[0] for entry in batch if not isinstance(entry, Exception)]
        predictions = iter(detector.predict(decoded, prior_ai=prior_ai, views=views))
        for entry in batch:
            if isinstance(entry, Exception):
                yield entry
                continue
            found = next(predictions)
            stable = detector.stability(entry[0], prior_ai, views, found) if stability else None
            yield compose(detector, found, *entry, stability=stable, provenance=provenance)


def compose(
    detector: Detector,
    prediction: Prediction,
    decoded: Image.Image | None,
    data: bytes | None,
    *,
    stability: "Stability | None" = None,
    provenance: "bool | Provenance" = False,
) -> dict:
    """Return the result of [`answer`] from an existing prediction.

    Args:
        decoded: The decoded image.
        data: The bytes of the file, if there is one.
        stability: *optional*. The stability.
        provenance: The provenance, or whether to read it.
    """
    verdict, reason = prediction.verdict, prediction.reason
    if stability:
        verdict, reason = stability.verdict, stability.reason
    if provenance is True and data is not None:
        from realfake.provenance.reading import read_provenance

        provenance = read_provenance(data)
    return {
        "verdict": verdict,
        "reason": reason,
        "label": prediction.label,
        "probabilities": prediction.probabilities,
        "prior_ai": prediction.prior_ai,
        "log_odds": prediction.log_odds,
        "alpha": prediction.alpha,
        "ood": prediction.ood,
        "ood_share": prediction.ood_share,
        "examined": prediction.examined,
        "differing": None if prediction.differing is None else list(prediction.differing),
        "views": [
            {
                "box": list(view.box),
                "log_odds": view.log_odds,
                "share": view.log_odds / len(prediction.views),
                "ood": view.ood,
            }
            for view in prediction.views
        ],
        "stability": _variants(stability) if stability else None,
        "provenance": None if isinstance(provenance, bool) else provenance.to_dict(),
        "model": detector.name,
        "revision": detector.revision,
        "sha256": None if data is None else hashlib.sha256(data).hexdigest(),
        "frames": _frames(detector, prediction, decoded, data),
    }


def _frames(
    detector: Detector, prediction: Prediction, decoded: Image.Image | None, data: bytes | None
) -> list[dict] | None:
    """Judge up to five frames of an animation; `None` for a single picture."""
    if decoded is None or "frame" not in decoded.info or data is None:
        return None
    first, *others = frames(data)
    predictions = [prediction, *detector.predict(others, prior_ai=prediction.prior_ai)]
    return [
        {
            "index": frame.info["frame"][0],
            "count": frame.info["frame"][1],
            "verdict": each.verdict,
            "log_odds": each.log_odds,
        }
        for frame, each in zip([first, *others], predictions, strict=True)
    ]


def read_once(image: ImageSource) -> tuple[Image.Image, bytes | None]:
    """Read an image once, and return it with the bytes of its file.

    Returns:
        The upright image, and the bytes; `None` for a `PIL.Image` or an array.
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
    if isinstance(image, str) and is_data_uri(image):
        data = read_data_uri(image)
        return open_image({"bytes": data, "path": "the data: URL"}), data
    if isinstance(image, (str, os.PathLike)):
        path = os.fsdecode(image)
        data = read_file(path)
        return open_image({"bytes": data, "path": Path(path).name}), data
    return open_image(image), None


def _read_or_error(image: ImageSource) -> tuple[Image.Image, bytes | None] | Exception:
    try:
        return read_once(image)
    except (ValueError, OSError) as error:
        return error


def _variants(stability: "Stability") -> dict:
    variants = [
        {
            "name": name,
            "verdict": prediction.verdict,
            "probabilities": prediction.probabilities,
            "log_odds": prediction.log_odds,
        }
        for name, prediction in stability.variants
    ]
    return {"flips": stability.flips, "variants": variants}
