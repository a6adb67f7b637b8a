"""What a resume may change: every row of the table, accepted or refused with its reason; and what is kept of it."""

import json

import pytest
from linked_spaces import LINKED, WIDTH, linked
from linked_spaces import LR as RATE

from lmcore.errors import InputError
from sweeps.cli.options import parse
from sweeps.provenance import history
from sweeps.provenance.changes import CONDITIONAL, FREE, REASONS, check_changes, may_change
from sweeps.provenance.history import change_line, changes_of, note_changes
from sweeps.provenance.resume import resumed_spec
from sweeps.run import load_sweep
from sweeps.rundir.folder import RunFolder, write_json, write_text
from sweeps.spec.load import load_spec
from sweeps.spec.sweep_spec import SweepSpec, dump_yaml

LR = {"low": 1e-3, "high": 3e-2, "log": True}
SIZES = [{"name": "xs", "model.d_model": 32}, {"name": "s", "model.d_model": 64}]
BEGUN = {
    "name": "mine",
    "model": {"d_model": 64, "num_layers": 1, "num_heads": 2, "d_ff": 64, "context_length": 32, "vocab_size": 300},
    "train": {"steps": 40, "eval_every": 10},
    "search": {"trials": 8},
    "space": {
        "optim.lr": LR,
        "optim.beta2": {"choices": [0.9, 0.95, 0.99]},
        "model.tie_embeddings": {"choices": [True, False]},
    },
}


def begun(**changes):
    return SweepSpec.model_validate({**BEGUN, **changes})


@pytest.fixture
def resume(in_tmp):
    """Begins a sweep and resumes it with `--set` texts."""

    def resume(sweep, *overrides, **flags):
        folder = RunFolder.named("mine")
        write_text(folder.sweep_yaml, dump_yaml(sweep.absolute()))
        return resumed_spec(folder, overrides, **flags)

    return resume


GRID = {"search": {"method": "grid", "trials": None}, "space": {"optim.beta2": {"choices": [0.9, 0.95]}}}
EXPERIMENTS = {"search": {"method": "experiments"}, "experiments": [{"name": "a", "optim.lr": 0.1}]}
ACCEPTED = [
    ({}, ("search.method=random",)),
    ({}, ("search.method=gp", "search.startup_trials=2", "search.seed=7")),
    ({}, ("search.scheduler=median",)),
    ({}, ("search.scheduler=hyperband", "search.grace_steps=20", "search.reduction_factor=2")),
    ({}, ("search.trials=20", "search.time=2h", "search.stop_at=1.5", "search.concurrent=3", "search.slots=2")),
    ({}, ("search.hung_after_s=60",)),
    ({}, ("space.optim.lr.high=0.1",)),
    ({}, ("space.optim.lr.low=0.01", "space.optim.lr.log=false")),
    ({}, ("space.optim.beta2.choices=[0.9, 0.999]",)),
    ({}, ("space.optim.beta2={low: 0.9, high: 0.999}",)),
    ({}, ("space.optim.beta1={low: 0.8, high: 0.98}",)),
    ({}, ("space.model.d_ff={choices: [64, 128]}",)),
    ({}, ("optim.beta2=0.95",)),
    ({}, ("optim.beta2=0.5",)),
    (
        {"space": {**BEGUN["space"], "optim.beta2": {"choices": [0.95]}}},
        (f"space={json.dumps({'optim.lr': LR})}", "model.tie_embeddings=true"),
    ),
    ({"sizes": SIZES}, ("search.trials=12", f"sizes={json.dumps([*SIZES, {'name': 'm', 'model.d_model': 128}])}")),
    ({"compare": ["model.tie_embeddings"]}, ("search.trials=10", "space.optim.lr.high=0.1")),
    (
        {"compare": ["optim.beta2"]},
        ("search.trials=20", "space.optim.beta2.choices=[0.9, 0.95, 0.99, 0.999]"),
    ),
    (GRID, ("space.optim.beta2.choices=[0.9, 0.95, 0.99]",)),
    (EXPERIMENTS, ("experiments=[{name: a, optim.lr: 0.1}, {name: b, optim.lr: 0.2}]",)),
    ({}, ("confirm.top=2", "confirm.seeds=4")),
    ({}, ("tracking.wandb=off", "notes=[hello]")),
    ({}, ("train.log_every=3",)),
]


@pytest.mark.parametrize(("changes", "overrides"), ACCEPTED)
def test_changes_after_which_trials_remain_comparable_are_accepted(resume, changes, overrides):
    assert resume(begun(**changes), *overrides) != begun(**changes).absolute()


END = "; start a new sweep with another --name"
COMPARABLE = "so that new trials are comparable with earlier ones"
SCHEDULE = "because the schedule of earlier trials ends there and ended trials are final"
REFUSED = [
    ({}, ("train.steps=80",), f"train.steps: must stay 40, {SCHEDULE} (got 80){END}"),
    ({}, ("train.tokens=9e9",), f"train.steps: must stay 40, {SCHEDULE} (got null)"),
    ({}, ("model.num_layers=2",), f"model.num_layers: must stay 1, {COMPARABLE} (got 2){END}"),
    ({}, ("data.seed=1",), f"data.seed: must stay 0, {COMPARABLE}"),
    ({}, ("train.dtype=bfloat16",), f"train.dtype: must stay 'auto', {COMPARABLE}"),
    ({}, ("optim.weight_decay=0.2",), f"optim.weight_decay: must stay 0.1, {COMPARABLE}"),
    ({}, ("name=other",), "name: must stay 'mine', as it is the name of the folder and of the studies"),
    ({}, ("compare=[model.tie_embeddings]",), "compare: must stay (), because each arm has studies of its own"),
    ({}, ("search.storage=sqlite:///x.db",), "search.storage: must stay null, because the studies of earlier trials"),
    ({}, ("search.method=grid", "space.optim.lr.points=2"), "the trials of the method grid are listed when a sweep"),
    (GRID, ("search.method=random",), "search.method: must stay 'grid', because the trials of the method grid are"),
    (GRID, ("space.optim.beta2.choices=[0.9]",), "as a grid may grow, but the points that it has stay in it"),
    (GRID, ("space.optim.lr={low: 0.1, high: 0.2}",), "as a grid may grow"),
    (EXPERIMENTS, ("experiments=[{name: b, optim.lr: 0.2}]",), "as experiments may be added at the end of the list"),
    ({}, (f"sizes={json.dumps(SIZES)}",), "as sizes may be added, but those that have trials stay what they are"),
    ({"sizes": SIZES}, (f"sizes={json.dumps(SIZES[:1])}",), "as sizes may be added, but those that have trials"),
    ({"sizes": SIZES}, ("search.trials=4",), "search.trials: must not shrink (got 2 for xs, which began with 4)"),
    (
        {"compare": ["optim.beta2"]},
        ("search.trials=20", "space.optim.beta2.choices=[0.9, 0.95]"),
        "space.optim.beta2: must stay {'choices': [0.9, 0.95, 0.99]}, as arms may be added, but those that have",
    ),
    (
        {},
        (f"space={json.dumps({'optim.lr': LR, 'model.tie_embeddings': {'choices': [True, False]}})}",),
        "space.optim.beta2: must be given the value at which it stays, because it has varied (got an entry less); "
        "add --set optim.beta2=..., or leave the entry in",
    ),
    ({}, ("search.reproducible=true",), "search.reproducible: must stay false, because earlier decisions were made in"),
    (
        {"search": {"trials": 8, "reproducible": True, "concurrent": 4}},
        ("search.concurrent=8",),
        "search.concurrent: must stay 4, because what is decided in a reproducible sweep follows from it (got 8)",
    ),
    (
        {},
        ("search.allow_unequal_budgets=true", "space.train.steps=[20, 40]"),
        "search.allow_unequal_budgets: must stay",
    ),
    (
        {"search": {"trials": 8, "allow_unequal_budgets": True}},
        ("space.train.steps=[20, 40]",),
        f"space.train.steps: must stay null, {SCHEDULE}",
    ),
    (
        {"train": {"tokens": 20480, "steps": None, "eval_every": 10}},
        ("space.train.batch_size=[8, 16]",),
        "train.eval_tokens: must stay null, as space.train.batch_size would change it",
    ),
    ({"confirm": {"top": 2}}, ("confirm.top=1",), "confirm.top: must not shrink"),
    (
        {"confirm": {"top": 2}},
        ("space.train.seed=[0, 1]",),
        "confirm: must stay (1, 2, 3), as all are confirmed under seeds",
    ),
]


@pytest.mark.parametrize(("changes", "overrides", "message"), REFUSED)
def test_other_changes_are_refused_in_one_line_with_the_reason(resume, changes, overrides, message):
    with pytest.raises(InputError) as refusal:
        resume(begun(**changes), *overrides)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_every_row_of_the_table_is_tried_above():
    tried = {text.partition("=")[0] for _, overrides in ACCEPTED for text in overrides}
    tried |= {text.partition("=")[0] for _, overrides, _ in REFUSED for text in overrides}
    rows = {*FREE, *CONDITIONAL, *REASONS} - {"confirm", "train.tokens_per_parameter"}
    rows -= {"ladder", "transfer"}  # see test_ladder_sizes.py
    assert {path for path in rows if not path.startswith("tracking.")} <= tried
    assert not any(may_change(path) for path in REASONS)


def test_a_part_of_an_entry_is_set_only_where_there_is_one(resume):
    with pytest.raises(InputError, match=r"space\.optim\.beta1\.low: must be in the space, .* before a part of it"):
        resume(begun(), "space.optim.beta1.low=0.5")
    assert resume(begun(), "space.optim.lr.high=0.1").space["optim.lr"].high == 0.1


def test_a_changed_config_and_resume_auto_are_judged_by_the_same_table(in_tmp):
    command = ("--config", "mine.yaml", "--resume", "auto")
    config = in_tmp / "mine.yaml"
    write_text(config, dump_yaml(begun()))
    spec, folder, _ = load_sweep(parse(command))
    write_text(folder.sweep_yaml, dump_yaml(spec.absolute()))
    write_text(folder.metrics, "a row\n")
    space = {**BEGUN["space"], "optim.lr": {**LR, "high": 0.1}, "optim.beta1": {"low": 0.8, "high": 0.98}}
    del space["optim.beta2"]
    changed = begun(space=space, search={"trials": 9, "method": "random", "scheduler": "median"}, optim={"beta2": 0.99})
    write_text(config, dump_yaml(changed))
    spec, _, resume = load_sweep(parse(command))
    assert resume
    assert (spec.space, spec.search, spec.optim) == (changed.space, changed.search, changed.optim)
    write_text(config, dump_yaml(begun(train={"steps": 50, "eval_every": 10})))
    with pytest.raises(
        InputError, match=r"^--resume auto: runs/mine holds a sweep already, and train\.steps: must stay"
    ):
        load_sweep(parse(command))


def test_the_manifest_keeps_every_change_in_order_and_each_is_a_line(resume):
    folder, after = RunFolder.named("mine"), resume(begun(), "search.method=random", "space.optim.lr.high=0.1")
    assert note_changes(folder, after, {"main": 3}) == []  # there is no manifest, so there are no trials
    write_json(folder.manifest, {"schema": 2})
    lines = [change_line(change) for change in note_changes(folder, after, {"main": 3})]
    assert lines == [
        "search.method: optuna -> random from trial 3 on",
        "space.optim.lr: high 0.03 -> 0.1 from trial 3 on",
    ]
    write_text(folder.sweep_yaml, dump_yaml(after))
    more = resumed_spec(folder, ["optim.beta2=0.99", "tracking.wandb=off"])
    note_changes(folder, more, {"main": 5})
    write_text(folder.sweep_yaml, dump_yaml(more))
    assert note_changes(folder, more, {"main": 5}) == []
    kept = changes_of(folder)[history.CHANGES]
    assert [(change["path"], change["trials"]["main"]) for change in kept] == [
        ("search.method", 3),
        ("space.optim.lr", 3),
        ("optim.beta2", 5),
        ("space.optim.beta2", 5),
    ]


def test_a_change_that_a_kill_prevented_is_not_kept(resume):
    folder, after = RunFolder.named("mine"), resume(begun(), "search.method=random", "search.seed=3")
    write_json(folder.manifest, {"schema": 2})
    note_changes(folder, after, {"main": 3})  # and the driver is killed here
    other = resumed_spec(folder, ["search.scheduler=none"])
    note_changes(folder, other, {"main": 3})
    write_text(folder.sweep_yaml, dump_yaml(other))
    assert [change["path"] for change in changes_of(folder)[history.CHANGES]] == ["search.scheduler"]


def test_a_sweep_that_is_not_changed_is_not_refused():
    for changes in ({}, GRID, EXPERIMENTS, {"sizes": SIZES}, {"compare": ["optim.beta2"]}):
        check_changes(begun(**changes), begun(**changes), given=())
    check_changes(load_spec(parse([]).config), load_spec(parse([]).config), given=())


def linked_begun(space=LINKED, **values):
    return linked(space, name="mine", **values)


def without(*names):
    return {name: entry for name, entry in LINKED.items() if name not in names}


WIDER = [*WIDTH["choices"], {"model.d_model": 96, "model.d_ff": 256, "model.num_heads": 2}]
BUDGETS = {
    "length": {"choices": [{"train.steps": 20, "optim.beta1": 0.8}, {"train.steps": 40, "optim.beta1": 0.9}]},
    "optim.lr": RATE,
}
DEPENDENT_ACCEPTED = [
    (LINKED, {**LINKED, "optim.lr": {**RATE, "times": "train.batch_size / 16"}}, ()),
    (LINKED, {**LINKED, "optim.lr": RATE}, ()),
    (LINKED, {**LINKED, "width": {"choices": WIDER}}, ()),
    (LINKED, {**LINKED, "optim.weight_decay": {"low": 0.0, "high": 0.3}}, ()),
    (LINKED, {**LINKED, "optim.min_lr_ratio": {"low": 0.0, "high": 0.2}}, ()),
    (LINKED, without("optim.min_lr_ratio"), ("optim.min_lr_ratio=0.1",)),
    (LINKED, without("optim.weight_decay"), ("optim.weight_decay=0.2",)),
    (
        LINKED,
        without("width", "optim.beta2"),
        ("model.d_model=64", "model.d_ff=176", "model.num_heads=2", "optim.beta2=0.95"),
    ),
    (
        without("optim.beta2"),
        {**without("width", "optim.beta2"), "model.d_model": [64, 128]},
        ("model.d_ff=176", "model.num_heads=2"),
    ),
    (without("width", "optim.beta2", "optim.min_lr_ratio"), without("optim.beta2", "optim.min_lr_ratio"), ()),
    ({"optim.lr": RATE, "optim.beta1": [0.8, 0.9]}, {"optim.lr": RATE, "optim.beta1": {"equals": "1 - optim.lr"}}, ()),
]
OPEN = "must be given the value at which it stays, because it"
DEPENDENT_REFUSED = [
    (
        {**LINKED, "optim.min_lr_ratio": {"equals": "model.d_model / 640"}},
        f"space.optim.min_lr_ratio: must stay {{'equals': 'model.d_model / 1280'}}, {COMPARABLE} (got",
    ),
    ({**LINKED, "optim.eps": {"equals": "optim.lr / 1e5"}}, f"space.optim.eps: must stay null, {COMPARABLE} (got"),
    (
        without("optim.min_lr_ratio"),
        f"space.optim.min_lr_ratio: {OPEN} was computed (got an entry less); add --set optim.min_lr_ratio=...",
    ),
    (
        without("width", "optim.beta2"),
        f"space.width: {OPEN} has varied (got an entry less); add --set model.d_model=... --set model.d_ff=... "
        "--set model.num_heads=..., or leave the entry in",
    ),
    (without("optim.weight_decay"), f"space.optim.weight_decay: {OPEN} has varied (got an entry less)"),
    ({**LINKED, "train.steps": {"equals": "40"}}, f"space.train.steps: must stay null, {SCHEDULE}"),
]


@pytest.mark.parametrize(("before", "after", "overrides"), DEPENDENT_ACCEPTED)
def test_changes_of_dependent_entries_after_which_trials_remain_comparable_are_accepted(
    resume, before, after, overrides
):
    assert resume(linked_begun(before), f"space={json.dumps(after)}", *overrides).space == linked_begun(after).space


@pytest.mark.parametrize(("after", "message"), DEPENDENT_REFUSED)
def test_changes_of_dependent_entries_that_would_change_what_is_not_searched_are_refused(resume, after, message):
    with pytest.raises(InputError) as refusal:
        resume(linked_begun(), f"space={json.dumps(after)}")
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_an_entry_that_sets_the_budget_may_have_other_choices_and_nothing_else(resume):
    more = {**BUDGETS, "length": {"choices": [*BUDGETS["length"]["choices"], {"train.steps": 60, "optim.beta1": 0.9}]}}
    before = linked_begun(BUDGETS, train={"steps": None})
    assert resume(before, f"space={json.dumps(more)}").space["length"].choices[2]["train.steps"] == 60
    with pytest.raises(InputError, match=f": must stay .*, {SCHEDULE}"):
        resume(before, f"space={json.dumps({'optim.lr': RATE})}", "train.steps=40", "optim.beta1=0.9")


def test_the_base_value_that_some_trials_have_must_stay(in_tmp):
    command = ("--config", "mine.yaml", "--resume", "auto")
    config = in_tmp / "mine.yaml"
    write_text(config, dump_yaml(linked_begun()))
    spec, folder, _ = load_sweep(parse(command))
    write_text(folder.sweep_yaml, dump_yaml(spec.absolute()))
    write_text(folder.metrics, "a row\n")
    write_text(config, dump_yaml(linked_begun(optim={"weight_decay": 0.2})))
    with pytest.raises(InputError, match=r"optim\.weight_decay: must stay 0\.1, so that new trials are comparable"):
        load_sweep(parse(command))
    after = linked_begun(without("width", "optim.beta2"), model={"d_model": 64, "d_ff": 176, "num_heads": 2})
    write_text(config, dump_yaml(after))
    with pytest.raises(InputError, match=r"space\.optim\.beta2: must be given"):
        resumed_spec(folder, [f"space={json.dumps(without('optim.beta2'))}"])
    spec, _, resume = load_sweep(parse(command))
    assert resume
    assert (spec.space, spec.model.d_model) == (after.space, 64)


def test_a_grid_keeps_its_points_only_if_they_make_the_same_runs(resume):
    space = {"optim.beta1": [0.8, 0.9], "optim.lr": {"choices": [0.001, 0.002], "times": "optim.beta1"}}
    before = linked_begun(space, method="grid", trials=None)
    more = {**space, "optim.lr": {"choices": [0.001, 0.002, 0.004], "times": "optim.beta1"}}
    assert resume(before, f"space={json.dumps(more)}").space["optim.lr"].choices == (0.001, 0.002, 0.004)
    other = {**space, "optim.lr": {"choices": [0.001, 0.002], "times": "2 * optim.beta1"}}
    with pytest.raises(InputError, match="as a grid may grow, but the points that it has stay in it"):
        resume(before, f"space={json.dumps(other)}")


def test_compared_choices_of_several_fields_may_grow_and_not_shrink(resume):
    before = linked_begun({"optim.lr": RATE, "width": WIDTH}, compare=["width"])
    assert resume(before, f"space.width.choices={json.dumps(WIDER)}", trials=12).space["width"].choices[2]
    with pytest.raises(InputError, match="as arms may be added, but those that have trials stay"):
        resume(before, f"space.width.choices={json.dumps(WIDER[1:])}", trials=12)
