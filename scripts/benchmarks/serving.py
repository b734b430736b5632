"""The page in a separate process, for measurements from outside."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Server:
    """A running page.

    Attributes:
        url: The address.
        pid: The process id.
        log: The file of its output.
    """

    url: str
    pid: int
    log: Path


def environment(work: Path, port: int) -> dict[str, str]:
    """Return the environment of a page that writes only under `work` and uses no network."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(work / "gradio"),
        "REALFAKE_FEEDBACK_FOLDER": str(work / "feedback"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path
) -> Iterator[subprocess.Popen]:
    """Run a process in `folder` with its output in `log`, and end it after the block."""
    with open(log, "w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def serving(work: Path, *command: str) -> Iterator[Server]:
    """Start the page and wait until it answers.

    Raises:
        RuntimeError: The page did not start.
    """
    port = free_port()
    log = work / "server.log"
    with started([sys.executable, *command], environment(work, port), ROOT, log) as process:
        server = Server(f"http://127.0.0.1:{port}", process.pid, log)
        deadline = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(server.url, timeout=30).close()  # nosec B310  # loopback
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(
                        f"The page did not start:\n{server.log.read_text()}"
                    ) from None
                time.sleep(0.02)
        yield server
