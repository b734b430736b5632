"""Score a corpus of any size: threads score the chunks of a source and write Parquet shards.

Each thread decodes and scores whole batches on one core. The number of waiting batches is limited,
so memory does not grow with the corpus. The scores of an image depend on its chunk only, not on the
number of threads or machines.
"""

import os
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from realfake.detector import Detector
from realfake.engines import Choice
from realfake.runtime import lone_threads
from realfake.scoring.scorer import Scorer, choose_engine
from realfake.scoring.shards import ScoreFolder
from realfake.scoring.source import Row, ScoringSource, Segment

if TYPE_CHECKING:
    from realfake.scoring.cluster import Cluster

BATCH_SIZE = 16
_REPORT_SECONDS = 10.0

# Index of a segment, and a chunk of it, or `None` for all chunks of a stream.
Task = tuple[int, int | None]
# Segment, chunk and rows.
_Chunk = tuple[str, int, Iterator[Row]]


@dataclass
class Progress:
    """The number of images that a process has scored of `total` (`None` if unknown), and its rate.

    `log` is called with a line of text every ten seconds.
    """

    total: int | None
    log: Callable[[str], None] | None = None
    images: int = 0
    errors: int = 0
    deviation: float = 0.0
    started: float = field(default_factory=time.monotonic)
    reported: float = field(default_factory=time.monotonic)

    def add(self, answers: Sequence[Mapping], deviation: float) -> None:
        """Count a batch."""
        errors = sum(answer.get("error") is not None for answer in answers)
        self.count(len(answers), errors, deviation)

    def count(self, images: int, errors: int, deviation: float) -> None:
        """Count images."""
        self.images += images
        self.errors += errors
        self.deviation = max(self.deviation, deviation)
        if self.log and time.monotonic() - self.reported >= _REPORT_SECONDS:
            self.reported = time.monotonic()
            self.log(self.line())

    def line(self) -> str:
        """Return the progress on one line."""
        rate = self.images / max(time.monotonic() - self.started, 1e-9)
        of_total = left = ""
        if self.total:
            of_total = f" of {self.total:,} ({self.images / self.total:.0%})"
            if 0 < self.images < self.total:
                left = f", {duration((self.total - self.images) / rate)} left"
        errors = f", {self.errors:,} unreadable" if self.errors else ""
        return f"{self.images:,}{of_total} images, {rate:.1f} per second{left}{errors}"


def duration(seconds: float) -> str:
    """Return a time as text, such as `5 min 0 s`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def score_corpus(
    detector: Detector,
    open_source: Callable[[Path], ScoringSource],
    folder: ScoreFolder,
    identity: Mapping,
    *,
    exact: bool = False,
    engine: str | None = None,
    batch_size: int | None = None,
    chunk_size: int | None = None,
    threads: int | None = None,
    views: int | None = None,
    early_exit: bool = False,
    cluster: "Cluster | None" = None,
    log: Callable[[str], None],
) -> dict:
    """Score what is missing in a folder.

    Args:
        open_source: Opens the images, with a folder for their listing.
        identity: What must be the same when a run is continued, such as the checkpoint.
        exact: Whether to compute in fp32 only.
        engine: *optional*. The engine; *defaults to* the fastest within tolerance.
        batch_size: *optional*. Images per forward pass; *defaults to* 16, or the size of the
            first run.
        chunk_size: *optional*. Images per shard; *defaults to* a size that depends on the source,
            or the size of the first run.
        threads: *optional*. Number of threads; *defaults to* the number of cores.
        views, early_exit: As for [`~realfake.scoring.scorer.Scorer`].
        cluster: *optional*. Score on the machines of a Ray cluster.
        log: Called with lines about the progress.

    Returns:
        The counts of [`summarise`].

    Raises:
        ValueError: The folder holds other scores, or an option does not fit.
        OSError: Something cannot be read or written, or another run writes to the folder.
    """
    threads = threads or len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as temporary, folder.lock():
        source = open_source(folder.scratch() or Path(temporary))
        for note in source.notes:
            log(note)
        folder.sweep()
        manifest = folder.read_manifest()
        stored = (manifest or {}).get("identity", {})
        current = {
            "source": source.fingerprint,
            **identity,
            "exact": exact,
            "batch_size": batch_size or stored.get("batch_size") or BATCH_SIZE,
            "chunk_size": chunk_size or stored.get("chunk_size") or source.default_chunk(),
        }
        if manifest is None:
            choice = choose_engine(detector, source, exact=exact, engine=engine)
            manifest = folder.write_manifest(current, choice.to_dict())
        folder.check(manifest, current)
        used = manifest["engine"]["engine"]
        if engine not in (None, used):
            raise ValueError(
                f"{folder.location} was started with --engine {used}; leave out --engine, or "
                "choose another --output."
            )
        choice = Choice.from_dict(manifest["engine"])
        settings = {name: manifest["identity"][name] for name in ("chunk_size", "batch_size")}
        tasks = open_tasks(source, folder, settings["chunk_size"])
        if cluster is not None:
            progress = cluster.score(tasks, source, manifest, views, early_exit, log)
        else:
            log(f"Scoring with {choice.engine}, {threads} threads.")
            scorer = Scorer(detector, choice, threads, views, early_exit)
            progress = score_tasks(
                scorer, source, folder, tasks, threads=threads, log=log, **settings
            )
        log(progress.line())
        if choice.band and progress.deviation > choice.band:
            log(
                f"Log-odds deviated by {progress.deviation:.3f} from fp32, more than the expected "
                f"{choice.band:.3f}; use --exact to compute all of them in fp32."
            )
        return summarise(source, folder, settings["chunk_size"])


def open_tasks(source: ScoringSource, folder: ScoreFolder, chunk_size: int) -> list[Task]:
    """Return what is not scored yet: chunks, or whole files of a stream."""
    if source.streamed:
        return [(index, None) for index in range(len(source.segments))]
    return list(missing(source, folder, chunk_size))


def score_tasks(
    scorer: Scorer,
    source: ScoringSource,
    folder: ScoreFolder,
    tasks: Sequence[Task],
    *,
    chunk_size: int,
    batch_size: int = BATCH_SIZE,
    threads: int = 1,
    log: Callable[[str], None] | None = None,
) -> Progress:
    """Score tasks of [`open_tasks`] with a scorer for as many threads, and write their shards."""

    def read() -> Iterator[_Chunk]:
        for index, chunk in tasks:
            segment = source.segments[index]
            if chunk is None:
                yield from _stream_chunks(segment, folder, chunk_size)
            else:
                rows = segment.read(chunk * chunk_size, (chunk + 1) * chunk_size)
                yield segment.name, chunk, rows

    progress = Progress(count_images(source, tasks, chunk_size), log)
    return _run(scorer, folder, read(), batch_size, threads, progress)


def count_images(source: ScoringSource, tasks: Sequence[Task], chunk_size: int) -> int | None:
    """Return the number of images of tasks; `None` for a stream."""
    if source.streamed:
        return None
    return sum(
        min(chunk_size, source.segments[index].rows - chunk * chunk_size)
        for index, chunk in tasks
        if chunk is not None
    )


def missing(source: ScoringSource, folder: ScoreFolder, chunk_size: int) -> list[tuple[int, int]]:
    """Return the `(index of the segment, chunk)` without scores, for a source of known length."""
    finished = set(folder.chunks())
    return [
        (index, chunk)
        for index, segment in enumerate(source.segments)
        for chunk in range(-(-segment.rows // chunk_size))
        if (segment.name, chunk) not in finished
    ]


def _stream_chunks(segment: Segment, folder: ScoreFolder, size: int) -> Iterator[_Chunk]:
    """Yield the missing chunks of a streamed segment; read each before the next one."""
    length = folder.read_length(segment.name)
    finished = {chunk for name, chunk in folder.chunks() if name == segment.name}
    possible = count() if length is None else range(-(-length // size))
    first = next((chunk for chunk in possible if chunk not in finished), None)
    if first is None:
        return
    if length is None:
        # Start at a chunk that has rows: skipping past the end would look like the end.
        first = max((chunk for chunk in finished if chunk < first), default=0)
    position = first * size

    def rows() -> Iterator[tuple[int, Row]]:
        nonlocal position
        for row in segment.read(position, None):
            position += 1
            yield (position - 1) // size, row

    for chunk, numbered in groupby(rows(), key=itemgetter(0)):
        if chunk not in finished:
            yield segment.name, chunk, map(itemgetter(1), numbered)
    if length is None:
        folder.write_length(segment.name, position)


def _batched(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    rows = iter(rows)
    while batch := list(islice(rows, size)):
        yield batch


def _run(
    scorer: Scorer,
    folder: ScoreFolder,
    chunks: Iterator[_Chunk],
    batch_size: int,
    threads: int,
    progress: Progress,
) -> Progress:
    """Score as many batches at a time as there are threads, and write every finished chunk."""

    def write(segment: str, chunk: int, futures: list[Future]) -> None:
        results = [future.result() for future in futures]
        answers = [answer for rows, _ in results for answer in rows]
        deviation = max((deviation for _, deviation in results), default=0.0)
        facts = {"engine": scorer.choice.engine, "largest_log_odds_deviation": deviation}
        folder.write(segment, chunk, answers, facts)

    unwritten: deque[tuple[str, int, list[Future]]] = deque()  # oldest first
    running: deque[Future] = deque()
    with lone_threads(threads) as pool:
        for segment, chunk, rows in chunks:
            futures: list[Future] = []
            for batch in _batched(rows, batch_size):
                while len(running) >= 2 * threads:
                    progress.add(*running.popleft().result())
                futures.append(pool.submit(scorer, batch))
                running.append(futures[-1])
            unwritten.append((segment, chunk, futures))
            while unwritten and all(future.done() for future in unwritten[0][2]):
                write(*unwritten.popleft())
        for future in running:
            progress.add(*future.result())
        for finished in unwritten:
            write(*finished)
    return progress


def summarise(source: ScoringSource, folder: ScoreFolder, chunk_size: int) -> dict:
    """Count the rows of all shards.

    Returns:
        `{"images", "missing", "unreadable", "recomputed", "verdicts": {name: images}}`; `missing`
        is the number of images without a row.
    """
    verdicts: Counter = Counter()
    images = unreadable = recomputed = expected = 0
    for segment in source.segments:
        rows = segment.rows if segment.rows is not None else folder.read_length(segment.name)
        expected += rows or 0
        for chunk in range(-(-(rows or 0) // chunk_size)):
            if not folder.has(segment.name, chunk):
                continue
            table = folder.read(segment.name, chunk, ["verdict", "error", "recomputed"])
            images += len(table)
            unreadable += len(table) - table["error"].null_count
            recomputed += sum(filter(None, table["recomputed"].to_pylist()))
            verdicts.update(filter(None, table["verdict"].to_pylist()))
    return {
        "images": images,
        "missing": expected - images,
        "unreadable": unreadable,
        "recomputed": recomputed,
        "verdicts": dict(sorted(verdicts.items())),
    }
