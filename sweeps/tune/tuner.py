"""The one place that sets up Ray Tune: our trainable, our searcher, our scheduler, and nothing of Tune's own."""

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial

from lmcore import columns as col
from sweeps.callbacks.base import Callbacks
from sweeps.cluster.ray_cluster import TRIAL_RESOURCES
from sweeps.engine.pool import WorkerPool
from sweeps.rundir.folder import RunFolder
from sweeps.study.ledger import Ledger
from sweeps.tune.scheduler import StudyScheduler
from sweeps.tune.searcher import StudySearcher
from sweeps.tune.trainable import TrialTrainable

MAX_PROXY_FAILURES = 5  # of one trial; with more of them something kills them on purpose

STARTS_WITHIN_S = 5.0  # a process that has a place; longer only where the machine is very busy

TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # Tune's own result files, and an import of torch for tensorboardX
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # with it, fit() returns normally after Ctrl-C
    "RAY_AIR_NEW_OUTPUT": "0",
}


def tune_all(ledger: Ledger, engines: WorkerPool, callbacks: Callbacks, folder: RunFolder, concurrent: int) -> None:
    """Run every trial that the ledger hands out, `concurrent` at a time."""
    os.environ.update(TUNE_ENVIRONMENT)
    shutil.rmtree(folder.tune, ignore_errors=True)  # of a driver before
    # A failed trial is told in one line and kept whole in its folder; Tune would print its traceback as well.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    spec = ledger.spec
    total = sum(spec.trials_of(size) for size in spec.size_names)
    trainable = tune.with_resources(
        tune.with_parameters(TrialTrainable, workers=engines.handles, shared=engines.shared), dict(TRIAL_RESOURCES)
    )
    trainable.__name__ = trainable.__qualname__ = TrialTrainable.__name__  # as the dashboard shows it
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=StudySearcher(ledger, engines, callbacks),
            scheduler=StudyScheduler(ledger, engines, callbacks),
            num_samples=total,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_name_creator=_trial_id,
            trial_dirname_creator=_trial_id,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder.tune),
            verbose=0,
            # Only of stand-ins whose process died: a trial's own error is a result (`sweeps.tune.trainable`).
            failure_config=tune.FailureConfig(max_failures=MAX_PROXY_FAILURES),
        ),
    )
    with starting_processes_kept():
        tuner.fit()


@contextmanager
def starting_processes_kept() -> Iterator[None]:
    """Keep Tune from ending processes that are starting.

    When a trial ends, Tune gives its process to a trial whose own one is still starting, ends that one, and starts
    another for the next trial, which meets the same fate: with trials shorter than the start of a process (a second or
    two) `reuse_actors` starts a process per trial. There is no setting for it; the process of a trial that has ended is
    kept for the next trial here. A trial that has waited for its own for long takes any, though: where a node is lost,
    there may be no place to start another one. A test counts processes, should Ray change.
    """
    original = TuneController._maybe_reuse_cached_actor
    starting_since: dict[str, float] = {}

    def reuse(controller: TuneController, trial: Trial) -> bool:
        if trial in controller._trial_to_actor:
            since = starting_since.setdefault(trial.trial_id, time.monotonic())
            if time.monotonic() - since < STARTS_WITHIN_S:
                return False
        if not original(controller, trial):
            return False
        starting_since.pop(trial.trial_id, None)
        return True

    TuneController._maybe_reuse_cached_actor = reuse
    try:
        yield
    finally:
        TuneController._maybe_reuse_cached_actor = original


def _trial_id(trial: Trial) -> str:
    return str(trial.config[col.TRIAL])
