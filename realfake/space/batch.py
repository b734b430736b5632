"""The second tab: many images or a ZIP archive, a row each as they are judged, a table to sort and to keep.

Widgets and the loop that fills the table; archives are read by `realfake.imaging.archive`, rows are drawn by `rows`.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from uuid import uuid4

import gradio as gr
from PIL import Image

from realfake.answer import compose, read_once
from realfake.detector import Detector
from realfake.imaging.archive import Bounds, count, is_archive, read_archive
from realfake.prediction import VARIANTS, Prediction, Stability
from realfake.space import render, rows
from realfake.space.handlers import judge, language
from realfake.space.localised import Localised
from realfake.space.rows import Row
from realfake.space.text import Words

logger = logging.getLogger(__name__)

MAX_IMAGES = 200
BOUNDS = Bounds(max_entries=MAX_IMAGES)
# Inputs of the model between two looks at whether to go on.
CHUNK = 8
# Seconds between two pictures of the table.
REFRESH = 0.7


def build_batch(detector: Detector, local: Localised, time_to_live: int) -> None:
    """Lay the tab out, inside `gr.Blocks`.

    Args:
        detector: Judges the images.
        local: Takes the texts.
        time_to_live: Seconds that the state of a run is kept.
    """
    with gr.Column(elem_id="rf-batch", elem_classes="rf-panel"):
        gr.HTML(
            local.html("batch_title", lambda words: render.section(words, "batch", n=MAX_IMAGES))
        )
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
            local.html("batch_idle", lambda words: rows.status(words("batch.idle"))),
            elem_id="rf-batch-status",
            js_on_load="element.setAttribute('aria-live', 'polite');",
        )
        with gr.Row(elem_id="rf-batch-buttons"):
            cancel = gr.Button(
                local("batch.cancel"), interactive=False, elem_id="rf-cancel", min_width=110
            )
            csv = gr.DownloadButton(
                local("batch.csv"), interactive=False, elem_id="rf-csv", min_width=110
            )
            data = gr.DownloadButton(
                local("batch.json"), interactive=False, elem_id="rf-batch-json", min_width=110
            )
        table = gr.HTML(elem_id="rf-rows", js_on_load=rows.SORTING)

    run = gr.State({}, time_to_live=time_to_live)
    batch = Batch(detector)
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    gr.on(
        [files.change, stability.input],
        batch.judge,
        [run, files, stability],
        [status, table, cancel, csv, data],
        concurrency_limit=2,
        concurrency_id="batch",
        trigger_mode="multiple",
        **quiet,
    )
    cancel.click(stop, run, cancel, concurrency_limit=None, **quiet)


def stop(run: dict) -> dict:
    """Ask the run of this session to end after the images it is at."""
    run["stop"] = True
    return gr.update(interactive=False)


class Batch:
    """Judges many images with one detector."""

    def __init__(self, detector: Detector):
        self.detector = detector

    def judge(
        self,
        run: dict,
        files: list[str] | None,
        stability: bool = True,
        request: gr.Request | None = None,
    ) -> Iterator[tuple]:
        """Judge files, those in archives included.

        Args:
            run: The session's record of what is being judged; a newer run ends this one, as [`stop`] does.
            files: Paths.
            stability: Whether to judge changed copies as well, as the first tab does.

        Yields:
            The status and the table as HTML, and updates of the buttons for cancelling and for both downloads.
        """
        words = language(request)
        token = run["token"] = uuid4().hex
        run["stop"] = False
        if not files:
            yield rows.status(words("batch.idle")), "", *_buttons(running=False)
            return
        total = min(sum(_expected(path) for path in files), MAX_IMAGES)
        done: list[Row] = []
        started, shown = time.monotonic(), 0.0
        yield (
            rows.status(words("batch.progress", done=0, total=total), 0, total),
            "",
            *_buttons(running=True),
        )
        sources = islice(_sources(files), MAX_IMAGES + 1)
        while chunk := list(islice(sources, CHUNK // len(VARIANTS) if stability else CHUNK)):
            done += self._judge(words, chunk, stability)
            if run.get("token") != token:
                return
            if run.get("stop"):
                break
            now = time.monotonic()
            if now - shown > REFRESH:
                shown = now
                left = (now - started) / len(done) * max(total - len(done), 0)
                key = "batch.eta" if now - started > 1 else "batch.progress"
                said = words(key, done=len(done), total=total, left=words.duration(left))
                yield (
                    rows.status(said, len(done), total),
                    rows.table(words, done),
                    *_buttons(running=True),
                )
        more, done = len(done) > MAX_IMAGES, done[:MAX_IMAGES]
        said = self._summary(words, done, total, run.get("stop"))
        if more:
            said = f"{said} {words('batch.too_many', n=MAX_IMAGES)}"
        yield (
            rows.status(said, len(done), max(total, len(done))),
            rows.table(words, done),
            *_buttons(False, done),
        )

    def _judge(
        self,
        words: Words,
        sources: list[tuple[str, str | bytes | None, str | None]],
        stability: bool,
    ) -> list[Row]:
        """One chunk: read each, judge together those that could be read."""
        read = []
        for name, source, problem in sources:
            if problem is None:
                try:
                    read.append(
                        (
                            name,
                            *read_once(
                                source
                                if isinstance(source, str)
                                else {"bytes": source, "path": name}
                            ),
                            None,
                        )
                    )
                    continue
                except (ValueError, OSError) as error:
                    problem = render.reason(error, source if isinstance(source, str) else name)
                except Exception:
                    logger.exception("An image of a batch could not be read")
                    problem = words("problem.unexpected")
            read.append((name, None, None, problem))
        usable = [decoded for _, decoded, _, _ in read if decoded is not None]
        try:
            found = iter(self._found(usable, stability))
        except Exception:
            logger.exception("The detector failed on a batch")
            return [
                Row(name, problem=problem or words("problem.unexpected"))
                for name, _, _, problem in read
            ]
        done = []
        for name, decoded, data, problem in read:
            if decoded is None:
                done.append(Row(name, problem=problem))
            else:
                prediction, stable = next(found)
                stable = stable if isinstance(stable, Stability) else False
                answer = compose(self.detector, prediction, decoded, data, stability=stable)
                done.append(Row(name, answer, rows.thumbnail(decoded)))
        return done

    def _found(
        self, images: list[Image.Image], stability: bool
    ) -> list[tuple[Prediction, Stability | str | None]]:
        if stability:
            return [judge(self.detector, image) for image in images]
        return (
            [(prediction, None) for prediction in self.detector.predict(images)] if images else []
        )

    @staticmethod
    def _summary(words: Words, done: list[Row], total: int, stopped: bool) -> str:
        if stopped:
            return words("batch.cancelled", done=len(done), total=total)
        verdicts = [row.answer["verdict"] for row in done if row.answer]
        counts = {verdict: verdicts.count(verdict) for verdict in ("ai", "real", "inconclusive")}
        return words("batch.finished", total=len(done), bad=len(done) - len(verdicts), **counts)


def _expected(path: str) -> int:
    if not is_archive(path):
        return 1
    try:
        return count(path, BOUNDS)
    except ValueError:
        return 1  # the row that says why it is refused


def _sources(files: Iterable[str]) -> Iterator[tuple[str, str | bytes | None, str | None]]:
    """`(name, path or bytes, problem)` of each image, archives opened."""
    for path in files:
        if not is_archive(path):
            yield Path(path).name, path, None
            continue
        try:
            for entry in read_archive(path, BOUNDS):
                yield entry.name, entry.data, entry.problem
        except (ValueError, OSError) as error:
            yield Path(path).name, None, render.reason(error, path)


def _buttons(running: bool, done: list[Row] | None = None) -> tuple:
    """Cancel, and both downloads, which there is something for once the run has ended."""
    cancel = gr.update(interactive=running)
    if not done:
        return cancel, gr.update(interactive=False), gr.update(interactive=False)
    csv, data = rows.write(done)
    return cancel, gr.update(value=csv, interactive=True), gr.update(value=data, interactive=True)
