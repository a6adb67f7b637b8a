"""Runs whose numbers explode: found at the next report, never best, no harm to neighbours, and sampled away from."""

import math

import numpy as np
import optuna
import pytest
import torch
from sweeping import rows_of, run, sweep_command, table_of

import analysis
from lmcore import columns as col
from lmcore.corpus.tokens import Tokens
from lmcore.model import HEAD
from lmcore.trainer import Trainer
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.ledger import Ledger
from sweeps.study.storage import quiet_optuna

V, EVERY, STEPS, STRUCK = 61, 10, 60, 30
VICTIM = 1
LIMIT = 2 * math.log(V)


def spec(rates):
    return SweepSpec.model_validate(
        {
            "name": "explodes",
            "model": {"d_model": 32, "d_ff": 64, "num_layers": 1, "context_length": 64, "vocab_size": V},
            "train": {"steps": STEPS, "eval_every": EVERY, "device": "cpu", "dtype": "float32", "threads": 1},
            "search": {"method": "experiments", "scheduler": "none"},
            "experiments": [{"name": f"e{i}", "optim.lr": lr} for i, lr in enumerate(rates)],
        }
    )


def swept(rates, strike=lambda weight: None):
    """The ledger of a packed sweep, and its rows by slot, after `strike` had the victim's output head at STRUCK."""
    walk = np.cumsum(np.random.default_rng(0).integers(0, 3, 20_000)).astype(np.uint16) % V
    quiet_optuna()
    ledger = Ledger(spec(rates), optuna.storages.InMemoryStorage())
    lives = [ledger.ask(ledger.sizes_left[0]) for _ in rates]
    trainer = Trainer([live.run for live in lives], Tokens.of(walk[:18_000], walk[18_000:], V))
    head = dict(trainer.model.named_parameters())[HEAD]
    rows = {k: [] for k in range(len(rates))}
    while trainer.active:
        for row in trainer.advance():
            k = row[col.SLOT]
            rows[k].append(row)
            if ledger.report(lives[k].id, row) != col.RUNNING:
                ledger.end(lives[k].id)
                trainer.free_slot(k)
        if trainer.slots[VICTIM] is not None and trainer.slots[VICTIM].step == STRUCK:
            with torch.no_grad():
                strike(head[VICTIM])
    return ledger, rows


def numbers(rows):
    return [(row[col.STEP], row[col.TRAIN_LOSS], row[col.VAL_LOSS], row[col.GRAD_NORM]) for row in rows]


def poison(weight):
    weight[3, 5] = math.nan


def inflate(weight):
    weight.mul_(100)


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("what", "rates", "strike", "found_at"),
    [
        ("NaN in a weight at step 30", (1e-2, 1e-2, 3e-3), poison, STRUCK + EVERY),
        ("loss x100 at step 30", (1e-2, 1e-2, 3e-3), inflate, STRUCK + EVERY),
        ("lr = 1e3", (1e-2, 1e3, 3e-3), lambda weight: None, EVERY),
    ],
)
def test_what_explodes_is_found_at_its_next_report_and_neighbours_do_not_notice(what, rates, strike, found_at, fault):
    exploding = fault(what)
    exploding.injected()
    ledger, rows = swept(rates, strike)
    _, unharmed = swept((1e-2, 1e-2, 3e-3))
    (size,) = ledger.studies
    statuses = list(ledger.statuses().values())
    assert statuses == [col.COMPLETE, col.DIVERGED, col.COMPLETE]
    assert [row[col.STEP] for row in rows[VICTIM]] == list(range(EVERY, found_at + 1, EVERY))
    last = rows[VICTIM][-1][col.VAL_LOSS]
    assert not last <= LIMIT  # or NaN
    for k in (0, 2):
        assert numbers(rows[k]) == numbers(unharmed[k])
    assert all(trial.split("-")[-1] != f"{VICTIM:04d}" for trial in ledger.ranking(size))
    study = ledger.studies[size].study
    assert study.best_trial.number != VICTIM
    assert study.trials[VICTIM].value == math.inf
    exploding.survived()


@pytest.mark.ray
def test_a_sampler_moves_away_from_rates_that_explode(tiny, fault):
    trials = 48
    exploding = fault("two fifths of the range of lr explode, TPE")
    space = "space={optim.lr: {low: 1e-3, high: 1e3, log: true}}"
    settings = {"train__steps": "40", "train__eval_every": "10", "search__startup_trials": "6"}
    run(sweep_command("hot", "--set", space, search="tpe", trials=trials, **settings), tiny, check=0)
    folder = tiny / "runs" / "hot"
    rows = rows_of(folder)
    assert len(rows) == trials
    diverged = {trial for trial, own in rows.items() if own[-1][col.STATUS] == col.DIVERGED}
    exploding.injected(len(diverged))
    for trial, own in rows.items():
        bad = [row for row in own if row[col.VAL_LOSS] is None or row[col.VAL_LOSS] > LIMIT]
        assert bad == (own[-1:] if trial in diverged else [])  # no row comes after the first bad one
    late = sum(int(trial.split("-")[1]) >= trials / 2 for trial in diverged)
    assert diverged
    assert late <= 6, "of 24 that are drawn at random ten explode"
    known = analysis.load(folder).trials.set_index("trial")
    assert known["val_loss"].where(known["status"] == "complete").idxmin() not in diverged
    assert not any(trial in table_of(folder) for trial in diverged)
    exploding.survived(len(diverged))
