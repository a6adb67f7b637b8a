"""The figures of the answer show the numbers of the tables: their data, in the order in which they are read."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import armed

import analysis
from analysis.figures.answer import parameters_figure
from analysis.figures.chart import Look
from analysis.figures.colours import GREEN, GREY, INK, RED
from analysis.figures.differences import difference_figure
from analysis.figures.encoding import looks_of
from analysis.figures.frontier import frontier_of_points, frontier_of_run, hull
from analysis.figures.interactive import interactive
from analysis.figures.intervals import comparison_forest, importance_forest
from analysis.stats.comparison import compare
from analysis.stats.importance import COLUMNS, importance
from analysis.tables.trials import parameter_table

SEEDS = (1, 2, 3)
SHARED = np.array([0.05, -0.02, 0.01, -0.04])  # what a seed does to every experiment
GAPS = {"worst": 0.5, "baseline": 0.0, "better": -0.3, "tie": 0.001, "bad": 0.2}


def drawable(figure):
    """The figure, which both ways of drawing it accept."""
    assert figure.svg.startswith(b"<?xml")
    json.dumps(interactive(figure.chart), allow_nan=False)
    return figure


@pytest.fixture
def ablation(make_run):
    """The trials of a baseline, listed second, and four experiments under four seeds."""
    run = make_run(**armed(sizes=("main",)))
    for place, (name, gap) in enumerate(GAPS.items()):
        row = 4 + gap + SHARED + 0.004 * np.array([1, -1, 1, -1]) * (-1) ** place
        trial = run.add("main", "complete", row[0], experiment=name, optim__beta1=0.5 + place / 10)
        run.confirm(trial, dict(zip(SEEDS, row[1:], strict=True)))
    return analysis.load(run.path).trials


def single_runs(run, *, windows=True):
    """One run each of a baseline and of a model that is worse by 0.1 on each of 300 windows, but for their noise."""
    rng = np.random.default_rng(0)
    shared, own = 0.6 * rng.standard_normal(300), 0.1 * rng.standard_normal(300)
    for name, losses in {"baseline": 4 + shared, "wide": 4.1 + shared + own}.items():
        trial = run.add("main", "complete", losses.mean(), experiment=name, optim__beta1=0.8 + 0.1 * (name == "wide"))
        if windows:
            run.windows(trial, losses)
            run.documents(np.arange(300))
    return analysis.verdicts(analysis.load(run.path).trials), own + 0.1


def test_ablation_bars_are_sorted_coloured_by_verdict_and_labelled(ablation):
    answer = analysis.verdicts(ablation)
    figure = drawable(difference_figure(answer))
    (panel,) = figure.chart.panels
    assert list(panel.y.ticks.values()) == ["better", "tie", "bad", "worst"]
    assert panel.y.limits == (3.5, -0.5)  # the first is at the top
    bars = {layer.label: layer for layer in figure.chart.layers("bars")}
    assert {label: layer.look.colour for label, layer in bars.items()} == {"better": GREEN, "worse": RED, "tie": GREY}
    assert bars["better"].frame["y"].tolist() == [0.0]
    assert bars["worse"].frame["y"].tolist() == [2.0, 3.0]
    (rule,) = figure.chart.layers("rule")
    assert rule.frame["x"].tolist() == [0.0]
    assert figure.title == "Difference from the baseline"
    assert "n = 4 experiments" in figure.caption
    assert "95 % over 4 seeds" in figure.caption


def test_a_bar_is_the_mean_difference_over_seeds_and_its_interval_that_of_the_pooled_noise(ablation):
    (better,) = difference_figure(analysis.verdicts(ablation)).chart.layers("bars", "better")
    # Neighbours in GAPS have opposite noise, whose mean over seeds is 0.
    noise = np.array([[0.004 * s * (-1) ** place for s in (1, -1, 1, -1)] for place in range(5)])
    residual = noise - noise.mean(axis=0)  # settings and seeds have been taken out
    sd = np.sqrt((residual**2).sum() / (4 * 3))
    half = 2.178812830 * sd * np.sqrt(2 / 4)  # the table's t for 12 degrees of freedom
    value, low, high = better.frame.loc[:, ["value", "low", "high"]].iloc[0]
    assert value == pytest.approx(-0.3)
    assert (low, high) == (pytest.approx(-0.3 - half), pytest.approx(-0.3 + half))


def test_the_words_beside_a_bar_are_its_value_and_do_not_touch_it(ablation):
    chart = difference_figure(analysis.verdicts(ablation)).chart
    (words,) = chart.layers("text")
    bars = pd.concat([layer.frame for layer in chart.layers("bars")]).sort_values("y")
    minus = "\N{MINUS SIGN}"
    assert words.frame["text"].str.split(" ± ").str[0].str.replace(minus, "-").astype(float).tolist() == pytest.approx(
        bars["value"].tolist(), abs=0.0005
    )
    assert (words.frame["x"] > bars["high"].max()).all()
    assert words.frame["y"].tolist() == bars["y"].tolist()
    assert not words.frame["text"].str.contains("seed").any()  # all have four: the caption says so


def test_a_single_pair_has_the_error_of_its_windows_and_is_marked(make_run):
    answer, gaps = single_runs(make_run(**armed(sizes=("main",))))
    figure = drawable(difference_figure(answer))
    (bars,) = figure.chart.layers("bars")
    half = 1.967929669 * gaps.std(ddof=1) / np.sqrt(300)  # the table's t for 299 degrees of freedom
    assert bars.label == "worse"
    assert bars.frame["value"].tolist() == pytest.approx([gaps.mean()], abs=1e-6)
    assert bars.frame["low"].tolist() == pytest.approx([gaps.mean() - half], abs=1e-5)
    (words,) = figure.chart.layers("text")
    assert words.frame["text"].tolist() == [f"+{gaps.mean():.3f} ± {half:.3f} (one seed)"]
    assert "over validation windows" in figure.caption


def test_without_an_estimate_there_are_no_bars(make_run):
    answer, _ = single_runs(make_run(**armed(sizes=("main",))), windows=False)
    assert difference_figure(answer) is None


def test_each_size_has_a_panel_and_matchings_that_agree_share_a_bar(make_run):
    run = make_run(**armed("untied", "tied"))
    for size, width in (("xs", 1000), ("s", 3000)):
        for arm, loss in (("untied", 4.0), ("tied", 4.2)):
            counts = {"params_exact": width + 500 * (arm == "untied"), "params_non_embedding": width}
            trial = run.add(f"{size}-{arm}", "complete", 4.0, model__tie_embeddings=arm == "tied", **counts)
            run.confirm(trial, {seed: loss + 0.01 * seed**2 * (1 + (arm == "tied") / 9) for seed in SEEDS})
            run.result(trial)
    figure = drawable(difference_figure(analysis.verdicts(analysis.load(run.path).trials)))
    assert [panel.title for panel in figure.chart.panels] == ["xs", "s"]
    names = [name.replace("\n", " ") for name in figure.chart.panels[0].y.ticks.values()]
    assert names == ["same shape, non-embedding parameters", "same total parameters"]
    assert figure.title == "tied against untied"
    assert "n = 2 arms" in figure.caption


def test_loss_against_parameters_has_a_line_per_arm_and_bars_from_seeds(make_run):
    run = make_run(**armed("untied", "tied"))
    for size, width in (("xs", 1_000), ("s", 3_000)):
        for arm, loss in (("untied", 4.0), ("tied", 4.2)):
            changes = {"model__tie_embeddings": arm == "tied", "params_exact": width + 500 * (arm == "untied")}
            run.confirm(run.add(f"{size}-{arm}", "complete", 4.0, **changes), {1: loss, 2: loss + 0.1})
    table = parameter_table(analysis.load(run.path).trials)
    figure = drawable(parameters_figure(table))
    lines = {layer.label: layer.frame for layer in figure.chart.layers("line")}
    assert {name: frame["x"].tolist() for name, frame in lines.items()} == {
        "untied": [1500, 3500],
        "tied": [1000, 3000],
    }
    assert lines["tied"]["y"].tolist() == pytest.approx([4.25] * 2)
    (points,) = figure.chart.layers("points", "untied")
    half = 12.706204736 * np.std([0, 0.1], ddof=1) / np.sqrt(2)  # the table's t for 1 degree of freedom
    assert points.frame["low"].tolist() == pytest.approx([4.05 - half] * 2)
    assert points.frame["high"].tolist() == pytest.approx([4.05 + half] * 2)
    assert figure.chart.panels[0].x.log
    assert "n = 8 complete runs. Bars: 95 % intervals from seeds." in figure.caption
    assert parameters_figure(table.assign(status="pruned")) is None
    assert parameters_figure(table[table["size"] == "xs"]) is None  # a single size
    assert parameters_figure(table.assign(params_exact=1100)) is None  # sizes that differ in something else


def test_a_row_that_is_not_final_is_hollow_and_not_joined(make_run):
    run = make_run()
    run.add("xs", "complete", 4.0)
    run.add("s", "pruned", 3.9, params_exact=2000)
    figure = parameters_figure(parameter_table(analysis.load(run.path).trials))
    (line,) = figure.chart.layers("line")
    full, hollow = figure.chart.layers("points")
    assert len(line.frame) == 1
    assert (full.look.hollow, hollow.look.hollow) == (False, True)
    assert hollow.frame["x"].tolist() == [2000]
    assert figure.caption.endswith("Hollow: not trained to the end.")


def test_names_have_looks_of_their_own():
    looks = looks_of([f"arm {k}" for k in range(20)])
    assert len({(look.colour, look.marker, look.dash) for look in looks.values()}) == 20


def test_importances_that_do_not_stand_out_are_hollow_and_none_is_no_figure(make_run):
    rows = [
        ("xs", "optim.lr", 0.8, 0.7, 0.9, 40, 20, True, None),
        ("xs", "optim.beta1", 0.2, 0.0, 0.3, 40, 20, False, None),
        ("s", None, np.nan, np.nan, np.nan, 3, 3, False, "too few"),
    ]
    figure = drawable(importance_forest(pd.DataFrame(rows, columns=list(COLUMNS))))
    points = figure.chart.layers("points")
    assert {layer.look.hollow: layer.frame["x"].tolist() for layer in points} == {True: [0.2], False: [0.8]}
    assert all(layer.look.opacity == 1 for layer in points)
    assert list(figure.chart.panels[0].y.ticks.values()) == ["lr", "beta1"]
    assert "n = 40 in xs trials" in figure.caption
    run = make_run()
    run.add("xs", "complete", 4.0)
    assert importance_forest(importance(analysis.load(run.path).trials)) is None


def test_the_forest_has_a_row_per_difference_and_counts_each_pair_once(make_run):
    run = make_run(studies={"xs": "xs"})
    rng = np.random.default_rng(0)
    for seed in range(4):
        shared = 0.02 * rng.standard_normal()
        for tied in (False, True):
            loss = 4 + 0.2 * tied + shared + 0.01 * rng.standard_normal()
            run.add("xs", "complete", loss, train__seed=seed, model__tie_embeddings=tied, params_exact=900 + 200 * tied)
    comparison = compare(analysis.load(run.path).trials, "model.tie_embeddings", False, True)
    figure = drawable(comparison_forest([comparison]))
    (points,) = figure.chart.layers("points")
    matched = comparison.matchings["same shape"]
    assert (points.label, points.look.colour) == ("worse", RED)
    assert points.frame[["x", "x_low", "x_high"]].to_numpy().tolist() == [
        [matched.difference.value, matched.difference.low, matched.difference.high]
    ]
    (tick,) = figure.chart.panels[0].y.ticks.values()
    assert " ".join(tick.split()) == "True against False same shape, non-embedding parameters (n = 4)"
    assert "n = 4 pairs" in figure.caption
    noise = figure.chart.layers("bars", "noise")
    assert sorted(layer.frame["value"].iloc[0] for layer in noise) == pytest.approx([-matched.noise, matched.noise])
    assert comparison_forest([]) is None


def test_the_hull_is_below_and_left_of_everything():
    rng = np.random.default_rng(0)
    flops = np.exp(rng.uniform(0, 10, 300))
    loss = 2 + 3 * flops**-0.2 * np.exp(0.2 * np.abs(rng.standard_normal(300)))
    corners = hull(flops, loss)
    x, y = np.log(flops), np.log(loss)
    assert (np.diff(flops[corners]) > 0).all()
    assert (np.diff(loss[corners]) < 0).all()
    assert (np.diff(np.diff(y[corners]) / np.diff(x[corners])) > 0).all()  # convex
    inside = (flops >= flops[corners[0]]) & (flops <= flops[corners[-1]])
    assert (y[inside] >= np.interp(x[inside], x[corners], y[corners]) - 1e-12).all()
    assert loss[corners[-1]] == loss.min()


def test_loss_against_compute_has_the_models_of_a_run_its_curves_and_the_frontier(make_run):
    run = make_run()
    for size, per_token, ends in (("xs", 1000, (4.5, 4.0)), ("s", 4000, (3.8, 3.7))):
        for end in ends:
            trial = run.add(size, "complete", end, flops_per_token=per_token, tokens=25_600)
            run.row(trial, 50, end + 1)
            run.row(trial, 100, end)
    run.add("s", "diverged", None, flops_per_token=4000)
    figure = drawable(frontier_of_run(analysis.load(run.path)))
    points = {layer.label: layer.frame for layer in figure.chart.layers("points")}
    assert points["xs"][["x", "y"]].to_numpy().tolist() == [[25_600_000, 4.5], [25_600_000, 4.0]]
    assert points["s"]["trial"].tolist() == ["s-0000", "s-0001"]
    (along,) = figure.chart.layers("line", "s")
    assert along.frame.to_numpy().tolist() == [[12_800 * 4000, 4.7], [25_600 * 4000, 3.7]]
    (frontier,) = figure.chart.layers("line", "frontier")
    assert frontier.frame.to_numpy().tolist() == [[12_800_000, 5.0], [25_600_000, 4.0], [102_400_000, 3.7]]
    assert "n = 4 models" in figure.caption


def test_at_one_budget_there_is_no_frontier_and_what_failed_does_not_hide_it():
    points = pd.DataFrame({"N": [1e6, 2e6, 4e6], "D": [4e9, 2e9, 1e9], "loss": [3.0, 2.9, 3.1]})
    assert frontier_of_points(points) is None
    two = pd.concat([points, points.assign(D=points["D"] * 10, loss=[2.5, 2.4, 11.0])], ignore_index=True)
    figure = drawable(frontier_of_points(two))
    (frontier,) = figure.chart.layers("line", "frontier")
    assert frontier.frame["y"].tolist() == [2.9, 2.4]
    assert frontier.frame["x"].tolist() == pytest.approx([6 * 4e15, 6 * 4e16])
    shown = pd.concat([layer.frame for layer in figure.chart.layers("points")])
    assert shown["y"].max() == 3.1
    above = "1 of them, with a loss above 1.5 times the frontier's, are not shown"
    assert f"n = 6 models that were trained to their end; {above}" in figure.caption


def test_what_is_drawn_keeps_its_contrast(ablation):
    chart = difference_figure(analysis.verdicts(ablation)).chart
    assert {layer.look.opacity for layer in chart.layers()} == {1.0}
    assert {layer.look.colour for layer in chart.layers()} <= {GREEN, RED, GREY, INK, Look().colour}
