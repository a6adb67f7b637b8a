"""A cluster of three hosts, each with a network address, processes and files of its own. See hosts.py."""

import re

import pytest
from hosts import Hosts
from sweeping import ROOT, curves, table_of, write_config

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


def commands_of(page):
    """Hosts and command of every line of the page's block of shell commands, as its comments say where each runs."""
    [block] = re.findall(
        r"^```bash\n(.*?)^```$", (ROOT / "docs" / "howto" / page).read_text(), re.MULTILINE | re.DOTALL
    )
    places = []
    for line in filter(None, block.splitlines()):
        if line.startswith("#"):
            places = re.findall(r"node\d", line.partition(":")[0])
        else:
            yield places, line


@pytest.mark.ray
def test_a_cluster_of_three_hosts_started_as_the_docs_say_demands_its_token_and_trains_the_same_curves(
    tiny, control, fault, stopwatch
):
    write_config(tiny / "my.yaml")
    by_hand = fault("three hosts by hand, as in the docs")
    by_hand.injected()
    said = ""
    with Hosts(3, tiny) as hosts:
        hosts.allow_ssh()
        stopwatch()
        for places, command in commands_of("cluster-by-hand.md"):
            assert places
            for place in places:
                done = hosts[int(place.removeprefix("node")) - 1].run(command, check=0)
                said += done.stdout + done.stderr
        assert "node1:6379 demands a token\nnode1:6379 accepts the token in /tmp/home/.ray/auth_token\n" in said
        assert "on each of " in said
        assert "Warning" not in said
        by_hand.survived(seconds=stopwatch())
        stranger = hosts.add()
        refused = stranger.run("lmsweep cluster-token --check node1:6379")
        assert refused.returncode == 1
        assert refused.stdout == "node1:6379 demands a token\n"
    assert curves(tiny / "runs" / "mine") == control.curves
    assert table_of(tiny / "runs" / "mine") == control.table
