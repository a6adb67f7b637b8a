"""Figures show every trial once, mark how it ended, and agree with the tables."""

import numpy as np
import pytest

import analysis
from analysis.figures.hyperparameters import hyperparameter_figure, learning_rate_figure, parallel_coordinates
from analysis.figures.registry import FIGURES, FigureData, figures_of
from analysis.figures.style import RED, colours
from analysis.scaling.fit import fit_scaling, points_of
from analysis.stats.estimate import Estimate, NotEstimable
from analysis.stats.importance import importance
from analysis.tables.trials import parameter_table
from lmcore import columns as col


@pytest.fixture(scope="module")
def run(original):
    return analysis.load(original.path)


def test_each_figure_of_curves_has_a_line_per_trial_that_reported(make_run):
    made = make_run()
    for number, ended in enumerate(("complete", "pruned", "diverged")):
        trial = made.add("xs", ended, 4.0)
        for step in (25, 50):
            made.row(trial, step, 5.0 - number * 0.1)
    made.row(trial, 75, None)  # a row without a loss is not drawn
    figures = figures_of("Curves", FigureData(analysis.load(made.path)))
    assert [figure.name for figure in figures] == ["loss_steps", "loss_tokens", "loss_flops", "loss_seconds"]
    for figure in figures:
        (axes,) = figure.figure.axes
        lines = [line for line in axes.lines if len(line.get_xdata()) > 1]
        assert len(lines) == 3
        assert [line.get_color() for line in lines].count(RED) == 1
        assert "n = 3 trials" in figure.caption


def test_a_run_without_rows_has_no_curves(run):
    assert figures_of("Curves", FigureData(run._replace(rows=run.rows.iloc[:0]))) == []


def test_diverged_trials_are_drawn_on_the_upper_edge_and_their_region_is_shaded(run):
    figure = learning_rate_figure(run.trials, {"xs": Estimate(1.5e-3, 1e-3, 2e-3, 3), "s": NotEstimable("few")})
    (axes,) = figure.figure.axes
    marks = [line for line in axes.lines if line.get_marker() == "x"]
    assert [float(line.get_xdata()[0]) for line in marks] == [0.09]
    assert marks[0].get_ydata()[0] == axes.get_ylim()[1]
    assert "9.0e-02 upwards, the lowest rate that diverged" in figure.caption
    assert axes.get_xscale() == "log"


def test_every_searched_hyperparameter_has_a_panel_and_an_axis(run):
    figure = hyperparameter_figure(run.trials)
    labels = [axes.get_xlabel() for axes in figure.figure.axes if axes.get_visible()]
    assert labels == ["tied embeddings", "learning rate (peak)", "beta1"]
    (axes,) = parallel_coordinates(run.trials).figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()][:3] == ["tied", "lr", "beta1"]


def test_without_a_searched_dimension_there_is_no_figure(make_run):
    made = make_run()
    made.add("xs", "complete", 4.0)
    trials = analysis.load(made.path).trials
    assert hyperparameter_figure(trials) is None
    assert parallel_coordinates(trials) is None
    assert learning_rate_figure(trials, {}).figure.axes


def test_colours_follow_the_order_of_sizes():
    palette = colours(["xs", "s", "m", "s"])
    assert list(palette) == ["xs", "s", "m"]
    brightness = [np.dot(colour[:3], [0.3, 0.6, 0.1]) for colour in palette.values()]
    assert brightness == sorted(brightness)


def test_the_same_figure_gives_the_same_bytes(run):
    trials = run.trials[run.trials[col.STATUS] == col.COMPLETE]
    assert parallel_coordinates(trials).svg == parallel_coordinates(trials).svg


def test_a_registered_figure_has_the_name_of_its_files(run):
    scaling = fit_scaling(points_of(run.trials), resamples=20)
    data = FigureData(run, {}, importance(run.trials), [], scaling, parameter_table(run.trials))
    for section, figures in FIGURES.items():
        drawn = [figure.name for figure in figures_of(section, data)]
        assert drawn == [name for name in figures if name in drawn]
        assert figures_of(section, FigureData()) == []
    assert [figure.name for figure in figures_of("Curves", data)] == list(FIGURES["Curves"])
