"""The sweep's metrics in Ray, which exports them to Prometheus as `ray_lmsweep_*` (docs/howto/watching.md).

The driver alone reports them: rows pass through it anyway. Ray's agent on the driver's node serves what it was told in
the last 20 s or so, hence the thread, which also keeps a file that tells Prometheus where the agents are.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sweeps.callbacks.gauges import METRICS, Gauges, Metric
from sweeps.callbacks.metrics_targets import MetricsTargets
from sweeps.rundir.folder import RunFolder
from sweeps.rundir.repeating import repeating

PERIOD_S = 5.0
"""Ray exports every 10 s (RAY_metrics_report_interval_ms) and forgets a gauge that is older than two exports."""


@contextmanager
def exported(gauges: Gauges, folder: RunFolder, on: bool) -> Iterator[None]:
    """A block during which the values of `gauges` are exported; with `tracking.metrics: false` they are not.

    Example:
        gauges = gauges_of(ledger, slots, peaks)
        with exported(gauges, folder, on=True):
            tune_all(order, pool, Callbacks([gauges]), folder, concurrent=4)
    """
    if not on:
        yield
        return
    metrics, targets = RayMetrics(gauges, folder.path.name), MetricsTargets(folder)

    def export() -> None:
        # Metrics are for watching: an error, such as a lost connection to a cluster that has ended, harms no trial.
        with suppress(Exception):
            targets.write()
        with suppress(Exception):
            metrics.export()

    export()
    try:
        with repeating(export, PERIOD_S, "metrics"):
            yield
    finally:
        targets.remove()


class RayMetrics:
    """The metrics of the sweep that is called `sweep`, as Ray has them."""

    def __init__(self, gauges: Gauges, sweep: str) -> None:
        from ray.util.metrics import Counter, Gauge

        self._gauges = gauges
        self._sweep = sweep
        self._exported: dict[Metric, Any] = {
            metric: (Counter if metric.counter else Gauge)(
                f"lmsweep_{metric.name}", metric.description, ("sweep", *metric.tags)
            )
            for metric in METRICS
        }
        self._counted: dict[tuple[Metric, tuple[str, ...]], float] = {}  # what counters have been told

    def export(self) -> None:
        """Tell Ray the current values."""
        for metric, values, value in self._gauges.samples():
            tags = {"sweep": self._sweep, **dict(zip(metric.tags, values, strict=True))}
            if not metric.counter:
                self._exported[metric].set(value, tags)
            elif (more := value - self._counted.get((metric, values), 0)) > 0:
                self._exported[metric].inc(more, tags)
                self._counted[metric, values] = value
