"""The answers of the first tab: a record of each image, and the messages that the browser shows.

Every message has the id of its image, and every map its method and target. The browser keeps the
messages and shows only those that match its drop area and its settings (`page.js`). The order in
which they arrive does not matter. The report is made from the same record.
"""

import hashlib
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import gradio as gr
from PIL import Image
from scipy.special import expit

from realfake.answer import read_once
from realfake.detector import Detector
from realfake.labels import AI, REAL
from realfake.prediction import Prediction, Stability
from realfake.provenance.reading import Provenance, Statement, read_provenance, statement_of
from realfake.space.maps import MAP_SIDE, PASSES, Map, Tile, draw_map, mapped_views, tiles_of
from realfake.space.text import Words, error_line, jpeg, render, words_for
from realfake.statistics.verdicts import INCONCLUSIVE, with_prior

logger = logging.getLogger(__name__)

# What is kept of one visitor for the report: images, maps of each image, seconds.
MAX_RECORDS, MAX_MAPS, KEEP_SECONDS = 3, 3, 1800


@dataclass(eq=False)
class Record:
    """The answer for one image.

    Attributes:
        prediction: At a prior of one half. Inconclusive if the changed copies contradict it.
        seconds: Time that the detector took for one view.
        tiles: The tile map of the whole image.
        decoded: The image for [`check_copies`], which reads the file without it.
        copies_checked: Whether [`check_copies`] has run.
        stability: The changed copies, or `None` if they could not be checked, for the reason
            `stability_problem`.
        maps: `{(method, target): Map}`, the detail.
        working: Two events that want the copies or the same map wait for one computation.
    """

    path: str
    sha256: str
    size: tuple[int, int]
    picture: bytes = field(repr=False)  # a JPEG of the upright image
    date: datetime
    prediction: Prediction
    provenance: Provenance | None
    seconds: float
    tiles: tuple[Tile, ...]
    decoded: Image.Image | None = field(repr=False)
    copies_checked: bool = False
    stability: Stability | None = None
    stability_problem: str | None = None
    maps: dict[tuple[str, str], Map] = field(default_factory=dict)
    working: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def name(self) -> str:
        """The file's name."""
        return Path(self.path).name

    @property
    def statement(self) -> Statement | None:
        """What the file says of itself."""
        return statement_of(self.provenance)

    def check_copies(self, detector: Detector) -> None:
        """Check the changed copies, if that was not done."""
        with self.working:
            if self.copies_checked:
                return
            decoded = self.decoded or read_once(self.path)[0]
            self.prediction, stable = with_copies(detector, decoded, self.prediction)
            if isinstance(stable, str):
                self.stability_problem = stable
            else:
                self.stability = stable
            self.decoded, self.copies_checked = None, True

    def keep(self, drawn: Map) -> None:
        """Keep a map, and drop the oldest one over the limit."""
        self.maps[drawn.method, drawn.target] = drawn
        for key in list(self.maps)[:-MAX_MAPS]:
            self.maps.pop(key, None)


class Session:
    """The images of one visitor, and the number of the newest event of their browser."""

    def __init__(self):
        self.lock = threading.Lock()
        self.newest = 0.0
        self.records: OrderedDict[str, tuple[float, Record]] = OrderedDict()

    def __deepcopy__(self, memo: dict) -> "Session":
        # Gradio copies a state's first value for each visitor.
        return Session()

    def note_event(self, number: float) -> None:
        """Note the number of an event. Numbers rise in the order of the browser's events."""
        self.newest = max(self.newest, number)

    def find(self, path: str) -> Record | None:
        """Return the record of an image, and drop those that are too old."""
        before = time.monotonic() - KEEP_SECONDS
        for key in [key for key, (made, _) in self.records.items() if made < before]:
            del self.records[key]
        _, record = self.records.get(path, (None, None))
        return record

    def keep(self, record: Record) -> None:
        """Keep a record, and drop the oldest one over the limit."""
        self.records[record.path] = time.monotonic(), record
        while len(self.records) > MAX_RECORDS:
            self.records.popitem(last=False)


class Handlers:
    """The answers of one detector.

    Args:
        evaluation: *optional*. Its `evaluation.json`, of any shape, for its measured error rates.
    """

    def __init__(self, detector: Detector, evaluation: object = None):
        self.detector = detector
        self.evaluation = evaluation
        self.calibrated = is_calibrated(detector.facts)
        # Seconds for one view: of a forward pass, and of the methods that were used.
        self.seconds = math.inf
        self.measured: dict[str, float] = {}

    def answer(
        self,
        session: Session,
        path: str | None,
        method: str,
        target: str,
        number: float,
        wanted: bool,
        request: gr.Request | None = None,
    ) -> Iterator[tuple[dict, Session]]:
        """Answer for the image in the drop area: the verdict with the tile map, then the detail.

        A verdict that the changed copies could change is shown after they are checked. The newest
        event of a browser is always answered in full. An older one stops at the next step, to save
        work.

        Args:
            number: Of the browser's event, see [`Session.note_event`].
            wanted: Whether the browser shows the detail.

        Yields:
            A message for `page.js`, and the session.
        """
        session.note_event(number)
        if path is None or number < session.newest:
            return
        words = words_for(request)
        message: dict = {"image": image_id(path), "maps": {}}
        try:
            record = self.record(session, path, complete=False)
            # Changed copies never change an inconclusive verdict.
            if not record.copies_checked and record.prediction.verdict == INCONCLUSIVE:
                parts, times = self.parts(words, record), self.times(words, record)
                yield message | {"parts": parts, "times": times}, session
                if number < session.newest:
                    record.decoded = None  # three large pictures for each visitor would be too much
                    return
            record.check_copies(self.detector)
        except (ValueError, OSError) as error:
            yield message | {"parts": _problem(words, error_line(error, path))}, session
            return
        except Exception:
            logger.exception("The detector failed on an upload")
            yield message | {"parts": _problem(words)}, session
            return
        message |= {"parts": self.parts(words, record), "times": self.times(words, record)}
        if not wanted or (method, target) not in record.maps:
            yield message, session
        if not wanted or number < session.newest:
            return
        drawn = self._drawn(words, record, method, target)
        yield message | {"maps": {f"{method}/{target}": drawn}}, session

    def record(self, session: Session, path: str, complete: bool = True) -> Record:
        """Return the record of an image; check the image if there is none.

        Args:
            complete: Whether to check the changed copies too, if that was not done.
        """
        with session.lock:
            record = session.find(path)
            if record is None:
                record = check(self.detector, path)
                session.keep(record)
        if complete:
            record.check_copies(self.detector)
        return record

    def map(self, record: Record, method: str, target: str) -> Map:
        """Return a map of an image; draw it if there is none."""
        with record.working:
            if drawn := record.maps.get((method, target)):
                return drawn
            started = time.perf_counter()
            explanation = self.detector.explain(
                record.path, method=method, target=target, evidence=True
            )
            views = mapped_views(method, len(record.tiles))
            self.measured[method] = (time.perf_counter() - started) / max(1, views)
            drawn = draw_map(explanation, record.tiles, record.name)
            record.keep(drawn)
        return drawn

    def parts(self, words: Words, record: Record) -> dict[str, str]:
        """Return the pieces of an answer as HTML, at a prior of one half."""
        prediction = record.prediction
        return {
            "verdict": render(
                "check",
                "verdict",
                words,
                prediction=prediction,
                calibrated=self.calibrated,
                statement=record.statement,
                why=words.why(prediction, record.tiles),
                looked=words.looked(prediction),
                rates=self.rates(words, prediction.verdict),
            ),
            "tiles": render("check", "tiles", words, record=record),
            "stability": render("check", "stability", words, record=record),
            "provenance": render("check", "provenance", words, provenance=record.provenance),
        }

    def rates(self, words: Words, *verdicts: str) -> list[str]:
        """Return the measured error rates for these verdicts, and how many answers were right."""
        rates = [words.error_rate(verdict, self.evaluation) for verdict in verdicts]
        return [rate for rate in (*rates, words.right_rate(self.evaluation)) if rate]

    def times(self, words: Words, record: Record) -> dict[str, str]:
        """Return the expected time of each method for an image, on this machine."""
        # The first images of a process and those on a busy machine take longer.
        self.seconds = min(self.seconds, record.seconds)
        n, times = len(record.tiles), {}
        for name, passes in PASSES.items():
            view = self.measured.get(name, passes * self.seconds)
            times[name] = words.duration(view * mapped_views(name, n))
        return times

    def _drawn(self, words: Words, record: Record, method: str, target: str) -> str:
        try:
            return render("check", "detail", words, map=self.map(record, method, target))
        except (ValueError, OSError) as error:
            reason = error_line(error, record.path)
        except Exception:
            logger.exception("The map of an upload could not be drawn by %s", method)
            reason = None
        return render("check", "detail_failed", words, reason=reason)


def check(detector: Detector, path: str) -> Record:
    """Check an image: verdict and metadata. It raises the errors of `read_once`."""
    decoded, data = read_once(path)
    started = time.perf_counter()
    prediction = detector.predict(decoded)
    seconds = time.perf_counter() - started
    if data is None:
        raise ValueError("There is no file to check; pass its path.")
    return Record(
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        size=decoded.size,
        picture=jpeg(decoded, MAP_SIDE),
        date=datetime.now(UTC),
        prediction=prediction,
        provenance=provenance_of(data),
        seconds=seconds / max(1, len(prediction.views)),
        tiles=tiles_of(prediction, decoded.size),
        decoded=decoded,
    )


def provenance_of(data: bytes) -> Provenance | None:
    """Read the metadata of a file, or return `None` if they cannot be read."""
    try:
        return read_provenance(data)
    except Exception:
        logger.exception("The metadata of an upload could not be read")
        return None


def with_copies(
    detector: Detector, decoded: Image.Image, prediction: Prediction
) -> tuple[Prediction, Stability | str]:
    """Check the changed copies of an image, as all tabs do.

    Returns:
        The prediction, which is inconclusive if the copies contradict it; and their stability, or
        the reason why they cannot be checked.
    """
    try:
        stable = detector.stability(decoded, original=prediction)
    except (ValueError, OSError) as error:
        return prediction, error_line(error, "")
    return replace(prediction, verdict=stable.verdict, reason=stable.reason), stable


def at_prior(prediction: Prediction, prior_ai: float) -> Prediction:
    """Move a prediction to another prior by Bayes' rule, as `Detector.predict(prior_ai=…)` does."""
    log_odds = float(with_prior(prediction.log_odds, prior_ai))
    return replace(
        prediction,
        label=AI if log_odds > 0 else REAL,
        probabilities={REAL: float(expit(-log_odds)), AI: float(expit(log_odds))},
        prior_ai=prior_ai,
    )


def is_calibrated(facts: object) -> bool:
    """Tell whether a checkpoint states that its calibration is folded into its weights."""
    stated = facts.get("calibration") if isinstance(facts, dict) else None
    return isinstance(stated, dict) and stated.get("folded") is True


def image_id(path: str) -> str:
    """Return the id of an upload: the folder that Gradio names after the hash of the file's bytes.

    The browser reads it from the address of the picture that it shows.
    """
    return Path(path).parent.name


def _problem(words: Words, reason: str | None = None) -> dict[str, str]:
    advice = words("problem.advice" if reason else "problem.unexpected_advice")
    return {"verdict": render("check", "problem", words, reason=reason, advice=advice)}
