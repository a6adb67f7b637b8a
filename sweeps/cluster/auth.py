"""Who may connect to the Ray cluster that a sweep starts: processes on this machine that hold its token.

Whoever can connect to Ray can run any code. By default Ray listens on every network interface and writes its token to a
file that every user can read. Ray reads its environment once, when it is imported, so these functions must run before.
"""

import ipaddress
import os
import secrets
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from lmcore.errors import InputError

LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""If 0, as by default on macOS and Windows, Ray's servers listen on the loopback address only."""


def require_token() -> None:
    """Set the environment for a Ray cluster that this process starts: loopback only, with a token.

    Raises InputError if the token file cannot be written or read.
    """
    os.environ[LOOPBACK_ONLY] = "0"
    # The user may have disabled tokens to join some other cluster; the one started here demands one all the same.
    if os.environ.get("RAY_AUTH_MODE", "disabled").lower() == "disabled":
        os.environ["RAY_AUTH_MODE"] = "token"
    if _token_required() and not os.environ.get("RAY_AUTH_TOKEN"):
        _create_token(_token_file())


def find_token() -> tuple[str | None, str]:
    """This machine's token for clusters that demand one, and where it is, or None and where it would be."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip(), "RAY_AUTH_TOKEN"
    path = _token_file()
    try:
        return path.read_text().strip() or None, str(path)
    except FileNotFoundError:
        return None, str(path)
    except (OSError, UnicodeError) as error:
        rule = f"Ray's token must be in a text file that you can read ({error})"
        raise InputError(f"{path}: {rule}; set RAY_AUTH_TOKEN_PATH to one") from None


def set_auth_mode(mode: str) -> None:
    """Set Ray's authentication mode of this process and of those that it starts: `token` or `disabled`."""
    os.environ["RAY_AUTH_MODE"] = mode
    if "ray" in sys.modules:
        # As Ray does when it turns tokens on by itself.
        from ray._raylet import Config  # type: ignore[attr-defined]

        Config.initialize("")


def make_token() -> tuple[Path, bool]:
    """The file of this machine's token, which is made if there is none, and whether it was made now.

    Raises InputError if the file cannot be written or read.
    """
    path = _token_file()
    existed = path.is_file() and path.stat().st_size > 0
    _create_token(path)
    return path, not existed


def check_dashboard_host(host: str) -> None:
    """Raise InputError if other machines can reach the dashboard, which runs any job sent to it, without a token."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        rule = f"must be localhost or an IP address of this machine (got {host})"
        raise InputError(f"--dashboard-host: {rule}; leave it out, or give 0.0.0.0 for all") from None
    if not loopback and not _token_required():
        raise InputError(
            f"--dashboard-host: a dashboard that other machines can reach must demand a token (got {host} with "
            f"RAY_AUTH_MODE={os.environ['RAY_AUTH_MODE']}); unset RAY_AUTH_MODE, or leave the host out"
        )


def _token_required() -> bool:
    return os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"


def _token_file() -> Path:
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()


def _create_token(path: Path) -> None:
    """Create the token file, or keep an existing one; either way only its owner can read it afterwards."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > 0:
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)
            return
        descriptor, part = tempfile.mkstemp(dir=path.parent)  # mode 0600
        with open(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        # A process that was killed may have left an empty file.
        if path.exists() and path.stat().st_size == 0:
            path.unlink()
        # If two sweeps start at the same time, the first one's token is used.
        with suppress(FileExistsError):
            os.link(part, path)
        os.unlink(part)
    except OSError as error:
        rule = f"Ray's token must be in a file that you own and nobody else can read ({error.strerror})"
        raise InputError(f"{path}: {rule}; set RAY_AUTH_TOKEN_PATH to one") from None
