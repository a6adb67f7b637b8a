"""The server of a dashboard: three addresses on the loopback, read only. No file of the run is served.

    with make_server(Path("runs/quick"), port=0) as server:
        print(server.url)
        server.serve_forever()

A page of another site cannot read it: it has no CORS headers, and a request under another host name is refused, as a
site would send it that has its own name point to 127.0.0.1 (DNS rebinding).
"""

import base64
import gzip
import hashlib
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from analysis.dashboard.latest import Latest
from analysis.dashboard.page import page

LOOPBACK = "127.0.0.1"
HOSTS = (LOOPBACK, "localhost")
"""Host names of requests that are answered, with any port: one that is forwarded through ssh may be another."""
HTML, JSON, SCRIPT = "text/html; charset=utf-8", "application/json", "text/javascript; charset=utf-8"
PLOTLY_CACHE = "private, max-age=86400"
TIMEOUT_S = 30


class DashboardServer(ThreadingHTTPServer):
    """The server; `url` is its address."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int, latest: Latest, name: str) -> None:
        self.latest = latest
        html, script = page(name)
        self.html = gzip.compress(html.encode())
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        self.policy = (
            f"default-src 'none'; script-src 'self' 'sha256-{digest}'; style-src 'unsafe-inline'; connect-src 'self'; "
            "img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        super().__init__((LOOPBACK, port), Handler)

    def server_bind(self) -> None:
        # HTTPServer would ask the name server for this machine's name.
        super(ThreadingHTTPServer, self).server_bind()
        self.server_name, self.server_port = LOOPBACK, self.server_address[1]

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{LOOPBACK}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that closes its connection is no error."""


class Handler(BaseHTTPRequestHandler):
    """Answers GET of `/`, `/data.json` and `/plotly.js`."""

    server: DashboardServer
    server_version, sys_version = "lmsweep", ""
    timeout = TIMEOUT_S

    def do_GET(self) -> None:
        """Answer one request."""
        host = self.headers.get("Host", "").rsplit(":", 1)[0].lower()
        if host not in HOSTS:
            return self._send(HTTPStatus.FORBIDDEN, b"the dashboard answers on 127.0.0.1 and localhost only\n")
        match self.path.partition("?")[0]:
            case "/":
                return self._send(HTTPStatus.OK, self.server.html, HTML, packed=True)
            case "/data.json":
                answer = self.server.latest.answer()
                if self.headers.get("If-None-Match") == answer.tag:
                    return self._send(HTTPStatus.NOT_MODIFIED, b"", JSON, tag=answer.tag)
                return self._send(HTTPStatus.OK, answer.body, JSON, packed=True, tag=answer.tag)
            case "/plotly.js":
                return self._send(HTTPStatus.OK, packed_plotly(), SCRIPT, packed=True, cache=PLOTLY_CACHE)
        return self._send(HTTPStatus.NOT_FOUND, b"not found\n")

    def _refuse(self) -> None:
        self._send(HTTPStatus.METHOD_NOT_ALLOWED, b"" if self.command == "HEAD" else b"read only\n")

    def __getattr__(self, name: str) -> Any:
        """The base class looks for `do_POST` and the like: whatever is not GET is refused."""
        if name.startswith("do_"):
            return self._refuse
        raise AttributeError(name)

    def _send(
        self,
        status: HTTPStatus,
        body: bytes,
        kind: str = "text/plain; charset=utf-8",
        packed: bool = False,
        tag: str = "",
        cache: str = "no-cache",
    ) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Cache-Control": cache, "ETag": tag}
        headers["Content-Encoding"] = "gzip" if packed else ""
        headers["Content-Length"] = "" if status == HTTPStatus.NOT_MODIFIED else str(len(body))
        headers["Allow"] = "GET" if status == HTTPStatus.METHOD_NOT_ALLOWED else ""
        headers |= {"Content-Security-Policy": self.server.policy, "X-Content-Type-Options": "nosniff"}
        headers |= {"Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin"}
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Requests are not printed."""


@cache
def packed_plotly() -> bytes:
    """plotly.js, as the Python package has it, packed with gzip."""
    import plotly.offline  # takes 0.2 s

    return gzip.compress(plotly.offline.get_plotlyjs().encode())


def make_server(folder: Path, storage: str | None = None, port: int = 0) -> DashboardServer:
    """A server of the run in `folder`; with port 0 on a free port. Raises OSError if the port is taken."""
    return DashboardServer(port, Latest(folder, storage), folder.resolve().name)
