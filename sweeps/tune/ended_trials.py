"""Makes Tune forget trials that have ended: the studies have them, and a long sweep's driver should not grow with them.

Tune keeps every trial for as long as it runs, with its config and results, and once more as JSON: 0.1 MB each.
"""

from typing import Any

from ray.tune.execution.tune_controller import TuneController


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
