"""Which nodes of a cluster a sweep may use: those that have proved themselves, and answer.

A local cluster is one node, this machine, and needs no proof. In a cluster that others started, nodes may be unfit,
come later, be killed, or lose their network, which Ray itself notices only after more than a minute.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lmcore.errors import InputError
from sweeps.cluster.nodes import Node, alive_nodes
from sweeps.cluster.probe import Demands, Probe, demands
from sweeps.cluster.ray_cluster import Cluster
from sweeps.spec.sweep_spec import SweepSpec

ANSWERS_WITHIN_S = 1.0
LOST_AFTER_S = 10.0
"""A node that has not answered for so long is lost. Until it answers again, it is not used."""


class Membership:
    """The nodes of a cluster.

    >>> membership = Membership.of(cluster, spec, folder.path, say=print)  # doctest: +SKIP
    >>> [node.name for node in membership.nodes]  # doctest: +SKIP
    ['gpu-7 (10.0.0.7)']
    >>> membership.look()  # doctest: +SKIP
    ['gpu-8 (10.0.0.8) joined']
    """

    def __init__(self, nodes: Sequence[Node], token: str | None = None, wanted: Demands | None = None) -> None:
        self.nodes = list(nodes)
        """Nodes that can be used now."""
        self.token = token
        """What the driver wrote into the run's folder; None for a local cluster."""
        self.lost: set[str] = set()
        """Ids of the nodes that do not answer."""
        self._wanted = wanted
        self._unfit: dict[str, str] = {}
        self._probes: dict[str, Probe] = {}
        self._answered_at = {node.id: time.monotonic() for node in nodes}

    @property
    def avoided(self) -> set[str]:
        """Ids of the nodes that Ray counts as alive, but that nothing should be started on."""
        return self.lost | self._unfit.keys()

    @classmethod
    def of(cls, cluster: Cluster, spec: SweepSpec, folder: Path, say: Callable[[str], None]) -> "Membership":
        """The nodes of `cluster` that can train `spec` in `folder`. Those that cannot are named.

        Raises:
            InputError: no node can.
        """
        if cluster.local:
            return cls(cluster.nodes)
        wanted = demands(spec, folder)
        probes = [Probe(node, wanted) for node in cluster.nodes]
        faults = {probe.node.id: fault for probe in probes if (fault := probe.wait()) is not None}
        lines = [f"{node.name} is left out: {faults[node.id]}" for node in cluster.nodes if node.id in faults]
        if len(faults) == len(cluster.nodes):
            raise InputError(f"--address: a node of the cluster must be able to train, but {'; '.join(lines)}")
        for line in lines:
            say(line)
        membership = cls([node for node in cluster.nodes if node.id not in faults], wanted.token, wanted)
        membership._unfit = faults
        return membership

    def look(self) -> list[str]:
        """Look for nodes that have come or gone; returns what the user should know, a line each."""
        assert self._wanted is not None, "a local cluster has one node"
        alive = {node.id: node for node in alive_nodes()}
        lines = []
        now = time.monotonic()
        for node in self.nodes:
            if node.id in alive and node.answers(ANSWERS_WITHIN_S):
                self._answered_at[node.id] = time.monotonic()
        silent = {node.id for node in self.nodes if now - self._answered_at[node.id] > LOST_AFTER_S}
        self.lost |= silent
        self.nodes = [node for node in self.nodes if node.id in alive and node.id not in self.lost]
        self.lost &= alive.keys()  # Ray knows of the others itself
        here = {node.id for node in self.nodes}
        for node_id, node in alive.items():
            if node_id in here or node_id in self._unfit:
                continue
            if node_id in self._probes:
                lines += self._judge(node)
            elif node.answers(ANSWERS_WITHIN_S):
                self._probes[node_id] = Probe(node, self._wanted)
        for node_id in self._probes.keys() - alive.keys():
            del self._probes[node_id]
        return lines

    def _judge(self, node: Node) -> list[str]:
        """Take a node or leave it out, once its probe is done."""
        if not self._probes[node.id].done:
            return []
        fault = self._probes.pop(node.id).wait()
        if fault is not None:
            self._unfit[node.id] = fault
            return [f"{node.name} is left out: {fault}"]
        self.lost.discard(node.id)
        self._answered_at[node.id] = time.monotonic()
        self.nodes.append(node)
        return [f"{node.name} joined"]
