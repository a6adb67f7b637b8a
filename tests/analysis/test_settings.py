"""Settings are averaged over their seeds, and the noise between seeds is that of the textbook."""

import math

import numpy as np
import pandas as pd
import pytest
from conftest import armed

import analysis
from analysis.scaling.fit import best_points, points_of
from analysis.tables.leaders import noise_of, results
from analysis.tables.settings import CONSTANTS, loss_matrix, settings_table, with_settings
from lmcore.config import FIELD_ROLES


def grid(run, losses):
    """Trials of xs by learning rate and seed: {lr: [loss of seed 0, of seed 1, ...]}; None diverged."""
    for lr, row in losses.items():
        for seed, loss in enumerate(row):
            run.add("xs", "diverged" if loss is None else "complete", loss, optim__lr=lr, train__seed=seed)
    return analysis.load(run.path).trials


def test_a_setting_is_a_row_with_the_mean_and_interval_of_its_seeds(make_run):
    table = settings_table(grid(make_run(), {1e-3: [4.0, 4.1, 4.2], 2e-3: [3.9]}))
    first, second = table.to_dict("records")
    assert (first["setting"], first["n"], first["trials"]) == ("xs-0000", 3, ["xs-0000", "xs-0001", "xs-0002"])
    assert (first["loss"], first["sd"]) == (pytest.approx(4.1), pytest.approx(0.1))
    assert first["half"] == pytest.approx(4.302652729911275 * 0.1 / math.sqrt(3))  # the table's t for 2 degrees
    assert (second["n"], second["loss"]) == (1, 3.9)
    assert np.isnan(second["half"])


def test_seeds_that_diverged_or_did_not_finish_are_counted_beside_the_others(make_run):
    run = make_run()
    grid(run, {1e-3: [4.0, None]})
    run.add("xs", "pruned", 4.5, optim__lr=1e-3, train__seed=2)
    (row,) = settings_table(analysis.load(run.path).trials).to_dict("records")
    assert (row["n"], row["loss"], row["diverged"], row["unfinished"]) == (1, 4.0, 1, 1)


def test_a_run_that_was_repeated_under_its_seed_counts_once(make_run):
    run = make_run()
    for loss in (4.0, 4.2):
        run.add("xs", "complete", loss)
    (row,) = settings_table(analysis.load(run.path).trials).to_dict("records")
    assert (row["n"], row["loss"]) == (1, 4.1)


def test_phases_arms_and_experiments_are_apart(make_run):
    run = make_run(**armed("untied", "tied"))
    for arm in ("untied", "tied"):
        trial = run.add(f"xs-{arm}", "complete", 4.0)
        run.confirm(trial, {1: 4.1, 2: 4.3})
    table = settings_table(analysis.load(run.path).trials)
    assert table[["arm", "phase", "setting", "n"]].values.tolist() == [
        *(["untied", "search", "xs-untied-0000", 1], ["tied", "search", "xs-tied-0000", 1]),
        *(["untied", "confirm", "xs-untied-0000", 2], ["tied", "confirm", "xs-tied-0000", 2]),
    ]
    assert table["loss"].tolist() == pytest.approx([4.0, 4.0, 4.2, 4.2])


def test_the_noise_of_two_settings_is_that_of_a_paired_t_test(make_run):
    losses = {1e-3: [4.0, 4.3, 4.1], 2e-3: [4.2, 4.45, 4.35]}
    noise = noise_of(loss_matrix(with_settings(grid(make_run(), losses))))
    gaps = np.subtract(*losses.values())
    assert math.sqrt(2) * noise.paired.sd == pytest.approx(gaps.std(ddof=1))
    assert noise.paired.df == 2
    pooled = np.mean([np.var(row, ddof=1) for row in losses.values()])
    assert (noise.between.sd, noise.between.df) == (pytest.approx(math.sqrt(pooled)), 4)


def test_settings_with_one_seed_add_nothing_to_the_noise(make_run):
    losses = {1e-3: [4.0, 4.3, 4.1], 2e-3: [4.2, 4.45, 4.35]}
    matrix = loss_matrix(with_settings(grid(make_run(), losses)))
    more = pd.concat([matrix, pd.DataFrame([[3.0, np.nan, np.nan], [np.nan] * 3])])
    assert noise_of(more) == noise_of(matrix)


def test_seeds_are_averaged_over_and_the_luckiest_is_not_the_result(make_run):
    trials = grid(make_run(), {1e-3: [3.8, 4.2, 4.3], 2e-3: [4.0, 4.05, 4.02]})
    (leader,) = results(trials)["xs"].leaders
    assert leader.setting == "xs-0003"
    assert leader.mean == pytest.approx(np.mean([4.0, 4.05, 4.02]))
    (row,) = analysis.parameter_table(trials).to_dict("records")
    assert (row["trial"], row["seeds"], row["loss"]) == ("xs-0003", 3, pytest.approx(leader.mean))


def test_a_setting_with_a_seed_that_diverged_does_not_lead_and_is_named(make_run):
    trials = grid(make_run(), {1e-3: [3.5, 3.6, None], 2e-3: [4.0, 4.05, 4.02]})
    (leader,) = results(trials)["xs"].leaders
    assert leader.setting == "xs-0003"
    assert leader.unstable == ("xs-0000",)
    assert "xs-0000" not in (*leader.same, *leader.beaten)


def confirmed(run, losses, result=True):
    """One size, confirmed: {lr: (loss in the search, {seed: loss})}; the first is the recorded leader."""
    names = [run.add("xs", "complete", found, optim__lr=lr) for lr, (found, _) in losses.items()]
    for name, (_, repeats) in zip(names, losses.values(), strict=True):
        if repeats:
            run.confirm(name, repeats)
    if result:
        run.result(names[0])
    return analysis.load(run.path).trials


SEARCHED = {
    1e-3: (3.80, {1: 4.00, 2: 4.10, 3: 4.05}),
    2e-3: (3.85, {1: 4.01, 2: 4.12, 3: 4.04}),  # as good
    3e-3: (3.90, {1: 4.20, 2: 4.31, 3: 4.24}),  # worse by 0.2, under every seed
    4e-3: (4.10, {}),  # not confirmed: one run within the noise
    5e-3: (4.90, {}),
}


def test_what_was_selected_on_is_not_what_is_reported(make_run):
    trials = confirmed(make_run(**armed(sizes=("xs",))), SEARCHED)
    (row,) = analysis.parameter_table(trials).to_dict("records")
    assert (row["trial"], row["seeds"]) == ("xs-0000", 3)
    assert row["loss"] == pytest.approx(4.05)
    assert row["half"] == pytest.approx(4.302652729911275 * 0.05 / math.sqrt(3))
    assert row["perplexity"] == pytest.approx(math.exp(4.05))
    assert row["bits_per_byte"] == pytest.approx(4.05 / math.log(2) / 3)


def test_the_named_set_has_what_is_as_good_and_what_may_be(make_run):
    trials = confirmed(make_run(**armed(sizes=("xs",))), SEARCHED)
    (leader,) = results(trials)["xs"].leaders
    assert (leader.same, leader.same_from) == (("xs-0001",), "seeds")
    assert leader.beaten == ("xs-0002",)
    assert leader.unconfirmed == ("xs-0003",)
    (row,) = analysis.parameter_table(trials).to_dict("records")
    assert (row["same"], row["beaten"], row["unconfirmed"]) == ("xs-0001", "xs-0002", "xs-0003")


LUCKY = {1e-3: (3.0, {1: 4.5, 2: 4.6, 3: 4.55}), **dict(list(SEARCHED.items())[1:])}


@pytest.mark.parametrize("losses", [SEARCHED, LUCKY])
def test_until_there_is_a_result_the_searchs_best_leads_by_its_confirmation(make_run, losses):
    trials = confirmed(make_run(**armed(sizes=("xs",))), losses, result=False)
    (leader,) = results(trials)["xs"].leaders
    assert (leader.setting, leader.basis, leader.over) == ("xs-0000", "confirmed", False)


def test_the_searchs_best_does_not_lead_if_it_diverged_in_the_confirmation(make_run):
    losses = {1e-3: (3.8, {1: 4.0, 2: None}), 2e-3: (3.9, {1: 4.1}), 3e-3: (4.0, {1: 4.05})}
    trials = confirmed(make_run(**armed(sizes=("xs",))), losses, result=False)
    (leader,) = results(trials)["xs"].leaders
    assert (leader.setting, leader.over) == ("xs-0001", False)


def test_the_search_counts_until_its_best_has_a_confirmation_run_and_that_is_not_the_end(make_run):
    run = make_run(**armed(sizes=("xs",)))
    best, other = run.add("xs", "complete", 3.8, optim__lr=1e-3), run.add("xs", "complete", 3.9, optim__lr=2e-3)
    run.add("xs-confirm", None, optim__lr=1e-3, train__seed=1, data__seed=1, of=best)
    run.confirm(other, {1: 4.0})
    (leader,) = results(analysis.load(run.path).trials)["xs"].leaders
    assert (leader.setting, leader.mean, leader.basis, leader.over) == (best, 3.8, "searched", False)


def test_the_confirmation_of_experiments_is_over_when_it_has_a_result(make_run):
    run = make_run(**armed(sizes=("xs",)))
    trial = run.add("xs", "complete", 4.0, experiment="baseline")
    run.confirm(trial, {1: 4.1})
    (leader,) = results(analysis.load(run.path).trials)["xs"].leaders
    assert (leader.basis, leader.over) == ("all runs", False)
    run.study("xs-confirm").set_user_attr("result", {"leader": None, "beaten": {}})
    (leader,) = results(analysis.load(run.path).trials)["xs"].leaders
    assert (leader.n, leader.over) == (2, True)


def test_a_confirmation_that_named_nobody_leaves_no_leader_and_no_row(make_run):
    run = make_run(**armed(sizes=("xs",)))
    run.confirm(run.add("xs", "complete", 3.8), {1: None, 2: None})
    run.study("xs-confirm").set_user_attr("result", {"leader": None, "beaten": {"xs-0000": 2}})
    trials = analysis.load(run.path).trials
    assert (results(trials)["xs"].leaders, results(trials)["xs"].lost) == ((), (None,))
    assert analysis.parameter_table(trials.assign(arm="tied")).empty
    assert analysis.verdicts(trials).sentences == ("xs: no result, because no confirmation run ran to its end.",)
    assert best_points(points_of(trials)).empty  # of a scaling law


def test_a_setting_is_the_same_on_another_device_and_with_other_reports(make_run):
    run = make_run()
    for seed, device in enumerate(("cpu", "cuda")):
        run.add("xs", "complete", 4.0, train__seed=seed, train__device=device, train__eval_every=5 + seed)
    assert settings_table(analysis.load(run.path).trials)["n"].tolist() == [2]


def test_constant_fields_are_those_of_the_config():
    constants = {f"params.{path}" for path, role in FIELD_ROLES.items() if role == "sweep constant"}
    assert set(CONSTANTS) == constants


def test_settings_with_one_run_are_compared_on_their_windows(make_run):
    run = make_run()
    rng = np.random.default_rng(0)
    shared = rng.standard_normal(200)
    names = [run.add("xs", "complete", 4.0 + gap, optim__lr=1e-3 * (1 + gap)) for gap in (0, 0.001, 0.1)]
    for name, gap in zip(names, (0, 0.001, 0.1), strict=True):
        run.windows(name, 4 + gap + shared + 0.05 * rng.standard_normal(200))
    (leader,) = results(analysis.load(run.path).trials)["xs"].leaders
    assert (leader.same, leader.beaten, leader.same_from) == (("xs-0001",), ("xs-0002",), "windows")
