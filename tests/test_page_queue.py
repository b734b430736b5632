"""A full queue: further calls are refused with a time to come back, and a busy port is an error."""

import json
import socket
import threading
import urllib.error
import urllib.request

import gradio as gr
import pytest
from gradio import processing_utils
from helpers.serving import free_port

from realfake.detector import Detector
from realfake.space import api, page
from realfake.space.loading import Loaded
from realfake.space.uploads import DOWNLOADS


@pytest.fixture
def url(tiny_vit, tmp_path, monkeypatch):
    """The page in this process, with room for one waiting event."""
    launch = gr.Blocks.launch

    def beside(blocks, **options):
        address = {"server_name": "127.0.0.1", "server_port": free_port()}
        return launch(blocks, prevent_thread_lock=True, quiet=True, **options | address)

    for name in DOWNLOADS:  # restored after the test
        monkeypatch.setattr(processing_utils, name, getattr(processing_utils, name))
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(gr.Blocks, "launch", beside)
    monkeypatch.setattr(page, "MAX_WAITING", 1)
    built = page.build(Loaded(Detector.from_pretrained(tiny_vit)))
    page.launch(built)
    yield built.blocks.local_url.rstrip("/")
    built.blocks.close(verbose=False)


def call(url: str, path: str):
    """Status, JSON and headers of the answer to a call of the API."""
    data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, 0.5, False, False]
    request = urllib.request.Request(
        f"{url}/gradio_api/call/predict",
        json.dumps({"data": data}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response), response.headers
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), error.headers


def test_a_call_to_a_full_queue_gets_retry_after(url, tmp_path, monkeypatch):
    gate, entered = threading.Event(), threading.Semaphore(0)

    def answer(*_, **__):
        entered.release()
        assert gate.wait(30)
        return {"verdict": "real"}

    monkeypatch.setattr(api, "answer", answer)
    (path := tmp_path / "photo.jpg").write_bytes(b"not read")
    events = []
    for _ in range(2):  # one after the other, as only one may wait
        events.append(call(url, str(path))[1]["event_id"])
        assert entered.acquire(timeout=30)
    events.append(call(url, str(path))[1]["event_id"])
    for _ in range(3):
        status, answer, headers = call(url, str(path))
        assert (status, headers["Retry-After"]) == (503, "2") and "Queue is full" in answer[
            "detail"
        ]
    gate.set()
    for event in events:
        with urllib.request.urlopen(
            f"{url}/gradio_api/call/predict/{event}", timeout=30
        ) as response:
            assert b"event: complete" in response.read()
    assert call(url, str(path))[0] == 200


def test_a_port_in_use_stops_the_start(tiny_vit, monkeypatch):
    for name in DOWNLOADS:
        monkeypatch.setattr(processing_utils, name, getattr(processing_utils, name))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("GRADIO_SERVER_PORT", str(port))
        with pytest.raises(OSError, match=f"port {port} is in use; set GRADIO_SERVER_PORT"):
            page.launch(page.build(Loaded(Detector.from_pretrained(tiny_vit))))
