"""Score a corpus of any size: threads score the chunks of a source and write Parquet shards.

Each thread decodes and scores whole batches on one core. The number of waiting batches is limited,
so memory does not grow with the corpus. The scores of an image depend on its chunk only, not on the
number of threads or processes.
"""

import contextlib
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count, groupby, islice
from operator import itemgetter
from pathlib import Path

from realfake.detector import Detector
from realfake.distributed import ProcessGroup
from realfake.engines import Choice
from realfake.models.preprocessing import Preprocessing
from realfake.runtime import lone_threads, one_thread
from realfake.scoring.scorer import Scorer, choose_engine
from realfake.scoring.shards import ScoreFolder
from realfake.scoring.source import Row, ScoringSource, Segment

BATCH_SIZE = 16
_REPORT_SECONDS = 10.0

# Segment, chunk and rows.
_Chunk = tuple[str, int, Iterator[Row]]
# From a folder for listings, and the fingerprint that the first process found or `None`.
OpenSource = Callable[[Path, str | None], ScoringSource]


@dataclass
class Progress:
    """The number of images that a process has scored, and its rate.

    Args:
        total: Number of images to score, `None` if unknown.
        log: *optional*. Called with a line of text every ten seconds.
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
        self.images += len(answers)
        self.errors += sum(answer.get("error") is not None for answer in answers)
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
    open_source: OpenSource,
    folder: ScoreFolder,
    identity: Mapping,
    *,
    group: ProcessGroup,
    part: tuple[int, int] = (0, 1),
    exact: bool = False,
    engine: str | None = None,
    batch_size: int | None = None,
    chunk_size: int | None = None,
    threads: int | None = None,
    views: int | None = None,
    log: Callable[[str], None],
) -> dict | None:
    """Score what is missing in a folder, together with the other processes of the group.

    Args:
        detector: The detector.
        open_source: Opens the images.
        folder: The folder of the shards.
        identity: What must be the same when a run is continued, such as the checkpoint.
        group: The processes that were started together.
        part: `(index, number)` of this job among separate jobs.
        exact: Whether to compute in fp32 only.
        engine: *optional*. The engine; *defaults to* the fastest within tolerance.
        batch_size: *optional*. Images per forward pass; *defaults to* 16, or the size of the
            first run.
        chunk_size: *optional*. Images per shard; *defaults to* a size that depends on the source,
            or the size of the first run.
        threads: *optional*. Number of threads; *defaults to* this process's share of the cores.
        views: *optional*. As in [`~realfake.detector.Detector.predict`].
        log: Called with lines about the progress.

    Returns:
        In the first process, the counts of [`summarise`].

    Raises:
        ValueError: The folder holds other scores, or an option does not fit.
        OSError: Something cannot be read or written, or another run writes to the folder.
    """
    threads = threads or group.threads()
    preprocessing = Preprocessing(detector.processor)
    index, number = part
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as lock:
        scratch = folder.scratch() or Path(temporary)

        def prepare() -> tuple[str, dict, list[tuple[int, int]]]:
            if number == 1:  # separate jobs share the folder
                lock.enter_context(folder.lock())
            folder.sweep()
            source = open_source(scratch, None)
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
                choice = choose_engine(detector, source, preprocessing, exact=exact, engine=engine)
                manifest = folder.write_manifest(current, choice.to_dict())
            folder.check(manifest, current)
            used = manifest["engine"]["engine"]
            if engine not in (None, used):
                raise ValueError(
                    f"{folder.location} was started with --engine {used}; leave out --engine, or "
                    "choose another --output."
                )
            chunks = [] if source.streamed else missing(source, folder, current["chunk_size"])
            return source.fingerprint, manifest, chunks

        fingerprint, manifest, chunks = group.broadcast_from_first(prepare)
        source = open_source(scratch, fingerprint)
        if source.fingerprint != fingerprint:
            raise ValueError(
                "The processes see different sources; give all of them the same files."
            )
        if group.is_first:
            for note in source.notes:
                log(note)
        settings = {
            "chunk_size": manifest["identity"]["chunk_size"],
            "batch_size": manifest["identity"]["batch_size"],
            "threads": threads,
        }
        choice = Choice.from_dict(manifest["engine"])

        def scorer() -> Scorer:
            return Scorer(detector, choice, threads, preprocessing, views)

        if source.streamed:
            progress = score_stream(
                scorer(),
                source,
                folder,
                process=index * group.world_size + group.rank,
                processes=number * group.world_size,
                log=log,
                **settings,
            )
        else:
            # Separate jobs start at different times, so their shares must not depend on which
            # chunks are finished.
            chunks = [chunk for chunk in chunks if chunk[1] % number == index]
            chunks = chunks[group.rank :: group.world_size]
            log(
                f"Scoring {len(chunks):,} chunks of {settings['chunk_size']:,} images with "
                f"{choice.engine}, {threads} threads."
            )
            progress = Progress(0)
            if chunks:
                progress = score_chunks(scorer(), source, folder, chunks, log=log, **settings)
        log(progress.line())
        if choice.band and progress.deviation > choice.band:
            log(
                f"Log-odds deviated by {progress.deviation:.3f} from fp32, more than the expected "
                f"{choice.band:.3f}; use --exact to compute all of them in fp32."
            )
        group.barrier()
        counts = None
        if group.is_first:
            counts = summarise(source, folder, settings["chunk_size"])
        group.barrier()
    return counts


def missing(source: ScoringSource, folder: ScoreFolder, chunk_size: int) -> list[tuple[int, int]]:
    """Return the `(index of the segment, chunk)` without scores, for a source of known length."""
    finished = set(folder.chunks())
    return [
        (index, chunk)
        for index, segment in enumerate(source.segments)
        for chunk in range(-(-segment.rows // chunk_size))
        if (segment.name, chunk) not in finished
    ]


def score_chunks(
    scorer: Scorer,
    source: ScoringSource,
    folder: ScoreFolder,
    chunks: Sequence[tuple[int, int]],
    *,
    chunk_size: int,
    batch_size: int = BATCH_SIZE,
    threads: int = 1,
    log: Callable[[str], None] | None = None,
) -> Progress:
    """Score chunks of a source of known length and write their shards.

    Args:
        scorer: The scorer, created for this number of threads.
        source: The source.
        folder: The folder of the shards.
        chunks: As [`missing`] returns them.
        chunk_size: Images per chunk.
        batch_size: Images per forward pass.
        threads: Number of threads.
        log: As for [`Progress`].
    """

    def read() -> Iterator[_Chunk]:
        for index, chunk in chunks:
            segment = source.segments[index]
            rows = segment.read(chunk * chunk_size, (chunk + 1) * chunk_size)
            yield segment.name, chunk, rows

    total = sum(
        min(chunk_size, source.segments[index].rows - chunk * chunk_size) for index, chunk in chunks
    )
    return _run(scorer, folder, read(), batch_size, threads, Progress(total, log))


def score_stream(
    scorer: Scorer,
    source: ScoringSource,
    folder: ScoreFolder,
    *,
    process: int = 0,
    processes: int = 1,
    chunk_size: int,
    batch_size: int = BATCH_SIZE,
    threads: int = 1,
    log: Callable[[str], None] | None = None,
) -> Progress:
    """Score a process's share of a stream: whole files, or every n-th chunk if files are few.

    Args:
        process: Number of this process, from 0.
        processes: Number of processes.

        The others are those of [`score_chunks`].
    """
    whole = len(source.segments) >= processes
    segments = source.segments[process::processes] if whole else source.segments

    def is_mine(chunk: int) -> bool:
        return whole or chunk % processes == process

    def read() -> Iterator[_Chunk]:
        for segment in segments:
            yield from _stream_chunks(segment, folder, chunk_size, is_mine)

    return _run(scorer, folder, read(), batch_size, threads, Progress(None, log))


def _stream_chunks(
    segment: Segment, folder: ScoreFolder, size: int, is_mine: Callable[[int], bool]
) -> Iterator[_Chunk]:
    """Yield the missing chunks of a streamed segment; read each before the next one."""
    length = folder.read_length(segment.name)
    finished = {chunk for name, chunk in folder.chunks() if name == segment.name}
    possible = count() if length is None else range(-(-length // size))
    first = next((chunk for chunk in possible if is_mine(chunk) and chunk not in finished), None)
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
        if is_mine(chunk) and chunk not in finished:
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

    def write(segment: str, chunk: int, results: list[tuple[list[dict], float]]) -> None:
        answers = [answer for rows, _ in results for answer in rows]
        deviation = max((deviation for _, deviation in results), default=0.0)
        facts = {"engine": scorer.choice.engine, "largest_log_odds_deviation": deviation}
        folder.write(segment, chunk, answers, facts)

    if threads == 1:
        with one_thread():
            for segment, chunk, rows in chunks:
                results = []
                for batch in _batched(rows, batch_size):
                    results.append(scorer(batch))
                    progress.add(*results[-1])
                write(segment, chunk, results)
        return progress
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
                segment, chunk, futures = unwritten.popleft()
                write(segment, chunk, [future.result() for future in futures])
        for future in running:
            progress.add(*future.result())
        for segment, chunk, futures in unwritten:
            write(segment, chunk, [future.result() for future in futures])
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
