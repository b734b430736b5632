"""The second tab: many images or ZIP archives, one row for each image, as a table, CSV and JSON."""

import csv
import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import gradio as gr
from PIL import Image

from realfake.answer import compose, read_once
from realfake.detector import Detector
from realfake.imaging.archive import Bounds, count, is_archive, read_archive
from realfake.labels import AI, NAMES, REAL
from realfake.prediction import VARIANTS, Prediction, Stability
from realfake.provenance.reading import Statement, statement_of
from realfake.space.handlers import provenance_of, with_copies
from realfake.space.text import Localised, Words, error_line, jpeg, render, words_for
from realfake.space.uploads import new_folder
from realfake.statistics.verdicts import INCONCLUSIVE

logger = logging.getLogger(__name__)

MAX_IMAGES = 200
BOUNDS = Bounds(max_entries=MAX_IMAGES)
# Images and copies in one chunk. A run can be cancelled between chunks.
CHUNK = 8
# Seconds between two updates of the table.
REFRESH = 0.7
THUMBNAIL = 112
COLUMNS = (
    "file",
    "verdict",
    "reason",
    "label",
    *NAMES,
    "log_odds",
    "alpha",
    "ood",
    "model",
    "revision",
    "sha256",
    "error",
)
# A cell that starts with one of these is a formula to a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
SCRIPT = Path(__file__).with_name("sorting.js")


@dataclass(frozen=True)
class Row:
    """One image of a batch: its answer (as in `realfake.answer`), or why there is none."""

    name: str
    answer: dict | None = None
    thumbnail: bytes = field(default=b"", repr=False)  # a JPEG  # a JPEG  # a JPEG
    problem: str | None = None
    statement: Statement | None = None

    @property
    def rank(self) -> int:
        """The order in which a person should look at the rows, from 0."""
        if self.answer is None:
            return 3
        verdict = self.answer["verdict"]
        says_ai = self.statement is not None and self.statement.claim != "camera"
        if self.answer["reason"] == "differing" or (says_ai and verdict == REAL):
            return 0
        return {AI: 1, INCONCLUSIVE: 2}.get(verdict, 4)


class _File(NamedTuple):
    name: str
    image: Image.Image
    data: bytes


# The name of an image, its path or bytes, and why it cannot be read.
Source = tuple[str, str | bytes | None, str | None]


def build_batch(detector: Detector, local: Localised, time_to_live: int) -> None:
    """Lay out the tab, inside `gr.Blocks`; its state is dropped after `time_to_live` seconds."""
    with gr.Column(elem_id="rf-batch", elem_classes="rf-panel"):
        gr.HTML(local.html("batch_title", lambda t: render("batch", "title", t, n=MAX_IMAGES)))
        files = gr.File(
            label=local("batch.files"),
            file_count="multiple",
            file_types=["image", ".zip"],
            height=180,
            elem_id="rf-files",
        )
        stability = gr.Checkbox(
            value=True,
            label=local("batch.stability"),
            container=False,
            elem_id="rf-batch-stability",
        )
        status = gr.HTML(
            local.html("batch_idle", lambda t: _status(t, t("batch.idle"))),
            elem_id="rf-batch-status",
            js_on_load="element.setAttribute('aria-live', 'polite');",
        )
        with gr.Row(elem_id="rf-batch-buttons"):
            cancel = gr.Button(
                local("batch.cancel"), interactive=False, elem_id="rf-cancel", min_width=110
            )
            table_file, data_file = (
                gr.DownloadButton(
                    local(f"batch.{kind}"), interactive=False, elem_id=elem_id, min_width=110
                )
                for kind, elem_id in (("csv", "rf-csv"), ("json", "rf-batch-json"))
            )
        table = gr.HTML(elem_id="rf-rows", js_on_load=SCRIPT.read_text(encoding="utf-8"))
    run = gr.State({}, time_to_live=time_to_live)
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    gr.on(
        [files.change, stability.input],
        Batch(detector).judge,
        [run, files, stability],
        [status, table, cancel, table_file, data_file],
        concurrency_limit=2,
        concurrency_id="batch",
        trigger_mode="multiple",
        **quiet,
    )
    cancel.click(stop, run, cancel, concurrency_limit=None, **quiet)


def stop(run: dict) -> dict:
    """End the run of this session after the images that it is working on."""
    run["stop"] = True
    return gr.update(interactive=False)


class Batch:
    """Checks many images with one detector."""

    def __init__(self, detector: Detector):
        self.detector = detector

    def judge(
        self,
        run: dict,
        files: list[str] | None,
        stability: bool = True,
        request: gr.Request | None = None,
    ) -> Iterator[tuple]:
        """Check files, and those in archives.

        Args:
            run: The state of the session's run. A newer run ends an older one, as [`stop`] does.
            files: Paths.
            stability: Whether to check changed copies as well, as the first tab does.

        Yields:
            Status and table as HTML, and updates of the cancel button and of both downloads.
        """
        words = words_for(request)
        token = run["token"] = uuid4().hex
        run["stop"] = False
        if not files:
            yield _status(words, words("batch.idle")), "", *_buttons(running=False)
            return
        total = min(sum(_expected(path) for path in files), MAX_IMAGES)
        message = words("batch.progress", done=0, total=total)
        yield _status(words, message, 0, total), "", *_buttons(running=True)
        rows: list[Row] = []
        started, shown = time.monotonic(), 0.0
        sources = islice(_sources(files), MAX_IMAGES + 1)
        while chunk := list(islice(sources, CHUNK // len(VARIANTS) if stability else CHUNK)):
            rows += self._check(words, chunk, stability)
            if run.get("token") != token:
                # Gradio sends the last output of an event again when it ends.
                yield (gr.skip(),) * 5
                return
            if run.get("stop"):
                break
            now = time.monotonic()
            if now - shown > REFRESH:
                shown = now
                left = (now - started) / len(rows) * max(total - len(rows), 0)
                key = "batch.eta" if now - started > 1 else "batch.progress"
                message = words(key, done=len(rows), total=total, left=words.duration(left))
                status = _status(words, message, len(rows), total)
                yield status, table(words, rows), *_buttons(running=True)
        message = _summary(words, rows[:MAX_IMAGES], total, run.get("stop"))
        if len(rows) > MAX_IMAGES:
            rows = rows[:MAX_IMAGES]
            message = f"{message} {words('batch.too_many', n=MAX_IMAGES)}"
        status = _status(words, message, len(rows), max(total, len(rows)))
        yield status, table(words, rows), *_buttons(running=False, rows=rows)

    def _check(self, words: Words, sources: list[Source], stability: bool) -> list[Row]:
        """The rows of one chunk. Without changed copies, the chunk is one batch of the model."""
        read = [self._read(words, *source) for source in sources]
        images = [each.image for each in read if not isinstance(each, Row)]
        try:
            results = iter(self._predict(images, stability))
        except Exception:
            logger.exception("The detector failed on a batch")
            failed = words("problem.unexpected")
            return [
                each if isinstance(each, Row) else Row(each.name, problem=failed) for each in read
            ]
        return [each if isinstance(each, Row) else self._row(each, *next(results)) for each in read]

    def _row(self, file: _File, prediction: Prediction, stable: Stability | None) -> Row:
        provenance = provenance_of(file.data)
        answer = compose(
            self.detector,
            prediction,
            file.image,
            file.data,
            stability=stable,
            provenance=provenance or False,
        )
        small = jpeg(file.image, THUMBNAIL, quality=60)
        return Row(file.name, answer, small, statement=statement_of(provenance))

    def _read(
        self, words: Words, name: str, source: str | bytes | None, problem: str | None
    ) -> _File | Row:
        """The image and its bytes, or a row with the problem."""
        if problem is not None or source is None:
            return Row(name, problem=problem)
        path = source if isinstance(source, str) else None
        try:
            image, data = read_once(path or {"bytes": source, "path": name})
            return _File(name, image, data or b"")
        except (ValueError, OSError) as error:
            return Row(name, problem=error_line(error, path or name))
        except Exception:
            logger.exception("An image of a batch could not be read")
            return Row(name, problem=words("problem.unexpected"))

    def _predict(
        self, images: list[Image.Image], stability: bool
    ) -> list[tuple[Prediction, Stability | None]]:
        predictions = self.detector.predict(images) if images else []
        if not stability:
            return [(each, None) for each in predictions]
        results = [
            with_copies(self.detector, *each) for each in zip(images, predictions, strict=True)
        ]
        return [
            (prediction, stable if isinstance(stable, Stability) else None)
            for prediction, stable in results
        ]


def table(words: Words, rows: Sequence[Row]) -> str:
    """Return the rows as an HTML table, those that need a look first; `sorting.js` sorts it."""
    return render("batch", "table", words, rows=sorted(rows, key=lambda row: row.rank))


def write(rows: Sequence[Row]) -> tuple[str, str]:
    """Write the rows as CSV and as JSON, and return both paths."""
    folder = new_folder()
    with open(folder / "realfake.csv", "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            answer = row.answer or {}
            cells = {**answer, **answer.get("probabilities", {})}
            names = {"file": _harmless(row.name), "error": _harmless(row.problem or "")}
            writer.writerow(cells | names)
    entries = [{"file": row.name, **(row.answer or {"error": row.problem})} for row in rows]
    text = json.dumps(entries, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "realfake.json").write_text(text + "\n", encoding="utf-8")
    return str(folder / "realfake.csv"), str(folder / "realfake.json")


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def _status(words: Words, message: str, done: int | None = None, total: int = 0) -> str:
    return render("batch", "status", words, message=message, done=done, total=total)


def _summary(words: Words, rows: list[Row], total: int, stopped: bool) -> str:
    if stopped:
        return words("batch.cancelled", done=len(rows), total=total)
    verdicts = [row.answer["verdict"] for row in rows if row.answer]
    counts = {verdict: verdicts.count(verdict) for verdict in ("ai", "real", "inconclusive")}
    return words("batch.finished", total=len(rows), bad=len(rows) - len(verdicts), **counts)


def _expected(path: str) -> int:
    """The number of rows for a file. A refused archive has one, with the reason."""
    if not is_archive(path):
        return 1
    try:
        return count(path, BOUNDS)
    except ValueError:
        return 1


def _sources(files: Iterable[str]) -> Iterator[Source]:
    for path in files:
        if not is_archive(path):
            yield Path(path).name, path, None
            continue
        try:
            for entry in read_archive(path, BOUNDS):
                yield entry.name, entry.data, entry.problem
        except (ValueError, OSError) as error:
            yield Path(path).name, None, error_line(error, path)


def _buttons(running: bool, rows: Sequence[Row] = ()) -> tuple[dict, dict, dict]:
    cancel = gr.update(interactive=running)
    if not rows:
        return cancel, gr.update(interactive=False), gr.update(interactive=False)
    table_file, data_file = write(rows)
    return (
        cancel,
        gr.update(value=table_file, interactive=True),
        gr.update(value=data_file, interactive=True),
    )
