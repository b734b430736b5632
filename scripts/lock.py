"""Print or write the lock for CI: exact versions of all packages that the project needs.

    python scripts/lock.py                      # print the lock
    python scripts/lock.py --write              # write it to tests/constraints.txt

Users install ranges of versions. CI installs the lock
(`REALFAKE_CONSTRAINTS=tests/constraints.txt`), so that a new release of another project cannot
break an unrelated change.
"""

import argparse
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "tests" / "constraints.txt"
PROJECT = ROOT / "pyproject.toml"
HEADER = """\
# Exact versions for CI, of all packages of requirements.txt and pyproject.toml: scripts/lock.py.
# PyTorch itself pins the further packages of its builds for GPUs.
"""
# Packages that only other versions of Python need.
ELSEWHERE = {"audioop-lts": 'audioop-lts==0.2.2; python_version >= "3.13"'}


def requirements() -> Iterator[Requirement]:
    """Yield the requirements of the package and of its extras."""
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if line := line.split("#")[0].strip():
            yield Requirement(line)
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    for lines in project["optional-dependencies"].values():
        for requirement in map(Requirement, lines):
            if requirement.name != project["name"]:
                yield requirement


def installed(wanted: Iterable[Requirement]) -> dict[str, str]:
    """Return the versions of packages and of their dependencies, by canonical name.

    Raises:
        ValueError: A package is not installed.
    """
    versions: dict[str, str] = {}
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
        # Without the local part of a version such as 2.13.0+cpu.
        versions[name] = Version(package.version).public
        for text in package.requires or ():
            needed = Requirement(text)
            if needed.marker is None or any(
                needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)
            ):
                waiting.append(needed)
    return versions


def lock() -> str:
    """Return the text of the lock."""
    lines = {name: f"{name}=={version}" for name, version in installed(requirements()).items()}
    return HEADER + "".join(f"{line}\n" for _, line in sorted((lines | ELSEWHERE).items()))


def main(arguments: list[str] | None = None) -> int:
    """Print or write the lock; return 2 if a package is not installed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--write", action="store_true", help="write the lock to tests/constraints.txt"
    )
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
