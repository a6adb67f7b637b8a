"""Run figures show every trial once, mark how it ended, and agree with the tables: the data behind each figure."""

import math

import numpy as np
import pandas as pd
import pytest
from conftest import armed

import analysis
from analysis.figures.chart import Chart
from analysis.figures.colours import ORDERED, PALETTE, RED
from analysis.figures.interactive import interactive
from analysis.figures.line_layers import MOST_IN_COLOUR, thinned
from analysis.figures.registry import FIGURES, FigureData, figures_of, headlines
from analysis.figures.report_figure import ReportFigure
from analysis.scaling.fit import fit_scaling, points_of
from analysis.stats.importance import importance
from analysis.stats.verdicts import verdicts
from analysis.tables.trials import parameter_table
from lmcore import columns as col

GRID = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
LOSSES = (6.3, 5.9, 5.6, 5.85, 6.1)


@pytest.fixture(scope="module")
def run(original):
    return analysis.load(original.path)


def figures_by_name(run, section):
    return {figure.name: figure for figure in figures_of(section, FigureData(run))}


def grid(made, batches=(4, 16), size="xs"):
    """A grid of learning rates and batch sizes with two rows a trial; the larger batch has a higher best rate."""
    for shift, batch in enumerate(batches):
        for place, lr in enumerate(GRID):
            loss = LOSSES[place - shift] + 0.1 * shift
            steps = 400 // batch
            trial = made.add(size, "complete", loss, optim__lr=lr, train__batch_size=batch, train__steps=steps)
            for step in (steps // 2, steps):
                row = {"tokens": step * batch, "grad_norm": 0.5 + lr}
                made.row(trial, step, loss + (step < steps), **row)
    return analysis.load(made.path)


def test_validation_loss_has_a_line_per_trial_that_reported_and_diverged_ones_leave_the_picture(make_run):
    made = make_run()
    ids = []
    for ended, losses in (("complete", (5.0, 4.0)), ("pruned", (5.5, 5.2)), ("diverged", (9.0, 11.0))):
        ids.append(made.add("xs", ended, losses[1]))
        for step, loss in zip((25, 50), losses, strict=True):
            made.row(ids[-1], step, loss)
    made.row(ids[-1], 75, None)  # a row without a loss is not drawn
    figures = figures_by_name(analysis.load(made.path), "Curves")
    assert not {"loss_tokens", "loss_flops"} & set(figures)  # in proportion to updates in all trials
    chart = figures["loss_steps"].chart
    regular, diverged = chart.layers("line")
    assert regular.frame[["x", "y", "trial"]].to_numpy().tolist() == [
        [25.0, 5.0, ids[0]],
        [50.0, 4.0, ids[0]],
        [25.0, 5.5, ids[1]],
        [50.0, 5.2, ids[1]],
    ]
    assert (diverged.look.colour, diverged.frame["trial"].unique().tolist()) == (RED, [ids[2]])
    assert chart.panels[0].y.limits[1] < 9.0
    (mark,) = chart.layers("points")
    assert (mark.label, mark.frame["trial"].tolist()) == ("stopped early", [ids[1]])
    assert "n = 3 trials" in figures["loss_steps"].caption


def test_curves_are_coloured_by_learning_rate_in_a_panel_per_batch_size(make_run):
    figures = figures_by_name(grid(make_run()), "Curves")
    chart = figures["loss_steps"].chart
    assert [panel.title for panel in chart.panels] == ["batch 4", "batch 16"]
    assert (chart.colour_bar.low, chart.colour_bar.high, chart.colour_bar.log) == (GRID[0], GRID[-1], True)
    colours = [layer.look.colour for layer in chart.panels[0].layers]
    assert sorted(colours, key=ORDERED.index)[0] == ORDERED[0]
    assert len(colours) == len(set(colours)) == len(GRID)
    assert "loss_tokens" in figures  # batch sizes differ, so that tokens say something else than updates


def test_of_many_trials_the_best_are_in_colour_and_the_rest_grey(make_run):
    made = make_run()
    for number in range(MOST_IN_COLOUR + 1):
        trial = made.add(
            "xs", "complete", 4.0 + number / 100, optim__lr=1e-3 + number * 1e-5, optim__beta1=number / 100
        )
        for step in range(1, 41):
            made.row(trial, step, 5.0 + number / 100)
    rest, best = figures_by_name(analysis.load(made.path), "Curves")["loss_steps"].chart.layers("line")
    assert rest.label == "other trials"
    assert best.frame["trial"].unique().tolist() == [f"xs-{number:04d}" for number in range(24)]
    assert best.frame.groupby("trial").size().eq(40).all()
    assert rest.frame.groupby("trial").size().max() <= 26


def test_thinned_lines_keep_their_ends():
    rows = pd.DataFrame({"trial": ["a"] * 10 + ["b"] * 2, "step": [*range(10), 0, 1]})
    kept = thinned(rows, 4)
    assert kept.loc[kept["trial"] == "a", "step"].tolist() == [0, 3, 6, 9]
    assert kept.loc[kept["trial"] == "b", "step"].tolist() == [0, 1]


def test_training_and_validation_loss_are_those_of_the_best_trial_of_each_group(make_run):
    made = make_run()
    for size in ("xs", "s"):
        for loss in (4.2, 4.0):
            trial = made.add(size, "complete", loss)
            for step in (25, 50, 75):
                made.row(trial, step, loss, train_loss=loss + 0.5)
    figures = figures_by_name(analysis.load(made.path), "Curves")
    chart = figures["train_val"].chart
    assert [panel.title for panel in chart.panels] == ["xs", "s"]
    training, validation = chart.panels[0].layers
    assert (training.label, training.frame["y"].tolist()) == ("training", [4.5] * 3)
    assert (validation.label, validation.frame["trial"].unique().tolist()) == ("validation", ["xs-0001"])
    norms = figures["grad_norm"].chart
    assert norms.panels[0].y.log
    assert norms.layers("rule")[0].frame["y"].tolist() == [1.0]
    assert "above which 0% of the norms are" in figures["grad_norm"].caption


def test_finer_training_curves_are_preferred_to_the_rows(run):
    finer = [(trial, step, 6.0 - step / 100, 0.9) for trial in ("xs-0000", "s-0001") for step in range(5)]

    class Finer(type(run)):
        curves = pd.DataFrame(finer, columns=[col.TRIAL, col.STEP, col.TRAIN_LOSS, col.GRAD_NORM])

    figures = figures_by_name(Finer(*run), "Curves")
    assert figures["grad_norm"].chart.layers("line")[0].frame["x"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_a_run_without_rows_has_no_curves(run):
    assert figures_of("Curves", FigureData(run._replace(rows=run.rows.iloc[:0]))) == []


def test_u_curves_of_a_grid_are_joined_and_mark_the_lowest_and_its_neighbours(make_run):
    figure = figures_by_name(grid(make_run()), "Hyperparameters")["loss_lr"]
    chart = figure.chart
    (joined,) = chart.layers("line", "batch 4")
    assert joined.frame.to_numpy().tolist() == [[lr, loss] for lr, loss in zip(GRID, LOSSES, strict=True)]
    (points,) = chart.layers("points", "batch 16")
    assert points.look.colour == PALETTE[1]
    assert points.frame["y"].tolist() == pytest.approx([6.2, 6.4, 6.0, 5.7, 5.95])
    assert [layer.frame.to_numpy().tolist() for layer in chart.layers("points", "lowest")] == [
        [[2e-3, 5.6]],
        [[4e-3, pytest.approx(5.7)]],
    ]
    assert chart.layers("points", "its neighbours")[0].frame["x"].tolist() == [1e-3, 4e-3]
    assert "batch 4: the lowest of 5 rates is 2.0e-03; its neighbours are 1.0e-03 and 4.0e-03" in figure.caption
    assert "clear minimum" not in figure.caption
    assert chart.panels[0].x.log


def test_a_fit_that_holds_is_drawn_with_the_interval_of_its_minimum(make_run):
    made = make_run()
    noise = np.random.default_rng(0).normal(0, 0.003, 15)
    for lr, error in zip(np.geomspace(1e-3, 1e-2, 15), noise, strict=True):
        made.add("xs", "complete", 4 + 0.2 * np.log(lr / 3e-3) ** 2 + error, optim__lr=float(lr))
    figure = figures_by_name(analysis.load(made.path), "Hyperparameters")["loss_lr"]
    (interval,), (optimum,) = figure.chart.layers("span"), figure.chart.layers("rule")
    low, high = interval.frame.iloc[0]
    assert low < optimum.frame["x"].iloc[0] < high
    assert low < 3e-3 < high
    assert "optimum 3.0e-03 (95 % interval" in figure.caption.replace("Optimum", "optimum")


def test_diverged_trials_are_drawn_on_the_upper_edge_and_their_region_is_shaded(run):
    figure = figures_by_name(run, "Hyperparameters")["loss_lr"]
    (crosses,) = figure.chart.layers("points", "diverged")
    assert crosses.frame["x"].tolist() == [0.09]
    (panel,) = figure.chart.panels
    assert crosses.frame["y"].tolist() == [panel.y.limits[1]]
    (region,) = figure.chart.layers("span", "diverging rates")
    assert region.frame.to_numpy().tolist() == [[0.09, panel.x.limits[1]]]
    assert "from 9.0e-02, the lowest rate that diverged" in figure.caption


def early_stopped(made):
    """Six trials: three reach the end. At update 25 the loss falls with the rate, at the end it rises with it."""
    for number, lr in enumerate((1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)):
        last = 100 if number < 3 else 25
        trial = made.add("xs", "complete" if last == 100 else "pruned", 4.0 + number / 10, optim__lr=lr, step=last)
        for step in range(25, last + 1, 25):
            made.row(trial, step, 7.0 - number / 10 if step == 25 else 5.0)
    return analysis.load(made.path)


def test_under_early_stopping_losses_are_compared_at_a_common_rung_which_the_caption_names(make_run):
    figure = figures_by_name(early_stopped(make_run()), "Hyperparameters")["loss_lr"]
    rung, end = figure.chart.panels
    assert (rung.title, end.title) == ("At update 25, 25 % of training", "At the end of training")

    def losses(panel):
        (points,) = [layer for layer in panel.layers if layer.kind == "points" and "trial" in layer.frame]
        return points.frame["y"].tolist()

    assert losses(rung) == pytest.approx([7.0, 6.9, 6.8, 6.7, 6.6, 6.5])
    assert losses(end) == pytest.approx([4.0, 4.1, 4.2])
    assert "all losses are those at update 25, 25 % of training, which all trials reached" in figure.caption


def test_a_heat_map_has_a_cell_per_rate_and_batch_and_frames_the_lowest_of_each_batch(make_run):
    chart = figures_by_name(grid(make_run()), "Hyperparameters")["loss_lr_batch"].chart
    (cells,) = chart.layers("cells")
    assert cells.frame.pivot(index="y", columns="x", values="value").to_numpy().tolist() == [
        list(LOSSES),
        pytest.approx([6.2, 6.4, 6.0, 5.7, 5.95]),
    ]
    (panel,) = chart.panels
    assert list(panel.x.ticks.values()) == ["5.0e-04", "1.0e-03", "2.0e-03", "4.0e-03", "8.0e-03"]
    assert list(panel.y.ticks.values()) == ["4", "16"]
    (frames,) = chart.layers("line", "lowest")
    centres = frames.frame.groupby("line", sort=False)[["x", "y"]].agg(lambda own: (own.min() + own.max()) / 2)
    assert centres.to_numpy().tolist() == [[pytest.approx(2.0), 0.0], [pytest.approx(3.0), 1.0]]


def test_a_search_over_rate_and_batch_has_points_in_the_colour_of_their_loss(make_run):
    made = make_run()
    for number in range(9):
        made.add("xs", "complete", 4.0 + number / 10, optim__lr=1e-3 + number * 1e-4, train__batch_size=4 + number)
    chart = figures_by_name(analysis.load(made.path), "Hyperparameters")["loss_lr_batch"].chart
    assert not chart.layers("cells")
    colours = {layer.frame["trial"].iloc[0]: layer.look.colour for layer in chart.layers("points")}
    assert (colours["xs-0000"], colours["xs-0008"]) == (ORDERED[0], ORDERED[-1])


def searched(made, trials=8):
    """A search over learning rate, beta1, beta2 and tying; the later a trial, the better, and the last diverged."""
    for number in range(trials):
        made.add(
            "xs",
            "diverged" if number == trials - 1 else "complete",
            None if number == trials - 1 else 5.0 - number / 10,
            optim__lr=1e-3 * 1.5**number,
            optim__beta1=0.85 + number / 100,
            optim__beta2=(0.9, 0.99)[number % 2],
            model__tie_embeddings=number % 4 > 1,
        )
    return analysis.load(made.path)


def test_every_searched_hyperparameter_has_a_panel_and_an_axis_of_its_kind(make_run):
    chart = figures_by_name(searched(make_run()), "Hyperparameters")["loss_hyperparameters"].chart
    axes = {panel.x.label: panel.x for panel in chart.panels}
    assert list(axes) == ["embeddings", "learning rate (peak)", "1 - beta1", "1 - beta2"]
    assert [axis.log for axis in axes.values()] == [False, True, True, True]
    assert list(axes["1 - beta2"].ticks.values()) == ["0.01", "0.1"]
    assert list(axes["embeddings"].ticks.values()) == ["tied", "untied"]
    untied = chart.panels[3].layers[0]
    assert (untied.label, untied.frame["trial"].tolist()) == ("untied", ["xs-0000", "xs-0001", "xs-0004", "xs-0005"])
    assert untied.frame["x"].tolist() == pytest.approx([0.1, 0.01, 0.1, 0.01])
    assert untied.frame["y"].tolist() == pytest.approx([5.0, 4.9, 4.6, 4.5])


def test_parallel_coordinates_end_at_the_rank_of_the_loss(make_run):
    chart = figures_by_name(searched(make_run()), "Hyperparameters")["overview"].chart
    (panel,) = chart.panels
    assert list(panel.x.ticks.values()) == ["embeddings", "peak lr", "1 - beta1", "1 - beta2", "rank of loss"]
    lines = pd.concat([layer.frame for layer in chart.layers("line")])
    ends = lines.groupby("trial")["y"].last()
    assert ends["xs-0006"] == 0.0
    assert ends["xs-0000"] == 1.0
    assert ends["xs-0007"] > 1.0  # diverged
    heights = lines[lines["x"] == 1.0].set_index("trial")["y"].sort_index()
    assert heights.tolist() == pytest.approx([number / 7 for number in range(8)])  # log of the rate


def test_the_best_loss_so_far_steps_down_until_the_confirmation_begins(make_run):
    made = make_run(**armed("untied", sizes=("xs",)))
    for loss in (4.5, 4.6, 4.2, 4.3, 4.4, 4.25, 4.1, 4.15):
        best = made.add("xs-untied", "complete", loss, optim__lr=loss / 1e3)
    made.confirm(best, {1: 4.2, 2: 4.18})
    figure = figures_by_name(analysis.load(made.path), "Hyperparameters")["search_progress"]
    chart = figure.chart
    (steps,) = chart.layers("steps")
    assert steps.frame["y"].tolist() == [4.5, 4.5, 4.2, 4.2, 4.2, 4.2, 4.1, 4.1, 4.1]
    assert chart.layers("rule", "confirmation begins")[0].frame["x"].tolist() == [8.5]
    assert chart.layers("points", "confirmation")[0].frame["x"].tolist() == [9.0, 10.0]
    assert "The last quarter of the trials improved the best by 0.100 in untied." in figure.caption


def test_a_grid_has_no_order_and_so_no_best_loss_so_far(make_run):
    run = grid(make_run(search={"method": "grid", "scheduler": "none", "trials": 10}))
    assert "search_progress" not in figures_by_name(run, "Hyperparameters")


def test_a_figure_that_says_nothing_is_left_out(make_run):
    made = make_run()
    made.add("xs", "complete", 4.0)
    run = analysis.load(made.path)
    assert figures_of("Hyperparameters", FigureData(run)) == []
    assert figures_of("Curves", FigureData(run)) == []


def test_a_grid_of_rates_and_batch_sizes_is_not_shown_again_in_panels(make_run):
    assert set(figures_by_name(grid(make_run()), "Hyperparameters")) == {"loss_lr", "loss_lr_batch", "search_progress"}


def test_the_headlines_of_a_search_and_of_experiments():
    def drawn(*names):
        return [ReportFigure(Chart(name, name, "", [])) for name in names]

    search = drawn("overview", "search_progress", "loss_steps", "differences", "loss_lr", "loss_parameters")
    assert [one.name for one in headlines(search)] == ["loss_parameters", "loss_lr", "search_progress"]
    grid = drawn("loss_steps", "loss_tokens", "loss_lr", "loss_lr_batch")
    assert [one.name for one in headlines(grid)] == ["loss_lr", "loss_lr_batch", "loss_steps"]
    assert [one.name for one in headlines(drawn("loss_steps", "differences"))] == ["differences", "loss_steps"]
    assert headlines([]) == []


def test_the_same_figure_gives_the_same_bytes(run):
    first, second = (figures_by_name(run, "Hyperparameters")["loss_lr"] for _ in range(2))
    assert first.svg == second.svg


def test_a_registered_figure_has_the_name_of_its_files_and_a_page_can_show_it(run):
    scaling = fit_scaling(points_of(run.trials), resamples=20)
    shares, answer = importance(run.trials), verdicts(run.trials)
    parameters = parameter_table(run.trials)
    data = FigureData(run, importance=shares, scaling=scaling, parameters=parameters, answer=answer)
    for section, figures in FIGURES.items():
        drawn = figures_of(section, data)
        assert [figure.name for figure in drawn] == [name for name in figures if name in {one.name for one in drawn}]
        assert figures_of(section, FigureData()) == []
        for figure in drawn:
            numbers = [value for trace in interactive(figure.chart)["data"] for value in trace.get("y") or ()]
            assert all(value is None or math.isfinite(value) for value in numbers)
            assert figure.figure.axes


def test_no_text_of_a_figure_is_smaller_than_8_5_points(make_run):
    run = grid(make_run())
    for figure in (*figures_of("Curves", FigureData(run)), *figures_of("Hyperparameters", FigureData(run))):
        texts = [text for axes in figure.figure.axes for text in axes.texts]
        ticks = [one for axes in figure.figure.axes for one in (*axes.get_xticklabels(), *axes.get_yticklabels())]
        assert min(text.get_fontsize() for text in (*texts, *ticks)) >= 8.5
