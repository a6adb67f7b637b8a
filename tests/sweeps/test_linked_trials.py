"""A study of entries that depend on each other: every trial's run is what the space says, through kills and resumes."""

import math

import optuna
import pytest
from linked_spaces import LABELS, LINKED, LR, WIDTH, linked
from test_ledger import row
from test_resume import Killed, MortalStorage, assert_every_kill_is_survived, outcome
from test_resume import drive as drive_with_rows

from lmcore import columns as col
from sweeps.callbacks.progress import _end
from sweeps.spec.space import grid
from sweeps.study.ledger import Ledger
from sweeps.study.retry import retry_failed
from sweeps.study.storage import quiet_optuna

METHODS = ("random", "optuna", "qmc", "gp", "cmaes", "grid")


@pytest.fixture(autouse=True)
def _quiet():
    quiet_optuna()


def drive(sweep):
    """Every trial of the sweep, run to its end."""
    storage, ended = optuna.storages.InMemoryStorage(), []
    book = Ledger(sweep, storage)
    ask = book.ask
    book.ask = lambda size: ended.append(ask(size)) or ended[-1]
    storage.write_row = lambda rows, trial, row: None
    drive_with_rows(book, {})
    return ended


@pytest.mark.parametrize("method", METHODS)
def test_every_trial_has_the_run_that_the_space_describes_whatever_the_search(method):
    ended = drive(linked(method=method, trials=24))
    assert len(ended) == 24
    for live in ended:
        run, params = live.run, live.trial.params
        width = WIDTH["choices"][LABELS.index(params["width"])]
        assert {path: getattr(run.model, path.split(".")[1]) for path in width} == width
        assert run.optim.lr == pytest.approx(params["optim.lr"] * math.sqrt(run.train.batch_size / 16), rel=1e-12)
        assert run.optim.min_lr_ratio == run.model.d_model / 1280
        assert run.train.batch_size in (8, 16, 24, 32)
        assert ("optim.weight_decay" in params) is (run.model.ffn == "swiglu")
        assert run.optim.weight_decay == params.get("optim.weight_decay", 0.1)  # 0.1 in the base run
        assert ("optim.beta2" in params) is (run.model.ffn == "gelu" and run.model.d_model == 128)
        assert run.optim.beta2 == params.get("optim.beta2", 0.95)
        assert "optim.min_lr_ratio" not in params
        assert live.trial.user_attrs[col.RUN]["optim"]["lr"] == run.optim.lr  # what tables read
    assert {live.run.model.ffn for live in ended} == {"swiglu", "gelu"}
    assert {live.trial.params["width"] for live in ended} == set(LABELS)


@pytest.mark.parametrize("method", ["random", "optuna"])
def test_a_driver_killed_before_any_write_proposes_the_same_values_once_it_is_resumed(method):
    assert_every_kill_is_survived(linked(method=method, trials=5), kills_at_least=60)


def test_a_driver_killed_in_a_grid_with_conditions_ends_it_with_the_same_points():
    space = {name: LINKED[name] for name in ("model.ffn", "width", "optim.beta2")}
    assert_every_kill_is_survived(linked(space, method="grid", trials=None), kills_at_least=30)


def test_a_trial_killed_between_two_of_its_suggestions_is_completed_as_it_would_have_been():
    sweep = linked(trials=1)
    whole = MortalStorage()
    drive_with_rows(Ledger(sweep, whole), {})
    (name, (_, trial)) = next(iter(outcome(whole).items()))
    assert name == "main"
    suggested = []
    for fatal in range(whole.written):
        storage = MortalStorage()
        storage.fatal = fatal
        with pytest.raises(Killed):
            drive_with_rows(Ledger(sweep, storage), {})
        trials = [t for study in storage.get_all_studies() for t in storage.get_all_trials(study._study_id)]
        if trials and trials[0].params and col.RUN not in trials[0].user_attrs:
            suggested.append(len(trials[0].params))
            again = Ledger(sweep, storage)
            assert again.ask("main").trial.params == trial[1]
    assert suggested[:3] == [1, 2, 3]  # it was killed after the first, the second, the third ...


def test_a_grid_with_conditions_has_every_trial_once_and_none_twice():
    space = {
        "optim.beta2": {"choices": [0.9, 0.99], "when": {"model.ffn": "gelu"}},  # before what it depends on
        "model.ffn": ["swiglu", "gelu"],
        "optim.beta1": [0.8, 0.9],
        "optim.lr": {"equals": "optim.beta1 / 100"},
    }
    sweep = linked(space, method="grid", trials=None)
    points = grid(sweep.space)
    assert points == [
        {"model.ffn": "swiglu", "optim.beta1": 0.8},
        {"model.ffn": "swiglu", "optim.beta1": 0.9},
        {"model.ffn": "gelu", "optim.beta1": 0.8, "optim.beta2": 0.9},
        {"model.ffn": "gelu", "optim.beta1": 0.8, "optim.beta2": 0.99},
        {"model.ffn": "gelu", "optim.beta1": 0.9, "optim.beta2": 0.9},
        {"model.ffn": "gelu", "optim.beta1": 0.9, "optim.beta2": 0.99},
    ]
    assert sweep.trials_of("main") == 6
    assert [live.trial.params for live in drive(sweep)] == points


def test_a_condition_on_what_a_size_fixes_is_decided_for_the_size():
    sizes = [{"name": "xs", "model.d_model": 64}, {"name": "s", "model.d_model": 128}]
    space = {"optim.lr": LR, "optim.beta2": {"choices": [0.9, 0.99], "when": {"model.d_model": 128}}}
    for live in drive(linked(space, trials=6, sizes=sizes)):
        assert ("optim.beta2" in live.trial.params) is (live.size == "s")
    sweep = linked({"optim.beta1": [0.8, 0.9], "optim.beta2": space["optim.beta2"]}, method="grid", trials=None)
    assert sweep.model_copy(update={"sizes": linked(space, sizes=sizes).sizes}).trials_of("xs") == 2


def test_a_compared_group_of_fields_makes_an_arm_of_each_choice_that_others_may_refer_to():
    space = {"optim.lr": {**LR, "times": "128 / model.d_model"}, "width": WIDTH}
    space["optim.beta2"] = {"choices": [0.9, 0.99], "when": {"model.d_ff": 352}}
    sweep = linked(space, trials=8, compare=["width"])
    names = ["d_model64-d_ff176-num_heads2", "d_model128-d_ff352-num_heads4"]
    assert [arm.name for arm in sweep.arms] == names
    for live in drive(sweep):
        large = live.plan.arm.name == names[1]
        assert live.run.model.d_model == (128 if large else 64)
        assert live.run.optim.lr == pytest.approx(live.trial.params["optim.lr"] * (1 if large else 2))
        assert set(live.trial.params) == {"optim.lr", *(["optim.beta2"] if large else [])}


def test_a_confirmation_run_has_the_computed_values_of_the_trial_that_it_repeats():
    space = {name: entry for name, entry in LINKED.items() if name != "train.batch_size"}
    ended = drive(linked(space, trials=4, confirm={"top": 1, "seeds": 2}))
    runs = {live.id: live.run for live in ended}
    confirmed = [live for live in ended if live.of is not None]
    assert len(confirmed) == 2
    for live in confirmed:
        same = runs[live.of]
        assert (live.run.optim, live.run.model) == (same.optim, same.model)
        assert live.run.train.seed != same.train.seed


@pytest.mark.parametrize("method", METHODS)
def test_a_failed_trial_is_retried_with_its_computed_and_conditional_values(method):
    sweep, storage = linked(method=method, trials=6), optuna.storages.InMemoryStorage()
    book, failed = Ledger(sweep, storage), {}
    while sizes := book.sizes_left:
        live = book.ask(sizes[0])
        failed[live.id] = live.run
        book.fail(live.id, "ValueError: boom", "Traceback\nValueError: boom\n")
        book.end(live.id)
    assert retry_failed(sweep, storage) == list(failed)
    again = Ledger(sweep, storage)
    assert [again.ask("main").run for _ in failed] == list(failed.values())


def test_the_line_of_an_ended_trial_shows_the_rate_that_it_trained_with():
    live = drive(linked(trials=1))[0]
    assert f"lr {live.run.optim.lr:.3g}" in _end(live)[2]
    assert f"width {live.trial.params['width']}" in _end(live)[2]


@pytest.mark.parametrize("method", ["cmaes", "gp", "tpe", "optuna.samplers:TPESampler"])
def test_a_kill_in_the_middle_of_an_ask_is_survived_with_every_method(method):
    space = {name: LINKED[name] for name in ("optim.lr", "model.ffn", "optim.weight_decay", "train.batch_size")}
    assert_every_kill_is_survived(
        linked(space, method=method, trials=4, search={"startup_trials": 2}), kills_at_least=45
    )


def test_after_a_kill_qmc_asks_for_the_next_points_of_its_sequence():
    space = {name: LINKED[name] for name in ("optim.lr", "model.ffn", "optim.weight_decay", "train.batch_size")}
    sweep, whole = linked(space, method="qmc", trials=3), MortalStorage()
    drive_with_rows(Ledger(sweep, whole), {})
    for fatal in range(whole.written):
        storage, rows = MortalStorage(), {}
        storage.fatal = fatal
        with pytest.raises(Killed):
            drive_with_rows(Ledger(sweep, storage), rows)
        drive_with_rows(Ledger(sweep, storage, rows), rows)
        trials = storage.get_all_trials(0)
        assert [t.state for t in trials] == [optuna.trial.TrialState.COMPLETE] * 3
        for t in trials:
            assert ("optim.weight_decay" in t.params) is (t.params["model.ffn"] == "swiglu")


def test_tpe_learns_from_trials_that_lack_some_entries():
    space = {
        "model.ffn": ["swiglu", "gelu"],
        "optim.beta1": {"low": 0.5, "high": 0.99},
        "optim.weight_decay": {"low": 0.0, "high": 0.3, "when": {"model.ffn": "swiglu"}},
    }
    sweep = linked(space, method="optuna", trials=40)
    book, asked = Ledger(sweep, optuna.storages.InMemoryStorage()), []
    while sizes := book.sizes_left:
        live = book.ask(sizes[0])
        asked.append(live.trial.params)
        decay = live.trial.params.get("optim.weight_decay")
        loss = 5.0 + 4 * abs(live.run.optim.beta1 - 0.9) + (1.0 if decay is None else 10 * abs(decay - 0.2))
        book.report(live.id, row(40, loss))
        book.end(live.id)
    late = [params for params in asked[20:] if "optim.weight_decay" in params]
    assert len(late) >= 12  # the better of the two
    assert sum(abs(params["optim.weight_decay"] - 0.2) < 0.06 for params in late) > len(late) / 2
    assert sum(abs(params["optim.beta1"] - 0.9) < 0.1 for params in asked[20:]) > 10


def test_a_confirmation_run_is_that_of_its_trial_also_after_the_space_has_changed():
    space = {name: entry for name, entry in LINKED.items() if name != "train.batch_size"}
    sweep, storage = linked(space, trials=4), optuna.storages.InMemoryStorage()
    book, runs = Ledger(sweep, storage), {}
    while sizes := book.sizes_left:
        live = book.ask(sizes[0])
        runs[live.id] = live.run
        book.report(live.id, row(40, 5.0))
        book.end(live.id)
    changed = {**space, "width": {"choices": [{"model.d_model": 128, "model.d_ff": 88, "model.num_heads": 2}]}}
    changed["optim.lr"] = {**LR, "times": "1 / 2"}
    book = Ledger(linked(changed, trials=4, confirm={"top": 2, "seeds": 1}), storage)
    confirmed = 0
    while sizes := book.sizes_left:
        live = book.ask(sizes[0])
        confirmed += 1
        same = runs[live.of]
        assert (live.run.optim, live.run.model) == (same.optim, same.model)
        book.report(live.id, row(40, 5.0))
        book.end(live.id)
    assert confirmed == 2
