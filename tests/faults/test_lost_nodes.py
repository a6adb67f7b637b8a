"""A cluster of several hosts whose nodes are unfit, are lost, come late, or are shared with another sweep."""

import re
import threading
import time

import pytest
from hosts import Hosts
from sweeping import count_rows, curves, rows_of, start_on, sweep_command, sweep_without_ray, wait_until

from lmcore import columns as col

LEFT_WITHIN_S = 30.0
INTERVAL_S = 10.0  # between two rows of a trial, when all train on two cores
CUT_S = 120.0
LONG = {"train__steps": "1500", "train__eval_every": "50", "slots": 4}
"""Some three minutes of training on two cores, with slots for all trials on any two hosts."""
TRIALS = 12


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Curves of the long sweep, trained in this process."""
    return curves(sweep_without_ray(tmp_path_factory.mktemp("undisturbed"), trials=TRIALS, **LONG))


def gaps_s(folder, struck):
    """Seconds without a row of each trial that was running at that moment."""
    times = {trial: [row[col.DECIDED_AT] for row in rows] for trial, rows in rows_of(folder).items()}
    running = (own for own in times.values() if own[0] < struck < own[-1])
    return [min(at for at in own if at > struck) - max(at for at in own if at < struck) for own in running]


@pytest.mark.ray
def test_trials_leave_lost_nodes_and_go_on_elsewhere_also_on_nodes_that_join(tiny, undisturbed, fault):
    folder = tiny / "runs" / "lost"
    cut, killed, joined = (
        fault(f"one of four hosts: {what}") for what in ("network cut for 2 minutes", "power fails", "joins late")
    )
    with Hosts(3, tiny) as hosts:
        address = hosts.start_ray()
        token = hosts[0].run("cat ~/.ray/auth_token", check=0).stdout
        command = sweep_command("lost", "--address", address, trials=TRIALS, **LONG)
        process = start_on(hosts[0], command)
        wait_until(lambda: count_rows(folder) >= 20 or process.poll() is not None, 250, "no 20 rows")

        cut.injected()
        struck_by_cut = time.time()
        hosts[2].cut()
        lost = "node3 (10.77.0.3) is lost"
        wait_until(lambda: lost in "".join(process.lines), LEFT_WITHIN_S, "the cut host was not given up")
        left_after_s = time.time() - struck_by_cut

        joined.injected()
        hosts.add().join(f"--address={address}", token)
        wait_until(lambda: "node4 (10.77.0.4) joined" in "".join(process.lines), 60, "the new host was not used")

        killed.injected()
        struck_by_kill = time.time()
        hosts[1].kill(silently=True)
        time.sleep(max(0.0, struck_by_cut + CUT_S - time.time()))
        hosts[2].mend()
        assert process.wait(500) == 0, "".join(process.lines)
    text = "".join(process.lines)
    assert "node2 (10.77.0.2) is lost" in text
    assert re.search(r"Engine \d+ trains on node4", text)
    assert curves(folder) == undisturbed
    assert left_after_s < LEFT_WITHIN_S
    after_cut, after_kill = (max(gaps_s(folder, struck)) for struck in (struck_by_cut, struck_by_kill))
    assert max(after_cut, after_kill) < LEFT_WITHIN_S + INTERVAL_S
    cut.survived(seconds=after_cut)
    joined.survived()
    killed.survived(seconds=after_kill)


@pytest.mark.ray
def test_unfit_nodes_are_named_and_left_out_before_anything_is_spent(tiny, control, fault):
    folder = tiny / "runs" / "unfit"
    kinds = ("folder not shared", "GPU that torch lacks")
    unfit = [fault(f"node of a cluster: {kind}") for kind in kinds]
    with Hosts(1, tiny) as hosts:
        address = hosts.start_ray()
        token = hosts[0].run("cat ~/.ray/auth_token", check=0).stdout
        hosts.add(shared=False).join(f"--address={address}", token)
        hosts.add().join(f"--address={address} --num-gpus=1", token)
        for each in unfit:
            each.injected()
        process = start_on(hosts[0], sweep_command("unfit", "--address", address))
        assert process.wait(250) == 0, "".join(process.lines)
        text = "".join(process.lines)
        assert (
            f"node2 (10.77.0.2) is left out: {folder} is not there (No such file or directory); run the sweep" in text
        )
        assert "node3 (10.77.0.3) is left out: Ray counts 1 GPU and torch 0; install torch and a driver" in text
        assert "on each of 2 engines" in text
        assert curves(folder) == control.curves
        for each in unfit:
            each.survived()

        # With none left, nothing is spent, and the exit code says whose fault it is.
        refused = start_on(hosts[0], sweep_command("gpu", "--address", address, train__device="cuda"))
        assert refused.wait(100) == 2, "".join(refused.lines)
        assert "GPU" in refused.lines[-1]
        assert not (tiny / "runs" / "gpu" / "metrics.jsonl").exists()


@pytest.mark.ray
def test_a_node_without_lmsweep_gets_the_drivers_code(tiny, control, fault):
    without = fault("node of a cluster: lmsweep is not installed")
    with Hosts(1, tiny) as hosts:
        address = hosts.start_ray()
        token = hosts[0].run("cat ~/.ray/auth_token", check=0).stdout
        hosts.add(project=False).join(f"--address={address}", token)
        without.injected()
        process = start_on(hosts[0], sweep_command("bare", "--address", address, slots=1))
        assert process.wait(250) == 0, "".join(process.lines)
    text = "".join(process.lines)
    assert "left out" not in text
    assert "on each of 4 engines" in text
    assert {row[col.ENGINE] for rows in rows_of(tiny / "runs" / "bare").values() for row in rows} == {0, 1, 2, 3}
    assert curves(tiny / "runs" / "bare") == control.curves
    without.survived()


@pytest.mark.ray
def test_two_sweeps_share_a_cluster_and_neither_is_disturbed(tiny, control, fault):
    sharing = fault("second sweep on a full cluster")
    with Hosts(1, tiny) as hosts:
        address = hosts.start_ray()
        first = start_on(hosts[0], sweep_command("first", "--address", address, train__steps="1000"))
        wait_until(lambda: count_rows(tiny / "runs" / "first") >= 6 or first.poll() is not None, 100, "no 6 rows")
        sharing.injected()
        second = start_on(hosts[0], sweep_command("second", "--address", address))
        assert second.wait(250) == 0, "".join(second.lines)
        assert first.poll() is None, "the first sweep must be longer"
        assert first.wait(250) == 0, "".join(first.lines)
    assert "is given to another sweep; its trials go on elsewhere" in "".join(first.lines)
    assert "on each of 1 engines" in "".join(second.lines)
    assert curves(tiny / "runs" / "second") == control.curves
    assert all(rows[-1][col.STATUS] == col.COMPLETE for rows in rows_of(tiny / "runs" / "first").values())
    sharing.survived()


@pytest.mark.ray
def test_a_busy_cluster_is_waited_for_with_a_line_that_says_for_what(tiny, control, fault):
    busy = fault("cluster that somebody else keeps busy")
    hold = "import ray, sys, time; ray.init(address=sys.argv[1])\n@ray.remote(num_cpus=2)\ndef hold(): time.sleep(25)\n"
    with Hosts(1, tiny) as hosts:
        address = hosts.start_ray()
        holder = hosts[0].start(
            ["python", "-c", f"{hold}r = hold.remote(); time.sleep(3); print('held', flush=True); ray.get(r)", address],
            RAY_AUTH_MODE="token",
        )
        wait_until(lambda: holder.stdout.readline() == "held\n", 60, "nothing was held")
        busy.injected()
        process = start_on(hosts[0], sweep_command("patient", "--address", address))
        assert process.wait(250) == 0, "".join(process.lines)
    assert "Waiting for 1 CPU; 2 of 2 are in use\n" in process.lines
    assert curves(tiny / "runs" / "patient") == control.curves
    busy.survived()


def test_lines_are_read_while_a_process_runs(tmp_path):
    """`start_on` itself: a full pipe would stop the sweep."""

    class Here:
        def start(self, command, **environment):
            import subprocess

            return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    process = start_on(Here(), ["sh", "-c", "seq 100000; echo last >&2; exit 3"])
    assert process.wait(60) == 3
    assert "last\n" in process.lines
    assert len(process.lines) == 100001
    assert threading.active_count() < 20
