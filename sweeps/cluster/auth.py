"""Who may reach a Ray cluster that is started here: this machine alone, and whoever has its token.

Whoever reaches Ray can run any code. By itself it listens on every interface of the machine and writes its token for
everybody to read. All of this must be settled before ray is imported, which reads its environment once.
"""

import ipaddress
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from lmcore.errors import InputError

LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Where it is 0, as by default on macOS and Windows, Ray's servers listen on the loopback address alone."""


def secure() -> None:
    """Settle the environment for a Ray that this process starts.

    Raises:
        InputError: RAY_AUTH_TOKEN_PATH cannot be written or read.
    """
    os.environ[LOOPBACK_ONLY] = "0"
    if os.environ.get("RAY_AUTH_MODE", "disabled").lower() == "disabled":
        os.environ["RAY_AUTH_MODE"] = "token"  # whatever the environment says: who joins a cluster may do without
    if _demands_token() and not os.environ.get("RAY_AUTH_TOKEN"):
        _private_token(_token_file())


def use_token() -> None:
    """Present this machine's token, where there is one, to a cluster that somebody else has started.

    `ray start` then demands it, and ray.init(address) would have none.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or _token_file().is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def check_dashboard_host(host: str) -> None:
    """A dashboard that other machines can reach must demand the token: it runs whatever it is sent.

    Raises:
        InputError: it would not, or `host` is no address.
    """
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise InputError(
            f"--dashboard-host: must be localhost or an IP address of this machine (got {host}); leave it out, or give "
            "0.0.0.0 for all"
        ) from None
    if not loopback and not _demands_token():
        raise InputError(
            f"--dashboard-host: one that other machines reach must demand a token (got {host} with "
            f"RAY_AUTH_MODE={os.environ['RAY_AUTH_MODE']}); unset RAY_AUTH_MODE, or leave the host out"
        )


def _demands_token() -> bool:
    return os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"


def _token_file() -> Path:
    """Where Ray looks for it."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()


def _private_token(path: Path) -> None:
    """Make a token file, or keep the one that is there, such that its owner alone can read it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > 0:
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)
            return
        descriptor, part = tempfile.mkstemp(dir=path.parent)  # mode 0600
        with open(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        if path.exists() and path.stat().st_size == 0:  # left by one that was killed
            path.unlink()
        with suppress(FileExistsError):  # of two sweeps that start at once the first one's token counts
            os.link(part, path)
        os.unlink(part)
    except OSError as error:
        raise InputError(
            f"{path}: Ray's token must be in a file of yours that nobody else can read ({error.strerror}); "
            "set RAY_AUTH_TOKEN_PATH to one"
        ) from None
