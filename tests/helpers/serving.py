"""The page in its own process, as users see it."""

import os
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Behind everything else: the scripts have names that others have as well.
sys.path.append(str(ROOT / "scripts"))

from benchmarks.serving import free_port, started  # noqa: E402


@contextmanager
def serving(folder: Path, *command: str, **environment: str):
    """Start the page and yield its address; its output is in `folder/server.log`."""
    port = free_port()
    variables = {
        **os.environ,
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(folder / "gradio"),
        "REALFAKE_FEEDBACK_FOLDER": str(folder / "feedback"),
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "server.log"
    with started([sys.executable, *(command or ["app.py"])], variables, ROOT, log) as server:
        url = f"http://127.0.0.1:{port}"
        _wait_for(url, server, log)
        yield url
        assert server.poll() is None, (
            f"The server ended with {server.returncode}: {log.read_text()}"
        )


def _wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.25)
    raise AssertionError(f"The page did not come up: {log.read_text()}")
