"""The training step as one CUDA graph: captured once, then replayed with new inputs.

A step of a small model is hundreds of kernels that each run for microseconds, so that on a GPU launching them takes
longer than running them. A replay launches them all at once. Weights, moments, masks and inputs stay where they were at
the capture; whatever changes between updates (batch, coefficients, which slots rest) is a tensor that is copied in.

Shapes: K slots, B batch, T time.
"""

import math

import torch
from torch import Tensor

from lmcore.optim import Coefficients
from lmcore.population.population import IDLE, Forward, Population, StepResult

WARM_UP = 3  # steps before the capture, which compile and choose algorithms


class GraphedStep:
    """`population.step` on windows [K, B, T], for as long as the kind of tying (`model.tying`) stays as it is."""

    def __init__(self, population: Population, forward: Forward, batch_size: int, time: int) -> None:
        model = population.model
        device, K = model.tied_mask.device, model.num_slots
        self._x, self._y = (torch.zeros(K, batch_size, time, dtype=torch.int64, device=device) for _ in range(2))
        self._coefficients = torch.tensor(IDLE, dtype=torch.float32, device=device)[:, None].repeat(1, K)  # [7, K]
        self._max_norms = torch.full((K,), math.inf, device=device)
        self._active = torch.zeros(K, dtype=torch.bool, device=device)  # the first steps change nothing

        def step() -> StepResult:
            return population.step(
                forward, self._x, self._y, Coefficients(*self._coefficients), self._max_norms, self._active
            )

        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                step()
        torch.cuda.current_stream(device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._result = step()

    def __call__(
        self, x: Tensor, y: Tensor, coefficients: Tensor, max_norms: Tensor, active: Tensor | None
    ) -> StepResult:
        """One update; coefficients [7, K]. The next call overwrites the result."""
        self._x.copy_(x)
        self._y.copy_(y)
        self._coefficients.copy_(coefficients)
        self._max_norms.copy_(max_norms)
        if active is None:
            self._active.fill_(True)
        else:
            self._active.copy_(active)
        self._graph.replay()
        return self._result
