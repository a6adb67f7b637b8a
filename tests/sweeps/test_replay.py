"""A replay is the sweep that it says it is: the same decisions on the same curves, in a folder like any other."""

import json
import math
import time

import numpy as np
import optuna
import pandas as pd
import pytest

import analysis
import lmsweep
from lmcore import columns as col
from lmcore.columns import Row
from lmcore.device import training_flops
from lmcore.errors import InputError
from sweeps.recorded.run_folder import read_run_folder
from sweeps.recorded.source import Source
from sweeps.recorded.surrogate import Surrogate
from sweeps.recorded.table import read_table
from sweeps.replay import replay
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.ledger import Ledger
from sweeps.study.storage import quiet_optuna

STEPS = (10, 20, 30, 40)
CONFIG = """\
name: c
model: {d_model: 64, num_layers: 2, d_ff: 176}
train: {steps: 40, eval_every: 10}
search: {method: random, trials: 12, scheduler: asha, reduction_factor: 2}
space:
  optim.lr: {low: 1e-3, high: 1e-1, log: true}
  optim.beta2: {choices: [0.9, 0.95, 0.99]}
  model.tie_embeddings: {choices: [true, false]}
"""
SPACE = {
    "optim.lr": {"low": 1e-3, "high": 1e-1, "log": True},
    "optim.beta2": {"choices": [0.9, 0.95, 0.99]},
    "model.tie_embeddings": {"choices": [True, False]},
}


def spec(space=SPACE, **search):
    values = {"method": "random", "trials": 12, "scheduler": "asha", "reduction_factor": 2, **search}
    model = {"d_model": 64, "num_layers": 2, "d_ff": 176}
    train = {"steps": 40, "eval_every": 10}
    values = {"name": "c", "model": model, "train": train, "search": values, "space": space}
    return SweepSpec.model_validate(values)


def loss_of(setting, step):
    """A surface around lr = 1e-2 that falls with time; rates above 0.08 diverge in the second half."""
    lr, beta2, tied = (setting[path] for path in SPACE)
    if lr > 0.08 and step > 20:
        return math.nan
    return 3.0 + 0.5 * (math.log10(lr) + 2) ** 2 + 2 * (beta2 - 0.95) ** 2 + 0.2 * tied + 10 / (step + 10)


def table(path, settings, seeds=(0,), noise=0.0, **columns):
    """Write the curves of these settings as a Parquet table."""
    rng = np.random.default_rng(0)
    rows = []
    for i, setting in enumerate(settings):
        for seed in seeds:
            shift = rng.normal(0, noise) if noise else 0.0
            for step in STEPS:
                loss = loss_of(setting, step) * math.exp(shift)
                rows.append({"run": f"{i}/{seed}", "seed": seed, "step": step, "val_loss": loss, **setting, **columns})
    pd.DataFrame(rows).to_parquet(path)
    return path


def scattered(n):
    rng = np.random.default_rng(1)
    rates, betas, tied = 10 ** rng.uniform(-3, -1, n), rng.choice([0.9, 0.95, 0.99], n), rng.integers(0, 2, n)
    return [
        dict(zip(SPACE, (float(a), float(b), bool(c)), strict=True)) for a, b, c in zip(rates, betas, tied, strict=True)
    ]


@pytest.fixture(scope="module")
def curves(tmp_path_factory):
    """A table of 200 settings."""
    return table(tmp_path_factory.mktemp("curves") / "curves.parquet", scattered(200))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture(autouse=True)
def _quiet():
    quiet_optuna()


def by_hand(sweep):
    """What the ledger decides if each trial that it hands out reports the losses of `loss_of`: by id, in order."""
    book = Ledger(sweep, optuna.storages.InMemoryStorage())
    settings, losses = {}, {}
    while sizes := book.sizes_left:
        live = book.ask(sizes[0])
        settings.setdefault(live.id, dict(live.trial.params))
        reported = losses.setdefault(live.id, {})
        for step in STEPS[len(reported) :]:  # a trial that was paused goes on
            reported[step] = loss_of(settings[live.id], step)
            row: Row = {"step": step, "train_loss": 1.0, "val_loss": reported[step], "elapsed_s": 1.0}
            if book.report(live.id, row) != col.RUNNING:
                break
        book.end(live.id)
    statuses = book.statuses()
    return {trial: (setting, statuses[trial], losses[trial]) for trial, setting in settings.items()}


@pytest.mark.parametrize("method", ["random", "optuna", "grid"])
@pytest.mark.parametrize("scheduler", ["asha", "median", "none"])
def test_one_slot_decides_what_the_recorded_curves_imply(tmp_path, method, scheduler):
    sweep = spec(method=method, scheduler=scheduler)
    expected = by_hand(sweep)
    source = Source(read_table(table(tmp_path / "t.parquet", [setting for setting, _, _ in expected.values()]), {}))
    replayed = replay(sweep, source, slots=1)
    assert [trial.id for trial in replayed.trials] == list(expected)
    for trial in replayed.trials:
        setting, status, losses = expected[trial.id]
        assert (trial.params, trial.status) == (setting, status)
        assert trial.losses == pytest.approx(losses, nan_ok=True, rel=0, abs=0)
    assert all(trial.recorded for trial in replayed.trials)
    assert not source.r2  # nothing was predicted, so nothing was fitted


def test_the_clock_follows_from_the_flops_and_the_slots(curves):
    source = Source(read_table(curves, {}))
    rates = {"optim.lr": {"low": 1e-3, "high": 2e-2, "log": True}}  # none diverges
    sweep = spec(scheduler="none", trials=7, space={**SPACE, **rates, "model.tie_embeddings": {"choices": [False]}})
    run_flops = training_flops(sweep.run_for("main", {}))
    one, three = (replay(sweep, source, slots, flops_per_s=run_flops) for slots in (1, 3))
    assert one.seconds == pytest.approx(7)
    assert three.seconds == pytest.approx(3)
    assert one.flops == three.flops == pytest.approx(7 * run_flops)
    assert [trial.began_s for trial in three.trials] == pytest.approx([0, 0, 0, 1, 1, 1, 2])
    assert [trial.id for trial in three.trials] == [f"main-{i:04d}" for i in range(7)]


def test_a_replay_follows_from_its_seed_and_its_slots(curves):
    def outcome(seed, slots):
        replayed = replay(spec(method="optuna", seed=seed), Source(read_table(curves, {})), slots)
        return [(t.id, t.params, t.status, repr(t.losses), t.began_s, t.ended_s) for t in replayed.trials]

    assert outcome(0, 4) == outcome(0, 4)
    assert outcome(0, 4) != outcome(1, 4)


def test_a_reproducible_sweep_has_its_own_number_of_slots(curves):
    def outcome(slots, **search):
        replayed = replay(spec(method="tpe", trials=24, **search), Source(read_table(curves, {})), slots)
        return [(t.id, t.params, t.status, repr(t.losses)) for t in replayed.trials]

    assert outcome(1, reproducible=True) == outcome(3, reproducible=True) == outcome(8)
    assert outcome(8, reproducible=True, concurrent=3) == outcome(3)
    assert outcome(3) != outcome(8)


def test_diverged_trials_are_told_apart_from_high_losses(curves):
    sweep = spec(trials=40, scheduler="none", space={**SPACE, "optim.lr": {"low": 1e-3, "high": 9.9e-2, "log": True}})
    replayed = replay(sweep, Source(read_table(curves, {})), slots=4)
    high = [trial for trial in replayed.trials if trial.params["optim.lr"] > 0.085]
    low = [trial for trial in replayed.trials if trial.params["optim.lr"] < 0.06]
    assert {trial.status for trial in high} == {col.DIVERGED}
    assert {trial.status for trial in low} == {col.COMPLETE}
    assert all(list(trial.losses) == [10, 20, 30] for trial in high)


def test_search_time_counts_virtual_seconds(curves):
    sweep = spec(scheduler="none", time="10s", trials=None)
    flops = training_flops(sweep.run_for("main", {}))
    replayed = replay(sweep, Source(read_table(curves, {})), slots=2, flops_per_s=flops)
    assert 9 <= replayed.seconds <= 11
    assert 14 <= len(replayed.trials) <= 24


def test_a_surrogate_predicts_a_quadratic_surface():
    rng = np.random.default_rng(0)
    points, held_out = rng.random((80, 3)), rng.random((50, 3))
    weights = np.array([1.0, 0.3, 0.0])

    def curves_at(x):
        return np.log(3 + ((x - 0.4) ** 2) @ weights[:, None] + np.array([0.5, 0.2, 0.0]))

    surrogate = Surrogate(points, curves_at(points) + rng.normal(0, 1e-4, (80, 1)))
    assert surrogate.r2 > 0.95
    predicted = np.stack([surrogate.predict(point) for point in held_out])
    assert np.abs(predicted - curves_at(held_out)).max() < 0.02


def test_predictions_between_recorded_settings_are_close(curves):
    source = Source(read_table(curves, {}))
    sweep = spec()
    assert source.check(sweep) == []
    for lr, beta2, tied in [(0.0031, 0.95, True), (0.0171, 0.99, False), (0.04, 0.9, True)]:
        setting = dict(zip(SPACE, (lr, beta2, tied), strict=True))
        run = sweep.run_for("main", setting)
        curve = source.curve("main", run)
        assert not curve.recorded
        for step in STEPS:
            assert curve.at(step / 40) == pytest.approx(loss_of(setting, step), abs=0.02)
        assert source.expected_loss("main", run) == pytest.approx(loss_of(setting, 40), abs=0.02)
    assert source.r2["main"] > 0.95


def test_seeds_differ_as_much_as_recorded_ones_do(tmp_path):
    settings = [one for one in scattered(60) if one["optim.lr"] < 0.05]
    source = Source(read_table(table(tmp_path / "t.parquet", settings, seeds=(0, 1, 2), noise=0.02), {}))
    sweep = spec()
    source.check(sweep)
    recorded = sweep.run_for("main", settings[0])
    curve = source.curve("main", recorded)
    assert curve.recorded
    assert curve.at(1.0) != loss_of(settings[0], 40)  # that of seed 0, not of the mean
    losses = []
    for seed in range(200):
        seeded = {"train.seed": seed, "optim.lr": 0.0123}
        losses.append(math.log(source.curve("main", sweep.run_for("main", {**settings[0], **seeded})).at(1.0)))
    assert np.std(losses) == pytest.approx(0.02, rel=0.25)
    again = source.curve("main", sweep.run_for("main", {**settings[0], "optim.lr": 0.0123, "train.seed": 7}))
    assert math.log(again.at(1.0)) == losses[7]


def test_thousands_of_trials_a_minute(curves):
    source = Source(read_table(curves, {}))
    replay(spec(trials=2), source, slots=4)  # fits
    began = time.process_time()  # of this process, however busy the machine is; 15,000 a minute were measured
    replay(spec(trials=100), source, slots=4)
    assert 100 / (time.process_time() - began) * 60 > 2000


def test_the_folder_is_one_that_every_reader_knows(here, curves, capsys):
    assert lmsweep.main(["replay", "--config", "c.yaml", "--from", str(curves), "--slots", "3"]) == 0
    out = capsys.readouterr().out
    assert "12 trials:" in out
    assert "Losses of 12 trials are predictions; R2 of final losses, leaving one out: " in out
    folder = here / "runs" / "c-replay"
    run = analysis.load(folder)
    assert len(run.trials) == 12
    assert set(run.trials[col.STATUS]) <= {col.COMPLETE, col.PRUNED, col.DIVERGED}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(run.rows) == len({(line[col.TRIAL], line[col.STEP]) for line in lines})
    assert all(tuple(line) == col.ROW_COLUMNS for line in lines)
    last = run.rows.groupby(col.TRIAL)[col.STATUS].last()
    complete = run.trials.loc[run.trials[col.STATUS] == col.COMPLETE, col.TRIAL]
    assert set(last[last == col.COMPLETE].index) == set(complete) != set()
    told = json.loads((folder / "manifest.json").read_text())["replay"]
    assert told["slots"] == 3
    assert told["predicted_trials"] == 12
    assert told["fingerprint"] == read_table(curves, {}).fingerprint
    assert told["r2"]["main"] > 0.9
    assert lmsweep.main(["report", str(folder)]) == 0
    report = capsys.readouterr().out
    assert "This sweep is a replay, which trained nothing" in " ".join(report.split())
    assert lmsweep.main(["status", str(folder)]) == 0
    assert "12 of 12 trials have ended" in " ".join(capsys.readouterr().out.split())


def test_a_replayed_sweep_can_be_neither_resumed_nor_replayed(here, curves, capsys):
    arguments = ["replay", "--config", "c.yaml", "--from", str(curves), "--trials", "4"]
    assert lmsweep.main(arguments) == 0
    assert lmsweep.main(arguments) == 2
    assert "runs/c-replay holds a sweep already; choose another --name" in capsys.readouterr().err
    assert lmsweep.main(["run", "--resume", "runs/c-replay", "--dry-run"]) == 2
    assert "which is a replay" in capsys.readouterr().err
    assert lmsweep.main(["replay", "--config", "c.yaml", "--from", "runs/c-replay", "--name", "b"]) == 2
    assert f"which is a replay); give {curves}" in capsys.readouterr().err


def trained(here, curves):
    """The folder of a sweep whose trials count as trained: that of a replay without its entry in the manifest."""
    name = ["--name", "trained", "--trials", "40", "--scheduler", "asha", "--slots", "1"]
    assert lmsweep.main(["replay", "--config", "c.yaml", "--from", str(curves), *name]) == 0
    folder = here / "runs" / "trained"
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["replay"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_the_same_sweep_on_its_own_trials_decides_the_same(here, curves, capsys):
    folder = trained(here, curves)
    before = (folder / "study.db").read_bytes()
    again = ["replay", "--config", "c.yaml", "--from", "runs/trained", "--trials", "40", "--name", "again"]
    assert lmsweep.main(again) == 0
    assert "predictions" not in capsys.readouterr().out.split("Report:")[-2].split("40 trials")[-1]
    first, second = (analysis.load(here / "runs" / name) for name in ("trained", "again"))
    shared = [col.TRIAL, col.STATUS, col.STEP, "params.optim.lr", col.LOSS]
    pd.testing.assert_frame_equal(first.trials[shared], second.trials[shared])
    assert (folder / "study.db").read_bytes() == before


def test_a_trial_that_was_stopped_goes_on_as_predicted(here, curves):
    source = Source(read_run_folder(trained(here, curves)))
    sweep = spec(trials=40, scheduler="none")
    replayed = replay(sweep, source, slots=1)
    assert 0 < sum(not trial.recorded for trial in replayed.trials) < 40
    for trial in replayed.trials:
        if trial.params["optim.lr"] < 0.08:  # none that diverged is recorded
            assert trial.loss == pytest.approx(loss_of(trial.params, 40), abs=0.15)


def test_final_losses_of_another_tool_are_searched_with_its_own_column_names(here, capsys):
    rows = [{"lr": s["optim.lr"], "b2": s["optim.beta2"], "tie": s["model.tie_embeddings"]} for s in scattered(60)]
    finals = [{**row, "loss": loss_of(s, 40), "extra": 1} for row, s in zip(rows, scattered(60), strict=True)]
    pd.DataFrame(finals).to_csv("finals.csv", index=False)
    columns = {"optim.lr": "lr", "optim.beta2": "b2", "model.tie_embeddings": "tie", "val_loss": "loss"}
    options = [part for name, column in columns.items() for part in ("--column", f"{name}={column}")]
    command = ["replay", "--config", "c.yaml", "--from", "finals.csv", *options]
    assert lmsweep.main(command) == 2
    assert "finals.csv has only final losses (got asha); use --scheduler none" in capsys.readouterr().err
    assert lmsweep.main([*command, "--scheduler", "none"]) == 0
    assert "Note: columns of finals.csv that are not used: extra." in capsys.readouterr().out
    rows = [json.loads(line) for line in (here / "runs/c-replay/metrics.jsonl").read_text().splitlines()]
    assert {(row["step"], row["status"]) for row in rows} == {(40, "complete")}  # nothing is known of the steps before
    assert lmsweep.main(["report", "runs/c-replay"]) == 0


def test_sizes_are_told_apart_by_name_and_by_shape(tmp_path):
    sized = [{"name": "xs", "model.d_model": 32}, {"name": "s", "model.d_model": 64}]
    small = pd.read_parquet(table(tmp_path / "a.parquet", scattered(30), size="xs", **{"model.d_model": 32}))
    large = pd.read_parquet(table(tmp_path / "b.parquet", scattered(30), size="s", **{"model.d_model": 64}))
    both = pd.concat([small, large.assign(run="b" + large["run"], val_loss=large["val_loss"] - 1)])
    both.to_csv(tmp_path / "named.csv", index=False)
    both.drop(columns="size").to_csv(tmp_path / "shaped.csv", index=False)
    sweep = SweepSpec.model_validate({**spec(trials=8).model_dump(), "sizes": sized})
    for name in ("named.csv", "shaped.csv"):
        replayed = replay(sweep, Source(read_table(tmp_path / name, {})), slots=2)
        losses = {t.size: t.losses[10] - loss_of(t.params, 10) for t in replayed.trials}
        assert losses == pytest.approx({"xs": 0, "s": -1}, abs=0.1)
    other = SweepSpec.model_validate({**spec().model_dump(), "sizes": [{"name": "m", "model.d_model": 96}]})
    with pytest.raises(InputError, match=r"sizes: must be sizes that .*named.csv has runs of, xs, s \(got m\)"):
        Source(read_table(tmp_path / "named.csv", {})).check(other)
    with pytest.raises(InputError, match=r"model.d_model of size m: must be a value .* 32, 64 \(got 96\)"):
        Source(read_table(tmp_path / "shaped.csv", {})).check(other)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "absent.csv"], "absent.csv, which is neither"),
        (["--from", "empty.csv"], "must hold at least one run"),
        (["--from", "text.parquet"], "must be a CSV or Parquet file (got text.parquet: "),
        (["--from", "."], "must be a table or the folder of a run, with its manifest.json (got .)"),
        (
            ["--from", "bare.csv"],
            "bare.csv: must name a column of the table (got 'val_loss'; there are optim.lr, loss)",
        ),
        (["--from", "runless.csv"], "runless.csv: must name a column of the table (got 'run';"),
        (["--from", "mixed.csv"], "a run must have one value of optim.lr (got several in run 'a')"),
        (["--from", "few.csv"], "must have at least 8 complete runs to predict losses that it does not have (got 2"),
        (["--from", "TABLE", "--column", "optim.lrr=lr"], "did you mean optim.lr?"),
        (["--from", "TABLE", "--column", "optim.lr=rate"], "--column optim.lr=rate: must name a column of the table"),
        (["--from", "TABLE", "--set", "space.optim.beta1=[0.8, 0.9]"], "add --column optim.beta1=COLUMN"),
        (["--from", "TABLE", "--set", "train.steps=80"], "train.steps: must be what the runs of"),
        (["--from", "TABLE", "--set", "optim.beta2=0.5"], "optim.beta2: must be a value that"),
        (["--from", "TABLE", "--set", "search.method=none"], "search.method"),
    ],
)
def test_wrong_input_is_one_line(here, curves, capsys, arguments, said):
    pd.DataFrame(columns=["run", "step", "optim.lr", "val_loss"]).to_csv("empty.csv", index=False)
    (here / "text.parquet").write_text("not a table")
    pd.DataFrame({"optim.lr": [0.1], "loss": [3.0]}).to_csv("bare.csv", index=False)
    pd.DataFrame({"step": [1], "val_loss": [3.0]}).to_csv("runless.csv", index=False)
    mixed = {"run": ["a", "a"], "step": [1, 2], "optim.lr": [0.1, 0.2], "val_loss": [3.0, 2.0]}
    pd.DataFrame(mixed).to_csv("mixed.csv", index=False)
    few = [{"optim.lr": lr, "optim.beta2": 0.9, "model.tie_embeddings": True} for lr in (0.01, 0.02)]
    pd.read_parquet(table(here / "few.parquet", few)).to_csv("few.csv", index=False)
    arguments = [str(curves) if argument == "TABLE" else argument for argument in arguments]
    fixed = ["--set", "model.tie_embeddings=true", "--set", "optim.beta2=0.9"] if "few.csv" in arguments else []
    assert lmsweep.main(["replay", "--config", "c.yaml", *arguments, *fixed]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_trial_that_is_given_up_has_its_last_row_again_as_pruned(here, curves):
    assert lmsweep.main(["replay", "--config", "c.yaml", "--from", str(curves), "--slots", "2", "--name", "r"]) == 0
    lines = [json.loads(line) for line in (here / "runs" / "r" / "metrics.jsonl").read_text().splitlines()]
    given_up = {row["trial"]: row for row in lines if row["status"] == "pruned"}
    assert given_up
    for trial, row in given_up.items():
        before = [line for line in lines if line["trial"] == trial][-2]
        assert {**before, "status": "pruned"} == row
        assert before["status"] == "paused"


DEPENDENT = {
    "optim.lr": {"low": 1e-3, "high": 5e-2, "log": True, "times": "sqrt(train.batch_size / 16)"},
    "betas": {"choices": [{"optim.beta1": 0.8, "optim.beta2": 0.95}, {"optim.beta1": 0.9, "optim.beta2": 0.99}]},
    "model.ffn": ["swiglu", "gelu"],
    "optim.weight_decay": {"low": 0.0, "high": 0.2, "when": {"model.ffn": "gelu"}},
    "optim.min_lr_ratio": {"equals": "optim.beta1 / 10"},
    "train.batch_size": [16, 32],
}
FIELDS = ("optim.lr", "optim.beta1", "optim.beta2", "model.ffn", "optim.weight_decay", "optim.min_lr_ratio")


def dependent_table(path, n=200):
    """Curves of runs with the fields of DEPENDENT."""
    rng, rows = np.random.default_rng(2), []
    for i in range(n):
        batch, beta, gelu = int(rng.choice([16, 32])), int(rng.integers(2)), bool(rng.integers(2))
        lr = 10 ** rng.uniform(-3, math.log10(0.07))
        values = (lr, (0.8, 0.9)[beta], (0.95, 0.99)[beta], ("swiglu", "gelu")[gelu])
        setting = dict(zip(FIELDS, (*values, rng.uniform(0, 0.2) if gelu else 0.1, values[1] / 10), strict=True))
        for step in STEPS:
            loss = 3.0 + 0.5 * (math.log10(lr) + 2) ** 2 + 0.3 * gelu + setting["optim.weight_decay"] + 10 / (step + 10)
            rows.append({"run": i, "step": step, "val_loss": loss, "train.batch_size": batch, **setting})
    pd.DataFrame(rows).to_parquet(path)
    return path


@pytest.mark.parametrize("method", ["random", "optuna"])
def test_a_space_whose_entries_depend_on_each_other_is_replayed_by_the_fields_of_its_runs(tmp_path, method):
    sweep = spec(DEPENDENT, method=method, scheduler="none", trials=24, allow_unequal_budgets=True)
    source = Source(read_table(dependent_table(tmp_path / "d.parquet"), {}))
    assert source.check(sweep) == []
    for trial in replay(sweep, source, slots=2).trials:
        fields = trial.params
        assert fields.keys() - {"optim.weight_decay"} == {*FIELDS, "train.batch_size"} - {"optim.weight_decay"}
        assert ("optim.weight_decay" in fields) is (fields["model.ffn"] == "gelu")
        decay, gelu = fields.get("optim.weight_decay", 0.1), fields["model.ffn"] == "gelu"
        expected = 3.0 + 0.5 * (math.log10(fields["optim.lr"]) + 2) ** 2 + 0.3 * gelu + decay + 10 / 50
        assert trial.loss == pytest.approx(expected, abs=0.1)


def test_what_a_source_lacks_of_a_dependent_space_is_said_by_entry_and_field(tmp_path):
    source = Source(read_table(dependent_table(tmp_path / "d.parquet"), {}))

    def check(**entries):
        return source.check(spec({**DEPENDENT, **entries}, scheduler="none", allow_unequal_budgets=True))

    beyond = {"low": 1e-3, "high": 5e-2, "log": True, "times": "train.batch_size / 4"}
    (note,) = check(**{"optim.lr": beyond})
    assert note.startswith("space.optim.lr reaches from 0.004 to 0.4, and the recorded runs from")
    tied = {
        "choices": [
            {"optim.beta1": 0.8, "model.tie_embeddings": True},
            {"optim.beta1": 0.9, "model.tie_embeddings": False},
        ]
    }
    with pytest.raises(InputError, match=r"^space\.betas: .* must tell the value of model\.tie_embeddings of its runs"):
        check(betas=tied)
    with pytest.raises(InputError, match=r"^space\.model\.ffn: must be values that .* 'relu'"):
        check(**{"model.ffn": ["swiglu", "gelu", "relu"]})
