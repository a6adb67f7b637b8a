"""Budgets: runs hold explicit steps, the latest budget wins and says so, and trials that are compared train equally."""

import re

import optuna
import pytest
from pydantic import ValidationError

from lmcore import columns as col
from lmcore.errors import InputError
from lmcore.params import count_parameters
from lmcore.reports import next_report
from lmcore.runfile.paths import describe
from lmcore.runfile.run_file import load_run
from sweeps.spec.load import load_kept, load_spec
from sweeps.spec.sweep_spec import SweepSpec, dump_yaml
from sweeps.study.integrity import check_trials
from sweeps.study.ledger import Ledger
from sweeps.study.storage import quiet_optuna

LR = {"optim.lr": {"low": 1e-3, "high": 1e-2, "log": True}}
BATCHES = {"train.batch_size": [8, 16, 24]}


def load(tmp_path, text, overrides=()):
    path = tmp_path / "tiny.yaml"
    path.write_text(text)
    return load_spec(path, overrides)


def refused(**fields):
    with pytest.raises(ValidationError) as error:
        SweepSpec.model_validate({"name": "a", **fields})
    message = str(describe(error.value))
    assert "\n" not in message
    return message


def test_runs_hold_their_budget_as_steps_alone():
    spec = SweepSpec(name="a", train={"tokens": 2048 * 30}, space=LR)
    train = spec.run_for("main", {"optim.lr": 0.002}).train
    assert (train.steps, train.tokens, train.tokens_per_parameter, train.eval_tokens) == (30, None, None, None)
    assert SweepSpec(name="a", space=LR).run_for("main", {}).train.steps == 200


def test_tokens_per_parameter_give_each_size_its_own_steps():
    sizes = [{"name": "xs", "model.d_model": 64}, {"name": "s", "model.d_model": 128}]
    spec = SweepSpec(name="a", train={"tokens_per_parameter": 2.0}, space=LR, sizes=sizes)
    runs = [spec.run_for(size, {}) for size in spec.size_names]
    assert [run.steps for run in runs] == [
        round(2 * count_parameters(run.model).non_embedding / run.tokens_per_step) for run in runs
    ]
    assert runs[0].steps < runs[1].steps


def test_a_size_and_an_experiment_replace_the_budget_below_them():
    spec = SweepSpec(
        name="a",
        train={"steps": 50},
        search={"method": "experiments", "allow_unequal_budgets": True},
        sizes=[{"name": "xs", "train.tokens": 2048 * 7}, {"name": "s"}],
        experiments=[
            {"name": "base"},
            {"name": "long", "train.tokens_per_parameter": 1.0},
            {"name": "n", "train.steps": 3},
        ],
    )
    assert [spec.run_for(size, {}).steps for size in spec.size_names] == [7, 50]
    N = count_parameters(spec.base.model).non_embedding
    for size in spec.size_names:
        assert spec.run_for(size, spec.experiment("long")).steps == round(N / 2048)
        assert spec.run_for(size, spec.experiment("n")).steps == 3


def test_a_size_of_a_file_replaces_its_budget_also_outside_a_sweep(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("train: {steps: 50}\nsizes:\n- {name: xs, train.tokens: 20480}")
    assert load_run(path)[0].steps == 10


def test_a_budget_that_is_set_replaces_the_files_and_says_so(tmp_path):
    text = "train: {steps: 50}\nspace: {optim.lr: [1e-3, 1e-2]}"
    spec = load(tmp_path, text, ["train.tokens=1e6"])
    assert (spec.train.steps, spec.train.tokens, spec.run_for("main", {}).steps) == (None, 10**6, 488)
    assert spec.notes == ("train.tokens is set and replaces train.steps 50",)
    twice = load(tmp_path, text, ["train.tokens=1e6", "train.tokens_per_parameter=20"])
    assert twice.train.tokens_per_parameter == 20.0
    assert twice.notes[-1] == "train.tokens_per_parameter is set and replaces train.tokens 1000000"
    (tmp_path / "sweep.yaml").write_text(dump_yaml(twice))
    assert load_spec(tmp_path / "sweep.yaml") == twice


def test_a_budget_that_is_set_takes_other_budgets_out_of_the_space_and_says_so(tmp_path):
    spec = load(tmp_path, "space: {optim.lr: [1e-3, 1e-2], train.steps: [10, 20]}", ["train.tokens=1e6"])
    assert set(spec.space) == {"optim.lr"}
    assert spec.notes == ("train.tokens is set and therefore train.steps is not searched",)


def test_a_budget_that_sizes_have_in_another_field_is_not_replaced_and_that_is_said(tmp_path):
    text = "space: {optim.lr: [1e-3, 1e-2]}\nsizes:\n- {name: xs, train.steps: 5}\n- {name: s}"
    assert load(tmp_path, text, ["train.tokens=1e6"]).notes == ("train.tokens is set, but xs set their own",)
    with pytest.raises(InputError, match=r"^--set train\.tokens: must not be set by every size as well \(got xs\)"):
        load(tmp_path, text.replace("\n- {name: s}", ""), ["train.tokens=1e6"])


def test_two_budgets_in_one_place_are_one_line_with_a_remedy(tmp_path):
    with pytest.raises(InputError) as error:
        load(tmp_path, "train:\n  steps: 50\n  tokens: 1000\nsearch: {trials: 1}")
    assert str(error.value).endswith(
        ":2: train.steps: must be the only budget (got 50, and tokens 1000); keep one of them"
    )
    searched = refused(space={"train.steps": [1, 2], "train.tokens": [1, 2]}, search={"allow_unequal_budgets": True})
    assert searched.startswith("space.train.tokens: must be the only budget that is searched (got space.train.steps")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"space": BATCHES}, "space.train.batch_size: must give all trials .* (got 204,800 and 409,600); "
            "set train.tokens instead of train.steps, or search.allow_unequal_budgets: true"),
        ({"space": {"train.steps": {"low": 10, "high": 20}}}, "space.train.steps: .*(got 20,480 and 40,960); leave "),
        ({"space": {"train.tokens": [20_480, 40_960]}}, "space.train.tokens: must give all trials .*; leave that out"),
        ({"train": {"tokens_per_parameter": 20.0}, "space": {"model.num_layers": [2, 4]}},
            "space.model.num_layers: .*; set train.tokens instead of train.tokens_per_parameter, or"),
        ({"search": {"method": "experiments"}, "experiments": [{"name": "a"}, {"name": "b", "train.batch_size": 32}]},
            "experiments.b: must give all trials of a size the same number of training tokens (got 409,600 "),
        ({"train": {"tokens": 1000}, "space": {"train.batch_size": [8, 64]}}, "space.train.batch_size: .*; raise "),
    ],
)  # fmt: skip
def test_unequal_budgets_within_a_size_are_refused_in_one_line_with_the_remedy(fields, message):
    pattern = re.escape(message).replace(r"\.\*", ".*").replace(r"\ ", " ")
    assert re.match(pattern, refused(**fields))
    allowed = {**fields, "search": {**fields.get("search", {}), "allow_unequal_budgets": True}}
    assert SweepSpec.model_validate({"name": "a", **allowed})


@pytest.mark.parametrize(
    "fields",
    [
        {"train": {"tokens": 10**6}, "space": BATCHES},
        {
            "train": {"tokens": 10**6},
            "space": {"train.batch_size": {"low": 1, "high": 64}},
            "search": {"method": "grid"},
        },
        {"train": {"tokens_per_parameter": 20.0}, "space": {**LR, **BATCHES, "model.tie_embeddings": [True, False]}},
        {"train": {"tokens": 10**6}, "space": {"model.num_layers": [2, 4], "model.num_heads": {"low": 1, "high": 2}}},
        {"space": {"train.steps": [50], "train.batch_size": [4], **LR}},
        {"space": LR, "sizes": [{"name": "xs", "train.steps": 10}, {"name": "s", "train.batch_size": 64}]},
        # What is not trained need not be equal.
        {"space": LR, "experiments": [{"name": "long", "train.steps": 1000}]},
        {"space": BATCHES, "search": {"method": "experiments"}, "experiments": [{"name": "a", "train.steps": 10}]},
        {
            "search": {"method": "experiments"},
            "experiments": [
                {"name": "a", "train.tokens": 10**6},
                {"name": "b", "train.tokens": 10**6, "train.batch_size": 9},
            ],
        },
    ],
)
def test_budgets_that_are_equal_to_within_half_an_update_are_accepted(fields):
    assert SweepSpec.model_validate({"name": "a", **fields})


def test_trials_with_different_batches_report_at_equal_tokens():
    spec = SweepSpec(name="a", train={"tokens": 2**20, "batch_size": 16, "eval_every": 50}, space=BATCHES)
    runs = [spec.run_for("main", {"train.batch_size": B}) for B in (8, 16, 24)]
    assert [run.train.eval_tokens for run in runs] == [50 * 16 * 128] * 3
    assert spec.run_for("main", {}).train.eval_tokens == 50 * 16 * 128
    alone = spec.single("best", runs[0])
    assert alone.run_for("main", {}) == runs[0]


def test_each_size_counts_the_tokens_between_reports_by_its_own_base():
    sizes = [{"name": "xs", "train.batch_size": 4}, {"name": "s", "model.context_length": 64}]
    experiments = [{"name": "a"}, {"name": "b", "train.batch_size": 32}]
    search = {"method": "experiments"}
    spec = SweepSpec(name="a", train={"tokens": 10**6}, sizes=sizes, experiments=experiments, search=search)
    assert spec.run_for("xs", {"train.batch_size": 32}).train.eval_tokens == 25 * 4 * 128
    assert spec.run_for("s", {"train.batch_size": 32}).train.eval_tokens == 25 * 16 * 64


@pytest.mark.parametrize(
    "fields",
    [
        {"space": LR},
        {"space": LR, "sizes": [{"name": "xs", "train.batch_size": 4}]},
        {"space": {**LR, **BATCHES}, "search": {"allow_unequal_budgets": True}},
    ],
)
def test_reports_come_every_so_many_updates_unless_batches_differ_under_equal_budgets(fields):
    spec = SweepSpec.model_validate({"name": "a", **fields})
    assert spec.run_for(spec.size_names[0], {}).train.eval_tokens is None


def test_a_kept_file_from_before_the_rule_goes_on_without_it(tmp_path):
    spec = SweepSpec(name="a", space=BATCHES, search={"allow_unequal_budgets": True})
    path = tmp_path / "sweep.yaml"
    now = dump_yaml(spec)
    path.write_text("".join(line for line in now.splitlines(keepends=True) if "allow_unequal" not in line))
    with pytest.raises(InputError, match="must give all trials of a size the same number"):
        load_spec(path)
    assert load_kept(path) == spec
    path.write_text(now.replace("allow_unequal_budgets: true", "allow_unequal_budgets: false"))
    with pytest.raises(InputError, match="must give all trials of a size the same number"):
        load_kept(path)


def aligned_ledger(storage, last_rows=None):
    quiet_optuna()
    fields = {"method": "random", "trials": 9, "scheduler": "asha", "grace_steps": 10, "reduction_factor": 2}
    train = {"tokens": 40 * 16 * 128, "batch_size": 16, "eval_every": 10}
    spec = SweepSpec(name="aligned", train=train, search=fields, space={**LR, **BATCHES})
    return spec, Ledger(spec, storage, last_rows or {})


def row(step, loss):
    return {col.STEP: step, col.TRAIN_LOSS: loss, col.VAL_LOSS: loss, col.ELAPSED_S: float(step)}


def test_trials_with_different_batches_are_compared_at_equal_tokens_under_the_steps_of_the_base_run():
    storage = optuna.storages.InMemoryStorage()
    _, book = aligned_ledger(storage)
    paused_at = set()
    while sizes := book.sizes_left:
        live = book.ask(sizes[0])
        step = live.last_row[col.STEP] if live.last_row else 0
        while book.live[live.id].status == col.RUNNING:
            step = next_report(live.run, step)
            # Later trials are worse, so that some are paused.
            book.report(live.id, row(step, 3.0 + live.trial.number + 1 / step))
        if live.status == col.PAUSED:
            paused_at.add(live.run.train.batch_size)
        book.end(live.id)
    trials = book.studies["main"].study.get_trials()
    assert {trial.params["train.batch_size"] for trial in trials} == {8, 16, 24}
    assert len(paused_at) > 1
    for trial in trials:
        steps = list(trial.intermediate_values)
        assert steps == [10, 20, 30, 40][: len(steps)]


def test_a_sweep_with_different_batches_resumes_where_it_was():
    storage = optuna.storages.InMemoryStorage()
    spec, book = aligned_ledger(storage)
    rows = {}
    for _ in range(4):
        live = book.ask("main")
        step = next_report(live.run, 0)
        rows[live.id] = row(step, 3.0)
        book.report(live.id, rows[live.id])
    check_trials(storage, spec, rows, "study.db")
    _, again = aligned_ledger(storage, rows)
    live = again.ask("main")
    assert live.last_row == rows[live.id]
    step = next_report(live.run, live.last_row[col.STEP])
    again.report(live.id, row(step, 2.9))
    assert list(again.studies["main"].study.get_trials()[live.trial.number].intermediate_values) == [10, 20]
    rows[live.id] = row(next_report(live.run, step), 2.8)
    with pytest.raises(InputError, match="must have the loss of main-0000 at step"):
        check_trials(storage, spec, rows, "study.db")
