"""How the user opens Ray's dashboard, which asks for the cluster's token.

The dashboard takes the token from a dialog, or from a cookie that it sets itself once the dialog was filled in; it
takes none from an address. So a link that opens it leads to a server of the sweep's own, which sets that cookie and
passes the browser on: cookies belong to a host, whatever its port.

The server listens on the loopback address alone, and answers only to a path that nobody else knows: 128 random bits,
which are printed on the user's terminal and written to no file. Elsewhere the command is printed that shows the token.
"""

import os
import secrets
import shlex
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from sweeps.cluster.auth import find_token

LOOPBACK = "127.0.0.1"


@contextmanager
def dashboard_line(url: str, private: bool) -> Iterator[str]:
    """A line that says how to open the dashboard at `url`; its link works within the block.

    Args:
        url: as `sweeps.cluster.joining.dashboard_address` returns it.
        private: whether the user alone reads the line, as on a terminal.

    >>> with dashboard_line("http://127.0.0.1:8265", private=True) as line:  # doctest: +SKIP
    ...     print(line)
    Ray dashboard: http://127.0.0.1:8265, signed in: http://127.0.0.1:40123/yF3dZkZ0lqTn6yqvZl1mXw
    """
    told = f"Ray dashboard: {url}"
    if os.environ.get("RAY_AUTH_MODE") != "token":
        yield told
        return
    token = find_token()[0] if private and urlsplit(url).hostname == LOOPBACK and " " not in url else None
    if token is None:
        yield f"{told} (its token: {token_command()})"
        return
    with sign_in_link(url, token) as link:
        yield f"{told}, signed in: {link}"


def token_command() -> str:
    """The command that prints the token."""
    ray = Path(sys.executable).with_name("ray")
    found = shutil.which("ray")
    known = found is not None and Path(found).resolve() == ray.resolve()
    return f"{'ray' if known else shlex.quote(str(ray))} get-auth-token"


@contextmanager
def sign_in_link(url: str, token: str) -> Iterator[str]:
    """A link that signs a browser of this machine in to the dashboard at `url`, as long as the block lasts."""
    from ray._private.authentication.authentication_constants import AUTHENTICATION_TOKEN_COOKIE_NAME

    path = f"/{secrets.token_urlsafe(16)}"
    cookie: SimpleCookie = SimpleCookie({AUTHENTICATION_TOKEN_COOKIE_NAME: token})
    morsel = cookie[AUTHENTICATION_TOKEN_COOKIE_NAME]
    morsel["path"], morsel["httponly"], morsel["samesite"] = "/", True, "Strict"

    class SignIn(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not secrets.compare_digest(self.path.encode(), path.encode()):
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            self.send_response(HTTPStatus.SEE_OTHER)
            self.send_header("Set-Cookie", morsel.OutputString())
            self.send_header("Location", f"{url}/")
            self.send_header("Referrer-Policy", "no-referrer")
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is logged, least of all the path."""

    with ThreadingHTTPServer((LOOPBACK, 0), SignIn) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, name="sign in", daemon=True)
        thread.start()
        try:
            yield f"http://{LOOPBACK}:{server.server_port}{path}"
        finally:
            server.shutdown()
