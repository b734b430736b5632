"""The setting of all tests: no network, one thread, temporary caches; and the shared fixtures.

The environment is set before a Hugging Face library is imported, because it is read at import.
"""

import gc
import os
import shutil
import tempfile
from pathlib import Path

HF_HOME = tempfile.mkdtemp(prefix="realfake-tests-")
os.environ.update(
    HF_HOME=HF_HOME,
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_UPDATE_DOWNLOAD_COUNTS="0",
    GRADIO_ANALYTICS_ENABLED="False",
    GRADIO_TEMP_DIR=os.path.join(HF_HOME, "gradio"),
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
)
# One thread per process: small tensors gain nothing from more threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
for _name in (
    "HF_ENDPOINT",
    "HF_TOKEN",
    "HF_TOKEN_PATH",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_DATASETS_CACHE",
):
    os.environ.pop(_name, None)  # a developer's settings and caches do not affect the tests

import ipaddress  # noqa: E402
import socket  # noqa: E402

import pytest  # noqa: E402
from helpers import versions  # noqa: E402
from helpers.loopback_hub import LoopbackHub, point_clients_at  # noqa: E402
from helpers.tiny import save_tiny  # noqa: E402

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")


def pytest_collection_modifyitems(config, items):
    missing = {
        "slow": not config.getoption("--slow") and "takes over a minute; run with --slow",
        "browser": not _browser() and "no chromium in PATH",
        "corpora": _corpora_missing(),
    }
    for item in items:
        for marker, reason in missing.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish():
    # Each training asks for a full garbage collection, which takes a fifth of the time of a small
    # one. It need not visit all that the tests have imported.
    gc.collect()
    gc.freeze()


def pytest_report_header():
    return versions.header()


def pytest_terminal_summary(terminalreporter, exitstatus):
    if exitstatus == pytest.ExitCode.TESTS_FAILED and (differing := versions.differences()):
        terminalreporter.section("versions")
        terminalreporter.write_line(versions.advice(differing))


def pytest_unconfigure():
    shutil.rmtree(HF_HOME, ignore_errors=True)


def _browser() -> str | None:
    return next((path for name in _BROWSERS if (path := shutil.which(name))), None)


def _corpora_missing() -> str | None:
    folder = os.environ.get("REALFAKE_CORPORA")
    if not folder:
        return "REALFAKE_CORPORA is not set; it names the folder with cifake/ and scenes/"
    return None if Path(folder).is_dir() else f"REALFAKE_CORPORA is not a folder: {folder}"


class NetworkBlocked(RuntimeError):
    """A test tried to leave the machine. Not an `OSError`, which the tested code would catch."""


def _is_local(host) -> bool:
    host = host.decode() if isinstance(host, bytes) else host
    if not host or host in ("localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """Allow connections to loopback addresses only. Names under `.invalid` do not resolve."""
    connect, connect_ex, getaddrinfo = (
        socket.socket.connect,
        socket.socket.connect_ex,
        socket.getaddrinfo,
    )

    def check(connection, address):
        internet = connection.family in (socket.AF_INET, socket.AF_INET6)
        # Connecting a datagram socket sends nothing.
        if internet and connection.type == socket.SOCK_STREAM and not _is_local(address[0]):
            raise NetworkBlocked(f"a test tried to connect to {address[0]}:{address[1]}")

    def guarded_connect(self, address):
        check(self, address)
        return connect(self, address)

    def guarded_connect_ex(self, address):
        check(self, address)
        return connect_ex(self, address)

    def guarded_getaddrinfo(host, *arguments, **options):
        name = host.decode() if isinstance(host, bytes) else host or ""
        if name.rstrip(".").endswith(".invalid"):  # RFC 2606: these names never resolve
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if not _is_local(host) and not _is_address(name):
            raise NetworkBlocked(f"a test tried to look up {name}")
        return getaddrinfo(host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
        patch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
        yield


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return False
    return True


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A running `LoopbackHub` for the clients of this process, with caches in `tmp_path`.

    For another process: `subprocess.run(..., env={**os.environ, **hub.environment})`.
    """
    with LoopbackHub(home=tmp_path / "hf_home") as hub:
        point_clients_at(hub, monkeypatch)
        yield hub
        from huggingface_hub.utils import close_session

        close_session()
    assert not hub.errors, "\n".join(hub.errors)


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder with `cifake/` and `scenes/`."""
    if reason := _corpora_missing():
        pytest.skip(reason)
    return Path(os.environ["REALFAKE_CORPORA"])


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium for Playwright's `executable_path`."""
    path = _browser()
    if path is None:
        pytest.skip("no chromium in PATH")
    return path


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory) -> Path:
    """Folder of a tiny ViT with 32×32 inputs. Shared: copy it before a change."""
    return save_tiny("vit", tmp_path_factory.mktemp("tiny") / "vit")


@pytest.fixture(scope="session")
def tiny_convnext(tmp_path_factory) -> Path:
    """Folder of a tiny ConvNeXt with 32×32 inputs. Shared: copy it before a change."""
    return save_tiny("convnext", tmp_path_factory.mktemp("tiny") / "convnext")
