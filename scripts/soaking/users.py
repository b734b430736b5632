"""Concurrent users: they send files to `/predict` in all forms and check the answers."""

import base64
import contextlib
import json
import random
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from .files import FORMS, File, agree

BROKEN_SHARE = 0.05
BUSY = (429, 503)
# Seconds until a request counts as lost; the server gives up after 30.
TIMEOUT = 120.0
REQUIREMENTS = ANSWERED, DOCUMENTED, SAME_SCORES, REFUSED, ONLY_BUSY = (
    "no request is lost",
    "answers are as documented",
    "scores equal those of the same bytes offline",
    "broken files are refused",
    "the only other answer is busy",
)


@dataclass
class Tally:
    """Counts of the answers and failed requirements, from all threads."""

    counts: Counter = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    broken: Counter = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, status: str, failed: str | None, reason: str, seconds: float) -> None:
        with self.lock:
            self.counts[status] += 1
            self.seconds.append(seconds)
            if failed:
                self.broken[failed] += 1
                self.problems.append(f"{failed}: {reason}")


def body(file: File, form: str) -> tuple[bytes, str]:
    """Return the body of a request and its content type."""
    if form == "file":
        return file.data, file.kind
    if form == "json":
        sent = {
            "inputs": base64.b64encode(file.data).decode(),
            "parameters": {"function_to_apply": "none"},
        }
        return json.dumps(sent).encode(), "application/json"
    edge = b"--soak-7f3a9c"
    head = (
        b'\r\nContent-Disposition: form-data; name="file"; filename="x.jpg"'
        b"\r\nContent-Type: image/jpeg\r\n\r\n"
    )
    other = b'\r\nContent-Disposition: form-data; name="function_to_apply"\r\n\r\nsigmoid\r\n'
    data = edge + head + file.data + b"\r\n" + edge + other + edge + b"--\r\n"
    return data, "multipart/form-data; boundary=soak-7f3a9c"


def send(url: str, file: File, form: str, tally: Tally) -> float:
    """Send a file and check the answer.

    Returns:
        The seconds of `Retry-After`; 0 without it.
    """
    data, kind = body(file, form)
    request = urllib.request.Request(f"{url}/predict", data, {"Content-Type": kind}, method="POST")
    began = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:  # nosec B310  # loopback
            status, headers, text = response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        with error:
            status, headers, text = error.code, error.headers, error.read()
    except (OSError, ValueError) as error:
        tally.add("none", ANSWERED, f"{file.name}: {error}", time.monotonic() - began)
        return 0.0
    failed, reason = check(file, form, status, headers, text)
    tally.add(
        str(status), failed, f"{file.name} as {form}: {status}, {reason}", time.monotonic() - began
    )
    return float(headers["Retry-After"]) if status in BUSY and not failed else 0.0


def check(file: File, form: str, status: int, headers, text: bytes) -> tuple[str | None, str]:
    """Return the requirement that an answer fails, or `None`, and the reason."""
    excerpt = text[:200].decode(errors="replace")
    try:
        content = json.loads(text)
    except ValueError:
        return DOCUMENTED, f"not JSON: {excerpt!r}"
    if status in BUSY:
        has_error = isinstance(content, dict) and content.get("error")
        if has_error and (headers["Retry-After"] or "").isdecimal():
            return None, ""
        return ONLY_BUSY, f"no error or no Retry-After: {excerpt!r}"
    if file.scores is None:
        return (None, "") if 400 <= status < 500 else (REFUSED, excerpt)
    if status != 200:
        return ONLY_BUSY, excerpt
    try:
        scores = {row["label"]: row["score"] for row in content}
    except (TypeError, KeyError):
        return DOCUMENTED, excerpt
    if not agree(scores, file.scores[form]):
        return SAME_SCORES, f"{scores}, not {file.scores[form]}"
    return None, ""


def soak(
    url: str, files: Sequence[File], users: int, seconds: float, seed: int, tally: Tally, wait: bool
) -> None:
    """Let concurrent users send one file after the other until the time is up.

    Args:
        wait: Whether they obey `Retry-After`.
    """
    valid = [file for file in files if file.scores is not None]
    broken = [file for file in files if file.scores is None]
    gate = threading.Barrier(users)

    def user(number: int) -> None:
        rng = random.Random(f"{seed}-{number}")
        gate.wait()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            file = rng.choice(broken if rng.random() < BROKEN_SHARE else valid)
            later = send(url, file, rng.choice(FORMS), tally)
            if wait and later:
                time.sleep(min(later, max(0.0, end - time.monotonic())))

    with ThreadPoolExecutor(users) as pool:
        for future in [pool.submit(user, number) for number in range(users)]:
            future.result()


def hang_up(url: str, file: File, n: int) -> None:
    """Send a file over `n` connections and close each without reading the answer."""
    address = re.fullmatch(r"http://([^:/]+):(\d+)", url).groups()
    head = (
        f"POST /predict HTTP/1.1\r\nHost: {address[0]}\r\nContent-Type: {file.kind}\r\n"
        f"Content-Length: {len(file.data)}\r\n\r\n"
    )
    connections = [
        socket.create_connection((address[0], int(address[1])), TIMEOUT) for _ in range(n)
    ]
    for connection in connections:
        with contextlib.suppress(OSError):  # refused before it was read
            connection.sendall(head.encode() + file.data)
    for connection in connections:
        connection.close()


def single(url: str, file: File, tally: Tally) -> float:
    """Return the seconds of one request."""
    began = time.monotonic()
    send(url, file, "file", tally)
    return time.monotonic() - began


def recovery(url: str, file: File, calm: float, tally: Tally) -> float | None:
    """Return the seconds until a request takes at most twice its usual time plus 0.1 s.

    Returns `None` after the timeout.
    """
    began = time.monotonic()
    while time.monotonic() - began < TIMEOUT:
        before = tally.counts["200"]
        took = single(url, file, tally)
        if tally.counts["200"] > before and took <= 2 * calm + 0.1:
            return time.monotonic() - began
        time.sleep(0.05)
    return None
