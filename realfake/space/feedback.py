"""Visitors' corrections, kept only with consent, in a folder or in a private dataset on the Hub.

The page calls [`Feedback.record`]; `realfake corpus feedback` turns the records into a corpus.
"""

import hashlib
import json
import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from realfake.audit.duplicates import dhash, near_hashes
from realfake.imaging.decode import open_image, read_header
from realfake.io import append_line, write_atomically
from realfake.labels import NAMES

logger = logging.getLogger(__name__)

FOLDER = "REALFAKE_FEEDBACK_FOLDER"
REPO = "REALFAKE_FEEDBACK_REPO"
DEFAULT_FOLDER = "feedback"
MAX_NOTE = 1000
MAX_IMAGE = 32 * 2**20
# Bounds of what one process keeps, so that visitors cannot fill the disk.
MAX_RECORDS = 100_000
MAX_TOTAL = 2**30
MINUTES = 10
_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "JPEG2000": ".jp2", "TIFF": ".tif"}
_KEPT = (
    "verdict",
    "reason",
    "label",
    "probabilities",
    "prior_ai",
    "log_odds",
    "ood",
    "model",
    "revision",
)


class Feedback:
    """A folder of corrections.

    Args:
        folder: Created with the first record. Records are lines of `records/*.jsonl`, images are
            under `images/`.
        repo: *optional*. Hub dataset that receives the folder every ten minutes. A new one is
            private.
        token: *optional*. Hub token.

    Raises:
        ValueError: `repo` is not a repository name, or the Hub refuses the token.
        OSError: The Hub cannot be reached.
    """

    def __init__(self, folder: str | Path, repo: str | None = None, token: str | None = None):
        self.folder = Path(folder)
        self.repo = repo
        self.scheduler = _schedule(self.folder, repo, token) if repo else None
        self._lock = self.scheduler.lock if self.scheduler else threading.Lock()
        # One file per process, so that files pushed earlier are never rewritten.
        name = f"{time.strftime('%Y-%m-%d')}-{uuid.uuid4().hex[:12]}.jsonl"
        self._file = self.folder / "records" / name
        self._records = 0
        self._bytes: int | None = None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> "Feedback | None":
        """Return the store that the environment names; `None` for an empty folder and no dataset.

        If the Hub refuses, records stay in the folder and the log has the reason.
        """
        environ = os.environ if environ is None else environ
        folder = environ.get(FOLDER, DEFAULT_FOLDER).strip()
        repo = environ.get(REPO, "").strip() or None
        if not folder and not repo:
            return None
        try:
            return cls(folder or DEFAULT_FOLDER, repo, environ.get("HF_TOKEN") or None)
        except (ValueError, OSError) as error:
            logger.error("Feedback stays in the folder %s: %s", folder or DEFAULT_FOLDER, error)
            return cls(folder or DEFAULT_FOLDER)

    def record(
        self,
        answer: Mapping,
        *,
        consent: bool,
        truth: str | None = None,
        note: str = "",
        image: bytes | None = None,
    ) -> str | None:
        """Keep a correction, if the visitor agreed (`consent`).

        Args:
            answer: The answer that is corrected, as [`realfake.answer.answer`] returns it, with
                `sha256`.
            truth: The label according to the visitor, or `None` if they do not know.
            note: Free text; 1,000 characters are kept.
            image: *optional*. The file, if the visitor agreed to share it. It is kept unchanged,
                with its metadata.

        Returns:
            The record's id, or `None` without consent.

        Raises:
            ValueError: `truth` is not a label, the answer has no hash, or the image has another
                hash.
            OSError: The record cannot be written, or a bound is reached.
        """
        if not consent:
            return None
        if truth is not None and truth not in NAMES:
            raise ValueError(f"truth is {truth!r}; pass 'real', 'ai' or None.")
        digest = str(answer.get("sha256") or "")
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise ValueError("The answer has no sha256; pass the answer for a file.")
        entry = {
            "id": uuid.uuid4().hex,
            "time": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
            "sha256": digest,
            "truth": truth,
            "note": _note(note),
            "image": None,
            **{name: answer.get(name) for name in _KEPT},
        }
        with self._lock:
            if self._records >= MAX_RECORDS:
                raise OSError("No more feedback can be kept; the limit of records is reached.")
            if image is not None:
                entry["image"] = self._keep_image(image, digest)
            self._file.parent.mkdir(parents=True, exist_ok=True)
            append_line(self._file, json.dumps(entry, ensure_ascii=False))
            self._records += 1
        return entry["id"]

    def _keep_image(self, data: bytes, digest: str) -> str | None:
        if hashlib.sha256(data).hexdigest() != digest:
            raise ValueError("The image is not the one that the answer is about.")
        if self._bytes is None:
            self._bytes = sum(
                path.stat().st_size for path in self.folder.rglob("images/*") if path.is_file()
            )
        name = f"images/{digest}{_suffix(data)}"
        path = self.folder / name
        if path.is_file():
            return name
        if len(data) > MAX_IMAGE or self._bytes + len(data) > MAX_TOTAL:
            logger.warning("An image was not kept: the limit of bytes is reached")
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
        self._bytes += len(data)
        return name


def read_feedback(folder: str | Path) -> Iterator[dict]:
    """Yield the records of a folder, oldest file first. Damaged lines are skipped and logged."""
    for path in sorted(Path(folder).glob("records/*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                entry = json.loads(line)
                known = entry["truth"] in (*NAMES, None)
                if not known or not re.fullmatch(r"[0-9a-f]{64}", entry["sha256"]):
                    raise ValueError("it has no hash, or an unknown label")
            except (ValueError, KeyError, TypeError) as error:
                logger.warning("%s, line %d is not a record: %s", path.name, number, error)
                continue
            yield entry


def sort_feedback(
    folder: str | Path, accepted: set[str] | None, evaluation_share: float
) -> list[dict]:
    """Sort the images of a folder of feedback into an evaluation set and a set of hard examples.

    Images that look the same are in the same set.

    Args:
        accepted: SHA-256 hashes of the images whose label was checked; `None` for all.
        evaluation_share: Share of the usable images for the evaluation set, 0 to 1.

    Returns:
        A row for each image, by hash: the last report on it, `truth`, `reports`, `set`
        (`"evaluation"`, `"hard"` or empty), `why_left_out`, and the bytes of the file as `data`.
    """
    folder = Path(folder)
    rows, usable = _by_image(read_feedback(folder)), []
    for row in rows:
        row["why_left_out"] = _unusable(row, accepted) or _load(row, folder)
        if not row["why_left_out"]:
            usable.append(row)
    for row, group in zip(usable, look_alikes([row["decoded"] for row in usable]), strict=True):
        # By the hash of the group's first image, so that feedback collected later changes nothing.
        digest = hashlib.sha256(usable[group]["sha256"].encode()).hexdigest()
        if int(digest[:8], 16) / 2**32 < evaluation_share:
            row["set"] = "evaluation"
        elif row["verdict"] != row["truth"]:
            row["set"] = "hard"
        else:
            row["why_left_out"] = "the verdict was right, and it is not in the evaluation set"
    return rows


def _by_image(entries: Iterable[dict]) -> list[dict]:
    """Merge the reports on each image: the last report counts, and the label if all agree."""
    rows: dict[str, dict] = {}
    for entry in entries:
        row = rows.setdefault(entry["sha256"], {"truths": set(), "reports": 0, "image": None})
        row["truths"] |= {entry["truth"]} - {None}
        row["reports"] += 1
        row["image"] = entry.get("image") or row["image"]
        for name in ("sha256", "verdict", "log_odds", "model", "revision", "note"):
            row[name] = entry.get(name)
    for row in rows.values():
        row["truth"] = next(iter(row["truths"])) if len(row["truths"]) == 1 else None
        row["set"] = ""
    return [rows[digest] for digest in sorted(rows)]


def _unusable(row: dict, accepted: set[str] | None) -> str:
    """Return why a record cannot be used, or an empty text."""
    if not row["truths"]:
        return "no visitor gave a label"
    if len(row["truths"]) > 1:
        return "visitors disagree"
    if not row["image"]:
        return "no visitor shared the image"
    if accepted is not None and row["sha256"] not in accepted:
        return "not in --accept"
    return ""


def _load(row: dict, folder: Path) -> str:
    """Read the image into the row. Return why it cannot be used, or an empty text."""
    if not re.fullmatch(r"images/[0-9a-f]{64}\.[a-z0-9]{1,8}", str(row["image"])):
        return "the file name is not one that feedback has"
    path = folder / row["image"]
    if not path.is_file():
        return "the file is missing"
    try:
        row["data"] = path.read_bytes()
        if hashlib.sha256(row["data"]).hexdigest() != row["sha256"]:
            return "the file is not the one that was judged"
        row["decoded"] = open_image(row["data"])
    except (ValueError, OSError) as error:
        return str(error)
    return ""


def look_alikes(images: list) -> list[int]:
    """Return for each image the index of the first image that looks the same."""
    first = list(range(len(images)))
    if len(images) > 1:
        for i, j in near_hashes(np.array([dhash(image) for image in images], dtype=np.uint64)):
            a, b = sorted((first[int(i)], first[int(j)]))
            first = [a if group == b else group for group in first]
    return first


def _schedule(folder: Path, repo: str, token: str | None):
    from huggingface_hub import CommitScheduler
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        return CommitScheduler(
            repo_id=repo,
            repo_type="dataset",
            folder_path=folder,
            every=MINUTES,
            private=True,
            token=token,
            allow_patterns=["records/*.jsonl", "images/*"],
            ignore_patterns=["images/.*"],  # an unfinished file
        )
    except (HFValidationError, LocalTokenNotFoundError, HfHubHTTPError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{REPO}={repo} cannot be written to ({reason}); check the name and HF_TOKEN."
        ) from error


def _suffix(data: bytes) -> str:
    try:
        format = read_header(data, "the image").format or ""
    except ValueError:
        return ".bin"
    return _SUFFIXES.get(format, f".{format.lower()}")


def _note(text: str) -> str:
    kept = "".join(c if c.isprintable() or c == "\n" else " " for c in str(text or "")).strip()
    return kept[:MAX_NOTE]
