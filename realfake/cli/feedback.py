"""Turn collected feedback into an evaluation set and a set of hard examples.

    python scripts/feedback_corpus.py feedback --output feedback-corpus --accept checked.txt
    python scripts/feedback_corpus.py user/feedback --output feedback-corpus

Takes the records that hold an image and a visitor's label, from a folder or a dataset on the Hub. Nobody has checked what
visitors say: go through `records.csv`, put the hashes that are right into a file, and give it as `--accept`. Images on which
visitors disagree are left out. The two sets are disjoint, and pictures that look the same stay in one of them:

    evaluation/{real,ai}/    measure with: python scripts/evaluate_checkpoint.py MODEL --dataset feedback-corpus/evaluation
    hard/{real,ai}/          those of the rest that got the opposite verdict, or none: add them to a training corpus
    records.csv              every image with its label, what was said of it, and where it went
"""

import argparse
import csv
import hashlib
import re
from pathlib import Path

from realfake import io
from realfake.cli import options

COLUMNS = (
    "sha256",
    "truth",
    "verdict",
    "log_odds",
    "model",
    "revision",
    "reports",
    "set",
    "why_left_out",
    "note",
)


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
    from realfake.space.feedback import read_feedback

    io.check_empty(args.output)
    folder = _folder(args.feedback)
    accepted = _accepted(args.accept)
    rows = _by_image(read_feedback(folder))
    if not rows:
        raise ValueError(f"{args.feedback} holds no feedback.")
    usable = []
    for row in rows:
        row["why_left_out"] = _why_not(row, accepted)
        if not row["why_left_out"]:
            row["why_left_out"] = _load(row, folder)
        if not row["why_left_out"]:
            usable.append(row)
    for row, group in zip(usable, _groups([row["decoded"] for row in usable]), strict=True):
        leader = usable[group]["sha256"]
        # By the hash of the group's first image: the same whatever else is collected later.
        if int(hashlib.sha256(leader.encode()).hexdigest()[:8], 16) / 2**32 < args.evaluation_share:
            row["set"] = "evaluation"
        elif row["verdict"] != row["truth"]:
            row["set"] = "hard"
        else:
            row["why_left_out"] = "the detector was right, and it is not in the evaluation set"
    output = Path(args.output)
    for row in usable:
        if row["set"]:
            target = output / row["set"] / row["truth"] / Path(row["image"]).name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(row["data"])
    output.mkdir(parents=True, exist_ok=True)
    with open(output / "records.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, "note": _inert(row["note"])} for row in rows)
    for name in ("evaluation", "hard"):
        chosen = [row for row in rows if row["set"] == name]
        counts = {label: sum(row["truth"] == label for row in chosen) for label in ("real", "ai")}
        print(f"{name}: {counts['real']} real, {counts['ai']} ai")
    print(f"left out: {sum(not row['set'] for row in rows)}, see {output / 'records.csv'}")
    if accepted is None:
        print("Nobody has checked these labels; see --accept.")
    return 0


def _folder(feedback: str) -> Path:
    if Path(feedback).is_dir():
        return Path(feedback)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        # What came in until now is what is asked for; records and pictures are data, and no code.
        found = snapshot_download(  # nosec B615
            feedback, repo_type="dataset", allow_patterns=["records/*.jsonl", "images/*"]
        )
        return Path(found)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ValueError(
            f"{feedback} is neither a folder nor a dataset that can be had from the Hub ({type(error).__name__})."
        ) from None


def _accepted(path: str | None) -> set[str] | None:
    if path is None:
        return None
    return {
        line.split()[0].lower()
        for line in Path(path).read_text(encoding="utf-8").splitlines()
        if line.strip()
    }


def _by_image(entries) -> list[dict]:
    """One row an image; of several reports the last one's words, and the label that all of them give."""
    rows: dict[str, dict] = {}
    for entry in entries:
        row = rows.setdefault(entry["sha256"], {"truths": set(), "reports": 0, "image": None})
        row["truths"] |= {entry["truth"]} - {None}
        row["reports"] += 1
        images = entry.get("image") or row["image"]
        row.update(
            {
                name: entry.get(name)
                for name in ("sha256", "verdict", "log_odds", "model", "revision", "note")
            }
        )
        row["image"] = images
    for row in rows.values():
        row["truth"] = next(iter(row["truths"])) if len(row["truths"]) == 1 else None
        row["set"] = ""
    return [rows[digest] for digest in sorted(rows)]


def _why_not(row: dict, accepted: set[str] | None) -> str:
    if not row["truths"]:
        return "no visitor said what it is"
    if len(row["truths"]) > 1:
        return "visitors disagree"
    if not row["image"]:
        return "no visitor shared the image"
    if accepted is not None and row["sha256"] not in accepted:
        return "not in --accept"
    return ""


def _load(row: dict, folder: Path) -> str:
    """Read the image into the row; returns why it cannot be used, or nothing."""
    from realfake.imaging.decode import open_image

    if not re.fullmatch(r"images/[0-9a-f]{64}\.[a-z0-9]{1,8}", str(row["image"])):
        return "its file has another name than feedback gives"
    path = folder / row["image"]
    if not path.is_file():
        return "its file is missing"
    try:
        row["data"] = path.read_bytes()
        if hashlib.sha256(row["data"]).hexdigest() != row["sha256"]:
            return "its file is not the one that was judged"
        row["decoded"] = open_image(row["data"])
    except (ValueError, OSError) as error:
        return str(error)
    return ""


def _groups(images: list) -> list[int]:
    """For each image the position of the first one that looks the same."""
    import numpy as np

    from realfake.audit.duplicates import dhash, near_hashes

    first = list(range(len(images)))
    if len(images) > 1:
        for i, j in near_hashes(np.array([dhash(image) for image in images], dtype=np.uint64)):
            a, b = sorted((first[int(i)], first[int(j)]))
            first = [a if group == b else group for group in first]
    return first


def _inert(note: str | None) -> str:
    """A spreadsheet takes a cell that begins like this for a formula."""
    note = " ".join((note or "").split())
    return f"'{note}" if note[:1] in ("=", "+", "-", "@") else note
