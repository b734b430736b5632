"""The page as a server, without a browser: files, limits, log."""

import io
import json
import re
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from helpers.serving import serving, serving_here
from helpers.tiny import draw_picture

from realfake.cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def url(folder, tiny_vit):
    (folder / "secret.txt").write_text("a secret")
    with serving(folder, REALFAKE_MODEL=str(tiny_vit), REALFAKE_REQUESTS_PER_MINUTE="8") as url:
        yield url


def ask(url: str, body: bytes | None = None, **headers: str):
    """Status, body and headers of an answer."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, body, headers), timeout=60
        ) as response:
            return response.status, response.read(), response.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def upload(url: str, name: str, data: bytes) -> str:
    """Upload a file as the page does; return its path on the server."""
    head = (
        f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"'
        "\r\nContent-Type: image/png\r\n\r\n"
    )
    body = head.encode() + data + b"\r\n--x--\r\n"
    status, answer, _ = ask(
        f"{url}/gradio_api/upload", body, Content_Type="multipart/form-data; boundary=x"
    )
    assert status == 200, answer
    return json.loads(answer)[0]


def png(seed: int = 0) -> bytes:
    file = io.BytesIO()
    draw_picture(48, seed=seed).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file={folder}/secret.txt",
        "/gradio_api/file={folder}/server.log",
        "/gradio_api/file={folder}/gradio/../secret.txt",
        "/gradio_api/file=../secret.txt",
        "/gradio_api/file=file:///etc/passwd",
        "/gradio_api/file=app.py",
        "/gradio_api/file=requirements.txt",
        "/gradio_api/file={root}/realfake/space/page.py",
        "/gradio_api/file={root}/.git/config",
        "/gradio_api/file={environ}",
        "/static/../../../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/assets/..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/custom_component/x/client/component/../../../../etc/passwd",
        "/gradio_api/proxy=http://127.0.0.1:1/",
        "/gradio_api/file=http://127.0.0.1:1/x",
        "/gradio_api/file/http://127.0.0.1:1/x",
        "/gradio_api/file=%68ttp%3A//127.0.0.1:1/x",
        "/gradio_api/deep_link?session_hash=x",
    ],
)
def test_no_file_outside_the_intended_folders_is_served(url, folder, path):
    root = Path(__file__).resolve().parents[1]
    path = path.format(folder=folder, root=root, environ="/proc/self/environ")
    status, body, _ = ask(url + path)
    assert status in (302, 400, 403, 404, 405), (status, body[:200])
    for secret in (b"root:", b"a secret", b"import ", b"[core]", b"PATH="):
        assert secret not in body


def test_an_upload_has_a_random_address_and_is_not_shown_as_a_page(url, folder):
    path = upload(url, "../../../../x.html", b"<script>alert(1)</script>")
    kept = Path(path).resolve()
    assert kept.is_relative_to((folder / "gradio").resolve())
    status, _, headers = ask(f"{url}/gradio_api/file={path}")
    assert status == 200
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Disposition"].startswith("attachment")
    # Its folder has a random name of 256 bits, and no listing shows it.
    assert re.fullmatch(r"[0-9a-f]{64}", kept.parent.name)
    for listing in (kept.parent, kept.parent.parent):
        assert ask(f"{url}/gradio_api/file={listing}")[0] in (403, 404)


def test_predict_keeps_nothing(url, folder):
    before = {path for path in folder.rglob("*") if path.is_file()}
    data = png(7)
    form = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="x.png"\r\n\r\n'
        + data
        + b"\r\n--x--\r\n"
    )
    assert ask(f"{url}/predict", data, Content_Type="image/png")[0] == 200
    assert ask(f"{url}/predict", form, Content_Type="multipart/form-data; boundary=x")[0] == 200
    assert {path for path in folder.rglob("*") if path.is_file()} == before


def call(url: str, name: str, *data):
    """Return the answer of the queue to a call of the API."""
    status, answer, _ = ask(
        f"{url}/gradio_api/call/{name}",
        json.dumps({"data": data}).encode(),
        Content_Type="application/json",
    )
    assert status == 200, answer
    return ask(f"{url}/gradio_api/call/{name}/{json.loads(answer)['event_id']}")[1].decode()


def file(path: str) -> dict:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def test_only_public_urls_are_fetched(url, folder):
    with socket.create_server(("127.0.0.1", 0)) as inside:
        address = f"http://127.0.0.1:{inside.getsockname()[1]}/x.png?token=secret"
        message = call(url, "predict", file(address), 0.5, False, False)
        assert "was not fetched" in message and "port" in message and "secret" not in message
        assert "127.0.0.1 is not public" in call(url, "provenance", file("http://127.0.0.1/x.png"))
        assert "URLs are not read here" in call(url, "predict", None, file(address), False, False)
        inside.settimeout(0.1)
        with pytest.raises(TimeoutError):
            inside.accept()
    text = (folder / "server.log").read_text()
    assert "secret" not in text and "Traceback" not in text


def test_uploads_are_judged_through_the_queue_only(url):
    path = upload(url, "photo.png", png(5))
    assert '"verdict"' in call(url, "predict", file(path), 0.5, False, False)
    body = json.dumps({"data": [file(path), 0.5, False, False]}).encode()
    for way in ("run", "api"):
        status, answer, _ = ask(
            f"{url}/gradio_api/{way}/predict", body, Content_Type="application/json"
        )
        assert status == 404 and b"join the queue" in answer


@pytest.mark.parametrize("path", ["queue/join", "call/predict", "run/predict", "api/predict"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_request_that_is_too_large_is_not_read(url, path, chunked):
    body = b'{"data": ["' + bytes(2 * 2**20) + b'"]}'
    sent = iter([body[:1000], body[1000:]]) if chunked else body
    status, _, _ = ask(f"{url}/gradio_api/{path}", sent, Content_Type="application/json")
    assert status == 413


def test_headers_and_origins(url):
    _, _, headers = ask(url)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "strict-origin-when-cross-origin"
    # Pages of other sites cannot read the answers of a server on this machine.
    for method_of in ({}, {"Access_Control_Request_Method": "POST"}):
        _, _, headers = ask(f"{url}/health", Origin="https://elsewhere.example", **method_of)
        assert "Access-Control-Allow-Origin" not in headers
    assert ask(f"{url}/health", Origin=url)[2]["Access-Control-Allow-Origin"] == url


def test_a_client_is_limited_and_the_log_does_not_name_it(url, folder):
    def predict(address):
        return ask(f"{url}/predict", png(3), X_Forwarded_For=address, Content_Type="image/png")

    answers = [predict("8.8.4.4") for _ in range(10)]
    assert [status for status, _, _ in answers] == [200] * 8 + [429] * 2
    assert int(answers[-1][2]["Retry-After"]) >= 1 and b"Too many requests" in answers[-1][1]
    assert predict("9.9.9.9")[0] == 200
    # The page's requests count too.
    headers = {"X_Forwarded_For": "8.8.4.4", "Content_Type": "application/json"}
    for path in ("gradio_api/upload", "gradio_api/queue/join", "gradio_api/call/predict"):
        assert ask(f"{url}/{path}", b"{}", **headers)[0] == 429
    text = (folder / "server.log").read_text()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    mine = [line for line in lines if line.get("path") == "/predict"]
    assert {200, 429} <= {line["status"] for line in mine}
    assert all(line["milliseconds"] >= 0 for line in mine)
    assert "8.8.4.4" not in text


def test_the_token_reaches_neither_log_nor_page(
    hub, tiny_vit, tmp_path, monkeypatch, caplog, capfd
):
    token = "hf_" + "Zz9" * 11 + "Q"
    hub.tokens[token] = "somebody"
    monkeypatch.setattr("realfake.detector.DEFAULT_CHECKPOINT", tiny_vit)
    monkeypatch.setattr("realfake.space.loading.DEFAULT_CHECKPOINT", tiny_vit)
    environment = {
        "REALFAKE_MODEL": "nobody/nothing-here",
        "REALFAKE_FALLBACK": "bundled",
        "HF_TOKEN": token,
    }
    with caplog.at_level("INFO"), serving_here(tmp_path, **environment) as url:
        pages = [
            ask(url + path)[1]
            for path in ("", "/config", "/gradio_api/info", "/docs", "/openapi.json", "/ready")
        ]
    assert all(token.encode() not in page for page in pages)
    assert json.loads(pages[-1])["missing"] == "nobody/nothing-here"
    text = "".join((caplog.text, *capfd.readouterr()))
    assert "nobody/nothing-here could not be opened" in text and token not in text
    assert any(request.user == "somebody" for request in hub.requests)  # it was used


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REALFAKE_REQUESTS_PER_MINUTE", "lots"),
        ("REALFAKE_MODEL", "/nowhere"),
        ("REALFAKE_COMPARE", "../nowhere"),
    ],
)
def test_a_wrong_setting_ends_in_one_line(tiny_vit, monkeypatch, capsys, name, value):
    monkeypatch.setattr("realfake.space.limits.set_up_log", lambda: None)  # it is that of the test
    monkeypatch.setenv("REALFAKE_MODEL", str(tiny_vit))
    monkeypatch.setenv(name, value)
    assert main(["space", "run"]) == 2
    said = capsys.readouterr().err
    assert f"realfake: error: The page cannot start: {name}" in said.splitlines()[-1]
    assert "Traceback" not in said
