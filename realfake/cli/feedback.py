"""Turn collected feedback into an evaluation set and a set of hard examples.

    realfake corpus feedback feedback/ --output feedback-corpus --accept checked.txt
    realfake corpus feedback user/feedback --output feedback-corpus

Takes the records with an image and a visitor's label, from a folder or a Hub dataset. Nobody has
checked the labels of visitors: read `records.csv`, write the hashes of correct labels to a file,
and pass it as --accept. Images with contradicting labels are left out. The two sets are disjoint;
images that look the same are in the same set:

    evaluation/{real,ai}/    for `realfake evaluate robustness`
    hard/{real,ai}/          other images with a wrong or no verdict, to add to a training corpus
    records.csv              every image with its labels and its set
"""

import argparse
import csv
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from realfake import io
from realfake.cli import options
from realfake.labels import NAMES

COLUMNS = (
    *("sha256", "truth", "verdict", "log_odds", "model", "revision", "reports", "set"),
    *("why_left_out", "note"),
)
SETS = ("evaluation", "hard")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("feedback", metavar="SOURCE", help="folder of feedback, or Hub dataset")
    options.add_output(parser, "folder of the two sets; it must be empty or not exist yet")
    parser.add_argument(
        "--accept",
        metavar="FILE",
        help="SHA-256 hashes, one per line, of images with a checked label",
    )
    parser.add_argument(
        "--evaluation_share",
        type=options.between(0, 1, inclusive=True),
        default=0.5,
        help="share of the images for the evaluation set",
    )


def run(args: argparse.Namespace) -> int:
    """Write the two sets and the table of all images, and print the counts."""
    from realfake.space.feedback import read_feedback

    output = io.check_empty(args.output)
    folder = _folder(args.feedback)
    accepted = _accepted(args.accept)
    rows = _by_image(read_feedback(folder))
    if not rows:
        raise ValueError(f"{args.feedback} holds no feedback.")
    usable = []
    for row in rows:
        row["why_left_out"] = _unusable(row, accepted) or _load(row, folder)
        if not row["why_left_out"]:
            usable.append(row)
    for row, group in zip(usable, _groups([row["decoded"] for row in usable]), strict=True):
        # By the hash of the group's first image, so that feedback collected later changes nothing.
        digest = hashlib.sha256(usable[group]["sha256"].encode()).hexdigest()
        if int(digest[:8], 16) / 2**32 < args.evaluation_share:
            row["set"] = "evaluation"
        elif row["verdict"] != row["truth"]:
            row["set"] = "hard"
        else:
            row["why_left_out"] = "the verdict was right, and it is not in the evaluation set"
    _write(rows, output)
    for name in SETS:
        chosen = [row["truth"] for row in rows if row["set"] == name]
        print(f"{name}: " + ", ".join(f"{chosen.count(label)} {label}" for label in NAMES))
    print(f"left out: {sum(not row['set'] for row in rows)}, see {output / 'records.csv'}")
    if accepted is None:
        print("Nobody has checked these labels; see --accept.")
    return 0


def _write(rows: list[dict], output: Path) -> None:
    for row in rows:
        if row["set"]:
            target = output / row["set"] / row["truth"] / Path(row["image"]).name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(row["data"])
    output.mkdir(parents=True, exist_ok=True)
    with open(output / "records.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, "note": _escape(row["note"])} for row in rows)


def _folder(feedback: str) -> Path:
    if Path(feedback).is_dir():
        return Path(feedback)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        # The newest feedback is wanted; its files are data, not code.
        folder = snapshot_download(  # nosec B615
            feedback, repo_type="dataset", allow_patterns=["records/*.jsonl", "images/*"]
        )
        return Path(folder)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        kind = type(error).__name__
        raise ValueError(
            f"{feedback} is neither a folder nor a dataset on the Hub that can be read ({kind})."
        ) from None


def _accepted(path: str | None) -> set[str] | None:
    if path is None:
        return None
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return {line.split()[0].lower() for line in lines if line.strip()}


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
    from realfake.imaging.decode import open_image

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


def _groups(images: list) -> list[int]:
    """Return for each image the index of the first image that looks the same."""
    import numpy as np

    from realfake.audit.duplicates import dhash, near_hashes

    first = list(range(len(images)))
    if len(images) > 1:
        for i, j in near_hashes(np.array([dhash(image) for image in images], dtype=np.uint64)):
            a, b = sorted((first[int(i)], first[int(j)]))
            first = [a if group == b else group for group in first]
    return first


def _escape(note: str | None) -> str:
    """Prevent a spreadsheet from reading the note as a formula."""
    note = " ".join((note or "").split())
    return f"'{note}" if note[:1] in ("=", "+", "-", "@") else note
