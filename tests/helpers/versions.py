"""The installed packages, compared with the lock `tests/constraints.txt`."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

LOCK = Path(__file__).parents[1] / "constraints.txt"
NAMED = ("torch", "transformers", "datasets", "gradio", "numpy", "scipy", "scikit-learn", "pillow")


def installed(name: str) -> str | None:
    """Return the installed version of a package without its local part, or `None`."""
    try:
        return Version(version(name)).public
    except PackageNotFoundError:
        return None


def differences(
    lock: str | None = None, installed: Callable[[str], str | None] = installed
) -> list[str]:
    """List the packages whose installed version is not the locked one, as `name 1.0 (lock: 2.0)`.

    Args:
        lock: *optional*. Text of the lock; *defaults to* that of the repository.
        installed: Returns the installed version of a package.
    """
    differing = []
    for line in (LOCK.read_text() if lock is None else lock).splitlines():
        if not line or line.startswith("#"):
            continue
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        found = installed(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            locked = str(requirement.specifier).removeprefix("==")
            differing.append(f"{requirement.name} {found or 'missing'} (lock: {locked})")
    return differing


def header() -> list[str]:
    """Return the lines that the test run starts with."""
    named = ", ".join(f"{name} {installed(name)}" for name in NAMED)
    differing = differences()
    state = f"{len(differing)} differ from the lock" if differing else "all as in the lock"
    return [f"versions: {named}; {state}"]


def advice(lines: list[str]) -> str:
    """Return the note for a failed run whose packages differ from the lock."""
    return (
        f"The tests failed with other versions than the lock: {', '.join(lines)}. "
        "To install the locked ones: REALFAKE_CONSTRAINTS=tests/constraints.txt bash "
        "scripts/run_tests.sh"
    )
