"""The first process of a host: makes its file system and name, says so, and ends when its standard input is closed.

It runs in namespaces that `unshare` has just made, so that none of this reaches the machine. The kernel kills every
process of a pid namespace when its first process ends. See hosts.py.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path


def mount(*words):
    """Run mount(8)."""
    subprocess.run(["mount", *map(str, words)], check=True)


def own_tmp(stage, keep):
    """A /tmp of its own, without what is in the machine's, except for the paths `keep`."""
    mount("-t", "tmpfs", "-o", "mode=1777", "tmp", stage)
    for path in (path for path in map(Path, keep) if path.is_relative_to("/tmp")):
        place = stage / path.relative_to("/tmp")
        place.mkdir(parents=True, exist_ok=True)
        mount("--rbind", path, place)
    mount("--rbind", stage, "/tmp")


def hide(path):
    """An empty folder or file instead of what is at `path`."""
    if os.path.isdir(path):
        mount("-t", "tmpfs", "hidden", path)
    else:
        mount("--bind", "/dev/null", path)


def main():
    """Become the host that the JSON object in argv[1] describes."""
    host = json.loads(sys.argv[1])
    socket.sethostname(host["name"])
    for source, target in host["binds"].items():
        mount("--bind", source, target)
    for path in host["hidden"]:
        hide(path)
    own_tmp(Path(host["stage"]), host["keep"])  # last: it takes what is mounted in `keep` along, and hides the rest
    mount("-t", "tmpfs", "-o", "mode=1777", "shm", "/dev/shm")
    os.makedirs(host["home"], mode=0o700)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel then reaps the orphans that this process inherits
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
