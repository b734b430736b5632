"""Write the lock for CI: the exact version of everything that the requirements pull in, as it is installed here.

    python scripts/lock.py                      # prints it
    python scripts/lock.py --write              # to tests/constraints.txt

Whoever installs the project gets ranges; CI installs with `REALFAKE_CONSTRAINTS=tests/constraints.txt`, so that a release of
somebody else's does not turn a change red that has nothing to do with it.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "tests" / "constraints.txt"
FILES = (ROOT / "requirements.txt", ROOT / "tests" / "requirements.txt")
HEADER = """\
# Exact versions for CI, of everything that requirements.txt and tests/requirements.txt pull in; made by scripts/lock.py.
# What PyTorch's builds for GPUs need besides is pinned by PyTorch itself.
"""
# What other Pythons need than the one that this is run with.
ELSEWHERE = {"audioop-lts": 'audioop-lts==0.2.2; python_version >= "3.13"'}


def requirements(files: Iterable[Path] = FILES) -> Iterator[Requirement]:
    """The lines of lists of requirements, without comments."""
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            if line := line.split("#")[0].strip():
                yield Requirement(line)


def installed(wanted: Iterable[Requirement]) -> dict[str, str]:
    """The versions of packages and of all that they need, by canonical name.

    Raises:
        ValueError: One is not installed.
    """
    found: dict[str, str] = {}
    seen: set[tuple] = set()
    waiting = list(wanted)
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), tuple(sorted(requirement.extras))
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            package = distribution(requirement.name)
        except PackageNotFoundError:
            raise ValueError(
                f"{requirement} is not installed; run: bash scripts/run_tests.sh --version"
            ) from None
        # Which index a build came from, as in 2.13.0+cpu, is the machine's business.
        found[name] = Version(package.version).public
        for text in package.requires or ():
            needed = Requirement(text)
            if needed.marker is None or any(
                needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)
            ):
                waiting.append(needed)
    return found


def lock() -> str:
    """The lock's text."""
    lines = {name: f"{name}=={version}" for name, version in installed(requirements()).items()}
    return HEADER + "".join(f"{line}\n" for _, line in sorted((lines | ELSEWHERE).items()))


def main(arguments: list[str] | None = None) -> int:
    """Print the lock, or write it; 2 where something is not installed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--write", action="store_true", help="Write it to tests/constraints.txt.")
    options = parser.parse_args(arguments)
    try:
        text = lock()
    except ValueError as error:
        print(f"lock.py: error: {error}", file=sys.stderr)
        return 2
    if options.write:
        LOCK.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
