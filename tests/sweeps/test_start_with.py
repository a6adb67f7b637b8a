"""search.start_with and --start-with: known good settings come first in every study, once."""

from pathlib import Path

import optuna
import pytest
from test_ledger import row
from test_resume import assert_every_kill_is_survived

from lmcore import columns as col
from lmcore.errors import InputError
from sweeps.cli.options import parse
from sweeps.run import load_sweep
from sweeps.rundir.folder import RunFolder, write_text
from sweeps.spec.load import load_spec
from sweeps.spec.sweep_spec import SweepSpec, dump_yaml
from sweeps.study.ledger import Ledger

SPACE = {
    "optim.lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "optim.beta2": {"choices": [0.9, 0.95, 0.99]},
    "train.seed": {"low": 0, "high": 8, "step": 2},
    "model.tie_embeddings": {"choices": [True, False]},
}
KNOWN = [{"optim.lr": 3e-3, "optim.beta2": 0.95}, {"train.seed": 4.0}]


def spec(start_with=KNOWN, method="optuna", trials=8, compare=(), sizes=(), **search):
    return SweepSpec.model_validate(
        {
            "name": "known",
            "train": {"steps": 40, "eval_every": 10},
            "search": {"method": method, "trials": trials, "start_with": start_with, **search},
            "space": SPACE,
            "sizes": sizes,
            "compare": compare,
        }
    )


def asked(sweep, count, storage=None):
    book = Ledger(sweep, storage or optuna.storages.InMemoryStorage())
    return [book.ask(book.sizes_left[0]) for _ in range(count)]


@pytest.mark.parametrize("method", ["optuna", "tpe", "gp", "cmaes", "qmc", "random"])
def test_known_settings_come_first_in_every_study_and_the_sampler_fills_what_they_leave_open(method):
    sizes = [{"name": "xs", "model.d_model": 64}, {"name": "s"}]
    for size in ("xs", "s"):
        found = [live.trial.params for live in asked(spec(method=method, sizes=sizes), 8) if live.size == size]
        assert (found[0]["optim.lr"], found[0]["optim.beta2"]) == (3e-3, 0.95)
        assert found[1]["train.seed"] == 4
        assert all(set(params) == set(SPACE) for params in found)
        assert len({params["optim.lr"] for params in found}) == 4


def test_a_setting_with_a_compared_field_is_for_its_arm_alone():
    known = [{"optim.lr": 3e-3, "model.tie_embeddings": True}, {"optim.lr": 2e-2}]
    rates = {"main-tied": [], "main-untied": []}
    for live in asked(spec(known, compare=["model.tie_embeddings"]), 4):
        rates[live.plan.id].append(live.run.optim.lr)
    assert rates["main-tied"] == [3e-3, 2e-2]
    assert rates["main-untied"][0] == 2e-2


@pytest.mark.filterwarnings("ignore:The (reported|constraint) value is ignored")
def test_a_driver_killed_before_any_write_begins_with_each_setting_once():
    assert_every_kill_is_survived(spec(trials=3, scheduler="none", startup_trials=3), kills_at_least=30)


def test_known_settings_are_enqueued_once_also_with_more_trials():
    storage = optuna.storages.InMemoryStorage()
    for trials in (3, 5, 5):
        book = Ledger(spec(trials=trials), storage)
        while book.sizes_left:
            live = book.ask("main")
            book.report(live.id, row(40, 3.0))
            book.end(live.id)
    begun = [trial.user_attrs.get("start_with") for trial in book.studies["main"].study.trials]
    assert begun == [0, 1, None, None, None]


@pytest.mark.parametrize(
    ("settings", "search", "message"),
    [
        ([{"optim.rl": 1e-3}], {}, "optim.rl of setting 1 is not a field; did you mean optim.lr?"),
        ([{"optim.beta1": 0.9}], {}, "must give fields of the space alone (got optim.beta1 in setting 1)"),
        ([{"optim.lr": 1.0}], {}, "optim.lr of setting 1 must be from 0.0001 to 0.1 (got 1.0)"),
        ([{"optim.lr": "fast"}], {}, "must be a number (got 'fast')"),
        ([{"optim.lr": True}], {}, "must be a number (got true)"),
        ([{"optim.beta2": 0.98}], {}, "optim.beta2 of setting 1 must be one of 0.9, 0.95, 0.99 (got 0.98)"),
        ([{"model.tie_embeddings": 1}], {}, "must be one of true, false (got 1)"),
        ([{"train.seed": 3}], {}, "train.seed of setting 1 must be in steps of 2 from 0 (got 3)"),
        ([{"train.seed": 2.5}], {}, "must be an integer (got 2.5)"),
        ([{}], {}, "must give a field that is searched"),
        ([KNOWN[1], dict(KNOWN[1])], {}, "must not list a setting twice"),
        (KNOWN, {"trials": 1}, "must not list more settings than main has trials (got 2 for 1)"),
        (KNOWN, {"method": "grid"}, "must be empty for the search method grid"),
    ],
)
def test_what_does_not_suit_the_space_is_refused_in_one_line(tmp_path, settings, search, message):
    import yaml

    file = tmp_path / "bad.yaml"
    values = {"search": {"trials": 8, "start_with": settings, **search}, "space": SPACE}
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(InputError) as refusal:
        load_spec(file)
    assert message in str(refusal.value)
    assert "search.start_with" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_settings_survive_sweep_yaml(tmp_path):
    write_text(tmp_path / "sweep.yaml", dump_yaml(spec()))
    assert load_spec(tmp_path / "sweep.yaml").search.start_with == tuple(KNOWN)


@pytest.fixture
def other(in_tmp):
    """runs/other, whose best settings are known for xs and m."""
    sizes = [{"name": "xs", "model.d_model": 64}, {"name": "m"}]
    sweep = spec((), sizes=sizes).with_vocab_size(512)
    folder = RunFolder(Path("runs/other").absolute())
    write_text(folder.sweep_yaml, dump_yaml(sweep))
    for name, lr in (("xs", 5e-3), ("m", 2e-2)):
        run = sweep.run_for(name, {"optim.lr": lr, "optim.beta2": 0.99, "train.seed": 6})
        write_text(folder.best / f"{name}.yaml", dump_yaml(sweep.single(f"best-{name}", run)))
    return folder


def begun_with(options, sizes):
    import yaml

    values = {"name": "next", "sizes": sizes, "search": {"trials": 8}}
    values["space"] = {"optim.lr": {"low": 1e-4, "high": 1e-2, "log": True}, "optim.beta2": [0.9, 0.99]}
    Path("next.yaml").write_text(yaml.safe_dump(values))
    sweep, _, _ = load_sweep(parse(["--config", "next.yaml", *options]))
    return sweep


@pytest.mark.parametrize("run", ["other", "runs/other"])
def test_another_runs_best_settings_of_the_same_size_are_taken(other, run):
    sweep = begun_with(["--start-with", run], [{"name": "xs", "model.d_model": 32}])
    assert sweep.search.start_with == ({"optim.lr": 5e-3, "optim.beta2": 0.99},)
    assert sweep.notes[-1].startswith(f"--start-with {run}: starts with the best of xs; left out: train.seed, which")


def test_without_a_common_size_all_are_taken_and_what_is_outside_the_space_is_said(other):
    sweep = begun_with(["--start-with", "other"], [{"name": "l", "model.d_model": 32}])
    assert sweep.search.start_with == ({"optim.lr": 5e-3, "optim.beta2": 0.99}, {"optim.beta2": 0.99})
    assert "optim.lr 0.02 of m" in sweep.notes[-1]
    assert "\n" not in sweep.notes[-1]


def test_a_run_that_cannot_be_started_with_is_refused_in_one_line(other):
    with pytest.raises(InputError, match=r"--start-with: must be the folder of a sweep"):
        begun_with(["--start-with", "nothing"], [])
    for file in other.best.iterdir():
        file.unlink()
    with pytest.raises(InputError, match=r"must be a sweep that has best settings already \(got other"):
        begun_with(["--start-with", "other"], [])


def test_start_with_is_not_for_a_sweep_that_is_resumed(capsys):
    with pytest.raises(SystemExit):
        parse(["--resume", "runs/other", "--start-with", "other"])
    assert "--start-with: is for a new sweep" in capsys.readouterr().err


def test_a_known_setting_is_marked_in_its_trial():
    first = asked(spec(), 1)[0]
    assert first.trial.user_attrs["start_with"] == 0
    assert first.status == col.RUNNING
