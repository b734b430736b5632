"""What the corpus loader reports: how splits were made, what they hold, what was dropped and why.

Filled by [`~realfake.corpus.load.load_corpus`], printed by the scripts, stored beside checkpoints and prepared corpora.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from realfake.corpus.splits import TRAIN
from realfake.labels import NAMES


@dataclass
class CorpusReport:
    """What was loaded, and what was done to it.

    Args:
        source: As the user named it.
        kind: What it turned out to be ("class folders", "Hub dataset", ...).
        image_column: Column the images came from.
        label_column: Column the labels came from.
        label_map: `{class found: "real" or "ai"}`.
        origins: For each split, how it was made.
        splits: For each split: `rows`, rows by label (`real`, `ai`), `groups` (number of groups, where known) and
            `generators` (`{name: rows}`, where known). All `None` for a streamed training split.
        dropped: Rows that are not used: `{"split", "index", "path", "reason"}`. `split` and `index` are those of the
            source (`index` is `None` where rows were streamed); `path` is `None` where images are not files.
        notes: What else a person should know.
    """

    source: str
    kind: str = ""
    image_column: str = ""
    label_column: str = ""
    label_map: dict[str, str] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    splits: dict[str, dict] = field(default_factory=dict)
    dropped: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict:
        """The report as plain values for JSON."""
        return asdict(self)

    def summary(self, most: int = 5) -> str:
        """The report as lines of text for a person, with at most `most` examples of dropped rows."""
        mapped = ", ".join(f"{name} -> {label}" for name, label in self.label_map.items())
        lines = [
            f"Corpus {self.source} ({self.kind})",
            f"  labels from {self.label_column!r}: {mapped}",
        ]
        for split, counts in self.splits.items():
            line = (
                f"  {split}: streamed"
                if counts["rows"] is None
                else f"  {split}: {counts['rows']:,} images"
            )
            if counts["rows"] is not None:
                line += " (" + ", ".join(f"{counts[name]:,} {name}" for name in NAMES)
                line += (
                    f", {counts['groups']:,} groups)" if counts.get("groups") is not None else ")"
                )
            lines.append(f"{line}; {self.origins[split]}")
            if counts.get("generators"):
                shown = sorted(counts["generators"].items(), key=lambda item: (-item[1], item[0]))
                listed = ", ".join(f"{name} {number:,}" for name, number in shown[:8])
                lines.append(
                    f"    generators: {listed}"
                    + (f", and {len(shown) - 8} more" if len(shown) > 8 else "")
                )
        if self.dropped:
            by_split = Counter(row["split"] for row in self.dropped)
            listed = ", ".join(f"{number:,} of {split}" for split, number in by_split.items())
            lines.append(f"  dropped {len(self.dropped):,} rows ({listed}):")
            for row in self.dropped[:most]:
                where = row["path"] or (
                    f"row {row['index']}" if row["index"] is not None else "a streamed row"
                )
                lines.append(f"    {row['split']}, {where}: {row['reason']}")
            if len(self.dropped) > most:
                lines.append(f"    and {len(self.dropped) - most:,} more")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def raise_empty(split: str, why: str) -> None:
    """Refuse a split without rows, and say what to do about it."""
    fix = f"Name another one with --{split}_split"
    if split != TRAIN:
        fix += f", or carve one from train with --{split}_split none"
    raise ValueError(f"The {split} split is empty: {why}. {fix}.")


def require_both(
    split: str,
    labels: Sequence[str],
    origin: str,
    dropped: Sequence[dict],
    carved: bool,
    limited: bool,
) -> None:
    """Refuse a split that is empty or lacks a class.

    Args:
        split: Its name, for the message.
        labels: Labels of the rows that are left.
        origin: How the split was made, for the message.
        dropped: Entries of the rows of its source that were dropped.
        carved: Whether it was carved here.
        limited: Whether it is a subset drawn here.

    Raises:
        ValueError: With the likeliest reason and what to do.
    """
    counts = Counter(labels)
    missing = [name for name in NAMES if not counts[name]]
    if not missing:
        return
    if not labels and not carved:
        raise_empty(split, f"all its rows were dropped, the last because: {dropped[-1]['reason']}")
    have = ", ".join(f"{counts[name]:,} {name}" for name in NAMES)
    if limited:
        fix = f"Raise --max_{split}_samples"
    elif carved:
        fix = "Give the corpus more images of that class, or smaller groups"
    else:
        fix = f"Add images of that class, or name another split with --{split}_split"
    lost = (
        f", after {len(dropped):,} rows were dropped, the last because: {dropped[-1]['reason']}"
        if dropped
        else ""
    )
    raise ValueError(
        f"The {split} split ({origin}) holds no '{missing[0]}' image ({have}){lost}. {fix}."
    )


def count_rows(labels: Sequence[str], groups: Sequence | None, generators: Sequence | None) -> dict:
    """What a split holds, in the form of `CorpusReport.splits`."""
    counts = Counter(labels)
    result = {"rows": len(labels), **{name: counts[name] for name in NAMES}}
    if groups is not None:
        result["groups"] = len({group for group in groups if group is not None}) + groups.count(
            None
        )
    if generators is not None:
        result["generators"] = dict(sorted(Counter(generators).items()))
    return result
