"""The Inference Endpoint's handler, with nothing but the folder that is pushed."""

import ast
import base64
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from helpers.tiny import draw_picture, save_tiny
from huggingface_hub import InferenceClient, constants
from PIL import Image
from transformers import pipeline

from realfake.detector import Detector
from realfake.training import publishing
from realfake.training.publishing import modules_of, write_endpoint

# Endpoints import handler.py from the checkpoint's folder. An editable installation of realfake must not be found here.
_PROGRAM = """
import base64, importlib.machinery, importlib.util, io, json, sys

folder, photo = sys.argv[1:]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.path = [
    entry for entry in sys.path if entry and importlib.machinery.PathFinder.find_spec("realfake", [entry]) is None
]
assert importlib.util.find_spec("realfake") is None
spec = importlib.util.spec_from_file_location("handler", folder + "/handler.py")
handler = importlib.util.module_from_spec(spec)
spec.loader.exec_module(handler)
import realfake
assert realfake.__file__.startswith(folder), realfake.__file__
from PIL import Image
answer = handler.EndpointHandler(folder)
data = open(photo, "rb").read()
encoded = base64.b64encode(data).decode()
results = {
    "bytes": answer({"inputs": data}),
    "base64": answer({"inputs": encoded}),
    "pil": answer({"inputs": Image.open(io.BytesIO(data))}),
    "top": answer({"inputs": encoded, "parameters": {"top_k": 1, "function_to_apply": "sigmoid"}}),
    "details": answer({"inputs": data, "parameters": {"details": True, "provenance": True, "prior_ai": 0.1}}),
    "map": answer({"inputs": data, "parameters": {"map": True, "target": "real", "opacity": 1}}),
}
for name, sent in {
    "text": {"inputs": b"hello"}, "nothing": {}, "bad base64": {"inputs": "!"}, "method": {"inputs": data, "parameters": {"map": True, "method": "x"}},
    "kind": {"inputs": data, "parameters": {"map": "yes"}}, "prior": {"inputs": data, "parameters": {"details": True, "prior_ai": 2}},
    "number": {"inputs": data, "parameters": {"map": True, "opacity": True}},
}.items():
    try:
        results[name] = answer(sent)
    except ValueError as error:
        results[name] = str(error)
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def pushed(tmp_path_factory) -> Path:
    folder = save_tiny("convnext", tmp_path_factory.mktemp("endpoint") / "model")
    write_endpoint(folder)
    return folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    draw_picture(64, seed=5).save(path, quality=90)
    return path


@pytest.fixture(scope="module")
def results(pushed, photo, tmp_path_factory) -> dict:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    program = elsewhere / "program.py"
    program.write_text(_PROGRAM)
    done = subprocess.run(
        [sys.executable, "-I", program, pushed, photo],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=elsewhere,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_handler_answers_as_the_hub_does_in_a_folder_of_its_own(results, pushed, photo):
    expected = pipeline("image-classification", model=str(pushed), device="cpu")(str(photo))
    for way in ("bytes", "base64", "pil"):
        assert [row["label"] for row in results[way]] == [row["label"] for row in expected]
        assert [row["score"] for row in results[way]] == pytest.approx(
            [row["score"] for row in expected], abs=1e-5
        )
    assert len(results["top"]) == 1


def test_details_are_the_one_form_of_an_answer(results, pushed, photo):
    answer = results["details"]["answer"]
    expected = Detector.from_pretrained(pushed).predict(photo, prior_ai=0.1)
    assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    assert (answer["verdict"], answer["prior_ai"]) == (expected.verdict, 0.1)
    assert answer["provenance"]["findings"][0]["kind"] == "c2pa"
    assert len(answer["sha256"]) == 64
    assert results["details"]["scores"] == results["bytes"]
    assert "map" not in results["details"]


def test_the_map_comes_on_request(results):
    found = results["map"]
    picture = Image.open(io.BytesIO(base64.b64decode(found["map"]["image"])))
    assert picture.format == "PNG"
    assert min(picture.size) >= 256
    assert (found["map"]["method"], found["map"]["target"]) == ("gradcam", "real")
    assert found["answer"]["probabilities"]["ai"] == pytest.approx(
        next(row["score"] for row in results["bytes"] if row["label"] == "ai"), abs=1e-5
    )


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ("text", "text file"),
        ("nothing", "cannot be read"),
        ("bad base64", "base64"),
        ("method", "Unknown attribution method"),
        ("kind", '"map" must be'),
        ("prior", "prior"),
        ("number", '"opacity" must be'),
    ],
)
def test_a_bad_request_ends_in_one_line(results, request_, words):
    assert words in results[request_]
    assert "\n" not in results[request_]


def test_every_module_that_is_pushed_finds_its_own_imports(pushed):
    modules = {
        path.relative_to(pushed / "realfake").as_posix()
        for path in (pushed / "realfake").rglob("*.py")
    }
    assert {
        "__init__.py",
        "detector.py",
        "hub_api.py",
        "attribution/overlay.py",
        "attribution/methods.py",
    } <= modules
    for name in modules:
        tree = ast.parse((pushed / "realfake" / name).read_text())
        assert {path.as_posix() for path in publishing._imports(tree, Path(name).parent)} & set(
            path.relative_to(publishing.PACKAGE).as_posix()
            for path in publishing.PACKAGE.rglob("*.py")
        ) <= modules
    # Neither training nor the page.
    others = ("space/", "training/", "corpus/", "audit/", "evaluation/")
    assert not [name for name in modules if name.startswith(others)]


def test_what_is_pushed_stays_small(pushed):
    assert sum(path.stat().st_size for path in (pushed / "realfake").rglob("*.py")) < 500_000


def test_writing_again_changes_nothing_and_removes_what_is_left_over(pushed, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(pushed, folder)
    (folder / "realfake" / "old.py").write_text("")
    before = {path: path.read_bytes() for path in pushed.rglob("*") if path.is_file()}
    write_endpoint(folder)
    after = {
        pushed / path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert before == after


def test_requirements_keep_the_projects_bounds(pushed, tmp_path):
    lines = (pushed / "requirements.txt").read_text().splitlines()[1:]
    assert [line.split(">")[0] for line in lines] == list(publishing.REQUIREMENTS)
    assert all("<" in line for line in lines)
    write_endpoint(tmp_path, requirements=tmp_path / "missing.txt")
    lines = (tmp_path / "requirements.txt").read_text().splitlines()[1:]
    assert all("<" in line for line in lines)


def test_imports_are_followed_through_functions_and_not_through_type_checking():
    source = "def f():\n    from realfake.attribution.overlay import overlay\nif TYPE_CHECKING:\n    from realfake.training.trainer import x\n"
    found = {path.as_posix() for path in modules_of(source)}
    assert {"attribution/overlay.py", "labels.py", "__init__.py"} <= found
    assert "training/trainer.py" not in found


class _Endpoint(BaseHTTPRequestHandler):
    """Hands requests to the handler as Endpoints do: JSON as it is, an image as a PIL image."""

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


def test_the_hubs_client_works_on_an_endpoint(pushed, photo, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location(
        "endpoint_handler", publishing.TEMPLATES / "handler.py"
    )
    handler = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(handler)
    expected = Detector.from_pretrained(pushed).predict(photo).probabilities
    with HTTPServer(("127.0.0.1", 0), _Endpoint) as server:
        server.answer = handler.EndpointHandler(str(pushed))
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        client = InferenceClient(model=f"http://127.0.0.1:{server.server_address[1]}")
        for image, options in (
            (photo, {}),
            (photo.read_bytes(), {"top_k": 2}),
            (photo, {"function_to_apply": "softmax"}),
        ):
            found = client.image_classification(image, **options)
            assert {row.label: row.score for row in found} == pytest.approx(expected, abs=1e-5)
        server.shutdown()
