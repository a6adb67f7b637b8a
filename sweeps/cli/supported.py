"""Which systems a command runs on."""

import sys

from lmcore.errors import InputError

SYSTEM = sys.platform


def check_system(command: str) -> None:
    """Raise InputError on Windows, which lacks what `command` needs: signals, and files that only their owner can open.

    >>> check_system("lmsweep run")  # on Linux or macOS
    """
    if SYSTEM == "win32":
        rule = f"{command} works on Linux and macOS (got Windows)"
        raise InputError(f"{rule}; run it in WSL, the Linux of Windows: `wsl --install`, then install lmsweep there")
