"""The page in its own process, as users see it, or on a thread of this one, which is faster."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

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


@contextmanager
def serving_here(folder: Path, **environment: str) -> Iterator[str]:
    """Serve the page on a thread of this process, and yield its address.

    It opens what the environment names, as `realfake space run` does. The log is that of the test.
    """
    import gradio as gr
    from gradio import processing_utils
    from gradio.mcp import GradioMCPServer

    from realfake.space import api, limits, loading, page, uploads
    from realfake.space.feedback import Feedback

    variables = {
        "GRADIO_SERVER_PORT": str(free_port()),
        "GRADIO_TEMP_DIR": str(folder / "gradio"),
        "REALFAKE_FEEDBACK_FOLDER": str(folder / "feedback"),
        limits.TRUSTED_PROXIES: limits.PRIVATE_NETWORKS,
        **environment,
    }
    folder.mkdir(parents=True, exist_ok=True)
    launch, pages = gr.Blocks.launch, []

    def beside(blocks: gr.Blocks, **options) -> None:
        pages.append(blocks)
        launch(blocks, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **options)

    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        # What the page replaces in Gradio is put back at the end.
        for name in uploads.DOWNLOADS:
            patch.setattr(processing_utils, name, getattr(processing_utils, name))
        patch.setattr(GradioMCPServer, api.MCP_OUTPUT, getattr(GradioMCPServer, api.MCP_OUTPUT))
        # Their threads end with the process.
        patch.setattr(page, "keep_memory_low", lambda: None)
        patch.setattr(page, "keep_tidy", lambda *_, **__: None)
        patch.setattr(gr.Blocks, "launch", beside)
        page.launch(page.build(loading.load(), Feedback.from_environ()))
        try:
            yield pages[0].local_url.rstrip("/")
        finally:
            pages[0].close(verbose=False)


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
