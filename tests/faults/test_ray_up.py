"""configs/cluster/ray-on-premise.yaml, with the real `ray up` and an ssh that needs no keys. See hosts.py."""

import shutil

import pytest
import yaml
from hosts import NETWORK, Hosts
from sweeping import ROOT, wait_until

FILE = ROOT / "configs" / "cluster" / "ray-on-premise.yaml"
SSH = """\
while [[ "$1" == -* ]]; do
    case "$1" in -o | -l) shift 2 ;; *) shift ;; esac
done
name=${{1#*@}}; shift # Ray has looked up its address
name=${{name/{network}./node}}
exec {remote} run "{base}/$name.socket" bash -c "$*"
"""
COUNT = """
import ray
ray.init(address="node1:6379", log_to_driver=False)
print(sum(node["Alive"] for node in ray.nodes()))
"""


@pytest.mark.ray
@pytest.mark.skipif(shutil.which("rsync") is None, reason="`ray up` copies files with rsync")
def test_ray_up_starts_a_cluster_of_machines_that_one_has_and_it_demands_the_token(tmp_path):
    config = yaml.safe_load(FILE.read_text())
    config["provider"] = {"type": "local", "head_ip": "node1", "worker_ips": ["node2"]}
    config["auth"] = {"ssh_user": "root"}
    del config["file_mounts"]["~/lmsweep"]  # all hosts of this machine have one environment
    config["setup_commands"] = [command for command in config["setup_commands"] if "pip" not in command]
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(config))
    with Hosts(3, tmp_path) as hosts:
        head, worker, laptop = hosts
        hosts.allow_ssh()
        hosts.put("ssh", SSH.format(remote=hosts.remote, base=hosts.bin.parent, network=NETWORK))
        for host in hosts:  # a login shell sets PATH anew
            host.run('echo "export USER=root PATH=$PATH PYTHONPATH=$PYTHONPATH" > ~/.bashrc', check=0)
        laptop.run("lmsweep cluster-token", check=0)
        laptop.run("ray up --yes cluster.yaml", check=0, timeout=150, USER="root")

        def nodes():
            return head.run(["python", "-c", COUNT], RAY_AUTH_MODE="token").stdout.strip()

        wait_until(lambda: nodes() == "2", 200, "the worker did not join")
        checked = laptop.run("ray exec cluster.yaml 'lmsweep cluster-token --check localhost:6379'", check=0).stdout
        assert "localhost:6379 demands a token" in checked
        assert "localhost:6379 accepts the token in /tmp/home/.ray/auth_token" in checked
        for host in (head, worker):
            assert host.run("stat -c %a ~/.ray/auth_token /tmp/ray-root").stdout == "600\n700\n"
