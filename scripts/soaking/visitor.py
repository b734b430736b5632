"""One visitor of the page, with every method and image size, and the memory of the page."""

import itertools
import json
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import uuid4

from realfake.space.loading import bundled

from .memory import Memory

# (width, height), from an icon to a 36-megapixel photograph.
SIZES = ((20, 20), (64, 48), (640, 480), (800, 600), (2048, 1536), (4000, 3000), (7200, 5000))
METHODS = (
    "gradcam",
    "integrated_gradients",
    "smoothgrad",
    "gradient_shap",
    "occlusion",
    "kernel_shap",
)
BATCH = 20
# Seconds between pictures. Idle threads of Gradio end after ten seconds.
PAUSE = 11.0
# MiB that the page may use.
MOST = 3 * 1024
REST_SECONDS = 60.0


@dataclass(frozen=True)
class Visit:
    """The memory of a visit, in MiB.

    Attributes:
        first: Before the visit.
        most: The peak.
        rested: A minute after the visit.
        steps: `(seconds, action, memory after it)`.
        samples: `(seconds, memory)`, four times a second.
        failures: Calls that failed.
    """

    first: float
    most: float
    rested: float
    steps: list[tuple[float, str, float]]
    samples: list[tuple[float, float]]
    failures: list[str]


def draw_pictures(folder: Path) -> list[Path]:
    """Write one image of each size, as JPEG and PNG in turn."""
    from benchmarks.drawn import Drawer

    folder.mkdir(parents=True, exist_ok=True)
    draw, paths = Drawer(), []
    for number, (width, height) in enumerate(SIZES):
        drawn = draw((min(width, 2304), min(height, 2304)), seed=number).resize((width, height))
        path = folder / f"{width}x{height}.{('jpg', 'png')[number % 2]}"
        drawn.save(path, quality=90) if path.suffix == ".jpg" else drawn.save(path)
        paths.append(path)
    return paths


def visit(url: str, pid: int, pictures: Sequence[Path], minutes: float) -> Visit:
    """Use the page for some minutes: maps, a batch, a comparison; then wait for a minute."""
    from gradio_client import Client, handle_file

    client = Client(url, verbose=False)
    steps, failures = [], []
    with Memory(pid, every=0.25) as memory, ThreadPoolExecutor(2) as pool:
        time.sleep(1)
        began, first = time.monotonic(), memory.samples[-1][1]

        def step(action: str, call: Callable[[], object]) -> None:
            try:
                call()
            except Exception as error:
                failures.append(f"{action}: {str(error)[:200]}")
            steps.append((time.monotonic() - began, action, memory.samples[-1][1]))

        def explain(picture: Path, method: str) -> None:
            client.predict(handle_file(str(picture)), method, "ai", 0.5, api_name="/explain")

        for number, picture in enumerate(itertools.cycle(pictures)):
            if number >= len(pictures) and time.monotonic() - began > 60 * minutes:
                break
            # Two at once: a visitor can change the method while a map is drawn.
            maps = [
                pool.submit(step, f"{method} of {picture.name}", partial(explain, picture, method))
                for method in METHODS
            ]
            for drawn in maps:
                drawn.result()
            time.sleep(PAUSE)
        for picture in pictures:
            step(
                f"stability of {picture.name}",
                lambda picture=picture: client.predict(
                    handle_file(str(picture)), api_name="/stability"
                ),
            )
        many = list(itertools.islice(itertools.cycle(pictures), BATCH))
        step(f"batch of {BATCH}", lambda: batch(url, many))
        step("comparison", lambda: comparison(url, pictures[5]))
        time.sleep(REST_SECONDS)
        used = [mib for _, mib in memory.samples]
    return Visit(first, max(used), used[-1], steps, memory.samples, failures)


def batch(url: str, pictures: Sequence[Path]) -> None:
    """Check many images on the batch tab."""
    files = [_uploaded(url, picture) for picture in pictures]
    _press(url, "rf-files", {"rf-files": files, "rf-batch-stability": True})


def comparison(url: str, picture: Path) -> None:
    """Check an image with the bundled detectors on the comparison tab."""
    values = {"rf-compare-drop": _uploaded(url, picture), "rf-models": bundled()}
    _press(url, "rf-compare-start", values)


def _uploaded(url: str, picture: Path) -> dict:
    edge = uuid4().hex
    head = (
        f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{picture.name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    body = head.encode() + picture.read_bytes() + f"\r\n--{edge}--\r\n".encode()
    (path,) = _request(f"{url}/gradio_api/upload", body, f"multipart/form-data; boundary={edge}")
    return {"path": path, "orig_name": picture.name, "meta": {"_type": "gradio.FileData"}}


def _press(url: str, element: str, values: dict) -> None:
    """Start the event of an element as the browser does, and wait for its end.

    Args:
        values: `{elem_id: value}` of the event's inputs; the others keep their initial values.
    """
    config = _request(f"{url}/config")
    components = {one["id"]: one["props"] for one in config["components"]}
    ids = {props.get("elem_id"): number for number, props in components.items()}
    event = next(
        one
        for one in config["dependencies"]
        if any(target[0] == ids[element] for target in one["targets"]) and one["backend_fn"]
    )
    data = [
        values.get(components[number].get("elem_id"), components[number].get("value"))
        for number in event["inputs"]
    ]
    session = uuid4().hex
    body = {"data": data, "fn_index": event["id"], "session_hash": session}
    _request(f"{url}/gradio_api/queue/join", json.dumps(body).encode(), "application/json")
    address = f"{url}/gradio_api/queue/data?session_hash={session}"
    with urllib.request.urlopen(address, timeout=300) as stream:  # nosec B310  # loopback
        for line in stream:
            if b'"process_completed"' in line:
                message = json.loads(line.removeprefix(b"data: "))
                if not message["success"]:
                    raise RuntimeError(str(message["output"])[:200])
                return
    raise RuntimeError("The page ended the stream before the answer.")


def _request(url: str, body: bytes | None = None, kind: str = "") -> dict | list:
    request = urllib.request.Request(url, body, {"Content-Type": kind} if kind else {})
    with urllib.request.urlopen(request, timeout=120) as response:  # nosec B310  # loopback
        return json.load(response)


def table(visit: Visit) -> str:
    """Return the visit in a few lines."""
    lines = [f"{seconds:6.0f} s  {mib:7.0f} MiB  {action}" for seconds, action, mib in visit.steps]
    lines += [
        f"at the start       {visit.first:7.0f} MiB",
        f"peak               {visit.most:7.0f} MiB (limit {MOST})",
        f"a minute after     {visit.rested:7.0f} MiB",
        *(f"failed: {failure}" for failure in visit.failures),
    ]
    return "\n".join(lines)
