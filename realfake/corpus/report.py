"""The report of the corpus loader: how splits were made, what they hold, what was dropped.

[`~realfake.corpus.load.load_corpus`] fills it. Commands print it and store it beside their results.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import NoReturn

from realfake.corpus.splits import TRAIN
from realfake.labels import NAMES

# Reasons for dropping a row.
UNLABELLED = "unlabelled"
SHARED_GROUP = "shared_group"
UNREADABLE = "unreadable"

_MOST_GENERATORS = 8


@dataclass
class CorpusReport:
    """What was loaded, and how.

    Args:
        source: The source as the user named it.
        kind: Kind of the source ("class folders", "Hub dataset", ...).
        image_column: Column of the images.
        label_column: Column of the labels.
        label_map: `{class: "real" or "ai"}`.
        examples: `{class: paths of its first images}`, where the images have paths.
        origins: For each split, how it was made.
        splits: For each split `rows`, rows by label (`real`, `ai`), the number of `groups`, and
            `generators` (`{name: rows}`). The values are `None` for a streamed training split.
        dropped: Rows that are not used: `{"split", "index", "path", "code", "reason"}`. `split` and
            `index` are those of the source. `index` is `None` for streamed rows, `path` is `None`
            where images are not files. `code` is one of the reasons of this module.
        notes: Other remarks.
    """

    source: str
    kind: str = ""
    image_column: str = ""
    label_column: str = ""
    label_map: dict[str, str] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    splits: dict[str, dict] = field(default_factory=dict)
    dropped: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict:
        """Return the report as plain values for JSON."""
        return asdict(self)

    def drop(self, split: str, index: int | None, path: str | None, code: str, reason: str) -> None:
        """Add an entry to `dropped`."""
        entry = {"split": split, "index": index, "path": path, "code": code, "reason": reason}
        self.dropped.append(entry)

    def dropped_from(self, split: str) -> list[dict]:
        """Return the dropped rows of one split of the source."""
        return [entry for entry in self.dropped if entry["split"] == split]

    def summary(self, most: int = 5) -> str:
        """Return the report as lines of text, with at most `most` of the dropped rows."""
        lines = [f"Corpus {self.source} ({self.kind}), labels from {self.label_column!r}:"]
        for name, label in self.label_map.items():
            files = ", ".join(os.path.basename(path) for path in self.examples.get(name, ()))
            lines.append(f"  {name!r} is {label}" + (f": {files}, …" if files else ""))
        for split, counts in self.splits.items():
            if counts["rows"] is None:
                lines.append(f"  {split}: streamed; {self.origins[split]}")
                continue
            parts = [f"{counts[name]:,} {name}" for name in NAMES]
            if counts.get("groups") is not None:
                parts.append(f"{counts['groups']:,} groups")
            lines.append(
                f"  {split}: {counts['rows']:,} images ({', '.join(parts)}); {self.origins[split]}"
            )
            if counts.get("generators"):
                ranked = sorted(counts["generators"].items(), key=lambda item: (-item[1], item[0]))
                names = [f"{name} {number:,}" for name, number in ranked[:_MOST_GENERATORS]]
                if len(ranked) > _MOST_GENERATORS:
                    names.append(f"and {len(ranked) - _MOST_GENERATORS} more")
                lines.append(f"    generators: {', '.join(names)}")
        if self.dropped:
            by_split = Counter(row["split"] for row in self.dropped)
            numbers = ", ".join(f"{number:,} of {split}" for split, number in by_split.items())
            lines.append(f"  dropped {len(self.dropped):,} rows ({numbers}):")
            for row in self.dropped[:most]:
                number = "a streamed row" if row["index"] is None else f"row {row['index']}"
                lines.append(f"    {row['split']}, {row['path'] or number}: {row['reason']}")
            if len(self.dropped) > most:
                lines.append(f"    and {len(self.dropped) - most:,} more")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def raise_empty(split: str, reason: str) -> NoReturn:
    """Refuse a split without rows.

    Raises:
        ValueError: Always, with the options that help.
    """
    fix = f"Name another one with --{split}_split"
    if split != TRAIN:
        fix += f", or carve one from train with --{split}_split none"
    raise ValueError(f"The {split} split is empty: {reason}. {fix}.")


def require_both(
    split: str,
    labels: Sequence[str],
    origin: str,
    dropped: Sequence[dict],
    carved: bool = False,
    limited: bool = False,
) -> None:
    """Refuse a split that is empty or lacks a class.

    Args:
        split: Name of the split, for the message.
        labels: Labels of its rows.
        origin: How the split was made, for the message.
        dropped: Entries of the rows of its source that were dropped.
        carved: Whether the loader carved it.
        limited: Whether the loader drew a part of its rows.

    Raises:
        ValueError: With the likeliest reason and the fix.
    """
    counts = Counter(labels)
    missing = [name for name in NAMES if not counts[name]]
    if not missing:
        return
    last = f"the last because: {dropped[-1]['reason']}" if dropped else ""
    if not labels and dropped and not carved:
        raise_empty(split, f"all its rows were dropped, {last}")
    if limited:
        fix = f"Raise --max_{split}_samples"
    elif carved:
        fix = "Give the corpus more images of that class, or smaller groups"
    else:
        fix = f"Add images of that class, or name another split with --{split}_split"
    numbers = ", ".join(f"{counts[name]:,} {name}" for name in NAMES)
    lost = f", after {len(dropped):,} rows were dropped, {last}" if dropped else ""
    raise ValueError(
        f"The {split} split ({origin}) holds no '{missing[0]}' image ({numbers}){lost}. {fix}."
    )


def count_rows(
    labels: Sequence[str],
    groups: Sequence[str | None] | None = None,
    generators: Sequence[str] | None = None,
) -> dict:
    """Count the rows of a split, in the form of `CorpusReport.splits`."""
    counts = Counter(labels)
    result: dict = {"rows": len(labels), **{name: counts[name] for name in NAMES}}
    if groups is not None:
        distinct = {group for group in groups if group is not None}
        result["groups"] = len(distinct) + list(groups).count(None)
    if generators is not None:
        result["generators"] = dict(sorted(Counter(generators).items()))
    return result
