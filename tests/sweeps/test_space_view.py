"""A sweep that is resumed with another space: samplers see earlier trials that lie in it; the study keeps them all."""

import math
import shutil

import optuna
import pytest
from linked_spaces import LABELS, LINKED, WIDTH, linked
from test_ledger import loss_of, row

from lmcore import columns as col
from lmcore.errors import InputError
from sweeps.rundir.folder import RunFolder
from sweeps.spec.space import distributions
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.ledger import Ledger
from sweeps.study.retry import retry_failed
from sweeps.study.space_view import SpaceView
from sweeps.study.storage import open_storage
from sweeps.study.study_storage import StudyStorage

LR = {"low": 1e-3, "high": 3e-2, "log": True}
BETA2 = {"choices": [0.9, 0.95, 0.99]}
METHODS = ("optuna", "random", "qmc", "gp", "cmaes")


def spec(space, trials, method="optuna", scheduler="none", **sections):
    return SweepSpec.model_validate(
        {
            "name": "wider",
            "train": {"steps": 40, "eval_every": 10},
            "search": {"method": method, "trials": trials, "scheduler": scheduler, "startup_trials": 3},
            "space": space,
            **sections,
        }
    )


@pytest.fixture
def storage(in_tmp):
    """Opens study.db as a driver does, from the file every time."""
    folder = RunFolder.named("wider")
    folder.path.mkdir(parents=True)
    return lambda: open_storage(None, folder)


def drive(ledger, until=None, rows=None):
    """Run trials to their end, or until `until` have ended; `rows` is what metrics.jsonl would hold."""
    rows = {} if rows is None else rows
    ended = 0
    while (sizes := ledger.sizes_left) and ended != until:
        live = ledger.ask(sizes[0])
        known = live.last_row[col.STEP] if live.last_row else 0
        for step in (10, 20, 30, 40):
            if step > known:
                status = ledger.report(live.id, row(step, loss_of(live, step)))
                rows[live.id] = row(step, loss_of(live, step)) | {col.STATUS: status}
                if status != col.RUNNING:
                    break
        ledger.end(live.id)
        ended += 1
    return ledger


def trials_of(ledger):
    return ledger.studies["main"].study.get_trials(deepcopy=False)


def seen(sweep, ledger):
    """The trials that the sampler is shown."""
    view = SpaceView(sweep.study_layout(sweep.studies[0]))
    return view.of(trials_of(ledger))


@pytest.mark.parametrize("scheduler", ["none", "hyperband"])
@pytest.mark.parametrize("method", METHODS)
def test_ranges_and_choices_change_in_one_study_for_every_sampler(storage, method, scheduler):
    before = spec({"optim.lr": LR, "optim.beta2": BETA2}, 6, method, scheduler)
    first = [(t.params, t.values, t.state) for t in trials_of(drive(Ledger(before, storage())))]
    wider = {"optim.lr": {**LR, "high": 5e-2}, "optim.beta2": {"choices": [0.9, 0.999]}}
    ledger = drive(Ledger(spec(wider, 14, method, scheduler), storage()))
    trials = trials_of(ledger)
    assert len(trials) == 14
    assert [(t.params, t.values, t.state) for t in trials[:6]] == first
    assert {t.params["optim.beta2"] for t in trials[6:]} == {0.9, 0.999}
    assert set(ledger.ranking("main")) == {
        t.user_attrs[col.TRIAL] for t in trials if t.user_attrs["status"] == "complete"
    }
    assert [study.study_name for study in storage().get_all_studies()] == ["main"]


def test_trials_in_the_new_space_are_shown_with_its_distributions_and_others_are_hidden(storage):
    before = spec({"optim.lr": LR, "optim.beta2": BETA2}, 12, "random")
    ledger = drive(Ledger(before, storage()))
    narrower = spec({"optim.lr": {**LR, "low": 5e-3}, "optim.beta2": {"choices": [0.9, 0.99]}}, 12)
    inside = [t for t in trials_of(ledger) if t.params["optim.lr"] >= 5e-3 and t.params["optim.beta2"] != 0.95]
    shown = seen(narrower, ledger)
    assert 0 < len(shown) < 12
    assert [(t.number, t.params, t.values) for t in shown] == [(t.number, t.params, t.values) for t in inside]
    assert all(t.distributions == distributions(narrower.searched) for t in shown)
    assert seen(before, ledger) == trials_of(ledger)


def test_a_field_that_joins_the_space_has_the_base_value_in_earlier_trials(storage):
    before = spec({"optim.lr": LR}, 6, "random")
    ledger = drive(Ledger(before, storage()))
    with_beta1 = {"optim.lr": LR, "optim.beta1": {"low": 0.8, "high": 0.98}}
    assert [t.params["optim.beta1"] for t in seen(spec(with_beta1, 6), ledger)] == [0.9] * 6
    assert seen(spec({**with_beta1, "optim.beta1": {"low": 0.95, "high": 0.98}}, 6), ledger) == []
    trials = trials_of(drive(Ledger(spec(with_beta1, 12), storage())))
    assert all("optim.beta1" in t.params for t in trials[6:])


def test_a_field_that_leaves_the_space_shows_the_trials_that_have_the_value_at_which_it_stays(storage):
    before = spec({"optim.lr": LR, "optim.beta2": BETA2}, 12, "random")
    ledger = drive(Ledger(before, storage()))
    after = spec({"optim.lr": LR}, 18, optim={"beta2": 0.99})
    shown = seen(after, ledger)
    assert {t.number for t in shown} == {t.number for t in trials_of(ledger) if t.params["optim.beta2"] == 0.99}
    assert all(t.params.keys() == {"optim.lr"} for t in shown)
    trials = trials_of(drive(Ledger(after, storage())))
    assert {t.user_attrs[col.RUN]["optim"]["beta2"] for t in trials[12:]} == {0.99}


def test_tpe_learns_from_earlier_trials_as_if_they_had_been_asked_for_in_the_new_space(storage):
    before = spec({"optim.lr": LR, "optim.beta2": BETA2}, 30, "random")
    ledger = drive(Ledger(before, storage()))
    wider = spec({"optim.lr": {**LR, "high": 4e-2}, "optim.beta2": {"choices": [0.9, 0.95, 0.99, 0.999]}}, 31)
    reference = optuna.create_study(sampler=optuna.samplers.TPESampler(n_startup_trials=3, multivariate=True, seed=0))
    space = distributions(wider.searched)
    for t in trials_of(ledger):
        made = optuna.create_trial(params=t.params, distributions=space, state=t.state, values=t.values)
        reference.add_trial(made)
    viewed = optuna.load_study(study_name="main", storage=storage())
    sampler = optuna.samplers.TPESampler(n_startup_trials=3, multivariate=True, seed=0)
    viewed.sampler = SpaceView(wider.study_layout(wider.studies[0])).sampler(sampler)
    assert viewed.ask(space).params == reference.ask(space).params


def test_an_unfinished_trial_keeps_its_setting_when_the_space_changes(storage):
    before = spec({"optim.lr": LR, "optim.beta2": BETA2}, 4, "random")
    ledger = drive(Ledger(before, storage()), until=2)
    live = ledger.ask("main")
    ledger.report(live.id, row(10, 3.0))
    rows = {live.id: row(10, 3.0)}
    for space, optim in (
        ({"optim.lr": LR}, {"beta2": 0.5}),
        ({"optim.lr": LR, "optim.beta2": {"choices": [0.1]}, "optim.beta1": {"low": 0.1, "high": 0.2}}, {}),
    ):
        again = Ledger(spec(space, 4, optim=optim), storage(), rows)
        assert again.unfinished == 1
        resumed = again.ask("main")
        assert (resumed.id, resumed.run) == (live.id, live.run)
        assert resumed.trial.params == live.trial.params


class Killed(BaseException):
    """Raised in place of a kill."""


def test_a_driver_killed_before_any_write_after_a_change_is_resumed_to_the_same_trials(storage, monkeypatch, in_tmp):
    before = spec({"optim.lr": LR, "optim.beta2": BETA2}, 4)
    earlier = {}
    drive(Ledger(before, storage()), rows=earlier)
    after = spec({"optim.lr": {**LR, "high": 5e-2}, "optim.beta2": {"choices": [0.9, 0.999]}}, 5)
    file, kept = RunFolder.named("wider").study_db, in_tmp / "kept.db"
    shutil.copy(file, kept)
    left = [math.inf]
    for name in ("_create_new_trial", "set_trial_param", "set_trial_user_attrs", "set_trial_state_values"):
        write = getattr(StudyStorage, name)

        def mortal(self, *arguments, _write=write, **options):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return _write(self, *arguments, **options)

        monkeypatch.setattr(StudyStorage, name, mortal)

    def outcome(rows):
        ledger = drive(Ledger(after, storage(), rows), rows=rows)
        return [(t.state, t.params, t.values) for t in trials_of(ledger)]

    wanted, kills = outcome(dict(earlier)), 0
    while True:
        shutil.copy(kept, file)
        left[0], rows = kills, dict(earlier)
        try:
            outcome(rows)
        except Killed:
            left[0] = math.inf
            kills += 1
            assert outcome(rows) == wanted, kills
        else:
            break
    assert kills >= 4


def test_a_failed_trial_is_tried_again_only_if_its_setting_is_in_the_space(storage):
    before = spec({"optim.lr": LR, "optim.beta2": {"choices": [0.9, 0.95]}}, 2, "random")
    ledger = Ledger(before, storage())
    for _ in range(2):
        live = ledger.ask("main")
        ledger.fail(live.id, "ValueError: boom", "boom")
        ledger.end(live.id)
    with pytest.raises(InputError, match=r"--retry: must be possible in the space .* lacks the settings of main-0000"):
        retry_failed(spec({"optim.lr": {**LR, "low": 2.9e-2}}, 2), storage())
    wider = spec({"optim.lr": LR, "optim.beta2": {"choices": [0.9, 0.95, 0.99]}}, 2)
    assert retry_failed(wider, storage()) == ["main-0000", "main-0001"]
    trials = trials_of(drive(Ledger(wider, storage())))
    assert [t.params for t in trials[2:]] == [t.params for t in trials[:2]]


def test_trials_of_a_dependent_space_that_has_not_changed_need_no_view(storage):
    sweep = linked(trials=12)
    ledger = drive(Ledger(sweep, storage()))
    view = SpaceView(sweep.study_layout(sweep.studies[0]))
    assert view.shows_all(trials_of(ledger))
    assert all(view.params_of(trial) == trial.params for trial in trials_of(ledger))


def test_a_factor_that_changes_shows_earlier_trials_with_what_would_be_proposed_for_their_runs(storage):
    before = linked(trials=12)
    ledger = drive(Ledger(before, storage()))
    after = linked({**LINKED, "optim.lr": {**LR, "times": "train.batch_size / 16"}}, trials=12)
    shown = {trial.number: trial.params for trial in seen(after, ledger)}
    assert 0 < len(shown) <= 12
    for trial in trials_of(ledger):
        run = trial.user_attrs[col.RUN]
        proposed = run["optim"]["lr"] / (run["train"]["batch_size"] / 16)
        assert (trial.number in shown) is (LR["low"] <= proposed <= LR["high"])
        if trial.number in shown:
            assert shown[trial.number] == {**trial.params, "optim.lr": pytest.approx(proposed, rel=1e-12)}


def test_choices_of_several_fields_are_known_by_their_fields_and_not_by_their_label(storage):
    ledger = drive(Ledger(linked(trials=12), storage()))
    swapped = [dict(reversed(choice.items())) for choice in WIDTH["choices"]]
    after = linked({**LINKED, "width": {"choices": swapped}}, trials=12)
    label = {LABELS[0]: "num_heads=2, d_ff=176, d_model=64", LABELS[1]: "num_heads=4, d_ff=352, d_model=128"}
    assert [t.params["width"] for t in seen(after, ledger)] == [label[t.params["width"]] for t in trials_of(ledger)]
    renamed = {name if name != "width" else "shape": entry for name, entry in LINKED.items()}
    assert [t.params["shape"] for t in seen(linked(renamed), ledger)] == [t.params["width"] for t in trials_of(ledger)]
    fewer = linked({**LINKED, "width": {"choices": WIDTH["choices"][:1]}, "optim.beta2": [0.95]}, trials=12)
    assert {t.number for t in seen(fewer, ledger)} == {
        t.number for t in trials_of(ledger) if t.params["width"] == LABELS[0]
    }


def test_conditions_and_computed_fields_hide_the_trials_that_could_not_be_proposed_now(storage):
    ledger = drive(Ledger(linked(trials=16), storage()))
    trials = trials_of(ledger)
    unconditional = {**LINKED, "optim.weight_decay": {"low": 0.0, "high": 0.3}}
    shown = seen(linked(unconditional), ledger)
    assert len(shown) == 16  # those that lacked it had the base value, which is in the range
    assert {t.params["optim.weight_decay"] for t in shown if t.params["model.ffn"] == "gelu"} == {0.1}
    narrower = {**LINKED, "optim.weight_decay": {"low": 0.0, "high": 0.3, "when": {"model.ffn": "gelu"}}}
    assert {t.number for t in seen(linked(narrower), ledger)} == {
        t.number for t in trials if t.params["model.ffn"] == "gelu"
    }
    computed = {**LINKED, "optim.min_lr_ratio": {"equals": "model.d_model / 640"}}
    assert seen(linked(computed), ledger) == []
    free = {**LINKED, "optim.min_lr_ratio": {"low": 0.0, "high": 0.2}}
    assert {t.params["optim.min_lr_ratio"] for t in seen(linked(free), ledger)} == {0.05, 0.1}


def test_a_group_that_leaves_the_space_shows_the_trials_that_have_the_fields_at_which_it_stays(storage):
    ledger = drive(Ledger(linked(trials=12), storage()))
    without = {name: entry for name, entry in LINKED.items() if name not in ("width", "optim.beta2")}
    after = linked(without, model={"d_model": 128, "d_ff": 352, "num_heads": 4})
    assert {t.number for t in seen(after, ledger)} == {
        t.number for t in trials_of(ledger) if t.params["width"] == LABELS[1] and "optim.beta2" not in t.params
    }


@pytest.mark.parametrize("method", METHODS)
def test_a_dependent_space_changes_in_one_study_for_every_sampler(storage, method):
    drive(Ledger(linked(method=method, trials=6), storage()))
    space = {**LINKED, "optim.lr": {**LR, "times": "train.batch_size / 16"}}
    space["width"] = {"choices": [*WIDTH["choices"], {"model.d_model": 96, "model.d_ff": 256, "model.num_heads": 2}]}
    trials = trials_of(drive(Ledger(linked(space, method=method, trials=14), storage())))
    assert len(trials) == 14
    for trial in trials[6:]:
        run = trial.user_attrs[col.RUN]
        factor = run["train"]["batch_size"] / 16
        assert run["optim"]["lr"] == pytest.approx(trial.params["optim.lr"] * factor, rel=1e-12)


def test_an_unfinished_trial_of_a_dependent_space_keeps_its_run_when_the_space_changes(storage):
    ledger = drive(Ledger(linked(trials=3), storage()), until=1)
    live = ledger.ask("main")
    ledger.report(live.id, row(10, 3.0))
    space = {**LINKED, "optim.lr": {**LR, "times": "1 / 3"}}
    space["width"] = {"choices": [{"model.d_model": 128, "model.d_ff": 64, "model.num_heads": 2}]}
    again = Ledger(linked(space, trials=3), storage(), {live.id: row(10, 3.0)})
    resumed = again.ask("main")
    assert (resumed.id, resumed.run) == (live.id, live.run)


def test_a_known_setting_that_waits_has_its_fields_after_a_change_of_its_factor(storage):
    starts = {"start_with": [{"optim.lr": 0.004}, {"optim.lr": 0.006}]}
    before = linked({"optim.lr": {**LR, "times": "1 / 2"}}, trials=4, search=starts)
    drive(Ledger(before, storage()), until=1)
    ledger = Ledger(linked({"optim.lr": LR}, trials=4, search=starts), storage())
    assert ledger.ask("main").run.optim.lr == pytest.approx(0.006, rel=1e-12)


def test_a_trial_that_was_being_asked_for_with_a_choice_that_is_gone_is_given_up(storage):
    ledger = drive(Ledger(linked(trials=2), storage()))
    study = ledger.studies["main"].study
    study.ask({"width": optuna.distributions.CategoricalDistribution(("another choice",))})
    ledger = drive(Ledger(linked(trials=5), storage()))
    states = [trial.state for trial in trials_of(ledger)]
    complete, failed = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL
    assert states == [complete, complete, failed, complete, complete]
