"""The training step as one CUDA graph: captured once, then replayed with new inputs.

A step of a small model is hundreds of kernels of microseconds each, which take longer to launch than to run. A replay
launches them all at once. Weights, optimizer state, masks and inputs keep their addresses; what changes between updates
(batch, coefficients, which slots are active, what dropout's masks depend on) is a tensor that is copied in.

Shapes: K slots, B batch, T time, C coefficients of an update.
"""

import torch
from torch import Tensor

from lmcore.dropout import Dropout
from lmcore.population.population import Forward, Population, StepResult

WARM_UP = 3  # steps before the capture, in which programs are compiled and algorithms chosen


class GraphedStep:
    """`population.step`, captured. Valid until the kind of tying (`model.tying`) changes.

    The arguments have the shapes of those of a later call: x, y [K, B, T], coefficients [C, K], max_norms [K].
    """

    def __init__(
        self,
        population: Population,
        forward: Forward,
        x: Tensor,
        y: Tensor,
        coefficients: Tensor,
        max_norms: Tensor,
        dropout: Dropout | None = None,
    ) -> None:
        active = torch.zeros_like(max_norms, dtype=torch.bool)  # no slot, so warm-up and capture change nothing
        self._inputs = tuple(tensor.clone() for tensor in (x, y, coefficients, max_norms, active))
        self._dropout = None if dropout is None else Dropout(*(tensor.clone() for tensor in dropout))

        def step() -> StepResult:
            x, y, coefficients, max_norms, active = self._inputs
            return population.step(forward, x, y, coefficients, max_norms, active, self._dropout)

        stream = torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                step()
        torch.cuda.current_stream(x.device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._result = step()

    def __call__(
        self,
        x: Tensor,
        y: Tensor,
        coefficients: Tensor,
        max_norms: Tensor,
        active: Tensor | None,
        dropout: Dropout | None = None,
    ) -> StepResult:
        """One update; the next call overwrites the result."""
        new = (x, y, coefficients, max_norms, torch.ones_like(self._inputs[-1]) if active is None else active)
        for buffer, value in zip((*self._inputs, *(self._dropout or ())), (*new, *(dropout or ())), strict=True):
            buffer.copy_(value)
        self._graph.replay()
        return self._result
