"""What an audit of a corpus finds, as values: findings for people, pairs of duplicates, and everything measured.

Filled by `audit` and `findings`, written down by `report`.
"""

from dataclasses import asdict, dataclass, field

import numpy as np
from datasets import DatasetDict

from realfake.imaging.file_facts import ContainerFacts

LEAK, WARNING, NOTE = "leak", "warning", "note"


@dataclass(frozen=True)
class Finding:
    """One thing a person should know.

    Args:
        severity: `"leak"` (do not measure on this corpus before it is mended), `"warning"` or `"note"`.
        code: For machines: `"container"`, `"duplicates"`, ...
        message: What was found, one line.
        advice: What to do about it, one line; may be empty.
    """

    severity: str
    code: str
    message: str
    advice: str = ""


@dataclass(frozen=True)
class Pair:
    """Two images that are the same file or look alike; each is `(split, row)` of [`Audit.splits`]."""

    first: tuple[str, int]
    second: tuple[str, int]
    same_file: bool
    correlation: float
    labels: tuple[str, str]
    same_group: bool

    @property
    def across_splits(self) -> bool:
        return self.first[0] != self.second[0]

    @property
    def across_labels(self) -> bool:
        return self.labels[0] != self.labels[1]


@dataclass
class Audit:
    """What an audit found.

    Args:
        findings: Leaks first.
        results: Everything measured, plain values for JSON.
        splits: The images that were looked at.
        pairs: Duplicates, the worst first.
        facts: `{split: [ContainerFacts]}`.
        pixels: `{split: {"spectrum": (n, 24), "colour": (n, 3)}}`.
        labels: `{split: (n,) bool, ai}`.
    """

    findings: list[Finding]
    results: dict
    splits: DatasetDict
    pairs: list[Pair] = field(default_factory=list)
    facts: dict[str, list[ContainerFacts]] = field(default_factory=dict)
    pixels: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    labels: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def leaks(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == LEAK]

    def to_dict(self) -> dict:
        """The audit as plain values for JSON."""
        return {"findings": [asdict(finding) for finding in self.findings], **self.results}
