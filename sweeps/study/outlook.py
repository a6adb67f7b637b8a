"""The final loss that a trial would probably have had, if it had not been stopped early."""

import math
import statistics
from collections.abc import Sequence

from optuna.trial import FrozenTrial


def final_outlook(stopped: FrozenTrial, complete: Sequence[FrozenTrial]) -> float | None:
    """The last loss of a stopped trial, plus what trials of its study usually gain from that step to their end.

    That gain is the median over the complete trials with a finite loss. The result is never below the best loss of a
    complete trial. It is None if no complete trial has reported at that step.

    >>> import optuna
    >>> complete = optuna.create_trial(value=3.0, intermediate_values={10: 5.0, 20: 3.5})
    >>> stopped = optuna.create_trial(state=optuna.trial.TrialState.PRUNED, intermediate_values={10: 6.0})
    >>> final_outlook(stopped, [complete])
    4.0
    """
    finite = [trial for trial in complete if math.isfinite(trial.values[0])]
    step = max(stopped.intermediate_values, default=None)
    if step is None:
        return None
    gains = [trial.values[0] - trial.intermediate_values[step] for trial in finite if step in trial.intermediate_values]
    if not gains:
        return None
    best = min(trial.values[0] for trial in finite)
    return float(max(stopped.intermediate_values[step] + statistics.median(gains), best))
