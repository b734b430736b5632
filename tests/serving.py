"""The page in a process of its own, as its users find it."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def serving(folder: Path, *command: str, **environment: str):
    """Start the page, and give its address once it answers; what it says is in `folder/server.log`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
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
    server_log = folder / "server.log"
    with open(server_log, "w") as log:
        server = subprocess.Popen(
            [sys.executable, *(command or ["app.py"])], cwd=ROOT, env=variables, stdout=log, stderr=log
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(url, server, server_log)
            yield url
            assert server.poll() is None, f"The server ended with {server.returncode}: {server_log.read_text()}"
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


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
