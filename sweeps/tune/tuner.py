"""The one place that sets up Ray Tune: our trainable, searcher and scheduler, and none of Tune's own loggers."""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from ray import tune
from ray.air._internal import usage
from ray.tune.experiment import Trial

from lmcore import columns as col
from sweeps.callbacks.base import Callbacks
from sweeps.engine.pool import WorkerPool
from sweeps.rundir.folder import RunFolder
from sweeps.study.order import Order
from sweeps.tune.ended_trials import NoProgress
from sweeps.tune.lost_nodes import LeaveLostNodes
from sweeps.tune.scheduler import StudyScheduler
from sweeps.tune.searcher import StudySearcher
from sweeps.tune.trainable import TrialTrainable

TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # Tune's result files, for which it imports tensorboardX and torch
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # with Tune's handler, fit() returns normally after Ctrl-C
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",  # its state of all trials, from which nothing is restored
    "RAY_AIR_NEW_OUTPUT": "0",
}

MAX_PROXY_DEATHS = 5
"""After so many deaths of its proxy a trial goes back to the queue."""


def tune_all(order: Order, engines: WorkerPool, callbacks: Callbacks, folder: RunFolder, concurrent: int) -> None:
    """Run every trial of the order, `concurrent` at a time; returns when all have ended.

    A trial that lost its place goes back to the queue, possibly after Tune has asked for the last one. Hence::

        while not order.ledger.over:
            tune_all(order, engines, callbacks, folder, concurrent=4)
    """
    os.environ.update(TUNE_ENVIRONMENT)
    shutil.rmtree(folder.tune, ignore_errors=True)  # left by an earlier driver; nothing is restored from it
    # A trial's error is printed in one line and kept whole in its folder; Tune would print the traceback as well.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    # `tune.with_parameters` would put them into the object store: after the loss of a node that had fetched them, Ray
    # waited up to 70 s for its copy before a new proxy began. The resources of a proxy: see StudyScheduler.
    trainable = type(TrialTrainable.__name__, (TrialTrainable,), {"shared": engines.shared})
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=StudySearcher(order, engines, callbacks),
            scheduler=StudyScheduler(order, engines, callbacks),
            num_samples=-1,  # as many as the searcher suggests: a promoted trial is another sample
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_name_creator=_trial_id,
            trial_dirname_creator=_trial_id,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder.tune),
            verbose=0,
            callbacks=[NoProgress(), LeaveLostNodes(engines)],
            # Deaths of proxy processes, never a trial's own error, which is a result (`sweeps.tune.trainable`).
            failure_config=tune.FailureConfig(max_failures=MAX_PROXY_DEATHS),
            # By default Tune has the proxy save a checkpoint before it stops the trial, and forgets to stop it if the
            # proxy dies meanwhile. A trial has checkpoints of its own.
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )
    with _callbacks_not_counted():
        tuner.fit()


@contextmanager
def _callbacks_not_counted() -> Iterator[None]:
    """A block in which Tune does not count its callbacks for Ray's usage statistics, which are off: in order to know
    them, it would import wandb and MLflow wherever these are installed, for a second."""
    count = usage.tag_callbacks
    usage.tag_callbacks = lambda callbacks: False
    try:
        yield
    finally:
        usage.tag_callbacks = count


def _trial_id(trial: Trial) -> str:
    return str(trial.config[col.TRIAL])
