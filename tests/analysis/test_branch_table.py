"""Branches in the analysis: a table of their own, points of the loss law, and what they cost."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import armed

import analysis
from analysis.report import build_report, main
from analysis.runs.branches import branch_trials
from analysis.runs.combine import load_all
from analysis.scaling.fit import best_points, fit_scaling, points_of
from analysis.stats.estimate import Estimate
from analysis.tables.cost import cost_table
from analysis.tables.trials import parameter_table
from lmcore import columns as col

E, A, ALPHA, B, BETA = 1.7, 400.0, 0.34, 1500.0, 0.36
WSD = {"optim__schedule": "wsd", "optim__decay_fraction": 0.2, "train__branches": [0.25, 0.5]}


def ended(fraction, loss, **changes):
    """The attribute of a branch of a run of 100 updates of 256 tokens."""
    step = round(100 * fraction)
    known = {"branch": fraction, "step": step, "tokens": 256 * step, "train_loss": 4.0, "val_loss": loss}
    final = {"val_loss_se": 0.02, "final_val_loss": loss, "final_val_loss_se": 0.01, "final_windows": 40}
    return known | final | {"elapsed_s": 3.0, "tokens_per_s": 2048.0} | changes


@pytest.fixture
def branched(make_run):
    """One size: a complete trial and a stopped one with a branch each, a failed one, and rows of both kinds."""
    run = make_run(studies={"xs": "xs"})
    first = run.add("xs", "complete", 3.9, **WSD, branches=[ended(0.5, 4.1), ended(0.25, 4.3)])
    run.add("xs", "pruned", 4.4, **WSD, optim__lr=1e-2, step=30, tokens=7680, branches=[ended(0.25, 4.25)])
    run.add("xs", "complete", 3.95, **WSD, optim__lr=2e-3, branches=[ended(0.25, None), ended(0.5, 4.05)])
    run.add("xs", "failed", None, message="boom", last=None)
    for step, branch in ((20, None), (25, 0.25), (25, None), (50, 0.5), (100, None)):
        run.row(first, step, 4.0, branch=branch)
    run.windows(first, [4.0, 4.2], "branch", branch=0.5)
    run.windows(first, [3.8, 4.0])
    return run


def test_the_table_has_a_row_for_each_trial_and_branch_as_if_it_had_been_trained_alone(branched):
    table = analysis.load(branched.path).branches
    assert table[["trial", "branch", "step", "tokens", "status"]].to_numpy().tolist() == [
        ["xs-0000", 0.25, 25, 6400, "complete"],
        ["xs-0000", 0.5, 50, 12_800, "complete"],
        ["xs-0001", 0.25, 25, 6400, "pruned"],
        ["xs-0002", 0.25, 25, 6400, "complete"],
        ["xs-0002", 0.5, 50, 12_800, "complete"],
    ]
    assert table["loss"].tolist() == pytest.approx([4.3, 4.1, 4.25, np.nan, 4.05], nan_ok=True)
    assert table["loss_se"][:3].tolist() == [0.01] * 3
    assert table["train_flops"].tolist() == [7000 * tokens for tokens in table["tokens"]]
    assert table["own_tokens"].tolist() == [256 * round(0.2 * step) for step in table["step"]]
    windows = table.set_index(["trial", "branch"])["window_losses"]
    assert windows["xs-0000", 0.5].tolist() == pytest.approx([4.0, 4.2])
    assert windows["xs-0000", 0.25] is None


def test_trials_and_rows_stay_those_of_the_trunk(branched):
    run = analysis.load(branched.path)
    assert len(run.trials) == 4
    assert run.rows[col.STEP].tolist() == [20, 25, 100]
    assert run.rows[col.BRANCH].isna().all()
    assert run.trials["loss"].tolist()[0] == 3.9
    assert run.trials["window_losses"][0].tolist() == pytest.approx([3.8, 4.0])
    assert run.trials["params.train.branches"].tolist()[:3] == ["0.25, 0.5"] * 3


def test_a_run_without_branches_has_an_empty_table_and_no_section(original):
    run = analysis.load(original.path)
    assert run.branches.empty
    assert "Branches" not in [section.title for section in build_report(run).sections]
    assert col.BRANCH not in points_of(run.trials, run.branches)


def test_trials_at_a_branch_are_those_of_a_sweep_of_that_budget(branched):
    run = analysis.load(branched.path)
    quarter = branch_trials(run.trials, run.branches, 0.25)
    assert quarter["trial"].tolist() == ["xs-0000", "xs-0001", "xs-0002"]
    assert quarter["status"].tolist() == ["complete", "complete", "diverged"]  # what was stopped later is finished here
    assert quarter["params.train.steps"].tolist() == [25] * 3
    assert (quarter["params.optim.warmup_fraction"] * 25).tolist() == pytest.approx([5] * 3)
    (row,) = parameter_table(quarter).to_dict("records")
    assert (row["trial"], row["loss"], row["tokens"], row["train_flops"]) == ("xs-0001", 4.25, 6400, 7000 * 6400)
    assert row["bits_per_byte"] == pytest.approx(4.25 / np.log(2) / 3)


def test_branches_are_points_of_their_own_number_of_tokens(branched):
    run = analysis.load(branched.path)
    points = points_of(run.trials, run.branches)
    assert points["branch"].fillna(1).tolist() == [1, 1, 0.25, 0.25, 0.25, 0.5, 0.5]
    best = best_points(points).sort_values("D")
    assert best["D"].tolist() == [6400, 12_800, 25_600]
    assert best["loss"].tolist() == pytest.approx([4.25, 4.05, 3.9])
    pd.testing.assert_frame_equal(points_of(run.trials), points[points["branch"].isna()].drop(columns="branch"))


def test_in_a_confirmed_sweep_the_loss_of_a_branch_is_the_mean_over_the_confirmation(make_run):
    run = make_run(**armed(sizes=("xs",)))
    lucky = run.add("xs", "complete", 3.0, **WSD, branches=[ended(0.5, 3.1)])
    run.add("xs", "complete", 3.5, **WSD, optim__lr=1e-2, branches=[ended(0.5, 3.0)])
    for seed, loss in ((1, 3.3), (2, 3.5)):
        run.confirm(lucky, {seed: loss}, branches=[ended(0.5, loss + 0.2)])
    run.result(lucky)
    loaded = analysis.load(run.path)
    best = best_points(points_of(loaded.trials, loaded.branches)).sort_values("D")
    assert best["loss"].tolist() == pytest.approx([3.6, 3.4])


def test_runs_of_one_budget_with_branches_support_the_law_of_size_and_data(make_run):
    run = make_run(studies={f"n{place}": f"n{place}" for place in range(6)})
    rng = np.random.default_rng(0)
    for place, n in enumerate(np.geomspace(1e7, 1e9, 6).astype(int)):

        def loss(d, n=n):
            return float((E + A / n**ALPHA + B / d**BETA) * np.exp(0.001 * rng.standard_normal()))

        train = {"train__steps": 100, "train__batch_size": 2**15, "model__context_length": 2**10}
        d = {fraction: round(100 * fraction) * 2**25 for fraction in (0.1, 0.2, 0.4, 0.7, 1.0)}
        branches = [ended(f, loss(d[f]), tokens=d[f]) for f in (0.1, 0.2, 0.4, 0.7)]
        own = {"params_non_embedding": int(n), "tokens": d[1.0], "branches": branches}
        run.add(f"n{place}", "complete", loss(d[1.0]), **(WSD | train | own))
    loaded = analysis.load(run.path)
    alone = fit_scaling(points_of(loaded.trials), resamples=50)
    scaling = fit_scaling(points_of(loaded.trials, loaded.branches), resamples=50)
    assert not isinstance(alone.fitted["loss_nd.beta"], Estimate)
    assert scaling.fitted["loss_nd.beta"].value == pytest.approx(BETA, abs=0.1)
    assert scaling.fitted["loss_nd.alpha"].value == pytest.approx(ALPHA, abs=0.1)
    (section,) = [one for one in build_report(loaded).sections if one.title == "Scaling"]
    assert any(note.startswith("24 of the 30 points of the laws are branches") for note in section.notes)


def test_the_report_has_a_section_and_a_csv_of_the_branches(branched):
    assert main([str(branched.path), "--brief"]) == 0
    assert (branched.path / "report" / "branches.csv").exists()
    assert main([str(branched.path)]) == 0
    assert "## Branches\n" in (branched.path / "report" / "report.md").read_text()
    table = pd.read_csv(branched.path / "report" / "branches.csv")
    assert table["branch"].tolist() == [0.25, 0.5, 0.25, 0.25, 0.5]
    assert table.columns.tolist()[:4] == ["trial", "size", "status", "branch"]
    json.loads((branched.path / "report" / "report.json").read_text())


def test_what_branches_cost_is_in_the_cost(branched):
    (row,) = cost_table(analysis.load(branched.path)).to_dict("records")
    own = 256 * (5 + 10 + 5 + 5 + 10)
    tokens = 25_600 + 7680 + 25_600 + own
    assert (row["tokens"], row["train_flops"]) == (tokens, 7000 * tokens)


def test_branches_of_several_runs_have_their_runs_name_in_front(branched, tmp_path, original):
    (tmp_path / "other").symlink_to(original.path)
    manifest = json.loads((branched.path / "manifest.json").read_text())
    (branched.path / "manifest.json").write_text(json.dumps(manifest | {"name": "first"}))
    both = load_all([branched.path, tmp_path / "other"])
    assert both.branches["trial"].tolist()[0] == "first/xs-0000"
    assert both.branches["size"].unique().tolist() == ["first/xs"]
    assert len(branch_trials(both.trials, both.branches, 0.25)) == 3
