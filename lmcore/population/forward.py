"""The forward pass of a population: the model without its head, compiled or not, then a loss in the dtype of the runs.

Shapes: K slots, B batch, T time.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lmcore.config import TrainConfig
from lmcore.model import TransformerLM
from lmcore.population.population import Forward

Hidden = Callable[[TransformerLM, Tensor], Tensor]
MAX_PROGRAMS = 200  # that one process may compile


def forward_of(nll: Callable[[TransformerLM, Tensor, Tensor], Tensor], hidden: Hidden, train: TrainConfig) -> Forward:
    """From windows x, y [K, B, T] to losses, in the dtype of these runs."""

    def forward(model: TransformerLM, x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=train.dtype == "bfloat16"):
            return nll(model, hidden(model, x), y)

    return forward


def hidden_of(train: TrainConfig) -> Hidden:
    """All of the model but its head, compiled if these runs are.

    Head and loss are not: torch.compile's cache did not find a program with their loop again.
    """
    if not train.compile:
        return TransformerLM.hidden
    import torch._dynamo.config as dynamo  # here because importing it takes longer than importing torch

    # Every shape, tying and K is a program. By default the ninth silently runs uncompiled, with other last bits.
    dynamo.recompile_limit = max(dynamo.recompile_limit, MAX_PROGRAMS)
    dynamo.fail_on_recompile_limit_hit = True
    return torch.compile(TransformerLM.hidden, dynamic=False)
