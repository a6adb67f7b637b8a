"""Resuming: a driver killed before any of its writes is followed by one that ends the sweep as if undisturbed."""

import json
import math
from pathlib import Path

import optuna
import pytest
from test_ledger import loss_of, row, spec

from lmcore import columns as col
from lmcore.errors import InputError
from sweeps.callbacks.metrics_file import last_rows
from sweeps.provenance.resume import (
    check_data,
    differences,
    manifest_of,
    resumed_manifest,
    resumed_spec,
    resumed_tokens,
)
from sweeps.rundir.folder import RunFolder, write_json, write_text
from sweeps.spec.settings import SCHEDULERS, absolute_url
from sweeps.spec.sweep_spec import SweepSpec, dump_yaml
from sweeps.study.ledger import Ledger

WRITES = (
    "create_new_trial",
    "set_trial_param",
    "set_trial_state_values",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "set_study_user_attr",
    "write_row",  # to metrics.jsonl, in truth
)


class Killed(BaseException):
    """Raised in place of a kill; neither our handlers nor Optuna's catch it."""


class MortalStorage(optuna.storages.InMemoryStorage):
    """Raises Killed instead of making write number `fatal`, and works again afterwards, as a database does."""

    fatal = None
    written = 0

    def __getattribute__(self, name):
        if name in WRITES:
            if self.written == self.fatal:
                self.fatal = None
                raise Killed
            self.written += 1
        return super().__getattribute__(name)

    def write_row(self, rows, trial, row):
        rows[trial] = row


def seeded_loss(live, step):
    """A loss that also depends on the run's seed."""
    return loss_of(live, step) + 0.01 * math.sin(live.run.train.seed * (1 + live.run.optim.lr))


def drive(ledger, rows):
    """Run trials one by one, from where their last rows are; `rows` is what metrics.jsonl would hold."""

    def given_up(live):
        ledger.storage.write_row(rows, live.id, live.last_row | {col.STATUS: live.status})

    ledger.on_given_up = given_up
    while sizes := ledger.sizes_left:
        live = ledger.ask(sizes[0])
        known = live.last_row[col.STEP] if live.last_row else 0
        for step in (10, 20, 30, 40):
            if step > known:
                reported = row(step, seeded_loss(live, step))
                status = ledger.report(live.id, reported)
                ledger.storage.write_row(rows, live.id, reported | {col.STATUS: status})
                if status != col.RUNNING:
                    break
        ledger.end(live.id)


def outcome(storage):
    """All that the studies say in the end."""
    return {
        study.study_name: [
            study.user_attrs,
            *(
                (t.state, t.params, t.values, t.intermediate_values, t.user_attrs)
                for t in storage.get_all_trials(study._study_id)
            ),
        ]
        for study in storage.get_all_studies()
    }


EARLY_STOPPING = {
    **{scheduler: {"scheduler": scheduler} for scheduler in SCHEDULERS},
    "asha with several rungs in a report": {"scheduler": "asha", "grace_steps": 2},
    "asha-stop with several rungs in a report": {"scheduler": "asha-stop", "grace_steps": 2},
}


@pytest.mark.filterwarnings("ignore:The (reported|constraint) value is ignored")
@pytest.mark.parametrize("scheduler", EARLY_STOPPING)
@pytest.mark.parametrize("method", ["random", "tpe", "grid", "experiments"])
def test_a_driver_killed_before_any_write_is_resumed_to_the_same_trials_and_statuses(method, scheduler):
    sweep = spec(method, trials=5, **EARLY_STOPPING[scheduler])
    assert_every_kill_is_survived(sweep, kills_at_least=40)


@pytest.mark.filterwarnings("ignore:The (reported|constraint) value is ignored")
@pytest.mark.parametrize("method", ["random", "experiments"])
def test_a_driver_killed_before_any_write_of_a_confirmed_sweep_is_resumed_to_the_same_result(method):
    compare = ["model.tie_embeddings"] if method == "random" else []
    confirmed = {"compare": compare, "confirm": {"top": 2, "seeds": 2}}
    sweep = SweepSpec.model_validate({**dict(spec(method, trials=4, scheduler="asha")), **confirmed})
    assert_every_kill_is_survived(sweep, kills_at_least=80)


@pytest.mark.filterwarnings("ignore:The (reported|constraint) value is ignored")
def test_a_driver_killed_before_any_write_of_a_ladder_is_resumed_to_the_same_predictions():
    sizes = [{"name": "xs", "model.d_model": 32}, {"name": "s", "model.d_model": 64}]
    values = {"sizes": sizes, "transfer": "on", "confirm": {"top": 1, "seeds": 1}}
    sweep = SweepSpec.model_validate({**dict(spec("random", trials=8, scheduler="asha")), **values})
    assert_every_kill_is_survived(sweep, kills_at_least=80)


def assert_every_kill_is_survived(sweep, kills_at_least):
    whole = MortalStorage()
    drive(Ledger(sweep, whole), {})
    wanted = repr(outcome(whole))  # repr: NaN is equal to itself there
    kills = 0
    for fatal in range(whole.written):
        storage, rows = MortalStorage(), {}
        storage.fatal = fatal
        try:
            drive(Ledger(sweep, storage), rows)
        except Killed:
            kills += 1
            drive(Ledger(sweep, storage, rows), rows)
        assert repr(outcome(storage)) == wanted, fatal
    assert kills == whole.written > kills_at_least


def test_rungs_that_optuna_wrote_for_an_earlier_version_still_count():
    storage = optuna.storages.InMemoryStorage()
    begun = Ledger(spec("random", trials=2, scheduler="asha-stop"), storage).ask("main")
    begun.trial.report(2.0, 10)
    assert not begun.trial.should_prune()  # an earlier version asked the study itself, which noted a rung
    resumed = Ledger(spec("random", trials=2, scheduler="asha-stop"), storage, {begun.id: row(10, 2.0)})
    first, second = resumed.ask("main"), resumed.ask("main")
    assert first.id == begun.id
    assert resumed.report(second.id, row(10, 2.5)) == col.PRUNED
    assert resumed.report(first.id, row(20, 1.9)) == col.RUNNING


def test_a_finished_sweep_resumed_with_more_trials_repeats_none():
    for method in ("random", "optuna", "tpe", "grid", "experiments"):
        storage = MortalStorage()
        drive(Ledger(spec(method, trials=4), storage), {})
        before = outcome(storage)["main"][1:]
        drive(Ledger(spec(method, trials=7), storage), {})
        after = outcome(storage)["main"][1:]
        assert repr(after[:4]) == repr(before)
        runs = {json.dumps(attributes[col.RUN], sort_keys=True) for _, _, _, _, attributes in after}
        assert len(after) == 7
        assert len(runs) == (4 if method == "experiments" else 7)  # twelve experiments have four rates


@pytest.fixture
def folder(in_tmp):
    """runs/contract, in which a sweep of four trials was begun."""
    begun = RunFolder.named("contract")
    write_text(begun.sweep_yaml, dump_yaml(spec("random", trials=4)))
    return begun


def test_a_resumed_sweep_may_have_more_trials_other_slots_and_other_tracking(folder):
    same = resumed_spec(folder, ())
    assert same == spec("random", trials=4)
    more = resumed_spec(folder, ("search.concurrent=3",), trials=9, slots=2, wandb="off")
    assert (more.search.trials, more.search.concurrent, more.search.slots, more.tracking.wandb) == (9, 3, 2, "off")
    assert more.space == same.space


@pytest.mark.parametrize(
    ("overrides", "flags", "message"),
    [
        (
            ("train.steps=400",),
            {},
            "train.steps: must stay 40, because the schedule of earlier trials ends there and ended trials are final "
            "(got 400); start a new sweep with another --name",
        ),
        (("train.seed=1",), {}, "train.seed: must stay 0, so that new trials are comparable with earlier ones (got 1)"),
        (("optim.weight_decay=0.3",), {}, "optim.weight_decay: must stay"),
        (("model.d_model=32",), {}, "model.d_model: must stay"),
        ((), {"trials": 3}, "search.trials: must not shrink (got 3 for main, which began with 4)"),
    ],
)
def test_changes_that_make_old_and_new_trials_incomparable_are_refused_in_one_line(folder, overrides, flags, message):
    with pytest.raises(InputError) as refusal:
        resumed_spec(folder, overrides, **flags)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_folder_without_a_sweep_is_not_resumed(in_tmp):
    with pytest.raises(InputError, match=r"--resume: must be the folder of a sweep"):
        RunFolder.of_sweep(Path("runs/nothing"))


def test_the_manifest_keeps_its_origin_and_differences_are_reported(folder):
    begun = {
        **{"created": "2026-01-01", "command": ["run.py"], "commit": "a", "hardware": {"processor": "x"}},
        **{"versions": {"torch": "2.13.0", "optuna": "5.0.0", "numpy": "2"}, "slots": 1},
    }
    now = {**begun, "created": "2026-01-02", "commit": "b", "slots": 2}
    assert manifest_of(folder) == {}
    write_json(folder.manifest, begun)
    assert differences(manifest_of(folder), now) == ["commit was a, and is b now"]
    newer = {**begun, "versions": {**begun["versions"], "lmsweep": "9"}}
    assert differences(begun, newer) == ["versions.lmsweep was None, and is 9 now"]
    twice = resumed_manifest(resumed_manifest(begun, now), now)
    assert (twice["created"], twice["commit"], twice["slots"]) == ("2026-01-01", "a", 2)
    assert [entry["commit"] for entry in twice["resumed"]] == ["b", "b"]


def test_tokens_prepared_again_must_have_the_fingerprint_in_the_manifest(folder, small_tokens):
    check_data(folder, small_tokens)  # there is no manifest yet
    write_json(folder.manifest, {"data": {"fingerprint": small_tokens.fingerprint}})
    assert resumed_tokens(folder) is None  # somebody has removed them
    check_data(folder, small_tokens)
    write_json(folder.manifest, {"data": {"fingerprint": "f00d"}})
    with pytest.raises(InputError, match=r"runs/contract/tokens: must have the fingerprint .* f00d .*restore them"):
        check_data(folder, small_tokens)


def test_a_relative_storage_path_is_found_from_another_directory(folder, tmp_path_factory, monkeypatch):
    shared = spec("random", trials=4, storage="sqlite:///all.db").absolute()
    write_text(folder.sweep_yaml, dump_yaml(shared))
    here = f"sqlite:///{Path.cwd()}/all.db"
    assert resumed_spec(folder, ("search.storage=sqlite:///all.db",)).search.storage == here
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert resumed_spec(folder, (), storage=here).search.storage == here
    with pytest.raises(InputError, match=r"search\.storage: must stay"):
        resumed_spec(folder, ("search.storage=sqlite:///all.db",))


@pytest.mark.parametrize(
    ("url", "absolute"),
    [
        (None, None),
        ("sqlite:////data/all.db", "sqlite:////data/all.db"),
        ("sqlite+pysqlite:///all.db?timeout=9", "sqlite+pysqlite:///{}/all.db?timeout=9"),
        ("postgresql://ann@host/lm", "postgresql://ann@host/lm"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("sqlite:///file:all.db?uri=true", "sqlite:///file:all.db?uri=true"),  # an address of SQLite's own
        ("sqlite:///file%3Aall.db?uri=true", "sqlite:///file%3Aall.db?uri=true"),  # as SQLAlchemy writes it
    ],
)
def test_only_the_path_of_a_file_is_made_absolute(url, absolute):
    assert absolute_url(url) == (absolute and absolute.format(Path.cwd()))


def test_a_cut_off_row_is_ignored_and_a_null_loss_is_nan(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert last_rows(path) == {}
    lines = [{col.TRIAL: "a", **row(10, 3.0)}, {col.TRIAL: "a", **row(20, 2.0)}, {col.TRIAL: "b", **row(10, None)}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path.write_text(text + json.dumps(lines[0])[:-1])
    rows = last_rows(path)
    assert rows["a"][col.STEP] == 20
    assert math.isnan(rows["b"][col.VAL_LOSS])
    final = {col.TRIAL: "c", **row(10, 3.0), col.FINAL_VAL_LOSS: None}
    path.write_text(text + "".join(json.dumps(final | {col.FINAL_WINDOWS: n}) + "\n" for n in (None, 240)))
    assert math.isnan(last_rows(path)["c"][col.FINAL_VAL_LOSS])  # it was measured, and not finite
    path.write_text(text + json.dumps(final | {col.FINAL_WINDOWS: None}) + "\n")
    assert last_rows(path)["c"][col.FINAL_VAL_LOSS] is None
    path.write_text("{]\n" + text)
    with pytest.raises(InputError, match=r"metrics.jsonl:1: must be a report row"):
        last_rows(path)


def test_a_resumed_sweep_may_confirm_more_but_not_less(in_tmp):
    begun = RunFolder.named("contract")
    kept = {**dict(spec("random", trials=4)), "confirm": {"top": 2, "seeds": 3}}
    write_text(begun.sweep_yaml, dump_yaml(SweepSpec.model_validate(kept)))
    assert resumed_spec(begun, ("confirm.seeds=5", "confirm.top=3")).confirm.seeds == 5
    for fewer in ("confirm.top=0", "confirm.seeds=2"):
        with pytest.raises(InputError, match=rf"{fewer.split('=')[0]}: must not shrink"):
            resumed_spec(begun, (fewer,))
