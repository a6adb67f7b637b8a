"""Workers and trial proxies, killed or frozen while they work."""

import os
import re
import signal
import time

import pytest
from sweeping import (
    count_rows,
    curves,
    descendants,
    rows_of,
    run,
    start,
    sweep_command,
    table_of,
    titled,
    wait_until,
)

from lmcore import columns as col
from lmcore.checkpoint import read_checkpoint
from sweeps.rundir.checkpoints import checkpoint_files

EVERY = 20


def victim_of(process, title):
    """A process of the sweep with this title; Ray changes titles for moments."""
    found = []
    wait_until(lambda: found.extend(titled(descendants(process.pid), title)) or found, 100, f"no {title}")
    return min(found)


def steps_to_redo(folder):
    """Steps between each running trial's last row and its newest checkpoint."""
    return {
        trial: rows[-1][col.STEP] - max([0, *(read_checkpoint(file)[1]["step"] for file in checkpoints(folder, trial))])
        for trial, rows in rows_of(folder).items()
        if rows[-1][col.STATUS] == col.RUNNING
    }


def all_went_on_after_s(folder, struck):
    """Seconds from a moment until each trial that was running then had a new row."""
    times = {trial: [row[col.DECIDED_AT] for row in rows] for trial, rows in rows_of(folder).items()}
    return max(min(at for at in own if at > struck) - struck for own in times.values() if own[0] < struck < own[-1])


def checkpoints(folder, trial):
    return checkpoint_files(folder / "trials" / trial)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("what", "title", "number", "settings"),
    [
        ("engine kill -9", "ray::engine 0:", signal.SIGKILL, {}),
        ("trial worker kill -9", "ray::xs-", signal.SIGKILL, {}),
        ("engine that hangs (SIGSTOP)", "ray::engine 1:", signal.SIGSTOP, {"search__hung_after_s": "6"}),
        ("trial worker that hangs (SIGSTOP)", "ray::xs-", signal.SIGSTOP, {"search__hung_after_s": "6"}),
    ],
)
def test_what_is_killed_or_hangs_costs_an_interval_at_most(what, title, number, settings, tiny, control, fault):
    folder = tiny / "runs" / "hurt"
    process = start(sweep_command("hurt", **settings), tiny)
    wait_until(lambda: count_rows(folder) >= 15, 100, "no 15 rows")
    hurt = fault(what)
    hurt.injected()
    victim = victim_of(process, title)
    os.kill(victim, number)
    struck = time.time()
    redo = steps_to_redo(folder)
    out, error = process.communicate(timeout=150)
    assert process.returncode == 0, out + error
    assert curves(folder) == control.curves
    assert table_of(folder) == control.table
    assert max(redo.values(), default=0) <= EVERY
    if number == signal.SIGSTOP:
        who = r"the process of xs-000\d hung" if title == "ray::xs-" else "engine 1 was busy"
        assert re.search(who + r" for \d+ s", out)
    assert title == "ray::xs-" or any(row[col.RETRIES] for rows in rows_of(folder).values() for row in rows)
    hurt.survived(seconds=all_went_on_after_s(folder, struck))


DEADLY_RATE = 0.01
DEADLY = f"""
import importlib.abc, importlib.util, os, sys

class AsItIsLoaded(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "sweeps.engine.trainers":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def load_and_poison(module):
            load(module)
            advance = module.Trainers.advance
            def kill_or_advance(self, signature, slots, batched):
                if any(self._trainers[signature].slots[k].run.optim.lr == {DEADLY_RATE} for k in slots):
                    os.kill(os.getpid(), 9)
                return advance(self, signature, slots, batched)
            module.Trainers.advance = kill_or_advance
        spec.loader.exec_module = load_and_poison
        return spec

sys.meta_path.insert(0, AsItIsLoaded())
"""


@pytest.mark.ray
def test_a_trial_that_kills_every_engine_fails_alone(tiny, fault):
    """As when the system kills a process that takes too much memory: there is no exception."""
    rates = [1e-3, 2e-3, DEADLY_RATE, 3e-3, 4e-3, 5e-3]
    experiments = ", ".join(f"{{name: e{n}, optim.lr: {rate}}}" for n, rate in enumerate(rates))
    command = ("--set", f"experiments=[{experiments}]", "--set", "space={}")
    (tiny / "site").mkdir()
    (tiny / "site" / "sitecustomize.py").write_text(DEADLY)
    deadly = fault("trial that kills its engine whenever it trains")
    deadly.injected()
    run(sweep_command("whole", *command, search="experiments"), tiny, check=0)
    poisoned = {"PYTHONPATH": str(tiny / "site")}
    out = run(sweep_command("hurt", *command, search="experiments"), tiny, check=0, **poisoned).stdout
    wanted, found = curves(tiny / "runs" / "whole"), curves(tiny / "runs" / "hurt")
    assert len(wanted.pop("xs-0002")) == 10
    assert found == wanted
    assert "5 complete, 0 pruned, 0 running, 0 diverged, 1 failed" in out
    assert "xs-0002 failed: EngineError: the trial was given up after its engine died 3 times" in out
    deadly.survived()


@pytest.mark.ray
def test_an_engine_that_is_killed_while_it_starts_and_measures_costs_nothing(tiny, control, fault):
    measuring = fault("engine kill -9 while it starts and measures")
    process = start(sweep_command("hurt"), tiny)
    victim = victim_of(process, "ray::SlotWorker")  # it gets its own title with its first trial
    measuring.injected()
    os.kill(victim, signal.SIGKILL)
    out, error = process.communicate(timeout=150)
    assert process.returncode == 0, out + error
    assert curves(tiny / "runs" / "hurt") == control.curves
    measuring.survived()
