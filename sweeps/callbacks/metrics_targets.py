"""Where Prometheus finds the metrics of a sweep's Ray: a file for its service discovery, in runs/.prometheus/.

Ray writes such a file to its session's folder. For a Ray that a sweep starts that folder is private and has another
path each time, so a Prometheus that runs for longer than one sweep could not know it.
"""

import json
from contextlib import suppress
from typing import Any

from sweeps.rundir.folder import RunFolder, write_text

DISCOVERY = ".prometheus"
"""The folder beside the runs' folders. configs/monitoring/prometheus.yml names it."""


class MetricsTargets:
    """The file `runs/.prometheus/<name>.json` of a sweep, which lists the metrics port of each node of its cluster.

    >>> targets = MetricsTargets(RunFolder.named("quick"))
    >>> targets.path.name
    'quick.json'
    """

    def __init__(self, folder: RunFolder) -> None:
        self.path = folder.path.parent / DISCOVERY / f"{folder.path.name}.json"
        self._written: list[str] | None = None

    def write(self) -> None:
        """Write the file if nodes have joined or left since."""
        import ray

        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        targets = sorted(f"{n['NodeManagerAddress']}:{n['MetricsExportPort']}" for n in nodes if n["Alive"])
        if targets != self._written:
            # With the labels of Ray's own file, so that a node that both of them list is scraped once.
            write_text(self.path, json.dumps([{"labels": {"job": "ray"}, "targets": targets}]) + "\n")
            self._written = targets

    def remove(self) -> None:
        """Remove the file, at the end of the sweep."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
