"""Several trainings one after the other, each a process of its own that is not started again once it is finished.

Used by `scripts/compare.py` and `scripts/leave_one_out.py`: they say which runs there are, and make a table of what these
leave behind.
"""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from ..command import command_line
from ..evaluation import results
from ..records import write_atomically
from .runs import FINISHED

TRAIN_HF = Path(__file__).parents[2] / "train_hf.py"
WORDS = "words.json"


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        name: Of the model or of what is left out, for people.
        words: Options of `train_hf.py`, without `--output_dir`.
        folder: Where it goes.
    """

    name: str
    words: tuple[str, ...]
    folder: Path

    @property
    def log(self) -> Path:
        """What the run printed."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def finished(self) -> bool:
        return (self.folder / FINISHED).is_file()


def check_folders(runs: Sequence[Run]) -> None:
    """Look for folders that hold a run of other options, before anything is trained.

    Raises:
        ValueError: There is one.
    """
    for run in runs:
        path = run.folder / WORDS
        if path.is_file() and json.loads(path.read_text()) != list(run.words):
            raise ValueError(
                f"{run.folder} holds a run of other options; give the same ones again, or pass another --output_dir."
            )


def train_all(runs: Sequence[Run], launcher: str | None = None) -> dict[str, str]:
    """Train what is not finished yet; an interrupted run continues.

    Args:
        launcher: *optional*. What starts `train_hf.py`, such as `"accelerate launch --num_processes 2"`; *defaults to* this
            Python.

    Returns:
        `{folder's name: the last line it printed}` of the runs that failed; the others are trained all the same.
    """
    start = shlex.split(launcher) if launcher else [sys.executable]
    failed = {}
    for number, run in enumerate(runs, start=1):
        where = f"[{number}/{len(runs)}] {run.folder.name}"
        if run.finished:
            print(f"{where}: finished before", flush=True)
            continue
        run.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(run.folder / WORDS, json.dumps(run.words) + "\n")
        print(f"{where}: training; its output is in {run.log}", flush=True)
        began = time.monotonic()
        with open(run.log, "a", encoding="utf-8") as log:
            status = subprocess.run(
                [*start, str(TRAIN_HF), *run.words, "--output_dir", str(run.folder)],
                stdout=log,
                stderr=subprocess.STDOUT,
            ).returncode
        if status or not run.finished:
            lines = run.log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""]
            failed[run.folder.name] = lines[-1]
            print(f"{where}: failed (status {status}): {lines[-1]}", file=sys.stderr, flush=True)
        else:
            print(f"{where}: {time.monotonic() - began:.0f} s", flush=True)
    return failed


def conclude(
    folder: Path,
    name: str,
    figures: Mapping,
    failed: Mapping[str, str],
    page: Callable[[Mapping], str],
) -> int:
    """Write what came of the runs to `name.json` and `name.md`, and print the page.

    Args:
        figures: What is recorded beside the date, the command and the failures.
        failed: What [`train_all`] returned.
        page: Makes Markdown of the record.

    Returns:
        The exit status: 2 if a run failed, else 0.

    Raises:
        OSError: A file cannot be written.
    """
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        **figures,
        "failed": failed,
    }
    text = page(record)
    write_atomically(folder / f"{name}.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    write_atomically(folder / f"{name}.md", text)
    print(f"\n{text}\n{folder / f'{name}.md'}")
    return 2 if failed else 0


def read_run_scores(folder: Path, splits: Sequence[str]) -> dict[str, np.ndarray]:
    """Read what a finished run scored, several splits one after the other.

    Returns:
        `{"margin": (n,), "is_ai": (n,), "groups": (n,)}`; images of different splits share no group.
    """
    margin, is_ai, groups = [], [], []
    for split in splits:
        table = results.read_scores(folder / f"scores-{split}.parquet")
        own = table.get("groups")
        own = np.arange(len(table["margin"])) if own is None else np.asarray(own, dtype=np.int64)
        offset = max((int(part.max()) + 1 for part in groups if len(part)), default=0)
        margin.append(np.asarray(table["margin"], dtype=np.float64))
        is_ai.append(np.asarray(table["is_ai"], dtype=bool))
        groups.append(own - own.min(initial=0) + offset)
    return {"margin": np.concatenate(margin), "is_ai": np.concatenate(is_ai), "groups": np.concatenate(groups)}
