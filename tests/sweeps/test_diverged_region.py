"""A region whose trials diverge is learnt: after its first trials, a search goes there less than chance would."""

import math

import pytest
from test_ledger import in_memory, row

from lmcore import columns as col


def asked_there(method, seed):
    """Of 24 trials with 6 to start with, the share of the later ones in the half of the rates that diverges."""
    book = in_memory(method, trials=24, scheduler="none", startup_trials=6, seed=seed)
    there = []
    while sizes := book.sizes_left:
        live = book.ask(sizes[0])
        lr = live.run.optim.lr
        there.append(math.log10(lr) > -2.5)  # the space is from -4 to -1
        loss = 3.0 + abs(math.log10(lr) + 3.2)
        for step in (10, 20, 30, 40):
            if book.report(live.id, row(step, math.nan if there[-1] else loss + 1 / step)) != col.RUNNING:
                break
        book.end(live.id)
    assert any(there[:6])
    return sum(there[6:]) / 18


@pytest.mark.parametrize(("method", "seeds"), [("tpe", 8), ("gp", 2), ("optuna", 2)])
def test_a_search_stays_away_from_rates_that_diverge(method, seeds):
    shares = [asked_there(method, seed) for seed in range(seeds)]
    assert sum(shares) / len(shares) < 0.3  # chance: 0.5
