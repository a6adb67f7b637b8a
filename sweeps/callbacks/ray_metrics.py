"""The sweep's metrics in Ray, which exports them to Prometheus as `ray_lmsweep_*` (docs/howto/watching.md).

The driver alone reports them: rows pass through it anyway. Ray's agent on the driver's node serves what it was told in
the last 20 s or so, hence the thread, which also keeps a file that tells Prometheus where the agents are.
"""

import threading
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

from sweeps.callbacks.gauges import METRICS, Gauges, Metric
from sweeps.callbacks.metrics_targets import MetricsTargets
from sweeps.rundir.folder import RunFolder

PERIOD_S = 5.0
"""Ray exports every 10 s (RAY_metrics_report_interval_ms) and forgets a gauge that is older than two exports."""


class RayMetrics:
    """A context in which the values of `gauges` are exported, under the name of the sweep in `folder`.

    Example:
        gauges = Gauges(...)
        with RayMetrics(gauges, folder):
            tune_all(ledger, pool, Callbacks([gauges]), folder, concurrent=4)
    """

    def __init__(self, gauges: Gauges, folder: RunFolder) -> None:
        from ray.util.metrics import Counter, Gauge

        self._gauges = gauges
        self._sweep = folder.path.name
        self._targets = MetricsTargets(folder)
        self._exported: dict[Metric, Any] = {
            metric: (Counter if metric.counter else Gauge)(
                f"lmsweep_{metric.name}", metric.description, ("sweep", *metric.tags)
            )
            for metric in METRICS
        }
        self._counted: dict[tuple[Metric, tuple[str, ...]], float] = {}  # what counters have been told
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._export_regularly, name="metrics", daemon=True)

    def __enter__(self) -> "RayMetrics":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join(PERIOD_S)
        self._targets.remove()

    def _export_regularly(self) -> None:
        while True:
            # Metrics are for watching: an error, such as a lost connection to a cluster that has ended, harms no trial.
            with suppress(Exception):
                self._targets.write()
            with suppress(Exception):
                self.export()
            if self._over.wait(PERIOD_S):
                return

    def export(self) -> None:
        """Tell Ray the current values."""
        for metric, values, value in self._gauges.samples():
            tags = {"sweep": self._sweep, **dict(zip(metric.tags, values, strict=True))}
            if not metric.counter:
                self._exported[metric].set(value, tags)
            elif (more := value - self._counted.get((metric, values), 0)) > 0:
                self._exported[metric].inc(more, tags)
                self._counted[metric, values] = value


def exported(gauges: Gauges, folder: RunFolder, on: bool) -> AbstractContextManager[object]:
    """The context in which the metrics are exported, or with `tracking.metrics: false` one that does nothing."""
    return RayMetrics(gauges, folder) if on else nullcontext()
