"""One contract for every search method: what is asked, what the study is told, and what is never the best."""

import math

import optuna
import pytest
from optuna.trial import TrialState

from lmcore import columns as col
from lmcore.errors import InputError
from sweeps.rundir.folder import RunFolder
from sweeps.spec.settings import METHODS, SCHEDULERS
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study import samplers, schedulers
from sweeps.study.claims import check_claims, claim_studies
from sweeps.study.ledger import Ledger
from sweeps.study.storage import open_storage, quiet_optuna

SPACE = {
    "optim.lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "optim.warmup_fraction": {"low": 0.0, "high": 0.2},
    "model.tie_embeddings": {"choices": [True, False]},
}
EXPERIMENTS = [{"name": f"e{i}", "optim.lr": 10.0 ** -(1 + i % 4)} for i in range(12)]


def spec(method, trials=12, scheduler="asha", sizes=(), **search):
    return SweepSpec.model_validate(
        {
            "name": "contract",
            "train": {"steps": 40, "eval_every": 10},
            "search": {"method": method, "trials": trials, "scheduler": scheduler, "startup_trials": 3, **search},
            "sizes": sizes,
            **({"experiments": EXPERIMENTS} if method == "experiments" else {"space": SPACE}),
        }
    )


def ledger(tmp_path, method, **options):
    return Ledger(spec(method, **options), optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/study.db"))


def in_memory(method, **options):
    """For what does not depend on the storage: SQLite syncs every write to disk."""
    return Ledger(spec(method, **options), optuna.storages.InMemoryStorage())


def row(step, loss, train_loss=None):
    return {
        col.STEP: step,
        col.TOKENS: step * 2048,
        col.TRAIN_LOSS: loss if train_loss is None else train_loss,
        col.VAL_LOSS: loss,
        col.VAL_LOSS_SE: 0.01,
        col.GRAD_NORM: 1.0,
        col.LR: 1e-3,
        col.TOKENS_PER_S: 100.0,
        col.ELAPSED_S: float(step),
    }


def loss_of(live, step):
    """A surface around lr = 1e-2 that falls with time; rates above 0.05 diverge."""
    lr = live.run.optim.lr
    return math.nan if lr > 0.05 else 3.0 + abs(math.log10(lr) + 2) + 1.0 / step


def drive(ledger, crash=()):
    """Run every trial to its end; live trials by id."""
    ended = {}
    while sizes := ledger.sizes_left:
        live = ledger.ask(sizes[0])
        known = live.last_row[col.STEP] if live.last_row else 0  # it was paused there
        for step in range(known + 10, 41, 10):
            if live.trial.number in crash and step == 20:
                ledger.fail(live.id, "ValueError: boom", "Traceback\nValueError: boom\n")
                break
            loss = 4.0 if live.trial.number in crash else loss_of(live, step)
            if ledger.report(live.id, row(step, loss)) != col.RUNNING:
                break
        ended[live.id] = ledger.end(live.id)
    return ended


def study(tmp_path, size="main"):
    return optuna.load_study(study_name=size, storage=f"sqlite:///{tmp_path}/study.db")


@pytest.fixture(autouse=True)
def _quiet():
    quiet_optuna()


def test_every_method_and_scheduler_that_a_config_may_name_can_be_built():
    assert set(samplers.SAMPLERS) | {"optuna"} == set(METHODS)  # which is gp or tpe
    assert set(schedulers.SCHEDULERS) == set(SCHEDULERS)


def test_a_complete_trial_is_told_with_its_final_loss_and_ranked_by_it():
    book = in_memory("random", trials=4, scheduler="none")
    finals = [3.2, 3.1, None, math.nan]  # None: repeated from a checkpoint of an older version
    for final in finals:
        live = book.ask("main")
        assert book.report(live.id, row(20, 4.0) | {col.FINAL_VAL_LOSS: None}) == col.RUNNING
        book.report(live.id, row(40, 3.15) | ({} if final is None else {col.FINAL_VAL_LOSS: final}))
        book.end(live.id)
    trials = book.studies["main"].study.trials
    assert [trial.value for trial in trials] == [3.2, 3.1, 3.15, math.inf]
    assert [trial.intermediate_values for trial in trials] == [{20: 4.0, 40: 3.15}] * 4  # the small set's
    assert trials[1].user_attrs[col.LAST][col.FINAL_VAL_LOSS] == 3.1
    assert trials[3].user_attrs[col.LAST][col.FINAL_VAL_LOSS] is None
    assert trials[3].user_attrs[col.MESSAGE] == "final_val_loss is nan at step 40"
    assert book.ranking("main") == ["main-0001", "main-0002", "main-0000"]
    assert book.best_losses == {"main": (3.1, "main-0001")}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("method", METHODS)
def test_the_study_is_told_the_truth_whatever_the_search_and_the_scheduler(tmp_path, method, scheduler):
    if scheduler == "asha":
        ended = drive(ledger(tmp_path, method), crash=(0,))
        trials = study(tmp_path).trials
    else:
        book = in_memory(method, scheduler=scheduler)
        ended = drive(book, crash=(0,))
        trials = book.studies["main"].study.trials
    assert [t.number for t in trials] == list(range(12))
    assert sorted(ended) == [f"main-{n:04d}" for n in range(12)]
    for trial in trials:
        live = ended[trial.user_attrs[col.TRIAL]]
        assert trial.user_attrs[col.STATUS] == live.status
        expected = {
            col.COMPLETE: TrialState.COMPLETE,
            col.PRUNED: TrialState.PRUNED,
            col.DIVERGED: TrialState.COMPLETE,
            col.FAILED: TrialState.FAIL,
        }
        assert trial.state == expected[live.status]
        if live.status == col.COMPLETE:
            assert trial.value == trial.intermediate_values[40] == pytest.approx(loss_of(live, 40))
            assert trial.constraints == {"0": 0.0}
        if live.status == col.PRUNED:
            last = max(trial.intermediate_values)
            assert last < 40
            assert trial.intermediate_values[last] == pytest.approx(loss_of(live, last))
            assert trial.user_attrs[col.LAST][col.VAL_LOSS] == trial.intermediate_values[last]
        if live.status == col.DIVERGED:
            assert trial.value == math.inf
            assert trial.constraints == {"0": 1.0}
            assert "nan" in trial.user_attrs[col.MESSAGE]
        if live.status == col.FAILED:
            assert trial.user_attrs[col.MESSAGE] == "ValueError: boom"
            assert list(trial.intermediate_values) == [10]
    assert {t.user_attrs[col.STATUS] for t in trials} >= {col.COMPLETE, col.FAILED}
    assert trials[0].state == TrialState.FAIL


@pytest.mark.parametrize("method", [m for m in METHODS if m != "experiments"])
def test_suggestions_stay_inside_the_space_and_make_valid_runs(method):
    for live in drive(in_memory(method)).values():
        assert set(live.trial.params) == set(SPACE)
        assert 1e-4 <= live.run.optim.lr <= 1e-1
        assert live.run.optim.lr == live.trial.params["optim.lr"]
        assert 0 <= live.run.optim.warmup_fraction <= 0.2
        assert live.run.model.tie_embeddings is live.trial.params["model.tie_embeddings"]


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_makes_the_same_search_and_another_seed_another(method):
    def runs(seed):
        return [live.run for live in drive(in_memory(method, seed=seed)).values()]

    first = runs(0)
    assert first == runs(0)
    if method != "experiments":
        assert first != runs(1)


@pytest.mark.parametrize("method", ["optuna", "tpe", "random", "qmc", "gp", "cmaes"])
def test_no_suggestion_repeats_and_each_size_has_its_own_search(method):
    sizes = [{"name": "xs", "model.d_model": 64}, {"name": "s"}]
    book = in_memory(method, sizes=sizes)
    ended = drive(book)
    settings = [tuple(live.trial.params.values()) for live in ended.values()]
    assert len(set(settings)) == 12
    assert sorted(ended) == [f"s-{n:04d}" for n in range(6)] + [f"xs-{n:04d}" for n in range(6)]
    assert {name: len(state.study.trials) for name, state in book.studies.items()} == {"xs": 6, "s": 6}
    assert ended["xs-0000"].run.model.d_model == 64


def test_a_diverged_trial_is_never_the_best_and_tpe_moves_away():
    book = in_memory("tpe", trials=40, scheduler="none")
    ended = drive(book)
    diverged = [live.trial.number for live in ended.values() if live.status == col.DIVERGED]
    assert diverged, "the space must hold rates that diverge"
    best = book.studies["main"].study.best_trial
    assert best.user_attrs[col.STATUS] == col.COMPLETE
    complete = [t for t in book.studies["main"].study.trials if t.user_attrs[col.STATUS] == col.COMPLETE]
    in_order = [t.user_attrs[col.TRIAL] for t in sorted(complete, key=lambda t: t.value)]
    assert book.ranking("main") == in_order
    assert in_order[0] == best.user_attrs[col.TRIAL]
    # A tenth of the space diverges; once TPE models it (from trial 3 on), it goes there less than chance would.
    assert sum(number >= 20 for number in diverged) <= 2


def test_a_validation_loss_above_2_ln_v_is_divergence_and_stays_an_intermediate_value(tmp_path):
    book = ledger(tmp_path, "random", trials=2)
    live = book.ask("main")
    assert book.report(live.id, row(10, 2 * math.log(2048) - 0.01)) == col.RUNNING
    assert book.report(live.id, row(20, 2 * math.log(2048) + 0.01)) == col.DIVERGED
    book.end(live.id)
    trial = study(tmp_path).trials[0]
    assert trial.value == math.inf
    assert "2 ln V" in trial.user_attrs[col.MESSAGE]
    assert list(trial.intermediate_values) == [10, 20]


def test_an_infinite_training_loss_is_divergence_though_validation_is_finite():
    book = in_memory("random", trials=2)
    live = book.ask("main")
    assert book.report(live.id, row(10, 4.0, train_loss=math.inf)) == col.DIVERGED


def test_trials_know_their_counts_and_their_whole_run(tmp_path):
    from lmcore.config import ModelConfig, RunSpec
    from lmcore.params import count_parameters

    live = ledger(tmp_path, "random").ask("main")
    attributes = study(tmp_path).trials[0].user_attrs
    run = RunSpec.model_validate(attributes[col.RUN])
    assert run == live.run
    assert (
        attributes[col.COUNTS][col.PARAMS_EXACT] == count_parameters(ModelConfig(**attributes[col.RUN]["model"])).total
    )


def test_an_interrupted_trial_stays_running_in_the_study(tmp_path):
    book = ledger(tmp_path, "random")
    live = book.ask("main")
    book.report(live.id, row(10, 4.0))
    book.end(live.id)
    assert study(tmp_path).trials[0].state == TrialState.RUNNING
    assert book.statuses() == {"main-0000": col.RUNNING}


def test_two_sweeps_in_one_database_have_studies_of_their_own(tmp_path):
    specs = [
        spec("random", trials=2, storage="postgresql://somewhere").model_copy(update={"name": name})
        for name in ("one", "two")
    ]
    for one_spec in specs:
        names = [one_spec.study_name(plan) for plan in one_spec.studies]
        folder = RunFolder(tmp_path / one_spec.name)
        folder.path.mkdir()
        storage = open_storage(f"sqlite:///{tmp_path}/shared.db", folder)
        claim_studies(storage, names, resume=False)
        drive(Ledger(one_spec, storage))
        with pytest.raises(InputError, match="--name"):
            check_claims(storage, names, resume=False)
    assert sorted(optuna.get_all_study_names(storage)) == ["one/main", "two/main"]


def test_every_grid_point_is_run_once():
    book = Ledger(
        SweepSpec.model_validate(
            {
                "name": "grid",
                "train": {"steps": 40, "eval_every": 10},
                "search": {"method": "grid", "scheduler": "none"},
                "space": {"optim.lr": [1e-3, 1e-2], "optim.beta2": {"low": 0.9, "high": 0.99, "points": 3}},
            }
        ),
        optuna.storages.InMemoryStorage(),
    )
    points = [(live.run.optim.lr, round(live.run.optim.beta2, 6)) for live in drive(book).values()]
    assert sorted(points) == [(lr, b) for lr in (1e-3, 1e-2) for b in (0.9, 0.945, 0.99)]


@pytest.mark.parametrize("scheduler", [name for name in SCHEDULERS if name != "none"])
def test_every_scheduler_stops_hopeless_trials_and_none_stops_none(tmp_path, scheduler):
    stopped = drive(ledger(tmp_path, "random", trials=24, scheduler=scheduler))
    assert sum(live.status == col.PRUNED for live in stopped.values()) >= 3
    kept = drive(in_memory("random", trials=24, scheduler="none"))
    assert {live.status for live in kept.values()} <= {col.COMPLETE, col.DIVERGED}


def test_no_trial_is_stopped_before_its_grace_is_over():
    ended = drive(in_memory("random", trials=24, grace_steps=20))
    pruned = [live.last_row[col.STEP] for live in ended.values() if live.status == col.PRUNED]
    assert pruned
    assert min(pruned) >= 20
