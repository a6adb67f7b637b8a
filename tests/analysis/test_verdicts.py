"""The answer of a sweep: one sentence per size, with differences that are those of the textbook."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import armed
from scipy import stats

import analysis
from analysis.document.sections import comparisons_of
from analysis.report import build_report, main
from analysis.stats.arm_differences import ArmDifference
from analysis.stats.estimate import Estimate, NotEstimable
from analysis.stats.matching import SAME_NON_EMBEDDING, SAME_SHAPE, SAME_TOTAL
from analysis.stats.wording import difference_sentence, experiments_sentence
from analysis.tables.leaders import noise_of

SEEDS = (1, 2, 3)
COUNTS = {  # exact, non-embedding
    ("xs", "untied"): (460_000, 200_000),
    ("xs", "tied"): (330_000, 200_000),
    ("s", "untied"): (1_330_000, 800_000),
    ("s", "tied"): (1_070_000, 800_000),
}
LOSSES = {  # by seed
    ("xs", "untied"): (5.50, 5.56, 5.53),
    ("xs", "tied"): (5.80, 5.87, 5.85),
    ("s", "untied"): (4.70, 4.74, 4.73),
    ("s", "tied"): (4.72, 4.73, 4.74),
}


def sweep(run, losses=LOSSES, confirm=True, **changes):
    """Tied and untied at two sizes, each with one setting, which was confirmed."""
    for (size, arm), row in losses.items():
        exact, body = COUNTS[size, arm]
        counts = {"params_exact": exact, "params_non_embedding": body, "params_estimate": exact}
        shape = {"model__d_model": 64 if size == "xs" else 128, "model__tie_embeddings": arm == "tied"}
        loss = 5.0 + 0.01 * (arm == "tied")  # equal losses would be the same run
        trial = run.add(f"{size}-{arm}", "complete", loss, optim__lr=2e-3, **shape, **counts, **changes)
        if confirm:
            run.confirm(trial, dict(zip(SEEDS, row, strict=True)))
            run.result(trial)
    return analysis.verdicts(analysis.load(run.path).trials)


def number(answer, size, matching):
    (one,) = [
        one for of_size in answer.sizes for one in of_size.differences if (one.size, one.matching) == (size, matching)
    ]
    return one


@pytest.fixture
def run(make_run):
    return make_run(**armed("untied", "tied"))


def test_arms_are_paired_seed_by_seed_with_the_noise_of_the_size(run):
    one = number(sweep(run), "xs", SAME_SHAPE)
    gaps = np.subtract(LOSSES["xs", "tied"], LOSSES["xs", "untied"])
    half = stats.t.ppf(0.975, 2) * gaps.std(ddof=1) / math.sqrt(3)  # of two settings: the paired t test
    assert one.difference == Estimate(
        pytest.approx(gaps.mean()), pytest.approx(gaps.mean() - half), pytest.approx(gaps.mean() + half), 3
    )
    assert (one.basis, one.verdict, one.a, one.b) == ("seeds", "worse", "untied", "tied")


def test_the_loss_at_equal_parameters_is_interpolated_seed_by_seed(run):
    one = number(sweep(run), "xs", SAME_TOTAL)
    share = math.log(460 / 330) / math.log(1070 / 330)
    tied = (1 - share) * np.array(LOSSES["xs", "tied"]) + share * np.array(LOSSES["s", "tied"])
    gaps = tied - np.array(LOSSES["xs", "untied"])
    half = stats.t.ppf(0.975, 2) * gaps.std(ddof=1) / math.sqrt(3)
    assert one.difference.value == pytest.approx(gaps.mean())
    assert one.difference.high == pytest.approx(gaps.mean() + half)
    assert (one.one_way, one.verdict) == (True, "tie")


def test_equal_counts_need_no_interpolation(run):
    answer = sweep(run)
    assert number(answer, "s", SAME_NON_EMBEDDING).difference == number(answer, "s", SAME_SHAPE).difference


def test_there_is_one_sentence_per_size_and_a_tie_is_called_a_tie(run):
    xs, s = sweep(run).sentences
    assert xs.startswith("xs: untied is better by 0.310 +- ")
    assert " nats at equal shape and at equal non-embedding parameters (3 seeds), a tie at equal total parameters" in xs
    assert xs.endswith("): the verdict changes with the matching.")
    assert s.startswith("s: a tie at equal shape and at equal non-embedding parameters (tied - untied: +0.007 +- ")


def test_a_size_alone_cannot_be_compared_at_equal_parameters_and_the_reason_is_collected(run):
    answer = sweep(run, {key: row for key, row in LOSSES.items() if key[0] == "xs"})
    reason = answer.fitted()["answer.xs.tied.same_total_parameters"]
    assert isinstance(reason, NotEstimable)
    assert "nothing is extrapolated" in reason.reason
    assert "total" not in answer.sentences[0]


def test_an_arm_that_was_not_confirmed_is_not_compared_with_one_that_was(run):
    for arm in ("untied", "tied"):
        trial = run.add(f"xs-{arm}", "complete", 5.0, model__tie_embeddings=arm == "tied")
        if arm == "untied":
            run.confirm(trial, {1: 5.1, 2: 5.2})
            run.result(trial)
    (sentence,) = analysis.verdicts(analysis.load(run.path).trials).sentences
    assert sentence == (
        "xs: untied and tied cannot be compared: tied was not confirmed, and a selected loss is no match."
    )


def test_without_confirmation_arms_are_compared_on_their_windows_and_seeds_are_not_included(run):
    rng = np.random.default_rng(0)
    shared = rng.standard_normal(300)
    for arm, loss in {"untied": 5.0, "tied": 5.1}.items():
        trial = run.add(f"xs-{arm}", "complete", loss, model__tie_embeddings=arm == "tied")
        run.windows(trial, loss + shared + 0.1 * rng.standard_normal(300))
    answer = analysis.verdicts(analysis.load(run.path).trials)
    one = number(answer, "xs", SAME_SHAPE)
    assert (one.basis, one.verdict, one.difference.n) == ("windows", "worse", 300)
    assert "(on the same windows; what another seed would change is not included)" in answer.sentences[0]


def test_without_windows_or_seeds_arms_cannot_be_compared(run):
    answer = sweep(run, confirm=False)
    assert answer.sentences[0] == (
        "xs: untied and tied cannot be compared: there is one run of each, and the losses of single windows were not "
        "kept."
    )


def test_arms_without_shared_seeds_are_compared_by_the_noise_between_seeds(run):
    for arm, seed, losses in (("untied", 0, (5.0, 5.02)), ("tied", 2, (5.5, 5.53))):
        for place, loss in enumerate(losses):
            run.add(f"xs-{arm}", "complete", loss, train__seed=seed + place, model__tie_embeddings=arm == "tied")
    one = number(analysis.verdicts(analysis.load(run.path).trials), "xs", SAME_SHAPE)
    pooled = math.sqrt((np.var([5.0, 5.02], ddof=1) + np.var([5.5, 5.53], ddof=1)) / 2)
    assert one.difference.value == pytest.approx(5.515 - 5.01)
    assert one.difference.high - one.difference.value == pytest.approx(stats.t.ppf(0.975, 2) * pooled)
    assert (one.basis, one.verdict) == ("seeds", "worse")


def test_one_run_of_an_arm_is_compared_with_two_of_another(run):
    for arm, losses in {"untied": (5.0, 5.02), "tied": (5.8,)}.items():
        for seed, loss in enumerate(losses):
            run.add(f"xs-{arm}", "complete", loss, train__seed=seed, model__tie_embeddings=arm == "tied")
    one = number(analysis.verdicts(analysis.load(run.path).trials), "xs", SAME_SHAPE)
    assert (one.basis, one.difference.n) == ("seeds", 1)


def test_a_clause_with_other_seeds_than_the_first_says_so():
    def difference(b, matching, value, n, basis="seeds"):
        return ArmDifference("xs", "a", b, matching, Estimate(value, value - 0.1, value + 0.1, n), basis)

    found = [difference("b", SAME_SHAPE, 0.5, 3), difference("b", SAME_TOTAL, 0.4, 2)]
    assert difference_sentence("xs", found) == (
        "xs: a is better by 0.500 +- 0.100 nats at equal shape (3 seeds), by 0.400 +- 0.100 at equal total parameters "
        "(2 seeds)."
    )
    baseline = SimpleNamespace(mean=4.0, half=0.1, n=3)
    mixed = [
        difference("b", SAME_SHAPE, 0.5, 3),
        difference("c", SAME_SHAPE, 0.0, 2),
        difference("d", SAME_SHAPE, 1, 9),
    ]
    mixed[2] = replace(mixed[2], basis="windows")
    assert experiments_sentence("xs", baseline, "a", mixed) == (
        "xs: a 4.000 +- 0.100 nats (3 seeds); d is worse by 1.000 +- 0.100 (on the same windows; what another seed "
        "would change is not included), b by 0.500 +- 0.100; c (2 seeds) cannot be told apart from it."
    )


def test_an_arm_without_a_finished_confirmation_run_is_not_compared_by_its_search(run):
    for arm in ("untied", "tied"):
        trial = run.add(f"xs-{arm}", "complete", 5.0, model__tie_embeddings=arm == "tied")
        run.confirm(trial, {1: 5.1 if arm == "untied" else None})
        run.result(trial) if arm == "untied" else run.study("xs-tied-confirm").set_user_attr("result", {"leader": None})
    loaded = analysis.load(run.path)
    (sentence,) = analysis.verdicts(loaded.trials).sentences
    assert sentence == "xs: untied and tied cannot be compared: no confirmation run of tied ran to its end."
    assert any(
        "xs tied: no row, because no confirmation run" in note for note in build_report(loaded, brief=True).notes
    )


def test_differences_that_the_answer_has_are_not_judged_again_by_another_rule(make_run):
    run = make_run()
    for place, tied in enumerate((False, True)):
        run.add("xs", "complete", 4.0 + place, model__tie_embeddings=tied)
    trials = analysis.load(run.path).trials
    names = ["plain", "tied"]
    assert list(comparisons_of(trials)) == ["tied"]
    assert comparisons_of(trials.assign(experiment=names)) == {}
    assert comparisons_of(trials.assign(arm=names)) == {}


def test_a_sweep_without_arms_is_answered_by_its_leading_setting(make_run):
    run = make_run(**armed(sizes=("xs",)))
    names = [run.add("xs", "complete", 5.0 + k / 10, optim__lr=(1 + k) * 1e-3) for k in range(3)]
    for name, gap in zip(names, (0.0, 0.004, 0.5), strict=True):
        run.confirm(name, {seed: 5.5 + gap + 0.02 * seed + 0.001 * seed**2 * gap for seed in SEEDS})
    run.result(names[0])
    (sentence,) = analysis.verdicts(analysis.load(run.path).trials).sentences
    assert sentence.startswith("xs: 5.540 +- 0.050 nats (3 seeds) with peak lr 1.0e-03 (xs-0000); it ")


def test_every_experiment_is_compared_with_the_first_by_all_its_runs(make_run):
    run = make_run(**armed(sizes=("main",)))
    shared = np.array([0.05, -0.02, 0.01, -0.04])
    own = {"baseline": (0.0, 0.002), "tied": (0.2, -0.002), "another": (0.0, -0.001)}
    for place, (name, (gap, noise)) in enumerate(own.items()):
        row = 4 + gap + shared + noise * np.array([1, -1, 1, -1])
        trial = run.add("main", "complete", row[0], experiment=name, optim__beta1=0.9 - place / 10)
        run.confirm(trial, dict(zip(SEEDS, row[1:], strict=True)))
    run.add("main", "diverged", None, experiment="no-norm", optim__beta2=0.5)
    answer = analysis.verdicts(analysis.load(run.path).trials)
    assert [one.difference.n for one in answer.sizes[0].differences if one.matching == SAME_SHAPE] == [4, 4]
    (sentence,) = answer.sentences
    assert "nats (4 seeds); tied is worse by 0.2" in sentence
    assert "another cannot be told apart from it" in sentence
    assert sentence.endswith("; without a result: no-norm.")


def test_the_interval_of_an_arms_difference_contains_the_truth_in_95_percent_of_sweeps():
    """400 confirmations of two arms with three settings each under three seeds, drawn without a folder."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        losses = 4 + 0.05 * rng.standard_normal(3) + 0.02 * rng.standard_normal((6, 3))
        noise = noise_of(pd.DataFrame(losses)).paired
        half = stats.t.ppf(0.975, noise.df) * noise.sd * math.sqrt(2 / 3)
        inside += abs((losses[3] - losses[0]).mean()) <= half
    assert 0.92 <= inside / 400 <= 0.98


def test_the_report_has_the_answer_in_numbers_and_says_it_last(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    sweep(run)
    assert main([str(run.path), "--brief"]) == 0
    lines = capsys.readouterr().out.rstrip().splitlines()
    assert any(line.startswith("xs: untied is better by 0.310 +- ") for line in lines[-5:])
    report = build_report(analysis.load(run.path), brief=True)
    answer = report.json()["answer"]["xs"]
    assert answer["untied"]["loss"]["value"] == pytest.approx(5.53)
    assert answer["tied"]["same_shape"]["n"] == 3
    assert answer["noise"]["paired"]["low"] < answer["noise"]["paired"]["value"]


def test_the_seeds_of_the_leader_that_diverged_are_said(make_run):
    run = make_run(**armed(sizes=("xs",)))
    trial = run.add("xs", "complete", 5.0)
    run.confirm(trial, {1: 5.0, 2: 5.1, 3: None})
    run.result(trial)
    (sentence,) = analysis.verdicts(analysis.load(run.path).trials).sentences
    assert "(2 seeds; 1 seed of it diverged)" in sentence


def test_an_arm_that_repeats_the_other_bit_for_bit_is_called_the_same(run):
    losses = {**LOSSES, ("xs", "tied"): LOSSES["xs", "untied"]}
    answer = sweep(run, losses)
    assert number(answer, "xs", SAME_SHAPE).verdict == "same"
    assert answer.sentences[0].startswith("xs: untied and tied are the same bit for bit at equal shape ")


def test_an_ablation_is_one_sentence_the_largest_differences_first(make_run):
    def difference(b, value, half=0.1):
        return ArmDifference("xs", "base", b, SAME_SHAPE, Estimate(value, value - half, value + half, 3), "seeds")

    found = [difference("w1", 0.2), difference("b1", -0.3), difference("w2", 0.9), difference("b2", -0.5)]
    found += [difference(f"t{k}", 0.01 * k) for k in range(8)]
    found.append(ArmDifference("xs", "base", "lost", "any matching", NotEstimable("why"), "unknown"))
    assert experiments_sentence("xs", SimpleNamespace(mean=4.0, half=0.1, n=3), "base", found) == (
        "xs: base 4.000 +- 0.100 nats (3 seeds); b2 is better by 0.500 +- 0.100, b1 by 0.300 +- 0.100; w2 is worse by "
        "0.900 +- 0.100, w1 by 0.200 +- 0.100; t7, t6, t5, t4, t3, t2 and 2 more cannot be told apart from it; without "
        "a result: lost."
    )


def ablation(run):
    """A baseline that is listed second, and three experiments under four seeds."""
    shared = np.array([0.05, -0.02, 0.01, -0.04])
    gaps = {"worst": 0.5, "baseline": 0.0, "better": -0.3, "tie": 0.001}
    for place, (name, gap) in enumerate(gaps.items()):
        row = 4 + gap + shared + 0.004 * np.array([1, -1, 1, -1]) * (-1) ** place
        changes = {"optim__beta1": 0.5 + place / 10, "params_exact": 1000 + place, "params_non_embedding": 800 + place}
        trial = run.add("main", "complete", row[0], experiment=name, **changes)
        run.confirm(trial, dict(zip(SEEDS, row[1:], strict=True)))
    return analysis.load(run.path)


def test_experiments_are_compared_with_the_one_named_baseline_wherever_it_stands(make_run):
    loaded = ablation(make_run(**armed(sizes=("main",))))
    answer = analysis.verdicts(loaded.trials)
    assert (answer.baseline, answer.of_experiments) == ("baseline", True)
    assert [one.b for one in answer.sizes[0].differences] == ["worst", "better", "tie"]
    assert "baseline 4.000 +- " in answer.sentences[0]


def test_an_ablation_has_no_page_of_refusals(make_run):
    (section, *_) = build_report(ablation(make_run(**armed(sizes=("main",)))), brief=True).sections
    assert section.unsaid == {}  # counts of parameters differ, and no series of sizes could be interpolated
    assert [table.name for table in section.tables] == ["parameters", "differences"]
    cells = section.tables[1].cells
    assert section.tables[1].title == "Differences from the baseline"
    assert list(cells.columns) == ["size", "experiment", "difference", "95 % interval", "n", "verdict"]
    assert cells["experiment"].tolist() == ["better", "tie", "worst"]
    assert cells["n"].tolist() == ["4 seeds"] * 3
    assert cells["verdict"].tolist() == ["better", "tie", "worse"]
    value, interval = cells.loc[0, ["difference", "95 % interval"]]
    low, high = map(float, interval.split(" to "))
    assert float(value) == pytest.approx((low + high) / 2, abs=0.001)
