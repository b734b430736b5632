import _socket
import base64
import gzip
import ipaddress
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from realfake.imaging import fetch as module
from realfake.imaging.fetch import fetch, is_public, read_data_uri


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, body=b"pixels", kind="image/png", status=200, **headers):
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0]
        port = self.server.server_port
        self.server.seen.append((self.path, self.headers["Host"]))
        if path == "/image":
            self.answer()
        elif path.startswith("/type/"):
            self.answer(kind=path.removeprefix("/type/"))
        elif path == "/untyped":
            self.answer(kind=None)
        elif path == "/gone":
            self.answer(status=404)
        elif path == "/declared":
            self.answer(**{"Content-Length": "5000"}, body=b"x" * 5000)
        elif path == "/endless":
            self.answer(body=b"")
            try:
                while True:
                    self.wfile.write(b"x" * 1000)
            except OSError:
                pass
        elif path == "/drip":  # each byte comes in time, all of them never
            self.answer(body=b"")
            self.drip()
        elif path == "/drip_headers":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            self.drip()
        elif path == "/hop3":
            self.answer(status=302, Location="/hop2?a=1")
        elif path == "/hop2":
            self.answer(status=307, Location=f"http://photos.example:{port}/hop1")
        elif path == "/hop1":
            self.answer(status=301, Location="image#top")
        elif path == "/hop4":
            self.answer(status=302, Location="/hop3")
        elif path == "/to_loopback":
            self.answer(status=302, Location=f"http://127.0.0.1:{port}/image")
        elif path == "/to_name_of_loopback":
            self.answer(status=302, Location=f"http://inside.example:{port}/image")
        elif path == "/to_file":
            self.answer(status=302, Location="file:///etc/passwd")
        elif path == "/to_decimal":
            self.answer(status=302, Location=f"http://2130706433:{port}/image")
        elif path == "/to_mapped":
            self.answer(status=302, Location=f"http://[::ffff:7f00:1]:{port}/image")
        elif path == "/to_port":
            self.answer(status=302, Location="http://photos.example:6379/image")
        elif path == "/loop":
            self.answer(status=302, Location="/loop")
        elif path == "/many_headers":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            try:
                while True:
                    self.wfile.write(b"X-More: " + b"x" * 1000 + b"\r\n")
            except OSError:
                pass
        elif path == "/informational":
            try:
                while True:
                    self.wfile.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
                    time.sleep(0.02)
            except OSError:
                pass
        elif path == "/packed":  # ten megabytes of zeros, if anybody unpacked them
            self.answer(gzip.compress(b"\0" * 10_000_000), **{"Content-Encoding": "gzip"})
        elif path == "/lies":
            self.answer(body=b"x" * 100, **{"Content-Length": "5000"})
            self.close_connection = True
        elif path == "/hang_up":
            self.close_connection = True

    def drip(self):
        try:
            for _ in range(100):
                self.wfile.write(b"x")
                time.sleep(0.05)
        except OSError:
            pass


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen = []
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def url(server):
    server.seen.clear()
    return f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def public(server, monkeypatch):
    """`photos.example` resolves to a public address at which, for the test, our server answers."""
    names = {
        "photos.example": ["93.184.216.34"],
        "inside.example": ["127.0.0.1"],
        "both.example": ["93.184.216.34", "10.0.0.1"],
    }
    asked, connected = [], []

    resolve = socket.getaddrinfo

    def getaddrinfo(host, *arguments, **options):
        if host == "127.0.0.1":  # what connecting to it asks for
            return resolve(host, *arguments, **options)
        asked.append(host)
        if host[
            0
        ].isdigit():  # numbers in the forms that the C library knows; no name is looked up for them
            return _socket.getaddrinfo(host, None, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
        if host not in names:
            raise socket.gaierror("unknown")
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in names[host]
        ]

    connect = module.httpcore.SyncBackend.connect_tcp

    def connect_tcp(self, host, port, *arguments):
        connected.append(host)
        return connect(self, "127.0.0.1", port, *arguments)

    monkeypatch.setattr(module.socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(module.httpcore.SyncBackend, "connect_tcp", connect_tcp)
    monkeypatch.setattr(module, "PORTS", (80, 443, server.server_port))
    server.asked, server.connected = asked, connected
    server.seen.clear()
    return f"http://photos.example:{server.server_port}"


def test_body_comes_back(url):
    for path in (
        "/image",
        "/image?size=1",
        "/type/application/octet-stream",
        "/type/IMAGE/JPEG",
        "/untyped",
    ):
        assert fetch(url + path, allow_private=True) == b"pixels"


def test_private_addresses_are_refused_by_default(url, server, monkeypatch):
    monkeypatch.setattr(module, "PORTS", (server.server_port,))
    for host in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"):
        with pytest.raises(ValueError, match="is not public; download the image and pass the file"):
            fetch(f"http://{host}:{server.server_port}/image")
    assert server.seen == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::808:808", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("255.255.255.255", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("::", False),
        ("::1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b:1::808:808", False),
        ("2001:0:7f00:1::", False),
        ("::127.0.0.1", False),
        ("::ffff:0:127.0.0.1", False),
        ("fec0::1", False),
        ("192.0.2.1", False),
        ("198.18.0.1", False),
    ],
)
def test_is_public(address, public):
    assert is_public(ipaddress.ip_address(address)) is public


def test_name_is_resolved_once_and_the_checked_address_is_used(public, server):
    assert fetch(public + "/image?key=1") == b"pixels"
    assert server.asked == ["photos.example"] and server.connected == ["93.184.216.34"]
    assert server.seen == [("/image?key=1", f"photos.example:{server.server_port}")]


def test_one_private_address_among_public_ones_is_refused(public, server):
    with pytest.raises(ValueError, match="10.0.0.1 is not public"):
        fetch(public.replace("photos", "both") + "/image")
    assert server.connected == []


@pytest.mark.parametrize(
    "path", ["/to_loopback", "/to_name_of_loopback", "/to_decimal", "/to_mapped"]
)
def test_redirect_to_a_private_address_is_refused(public, server, path):
    with pytest.raises(
        ValueError, match="address (127.0.0.1|::ffff:7f00:1|::ffff:127.0.0.1) is not public"
    ):
        fetch(public + path)
    assert [seen for seen, _ in server.seen] == [path]


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "0x7f.1",
        "017700000001",
        "0",
        "3232235777",
    ],
)
def test_addresses_in_other_notations_are_refused(public, server, host):
    """Every notation that `inet_aton` reads is an address, and is checked as one."""
    with pytest.raises(ValueError, match="is not public|not a valid URL"):
        fetch(f"http://{host}:{server.server_port}/image")
    assert server.connected == [] and server.seen == []


@pytest.mark.parametrize(
    "trick",
    [
        "http://photos.example@127.0.0.1:{port}/image",
        "http://photos.example:80@127.0.0.1:{port}/image",
        "http://photos.example%40127.0.0.1:{port}/image",
        "http://photos.example#@127.0.0.1:{port}/image",
        "http://photos.example?@127.0.0.1:{port}/image",
        "http://127.0.0.1:{port}\\@photos.example/image",
        "http://photos.example\\@127.0.0.1:{port}/image",
        "http://127.0.0.1:{port}%2f@photos.example/image",
        "http://photos.example\t@127.0.0.1:{port}/image",
        "http://[::ffff:127.0.0.1]:{port}/image",
        "http://[0:0:0:0:0:ffff:7f00:0001]:{port}/image",
        "http://１２７.0.0.1:{port}/image",
        "http://127。0。0。1:{port}/image",
    ],
)
def test_what_looks_like_another_host_reaches_nothing_private(public, server, trick):
    """The connection goes to the checked address, which is public."""
    try:
        fetch(trick.format(port=server.server_port))
    except (ValueError, OSError) as error:
        assert "\n" not in str(error)
    assert set(server.connected) <= {"93.184.216.34"}


@pytest.mark.parametrize("port", [22, 25, 6379, 8080, 65535])
def test_other_ports_are_not_asked(public, server, port):
    with pytest.raises(ValueError, match=f"it uses port {port}; only 80 and 443"):
        fetch(f"http://photos.example:{port}/image")
    with pytest.raises(ValueError, match="it uses port 6379"):
        fetch(public + "/to_port")
    assert server.connected == ["93.184.216.34"]


def test_a_redirect_to_itself_ends(public, server):
    with pytest.raises(ValueError, match="redirects more than 3 times"):
        fetch(public + "/loop")
    assert len(server.seen) == 4


def test_a_name_that_changes_its_address_is_asked_once(public, server, monkeypatch):
    """DNS rebinding: public when it is checked, private ever after."""
    answers = iter(["93.184.216.34", "127.0.0.1", "127.0.0.1"])

    def getaddrinfo(host, *_, **__):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), 0))]

    connected = []
    connect = module.httpcore.SyncBackend.connect_tcp

    def connect_tcp(self, host, port, *arguments):
        connected.append(host)
        raise module.httpcore.ConnectError("far enough")

    assert connect is not connect_tcp
    monkeypatch.setattr(module.socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(module.httpcore.SyncBackend, "connect_tcp", connect_tcp)
    with pytest.raises(OSError, match="far enough"):
        fetch("http://rebind.example/image")
    assert connected == ["93.184.216.34"]


def test_redirects(public, server):
    assert fetch(public + "/hop3") == b"pixels"
    assert [path for path, _ in server.seen] == ["/hop3", "/hop2?a=1", "/hop1", "/image"]
    with pytest.raises(ValueError, match="redirects more than 3 times"):
        fetch(public + "/hop4")
    with pytest.raises(ValueError, match="only http and https"):
        fetch(public + "/to_file")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/a.png",
        "file:///etc/passwd",
        "file://localhost/etc/passwd",
        "gopher://example.org/_GET",
        "photo.png",
        "http://",
        "http://[::1/a",
        "http:///etc/passwd",
        "jar:http://example.org!/a",
        "//example.org/a.png",
    ],
)
def test_urls_that_are_refused(url):
    with pytest.raises(ValueError, match="was not fetched"):
        fetch(url)


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/json", "video/mp4"])
def test_types_that_are_refused(url, kind):
    with pytest.raises(ValueError, match=f"it is {kind.split(';')[0]}, not an image"):
        fetch(f"{url}/type/{kind.replace(' ', '')}", allow_private=True)


@pytest.mark.parametrize("path", ["/declared", "/endless"])
def test_size_is_limited(url, path):
    with pytest.raises(ValueError, match="larger than the limit of 0.00390625 MiB"):
        fetch(url + path, max_bytes=4096, allow_private=True)


def test_size_at_the_limit_is_allowed(url):
    assert len(fetch(url + "/declared", max_bytes=5000, allow_private=True)) == 5000


@pytest.mark.parametrize("path", ["/drip", "/drip_headers", "/informational"])
def test_time_is_limited_in_all(url, path):
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="took longer than 0.4 s"):
        fetch(url + path, timeout=0.4, allow_private=True)
    assert time.monotonic() - started < 2


def test_headers_without_end_are_given_up(url):
    with pytest.raises(OSError, match="cannot be reached"):
        fetch(url + "/many_headers", allow_private=True)


def test_a_packed_body_is_not_unpacked(url):
    assert len(fetch(url + "/packed", allow_private=True)) < 20_000


def test_a_body_shorter_than_announced_is_no_body(url):
    with pytest.raises(OSError, match="cannot be reached"):
        fetch(url + "/lies", allow_private=True)


def test_slow_resolver_is_given_up(monkeypatch):
    monkeypatch.setattr(module.socket, "getaddrinfo", lambda *_, **__: time.sleep(3))
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        fetch("http://slow.example/a.png", timeout=0.2)
    assert time.monotonic() - started < 2


def test_unreachable(url, public):
    with pytest.raises(OSError, match="answered with status 404"):
        fetch(url + "/gone", allow_private=True)
    with pytest.raises(OSError, match="cannot be reached"):
        fetch(url + "/hang_up", allow_private=True)
    with pytest.raises(OSError, match="cannot be reached.*unknown.example is unknown"):
        fetch("http://unknown.example/a.png")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(OSError, match="cannot be reached"):
            fetch(f"http://127.0.0.1:{port}/a.png", allow_private=True)


@pytest.mark.parametrize("path", ["/gone?token=secret", "/line\nbreak?token=secret"])
def test_messages_are_one_line_without_secrets(url, path):
    with pytest.raises((ValueError, OSError)) as caught:
        fetch(url.replace("//", "//user:password@") + path, allow_private=True)
    text = str(caught.value)
    assert (
        "\n" not in text and "secret" not in text and "password" not in text and "127.0.0.1" in text
    )


def test_tls_asks_for_the_name_not_the_address(public, monkeypatch):
    """SNI and the certificate check see the host's name, not the address."""
    names = []

    class Stop(OSError):
        pass

    def start_tls(self, context, server_hostname=None, timeout=None):
        names.append((server_hostname, context.check_hostname, context.verify_mode.name))
        raise Stop("far enough")

    stream = type(
        module.httpcore.SyncBackend().connect_tcp(
            "127.0.0.1", int(public.rpartition(":")[2]), 1, None, None
        )
    )
    monkeypatch.setattr(stream, "start_tls", start_tls)
    with pytest.raises(OSError, match="far enough"):
        fetch(public.replace("http:", "https:") + "/image")
    assert names == [("photos.example", True, "CERT_REQUIRED")]


# Addresses in requests


def test_a_data_uri_is_decoded():
    encoded = base64.b64encode(b"pixels").decode()
    for uri in (
        f"data:image/png;base64,{encoded}",
        f" DATA:image/png;name=a.png;BASE64,{encoded[:4]}\n{encoded[4:]}",
        f"data:;base64,{encoded.replace('=', '%3D')}",
        "data:,pixels",
        "data:text/plain,pixel%73",
    ):
        assert read_data_uri(uri) == b"pixels"


@pytest.mark.parametrize(
    "address",
    [
        "/etc/passwd",
        "photo.jpg",
        "C:\\photo.jpg",
        "file:///etc/passwd",
        "ftp://example.org/a.png",
        "http://127.0.0.1/a.png",
        "http://localhost/a.png",
        "https://[::1]/a.png",
        "http://169.254.169.254/latest",
        "",
        "two\nlines",
    ],
)
def test_files_and_addresses_of_the_server_are_refused_in_one_line(address):
    with pytest.raises(ValueError) as refused:
        fetch(address)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "uri", ["data:image/png;base64", "data:;base64,a", "data:;base64,äöü", "data:;base64,a?!="]
)
def test_a_damaged_data_uri_is_refused(uri):
    with pytest.raises(ValueError, match="data URI"):
        read_data_uri(uri)


def test_a_data_uri_is_limited():
    with pytest.raises(ValueError, match="larger than"):
        read_data_uri("data:," + "x" * 101, max_bytes=100)
    with pytest.raises(ValueError, match="larger than"):
        read_data_uri("data:;base64," + "A" * 10**6, max_bytes=100)
    assert len(read_data_uri("data:," + "%41" * 100, max_bytes=100)) == 100


def test_other_media_types_can_be_asked_for(url):
    assert fetch(url + "/type/text/plain", allow_private=True, types=("text/plain",)) == b"pixels"
    with pytest.raises(ValueError, match="image/png"):
        fetch(url + "/image", allow_private=True, types=("text/plain",))
