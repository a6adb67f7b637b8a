"""A sweep keeps the config of every trial, the weights of the best three of each size, and the winner's config."""

import optuna
import pytest
import yaml

from lmcore import columns as col
from sweeps.callbacks.trial_files import TrialFiles
from sweeps.rundir.checkpoints import checkpoint_file, checkpoint_files
from sweeps.rundir.folder import RunFolder
from sweeps.spec.load import load_spec
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.ledger import Ledger


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


@pytest.fixture
def ledger():
    """Two sizes that differ in their shape."""
    spec = SweepSpec.model_validate(
        {
            "name": "files",
            "data": {"source": "stdlib", "vocab_size": 300},
            "model": {"vocab_size": 300},
            "train": {"steps": 40, "eval_every": 10, "seed": 7},
            "search": {"method": "random", "trials": 16, "scheduler": "none"},
            "space": {"optim.lr": {"low": 1e-4, "high": 1e-1, "log": True}, "model.tie_embeddings": [True, False]},
            "sizes": [{"name": "xs", "model.d_model": 64}, {"name": "s", "train.batch_size": 4}],
        }
    )
    return Ledger(spec, optuna.storages.InMemoryStorage())


def row(step, loss):
    numbers = dict.fromkeys(col.REPORT_COLUMNS, 1.0) | dict.fromkeys(col.FINAL_COLUMNS)
    return {**numbers, col.STEP: step, col.VAL_LOSS: loss}


def run_next(ledger, files, folder, loss, step=40, fails=False, verdict=True):
    """The next trial, from start to end, with the two checkpoints that its worker would have written."""
    live = ledger.ask(ledger.sizes_left[0])
    files.on_trial_start(live)
    for saved in (10, step):
        checkpoint_file(folder.trial(live.id), saved).write_bytes(b"weights")
    if fails:
        ledger.fail(live.id, "ValueError: boom", "Traceback\nValueError: boom\n")
    elif verdict:
        ledger.report(live.id, row(step, loss))
    files.on_trial_end(ledger.end(live.id))
    return live


def kept(folder):
    return {path.parent.name for path in folder.path.glob("trials/*/*.safetensors")}


def test_the_best_three_of_each_size_keep_their_weights_at_every_moment(ledger, folder):
    files = TrialFiles(folder, ledger)
    losses: dict[str, dict[str, float]] = {"xs": {}, "s": {}}
    for loss in (5.0, 3.0, 4.0, 9.0, 4.5, 3.5, 3.9, 2.0, 6.0, 1.0, 2.5, 0.5):  # the sizes take turns
        live = run_next(ledger, files, folder, loss)
        losses[live.size][live.id] = loss
        best = [sorted(of_size, key=of_size.get)[:3] for of_size in losses.values()]
        assert kept(folder) == {*best[0], *best[1]}
    assert all(len(checkpoint_files(folder.trial(trial))) == 2 for trial in kept(folder))


def test_every_experiment_keeps_weights_that_can_be_exported(folder):
    names = ("baseline", "tied", "slow", "fast", "late")
    spec = SweepSpec.model_validate(
        {
            "name": "ablation",
            "data": {"source": "stdlib", "vocab_size": 300},
            "model": {"vocab_size": 300},
            "train": {"steps": 40, "eval_every": 10},
            "search": {"method": "experiments", "scheduler": "none"},
            "experiments": [{"name": name, "optim.lr": 1e-3 * place} for place, name in enumerate(names, start=1)],
        }
    )
    ledger = Ledger(spec, optuna.storages.InMemoryStorage())
    files = TrialFiles(folder, ledger)
    trials = [run_next(ledger, files, folder, loss).id for loss in (5.0, 4.0, 3.0, 2.0, 1.0)]
    assert kept(folder) == set(trials)


def test_trials_that_did_not_complete_keep_no_weights_but_an_interrupted_one_keeps_its_own(ledger, folder):
    files = TrialFiles(folder, ledger)
    run_next(ledger, files, folder, float("nan"), step=20)
    run_next(ledger, files, folder, 0.0, fails=True)
    assert kept(folder) == set()
    interrupted = run_next(ledger, files, folder, 0.0, verdict=False)
    assert kept(folder) == {interrupted.id}
    assert not folder.best.exists()


def test_only_a_new_best_rewrites_the_best_config_which_trains_exactly_its_run(ledger, folder):
    files = TrialFiles(folder, ledger)
    winners = {}
    for loss in (4.0, 4.0, 3.0, 3.0, 3.5, 3.0, float("nan"), 2.5):
        live = run_next(ledger, files, folder, loss)
        if loss < winners.get(live.size, (9.0,))[0]:
            winners[live.size] = loss, live
        assert {path.stem for path in folder.best.iterdir()} == set(winners)
        for size, (_, winner) in winners.items():
            spec = load_spec(folder.best / f"{size}.yaml")
            assert spec.run_for("main", {}) == winner.run
            assert (spec.name, spec.size_names, spec.trials_of("main")) == (f"best-{size}", ("main",), 1)
    assert [live.id for _, live in winners.values()] == ["xs-0001", "s-0003"]


def test_every_trial_has_a_config_that_trains_it_alone(ledger, folder):
    live = run_next(ledger, TrialFiles(folder, ledger), folder, 4.0)
    path = folder.trial(live.id) / "run.yaml"
    spec = load_spec(path)
    assert spec.run_for("main", {}) == live.run
    assert yaml.safe_load(path.read_text())["name"] == spec.name == "xs-0000"
    assert spec.search.storage is None
