"""The load test passes with a few users for seconds, and detects each kind of failure."""

import importlib
import json
import re
import sys
import threading
from contextlib import nullcontext
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
SCORES = {"real": 0.25, "ai": 0.75}


@pytest.fixture(scope="module")
def module():
    """Import the script and its parts as the script does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module


@pytest.fixture(scope="module")
def soak(module):
    return module("soak")


@pytest.fixture(scope="module")
def users(module):
    return module("soaking.users")


@pytest.fixture(scope="module")
def memory(module):
    return module("soaking.memory")


@pytest.fixture(scope="module")
def picture(module):
    files = module("soaking.files")
    return files.File("a picture", b"picture", "image/jpeg", dict.fromkeys(files.FORMS, SCORES))


@pytest.fixture(scope="module")
def broken(module):
    return module("soaking.files").File("a broken file", b"broken", "image/jpeg", None)


def test_a_short_run_passes(soak, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REALFAKE_MODEL", "/nowhere")  # ignored: the bundled detector is used
    report = tmp_path / "soak.json"
    assert (
        soak.main(["--users", "3", "--minutes", "0.05", "--pictures", "5", "--report", str(report)])
        == 0
    )
    record = json.loads(report.read_text())["load"]
    assert record["answers"]["200"] >= 3 and record["told_apart"] == 1.0
    assert record["tracebacks"] == 0 and not record["broken"]
    assert record["memory"]["slope"] is None
    output = capsys.readouterr().out
    assert "no request is lost" in output
    assert re.search("memory does not grow +unknown", output)


def answer(scores: dict) -> bytes:
    return json.dumps(
        [{"label": label, "score": score} for label, score in scores.items()]
    ).encode()


BUSY = json.dumps({"error": "busy"}).encode()


@pytest.mark.parametrize(
    "kind, status, text, failed",
    [
        ("picture", 200, answer(SCORES), None),
        ("picture", 200, answer({"real": 0.250009, "ai": 0.75}), None),
        (
            "picture",
            200,
            answer({"real": 0.75, "ai": 0.25}),
            "scores equal those of the same bytes offline",
        ),
        ("picture", 200, answer({"ai": 0.75}), "scores equal those of the same bytes offline"),
        ("picture", 200, b'{"error": "?"}', "answers are as documented"),
        ("picture", 200, b"<html>", "answers are as documented"),
        ("picture", 422, BUSY, "the only other answer is busy"),
        ("picture", 500, BUSY, "the only other answer is busy"),
        ("picture", 503, BUSY, None),
        ("picture", 503, b"{}", "the only other answer is busy"),
        ("broken", 422, BUSY, None),
        ("broken", 503, BUSY, None),
        ("broken", 200, answer(SCORES), "broken files are refused"),
        ("broken", 500, BUSY, "broken files are refused"),
    ],
)
def test_each_answer_fails_the_right_requirement(
    users, picture, broken, kind, status, text, failed
):
    headers = Message()
    headers["Retry-After"] = "2"
    file = {"picture": picture, "broken": broken}[kind]
    assert users.check(file, "file", status, headers, text)[0] == failed


def test_busy_needs_retry_after(users, picture):
    assert users.check(picture, "file", 503, Message(), BUSY)[0] == "the only other answer is busy"


class Careless(BaseHTTPRequestHandler):
    """Answers every third request with another score, and drops every fifth."""

    number = 0
    lock = threading.Lock()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        with self.lock:
            Careless.number += 1
            number = Careless.number
        if number % 5 == 0:
            return
        body = answer({"real": 0.75, "ai": 0.25} if number % 3 == 0 else SCORES)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


def test_swapped_and_lost_answers_are_counted(users, picture):
    with ThreadingHTTPServer(("127.0.0.1", 0), Careless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tally = users.Tally()
        for form in users.FORMS * 10:
            users.send(f"http://127.0.0.1:{server.server_port}", picture, form, tally)
        server.shutdown()
    assert tally.counts == {"200": 24, "none": 6}
    assert tally.broken == {
        "no request is lost": 6,
        "scores equal those of the same bytes offline": 8,
    }
    assert len(tally.problems) == 14


def test_a_failed_requirement_ends_in_status_1(soak, tmp_path, monkeypatch, capsys):
    found = {
        "requests": 1,
        "seconds": 1.0,
        "per_second": 1.0,
        "answers": {"500": 1},
        "latency_seconds": {"p50": 1.0},
        "overload": {"answers": {}},
        "recovery_seconds": None,
        "calm_seconds": 0.1,
        "problems": ["it failed"],
        "memory": {
            "samples": [1.0],
            "first_mib": 1.0,
            "last_mib": 1.0,
            "most_mib": 1.0,
            "slope": {"mib_per_minute": 5.0, "low": 4.0, "high": 6.0},
        },
        "promises": {"no request is lost": True, "memory does not grow": False},
    }
    monkeypatch.setattr(soak, "measure", lambda *arguments: dict(found))
    monkeypatch.setattr(soak, "draw_files", lambda *arguments: [])
    import benchmarks.serving as serving

    class Stub:
        log = tmp_path / "log"

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    Stub.log.write_text("")
    monkeypatch.setattr(serving, "serving", lambda *arguments: Stub())
    assert soak.main(["--report", str(tmp_path / "soak.json")]) == 1
    output = capsys.readouterr()
    assert (
        "memory does not grow  FAILED" in output.out
        and "never" in output.out
        and "it failed" in output.err
    )


def test_growth_is_detected(soak, memory):
    flat = [(float(second), 900.0 + 40 * (second % 7)) for second in range(600)]
    found = memory.slope(flat, 150.0)
    assert found["low"] < 0 < found["high"] and abs(found["mib_per_minute"]) < 1
    growing = [(second, mib + 0.1 * second) for second, mib in flat]
    found = memory.slope(growing, 150.0)
    assert found["low"] > soak.GROWTH and found["mib_per_minute"] == pytest.approx(6, abs=1)
    # Memory that the first requests allocate is not growth.
    assert (
        memory.slope([(second, mib if second > 100 else 600.0) for second, mib in flat], 150.0)[
            "low"
        ]
        < 0
    )
    assert memory.slope(flat[:50], 0.0) is None


def test_memory_of_this_process(memory):
    import os

    with memory.Memory(os.getpid(), every=0.01) as watched:
        threading.Event().wait(0.1)
    if sys.platform == "linux":
        assert len(watched.samples) > 2 and all(10 < mib < 100_000 for _, mib in watched.samples)
    assert memory.resident(2**30) is None


class Browserless:
    actions = ["gradcam of a picture"] * 40

    def __init__(self, failures=()):
        self.failures = list(failures)


def samples(most: float = 2000.0, huge: float = 3000.0, left: float = 1000.0, leak: float = 0.0):
    """The memory of 30 minutes of visits, a rest, and an image of 100 megapixels, in MiB."""
    for second in range(1800):
        yield float(second), (most if second % 60 < 20 else 900.0) + leak * second / 60
    for second in range(1800, 1860):
        yield float(second), 1000.0
    for second in range(1860, 1880):
        yield float(second), huge
    for second in range(1880, 1950):
        yield float(second), left


@pytest.mark.parametrize(
    ("changes", "failures", "missed"),
    [
        ({}, (), None),
        ({"most": 2900.0}, (), "peak memory"),
        ({"leak": 8.0}, (), "growth after 10 minutes"),
        ({"huge": 4100.0}, (), "memory above that peak"),
        ({"left": 1500.0}, (), "given back in a minute"),
        ({}, ("occlusion of a picture: timed out",), "no action fails"),
    ],
)
def test_the_memory_of_the_visits_decides_the_exit_status(
    soak, module, tmp_path, monkeypatch, capsys, changes, failures, missed
):
    import benchmarks.serving as serving

    visitor = module("soaking.visitor")
    server = SimpleNamespace(url="http://127.0.0.1:1", pid=1)
    monkeypatch.setattr(serving, "serving", lambda *_: nullcontext(server))
    monkeypatch.setattr(visitor, "draw_pictures", lambda folder: [Path("a"), Path("huge")])

    def visit(url, pid, pictures, minutes, settling):
        assert (minutes, settling) == (30.0, 10.0)
        visits, times = Browserless(failures), (1799.5, 1859.5, 1879.5)
        return visitor.record(list(samples(**changes)), visits, minutes, settling, times)

    monkeypatch.setattr(visitor, "visit", visit)
    report = tmp_path / "soak.json"
    report.write_text(json.dumps({"load": {"requests": 7}}))
    words = ["--page", "--report", str(report), "--plot", str(tmp_path / "memory.png")]
    assert soak.main(words) == (0 if missed is None else 1)
    written = json.loads(report.read_text())
    assert written["load"] == {"requests": 7} and written["page"]["actions"] == 40
    broken = [name for name, met in written["page"]["promises"].items() if not met]
    assert len(broken) == (missed is not None) and all(missed in name for name in broken)
    assert (tmp_path / "memory.png").stat().st_size > 1000
    output = capsys.readouterr()
    assert "peak memory" in output.out and all(failure in output.err for failure in failures)


@pytest.mark.browser
def test_visitors_use_the_whole_page(module, chromium, tiny_vit, tmp_path, monkeypatch):
    import benchmarks.serving as serving

    visitor = module("soaking.visitor")
    monkeypatch.setattr(visitor, "REST", 1.0)
    monkeypatch.setattr(visitor, "SIZES", ((20, 20), (300, 200)))
    monkeypatch.setattr(visitor, "HUGE", (640, 480))
    monkeypatch.setenv("REALFAKE_MODEL", str(tiny_vit))
    pictures = visitor.draw_pictures(tmp_path / "drawn")
    with serving.serving(tmp_path, "app.py") as server:
        record = visitor.visit(server.url, server.pid, pictures, 0.0, 10.0)
    # Two visitors with two images, a batch, a comparison and the other tabs; then the huge image.
    assert record["failures"] == [] and record["actions"] == 2 * (2 + 3) + 1
    assert 0 < record["most_gb"] < 3 and record["settled"] is None and record["curve"]


def test_the_stored_curve_has_the_peaks_of_its_steps(module):
    visitor = module("soaking.visitor")
    curve = visitor._curve([(0.0, 1000.0), (4.9, 2000.0), (5.0, 500.0), (12.0, 700.0)])
    assert curve == [[0.0, 2.097], [5.0, 0.524], [10.0, 0.734]]
