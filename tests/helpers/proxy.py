"""A reverse proxy that serves another server under a path, as nginx's `proxy_pass` does."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

# Headers that belong to one connection.
_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "content-length"}


@contextmanager
def proxied(upstream: str, prefix: str) -> Iterator[str]:
    """Serve `upstream` under `prefix`, and a page with it in an iframe at `/frame`.

    Args:
        upstream: Address of the server.
        prefix: Such as `/tools/page`, without a slash at its end.

    Yields:
        The address of the proxy, without the prefix.
    """
    target = urlsplit(upstream).netloc

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/frame":
                frame = f'<iframe src="{prefix}/" width="1200" height="900"></iframe>'
                self._send(
                    200, [("Content-Type", "text/html")], [f"<!doctype html>{frame}".encode()]
                )
            elif self.path.startswith(f"{prefix}/"):
                self._forward()
            else:
                self._send(404, [], [])

        do_POST = do_HEAD = do_GET

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in _HOP
            }
            headers["X-Forwarded-Host"] = self.headers["Host"]
            headers["X-Forwarded-Proto"] = "http"
            connection = http.client.HTTPConnection(target, timeout=120)
            path = self.path.removeprefix(prefix)
            connection.request(self.command, path, body or None, headers)
            response = connection.getresponse()
            kept = [each for each in response.getheaders() if each[0].lower() not in _HOP]
            # Answers of the queue arrive piece by piece.
            self._send(response.status, kept, iter(lambda: response.read1(2**16), b""))
            connection.close()

        def _send(self, status: int, headers: list, pieces) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            for piece in pieces:
                self.wfile.write(piece)
                self.wfile.flush()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
