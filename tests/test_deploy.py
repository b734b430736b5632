"""Deployment: a Space is created, updated, checked out, started and called by stock clients."""

import base64
import io
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
import venv
from contextlib import redirect_stderr, redirect_stdout
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.loopback_hub import LoopbackHub, point_clients_at
from helpers.serving import free_port, started
from helpers.signing import make_authority, sign
from helpers.tiny import draw_picture, save_tiny
from huggingface_hub import SpaceCard
from packaging.requirements import Requirement
from PIL import Image

from realfake.cli.main import main
from realfake.detector import Detector

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with (
        LoopbackHub(home=tmp_path_factory.mktemp("home")) as running,
        pytest.MonkeyPatch.context() as patch,
    ):
        point_clients_at(running, patch)
        model = save_tiny("convnext", tmp_path_factory.mktemp("models") / "model", seed=3)
        running.put("user/model", model)
        running.model = model
        yield running
    assert not running.errors, "\n".join(running.errors)


def deploy(*arguments: str) -> SimpleNamespace:
    """Run the command, and return its status and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main(["space", "deploy", *arguments])
    return SimpleNamespace(returncode=status, stdout=out.getvalue(), stderr=err.getvalue())


def space(hub, name: str = "user/space"):
    return hub.repos["space", name]


# On the Hub


@pytest.fixture(scope="module")
def deployed(hub):
    done = deploy("user/space", "--model", "user/model")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_space_is_created_with_its_files_and_its_model(hub, deployed):
    files = hub.files("user/space", "space")
    assert {
        "app.py",
        "requirements.txt",
        "README.md",
        "LICENSE",
        "realfake/space/routes.py",
    } <= set(files)
    assert "realfake/checkpoints/photos/model-00001-of-00004.safetensors" in files
    assert not [
        path
        for path in files
        if "__pycache__" in path or path.startswith(("tests/", "scripts/", ".git/"))
    ]
    card = SpaceCard(files["README.md"].decode()).data
    assert card.sdk == "gradio" and card.models == card.preload_from_hub == ["user/model"]
    assert card.startup_duration_timeout == "1h"
    assert {name: held["value"] for name, held in space(hub).variables.items()} == {
        "REALFAKE_MODEL": "user/model"
    }
    assert space(hub).hardware == "cpu-basic"
    assert not space(hub).private
    assert "RUNNING" in deployed


def test_repeating_the_command_changes_nothing(hub, deployed):
    before = (
        len(hub.history("user/space", "space", "main")),
        len(hub.requests_to("/variables$", "POST")),
    )
    done = deploy("user/space", "--model", "user/model", "--hardware", "cpu-basic")
    assert done.returncode == 0, done.stderr
    assert "up to date" in done.stdout
    assert (
        len(hub.history("user/space", "space", "main")),
        len(hub.requests_to("/variables$", "POST")),
    ) == before
    assert not hub.requests_to("/user/space/hardware$")


def test_an_old_space_is_updated(hub, tmp_path):
    hub.put(
        "user/old",
        {"app.py": "print('old')", "left_over.py": "", "README.md": "---\nsdk: gradio\n---\n"},
        "space",
    )
    hub.create("user/feedback", "dataset")
    trust = tmp_path / "trust.pem"
    trust.write_text(make_authority().anchors)
    commit = hub.history("user/model")[0].oid
    arguments = ["user/old", "--model", f"user/model@{commit}", "--hardware", "zero-a10g"]
    arguments += ["--feedback_repo", "user/feedback", "--trust_list", trust, "--secret", "HF_TOKEN"]
    done = deploy(*arguments)
    assert done.returncode == 0, done.stderr
    old = space(hub, "user/old")
    assert {name: held["value"] for name, held in old.variables.items()} == {
        "REALFAKE_MODEL": "user/model",
        "REALFAKE_REVISION": commit,
        "REALFAKE_FEEDBACK_REPO": "user/feedback",
        "REALFAKE_C2PA_TRUST_LIST": "c2pa-trust-list.pem",
    }
    assert old.hardware == "zero-a10g"
    assert old.secrets["HF_TOKEN"]["value"] == "hf_anything"
    assert "hf_anything" not in done.stdout
    files = hub.files("user/old", "space")
    assert "left_over.py" not in files
    assert files["app.py"] == (ROOT / "app.py").read_bytes()
    assert requirements(files["requirements.txt"].decode()) == requirements(
        (ROOT / "requirements.txt").read_text()
    )
    assert files["c2pa-trust-list.pem"] == trust.read_bytes()
    card = SpaceCard(files["README.md"].decode()).data
    assert card.suggested_hardware == "zero-a10g"
    needed = "config.json,model.safetensors,preprocessor_config.json"
    assert card.preload_from_hub == [f"user/model {needed} {commit}"]

    # What is not named stays; a revision goes with the model it was one of.
    done = deploy("user/old", "--model", "user/model")
    assert done.returncode == 0, done.stderr
    assert "REALFAKE_REVISION" not in old.variables
    assert old.variables["REALFAKE_FEEDBACK_REPO"]["value"] == "user/feedback"
    assert old.hardware == "zero-a10g"
    assert hub.files("user/old", "space")["c2pa-trust-list.pem"] == trust.read_bytes()


def test_a_new_space_starts_on_the_requested_hardware(hub):
    done = deploy("user/fast", "--hardware", "zero-a10g", "--private")
    assert done.returncode == 0, done.stderr
    assert (space(hub, "user/fast").hardware, space(hub, "user/fast").private) == (
        "zero-a10g",
        True,
    )
    assert space(hub, "user/fast").variables == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("name", "user/name"),
        ("user/x --model user/none", "no such model"),
        ("user/x --model user/model@none", "no revision 'none'"),
        ("user/x --secret NOT_THERE", "no environment variable"),
        ("somebody/else", "403"),
        ("user/x --trust_list app.py", "PEM"),
    ],
)
def test_mistakes_end_in_one_line_and_create_nothing(hub, arguments, words):
    known = set(hub.repos)
    done = deploy(*arguments.replace("app.py", str(ROOT / "app.py")).split())
    assert done.returncode == 2
    assert words in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1
    assert set(hub.repos) == known


# The container


def test_the_files_named_in_the_container_recipe_exist():
    lines = (ROOT / "scripts" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    copied = [name for step, rest in steps if step == "COPY" for name in rest.split()[:-1]]
    assert set(copied) == {"requirements.txt", "app.py", "LICENSE", "realfake"}
    assert all((ROOT / name).exists() for name in copied)
    ignored = (ROOT / "scripts" / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored and {line[1:] for line in ignored if line.startswith("!")} == set(copied)
    order = [step for step, _ in steps]
    assert order.index("USER") < order.index("CMD")
    (check,) = (rest for step, rest in steps if step == "HEALTHCHECK")
    assert "/health" in check


def test_the_container_does_not_run_as_root():
    dockerfile = (ROOT / "scripts" / "Dockerfile").read_text()
    assert "\nUSER realfake\n" in dockerfile and "EXPOSE 7860" in dockerfile
    assert "GRADIO_SERVER_PORT=7860" in dockerfile and "exec python app.py" in dockerfile


def test_the_container_prefers_a_mounted_checkpoint(tmp_path):
    (start,) = (
        json.loads(line.split(None, 1)[1])
        for line in (ROOT / "scripts" / "Dockerfile").read_text().splitlines()
        if line.startswith("CMD")
    )
    program = (
        start[2]
        .replace("/model", str(tmp_path))
        .replace("exec python app.py", "echo ${REALFAKE_MODEL-bundled}")
    )

    def started(**environ):
        return subprocess.run(
            ["sh", "-c", program], env=environ, capture_output=True, text=True
        ).stdout.strip()

    assert started() == "bundled"
    assert started(REALFAKE_MODEL="user/model") == "user/model"
    (tmp_path / "config.json").write_text("{}")
    assert started(REALFAKE_MODEL="user/model") == str(tmp_path)


# Running


def requirements(text: str) -> set[Requirement]:
    lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return {Requirement(line) for line in lines}


def as_installed(text: str, folder: Path) -> Path:
    """Make an environment with the listed packages and their dependencies only, without a network.

    Returns:
        Its Python.
    """
    venv.create(folder, symlinks=True, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    waiting = list(requirements(text))
    seen = set()
    while waiting:
        wanted = waiting.pop()
        if (wanted.name, tuple(wanted.extras)) in seen:
            continue
        seen.add((wanted.name, tuple(wanted.extras)))
        found = metadata.distribution(wanted.name)
        assert wanted.specifier.contains(found.version, prereleases=True), (
            f"{wanted}, but {found.version} is here"
        )
        for top in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(found.locate_file(top))
        needs = [Requirement(line) for line in found.requires or []]
        waiting += [
            need
            for need in needs
            if not need.marker
            or any(need.marker.evaluate({"extra": extra}) for extra in wanted.extras or {""})
        ]
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def running(hub, deployed, tmp_path_factory):
    """The address of the Space, started from the uploaded files in a separate environment."""
    folder = tmp_path_factory.mktemp("checkout")
    for path, content in hub.files("user/space", "space").items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    port = free_port()
    environ = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "HF_HUB_OFFLINE")
    }
    environ |= hub.environment | {
        name: held["value"] for name, held in space(hub).variables.items()
    }
    environ |= {
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_ANALYTICS_ENABLED": "False",
    }
    log = folder / "log.txt"
    python = as_installed(
        (folder / "requirements.txt").read_text(), tmp_path_factory.mktemp("environment")
    )
    elsewhere = subprocess.run(
        [python, "-c", "import packaging, realfake"],
        cwd=log.parent.parent,
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "No module named 'realfake'" in elsewhere.stderr
    url = f"http://127.0.0.1:{port}"
    with started([python, "app.py"], environ, folder, log) as process:
        deadline = time.monotonic() + 240
        while True:
            try:
                with urllib.request.urlopen(f"{url}/ready", timeout=5):
                    break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        yield url


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    file = io.BytesIO()
    draw_picture(64, seed=9).save(file, "JPEG", quality=90)
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    path.write_bytes(sign(file.getvalue(), make_authority()))
    return path


@pytest.fixture(scope="module")
def expected(hub, photo) -> dict[str, float]:
    return Detector.from_pretrained(hub.model).predict(photo).probabilities


def test_the_space_serves_the_deployed_model(running):
    with urllib.request.urlopen(f"{running}/ready", timeout=30) as response:
        assert json.load(response)["model"] == "user/model"
    with urllib.request.urlopen(running, timeout=30) as response:
        assert b"gradio" in response.read()


def test_the_documentation_is_served(running):
    with urllib.request.urlopen(f"{running}/openapi.json", timeout=30) as response:
        assert set(json.load(response)["paths"]) == {"/predict", "/health", "/ready"}
    with urllib.request.urlopen(f"{running}/docs", timeout=30) as response:
        assert response.status == 200


def test_the_hubs_client_works_on_the_space(running, photo, expected, monkeypatch):
    from huggingface_hub import InferenceClient, constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    client = InferenceClient(model=f"{running}/predict")
    for image, options in ((photo.read_bytes(), {}), (photo, {}), (photo, {"top_k": 2})):
        found = client.image_classification(image, **options)
        assert {row.label: row.score for row in found} == pytest.approx(expected, abs=1e-5)


def test_curl_works_on_the_space(running, photo, expected):
    for how in (["-F", f"file=@{photo}"], ["--data-binary", f"@{photo}"]):
        done = subprocess.run(
            ["curl", "-sS", *how, f"{running}/predict"], capture_output=True, timeout=60
        )
        assert {row["label"]: row["score"] for row in json.loads(done.stdout)} == pytest.approx(
            expected, abs=1e-5
        )


def test_gradios_client_works_on_the_space(running, photo, expected):
    from gradio_client import Client, handle_file

    client = Client(running, verbose=False)
    answer = client.predict(handle_file(str(photo)), api_name="/predict")
    assert answer["probabilities"] == pytest.approx(expected, abs=1e-5)
    assert answer["model"] == "user/model"
    picture, answer = client.predict(handle_file(str(photo)), api_name="/explain")
    assert min(Image.open(picture if isinstance(picture, str) else picture["path"]).size) >= 256
    assert answer["probabilities"] == pytest.approx(expected, abs=1e-5)
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert {"/predict", "/explain"} <= set(named)


def test_an_mcp_client_works_on_the_space(running, photo, expected):
    import asyncio

    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    encoded = base64.b64encode(photo.read_bytes()).decode()

    async def talk():
        async with (
            streamablehttp_client(f"{running}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            name = next(name for name in tools if name.endswith("predict"))
            arguments = {"image": f"data:image/jpeg;base64,{encoded}"}
            return tools, await session.call_tool(name, arguments)

    tools, result = asyncio.run(talk())
    assert not result.isError, result
    answer = json.loads(result.content[0].text)
    assert answer["probabilities"] == pytest.approx(expected, abs=1e-5)
    predict = next(tool for name, tool in tools.items() if name.endswith("predict"))
    assert {"image", "prior_ai", "stability", "provenance"} <= set(
        predict.inputSchema["properties"]
    )
    assert "AI-generated" in predict.inputSchema["properties"]["prior_ai"]["description"]
    for tool in ("explain", "stability", "provenance"):
        assert [name for name in tools if name.endswith(tool)]
    assert "AI-generated" in predict.description
