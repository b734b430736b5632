"""The page: the time to start, the time to answer, and 32 users at once."""

import base64
import json
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data as samples

from realfake.detector import DEFAULT_CHECKPOINT, Detector
from realfake.space.handlers import check
from realfake.space.routes import MAX_BATCH
from realfake.statistics.verdicts import INCONCLUSIVE

from .browser import chromium
from .drawn import draw_photographs
from .scoring import EXAMPLES
from .serving import ROOT, environment, serving
from .timing import in_turn, ratio_row, rounds, row, seconds

# The imports that the page cannot do without.
BARE = (
    "import torch, gradio, captum.attr; "
    "from transformers import AutoImageProcessor, AutoModelForImageClassification"
)
USERS = 32
# The steps of a start before the server answers.
_STEPS = """
import json, os, time
started, steps = time.perf_counter(), {}
def step(name):
    steps[name] = time.perf_counter() - started - sum(steps.values())
from realfake.space.loading import load
from realfake.space.page import build
step("imports")
loaded = load(os.environ)
step("opening the detector")
page = build(loaded)
step("layout")
page.detector.accelerate()
step("OpenVINO")
print(json.dumps(steps))
"""


def start(work: Path, quick: bool) -> dict:
    """Compare the time from `python app.py` to the first page with that of the bare imports."""
    pages: list[float] = []
    bare: list[float] = []

    def page() -> None:
        began = time.perf_counter()
        with serving(work, "app.py"):
            pages.append(time.perf_counter() - began)

    def imports() -> None:
        bare.append(seconds(lambda: _output(work, BARE)))

    _output(work, BARE)  # fills the disk cache
    for run in in_turn((page, imports), 1 if quick else 3):
        run()
    profile = {"bare imports": statistics.median(bare), **json.loads(_output(work, _STEPS))}
    what = "Page: from start to first page over the bare imports"
    more = {"profile": profile, "seconds": {"page": pages, "imports": bare}}
    return {"rows": [ratio_row(what, pages, bare, 1.3, at_least=False, **more)]}


def _output(work: Path, code: str) -> str:
    """Run Python code in a new process, and return its last line."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, check=True, cwd=ROOT, env=environment(work, 0), stdout=subprocess.PIPE, text=True
    )
    return (done.stdout.splitlines() or [""])[-1]


# The page of `app.py` with an additional event that does nothing.
_WITH_EMPTY_EVENT = """
import os
import gradio as gr
from realfake.space.loading import load
from realfake.space.page import build, launch
page = build(load(os.environ))
with page.blocks:
    done = gr.HTML("", elem_id="bench-done")
    gr.Button("empty", elem_id="bench-empty").click(
        lambda text: text + "x", done, done, show_progress="hidden"
    )
launch(page)
"""
_KEEP_FILE = """data => {
    const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
    window.benchFile = new File([bytes], "bench.jpg", {type: "image/jpeg"});
}"""
_UPLOAD = """async () => {
    const body = new FormData();
    body.append("files", window.benchFile);
    await (await fetch("gradio_api/upload", {method: "POST", body})).json();
}"""


_KINDS = ((False, "no clear answer"), (True, "a verdict `real` or `ai`"))


def drop(work: Path, quick: bool) -> dict:
    """Compare the time from a dropped file to its verdict with that of its parts.

    The parts are `Detector.predict` of the bytes with the engine of the page, an event that does
    nothing, and the upload of the file. A verdict `real` or `ai` waits for the changed copies
    and gets a separate row. Some photographs of scikit-image have one.
    """
    detector = Detector.from_pretrained(device="cpu")
    detector.accelerate()
    photos = [*sorted(EXAMPLES.glob("*.jpg")), *_sample_photographs(work)]
    clear = {photo: detector.predict(photo).verdict != INCONCLUSIVE for photo in photos}
    names = ("drop", "predict", "empty event", "upload", "answer on the server")
    times: dict[bool, dict[str, list[float]]] = {
        kind: {name: [] for name in names} for kind in (False, True)
    }
    with serving(work, "-c", _WITH_EMPTY_EVENT) as server, chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(120_000)

        def empty_event() -> None:
            before = page.inner_text("#bench-done")
            page.evaluate("document.querySelector('#bench-empty').click()")
            page.wait_for_function(
                "old => document.querySelector('#bench-done').innerText !== old", arg=before
            )

        def dropped(file: dict) -> None:
            page.set_input_files("#rf-drop input[type=file]", file)
            page.wait_for_function("() => document.querySelector('#rf-verdict .rf-lead')")

        for number in range(1 + (2 if quick else 2 * len(photos))):
            photo = photos[number % len(photos)]
            data = photo.read_bytes()
            page.goto(server.url)
            page.wait_for_selector("#rf-examples button")
            page.evaluate(_KEEP_FILE, base64.b64encode(data).decode())
            # A new name each time.
            file = {"name": f"{number}-{photo.name}", "mimeType": "image/jpeg", "buffer": data}
            until_answer = seconds(lambda file=file: dropped(file))
            # The server is still busy with the changed copies.
            page.wait_for_selector("#rf-stability .rf-stability", state="attached")
            took = (
                until_answer,
                seconds(lambda data=data: detector.predict(data)),
                seconds(empty_event),
                seconds(lambda: page.evaluate(_UPLOAD)),
                seconds(lambda photo=photo: check(detector, str(photo))),
            )
            if number:  # the first one allocates
                for name, each in zip(names, took, strict=True):
                    times[clear[photo]][name].append(each)
            page.wait_for_selector("#rf-map .rf-tile")
    rows = []
    for kind, end in _KINDS:
        own = times[kind]
        if not own["drop"]:
            continue
        sums = [sum(each) for each in zip(*(own[name] for name in names[1:4]), strict=True)]
        profile = {name: statistics.median(each) for name, each in own.items()}
        what = "Page: from drop to answer over `Detector.predict(bytes)`, an empty event, an upload"
        what = f"{what}; {end}"
        rows.append(ratio_row(what, own["drop"], sums, 1.5, at_least=False, profile=profile))
    return {"rows": rows, "seconds": {end: times[kind] for kind, end in _KINDS}}


def _sample_photographs(work: Path) -> list[Path]:
    """Return photographs of scikit-image as JPEG files."""
    paths = []
    for name in ("astronaut", "cat", "coffee", "rocket"):
        path = work / f"sample-{name}.jpg"
        Image.fromarray(getattr(samples, name)()).save(path, quality=95)
        paths.append(path)
    return paths


def users(work: Path, quick: bool) -> dict:
    """Compare 32 users at once at `/predict` with batches of 16 without a server."""
    paths = draw_photographs(work / "four-views", 32, sizes=((320, 240), (300, 300), (240, 320)))
    bodies = [path.read_bytes() for path in paths]
    each = 1 if quick else 2
    detector = Detector.from_pretrained(device="cpu")
    detector.predict(bodies)  # a long list opens a faster engine
    latencies: list[float] = []
    problems: list[str] = []
    gate = threading.Barrier(USERS)

    def user(url: str, number: int) -> None:
        gate.wait()
        for turn in range(each):
            body = bodies[(number + turn) % len(bodies)]
            request = urllib.request.Request(f"{url}/predict", body, {"Content-Type": "image/jpeg"})
            began = time.perf_counter()
            try:
                with urllib.request.urlopen(request, timeout=120) as response:  # nosec B310  # loopback
                    response.read()
            except OSError as error:
                problems.append(str(error))
            latencies.append(time.perf_counter() - began)

    batch = bodies[: USERS * each // 2]
    with serving(work, "app.py") as server, ThreadPoolExecutor(USERS) as pool:
        url = server.url
        first = urllib.request.Request(f"{url}/predict", bodies[0], {"Content-Type": "image/jpeg"})
        urllib.request.urlopen(first).close()  # nosec B310  # loopback
        functions = {
            "offline": lambda _: detector.predict(batch),
            "users": lambda _: list(pool.map(user, [url] * USERS, range(USERS))),
        }
        times = rounds(functions, 1 if quick else 2)
        with urllib.request.urlopen(f"{url}/health") as response:  # nosec B310  # loopback
            judged = json.load(response)
    rates = {
        "users": [USERS * each / took for took in times["users"]],
        "offline": [len(batch) / took for took in times["offline"]],
    }
    what = f"Page: {USERS} users at once at /predict, images a second over `Detector.predict`"
    facts = {
        "images_a_second": rates,
        "latency_seconds": {f"p{p}": float(np.percentile(latencies, p)) for p in (50, 95)},
        "mean_batch": judged["images"] / judged["batches"],
        "max_batch": MAX_BATCH,
        "model": DEFAULT_CHECKPOINT.name,
    }
    errors = f"Page: errors among {len(latencies)} requests"
    return {
        "rows": [
            ratio_row(what, rates["users"], rates["offline"], 0.9, **facts),
            row(errors, len(problems), 0, problems=problems[:5]),
        ]
    }
