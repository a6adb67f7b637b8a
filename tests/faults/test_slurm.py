"""configs/cluster/slurm.sh, with an srun that starts its commands on hosts of this machine. See hosts.py."""

import stat

import pytest
from hosts import Hosts
from sweeping import ROOT, count_rows, curves, table_of, wait_until, write_config

SCRIPT = ROOT / "configs" / "cluster" / "slurm.sh"
JOB = 10_077

SRUN = """\
while [[ "$1" == --* ]]; do shift; done
node=0
for name in node1 node2; do
    SLURM_NODEID=$node {remote} run "{base}/$name.socket" "$@" &
    node=$((node + 1))
done
wait
"""
SCONTROL = """\
case "$1 $2" in
    "show hostnames") printf 'node1\\nnode2\\n' ;;
    requeue*) echo "$2" > requeued ;;
esac
"""


@pytest.mark.ray
def test_a_slurm_job_that_is_preempted_saves_its_trials_and_goes_on_when_it_is_started_again(
    tiny, control, fault, stopwatch
):
    write_config(tiny / "my.yaml", "batch")
    folder = tiny / "runs" / "batch"
    token = tiny / ".slurm" / f"token-{JOB}"
    job = {"SLURM_JOB_ID": str(JOB), "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_SUBMIT_DIR": str(tiny)}
    script = ["bash", str(SCRIPT), "--config", "my.yaml"]
    preempted = fault("Slurm job preempted (SIGTERM)")
    with Hosts(2, tiny) as hosts:
        hosts.allow_ssh()
        hosts.put("srun", SRUN.format(remote=hosts.remote, base=hosts.bin.parent))
        hosts.put("scontrol", SCONTROL)

        process = hosts[0].start(script, **job)
        wait_until(lambda: count_rows(folder) >= 12 or process.poll() is not None, 240, "no 12 rows")
        assert process.poll() is None, process.communicate()
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        for host in hosts:
            modes = host.run("stat -c %a /tmp/ray-*; ls -d /tmp/ray").stdout
            assert modes == "700\n"
        preempted.injected()
        stopwatch()
        hosts[0].signal(process)
        out, error = process.communicate(timeout=120)
        seconds = stopwatch()
        assert process.returncode == 143, out + error
        assert (tiny / "requeued").read_text() == f"{JOB}\n"
        assert not token.exists()
        assert 12 <= count_rows(folder) < 60
        for host in hosts:  # nothing is left for the next job
            assert host.run("ls -d /tmp/ray-*; pgrep -f 'gcs_server|raylet'").stdout == ""

        out = hosts[0].run(script, check=0, timeout=400, **job).stdout
        assert "Resumed: " in out
    assert curves(folder) == control.curves
    assert table_of(folder) == control.table
    preempted.survived(seconds=seconds)
