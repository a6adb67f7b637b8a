"""After which updates a run reports: exact integer arithmetic, on which every part of a sweep agrees. No torch.

Without train.eval_tokens, report i comes after update i * eval_every. With it, report i comes after the update that
ends nearest to i * eval_tokens tokens, so that runs with different batches report at equal tokens to within half an
update. There is always a report after the last update.

>>> from lmcore.config import TrainConfig
>>> runs = [RunSpec(train=TrainConfig(tokens=2**19, batch_size=B, eval_tokens=2**17)) for B in (16, 32)]
>>> [[run.tokens_per_step * next_report(run, step) for step in (0, next_report(run, 0))] for run in runs]
[[131072, 262144], [131072, 262144]]
"""

from lmcore.config import RunSpec


def tokens_between_reports(run: RunSpec) -> int:
    """Tokens from one report to the next, before rounding to whole updates."""
    return run.train.eval_tokens or run.train.eval_every * run.tokens_per_step


def reports_by(run: RunSpec, step: int) -> int:
    """Number of the latest report that comes after update `step` or earlier, without the one after the last update.

    Reports that round to the same update have one row, and the number of the last of them.
    """
    # Report i comes after update floor((2 i E + t) / 2t), where E are the tokens between reports and t those of an
    # update. This is the largest i for which that is at most `step`.
    t = run.tokens_per_step
    return (t * (2 * step + 1) - 1) // (2 * tokens_between_reports(run))


def next_report(run: RunSpec, step: int) -> int:
    """The first update after `step` with a report."""
    t = run.tokens_per_step
    number = reports_by(run, step) + 1
    return min(run.steps, (2 * number * tokens_between_reports(run) + t) // (2 * t))


def is_due(run: RunSpec, step: int) -> bool:
    """Whether there is a report after update `step`, counted from 1."""
    return step >= run.steps or reports_by(run, step) > reports_by(run, step - 1)


def previous_report(run: RunSpec, step: int) -> int:
    """The last update before `step` with a report; 0 if there is none."""
    t = run.tokens_per_step
    number = reports_by(run, step - 1)
    return (2 * number * tokens_between_reports(run) + t) // (2 * t) if number else 0


def comparable_step(run: RunSpec, step: int) -> int:
    """The step at which runs are compared for early stopping, given that `run` reports after update `step`.

    It is the number of the report times eval_every. With the sweep's batch size that is `step` itself; a run with other
    batches has the step at which one with the sweep's batch size had trained on as many tokens.
    """
    if run.train.eval_tokens is None:
        return step
    every = run.train.eval_every
    at_report = reports_by(run, step) * every
    if reports_by(run, step) > reports_by(run, step - 1):
        return at_report
    # The last update, between two reports.
    nearest = (2 * step * run.tokens_per_step * every + run.train.eval_tokens) // (2 * run.train.eval_tokens)
    return max(at_report + 1, nearest)
