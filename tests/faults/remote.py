"""Runs a command on another host, as ssh and srun do: `remote.py serve SOCKET` there, `remote.py run SOCKET ...` here.

A Unix socket in a folder that both hosts see carries the command, its environment and the three standard streams
themselves. If the caller ends first, the command is killed.
"""

import array
import json
import os
import select
import signal
import socket
import subprocess
import sys


def serve(path):
    """Answer every call in a process of its own, for ever."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(path)
        server.listen()
        print("ready", flush=True)
        while True:
            caller, _ = server.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                answer(caller)
                os._exit(0)
            caller.close()


def answer(caller):
    """Run one command, and send its exit code."""
    text, streams, _, _ = socket.recv_fds(caller, 1 << 17, 3)
    call = json.loads(text)
    stdin, stdout, stderr = streams
    process = subprocess.Popen(**call, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True)
    for stream in streams:
        os.close(stream)
    while process.poll() is None:
        if select.select([caller], [], [], 0.1)[0]:  # it says nothing more, so it has ended
            os.killpg(process.pid, signal.SIGTERM)
            break
    caller.send(array.array("i", [process.wait()]))


def run(path, command):
    """Run the command on the host that serves `path`, and return its exit code."""
    call = {"args": command, "cwd": os.getcwd(), "env": dict(os.environ)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as host:
        host.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
        host.connect(path)
        socket.send_fds(host, [json.dumps(call).encode()], [0, 1, 2])
        return array.array("i", host.recv(4) or [255])[0]


if __name__ == "__main__":
    what, where, *words = sys.argv[1:]
    sys.exit(serve(where) if what == "serve" else run(where, words))
