"""No setting is trained twice: samplers propose others, and when there are none the earlier result is repeated."""

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from test_ledger import loss_of, row
from test_resume import MortalStorage, assert_every_kill_is_survived, drive, outcome

from lmcore import columns as col
from lmcore.errors import InputError
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.distinct import TriedSettings
from sweeps.study.excluded import Exclusions, excluded_in, is_excluded
from sweeps.study.integrity import check_trials
from sweeps.study.ledger import Ledger

SMALL = {"optim.lr": [1e-4, 1e-3, 1e-2], "model.tie_embeddings": [True, False]}


def spec(method="random", trials=9, space=SMALL, **search):
    return SweepSpec.model_validate(
        {
            "name": "small",
            "train": {"steps": 40, "eval_every": 10},
            "search": {"method": method, "trials": trials, "scheduler": "none", "startup_trials": 3, **search},
            "space": space,
        }
    )


def ledger(*args, **options):
    return Ledger(spec(*args, **options), optuna.storages.InMemoryStorage())


def settings(book):
    trials = book.studies["main"].study.trials
    return [tuple(trial.params.values()) for trial in trials], trials


@pytest.mark.parametrize("method", ["optuna", "tpe", "gp", "cmaes", "qmc", "random", "optuna.samplers:TPESampler"])
def test_every_setting_of_a_small_space_is_trained_once_before_any_is_repeated(method):
    space = SMALL | {"optim.beta1": {"low": 0.8, "high": 0.9, "step": 0.1}}
    book, rows = ledger(method, trials=14, space=space), {}
    drive_in(book, rows)
    found, trials = settings(book)
    assert len(set(found[:12])) == 12
    assert [col.SAME_AS in trial.user_attrs for trial in trials] == [False] * 12 + [True] * 2
    assert len(rows) == 12  # what was trained


def drive_in(book, rows):
    """`test_resume.drive` with a storage that does not count its writes."""
    while sizes := book.sizes_left:
        live = book.ask(sizes[0])
        for step in (10, 20, 30, 40):
            rows[live.id] = row(step, loss_of(live, step))
            if book.report(live.id, rows[live.id]) != col.RUNNING:
                break
        book.end(live.id)


def test_a_repeated_trial_has_the_state_the_losses_and_the_report_of_the_first_of_its_setting():
    book = ledger(trials=11, scheduler="asha")
    drive_in(book, {})
    found, trials = settings(book)
    repeated = [trial for trial in trials if col.SAME_AS in trial.user_attrs]
    assert len(trials) == 11
    assert len(repeated) == 5
    for trial in repeated:
        first = trials[found.index(found[trial.number])]
        assert trial.user_attrs[col.SAME_AS] == first.user_attrs[col.TRIAL]
        assert (trial.state, trial.values) == (first.state, first.values)
        assert trial.intermediate_values == first.intermediate_values
        assert trial.constraints == first.constraints
        for name in (col.STATUS, col.LAST, col.RUN, col.COUNTS):
            assert trial.user_attrs[name] == first.user_attrs[name]
    assert {trial.state for trial in repeated} >= {TrialState.PRUNED}
    assert book.statuses().keys() == {f"main-{n:04d}" for n in range(11)}
    assert book.over
    assert not any(trial_id in book.ranking("main") for trial_id in (t.user_attrs[col.TRIAL] for t in repeated))
    assert book.why_stopped() == ["main: every setting was tried; 5 trials have the result of an earlier one"]


def test_nothing_is_repeated_while_a_trial_runs_and_what_fails_is_tried_again():
    book = ledger(trials=8)
    live = [book.ask("main") for _ in range(6)]
    assert book.sizes_left == []
    assert book.more_may_come
    for one in live[1:]:
        book.report(one.id, row(40, 3.0))
        book.end(one.id)
    assert len(book.statuses()) == 6
    book.fail(live[0].id, "ValueError: boom", "ValueError: boom")
    book.end(live[0].id)
    assert book.sizes_left == ["main"]
    again = book.ask("main")
    assert again.trial.params == live[0].trial.params
    book.report(again.id, row(40, 3.0))
    book.end(again.id)
    assert book.over
    assert len(book.statuses()) == 8


def test_with_a_time_limit_alone_the_search_ends_when_all_was_tried():
    book = ledger(trials=None, time="1h")
    drive_in(book, {})
    assert len(book.statuses()) == 6
    assert book.why_stopped() == ["main: every setting of the space was tried"]


@pytest.mark.filterwarnings("ignore:The (reported|constraint) value is ignored")
@pytest.mark.parametrize("method", ["random", "tpe"])
def test_a_driver_killed_before_any_write_repeats_the_same_results(method):
    two = {"model.tie_embeddings": [True, False]}
    assert_every_kill_is_survived(spec(method, trials=4, space=two, startup_trials=1), kills_at_least=40)


@pytest.mark.filterwarnings("ignore:The (reported|constraint) value is ignored")
@pytest.mark.parametrize("method", ["gp", "tpe"])
def test_a_driver_killed_while_a_model_is_asked_gets_the_same_values_again(method):
    space = {"optim.lr": {"low": 1e-4, "high": 1e-1, "log": True}, "optim.warmup_fraction": {"low": 0.0, "high": 0.2}}
    sweep = spec(method, trials=3, space=space, startup_trials=1, start_with=[{"optim.lr": 3e-3}])
    assert_every_kill_is_survived(sweep, kills_at_least=30)


def test_who_excludes_a_trial_excludes_those_that_have_its_result():
    sweep, storage = spec(trials=9), MortalStorage()
    drive(Ledger(sweep, storage), {})
    trials = storage.get_all_trials(0)
    first = next(trial.user_attrs[col.SAME_AS] for trial in trials if col.SAME_AS in trial.user_attrs)
    Exclusions(sweep, storage).add([first], "a bad node")
    marks = excluded_in(storage.get_study_user_attrs(0))
    assert {t.number for t in trials if is_excluded(t, marks)} == {
        t.number for t in trials if first in (t.user_attrs[col.TRIAL], t.user_attrs.get(col.SAME_AS))
    }
    assert outcome(storage)


TRIED = {
    "a": CategoricalDistribution((True, None, "x")),
    "b": IntDistribution(2, 8, step=3),
    "c": FloatDistribution(0.8, 0.95, step=0.05),
    "single": FloatDistribution(1.0, 1.0),
}


def test_another_setting_is_found_as_long_as_there_is_one():
    tried = TriedSettings(TRIED)
    values = {"a": True, "b": 2, "c": 0.8, "single": 1.0}
    for number in range(3 * 3 * 4):
        assert not tried.exhausted
        values = tried.another(values, {}, seed=7)
        assert values not in tried
        for name, distribution in TRIED.items():
            assert distribution._contains(distribution.to_internal_repr(values[name]))
        tried.add(number, values)
    assert tried.exhausted
    assert tried.another(values, {}, seed=7) == values
    assert tried.first(values, before=36) == 35
    tried.remove(35, values)
    assert not tried.exhausted


def test_fixed_values_stay_and_reserved_settings_are_taken():
    free = {"a": CategoricalDistribution((1, 2)), "b": CategoricalDistribution((1, 2))}
    tried = TriedSettings(free, reserved=[{"a": 1, "b": 1}])
    assert tried.another({"a": 1, "b": 1}, {"a": 1}, seed=0) == {"a": 1, "b": 2}


def test_the_same_value_written_differently_is_the_same_setting():
    tried = TriedSettings({"c": FloatDistribution(0.8, 0.95, step=0.05)})
    tried.add(0, {"c": 0.8 + 0.05 + 0.05})
    assert {"c": 0.9} in tried
    assert {"c": 0.85} not in tried


def test_repeated_trials_need_no_rows_of_their_own_on_resume():
    book, rows = ledger(trials=9), {}
    drive_in(book, rows)
    check_trials(book.storage, book.spec, rows, "study.db")
    missing = dict(list(rows.items())[1:])
    with pytest.raises(InputError, match="must have rows of main-0000"):
        check_trials(book.storage, book.spec, missing, "study.db")


CONDITIONAL = {
    "optim.beta2": {"choices": [0.9, 0.99], "when": {"model.ffn": "gelu"}},
    "model.ffn": ["swiglu", "gelu"],
    "optim.beta1": [0.8, 0.9],
}


@pytest.mark.parametrize("method", ["optuna", "cmaes", "qmc", "random", "optuna.samplers:TPESampler"])
def test_every_setting_of_a_space_with_conditions_is_trained_once_before_any_is_repeated(method):
    book, rows = ledger(method, trials=8, space=CONDITIONAL), {}
    drive_in(book, rows)
    found = [tuple(sorted(trial.params.items())) for trial in book.studies["main"].study.trials]
    assert len(set(found[:6])) == 6  # 2 with swiglu, 4 with gelu
    assert len(rows) == 6
    assert book.over


@pytest.mark.parametrize("method", ["random", "optuna"])
def test_where_a_range_applies_to_some_trials_alone_the_others_are_not_trained_twice(method):
    decay = {"low": 0.0, "high": 0.3, "when": {"model.ffn": "gelu"}}
    space = {"model.ffn": ["swiglu", "gelu"], "optim.beta1": [0.8, 0.9], "optim.weight_decay": decay}
    book, rows = ledger(method, trials=20, space=space), {}
    drive_in(book, rows)
    found = [tuple(sorted(trial.params.items())) for trial in book.studies["main"].study.trials]
    assert len(rows) == len(set(found)) == 20
    assert book.why_stopped() == []


def test_an_entry_that_applies_to_no_trial_of_an_arm_does_not_tell_its_settings_apart():
    sweep = SweepSpec.model_validate({**dict(spec(trials=12, space=CONDITIONAL)), "compare": ["model.ffn"]})
    book = Ledger(sweep, optuna.storages.InMemoryStorage())
    drive_in(book, {})
    trained = {
        name: sum(col.SAME_AS not in trial.user_attrs for trial in state.study.trials)
        for name, state in book.studies.items()
    }
    assert trained == {"main-swiglu": 2, "main-gelu": 4}


@pytest.mark.filterwarnings("ignore:The (reported|constraint) value is ignored")
@pytest.mark.parametrize("method", ["random", "tpe"])
def test_a_driver_killed_before_any_write_repeats_the_same_results_of_a_space_with_conditions(method):
    space = {"model.ffn": ["swiglu", "gelu"], "optim.beta2": {"choices": [0.9, 0.99], "when": {"model.ffn": "gelu"}}}
    assert_every_kill_is_survived(spec(method, trials=5, space=space, startup_trials=1), kills_at_least=50)
