"""Figures show what the tables say: every trial once, ends as marks, what diverged as such."""

import numpy as np
import pytest

import analysis
from analysis.figures.curves import curve_figures
from analysis.figures.hyperparameters import hyperparameter_figure, learning_rate_figure, parallel_coordinates
from analysis.figures.intervals import comparison_forest, importance_forest
from analysis.figures.style import RED, colours
from analysis.stats.estimate import Estimate
from lmcore import columns as col


@pytest.fixture(scope="module")
def run(original):
    return analysis.load(original.path)


def test_every_trial_that_reported_is_a_line_in_each_figure_of_curves(make_run):
    made = make_run()
    for number, ended in enumerate(("complete", "pruned", "diverged")):
        trial = made.add("xs", ended, 4.0)
        for step in (25, 50):
            made.row(trial, step, 5.0 - number * 0.1)
    made.row(trial, 75, None)  # what is not finite is no point
    figures = curve_figures(analysis.load(made.path))
    assert [figure.name for figure in figures] == ["loss_steps", "loss_tokens", "loss_flops", "loss_seconds"]
    for figure in figures:
        (axes,) = figure.figure.axes
        lines = [line for line in axes.lines if len(line.get_xdata()) > 1]
        assert len(lines) == 3
        assert [line.get_color() for line in lines].count(RED) == 1
        assert "n = 3 trials" in figure.caption


def test_a_run_without_rows_has_no_curves(run):
    assert curve_figures(run._replace(rows=run.rows.iloc[:0])) == []


def test_diverged_trials_stand_on_the_upper_edge_and_their_region_is_marked(run):
    figure = learning_rate_figure(run.trials, {"xs": Estimate(1.5e-3, 1e-3, 2e-3, 3)})
    (axes,) = figure.figure.axes
    marks = [line for line in axes.lines if line.get_marker() == "x"]
    assert [float(line.get_xdata()[0]) for line in marks] == [0.09]
    assert marks[0].get_ydata()[0] == axes.get_ylim()[1]
    assert "9.0e-02 on, the lowest rate that diverged" in figure.caption
    assert axes.get_xscale() == "log"


def test_every_searched_hyperparameter_has_a_panel_and_an_axis(run):
    figure = hyperparameter_figure(run.trials)
    labels = [axes.get_xlabel() for axes in figure.figure.axes if axes.get_visible()]
    assert labels == ["tied embeddings", "learning rate (peak)", "beta1"]
    (axes,) = parallel_coordinates(run.trials).figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()][:3] == ["tied", "lr", "beta1"]


def test_nothing_searched_is_no_figure(make_run):
    made = make_run()
    made.add("xs", "complete", 4.0)
    trials = analysis.load(made.path).trials
    assert hyperparameter_figure(trials) is None
    assert parallel_coordinates(trials) is None
    assert comparison_forest([]) is None
    assert learning_rate_figure(trials, {}).figure.axes


def test_refused_importances_are_no_figure(run):
    from analysis.stats.importance import importance

    assert importance_forest(importance(run.trials)) is None


def test_colours_follow_the_order_of_sizes():
    palette = colours(["xs", "s", "m", "s"])
    assert list(palette) == ["xs", "s", "m"]
    brightness = [np.dot(colour[:3], [0.3, 0.6, 0.1]) for colour in palette.values()]
    assert brightness == sorted(brightness)


def test_a_drawing_does_not_change_between_two_looks(run):
    trials = run.trials[run.trials[col.STATUS] == col.COMPLETE]
    assert parallel_coordinates(trials).svg == parallel_coordinates(trials).svg
