"""Arms are searched on their own, and their best settings are trained again under new seeds."""

import json
import math

import numpy as np
import optuna
import pytest

from lmcore import columns as col
from lmcore.errors import InputError
from sweeps.spec.load import load_spec
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.confirmation import candidates
from sweeps.study.ledger import Ledger
from tests.sweeps.test_ledger import row

BASE = {
    "name": "arms",
    "train": {"steps": 20, "eval_every": 10, "batch_size": 4},
    "search": {"method": "random", "trials": 12, "scheduler": "none"},
    "space": {
        "optim.lr": {"low": 1e-4, "high": 1e-1, "log": True},
        "model.tie_embeddings": {"choices": [False, True]},
    },
    "compare": ["model.tie_embeddings"],
    "confirm": {"top": 3, "seeds": 3},
}


def spec(**changes):
    return SweepSpec.model_validate({**BASE, **changes})


def loss_of(run):
    """Best at lr = 1e-2; tied is worse by 0.3; a seed moves the loss by 0.01."""
    noise = np.random.default_rng([run.train.seed, run.data.seed, round(-1e6 * math.log(run.optim.lr))]).normal(0, 0.01)
    return 4.0 + (math.log10(run.optim.lr) + 2) ** 2 + 0.3 * run.model.tie_embeddings + noise


def drive(ledger, stop_after=None, order=0):
    """Train every trial; ids in the order in which they ended. `order` chooses which of the live ones ends next."""
    ended, generator = [], np.random.default_rng(order)
    while stop_after is None or len(ended) < stop_after:
        while (sizes := ledger.sizes_left) and len(ledger.live) < 3:
            ledger.ask(sizes[0])
        if not ledger.live:
            assert ledger.over
            break
        live = list(ledger.live.values())[generator.integers(len(ledger.live))]
        for step in (10, 20):
            ledger.report(live.id, row(step, loss_of(live.run) + 0.1 * (step == 10)))
        ledger.end(live.id)
        ended.append(live)
    return ended


def results(ledger):
    return {
        name: state.study.user_attrs[col.RESULT]
        for name, state in ledger.studies.items()
        if state.plan.phase == col.CONFIRM
    }


@pytest.fixture
def storage():
    return optuna.storages.InMemoryStorage()


def test_every_size_and_arm_has_a_study_and_its_share_of_the_trials(storage):
    ledger = Ledger(spec(sizes=[{"name": "xs"}, {"name": "s"}], confirm={"top": 0}), storage)
    ended = drive(ledger)
    assert sorted(live.id for live in ended) == sorted(
        f"{size}-{arm}-{n:04d}" for size in ("xs", "s") for arm in ("untied", "tied") for n in range(3)
    )
    assert all(live.run.model.tie_embeddings == ("-tied-" in live.id) for live in ended)
    assert {study.study_name for study in storage.get_all_studies()} == {"xs-untied", "xs-tied", "s-untied", "s-tied"}


def test_the_random_trials_of_the_arms_of_a_size_have_the_same_settings(storage):
    ended = drive(
        Ledger(spec(search={"method": "optuna", "trials": 8, "scheduler": "none"}, confirm={"top": 0}), storage)
    )
    rates = {live.id: live.run.optim.lr for live in ended}
    assert [rates[f"main-tied-{n:04d}"] for n in range(4)] == [rates[f"main-untied-{n:04d}"] for n in range(4)]
    assert len(set(rates.values())) == 4


def test_the_best_of_every_arm_are_trained_again_under_the_same_new_seeds(storage):
    ledger = Ledger(spec(), storage)
    ended = drive(ledger)
    again = [live for live in ended if live.of is not None]
    by_id = {live.id: live for live in ended}
    assert {live.run.train.seed for live in again} == {1, 2, 3}
    for live in again:
        original = by_id[live.of]
        assert live.run.train.seed == live.run.data.seed
        assert live.run.optim == original.run.optim
        assert live.run.model == original.run.model
        assert live.id.startswith(original.id.rpartition("-")[0] + "-confirm-")
    for arm in ("main-untied", "main-tied"):
        best = [c.id for c, _ in candidates(ledger.studies[arm])][:3]
        assert best == ledger.ranking(arm)[:3]
        assert {live.of for live in again if live.of.startswith(f"{arm}-")} <= set(best)
        assert results(ledger)[f"{arm}-confirm"]["leader"] == best[0]
    assert ledger.over


def test_a_confirmation_run_is_never_seen_by_the_sampler(storage):
    ledger = Ledger(spec(), storage)
    drive(ledger)
    for name in ("main-untied", "main-tied"):
        assert len(ledger.studies[name].study.trials) == 6
        assert all(col.OF not in trial.user_attrs for trial in ledger.studies[name].study.trials)


def test_the_result_does_not_depend_on_the_order_in_which_trials_end():
    found = []
    for order in range(5):
        ledger = Ledger(spec(), optuna.storages.InMemoryStorage())
        drive(ledger, order=order)
        found.append(results(ledger))
    assert all(one == found[0] for one in found)


@pytest.mark.parametrize("killed_after", range(10, 24))
def test_a_driver_that_takes_over_makes_the_same_runs_and_the_same_result(killed_after):
    whole = Ledger(spec(), optuna.storages.InMemoryStorage())
    expected = {(live.of, live.run.train.seed) for live in drive(whole) if live.of}
    storage = optuna.storages.InMemoryStorage()
    first = Ledger(spec(), storage)
    ended = drive(first, stop_after=killed_after)
    rows = {live.id: live.last_row | {col.STATUS: live.status} for live in ended}
    second = Ledger(spec(), storage, rows)
    ended += drive(second)
    assert {(live.of, live.run.train.seed) for live in ended if live.of} == expected
    assert len([live for live in ended if live.of]) == len(expected)
    assert results(second) == results(whole)


def test_an_interrupted_trial_of_the_search_keeps_the_confirmation_from_beginning(storage):
    ledger = Ledger(spec(), storage)
    drive(ledger, stop_after=9)
    while sizes := ledger.sizes_left:
        ledger.ask(sizes[0])
    first, *others = list(ledger.live)
    ledger.end(first)  # interrupted: still running
    for trial_id in others:
        ledger.report(trial_id, row(20, 4.0))
        ledger.end(trial_id)
    assert not ledger.sizes_left
    assert not ledger.studies["main-tied-confirm"].study.trials


def test_a_grid_over_seeds_is_ranked_by_the_mean_and_not_by_the_luckiest_seed(storage):
    grid = spec(
        search={"method": "grid", "scheduler": "none"},
        space={"optim.lr": [1e-3, 1e-2], "train.seed": [0, 1, 2]},
        compare=[],
        confirm={"top": 1, "seeds": 2},
    )
    lucky = {(1e-3, 1): 3.0, (1e-2, 0): 3.9, (1e-2, 1): 3.9, (1e-2, 2): 3.9}
    ledger = Ledger(grid, storage)
    confirmed = []
    while not ledger.over:
        live = ledger.ask(ledger.sizes_left[0])
        confirmed += [live.run] if live.of else []
        ledger.report(live.id, row(20, lucky.get((live.run.optim.lr, live.run.train.seed), 5.0)))
        ledger.end(live.id)
    assert [run.optim.lr for run in confirmed] == [1e-2, 1e-2]
    assert [run.train.seed for run in confirmed] == [3, 4]  # none that the grid has


def test_every_experiment_is_confirmed_and_none_is_beaten(storage):
    listed = [{"name": "baseline"}, {"name": "slow", "optim.lr": 1e-4}, {"name": "tied", "model.tie_embeddings": True}]
    ablation = spec(search={"method": "experiments", "scheduler": "none"}, space={}, compare=[], experiments=listed)
    ended = drive(Ledger(ablation, storage))
    runs = {(live.experiment, live.run.train.seed) for live in ended}
    assert runs == {(one["name"], seed) for one in listed for seed in range(4)}
    assert all(live.run.optim.lr == 1e-4 for live in ended if live.experiment == "slow")


def test_an_arm_whose_trials_were_all_pruned_is_confirmed_with_the_one_that_came_furthest(storage):
    ledger = Ledger(
        spec(search={"method": "random", "trials": 4, "scheduler": "asha"}, confirm={"top": 3, "seeds": 1}), storage
    )
    while ledger.sizes_left:
        live = ledger.ask(ledger.sizes_left[0])
        if live.of is None:
            ledger.report(live.id, row(10, 5.0 - live.trial.number))
            live.status = col.PRUNED
        else:
            ledger.report(live.id, row(20, 4.0))
        ledger.end(live.id)
    assert {name: one["leader"] for name, one in results(ledger).items()} == {
        "main-untied-confirm": "main-untied-0001",
        "main-tied-confirm": "main-tied-0001",
    }


def test_more_trials_on_resume_are_confirmed_again(storage):
    ledger = Ledger(spec(), storage)
    ended = drive(ledger)
    rows = {live.id: live.last_row | {col.STATUS: live.status} for live in ended}
    more = Ledger(spec(search={"method": "random", "trials": 20, "scheduler": "none"}), storage, rows)
    again = drive(more)
    best = {arm: more.ranking(arm)[0] for arm in ("main-untied", "main-tied")}
    assert {arm: results(more)[f"{arm}-confirm"]["leader"] for arm in best} == best
    assert not {live.id for live in again} & set(rows)


BAD = {
    "not in the space": (["optim.beta1"], {}, "compare: must name fields of the space (got optim.beta1, which is not"),
    "a range": (["optim.lr"], {}, "compare: must name fields with choices (got optim.lr, which is a range"),
    "twice": (["model.tie_embeddings"] * 2, {}, "compare: must name each field once"),
    "more arms than trials": (
        ["model.tie_embeddings"],
        {"trials": 1},
        "search.trials: must be at least 1 for each size",
    ),
    "one choice": (["model.norm"], {}, "compare: needs at least two choices"),
    "nothing else": (["model.tie_embeddings", "model.norm"], {}, None),
}


@pytest.mark.parametrize(("compare", "search", "message"), BAD.values(), ids=BAD)
def test_a_comparison_that_makes_no_sense_is_one_line(compare, search, message, tmp_path):
    file = tmp_path / "sweep.yaml"
    values = {**BASE, "search": {**BASE["search"], **search}, "compare": compare}
    values["space"] = {**BASE["space"], "model.norm": {"choices": ["pre"]}}
    if message is None:
        del values["space"]["optim.lr"], values["space"]["model.norm"]
        values["compare"], message = ["model.tie_embeddings"], "space: must hold a field besides those"
    file.write_text(json.dumps(values))
    with pytest.raises(InputError) as error:
        load_spec(file)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_confirmed_is_trained_on_equal_tokens(tmp_path):
    file = tmp_path / "sweep.yaml"
    space = {**BASE["space"], "train.steps": {"choices": [100, 200]}}
    search = {**BASE["search"], "allow_unequal_budgets": True}
    file.write_text(json.dumps({**BASE, "space": space, "search": search}))
    with pytest.raises(InputError, match=r"confirm\.top: must be 0 where trials of a size train on different numbers"):
        load_spec(file)
    assert load_spec(file, ["confirm.top=0"]).confirmations == ()


def test_experiments_are_not_compared_by_a_field_as_well(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(json.dumps({**BASE, "search": {"method": "experiments"}, "experiments": [{"name": "a"}]}))
    with pytest.raises(InputError, match="each of which is an arm"):
        load_spec(file)


def test_a_compared_field_that_is_set_is_compared_no_more_and_a_note_says_so(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(json.dumps(BASE))
    pinned = load_spec(file, ["model.tie_embeddings=true"])
    assert [plan.id for plan in pinned.studies] == ["main"]
    assert pinned.notes == ("model.tie_embeddings is set and therefore not compared",)


def test_a_flag_compares_what_the_file_only_searches(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(json.dumps({name: value for name, value in BASE.items() if name != "compare"}))
    compared = load_spec(file, compare=["model.tie_embeddings"])
    assert [plan.id for plan in compared.studies] == ["main-untied", "main-tied"]


def test_two_studies_of_one_name_are_refused(tmp_path):
    file = tmp_path / "sweep.yaml"
    sizes = [{"name": "xs"}, {"name": "xs-confirm", "model.num_layers": 2}]
    file.write_text(json.dumps({**BASE, "compare": [], "sizes": sizes}))
    with pytest.raises(InputError, match="'xs-confirm' twice"):
        load_spec(file)


def test_seeds_are_not_arms(tmp_path):
    file = tmp_path / "sweep.yaml"
    space = {**BASE["space"], "train.seed": {"choices": [0, 1]}}
    file.write_text(json.dumps({**BASE, "space": space, "compare": ["train.seed"]}))
    with pytest.raises(InputError, match="compare: must not name a seed"):
        load_spec(file)


def test_names_of_confirmation_runs_are_short_enough_for_their_files():
    long = spec(sizes=[{"name": "x" * 32}])
    for plan in (*long.studies, *long.confirmations):
        long.single(f"{plan.id}-00000", long.run_for(plan.size, {}))
    with pytest.raises(ValueError, match="must make a name of at most"):
        spec(sizes=[{"name": "x" * 32}], compare=["model.norm", "model.positions", "model.tie_embeddings"], space={
            **BASE["space"],
            "model.norm": {"choices": ["pre", "post"]},
            "model.positions": {"choices": ["rope", "none"]},
        })  # fmt: skip


def test_a_wide_range_of_seeds_leaves_seeds_to_confirm_with():
    wide = spec(space={**BASE["space"], "train.seed": {"low": 0, "high": 2**31 - 1}})
    assert len(wide.confirm_seeds) == 3


def test_trials_of_any_batch_size_are_evaluated_on_the_same_windows():
    space = {**BASE["space"], "train.batch_size": {"choices": [4, 6, 8]}}
    varied = spec(space=space, train={"tokens": 100_000, "eval_every": 10, "batch_size": 4})
    windows = {varied.run_for("main", {"train.batch_size": b}).train.final_eval_windows for b in (4, 6, 8)}
    assert windows == {117}  # 0.15 * 195 updates * 4 windows
    assert spec().run_for("main", {}).train.final_eval_windows == "auto"


def test_a_result_is_taken_back_while_more_trials_follow(storage):
    ledger = Ledger(spec(), storage)
    ended = drive(ledger)
    rows = {live.id: live.last_row | {col.STATUS: live.status} for live in ended}
    more = Ledger(spec(search={"method": "random", "trials": 20, "scheduler": "none"}), storage, rows)
    assert set(results(more).values()) == {None}
    drive(more)
    assert None not in results(more).values()


@pytest.mark.parametrize(
    ("before", "after"),
    [({"top": 0}, {"top": 3, "seeds": 3}), ({"top": 2, "seeds": 3}, {"top": 2, "seeds": 5})],
    ids=["confirmed afterwards", "more seeds"],
)
def test_a_sweep_that_has_ended_is_confirmed_on_resume_and_repeats_no_run(storage, before, after):
    first = Ledger(spec(confirm=before), storage)
    ended = drive(first)
    rows = {live.id: live.last_row | {col.STATUS: live.status} for live in ended}
    second = Ledger(spec(confirm=after), storage, rows)
    more = drive(second)
    assert more
    assert all(live.of for live in more)
    runs = [(live.of, live.run.train.seed) for live in (*ended, *more) if live.of]
    assert len(runs) == len(set(runs))
    seeds = {seed for of, seed in runs if of == second.ranking("main-tied")[0]}
    assert seeds == set(range(1, 1 + after["seeds"]))
    assert None not in results(second).values()
