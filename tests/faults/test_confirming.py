"""The driver killed while the sweep confirms its results: the same runs and the same result as without the kill."""

import json

import optuna
import pytest
from sweeping import curves, descendants, kill, resume_command, rows_of, run, running, start, sweep_command, wait_until

from lmcore import columns as col

CONFIRM = {
    "compare": "[model.tie_embeddings]",
    "confirm__top": "2",
    "confirm__seeds": "2",
    "train__steps": "60",
    "space": "{optim.lr: {low: 1e-3, high: 1e-1, log: true}, model.tie_embeddings: [false, true]}",
}


def results_of(folder):
    storage = f"sqlite:///{folder}/study.db"
    names = optuna.get_all_study_names(storage)
    return {name: optuna.load_study(study_name=name, storage=storage).user_attrs for name in names}


@pytest.mark.ray
@pytest.mark.smoke
def test_a_driver_that_is_killed_in_the_confirmation_ends_as_one_that_was_not(tiny, fault):
    whole, folder = tiny / "runs" / "whole", tiny / "runs" / "killed"
    run(sweep_command("whole", slots=1, **CONFIRM), tiny, check=0)
    wanted = curves(whole)
    assert {trial.rsplit("-", 1)[0] for trial in wanted} == {
        "xs-untied", "xs-tied", "xs-untied-confirm", "xs-tied-confirm"
    }  # fmt: skip
    assert all(rows[-1][col.STATUS] == col.COMPLETE for rows in rows_of(whole).values())

    driver = fault("driver kill -9 while it confirms")
    process = start(sweep_command("killed", slots=2, **CONFIRM), tiny)
    wait_until(lambda: any("-confirm-" in trial for trial in rows_of(folder)), 150, "no confirmation began")
    family = descendants(process.pid)
    driver.injected()
    kill(process)
    wait_until(lambda: not running(family), 10, "processes were left")
    done = run(resume_command("killed"), tiny, check=0)
    assert curves(folder) == wanted  # packed in two slots, and one by one
    assert results_of(folder) == results_of(whole)
    verdict = [line for line in done.stdout.splitlines() if line.startswith("xs: ")]
    assert len(verdict) == 1
    assert json.loads((folder / "manifest.json").read_text())["search"]["most_trials"] == len(wanted)
    driver.survived()
