"""Makes Tune forget trials that have ended: the studies have them, and a long sweep's driver should not grow with them.

Tune keeps every trial for as long as it runs, with its config and results, and once more as JSON: 0.1 MB each.
"""

from typing import Any

from ray.tune.execution.tune_controller import TuneController
from ray.tune.progress_reporter import TrialProgressCallback


class NoProgress(TrialProgressCallback):
    """Takes the place of Tune's own callback of this class, which prints nothing here but keeps every trial.

    Example:
        tune.RunConfig(callbacks=[NoProgress()])
    """

    def on_trial_result(self, *arguments: Any, **keywords: Any) -> None:
        """The sweep has its own progress (`sweeps.callbacks.progress`)."""

    def on_trial_error(self, *arguments: Any, **keywords: Any) -> None:
        """It is printed in one line elsewhere."""

    def on_trial_complete(self, *arguments: Any, **keywords: Any) -> None:
        """It is printed in one line elsewhere."""


def forget_ended(tune_controller: Any) -> None:
    """Drop the trials that have ended and whose process serves another trial by now, or none.

    Args:
        tune_controller: what Tune hands to its scheduler, a wrapper of the `TuneController`.
    """
    controller: TuneController = tune_controller._tune_controller
    ended = [trial for trial in controller._stopped_trials | controller._failed_trials if _is_free(controller, trial)]
    for trial in ended:
        controller._trials.remove(trial)
        for trials in (
            controller._stopped_trials,
            controller._failed_trials,
            controller._live_trials,
            controller._trials_to_cache,
        ):
            trials.discard(trial)
        controller._trial_metadata.pop(trial.trial_id, None)


def _is_free(controller: TuneController, trial: Any) -> bool:
    return trial not in controller._trial_to_actor and trial not in controller._staged_trials
