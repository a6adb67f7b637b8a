"""Paired comparisons of simulated trials, whose true difference is known."""

import itertools

import numpy as np
import pandas as pd
import pytest

from analysis.stats.comparison import COLUMNS, compare, compare_experiments, paired_t
from analysis.stats.estimate import Estimate, NotEstimable
from analysis.stats.matching import (
    MATCHINGS,
    SAME_NON_EMBEDDING,
    SAME_SHAPE,
    SAME_TOTAL,
    SHAPE_PATHS,
    size_columns,
)

TYING = "model.tie_embeddings"
BODY = {"xs": 200_000, "s": 440_000, "m": 800_000}  # non-embedding parameters
WIDTH = {"xs": 64, "s": 96, "m": 128}
VOCAB = 2048


def trial(size, tied, loss, *, seed=0, lr=3e-3, status="complete", experiment=None, norm="pre", steps=100):
    embedding = VOCAB * WIDTH[size]
    return {
        **{"size": size, "status": status, "experiment": experiment, "val_loss": loss, "val_loss_se": 0.03},
        **{"params.data.seed": 0, "params.model.d_model": WIDTH[size], "params.model.norm": norm},
        **{"params.model.tie_embeddings": tied, "params.train.steps": steps, "params.train.seed": seed},
        **{"params.optim.lr": lr, "params_non_embedding": BODY[size]},
        "params_exact": BODY[size] + embedding * (1 if tied else 2),
    }


def sweep(law, seeds=4, sizes=("xs", "s", "m"), seed_sd=0.0, pair_sd=0.0, rng_seed=0):
    """Tied and untied at each (size, seed): law(size, tied) + a part that both share + a part of their own."""
    rng = np.random.default_rng(rng_seed)
    records = []
    for size, seed in itertools.product(sizes, range(seeds)):
        shared = seed_sd * rng.standard_normal()
        records += [
            trial(size, tied, law(size, tied) + shared + pair_sd * rng.standard_normal(), seed=seed)
            for tied in (False, True)
        ]
    return pd.DataFrame(records)


def power_law(count):
    return 2 + 60 * count**-0.3


def constant(difference):
    return lambda size, tied: power_law(BODY[size]) + difference * tied


def verdicts(comparison):
    return {matching: one.verdict for matching, one in comparison.matchings.items()}


def test_the_difference_is_the_mean_over_pairs_with_the_textbook_t_interval():
    trials = sweep(constant(0.2), pair_sd=0.02)
    one = compare(trials, TYING, False, True).matchings[SAME_SHAPE]
    losses = trials.pivot(index=["size", "params.train.seed"], columns="params.model.tie_embeddings", values="val_loss")
    d = (losses[True] - losses[False]).to_numpy()
    half = 2.2009851600916384 * d.std(ddof=1) / np.sqrt(12)  # the table's t for 11 degrees of freedom
    assert one.difference == Estimate(
        pytest.approx(d.mean()), pytest.approx(d.mean() - half), pytest.approx(d.mean() + half), 12
    )
    assert one.pairs["difference"].sum() == pytest.approx(d.sum())


def test_a_clear_difference_has_a_direction_that_swapping_the_arms_reverses():
    trials = sweep(constant(0.2), seed_sd=0.02, pair_sd=0.01)
    assert compare(trials, TYING, False, True).matchings[SAME_SHAPE].verdict == "worse"
    assert compare(trials, f"params.{TYING}", True, False).matchings[SAME_SHAPE].verdict == "better"


def test_a_difference_within_the_seed_noise_is_a_tie_however_precise_it_is():
    """The pairs share their seeds, so 0.01 is measured to 0.001; another seed moves the loss by five times that."""
    comparison = compare(sweep(constant(0.01), seed_sd=0.05, pair_sd=0.001, seeds=6), TYING, False, True)
    one = comparison.matchings[SAME_SHAPE]
    assert one.difference.low > 0.005
    assert (one.verdict, one.noise_from) == ("tie", "seeds")
    assert one.noise == pytest.approx(0.05, rel=0.5)
    assert "a tie at the same shape" in comparison.sentence


def test_an_interval_that_contains_zero_is_a_tie():
    one = compare(sweep(constant(0.0), pair_sd=0.05), TYING, False, True).matchings[SAME_SHAPE]
    assert one.difference.low < 0 < one.difference.high
    assert one.verdict == "tie"


def test_without_two_seeds_or_losses_of_windows_the_noise_is_the_error_of_a_loss_and_a_note_says_so():
    records = [
        trial("xs", tied, 4 + 0.02 * tied + 0.001 * place, lr=lr)
        for place, (lr, tied) in enumerate(itertools.product((1e-3, 2e-3, 4e-3, 8e-3), (False, True)))
    ]
    comparison = compare(pd.DataFrame(records), TYING, False, True)
    one = comparison.matchings[SAME_SHAPE]
    assert (one.noise, one.noise_from, one.verdict) == (pytest.approx(0.03), "losses", "tie")
    assert one.difference.low > 0
    assert any("the spread between seeds is unknown" in note for note in comparison.notes)
    assert any("All pairs share their seeds" in note for note in comparison.notes)


def test_without_two_seeds_the_noise_is_that_of_the_windows_that_a_pair_shares():
    rng = np.random.default_rng(0)
    shared = rng.standard_normal(400)
    records = []
    for lr, tied in itertools.product((1e-3, 2e-3, 4e-3, 8e-3), (False, True)):
        losses = 4 + 0.02 * tied + shared + 0.02 * rng.standard_normal(400)
        records.append(trial("xs", tied, losses.mean(), lr=lr) | {"window_losses": losses})
    comparison = compare(pd.DataFrame(records), TYING, False, True)
    one = comparison.matchings[SAME_SHAPE]
    assert (one.noise_from, one.verdict) == ("windows", "worse")
    assert one.noise == pytest.approx(0.02 * np.sqrt(2 / 400), rel=0.1)
    assert any("paired (0.001), and the spread between seeds is unknown" in note for note in comparison.notes)


def test_a_run_of_the_search_is_never_paired_with_one_of_the_confirmation():
    trials = sweep(constant(0.2), pair_sd=0.01)
    tied = trials[f"params.{TYING}"]
    both = compare(trials.assign(phase=np.where(tied, "confirm", "search")), TYING, False, True)
    assert set(verdicts(both).values()) == {"refused"}


def test_seeds_of_weights_and_data_that_change_together_show_the_noise_between_seeds():
    trials = sweep(constant(0.2), seed_sd=0.05, pair_sd=0.001)
    trials["params.data.seed"] = trials["params.train.seed"]
    one = compare(trials, TYING, False, True).matchings[SAME_SHAPE]
    assert (one.noise_from, one.noise) == ("seeds", pytest.approx(0.05, rel=0.5))


def test_confirmed_experiments_are_paired_seed_by_seed():
    trials = ablation(seeds=3).assign(experiment=lambda table: table["experiment"].str.partition("-")[0])
    trials["phase"] = np.where(trials["params.train.seed"] == 0, "search", "confirm")
    one = compare_experiments(trials, "baseline", "post").matchings[SAME_SHAPE]
    assert one.difference.n == 9


def test_a_verdict_that_changes_with_the_matching_is_reported_as_such():
    """Loss follows the non-embedding parameters, and tying costs 0.05: less than what the spared parameters buy."""
    comparison = compare(sweep(constant(0.05), seed_sd=0.01, pair_sd=0.005), TYING, False, True)
    assert verdicts(comparison) == {SAME_SHAPE: "worse", SAME_TOTAL: "better", SAME_NON_EMBEDDING: "worse"}
    assert comparison.verdict_changes
    assert comparison.sentence.startswith(
        "model.tie_embeddings, True against False: worse at the same shape and the same "
        "non-embedding parameters (+0.050 ["
    )
    assert comparison.sentence.endswith("4 pairs): the verdict changes with the matching.")
    assert [one.difference.n for one in comparison.matchings.values()] == [12, 4, 12]


def test_a_verdict_that_does_not_change_is_not_reported_as_changing():
    comparison = compare(sweep(constant(1.0), pair_sd=0.01), TYING, False, True)
    assert set(verdicts(comparison).values()) == {"worse"}
    assert "changes" not in comparison.sentence


def test_if_loss_depends_on_the_total_alone_there_is_no_difference_at_the_same_total():
    """The law is convex in log N and sizes are a factor of 1.6 apart: one way of interpolation is 0.02 too high."""

    def law(size, tied):
        return power_law(BODY[size] + VOCAB * WIDTH[size] * (1 if tied else 2))

    one = compare(sweep(law, pair_sd=1e-6), TYING, False, True).matchings[SAME_TOTAL]
    assert one.difference.value == pytest.approx(0, abs=2e-3)
    assert one.pairs["interpolated"].all()
    assert not one.pairs["one_way"].any()
    assert one.pairs["size"].tolist() == ["xs, s, m"] * 4


def test_interpolation_is_linear_in_log_n_and_never_extrapolates():
    def law(size, tied):
        return 20 - np.log(BODY[size] + VOCAB * WIDTH[size] * (1 if tied else 2)) + 0.3 * tied

    one = compare(sweep(law), TYING, False, True).matchings[SAME_TOTAL]
    assert one.difference.value == pytest.approx(0.3)
    assert one.difference.high - one.difference.low < 1e-9


def test_arms_without_overlapping_sizes_are_not_estimable_at_the_same_total():
    comparison = compare(sweep(constant(0.1), sizes=("xs",), pair_sd=0.001), TYING, False, True)
    reason = comparison.matchings[SAME_TOTAL].difference.reason
    assert reason == (
        "no series of sizes of one arm encloses a size of the other "
        "(462,144 to 462,144 and 331,072 to 331,072 parameters, 1 size), and nothing is extrapolated"
    )
    assert verdicts(comparison) == {SAME_SHAPE: "worse", SAME_TOTAL: "refused", SAME_NON_EMBEDDING: "worse"}
    assert not comparison.verdict_changes


def test_a_size_that_was_trained_for_longer_is_not_part_of_the_series():
    trials = sweep(constant(0.1), pair_sd=0.001)
    trials["params.train.steps"] = trials["size"].map({"xs": 100, "s": 200, "m": 300})
    assert verdicts(compare(trials, TYING, False, True))[SAME_TOTAL] == "refused"


def test_settings_that_differ_by_size_do_not_break_a_series():
    trials = sweep(constant(0.05), pair_sd=0.005)
    trials["params.optim.lr"] = trials["size"].map({"xs": 4e-3, "s": 3e-3, "m": 2e-3})
    assert verdicts(compare(trials, TYING, False, True))[SAME_TOTAL] == "better"


def test_trials_of_a_random_search_form_no_pairs_however_close_they_are():
    rng = np.random.default_rng(0)
    records = [
        trial(size, tied, 4.0, lr=3e-3 * (1 + 1e-6 * rng.standard_normal()))
        for size in BODY
        for tied in (False, True)
        for _ in range(10)
    ]
    comparison = compare(pd.DataFrame(records), TYING, False, True)
    assert set(verdicts(comparison).values()) == {"refused"}
    assert comparison.sentence == (
        "model.tie_embeddings, True against False: cannot be compared: no pairs: no two complete trials differ in "
        "model.tie_embeddings alone; run a grid or experiments that change nothing else, as configs/tying.yaml does."
    )
    assert comparison.notes == ()


def test_a_pair_shares_its_seeds():
    records = [trial("xs", tied, 4.0, seed=2 * place + tied) for place in range(4) for tied in (False, True)]
    assert set(verdicts(compare(pd.DataFrame(records), TYING, False, True)).values()) == {"refused"}


def test_one_pair_has_no_interval():
    one = compare(sweep(constant(0.2), seeds=1, sizes=("xs",)), TYING, False, True).matchings[SAME_SHAPE]
    assert one.difference == NotEstimable("1 pair has no interval; run it under more seeds")
    assert one.pairs["difference"].tolist() == [pytest.approx(0.2)]


def test_an_arm_without_trials_is_not_estimable_and_an_unknown_path_is_an_error():
    trials = sweep(constant(0.2))
    missing = compare(trials[~trials[f"params.{TYING}"]], TYING, False, True)
    assert f"the second arm of {TYING} has no complete trial" in missing.sentence
    with pytest.raises(ValueError, match="must be a field of the trials"):
        compare(trials, "model.tied", False, True)


def test_pairs_that_diverged_or_did_not_finish_are_counted_in_the_notes():
    trials = sweep(constant(0.2), pair_sd=0.01)
    trials.loc[[1, 3], ["status", "val_loss"]] = ["diverged", np.nan]  # tied
    trials.loc[4, "status"] = "pruned"
    comparison = compare(trials, TYING, False, True)
    assert comparison.matchings[SAME_SHAPE].difference.n == 9
    assert "Not counted: pairs in which False diverged (0), or True (2)." in comparison.notes
    assert "Not counted: pairs that did not both run to their end (1)." in comparison.notes


def test_a_trial_that_was_run_twice_is_one_pair():
    trials = sweep(constant(0.2), pair_sd=0.01)
    twice = compare(pd.concat([trials, trials], ignore_index=True), TYING, False, True)
    assert (
        twice.matchings[SAME_SHAPE].difference == compare(trials, TYING, False, True).matchings[SAME_SHAPE].difference
    )


def test_verdicts_that_differ_between_sizes_are_noted():
    comparison = compare(
        sweep(lambda size, tied: 4 + tied * {"xs": -0.2, "s": 0.0, "m": 0.2}[size], pair_sd=0.01), TYING, False, True
    )
    assert {size: one.verdict for size, one in comparison.by_size.items()} == {"xs": "better", "s": "tie", "m": "worse"}
    assert any("the verdict changes with the size" in note for note in comparison.notes)


def test_the_table_has_a_row_per_matching_and_per_size_and_the_report_a_number_or_a_reason():
    comparison = compare(sweep(constant(0.2), sizes=("xs", "s"), pair_sd=0.01), TYING, False, True)
    table = comparison.table()
    assert table.columns.tolist() == list(COLUMNS)
    assert table[["matching", "size"]].values.tolist() == [
        *([matching, "all"] for matching in MATCHINGS),
        *([SAME_SHAPE, size] for size in ("xs", "s")),
    ]
    fitted = comparison.fitted("paired.tying")
    assert list(fitted) == [
        "paired.tying.same_shape",
        "paired.tying.same_total_parameters",
        "paired.tying.same_non-embedding_parameters",
    ]


def ablation(seeds=1):
    """baseline, tied and post-norm at three sizes; further seeds under names of their own."""
    changes = {"baseline": {}, "tied": {"tied": True}, "post": {"norm": "post"}}
    cost = {"baseline": 0.0, "tied": 0.2, "post": -0.1}
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        [
            trial(
                size,
                loss=power_law(BODY[size]) + cost[name] + 0.005 * rng.standard_normal(),
                experiment=name if seed == 0 else f"{name}-{seed}",
                seed=seed,
                **{"tied": False, **changes[name]},
            )
            for size in BODY
            for seed in range(seeds)
            for name in changes
        ]
    )


def test_experiments_are_compared_at_every_size_in_the_fields_they_change():
    comparison = compare_experiments(ablation(), "baseline", "post")
    assert (comparison.fields, comparison.a, comparison.b) == ("model.norm", "baseline", "post")
    assert comparison.matchings[SAME_SHAPE].difference.n == 3
    assert comparison.matchings[SAME_SHAPE].difference.value == pytest.approx(-0.1, abs=0.01)


def test_two_changes_between_experiments_are_compared_together():
    comparison = compare_experiments(ablation(), "tied", "post")
    assert comparison.fields == "model.norm and model.tie_embeddings"
    assert comparison.matchings[SAME_SHAPE].verdict == "better"


def test_repeats_of_an_experiment_under_other_seeds_are_pairs_too():
    one = compare_experiments(ablation(seeds=3), "baseline", "tied").matchings[SAME_SHAPE]
    assert (one.difference.n, one.noise_from) == (9, "seeds")


def test_equal_experiments_are_not_estimable_and_unknown_ones_are_an_error():
    trials = ablation(seeds=2)
    assert "differ in seeds at most" in compare_experiments(trials, "baseline", "baseline-1").sentence
    with pytest.raises(ValueError, match="must be one of baseline, tied, post"):
        compare_experiments(trials, "baseline", "untied")


def test_the_interval_contains_the_truth_in_95_percent_of_simulated_sets():
    """95 % of 2,000 sets of 5 pairs, within three standard deviations of that count; and so do whole comparisons."""
    rng = np.random.default_rng(0)
    sets = [paired_t(0.1 + 0.03 * rng.standard_normal(5)) for _ in range(2000)]
    assert np.mean([one.low <= 0.1 <= one.high for one in sets]) == pytest.approx(0.95, abs=0.015)

    def law(size, tied):
        return 20 - np.log(BODY[size] + VOCAB * WIDTH[size] * (1 if tied else 2)) + 0.1 * tied

    found = [compare(sweep(law, seed_sd=0.05, pair_sd=0.03, rng_seed=seed), TYING, False, True) for seed in range(20)]
    same_shape = np.mean([law(size, True) - law(size, False) for size in BODY])
    for matching, truth in {SAME_TOTAL: 0.1, SAME_SHAPE: same_shape}.items():
        differences = [comparison.matchings[matching].difference for comparison in found]
        assert sum(one.low <= truth <= one.high for one in differences) >= 17, matching


def test_key_value_heads_and_micro_batches_follow_the_shape_from_size_to_size():
    sized = {"model.d_model": [64, 128], "model.num_kv_heads": [1, 2], "train.micro_batch_size": [8, 4]}
    trials = pd.DataFrame({"size": ["xs", "s"], **{f"params.{path}": values for path, values in sized.items()}})
    assert size_columns(trials) == tuple(f"params.{path}" for path in sized)
    assert SHAPE_PATHS[0] == "params.model.d_model"
    assert not set(size_columns(trials)[1:]) & set(SHAPE_PATHS)


def test_pairs_that_are_equal_bit_for_bit_are_the_same_and_no_tie():
    comparison = compare(sweep(constant(0.0), seed_sd=0.05), TYING, False, True)
    one = comparison.matchings[SAME_SHAPE]
    assert (one.verdict, one.difference) == ("same", Estimate(0.0, 0.0, 0.0, 12))
    same = "the same bit for bit at the same shape and the same non-embedding parameters (12 pairs)"
    assert same in comparison.sentence
    alone = compare(sweep(constant(0.0), seeds=1, sizes=("xs",)), TYING, False, True).matchings[SAME_SHAPE]
    assert (alone.verdict, alone.difference.n) == ("same", 1)


def test_a_pair_that_several_matchings_share_is_counted_and_told_once():
    comparison = compare(sweep(constant(0.1), seeds=2, seed_sd=0.01, pair_sd=0.005), TYING, False, True)
    ns = {matching: one.difference.n for matching, one in comparison.matchings.items()}
    assert ns == {SAME_SHAPE: 6, SAME_NON_EMBEDDING: 6, SAME_TOTAL: 2}  # series of sizes at two seeds
    assert comparison.pairs == 6  # the series are made of the same trials
    assert comparison.summary.count("6 pairs") == 1
    assert compare(sweep(constant(0.1), seeds=1, sizes=("xs",)), TYING, False, True).pairs == 0


def test_of_a_single_size_the_pairs_of_the_size_are_no_further_row():
    one_size, two_sizes = (
        compare(sweep(constant(0.1), sizes=sizes, pair_sd=0.005), TYING, False, True).table()
        for sizes in (("xs",), ("xs", "s"))
    )
    assert list(one_size["size"]) == ["all"] * 3
    assert list(two_sizes["size"]) == [*["all"] * 3, "xs", "s"]
