"""The link that a terminal shows opens Ray's dashboard signed in; nobody gets in without it."""

import http.cookiejar
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sweeps.cluster.dashboard import dashboard_line, sign_in_link, token_command

TOKEN = "ab" * 32


@pytest.fixture
def token(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)


@pytest.fixture
def dashboard():
    """A server that lets in who has the cookie of Ray's dashboard, as `ray.dashboard.http_server_head` does."""

    class Dashboard(BaseHTTPRequestHandler):
        def do_GET(self):
            allowed = f"ray-authentication-token={TOKEN}" in (self.headers["Cookie"] or "")
            self.send_response(200 if allowed else 401)
            self.end_headers()
            self.wfile.write(b"the dashboard")

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Dashboard) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def browser():
    return urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))


def test_the_link_leads_to_the_dashboard_with_its_cookie(dashboard, token):
    with pytest.raises(urllib.error.HTTPError, match="401"):
        browser().open(dashboard)
    with dashboard_line(dashboard, private=True) as line:
        address, link = line.removeprefix("Ray dashboard: ").split(", signed in: ")
        assert address == dashboard
        opened = browser().open(link)
        assert opened.url == f"{dashboard}/"
        assert opened.read() == b"the dashboard"
    assert TOKEN not in line
    with pytest.raises(urllib.error.URLError):
        browser().open(link)  # the sweep has ended


def test_without_the_secret_path_nobody_gets_the_token(dashboard, token):
    with sign_in_link(dashboard, TOKEN) as link, sign_in_link(dashboard, TOKEN) as other:
        host = link.rpartition("/")[0]
        for path in ("", "/", f"/{other.rpartition('/')[2]}", f"{link.rpartition('/')[2][:-1]}", "/%00"):
            with pytest.raises(urllib.error.HTTPError, match="404") as refused:
                browser().open(f"{host}/{path.lstrip('/')}")
            assert refused.value.headers["Set-Cookie"] is None
        assert host.startswith("http://127.0.0.1:")
        assert len(link.rpartition("/")[2]) >= 22  # 128 bits in base64


def test_the_cookie_is_as_strict_as_rays_own(dashboard, token):
    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *arguments):
            return None

    with sign_in_link(dashboard, TOKEN) as link, pytest.raises(urllib.error.HTTPError) as answer:
        urllib.request.build_opener(Stay).open(link)
    assert answer.value.headers["Set-Cookie"] == (
        f"ray-authentication-token={TOKEN}; HttpOnly; Path=/; SameSite=Strict"
    )
    assert answer.value.headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("http://127.0.0.1:8265", False),  # a log may be read by others
        ("http://10.0.0.7:8265", True),  # a cookie for this machine's loopback is not sent there
        ("http://127.0.0.1:8265 after `ssh -N -L 8265:127.0.0.1:8265 head`", True),
    ],
)
def test_elsewhere_the_command_that_shows_the_token_is_told(token, url, private):
    with dashboard_line(url, private) as line:
        assert line == f"Ray dashboard: {url} (its token: {token_command()})"


def test_a_cluster_without_a_token_has_a_dashboard_that_simply_opens(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with dashboard_line("http://127.0.0.1:8265", private=True) as line:
        assert line == "Ray dashboard: http://127.0.0.1:8265"
