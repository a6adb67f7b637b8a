"""How much faster the trials of a sweep train because they are compiled, from what is measured anyway.

Uncompiled updates are timed when the number of slots is chosen, compiled ones are those of the trials themselves.
"""

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
from types import MappingProxyType

from lmcore import columns as col
from lmcore.columns import Row
from lmcore.config import RunSpec
from sweeps.callbacks.base import Callback
from sweeps.study.trial_handle import TrialHandle

ENOUGH = 4
"""Rows of a size after which its speed is told."""


class CompiledSpeed(Callback):
    """Callback that says how fast each size trains on one engine, compiled and not.

    Only rows of the shape and the number of slots that were measured uncompiled count, and not the first one of an
    engine, during which it compiled.

    Args:
        runs: the run of each size that was measured.
        measured: by size, the slots of an engine, and the tokens/s of all of them uncompiled; None if unknown.
        compiled: whether the trials are compiled.
        say: called once for each size.
        before: on resume, the `tokens_per_s` of the manifest, which hold until there are newer ones.
    """

    def __init__(
        self,
        runs: Mapping[str, RunSpec],
        measured: Mapping[str, tuple[int, float | None]],
        compiled: bool,
        say: Callable[[str], None] = print,
        before: Mapping[str, Mapping[str, float | None]] = MappingProxyType({}),
    ) -> None:
        self._signatures = {size: run.static_signature for size, run in runs.items()} if compiled else {}
        self._measured = measured
        self._say = say
        self._before = before
        self._begun: set[tuple[str, int]] = set()  # sizes, and engines that have compiled them
        self._compiled: dict[str, list[float]] = defaultdict(list)  # tokens/s of all slots of an engine, by size

    def on_report(self, trial: TrialHandle, row: Row) -> None:
        size = trial.size
        signature = self._signatures.get(size)
        if signature is None or row[col.WIDTH] != self._measured[size][0]:
            return
        if trial.run.static_signature != signature:
            return
        if (size, row[col.ENGINE]) not in self._begun:
            self._begun.add((size, row[col.ENGINE]))
            return
        rates = self._compiled[size]
        rates.append(row[col.TOKENS_PER_S] * row[col.WIDTH])
        if len(rates) == ENOUGH:
            self._say(self._line(size))

    @property
    def tokens_per_s(self) -> dict[str, dict[str, float | None]]:
        """Tokens per second of all slots of one engine by size, None where not measured, for the manifest."""
        rates: dict[str, dict[str, float | None]] = {}
        for size, (_, eager) in self._measured.items():
            compiled = statistics.median(self._compiled[size]) if size in self._compiled else None
            measured = {"eager": eager, "compiled": compiled}
            before = self._before.get(size, {})
            rates[size] = {name: before.get(name) if rate is None else rate for name, rate in measured.items()}
        return rates

    def _line(self, size: str) -> str:
        rates = self.tokens_per_s[size]
        eager, compiled = rates["eager"], rates["compiled"]
        assert compiled is not None
        before = "" if eager is None else f", {eager:,.0f} without compilation: {compiled / eager:.2f}x"
        return f"Speed of {size} on each engine: {compiled:,.0f} tokens/s{before}"
