"""A scripted sweep through Ray Tune: every way a trial can end leaves exactly that in the study and in the files."""

import io
import json
import math
import re

import numpy as np
import optuna
import pytest
import yaml
from offline_runs import read_offline_run
from optuna.trial import TrialState
from rich.console import Console

import analysis
from lmcore import columns as col
from lmcore.checkpoint import read_checkpoint
from lmcore.config import RunSpec
from lmcore.trainer import Trainer
from lmcore.window_records import read_records
from sweeps.cli.interrupts import Interrupts
from sweeps.rundir.folder import RunFolder
from sweeps.spec.load import load_spec
from sweeps.spec.sweep_spec import SweepSpec, dump_yaml
from sweeps.study.storage import open_storage
from sweeps.sweep import run_on, with_data

pytestmark = pytest.mark.ray

GOOD = {"optim.lr": 1e-2}
EXPERIMENTS = [
    {"name": "good", **GOOD},
    {"name": "hopeless", "optim.lr": 1e-9},  # worse than `good` at the first rung
    {"name": "explodes", "optim.lr": 1e30, "optim.clip_norm": None, "optim.warmup_fraction": 0.0},
    {"name": "crashes", "train.batch_size": 2**40},  # no machine holds such a batch
    {"name": "other-shape", "model.ffn": "gelu", "optim.lr": 1.5e-2},
    {"name": "better", "optim.lr": 3e-2, "model.tie_embeddings": True},
]
EXPECTED = {
    "good": (col.COMPLETE, TrialState.COMPLETE),
    "hopeless": (col.PRUNED, TrialState.PRUNED),
    "explodes": (col.DIVERGED, TrialState.COMPLETE),
    "crashes": (col.FAILED, TrialState.FAIL),
}


@pytest.fixture(scope="module")
def sweep(cluster, tmp_path_factory):
    """The scripted sweep, one trial at a time in the order of the list: (folder, printed text, outcome)."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("bridge")
        patch.chdir(folder)
        rng = np.random.default_rng(0)
        np.save("tokens.npy", np.cumsum(rng.integers(0, 3, 20_000)).astype(np.uint16) % 61)
        spec = SweepSpec.model_validate(
            {
                "name": "scripted",
                "data": {"source": str(folder / "tokens.npy"), "vocab_size": 61},
                "model": {"d_model": 32, "num_layers": 1, "num_heads": 2, "d_ff": 64, "context_length": 32}
                | {"vocab_size": 61},
                "train": {"steps": 40, "batch_size": 4, "eval_every": 10, "eval_windows": 16},
                "search": {
                    "method": "experiments",
                    "scheduler": "asha-stop",
                    "concurrent": 1,
                    "allow_unequal_budgets": True,
                },
                "experiments": EXPERIMENTS,
                "tracking": {"wandb": "offline", "project": "bridge"},
            }
        )
        text = io.StringIO()
        run_folder = RunFolder.named("scripted")
        with run_folder.claimed():
            storage = open_storage(None, run_folder)
            outcome = run_on(
                cluster, *with_data(spec), run_folder, storage, Console(file=text, width=200), Interrupts()
            )
        yield run_folder.path, text.getvalue(), outcome


@pytest.fixture(scope="module")
def trials(sweep):
    study = optuna.load_study(study_name="main", storage=f"sqlite:///{sweep[0]}/study.db")
    return {trial.user_attrs[col.EXPERIMENT]: trial for trial in study.trials}


@pytest.fixture(scope="module")
def rows(sweep):
    lines = (sweep[0] / "metrics.jsonl").read_text().splitlines()
    by_trial = {}
    for line in lines:
        row = json.loads(line)
        by_trial.setdefault(row[col.TRIAL], []).append(row)
    return by_trial


@pytest.mark.parametrize("name", EXPECTED)
def test_the_study_holds_how_each_trial_ended(trials, name):
    status, state = EXPECTED[name]
    assert (trials[name].user_attrs[col.STATUS], trials[name].state) == (status, state)


def test_intermediate_values_are_the_rows(trials, rows):
    for name, steps in [("good", [10, 20, 30, 40]), ("hopeless", [10]), ("better", [10, 20, 30, 40])]:
        trial = trials[name]
        reported = {row[col.STEP]: row[col.VAL_LOSS] for row in rows[trial.user_attrs[col.TRIAL]]}
        assert trial.intermediate_values == reported
        assert list(reported) == steps
    assert trials["good"].value == rows[trials["good"].user_attrs[col.TRIAL]][-1][col.FINAL_VAL_LOSS]
    assert trials["hopeless"].value == trials["hopeless"].intermediate_values[10]  # Optuna's own convention
    assert trials["explodes"].value == math.inf


def test_a_failed_trial_keeps_its_message_and_the_sweep_goes_on(trials, sweep):
    message = trials["crashes"].user_attrs[col.MESSAGE]
    assert "alloc" in message.lower() or "memory" in message.lower()
    assert trials["better"].state == TrialState.COMPLETE  # it came later
    number = trials["crashes"].user_attrs[col.TRIAL]
    assert f"crashes failed   {message}; see trials/{number}/error.txt" in sweep[1]
    whole = (sweep[0] / "trials" / number / "error.txt").read_text()
    assert "lmcore/data.py" in whole
    assert message in whole
    assert "\x1b" not in whole


def test_the_best_trial_never_diverged(trials, sweep):
    study = optuna.load_study(study_name="main", storage=f"sqlite:///{sweep[0]}/study.db")
    assert study.best_trial.user_attrs[col.STATUS] == col.COMPLETE
    best = yaml.safe_load((sweep[0] / "best" / "main.yaml").read_text())
    assert best["optim"] == study.best_trial.user_attrs[col.RUN]["optim"]


def test_the_last_row_of_a_trial_carries_its_status_and_not_a_number_is_null(trials, rows):
    for name in ("good", "hopeless", "explodes"):
        curve = rows[trials[name].user_attrs[col.TRIAL]]
        assert [row[col.STATUS] for row in curve[:-1]] == [col.RUNNING] * (len(curve) - 1)
        assert curve[-1][col.STATUS] == EXPECTED[name][0]
        assert list(curve[-1]) == list(col.ROW_COLUMNS)
    assert None in rows[trials["explodes"].user_attrs[col.TRIAL]][-1].values()


def test_a_trial_in_a_reused_worker_equals_the_same_run_alone_bitwise(sweep, trials, rows):
    """They came after a trial that went to NaN and one that ran out of memory, and had another shape."""
    from lmcore.corpus.tokens import load_tokens

    tokens = load_tokens(sweep[0] / "tokens")
    records = read_records((sweep[0] / "window_losses.bin").read_bytes())
    written = {(h["trial"], h["evaluation"]): values.tolist() for h, values, _ in records}
    for name in ("better", "other-shape"):
        attributes = trials[name].user_attrs
        alone = list(Trainer([RunSpec.model_validate(attributes[col.RUN])], tokens))
        through_ray = rows[attributes[col.TRIAL]]
        assert len(alone) == 4
        for column in (col.STEP, *col.LOSS_COLUMNS, col.GRAD_NORM, col.LR):
            assert [row[column] for row in through_ray] == [row[column] for row in alone]
        assert written[attributes[col.TRIAL], "last"] == np.float32(alone[-1][col.WINDOW_LOSSES]).tolist()
        assert written[attributes[col.TRIAL], "best"] == np.float32(alone[-1][col.BEST_WINDOW_LOSSES]).tolist()
    ended = {name: trial.user_attrs[col.TRIAL] for name, trial in trials.items() if name != "crashes"}  # it had no row
    assert {trial for trial, evaluation in written if evaluation == "last"} == set(ended.values())
    del ended["explodes"]  # its losses were never finite
    assert {trial for trial, evaluation in written if evaluation == "best"} == set(ended.values())


def test_only_the_best_three_keep_their_weights_and_those_are_whole(sweep, trials):
    complete = sorted((t for t in trials.values() if t.user_attrs[col.STATUS] == col.COMPLETE), key=lambda t: t.value)
    kept = {path.parent.name for path in sweep[0].glob("trials/*/*.safetensors")}
    assert kept == {trial.user_attrs[col.TRIAL] for trial in complete[:3]}
    for trial in complete[:3]:
        newest = max((sweep[0] / "trials" / trial.user_attrs[col.TRIAL]).glob("step-*.safetensors"))
        tensors, meta = read_checkpoint(newest)
        assert meta["step"] == 40
        assert ("model.lm_head.weight" in tensors) == (not trial.user_attrs[col.RUN]["model"]["tie_embeddings"])
    assert len(list(sweep[0].glob("trials/*/run.yaml"))) == len(EXPERIMENTS)


def test_each_experiment_is_a_wandb_run_of_its_name(sweep, trials, rows):
    runs = [read_offline_run(path) for path in sweep[0].glob("wandb/offline-run-*/run-*.wandb")]
    by_name = {run.name: run for run in runs}
    assert len(runs) == len(by_name)
    assert set(by_name) == {e["name"] for e in EXPERIMENTS} - {"crashes"}  # which never had anything to log
    assert {run.project for run in runs} == {"bridge"}
    assert {run.group for run in runs} == {"scripted"}
    good = by_name["good"]
    assert [int(row["_step"]) for row in good.history] == [10, 20, 30, 40]
    assert all({"train/loss", "train/grad_norm", "val/loss", "lr"} <= set(row) for row in good.history)
    through_rows = rows[trials["good"].user_attrs[col.TRIAL]]
    assert [float(row["val/loss"]) for row in good.history] == [row[col.VAL_LOSS] for row in through_rows]
    assert good.summary[col.STATUS] == '"complete"'
    assert by_name["explodes"].summary[col.STATUS] == '"diverged"'
    assert json.loads(good.config["optim"])["lr"] == GOOD["optim.lr"]


def test_analysis_reads_what_the_sweep_wrote(sweep):
    run = analysis.load(sweep[0])
    assert dict(zip(run.trials[col.EXPERIMENT], run.trials[col.STATUS], strict=True)) == {
        **{name: status for name, (status, _) in EXPECTED.items()},
        "better": col.COMPLETE,
        "other-shape": col.COMPLETE,
    }
    assert len(run.rows) == sum(1 for _ in (sweep[0] / "metrics.jsonl").open())


def test_the_resolved_spec_decides_every_auto_and_loads_again(sweep):
    spec = load_spec(sweep[0] / "sweep.yaml")
    assert "auto" not in {spec.train.device, spec.train.dtype, spec.train.compile, spec.train.threads}
    assert spec.train.device == "cpu"
    assert spec.experiments[0].overrides == GOOD
    assert dump_yaml(spec) == (sweep[0] / "sweep.yaml").read_text()


def test_the_sweep_says_where_its_results_go_and_how_it_trains(sweep):
    text, dtype = sweep[1], load_spec(sweep[0] / "sweep.yaml").train.dtype  # bfloat16 where the CPU multiplies it
    assert "Results: " in text
    training = next(line for line in text.splitlines() if line.startswith("Training "))
    # How many slots pay is measured.
    pattern = rf"Training 1 at a time on cpu in {dtype}; on each of 1 engines main (1|\d+ \(\S+x the tokens/s of 1\))"
    assert re.fullmatch(pattern, training), training
    assert "good complete final_val_loss" in text
    assert sweep[2].exit_code == 0


def test_a_worker_bears_the_name_of_its_trial_in_the_dashboards_process_list(cluster):
    import ray

    from sweeps.cluster.titles import show_in_dashboard

    @ray.remote(num_cpus=1)
    def title_while_training():
        show_in_dashboard("xs-0003 baseline")
        with open("/proc/self/cmdline", "rb") as file:
            return file.read().rstrip(b"\0").decode()

    assert ray.get(title_while_training.remote()) == "ray::xs-0003 baseline"


def test_workers_share_the_tokens_of_the_object_store_without_copies(cluster, small_tokens):
    import ray

    @ray.remote(num_cpus=1)
    def owns_its_array(tokens):
        return tokens.train.flags.writeable or tokens.train.base is None

    assert not ray.get(owns_its_array.remote(ray.put(small_tokens)))
