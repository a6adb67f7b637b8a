"""search.start_with and --start-with: known good settings come first in every study, once."""

import math
from pathlib import Path

import optuna
import pytest
from linked_spaces import LABELS, LINKED, LR, WIDTH, linked
from test_ledger import row
from test_resume import assert_every_kill_is_survived

from lmcore import columns as col
from lmcore.errors import InputError
from sweeps.cli.options import parse
from sweeps.run import load_sweep
from sweeps.rundir.folder import RunFolder, write_text
from sweeps.spec.load import load_spec
from sweeps.spec.start_with import start_settings
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


def linked_with(*settings, space=LINKED, **values):
    return linked(space, method="optuna", search={"start_with": list(settings)}, **values)


def test_settings_are_given_in_the_values_that_fields_have_in_the_run():
    setting = {"optim.lr": 0.004, "train.batch_size": 32, "model.ffn": "swiglu", "optim.weight_decay": 0.2}
    small = {"model.d_model": 64, "model.d_ff": 176, "model.num_heads": 2}
    first = asked(linked_with({**setting, **small}), 1)[0]
    assert first.run.optim.lr == pytest.approx(0.004, rel=1e-12)
    assert first.trial.params["optim.lr"] == pytest.approx(0.004 / math.sqrt(2), rel=1e-12)
    assert first.trial.params["width"] == LABELS[0]
    assert (first.run.model.d_model, first.run.train.batch_size, first.run.optim.weight_decay) == (64, 32, 0.2)
    assert first.run.optim.min_lr_ratio == 0.05  # computed


@pytest.mark.parametrize(
    "width", [{"width": LABELS[1]}, {"width": {"model.d_ff": 352}}, {"model.d_model": 128}, {"model.num_heads": 4}]
)
def test_choices_of_several_fields_are_given_by_name_or_by_what_tells_them_apart(width):
    first = asked(linked_with({**width, "optim.min_lr_ratio": 0.1}), 1)[0]  # which is what is computed for it
    assert (first.run.model.d_model, first.run.model.d_ff) == (128, 352)


def test_fields_of_an_entry_that_does_not_apply_are_left_out_where_another_study_has_it():
    sizes = [{"name": "xs", "model.d_model": 64}, {"name": "s", "model.d_model": 128}]
    space = {"optim.lr": LR, "optim.beta2": {"choices": [0.9, 0.99], "when": {"model.d_model": 128}}}
    sweep = linked_with({"optim.lr": 0.004, "optim.beta2": 0.9}, space=space, sizes=sizes)
    assert [start_settings(sweep, plan) for plan in sweep.studies] == [
        [{"optim.lr": 0.004}],
        [{"optim.lr": 0.004, "optim.beta2": 0.9}],
    ]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"optim.lr": 0.004}, "optim.lr of setting 1 must come with train.batch_size, which its factor"),
        (
            {"optim.lr": 0.04, "train.batch_size": 8},
            ", as 0.04 is 0.707107 times that); correct it, or widen space.optim.lr",
        ),
        ({"model.d_model": 65}, "model.d_model of setting 1 must be those of one choice of space.width"),
        ({"model.d_model": 64, "model.d_ff": 352}, "(got model.d_model 64, model.d_ff 352)"),
        ({"width": "wide"}, "width of setting 1 must be 'd_model=64, d_ff=176, num_heads=2' or 'd_model=128"),
        ({"width": LABELS[0], "model.d_model": 64}, "model.d_model of setting 1 must be given once"),
        ({"optim.weight_decay": 0.2}, "optim.weight_decay of setting 1 must come with model.ffn, on which it depends"),
        (
            {"model.ffn": "gelu", "optim.weight_decay": 0.2},
            "must be left out with model.ffn 'gelu' (got 0.2); it is searched for model.ffn 'swiglu' alone",
        ),
        (
            {"model.d_model": 64, "optim.min_lr_ratio": 0.1},
            "must be 0.05, which is computed from 'model.d_model / 1280' (got 0.1); leave it out",
        ),
        ({"optim.min_lr_ratio": 0.1}, "must come with model.d_model, from which it is computed (got 0.1 alone)"),
    ],
)
def test_settings_that_no_trial_of_a_dependent_space_has_are_refused_in_one_line(setting, message):
    with pytest.raises(ValueError, match="Value error") as refusal:
        linked_with(setting)
    assert message in str(refusal.value)
    assert "search.start_with" in str(refusal.value)


def test_a_choice_must_be_told_apart_from_others_with_the_same_field():
    space = {"width": {"choices": [{"model.d_model": 64, "model.d_ff": d_ff} for d_ff in (128, 256)]}}
    with pytest.raises(
        ValueError, match=r"must tell the choices of space.width apart .* 2 of them have\); add model.d_ff"
    ):
        linked_with({"model.d_model": 64}, space=space)


def test_a_setting_for_an_arm_names_a_choice_of_several_fields_or_one_of_them():
    space = {"optim.lr": {**LR, "times": "128 / model.d_model"}, "width": WIDTH}
    sweep = linked_with(
        {"optim.lr": 0.004, "model.d_model": 64}, {"optim.lr": 0.006}, space=space, compare=["width"], trials=8
    )
    small, large = (start_settings(sweep, plan) for plan in sweep.studies)
    assert small == [{"optim.lr": 0.002}, {"optim.lr": 0.003}]
    assert large == [{"optim.lr": 0.006}]
    with pytest.raises(ValueError, match=r"must be one of 64 or 128, which are compared \(got model.d_model 32\)"):
        linked_with({"optim.lr": 0.004, "model.d_model": 32}, space=space, compare=["width"])


def test_the_best_of_another_sweep_is_taken_as_fields_and_proposed_as_this_space_needs_it(in_tmp):
    import yaml

    sweep = linked(LINKED).with_vocab_size(512)
    folder = RunFolder(Path("runs/linked").absolute())
    write_text(folder.sweep_yaml, dump_yaml(sweep))
    params = {"optim.lr": 0.004, "width": LABELS[1], "model.ffn": "swiglu", "optim.weight_decay": 0.2}
    run = sweep.run_for("main", sweep.layout("main").overrides({**params, "train.batch_size": 32}))
    write_text(folder.best / "main.yaml", dump_yaml(sweep.single("best", run)))
    values = {"name": "next", "search": {"trials": 8, "allow_unequal_budgets": True}}
    values["space"] = {**LINKED, "optim.weight_decay": {"low": 0.0, "high": 0.1, "when": {"model.ffn": "swiglu"}}}
    Path("next.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    next_sweep, _, _ = load_sweep(parse(["--config", "next.yaml", "--start-with", "linked"]))
    (setting,) = next_sweep.search.start_with
    assert setting.keys() == {"optim.lr", *WIDTH["choices"][0], "model.ffn", "train.batch_size"}
    assert setting["optim.lr"] == run.optim.lr
    assert next_sweep.notes[-1].endswith("starts with the best of main; left out: optim.weight_decay 0.2 of main")
    (proposed,) = start_settings(next_sweep, next_sweep.studies[0])
    assert proposed["optim.lr"] == pytest.approx(0.004, rel=1e-12)
    assert proposed["width"] == LABELS[1]


def test_a_driver_killed_before_any_write_begins_with_a_setting_of_a_dependent_space_once():
    setting = {"optim.lr": 0.004, "train.batch_size": 32, "model.ffn": "swiglu"}
    assert_every_kill_is_survived(linked_with(setting, trials=3), kills_at_least=30)
