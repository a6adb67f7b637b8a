"""What a trial that was stopped would have reached: as the sweep expects it (`sweeps.study.outlook`)."""

import optuna
import pandas as pd
import pytest

from analysis.scaling.outlook import outlooks
from lmcore import columns as col
from sweeps.study.outlook import final_outlook

CURVES = {
    "xs-0000": [5.0, 4.0, 3.2],
    "xs-0001": [5.4, 4.6, 3.5],
    "xs-0002": [5.2, 4.1],
    "xs-0003": [6.0],
    "xs-0004": [4.0, 3.0],  # better than all complete ones are likely to be: held at their best
    "s-0000": [4.5],
}
FINALS = {"xs-0000": 3.1, "xs-0001": 3.6}


def trials():
    rows = []
    for trial, losses in CURVES.items():
        final = FINALS.get(trial, float("nan"))
        status = col.COMPLETE if trial in FINALS else col.PRUNED
        size = trial.split("-")[0]
        rows.append((trial, size, None, col.SEARCH, None, status, final, losses[-1], 100 * len(losses)))
    columns = (col.TRIAL, col.SIZE, col.ARM, col.PHASE, col.EXPERIMENT, col.STATUS, col.LOSS, col.VAL_LOSS, col.TOKENS)
    return pd.DataFrame(rows, columns=list(columns))


def reports():
    rows = [(t, 100 * (i + 1), loss) for t, losses in CURVES.items() for i, loss in enumerate(losses)]
    return pd.DataFrame(rows, columns=[col.TRIAL, col.TOKENS, col.VAL_LOSS])


def test_a_stopped_trial_gains_what_complete_ones_of_its_size_gained_and_never_beats_them():
    table = trials()
    found = outlooks(table, reports())
    named = {table[col.TRIAL][index]: value for index, value in found.items()}
    complete = [
        optuna.create_trial(value=FINALS[trial], intermediate_values=dict(enumerate(CURVES[trial]))) for trial in FINALS
    ]
    for trial in ("xs-0002", "xs-0003", "xs-0004"):
        values = dict(enumerate(CURVES[trial]))
        stopped = optuna.create_trial(state=optuna.trial.TrialState.PRUNED, intermediate_values=values)
        assert named[trial] == pytest.approx(final_outlook(stopped, complete))
    assert set(named) == {"xs-0002", "xs-0003", "xs-0004"}  # nothing is known of the size s
