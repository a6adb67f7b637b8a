"""The metrics of a sweep say what its rows say."""

import math
from types import SimpleNamespace

import pytest

from lmcore import columns as col
from lmcore.config import RunSpec
from lmcore.device import training_flops
from sweeps.callbacks.gauges import Gauges
from sweeps.spec.arms import Arm, StudyPlan

RUN = RunSpec()
STUDIES = {"xs-tied": ("xs", "tied"), "xs-tied-confirm": ("xs", "tied"), "s": ("s", "")}


def trial(name, last_row=None):
    group = name.rpartition("-")[0]
    size, arm = STUDIES[group]
    plan = StudyPlan(size, Arm(arm or None), col.CONFIRM if "confirm" in group else col.SEARCH)
    return SimpleNamespace(id=name, plan=plan, run=RUN, last_row=last_row, status=col.RUNNING)


def row(step, loss, engine=0, slot=0, **more):
    return {col.TOKENS: step * RUN.tokens_per_step, col.VAL_LOSS: loss, col.ENGINE: engine, col.SLOT: slot, **more}


def values(gauges):
    return {(metric.name, *tags): value for metric, tags, value in gauges.samples()}


@pytest.fixture
def best():
    return {}


@pytest.fixture
def gauges(best):
    statuses = {"xs-tied-0000": col.PRUNED, "xs-tied-0001": col.RUNNING, "xs-tied-confirm-0000": col.COMPLETE}
    return Gauges(lambda: 2, lambda: 8, lambda: best, STUDIES, statuses, [1e11, None])


def test_a_resumed_sweep_begins_with_the_trials_that_ended(gauges):
    now = values(gauges)
    assert (now["trials", "xs", "tied", "pruned"], now["trials", "xs", "tied", "complete"]) == (1, 1)
    assert now["trials", "xs", "tied", "running"] == now["trials", "s", "", "running"] == 0
    assert (now[("slots",)], now[("slots_in_use",)], now[("trials_planned",)]) == (2, 0, 8)
    assert now["peak_flops_per_second", "0"] == 1e11
    assert ("peak_flops_per_second", "1") not in now


def test_tokens_and_flops_are_those_trained_by_this_driver(gauges):
    resumed = trial("xs-tied-0001", row(50, 4.0))
    gauges.on_trial_start(resumed)
    gauges.on_report(resumed, row(100, 3.5))
    gauges.on_report(resumed, row(RUN.steps, 3.0, engine=1))
    now = values(gauges)
    assert now["tokens", "xs", "tied", "0"] == 50 * RUN.tokens_per_step
    flops = now["flops", "xs", "tied", "0"] + now["flops", "xs", "tied", "1"]
    assert flops == pytest.approx(training_flops(RUN) * (RUN.steps - 50) / RUN.steps)
    assert now["val_loss", "xs", "tied"] == 3.0


def test_a_loss_that_is_not_finite_leaves_the_last_one(gauges):
    one = trial("s-0000")
    gauges.on_trial_start(one)
    gauges.on_report(one, row(10, 4.0))
    gauges.on_report(one, row(20, math.nan))
    assert values(gauges)["val_loss", "s", ""] == 4.0


def test_slots_and_statuses_follow_the_trials_and_a_slot_that_changes_hands_is_a_refill(gauges, best):
    trials = [trial(f"s-000{n}") for n in range(3)]
    for one in trials:
        gauges.on_trial_start(one)
    now = values(gauges)
    assert (now["trials", "s", "", "running"], now[("slots_in_use",)]) == (3, 2)  # the third is queued

    for slot, one in enumerate(trials[:2]):
        gauges.on_report(one, row(10, 4.0, slot=slot))
    assert ("refills", "0") not in values(gauges)
    trials[0].status = col.COMPLETE
    gauges.on_trial_end(trials[0])
    best["s"] = (4.0, "s-0000")
    gauges.on_report(trials[2], row(10, 4.0, slot=0))
    gauges.on_report(trials[2], row(20, 3.9, slot=0))
    gauges.on_trial_end(trials[1])  # interrupted
    now = values(gauges)
    assert now["refills", "0"] == 1
    assert (now["trials", "s", "", "running"], now["trials", "s", "", "complete"]) == (1, 1)
    assert (now[("slots_in_use",)], now["best_val_loss", "s", ""]) == (1, 4.0)


def test_what_engines_say_of_themselves_is_kept_by_engine(gauges):
    one = trial("s-0000")
    gauges.on_trial_start(one)
    gauges.on_report(one, row(10, 4.0, engine=3, checkpoint_s=None, device_bytes=500))
    now = values(gauges)
    assert now["device_memory_bytes", "3"] == 500
    assert ("checkpoint_seconds", "3") not in now
    gauges.on_report(one, row(20, 4.0, engine=3, checkpoint_s=0.25, device_bytes=600))
    now = values(gauges)
    assert (now["checkpoint_seconds", "3"], now["device_memory_bytes", "3"]) == (0.25, 600)


def test_a_paused_trial_is_neither_running_nor_ended_and_is_counted_once_when_it_goes_on_or_is_given_up(best):
    gauges = Gauges(lambda: 2, lambda: 8, lambda: best, STUDIES, {"s-0000": col.PAUSED}, [])

    def counts():
        now = values(gauges)
        return {status: now["trials", "s", "", status] for status in (col.RUNNING, col.PAUSED, col.PRUNED)}

    assert counts() == {col.RUNNING: 0, col.PAUSED: 1, col.PRUNED: 0}
    first, second = trial("s-0000", row(50, 4.0)), trial("s-0001")
    gauges.on_trial_start(first)
    gauges.on_trial_start(second)
    assert counts() == {col.RUNNING: 2, col.PAUSED: 0, col.PRUNED: 0}
    for paused in (first, second):
        paused.status = col.PAUSED
        gauges.on_trial_end(paused)
    assert counts() == {col.RUNNING: 0, col.PAUSED: 2, col.PRUNED: 0}
    second.status = col.PRUNED
    gauges.on_trial_end(second)
    assert counts() == {col.RUNNING: 0, col.PAUSED: 1, col.PRUNED: 1}
