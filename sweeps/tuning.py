"""The one place that sets up Ray Tune: our trainable, our searcher, our scheduler, and nothing of Tune's own."""

import logging
import os

from ray import tune

from lmcore import columns as col
from sweeps.cluster import TRIAL_RESOURCES
from sweeps.engines import Engines
from sweeps.folder import RunFolder
from sweeps.ledger import Ledger
from sweeps.scheduler import StudyScheduler
from sweeps.searcher import StudySearcher
from sweeps.trainable import TrialTrainable
from sweeps.watchers import Watchers

TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # Tune's own result files, and an import of torch for tensorboardX
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # with it, fit() returns normally after Ctrl-C
    "RAY_AIR_NEW_OUTPUT": "0",
}


def tune_all(ledger: Ledger, engines: Engines, watchers: Watchers, folder: RunFolder, concurrent: int) -> None:
    """Run every trial that the ledger hands out, `concurrent` at a time."""
    os.environ.update(TUNE_ENVIRONMENT)
    # A failed trial is told in one line and kept whole in its folder; Tune would print its traceback as well.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    spec = ledger.spec
    total = sum(spec.trials_of(size) for size in spec.size_names)
    trainable = tune.with_resources(
        tune.with_parameters(TrialTrainable, engines=engines.handles, tokens=engines.tokens), dict(TRIAL_RESOURCES)
    )
    trainable.__name__ = trainable.__qualname__ = TrialTrainable.__name__  # as the dashboard shows it
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=StudySearcher(ledger, engines, watchers),
            scheduler=StudyScheduler(ledger, watchers),
            num_samples=total,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_name_creator=_trial_id,
            trial_dirname_creator=_trial_id,
        ),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder.tune), verbose=0),
    ).fit()


def _trial_id(trial: tune.experiment.trial.Trial) -> str:
    return str(trial.config[col.TRIAL])
