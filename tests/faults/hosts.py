"""Hosts of a cluster, as namespaces of this machine: each has a network address, a loopback, /tmp, /dev/shm, a home, a
host name and processes of its own. Their network is a bridge in a namespace as well; the machine's own is not touched.

    with Hosts(3, shared=folder) as hosts:
        address = hosts.start_ray()
        sweep = hosts[0].start(sweep_command("three", "--address", address), RAY_AUTH_MODE="token")
        hosts[2].cut()                  # nothing arrives any more, and nobody is told
        hosts[2].mend()
        hosts[1].kill()                 # all its processes
        late = hosts.add(shared=False)  # has the same path, but a folder of its own there

`shared` is mounted on every host at its own path and is where commands run. Needs root; the test is skipped without.
What a host starts ends with it, at the latest when the test's process ends.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest
from sweeping import ROOT, processes

NETWORK = "10.77.0"
GATEWAY = f"{NETWORK}.254"
"""Address of the bridge. Whatever is sent beyond the network is answered with "unreachable" at once."""
HOME = "/tmp/home"
INIT, REMOTE = (Path(__file__).with_name(name) for name in ("host_init.py", "remote.py"))
TOOLS = ("ip", "mount", "nsenter", "unshare")
LIGHT = "--object-store-memory=100000000"
FIRST = [sys.executable, "-I", "-S"]
PROJECT = ("lmcore", "sweeps", "analysis", "configs", "lmsweep.py")


class Hosts:
    """A network of `count` hosts, with addresses 10.77.0.1 and so on; `add` makes another one."""

    def __init__(self, count, shared):
        self._count, self._shared = count, Path(shared)
        self._hosts = []

    def __enter__(self):
        if reason := why_not():
            pytest.skip(reason)
        self._base = Path(tempfile.mkdtemp(prefix="hosts-"))
        self.bin = self._base / "bin"
        self.bin.mkdir()
        self._names = self._base / "hosts"  # /etc/hosts of every host
        self._names.write_text("127.0.0.1 localhost\n")
        self._resolver = self._base / "resolv.conf"  # there is no name server; one that did not answer would be asked
        self._resolver.touch()
        wait = "import sys; print('ready', flush=True); sys.stdin.read()"
        self.switch = Namespaces(("--net",), [*FIRST, "-c", wait])
        self.in_switch("ip", "link", "add", "br0", "type", "bridge")
        self.in_switch("ip", "address", "add", f"{GATEWAY}/24", "dev", "br0")
        self.in_switch("ip", "link", "set", "br0", "up")
        self.in_switch("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        try:
            for _ in range(self._count):
                self.add()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for host in self._hosts:
            host.namespaces.close()
        self.switch.close()
        shutil.rmtree(self._base, ignore_errors=True)

    def __getitem__(self, index):
        return self._hosts[index]

    def __iter__(self):
        return iter(self._hosts)

    def add(self, shared=True, project=True, binds=None):
        """A new host on the network.

        Args:
            shared: False for one that has an empty folder of its own where the others have the shared one.
            project: False for one that lacks lmsweep, but has everything that it depends on.
            binds: paths on the machine, and where the host is to find them instead of what is there.
        """
        number = len(self._hosts) + 1
        name, address = f"node{number}", f"{NETWORK}.{number}"
        with self._names.open("a") as names:
            names.write(f"{address} {name}\n")
        stage = self._base / name
        stage.mkdir()
        own = {self._names: "/etc/hosts", self._resolver: "/etc/resolv.conf"}
        description = {
            "name": name,
            "stage": str(stage),
            "home": HOME,
            "keep": sorted({str(path) for path in (self._base, self._shared, ROOT, sys.prefix, sys.base_prefix)}),
            "binds": {str(source): str(target) for source, target in (own | (binds or {})).items()},
            "hidden": [*([] if shared else [str(self._shared)]), *([] if project else map(str, project_files()))],
        }
        kinds = ("--net", "--mount", "--pid", "--uts", "--ipc", "--mount-proc")
        namespaces = Namespaces(kinds, [*FIRST, str(INIT), json.dumps(description)])
        port = f"port{number}"
        peer = ("peer", "name", "eth0", "netns", str(namespaces.pid))
        self.in_switch("ip", "link", "add", port, "type", "veth", *peer)
        self.in_switch("ip", "link", "set", port, "master", "br0", "up")
        for words in (
            "link set lo up",
            f"address add {address}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {GATEWAY}",
        ):
            namespaces.run(("--net",), ["ip", *words.split()])
        self._hosts.append(Host(self, namespaces, name, address, port, self._shared, project))
        return self._hosts[-1]

    def start_ray(self):
        """Start a cluster of all hosts that demands a token, with two CPUs on each; returns its address."""
        address = f"{self[0].address}:6379"
        token = self[0].run("ray get-auth-token --generate", check=0).stdout.strip()
        self[0].join("--head --include-dashboard=false", token)
        for host in self._hosts[1:]:
            host.join(f"--address={address}", token)
        return address

    def allow_ssh(self):
        """Put an `ssh NODE COMMAND` in `bin`, which is on every host's PATH. It needs no keys; see also remote.py."""
        for host in self:
            host.server = host.start([*FIRST, str(REMOTE), "serve", f"{self._base}/{host.name}.socket"])
            assert host.server.stdout.readline() == "ready\n"
        self.put("ssh", f'exec {self.remote} run "{self._base}/$1.socket" bash -c "$2"')

    @property
    def remote(self):
        """remote.py as a shell would start it."""
        return " ".join([*FIRST, str(REMOTE)])

    def put(self, name, script):
        """Write a shell script to `bin`."""
        (self.bin / name).write_text(f"#!/bin/bash\n{script}\n")
        (self.bin / name).chmod(0o755)

    def in_switch(self, *command):
        """Run a command where the bridge is."""
        self.switch.run(("--net",), command)


class Host:
    """One host of `Hosts`."""

    def __init__(self, hosts, namespaces, name, address, port, folder, project):
        self.namespaces, self.name, self.address = namespaces, name, address
        self._hosts, self._port, self._folder = hosts, port, folder
        self._environment = {
            "HOME": HOME,
            "HOSTNAME": name,
            "PATH": f"{hosts.bin}:{Path(sys.executable).parent}:{os.environ['PATH']}",  # for `lmsweep` and `ray`
            "RAY_USAGE_STATS_ENABLED": "0",
            **({"PYTHONPATH": str(ROOT)} if project else {}),  # installed, in the version of this checkout
        }

    def start(self, command, cwd=None, **environment):
        """Start a command: a list, or a text as a user would type it. Returns the process; see also `signal`.

        It gets the test's environment without the variables for Ray, tokens and temporary folders.
        """
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_AUTH", "TMP", "XDG_"))}
        kept.pop("RAY_ADDRESS", None)
        kept.pop("PYTHONPATH", None)
        words = ["bash", "-c", command] if isinstance(command, str) else command
        return subprocess.Popen(
            [
                *self.namespaces.entering(("--net", "--mount", "--pid", "--uts", "--ipc")),
                *("env", f"--chdir={cwd or self._folder}"),
                *words,
            ],
            env=kept | self._environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def set_environment(self, **variables):
        """Set environment variables of everything that is started here from now on."""
        self._environment |= variables

    def run(self, command, timeout=250, check=None, **environment):
        """The finished process; with `check`, its exit code must be that."""
        process = self.start(command, **environment)
        out, error = process.communicate(timeout=timeout)
        assert check is None or process.returncode == check, f"exit code {process.returncode}\n{out}{error}"
        return subprocess.CompletedProcess(command, process.returncode, out, error)

    def join(self, options, token, cpus=2):
        """Start Ray here: `--head`, or `--address=...` of the cluster whose token that is."""
        self.run(f"mkdir -pm 700 ~/.ray; (umask 077; echo -n {token} > ~/.ray/auth_token)", check=0)
        self.run(f"ray start {options} --num-cpus={cpus} {LIGHT}", check=0, RAY_AUTH_MODE="token")

    def signal(self, process, number=signal.SIGTERM):
        """Send a signal to what `start` started: the process itself only waits for it in the host's namespaces."""
        for pid in children(process.pid):
            os.kill(pid, number)

    def cut(self):
        """Cut the host's network. Packets vanish in both directions; the link stays up, so nobody is told."""
        self._hosts.in_switch("ip", "link", "set", self._port, "nomaster")

    def mend(self):
        """Undo `cut`."""
        self._hosts.in_switch("ip", "link", "set", self._port, "master", "br0")

    def kill(self, silently=False):
        """Kill all processes of the host. With `silently` the others hear nothing, as if its power had failed."""
        if silently:
            self.cut()
        self.namespaces.close()


class Namespaces:
    """New namespaces of some kinds (options of unshare) and their first process."""

    def __init__(self, kinds, command):
        self._unshare = subprocess.Popen(
            ["unshare", *kinds, "--fork", "--kill-child", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        if self._unshare.stdout.readline() != b"ready\n":
            raise OSError(f"no namespaces: {self._unshare.communicate()[1].decode()}")
        [self.pid] = children(self._unshare.pid)

    def entering(self, kinds):
        """The words before a command that is to run there."""
        return ["nsenter", "--target", str(self.pid), *kinds]

    def run(self, kinds, command):
        """Run a command there that must succeed."""
        subprocess.run([*self.entering(kinds), *command], check=True)

    def close(self):
        """Kill the first process, and with it all of its pid namespace."""
        if self._unshare.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self._unshare.communicate()


def why_not():
    """The reason why no hosts can be made here; empty if they can."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)}"
    if os.geteuid() != 0:
        return "needs root, to make namespaces"
    attempt = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--mount-proc"]
    link = ["ip", "link", "add", "br0", "type", "bridge"]
    done = subprocess.run([*attempt, *link], capture_output=True, text=True, check=False)
    return f"namespaces with a bridge cannot be made here: {done.stderr.strip()}" if done.returncode else ""


def project_files():
    """Everything by which Python finds lmsweep, whether it is installed or a checkout."""
    installed = Path(sysconfig.get_path("purelib")).glob("*lmsweep*")
    return [*installed, *(ROOT / name for name in PROJECT)]


def children(pid):
    """Processes that this one has started."""
    return [child for child, (parent, _, _) in processes().items() if parent == pid]
