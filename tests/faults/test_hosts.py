"""A cluster of three hosts, each with a network address, processes and files of its own. See hosts.py."""

import pytest
from hosts import Hosts

LISTEN = """
import socket
with socket.create_server(("", 5000)) as server:
    print("listening", flush=True)
    while True:
        server.accept()[0].close()
"""
CONNECT = "import socket; socket.create_connection(('{}', 5000), timeout=2).close()"


@pytest.mark.smoke
def test_hosts_reach_each_other_until_the_network_is_cut_and_share_one_folder_and_nothing_else(tmp_path):
    (tmp_path / "shared").write_text("of all")
    with Hosts(2, tmp_path) as hosts:
        listener = hosts[1].start(["python", "-c", LISTEN])
        assert listener.stdout.readline() == "listening\n"

        def reached(name):
            return hosts[0].run(["python", "-c", CONNECT.format(name)]).returncode == 0

        assert reached("node2")
        assert not reached("127.0.0.1")
        hosts[1].cut()
        assert not reached("node2")
        hosts[1].mend()
        assert reached("node2")

        hosts[0].run("touch /tmp/mine /dev/shm/mine ~/mine; echo of node1 > shared", check=0)
        listing = hosts[1].run("hostname; ls /tmp/mine /dev/shm/mine ~/mine; cat shared")
        assert listing.stdout == "node2\nof node1\n"

        hosts.allow_ssh()
        done = hosts[0].run("echo to node2 | ssh node2 'hostname; cat; exit 3'; echo $?")
        assert done.stdout == "node2\nto node2\n3\n"

        stranger = hosts.add(shared=False, project=False)
        assert stranger.run("ls -A").stdout == ""
        assert "No module named 'sweeps'" in stranger.run(["python", "-c", "import ray, sweeps"]).stderr
        hosts[1].signal(listener)
        assert listener.wait(10) == -15
        hosts[1].kill()
        assert not reached("node2")
