"""What an interval of updates gives: sums of losses, last gradient norms, and the points of the training curves.

All of it stays on the device until the interval is over, and is then transferred to the host in one piece.

Shapes: K slots.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from lmcore.population.population import StepResult
from lmcore.population.slot import Slot


class Trained(NamedTuple):
    """What the updates of an interval gave for one slot."""

    loss_sum: float  # of the training losses of all updates, nats per token
    grad_norm: float  # of the last update, before clipping
    points: list[list[float]]  # of the curve: a list of POINT_COLUMNS of `lmcore.columns` each


class IntervalLog:
    """Collects the results of `updates` updates of K slots, of which those that are None are inactive.

    Example::

        log = IntervalLog([slot, None], updates=25, dtype=torch.float64, device=device)
        for n in range(25):
            log.add(n, population.step(...))
        first, _ = log.read()
        first.points  # [[0, 4.58, 0.91, 0.0003], ...]

    Sums have the type `dtype`, which holds losses exactly.
    """

    def __init__(
        self, slots: Sequence[Slot | None], updates: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self._slots, self._updates = slots, updates
        self._logged = [range(0) if slot is None else slot.logged_steps(updates) for slot in slots]
        numbers = {
            step - slot.step
            for slot, steps in zip(slots, self._logged, strict=True)
            for step in steps
            if slot is not None
        }
        self._places = {n: place for place, n in enumerate(sorted(numbers))}
        # [logged updates + 1, 2, K]: loss and gradient norm; last, the sum of all losses and the last gradient norm.
        self._kept = torch.zeros(len(self._places) + 1, 2, len(slots), dtype=dtype, device=device)

    def add(self, n: int, result: StepResult) -> None:
        """Take the result of update n = 0, 1, ... of the interval. The host does not wait for a GPU here."""
        self._kept[-1, 0] += result.losses
        if n + 1 == self._updates:
            self._kept[-1, 1] = result.grad_norms
        if (place := self._places.get(n)) is not None:
            # Copied, because the next replay of a CUDA graph overwrites the result.
            self._kept[place, 0] = result.losses
            self._kept[place, 1] = result.grad_norms

    def read(self) -> list[Trained | None]:
        """What the interval gave, by slot; None for an inactive one. The host waits for the device.

        Call it before the slots' steps are advanced.
        """
        *points, (loss_sums, grad_norms) = self._kept.tolist()
        found: list[Trained | None] = []
        for k, slot in enumerate(self._slots):
            if slot is None:
                found.append(None)
                continue
            curve: list[list[float]] = []
            for step in self._logged[k]:
                losses, norms = points[self._places[step - slot.step]]
                curve.append([step, losses[k], norms[k], slot.lr(step + 1)])
            found.append(Trained(loss_sums[k], grad_norms[k], curve))
        return found
