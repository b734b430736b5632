"""What was found about maps, image by image and method by method, in a file that outlives the run."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from .measurement_log import plain

FOLDER = ".explanations"
# The map that looks at the middle whatever the image, among the names of methods.
CENTRE = "centre"


class Findings:
    """Lines of a file, one for each image and method, that outlive the run.

    Args:
        path: Created where it does not exist. A line that was cut off when a run died is left out.
    """

    def __init__(self, path: str | os.PathLike):
        self.path, self.lines = Path(path), {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            for text in self.path.read_text(encoding="utf-8").split("\n"):
                try:
                    line = json.loads(text)
                    self.lines[line["part"], line["item"], line["name"]] = line
                except (ValueError, KeyError, TypeError):
                    continue

    def missing(self, part: str, item: int, names: Iterable[str]) -> list[str]:
        """Those names for which there is no line yet."""
        return [name for name in names if (part, item, name) not in self.lines]

    def add(self, part: str, item: int, name: str, **found) -> None:
        """Write one down."""
        line = plain({"part": part, "item": item, "name": name, **found})
        with open(self.path, "ab") as file:
            file.write(("\n" + json.dumps(line, allow_nan=False)).encode())
        self.lines[part, item, name] = line

    def of(self, part: str, name: str) -> list[dict]:
        """The lines of a part and a name, in the order of the images."""
        found = [line for (of, _, called), line in self.lines.items() if (of, called) == (part, name)]
        return sorted(found, key=lambda line: line["item"])


def findings_file(folder: str | os.PathLike, *identity) -> Path:
    """Where the findings about one checkpoint, corpus and setting are kept."""
    key = hashlib.sha256(json.dumps(plain(list(identity)), sort_keys=True).encode()).hexdigest()[:16]
    return Path(folder) / FOLDER / f"{key}.jsonl"
