"""Whatever is killed between a trial's last row and what the study is told: verdict, row and weights stay."""

import json
import os
import time

import optuna
import pytest
from hosts import Hosts
from striking import MOMENTS, SITE
from sweeping import ROOT, curves, points_of, resume_command, run, start_on, sweep_command, windows_of, write_tokens

from lmcore import columns as col
from sweeps.rundir.checkpoints import checkpoint_files

HOPELESS = 1e-9
"""A learning rate that is pruned at the first rung."""
RUNG, STEPS = 20, 60
COMPLETE = [f"c-{moment}" for moment in MOMENTS]
PRUNED = [f"p-{moment}" for moment in MOMENTS]
NAMES = [name for pair in zip(COMPLETE, PRUNED, strict=True) for name in pair]


def command(name, *more):
    """One trial at a time, in the order of the list, so that the scheduler decides the same in every run."""
    rates = (HOPELESS if name in PRUNED else 1e-2 + 1e-4 * n for n, name in enumerate(NAMES))
    experiments = ", ".join(f"{{name: {name}, optim.lr: {rate}}}" for name, rate in zip(NAMES, rates, strict=True))
    given = ("--set", f"experiments=[{experiments}]", "--set", "space={}", "--set", f"search.grace_steps={RUNG}")
    settings = {"search__concurrent": "1", "train__steps": str(STEPS)}
    return sweep_command(
        name, *given, *more, trials=len(NAMES), search="experiments", scheduler="asha-stop", **settings
    )


def plan():
    """Trial `n` is struck at its moment, with the row that ends it."""
    trials = {name: f"xs-{n:04d}" for n, name in enumerate(NAMES)}
    return {trials[name]: [name[2:], RUNG if name in PRUNED else STEPS] for name in NAMES}


def outcome(folder):
    """State and status in the study, and whether weights of its last step are kept, by trial."""
    study = optuna.load_study(study_name="xs", storage=f"sqlite:///{folder}/study.db")
    return {
        trial.user_attrs[col.TRIAL]: (
            trial.state.name,
            trial.user_attrs[col.STATUS],
            trial.value,
            [file.name for file in checkpoint_files(folder / "trials" / trial.user_attrs[col.TRIAL])],
        )
        for trial in study.trials
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    write_tokens(folder)
    run(command("whole"), folder, check=0)
    whole = folder / "runs" / "whole"
    ended = outcome(whole)
    assert [ended[f"xs-{n:04d}"][1] for n in range(len(NAMES))] == [col.COMPLETE, col.PRUNED] * len(MOMENTS)
    return whole


def strikes(tmp_path, victim):
    """The environment of a sweep with strikes, and the folder in which they are noted."""
    site, folder = tmp_path / "site", tmp_path / "strikes"
    site.mkdir()
    folder.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    (folder / "plan.json").write_text(json.dumps(plan()))
    return {"PYTHONPATH": str(site), "STRIKES": str(folder), "STRIKES_VICTIM": victim}, folder


def check(folder, struck, undisturbed, victim):
    """Everything is as if nothing had happened, and every strike found its victim."""
    missed = [path.name for path in struck.glob("*.struck") if not path.read_text()]
    assert len(list(struck.glob("*.struck"))) == len(NAMES)
    assert missed == []
    assert outcome(folder) == outcome(undisturbed)
    assert curves(folder) == curves(undisturbed)
    assert windows_of(folder) == windows_of(undisturbed)
    assert points_of(folder) == points_of(undisturbed)


@pytest.mark.ray
@pytest.mark.parametrize("victim", ["proxy", "engine"])
def test_a_verdict_is_final_whatever_dies_and_whenever(victim, tiny, undisturbed, fault):
    struck = fault(f"{victim} kill -9 at each moment between a trial's last row and its verdict")
    struck.injected(len(NAMES))
    environment, folder = strikes(tiny, victim)
    done = run(command("struck"), tiny, timeout=500, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    check(tiny / "runs" / "struck", folder, undisturbed, victim)
    struck.survived(len(NAMES))


@pytest.mark.ray
def test_a_verdict_is_final_whenever_the_driver_dies(tiny, undisturbed, fault):
    struck = fault("driver kill -9 at each moment between a trial's last row and its verdict")
    struck.injected(len(NAMES))
    environment, folder = strikes(tiny, "driver")
    done = run(command("struck"), tiny, timeout=100, **environment)
    for _ in NAMES:
        if done.returncode != -9:
            break
        done = run(resume_command("struck"), tiny, timeout=100, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    check(tiny / "runs" / "struck", folder, undisturbed, "driver")
    struck.survived(len(NAMES))


@pytest.mark.ray
@pytest.mark.timeout(2400)
def test_a_verdict_is_final_whenever_the_node_dies_that_trains_the_trial(tiny, undisturbed, fault):
    struck = fault("node without power at each moment between a trial's last row and its verdict")
    struck.injected(len(NAMES))
    environment, folder = strikes(tiny, "node")
    environment["PYTHONPATH"] += f":{ROOT}"
    with Hosts(1, tiny) as hosts:
        hosts[0].set_environment(**environment)
        token = hosts[0].run("ray get-auth-token --generate", check=0).stdout.strip()
        address = f"{hosts[0].address}:6379"
        hosts[0].join("--head --include-dashboard=false", token, cpus=0)  # the driver, and nothing that can be lost

        def add():
            node = hosts.add()
            node.set_environment(**environment)
            node.join(f"--address={address}", token, cpus=1)
            return node

        nodes = {node.name: node for node in (add(), add())}  # one that trains, and one for when it is gone
        process = start_on(hosts[0], command("struck", "--address", address))
        done = set()
        while process.poll() is None:
            for path in set(folder.glob("*.struck")) - done:
                trial = path.name.partition(".")[0]
                nodes.pop((folder / f"{trial}.host").read_text()).kill(silently=True)
                path.with_suffix(".dead").touch()
                done.add(path)
                node = add()
                nodes[node.name] = node
            time.sleep(0.1)
        assert process.wait(10) == 0, "".join(process.lines)
    assert len(done) == len(NAMES)
    assert outcome(tiny / "runs" / "struck") == outcome(undisturbed)
    assert curves(tiny / "runs" / "struck") == curves(undisturbed)
    assert windows_of(tiny / "runs" / "struck") == windows_of(undisturbed)
    assert points_of(tiny / "runs" / "struck") == points_of(undisturbed)
    struck.survived(len(NAMES))


def test_every_moment_is_struck_in_a_complete_and_in_a_pruned_trial():
    assert sorted(moment for moment, _ in plan().values()) == sorted(MOMENTS * 2)
    assert os.environ.get("STRIKES") is None
