"""All laws of a run or a table: true values are recovered, and what the data do not support is not estimable."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import armed

import analysis
from analysis.figures.registry import FigureData, figures_of
from analysis.report import build_report, main
from analysis.scaling.fit import best_points, fit_scaling, points_of
from analysis.stats.estimate import Estimate, NotEstimable

E, A, ALPHA, B, BETA = 1.7, 400.0, 0.34, 1500.0, 0.36


def grid(noise=0.002, lr=False, seed=0):
    """Models of the law above at 8 sizes and 6 token counts; with `lr` seven learning rates each, best at 30 N^-0.4."""
    rng = np.random.default_rng(seed)
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 8), np.geomspace(2e8, 2e10, 6)))
    points = pd.DataFrame({"N": n, "D": d, "loss": E + A / n**ALPHA + B / d**BETA})
    if lr:
        steps = pd.DataFrame({"step": np.linspace(-1.5, 1.5, 7)})
        points = points.merge(steps, how="cross")
        points["lr"] = np.exp(np.round(np.log(30 * points["N"] ** -0.4) / 0.35) * 0.35 + points["step"])
        points["loss"] *= 1 + 0.01 * np.log(points["lr"] / (30 * points["N"] ** -0.4)) ** 2
        points = points.drop(columns="step")
    points["loss"] *= np.exp(noise * rng.standard_normal(len(points)))
    return points


def inside(estimate, truth):
    return isinstance(estimate, Estimate) and estimate.low <= truth <= estimate.high


def test_a_table_without_settings_recovers_its_loss_law():
    scaling = fit_scaling(grid())
    for name, truth, near in (("E", E, 0.05), ("alpha", ALPHA, 0.02), ("beta", BETA, 0.02)):
        assert scaling.fitted[f"loss_nd.{name}"].value == pytest.approx(truth, abs=near)
    exponent = scaling.fitted["compute_optimal.N_exponent"]
    assert exponent.value == pytest.approx(BETA / (ALPHA + BETA), abs=0.05)
    assert scaling.fitted["compute_optimal.D_exponent"].value == pytest.approx(1 - exponent.value)
    assert scaling.optimum == {}
    assert {figure.name for figure in figures_of("Scaling", FigureData(scaling=scaling))} >= {"loss_size"}


def test_the_law_of_the_learning_rate_is_recovered_from_its_optima():
    scaling = fit_scaling(grid(noise=0.0005, lr=True))
    assert len(scaling.points) == 48  # of every size and token count the best
    assert inside(scaling.optimum["lr.N_exponent"], -0.4)
    assert abs(scaling.optimum["lr.D_exponent"].value) < 0.1
    names = {figure.name for figure in figures_of("Scaling", FigureData(scaling=scaling))}
    assert {"loss_size", "optimum_lr_N", "optimum_lr_D"} <= names


def test_the_law_is_fitted_to_confirmed_losses_and_to_means_over_seeds(make_run):
    run = make_run(**armed(sizes=("xs", "s")))
    lucky, other = (run.add("xs", "complete", 3.8 + lr, optim__lr=lr) for lr in (1e-3, 2e-3))
    for name, loss in ((lucky, 4.0), (other, 3.99)):
        run.confirm(name, {1: loss, 2: loss + 0.1})
    run.result(lucky)
    for seed, loss in enumerate((3.0, 3.4)):
        run.add("s", "complete", loss, params_non_embedding=2000, train__seed=seed)
    points = points_of(analysis.load(run.path).trials)
    assert len(points) == 4  # of the search
    assert best_points(points)["loss"].tolist() == pytest.approx([4.05, 3.2])


def test_one_law_is_not_fitted_to_several_arms(make_run):
    run = make_run(**armed("untied", "tied"))
    for arm, loss in {"untied": 4.0, "tied": 3.0}.items():
        run.add(f"xs-{arm}", "complete", loss)
    loaded = analysis.load(run.path)
    assert points_of(loaded.trials)["loss"].tolist() == [4.0]
    (section,) = [one for one in build_report(loaded).sections if one.title == "Scaling"]
    assert "The laws are those of untied, the first arm: no law of one arm holds for several." in section.notes


@pytest.mark.parametrize("rows", [0, 1, 2, 3])
def test_a_handful_of_points_is_not_estimable_and_no_error(rows):
    scaling = fit_scaling(grid(lr=True).head(rows))
    assert all(isinstance(one, NotEstimable) for one in {**scaling.fitted, **scaling.optimum}.values())
    figures_of("Scaling", FigureData(scaling=scaling))


def test_points_of_a_run_are_its_finished_trials(original):
    points = points_of(analysis.load(original.path).trials)
    assert len(points) == 6  # five complete, one diverged
    assert np.isinf(points["loss"]).sum() == 1
    assert len(best_points(points)) < 6


def test_nothing_is_estimable_if_all_diverged():
    points = grid(lr=True).assign(loss=np.inf)
    assert all(isinstance(one, NotEstimable) for one in fit_scaling(points).fitted.values())


def test_a_csv_becomes_a_report_with_every_number_under_its_path(tmp_path, capsys):
    table = grid(lr=True)
    table = table.rename(columns={"N": "params", "loss": "val_loss"}).assign(flops=6 * table["N"] * table["D"])
    path = tmp_path / "public.csv"
    table.to_csv(path, index=False)
    options = ["--columns", "N=params,loss=val_loss,lr=lr", "--flops-column", "flops", "--drop-highest-loss", "1"]
    assert main([str(path), *options, "--out", str(tmp_path / "out")]) == 0
    assert "optimum.lr.N_exponent" in capsys.readouterr().out
    values = json.loads((tmp_path / "out" / "report.json").read_text())
    assert values["scaling"]["loss_nd"]["alpha"]["value"] == pytest.approx(ALPHA, abs=0.1)
    assert values["optimum"]["lr"]["N_exponent"].keys() == {"value", "low", "high", "n"}
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ([], "--columns: must name the columns of a CSV file"),
        (["--columns", "N=params,D=d,loss=nope"], "must have the column 'nope'"),
        (["--columns", "N=params"], "must name loss, D"),
        (["--flops-column", "flops"], "--flops-column: is for a CSV file"),
    ],
)
def test_a_csv_without_a_valid_description_fails_with_one_line(tmp_path, capsys, options, fragment):
    path = tmp_path / "public.csv"
    path.write_text("params,d,loss\n1,2,3\n")
    assert main([str(path), *options]) == 2
    printed = capsys.readouterr()
    assert fragment in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
