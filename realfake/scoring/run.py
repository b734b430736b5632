"""Go through a corpus of any size: chunks of a source → threads that score them → Parquet shards.

Each thread takes a batch from file to scores, one image decoded at a time, and computes on one core: while one thread
decodes, another runs the network, and no thread waits for the slowest part of an operation split among them. Batches wait in
a bounded queue, so memory does not grow with the corpus. What an image scores depends on its chunk alone, not on how many
threads or processes there are. `scripts/score.py` is the command.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count, groupby, islice
from operator import itemgetter

from realfake.runtime import lone_threads, one_thread
from realfake.scoring.scorer import Scorer
from realfake.scoring.shards import ScoreFolder
from realfake.scoring.source import Part, Row, ScoringSource

BATCH_SIZE = 16
_REPORT_SECONDS = 10.0


@dataclass
class Progress:
    """What a process has done, and how it says so.

    Args:
        total: Images in its share, `None` where nobody knows.
        say: What takes a line of text, or `None` to keep silent.
    """

    total: int | None
    say: Callable[[str], None] | None = None
    images: int = 0
    errors: int = 0
    strayed: float = 0.0
    started: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)

    def add(self, answers: Sequence[Mapping], strayed: float) -> None:
        """Count a batch, and say how far it is from time to time."""
        self.images += len(answers)
        self.errors += sum(answer.get("error") is not None for answer in answers)
        self.strayed = max(self.strayed, strayed)
        if self.say and time.monotonic() - self.told >= _REPORT_SECONDS:
            self.told = time.monotonic()
            self.say(self.line())

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    def line(self) -> str:
        """How far it is, on one line."""
        rate = self.images / max(self.seconds, 1e-9)
        of_total = left = ""
        if self.total:
            of_total = f" of {self.total:,} ({self.images / self.total:.0%})"
            left = (
                f", {duration((self.total - self.images) / rate)} left"
                if 0 < self.images < self.total
                else ""
            )
        errors = f", {self.errors:,} unreadable" if self.errors else ""
        return f"{self.images:,}{of_total} images, {rate:.1f} a second{left}{errors}"


def duration(seconds: float) -> str:
    """A time as people say it."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min"
        if hours
        else f"{minutes} min {seconds} s"
        if minutes
        else f"{seconds} s"
    )


def missing(source: ScoringSource, folder: ScoreFolder, chunk_size: int) -> list[tuple[int, int]]:
    """The chunks of a source of known length that are not scored yet: `(index of the part, chunk)`, in order."""
    done = set(folder.chunks())
    return [
        (index, chunk)
        for index, part in enumerate(source.parts)
        for chunk in range(-(-part.rows // chunk_size))
        if (part.name, chunk) not in done
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
    say: Callable[[str], None] | None = None,
) -> Progress:
    """Score chunks of a source of known length and write their shards.

    Args:
        scorer: Who scores; made for as many `threads`.
        chunks: As [`missing`] gives them.
        say: As in [`Progress`].
    """

    def read() -> Iterator[tuple[str, int, Iterator[Row]]]:
        for index, chunk in chunks:
            part = source.parts[index]
            yield part.name, chunk, part.read(chunk * chunk_size, (chunk + 1) * chunk_size)

    sizes = (
        min(chunk_size, source.parts[index].rows - chunk * chunk_size) for index, chunk in chunks
    )
    return _run(scorer, folder, read(), batch_size, threads, Progress(sum(sizes), say))


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
    say: Callable[[str], None] | None = None,
) -> Progress:
    """Score one process's share of a stream: whole files where there are enough of them, else every n-th chunk.

    Args:
        process, processes: Which share.
        Others as in [`score_chunks`].
    """
    whole = len(source.parts) >= processes
    parts = source.parts[process::processes] if whole else source.parts

    def mine(chunk: int) -> bool:
        return whole or chunk % processes == process

    def read() -> Iterator[tuple[str, int, Iterator[Row]]]:
        for part in parts:
            yield from _stream_chunks(part, folder, chunk_size, mine)

    return _run(scorer, folder, read(), batch_size, threads, Progress(None, say))


def _stream_chunks(
    part: Part, folder: ScoreFolder, size: int, mine: Callable[[int], bool]
) -> Iterator[tuple[str, int, Iterator[Row]]]:
    """The chunks of a part of unknown length that this process has to score, each to be read before the next is asked for."""
    length = folder.read_length(part.name)
    done = {chunk for name, chunk in folder.chunks() if name == part.name}
    possible = count() if length is None else range(-(-length // size))
    first = next((chunk for chunk in possible if mine(chunk) and chunk not in done), None)
    if first is None:
        return
    if length is None:
        # From a chunk that is known to have rows: skipping past the end would look like an end.
        first = max((chunk for chunk in done if chunk < first), default=0)
    read = first * size

    def rows() -> Iterator[tuple[int, Row]]:
        nonlocal read
        for row in part.read(read, None):
            read += 1
            yield (read - 1) // size, row

    for chunk, group in groupby(rows(), key=itemgetter(0)):
        if mine(chunk) and chunk not in done:
            yield part.name, chunk, map(itemgetter(1), group)
    if length is None:
        folder.write_length(part.name, read)


def _batched(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    rows = iter(rows)
    while batch := list(islice(rows, size)):
        yield batch


def _run(
    scorer: Scorer, folder: ScoreFolder, chunks, batch_size: int, threads: int, progress: Progress
) -> Progress:
    """Score chunks of rows, as many batches at a time as there are threads, and write each chunk when it is whole."""
    if threads == 1:
        with one_thread():
            for part, chunk, rows in chunks:
                results = []
                for batch in _batched(rows, batch_size):
                    results.append(scorer(batch))
                    progress.add(*results[-1])
                _write(scorer, folder, part, chunk, results)
        return progress
    # Results of chunks under way, oldest first: (part, chunk, futures of batches, whether the last batch is among them).
    waiting: deque[tuple[str, int, list[Future]]] = deque()
    flying: deque[Future] = deque()
    with lone_threads(threads) as pool:
        for part, chunk, rows in chunks:
            futures: list[Future] = []
            for batch in _batched(rows, batch_size):
                while len(flying) >= 2 * threads:
                    progress.add(*flying.popleft().result())
                futures.append(pool.submit(scorer, batch))
                flying.append(futures[-1])
            waiting.append((part, chunk, futures))
            while waiting and all(future.done() for future in waiting[0][2]):
                _write_waiting(scorer, folder, *waiting.popleft())
        for future in flying:
            progress.add(*future.result())
        while waiting:
            _write_waiting(scorer, folder, *waiting.popleft())
    return progress


def _write_waiting(
    scorer: Scorer, folder: ScoreFolder, part: str, chunk: int, futures: list[Future]
) -> None:
    _write(scorer, folder, part, chunk, [future.result() for future in futures])


def _write(
    scorer: Scorer,
    folder: ScoreFolder,
    part: str,
    chunk: int,
    results: list[tuple[list[dict], float]],
) -> None:
    answers = [answer for rows, _ in results for answer in rows]
    strayed = max((strayed for _, strayed in results), default=0.0)
    facts = {"engine": scorer.choice.engine, "largest_margin_change": strayed}
    folder.write(part, chunk, answers, facts)


def summarise(source: ScoringSource, folder: ScoreFolder, chunk_size: int) -> dict:
    """Count what all shards hold together.

    Returns:
        `{"images", "missing", "unreadable", "recomputed", "verdicts": {name: images}}`; `missing` are images of the source
        without a row.
    """
    verdicts: Counter = Counter()
    images = unreadable = recomputed = expected = 0
    for part in source.parts:
        rows = part.rows if part.rows is not None else folder.read_length(part.name)
        expected += rows or 0
        for chunk in range(-(-(rows or 0) // chunk_size)):
            if not folder.has(part.name, chunk):
                continue
            table = folder.read(part.name, chunk, ["verdict", "error", "recomputed"])
            images += len(table)
            unreadable += len(table) - table["error"].null_count
            recomputed += sum(filter(None, table["recomputed"].to_pylist()))
            verdicts.update(
                verdict for verdict in table["verdict"].to_pylist() if verdict is not None
            )
    return {
        "images": images,
        "missing": expected - images,
        "unreadable": unreadable,
        "recomputed": recomputed,
        "verdicts": dict(sorted(verdicts.items())),
    }
