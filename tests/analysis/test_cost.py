"""The cost of a sweep, checked by hand."""

import math

import numpy as np
import pytest

import analysis
from analysis.tables.cost import cost_table, device_seconds, peak_flops_per_s


def timed(began_at, reported_at, width=1, **more):
    return {"began_at": began_at, "reported_at": reported_at, "width": width, "engine": 0, **more}


def test_trials_of_one_program_share_its_seconds(make_run):
    run = make_run()
    a, b = run.add("xs", "complete", 4.0, step=50, tokens=12_800), run.add("s", "pruned", 5.0, step=25, tokens=6_400)
    run.row(a, 25, 5.0, **timed(100, 110, width=2))
    run.row(b, 25, 5.0, **timed(100, 110, width=2))
    run.row(a, 50, 4.0, **timed(110, 113))
    loaded = analysis.load(run.path)
    assert device_seconds(loaded.rows).to_dict() == {a: 8.0, b: 5.0}
    table = cost_table(loaded).set_index("size")
    assert table["device_s"].to_dict() == {"xs": 8.0, "s": 5.0, "all": 13.0}
    assert table["flops_per_s"]["xs"] == pytest.approx(7000 * 12_800 / 8)
    assert table["tokens"]["all"] == 19_200
    assert table["peak_share"].isna().all()  # the peak was not measured


def test_the_share_of_peak_is_relative_to_the_median_measured_peak(make_run):
    run = make_run(hardware={"peak_flops_per_s": [1e8, 3e8, 2e8]})
    a = run.add("xs", "complete", 4.0, tokens=12_800)
    run.row(a, 100, 4.0, **timed(0, 8))
    loaded = analysis.load(run.path)
    assert peak_flops_per_s(loaded.manifest) == 2e8
    assert cost_table(loaded)["peak_share"].tolist() == pytest.approx([7000 * 12_800 / 8 / 2e8])


def test_a_clock_that_was_set_back_costs_zero_and_rows_without_times_are_nan(make_run):
    run = make_run()
    a, b = run.add("xs", "complete", 4.0), run.add("xs", "complete", 4.1)
    run.row(a, 50, 5.0, **timed(4000, 400))
    run.row(a, 100, 4.0, **timed(400, 402))
    run.row(b, 100, 4.1)
    seconds = device_seconds(analysis.load(run.path).rows)
    assert seconds[a] == 2.0
    assert math.isnan(seconds[b])
    assert np.isfinite(cost_table(analysis.load(run.path))["flops_per_s"]).all()
