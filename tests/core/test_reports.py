"""Reports come at equal shares of the tokens, computed exactly: checked against fractions."""

from fractions import Fraction
from math import floor

from hypothesis import given
from hypothesis import strategies as st

from lmcore.config import ModelConfig, RunSpec, TrainConfig
from lmcore.reports import comparable_step, is_due, next_report, previous_report, reports_by

MODEL = ModelConfig(vocab_size=8, d_model=4, num_layers=1, num_heads=1, d_ff=4, context_length=1)


def a_run(steps, batch_size, eval_every, eval_tokens):
    train = TrainConfig(steps=steps, batch_size=batch_size, eval_every=eval_every, eval_tokens=eval_tokens)
    return RunSpec(model=MODEL, train=train)


RUNS = st.builds(a_run, st.integers(1, 60), st.integers(1, 40), st.integers(1, 30), st.none() | st.integers(1, 400))


def reference(run):
    """Steps with a report, by rounding i * E / t half up."""
    tokens = run.train.eval_tokens or run.train.eval_every * run.tokens_per_step
    count = run.steps * run.tokens_per_step // tokens + 2
    steps = {floor(Fraction(i * tokens, run.tokens_per_step) + Fraction(1, 2)) for i in range(1, count)}
    return sorted(step for step in steps | {run.steps} if 0 < step <= run.steps)


@given(RUNS)
def test_reports_come_after_the_updates_that_end_nearest_to_equal_shares_of_tokens(run):
    expected = reference(run)
    walked = [0]
    while walked[-1] < run.steps:
        walked.append(next_report(run, walked[-1]))
    assert walked[1:] == expected
    assert [step for step in range(1, run.steps + 1) if is_due(run, step)] == expected
    assert [previous_report(run, step) for step in expected] == walked[:-1]


@given(RUNS)
def test_steps_that_trials_are_compared_at_grow_from_report_to_report(run):
    compared = [comparable_step(run, step) for step in reference(run)]
    assert compared == sorted(set(compared))


@given(st.integers(1, 100), st.integers(1, 40), st.integers(1, 30))
def test_a_run_with_the_sweeps_own_batches_reports_and_is_compared_at_the_steps_it_would_without_eval_tokens(
    steps, batch_size, eval_every
):
    plain = a_run(steps, batch_size, eval_every, None)
    aligned = a_run(steps, batch_size, eval_every, eval_every * batch_size)
    assert reference(aligned) == reference(plain)
    assert [comparable_step(aligned, step) for step in reference(plain)] == reference(plain)


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 30), st.integers(100, 10_000))
def test_runs_with_different_batches_report_at_equal_tokens_to_within_half_an_update(base, other, every, tokens):
    eval_tokens = every * base
    for batch_size in (base, other):
        train = TrainConfig(tokens=tokens, batch_size=batch_size, eval_every=every, eval_tokens=eval_tokens)
        run = RunSpec(model=MODEL, train=train)
        for step in reference(run)[:-1]:
            number = reports_by(run, step)
            assert comparable_step(run, step) == number * every
            assert abs(step * batch_size - number * eval_tokens) <= batch_size / 2
