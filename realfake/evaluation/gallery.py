"""A regression gallery: reported images with the right label, scored at every release.

The images are in folders `real` and `ai`, as `realfake corpus feedback` writes them. Each run
writes the verdict of every image, and lists what changed since the previous run.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from realfake import io
from realfake.detector import Detector
from realfake.formatting import code, md, table
from realfake.imaging.decode import open_image
from realfake.labels import NAMES
from realfake.statistics.verdicts import INCONCLUSIVE

RIGHT, WRONG = "right", "wrong"
_OUTCOMES = (RIGHT, INCONCLUSIVE, WRONG)


def find_images(folder: str | Path) -> list[tuple[Path, str]]:
    """Return the files in folders `real` and `ai` at any depth, with these labels, sorted.

    Raises:
        ValueError: There are no such files.
    """
    files = [path for path in Path(folder).rglob("*") if path.parent.name in NAMES]
    found = [(path, path.parent.name) for path in sorted(files) if path.is_file()]
    if not found:
        raise ValueError(f"{folder} has no folders `real` and `ai` with images; create them.")
    return found


def score_gallery(detector: Detector, folder: str | Path, batch_size: int = 16) -> dict:
    """Predict every image of a gallery.

    Returns:
        `images`: `{sha256: {"path", "label", "verdict", "reason", "log_odds", "outcome"}}`, where
        the outcome is `right`, `wrong` or `inconclusive`; `unreadable`: `{path: problem}`.
    """
    root, images, unreadable = Path(folder), {}, {}
    for path, label in find_images(root):
        name = path.relative_to(root).as_posix()
        try:
            content = path.read_bytes()
            (prediction,) = detector.predict([open_image(content)], batch_size)
        except (ValueError, OSError) as error:
            unreadable[name] = str(error)
            continue
        verdict = prediction.verdict
        outcome = verdict if verdict == INCONCLUSIVE else RIGHT if verdict == label else WRONG
        images[hashlib.sha256(content).hexdigest()] = {
            "path": name,
            "label": label,
            "verdict": verdict,
            "reason": prediction.reason,
            "log_odds": prediction.log_odds,
            "outcome": outcome,
        }
    return {"images": images, "unreadable": unreadable}


def changes(before: Mapping[str, Mapping], after: Mapping[str, Mapping]) -> list[dict]:
    """Return the images with another verdict than before, those that became wrong first."""
    changed = [
        {
            "sha256": digest,
            "path": image["path"],
            "label": image["label"],
            "before": before[digest]["verdict"],
            "after": image["verdict"],
            "log_odds_before": before[digest]["log_odds"],
            "log_odds_after": image["log_odds"],
        }
        for digest, image in after.items()
        if digest in before and before[digest]["verdict"] != image["verdict"]
    ]

    def severity(change: Mapping) -> tuple:
        outcome = after[change["sha256"]]["outcome"]
        return -_OUTCOMES.index(outcome), change["path"]

    return sorted(changed, key=severity)


def measure_gallery(
    detector: Detector,
    identity: str,
    folder: str | Path,
    output: str | Path,
    *,
    before: str | Path | None = None,
    command: str,
    batch_size: int = 16,
) -> dict:
    """Score a gallery, compare it with an earlier run, and write the record.

    Args:
        output: JSON file to write.
        before: *optional*. Record of an earlier run; *defaults to* the one at `output`, if any.

    Raises:
        ValueError: The gallery has no images, or the earlier record is not readable.
        OSError: A file cannot be read or written.
    """
    output = Path(output)
    earlier = _read(Path(before or output)) if before or output.is_file() else {"images": {}}
    scored = score_gallery(detector, folder, batch_size)
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint_sha256": identity,
        "model": detector.name,
        "command": command,
        "outcomes": outcomes(scored["images"]),
        "compared_with": {key: earlier.get(key) for key in ("date", "checkpoint_sha256")},
        "changes": changes(earlier["images"], scored["images"]),
        "new": sorted(scored["images"].keys() - earlier["images"].keys()),
        "removed": sorted(earlier["images"].keys() - scored["images"].keys()),
        **scored,
    }
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    io.write_atomically(output, text.encode("utf-8", "backslashreplace"))
    return record


def outcomes(images: Mapping[str, Mapping]) -> dict[str, dict[str, int]]:
    """Count the outcomes by label."""
    counts = Counter((image["label"], image["outcome"]) for image in images.values())
    return {label: {outcome: counts[label, outcome] for outcome in _OUTCOMES} for label in NAMES}


def summary(record: Mapping) -> str:
    """Return the outcomes and the changes of a record as Markdown."""
    rows = [[label, *map(str, record["outcomes"][label].values())] for label in NAMES]
    parts = [table(["Label", *_OUTCOMES], rows)]
    if record["unreadable"]:
        parts.append(f"Not readable: {', '.join(map(md, record['unreadable']))}.")
    if not record["compared_with"]["date"]:
        return "\n\n".join([*parts, "There is no earlier run to compare with."])
    rows = [
        [
            code(change["path"]),
            change["label"],
            f"{change['before']} → {change['after']}",
            f"{change['log_odds_before']:.2f} → {change['log_odds_after']:.2f}",
        ]
        for change in record["changes"]
    ]
    parts.append(
        f"Changed verdicts since {record['compared_with']['date'][:10]}: {len(rows)}; new images: "
        f"{len(record['new'])}; images that are gone: {len(record['removed'])}."
    )
    if rows:
        parts.append(table(["Image", "label", "verdict", "log-odds"], rows))
    return "\n\n".join(parts)


def _read(path: Path) -> dict:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record["images"], dict):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is not a record of a gallery; name another file.") from None
    return record
