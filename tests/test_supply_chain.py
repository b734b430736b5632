"""What the project is built from: ranges with upper bounds, a lock that satisfies them, and actions pinned by commit."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("lock", ROOT / "scripts" / "lock.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def locked(script) -> dict[str, Requirement]:
    found = [
        Requirement(line)
        for line in script.LOCK.read_text().splitlines()
        if not line.startswith("#")
    ]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def version(requirement: Requirement) -> Version:
    (specifier,) = requirement.specifier
    assert specifier.operator == "==" and "*" not in specifier.version, requirement
    return Version(specifier.version)


def test_every_requirement_is_locked_within_its_range(script, locked):
    for requirement in script.requirements():
        pinned = version(locked[canonicalize_name(requirement.name)])
        assert pinned in requirement.specifier, f"{requirement}, and the lock has {pinned}"


def test_the_lock_is_exact_and_for_every_machine(locked):
    for requirement in locked.values():
        assert (
            version(requirement).local is None
            and requirement.url is None
            and not requirement.extras
        )


def test_every_requirement_has_bounds_on_both_sides(script):
    for requirement in script.requirements():
        operators = {specifier.operator for specifier in requirement.specifier}
        assert {">=", "<"} <= operators, f"{requirement} has no bounds on both sides"


def test_what_builds_the_package_has_bounds_on_both_sides():
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]:
        assert {">=", "<"} <= {specifier.operator for specifier in Requirement(line).specifier}, (
            line
        )


def test_updates_are_looked_for_wherever_something_is_pinned():
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    looked = {
        (each["package-ecosystem"], folder)
        for each in updates
        for folder in each.get("directories", [each.get("directory")])
    }
    assert looked == {
        ("pip", "/"),
        ("pip", "/tests"),
        ("github-actions", "/"),
        ("docker", "/scripts"),
    }
    for ecosystem, folder in looked - {("github-actions", "/")}:
        name = "Dockerfile" if ecosystem == "docker" else "requirements.txt"
        assert (ROOT / folder.strip("/") / name).is_file(), (ecosystem, folder)


def test_the_image_asks_one_index_at_a_time_and_finds_pytorch_in_the_requirements():
    recipe = (ROOT / "scripts" / "Dockerfile").read_text()
    assert "--extra-index-url" not in recipe
    pattern = re.search(r"grep -E '(.+)' requirements.txt", recipe).group(1)
    lines = [
        line
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if re.search(pattern, line)
    ]
    assert [Requirement(line).name for line in lines] == ["torch"]


def test_the_lock_is_whole_where_it_is_installed(script, locked):
    """What packages need of others is known once they are installed, so this holds in CI, and elsewhere where it can."""
    here = script.installed(script.requirements())
    direct = {canonicalize_name(requirement.name) for requirement in script.requirements()}
    if any(Version(here[name]) != version(locked[name]) for name in direct):
        pytest.skip("other versions are installed than the lock has")
    assert here.keys() <= locked.keys()


def test_what_is_not_installed_ends_in_one_line(script, monkeypatch, capsys):
    monkeypatch.setattr(script, "requirements", lambda: [Requirement("no-such-package>=1")])
    assert script.main([]) == 2
    assert "no-such-package>=1 is not installed" in capsys.readouterr().err


@pytest.mark.parametrize("constraints, asked", [(None, False), ("tests/constraints.txt", True)])
def test_the_lock_is_installed_from_only_when_asked_for(tmp_path, constraints, asked):
    """A stand-in for pip notes what it is called with."""
    root = tmp_path / "project"
    (root / "scripts").mkdir(parents=True)
    (root / "tests").mkdir()
    for name in (
        "pyproject.toml",
        "requirements.txt",
        "scripts/environment.sh",
        "tests/constraints.txt",
    ):
        (root / name).write_bytes((ROOT / name).read_bytes())
    python = root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -m ] && echo "$@" >> {root}/calls && exit 0\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    environment = {
        name: value for name, value in os.environ.items() if name != "REALFAKE_CONSTRAINTS"
    }
    if constraints:
        environment["REALFAKE_CONSTRAINTS"] = constraints
    command = ". scripts/environment.sh; prepare_environment requirements.txt"

    def prepare() -> list[str]:
        subprocess.run(
            ["bash", "-ec", command], cwd=root, env=environment, check=True, capture_output=True
        )
        return (root / "calls").read_text().splitlines()

    packages, _ = prepare()
    assert "-r requirements.txt" in packages and ("-c tests/constraints.txt" in packages) is asked
    assert len(prepare()) == 2
    # With the lock, another lock is another environment.
    (root / "tests" / "constraints.txt").write_text("numpy==2.1.0\n")
    assert len(prepare()) == (4 if asked else 2)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_and_may_only_read(path):
    text = path.read_text()
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    used = [step["uses"] for step in steps if "uses" in step]
    assert used
    for action in used:
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", action), action
        assert re.search(rf"{re.escape(action)} # v\d+\.\d+\.\d+$", text, re.MULTILINE), (
            f"{action} names no version"
        )
    for step in steps:
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
    for job in workflow["jobs"].values():
        assert "permissions" not in job and job["timeout-minutes"] <= 60


def test_the_tests_run_on_every_python_that_is_declared_and_from_the_lock():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"][
        "tests"
    ]
    pythons = job["strategy"]["matrix"]["python"]
    allowed = Requirement(f"python{declared}").specifier
    assert pythons == [f"3.{minor}" for minor in range(9, 30) if f"3.{minor}" in allowed]
    assert (ROOT / job["env"]["REALFAKE_CONSTRAINTS"]).is_file()
