"""A series of trainings: each runs in its own process, and finished ones are not repeated."""

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

from realfake.evaluation import results
from realfake.io import command_line, redact, write_atomically
from realfake.training.runs import FINISHED

# The options of a run, in its folder.
OPTIONS_NAME = "words.json"


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        name: Name of the model, or of the held-out value.
        words: Options of `realfake train`, without `--output_dir`.
        folder: Output folder.
    """

    name: str
    words: tuple[str, ...]
    folder: Path

    @property
    def log(self) -> Path:
        """File with the output of the run."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return (self.folder / FINISHED).is_file()


def refuse_options(words: Sequence[str], *names: str, hint: str) -> None:
    """Refuse training options that a series sets itself.

    Args:
        words: The options that the user gave for all runs.
        names: The refused options.
        hint: How to fix it.

    Raises:
        ValueError: One of them was given.
    """
    for name in names:
        if any(word.split("=")[0].replace("-", "_") == name.replace("-", "_") for word in words):
            raise ValueError(f"{name} is set for each run; {hint}.")


def check_folders(runs: Sequence[Run]) -> None:
    """Check that each run has its own folder, without a run of other options.

    Raises:
        ValueError: Two runs share a folder, or a folder holds a run of other options.
    """
    if len({run.folder for run in runs}) < len(runs):
        raise ValueError("Two runs would share a folder; leave one of them out, or rename it.")
    for run in runs:
        path = run.folder / OPTIONS_NAME
        if path.is_file() and json.loads(path.read_text()) != redact(run.words):
            raise ValueError(
                f"{run.folder} holds a run of other options; give the same ones again, or pass "
                "another --output."
            )


def train_all(runs: Sequence[Run], launcher: str | None = None) -> dict[str, str]:
    """Train the runs that are not finished; an interrupted run continues.

    Args:
        launcher: *optional*. Command that starts a run, such as `"accelerate launch
            --num_processes 2"`; *defaults to* this Python.

    Returns:
        `{folder name: last line of output}` of the runs that failed. The others are trained anyway.
    """
    start = [*(shlex.split(launcher) if launcher else [sys.executable]), "-m", "realfake.cli.train"]
    failed = {}
    for number, run in enumerate(runs, start=1):
        label = f"[{number}/{len(runs)}] {run.folder.name}"
        if run.finished:
            print(f"{label}: finished before", flush=True)
            continue
        run.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(run.folder / OPTIONS_NAME, json.dumps(redact(run.words)) + "\n")
        print(f"{label}: training; its output is in {run.log}", flush=True)
        began = time.monotonic()
        with open(run.log, "a", encoding="utf-8") as log:
            status = subprocess.run(
                [*start, *run.words, "--output_dir", str(run.folder)],
                stdout=log,
                stderr=subprocess.STDOUT,
            ).returncode
        if status or not run.finished:
            output = run.log.read_text(encoding="utf-8", errors="replace").strip()
            failed[run.folder.name] = output.rpartition("\n")[2]
            message = f"{label}: failed (status {status}): {failed[run.folder.name]}"
            print(message, file=sys.stderr, flush=True)
        else:
            print(f"{label}: {time.monotonic() - began:.0f} s", flush=True)
    return failed


def write_report(
    folder: Path,
    name: str,
    figures: Mapping,
    failed: Mapping[str, str],
    page: Callable[[Mapping], str],
) -> int:
    """Write the figures of a series to `name.json` and `name.md`, and print the page.

    Args:
        figures: Stored with the date, the command and the failures.
        failed: From [`train_all`].
        page: Returns the record as Markdown.

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
    content = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / f"{name}.json", content)
    write_atomically(folder / f"{name}.md", text)
    print(f"\n{text}\n{folder / f'{name}.md'}")
    return 2 if failed else 0


def read_run_scores(folder: Path, splits: Sequence[str]) -> dict[str, np.ndarray]:
    """Read the scores of a finished run, several splits concatenated.

    Returns:
        `{"log_odds": (n,), "is_ai": (n,), "groups": (n,)}`; images of different splits share no
        group.
    """
    log_odds, is_ai, groups = [], [], []
    for split in splits:
        table = results.read_scores(folder / f"scores-{split}.parquet")
        own = table.get("groups")
        own = np.arange(len(table["log_odds"])) if own is None else np.asarray(own, dtype=np.int64)
        offset = max((int(part.max()) + 1 for part in groups if len(part)), default=0)
        log_odds.append(np.asarray(table["log_odds"], dtype=np.float64))
        is_ai.append(np.asarray(table["is_ai"], dtype=bool))
        groups.append(own - own.min(initial=0) + offset)
    return {
        "log_odds": np.concatenate(log_odds),
        "is_ai": np.concatenate(is_ai),
        "groups": np.concatenate(groups),
    }
