"""What a sampler is shown: trials that were stopped early with their outlook, and trials that run."""

import math
import os
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import GPSampler
from optuna.trial import TrialState
from test_ledger import in_memory, row

from lmcore import columns as col
from sweeps.study.outlook import final_outlook
from sweeps.study.sampler_view import with_outlook, with_paused_as_pruned
from sweeps.study.samplers import GP_TRIALS, AskedTrial, model_of
from sweeps.study.study_view import StudyView

SPACE = {"x": FloatDistribution(0, 1)}


def trial(number, state, losses, value=None, x=0.5, diverged=False, **attributes):
    made = optuna.create_trial(
        state=state,
        value=value,
        params={"x": x},
        distributions=SPACE,
        intermediate_values=losses,
        user_attrs=attributes,
        system_attrs={"constraints": [float(diverged)]} if state is TrialState.COMPLETE else {},
    )
    made.number = number
    return made


COMPLETE, PRUNED, RUNNING = TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING
ENDED = [
    trial(0, COMPLETE, {10: 5.0, 20: 4.0}, 3.0),
    trial(1, COMPLETE, {10: 6.0, 20: 4.6}, 3.5),
    trial(2, COMPLETE, {10: 5.5, 20: 4.5}, 3.1),
    trial(3, COMPLETE, {10: 5.0}, math.inf, diverged=True),
]


def test_the_outlook_is_the_last_loss_plus_the_median_gain_of_complete_trials():
    assert final_outlook(trial(9, PRUNED, {10: 7.0}), ENDED) == pytest.approx(7.0 - 2.4)
    assert final_outlook(trial(9, PRUNED, {10: 7.0, 20: 6.0}), ENDED) == pytest.approx(6.0 - 1.1)


def test_the_outlook_is_never_better_than_the_best_complete_trial():
    assert final_outlook(trial(9, PRUNED, {10: 4.0}), ENDED) == 3.0


def test_there_is_no_outlook_without_a_complete_trial_that_reported_there():
    assert final_outlook(trial(9, PRUNED, {10: 7.0}), []) is None
    assert final_outlook(trial(9, PRUNED, {15: 7.0}), ENDED) is None
    assert final_outlook(trial(9, PRUNED, {}), ENDED) is None
    assert final_outlook(trial(9, PRUNED, {10: 7.0}), [ENDED[3]]) is None


def test_a_gaussian_process_sees_stopped_and_paused_trials_as_complete_and_running_ones_at_the_mean():
    trials = [
        *ENDED[:3],
        trial(3, PRUNED, {10: 7.0}),
        trial(4, RUNNING, {10: 7.0}, paused_at=10),
        trial(5, RUNNING, {10: 4.0}),
        trial(6, TrialState.FAIL, {}),
        trial(7, RUNNING, {}),
    ]
    shown = with_outlook(trials, number=7)
    assert [one.number for one in shown] == [0, 1, 2, 3, 4, 5]
    assert {one.state for one in shown} == {COMPLETE}
    stopped = 7.0 - 2.4
    values = [3.0, 3.5, 3.1, stopped, stopped]
    assert [one.value for one in shown] == pytest.approx([*values, sum(values) / 5])
    assert all(one.constraints == {} for one in shown)  # none is violated, so none is modelled
    assert (trials[3].state, trials[4].state, trials[5].state) == (PRUNED, RUNNING, RUNNING)


def test_a_gaussian_process_is_told_which_trials_diverged():
    shown = with_outlook([*ENDED, trial(4, PRUNED, {10: 7.0}), trial(5, RUNNING, {})], number=6)
    assert [one.constraints["0"] for one in shown] == [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert shown[5].value == pytest.approx((3.0 + 3.5 + 3.1 + 4.6) / 4)


def test_before_any_trial_is_complete_nothing_is_made_up():
    shown = with_outlook([trial(0, PRUNED, {10: 7.0}), trial(1, RUNNING, {10: 6.0})], number=2)
    assert [(one.number, one.state) for one in shown] == [(0, PRUNED)]


def test_tpe_sees_paused_trials_as_pruned_and_running_ones_as_they_are():
    shown = with_paused_as_pruned(
        [*ENDED, trial(4, RUNNING, {10: 7.0}, paused_at=10), trial(5, RUNNING, {}), trial(6, RUNNING, {})], number=6
    )
    assert [one.state for one in shown] == [COMPLETE] * 4 + [PRUNED, RUNNING]


def test_a_view_changes_what_a_sampler_reads_and_not_the_study():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(6):
        asked = study.ask(SPACE)
        asked.report((asked.params["x"] - 0.3) ** 2, 1)
        study.tell(asked, state=PRUNED if number else COMPLETE, values=None if number else 1.0)
    asked = study.ask(SPACE)
    sampler = GPSampler(n_startup_trials=3, seed=0)
    before = study.get_trials()
    frozen = before[asked.number]
    assert sampler.sample_relative(study, frozen, SPACE) == {}
    view = StudyView(study, lambda trials: with_outlook(before, asked.number))
    assert set(sampler.sample_relative(view, frozen, SPACE)) == {"x"}
    assert [(t.state, t.values) for t in study.get_trials()] == [(t.state, t.values) for t in before]


def test_pruned_trials_teach_a_gaussian_process():
    """With all trials stopped early but those that are the best so far, its proposals are better than random ones."""
    book = in_memory("gp", trials=16, scheduler="none", startup_trials=4)
    rates = []
    while sizes := book.sizes_left:
        live = book.ask(sizes[0])
        rates.append(math.log10(live.run.optim.lr))
        loss = 3.0 + abs(rates[-1] + 3.5)
        last = 40 if loss <= 3.0 + min(abs(rate + 3.5) for rate in rates) else 10
        for step in range(10, last + 1, 10):
            book.report(live.id, row(step, loss + 1 / step))
        if last == 10:
            book.live[live.id].status = col.PRUNED
        book.end(live.id)
    late = [abs(rate + 3.5) for rate in rates[8:]]
    assert sum(late) / len(late) < 0.4  # of random ones it is about 0.9


def test_optuna_is_a_gaussian_process_for_the_first_trials_and_tpe_for_later_ones_or_for_conditional_fields():
    def model(method="optuna", **asked):
        return model_of(method, AskedTrial("xs", **{"number": 0, "startup": 4, **asked}))

    assert model(number=GP_TRIALS - 1) == "gp"
    assert model(number=GP_TRIALS) == "tpe"
    assert model(dynamic=True) == "tpe"
    assert model("gp", number=10_000) == "gp"
    assert model("gp", dynamic=True) == "tpe"
    assert [model(name, dynamic=True) for name in ("tpe", "random", "qmc", "cmaes")] == [
        "tpe",
        "random",
        "qmc",
        "cmaes",
    ]


def test_trials_that_are_asked_for_at_once_differ():
    book = in_memory("gp", trials=16, startup_trials=3)
    for _ in range(4):
        live = book.ask("main")
        for step in (10, 20, 30, 40):
            if book.report(live.id, row(step, 3.0 + abs(math.log10(live.run.optim.lr) + 2))) != col.RUNNING:
                break
        book.end(live.id)
    asked = [book.ask("main").trial.params for _ in range(4)]
    assert len({tuple(params.values()) for params in asked}) == 4


def test_no_search_loads_torch_before_its_first_fit():
    code = (
        "import sys, optuna, test_ledger as t\n"
        "book = t.in_memory('optuna', startup_trials=3)\n"
        "print([book.ask('main').id for _ in range(6)], 'torch' in sys.modules)"
    )
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": str(here.parents[1])}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=here, env=environment)
    assert found.stdout.endswith("False\n")
