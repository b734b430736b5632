"""The HTTP routes with stock clients: forms of a request, errors, batches, documentation."""

import base64
import io
import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import uvicorn
from fastapi import FastAPI
from helpers.tiny import draw_picture, save_tiny
from huggingface_hub import InferenceClient, constants
from transformers import pipeline

from realfake import hub_api
from realfake.detector import Detector
from realfake.hub_api import Parameters, scores
from realfake.space.limits import Guard, RateLimit
from realfake.space.routes import Batcher, Busy, Service, routes


@pytest.fixture(scope="module")
def detector(tiny_vit):
    return Detector.from_pretrained(tiny_vit)


@pytest.fixture(scope="module")
def service(detector):
    return Service(detector, max_bytes=200_000)


def serve(service):
    """Serve the routes on a free port; yields the address."""
    app = FastAPI(routes=routes(service), docs_url=None, redoc_url=None, openapi_url=None)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # early calls wait
        app = Guard(app, RateLimit(0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def url(service):
    yield from serve(service)


def jpeg(seed: int = 0, size: int = 64) -> bytes:
    file = io.BytesIO()
    draw_picture(size, seed=seed).save(file, "JPEG", quality=90)
    return file.getvalue()


def post(url: str, body: bytes | dict, kind: str | None = None, path: str = "/predict"):
    """Status, JSON and headers of an answer."""
    kind = kind or ("application/json" if isinstance(body, dict) else "image/jpeg")
    body = json.dumps(body).encode() if isinstance(body, dict) else body
    request = urllib.request.Request(url + path, body, {"Content-Type": kind}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response), response.headers
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), error.headers


def form(file: bytes | None, name: str = "file", **fields: str) -> tuple[bytes, str]:
    """A multipart form as curl -F writes it, and its content type."""
    parts = [
        f'--xyz\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    if file is not None:
        head = (
            f'--xyz\r\nContent-Disposition: form-data; name="{name}"; filename="x.jpg"'
            "\r\nContent-Type: image/jpeg\r\n\r\n"
        )
        parts.append(head.encode() + file + b"\r\n")
    return b"".join(parts) + b"--xyz--\r\n", "multipart/form-data; boundary=xyz"


def by_label(answer: list[dict]) -> dict[str, float]:
    return {row["label"]: row["score"] for row in answer}


# The forms of a request


def several(*files: bytes) -> tuple[bytes, str]:
    """A form with several files."""
    parts = [form(file)[0].removesuffix(b"--xyz--\r\n") for file in files]
    return b"".join(parts) + b"--xyz--\r\n", "multipart/form-data; boundary=xyz"


def test_several_images_get_one_answer_each_in_their_order(url, detector):
    files = [jpeg(seed, size) for seed, size in ((1, 64), (2, 96), (3, 64))]
    expected = [detector.predict(file).probabilities for file in files]
    listed = {"inputs": [base64.b64encode(file).decode() for file in files]}
    for body, kind in ((listed, None), several(*files)):
        status, answer, _ = post(url, body, kind)
        assert status == 200
        for scores_of_one, probabilities in zip(answer, expected, strict=True):
            assert by_label(scores_of_one) == pytest.approx(probabilities, abs=1e-5)
    # A list of one is still a list.
    status, answer, _ = post(url, {"inputs": listed["inputs"][:1]})
    assert len(answer) == 1 and by_label(answer[0]) == pytest.approx(expected[0], abs=1e-5)


def test_one_bad_image_of_several_is_named(url):
    good, letter = (base64.b64encode(data).decode() for data in (jpeg(1), b"a letter"))
    status, answer, _ = post(url, {"inputs": [good, letter]})
    assert status == 422 and answer["error"].startswith("Image 2:")
    status, answer, _ = post(url, {"inputs": [good] * 17})
    assert status == 400 and "16" in answer["error"]
    assert post(url, {"inputs": []})[0] == 400


def test_the_bare_address_answers_like_predict(url, detector, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    data = jpeg(4)
    found = InferenceClient(model=url).image_classification(data)
    expected = detector.predict(data).probabilities
    assert {row.label: row.score for row in found} == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "address", ["/etc/passwd.png", "file:///x.png", "http://127.0.0.1/x.png", "~/x.png"]
)
def test_an_address_in_place_of_an_image_is_refused_in_one_line(url, address):
    status, answer, _ = post(url, {"inputs": address})
    assert status == 400 and "base64" in answer["error"] and "\n" not in answer["error"]


def test_the_answer_for_a_large_image_is_the_mean_over_its_views(tmp_path):
    folder = save_tiny("vit", tmp_path / "views", image_size=32)
    native = {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}}
    edit_json(folder / "preprocessor_config.json", native)
    edit_json(folder / "config.json", {"realfake": {"views": 4}})
    detector = Detector.from_pretrained(folder)
    data = jpeg(5, 64)
    assert len(detector.predict(data).views) == 4
    for address in serve(Service(detector)):
        _, answer, _ = post(address, data)
        expected = detector.predict(data).probabilities
        assert by_label(answer) == pytest.approx(expected, abs=1e-5)


def edit_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_every_form_of_a_request_gives_what_predict_gives(url, detector):
    data = jpeg(1)
    expected = detector.predict(data).probabilities
    encoded = base64.b64encode(data).decode()
    sent = [
        (data, "image/jpeg"),
        (data, "application/octet-stream"),
        (data, "application/x-www-form-urlencoded"),
        form(data),
        form(data, name="image"),
        ({"inputs": encoded}, None),
        ({"inputs": f"data:image/jpeg;base64,{encoded}", "parameters": None}, None),
    ]
    for body, kind in sent:
        status, answer, _ = post(url, body, kind)
        assert status == 200
        assert by_label(answer) == pytest.approx(expected, abs=1e-5)
        assert [row["score"] for row in answer] == sorted(
            (row["score"] for row in answer), reverse=True
        )


def test_a_request_without_a_content_type_is_an_image(url):
    host, port = url.removeprefix("http://").split(":")
    data = jpeg()
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.0\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data) + data
        )
        assert b" 200 " in connection.makefile("rb").readline()


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"top_k": 1},
        {"top_k": 50},
        {"function_to_apply": "sigmoid"},
        {"function_to_apply": "none", "top_k": 2},
    ],
)
def test_the_answer_equals_the_stock_pipeline(url, detector, tiny_vit, parameters):
    data = jpeg(2)
    expected = pipeline("image-classification", model=str(tiny_vit), device="cpu")(
        draw_as_decoded(data), **parameters
    )
    status, answer, _ = post(
        url, {"inputs": base64.b64encode(data).decode(), "parameters": parameters}
    )
    assert status == 200
    assert [row["label"] for row in answer] == [row["label"] for row in expected]
    assert [row["score"] for row in answer] == pytest.approx(
        [row["score"] for row in expected], abs=1e-5
    )
    body, kind = form(data, **{key: str(value) for key, value in parameters.items()})
    assert post(url, body, kind)[1] == answer


def draw_as_decoded(data: bytes):
    from realfake.imaging.decode import open_image

    return open_image(data)


def test_the_hubs_client_works(url, detector, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    data = jpeg(3)
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    client = InferenceClient(model=f"{url}/predict")
    expected = detector.predict(data).probabilities
    for image in (data, path, str(path)):
        for more in ({}, {"top_k": 1}, {"function_to_apply": "softmax", "top_k": 2}):
            rows = client.image_classification(image, **more)
            assert {row.label: row.score for row in rows} == pytest.approx(
                {row.label: expected[row.label] for row in rows}, abs=1e-5
            )
            assert len(rows) == more.get("top_k", 2)


# Errors


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (400, b"", "image/jpeg", "no image"),
        (400, b"{", "application/json", "not valid JSON"),
        (400, b"[" * 100_000, "application/json", "not valid JSON"),
        (400, b"[]", "application/json", "inputs"),
        (400, {"image": "x"}, None, "inputs"),
        (400, {"inputs": "§"}, None, "base64"),
        (400, {"inputs": 7}, None, "base64"),
        (400, {"inputs": "http://127.0.0.1/x.jpg"}, None, "not fetched"),
        (400, {"inputs": "", "parameters": {}}, None, "no image"),
        (400, {"inputs": "QUJD", "parameters": {"top_k": 0}}, None, "top_k"),
        (400, {"inputs": "QUJD", "parameters": {"top_k": True}}, None, "top_k"),
        (400, {"inputs": "QUJD", "parameters": {"top_k": "x" * 1000}}, None, "top_k"),
        (400, {"inputs": "QUJD", "parameters": [1]}, None, "parameters"),
        (
            400,
            {"inputs": "QUJD", "parameters": {"function_to_apply": "tanh"}},
            None,
            "function_to_apply",
        ),
        (400, *form(None, note="x"), "no file"),
        (400, *form(b"", note="x"), "no image"),
        (400, b"--abc", "multipart/form-data", "form cannot be read"),
        (413, bytes(200_001), "image/jpeg", "larger than the limit"),
        (413, {"inputs": base64.b64encode(bytes(200_001)).decode()}, None, "larger than the limit"),
        (413, *form(bytes(300_000)), "larger than the limit"),
        (415, b"hello", "text/plain", "text/plain"),
        (415, b"hello", "video/mp4", "video/mp4"),
        (422, b"hello", "image/jpeg", "text file"),
        (422, jpeg()[:400], "image/jpeg", "damaged"),
        (422, jpeg(size=4), "image/jpeg", "4 x 4 pixels"),
        (422, *form(b"%PDF-1.4"), "PDF"),
        (422, {"inputs": "QUJD"}, None, "text file"),
    ],
)
def test_errors_are_json_with_the_right_status(url, status, body, kind, words):
    answered, answer, _ = post(url, body, kind)
    assert answered == status, answer
    assert words in answer["error"]
    assert "\n" not in answer["error"]
    assert len(answer["error"]) < 300


def test_a_body_without_a_length_is_counted_as_it_arrives(url):
    def chunks():
        for _ in range(400):
            yield bytes(1000)

    request = urllib.request.Request(
        f"{url}/predict", chunks(), {"Content-Type": "image/jpeg"}, method="POST"
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    assert caught.value.code == 413


def test_an_unforeseen_failure_reveals_nothing(detector, monkeypatch):
    broken = Service(detector)

    def fail(pixels):
        raise RuntimeError("secret path")

    monkeypatch.setattr(broken, "batcher", Batcher(fail))
    for url in serve(broken):
        status, answer, _ = post(url, jpeg())
        assert status == 500
        assert "secret" not in answer["error"]
        # The thread continues.
        assert post(url, jpeg())[0] == 500


def test_get_is_not_post(url):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{url}/predict", timeout=30)
    assert caught.value.code == 405


# Busy


class Gate:
    """A forward pass that waits until it is opened."""

    def __init__(self, forward):
        self.forward, self.open, self.entered = forward, threading.Event(), threading.Event()

    def __call__(self, pixels):
        self.entered.set()
        assert self.open.wait(60)
        return self.forward(pixels)


def test_a_full_queue_refuses_at_once_and_empties(detector):
    gate = Gate(detector.forward)
    small = Service(detector, Batcher(gate, max_batch=1, max_waiting=1), max_requests=10)
    for url in serve(small):
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(post, url, jpeg())
            assert gate.entered.wait(60)
            second = pool.submit(post, url, jpeg())
            while not small.batcher.full:
                assert not second.done()
            status, answer, headers = post(url, jpeg())
            assert (status, headers["Retry-After"]) == (503, "2")
            assert "busy" in answer["error"]
            assert get(url, "/ready")[0] == 503
            assert get(url, "/health")[0] == 200
            gate.open.set()
            assert [first.result()[0], second.result()[0]] == [200, 200]
        assert get(url, "/ready")[0] == 200


def test_too_many_requests_are_refused_before_they_are_read(detector):
    gate = Gate(detector.forward)
    narrow = Service(detector, Batcher(gate), max_requests=1)
    for url in serve(narrow):
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(post, url, jpeg())
            assert gate.entered.wait(60)
            assert post(url, jpeg())[0] == 503
            gate.open.set()
            assert first.result()[0] == 200
        assert post(url, jpeg())[0] == 200


def test_a_client_that_is_still_sending_receives_the_busy_answer(detector):
    """A closed connection would show a reset instead."""
    gate = Gate(detector.forward)
    narrow = Service(detector, Batcher(gate), max_requests=1)
    for url in serve(narrow):
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(post, url, jpeg())
            assert gate.entered.wait(60)
            for _ in range(5):
                status, answer, headers = post(url, bytes(8 * 2**20), "image/jpeg")
                assert (status, headers["Retry-After"]) == (503, "2") and "busy" in answer["error"]
            gate.open.set()
            assert first.result()[0] == 200


def test_a_body_that_never_arrives_is_not_waited_for(detector, monkeypatch):
    monkeypatch.setattr("realfake.space.limits.DRAIN_SECONDS", 0.2)
    for url in serve(Service(detector, max_requests=0)):
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 30) as connection:
            connection.sendall(
                b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc"
            )
            assert b" 503 " in connection.recv(1000)


def test_a_client_that_disconnects_frees_its_place(detector):
    gate, decoded = Gate(detector.forward), []
    counting = Service(detector, Batcher(gate, max_batch=1), max_requests=12)
    counting._decoders = ThreadPoolExecutor(1)
    pixels, halt = counting._pixels, threading.Event()

    def slow(data):
        decoded.append(data)
        assert halt.wait(60)
        return pixels(data)

    counting._pixels = slow
    for url in serve(counting):
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        connections = [socket.create_connection(address, 30) for _ in range(12)]
        for connection in connections:
            connection.sendall(head % len(jpeg()) + jpeg())
        _until(lambda: counting.in_progress == 12 and decoded)
        for connection in connections:
            connection.close()
        # None has an answer, but the places are free, and waiting images are never decoded.
        _until(lambda: counting.in_progress == 0)
        halt.set()
        gate.open.set()
        assert post(url, jpeg())[0] == 200
        assert len(decoded) == 2


def _until(holds, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_request_that_waits_too_long_is_refused(detector):
    gate = Gate(detector.forward)
    hasty = Service(detector, Batcher(gate), timeout=0.2)
    for url in serve(hasty):
        status, answer, headers = post(url, jpeg())
        assert (status, headers["Retry-After"]) == (503, "2")
        assert "within 0.2 seconds" in answer["error"]
        gate.open.set()


# Slow clients


def begin(url: str, sent: bytes, length: int, kind: str = "image/jpeg") -> socket.socket:
    """Send the start of a request and no more."""
    connection = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 30)
    connection.sendall(
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
        % (kind.encode(), length)
        + sent
    )
    return connection


def test_clients_that_send_slowly_take_no_place(detector):
    narrow = Service(detector, max_requests=1)
    for url in serve(narrow):
        slow = [begin(url, b"abc", 1000) for _ in range(8)]
        _until(lambda: narrow.held == 8 * 3)
        assert get(url, "/ready")[0] == 200
        assert post(url, jpeg())[0] == 200
        for connection in slow:
            connection.close()
        _until(lambda: narrow.held == 0)


@pytest.mark.parametrize(
    "kind", ["image/jpeg", "application/json", "multipart/form-data; boundary=xyz"]
)
def test_a_request_that_does_not_arrive_is_refused(detector, monkeypatch, kind):
    monkeypatch.setattr("realfake.space.limits.DRAIN_SECONDS", 0.1)
    hasty = Service(detector, max_requests=1, arrival=0.2)
    for url in serve(hasty):
        with begin(url, b"--x", 1000, kind) as connection:
            answer = (
                connection.makefile("rb").read().decode()
            )  # to the end: the connection is closed
        assert " 408 " in answer and "did not arrive within 0.2 seconds" in answer
        assert hasty.held == 0
        assert post(url, jpeg())[0] == 200


def test_the_bytes_of_all_requests_are_bounded(detector):
    tight = Service(detector, max_held=100_000)
    for url in serve(tight):
        with begin(url, bytes(60_000), 90_000):
            _until(lambda: tight.held == 60_000)
            for body, kind in ((bytes(60_000), "image/jpeg"), form(bytes(60_000))):
                status, answer, headers = post(url, body, kind)
                assert (status, headers["Retry-After"]) == (503, "2") and "busy" in answer["error"]
            assert post(url, jpeg())[0] == 200
        _until(lambda: tight.held == 0)
        assert post(url, bytes(60_000))[0] == 422


# Batches


def test_requests_that_arrive_together_share_a_forward_pass(detector):
    gate = Gate(detector.forward)
    batcher = Batcher(gate, max_batch=8, max_waiting=64)
    service = Service(detector, batcher)
    pictures = [jpeg(seed) for seed in range(17)]
    expected = [prediction.probabilities for prediction in detector.predict(pictures)]
    for url in serve(service):
        with ThreadPoolExecutor(len(pictures)) as pool:
            answers = [pool.submit(post, url, picture) for picture in pictures]
            while batcher._queue.qsize() < len(pictures) - 8 and not all(
                answer.done() for answer in answers
            ):
                pass
            gate.open.set()
            results = [answer.result() for answer in answers]
    assert [status for status, _, _ in results] == [200] * len(pictures)
    for (_, answer, _), probabilities in zip(results, expected, strict=True):
        assert by_label(answer) == pytest.approx(probabilities, abs=1e-5)
    assert batcher.batches < len(pictures)


def test_a_batch_keeps_its_items_apart_whatever_their_shapes():
    batcher = Batcher(lambda pixels: pixels.mean(dim=(2, 3)).numpy(), max_batch=4)
    items = [
        torch.full((1, 3, side, side), float(number))
        for number, side in enumerate([8, 16, 8, 24, 16, 8])
    ]
    for number, future in enumerate([batcher.submit(item) for item in items]):
        assert future.result(30).tolist() == [number] * 3


def test_one_failing_batch_does_not_end_the_next():
    def forward(pixels):
        if pixels.isnan().any():
            raise ValueError("not a number")
        return np.zeros((len(pixels), 2))

    batcher = Batcher(forward, max_batch=1)
    bad, good = (
        batcher.submit(torch.full((1, 3, 8, 8), torch.nan)),
        batcher.submit(torch.zeros(1, 3, 8, 8)),
    )
    with pytest.raises(ValueError, match="not a number"):
        bad.result(30)
    assert good.result(30).tolist() == [0, 0]


def test_a_cancelled_item_is_not_computed():
    seen, gate = [], threading.Event()

    def forward(pixels):
        gate.wait(30)
        seen.append(len(pixels))
        return np.zeros((len(pixels), 2))

    batcher = Batcher(forward, max_batch=1, max_waiting=3)
    first = batcher.submit(torch.zeros(1, 3, 8, 8))
    while batcher._queue.qsize():
        pass
    dropped, last = batcher.submit(torch.zeros(1, 3, 8, 8)), batcher.submit(torch.zeros(1, 3, 8, 8))
    assert dropped.cancel()
    batcher.submit(torch.zeros(1, 3, 8, 8))
    with pytest.raises(Busy):
        batcher.submit(torch.zeros(1, 3, 8, 8))
    gate.set()
    first.result(30), last.result(30)
    assert sum(seen) <= 3


# Scores


def test_scores_follow_the_configuration():
    class Config:
        problem_type, num_labels, id2label = None, 3, {0: "a", 1: "b", 2: "c"}

    assert [row["label"] for row in scores([0.0, 2.0, 1.0], Config)] == ["b", "c", "a"]
    assert sum(row["score"] for row in scores([0.0, 2.0, 1.0], Config)) == pytest.approx(1)
    Config.problem_type = "multi_label_classification"
    assert scores([0.0], Config, Parameters(top_k=1))[0]["score"] == 0.5
    Config.problem_type = "regression"
    assert scores([0.0, 2.0, 1.0], Config)[0]["score"] == 2.0


# Documentation


def get(url: str, path: str):
    try:
        with urllib.request.urlopen(url + path, timeout=30) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_the_documentation_lists_the_projects_routes_alone(url):
    status, body = get(url, "/openapi.json")
    assert status == 200
    schema = json.loads(body)
    assert set(schema["paths"]) == {"/predict", "/health", "/ready"}
    content = schema["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert set(content) == {"image/*", "multipart/form-data", "application/json"}
    fields = content["multipart/form-data"]["schema"]["properties"]
    assert fields["top_k"]["default"] == hub_api.TOP_K
    assert fields["function_to_apply"]["enum"] == list(hub_api.FUNCTIONS)
    statuses = set(schema["paths"]["/predict"]["post"]["responses"])
    assert statuses == {"200", "400", "408", "413", "415", "422", "429", "503"}
    label = schema["components"]["schemas"]["Score"]["properties"]["label"]
    assert set(label["enum"]) == {"real", "ai"}


def test_the_documentation_page_needs_no_other_host(url):
    status, body = get(url, "/docs")
    page = body.decode()
    assert status == 200 and "POST /predict" in page and "openapi.json" in page
    assert not re.search(r"""(src|href)=["'](https?:)?//|@import|<script""", page)


def test_ready_reports_a_fallback_detector(detector):
    for url in serve(Service(detector, missing="user/typo")):
        status, body = get(url, "/ready")
        answer = json.loads(body)
        assert (status, answer["status"], answer["missing"]) == (200, "fallback", "user/typo")
        assert answer["model"] == detector.name


def test_ready_names_the_detector(url, tiny_vit):
    status, body = get(url, "/ready")
    assert status == 200
    assert json.loads(body) == {"status": "ready", "model": Path(tiny_vit).name, "revision": None}
