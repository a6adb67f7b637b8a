"""The laws of a ladder of sizes: known ones are recovered and covered, and what does not hold is shown as a miss."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import armed

import analysis
from analysis.document.ladder_section import LADDER
from analysis.figures.frontier import loss_compute_figure
from analysis.figures.registry import FigureData, figures_of, headlines
from analysis.report import _keys, build_report
from analysis.scaling.compute_law import fit_compute_law
from analysis.scaling.forecast import COMPUTE_LAW, LOSS_LAW, SIZE_LAW
from analysis.scaling.held_out import hold_out
from analysis.scaling.ladder import ladder_of
from analysis.scaling.ladder_fits import fit_ladders
from analysis.scaling.optimum_law import exponent_differences
from analysis.stats.estimate import Estimate, NotEstimable
from lmcore import columns as col

DATA = Path(os.environ.get("LMSWEEP_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
STEPLAW = DATA / "steplaw_dense.csv"
SEQUENCE = 2048  # tokens
E, A, ALPHA, B, BETA = 1.7, 400.0, 0.34, 1500.0, 0.36
EXPONENT = -0.4
FOUR = (1e6, 3e6, 1e7, 3e7)


def best_lr(n):
    return 3e-3 * (n / 1e7) ** EXPONENT


def loss_of(n, d):
    return E + A / n**ALPHA + B / d**BETA


def trials_of(sizes=FOUR, ratios=(20,), trials=14, noise=0.003, seed=0, best=best_lr, loss=loss_of):
    """Trials of random learning rates at each size: the loss is a bowl about the best one."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in sizes:
        for ratio in ratios:
            for lr in np.exp(rng.uniform(np.log(3e-4), np.log(3e-2), trials)):
                excess = 0.04 * math.log(lr / best(n)) ** 2 + noise * rng.standard_normal()
                rows.append((n, ratio * n, loss(n, ratio * n) * math.exp(excess), lr))
    return pd.DataFrame(rows, columns=["N", "D", "loss", "lr"])


def covers(one, truth):
    return isinstance(one, Estimate) and one.low <= truth <= one.high


@pytest.fixture
def ladder_run(make_run):
    """A run of four sizes whose names have dots, with the prediction that the sweep recorded of the largest."""

    def make(arms=(), sizes=FOUR, trials=10, recorded=None):
        names = [f"{n / 1e6:.1f}M" for n in sizes]
        run = make_run(**armed(*arms, sizes=tuple(names)))
        table = trials_of(sizes, trials=trials)
        for arm in arms or (None,):
            for name, n in zip(names, sizes, strict=True):
                study = "-".join(filter(None, (name, arm)))
                for one in table[table["N"] == n].itertuples():
                    counts = {
                        "params_non_embedding": int(n),
                        "params_exact": int(1.2 * n),
                        "flops_per_token": int(6 * n),
                    }
                    run.add(study, "complete", one.loss, optim__lr=one.lr, tokens=int(one.D), **counts)
            if recorded is not None:
                run.study(study).set_user_attr(col.TRANSFER, recorded)
        return run

    return make


# The law of optima


def test_the_optimum_of_every_size_and_the_exponent_along_the_ladder_are_recovered():
    law = analysis.optimum_law(trials_of(trials=30))
    assert covers(law.fitted["lr.ladder_exponent"], EXPONENT)
    assert law.fitted["lr.ladder_exponent"].value == pytest.approx(EXPONENT, abs=0.1)
    for row in law.optima.itertuples():
        assert row.low <= best_lr(row.N) <= row.high
        assert row.high < 2.5 * row.low
    ahead = law.predict(1e8, 2e9)["lr"]
    assert covers(ahead, best_lr(1e8))


def test_the_cost_of_a_learning_rate_that_is_off_by_a_factor_of_two_is_recovered():
    law = analysis.optimum_law(trials_of(trials=30))
    assert covers(law.fitted["lr.factor_2_cost"], math.expm1(0.04 * math.log(2) ** 2))
    assert law.fitted["lr.factor_2_cost"].value == pytest.approx(0.0194, rel=0.25)


def test_arms_are_compared_by_how_far_their_optima_move_with_size():
    steep, again = (analysis.optimum_law(trials_of(trials=30, seed=seed)) for seed in (0, 1))
    flat = analysis.optimum_law(trials_of(trials=30, seed=2, best=lambda n: 3e-3))
    [(path, (number, less))] = exponent_differences(steep, flat).items()
    assert path == "lr.ladder_exponent"
    assert covers(number, -EXPONENT)
    assert less is True
    [(number, less)] = exponent_differences(flat, steep).values()
    assert covers(number, EXPONENT)
    assert less is False
    for other in (steep, again):  # also if both have the same trials, and draws
        [(number, less)] = exponent_differences(steep, other).values()
        assert covers(number, 0)
        assert number.high - number.low > 0.05
        assert less is None


def test_intervals_of_the_exponent_and_of_the_next_size_cover_as_often_as_they_say():
    laws = [analysis.optimum_law(trials_of(trials=10, noise=0.005, seed=seed), seed=seed) for seed in range(30)]
    assert np.mean([covers(law.fitted["lr.ladder_exponent"], EXPONENT) for law in laws]) >= 0.85
    assert np.mean([covers(law.predict(1e8, 2e9)["lr"], best_lr(1e8)) for law in laws]) >= 0.85


def test_where_n_and_d_rise_together_only_their_joint_effect_is_reported():
    assert "lr.N_exponent" not in analysis.optimum_law(trials_of()).fitted
    law = analysis.optimum_law(trials_of(ratios=(5, 20, 80)))
    assert "lr.ladder_exponent" not in law.fitted
    assert covers(law.fitted["lr.N_exponent"], EXPONENT)
    assert covers(law.fitted["lr.D_exponent"], 0.0)


def test_too_few_sizes_too_few_trials_and_fields_that_were_not_searched_are_refused_with_a_reason():
    two = analysis.optimum_law(trials_of(FOUR[:2]))
    assert set(two.fitted.values()) == {
        NotEstimable("2 sizes with 3 trials are too few for a law (at least 3)"),
    }
    few = ladder_of(trials_of(trials=2))
    assert few.sizes == ()
    assert len(few.left_out) == 4
    fixed = analysis.optimum_law(trials_of().assign(lr=1e-3))
    assert fixed.refused == NotEstimable("no numeric field was searched in all sizes")
    assert isinstance(analysis.held_out(trials_of(FOUR[:2])), NotEstimable)
    assert isinstance(analysis.forecast(trials_of(FOUR[:2])).loss, NotEstimable)


def test_a_setting_that_does_not_matter_has_no_optimum():
    table = trials_of(trials=30)
    flat = table.assign(batch=np.exp(np.random.default_rng(1).uniform(np.log(1e4), np.log(1e6), len(table))))
    fitted = analysis.optimum_law(flat).fitted
    assert {type(one) for path, one in fitted.items() if path.startswith("batch")} == {NotEstimable}
    assert "no clear minimum" in fitted["batch.ladder_exponent"].reason
    assert covers(fitted["lr.ladder_exponent"], EXPONENT)


def test_an_optimum_outside_the_values_tried_is_not_estimable():
    fitted = analysis.optimum_law(trials_of(best=lambda n: 0.1)).fitted
    assert "not within the values of lr that were tried" in fitted["lr.N=1e+06, D=2e+07"].reason


# The check on the largest size


def test_where_the_law_holds_the_largest_size_is_predicted_and_following_it_costs_little():
    checks = [analysis.held_out(trials_of(trials=12, seed=seed), seed=seed) for seed in range(15)]
    assert np.mean([one.predictions[0].inside for one in checks]) >= 0.8
    assert np.median([one.excess.value for one in checks]) < 0.01
    row = checks[0].table.iloc[0]
    assert row["predicted_low"] <= row["predicted"] <= row["predicted_high"]
    assert row["excess_nats"] == pytest.approx(
        row["excess"] * trials_of(trials=12, seed=0).query("N == 3e7").loss.min()
    )


def test_where_it_does_not_the_miss_and_its_cost_are_shown():
    def jumps(n):
        return best_lr(n) if n < 2e7 else 8 * best_lr(n)

    table = trials_of(trials=30, best=jumps)
    check = analysis.held_out(table)
    (one,) = check.predictions
    assert one.inside is False
    assert covers(one.found, jumps(3e7))
    cost = math.expm1(0.04 * math.log(one.predicted.value / jumps(3e7)) ** 2)
    assert check.excess.low / 1.3 <= cost <= check.excess.high * 1.3
    assert check.excess.value > 0.05


# The forecast


def test_forecasts_from_few_sizes_cover_the_loss_of_the_next_as_often_as_they_say():
    covered = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        sizes = 10 ** rng.uniform(5, 7) * rng.uniform(2, 3.5) ** np.arange(4 + seed % 3)  # the last one is ahead
        loss = loss_of(sizes, 20 * sizes) * np.exp(0.005 * rng.standard_normal(len(sizes)))
        flops = 120 * sizes**2
        covered.append(covers(fit_compute_law(flops[:-1], loss[:-1], seed).forecast(flops[-1]), loss[-1]))
    assert np.mean(covered) >= 0.88


def test_the_next_size_goes_on_as_the_ladder_does_and_the_largest_is_forecast_for_a_check():
    ahead = analysis.forecast(trials_of(trials=30, noise=0.001))
    assert ahead.law == COMPUTE_LAW
    assert pytest.approx(9e7) == ahead.target.N
    assert pytest.approx(1.8e9) == ahead.target.D
    assert covers(ahead.loss, loss_of(9e7, 1.8e9))
    assert ahead.inside is True
    assert ahead.table["found"].notna().tolist() == [False, True]
    miss = ahead.fitted["held_out.miss"]
    assert miss.value == pytest.approx(ahead.held_out.value - ahead.largest.loss)


def test_a_loss_that_breaks_the_law_at_the_largest_size_is_shown_as_a_miss():
    def breaks(n, d):
        return loss_of(n, d) * (1.3 if n > 2e7 else 1.0)

    assert analysis.forecast(trials_of(loss=breaks)).inside is False


def test_more_sizes_support_stronger_laws():
    six = analysis.forecast(trials_of(np.geomspace(1e6, 1e9, 7), noise=0.0005))
    assert six.law == SIZE_LAW
    assert covers(six.loss, loss_of(six.target.N, six.target.D))
    table = trials_of(np.geomspace(1e6, 1e9, 5), ratios=(2, 10, 50, 250), noise=0.0005, trials=8)
    many = analysis.forecast(table, N=3e9, D=6e10)
    assert many.law == LOSS_LAW
    assert many.loss.value == pytest.approx(loss_of(3e9, 6e10), rel=0.02)


def test_off_the_ladder_there_is_no_forecast():
    assert "on their line" in analysis.forecast(trials_of(), N=1e8, D=1e10).loss.reason


# The report


def test_the_report_of_a_ladder_has_law_check_forecast_and_every_number(ladder_run, capsys):
    recorded = {"from": ["10.0M"], "trials": 30, "predicted": {"optim.lr": 2e-3}}
    recorded |= {"low": {"optim.lr": 1e-3}, "high": {"optim.lr": 4e-3}}
    run = analysis.load(ladder_run(recorded=recorded).path)
    report = build_report(run)
    (section,) = [one for one in report.sections if one.title == LADDER]
    assert [table.name for table in section.tables] == ["optima_law", "held_out", "forecast"]
    assert section.tables[1].frame["source"].tolist() == ["held out", "recorded"]
    values = report.json()["ladder"]
    assert values["law"]["lr"]["30.0M"]["low"] < best_lr(3e7) < values["law"]["lr"]["30.0M"]["high"]
    assert values["law"]["lr"]["ladder_exponent"]["value"] == pytest.approx(EXPONENT, abs=0.2)
    assert values["recorded"]["lr"]["predicted"] == {"value": 2e-3, "low": 1e-3, "high": 4e-3, "n": 30}
    assert set(values["held_out"]) == {"lr", "excess", "excess_nats"}
    assert values["forecast"]["loss"]["low"] < loss_of(9e7, 1.8e9) < values["forecast"]["loss"]["high"]
    json.dumps(report.json(), allow_nan=False)
    assert report.sections[0].lead[-1].startswith("Forecast: 90.0M parameters on 1.80B tokens")
    assert any("Before 30.0M was trained, the sweep predicted its peak lr as 0.002" in note for note in section.notes)
    text = report.text(80)
    assert max(map(len, text.splitlines())) <= 80
    assert "Optima by size" in text
    assert text.index("Predicted against found") < text.index("Forecast: ")


def test_its_figures_show_optima_law_trials_and_predictions(ladder_run):
    recorded = {"predicted": {"optim.lr": 2e-3}, "low": {"optim.lr": 1e-3}, "high": {"optim.lr": 4e-3}}
    run = analysis.load(ladder_run(recorded=recorded).path)
    figures = {one.name: one.chart for one in figures_of(LADDER, FigureData(run, ladders=fit_ladders(run)))}
    law = figures["optima_law"]
    assert len(law.layers("points", "trials")[0].frame) == 40
    optima = law.layers("points", "optimum")[0].frame
    assert len(optima) == 4
    assert (optima["low"] < optima["high"]).all()
    for label in ("next size", "predicted without it", "predicted by the sweep"):
        assert len(law.layers("points", label)) == 1
    assert len(law.layers("band")) == 2
    (panel,) = law.panels
    assert panel.x.log
    assert panel.y.log
    compute = figures["loss_compute"]
    leading, ahead = (
        compute.layers("points", name)[0].frame for name in ("leading setting", "forecast of the next size")
    )
    assert len(leading) == 4
    assert ahead["x"].item() > leading["x"].max()
    frontier = compute.layers("line", "frontier")[0].frame
    assert (np.diff(frontier["y"]) < 0).all()
    assert [one.name for one in headlines(figures_of(LADDER, FigureData(run, ladders=fit_ladders(run))))] == [
        "loss_compute",
        "optima_law",
    ]


def test_loss_against_compute_shows_complete_trials_though_the_law_counts_others(ladder_run):
    run = analysis.load(ladder_run().path)
    fits = fit_ladders(run)
    stopped = run.trials.assign(status=run.trials["status"].where(run.trials.index > 1, col.PRUNED))
    chart = loss_compute_figure(run._replace(trials=stopped), fits).chart
    assert "n = 38 complete trials" in chart.caption


def test_arms_have_a_law_each(ladder_run):
    run = analysis.load(ladder_run(arms=("untied", "tied")).path)
    fits = fit_ladders(run)
    assert [one.ladder.arm for one in fits] == ["untied", "tied"]
    (section,) = [one for one in build_report(run).sections if one.title == LADDER]
    assert {path.split(".")[1] for path in section.fitted} == {"untied", "tied", "tied - untied"}
    assert covers(section.fitted["ladder.tied - untied.lr.ladder_exponent"], 0)  # they have the same trials
    [note] = [one for one in section.notes if one.startswith("tied - untied")]
    assert note.endswith("it is not clear in which it moves less.")
    assert section.tables[0].frame["arm"].tolist().count("tied") == 5
    assert analysis.optimum_law(run.trials, "tied").ladder.arm == "tied"


def test_the_loss_of_a_size_is_the_confirmed_one(ladder_run):
    run = ladder_run()
    best = min((one for one in run.study("30.0M").trials), key=lambda one: one.value)
    trial = best.user_attrs["trial"]
    run.confirm(trial, {1: 4.0, 2: 4.02}, tokens=int(6e8))
    run.result(trial)
    largest = ladder_of(analysis.load(run.path).trials).sizes[-1]
    assert largest.confirmed
    assert largest.loss == pytest.approx(4.01)


def test_a_run_without_a_ladder_has_no_such_section_and_a_ladder_without_trials_says_why(original, ladder_run):
    report = build_report(analysis.load(original.path))
    assert not any(one for one in report.sections if one.title == LADDER)
    assert "ladder" not in report.json()
    run = ladder_run(trials=2)
    assert fit_ladders(analysis.load(run.path)) == []
    manifest = {**run.manifest, "sweep_yaml": {"text": "ladder: {params: [1e6, 3e7]}\n"}}
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    (section,) = [one for one in build_report(analysis.load(run.path)).sections if one.title == LADDER]
    assert (
        "1.0M does not count, as it has 2 trials whose final loss is known or can be expected (at least 3)."
        in section.notes
    )
    assert all(isinstance(one, NotEstimable) for one in section.fitted.values())


NEXT_YAML = """\
name: best-100M
model: {vocab_size: 512, d_model: 256, num_layers: 4, num_heads: 4, d_ff: 688, context_length: 64}
train: {steps: 1000, batch_size: 16}
"""


def test_the_forecast_is_for_the_size_of_next_yaml_where_there_is_one(ladder_run):
    run = ladder_run()
    (run.path / "best").mkdir()
    (run.path / "best" / "next.yaml").write_text(NEXT_YAML)
    loaded = analysis.load(run.path)
    (fits,) = fit_ladders(loaded)
    assert fits.forecast.target.name == "100M"
    assert fits.forecast.target.D == 1000 * 16 * 64
    assert isinstance(fits.forecast.loss, NotEstimable)  # off the line of 20 tokens per parameter
    on_line = NEXT_YAML.replace("steps: 1000", f"steps: {round(20 * fits.forecast.target.N / 1024)}")
    (run.path / "best" / "next.yaml").write_text(on_line)
    (fits,) = fit_ladders(analysis.load(run.path))
    assert fits.forecast.target.N == 4 * (4 * 256**2 + 3 * 256 * 688 + 2 * 256) + 256
    assert isinstance(fits.forecast.loss, Estimate)
    (run.path / "best" / "next.yaml").write_text("name: [")
    assert "next" not in analysis.load(run.path).manifest


def test_names_with_dots_are_one_part_of_a_path_in_report_json():
    assert _keys("answer.0.1M.loss", frozenset({"0.1M"})) == ["answer", "0.1M", "loss"]
    assert _keys("ladder.law.lr.0.1M-x5", frozenset({"0.1M", "0.1M-x5"})) == ["ladder", "law", "lr", "0.1M-x5"]
    assert _keys("optimum.lr.xs", frozenset()) == ["optimum", "lr", "xs"]


def test_the_laws_of_step_law_are_near_those_published():
    """Li et al. 2025: lr 1.79 N^-0.713 D^0.307, batch 0.58 D^0.571."""
    if not STEPLAW.exists():
        pytest.skip(f"{STEPLAW} does not exist; set LMSWEEP_SHARED_DATA to its folder")
    runs = pd.read_csv(STEPLAW).assign(batch=lambda r: r["bs"] * SEQUENCE, loss=lambda r: r["smooth loss"])
    ladder = ladder_of(runs[["N", "D", "loss", "lr", "batch"]])
    law = analysis.optimum_law(runs[["N", "D", "loss", "lr", "batch"]])
    for path, published in (("lr.N", -0.713), ("lr.D", 0.307), ("batch.N", 0.0), ("batch.D", 0.571)):
        one = law.fitted[f"{path}_exponent"]
        print(f"\n{path}: {one.value:.3f} [{one.low:.3f}, {one.high:.3f}], published {published}")
        assert one.value == pytest.approx(published, abs=0.25)
        assert one.high - one.low < 0.3
    check = hold_out(ladder)
    assert all(one.inside for one in check.predictions)
    assert check.excess.value < 0.002
