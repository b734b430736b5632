"""Requirements: bounded ranges, a lock within them, pinned actions, reported versions."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from helpers import versions
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("lock", ROOT / "scripts" / "lock.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def locked(script) -> dict[str, Requirement]:
    lines = script.LOCK.read_text().splitlines()
    requirements = [Requirement(line) for line in lines if not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def version(requirement: Requirement) -> Version:
    (specifier,) = requirement.specifier
    assert specifier.operator == "==" and "*" not in specifier.version, requirement
    return Version(specifier.version)


def test_every_requirement_is_locked_within_its_range(script, locked):
    for requirement in script.requirements():
        pinned = version(locked[canonicalize_name(requirement.name)])
        assert pinned in requirement.specifier, f"{requirement}, but the lock has {pinned}"


def test_the_lock_is_exact_and_for_every_machine(locked):
    for requirement in locked.values():
        assert version(requirement).local is None
        assert requirement.url is None and not requirement.extras


def test_the_package_and_the_space_have_the_same_requirements(script):
    dynamic = PROJECT["tool"]["setuptools"]["dynamic"]
    assert "dependencies" in PROJECT["project"]["dynamic"]
    assert dynamic["dependencies"] == {"file": ["requirements.txt"]}
    names = [canonicalize_name(requirement.name) for requirement in script.requirements()]
    assert len(names) == len(set(names)), "a package has two ranges"


def test_every_requirement_has_bounds_on_both_sides(script):
    build = [Requirement(line) for line in PROJECT["build-system"]["requires"]]
    for requirement in (*script.requirements(), *build):
        operators = {specifier.operator for specifier in requirement.specifier}
        assert {">=", "<"} <= operators, requirement


def test_dependabot_covers_all_pinned_versions():
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    sought = {
        (each["package-ecosystem"], folder)
        for each in updates
        for folder in each.get("directories", [each.get("directory")])
    }
    assert sought == {
        ("pip", "/"),
        ("pip", "/tests"),
        ("github-actions", "/"),
        ("docker", "/scripts"),
    }


def test_the_container_installs_pytorch_from_a_separate_index():
    recipe = (ROOT / "scripts" / "Dockerfile").read_text()
    assert "--extra-index-url" not in recipe
    pattern = re.search(r"grep -E '(.+)' requirements.txt", recipe).group(1)
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [Requirement(line).name for line in lines if re.search(pattern, line)] == ["torch"]


def test_the_lock_is_complete(script, locked):
    try:
        here = script.installed(script.requirements())
    except ValueError as error:
        pytest.skip(f"an optional package is missing: {error}")
    direct = {canonicalize_name(requirement.name) for requirement in script.requirements()}
    if any(Version(here[name]) != version(locked[name]) for name in direct):
        pytest.skip("other versions are installed than the lock has")
    assert here.keys() <= locked.keys()


def test_a_missing_package_ends_in_one_line(script, monkeypatch, capsys):
    monkeypatch.setattr(script, "requirements", lambda: [Requirement("no-such-package>=1")])
    assert script.main([]) == 2
    assert "no-such-package>=1 is not installed" in capsys.readouterr().err


# What the suite reports


def test_differences_from_the_lock():
    lock = '# made by hand\na==1.0\nb==2.0\nc==3.0\nd==1; python_version < "3"\n'
    found = {"a": "1.0", "b": "2.1"}
    assert versions.differences(lock, found.get) == ["b 2.1 (lock: 2.0)", "c missing (lock: 3.0)"]


def test_a_run_reports_versions_and_a_failed_run_reports_the_lock(pytestconfig, monkeypatch):
    monkeypatch.setattr(versions, "differences", lambda *_: ["numpy 2.0 (lock: 2.4)"])
    called = {"config": pytestconfig, "start_path": ROOT}
    headers = pytestconfig.hook.pytest_report_header(**called)
    (line,) = [line for lines in headers for line in lines if line.startswith("versions: torch 2.")]
    assert line.endswith("1 differ from the lock")
    hooks = pytestconfig.hook.pytest_terminal_summary.get_hookimpls()
    (hook,) = [each.function for each in hooks if each.function.__module__ == "conftest"]
    for status, told in ((pytest.ExitCode.TESTS_FAILED, True), (pytest.ExitCode.OK, False)):
        said = []
        reporter = SimpleNamespace(section=said.append, write_line=said.append)
        hook(reporter, status)
        assert said == (["versions", versions.advice(["numpy 2.0 (lock: 2.4)"])] if told else [])
    assert "REALFAKE_CONSTRAINTS=" in versions.advice([])


# Installation


@pytest.mark.parametrize(
    ("constraints", "locked"), [(None, False), ("tests/constraints.txt", True)]
)
def test_the_lock_is_used_only_on_request(tmp_path, constraints, locked):
    """A stand-in for pip records its arguments."""
    root = tmp_path / "project"
    (root / "tests").mkdir(parents=True)
    (root / "scripts").mkdir()
    names = ("pyproject.toml", "requirements.txt", "scripts/environment.sh")
    for name in (*names, "tests/constraints.txt"):
        (root / name).write_bytes((ROOT / name).read_bytes())
    python = root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -m ] && echo "$@" >> {root}/calls && exit 0\n'
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    environment = {
        name: value for name, value in os.environ.items() if name != "REALFAKE_CONSTRAINTS"
    }
    if constraints:
        environment["REALFAKE_CONSTRAINTS"] = constraints

    def prepare(*extra: str) -> list[str]:
        command = f". scripts/environment.sh; prepare_environment {' '.join(extra)}"
        run = ["bash", "-ec", command]
        subprocess.run(run, cwd=root, env=environment, check=True, capture_output=True)
        return (root / "calls").read_text().splitlines()

    (call,) = prepare()
    assert "--editable ." in call and ("-c tests/constraints.txt" in call) is locked
    assert len(prepare()) == 1
    assert "--editable .[test]" in prepare("test")[1]
    # Another lock is another environment.
    (root / "tests" / "constraints.txt").write_text("numpy==2.1.0\n")
    assert len(prepare()) == (3 if locked else 2)


# Continuous integration


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
        version = rf"{re.escape(action)} # v\d+\.\d+\.\d+$"
        assert re.search(version, text, re.MULTILINE), f"{action} has no version in a comment"
    for step in steps:
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
    for job in workflow["jobs"].values():
        assert "permissions" not in job and job["timeout-minutes"] <= 60


def test_the_tests_run_on_every_declared_python_and_from_the_lock():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    job = workflow["jobs"]["tests"]
    allowed = Requirement(f"python{PROJECT['project']['requires-python']}").specifier
    expected = [f"3.{minor}" for minor in range(9, 30) if f"3.{minor}" in allowed]
    assert job["strategy"]["matrix"]["python"] == expected
    assert (ROOT / job["env"]["REALFAKE_CONSTRAINTS"]).is_file()
