"""The page: the time to start, the time to answer, and 32 users at once."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from realfake.detector import DEFAULT_CHECKPOINT, Detector
from realfake.space.routes import MAX_BATCH

from .drawn import draw_photographs
from .scoring import EXAMPLES
from .serving import ROOT, environment, serving
from .timing import in_turn, ratio_row, seconds

# The imports that the page cannot do without.
BARE = (
    "import torch, gradio, captum.attr; "
    "from transformers import AutoImageProcessor, AutoModelForImageClassification"
)
USERS = 32


def start(work: Path, quick: bool) -> dict:
    """Compare the time from `python app.py` to the first page with that of the bare imports."""

    def page() -> None:
        began = time.perf_counter()
        with serving(work, "app.py"):
            pages.append(time.perf_counter() - began)

    def imports() -> None:
        command = [sys.executable, "-c", BARE]
        bare.append(
            seconds(lambda: subprocess.run(command, check=True, cwd=ROOT, env=environment(work, 0)))
        )

    pages: list[float] = []
    bare: list[float] = []
    imports()  # fills the disk cache
    bare.clear()
    for run in in_turn((page, imports), 1 if quick else 3):
        run()
    ratios = [page / alone for page, alone in zip(pages, bare, strict=True)]
    row = ratio_row(
        "Space: from start to first page over the bare imports", ratios, 1.3, at_least=False
    )
    return {"rows": [row | {"seconds": {"page": pages, "imports": bare}}]}


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


def drop(work: Path, quick: bool) -> dict:
    """Compare the time from a dropped file to its verdict with a prediction and an empty event.

    Raises:
        RuntimeError: There is no Chromium.
    """
    from playwright.sync_api import sync_playwright

    chromium = next(
        (
            path
            for name in ("chromium", "chromium-browser", "google-chrome")
            if (path := shutil.which(name))
        ),
        None,
    )
    if chromium is None:
        raise RuntimeError("no chromium in PATH, which this part needs")
    photos = [EXAMPLES / name for name in sorted(os.listdir(EXAMPLES)) if name.endswith(".jpg")]
    detector = Detector.from_pretrained(device="cpu")
    alone, empty, dropped = [], [], []
    with serving(work, "-c", _WITH_EMPTY_EVENT) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(server.url)
        page.wait_for_selector("#rf-examples button")
        for number in range(1 + (4 if quick else 12)):
            photo = photos[number % len(photos)]
            data = photo.read_bytes()
            alone.append(seconds(lambda data=data: detector.predict(data)))
            before = page.inner_text("#bench-done")
            began = time.perf_counter()
            page.evaluate("document.querySelector('#bench-empty').click()")
            page.wait_for_function(
                "old => document.querySelector('#bench-done').innerText !== old", arg=before
            )
            empty.append(time.perf_counter() - began)
            # A new name each time. The verdict is cleared before the next one appears.
            page.evaluate("document.querySelector('#rf-verdict').dataset.bench = ''")
            began = time.perf_counter()
            page.set_input_files(
                "#rf-drop input[type=file]",
                {"name": f"{number}-{photo.name}", "mimeType": "image/jpeg", "buffer": data},
            )
            page.wait_for_function("() => document.querySelector('#rf-verdict .rf-lead')")
            dropped.append(time.perf_counter() - began)
            page.wait_for_selector("#rf-map .rf-tile")
            page.reload()
            page.wait_for_selector("#rf-examples button")
        browser.close()
    ratios = [
        whole / (one + none)
        for whole, one, none in zip(dropped[1:], alone[1:], empty[1:], strict=True)
    ]
    what = "Space: from drop to verdict over Detector.predict(bytes) plus an empty event"
    row = ratio_row(what, ratios, 1.5, at_least=False)
    times = {"drop": dropped[1:], "predict": alone[1:], "empty_event": empty[1:]}
    return {
        "rows": [
            row | {"seconds": {name: float(np.median(values)) for name, values in times.items()}}
        ]
    }


def users(work: Path, quick: bool) -> dict:
    """Compare 32 users at once at `/predict` with batches of 16 without a server."""
    paths = draw_photographs(work / "users", 32, sizes=((640, 480), (512, 512), (480, 640)))
    bodies = [path.read_bytes() for path in paths]
    each = 2 if quick else 6
    detector = Detector.from_pretrained(device="cpu")
    detector.predict(bodies[:16])
    latencies, problems, lock = [], [], threading.Lock()
    gate = threading.Barrier(USERS)

    def user(url: str, number: int) -> None:
        gate.wait()
        for turn in range(each):
            body = bodies[(number + turn) % len(bodies)]
            request = urllib.request.Request(
                f"{url}/predict", body, {"Content-Type": "image/jpeg"}, method="POST"
            )
            began = time.perf_counter()
            try:
                with urllib.request.urlopen(request, timeout=120) as response:  # nosec B310  # loopback
                    response.read()
            except OSError as error:
                with lock:
                    problems.append(str(error))
            with lock:
                latencies.append(time.perf_counter() - began)

    rates, ratios = [], []
    with serving(work, "app.py") as server:
        url = server.url
        first = urllib.request.Request(f"{url}/predict", bodies[0], {"Content-Type": "image/jpeg"})
        urllib.request.urlopen(first).close()  # nosec B310  # loopback
        for _ in range(1 if quick else 3):
            batch = [bodies[index % len(bodies)] for index in range(USERS * each // 2)]
            offline = len(batch) / seconds(
                lambda batch=batch: detector.predict(batch, batch_size=16)
            )
            with ThreadPoolExecutor(USERS) as pool:
                took = seconds(
                    lambda url=url, pool=pool: list(pool.map(user, [url] * USERS, range(USERS)))
                )
            rates.append((USERS * each / took, offline))
            ratios.append(rates[-1][0] / offline)
        with urllib.request.urlopen(f"{url}/health") as response:  # nosec B310  # loopback
            judged = json.load(response)
    what = (
        f"Space: {USERS} users at once at /predict, images a second over the offline fp32 "
        "batch rate"
    )
    milliseconds = {f"p{share}": 1e3 * float(np.percentile(latencies, share)) for share in (50, 95)}
    facts = {
        "images_a_second": rates,
        "latency_ms": milliseconds,
        "mean_batch": judged["images"] / judged["batches"],
        "max_batch": MAX_BATCH,
        "model": DEFAULT_CHECKPOINT.name,
    }
    errors = {
        "what": f"Space: errors among {len(latencies)} requests",
        "value": len(problems),
        "target": 0,
    }
    errors |= {"at_least": False, "met": not problems, "problems": problems[:5]}
    return {"rows": [ratio_row(what, ratios, 0.9, at_least=True, **facts), errors]}
