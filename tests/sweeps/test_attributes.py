"""A trial's attributes in its study: plain numbers and words for optuna-dashboard, beside the dicts that are read."""

import optuna
import pytest
import sqlalchemy

from lmcore import columns as col
from lmcore.device import training_flops
from lmcore.params import count_parameters, flops_per_token
from sweeps.rundir.folder import RunFolder
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.ledger import Ledger
from sweeps.study.storage import open_storage, quiet_optuna

SPEC = {
    "name": "shown",
    "train": {"steps": 20, "eval_every": 10},
    "search": {"method": "random", "trials": 4, "scheduler": "none"},
    "space": {"optim.lr": {"low": 1e-4, "high": 1e-1, "log": True}, "model.tie_embeddings": {"choices": [False, True]}},
    "compare": ["model.tie_embeddings"],
    "sizes": [{"name": "xs", "model.d_model": 64, "model.d_ff": 128}],
}
ABLATION = {**SPEC, "search": {"method": "experiments"}, "experiments": [{"name": "hot", "optim.lr": 0.1}]} | {
    "space": {},
    "compare": [],
}


def row(step, loss):
    values = dict.fromkeys((col.TRAIN_LOSS, col.VAL_LOSS), loss)
    return values | {col.STEP: step, col.TOKENS: step * 2048, col.ELAPSED_S: float(step), col.TOKENS_PER_S: 100.0}


def trained(ledger, steps=(10, 20)):
    """One trial, reported at these steps and ended; as its study has it."""
    trial = ledger.ask(ledger.sizes_left[0])
    for step in steps:
        ledger.report(trial.id, row(step, 3.0))
    ledger.end(trial.id)
    return trial, ledger.studies[trial.plan.id].study.trials[trial.trial.number]


def test_a_trial_has_size_arm_counts_and_flops_as_plain_values(in_tmp):
    quiet_optuna()
    folder = RunFolder.named("shown")
    folder.path.mkdir(parents=True)
    trial, frozen = trained(Ledger(SweepSpec.model_validate(SPEC), open_storage(None, folder)))
    attributes, run = frozen.user_attrs, trial.run
    counts = count_parameters(run.model)
    assert {name: attributes[name] for name in (col.TRIAL, col.SIZE, col.ARM, col.PHASE)} == {
        **{col.TRIAL: "xs-untied-0000", col.SIZE: "xs", col.ARM: "untied", col.PHASE: "search"}
    }
    assert (attributes[col.PARAMS_EXACT], attributes[col.PARAMS_NON_EMBEDDING]) == (counts.total, counts.non_embedding)
    assert attributes[col.PLANNED_FLOPS] == training_flops(run)
    assert (attributes[col.STEP], attributes[col.TOKENS], attributes[col.STATUS]) == (20, 20 * 2048, "complete")
    assert attributes[col.TRAIN_FLOPS] == 20 * 2048 * flops_per_token(run.model)
    assert (attributes[col.RUN], attributes[col.COUNTS][col.PARAMS_EXACT]) == (run.model_dump(), counts.total)
    dicts = {name for name, value in attributes.items() if not isinstance(value, int | float | str)}
    assert dicts == {col.RUN, col.COUNTS, col.LAST}


def test_an_experiment_is_an_attribute_and_what_does_not_apply_is_none():
    _, frozen = trained(Ledger(SweepSpec.model_validate(ABLATION), optuna.storages.InMemoryStorage()))
    assert frozen.user_attrs[col.EXPERIMENT] == "hot"
    assert col.ARM not in frozen.user_attrs


def test_attributes_are_written_in_one_transaction_each_when_a_trial_begins_and_when_it_ends(in_tmp):
    folder = RunFolder.named("shown")
    folder.path.mkdir(parents=True)
    storage = open_storage(None, folder)
    ledger = Ledger(SweepSpec.model_validate(SPEC), storage)
    commits, written = [], []
    sqlalchemy.event.listen(storage.engine, "commit", lambda _: commits.append(len(written)))
    sqlalchemy.event.listen(
        storage.engine,
        "before_cursor_execute",
        lambda *call: written.append(call[2]) if "INTO trial_user_attributes" in call[2] else None,
    )
    trained(ledger)
    counts = [n for n, before in zip(commits, [0, *commits], strict=False) if n > before]
    assert len(counts) == 2, counts


def test_a_trial_that_an_older_version_began_gets_the_plain_values_when_it_is_resumed():
    spec, storage = SweepSpec.model_validate(SPEC), optuna.storages.InMemoryStorage()
    ledger = Ledger(spec, storage)
    trial = ledger.ask("xs")
    number = trial.trial._trial_id
    old = {name: trial.trial.user_attrs[name] for name in (col.TRIAL, col.RUN, col.COUNTS)}
    storage._get_trial(number).user_attrs = old
    assert Ledger(spec, storage).ask("xs").id == trial.id
    assert storage.get_trial(number).user_attrs == trial.trial.user_attrs


def test_studies_name_what_is_minimized_and_one_that_an_older_version_named_keeps_its_name():
    spec, storage = SweepSpec.model_validate(SPEC), optuna.storages.InMemoryStorage()
    ledger = Ledger(spec, storage)
    names = [state.study.metric_names for state in ledger.studies.values()]
    assert names == [["validation loss (nats per token)"]] * 2
    study = ledger.studies["xs-untied"].study
    study.set_metric_names(["val_loss"])
    assert Ledger(spec, storage).studies["xs-untied"].study.metric_names == ["val_loss"]


@pytest.mark.parametrize("storage", [None, "sqlite:///shared.db"])
def test_studies_carry_the_sweeps_name_where_the_database_is_shared(storage):
    spec = SweepSpec.model_validate({**SPEC, "search": {**SPEC["search"], "storage": storage}})
    prefix = "shown/" if storage else ""
    assert [spec.study_name(plan) for plan in spec.studies] == [f"{prefix}xs-untied", f"{prefix}xs-tied"]
