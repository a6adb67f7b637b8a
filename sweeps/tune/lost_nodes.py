"""Keeps trial proxies off nodes that do not answer. Ray itself would wait for them for more than a minute."""

from typing import Any

import ray
from ray import tune
from ray._private.state import actors
from ray.tune.experiment import Trial

from sweeps.engine.pool import WorkerPool

LABEL = "ray.io/node-id"


def proxy_resources(engines: WorkerPool) -> tune.PlacementGroupFactory:
    """What a trial's proxy asks for: a small part of a CPU, on a node that is neither lost nor unfit."""
    bundles = [{"CPU": engines.proxy_cpus}]
    if not (avoided := sorted(engines.avoided_nodes)):
        return tune.PlacementGroupFactory(bundles)
    return tune.PlacementGroupFactory(bundles, bundle_label_selector=[{LABEL: f"!in({','.join(avoided)})"}])


class LeaveLostNodes(tune.Callback):
    """A Tune callback that kills the proxies of lost nodes, so that Tune starts others elsewhere.

    >>> tune.RunConfig(callbacks=[LeaveLostNodes(pool)])  # doctest: +SKIP
    """

    def __init__(self, engines: WorkerPool) -> None:
        self._engines = engines
        self._left: set[str] = set()  # ids of actors

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks; ours has no state that is needed later."""
        return {}

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Called about ten times a second."""
        lost = self._engines.lost_nodes
        if not lost:
            self._left.clear()
            return
        for trial in trials:
            actor = trial.temporary_state.ray_actor
            if trial.status in (Trial.TERMINATED, Trial.ERROR) or actor is None or actor._actor_id.hex() in self._left:
                continue
            if actors(actor._actor_id.hex())["Address"]["NodeID"] in lost:
                self._left.add(actor._actor_id.hex())
                ray.kill(actor)
