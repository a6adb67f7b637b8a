"""The forward pass of a population: the model without its head, compiled or not, then a loss in the dtype of the runs.

Shapes: K slots, B batch, T time.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lmcore.config import TrainConfig
from lmcore.dropout import Dropout, Masks, dropout_masks
from lmcore.model import TransformerLM
from lmcore.population.compile_once import CompileOnce
from lmcore.population.population import Forward

Hidden = Callable[[TransformerLM, Tensor, Dropout | None], Tensor]
MAX_PROGRAMS = 200  # that one process may compile


def forward_of(nll: Callable[[TransformerLM, Tensor, Tensor], Tensor], hidden: Hidden, train: TrainConfig) -> Forward:
    """From windows x, y [K, B, T] to losses, in the dtype of these runs."""

    def forward(model: TransformerLM, x: Tensor, y: Tensor, dropout: Dropout | None = None) -> Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=train.dtype == "bfloat16"):
            return nll(model, hidden(model, x, dropout), y)

    return forward


def hidden_of(train: TrainConfig) -> Hidden:
    """All of the model but its head, compiled if these runs are, after the masks of dropout.

    Head and loss are not: torch.compile's cache did not find a program with their loop again.
    """
    model_hidden: Callable[[TransformerLM, Tensor, Masks | None], Tensor] = TransformerLM.hidden
    make_masks = dropout_masks
    if train.compile:
        import torch._dynamo.config as dynamo  # here because importing it takes longer than importing torch

        # Every shape, tying and K is a program. By default the ninth silently runs uncompiled, with other last bits.
        dynamo.recompile_limit = max(dynamo.recompile_limit, MAX_PROGRAMS)
        dynamo.fail_on_recompile_limit_hit = True
        model_hidden = torch.compile(TransformerLM.hidden, dynamic=False)
        make_masks = torch.compile(dropout_masks, dynamic=False)

    once = CompileOnce(train)

    def hidden(model: TransformerLM, x: Tensor, dropout: Dropout | None) -> Tensor:
        if not torch.is_grad_enabled():  # evaluation; whoever makes updates guards them as a whole
            with once(model, *x.shape[:2]):
                return model_hidden(model, x, None)
        if dropout is None:
            return model_hidden(model, x, None)
        return model_hidden(model, x, make_masks(dropout, model.dropout_sites, x.shape[2], model.config.d_model))

    return hidden
