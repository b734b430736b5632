"""The handler of Inference Endpoints: with realfake, and without it."""

import base64
import importlib.util
import io
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import pytest
from helpers.tiny import draw_picture, save_tiny
from huggingface_hub import InferenceClient, constants
from PIL import Image
from transformers import pipeline

import realfake
from realfake.detector import Detector
from realfake.training import publishing
from realfake.training.publishing import requirement, write_endpoint

# A process that cannot import realfake.
_WITHOUT_REALFAKE = """
import importlib.util, json, sys
folder, photo = sys.argv[1:]
sys.modules["realfake"] = None
spec = importlib.util.spec_from_file_location("handler", folder + "/handler.py")
handler = importlib.util.module_from_spec(spec)
spec.loader.exec_module(handler)
answer = handler.EndpointHandler(folder)
data = open(photo, "rb").read()
import base64, io
from PIL import Image
encoded = base64.b64encode(data).decode()
results = {
    "bytes": answer({"inputs": data}),
    "base64": answer({"inputs": encoded}),
    "pil": answer({"inputs": Image.open(io.BytesIO(data))}),
    "top": answer({"inputs": encoded, "parameters": {"top_k": 1}}),
}
try:
    answer({"inputs": data, "parameters": {"details": True}})
except ValueError as error:
    results["details"] = str(error)
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def pushed(tmp_path_factory) -> Path:
    folder = save_tiny("convnext", tmp_path_factory.mktemp("endpoint") / "model")
    write_endpoint(folder)
    return folder


@pytest.fixture(scope="module")
def handler(pushed) -> ModuleType:
    spec = importlib.util.spec_from_file_location("endpoint_handler", pushed / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def answer(handler, pushed):
    return handler.EndpointHandler(str(pushed))


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    draw_picture(64, seed=5).save(path, quality=90)
    return path


def assert_same(scores, expected):
    assert [row["label"] for row in scores] == [row["label"] for row in expected]
    assert [row["score"] for row in scores] == pytest.approx(
        [row["score"] for row in expected], abs=1e-5
    )


def test_it_answers_as_the_stock_pipeline(answer, pushed, photo):
    expected = pipeline("image-classification", model=str(pushed), device="cpu")(str(photo))
    data = photo.read_bytes()
    encoded = base64.b64encode(data).decode()
    for inputs in (data, encoded, f"data:image/jpeg;base64,{encoded}", Image.open(photo)):
        assert_same(answer({"inputs": inputs}), expected)
    options = {"top_k": 1, "function_to_apply": "sigmoid"}
    assert len(answer({"inputs": data, "parameters": options})) == 1


def test_without_realfake_it_is_the_stock_pipeline(pushed, photo, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_REALFAKE, pushed, photo],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    expected = pipeline("image-classification", model=str(pushed), device="cpu")(str(photo))
    for way in ("bytes", "base64", "pil"):
        assert_same(results[way], expected)
    assert len(results["top"]) == 1 and "details" in results["details"]


def test_details_are_the_detectors_answer(answer, pushed, photo):
    parameters = {"details": True, "provenance": True, "prior_ai": 0.1}
    result = answer({"inputs": photo.read_bytes(), "parameters": parameters})
    expected = Detector.from_pretrained(pushed).predict(photo, prior_ai=0.1)
    assert result["answer"]["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    assert (result["answer"]["verdict"], result["answer"]["prior_ai"]) == (expected.verdict, 0.1)
    assert result["answer"]["provenance"]["findings"][0]["kind"] == "c2pa"
    assert len(result["answer"]["sha256"]) == 64
    assert result["scores"] == answer({"inputs": photo.read_bytes()})
    assert "map" not in result


def test_the_map_comes_on_request(answer, photo):
    parameters = {"map": True, "target": "real", "opacity": 1}
    result = answer({"inputs": photo.read_bytes(), "parameters": parameters})
    picture = Image.open(io.BytesIO(base64.b64decode(result["map"]["image"])))
    assert picture.format == "PNG" and min(picture.size) >= 256
    assert (result["map"]["method"], result["map"]["target"]) == ("gradcam", "real")
    score = {row["label"]: row["score"] for row in result["scores"]}
    assert result["answer"]["probabilities"]["ai"] == pytest.approx(score["ai"], abs=1e-5)


@pytest.mark.parametrize(
    ("inputs", "parameters", "words"),
    [
        (b"hello", {}, "text file"),
        (None, {}, "cannot be read"),
        ("!", {}, "base64"),
        ("photo", {"map": True, "method": "x"}, "x"),
        ("photo", {"map": "yes"}, '"map"'),
        ("photo", {"details": True, "prior_ai": 2}, "prior"),
        ("photo", {"map": True, "opacity": True}, '"opacity"'),
    ],
)
def test_a_bad_request_ends_in_one_line(answer, photo, inputs, parameters, words):
    inputs = photo.read_bytes() if inputs == "photo" else inputs
    with pytest.raises(ValueError) as caught:
        answer({"inputs": inputs, "parameters": parameters})
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_two_files_are_pushed_and_no_modules(tmp_path):
    write_endpoint(tmp_path)
    assert {path.name for path in tmp_path.rglob("*")} == {"handler.py", "requirements.txt"}
    assert (tmp_path / "requirements.txt").read_text() == f"{requirement()}\n"


def test_the_requirement_names_a_commit_or_a_version(monkeypatch):
    class Installed:
        def __init__(self, source: dict | None):
            self.text = json.dumps(source) if source else None

        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return self.text

    url = "https://github.com/user/realfake"
    from_git = {"url": url, "vcs_info": {"vcs": "git", "commit_id": "0" * 40}}
    from_folder = {"url": "file:///work", "dir_info": {"editable": True}}
    version = f"realfake=={realfake.__version__}"
    for source, expected in (
        (from_git, f"realfake @ git+{url}@{'0' * 40}"),
        (from_folder, version),
        (None, version),
    ):
        monkeypatch.setattr(publishing, "distribution", lambda name, s=source: Installed(s))
        assert requirement() == expected
    monkeypatch.setenv("REALFAKE_REQUIREMENT", "realfake @ git+https://host/fork@abc")
    assert requirement() == "realfake @ git+https://host/fork@abc"


class _Endpoint(BaseHTTPRequestHandler):
    """Call the handler as Endpoints do: with JSON, or with a PIL image."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kind = self.headers["Content-Type"] or ""
        data = (
            json.loads(body)
            if kind == "application/json"
            else {"inputs": Image.open(io.BytesIO(body))}
        )
        answer = json.dumps(self.server.answer(data)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments):
        pass


def test_the_hubs_client_works_on_an_endpoint(answer, pushed, photo, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    expected = Detector.from_pretrained(pushed).predict(photo).probabilities
    with HTTPServer(("127.0.0.1", 0), _Endpoint) as server:
        server.answer = answer
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        client = InferenceClient(model=f"http://127.0.0.1:{server.server_address[1]}")
        for image, options in (
            (photo, {}),
            (photo.read_bytes(), {"top_k": 2}),
            (photo, {"function_to_apply": "softmax"}),
        ):
            scores = client.image_classification(image, **options)
            assert {row.label: row.score for row in scores} == pytest.approx(expected, abs=1e-5)
        server.shutdown()
